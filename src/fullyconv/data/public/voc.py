"""PASCAL VOC: 20 classes behind background, photographs of any size.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) challenge", IJCV 2010; the numbers of images are
those of the pages of the challenges. Masks are palette PNG: an index is a class, and 255 draws borders and difficult
regions, which count for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fullyconv import label_sets
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, Facts, PublicSet
from fullyconv.data.public.lists import pairs_of, read_names
from fullyconv.errors import DatasetError
from fullyconv.images import mask_mode
from fullyconv.labels import Labels

COUNTS: dict[int, dict[str, int]] = {
    2007: {"train": 209, "val": 213, "test": 210},
    2008: {"train": 511, "val": 512},
    2009: {"train": 749, "val": 750},
    2010: {"train": 964, "val": 964},
    2011: {"train": 1112, "val": 1111},
    2012: {"train": 1464, "val": 1449},
}
"""Pairs of the segmentation task of each year; from 2008 on the masks of the test images are not public."""

MIRRORS: dict[int, tuple[str, ...]] = {
    2012: ("https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",),
    2007: ("https://pjreddie.com/media/files/VOCtrainval_06-Nov-2007.tar",),
}
"""Where else the same files lie; their digest is checked."""

_IDS = {True: re.compile(r"[0-9]{6}"), False: re.compile(r"20[01][0-9]_[0-9]{6}")}  # of 2007, and of later years


@dataclass(frozen=True)
class Voc(PublicSet):
    """The segmentation task of one year.

    Args:
        year: 2007 to 2012. Each year from 2009 on contains the images of those from 2008 on.

    Raises:
        ValueError: if there was no such year.
    """

    year: int = 2012
    described = "voc"

    def __post_init__(self) -> None:
        if self.year not in COUNTS:
            raise ValueError(f"year={self.year!r}: choose {', '.join(map(str, COUNTS))}")

    @property
    def name(self) -> str:
        """The name by which the set is asked for."""
        return f"voc{self.year}"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return replace(super().facts, counts=COUNTS[self.year])

    @property
    def labels(self) -> dict[str, Labels]:
        """The 21 classes."""
        return {"main": label_sets.voc()}

    def archives(self) -> tuple[Archive, ...]:
        """Tell which files the set is published as: torchvision knows them."""
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        keys = [str(self.year), *(["2007-test"] if self.year == 2007 else [])]
        entries = [DATASET_YEAR_DICT[key] for key in keys]
        # torchvision has the name of another year's file for 2008; what the address ends in is right.
        return tuple(
            Archive(
                file=entry["url"].rsplit("/", 1)[1],
                urls=(entry["url"], *(MIRRORS.get(self.year, ()) if index == 0 else ())),
                md5=entry["md5"],
                optional=index > 0,
            )
            for index, entry in enumerate(entries)
        )

    def has_layout(self, root: Path) -> bool:
        """Tell whether a folder is laid out as PASCAL VOC is."""
        return (
            (root / "JPEGImages").is_dir()
            and (root / "SegmentationClass").is_dir()
            and any((root / "ImageSets" / "Segmentation" / f"{split}.txt").is_file() for split in ("train", "trainval"))
        )

    def is_set(self, root: Path) -> bool:
        """Tell PASCAL VOC itself from another set in its layout, by names, masks with a palette, and year."""
        return self.has_layout(root) and _year(root) == self.year

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of train and val, and of test where its masks are there.

        Args:
            root: folder with JPEGImages, SegmentationClass and ImageSets.

        Returns:
            Split -> pairs; "all" where there is trainval.txt and no train.txt.

        Raises:
            FileNotFoundError: if a folder or list is missing.
            DatasetError: if a list names files that are not there.
        """
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            if not (root / folder).is_dir():
                raise FileNotFoundError(f"{root / folder}: no such folder; {self.facts.title} has it, unpack it again")
        lists = root / "ImageSets" / "Segmentation"
        if not (lists / "train.txt").is_file() and (lists / "trainval.txt").is_file():
            return {"all": split_of(root, lists / "trainval.txt")}
        splits = {split: split_of(root, lists / f"{split}.txt") for split in ("train", "val")}
        test = lists / "test.txt"
        if test.is_file():
            names = read_names(test)
            # Where the masks are secret there are none at all; a part of them is a broken copy.
            if any((root / "SegmentationClass" / f"{name}.png").is_file() for name in names):
                splits["test"] = split_of(root, test)
        return splits


def split_of(root: Path, listing: Path) -> list[Pair]:
    """Pair the images and masks that a list names.

    Args:
        root: folder with JPEGImages and SegmentationClass.
        listing: the list.
    """
    return pairs_of(listing, root, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")


def near(root: Path, year: int) -> Path:
    """Look for PASCAL VOC of a year in a folder and in the three around it.

    Args:
        root: the folder of another set.
        year: the year.

    Returns:
        The folder VOC2010 or the like.

    Raises:
        FileNotFoundError: if it is not there.
    """
    wanted = Voc(year)
    here = root.resolve()
    inside = wanted.facts.inside
    for base in (here, *list(here.parents)[:3]):
        for place in (f"VOC{year}", *inside, *(f"{wanted.name}/{place}" for place in (f"VOC{year}", *inside))):
            if wanted.has_layout(base / place):
                return base / place
    raise FileNotFoundError(
        f"VOC{year}: no such folder in or around {root}, which needs it; put VOCdevkit/VOC{year} beside it (from "
        f"{wanted.facts.page})"
    )


def _year(root: Path) -> int | None:
    """Find the year of a folder that looks like PASCAL VOC; None where it is another set."""
    lists = root / "ImageSets" / "Segmentation"
    try:
        names = read_names(next(lists / name for name in ("train.txt", "trainval.txt") if (lists / name).is_file()))
    except (StopIteration, DatasetError):
        return None
    first = root / "SegmentationClass" / f"{names[0]}.png"
    try:
        if not first.is_file() or mask_mode(first) != "P":
            return None
    except DatasetError:
        return None
    old = all(_IDS[True].fullmatch(name) for name in names)
    if not old and not all(_IDS[False].fullmatch(name) for name in names):
        return None
    if old:
        return 2007
    called = re.search(r"(20[01][0-9])", root.resolve().name)
    if called and int(called[1]) in COUNTS:
        return int(called[1])
    by_count = {counts["train"]: year for year, counts in COUNTS.items()}
    # 2012 has no images of its own, so that the newest name does not tell it from 2011.
    return by_count.get(len(names), 2012)

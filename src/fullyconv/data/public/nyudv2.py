"""NYU Depth V2 with 40 classes: 1,449 indoor scenes, in color and depth.

Source: Silberman et al., "Indoor segmentation and support inference from RGBD images", ECCV 2012; the classes, the
crop and HHA are those of Gupta et al., "Perceptual organization and recognition of indoor scenes from RGB-D images",
CVPR 2013, and "Learning rich features from RGB-D images", ECCV 2014, whose files have to be used to compare with
published scores. Masks hold 1 to 40, and 0 is void.

HHA is an image of three channels: horizontal disparity, height above ground, angle with gravity. Depth is used as its
natural logarithm. A sample is 8 bits a channel, so that it is stored as `log_depth_codes` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet, pairs_of, read_names
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, some
from fullyconv.images import image_size, read_image, read_mask

Inputs = Literal["rgb", "depth", "hha", "rgb-depth", "rgb-hha"]

CHANNELS: dict[str, int] = {"rgb": 3, "depth": 1, "hha": 3, "rgb-depth": 4, "rgb-hha": 6}
"""Channels of a sample: "rgb-depth" is for early fusion, "rgb-hha" for late fusion by two backbones."""

LOG_DEPTH = (6.0, 9.5)
"""Natural logarithms of the depths in millimeters that codes 1 and 255 stand for: 0.40 m and 13.4 m."""

_IMAGES = ("RGB", "rgb", "image", "images", "color")
_LABELS = ("Label", "label", "labels", "label40", "labels_40", "masks")
_DEPTH = ("Depth", "depth")
_HHA = ("HHA", "hha")


@dataclass(frozen=True)
class Nyudv2(PublicSet):
    """NYU Depth V2.

    Args:
        inputs: what a sample holds: "rgb", "depth" (logarithm, 1 channel), "hha", "rgb-depth" (4 channels, early
            fusion), "rgb-hha" (6 channels, late fusion).
    """

    inputs: Inputs = "rgb"
    described = "nyudv2"

    def is_set(self, root: Path) -> bool:
        """Tell NYUDv2 itself: the MATLAB layout is its own; images are, in a folder that is called so."""
        places = _places(root)
        return places is not None and (places[1].endswith(".mat") or "nyu" in root.resolve().name.lower())

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of every list that is there.

        Args:
            root: folder with the lists.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a folder or list is missing, also one of the inputs.
            DatasetError: if a list names files that are not there.
        """
        places = _places(root)
        if places is None:
            raise FileNotFoundError(f"{root}: is not laid out as NYUDv2:\n{self.facts.layout}")
        lists = {name: root / f"{name}.txt" for name in ("train", "val", "test")}
        if not lists["train"].is_file():
            lists = {"train": root / "trainval.txt", "test": lists["test"]}
        names = {
            split: [Path(name).stem for name in read_names(path)] for split, path in lists.items() if path.is_file()
        }
        if not names:
            raise FileNotFoundError(f"{root}: has none of train.txt, trainval.txt and test.txt; they list its images")
        splits = {split: pairs_of(lists[split], root, *places, stems) for split, stems in names.items()}
        for kind in self.inputs.split("-"):
            every = [pair.image for pairs in splits.values() for pair in pairs] if kind != "rgb" else []
            if gone := [image for image in every if _beside(image, kind) is None]:
                what = f"{len(gone)} images have no {kind} ({some(gone, 1)})"
                raise DatasetError(f'inputs={self.inputs!r}: {what}; unpack {kind} beside them, or take inputs="rgb"')
        return splits

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files: the inputs that were asked for, as one image."""
        return NyudReader(self.inputs, channels=CHANNELS[self.inputs])


@dataclass(frozen=True)
class NyudReader(FileReader):
    """Read the inputs of a pair as one image of as many channels as they have.

    Args:
        inputs: as in `Nyudv2`.
    """

    inputs: Inputs = "rgb"

    def with_bands(self, channels: int, value_range: tuple[float, float] | None) -> Self:
        """Leave the number of channels as it is; 3, the default everywhere, asks for no other.

        Raises:
            ValueError: if another number is asked for.
        """
        if channels not in (3, self.channels):
            raise ValueError(f"in_channels={channels}: the images of this set have {self.channels}; leave it out")
        return self

    def image(self, pair: Pair) -> npt.NDArray[np.uint8]:
        """Read the inputs as (H, W, C) uint8, in the order of the name: RGB before depth or HHA."""
        parts = [self._part(pair, kind) for kind in self.inputs.split("-")]
        sizes = {part.shape[:2] for part in parts}
        if len(sizes) > 1:
            raise DatasetError(f"{pair.image}: its {self.inputs} differ in size: {sorted(sizes)}; unpack them again")
        return np.ascontiguousarray(np.concatenate(parts, axis=2))

    def size(self, pair: Pair) -> tuple[int, int]:
        """Give height and width in pixels."""
        return image_size(pair.image)

    def _part(self, pair: Pair, kind: str) -> npt.NDArray[np.uint8]:
        if kind == "rgb":
            return read_image(pair.image)
        path = _beside(pair.image, kind)
        if path is None:
            raise DatasetError(f"{pair.image}: has no {kind} beside it; unpack it, or take inputs='rgb'")
        if kind == "hha":
            return read_image(path)  # its channels are no colors: they stay in the order of the file
        return log_depth_codes(read_mask(path))[..., None]


def log_depth_codes(depth: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Write depth as its natural logarithm in 8 bits: steps of 1.4 %, as fine as the sensor at 5 m.

    Args:
        depth: (H, W) millimeters; 0 where the sensor saw nothing.

    Returns:
        (H, W) codes: 0 for nothing, 1 to 255 for the range of `LOG_DEPTH`, beyond which they stay at its ends.

    Example:
        >>> codes = log_depth_codes(np.array([[0, 403, 2550, 13360]]))
        >>> codes.tolist()
        [[0, 1, 135, 255]]
    """
    low, high = LOG_DEPTH
    with np.errstate(divide="ignore"):
        logs = np.log(depth.astype(np.float64))
    steps = np.clip(np.rint((logs - low) / (high - low) * 254), 0, 254) + 1
    result: npt.NDArray[np.uint8] = np.where(depth > 0, steps, 0).astype(np.uint8)
    return result


def _places(root: Path) -> tuple[str, str] | None:
    """Tell where image and mask of a {} lie: as Gupta et al. publish them, or both as images; None for another set."""
    if (root / "data" / "images").is_dir() and (root / "segmentation").is_dir():
        return "data/images/img_{}.png", "segmentation/img_{}.mat"
    images, labels, extra = (_first(root, names) for names in (_IMAGES, _LABELS, _DEPTH + _HHA))
    lists = any((root / f"{name}.txt").is_file() for name in ("train", "trainval"))
    if images is None or labels is None or extra is None or not lists:
        return None
    suffix = ".jpg" if any(images.glob("*.jpg")) else ".png"
    return f"{images.name}/{{}}{suffix}", f"{labels.name}/{{}}.png"


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _beside(image: Path, kind: str) -> Path | None:
    """Find depth or HHA of an image: in a folder beside its own, by the same stem."""
    for name in _DEPTH if kind == "depth" else _HHA:
        for suffix in (".png", ".jpg"):
            path = image.parent.parent / name / f"{image.stem}{suffix}"
            if path.is_file():
                return path
    return None

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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fullyconv.data.masks import MaskReader
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet
from fullyconv.data.public.lists import pairs_of, read_names
from fullyconv.data.readers import Reader
from fullyconv.errors import DatasetError
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
        return _is_gupta(root) or (_is_plain(root) and "nyu" in root.resolve().name.lower())

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
        if not (_is_gupta(root) or _is_plain(root)):
            raise FileNotFoundError(f"{root}: is not laid out as NYUDv2:\n{self.facts.layout}")
        lists = {name: root / f"{name}.txt" for name in ("train", "val", "test")}
        if not lists["train"].is_file():
            lists = {"train": root / "trainval.txt", "test": lists["test"]}
        pairs = {split: self._pairs(root, path) for split, path in lists.items() if path.is_file()}
        if not pairs:
            raise FileNotFoundError(f"{root}: has none of train.txt, trainval.txt and test.txt; they list its images")
        for kind in self.inputs.split("-"):
            every = [pair for part in pairs.values() for pair in part] if kind != "rgb" else []
            gone = [pair for pair in every if _beside(pair.image, kind) is None]
            if gone:
                raise DatasetError(
                    f"inputs={self.inputs!r}: {len(gone)} images have no {kind} ({gone[0].image}"
                    f'{", ..." if len(gone) > 1 else ""}); unpack {kind} beside the images, or take inputs="rgb"'
                )
        return pairs

    def _pairs(self, root: Path, listing: Path) -> list[Pair]:
        names = read_names(listing)
        if _is_gupta(root):
            return pairs_of(listing, root, "data/images/img_{}.png", "segmentation/img_{}.mat", names)
        images, labels = _first(root, _IMAGES), _first(root, _LABELS)
        assert images is not None
        assert labels is not None
        stems = [Path(name).stem for name in names]
        suffix = ".jpg" if (images / f"{stems[0]}.jpg").is_file() else ".png"
        return pairs_of(listing, root, f"{images.name}/{{}}{suffix}", f"{labels.name}/{{}}.png", stems)

    def reader(self, root: Path) -> Reader:
        """Give what reads the files: the inputs that were asked for, as one image."""
        return NyudReader(self.inputs)


@dataclass(frozen=True)
class NyudReader:
    """Read the inputs of a pair as one image of as many channels as they have.

    Args:
        inputs: as in `Nyudv2`.
    """

    inputs: Inputs = "rgb"

    @property
    def channels(self) -> int:
        """Channels C of an image."""
        return CHANNELS[self.inputs]

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

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Read the mask as (H, W) integers: 1 to 40, and 0 for void."""
        return MaskReader().mask(pair)

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


def _is_gupta(root: Path) -> bool:
    return (root / "data" / "images").is_dir() and (root / "segmentation").is_dir()


def _is_plain(root: Path) -> bool:
    extra = _first(root, _DEPTH) or _first(root, _HHA)
    lists = any((root / f"{name}.txt").is_file() for name in ("train", "trainval"))
    return all((_first(root, _IMAGES), _first(root, _LABELS), extra, lists))


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

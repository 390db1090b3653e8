"""The data set that reads pairs of image and mask as samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fullyconv.data.cache import DecodedCache
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, read_both
from fullyconv.data.transforms import TrainingTransform
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]


class SegmentationFolder(Dataset[dict[str, Any]]):
    """Read pairs of image and mask as samples.

    A sample is a dict: `image` (C, H, W) float32 RGB in 0..1, not normalized; `mask` (H, W) int64 class indices; `size`
    (2,) height and width; `path` of the image.

    An item is asked for by its index, or by (epoch, index) as `EpochSampler` does. In the second form the random
    numbers of the transform come from (seed, epoch, index) alone, so that the same sample is the same in every
    process, with any number of workers and after a resume.

    Args:
        pairs: images and their masks.
        labels: what the values in the masks mean.
        reader: how the files are read.
        cache: where decoded images and masks are kept; made for the same labels and reader.
        transform: a joint transform of a uint8 image (C, H, W) and its mask (H, W), from `fullyconv.data.transforms`
            or any of torchvision's v2; none leaves both as they are.
        seed: seed of the transform's random numbers.

    Raises:
        DatasetError: if there are no pairs; when reading, if a file is damaged, sizes differ or a label value is stray.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        labels: Labels,
        *,
        reader: FileReader | None = None,
        cache: DecodedCache | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        if not pairs:
            raise DatasetError("pairs is empty: a data set has at least one image with its mask")
        self.pairs = list(pairs)
        self.labels = labels
        self.reader = reader or FileReader()
        self.cache = cache
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = item if isinstance(item, tuple) else (None, item)
        pair = self.pairs[index]
        image, mask = self._read(pair)
        # Memory stays (H, W, C), which torchvision resizes without a copy.
        photo = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        target = tv_tensors.Mask(torch.from_numpy(mask if mask.dtype == np.uint8 else mask.astype(np.int32)))
        if self.transform is None:
            return _sample(photo, target, pair)
        if epoch is None:
            return _sample(*self.transform(photo, target), pair)
        state = torch.get_rng_state()
        try:
            # Only the generator of the CPU: torch.manual_seed would set those of the accelerators as well.
            torch.default_generator.manual_seed(_mix(self.seed, epoch, index))
            return _sample(*self.transform(photo, target), pair)
        finally:
            torch.set_rng_state(state)

    def _read(self, pair: Pair) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        if self.cache is None:
            return read_pair(pair, self.labels, self.reader)
        image, mask = self.cache.read(pair, lambda: read_pair(pair, self.labels, self.reader))
        if self.transform is None or isinstance(self.transform, TrainingTransform):
            return image, mask
        return image.copy(), mask.copy()  # other transforms may change what they are given


def read_pair(
    pair: Pair, labels: Labels, reader: FileReader | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read an image and its mask and see that they fit.

    Args:
        pair: the two files.
        labels: what the values in the mask mean.
        reader: how the files are read.

    Returns:
        (H, W, C) uint8, and (H, W) class indices.

    Raises:
        DatasetError: if a file is damaged, the sizes differ, or the mask holds a value that is not in the label map.
    """
    image, mask = read_both(reader or FileReader(), pair)
    return image, labels.encode(mask, pair.mask)


def set_aside(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs in two at random, the same way every time and on every machine.

    Each pair is drawn by a digest of its name, so that adding images moves few of the others.

    Args:
        pairs: at least two pairs.
        fraction: share of the second part, between 0 and 1; both parts get at least one pair.
        seed: another seed is another split.

    Returns:
        The larger part and the part set aside, both in the order of `pairs`.

    Raises:
        ValueError: if `fraction` is not between 0 and 1.
        DatasetError: if there are fewer than two pairs.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"val_fraction={fraction}: a share between 0 and 1, such as 0.2")
    if len(pairs) < 2:
        where = pairs[0].image if pairs else "the data set"
        what = "one image cannot be split into training and validation; add images, or give a val/ folder"
        raise DatasetError(f"{where}: {what}")
    count = min(max(round(len(pairs) * fraction), 1), len(pairs) - 1)
    drawn = sorted(pairs, key=lambda pair: hashlib.blake2b(f"{seed}/{pair.key}".encode()).digest())
    chosen = set(drawn[:count])
    return [pair for pair in pairs if pair not in chosen], [pair for pair in pairs if pair in chosen]


def _sample(image: Tensor, mask: Tensor, pair: Pair) -> dict[str, Any]:
    if not image.is_floating_point():
        image = image.to(torch.float32) / 255
    return {
        "image": image.as_subclass(Tensor).contiguous(),
        "mask": mask.as_subclass(Tensor).to(torch.int64),
        "size": torch.tensor(mask.shape[-2:], dtype=torch.int64),
        "path": str(pair.image),
    }


def _mix(seed: int, epoch: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=4).digest(), "little")

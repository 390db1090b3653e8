"""Augmentations of somebody else: torchvision's v2 transforms, albumentations, or any function."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from fullyconv.data.transforms import TrainingTransform
from fullyconv.labels import Labels

Augment = Callable[..., Any]
"""A module gets ``(image, mask)`` as tensors of torchvision, any other callable ``image=, mask=`` as arrays."""


class Augmented:
    """Change image and mask by a callable of somebody else, then by the package's own training transform.

    A ``torch.nn.Module``, as torchvision's v2 transforms are, is called with an Image (C, H, W) uint8 and a Mask (H, W)
    of torchvision's tensors. Anything else is called with ``image=`` (H, W, C) uint8 and ``mask=`` (H, W), NumPy
    arrays, as albumentations is. Both give a pair, or a mapping with the keys image and mask.

    Args:
        augment: the callable.
        then: what crops, scales, flips and colors what it gives.
        labels: the classes that a mask may hold.
    """

    def __init__(self, augment: Augment, then: TrainingTransform, labels: Labels) -> None:
        self.augment = augment
        self.then = then
        self.labels = labels

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Change a sample.

        Args:
            image: (C, H, W) uint8.
            mask: (H, W) class indices.

        Raises:
            ValueError: if what the callable gives is no image with a mask of its size.
        """
        with _global_seeds():
            if isinstance(self.augment, nn.Module):
                given = self.augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
            else:
                arrays = image.as_subclass(Tensor).movedim(0, -1).numpy(), mask.as_subclass(Tensor).numpy()
                given = self.augment(image=np.ascontiguousarray(arrays[0]), mask=np.ascontiguousarray(arrays[1]))
        return self.then(*self._checked(given, image.shape[0]))

    def _checked(self, given: Any, channels: int) -> tuple[Tensor, Tensor]:
        if isinstance(given, Mapping) and {"image", "mask"} <= given.keys():
            given = given["image"], given["mask"]
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise self._wrong(f"gives {type(given).__name__}", "give image and mask, as a pair or by these keys")
        image, mask = _tensor(given[0], planes=True), _tensor(given[1])
        if image is None or image.ndim != 3 or image.shape[0] != channels or not _is_photo(image):
            remedy = f"give one of {channels} channels, uint8, or floats in 0..1: do not normalize, the module does"
            raise self._wrong(f"gives as image {_described(given[0])}", remedy)
        if mask is None or mask.shape != image.shape[1:] or mask.is_floating_point():
            remedy = "give class indices of the size of its image, (H, W); masks are never interpolated"
            raise self._wrong(f"gives as mask {_described(given[1])}", remedy)
        known = {*range(self.labels.num_classes), self.labels.ignore_index}
        if foreign := sorted(set(np.unique(mask.numpy()).tolist()) - known):
            found = f"gives a mask with the labels {', '.join(map(str, foreign[:5]))}"
            beyond = f"and beyond the image {self.labels.ignore_index}"
            raise self._wrong(found, f"give class indices below {self.labels.num_classes}, {beyond}")
        return image, mask.to(torch.uint8 if self.labels.ignore_index < 256 else torch.int32)

    def _wrong(self, found: str, remedy: str) -> ValueError:
        return ValueError(f"augment={self.augment!r}: {found}; {remedy}")


def _tensor(value: Any, planes: bool = False) -> Tensor | None:
    """Give a tensor as it is, and of an array one with the channels first."""
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "uifb":
        return None
    if planes and value.ndim == 3:
        value = value.transpose(2, 0, 1)
    array: npt.NDArray[Any] = np.ascontiguousarray(value)
    return torch.from_numpy(array.astype(np.int32) if array.dtype == np.uint16 else array)


def _is_photo(image: Tensor) -> bool:
    """Tell whether the values are bytes, or floats in 0..1."""
    if image.is_floating_point():
        return bool(image.min() >= 0) and bool(image.max() <= 1)
    return image.dtype == torch.uint8


def _described(value: Any) -> str:
    kind = type(value).__name__
    if not hasattr(value, "shape"):
        return kind
    return f"a {kind} of shape {tuple(value.shape)} and {value.dtype}, {value.min()}..{value.max()}"


@contextmanager
def _global_seeds() -> Iterator[None]:
    """Seed the generators that are global by torch's, which was seeded for the sample, and leave them as they were."""
    states = random.getstate(), np.random.get_state()
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])

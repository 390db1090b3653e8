"""Mean, deviation, channel order and scale: the numbers that travel with the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from fullyconv.errors import near_miss

ChannelOrder = Literal["rgb", "bgr"]

Images = TypeVar("Images")

MAX_CHANNELS = 1024
"""Channels that images of a model have at most."""

_MAX_SIDE = 65536


@dataclass(frozen=True)
class Preprocessing:
    """Turn a batch of RGB images in 0..1 into what a backbone was trained on.

    `(image * scale - mean) / std`, with the channels in the backbone's order; mean and std are given in that order too.
    "bgr" turns the first three channels around; channels beyond them (depth, HHA) stay where they are.

    Args:
        mean: one number a channel, after scaling.
        std: one number a channel, after scaling; above 0.
        scale: what the values 0..1 are multiplied by; 255 for networks that were trained on bytes.
        channel_order: "rgb", or "bgr" for networks that came from Caffe.
        short_side: pixels that the shorter side of an image is scaled to before `predict` looks at it, because the
            network was trained at that scale; the mask has the image's own size all the same. None looks at the
            image as it is. Calling a module does not scale.
        value_range: the numbers that are black and white in images of more than 8 bits, as the network was trained;
            None for the whole range of their type.

    Raises:
        ValueError: if a rule above is broken.

    Example:
        >>> import numpy as np
        >>> CAFFE(np.ones((1, 3, 2, 2)))[0, :, 0, 0].round(2).tolist()
        [150.99, 138.33, 132.32]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    channel_order: ChannelOrder = "rgb"
    short_side: int | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _floats(name, getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} numbers; give one of each for every channel"
            )
        if min(self.std) <= 0.0:
            raise ValueError(f"std={self.std}: deviations are above 0; images are divided by them")
        if isinstance(self.scale, bool) or not isinstance(self.scale, (int, float)) or not 0.0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale!r}: a number above 0, 1.0 or 255.0 as a rule")
        object.__setattr__(self, "scale", float(self.scale))
        if self.channel_order not in get_args(ChannelOrder):
            raise ValueError(
                f"channel_order={self.channel_order!r} is unknown. "
                f"{near_miss(str(self.channel_order), get_args(ChannelOrder))}"
            )

        side = self.short_side
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _MAX_SIDE):
            raise ValueError(f"short_side={side!r}: a whole number of pixels in 1..{_MAX_SIDE}, or None")
        if self.value_range is not None:
            bits = _floats("value_range", self.value_range)
            if len(bits) != 2 or bits[0] >= bits[1]:
                raise ValueError(f"value_range={self.value_range!r}: the numbers that are black and white, (0, 4095)")
            object.__setattr__(self, "value_range", bits)
        if self.channel_order == "bgr" and len(self.mean) < 3:
            raise ValueError(f'channel_order="bgr" with {len(self.mean)} channel(s): there are no three colors to turn')

    @property
    def in_channels(self) -> int:
        """Number of channels, C."""
        return len(self.mean)

    def __call__(self, images: Images) -> Images:
        """Normalize images.

        Args:
            images: (N, C, H, W) or (C, H, W) in 0..1 RGB; a floating point tensor of torch or array of numpy.

        Returns:
            The same kind of thing, of the same shape and type, on the same device.

        Raises:
            ValueError: if the number of channels is another one, or the values are not floating point numbers.
        """
        x: Any = images
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"images has shape {tuple(x.shape)}; give (N, {self.in_channels}, H, W), for mean and std of "
                f"{self.in_channels} channels"
            )
        if "float" not in str(x.dtype):  # torch.float32, torch.bfloat16 and numpy's float32 alike
            raise ValueError(f"images has type {x.dtype}; give floating point numbers in 0..1, that is bytes / 255")
        gain = [self.scale / s for s in self.std]
        offset = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        turned = x if self.channel_order == "rgb" else x[..., [2, 1, 0, *range(3, self.in_channels)], :, :]
        gains, offsets = (
            (np.array(numbers, x.dtype) if isinstance(x, np.ndarray) else x.new_tensor(numbers)).reshape(-1, 1, 1)
            for numbers in (gain, offset)
        )
        result: Images = turned * gains + offsets
        return result

    def for_channels(self, in_channels: int) -> Preprocessing:
        """Give the numbers for images of other channels than the three colors of these.

        The colors keep theirs, each channel beyond them gets their average; fewer than three channels get the average
        of the colors, in no particular order. Numbers for another kind of channel (depth, infrared) are yours to give.

        Args:
            in_channels: channels C of the images.

        Raises:
            ValueError: if in_channels is below 1.

        Example:
            >>> IMAGENET.for_channels(4).mean
            (0.485, 0.456, 0.406, 0.449)
        """
        if in_channels < 1:
            raise ValueError(f"in_channels={in_channels}: an image has at least one channel")
        if in_channels == self.in_channels:
            return self
        mean, std = (round(sum(numbers) / len(numbers), 10) for numbers in (self.mean, self.std))
        kept = self.in_channels if in_channels > self.in_channels else 0
        return replace(
            self,
            mean=(*self.mean[:kept], *[mean] * (in_channels - kept)),
            std=(*self.std[:kept], *[std] * (in_channels - kept)),
            channel_order=self.channel_order if kept else "rgb",
        )

    def to_dict(self) -> dict[str, Any]:
        """Write as plain JSON values; `from_dict` reads them back."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    @classmethod
    def of(cls, given: Preprocessing | Mapping[str, Any]) -> Preprocessing:
        """Take a preprocessing as it is, or read its plain form.

        Raises:
            ValueError: if the plain form is none; see `from_dict`.
        """
        return given if isinstance(given, cls) else cls.from_dict(given)  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Args:
            entry: a mapping with `mean` and `std`, and optionally `scale`, `channel_order`,
                `short_side` and `value_range`.

        Returns:
            The preprocessing.

        Raises:
            ValueError: if an entry is missing, unknown or out of its range.

        Example:
            >>> Preprocessing.from_dict(IMAGENET.to_dict()) == IMAGENET
            True
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(entry, Mapping) or not {"mean", "std"} <= set(entry):
            raise ValueError(f"preprocessing={entry!r} lacks 'mean' or 'std'; give a mapping as to_dict writes it")
        for key in entry:
            if key not in known:
                raise ValueError(f"preprocessing has an entry {key!r} that means nothing. {near_miss(str(key), known)}")
        return cls(**entry)


def _floats(name: str, numbers: Sequence[float]) -> tuple[float, ...]:
    try:
        result = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={numbers!r}: give one number a channel, such as (0.5, 0.5, 0.5)") from None
    if not all(math.isfinite(number) for number in result):
        raise ValueError(f"{name}={result}: numbers must be finite")
    return result


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet in 0..1, as torchvision's and most of timm's classifiers were trained."""

CAFFE = Preprocessing((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), 255.0, "bgr")
"""Bytes in the order blue, green, red minus their mean: Caffe's classifiers and the released FCNs."""

"""The joint training transform of image and mask.

The crop comes first: scale and position are drawn, only the part of the image that ends up in the crop is resized,
and colors are changed on the crop alone, all of them and the conversion to float by one affine map. That gives nearly
the same images as one whole-image step after the other and costs a fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

PAD_VALUE = 0.5
"""What fills an image of 0..1 beyond its border: mid gray, near the mean of photographs; masks get ignore."""

_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision and Pillow weigh it
_BAND = 2**16  # pixels whose colors are changed at a time


@dataclass(frozen=True)
class Augmentation:
    """Hold the numbers of the training transform.

    Args:
        crop_size: height and width of the crop in pixels; one number is a square, None the image's own size.
        scale: range of the random scale; (1, 1) never scales.
        flip: probability of a flip from left to right.
        brightness: brightness is multiplied by 1 - b .. 1 + b.
        contrast: the same for the distance from the mean gray.
        saturation: the same for the distance from the pixel's own gray.
        hue: hue is turned by up to this share of the color circle, at most 0.5.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> Augmentation(crop_size=224).crop_size
        (224, 224)
    """

    crop_size: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_size is not None:
            size = (self.crop_size,) * 2 if isinstance(self.crop_size, int) else tuple(self.crop_size)
            if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
                raise ValueError(f"crop_size={self.crop_size}: one or two whole numbers of pixels, at least 1, or None")
            object.__setattr__(self, "crop_size", size)
        low, high = self.scale
        if not 0.0 < low <= high:
            raise ValueError(f"scale={self.scale}: a range of two numbers above 0, the smaller first, as (0.5, 2.0)")
        object.__setattr__(self, "scale", (float(low), float(high)))
        for name, most in (("flip", 1.0), ("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)}: a number in 0..{most:g}; 0 leaves it alone")


@dataclass(frozen=True)
class Draw:
    """Hold what was drawn for one sample.

    Args:
        window: top, left, height and width of the part of the image that is used, in pixels of the image.
        place: top, left, height and width of where that part lies in the crop, in pixels of the crop.
        crop_size: height and width of the crop; what the image does not cover is filled.
        flip: whether the part is turned from left to right.
        brightness: factor.
        contrast: factor of the distance from the mean gray.
        saturation: factor of the distance from the pixel's own gray.
        hue: share of the color circle by which hue is turned.
    """

    window: tuple[int, int, int, int]
    place: tuple[int, int, int, int]
    crop_size: tuple[int, int]
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class TrainingTransform:
    """Cut a window of random scale and position out of image and mask, flip it, and change its colors, all in one go.

    What torchvision does with `ScaleJitter`, `RandomCrop`, `RandomHorizontalFlip` and `ColorJitter`, with these
    differences: the window is cut before it is resized, so that its outermost pixels know nothing of what lies beyond;
    colors change in a fixed order, by one affine map of each pixel, and are clamped to 0..1 once, at the end; contrast
    is about the mean gray of the whole image, taken from a thumbnail; hue turns about the gray axis of the RGB
    cube and not around the HSV cone. Labels are never interpolated. A window that reaches beyond the image is filled
    with mid gray and ignore, the image at a random place in it. `benchmarks/augmentation.py` prints what this costs
    and how far it is from torchvision.

    All random numbers come from torch's global generator. The result can be handed on to transforms of torchvision v2.

    Args:
        augmentation: its numbers.
        ignore_index: what fills the mask.

    Example:
        >>> transform = TrainingTransform(Augmentation(crop_size=(32, 48)))
        >>> image, mask = transform(torch.zeros(3, 90, 120, dtype=torch.uint8), torch.zeros(90, 120, dtype=torch.uint8))
        >>> image.shape, image.dtype, mask.shape, mask.dtype
        (torch.Size([3, 32, 48]), torch.float32, torch.Size([32, 48]), torch.uint8)
    """

    def __init__(self, augmentation: Augmentation, ignore_index: int = 255) -> None:
        self.augmentation = augmentation
        self.ignore_index = ignore_index

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Draw, and apply what was drawn to both.

        Args:
            image: (C, H, W) uint8, or floats in 0..1. Bytes that lie as (H, W, C) in memory are fastest.
            mask: (H, W) integers.

        Returns:
            (C, h, w) float32 in 0..1 and (h, w) integers of the type of `mask`.
        """
        draw = self.draw(int(image.shape[-2]), int(image.shape[-1]))
        return (
            tv_tensors.Image(apply_to_image(image.as_subclass(Tensor), draw)),
            tv_tensors.Mask(apply_to_mask(mask.as_subclass(Tensor), draw, self.ignore_index)),
        )

    def draw(self, height: int, width: int) -> Draw:
        """Draw scale, place, flip and colors for an image of that size.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
        """
        how = self.augmentation
        size = how.crop_size or (height, width)
        assert not isinstance(size, int)  # made a pair on construction
        # One call for all of them: each costs more than the arithmetic that follows.
        at = torch.rand(8, dtype=torch.float64).tolist()
        scale = how.scale[0] + (how.scale[1] - how.scale[0]) * at[0]
        top, rows, out_top, out_rows = _window(height, size[0], scale, at[1])
        left, columns, out_left, out_columns = _window(width, size[1], scale, at[2])
        return Draw(
            window=(top, left, rows, columns),
            place=(out_top, out_left, out_rows, out_columns),
            crop_size=size,
            flip=at[3] < how.flip,
            brightness=1.0 + how.brightness * (2.0 * at[4] - 1.0),
            contrast=1.0 + how.contrast * (2.0 * at[5] - 1.0),
            saturation=1.0 + how.saturation * (2.0 * at[6] - 1.0),
            hue=how.hue * (2.0 * at[7] - 1.0),
        )


def apply_to_image(image: Tensor, draw: Draw) -> Tensor:
    """Crop, resize, flip and color an image as drawn.

    Args:
        image: (C, H, W) uint8, or floats in 0..1.
        draw: what was drawn.

    Returns:
        (C, h, w) float32 in 0..1, contiguous, filled with `PAD_VALUE` where the image does not reach.
    """
    top, left, rows, columns = draw.window
    out_top, out_left, out_rows, out_columns = draw.place
    piece = image[:, top : top + rows, left : left + columns]
    if (rows, columns) != (out_rows, out_columns):
        if (out_rows, out_columns) == (1, 1):  # torch fails on bytes here: "num_channels == unpacked_output.size(0)"
            piece = piece.to(torch.float32) / (1.0 if image.is_floating_point() else 255.0)
        # Bytes that lie as (H, W, C) come out as planes, which the colors want; that saves a copy.
        piece = torch.nn.functional.interpolate(
            piece[None], (out_rows, out_columns), mode="bilinear", antialias=True, align_corners=False
        )[0]
    if draw.flip:
        piece = piece.flip(-1)
    colors = (draw.brightness, draw.contrast, draw.saturation, draw.hue)
    mean = mean_gray(image) if draw.contrast != 1.0 else 0.0
    crop = torch.full((image.shape[0], *draw.crop_size), PAD_VALUE)
    inside = crop[:, out_top : out_top + out_rows, out_left : out_left + out_columns]
    change_colors(piece, *colors, mean=mean, out=inside)
    return crop


def apply_to_mask(mask: Tensor, draw: Draw, ignore_index: int = 255) -> Tensor:
    """Crop, resize and flip a mask as drawn: each pixel gets the label at its center, and none is a mixture.

    Args:
        mask: (H, W) integers.
        draw: what was drawn.
        ignore_index: what fills the crop where the image does not reach.

    Returns:
        (h, w) integers of the same type.
    """
    top, left, rows, columns = draw.window
    out_top, out_left, out_rows, out_columns = draw.place
    labels = mask.numpy()[top : top + rows, left : left + columns]
    # Picking lines and then columns takes half the time of torch's resize, and the flip is part of it.
    if rows > out_rows:
        labels = labels[_centers(rows, out_rows)]
    if columns != out_columns or draw.flip:
        picked = _centers(columns, out_columns)
        labels = labels.take(picked[::-1] if draw.flip else picked, axis=1)
    if rows < out_rows:
        labels = labels[_centers(rows, out_rows)]
    crop = np.full(draw.crop_size, ignore_index, dtype=labels.dtype)
    crop[out_top : out_top + out_rows, out_left : out_left + out_columns] = labels
    return torch.from_numpy(crop)


def change_colors(
    image: Tensor,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
    *,
    mean: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, and convert to float, by one affine map of each pixel's color.

    With x the color, g the weights of gray, m the mean gray: brightness is b x, contrast c x + (1 - c) m, saturation
    s x + (1 - s) g.x, hue a rotation R about gray. All but the shift of the contrast are linear and leave gray gray, so
    that together they are c b R (s I + (1 - s) 1 g^T) x + (1 - c) b m.

    Args:
        image: (3, H, W) RGB, uint8 or floats in 0..1; with another number of channels only brightness and contrast
            count.
        brightness: factor b.
        contrast: factor c.
        saturation: factor s.
        hue: share of the color circle by which hue is turned.
        mean: mean gray m in 0..1, such as that of the image that the image is a part of; by default the image's own.
        out: (C, H, W) float32 that the result is written to; it may be a part of a larger one.

    Returns:
        (C, H, W) float32, clamped to 0..1.
    """
    channels, height, width = (int(side) for side in image.shape)
    if out is None:
        out = torch.empty((channels, height, width))
    full = 1.0 if image.is_floating_point() else 255.0
    mixes = channels == 3 and (saturation != 1.0 or hue != 0.0)
    if brightness == contrast == 1.0 and not mixes:
        return out.copy_(image).div_(full).clamp_(0.0, 1.0)  # the very numbers of an image that is not augmented
    if mean is None:
        mean = mean_gray(image) if contrast != 1.0 else 0.0
    offset = torch.tensor((1.0 - contrast) * brightness * mean, dtype=torch.float32)
    factor = contrast * brightness / full
    if not mixes:
        return torch.add(offset, out.copy_(image), alpha=factor, out=out).clamp_(0.0, 1.0)
    matrix = [[factor * weight for weight in row] for row in _mix(saturation, hue)]
    # Band after band: another array of the size of the crop would take longer to get from the system than to fill.
    band = max(1, _BAND // max(width, 1))
    planes = torch.empty((3, min(band, height), width))
    for top in range(0, height, band):
        part = out[:, top : top + band]
        red, green, blue = planes[:, : part.shape[1]].copy_(image[:, top : top + band])
        # Nine additions of planes: the product of a 3 x 3 matrix and a very long one takes BLAS twice as long.
        for (of_red, of_green, of_blue), channel in zip(matrix, part, strict=True):
            torch.add(offset, red, alpha=of_red, out=channel)
            channel.add_(green, alpha=of_green).add_(blue, alpha=of_blue)
        part.clamp_(0.0, 1.0)
    return out


def mean_gray(image: Tensor) -> float:
    """Take the mean gray level of an image from a thumbnail of at least 64 pixels a side: every so many pixels.

    Args:
        image: (C, H, W) uint8, or floats in 0..1.

    Returns:
        The mean of 0.299 R + 0.587 G + 0.114 B in 0..1, or of all channels if there are not three.
    """
    step = max(1, min(int(image.shape[-2]), int(image.shape[-1])) // 64)
    first = step // 2  # the same margin on both sides
    means = image[:, first::step, first::step].to(torch.float32).mean((1, 2)).tolist()
    weights = _GRAY if len(means) == 3 else [1.0 / len(means)] * len(means)
    gray = math.fsum(weight * level for weight, level in zip(weights, means, strict=True))
    return gray if image.is_floating_point() else gray / 255.0


def _mix(saturation: float, hue: float) -> list[list[float]]:
    """Compose saturation and a turn about the gray axis (1, 1, 1), the latter by the formula of Rodrigues."""
    angle = 2.0 * math.pi * hue
    along = (1.0 - math.cos(angle)) / 3.0
    across = math.sin(angle) / math.sqrt(3.0)
    same, after, before = math.cos(angle) + along, along - across, along + across
    turn = ((same, after, before), (before, same, after), (after, before, same))
    # The rows of a turn about gray sum to 1, so that what saturation takes from the pixel's gray goes through as it is.
    return [[saturation * t + (1.0 - saturation) * g for t, g in zip(row, _GRAY, strict=True)] for row in turn]


def _window(length: int, out_length: int, scale: float, at: float) -> tuple[int, int, int, int]:
    """Place a window along one axis: start and length in the image, start and length in the crop (pixels).

    `at` in 0..1 says where, of all places that are possible.
    """
    wanted = max(round(out_length / scale), 1)
    if wanted <= length:
        return int(at * (length - wanted + 1)), wanted, 0, out_length
    filled = min(max(round(length * scale), 1), out_length)
    return 0, length, int(at * (out_length - filled + 1)), filled


def _centers(length: int, out_length: int) -> npt.NDArray[np.int64]:
    return (2 * np.arange(out_length, dtype=np.int64) + 1) * length // (2 * out_length)

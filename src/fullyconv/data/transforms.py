"""Joint training transforms of image and mask, on torchvision's v2 transforms and tensors.

The crop comes first: scale and position are drawn, only the part of the picture that ends up in the crop is resized,
and colours are changed on the crop alone, all of them and the conversion to float by one affine map. That gives nearly
the same pictures as one whole-image step after the other and costs a fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

PAD_VALUE = 0.5
"""What fills an image of 0..1 beyond its border: mid grey, near the mean of photographs; masks get ignore."""

_PAD_BYTE = 128


@dataclass(frozen=True)
class Augmentation:
    """Hold the numbers of the training transform.

    Args:
        crop_size: height and width of the crop in pixels; one number is a square, None the picture's own size.
        scale: range of the random scale; (1, 1) never scales.
        flip: probability of a flip from left to right.
        brightness: brightness is multiplied by 1 - b .. 1 + b.
        contrast: the same for the distance from the mean grey.
        saturation: the same for the distance from the pixel's own grey.
        hue: hue is turned by up to this share of the colour circle, at most 0.5.

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
            raise ValueError(
                f"scale={self.scale}: a range of two numbers above 0, the smaller first, such as (0.5, 2.0)"
            )
        object.__setattr__(self, "scale", (float(low), float(high)))
        if not 0.0 <= self.flip <= 1.0:
            raise ValueError(f"flip={self.flip}: a probability in 0..1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: a share in 0..1; 0 leaves it alone")
        if not 0.0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue}: a share of the colour circle in 0..0.5; 0 leaves it alone")


class RandomScaleCrop(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Cut a window of random scale and position out of image and mask.

    A window that reaches beyond the picture is filled with mid grey and ignore, the picture at a random place in it.

    Args:
        crop_size: height and width of the result in pixels; None keeps the picture's own.
        scale: range of the random scale of the picture.
        ignore_index: what fills the mask.
    """

    def __init__(
        self, crop_size: tuple[int, int] | None, scale: tuple[float, float] = (1.0, 1.0), ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.scale = scale
        self.ignore_index = ignore_index

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw scale and place once for image and mask together."""
        height, width = v2.query_size(flat_inputs)
        out_height, out_width = self.crop_size or (height, width)
        scale = _uniform(*self.scale)
        top, rows, out_top, out_rows = _window(height, out_height, scale)
        left, columns, out_left, out_columns = _window(width, out_width, scale)
        return {
            "window": (top, left, rows, columns),
            "size": (out_rows, out_columns),
            # left, top, right, bottom
            "padding": [out_left, out_top, out_width - out_columns - out_left, out_height - out_rows - out_top],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop, resize and pad one of the two."""
        top, left, rows, columns = params["window"]
        piece = inpt.as_subclass(Tensor)[..., top : top + rows, left : left + columns]
        mask = isinstance(inpt, tv_tensors.Mask)
        if (rows, columns) != params["size"]:
            # "nearest" takes the pixel above and to the left; "nearest exact" the one the image's filter is centred on.
            how = InterpolationMode.NEAREST_EXACT if mask else InterpolationMode.BILINEAR
            piece = piece[None] if mask else piece
            if params["size"] == (1, 1):  # torch fails on planar bytes here: "num_channels == unpacked_output.size(0)"
                piece = piece.to(torch.float32)
            piece = F.resize(piece, list(params["size"]), interpolation=how, antialias=True).to(inpt.dtype)
            piece = piece[0] if mask else piece
        if any(params["padding"]):
            left, top, right, bottom = params["padding"]
            fill = self.ignore_index if mask else _PAD_BYTE if not inpt.is_floating_point() else PAD_VALUE
            piece = torch.nn.functional.pad(piece, (left, right, top, bottom), value=fill)
        return tv_tensors.wrap(piece, like=inpt)


class ColourJitter(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Vary brightness, contrast, saturation and hue at random, in one affine map of each pixel's colour.

    The four are those of torchvision's `ColorJitter` with these differences: they come in a fixed order, values are
    clamped to 0..1 once at the end instead of after each, the mean grey of the contrast is taken from every eighth
    pixel, and hue turns about the grey axis of the RGB cube instead of going around the HSV cone. Images come out as
    float32.

    Args:
        brightness: brightness is multiplied by 1 - b .. 1 + b.
        contrast: the same for the distance from the mean grey.
        saturation: the same for the distance from the pixel's own grey.
        hue: share of the colour circle, 0..0.5.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the four amounts."""
        del flat_inputs
        return {
            "brightness": _uniform(1 - self.brightness, 1 + self.brightness),
            "contrast": _uniform(1 - self.contrast, 1 + self.contrast),
            "saturation": _uniform(1 - self.saturation, 1 + self.saturation),
            "hue": _uniform(-self.hue, self.hue),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the colours of an image; a mask stays as it is."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = inpt.as_subclass(Tensor)
        return tv_tensors.Image(change_colours(image, **params))


def change_colours(
    image: Tensor, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Tensor:
    """Change brightness, contrast, saturation and hue by one affine map of each pixel's colour.

    With x the colour, g the weights of grey, m the mean grey: brightness is b x, contrast c x + (1 - c) m, saturation
    s x + (1 - s) g.x, hue a rotation R about grey. All but the shift of the contrast are linear and leave grey grey, so
    that together they are c b R (s I + (1 - s) 1 g^T) x + (1 - c) b m.

    Args:
        image: (3, H, W) RGB, uint8 or floats in 0..1; with another number of channels only brightness and contrast
            count.
        brightness: factor b.
        contrast: factor c.
        saturation: factor s.
        hue: share of the colour circle by which hue is turned.

    Returns:
        (C, H, W) float32, clamped to 0..1.
    """
    channels, height, width = image.shape
    unit = 1.0 if image.is_floating_point() else 1.0 / 255.0
    if channels == 3:
        grey = torch.tensor([0.299, 0.587, 0.114])
        mix = saturation * torch.eye(3) + (1 - saturation) * grey.expand(3, 3)
        matrix = contrast * brightness * (_hue_rotation(hue) @ mix)
    else:
        grey = torch.full((channels,), 1.0 / channels)
        matrix = contrast * brightness * torch.eye(channels)
    thumbnail = image[:, ::8, ::8].to(torch.float32)
    mean = float(grey @ thumbnail.mean((1, 2))) * unit
    offset = torch.full((channels, 1), (1 - contrast) * brightness * mean)
    pixels = image.contiguous().view(channels, -1).to(torch.float32)
    return torch.addmm(offset, matrix * unit, pixels).clamp_(0.0, 1.0).view(channels, height, width)


def _hue_rotation(turn: float) -> Tensor:
    """Rotate by a share of the full circle about the grey axis (1, 1, 1), by the formula of Rodrigues."""
    angle = 2.0 * math.pi * turn
    c, s = math.cos(angle), math.sin(angle)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    return c * torch.eye(3) + s * cross + (1.0 - c) / 3.0 * torch.ones(3, 3)


def training_transform(augmentation: Augmentation, ignore_index: int = 255) -> v2.Transform:
    """Build the joint transform for training samples.

    Args:
        augmentation: its numbers.
        ignore_index: what fills the mask beyond the border.

    Returns:
        A transform of (image, mask), both tv_tensors: uint8 (C, H, W) and (H, W).
    """
    crop_size = augmentation.crop_size
    assert not isinstance(crop_size, int)  # made a pair on construction
    steps: list[v2.Transform] = [RandomScaleCrop(crop_size, augmentation.scale, ignore_index)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.brightness or augmentation.contrast or augmentation.saturation or augmentation.hue:
        steps.append(
            ColourJitter(augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
        )
    return v2.Compose(steps)


def _window(length: int, out_length: int, scale: float) -> tuple[int, int, int, int]:
    """Place a window along one axis: start and length in the picture, start and length in the crop (pixels)."""
    wanted = max(round(out_length / scale), 1)
    if wanted <= length:
        return _randint(length - wanted), wanted, 0, out_length
    filled = min(max(round(length * scale), 1), out_length)
    return 0, length, _randint(out_length - filled), filled


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _randint(high: int) -> int:
    """Draw from 0..high, both included."""
    return int(torch.randint(high + 1, ()))

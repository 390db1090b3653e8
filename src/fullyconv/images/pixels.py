"""Numbers of any type as 8-bit pixels.

Numbers of more than 8 bits are shown by their upper 8 bits, so that a value means the same in every image of a set.
Where the numbers of a set fill a part of that range only (12 bits stored in 16, reflectances up to 10,000),
`value_range` says which are black and white.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.errors import DatasetError

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
ValueRange = tuple[float, float]

FAINT = 32
"""Levels of 255: an image of 16 bits whose lightest pixel is darker uses fewer bits, 12 as a rule."""

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of Pillow for one band of more than 8 bits."""


def check_range(value_range: ValueRange) -> None:
    """Refuse what is no range of values.

    Raises:
        ValueError: if it is not two finite numbers, the lower first.
    """
    try:
        low, high = (float(number) for number in value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"value_range={value_range!r}: give the numbers that are black and white, such as (0, 4095)")


def faint(pixels: Pixels, name: str) -> str | None:
    """Say that an image of 16 bits uses a small part of their range; None where it does not.

    Args:
        pixels: its upper 8 bits.
        name: of the image.
    """
    lightest = int(pixels.max(initial=0))
    if lightest >= FAINT:
        return None
    white = 2 ** (8 + lightest.bit_length()) - 1
    return (
        f"{name}: its values take {white.bit_length()} of 16 bits, so that it is nearly black; if {white} is white, "
        f"say so: --range 0,{white} (value_range=(0, {white}))"
    )


def to_bytes(values: Array, name: str, value_range: ValueRange | None) -> Pixels:
    """Show numbers of any type as 8 bits.

    Args:
        values: of any shape.
        name: what messages begin with.
        value_range: the numbers that are black and white; None for the whole range of the type. Bytes and booleans
            stay as they are.

    Returns:
        The same shape, uint8.

    Raises:
        DatasetError: if the range of the type is not known, or floats lie beyond 0..1.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    if value_range is not None:
        return _cut(values, value_range)
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if low >= 0.0 and high <= 1.0:
            scaled: Pixels = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
            return scaled
        what = f"floating point numbers in {low:g}..{high:g}, beyond 0..1"
    else:
        what = f"numbers of type {values.dtype}, of unknown range"
    raise DatasetError(
        f"{name}: holds {what}; say which are black and white, --range LOW,HIGH (value_range=), or save 8 or 16 bits"
    )


def _cut(values: Array, value_range: ValueRange) -> Pixels:
    low, high = value_range
    if values.dtype == np.uint16:  # a table is many times faster
        table: Pixels = _cut(np.arange(65536, dtype=np.float32), value_range)
        return table[values]
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    shown: Pixels = np.rint(np.nan_to_num(scaled).clip(0, 255)).astype(np.uint8)
    return shown


def rgb_of(image: Image.Image, name: str, value_range: ValueRange | None = None) -> Pixels:
    """Give the colors of a Pillow image as (H, W, 3): gray repeated, alpha laid on white.

    Args:
        image: upright.
        name: what messages begin with.
        value_range: as `to_bytes` takes it.

    Raises:
        DatasetError: if its numbers have no known range.
    """
    if image.mode == "RGB":
        return np.array(image)
    if image.mode in DEEP or image.mode == "F":
        values = np.array(image)
        if values.dtype == np.int32 and values.size and int(values.min()) >= 0 and int(values.max()) <= 65535:
            values = values.astype(np.uint16)
        return repeat(to_bytes(values, name, value_range))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def repeat(gray: Pixels) -> Pixels:
    """Repeat (H, W) as (H, W, 3)."""
    return np.repeat(gray[:, :, None], 3, axis=2)


def gray_of(rgb: Pixels) -> Pixels:
    """Make (H, W, 3) gray, (H, W, 1); what is gray already keeps its very numbers."""
    if not (rgb != rgb[..., :1]).any():
        return rgb[..., :1].copy()
    return np.array(Image.fromarray(rgb).convert("L"))[..., None]

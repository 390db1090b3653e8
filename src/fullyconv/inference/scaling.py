"""An image at another size, and the size at which a network looks at it. It needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_MOST_ENLARGED = 4096  # pixels along the longer side; a 10 x 10000 strip would become 520 x 520000


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Give the size at which an image's shorter side has the pixels asked for, as torchvision's ``resize`` does.

    Args:
        size: height and width of the image, in pixels.
        short_side: pixels of the shorter side, at least 1.

    Returns:
        Height and width in the same proportion; the longer side rounded down. Where enlarging would make the longer
        side exceed 4096 pixels it ends there, and an image that is longer already keeps its size.

    Example:
        >>> scaled_size((1000, 1501), 520), scaled_size((240, 320), 520), scaled_size((10, 1000), 520)
        ((520, 780), (520, 693), (40, 4096))
    """
    short, long = min(size), max(size)
    new = (short_side, short_side * long // short)
    if short_side > short and new[1] > _MOST_ENLARGED:
        new = (max(1, short * _MOST_ENLARGED // long), _MOST_ENLARGED) if long < _MOST_ENLARGED else (short, long)
    return new if size[0] <= size[1] else (new[1], new[0])


def scaled(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """Scale an image bilinearly, with a filter that is as wide as the pixels when it shrinks, and round once.

    Args:
        pixels: (H, W, C) uint8.
        size: height and width of the result.
        box: left, top, right and bottom of the part that is scaled; the filter sees what lies around it, too. None is
            all of the image.

    Returns:
        (height, width, C) uint8: what ``torch.nn.functional.interpolate(antialias=True)`` gives, but for rounding.
    """
    # In floating point: of bytes, Pillow rounds after each of its two passes.
    bands = [Image.fromarray(pixels[..., band].astype(np.float32)) for band in range(pixels.shape[2])]
    found = [np.asarray(band.resize(size[::-1], Image.Resampling.BILINEAR, box)) for band in bands]
    rounded: npt.NDArray[np.uint8] = np.stack(found, 2).round().clip(0, 255).astype(np.uint8)
    return rounded

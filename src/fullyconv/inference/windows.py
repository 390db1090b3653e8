"""Images that are read window by window: a `Raster`, a `TiffImage`, and any of them scaled, mirrored or continued."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fullyconv.inference.scaling import scaled

_CHUNK = 2**25  # bytes of an image that are scaled at a time

Pixels = npt.NDArray[np.uint8]


class WindowedImage(Protocol):
    """An image of (H, W) pixels that gives windows of itself."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read the rows from `top` to before `bottom` and the columns from `left` to before `right`, (h, w, C)."""
        ...


class Mirrored:
    """An image with left and right exchanged.

    Args:
        image: the image as it is.
    """

    def __init__(self, image: WindowedImage) -> None:
        self.image, self.size = image, image.size

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read a window of the mirrored image."""
        width = self.size[1]
        return self.image.read(top, width - right, bottom, width - left)[:, ::-1].copy()


class Continued:
    """An image that goes on beyond its border, by its outermost rows and columns.

    Args:
        image: the image as it is.
        margin: rows above and below, and columns on the left and on the right, in pixels.

    Example:
        >>> from fullyconv.images.raster import Raster
        >>> Continued(Raster(np.array([[[7], [9]]], np.uint8)), (0, 2)).read(0, 0, 1, 6)[0, :, 0].tolist()
        [7, 7, 7, 9, 9, 9]
    """

    def __init__(self, image: WindowedImage, margin: tuple[int, int]) -> None:
        self.image, self.margin = image, margin
        self.size = (image.size[0] + 2 * margin[0], image.size[1] + 2 * margin[1])

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read a window of the larger image."""
        (height, width), (y, x) = self.image.size, self.margin
        rows = np.arange(top - y, bottom - y).clip(0, height - 1)
        columns = np.arange(left - x, right - x).clip(0, width - 1)
        inside = self.image.read(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        return inside[np.ix_(rows - rows[0], columns - columns[0])]


class Scaled:
    """An image at another size, by the antialiased bilinear filter that torchvision's ``resize`` has.

    A window is what the same pixels are in the whole scaled image, so that tiles of it have no seams.

    Args:
        image: the image as it is.
        size: height and width that it is scaled to.

    Example:
        >>> from fullyconv.images.raster import Raster
        >>> Scaled(Raster(np.full((8, 6, 3), 7, np.uint8)), (4, 9)).read(1, 2, 4, 9).shape
        (3, 7, 3)
    """

    def __init__(self, image: WindowedImage, size: tuple[int, int]) -> None:
        self.image, self.size = image, size

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read a window of the scaled image, in so many steps that little of the image is in memory at once."""
        (height, width), (y, x) = self.image.size, (n / m for n, m in zip(self.image.size, self.size, strict=True))
        step = max(1, int(_CHUNK / (16 * y * x * (right - left))))
        parts = []
        for start in range(top, bottom, step):
            stop = min(start + step, bottom)
            (y0, y1), (x0, x1) = _support(start, stop, y, height), _support(left, right, x, width)
            box = (left * x - x0, start * y - y0, min(right * x, width) - x0, min(stop * y, height) - y0)
            parts.append(scaled(self.image.read(y0, x0, y1, x1), (stop - start, right - left), box))
        return np.concatenate(parts)


def _support(start: int, stop: int, ratio: float, n: int) -> tuple[int, int]:
    """Give the first of n old cells that new ones are made of, and the one behind the last."""
    reach = max(ratio, 1.0) + 1
    return max(0, math.floor(start * ratio - reach)), min(n, math.ceil(stop * ratio + reach))

"""Images that are read window by window: a `Raster`, a `TiffImage`, and any of them scaled, mirrored or continued."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
        height, width = self.image.size
        columns, across = _taps(left, right, width, self.size[1])
        first, last = int(columns.min()), int(columns.max()) + 1
        step = max(1, int(_CHUNK // (last - first) * self.size[0] / height / 16))
        parts = []
        for start in range(top, bottom, step):
            rows, down = _taps(start, min(start + step, bottom), height, self.size[0])
            above, below = int(rows.min()), int(rows.max()) + 1
            source = self.image.read(above, first, below, last)
            scaled = _weigh(_weigh(source, rows - above, down).swapaxes(0, 1), columns - first, across).swapaxes(0, 1)
            parts.append(np.rint(scaled).clip(0, 255).astype(np.uint8))
        return np.concatenate(parts)


def _taps(start: int, stop: int, before: int, after: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Give for each new cell the old cells it reads, and their weights, both (cells, taps)."""
    ratio = before / after
    support = max(ratio, 1.0)
    center = ratio * (np.arange(start, stop) + 0.5)
    low = np.maximum(np.floor(center - support + 0.5).astype(np.intp), 0)
    high = np.minimum(np.floor(center + support + 0.5).astype(np.intp), before)
    cells = low[:, None] + np.arange(int((high - low).max()))
    weights = np.maximum(0.0, 1 - np.abs((cells + 0.5 - center[:, None]) / support)) * (cells < high[:, None])
    weights /= weights.sum(1, keepdims=True)
    return np.minimum(cells, before - 1), weights.astype(np.float32)


def _weigh(
    values: npt.NDArray[Any], cells: npt.NDArray[np.intp], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    total = np.zeros((len(cells), *values.shape[1:]), np.float32)
    for tap in range(cells.shape[1]):
        total += values[cells[:, tap]] * weights[:, tap, None, None]
    return total

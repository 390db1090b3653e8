"""An image that is read to be predicted: its pixels, which of them hold no data, and where on the earth it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.images.georeference import Georeference, georeference_of
from fullyconv.images.masks import nodata_of
from fullyconv.images.opening import MAX_PIXELS, ImageInput
from fullyconv.images.pixels import Pixels, ValueRange
from fullyconv.images.reading import read_noting
from fullyconv.images.tiff import open_windows


@dataclass(frozen=True)
class Raster:
    """An image in memory, which is read in windows like a `TiffImage`.

    Args:
        pixels: (H, W, C) uint8.
        empty: (H, W), which pixels hold no data; None where all hold some.
        place: where it lies on the earth.
        note: what a person should know of its values.
    """

    pixels: Pixels
    empty: npt.NDArray[np.bool_] | None = None
    place: Georeference | None = None
    note: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def has_void(self) -> bool:
        """Whether some pixels hold no data."""
        return self.empty is not None

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Give a window; it is a view."""
        return self.pixels[top:bottom, left:right]

    def void(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.bool_]:
        """Tell which pixels of a window hold no data, (h, w)."""
        assert self.empty is not None
        return self.empty[top:bottom, left:right]


def read_raster(
    source: ImageInput, channels: int, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> Raster:
    """Read an image to be predicted.

    Args:
        source: as `read_bands` takes it, like all that follow.
        channels: number of bands C that are wanted.
        max_pixels: images of more pixels are refused before they are decoded.
        value_range: the numbers that are black and white.

    Raises:
        FileNotFoundError, DatasetError, ImportError, ValueError: as `read_bands` does.
    """
    place = georeference_of(source)
    windows = None if place is None else open_windows(source, channels, value_range)
    if windows is not None:
        with windows:
            whole = (0, 0, *windows.size)
            if windows.has_void and math.prod(windows.size) <= max_pixels:
                pixels, void = windows.read(*whole), windows.void(*whole)
                return Raster(pixels, void if void.any() else None, place, windows.note)
    pixels, note = read_noting(source, channels, max_pixels, value_range)
    if place is not None and windows is None and isinstance(source, str | Path):
        number = nodata_of(source)
        if number is not None:
            lost = (
                f"{source}: pixels of {number:g} hold no data, as it says, and are segmented all the same: that takes "
                "tifffile, and imagecodecs for LZW (pip install 'fullyconv[geo]'), or saving it with deflate"
            )
            note = lost if note is None else f"{note}; {lost}"
    return Raster(pixels, None, place, note)

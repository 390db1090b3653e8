"""An image that is read to be predicted: its pixels, which of them hold no data, and where on the earth it lies."""

from __future__ import annotations

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
    """An image in memory.

    Args:
        pixels: (H, W, C) uint8.
        void: (H, W), which pixels hold no data; None where all hold some.
        place: where it lies on the earth.
        note: what a person should know of its values.
    """

    pixels: Pixels
    void: npt.NDArray[np.bool_] | None = None
    place: Georeference | None = None
    note: str | None = None


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
            height, width = windows.size
            if windows.has_void and height * width <= max_pixels:
                pixels = windows.read(0, 0, height, width)
                void = windows.void(0, 0, height, width)
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

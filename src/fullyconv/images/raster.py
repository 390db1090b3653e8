"""An image that is read to be predicted: its pixels, which of them hold no data, and where on the earth it lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fullyconv.images.georeference import Georeference, georeference_of
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
    if place is not None and (windows := open_windows(source, channels, value_range)) is not None:
        with windows:
            height, width = windows.size
            if windows.has_void and height * width <= max_pixels:
                pixels = windows.read(0, 0, height, width)
                void = windows.void(0, 0, height, width)
                return Raster(pixels, void if void.any() else None, place, windows.note)
    pixels, note = read_noting(source, channels, max_pixels, value_range)
    return Raster(pixels, None, place, note)

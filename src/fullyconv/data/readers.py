"""How the files of a data set become numbers: one reader a set, plain and picklable, for images and masks alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.images import Encoded, bands_size, read_bands, read_mask

Array = npt.NDArray[Any]
T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Do something with many files at once.

    Args:
        work: what is done; an error stops all.
        items: of what.

    Yields:
        What came of each, in their order.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        yield from pool.map(work, items)


class Reader(Protocol):
    """Read the two files of a pair. It travels to worker processes, so it holds plain values only."""

    def image(self, pair: Pair) -> npt.NDArray[np.uint8]:
        """Read the image as (H, W, C) uint8, the right way up.

        Raises:
            DatasetError: if a file is damaged; the message names it.
        """

    def size(self, pair: Pair) -> tuple[int, int]:
        """Give height and width of the image in pixels, without decoding it where its header tells."""

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers: the values in the file, which the label map explains.

        Raises:
            DatasetError: if a file is damaged or holds no labels; the message names it.
        """


@dataclass(frozen=True)
class FileReader:
    """Read images, and masks that hold one number a pixel (index, palette, 16 bits).

    Args:
        channels: C of the images; 3 is RGB, whatever the files hold.
        value_range: the numbers that are black and white in images of more than 8 bits.
    """

    # By its name alone: readers made from this one have arguments of their own.
    channels: int = field(default=3, kw_only=True)
    value_range: tuple[float, float] | None = field(default=None, kw_only=True)

    def image_file(self, pair: Pair) -> Path | Encoded:
        """Give the file of the image."""
        return pair.image

    def mask_file(self, pair: Pair) -> Path | Encoded:
        """Give the file of the mask."""
        return pair.mask

    def image(self, pair: Pair) -> npt.NDArray[np.uint8]:
        """Read the image as (H, W, C) uint8, the right way up."""
        return read_bands(self.image_file(pair), self.channels, value_range=self.value_range)

    def size(self, pair: Pair) -> tuple[int, int]:
        """Give height and width of the image in pixels."""
        return bands_size(self.image_file(pair), self.channels)

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers."""
        return read_mask(self.mask_file(pair))


def files_of(reader: Reader, pair: Pair) -> tuple[Path | Encoded, Path | Encoded]:
    """Give the files of image and mask."""
    if isinstance(reader, FileReader):
        return reader.image_file(pair), reader.mask_file(pair)
    return pair.image, pair.mask

"""How the files of a data set become numbers: one reader a set, plain and picklable, for images and masks alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.errors import DatasetError
from fullyconv.images import Encoded, bands_size, exif_orientation, may_be_cut, read_bands, read_mask
from fullyconv.labels import count_values_of

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

    @property
    def channels(self) -> int:
        """Channels C of an image."""

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


F = TypeVar("F", bound=FileReader)


def files_of(reader: Reader, pair: Pair) -> tuple[Path | Encoded, Path | Encoded]:
    """Give the files of image and mask."""
    if isinstance(reader, FileReader):
        return reader.image_file(pair), reader.mask_file(pair)
    return pair.image, pair.mask


def with_channels(reader: Reader, in_channels: int, value_range: tuple[float, float] | None = None) -> Reader:
    """Make a reader of files read images of another number of bands.

    Args:
        reader: the reader; one that combines files, such as color and depth, has a number of its own.
        in_channels: C of the images; 3, the default everywhere, leaves such a reader as it is.
        value_range: the numbers that are black and white.

    Raises:
        ValueError: if the reader gives another number of bands and cannot be told to.
    """
    if isinstance(reader, FileReader):
        return replace(reader, channels=in_channels, value_range=value_range)
    if in_channels not in (3, reader.channels):
        raise ValueError(f"in_channels={in_channels}: the images of this set have {reader.channels}; leave it out")
    return reader


def masks_as(kind: type[F], reader: Reader) -> F:
    """Make a reader of another kind of masks, which reads images as this one does."""
    return kind(channels=reader.channels, value_range=getattr(reader, "value_range", None))


def read_both(reader: Reader, pair: Pair) -> tuple[npt.NDArray[np.uint8], Array]:
    """Read image and mask and see that they are of one size.

    Returns:
        (H, W, C) uint8, and (H, W) integers.

    Raises:
        DatasetError: if a file is damaged, or the sizes differ.
    """
    image, mask = reader.image(pair), reader.mask(pair)
    check_sizes(pair, image.shape[:2], mask.shape)
    return image, mask


def count_mask(reader: Reader, pair: Pair) -> dict[int, int]:
    """Count the pixels of every value of a mask, and see that its image is of that size and not cut short.

    Args:
        reader: how the files are read.
        pair: image and mask.

    Raises:
        DatasetError: if a file is damaged, or the sizes differ.
    """
    mask = reader.mask(pair)
    check_sizes(pair, reader.size(pair), mask.shape)
    if may_be_cut(files_of(reader, pair)[0]):
        reader.image(pair)  # which names it, if it cannot be decoded
    return count_values_of(mask)


def check_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[object, ...]) -> None:
    """Refuse a pair whose image and mask differ in size.

    Args:
        pair: the pair.
        image: height and width of the image, in pixels.
        mask: those of the mask.
    """
    if image == mask:
        return
    hint = " Resize one (masks by nearest neighbor), or pair the right files"
    if image == mask[::-1] and pair.image.is_file() and exif_orientation(pair.image) != 1:
        hint = " The image is turned by its EXIF orientation and the mask is not: turn the mask, or strip the tag"
    raise DatasetError(
        f"{pair.image} has {image[0]} x {image[1]} pixels (H x W) and its mask {pair.mask} {mask[0]} x {mask[1]}; "
        f"both must be equal.{hint}"
    )

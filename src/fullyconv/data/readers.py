"""How the files of a data set become numbers: one reader a set, plain and picklable, for images and masks alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.matlab import read_labels, read_seg
from fullyconv.data.pairs import Pair
from fullyconv.errors import DatasetError, some
from fullyconv.images import (
    Encoded,
    bands_size,
    exif_orientation,
    lossy_format,
    mask_mode,
    may_be_cut,
    read_bands,
    read_colors,
    read_image,
    read_mask,
)
from fullyconv.labels import NO_COLOR, as_text, count_values_of, packed, runs_of

Array = npt.NDArray[Any]
T = TypeVar("T")
R = TypeVar("R")

SNAP = 64.0
"""Largest distance in RGB at which a color counts as one of the table: a quarter of the range of a channel."""


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


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Read the two files of a pair. It travels to worker processes, so it holds plain values only.

    Args:
        channels: C of the images; 3 is RGB, whatever the files hold.
        value_range: the numbers that are black and white in images of more than 8 bits.
        colors: 0xRRGGBB of every color that masks may hold; empty where masks hold numbers.
        codes: the value of each of these colors; empty where the color itself is the value.
        snap: whether a color that is none of them counts as the nearest within `SNAP`, else as `NO_COLOR`; without
            it, such a color is an error.
        threshold: gray levels from here on are 255, those below 0; None keeps them.
        bit_value: what a set pixel of a 1-bit file means.
        levels: values that lossy masks are snapped to; empty refuses them.
        unknown: whether nobody knows what masks hold: numbers are read where there are any, else zeros.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None
    colors: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    snap: bool = False
    threshold: int | None = None
    bit_value: int = 1
    levels: tuple[int, ...] = ()
    unknown: bool = False

    def image_file(self, pair: Pair) -> Path | Encoded:
        """Give the file of the image."""
        return pair.image

    def mask_file(self, pair: Pair) -> Path | Encoded:
        """Give the file of the mask."""
        return pair.mask

    def with_bands(self, channels: int, value_range: tuple[float, float] | None) -> Self:
        """Read images of another number of bands, or by another range of values.

        Raises:
            ValueError: if these images have another number of bands.
        """
        return replace(self, channels=channels, value_range=value_range)

    def image(self, pair: Pair) -> npt.NDArray[np.uint8]:
        """Read the image as (H, W, C) uint8, the right way up.

        Raises:
            DatasetError: if a file is damaged; the message names it.
        """
        return read_bands(self.image_file(pair), self.channels, value_range=self.value_range)

    def size(self, pair: Pair) -> tuple[int, int]:
        """Give height and width of the image in pixels, without decoding it where its header tells."""
        return bands_size(self.image_file(pair), self.channels)

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers: numbers as they stand in the file, or colors as 0xRRGGBB.

        Raises:
            DatasetError: if a file is damaged or holds no labels; the message names it.
        """
        file = self.mask_file(pair)
        suffix = file.suffix.lower() if isinstance(file, Path) else ""
        if suffix in (".mat", ".seg"):
            if self.unknown:
                return np.zeros(self.size(pair), np.uint8)
            return read_labels(pair.mask) if suffix == ".mat" else read_seg(pair.mask)
        if self.unknown and (mask_mode(file) == "RGB" or lossy_format(file)):
            return np.zeros(read_image(file).shape[:2], np.uint8)
        if self.colors:
            return self._by_color(read_colors(file), str(file))
        if self.levels and lossy_format(file):
            gray = read_colors(file)[..., 1].astype(np.int32)
            levels = np.array(self.levels, np.uint16)
            nearest: Array = levels[np.abs(gray[..., None] - self.levels).argmin(-1)]
            return nearest
        return self._by_number(file)

    def _by_number(self, file: Path | Encoded) -> Array:
        mode = mask_mode(file)
        if mode == "RGB" and not lossy_format(file):
            pixels = read_colors(file)
            if (pixels != pixels[..., :1]).any():
                raise DatasetError(f'{file}: holds colors, other masks gray levels; give values={{"#rrggbb": ...}}')
            mask: Array = pixels[..., 0].copy()
        else:
            mask = read_mask(file)  # which refuses lossy files and says why
            if mode == "1" and self.bit_value != 1:
                mask = mask * np.uint8(self.bit_value)
        return mask if self.threshold is None else np.where(mask >= self.threshold, np.uint8(255), np.uint8(0))

    def _by_color(self, pixels: npt.NDArray[np.uint8], name: str) -> Array:
        runs, lengths = runs_of(packed(pixels))
        found, inverse = np.unique(runs, return_inverse=True)
        codes = self.codes or self.colors
        own = dict(zip(self.colors, codes, strict=True))
        values = np.array([own.get(int(color), -1) for color in found], np.int32)
        missing = np.flatnonzero(values < 0)
        if len(missing) and not self.snap:
            strange, known = some(map(as_text, found[missing].tolist()), 1), some(map(as_text, self.colors), 8)
            what = f"holds the color {strange}, which is none of the label map ({known})"
            raise DatasetError(f"{name}: {what}; correct the mask, or give the color a class in values=")
        if len(missing):
            places, near = nearest_color(found[missing], self.colors)
            values[missing] = np.where(near, np.array(codes, np.int32)[places], NO_COLOR)
        result: Array = np.repeat(values[inverse.ravel()], lengths).reshape(pixels.shape[:2])
        return result if not self.codes or NO_COLOR in values else result.astype(np.uint8)


def nearest_color(colors: Array, table: Sequence[int]) -> tuple[Array, Array]:
    """Give for each color the place of the nearest in a table, and whether it is near enough to count as it."""

    def rgb(packed: Array) -> Array:
        return np.stack([packed >> 16, (packed >> 8) & 255, packed & 255], axis=-1).astype(np.float64)

    places = np.zeros(len(colors), np.int64)
    near = np.zeros(len(colors), np.bool_)
    for start in range(0, len(colors), 4096):  # a photograph has as many colors as pixels
        part = slice(start, start + 4096)
        distance = ((rgb(colors[part])[:, None] - rgb(np.array(table))[None]) ** 2).sum(-1)
        places[part], near[part] = distance.argmin(1), distance.min(1) <= SNAP**2
    return places, near


def read_both(reader: FileReader, pair: Pair) -> tuple[npt.NDArray[np.uint8], Array]:
    """Read image and mask and see that they are of one size.

    Returns:
        (H, W, C) uint8, and (H, W) integers.

    Raises:
        DatasetError: if a file is damaged, or the sizes differ.
    """
    image, mask = reader.image(pair), reader.mask(pair)
    check_sizes(pair, image.shape[:2], mask.shape)
    return image, mask


def count_mask(reader: FileReader, pair: Pair) -> dict[int, int]:
    """Count the pixels of every value of a mask, and see that its image is of that size and not cut short.

    Args:
        reader: how the files are read.
        pair: image and mask.

    Raises:
        DatasetError: if a file is damaged, or the sizes differ.
    """
    mask = reader.mask(pair)
    check_sizes(pair, reader.size(pair), mask.shape)
    if may_be_cut(reader.image_file(pair)):
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
    hint = "Resize one (masks by nearest neighbor), or pair the right files"
    if image == mask[::-1] and pair.image.is_file() and exif_orientation(pair.image) != 1:
        hint = "The image is turned by its EXIF orientation and the mask is not: turn the mask, or strip the tag"
    sizes = f"{pair.image} has {image[0]} x {image[1]} pixels (H x W) and its mask {pair.mask} {mask[0]} x {mask[1]}"
    raise DatasetError(f"{sizes}; both must be equal. {hint}")

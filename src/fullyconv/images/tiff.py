"""TIFF files as their headers say, whole or window by window: any number of bands, side by side, in planes or on pages.

tifffile (extra `tiff`) knows the headers and decodes strips and tiles; what is here decides which page is the image,
bounds what is decoded, and makes 8-bit pixels of it.
"""

from __future__ import annotations

import importlib.util
import io
import math
import zlib
from collections import OrderedDict
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.errors import DatasetError
from fullyconv.images.georeference import NODATA, Georeference, georeference_of, nodata_in
from fullyconv.images.opening import Encoded, File, is_tiff
from fullyconv.images.pixels import Pixels, ValueRange, faint, gray_of, repeat, rgb_of, to_bytes

Array = npt.NDArray[Any]

COMPRESSIONS = (1, 5, 8, 32773, 32946)
"""Ways that files are compressed in and read here: none, LZW, deflate, PackBits, deflate by its old number."""

_PLAIN = (1, 8, 32773, 32946)  # tifffile decodes these by itself

_MULTIPLIED_IN = 1  # kind of a band of transparency, by which the colors were multiplied

_SEGMENT = 2**26  # bytes of the largest strip or tile that is decoded for a window; all that are kept take as much
_NAMES = {3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 32803: "a camera's raw image", 34892: "a raw image"}


class TiffImage:
    """A TIFF file that is read window by window: not compressed, or in strips and tiles that are decoded as needed.

    Thumbnails, overviews and masks of transparency are not the image, wherever they stand.

    Args:
        file: the file.
        channels: bands C that are wanted: 3 for RGB, 1 for gray, any other number has to be that of the file.
        value_range: the numbers that are black and white, as `read_image` takes it.

    Attributes:
        path: the file; None of one in memory.

    Raises:
        ImportError: if tifffile is not installed.
        DatasetError: if the file is damaged, or no image of the bands that are wanted.
    """

    def __init__(self, file: File, channels: int, value_range: ValueRange | None) -> None:
        try:
            import tifffile
        except ImportError as error:
            raise ImportError(
                f"{file}: TIFF files of this kind need tifffile: pip install 'fullyconv[tiff]', or save it as PNG"
            ) from error
        self.path = file if isinstance(file, Path) else None
        self._name = str(file)
        self._channels, self._range = channels, value_range
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._raw: io.FileIO | None = None
        self._lightest = np.uint8(0)
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(
                    tifffile.TiffFile(io.BytesIO(file.data) if isinstance(file, Encoded) else file)
                )
                self._pages = self._main_pages()
                self._page: Any = self._pages[0]
                self._check_page()
                self._planes = self._page.samplesperpixel if int(self._page.planarconfig) == 2 else 1
                self._check_bands()
                for page in self._pages:
                    bound_segments(page, self._file, file)
                if len(self._pages) == self._planes == 1 and self._page.is_memmappable and isinstance(file, Path):
                    # rows of windows are read straight into their place, a hundred thousand of them from a large image
                    self._raw = file.open("rb", buffering=0)
            except (DatasetError, ImportError):
                raise
            except Exception as error:  # TiffFileError, ValueError, struct.error, whatever a damaged header makes of it
                why = f"damaged, or a TIFF of a rare kind ({error}); save it anew, with deflate"
                raise DatasetError(f"{self._name}: {why}") from error
            stack.pop_all()  # from here on who made it closes it

    def _main_pages(self) -> list[Any]:
        """Find the pages of the image: the first that is no thumbnail, and those like it."""
        every: list[Any] = list(self._file.pages)
        inner = [page for first in every for page in (first.pages or ())]
        full = next(filter(None, ([page for page in some if not page.subfiletype & 5] for some in (every, inner))), [])
        if not every:
            raise DatasetError(f"{self._name}: damaged: a TIFF without an image in it; replace the file")
        if not full:
            raise DatasetError(f"{self._name}: holds thumbnails alone; save the image itself")
        first = full[0]
        return [page for page in full if (page.shape, page.dtype) == (first.shape, first.dtype)]

    def _check_page(self) -> None:
        page = self._page
        kind = int(page.photometric)
        wrong = ""
        if kind not in (0, 1, 2):
            wrong = f"{_NAMES.get(kind, f'colors of a rare kind ({kind})')}; save it as RGB"
        elif page.dtype is None or int(page.bitspersample) not in (8, 16, 32, 64):
            wrong = f"its numbers have {page.bitspersample} bits, packed; save it with 8 or 16 bits"
        elif kind == 0 and page.dtype not in (np.uint8, np.uint16):
            wrong = f"white is zero, in numbers of type {page.dtype}; save it with 8 bits"
        elif min(*page.chunks, *self.size) < 1 or page.samplesperpixel < 1:
            wrong = "damaged: its header gives sides of 0 pixels; replace the file"
        elif int(page.imagedepth) != 1:
            wrong = "a volume; save its slices one by one"
        elif page.tags.get(274) is not None and int(page.tags[274].value) != 1:
            wrong = "is turned by its Orientation tag; save it upright"
        if wrong:
            raise DatasetError(f"{self._name}: {wrong}")
        if int(page.compression) not in _PLAIN and importlib.util.find_spec("imagecodecs") is None:
            raise ImportError(
                f"{self._name}: is compressed by {page.compression.name}, which imagecodecs decodes: "
                "pip install 'fullyconv[geo]', or save it with deflate"
            )

    def _check_bands(self) -> None:
        """See that the file has the bands that are wanted; the first page stands for colors, all pages for bands."""
        samples = int(self._page.samplesperpixel)
        if self._channels in (1, 3) and samples in (1, 2, 3, 4):
            if len(self._pages) == 1:
                return
            raise DatasetError(f"{self._name}: holds {len(self._pages)} images; save the one that is meant")
        if samples == 1 and len(self._pages) == self._channels:
            return
        if samples == self._channels:
            self._pages = self._pages[:1]
            return
        pages = [len(self._pages)] if len(self._pages) > 1 else []
        shape = " x ".join(map(str, [*pages, *self._page.shape]))
        raise DatasetError(
            f"{self._name}: has the shape {shape}, and in_channels={self._channels} is given; give the number of "
            "bands, in_channels= (--in-channels), that the files have, the same in all of them"
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self._page.imagelength), int(self._page.imagewidth)

    @property
    def note(self) -> str | None:
        """What a person should know of the values that were read so far."""
        deep = self._page.dtype == np.uint16 and self._range is None
        return faint(np.array([self._lightest]), self._name) if deep else None

    @property
    def nodata(self) -> float | None:
        """The number that GDAL's tag says is no data; None where it says nothing."""
        tag = self._page.tags.get(NODATA)
        return None if tag is None else nodata_in(tag.value)

    @cached_property
    def place(self) -> Georeference | None:
        """Where on the earth it lies."""
        return georeference_of(self.path)

    @property
    def has_void(self) -> bool:
        """Whether some pixels of what lies on the earth may hold no data: by GDAL's tag, or a band of transparency."""
        return self.place is not None and (self.nodata is not None or self._alpha() is not None)

    def has_windows(self) -> bool:
        """Tell whether its parts are small enough to be decoded one by one, and can be decoded."""
        page = self._page
        if self._raw is not None:
            return True
        if math.prod(page.chunks) * page.dtype.itemsize * self._planes * len(self._pages) > _SEGMENT:
            return False
        try:
            self._segment(0, 0)
        except DatasetError:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        if self._raw is not None:
            self._raw.close()
        self._file.close()

    def __enter__(self) -> TiffImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read a window as `read_bands` gives it, (h, w, C).

        Raises:
            DatasetError: if a strip or tile is damaged, or the range of the numbers is not known.
        """
        values = self.values(top, left, bottom, right)
        void = self.nodata
        if void is not None and np.issubdtype(values.dtype, np.floating):
            values = np.where(_equals(values, void), values.dtype.type(0), values)
        pixels = to_bytes(values, self._name, self._range)
        if int(self._page.photometric) == 0:
            pixels = ~pixels
        self._lightest = max(self._lightest, pixels.max(initial=0))
        return self._as_wanted(pixels)

    def _as_wanted(self, pixels: Pixels) -> Pixels:
        bands = pixels.shape[2]
        if bands in (2, 4) and [int(kind) for kind in self._page.extrasamples or ()] == [_MULTIPLIED_IN]:
            size, (multiplied, plain) = pixels.shape[1::-1], {2: ("La", "LA"), 4: ("RGBa", "RGBA")}[bands]
            pixels = np.array(Image.frombytes(multiplied, size, pixels.tobytes()).convert(plain))
        if self._channels not in (1, 3) or bands == self._channels:
            return np.ascontiguousarray(pixels)
        if bands in (1, 2) and self._alpha() is None:
            rgb = repeat(pixels[..., 0])
        elif bands in (2, 4) and self._alpha() == bands - 1:
            rgb = rgb_of(Image.fromarray(np.ascontiguousarray(pixels)), self._name)  # laid on white
        else:
            rgb = pixels[..., :3]
        return np.ascontiguousarray(rgb) if self._channels == 3 else gray_of(rgb)

    def _alpha(self) -> int | None:
        """Give the band of transparency; None where no band is one."""
        extra = [int(kind) for kind in self._page.extrasamples or ()]
        colors = int(self._page.samplesperpixel) - len(extra)
        return next((colors + index for index, kind in enumerate(extra) if kind in (1, 2)), None)

    def void(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.bool_]:
        """Tell which pixels of a window hold no data, (h, w): by the number in all their bands, or by transparency."""
        values, number, alpha = self.values(top, left, bottom, right), self.nodata, self._alpha()
        found = np.zeros(values.shape[:2], np.bool_)
        if number is not None:
            found |= _equals(np.delete(values, alpha, axis=2) if alpha is not None else values, number).all(axis=2)
        if alpha is not None:
            found |= values[..., alpha] == 0
        return found

    def values(self, top: int, left: int, bottom: int, right: int) -> Array:
        """Read a window of the numbers in the file, (h, w, bands).

        Raises:
            DatasetError: if a strip or tile is damaged.
        """
        if self._raw is not None:
            return self._rows(self._raw, top, left, bottom, right)
        page = self._page
        rows, columns = (int(side) for side in page.chunks[:2])
        across, down = -(-self.size[1] // columns), -(-self.size[0] // rows)
        inside = int(page.samplesperpixel) // self._planes
        parts = []
        for number in range(len(self._pages)):
            for plane in range(self._planes):
                out = np.zeros((bottom - top, right - left, inside), page.dtype)
                for row in range(top // rows, -(-bottom // rows)):
                    for column in range(left // columns, -(-right // columns)):
                        segment = self._segment(number, (plane * down + row) * across + column)
                        y, x = row * rows, column * columns
                        a, b = max(top, y), min(bottom, y + segment.shape[0])
                        c, d = max(left, x), min(right, x + segment.shape[1])
                        out[a - top : b - top, c - left : d - left] = segment[a - y : b - y, c - x : d - x]
                parts.append(out)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _rows(self, raw: io.FileIO, top: int, left: int, bottom: int, right: int) -> Array:
        """Read from a file without compression: not through a memory map, whose pages would count as memory in use."""
        page, width = self._page, self.size[1]
        kind = page.dtype.newbyteorder(self._file.byteorder)
        cell = page.samplesperpixel * kind.itemsize
        data = np.empty((bottom - top, (right - left) * cell), np.uint8)
        begin, step = page.dataoffsets[0] + (top * width + left) * cell, width * cell
        for row, part in enumerate(data, top):
            raw.seek(begin)
            begin += step
            if raw.readinto(part) < len(part):
                raise DatasetError(f"{self._name}: damaged: it ends within row {row}; replace the file")
        out: Array = data.view(kind).reshape(bottom - top, right - left, page.samplesperpixel)
        return out.astype(page.dtype, copy=False)

    def _segment(self, number: int, index: int) -> Array:
        """Decode one strip or tile of a page; those used last are kept, because windows overlap."""
        key = number, index
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        page = self._pages[number]
        try:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            decoded, _, shape = page.decode(data, index)
            if decoded is None:  # a part that was left out, which stands for zeros
                decoded = np.zeros(shape, page.dtype)
            segment: Array = decoded.reshape(decoded.shape[-3:])[: shape[-3], : shape[-2]]
        except Exception as error:  # whatever a decoder raises
            raise DatasetError(f"{self._name}: damaged or truncated ({error}); replace the file") from error
        self._kept[key] = segment
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _SEGMENT:
            self._kept.popitem(last=False)
        return segment


def open_windows(source: object, channels: int, value_range: ValueRange | None = None) -> TiffImage | None:
    """Open an image to be read window by window.

    Args:
        source: what an image is predicted from.
        channels: bands that are wanted.
        value_range: as `read_image` takes it.

    Returns:
        The image, to be closed by the caller; None where it has to be read whole: what is no TIFF file, a TIFF of
        another kind, or where tifffile is not installed.
    """
    if not isinstance(source, str | Path) or not Path(source).is_file() or not is_tiff(Path(source)):
        return None
    try:
        image = TiffImage(Path(source), channels, value_range)
    except (ImportError, DatasetError):
        return None
    if image.has_windows():
        return image
    image.close()
    return None


def bound_segments(page: Any, file: Any, path: File) -> None:
    """Refuse strips that unpack to more than they hold: tifffile lets zlib unpack without a bound.

    Raises:
        DatasetError: if there is one, or the compression is none of `COMPRESSIONS`.
    """
    kind = int(page.compression)
    if kind not in COMPRESSIONS:
        raise DatasetError(f"{path}: compressed in a rare way (TIFF {kind}); save it not compressed, or with deflate")
    if kind not in (8, 32946):
        return
    rows, columns, depth = (int(side) for side in (*page.chunks, 1, 1)[:3])
    held = rows * columns * depth * int(page.dtype.itemsize)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count * 1032 <= held + 2**26:  # deflate packs no better than 1032 to 1
            continue
        file.filehandle.seek(offset)
        if len(zlib.decompressobj().decompress(file.filehandle.read(count), held + 2**20)) > held + 2**16:
            raise DatasetError(f"{path}: damaged: a strip unpacks to more than the {held} bytes of its pixels")


def _equals(values: Array, number: float) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = np.isnan(values) if math.isnan(number) else values == number
    return same

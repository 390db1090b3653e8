"""Images that are read window by window: arrays, large TIFF files, and either of them scaled or mirrored."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError
from fullyconv.images import TIFF_COMPRESSIONS, bound_segments, is_tiff

_CHUNK = 2**25  # bytes of an image that are scaled at a time
_SEGMENT = 2**26  # bytes of the largest strip or tile that is decoded for a window; all that are kept take as much

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


class ArrayImage:
    """An image in memory.

    Args:
        pixels: (H, W, C) uint8.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Give a window; it is a view."""
        return self.pixels[top:bottom, left:right]


class Mirrored:
    """An image with left and right exchanged.

    Args:
        image: the image as it is.
    """

    def __init__(self, image: WindowedImage) -> None:
        self.image = image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.size

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
        >>> Continued(ArrayImage(np.array([[[7], [9]]], np.uint8)), (0, 2)).read(0, 0, 1, 6)[0, :, 0].tolist()
        [7, 7, 7, 9, 9, 9]
    """

    def __init__(self, image: WindowedImage, margin: tuple[int, int]) -> None:
        self.image = image
        self.margin = margin

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, with the margins."""
        (height, width), (y, x) = self.image.size, self.margin
        return height + 2 * y, width + 2 * x

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
        >>> Scaled(ArrayImage(np.full((8, 6, 3), 7, np.uint8)), (4, 9)).read(1, 2, 4, 9).shape
        (3, 7, 3)
    """

    def __init__(self, image: WindowedImage, size: tuple[int, int]) -> None:
        self.image = image
        self._size = size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._size

    def read(self, top: int, left: int, bottom: int, right: int) -> Pixels:
        """Read a window of the scaled image, in so many steps that little of the image is in memory at once."""
        height, width = self.image.size
        columns, across = _taps(left, right, width, self._size[1])
        first, last = int(columns.min()), int(columns.max()) + 1
        step = max(1, int(_CHUNK // (last - first) * self._size[0] / height / 16))
        parts = []
        for start in range(top, bottom, step):
            rows, down = _taps(start, min(start + step, bottom), height, self._size[0])
            above, below = int(rows.min()), int(rows.max()) + 1
            source = self.image.read(above, first, below, last)
            scaled = _weigh(_weigh(source, rows - above, down).swapaxes(0, 1), columns - first, across).swapaxes(0, 1)
            parts.append(np.rint(scaled).clip(0, 255).astype(np.uint8))
        return np.concatenate(parts)


class TiffImage:
    """A TIFF file that is read window by window: not compressed, or in strips and tiles that are decoded as needed.

    Args:
        path: the file.
        channels: bands C that are wanted.

    Raises:
        ImportError: if tifffile is not installed.
        DatasetError: if the file is damaged.
    """

    def __init__(self, path: str | Path, channels: int) -> None:
        import tifffile

        self._path = Path(path)
        self._channels = channels
        self._kept: OrderedDict[int, Any] = OrderedDict()
        try:
            self._file = tifffile.TiffFile(self._path)
        except Exception as error:  # TiffFileError, ValueError, struct.error, ...
            raise DatasetError(f"{path}: damaged, or a TIFF of a rare kind ({error}); save it anew") from error
        try:
            page: Any = self._file.pages[0]
            self._page = page
            self._refusal = self._refuse()
            self._plain = not self._refusal and bool(page.is_memmappable)
            # rows of windows are read straight into their place, a hundred thousand of them from a large image
            self._raw = self._path.open("rb", buffering=0) if self._plain else None
        except DatasetError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise DatasetError(f"{path}: damaged, or a TIFF of a rare kind ({error}); save it anew") from error

    @property
    def refusal(self) -> str:
        """Say why the file cannot be read in windows; empty if it can."""
        return self._refusal

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self._page.imagelength), int(self._page.imagewidth)

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
        """Read a window, as `fullyconv.images.read_bands` would give it.

        Raises:
            DatasetError: if a strip or tile is damaged.
        """
        values = self._window(top, left, bottom, right)
        if values.dtype == np.uint16:
            values = values // 257
        pixels: Pixels = values.astype(np.uint8, copy=False)
        if pixels.shape[2] == 1 and self._channels == 3:
            return np.repeat(pixels, 3, axis=2)
        return pixels

    def _window(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        page = self._page
        if self._plain:
            return self._rows(top, left, bottom, right)
        rows, columns = (int(side) for side in page.chunks[:2])
        across = -(-self.size[1] // columns)
        out = np.zeros((bottom - top, right - left, page.samplesperpixel), page.dtype)
        for row in range(top // rows, -(-bottom // rows)):
            for column in range(left // columns, -(-right // columns)):
                segment = self._segment(row * across + column)
                y, x = row * rows, column * columns
                a, b = max(top, y), min(bottom, y + segment.shape[0])
                c, d = max(left, x), min(right, x + segment.shape[1])
                out[a - top : b - top, c - left : d - left] = segment[a - y : b - y, c - x : d - x]
        return out

    def _rows(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        """Read from a file without compression: not through a memory map, whose pages would count as memory in use."""
        page, width = self._page, self.size[1]
        kind = page.dtype.newbyteorder(self._file.byteorder)
        cell = page.samplesperpixel * kind.itemsize
        data = np.empty((bottom - top, (right - left) * cell), np.uint8)
        begin, step, raw = page.dataoffsets[0] + (top * width + left) * cell, width * cell, self._raw
        assert raw is not None
        for row, part in enumerate(data, top):
            raw.seek(begin)
            begin += step
            if raw.readinto(part) < len(part):
                raise DatasetError(f"{self._path}: truncated: it ends within row {row}; replace the file")
        out: npt.NDArray[Any] = data.view(kind).reshape(bottom - top, right - left, page.samplesperpixel)
        return out.astype(page.dtype, copy=False)

    def _segment(self, index: int) -> npt.NDArray[Any]:
        """Decode one strip or tile; those used last are kept, because windows overlap."""
        if index in self._kept:
            self._kept.move_to_end(index)
            found: npt.NDArray[Any] = self._kept[index]
            return found
        page = self._page
        try:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            decoded, _, shape = page.decode(data, index)
            if decoded is None:  # a part that was left out, which stands for zeros
                decoded = np.zeros(shape, page.dtype)
            segment: npt.NDArray[Any] = decoded.reshape(decoded.shape[-3:])[: shape[-3], : shape[-2]]
        except Exception as error:  # whatever a decoder raises
            raise DatasetError(f"{self._path}: damaged or truncated ({error}); replace the file") from error
        self._kept[index] = segment
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _SEGMENT:
            self._kept.popitem(last=False)
        return segment

    def _refuse(self) -> str:
        """Windows are read of the plain kinds only; everything else is left to `read_bands`, which knows them all."""
        page = self._page
        samples, gray = int(page.samplesperpixel), int(page.photometric) == 1
        if len(self._file.pages) != 1 or (samples > 1 and int(page.planarconfig) != 1) or int(page.imagedepth) != 1:
            return "its bands are not side by side on one page"
        if page.dtype not in (np.uint8, np.uint16) or int(page.bitspersample) not in (8, 16):
            return "its numbers are not of 8 or 16 bits"
        if int(page.compression) not in TIFF_COMPRESSIONS:
            return "it is compressed in a rare way"
        if page.tags.get(274) is not None and int(page.tags[274].value) != 1:
            return "it is turned by its Orientation tag"
        # Three bands are colors or gray, with nothing to lay on white. 16 bits of up to four bands side by side, and
        # alpha that is multiplied in, are Pillow's to convert.
        plain = (samples == 1 and gray) or (samples == 3 and int(page.photometric) == 2 and page.dtype == np.uint8)
        if self._channels != 3:
            converted = 1 < samples <= 4 and (page.dtype == np.uint16 or 1 in (page.extrasamples or ()))
            plain = samples == self._channels and int(page.photometric) in (1, 2) and not converted
            plain = plain and (samples > 1 or gray)
        if not plain:
            return f"its bands are not the {self._channels} that are wanted as they are"
        if not page.is_memmappable:
            if math.prod(page.chunks) * page.dtype.itemsize > _SEGMENT:
                return "its strips are too large to be decoded one by one; save it in tiles"
            bound_segments(page, self._file, self._path)
            try:
                self._segment(0)
            except DatasetError:
                return "its compression needs a decoder that is not there, or it is damaged"
        return ""


def open_windows(source: object, channels: int) -> TiffImage | None:
    """Open an image to be read window by window.

    Args:
        source: what an image is predicted from.
        channels: bands that are wanted.

    Returns:
        The image, to be closed by the caller; None where it has to be read whole: what is no TIFF file, a TIFF of
        another kind than plain bands of 8 or 16 bits, or where tifffile is not installed.
    """
    if not isinstance(source, str | Path) or not Path(source).is_file() or not is_tiff(Path(source)):
        return None
    try:
        image = TiffImage(source, channels)
    except ImportError:
        return None
    if image.refusal:
        image.close()
        return None
    return image


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

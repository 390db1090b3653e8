"""Write images and masks: all of a file or nothing, masks also band by band."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.errors import near_miss
from fullyconv.files import Unfinished, replacing
from fullyconv.images.finding import EXTENSIONS
from fullyconv.images.pixels import rgb_of
from fullyconv.images.reading import read_image
from fullyconv.labels import VOID_COLOR

Array = npt.NDArray[Any]


def write_mask(path: str | Path, mask: Array, palette: Sequence[Sequence[int]] | None = None) -> Path:
    """Write a mask: all of it or nothing.

    Args:
        path: file to write, ending in `.png`, or as `MaskWriter` takes it; its folder is made if there is none.
        mask: (H, W) integers in 0..65535. Up to 255 the file has 8 bits, beyond 16.
        palette: colors of the values from 0 on; the file is then a palette PNG, which viewers show in color and which
            still holds the values. 255 gets the void color of PASCAL VOC unless the palette reaches that far. A file
            of 16 bits cannot carry a palette and is written without.

    Returns:
        The path.

    Raises:
        ValueError: if the path has another ending, or the mask is not (H, W) integers in 0..65535.

    Example:
        >>> import tempfile
        >>> from fullyconv.images import read_mask
        >>> path = Path(tempfile.mkdtemp()) / "mask.png"
        >>> file = write_mask(path, np.eye(3, dtype=np.uint8), palette=[(0, 0, 0), (255, 0, 0)])
        >>> read_mask(file).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (np.issubdtype(mask.dtype, np.integer) or mask.dtype == np.bool_) or not mask.size:
        raise ValueError(f"mask has shape {mask.shape} and type {mask.dtype}; give (H, W) integers")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 65535:
        raise ValueError(f"mask holds values {low}..{high}; a PNG holds 0..65535")
    kind = np.uint8 if high <= 255 else np.uint16
    with MaskWriter(path, (mask.shape[0], mask.shape[1]), palette, kind) as writer:
        writer.write(mask)
    return Path(path)


def write_image(path: str | Path, image: Image.Image | Array) -> Path:
    """Write an image in the format its name asks for: all of it or nothing.

    Args:
        path: file to write; its folder is made if there is none.
        image: a Pillow image or an array that `read_image` takes.

    Returns:
        The path.

    Raises:
        ValueError: if no format goes with the extension.
    """
    path = Path(path)
    formats = {extension: name for extension, name in Image.registered_extensions().items() if name in Image.SAVE}
    if path.suffix.lower() not in formats:
        near = near_miss(path.suffix, EXTENSIONS)
        raise ValueError(f"path={str(path)!r}: no image format has this extension. {near}")
    name = formats[path.suffix.lower()]
    photo = image if isinstance(image, Image.Image) else Image.fromarray(read_image(image))
    if name == "JPEG" and photo.mode not in ("RGB", "L", "CMYK"):
        photo = Image.fromarray(rgb_of(photo, str(path)))
    with replacing(path) as part, part.open("xb") as file:
        photo.save(file, format=name)
    return path


class MaskWriter:
    """Write a mask band by band, so that it is never in memory as a whole: all of it or nothing.

    A TIFF is not compressed.

    Args:
        path: file to write, ending in `.png`, `.tif` or `.tiff` (with the extra `tiff`); its folder is made if there is
            none.
        size: height and width, in pixels.
        palette: colors of the values from 0 on, or None.
        dtype: uint8 or uint16; 16 bits go without a palette.
        tags: of a TIFF: number, type and values of further tags.

    Raises:
        ValueError: if the name has another ending.
        ImportError: if a TIFF is asked for and tifffile is not installed.

    Example:
        >>> import tempfile
        >>> from fullyconv.images import read_mask
        >>> path = Path(tempfile.mkdtemp()) / "mask.png"
        >>> with MaskWriter(path, (3, 3), [(0, 0, 0), (255, 0, 0)]) as writer:
        ...     writer.write(np.eye(3, dtype=np.uint8)[:2])
        ...     writer.write(np.eye(3, dtype=np.uint8)[2:])
        >>> read_mask(path).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        palette: Sequence[Sequence[int]] | None = None,
        dtype: npt.DTypeLike = np.uint8,
        tags: Sequence[tuple[int, int, tuple[Any, ...]]] = (),
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.dtype = np.dtype(dtype)
        self._row = 0
        if self.path.suffix.lower() not in (".png", ".tif", ".tiff"):
            raise ValueError(f"path={str(path)!r}: a mask is written as PNG or TIFF; end the name in .png or .tif")
        flat = None if palette is None or self.dtype.itemsize > 1 else _flat_palette(palette)
        self._unfinished = Unfinished(self.path)
        self._packer: Any = None
        self._file: io.BufferedWriter | io.BufferedRandom
        if self.path.suffix.lower() == ".png":
            self._file = self._unfinished.path.open("xb")
            # Masks are long runs, and most rows are the ones above: their differences as runs take a fifth of the time
            # of a search for repetitions, and less room.
            self._packer = zlib.compressobj(strategy=zlib.Z_RLE)
            self._above = np.zeros(size[1] * self.dtype.itemsize, np.uint8)
            self._begin_png(flat)
        else:
            self._file = _begin_tiff(self._unfinished.path, self.path, size, self.dtype, flat, tags)

    def _begin_png(self, palette: list[int] | None) -> None:
        height, width = self.size
        bits, kind = 8 * self.dtype.itemsize, 0 if palette is None else 3  # gray, or indices into a palette
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", bytes(palette))

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    def write(self, rows: Array) -> None:
        """Write the next rows.

        Args:
            rows: (h, W) integers that the type holds.

        Raises:
            ValueError: if they are of another width, or too many.
        """
        height, width = self.size
        if rows.ndim != 2 or rows.shape[1] != width or self._row + len(rows) > height:
            raise ValueError(f"rows of shape {rows.shape} at row {self._row}: the mask is {height} x {width} pixels")
        self._row += len(rows)
        with self._unfinished.naming():
            if self._packer is None:
                self._file.write(np.ascontiguousarray(rows, self.dtype.newbyteorder("<")).data)
            elif len(rows):
                data = np.ascontiguousarray(rows, self.dtype.newbyteorder(">")).view(np.uint8)
                filtered = np.empty((len(rows), 1 + data.shape[1]), np.uint8)
                filtered[:, 0] = 2  # each row less the one above
                np.subtract(data[:1], self._above, out=filtered[:1, 1:])
                np.subtract(data[1:], data[:-1], out=filtered[1:, 1:])
                self._above = data[-1].copy()
                self._pack(self._packer.compress(filtered.data))

    def _pack(self, data: bytes) -> None:
        for start in range(0, len(data), 2**24):
            self._chunk(b"IDAT", data[start : start + 2**24])

    def _finish(self) -> None:
        if self._row != self.size[0]:
            raise ValueError(f"{self.path}: {self._row} of {self.size[0]} rows were written; write all of them")
        if self._packer is not None:
            self._pack(self._packer.flush())
            self._chunk(b"IEND", b"")

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in place, or leave nothing behind where it is not finished.

        Raises:
            ValueError: if rows are missing.
        """
        try:
            with self._unfinished.naming(), self._file:
                if kind is None:
                    self._finish()
            if kind is None:
                self._unfinished.keep()
        finally:
            self._unfinished.discard()


def _begin_tiff(
    part: Path,
    path: Path,
    size: tuple[int, int],
    dtype: np.dtype[Any],
    palette: list[int] | None,
    tags: Sequence[tuple[int, int, tuple[Any, ...]]],
) -> io.BufferedRandom:
    """Make a TIFF file of zeros, not compressed, and open it where its pixels begin."""
    try:
        import tifffile
    except ImportError as error:
        what = "a TIFF is written by tifffile: pip install 'fullyconv[tiff]', or name a .png"
        raise ImportError(f"{path}: {what}") from error
    kind: dict[str, Any] = {"photometric": "minisblack"}
    if palette is not None:  # TIFF has 16 bits a color
        kind = {"photometric": "palette", "colormap": (np.array(palette, np.uint16).reshape(256, 3) * 257).T}
    texts = [(tag, kind, 0, values[0], True) for tag, kind, values in tags if kind == 2]
    numbers = [(tag, kind, len(values), values, True) for tag, kind, values in tags if kind != 2]
    kind["extratags"] = [*texts, *numbers]
    tifffile.imwrite(part, None, shape=size, dtype=dtype, byteorder="<", **kind)
    with tifffile.TiffFile(part) as made:
        page: Any = made.pages[0]
        offset = int(page.dataoffsets[0])
    file = part.open("r+b")
    file.seek(offset)
    return file


def _flat_palette(palette: Sequence[Sequence[int]]) -> list[int]:
    colors = [tuple(int(c) for c in color) for color in palette]
    if wrong := [color for color in colors if len(color) != 3 or not all(0 <= c <= 255 for c in color)]:
        raise ValueError(f"palette={wrong[0]!r}: a color is three integers in 0..255 (red, green, blue)")
    if len(colors) > 256:
        raise ValueError(f"palette has {len(colors)} colors; an 8-bit file holds 256")
    full = colors + [(0, 0, 0)] * (256 - len(colors))
    if len(colors) <= 255:
        full[255] = VOID_COLOR
    return [c for color in full for c in color]

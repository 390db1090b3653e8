"""Read and write images and masks: EXIF, palettes, 16 bits, bounded sizes, nothing half-written.

Images and masks are read differently on purpose. An image is colors: palettes are expanded, alpha is laid on
white, the orientation of the camera is applied. A mask is numbers: a palette index stays an index, and whatever would
change the numbers (JPEG, colors, scaled gray levels) is refused rather than guessed.
"""

from __future__ import annotations

import glob
import io
import math
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fullyconv.errors import DatasetError, near_miss
from fullyconv.files import Unfinished, replacing
from fullyconv.labels import VOID_COLOR

MAX_PIXELS = 89_478_485
"""Pixels an image may have unless told otherwise, about 9459 x 9459: the bound at which Pillow begins to warn."""

MAX_BYTES = 2**32
"""Bytes that are read of an open file, whose size nobody knows before."""

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as an image or a mask in a folder, whatever the case of its letters."""

MASK_EXTENSIONS = (*EXTENSIONS, ".mat", ".seg")
"""What counts as a mask: images, MATLAB files, and the run lengths of the Berkeley segmentation data set."""

_ORIENTATION = 0x0112  # EXIF tag
_PILLOW_BOUND = threading.Lock()
TIFF_COMPRESSIONS = (1, 5, 8, 32773, 32946)
"""Ways that TIFF files are compressed in and read here: none, LZW, deflate, PackBits, deflate by its old number."""


Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """Hold an image file that lies inside another file: its bytes, and a name for messages.

    Args:
        name: what messages call it.
        data: the bytes of the file.
    """

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


ImageInput = str | Path | Image.Image | Array | Encoded | bytes | bytearray | memoryview | IO[bytes]
"""What an image is read from."""


def read_image(source: ImageInput, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB.

    EXIF orientation is applied. Gray is repeated, palettes are expanded, alpha is laid on white. 16-bit gray keeps its
    full range (value / 257), so that a value means the same in every image of a set.

    Args:
        source: a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or
            floats in 0..1; or the bytes of a file, also opened ("rb") or of a pipe.
        max_pixels: images of more pixels are refused before they are decoded.

    Returns:
        (H, W, 3) uint8, writable, in RGB order.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged or truncated, or is too large; the message names it.
        ValueError: if an array has another shape, type or range.

    Example:
        >>> read_image(np.zeros((4, 6), dtype=np.uint8)).shape
        (4, 6, 3)
    """
    if isinstance(source, np.ndarray):
        _bound(source.shape[:2], max_pixels, "source")
        return _rgb_from_array(source)
    if isinstance(source, Image.Image):
        _bound(source.size[::-1], max_pixels, "source")
        return _rgb_from_pillow(_upright(_loaded(source)), "source")
    path = _as_path(source)
    with _opened(path, max_pixels) as image:
        return _rgb_from_pillow(_upright(image), str(path))


def read_colors(path: str | Path | Encoded, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a mask that holds colors, as 8-bit RGB: what `read_image` gives, but alpha is dropped.

    A mask means what is stored; laid on white, its transparent pixels would be of another color than the file holds.

    Args:
        path: the file, or its bytes.
        max_pixels: masks of more pixels are refused before they are decoded.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged or truncated, or is too large; the message names it.
    """
    with _opened(_as_path(path), max_pixels) as image:
        image = _upright(image)
        if image.mode == "LA":
            return _repeat(np.array(image)[..., 0])
        if image.mode in ("RGBA", "PA"):
            return np.array(image.convert("RGBA"))[..., :3].copy()
        if "transparency" in image.info:
            image.load()  # decoders may add to it
            del image.info["transparency"]
        return _rgb_from_pillow(image, str(path))


def read_bands(source: ImageInput, channels: int, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read an image with any number of bands, as 8 bits each.

    Three bands are what `read_image` gives, whatever the file holds. One band is the gray level of that (0.299 R +
    0.587 G + 0.114 B). Any other number has to be that of the file: alpha is then a band, and not laid on white. What
    Pillow cannot read of TIFF, more than four bands or a page for each, tifffile does (extra `tiff`). 16 bits are
    divided by 257, floats in 0..1 multiplied by 255.

    Args:
        source: a file, the bytes of one, a Pillow image, or an array (H, W) or (H, W, C).
        channels: number of bands C that are wanted, at least 1.
        max_pixels: images of more pixels are refused before they are decoded.

    Returns:
        (H, W, C) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is damaged, too large, or has another number of bands; the message names it.
        ImportError: if tifffile is needed and not installed.
        ValueError: if an array has another number of bands, another type or range.

    Example:
        >>> read_bands(np.zeros((4, 6, 5), dtype=np.uint8), 5).shape
        (4, 6, 5)
    """
    if channels == 3:
        return read_image(source, max_pixels=max_pixels)
    if isinstance(source, np.ndarray):
        _bound(source.shape[:2], max_pixels, "source")
        return _bands_of_array(source, channels)
    if isinstance(source, Image.Image):
        _bound(source.size[::-1], max_pixels, "source")
        return _bands_of_pillow(_loaded(source), channels, "source")
    path = _as_path(source)
    if not _by_tifffile(path, channels, max_pixels):
        with _opened(path, max_pixels) as image:
            return _bands_of_pillow(image, channels, str(path))
    return _bands_of_tiff(path, channels, max_pixels)


def visible(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give what people can look at of an image with any number of bands: the first three, or else the first as gray.

    Args:
        pixels: (H, W, C).

    Returns:
        (H, W, 3).
    """
    return pixels[..., :3] if pixels.shape[2] >= 3 else _repeat(pixels[..., 0])


def image_size(path: str | Path | Encoded) -> tuple[int, int]:
    """Read height and width of an image from its header, as `read_image` would give them (EXIF orientation applied).

    Args:
        path: the file.

    Returns:
        Height and width in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image.
    """
    with _opened(_as_path(path), None) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def bands_size(path: str | Path | Encoded, channels: int) -> tuple[int, int]:
    """Give height and width of an image in pixels as `read_bands` would, without decoding it.

    Args:
        path: the file.
        channels: number of bands that are wanted.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, or its header tells of another number of bands.
    """
    if channels == 3:
        return image_size(path)
    file = _as_path(path)
    if _by_tifffile(file, channels, None):
        with _tiff(file) as tiff:
            return _shape_of_tiff(tiff, file, channels)[1:]
    with _opened(file, None) as image:
        _check_bands(image, channels, str(file))
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def may_be_cut(path: str | Path | Encoded) -> bool:
    """Tell whether a JPEG has lost its end, without decoding it: nothing marks an end in its last 64 KiB.

    A header says nothing of it, so that such an image would stop a training in the middle of an epoch.

    Args:
        path: the file; False for every other format, and for files that cannot be opened.
    """
    if isinstance(path, Encoded):
        return path.data[:2] == b"\xff\xd8" and b"\xff\xd9" not in path.data[-65536:]
    try:
        with Path(path).open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return False
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return b"\xff\xd9" not in file.read()
    except OSError:
        return False


def exif_orientation(path: str | Path | Encoded) -> int:
    """Read the EXIF orientation of an image: 1 is upright, 2..8 are turned or mirrored."""
    with _opened(_as_path(path), None) as image:
        return _orientation(image)


def lossy_format(path: str | Path | Encoded) -> str:
    """Tell by its bytes whether the compression of a file changes its values, whatever it is called.

    Returns:
        "JPEG" or "lossy WebP"; empty for other files.
    """
    file = _as_path(path)
    head = _head(file, 12)
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "lossy WebP" if head[:4] == b"RIFF" and head[8:] == b"WEBP" and _has_vp8(file) else ""


def _has_vp8(path: Path | Encoded) -> bool:
    """Go through the chunks of a WebP file, and of its frames, for one of the lossy kind."""
    with io.BytesIO(path.data) if isinstance(path, Encoded) else path.open("rb") as file:
        file.seek(12)
        for _ in range(4096):  # no image has as many
            chunk = file.read(8)
            if len(chunk) < 8 or chunk[:4] in (b"VP8 ", b"VP8L"):
                return chunk[:4] == b"VP8 "
            size = int.from_bytes(chunk[4:], "little")
            file.seek(16 if chunk[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return True


def mask_mode(path: str | Path | Encoded) -> str:
    """Tell from the header what kind of numbers a mask file holds.

    Args:
        path: the file.

    Returns:
        "1" (one bit), "L" (8 bits), "P" (palette), "I" (16 or 32 bits), "F" (floating point), "RGB" (colors), or
        "mat" and "seg" for the text and MATLAB files that are no images.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image.
    """
    suffix = "" if isinstance(path, Encoded) else Path(path).suffix.lower()
    if suffix in (".mat", ".seg"):
        return suffix[1:]
    with _opened(_as_path(path), None) as image:
        mode = image.mode
    if mode in ("1", "L", "P", "F"):
        return mode
    return "I" if mode.startswith("I") else "RGB"


def read_mask(path: str | Path | Encoded, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Read the label values of a mask exactly as they stand in the file.

    Palette files (mode P) give their indices, never their colors. 1-bit files give 0 and 1; gray files of 2 and 4 bits
    give 0..3 and 0..15, not the scaled levels that a viewer shows. The mask's own EXIF orientation is applied, if it
    has one.

    Args:
        path: PNG, TIFF, BMP or GIF with one channel.
        max_pixels: masks of more pixels are refused before they are decoded.

    Returns:
        (H, W) integers: uint8, uint16 or int32 as in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged, is a JPEG or lossy WebP (which change label values)
            or holds colors.
    """
    with _opened(_as_path(path), max_pixels) as image:
        kind = image.format if image.format in ("JPEG", "MPO", "JPEG2000") else lossy_format(path)
        if kind:
            raise DatasetError(
                f"{path}: a {kind} mask; lossy compression changes label values near every border. "
                "Export the masks as PNG with one value a class, or give the values that are meant (values=), to which "
                "every pixel is then snapped"
            )
        if image.mode not in ("1", "L", "P", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"):
            raise DatasetError(
                f"{path}: a mask of mode {image.mode} holds colors, and which color is which class is not known. "
                "Save the masks as PNG with one value a class (index or palette)"
            )
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise DatasetError(f"{path}: holds {frames} images; a mask is one. Save the one that is meant as PNG")
        if image.format == "TIFF" and image.mode in ("1", "L") and _tiff_tag(image, 262) == 0:
            raise DatasetError(
                f"{path}: a TIFF mask stored white-is-zero, which is read with inverted values. "
                "Save the masks as PNG with one value a class"
            )
        bits = _gray_bits(image, _as_path(path))
        mask = np.array(_upright(image))
        if image.mode == "F":
            if not (np.abs(mask) < 2**24).all() or (mask != np.rint(mask)).any():  # NaN is neither
                raise DatasetError(
                    f"{path}: a mask of mode F holds floating point numbers, and labels are whole ones. "
                    "Save the masks as PNG with one value a class (index or palette)"
                )
            mask = mask.astype(np.int32)
        if mask.dtype == np.bool_:
            return mask.astype(np.uint8)
        if mask.ndim != 2:
            raise DatasetError(f"{path}: a mask has one channel, this has shape {mask.shape}; save it as index PNG")
        if bits in (2, 4):  # Pillow stretches 0..3 and 0..15 to 0..255
            return mask // np.uint8(255 // (2**bits - 1))
        if mask.dtype.byteorder == ">":
            mask = mask.astype(mask.dtype.newbyteorder("="))
        if mask.dtype == np.int32 and mask.size and int(mask.min()) >= 0 and int(mask.max()) <= 65535:
            mask = mask.astype(np.uint16)
        return mask


def write_mask(path: str | Path, mask: Array, palette: Sequence[Sequence[int]] | None = None) -> Path:
    """Write a mask as PNG: all of it or nothing.

    Args:
        path: file to write, ending in `.png`; its folder is made if there is none.
        mask: (H, W) integers in 0..65535. Up to 255 the file has 8 bits, beyond 16.
        palette: colors of the values from 0 on; the file is then a palette PNG, which viewers show in color and which
            still holds the values. 255 gets the void color of PASCAL VOC unless the palette reaches that far. A file
            of 16 bits cannot carry a palette and is written without.

    Returns:
        The path.

    Raises:
        ValueError: if the path does not end in `.png`, or the mask is not (H, W) integers in 0..65535.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mask.png"
        >>> file = write_mask(path, np.eye(3, dtype=np.uint8), palette=[(0, 0, 0), (255, 0, 0)])
        >>> read_mask(file).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path={str(path)!r}: masks are written as PNG, which keeps every value; end the name in .png")
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (np.issubdtype(mask.dtype, np.integer) or mask.dtype == np.bool_) or not mask.size:
        raise ValueError(f"mask has shape {mask.shape} and type {mask.dtype}; give (H, W) integers")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 65535:
        raise ValueError(f"mask holds values {low}..{high}; a PNG holds 0..65535")
    if high > 255:
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask.astype(np.uint8))
        if palette is not None:
            image.putpalette(_flat_palette(palette))
    return _save(path, image, "PNG", compress_type=zlib.Z_RLE)  # a mask is long runs: a quarter of the time


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
        raise ValueError(
            f"path={str(path)!r}: no image format has this extension. {near_miss(path.suffix, EXTENSIONS)}"
        )
    name = formats[path.suffix.lower()]
    photo = image if isinstance(image, Image.Image) else Image.fromarray(read_image(image))
    if name == "JPEG" and photo.mode not in ("RGB", "L", "CMYK"):
        photo = Image.fromarray(_rgb_from_pillow(photo, str(path)))
    return _save(path, photo, name)


class MaskWriter:
    """Write a mask band by band, so that it is never in memory as a whole: all of it or nothing.

    What is in the file is what `write_mask` writes. A TIFF is not compressed.

    Args:
        path: file to write, ending in `.png`, `.tif` or `.tiff` (with the extra `tiff`); its folder is made if there is
            none.
        size: height and width, in pixels.
        palette: colors of the values from 0 on, or None.
        dtype: uint8 or uint16; 16 bits go without a palette.

    Raises:
        ValueError: if the name has another ending.
        ImportError: if a TIFF is asked for and tifffile is not installed.

    Example:
        >>> import tempfile
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
        self._file: io.BufferedWriter | io.BufferedRandom | None = None
        if self.path.suffix.lower() == ".png":
            self._file = self._unfinished.path.open("xb")
            # Masks are long runs, and most rows are the ones above: their differences as runs take a fifth of the time
            # of a search for repetitions, and less room.
            self._packer = zlib.compressobj(strategy=zlib.Z_RLE)
            self._above = np.zeros(size[1] * self.dtype.itemsize, np.uint8)
            self._begin_png(flat)
        else:
            self._file = _begin_tiff(self._unfinished.path, self.path, size, self.dtype, flat)

    def _begin_png(self, palette: list[int] | None) -> None:
        height, width = self.size
        bits, kind = 8 * self.dtype.itemsize, 0 if palette is None else 3  # gray, or indices into a palette
        assert self._file is not None
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", bytes(palette))

    def _chunk(self, name: bytes, data: bytes) -> None:
        assert self._file is not None
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
        assert self._file is not None
        with self._unfinished.naming():
            self._write(self._file, rows)
        self._row += len(rows)

    def _write(self, file: io.BufferedWriter | io.BufferedRandom, rows: Array) -> None:
        if self._packer is None:
            file.write(np.ascontiguousarray(rows, self.dtype.newbyteorder("<")).data)
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

    def close(self) -> None:
        """Finish the file and put it in place.

        Raises:
            ValueError: if rows are missing; nothing is left behind then.
        """
        try:
            if self._row != self.size[0]:
                raise ValueError(f"{self.path}: {self._row} of {self.size[0]} rows were written; write all of them")
            with self._unfinished.naming():
                if self._packer is not None:
                    self._pack(self._packer.flush())
                    self._chunk(b"IEND", b"")
                self._release()
            self._unfinished.keep()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind of a file that is not finished."""
        try:
            self._release()
        finally:
            self._unfinished.discard()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _begin_tiff(
    part: Path, path: Path, size: tuple[int, int], dtype: np.dtype[Any], palette: list[int] | None
) -> io.BufferedRandom:
    """Make a TIFF file of zeros, not compressed, and open it where its pixels begin."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f"{path}: a TIFF is written by tifffile: pip install 'fullyconv[tiff]', or name a .png"
        ) from error
    kind: dict[str, Any] = {"photometric": "minisblack"}
    if palette is not None:  # TIFF has 16 bits a color
        kind = {"photometric": "palette", "colormap": (np.array(palette, np.uint16).reshape(256, 3) * 257).T}
    tifffile.imwrite(part, None, shape=size, dtype=dtype, byteorder="<", **kind)
    with tifffile.TiffFile(part) as made:
        page: Any = made.pages[0]
        offset = int(page.dataoffsets[0])
    file = part.open("r+b")
    file.seek(offset)
    return file


def find_images(source: str | Path, *, recursive: bool = False, extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """List the images of a folder, a file or a pattern, sorted by name.

    Args:
        source: a folder, one file, or a pattern with `*`, `?`, `[...]`; `**` goes through sub-folders.
        recursive: of a folder, list the images of its sub-folders too.
        extensions: what counts as one, in small letters.

    Returns:
        At least one path, sorted.

    Raises:
        FileNotFoundError: if there is nothing, or no image in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [entry for entry in (path.rglob("*") if recursive else path.iterdir()) if _is_image(entry, extensions)]
        where = f"no image in the folder {path}"
    elif any(sign in str(source) for sign in "*?["):
        found = [Path(name) for name in glob.glob(str(source), recursive=True) if _is_image(Path(name), extensions)]
        where = f"no image matches {source}"
    else:
        found = []
        refuse_address(source)
        where = f"{source}: no such file or folder"
    if not found:
        raise FileNotFoundError(f"{where}; give a file, a folder or a pattern of {', '.join(extensions)} files")
    return sorted(found)


def _is_image(path: Path, extensions: Sequence[str]) -> bool:
    return path.suffix.lower() in extensions and not path.name.startswith(".") and path.is_file()


def refuse_address(source: str | Path) -> None:
    """Refuse what is no path and is not meant to be one: addresses and cameras.

    Args:
        source: what was given where an image is expected.

    Raises:
        ValueError: if it is an address, or the number of a camera, and no file is called so.
    """
    if Path(source).exists():
        return
    if "://" in str(source):
        raise ValueError(f"{source}: is an address, and images are read from files alone; download it first")
    if str(source).isdecimal():
        raise ValueError(f"{source}: no file is called so, and cameras are not read; record a video, and give its file")


def encoded_file(file: IO[bytes]) -> Encoded:
    """Read an image file that is open, from where it stands.

    Args:
        file: opened for bytes: a file, a pipe, a buffer in memory.

    Raises:
        ValueError: if it was opened as text.
        DatasetError: if it is larger than any image is.
    """
    name = getattr(file, "name", None)
    data = file.read(MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise ValueError(f"source={file!r}: was opened as text; open it with mode 'rb'")
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{name or 'source'}: more than {MAX_BYTES} bytes; give the path of the file")
    return Encoded(name if isinstance(name, str) else "source", data)


def _as_path(source: str | Path | Encoded | bytes | bytearray | memoryview | IO[bytes]) -> Path | Encoded:
    if isinstance(source, Encoded):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Encoded("source", bytes(source))
    if not isinstance(source, str | Path) and hasattr(source, "read"):
        return encoded_file(source)
    try:
        path = Path(source)  # type: ignore[arg-type]  # what it is, is for Path to say
    except TypeError:
        raise ValueError(
            f"source={source!r} of type {type(source).__name__}: give a path, a Pillow image, a numpy array or the "
            "bytes of a file"
        ) from None
    refuse_address(str(source))
    if path.is_dir():
        raise DatasetError(
            f"{path}: a folder where an image is expected; fullyconv.images.find_images lists its images"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    if not path.is_file():  # a pipe or a device: reading it might never end
        raise DatasetError(f"{path}: is no regular file; replace it by an image")
    return path


@contextmanager
def _opened(path: Path | Encoded, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open an image and turn everything that Pillow's decoders may raise into one error that names the file."""
    try:
        with _open(path, max_pixels) as image:
            if max_pixels is not None:
                _bound(image.size[::-1], max_pixels, str(path))
            yield image
    except (DatasetError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(_too_large(str(path), str(error), MAX_PIXELS)) from error
    except UnidentifiedImageError as error:
        empty = not path.data if isinstance(path, Encoded) else path.stat().st_size == 0
        what = "an empty file" if empty else "not an image, or its beginning is damaged"
        if not empty and is_tiff(path):
            what = (
                "a TIFF that Pillow cannot read (more than four bands, or a rare compression?); give the number of "
                "bands, in_channels= (--in-channels), if it is not 3"
            )
        raise DatasetError(f"{path}: {what}; replace the file, accepted are {', '.join(EXTENSIONS)}") from error
    except PermissionError as error:
        raise DatasetError(f"{path}: may not be read; change its permissions") from error
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DatasetError(f"{path}: damaged or truncated ({error}); replace the file") from error


def _open(path: Path | Encoded, max_pixels: int | None) -> Image.Image:
    image = _open_any(path, max_pixels)
    if len(image.getbands()) == 1 and _samples(image) > 2:  # it would show the first of many bands, and no word of it
        image.close()
        raise UnidentifiedImageError(f"{path}: more bands than Pillow reads")
    return image


def _open_any(path: Path | Encoded, max_pixels: int | None) -> Image.Image:
    file = io.BytesIO(path.data) if isinstance(path, Encoded) else path
    pillow = Image.MAX_IMAGE_PIXELS
    if max_pixels is None or pillow is None or max_pixels <= pillow:
        return Image.open(file)
    # Pillow has its own bound, one number for the process; whoever asks for more gets it for this one call.
    with _PILLOW_BOUND:
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow


def _bound(size: tuple[int, ...], max_pixels: int, name: str) -> None:
    if math.prod(size) > max_pixels:
        raise DatasetError(_too_large(name, f"{' x '.join(map(str, size))} pixels", max_pixels))


def _too_large(name: str, what: str, max_pixels: int) -> str:
    return (
        f"{name}: too large ({what}), the bound is max_pixels={max_pixels}; give a larger max_pixels or a smaller file"
    )


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # Pillow's own, and what its decoders raise
        raise DatasetError(
            f"source: a Pillow image that cannot be read ({type(error).__name__}: {str(error)[:200]}); open it again, "
            "and close it after"
        ) from error
    return image


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _rgb_from_pillow(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB":
        return np.array(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        gray = np.array(image)
        if gray.size and (int(gray.min()) < 0 or int(gray.max()) > 65535):
            raise DatasetError(f"{name}: an image of 32 bits with values beyond 0..65535; save it with 8 or 16 bits")
        return _repeat((gray // 257).astype(np.uint8))
    if image.mode == "F":
        raise DatasetError(f"{name}: an image of floating point numbers, of unknown range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _rgb_from_array(array: Array) -> npt.NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        moved = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; move the channels last with array.transpose(1, 2, 0)" if moved else ""
        raise ValueError(f"source has shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"source holds floats in {low:g}..{high:g}: floats are 0..1; divide by 255 or give uint8")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"source has type {array.dtype}: give uint8, uint16, bool or floats in 0..1")
    if array.ndim == 2 or array.shape[2] == 1:
        return _repeat(array.reshape(array.shape[:2]))
    if array.shape[2] == 4:
        return _rgb_from_pillow(Image.fromarray(np.ascontiguousarray(array)), "source")
    return np.array(array, order="C")


def _repeat(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)


def _head(path: Path | Encoded, size: int) -> bytes:
    if isinstance(path, Encoded):
        return path.data[:size]
    with path.open("rb") as file:
        return file.read(size)


def is_tiff(path: Path | Encoded) -> bool:
    """Tell by its first bytes whether a file is a TIFF."""
    return _head(path, 4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _by_tifffile(path: Path | Encoded, channels: int, max_pixels: int | None) -> bool:
    """Tell whether a file is a TIFF whose bands Pillow would not give: too many, or on pages."""
    if not is_tiff(path):
        return False
    try:
        with _open(path, max_pixels) as image:
            pages = int(getattr(image, "n_frames", 1))
            return pages > 1 or (channels > 1 and _samples(image) > len(image.getbands()))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False  # which it says itself
    except Exception:  # whatever it raises for a file that it does not know
        return True


def _bands_of_array(array: Array, channels: int) -> npt.NDArray[np.uint8]:
    if channels == 1 and array.ndim in (2, 3) and (array.ndim == 2 or array.shape[2] in (1, 3)):
        return _gray_of(_rgb_from_array(array))
    if array.ndim != 3 or array.shape[2] != channels or not array.size:
        raise ValueError(f"source has shape {array.shape}: give (H, W, {channels}), the bands that the model wants")
    return np.concatenate([_rgb_from_array(array[..., band])[..., :1] for band in range(channels)], axis=2)


def _bands_of_pillow(image: Image.Image, channels: int, name: str) -> npt.NDArray[np.uint8]:
    image = _upright(image)
    if channels == 1:
        return _gray_of(_rgb_from_pillow(image, name))
    _check_bands(image, channels, name)
    kept = len(image.getbands()) == channels and image.mode != "RGBa"
    return np.array(image if kept else image.convert("RGBA"))


def _check_bands(image: Image.Image, channels: int, name: str) -> None:
    if channels == 1 or (channels == 4 and (image.mode in ("PA", "RGBa") or "transparency" in image.info)):
        return
    if image.mode in ("P", "CMYK", "LAB", "HSV", "YCbCr") or len(image.getbands()) != channels:
        own = len(_rgb_bands(image))
        raise DatasetError(
            f"{name}: has {own} {'band' if own == 1 else 'bands'} (mode {image.mode}), and in_channels={channels} is "
            "given; give the number that the files have, the same in all of them, or 3 to read them as RGB, 1 as gray"
        )


def _rgb_bands(image: Image.Image) -> tuple[str, ...]:
    """Name the bands of an image after its colors are RGB."""
    return ("R", "G", "B") if image.mode in ("P", "CMYK", "LAB", "HSV", "YCbCr") else image.getbands()


def _gray_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Make (H, W, 3) gray, (H, W, 1); what is gray already keeps its very numbers."""
    if not (rgb != rgb[..., :1]).any():
        return rgb[..., :1].copy()
    return np.array(Image.fromarray(rgb).convert("L"))[..., None]


@contextmanager
def _tiff(path: Path | Encoded) -> Iterator[Any]:
    """Open a TIFF file with tifffile, and turn everything that it may raise into one error that names the file."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f"{path}: TIFF files of many bands need tifffile: pip install 'fullyconv[tiff]'") from error
    try:
        with tifffile.TiffFile(io.BytesIO(path.data) if isinstance(path, Encoded) else path) as file:
            yield file
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # TiffFileError, ValueError, struct.error, KeyError of a codec that is not there, ...
        raise DatasetError(
            f"{path}: damaged, or a TIFF of a rare kind ({error}); save it anew, not compressed or with deflate"
        ) from error


def _shape_of_tiff(file: Any, path: Path | Encoded, channels: int) -> tuple[int, int, int]:
    """Find the axis that holds the bands, and give it with height and width, before anything is decoded."""
    shape = tuple(int(side) for side in file.series[0].shape)
    sides = (*shape, 1) if len(shape) == 2 else shape
    axes = [axis for axis in (2, 0) if len(sides) == 3 and sides[axis] == channels]
    if not axes:
        shown = " x ".join(map(str, shape))
        raise DatasetError(
            f"{path}: has the shape {shown}, and in_channels={channels} is given; give the number of bands that the "
            "files have, the same in all of them"
        )
    height, width = (sides[0], sides[1]) if axes[0] == 2 else (sides[1], sides[2])
    return axes[0], height, width


def _bands_of_tiff(path: Path | Encoded, channels: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    with _tiff(path) as file:
        axis, height, width = _shape_of_tiff(file, path, channels)
        _bound((height, width), max_pixels, str(path))
        for page in file.series[0].pages:
            bound_segments(page, file, path)
            if page.tags.get(274) is not None and int(page.tags[274].value) != 1:
                raise DatasetError(f"{path}: many bands, and turned by its Orientation tag; save it upright")
        array = file.series[0].asarray()
    array = np.moveaxis(array[..., None] if array.ndim == 2 else array, axis, 2)
    if array.dtype == np.uint16:
        array = array // 257
    elif np.issubdtype(array.dtype, np.floating):
        if not (float(array.min()) >= 0.0 and float(array.max()) <= 1.0):
            raise DatasetError(f"{path}: floating point numbers beyond 0..1, of unknown range; save 8 or 16 bits")
        array = np.rint(array * 255)
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise DatasetError(f"{path}: numbers of type {array.dtype}, of unknown range; save 8 or 16 bits")
    return np.ascontiguousarray(array.astype(np.uint8))


def bound_segments(page: Any, file: Any, path: Path | Encoded) -> None:
    """Refuse strips that unpack to more than they hold: tifffile lets zlib unpack without a bound."""
    kind = int(page.compression)
    if kind not in TIFF_COMPRESSIONS:
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


def _gray_bits(image: Image.Image, path: Path | Encoded) -> int | None:
    """Bits of a gray pixel in the file, where Pillow does not say: it shows 2 and 4 bits stretched to 8."""
    if image.mode != "L":
        return None
    if image.format == "PNG":
        header = _head(path, 25)  # signature (8), length and name of IHDR (8), width, height (8), bit depth (1)
        return header[24]
    if image.format == "TIFF":
        bits = _tiff_tag(image, 258)
        return int(bits[0] if isinstance(bits, tuple) else bits) if bits else None
    return None


def _samples(image: Image.Image) -> int:
    """Give the bands that a TIFF file says it has; 0 for other files."""
    samples = _tiff_tag(image, 277) if image.format == "TIFF" else 0
    return samples if isinstance(samples, int) else 0


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    tags = getattr(image, "tag_v2", {})
    return tags.get(tag)


def _flat_palette(palette: Sequence[Sequence[int]]) -> list[int]:
    colors = [tuple(int(c) for c in color) for color in palette]
    for color in colors:
        if len(color) != 3 or not all(0 <= c <= 255 for c in color):
            raise ValueError(f"palette={color!r}: a color is three integers in 0..255 (red, green, blue)")
    if len(colors) > 256:
        raise ValueError(f"palette has {len(colors)} colors; an 8-bit file holds 256")
    full = colors + [(0, 0, 0)] * (256 - len(colors))
    if len(colors) <= 255:
        full[255] = VOID_COLOR
    return [c for color in full for c in color]


def _save(path: Path, image: Image.Image, name: str, **options: Any) -> Path:
    with replacing(path) as part, part.open("xb") as file:
        image.save(file, format=name, **options)
    return path

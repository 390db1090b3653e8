"""Open an image file: its first bytes decide the format, its size is bounded, its errors name the file.

Only the formats of `FORMATS` are opened, whatever a file is called: other decoders of Pillow run programs (EPS), or
read what nobody expects of an image.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fullyconv.errors import DatasetError, near_path
from fullyconv.images.finding import EXTENSIONS, refuse_address

MAX_PIXELS = 89_478_485
"""Pixels an image may have unless told otherwise, about 9459 x 9459: the bound at which Pillow begins to warn."""

MAX_BYTES = 2**32
"""Bytes that are read of an open file, whose size nobody knows before."""

FORMATS = {
    "JPEG": ("JpegImagePlugin", rb"\xff\xd8\xff"),
    "PNG": ("PngImagePlugin", rb"\x89PNG\r\n\x1a\n"),
    "TIFF": ("TiffImagePlugin", rb"II[*+]\0|MM\0[*+]"),
    "WEBP": ("WebPImagePlugin", rb"RIFF....WEBP"),
    "AVIF": ("AvifImagePlugin", rb"....ftyp(avi[fs]|m[is]f1.{4,60}?avi[fs])"),
    "JPEG2000": ("Jpeg2KImagePlugin", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
    "BMP": ("BmpImagePlugin", rb"BM"),
    "GIF": ("GifImagePlugin", rb"GIF8[79]a"),
    "PPM": ("PpmImagePlugin", rb"P[1-6f]\s"),
}
"""Name of a format -> Pillow's plugin, and how its files begin."""

_OTHERS = {
    "HEIC": rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "DICOM": rb".{128}DICM",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)",
    "NumPy's NPY": rb"\x93NUMPY",
    "a web page": rb"\s*(<!doctype html|<html)",
    "a git-lfs pointer": rb"version https://git-lfs",
    "a video": rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ",
    "a ZIP archive": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
}
_CONVERTED = rb"\x89PNG(\n\x1a\n|\r\r\n\x1a\r\n|\r\x1a\r)"
_REMEDIES = {
    "a web page": "download the image itself",
    "a git-lfs pointer": "fetch the image with git lfs pull",
    "a video": "give it a name that ends in .mp4, .mkv, .mov, .avi or .webm",
    "a ZIP archive": "unpack it",
    "a gzip archive": "unpack it",
    "NumPy's NPY": "pass the array from numpy.load in Python, or save it as PNG",
}
_PILLOW_BOUND = threading.Lock()


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


File = Path | Encoded
ImageInput = str | Path | Image.Image | npt.NDArray[Any] | Encoded | bytes | bytearray | memoryview | IO[bytes]
"""What an image is read from."""


def as_file(source: str | Path | Encoded | bytes | bytearray | memoryview | IO[bytes]) -> File:
    """Give the path or the bytes of what an image is read from.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is a folder or a device.
        ValueError: if it is an address, or nothing that an image is read from.
    """
    if isinstance(source, Encoded):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Encoded("source", bytes(source))
    if not isinstance(source, str | Path):
        if hasattr(source, "read"):
            return _read(source)
        kinds = "a path, a Pillow image, a numpy array or the bytes of a file"
        raise ValueError(f"source={source!r} of type {type(source).__name__}: give {kinds}")
    path = Path(source)
    refuse_address(source)
    if path.is_dir():
        raise DatasetError(f"{path}: a folder where an image is expected; images.find_images lists its images")
    if not path.exists():
        if path.is_symlink():
            raise DatasetError(f"{path}: a link to {path.readlink()}, which is not there; get it, or mend the link")
        raise FileNotFoundError(f"{path}: no such file; check the name{near_path(path)}")
    if not path.is_file():  # a pipe or a device: reading it might never end
        raise DatasetError(f"{path}: is no regular file; replace it by an image")
    return path


def _read(file: IO[bytes]) -> Encoded:
    """Read an image file that is open, from where it stands."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "source"
    data = file.read(MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise ValueError(f"source={file!r}: was opened as text; open it with mode 'rb'")
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{name}: more than {MAX_BYTES} bytes; give the path of the file")
    return Encoded(name, data)


def head_of(file: File, size: int) -> bytes:
    """Read the first bytes of a file."""
    if isinstance(file, Encoded):
        return file.data[:size]
    with file.open("rb") as opened:
        return opened.read(size)


def format_of(head: bytes) -> str | None:
    """Tell by its first 16 bytes which of `FORMATS` a file has; None for any other."""
    return next((name for name, (_, begins) in FORMATS.items() if re.match(begins, head, re.DOTALL)), None)


def is_tiff(file: File) -> bool:
    """Tell by its first bytes whether a file is a TIFF."""
    return format_of(head_of(file, 16)) == "TIFF"


def converted_lines(head: bytes) -> bool:
    """Tell by its first bytes whether a PNG went through a conversion of line endings."""
    return re.match(_CONVERTED, head) is not None


def without_cr_lf(path: Path) -> bool:
    """Tell whether no CR LF is in a file, as after a conversion of line endings; 200 kB hold three by chance."""
    try:
        with path.open("rb") as file:
            before = b""
            while block := file.read(2**20):
                if b"\r\n" in before[-1:] + block:
                    return False
                before = block
    except OSError:
        return False
    return True


class NotOpened(DatasetError):
    """Say that Pillow does not know the header of a file whose format it reads."""


@contextmanager
def opened(file: File, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open an image, and turn everything that Pillow's decoders may raise into one error that names the file.

    Args:
        file: from `as_file`.
        max_pixels: images of more pixels are refused; None where nothing is decoded.

    Raises:
        NotOpened: if it begins as an image does, and Pillow does not read it on.
        DatasetError: if the file is no image that is read, is damaged, or is too large.
    """
    try:
        with _open(file, max_pixels) as image:
            if max_pixels is not None:
                bound(image.size[::-1], max_pixels, str(file))
            yield image
    except DatasetError:
        raise
    except MemoryError as error:  # a damaged length does that, too
        raise DatasetError(
            f"{file}: decoding it takes more memory than there is; save it as a tiled TIFF, which is read in windows "
            "(--memory); a small file that asks for so much is damaged"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(_too_large(str(file), str(error), MAX_PIXELS)) from error
    except PermissionError as error:
        raise DatasetError(f"{file}: may not be read; change its permissions") from error
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DatasetError(f"{file}: damaged or truncated ({error}); replace the file") from error


def _open(file: File, max_pixels: int | None) -> Image.Image:
    head = head_of(file, 512)
    name = format_of(head)
    if name is None:
        raise DatasetError(f"{file}: {_refusal(head)}")
    try:
        importlib.import_module(f"PIL.{FORMATS[name][0]}")
    except ImportError as error:
        raise DatasetError(f"{file}: is {name}, which this Pillow does not read; upgrade it, or save as PNG") from error
    source = io.BytesIO(file.data) if isinstance(file, Encoded) else file
    try:
        pillow = Image.MAX_IMAGE_PIXELS
        if max_pixels is None or pillow is None or max_pixels <= pillow:
            return Image.open(source, formats=(name,))
        # Pillow has its own bound, one number for the process; whoever asks for more gets it for this one call.
        with _PILLOW_BOUND:
            Image.MAX_IMAGE_PIXELS = max_pixels
            try:
                return Image.open(source, formats=(name,))
            finally:
                Image.MAX_IMAGE_PIXELS = pillow
    except UnidentifiedImageError as error:
        what = f"not an image, or its beginning is damaged (it begins as {name}); replace the file"
        raise NotOpened(f"{file}: {what}") from error


def _refusal(head: bytes) -> str:
    """Say why a file is not opened."""
    if not head:
        return f"an empty file; replace it, accepted are {', '.join(EXTENSIONS)}"
    if converted_lines(head):
        return (
            "a PNG whose line endings were converted, as git and FTP do with text; other files that came the same way "
            "are damaged too: get them again as binary files"
        )
    other = next((name for name, begins in _OTHERS.items() if re.match(begins, head, re.DOTALL | re.IGNORECASE)), None)
    if other is None:
        return f"not an image, or its beginning is damaged; replace the file, accepted are {', '.join(EXTENSIONS)}"
    return f"is {other}, which is not read; {_REMEDIES.get(other, 'save it as PNG, TIFF or JPEG')}"


def bound(size: tuple[int, ...], max_pixels: int, name: str) -> None:
    """Refuse an image of too many pixels.

    Raises:
        DatasetError: if it has more than `max_pixels`.
    """
    if math.prod(size) > max_pixels:
        raise DatasetError(_too_large(name, f"{' x '.join(map(str, size))} pixels", max_pixels))


def _too_large(name: str, what: str, max_pixels: int) -> str:
    return f"{name}: too large ({what}), at most {max_pixels} pixels are read at once; cut it into smaller images"


def loaded(image: Image.Image) -> Image.Image:
    """Decode a Pillow image that somebody else opened.

    Raises:
        DatasetError: if it cannot be read.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's own, and what its decoders raise
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise DatasetError(f"source: a Pillow image that cannot be read ({why}); open it again") from error
    return image


def tiff_tag(image: Image.Image, tag: int) -> Any:
    """Give the value of a TIFF tag; None where there is none."""
    return getattr(image, "tag_v2", {}).get(tag)


def one_number(value: Any) -> int:
    """Give the first number of a TIFF tag, which Pillow gives alone or in a tuple; 0 for none."""
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float | np.integer) else 0

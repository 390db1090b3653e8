"""Read and write pictures and masks: EXIF, palettes, 16 bits, bounded sizes, nothing half-written.

Pictures and masks are read differently on purpose. A picture is colours: palettes are expanded, alpha is laid on
white, the orientation of the camera is applied. A mask is numbers: a palette index stays an index, and whatever would
change the numbers (JPEG, colours, scaled grey levels) is refused rather than guessed.
"""

from __future__ import annotations

import glob
import math
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fullyconv.errors import DatasetError, near_miss
from fullyconv.labels import VOID_COLOUR

MAX_PIXELS = 89_478_485
"""Pixels a picture may have unless told otherwise, about 9459 x 9459: the bound at which Pillow begins to warn."""

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as a picture or a mask in a folder, whatever the case of its letters."""

MASK_EXTENSIONS = (*EXTENSIONS, ".mat", ".seg")
"""What counts as a mask: pictures, MATLAB files, and the run lengths of the Berkeley segmentation data set."""

_ORIENTATION = 0x0112  # EXIF tag
_PILLOW_BOUND = threading.Lock()

Array = npt.NDArray[Any]


def read_image(source: str | Path | Image.Image | Array, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a picture as 8-bit RGB.

    EXIF orientation is applied. Grey is repeated, palettes are expanded, alpha is laid on white. 16-bit grey keeps its
    full range (value / 257), so that a value means the same in every picture of a set.

    Args:
        source: a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or
            floats in 0..1.
        max_pixels: pictures of more pixels are refused before they are decoded.

    Returns:
        (H, W, 3) uint8, writable, in RGB order.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no picture, is damaged or truncated, or is too large; the message names it.
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
        return _rgb_from_pillow(_upright(source), "source")
    with _opened(_as_path(source), max_pixels) as image:
        return _rgb_from_pillow(_upright(image), str(source))


def image_size(path: str | Path) -> tuple[int, int]:
    """Read height and width of a picture from its header, as `read_image` would give them (EXIF orientation applied).

    Args:
        path: the file.

    Returns:
        Height and width in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no picture.
    """
    with _opened(_as_path(path), None) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def may_be_cut(path: str | Path) -> bool:
    """Tell whether a JPEG has lost its end, without decoding it: nothing marks an end in its last 64 KiB.

    A header says nothing of it, so that such a picture would stop a training in the middle of an epoch.

    Args:
        path: the file; False for every other format, and for files that cannot be opened.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return False
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return b"\xff\xd9" not in file.read()
    except OSError:
        return False


def exif_orientation(path: str | Path) -> int:
    """Read the EXIF orientation of a picture: 1 is upright, 2..8 are turned or mirrored."""
    with _opened(_as_path(path), None) as image:
        return _orientation(image)


def mask_mode(path: str | Path) -> str:
    """Tell from the header what kind of numbers a mask file holds.

    Args:
        path: the file.

    Returns:
        "1" (one bit), "L" (8 bits), "P" (palette), "I" (16 or 32 bits), "F" (floating point), "RGB" (colours), or
        "mat" and "seg" for the text and MATLAB files that are no pictures.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no picture.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".mat", ".seg"):
        return suffix[1:]
    with _opened(_as_path(path), None) as image:
        mode = image.mode
    if mode in ("1", "L", "P", "F"):
        return mode
    return "I" if mode.startswith("I") else "RGB"


def read_mask(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Array:
    """Read the label values of a mask exactly as they stand in the file.

    Palette files (mode P) give their indices, never their colours. 1-bit files give 0 and 1; grey files of 2 and 4 bits
    give 0..3 and 0..15, not the scaled levels that a viewer shows. The mask's own EXIF orientation is applied, if it
    has one.

    Args:
        path: PNG, TIFF, BMP or GIF with one channel.
        max_pixels: masks of more pixels are refused before they are decoded.

    Returns:
        (H, W) integers: uint8, uint16 or int32 as in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no picture, is damaged, is a JPEG (which changes label values) or holds colours.
    """
    with _opened(_as_path(path), max_pixels) as image:
        if image.format in ("JPEG", "MPO", "JPEG2000"):
            raise DatasetError(
                f"{path}: a {image.format} mask; lossy compression changes label values near every border. "
                "Export the masks as PNG with one value a class, or give the values that are meant (values=), to which "
                "every pixel is then snapped"
            )
        if image.mode == "F":
            raise DatasetError(
                f"{path}: a mask of mode F holds floating point numbers, and labels are whole ones. "
                "Save the masks as PNG with one value a class (index or palette)"
            )
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"):
            raise DatasetError(
                f"{path}: a mask of mode {image.mode} holds colours, and which colour is which class is not known. "
                "Save the masks as PNG with one value a class (index or palette)"
            )
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise DatasetError(f"{path}: holds {frames} pictures; a mask is one. Save the one that is meant as PNG")
        if image.format == "TIFF" and image.mode in ("1", "L") and _tiff_tag(image, 262) == 0:
            raise DatasetError(
                f"{path}: a TIFF mask stored white-is-zero, which is read with inverted values. "
                "Save the masks as PNG with one value a class"
            )
        bits = _grey_bits(image, Path(path))
        mask = np.array(_upright(image))
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
        palette: colours of the values from 0 on; the file is then a palette PNG, which viewers show in colour and which
            still holds the values. 255 gets the void colour of PASCAL VOC unless the palette reaches that far. A file
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
    return _save(path, image, "PNG")


def write_image(path: str | Path, image: Image.Image | Array) -> Path:
    """Write a picture in the format its name asks for: all of it or nothing.

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
            f"path={str(path)!r}: no picture format has this extension. {near_miss(path.suffix, EXTENSIONS)}"
        )
    name = formats[path.suffix.lower()]
    picture = image if isinstance(image, Image.Image) else Image.fromarray(read_image(image))
    if name == "JPEG" and picture.mode not in ("RGB", "L", "CMYK"):
        picture = Image.fromarray(_rgb_from_pillow(picture, str(path)))
    return _save(path, picture, name)


def find_images(source: str | Path, *, recursive: bool = False) -> list[Path]:
    """List the pictures of a folder, a file or a pattern, sorted by name.

    Args:
        source: a folder, one file, or a pattern with `*`, `?`, `[...]`; `**` goes through sub-folders.
        recursive: of a folder, list the pictures of its sub-folders too.

    Returns:
        At least one path, sorted.

    Raises:
        FileNotFoundError: if there is nothing, or no picture in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [entry for entry in (path.rglob("*") if recursive else path.iterdir()) if _is_picture(entry)]
        where = f"no picture in the folder {path}"
    elif any(sign in str(source) for sign in "*?["):
        found = [Path(name) for name in glob.glob(str(source), recursive=True) if _is_picture(Path(name))]
        where = f"no picture matches {source}"
    else:
        found = []
        where = f"{source}: no such file or folder"
    if not found:
        raise FileNotFoundError(f"{where}; give a file, a folder or a pattern of {', '.join(EXTENSIONS)} files")
    return sorted(found)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _as_path(source: str | Path) -> Path:
    try:
        path = Path(source)
    except TypeError:
        raise ValueError(
            f"source={source!r} of type {type(source).__name__}: give a path, a Pillow image or a numpy array"
        ) from None
    if path.is_dir():
        raise DatasetError(
            f"{path}: a folder where a picture is expected; fullyconv.images.find_images lists its pictures"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    if not path.is_file():  # a pipe or a device: reading it might never end
        raise DatasetError(f"{path}: is no regular file; replace it by a picture")
    return path


@contextmanager
def _opened(path: Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open a picture and turn everything that Pillow's decoders may raise into one error that names the file."""
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
        what = "an empty file" if path.stat().st_size == 0 else "not a picture, or its beginning is damaged"
        raise DatasetError(f"{path}: {what}; replace the file, accepted are {', '.join(EXTENSIONS)}") from error
    except PermissionError as error:
        raise DatasetError(f"{path}: may not be read; change its permissions") from error
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DatasetError(f"{path}: damaged or truncated ({error}); replace the file") from error


def _open(path: Path, max_pixels: int | None) -> Image.Image:
    pillow = Image.MAX_IMAGE_PIXELS
    if max_pixels is None or pillow is None or max_pixels <= pillow:
        return Image.open(path)
    # Pillow has its own bound, one number for the process; whoever asks for more gets it for this one call.
    with _PILLOW_BOUND:
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow


def _bound(size: tuple[int, ...], max_pixels: int, name: str) -> None:
    if math.prod(size) > max_pixels:
        raise DatasetError(_too_large(name, f"{' x '.join(map(str, size))} pixels", max_pixels))


def _too_large(name: str, what: str, max_pixels: int) -> str:
    return (
        f"{name}: too large ({what}), the bound is max_pixels={max_pixels}; give a larger max_pixels or a smaller file"
    )


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _rgb_from_pillow(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB":
        return np.array(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        grey = np.array(image)
        if grey.size and (int(grey.min()) < 0 or int(grey.max()) > 65535):
            raise DatasetError(f"{name}: a picture of 32 bits with values beyond 0..65535; save it with 8 or 16 bits")
        return _repeat((grey // 257).astype(np.uint8))
    if image.mode == "F":
        raise DatasetError(f"{name}: a picture of floating point numbers, of unknown range; save it with 8 or 16 bits")
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


def _repeat(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _grey_bits(image: Image.Image, path: Path) -> int | None:
    """Bits of a grey pixel in the file, where Pillow does not say: it shows 2 and 4 bits stretched to 8."""
    if image.mode != "L":
        return None
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(25)  # signature (8), length and name of IHDR (8), width, height (8), bit depth (1)
        return header[24]
    if image.format == "TIFF":
        bits = _tiff_tag(image, 258)
        return int(bits[0] if isinstance(bits, tuple) else bits) if bits else None
    return None


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    tags = getattr(image, "tag_v2", {})
    return tags.get(tag)


def _flat_palette(palette: Sequence[Sequence[int]]) -> list[int]:
    colours = [tuple(int(c) for c in colour) for colour in palette]
    for colour in colours:
        if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
            raise ValueError(f"palette={colour!r}: a colour is three integers in 0..255 (red, green, blue)")
    if len(colours) > 256:
        raise ValueError(f"palette has {len(colours)} colours; an 8-bit file holds 256")
    full = colours + [(0, 0, 0)] * (256 - len(colours))
    if len(colours) <= 255:
        full[255] = VOID_COLOUR
    return [c for colour in full for c in colour]


def _save(path: Path, image: Image.Image, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the replacement is one step on one file system.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            image.save(file, format=name)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path

"""Read images as 8-bit colors or bands: EXIF orientation applied, palettes expanded, alpha laid on white."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fullyconv.errors import DatasetError
from fullyconv.images.opening import (
    MAX_PIXELS,
    Encoded,
    File,
    ImageInput,
    NotOpened,
    as_file,
    bound,
    head_of,
    is_tiff,
    loaded,
    one_number,
    opened,
    tiff_tag,
)
from fullyconv.images.pixels import (
    DEEP,
    Array,
    Pixels,
    ValueRange,
    check_range,
    faint,
    gray_of,
    repeat,
    rgb_of,
    to_bytes,
)
from fullyconv.images.tiff import TiffImage

_ORIENTATION = 0x0112  # EXIF tag


def read_image(source: ImageInput, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None) -> Pixels:
    """Read an image as 8-bit RGB.

    EXIF orientation is applied. Gray is repeated, palettes are expanded, alpha is laid on white. Of 16 bits the upper 8
    are taken, and floats are 0..1.

    Args:
        source: a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or
            floats in 0..1; or the bytes of a file, also opened ("rb") or of a pipe.
        max_pixels: images of more pixels are refused before they are decoded.
        value_range: the numbers that are black and white, of images of more than 8 bits and of floats; what lies
            beyond is cut off. None takes the whole range of the type.

    Returns:
        (H, W, 3) uint8, writable, in RGB order.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged or truncated, or is too large; the message names it.
        ImportError: if a TIFF needs tifffile (extra `tiff`), and it is not installed.
        ValueError: if an array has another shape, type or range.

    Example:
        >>> read_image(np.zeros((4, 6), dtype=np.uint8)).shape
        (4, 6, 3)
    """
    return read_bands(source, 3, max_pixels=max_pixels, value_range=value_range)


def read_bands(
    source: ImageInput, channels: int, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> Pixels:
    """Read an image with any number of bands, as 8 bits each.

    Three bands are what `read_image` gives, whatever the file holds. One band is the gray level of that (0.299 R +
    0.587 G + 0.114 B). Any other number has to be that of the file: alpha is then a band, and not laid on white. What
    Pillow does not read of TIFF, or not as its header says, tifffile reads (extra `tiff`).

    Args:
        source: a file, the bytes of one, a Pillow image, or an array (H, W) or (H, W, C).
        channels: number of bands C that are wanted, at least 1.
        max_pixels: images of more pixels are refused before they are decoded.
        value_range: as `read_image` takes it.

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
    return read_noting(source, channels, max_pixels, value_range)[0]


def read_noting(
    source: ImageInput, channels: int, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> tuple[Pixels, str | None]:
    """Read an image as `read_bands` does, and say what a person should know of its values, if anything."""
    if value_range is not None:
        check_range(value_range)
    if isinstance(source, np.ndarray):
        source = np.asarray(source)  # a matrix has no third axis
        bound(source.shape[:2], max_pixels, "source")
        pixels = _bands_of_array(source, channels, value_range)
        return pixels, faint(pixels, "source") if source.dtype == np.uint16 and value_range is None else None
    if isinstance(source, Image.Image):
        bound(source.size[::-1], max_pixels, "source")
        return _noted(loaded(source), channels, "source", value_range, source.mode in DEEP)
    file = as_file(source)
    try:
        with opened(file, max_pixels) as image:
            if pillow_reads(image, channels, value_range):
                return _noted(image, channels, str(file), value_range, _is_deep(image, file))
    except NotOpened:
        if not is_tiff(file):
            raise
    with TiffImage(file, channels, value_range) as tiff:
        bound(tiff.size, max_pixels, str(file))
        return tiff.read(0, 0, *tiff.size), tiff.note


def _noted(
    image: Image.Image, channels: int, name: str, value_range: ValueRange | None, deep: bool
) -> tuple[Pixels, str | None]:
    pixels = _bands_of_pillow(image, channels, name, value_range)
    return pixels, faint(pixels, name) if deep and value_range is None else None


def _is_deep(image: Image.Image, file: File) -> bool:
    if image.format == "PNG":
        return head_of(file, 25)[24] == 16
    return image.mode in DEEP or (image.format == "TIFF" and one_number(tiff_tag(image, 258)) == 16)


def visible(pixels: Pixels) -> Pixels:
    """Give what people can look at of an image with any number of bands: the first three, or else the first as gray.

    Args:
        pixels: (H, W, C).

    Returns:
        (H, W, 3).
    """
    return pixels[..., :3] if pixels.shape[2] >= 3 else repeat(pixels[..., 0])


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
    return bands_size(path, 3)


def bands_size(path: str | Path | Encoded, channels: int) -> tuple[int, int]:
    """Give height and width of an image in pixels as `read_bands` would, without decoding it.

    Args:
        path: the file.
        channels: number of bands that are wanted.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, or its header tells of another number of bands.
    """
    file = as_file(path)
    try:
        with opened(file, None) as image:
            if pillow_reads(image, channels, None):
                if channels != 3:
                    _check_bands(image, channels, str(file))
                width, height = image.size
                return (width, height) if orientation_of(image) >= 5 else (height, width)
    except NotOpened:
        if not is_tiff(file):
            raise
    with TiffImage(file, channels, None) as tiff:
        return tiff.size


def pillow_reads(image: Image.Image, channels: int, value_range: ValueRange | None) -> bool:
    """Tell from the header of an open image whether Pillow reads it as the header says; else tifffile has to.

    Args:
        image: the image.
        channels: bands that are wanted.
        value_range: whether all bits of 16 are wanted, and not the upper 8.
    """
    if image.format != "TIFF":
        return True
    bits = tiff_tag(image, 258)
    bits = set(bits) if isinstance(bits, tuple) else {bits or 1}
    samples, pages = one_number(tiff_tag(image, 277)) or 1, pages_of(image)
    if one_number(tiff_tag(image, 254)) & 5 or (samples > 2 and len(image.getbands()) == 1):
        return False  # a thumbnail or a mask of transparency comes first, or there are more bands than Pillow reads
    if channels > 1 and channels != 3 and (pages > 1 or samples > len(image.getbands())):
        return False
    if bits <= {1, 2, 4, 8}:
        return one_number(tiff_tag(image, 339)) in (0, 1)  # else signed
    white_is_zero = tiff_tag(image, 262) == 0
    if samples == 1:
        return bits <= {16, 32} and not white_is_zero and image.mode in (*DEEP, "F")
    chunky = one_number(tiff_tag(image, 284)) in (0, 1)
    return bits == {16} and chunky and value_range is None and one_number(tiff_tag(image, 339)) in (0, 1)


def pages_of(image: Image.Image) -> int:
    """Count the images in an open file; in a TIFF those of the first one's size, and no overviews and masks."""
    frames = int(getattr(image, "n_frames", 1))
    if frames == 1 or image.format != "TIFF":
        return frames
    count, size = 0, image.size
    for frame in range(frames):
        image.seek(frame)
        count += image.size == size and not one_number(tiff_tag(image, 254)) & 5
    image.seek(0)
    return count


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
    with opened(as_file(path), None) as image:
        return orientation_of(image)


def orientation_of(image: Image.Image) -> int:
    """Read the EXIF orientation of an open image."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of an image."""
    return image if orientation_of(image) == 1 else ImageOps.exif_transpose(image)


def _rgb_of_array(array: Array, value_range: ValueRange | None) -> Pixels:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        moved = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; move the channels last with array.transpose(1, 2, 0)" if moved else ""
        raise ValueError(f"source has shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}")
    if value_range is None and np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"source holds floats in {low:g}..{high:g}: floats are 0..1; divide by 255 or give uint8")
    elif array.dtype not in (np.uint8, np.uint16, np.bool_) and value_range is None:
        raise ValueError(f"source has type {array.dtype}: give uint8, uint16, bool or floats in 0..1")
    array = to_bytes(array, "source", value_range)
    if array.ndim == 2 or array.shape[2] == 1:
        return repeat(array.reshape(array.shape[:2]))
    if array.shape[2] == 4:
        return rgb_of(Image.fromarray(np.ascontiguousarray(array)), "source")
    return np.array(array, order="C")


def _bands_of_array(array: Array, channels: int, value_range: ValueRange | None) -> Pixels:
    if channels == 3:
        return _rgb_of_array(array, value_range)
    if channels == 1 and array.ndim in (2, 3) and (array.ndim == 2 or array.shape[2] in (1, 3)):
        return gray_of(_rgb_of_array(array, value_range))
    if array.ndim != 3 or array.shape[2] != channels or not array.size:
        raise ValueError(f"source has shape {array.shape}: give (H, W, {channels}), the bands that the model wants")
    bands = [_rgb_of_array(array[..., band], value_range)[..., :1] for band in range(channels)]
    return np.concatenate(bands, axis=2)


def _bands_of_pillow(image: Image.Image, channels: int, name: str, value_range: ValueRange | None) -> Pixels:
    if value_range is not None and image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA"):
        layout = str(image.tile[0][3]) if image.tile else ""  # type: ignore[attr-defined]
        if "16" in layout:
            what = "a PNG of 16 bits a color, of which the upper 8 are read alone"
            raise DatasetError(f"{name}: {what}; save it as TIFF to read it by a range of values")
    if image.format == "TIFF" and (pages := pages_of(image)) > 1:
        raise DatasetError(f"{name}: holds {pages} images; save the one that is meant")
    image = upright(image)
    if channels in (1, 3):
        rgb = rgb_of(image, name, value_range)
        return rgb if channels == 3 else gray_of(rgb)
    _check_bands(image, channels, name)
    kept = len(image.getbands()) == channels and image.mode != "RGBa"
    return np.array(image if kept else image.convert("RGBA"))


def _check_bands(image: Image.Image, channels: int, name: str) -> None:
    if channels == 1 or (channels == 4 and (image.mode in ("PA", "RGBa") or "transparency" in image.info)):
        return
    own = 3 if image.mode in ("P", "CMYK", "LAB", "HSV", "YCbCr") else len(image.getbands())
    if own != channels:
        raise DatasetError(
            f"{name}: has {own} {'band' if own == 1 else 'bands'} (mode {image.mode}), and in_channels={channels} is "
            "given; give the number that the files have, the same in all of them, or 3 to read them as RGB, 1 as gray"
        )

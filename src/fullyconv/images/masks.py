"""Read masks: the numbers in a file, or their colors, exactly as they stand there.

An image is colors, a mask is numbers: a palette index stays an index, and whatever would change the numbers (JPEG,
scaled gray levels, inverted ones) is refused rather than guessed.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.errors import DatasetError
from fullyconv.images.georeference import NODATA, nodata_in
from fullyconv.images.opening import (
    MAX_PIXELS,
    Encoded,
    File,
    NotOpened,
    as_file,
    bound,
    head_of,
    is_tiff,
    one_number,
    opened,
    tiff_tag,
)
from fullyconv.images.pixels import DEEP, rgb_of
from fullyconv.images.reading import pages_of, upright
from fullyconv.images.tiff import TiffImage
from fullyconv.labels import as_text, packed

Array = npt.NDArray[Any]


def read_colors(path: str | Path | Encoded) -> npt.NDArray[np.uint8]:
    """Read a mask that holds colors, as 8-bit RGB: what `read_image` gives, but alpha is dropped.

    A mask means what is stored; laid on white, its transparent pixels would be of another color than the file holds.

    Args:
        path: the file, or its bytes.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged or truncated, or is too large; the message names it.
    """
    with opened(as_file(path), MAX_PIXELS) as image:
        image = upright(image)
        if image.mode in ("LA", "RGBA", "PA"):
            pixels = np.array(image.convert("RGBA"))
            colors, clear = packed(pixels), pixels[..., 3] == 0
            if both := np.intersect1d(colors[clear], colors[~clear]).tolist():
                what = f"the color {as_text(both[0])} is there opaque and transparent: one class, or two?"
                raise DatasetError(f"{path}: {what} Lay the mask on the color of its background; save it without alpha")
            return pixels[..., :3].copy()
        if "transparency" in image.info:
            image.load()  # decoders may add to it
            del image.info["transparency"]
        return rgb_of(image, str(path))


def lossy_format(path: str | Path | Encoded) -> str:
    """Tell by its bytes whether the compression of a file changes its values, whatever it is called.

    Returns:
        "JPEG" or "lossy WebP"; empty for other files.
    """
    file = as_file(path)
    head = head_of(file, 12)
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "lossy WebP" if head[:4] == b"RIFF" and head[8:] == b"WEBP" and _has_vp8(file) else ""


def _has_vp8(path: File) -> bool:
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
    try:
        with opened(as_file(path), None) as image:
            mode = image.mode
    except NotOpened:
        return "F"  # a TIFF of 64 bits, or damaged
    if mode in ("1", "L", "P", "F"):
        return mode
    return "I" if mode.startswith("I") else "RGB"


def read_mask(path: str | Path | Encoded) -> Array:
    """Read the label values of a mask exactly as they stand in the file.

    Palette files (mode P) give their indices, never their colors. 1-bit files give 0 and 1; gray files of 2 and 4 bits
    give 0..3 and 0..15, not the scaled levels that a viewer shows. The mask's own EXIF orientation is applied, if it
    has one.

    Args:
        path: PNG, TIFF, BMP or GIF with one channel.

    Returns:
        (H, W) integers: uint8, uint16 or int32 as in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is no image, is damaged, is a JPEG or lossy WebP (which change label values)
            or holds colors.
    """
    file = as_file(path)
    try:
        with opened(file, MAX_PIXELS) as image:
            return _numbers_of(image, file)
    except NotOpened:
        if not is_tiff(file):
            raise
    with TiffImage(file, 1, None) as tiff:
        bound(tiff.size, MAX_PIXELS, str(file))
        values = tiff.values(0, 0, *tiff.size)
        return _whole(_one_band(values[..., 0], values.shape[2], file), file)


def palette_of(path: str | Path | Encoded) -> bytes:
    """Give the colors of the values of a palette file, three bytes each from 0 on; nothing for other files."""
    with opened(as_file(path), None) as image:
        return bytes(image.getpalette() or b"") if image.mode == "P" else b""


def nodata_of(path: str | Path | Encoded) -> float | None:
    """Give the number that GDAL's tag in a TIFF mask says is no data; None where it says nothing."""
    try:
        with opened(as_file(path), None) as image:
            return nodata_in(tiff_tag(image, NODATA))
    except NotOpened:
        return None


def _numbers_of(image: Image.Image, file: File) -> Array:
    kind = image.format if image.format in ("JPEG", "MPO", "JPEG2000", "AVIF") else lossy_format(file)
    save = "Save the masks as PNG with one value a class (index or palette)"
    if kind:
        raise DatasetError(
            f"{file}: a {kind} mask; lossy compression changes label values near every border. {save}, or give the "
            "values that are meant (values=), to which every pixel is then snapped"
        )
    if image.mode not in ("1", "L", "P", "F", *DEEP):
        what = f"a mask of mode {image.mode} holds colors, and which color is which class is not known"
        raise DatasetError(f"{file}: {what}. {save}")
    if (pages := pages_of(image)) > 1:
        raise DatasetError(f"{file}: holds {pages} images; a mask is one. Save the one that is meant as PNG")
    if image.format == "TIFF" and image.mode != "P" and tiff_tag(image, 262) == 0:
        raise DatasetError(f"{file}: a TIFF mask stored white-is-zero, whose values would be read inverted. {save}")
    bits = _gray_bits(image, file)
    bands = (image.format == "TIFF" and one_number(tiff_tag(image, 277))) or 1  # Pillow drops the second
    mask = _one_band(np.array(upright(image)), bands, file)
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8)
    if bits in (2, 4):  # Pillow stretches 0..3 and 0..15 to 0..255
        return mask // np.uint8(255 // (2**bits - 1))
    return _whole(mask, file)


def _one_band(mask: Array, bands: int, file: File) -> Array:
    if bands > 1:
        raise DatasetError(f"{file}: a mask has one channel, this has {bands}, one a class? Save it as index PNG")
    return mask


def _whole(mask: Array, file: File) -> Array:
    """Give numbers of any type as integers of this machine's order: uint8, uint16 or int32."""
    if mask.dtype == np.uint8:
        return mask
    if np.issubdtype(mask.dtype, np.floating) and not (mask == np.trunc(mask)).all():
        raise DatasetError(f"{file}: a mask of floating point numbers that are no whole ones; save it as index PNG")
    low, high = (mask.min(), mask.max()) if mask.size else (0, 0)
    if low < -(2**31) or high >= 2**31:
        raise DatasetError(f"{file}: a mask with values {low}..{high}; save the masks with values in 0..65535")
    return mask.astype(np.uint16 if low >= 0 and high <= 65535 else np.int32)


def _gray_bits(image: Image.Image, path: File) -> int | None:
    """Bits of a gray pixel in the file, where Pillow does not say: it shows 2 and 4 bits stretched to 8."""
    if image.mode == "L" and image.format == "PNG":
        return head_of(path, 25)[24]  # behind signature (8), length and name of IHDR (8), width and height (8)
    if image.mode == "L" and image.format == "TIFF":
        return one_number(tiff_tag(image, 258))
    return None

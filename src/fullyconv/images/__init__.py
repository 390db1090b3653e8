"""Read and write images and masks: EXIF, palettes, 16 bits, bounded sizes, nothing half-written.

Images and masks are read differently on purpose. An image is colors: palettes are expanded, alpha is laid on
white, the orientation of the camera is applied. A mask is numbers: a palette index stays an index, and whatever would
change the numbers (JPEG, colors, scaled gray levels) is refused rather than guessed.
"""

from __future__ import annotations

from fullyconv.images.finding import EXTENSIONS, MASK_EXTENSIONS, find_images, refuse_address, unread_images
from fullyconv.images.masks import lossy_format, mask_mode, nodata_of, palette_of, read_colors, read_mask
from fullyconv.images.opening import MAX_PIXELS, Encoded, ImageInput
from fullyconv.images.reading import (
    bands_size,
    exif_orientation,
    image_size,
    may_be_cut,
    read_bands,
    read_image,
    visible,
)
from fullyconv.images.writing import MaskWriter, write_image, write_mask

__all__ = [
    "EXTENSIONS",
    "MASK_EXTENSIONS",
    "MAX_PIXELS",
    "Encoded",
    "ImageInput",
    "MaskWriter",
    "bands_size",
    "exif_orientation",
    "find_images",
    "image_size",
    "lossy_format",
    "mask_mode",
    "may_be_cut",
    "nodata_of",
    "palette_of",
    "read_bands",
    "read_colors",
    "read_image",
    "read_mask",
    "refuse_address",
    "unread_images",
    "visible",
    "write_image",
    "write_mask",
]

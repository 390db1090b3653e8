"""Masks in MATLAB files, and in the run-length text of the Berkeley segmentation data set."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError
from fullyconv.images import MAX_PIXELS

Array = npt.NDArray[Any]


def read_labels(path: Path, void: int = 0) -> Array:
    """Read the label matrix of a file: groundTruth.Segmentation (BSDS), GTcls.Segmentation (SBD), or the one there is.

    Args:
        path: a `.mat` file of version 7 or older.
        void: a negative value that stands for 0.

    Returns:
        (H, W) uint8, or uint16 where there are values above 255.

    Raises:
        DatasetError: if the file is damaged or too large, or holds no label matrix, or several.
        ImportError: if SciPy is not installed.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise ImportError(f"{path}: MATLAB files need SciPy: pip install 'fullyconv[mat]'") from error
    try:
        _bound_mat(path, whosmat(str(path)))
        content = {name: value for name, value in loadmat(str(path)).items() if not name.startswith("__")}
    except DatasetError:
        raise
    except Exception as error:  # NotImplementedError for v7.3, ValueError, struct.error ... for damaged ones
        what = f"cannot be read as a MATLAB file of version 7 or older ({error})"
        raise DatasetError(f"{path}: {what}; save it as PNG") from error
    matrices: list[Array] = []
    for value in content.values():
        _collect(value, matrices, void)
    if len(matrices) != 1:
        what = f"holds {len(matrices)} label matrices ({', '.join(content)}), with whole numbers 0..65535"
        raise DatasetError(f"{path}: {what}; save the one that is meant as PNG, or replace the file")
    return matrices[0]


def _bound_mat(path: Path, variables: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    """Refuse matrices of too many pixels, and files that unpack to more than one of those, before they are loaded."""
    remedy = f"the bound is {MAX_PIXELS}; save a smaller mask, as PNG"
    for name, shape, _ in variables:
        if math.prod(shape) > MAX_PIXELS:
            raise DatasetError(f"{path}: {name} is too large ({' x '.join(map(str, shape))} pixels), {remedy}")
    left = 8 * MAX_PIXELS + 2**24  # of the widest numbers
    if path.stat().st_size * 1032 <= left:  # deflate packs no better than 1032 to 1
        return
    with path.open("rb") as file:
        head = file.read(128)
        if head[126:128] not in (b"IM", b"MI"):
            return  # of version 4, which packs nothing
        order: Literal["little", "big"] = "little" if head[126:128] == b"IM" else "big"
        while len(tag := file.read(8)) == 8:
            kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            if kind != 15:  # not packed
                file.seek(size, os.SEEK_CUR)
                left -= size
            else:
                left -= _unpacked_bytes(file.read(size), left)
            if left < 0:
                raise DatasetError(f"{path}: too large when it is unpacked, {remedy}")


def _unpacked_bytes(data: bytes, most: int) -> int:
    """Count the bytes that zlib would unpack, and stop beyond a number of them."""
    unpack = zlib.decompressobj()
    count = 0
    while data and count <= most and not unpack.eof:
        count += len(unpack.decompress(data, 2**22))
        data = unpack.unconsumed_tail
    return count


def _collect(value: Any, found: list[Array], void: int, depth: int = 0) -> None:
    if not isinstance(value, np.ndarray) or depth > 6:
        return
    if value.dtype.names or value.dtype == object:
        inner = value["Segmentation"] if "Segmentation" in (value.dtype.names or ()) else value
        for entry in inner.ravel()[:1] if inner.dtype == object else ():
            _collect(entry, found, void, depth + 1)
    elif value.ndim == 2 and min(value.shape) > 1 and np.issubdtype(value.dtype, np.number):
        whole = value.astype(np.int64)
        same = bool((whole == value).all())
        whole[whole == void] = 0
        if same and whole.min() >= 0 and whole.max() <= 65535:
            found.append(whole.astype(np.uint8 if whole.max() <= 255 else np.uint16))


def read_seg(path: Path) -> Array:
    """Read the run-length text of the Berkeley segmentation data set: lines of segment, row, first and last column."""
    try:
        head, _, body = path.read_text(encoding="ascii", errors="strict").partition("\ndata\n")
        fields = dict(line.split(maxsplit=1) for line in head.splitlines() if len(line.split(maxsplit=1)) == 2)
        height, width = int(fields["height"]), int(fields["width"])
        if not (0 < height <= 65536 and 0 < width <= 65536 and height * width <= MAX_PIXELS):
            raise ValueError(f"{height} x {width} pixels")
        runs = np.array(body.split(), dtype=np.int64).reshape(-1, 4)
    except (ValueError, KeyError, OSError, UnicodeError, OverflowError) as error:
        what = f"is no segmentation file of BSDS ({error})"
        raise DatasetError(f"{path}: {what}; replace it, or save the mask as PNG") from error
    mask = np.full((height, width), 65535, np.uint16)
    for segment, row, first, last in runs.tolist():
        if not (0 <= row < height and 0 <= first <= last < width and 0 <= segment < 65535):
            what = f"a run ({segment} {row} {first} {last}) lies outside of {height} x {width} pixels"
            raise DatasetError(f"{path}: {what}")
        mask[row, first : last + 1] = segment
    if (mask == 65535).any():
        raise DatasetError(f"{path}: its runs do not cover all of {height} x {width} pixels; replace it")
    return mask.astype(np.uint8) if mask.max() <= 255 else mask

"""What one pair tells the doctor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.data.folder import check_sizes
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, Reader
from fullyconv.errors import DatasetError
from fullyconv.images import Encoded, visible
from fullyconv.images.opening import opened
from fullyconv.images.reading import orientation_of
from fullyconv.labels import count_values_of

LOOK = 16
"""Side in pixels of the thumbnails by which images are compared."""


@dataclass
class Seen:
    """What one pair told."""

    pair: Pair
    split: str
    size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = field(default_factory=dict)
    digest: bytes = b""
    labeled: bytes = b""  # digest of the mask
    look: npt.NDArray[np.uint8] | None = None
    constant: bool = False
    highest: int = 255
    kind: str = ""
    turned: bool = False  # by the camera, in a way that sizes do not tell, and the mask is not
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # rule, file, message


def look_at(item: tuple[str, Pair], reader: Reader) -> Seen:
    """Read both files of a pair; what is wrong with them is told and not raised."""
    split, pair = item
    seen = Seen(pair, split)
    orientation = 1
    try:
        image = reader.image(pair)
        seen.size = (image.shape[0], image.shape[1])
        seen.digest = _digest(image)
        seen.look = _look(image)
        seen.highest = int(image.max())
        seen.constant = bool((image == image[:1, :1]).all())
        seen.kind, orientation = _header(reader.image_file(pair) if isinstance(reader, FileReader) else pair.image)
    except (DatasetError, OSError) as error:
        seen.problems.append(("images that cannot be read", str(pair.image), str(error)))
    rule = "masks that cannot be read"
    try:
        mask = reader.mask(pair)
        seen.counts, seen.mask_size = count_values_of(mask), (mask.shape[0], mask.shape[1])
        seen.labeled = _digest(mask)
        if seen.digest:
            rule = "pairs whose image and mask differ in size"
            check_sizes(pair, seen.size, seen.mask_size)
        # Half a turn, a mirror, or a quarter turn of a square: the sizes fit, and nothing else would tell.
        hidden = orientation in (2, 3, 4) or (orientation != 1 and seen.size[0] == seen.size[1])
        file = reader.mask_file(pair) if isinstance(reader, FileReader) else pair.mask
        seen.turned = hidden and _header(file)[1] != orientation
    except (DatasetError, OSError) as error:
        seen.problems.append((rule, str(pair.mask), str(error)))
    return seen


def _digest(array: npt.NDArray[Any]) -> bytes:
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


def _look(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give the thumbnail by which images are compared."""
    small = Image.fromarray(np.ascontiguousarray(visible(image))).resize((LOOK, LOOK), Image.Resampling.BOX)
    return np.asarray(small)


def _header(path: Path | Encoded) -> tuple[str, int]:
    """Tell kind and EXIF orientation of an image file; nothing and 1 for files that are no images."""
    try:
        with opened(path, None) as image:
            orientation, mode = orientation_of(image), image.mode
    except (DatasetError, OSError):
        return "", 1
    kinds = {"L": "gray", "1": "1 bit", "P": "palette", "RGBA": "RGB with alpha", "LA": "gray with alpha", "F": "float"}
    kind = "16 bits" if mode.startswith("I") else kinds.get(mode, mode)
    return kind, orientation

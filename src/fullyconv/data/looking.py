"""What one pair tells the doctor."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.data.findings import Finding
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import Reader, check_sizes, files_of
from fullyconv.errors import DatasetError
from fullyconv.images import Encoded, visible
from fullyconv.images.opening import opened
from fullyconv.images.reading import orientation_of
from fullyconv.labels import IGNORE, Labels, count_values_of

LOOK = 16
"""Side in pixels of the thumbnails by which images are compared."""

_KINDS = {"L": "gray", "1": "1 bit", "P": "palette", "RGBA": "RGB with alpha", "LA": "gray with alpha", "F": "float"}


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
    problems: list[Finding] = field(default_factory=list)

    def pixels(self, labels: Labels) -> Counter[str]:
        """Count the pixels of every class, and of what is ignored."""
        found: Counter[str] = Counter()
        for value, number in self.counts.items():
            if value in labels.meaning:
                found[labels.meaning[value]] += number
        return found

    def classes(self, labels: Labels) -> list[str]:
        """Name the classes that the mask shows."""
        return sorted(self.pixels(labels).keys() - {IGNORE})


def look_at(item: tuple[str, Pair], reader: Reader) -> Seen:
    """Read both files of a pair; what is wrong with them is returned, not raised."""
    split, pair = item
    seen = Seen(pair, split)
    orientation = 1
    rule = "images that cannot be read"
    try:
        photo, labels = files_of(reader, pair)
        image = reader.image(pair)
        seen.size = (image.shape[0], image.shape[1])
        seen.digest = _digest(image)
        small = Image.fromarray(np.ascontiguousarray(visible(image))).resize((LOOK, LOOK), Image.Resampling.BOX)
        seen.look = np.asarray(small)
        seen.highest = int(image.max())
        seen.constant = bool((image == image[:1, :1]).all())
        seen.kind, orientation = _header(photo)
    except (DatasetError, OSError) as error:
        seen.problems.append(Finding("error", rule, str(error), (str(error),)))
    rule = "masks that cannot be read"
    try:
        mask = reader.mask(pair)
        seen.counts, seen.labeled = count_values_of(mask), _digest(mask)
        seen.mask_size = (mask.shape[0], mask.shape[1])
        if seen.digest:
            rule = "pairs whose image and mask differ in size"
            check_sizes(pair, seen.size, seen.mask_size)
        # Half a turn, a mirror, or a quarter turn of a square: the sizes fit, and nothing else would tell.
        hidden = orientation in (2, 3, 4) or (orientation != 1 and seen.size[0] == seen.size[1])
        seen.turned = hidden and _header(labels)[1] != orientation
    except (DatasetError, OSError) as error:
        seen.problems.append(Finding("error", rule, str(error), (str(error),)))
    return seen


def _digest(array: npt.NDArray[Any]) -> bytes:
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


def _header(path: Path | Encoded) -> tuple[str, int]:
    """Tell kind and EXIF orientation of an image file; nothing and 1 for files that are no images."""
    try:
        with opened(path, None) as image:
            kind = "16 bits" if image.mode.startswith("I") else _KINDS.get(image.mode, image.mode)
            return kind, orientation_of(image)
    except (DatasetError, OSError):
        return "", 1

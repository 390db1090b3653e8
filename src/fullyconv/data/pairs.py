"""Pairs of image and mask, found by name; an image without its mask is an error, never a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullyconv.errors import DatasetError, some
from fullyconv.images import EXTENSIONS, MASK_EXTENSIONS


@dataclass(frozen=True)
class Pair:
    """Name an image and the mask that labels it.

    What lies inside a file, such as a row of a table, is called FILE/NAME.

    Args:
        image: the image.
        mask: its mask, of the same height and width.
        key: what both share: the path inside their folders, without the extension.
    """

    image: Path
    mask: Path
    key: str


def match_pairs(images: str | Path, masks: str | Path) -> list[Pair]:
    """Pair the images of one folder with the masks of another by name, whatever their extensions.

    Sub-folders count: `images/berlin/0001.jpg` goes with `masks/berlin/0001.png`. Where no two names are equal, what
    all names of a side begin or end with is taken off: `001_image.jpg` goes with `001_mask.png`.

    Args:
        images: folder of images.
        masks: folder of masks.

    Returns:
        At least one pair, sorted by name.

    Raises:
        FileNotFoundError: if a folder is missing.
        DatasetError: if an image has no mask or a mask no image, if two files share a name, or if there are none.
    """
    images, masks = Path(images), Path(masks)
    photos, labels = _by_key(images, EXTENSIONS), _by_key(masks, MASK_EXTENSIONS)
    if not photos and not labels:
        raise DatasetError(f"{images}: no images in it; accepted are {', '.join(EXTENSIONS)}")
    names = {key: key for key in photos}
    if not photos.keys() & labels.keys():  # no name is equal: 001_image goes with 001_mask
        one, two = distinct_parts(photos), distinct_parts(labels)
        if len(one) == len(photos) and len(two) == len(labels) and one.keys() & two.keys():
            names = one
            photos = {key: photos[name] for key, name in one.items()}
            labels = {key: labels[name] for key, name in two.items()}
    if lonely := sorted(photos.keys() - labels.keys()):
        hint = name_hint(photos[lonely[0]], labels.values(), masks)
        raise DatasetError(
            f"{some([photos[key] for key in lonely], 5)}: no mask of the same name in {masks}{hint}; "
            "add the masks (the name without its extension must be equal) or remove the images"
        )
    if extra := sorted(labels.keys() - photos.keys()):
        hint = name_hint(labels[extra[0]], photos.values(), images)
        raise DatasetError(
            f"{some([labels[key] for key in extra], 5)}: no image of the same name in {images}{hint}; "
            "add the images (the name without its extension must be equal) or remove the masks"
        )
    return [Pair(photos[key], labels[key], names[key]) for key in sorted(photos)]


def plain_name(name: str) -> str:
    """Write accented letters as one sign: macOS stores them as two, other systems as one."""
    return unicodedata.normalize("NFC", name)


def name_hint(file: Path, others: Iterable[Path], folder: Path | None = None) -> str:
    """Say what a file without a partner was probably meant to go with; empty where nothing is near.

    Args:
        file: the file.
        others: files that it could go with.
        folder: where they are; by default that of the first of them.

    Example:
        >>> name_hint(Path("images/IMG_1.jpg"), [Path("masks/img_1.png")])
        ' (masks/img_1.png differs in upper and lower case only: rename one)'
    """
    wanted = plain_name(file.stem)
    others = list(others)
    for other in others:
        name = plain_name(other.stem)
        if name != wanted and name.casefold() == wanted.casefold():
            return f" ({other} differs in upper and lower case only: rename one)"
    folder = folder or (others[0].parent if others else None)
    if folder is not None and folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if plain_name(entry.stem) == wanted and entry.suffix and entry.suffix.lower() not in MASK_EXTENSIONS:
                return f" ({entry.name} is there, but {entry.suffix} is no format that is read: save it as PNG)"
    return ""


def _by_key(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; check the name")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in extensions or any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file():
            continue
        key = plain_name(relative.with_suffix("").as_posix())
        if key in found:
            raise DatasetError(f"{found[key]} and {path} share one name; remove or rename one of them")
        found[key] = path
    return found


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def distinct_parts(stems: Iterable[str]) -> dict[str, str]:
    """Give what tells the names of one side apart -> the name; digits are never cut in two."""
    names = sorted(stems)
    if len(names) < 2:
        return {name: name for name in names}
    prefix = _common_start(names)
    suffix = _common_start([name[::-1] for name in names])[::-1]
    prefix = re.sub(r"[0-9]+$", "", prefix)
    suffix = re.sub(r"^[0-9]+", "", suffix)
    cut = {name[len(prefix) : len(name) - len(suffix)] or name: name for name in names}
    if all(key.isascii() and key.isdigit() for key in cut):
        numbers = {str(int(key)): name for key, name in cut.items()}
        return numbers if len(numbers) == len(cut) else cut
    return cut

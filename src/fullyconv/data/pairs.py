"""Pairs of image and mask, found by name; an image without its mask is an error, never a guess."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.data.words import image_base, mask_base
from fullyconv.errors import some
from fullyconv.images import MASK_EXTENSIONS

if TYPE_CHECKING:
    from fullyconv.data.layouts import Source


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


def pair_files(
    source: Source,
    images: Iterable[Path],
    masks: Iterable[Path],
    places: tuple[str, str],
    unlabeled: str = "error",
) -> list[Pair]:
    """Pair files by their names without extension.

    Where no two names are equal, a word at their end such as _image or _mask is taken off, and then what all names of
    one side begin or end with. Where nothing but numbers is left, they have to be equal: 04 goes with labels00000004.

    Args:
        source: told what does not pair, and what was decided.
        images: images.
        masks: masks.
        places: where the images are, and the masks, for messages.
        unlabeled: "error" or "skip" for images without a mask.

    Returns:
        The pairs, sorted by name.
    """
    left, right, twins = _by_stem(images, masks)
    for same in twins:
        source.lose("files that share one name", same, "share one name; remove or rename one of them")
    return pair_names(source, left, right, places, unlabeled)


def pair_names(
    source: Source,
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    places: tuple[str, str],
    unlabeled: str = "error",
) -> list[Pair]:
    """Pair images and masks, each listed by a name, as `pair_files` does; the arguments are its own."""
    left, right, key = _shared(dict(images), dict(masks))
    if key is not None:
        example = f"{left[key].name} with {right[key].name}"
        source.notes.append(f"paired by the part of the names that differs: {example}")
    _several(source, left, right, places[1])
    lonely = [left[key] for key in sorted(left.keys() - right.keys())]
    extra = [right[key] for key in sorted(right.keys() - left.keys())]
    equal = "the name without its extension must be equal"
    if lonely and unlabeled == "skip":
        source.notes.append(f"{places[0]}: {len(lonely)} images without a mask are left out")
    elif lonely:
        what = f"no mask of the same name in {places[1]}{_hint(lonely[0], right.values(), places[1])}"
        remedy = f'add the masks ({equal}), remove the images, or leave them out (unlabeled="skip", --unlabeled skip)'
        source.lose("images without a mask", lonely, f"{what}; {remedy}")
    if extra:
        what = f"no image of the same name in {places[0]}{_hint(extra[0], left.values(), places[0])}"
        source.lose("masks without an image", extra, f"{what}; add the images ({equal}), or remove the masks")
    return [Pair(left[key], right[key], key) for key in sorted(left.keys() & right.keys())]


def plain_name(name: str) -> str:
    """Write accented letters as one sign: macOS stores them as two, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _by_stem(
    images: Iterable[Path], masks: Iterable[Path]
) -> tuple[dict[str, Path], dict[str, Path], list[list[Path]]]:
    """List files by their names; files of one side that share a name are left out of both, and listed apart."""
    sides: tuple[dict[str, list[Path]], ...] = (defaultdict(list), defaultdict(list))
    for side, files in zip(sides, (images, masks), strict=True):
        for file in files:
            side[plain_name(file.stem)].append(file)
    twins = {name: same for side in sides for name, same in side.items() if len(same) > 1}
    left, right = ({name: same[0] for name, same in side.items() if name not in twins} for side in sides)
    return left, right, list(twins.values())


def _shared(left: dict[str, Path], right: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path], str | None]:
    """Call the files by what both sides share; and give an example where that is not the whole name."""
    if left.keys() & right.keys():
        return left, right, None
    bare = {image_base(name) or name: name for name in left}, {mask_base(name) or name: name for name in right}
    for images, masks in (bare, (distinct_parts(left), distinct_parts(right))):
        common = images.keys() & masks.keys()
        if common and len(images) == len(left) and len(masks) == len(right):
            named = {key: left[name] for key, name in images.items()}, {key: right[name] for key, name in masks.items()}
            return *named, min(common)
    return left, right, None


def common_names(images: Iterable[Path], masks: Iterable[Path]) -> int:
    """Count the names that two lists of files share, as `pair_files` compares them."""
    left, right, _ = _shared(*_by_stem(images, masks)[:2])
    return len(left.keys() & right.keys())


def _several(source: Source, left: dict[str, Path], right: dict[str, Path], masks_at: str) -> None:
    """Take out images that have several masks each, one a class or one an object, and tell them."""
    begins: dict[str, list[str]] = defaultdict(list)
    for name in sorted(right.keys() - left.keys()):
        for cut in re.finditer(r"[ _.-]", name):
            begins[name[: cut.start()]].append(name)
    lonely = sorted(left.keys() - right.keys())
    many = {name: begins[name] for name in lonely if len(begins[name]) > 1}
    if not many and len(left) == 1 == len(lonely) and len(right) > 1:
        many = {lonely[0]: sorted(right)}
    if not many or 2 * len(many) < len(lonely):
        return
    name = min(many)
    names = [right[mask].name for mask in many[name]]
    what = f"has {len(names)} masks in {masks_at}, {some(names, 3)}: one a class, or one an object?"
    what = f"the first {what}" if len(many) > 1 else what
    pattern = f"'*{names[0].removeprefix(name)}'"
    remedy = f"draw them into one, with a value for each class, or say by a pattern which are meant (--masks {pattern})"
    source.lose("images with several masks", [left[name] for name in many], f"{what} {remedy}")
    for name, masks in many.items():
        del left[name]
        for mask in masks:
            right.pop(mask, None)


def _hint(file: Path, others: Iterable[Path], folder: str) -> str:
    """Say what a file without a partner was probably meant to go with; empty where nothing is near."""
    wanted = plain_name(file.stem)
    for other in others:
        name = plain_name(other.stem)
        if name != wanted and name.casefold() == wanted.casefold():
            return f" ({other} differs in upper and lower case only: rename one)"
    for entry in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        named = plain_name(entry.name).startswith(f"{wanted}.")  # also 1.jpg.json
        if named and entry.suffix and entry.suffix.lower() not in MASK_EXTENSIONS:
            return f" ({entry.name} is there, but {entry.suffix} is no format that is read as such: save it as PNG)"
    return ""


def distinct_parts(stems: Iterable[str]) -> dict[str, str]:
    """Give what tells the names of one side apart -> the name; digits are never cut in two."""
    names = sorted(stems)
    if len(names) < 2:
        return {name: name for name in names}
    prefix = os.path.commonprefix(names).rstrip("0123456789")  # noqa: RUF071 - of letters, not of folders
    suffix = os.path.commonprefix([name[::-1] for name in names])[::-1].lstrip("0123456789")  # noqa: RUF071
    cut = {name[len(prefix) : len(name) - len(suffix)] or name: name for name in names}
    numbers = {str(int(key)): name for key, name in cut.items() if key.isascii() and key.isdigit()}
    return numbers if len(numbers) == len(cut) else cut

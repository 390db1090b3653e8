"""Pairs of image and mask, found by name; an image without its mask is an error, never a guess."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.data.findings import Finding
from fullyconv.data.words import bare
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
    images_at: str,
    masks_at: str,
    unlabeled: str = "error",
) -> list[Pair]:
    """Pair files by their names without extension.

    Where no two names are equal, a word at their end such as _image or _mask is taken off, and then what all names of
    one side begin or end with. Where nothing but numbers is left, they have to be equal: 04 goes with labels00000004.

    Args:
        source: told what does not pair, and what was decided.
        images: images.
        masks: masks.
        images_at: where the images are, for messages.
        masks_at: where the masks are, for messages.
        unlabeled: "error" or "skip" for images without a mask.

    Returns:
        The pairs, sorted by name.
    """
    left, right, twins = _by_stem(images, masks)
    for same in twins:
        source.lose("files that share one name", same, "share one name; remove or rename one of them")
    return pair_names(source, left, right, images_at, masks_at, unlabeled)


def pair_names(
    source: Source,
    left: Mapping[str, Path],
    right: Mapping[str, Path],
    images_at: str,
    masks_at: str,
    unlabeled: str = "error",
) -> list[Pair]:
    """Pair images and masks, each listed by a name, as `pair_files` does.

    Args:
        source: told what does not pair, and what was decided.
        left: name -> image.
        right: name -> mask.
        images_at: where the images are, for messages.
        masks_at: where the masks are, for messages.
        unlabeled: "error" or "skip" for images without a mask.

    Returns:
        The pairs, sorted by name.
    """
    left, right, key = _shared(dict(left), dict(right))
    if key is not None:
        example = f"{left[key].name} with {right[key].name}"
        source.notes.append(f"paired by the part of the names that differs: {example}")
    _several(source, left, right, masks_at)
    lonely = [left[key] for key in sorted(left.keys() - right.keys())]
    if lonely and unlabeled == "skip":
        source.notes.append(f"{images_at}: {len(lonely)} images without a mask are left out")
    elif lonely:
        remedy = (
            f"no mask of the same name in {masks_at}{_hint(lonely[0], right.values(), masks_at)}; add the masks (the "
            'name without its extension must be equal), remove the images, or leave them out (unlabeled="skip", '
            "--unlabeled skip)"
        )
        source.lose("images without a mask", lonely, remedy)
    if extra := [right[key] for key in sorted(right.keys() - left.keys())]:
        remedy = (
            f"no image of the same name in {images_at}{_hint(extra[0], left.values(), images_at)}; add the images (the "
            "name without its extension must be equal), or remove the masks"
        )
        source.lose("masks without an image", extra, remedy)
    return [Pair(left[key], right[key], key) for key in sorted(left.keys() & right.keys())]


def plain_name(name: str) -> str:
    """Write accented letters as one sign: macOS stores them as two, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _by_stem(
    images: Iterable[Path], masks: Iterable[Path]
) -> tuple[dict[str, Path], dict[str, Path], list[list[Path]]]:
    """List files by their names; files of one side that share a name are left out of both, and listed apart."""
    sides: list[dict[str, list[Path]]] = []
    for files in (images, masks):
        by_name: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            by_name[plain_name(file.stem)].append(file)
        sides.append(by_name)
    twins = {name: same for side in sides for name, same in side.items() if len(same) > 1}
    left, right = ({name: same[0] for name, same in side.items() if name not in twins} for side in sides)
    return left, right, list(twins.values())


def _shared(left: dict[str, Path], right: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path], str | None]:
    """Call the files by what both sides share; and give an example where that is not the whole name."""
    if left.keys() & right.keys():
        return left, right, None
    ways: tuple[Callable[[Iterable[str]], dict[str, str]], ...] = (
        lambda names: {bare(name): name for name in names},
        distinct_parts,
    )
    for parts in ways:
        one, two = parts(left), parts(right)
        common = one.keys() & two.keys()
        if common and len(one) == len(left) and len(two) == len(right):
            return (
                {key: left[name] for key, name in one.items()},
                {key: right[name] for key, name in two.items()},
                min(common),
            )
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
    message = (
        f"{left[name]}: has {len(names)} masks in {masks_at}, {some(names, 3)}: one a class, or one an object? One "
        "mask an image is read: draw them into one, with a value for each class, or say by a pattern which are meant "
        f"(--masks '*{names[0].removeprefix(name)}')"
    )
    source.lost.append(Finding("error", "images with several masks", message, tuple(str(left[name]) for name in many)))
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
        if plain_name(entry.stem) == wanted and entry.suffix and entry.suffix.lower() not in MASK_EXTENSIONS:
            return f" ({entry.name} is there, but {entry.suffix} is no format that is read: save it as PNG)"
    return ""


def distinct_parts(stems: Iterable[str]) -> dict[str, str]:
    """Give what tells the names of one side apart -> the name; digits are never cut in two."""
    names = sorted(stems)
    if len(names) < 2:
        return {name: name for name in names}
    prefix = os.path.commonprefix(names).rstrip("0123456789")  # noqa: RUF071 - of letters, not of folders
    suffix = os.path.commonprefix([name[::-1] for name in names])[::-1].lstrip("0123456789")  # noqa: RUF071
    cut = {name[len(prefix) : len(name) - len(suffix)] or name: name for name in names}
    if all(key.isascii() and key.isdigit() for key in cut):
        numbers = {str(int(key)): name for key, name in cut.items()}
        return numbers if len(numbers) == len(cut) else cut
    return cut

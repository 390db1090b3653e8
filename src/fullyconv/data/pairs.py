"""Pairs of image and mask, found by name; an image without its mask is an error, never a guess."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullyconv.data.findings import Finding
from fullyconv.data.words import bare
from fullyconv.errors import some
from fullyconv.images import MASK_EXTENSIONS


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


@dataclass
class Paired:
    """What goes together of two lists of files.

    Args:
        pairs: the pairs, sorted by name.
        lost: what does not pair, as errors.
        notes: what was decided on the way, one sentence each.
    """

    pairs: list[Pair] = field(default_factory=list)
    lost: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pair_files(
    images: Iterable[Path], masks: Iterable[Path], images_at: str, masks_at: str, unlabeled: str = "error"
) -> Paired:
    """Pair files by their names without extension.

    Where no two names are equal, a word at their end such as _image or _mask is taken off, and then what all names of
    one side begin or end with. Where nothing but numbers is left, they have to be equal: 04 goes with labels00000004.

    Args:
        images: images.
        masks: masks.
        images_at: where the images are, for messages.
        masks_at: where the masks are, for messages.
        unlabeled: "error" or "skip" for images without a mask.

    Returns:
        What pairs and what does not.
    """
    found = Paired()
    left, right = _by_stem(images, masks, found)
    return pair_names(left, right, images_at, masks_at, unlabeled, found)


def pair_names(
    left: Mapping[str, Path],
    right: Mapping[str, Path],
    images_at: str,
    masks_at: str,
    unlabeled: str = "error",
    found: Paired | None = None,
) -> Paired:
    """Pair images and masks, each listed by a name, as `pair_files` does.

    Args:
        left: name -> image.
        right: name -> mask.
        images_at: where the images are, for messages.
        masks_at: where the masks are, for messages.
        unlabeled: "error" or "skip" for images without a mask.
        found: what was found before.

    Returns:
        What pairs and what does not.
    """
    found = found or Paired()
    left, right, key = _shared(dict(left), dict(right))
    if key is not None:
        example = f"{left[key].name} with {right[key].name}"
        found.notes.append(f"paired by the part of the names that differs: {example}")
    _several(left, right, masks_at, found)
    lonely = [left[key] for key in sorted(left.keys() - right.keys())]
    if lonely and unlabeled == "skip" and len(lonely) < len(left):
        found.notes.append(f"{images_at}: {len(lonely)} images without a mask are left out")
    elif lonely:
        leave = ', or leave them out (unlabeled="skip", --unlabeled skip)' if unlabeled != "skip" else ""
        _alone(found, "image", lonely, "mask", right.values(), masks_at, leave)
    if extra := [right[key] for key in sorted(right.keys() - left.keys())]:
        _alone(found, "mask", extra, "image", left.values(), images_at, "")
    found.pairs = [Pair(left[key], right[key], key) for key in sorted(left.keys() & right.keys())]
    return found


def _alone(
    found: Paired, kind: str, files: Sequence[Path], other: str, others: Iterable[Path], place: str, leave: str
) -> None:
    """Tell files of one side that have no partner."""
    remedy = (
        f"no {other} of the same name in {place}{_hint(files[0], others, place)}; add the {other}s (the name without "
        f"its extension must be equal), or remove the {kind}s{leave}"
    )
    found.lost.append(lost(f"{kind}s without {'a mask' if other == 'mask' else 'an image'}", files, remedy))


def lost(rule: str, files: Iterable[object], remedy: str) -> Finding:
    """Tell files that do not pair."""
    names = tuple(map(str, files))
    return Finding("error", rule, f"{some(names, 5)}: {remedy}", names)


def plain_name(name: str) -> str:
    """Write accented letters as one sign: macOS stores them as two, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _by_stem(images: Iterable[Path], masks: Iterable[Path], found: Paired) -> tuple[dict[str, Path], dict[str, Path]]:
    """List files by their names; a name that two images or two masks share is left out of both."""
    sides: list[dict[str, list[Path]]] = []
    for files in (images, masks):
        by_name: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            by_name[plain_name(file.stem)].append(file)
        sides.append(by_name)
    twins = {name for side in sides for name, same in side.items() if len(same) > 1}
    for name in sorted(twins):
        same = next(side[name] for side in sides if len(side.get(name, [])) > 1)
        message = f"{' and '.join(map(str, same))} share one name; remove or rename one of them"
        found.lost.append(Finding("error", "files that share one name", message, tuple(map(str, same))))
    left, right = ({name: same[0] for name, same in side.items() if name not in twins} for side in sides)
    return left, right


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
    left, right, _ = _shared(*_by_stem(images, masks, Paired()))
    return len(left.keys() & right.keys())


def _several(left: dict[str, Path], right: dict[str, Path], masks_at: str, found: Paired) -> None:
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
    found.lost.append(Finding("error", "images with several masks", message, tuple(str(left[name]) for name in many)))
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

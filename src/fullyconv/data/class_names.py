"""Names of classes: given by people, lying beside masks, or made of the values; and what is odd about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullyconv.data.documents import class_name, read_csv, read_json, read_text, whole_number
from fullyconv.errors import DatasetError, some
from fullyconv.labels import IGNORE, Labels, as_text, packed_color, parse_color

if TYPE_CHECKING:
    from fullyconv.data.public import PublicSet

MAX_BYTES = 2**20


@dataclass(frozen=True)
class ClassNames:
    """What files say that values or colors mean.

    Args:
        values: number or "#rrggbb" -> name, in the order of the file.
        files: where it stands.
        in_order: whether the numbers are those of the lines.
    """

    values: dict[int | str, str]
    files: tuple[Path, ...]
    in_order: bool = False

    @property
    def by_color(self) -> bool:
        """Tell whether the classes are named by their colors."""
        return any(isinstance(value, str) for value in self.values)


def names_beside(root: Path, folders: Iterable[Path]) -> ClassNames | None:
    """Find the file that names the classes: in the data folder, else in the folders around the files of a set.

    Args:
        root: the data folder.
        folders: where images and masks are.

    Returns:
        What is said; None where nothing is.

    Raises:
        DatasetError: if a file is damaged, or two files say different things.
    """
    own = _in_folder(root)
    if own is not None:
        return own
    above = {place for folder in folders for place in (folder, *folder.parents) if root in place.parents}
    found = [names for place in sorted(above) if (names := _in_folder(place)) is not None]
    values: dict[int | str, str] = {}
    for names in found:
        for value, name in names.values.items():
            if values.setdefault(value, name) != name:
                what = f"{value} is {name}, and {values[value]} in {found[0].files[0]}"
                remedy = "give each set of names its own data folder, or say what the values mean by values= (--values)"
                raise DatasetError(f"{names.files[0]}: {what}; {remedy}")
    files = tuple(path for names in found for path in names.files)
    return ClassNames(values, files, found[0].in_order) if found else None


def _in_folder(folder: Path) -> ClassNames | None:
    inside = sorted(folder.iterdir()) if folder.is_dir() else ()  # a table of images is no folder
    there = {path.name.lower(): path for path in inside}
    for name, read in _READERS.items():
        path = there.get(name)
        if path and path.is_file() and path.stat().st_size <= MAX_BYTES and (values := _values(read(path))):
            return ClassNames(values, (path,), read is _lines)
    return None


def _values(entries: Iterable[tuple[Any, object, str]]) -> dict[int | str, str]:
    """Make a label map of keys, names, and where they stand; a key is a number or a color."""
    values: dict[int | str, str] = {}
    for key, text, where in entries:
        value = _color(key, where) if isinstance(key, list) else whole_number(key)
        value = key if value is None and isinstance(key, str) and parse_color(key) is not None else value
        if value is None:
            raise DatasetError(f"{where}: has no value of a pixel; write a whole number")
        name = class_name(text, where)
        if values.setdefault(value, name) != name:
            raise DatasetError(f"{where}: {value} is {values[value]} and {name}; give each value once")
    return values


def _color(fields: Sequence[Any], where: str) -> str:
    levels = [number for field in fields[:3] if (number := whole_number(field)) is not None and number <= 255]
    if len(levels) < 3:
        found = ", ".join(str(field).strip()[:20] for field in fields[:4])
        raise DatasetError(f"{where}: {found} is no color; write three numbers 0..255")
    return as_text(packed_color(levels))


def _lines(path: Path) -> Iterator[tuple[Any, object, str]]:
    """Read one name a line, the first for value 0, or behind its number where every line begins with one."""
    lines = [line.strip() for line in read_text(path).rstrip().splitlines() if not line.startswith("# ")]
    if not lines:
        raise DatasetError(f"{path}: empty; write one class name a line, the first line for value 0")
    numbered = [re.fullmatch(r"(\d{1,5})\s*[\s:=,;]\s*(\S.*)", line) for line in lines]
    told = [(int(found[1]), found[2]) for found in numbered if found]
    for value, name in told if len(told) == len(lines) else enumerate(lines):
        where = f"{path}: line {value + 1}"
        if not name:
            raise DatasetError(f'{where} is empty; write a class name, or "{IGNORE}", for value {value}')
        yield value, name, where


def _color_lines(path: Path) -> Iterator[tuple[Any, object, str]]:
    """Read name:r,g,b:parts:actions, as CVAT writes it."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split(":")
        if not line.startswith("#") and len(fields) > 1 and fields[1].strip():
            yield fields[1].split(","), fields[0], f"{path}: line {number}"


def _table(path: Path) -> Iterator[tuple[Any, object, str]]:
    """Read columns of names with r, g, b, or with the value of the pixels."""
    for at, row in read_csv(path):
        name = _first(row, ("name", "class", "class name", "label"))
        number = _first(row, ("pixel value", "value", "id", "index"))
        by_color = {"r", "g", "b"} <= row.keys()
        if name is not None and (by_color or number is not None) and any("".join(row.values()).split()):
            yield [row[word] for word in "rgb"] if by_color else number, name, f"{path}: line {at}"


def _json(path: Path) -> list[tuple[Any, object, str]]:
    """Read a list of names, a table of numbers and names in either order, or objects with both."""
    content = read_json(path)
    if isinstance(content, dict):  # of nnU-Net, and of others around the same table
        content = _first(content, ("labels", "id2label", "names", "classes"), content)
    entries: list[tuple[Any, Any]] = []
    if isinstance(content, list):
        for at, entry in enumerate(content):
            told = entry if isinstance(entry, dict) else {"name": entry}
            key = _first(told, ("id", "value", "index", "color"), at)
            entries.append((key, _first(told, ("name", "label", "class"))))
    elif isinstance(content, dict):
        entries = [(name, key) if isinstance(name, int | list) else (key, name) for key, name in content.items()]
    meant = all(isinstance(name, str) and _is_key(key) for key, name in entries)
    meant &= len({isinstance(key, list) for key, _ in entries}) < 2  # a list beside numbers joins them, in nnU-Net
    return [(key, name, f"{path}: {key}") for key, name in entries] if meant else []


def _first(told: Mapping[str, Any], words: Iterable[str], default: object = None) -> Any:
    return next((told[word] for word in words if word in told), default)


def _is_key(key: object) -> bool:
    """Tell whether this may be the value of a pixel: a number, three or four levels, or #rrggbb."""
    if isinstance(key, list):
        return len(key) in (3, 4)
    return whole_number(key) is not None or (isinstance(key, str) and parse_color(key) is not None)


_READERS: dict[str, Callable[[Path], Iterable[tuple[Any, object, str]]]] = {
    "classes.txt": _lines,
    "class_names.txt": _lines,
    "id2label.json": _json,
    "classes.json": _json,
    "_classes.csv": _table,
    "class_dict.csv": _table,
    "labelmap.txt": _color_lines,
    "dataset.json": _json,
}
"""Names of files, those that say most first."""


def numbers_of(values: Mapping[int | str, str] | None) -> dict[int | str, str] | None:
    """Read keys as numbers where they are: JSON, YAML and command lines write them as text."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ValueError(f'values={values!r}: give a mapping of values in the mask files to names, {{0: "road"}}')
    read: dict[int | str, str] = {}
    for key, name in values.items():
        if not isinstance(name, str):
            raise ValueError(f"values={{{key!r}: {str(name)[:80]!r}}}: a class name is text")
        text = str(key).strip()
        value: int | str = int(text) if text.isascii() and text.removeprefix("-").isdigit() else text.lower()
        if value in read:
            raise ValueError(f"values: {value} is there twice ({read[value]} and {name}); give each value once")
        read[value] = name
    return read


def only_numbers(values: Mapping[int | str, str] | None) -> dict[int, str] | None:
    """Refuse a label map of colors where masks hold numbers."""
    if not values:
        return None
    if bad := [key for key in values if not isinstance(key, int)]:
        raise ValueError(f"values: {bad[0]!r} is no whole number, and these masks hold no colors")
    return {int(value): name for value, name in values.items()}


def renamed(
    own: Labels, classes: Sequence[str] | None, numbers: Mapping[int, str] | None, known: PublicSet | None
) -> Labels:
    """Take the classes that annotations or a public set name, unless values are given other names."""
    if classes is not None and tuple(classes) != own.names:
        if known is not None:
            return Labels.of(classes, values=numbers)
        if not numbers:
            what = f"the annotations name the classes {own.describe_values()}"
            remedy = "rename or join them by their values: values={1: name, ...} (--values)"
            raise ValueError(f"classes={list(classes)}: {what}; {remedy}")
    if not numbers:
        return own
    table: dict[int | str, str] = dict(own.values)
    table.update(numbers.items())
    if known is not None:  # whose classes stay, so that its models go on
        return replace(own, values=table)
    names = classes or list(dict.fromkeys(name for name in table.values() if name != IGNORE))
    return Labels.of(names, values=table)


def labels_from_values(found: Mapping[int, Path]) -> tuple[Labels, str]:
    """Name the classes after the values that masks hold, where the values leave no doubt.

    Args:
        found: value -> a mask that holds it.

    Returns:
        The labels, and a sentence that says what was made of the values.

    Raises:
        DatasetError: if the values may mean more than one thing; it says how to tell.

    Example:
        >>> labels_from_values({0: Path("a.png"), 1: Path("a.png"), 255: Path("b.png")})[0].values
        {0: 'class 0', 1: 'class 1', 255: 'ignore'}
    """
    values = sorted(found)
    shown = some(values, 16)
    remedy = (
        "Say what they mean: a classes.txt in the folder (one name a line, the first line for value 0), "
        'classes=["name", ...], or values={value: "name" or "ignore"}'
    )
    if values == [0, 255]:
        labels = Labels.of(["background", "foreground"], values={0: "background", 255: "foreground"})
        return labels, "the masks hold 0 and 255: read as 0 = background, 255 = foreground"
    classes = [value for value in values if value != 255]
    doubt = None
    if values and values[0] < 0:
        what = f"the value {values[0]}, which is no class; if it means no data, say --values={values[0]}=ignore,..."
        doubt = f"{found[values[0]]}: the masks hold {what}"
    elif len(classes) < 2:
        where = found[values[0]] if values else "masks"
        doubt = f"{where}: all masks together hold {shown}, which is fewer than two classes"
    # Class indices lie close together; gray levels (0, 128, 255), antialiased masks and probabilities do not.
    elif classes[-1] > 2 * len(classes) + 8 or (255 in values and len(classes) > 200):
        what = f"{shown}, which do not look like class indices (gray levels, antialiased borders or colors?)"
        doubt = f"{found[classes[-1]]}: the masks hold the values {what}"
    if doubt is not None:
        raise DatasetError(f"{doubt}. {remedy}")
    table = {value: f"class {value}" for value in classes} | {255: IGNORE}
    note = f"no classes.txt: classes named after the values in the masks ({shown}; 255 = ignore)"
    return Labels.of([table[value] for value in classes], values=table), note


def two_ends_hint(labels: Labels, seen: set[int]) -> str:
    """Say what masks of 0 and 255 mean where the label map ignores 255; empty where that is not so."""
    if seen != {0, 255} or labels.values.get(255) != IGNORE or labels.num_classes != 2:
        return ""
    first, second = labels.names
    return (
        f"the masks hold 0 and 255 and nothing else, and 255 is ignored, so that {second!r} never occurs. Say what "
        f'they mean: values={{0: "{first}", 255: "{second}"}} (--values "0={first},255={second}")'
    )


def shifted_hint(labels: Labels, seen: set[int]) -> str:
    """Say that masks seem to count their classes from 1 where the label map counts from 0; empty where that is not so.

    Example:
        >>> shifted_hint(Labels.of(["a", "b"]), {1, 2, 255})
        ' The masks hold 1..2 and never 0: counted from 1? Then give values={1: "a", 2: "b"} (--values 1=a,2=b)'
    """
    count = labels.num_classes
    from_zero = all(labels.values.get(value) == name for value, name in enumerate(labels.names))
    if not from_zero or 0 in seen or labels.unknown(seen) != [count]:
        return ""
    table = list(enumerate(labels.names, 1))
    python = ", ".join(f'{value}: "{name}"' for value, name in table[:8]) + (", ..." if count > 8 else "")
    words = ",".join(f"{value}={name}" for value, name in table[:8]) + (",..." if count > 8 else "")
    return f" The masks hold 1..{count} and never 0: counted from 1? Then give values={{{python}}} (--values {words})"

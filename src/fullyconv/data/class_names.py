"""Names of classes that lie beside masks: by the number of the value, or by the color."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullyconv.data.documents import class_name, read_json, read_text, whole_number
from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, as_text, parse_color

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
                raise DatasetError(
                    f"{names.files[0]}: {value} is {name}, and {values[value]} in {found[0].files[0]}; give each set "
                    "of names its own data folder, or say what the values mean by values= (--values)"
                )
    if not found:
        return None
    return ClassNames(values, tuple(path for names in found for path in names.files), found[0].in_order)


def _in_folder(folder: Path) -> ClassNames | None:
    for name, read in _READERS.items():
        path = folder / name
        if path.is_file() and path.stat().st_size <= MAX_BYTES and (values := read(path)):
            return ClassNames(values, (path,), name == "classes.txt")
    return None


def _lines(path: Path) -> dict[int | str, str]:
    """Read one name a line, the first for value 0."""
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if not lines:
        raise DatasetError(f"{path}: empty; write one class name a line, the first line for value 0")
    if "" in lines:
        value = lines.index("")
        raise DatasetError(f'{path}: line {value + 1} is empty; write a class name, or "{IGNORE}", for value {value}')
    return dict(enumerate(lines))


def _color_lines(path: Path) -> dict[int | str, str]:
    """Read name:r,g,b:parts:actions, as CVAT writes it."""
    values: dict[int | str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split(":")
        if line.strip() and not line.startswith("#") and len(fields) > 1 and fields[1].strip():
            where = f"{path}: line {number}"
            _put(values, _color(fields[1].split(","), where), fields[0], where)
    return values


def _table(path: Path) -> dict[int | str, str]:
    """Read columns of names with r, g, b, or with the value of the pixels."""
    values: dict[int | str, str] = {}
    try:
        rows = list(csv.reader(read_text(path).splitlines()))
    except csv.Error as error:
        raise DatasetError(f"{path}: cannot be read ({error}); save it as CSV") from error
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    name = next((columns.index(word) for word in ("name", "class", "class name", "label") if word in columns), None)
    number = next((columns.index(word) for word in ("pixel value", "value", "id", "index") if word in columns), None)
    colors = [columns.index(word) for word in ("r", "g", "b") if word in columns]
    if name is None or (number is None and len(colors) < 3):
        return {}
    for at, row in enumerate(rows[1:], 2):
        where = f"{path}: line {at}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(columns):
            raise DatasetError(f"{where}: has {len(row)} of {len(columns)} columns; correct it")
        key: int | str
        if len(colors) == 3:
            key = _color([row[column] for column in colors], where)
        elif number is not None and (whole := whole_number(row[number])) is not None:
            key = whole
        else:
            raise DatasetError(f"{where}: has no value of a pixel; write a whole number")
        _put(values, key, row[name], where)
    return values


def _json(path: Path) -> dict[int | str, str]:
    """Read a list of names, a table of numbers and names in either order, or objects with both."""
    content = read_json(path)
    if isinstance(content, dict):  # of nnU-Net, and of others around the same table
        content = next((content[key] for key in ("labels", "id2label", "names", "classes") if key in content), content)
    if isinstance(content, list):
        entries = [(_of(entry, "id", "value", "index", "color", default=at), _of(entry, "name", "label", "class"))
                   for at, entry in enumerate(content)]  # fmt: skip
    elif isinstance(content, dict):
        entries = [(name, key) if isinstance(name, int | list) else (key, name) for key, name in content.items()]
    else:
        return {}
    values: dict[int | str, str] = {}
    for key, name in entries:
        if isinstance(key, list) and len(key) in (3, 4):
            key = _color(key, str(path))
        elif (whole := whole_number(key)) is not None:
            key = whole
        elif not isinstance(key, str) or parse_color(key) is None:
            return {}
        if not isinstance(name, str):
            return {}
        _put(values, key, name, f"{path}: {key}")
    return values


def _put(values: dict[int | str, str], key: int | str, name: str, where: str) -> None:
    name = class_name(name, where)
    if values.setdefault(key, name) != name:
        raise DatasetError(f"{where}: {key} is {values[key]} and {name}; give each value once")


def _of(entry: Any, *keys: str, default: Any = None) -> Any:
    if isinstance(entry, dict):
        return next((entry[key] for key in keys if key in entry), default)
    return entry if default is None else default


def _color(fields: Sequence[Any], where: str) -> str:
    numbers = [whole_number(field) for field in fields]
    levels = [number for number in numbers[:3] if number is not None and number <= 255]
    if len(levels) < 3:
        found = ", ".join(str(field).strip()[:20] for field in list(fields)[:4])
        raise DatasetError(f"{where}: {found} is no color; write three numbers 0..255")
    red, green, blue = levels
    return as_text(red << 16 | green << 8 | blue)


_READERS = {
    "classes.txt": _lines,
    "id2label.json": _json,
    "classes.json": _json,
    "_classes.csv": _table,
    "class_dict.csv": _table,
    "labelmap.txt": _color_lines,
    "dataset.json": _json,
}
"""Names of files, those that say most first."""

"""What all files about images share: text within bounds, names that become classes, points that become polygons."""

from __future__ import annotations

import csv
import functools
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels

T = TypeVar("T")

BACKGROUND = "background"
_BACKGROUND_WORDS = ("background", "_background_", "__background__")
_IGNORE_WORDS = ("ignore", "__ignore__")

MAX_BYTES = 2**30
"""Bytes of a file: COCO's JSON of 118,000 training images has 0.45 GB."""


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file within bounds.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.

    Raises:
        DatasetError: if it is too large, cannot be read, or is no UTF-8.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DatasetError(f"{path}: has more than {max_bytes} bytes; split it")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); replace it") from error


def read_json(path: Path, max_bytes: int = MAX_BYTES, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file within bounds.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.
        hook: what becomes of every object as soon as it is read.

    Raises:
        DatasetError: if it is no such text, no JSON, or nested too deeply.
    """
    text = read_text(path, max_bytes)
    try:
        return json.loads(text, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON ({error}); export it anew") from error


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the lines of a CSV or TSV file.

    Args:
        path: the file; a semicolon may stand for the comma, as spreadsheets write it where that is the decimal sign.

    Returns:
        The number of each line that is not empty, and column in small letters -> what stands there.

    Raises:
        DatasetError: if it is no such text.
    """
    lines = read_text(path).splitlines()
    by_semicolon = bool(lines) and "," not in lines[0] and ";" in lines[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if by_semicolon else ","
    reader = csv.DictReader(lines, delimiter=delimiter, restval="")
    try:
        columns = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        return [(reader.line_num, {name: row[name] for name in columns}) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{path}: cannot be read ({error}); save it as CSV") from error


def read_once(most: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Make what reads a file keep what it read, in every process, until the file changes.

    Args:
        most: how many files are kept.
    """

    def keeping(read: Callable[..., T]) -> Callable[..., T]:
        lock = threading.Lock()
        kept = functools.lru_cache(maxsize=most)(lambda state, path, *more: read(path, *more))

        @functools.wraps(read)
        def reading(path: Path, *more: str) -> T:
            try:
                state = path.stat()
            except OSError as error:
                raise DatasetError(f"{path}: cannot be read ({error.strerror}); replace it") from error
            with lock:  # else every thread would read the same file
                return kept((state.st_mtime_ns, state.st_size), path, *more)

        return reading

    return keeping


def safe_parts(text: object, where: str, remedy: str = "give a name relative to it") -> tuple[str, ...]:
    """Take a relative name of a file apart, written with either slash.

    Args:
        text: what stands in the file.
        where: what the message begins with.
        remedy: what to do where the name leads out of the folder.

    Raises:
        DatasetError: if it is no text, absolute, or leads upwards.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text or len(text) > 4096:
        raise DatasetError(f"{where}: {str(text)[:80]!r} is no name of a file; correct it")
    path = PureWindowsPath(text.strip())  # which splits at both slashes
    if path.is_absolute() or path.drive or path.root or ".." in path.parts:
        raise DatasetError(f"{where}: {text[:200]!r} leads out of its folder; {remedy}")
    return path.parts


def whole_number(value: object) -> int | None:
    """Read a number as files write it, in digits or as a number; None for anything else, and for what has no end."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def points_of(given: object, where: str, farthest: float) -> npt.NDArray[np.float64]:
    """Read the corners of a shape.

    Args:
        given: a list of [x, y], or x, y, x, y, ...
        where: what the message begins with.
        farthest: how many pixels from the origin a point may lie.

    Returns:
        (n, 2).

    Raises:
        DatasetError: if it is no such list, or a point lies farther off.
    """
    try:
        points = np.asarray(given)
    except ValueError:  # of different lengths
        points = np.array("")
    if points.dtype.kind not in "iuf" or points.size % 2 or not (points.ndim == 1 or points.shape[1:] == (2,)):
        raise DatasetError(f"{where}: its points are no list of [x, y] or of x, y, x, y, ...; correct or remove it")
    points = points.astype(np.float64).reshape(-1, 2)
    if not (most := np.abs(points).max(initial=0)) <= farthest:  # nor are numbers that are none
        raise DatasetError(f"{where}: lies {most:g} pixels off; correct or remove it")
    return points


def class_name(text: object, where: str) -> str:
    """Read the name of a class; the words of tools for background and ignored pixels become ours.

    Raises:
        DatasetError: if it is no text, empty, of several lines, or without end.
    """
    name = text.strip() if isinstance(text, str) and len(text) <= 200 else ""
    if not name or not name.isprintable():
        raise DatasetError(f"{where}: {str(text)[:80]!r} is no name of a class; write one line of at most 200 letters")
    if name.lower() in _BACKGROUND_WORDS:
        return BACKGROUND
    return IGNORE if name.lower() in _IGNORE_WORDS else name


def classes_of(names: Iterable[str]) -> tuple[Labels, dict[str, int]]:
    """Make classes of names: background is the first, whether it is among them or not.

    Args:
        names: as `class_name` gives them.

    Returns:
        The labels, and for each name the value that its pixels have in a mask.

    Example:
        >>> labels, values = classes_of(["cat", "background", "ignore", "dog"])
        >>> labels.names, values
        (('background', 'cat', 'dog'), {'background': 0, 'cat': 1, 'dog': 2, 'ignore': 255})
    """
    own = [name for name in dict.fromkeys(names) if name not in (BACKGROUND, IGNORE)]
    labels = Labels.of([BACKGROUND, *own])
    return labels, {name: value for value, name in enumerate(labels.names)} | {IGNORE: labels.ignore_index}

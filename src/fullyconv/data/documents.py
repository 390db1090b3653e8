"""What all annotation files share: JSON that is read within bounds, and names that become classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels

BACKGROUND = "background"
_BACKGROUND_WORDS = ("background", "_background_", "__background__")
_IGNORE_WORDS = ("ignore", "__ignore__")

MAX_JSON = 2**30
"""Bytes of a JSON file: that of COCO's 118,000 training images has 0.45 GB."""


def read_json(path: Path, max_bytes: int = MAX_JSON, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file within bounds.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.
        hook: what becomes of every object as soon as it is read.

    Raises:
        DatasetError: if it is too large, no UTF-8, no JSON, or nested too deeply.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DatasetError(f"{path}: has {size} bytes, and at most {max_bytes} are read; split it")
        return json.loads(path.read_text(encoding="utf-8-sig"), object_hook=hook)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); replace it") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON ({error}); export it anew") from error


def safe_parts(text: object, where: str) -> tuple[str, ...]:
    """Take a relative name of a file apart, written with either slash.

    Args:
        text: what stands in the file.
        where: what the message begins with.

    Raises:
        DatasetError: if it is no text, absolute, or leads upwards.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text or len(text) > 4096:
        raise DatasetError(f"{where}: {str(text)[:80]!r} is no name of a file; correct it")
    path = PureWindowsPath(text.strip())  # which splits at both slashes
    if path.is_absolute() or path.drive or path.root or ".." in path.parts:
        raise DatasetError(f"{where}: {text[:200]!r} leads out of its folder; give a name relative to it")
    return path.parts


def whole_number(value: object) -> int | None:
    """Read a number as files write it, in digits or as a number; None for anything else, and for what has no end."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def class_name(text: object, where: str) -> str:
    """Read the name of a class; the words of tools for background and ignored pixels become ours.

    Raises:
        DatasetError: if it is no text, empty, of several lines, or without end.
    """
    if not isinstance(text, str) or not text.strip() or not text.strip().isprintable() or len(text) > 200:
        raise DatasetError(
            f"{where}: {str(text)[:80]!r} is no name of a class; write one printable line of at most 200 letters"
        )
    name = text.strip()
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

"""Class names, palette and label map: the words that data, module, inference and model folder share.

A mask file holds values; a network knows class indices 0 .. K-1. The one thing that stands between the two is
`Labels.values`: `{value in the file: class name or "ignore"}`. A value is a number, or a color "#rrggbb". There is no
shift and no second map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError, near_miss, some
from fullyconv.palettes import Color, palette_for

T = TypeVar("T")

IGNORE = "ignore"
"""The word that stands in a label map for pixels that count for nothing."""

OTHER = "other"
"""The word that stands in a label map of colors for pixels that are like none of them."""

NO_COLOR = 1 << 24
"""The number that such pixels have where colors are numbers: one above the last, white."""

VOID_COLOR = (224, 224, 192)
"""How PASCAL VOC draws index 255."""

_MAX_VALUE = 65535  # masks have 16 bits at most
_MAX_HEADS = 64
_MAX_CLASSES = 4096  # a confusion matrix has the square of it; no data set comes near


def packed(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Write colors as numbers 0xRRGGBB.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (H, W) int32.

    Example:
        >>> hex(int(packed(np.array([[[255, 0, 16]]], np.uint8))[0, 0]))
        '0xff0010'
    """
    wide = pixels.astype(np.int32)
    result: npt.NDArray[np.int32] = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return result


def packed_color(color: Sequence[int]) -> int:
    """Write one color as a number 0xRRGGBB."""
    red, green, blue = color
    return (red << 16) | (green << 8) | blue


def as_text(color: int) -> str:
    """Write a color as #rrggbb.

    Example:
        >>> as_text(0xff0010)
        '#ff0010'
    """
    return OTHER if color == NO_COLOR else f"#{color:06x}"


def parse_color(text: str) -> int | None:
    """Read #rrggbb, or "other"; None if it is neither.

    Example:
        >>> parse_color("#FF0010") == 0xff0010, parse_color("red")
        (True, None)
    """
    digits = text.removeprefix("#").lower()
    if text == OTHER:
        return NO_COLOR
    if not text.startswith("#") or len(digits) != 6 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def runs_of(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Give the values of the runs of equal pixels, row by row, and their lengths: masks have few of them.

    Example:
        >>> values, lengths = runs_of(np.array([[7, 7], [7, 2]]))
        >>> values.tolist(), lengths.tolist()
        ([7, 2], [3, 1])
    """
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]])[: flat.size])
    return flat[starts], np.diff(np.concatenate([starts, [flat.size]]))


def count_values_of(mask: npt.NDArray[Any]) -> dict[int, int]:
    """Count the pixels of every value.

    Args:
        mask: integers of any shape.

    Example:
        >>> count_values_of(np.array([[7, 7], [7, 2]]))
        {2: 1, 7: 3}
    """
    if mask.dtype == np.uint8:
        histogram = np.bincount(mask.reshape(-1), minlength=256)
        return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
    runs, lengths = runs_of(mask)
    found, inverse = np.unique(runs, return_inverse=True)
    counts = np.bincount(inverse.ravel(), weights=lengths, minlength=len(found))
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


@dataclass(frozen=True)
class Labels:
    """Hold the classes of a segmentation task: names, colors, and what the values in mask files mean.

    Args:
        names: class names in the order of the network's outputs; unique, none of them empty or "ignore".
        palette: one (red, green, blue) color in 0..255 per class.
        ignore_index: index of ignored pixels in loss, metric and padding; never the index of a class.
        values: value in the mask file -> class name or "ignore". A value is a number, or, for masks of colors, a
            color "#rrggbb"; "other" then stands for all that are not named, and is ignored unless it is given. Empty
            means value = class index. The number `ignore_index` is ignored unless it has a class. Several values may
            share a class.

    Raises:
        ValueError: if one of the rules above is broken.

    Example:
        >>> labels = Labels.of(["road", "sky"], values={7: "road", 23: "sky", 0: "ignore"})
        >>> labels.encode(np.array([[7, 23], [0, 7]], dtype=np.uint8)).tolist()
        [[0, 1], [255, 0]]
        >>> labels = Labels.of(["road", "sky"], values={"#808080": "road", "#0000ff": "sky"})
        >>> labels.encode(np.array([[[128, 128, 128], [0, 0, 255]]], dtype=np.uint8)).tolist()
        [[0, 1]]
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = 255
    values: dict[int | str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        k = len(_names(self.names))
        object.__setattr__(self, "palette", _palette(self.names, self.palette))
        index = self.ignore_index
        if not isinstance(index, int) or isinstance(index, bool) or not k <= index <= _MAX_VALUE:
            raise ValueError(
                f"ignore_index={index!r}: give a whole number that is no class, {k}..{_MAX_VALUE}; to leave a class "
                f'out map its value to "{IGNORE}" in values='
            )
        values = _values(self.values or dict(enumerate(self.names)), self.names)
        if OTHER not in values:
            values.setdefault(index, IGNORE)
        object.__setattr__(self, "values", values)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        values: Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str] | None = None,
        ignore_index: int | None = None,
    ) -> Labels:
        """Make labels from names alone, with the default palette and value = class index unless told otherwise.

        Args:
            names: class names in the order of the network's outputs.
            palette: one color per class; by default those of `default_palette`, black for a background and for the
                first of two classes.
            values: value in the mask file -> class name or "ignore"; by default value i is class i and 255 (65535 with
                more than 255 classes) is ignored. Where given, 255 means what `values` says, and is ignored if it
                says nothing. A value may be a color "#rrggbb"; then all are.
            ignore_index: index of ignored pixels; 255, or 65535 with more than 255 classes, by default.

        Returns:
            The labels.

        Raises:
            ValueError: if a rule of `Labels` is broken.

        Example:
            >>> Labels.of(["background", "cat"]).values
            {0: 'background', 1: 'cat', 255: 'ignore'}
        """
        names = _names(names)
        if ignore_index is None:
            ignore_index = 255 if len(names) <= 255 else _MAX_VALUE
        return cls(names, _palette(names, palette), ignore_index, dict(values.items()) if values else {})

    @property
    def num_classes(self) -> int:
        """Count the classes, K; ignored pixels are no class."""
        return len(self.names)

    def index(self, label: str | int) -> int:
        """Find a class.

        Args:
            label: its name, or its number, which may be written as text where no class is called so.

        Returns:
            The number of the class, in 0..K-1.

        Raises:
            ValueError: if there is none; the message says which are called alike.

        Example:
            >>> labels = Labels.of(["background", "cat"])
            >>> labels.index("cat"), labels.index(1), labels.index("0")
            (1, 1, 0)
        """
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        if str(label).isdecimal() and int(label) < self.num_classes:
            return int(label)
        remedy = f"give a name, or a number 0..{self.num_classes - 1}. {near_miss(str(label), self.names)}"
        raise ValueError(f"label={label!r}: no such class; {remedy}")

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Tell the type of an encoded mask: uint8 up to 255 classes, uint16 beyond."""
        return np.uint8 if self.ignore_index <= 255 else np.uint16

    @property
    def by_color(self) -> bool:
        """Tell whether the values are colors."""
        return OTHER in self.values

    @cached_property
    def meaning(self) -> dict[int, str]:
        """The label map by number: `values`, with colors as 0xRRGGBB and `NO_COLOR` for those that are not named.

        Example:
            >>> labels = Labels.of(["sky"], values={"#0000ff": "sky"})
            >>> labels.meaning == {0x0000ff: "sky", NO_COLOR: "ignore"}
            True
        """
        return {
            value if isinstance(value, int) else parse_color(value) or 0: name for value, name in self.values.items()
        }

    @cached_property
    def _table(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """The values in increasing order and the class index of each."""
        index = {name: i for i, name in enumerate(self.names)} | {IGNORE: self.ignore_index}
        values = sorted(self.meaning)
        return np.array(values, np.int64), np.array([index[self.meaning[value]] for value in values], self.dtype)

    def encode(self, mask: npt.NDArray[Any], path: str | Path | None = None) -> npt.NDArray[Any]:
        """Turn the values of a mask file into class indices.

        Args:
            mask: (H, W) integers as they stand in the file; for a label map of colors (H, W, 3) uint8, or (H, W)
                integers 0xRRGGBB, where `NO_COLOR` marks what is like none of the colors.
            path: the file, for the message.

        Returns:
            (H, W) class indices with `ignore_index` where the label map says "ignore"; uint8 up to 255 classes, else
            uint16.

        Raises:
            DatasetError: if the mask holds a value that the label map does not know; it names file, values and remedy.
            ValueError: if `mask` is not an array of integers with two axes.
        """
        mask = np.asarray(mask)
        if self.by_color and mask.ndim == 3 and mask.shape[2] == 3 and mask.dtype == np.uint8:
            mask = packed(mask)
        if mask.ndim != 2 or not (np.issubdtype(mask.dtype, np.integer) or mask.dtype == np.bool_):
            raise ValueError(
                f"mask has shape {mask.shape} and type {mask.dtype}: a mask is (H, W) integers; "
                "read it with fullyconv.images.read_mask"
            )
        if mask.dtype == np.bool_:
            mask = mask.view(np.uint8)
        values, indices = self._table
        runs, lengths = runs_of(mask)
        places = np.searchsorted(values, runs).clip(max=len(values) - 1)
        if (values[places] != runs).any():
            raise DatasetError(self.stray_message(count_values_of(mask), path))
        return np.repeat(indices[places], lengths).reshape(mask.shape)

    def unknown(self, values: Iterable[int]) -> list[int]:
        """List the values that the label map does not know, in increasing order; colors as 0xRRGGBB.

        Example:
            >>> Labels.of(["road", "sky"]).unknown([0, 1, 2, 255])
            [2]
        """
        return sorted({int(value) for value in values} - set(self.meaning))

    def value_text(self, value: int) -> str:
        """Write a value as a user would: a number, or a color "#rrggbb"."""
        return as_text(value) if self.by_color and 0 <= value <= NO_COLOR else str(value)

    def stray_message(self, counts: Mapping[int, int], path: str | Path | None = None) -> str:
        """Say which values of a mask are not in the label map and what to do.

        Args:
            counts: value in the file -> number of pixels; colors as 0xRRGGBB.
            path: the file.

        Returns:
            One sentence about the file, one about the remedy.
        """
        stray = self.unknown(counts)
        shown = some((f"{self.value_text(value)} ({counts[value]} pixels)" for value in stray), 8)
        where = "mask" if path is None else str(path)
        first = f'"{self.value_text(stray[0])}"' if self.by_color else str(stray[0])
        remedy = f'correct the mask, or say what it means: values={{{first}: "ignore"}} or a class name'
        hint = ""
        if 255 in counts and self.values.get(255) == IGNORE and len(stray) > 20:
            hint = " So many values look like gray levels or antialiased borders, which are no labels."
        what = "color" if self.by_color else "label value"
        return f"{where}: {what} {shown} is not in the label map {self.describe_values()}; {remedy}.{hint}"

    def describe_values(self) -> str:
        """Write the label map on one line, at most a dozen entries of it."""
        items = [f"{self.value_text(value)}={name}" for value, name in sorted(self.meaning.items())]
        if len(items) > 14:
            items = [*items[:10], "...", *items[-2:]]
        return "{" + ", ".join(items) + "}"

    def to_dict(self) -> dict[str, Any]:
        """Write as plain JSON values; `from_dict` reads them back.

        Returns:
            Names, palette, ignore index and values (with keys as text, as JSON wants them).
        """
        return {
            "names": list(self.names),
            "palette": [list(color) for color in self.palette],
            "ignore_index": self.ignore_index,
            "values": {str(value): name for value, name in self.values.items()},
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Labels:
        """Read what `to_dict` wrote.

        Args:
            entry: a mapping with `names`, and optionally `palette`, `ignore_index`, `values`.

        Returns:
            The labels.

        Raises:
            ValueError: if an entry is missing, unknown, or breaks a rule of `Labels`.

        Example:
            >>> labels = Labels.of(["road", "sky"])
            >>> Labels.from_dict(labels.to_dict()) == labels
            True
        """
        if not isinstance(entry, Mapping) or "names" not in entry:
            raise ValueError(f"labels={entry!r} lacks 'names'; give a mapping as Labels.to_dict writes it")
        known = ["names", "palette", "ignore_index", "values"]
        for key in entry.keys() - known:
            raise ValueError(f"labels has an entry {key!r} that means nothing. {near_miss(str(key), known)}")
        values = entry.get("values") or {}
        try:
            table = {_value(value): name for value, name in values.items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"values={values!r}: give a mapping of integers or colors to class names") from None
        return cls.of(entry["names"], entry.get("palette"), table, entry.get("ignore_index"))


AnyLabels = Labels | Mapping[str, Labels]
"""The labels of one head, or of several by their names."""


def by_head(given: T | Mapping[str, T]) -> dict[str, T]:
    """Give a dict by head of what may be one value; the head of a single one is called ""."""
    return dict(given) if isinstance(given, Mapping) else {"": given}


def at_edge(found: Mapping[str, Any]) -> Any:
    """Undo `by_head`: give the value itself where there is a single head, else a dict by head."""
    return found[""] if "" in found else dict(found)


def to_plain(labels: AnyLabels) -> dict[str, Any]:
    """Write labels as plain JSON values, those of several heads under "heads"; `from_plain` reads them back."""
    return labels.to_dict() if isinstance(labels, Labels) else {"heads": {k: v.to_dict() for k, v in labels.items()}}


def from_plain(entry: Mapping[str, Any]) -> Labels | dict[str, Labels]:
    """Read what `to_plain` wrote.

    Raises:
        ValueError: if it is something else.
    """
    if "heads" not in entry:
        return Labels.from_dict(entry)
    heads = entry["heads"]
    if len(entry) != 1 or not isinstance(heads, Mapping) or not 1 <= len(heads) <= _MAX_HEADS:
        raise ValueError(f"labels must hold 'heads', an object of 1 to {_MAX_HEADS} labels by name, and nothing else")
    if not all(map(str.isidentifier, heads)):
        raise ValueError(f"heads {some(heads)}: a head has a name that is an identifier")
    return {head: Labels.from_dict(labels) for head, labels in heads.items()}


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Tell classes of one name apart by their numbers: ImageNet has two cranes, a bird and a machine.

    Args:
        names: class names in the order of the network's outputs.

    Returns:
        The names; each that occurs more than once has its number behind it.

    Example:
        >>> unique_names(["crane", "palace", "crane"])
        ('crane (0)', 'palace', 'crane (2)')
    """
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names))


def _names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f'names={names!r}: give a list of class names, such as ["road", "sky"]')
    names = tuple(names)
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise ValueError(f"names holds {len(names)} classes: a segmentation task has 1 to {_MAX_CLASSES}")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 200:
            raise ValueError(f"names holds {str(name)[:200]!r}: a class name is one printable line of 1 to 200 letters")
        if name == IGNORE:
            raise ValueError(
                f'names holds "{IGNORE}", which is the word for pixels that count for nothing; rename the class, or '
                f'leave it out and map its value: values={{value: "{IGNORE}"}}'
            )
        if name in seen:
            raise ValueError(f"names holds {name!r} twice: class names are unique; rename one")
        seen.add(name)
    return names


def _values(values: Mapping[int | str, str], names: Sequence[str]) -> dict[int | str, str]:
    """Check a label map; its colors are written in small letters."""
    read: dict[int | str, str] = {}
    for value, name in values.items():
        color = parse_color(value) if isinstance(value, str) else None
        if color is None and (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not (-(2**31) if name == IGNORE else 0) <= value <= _MAX_VALUE
        ):
            raise ValueError(
                f"values={{{value!r}: {name!r}}}: a class has integers in 0..{_MAX_VALUE}, or colors written "
                f'"#rrggbb"; negative integers may be "{IGNORE}"'
            )
        if name != IGNORE and name not in names:
            raise ValueError(f"values={{{value!r}: {name!r}}} names no class. {near_miss(str(name), [*names, IGNORE])}")
        key = value if color is None else as_text(color)
        if key in read:
            raise ValueError(f"values holds the color {key} twice; remove one")
        read[key] = name
    colors = [value for value in read if isinstance(value, str)]
    if colors and len(colors) < len(read):
        raise ValueError(f"values={read!r}: mixes numbers and colors; masks of one set hold one or the other")
    if colors == [OTHER]:
        raise ValueError(f'values={read!r}: names no color; give at least one, such as "#ff0000"')
    return read | {OTHER: read.get(OTHER, IGNORE)} if colors else read


def _value(value: int | str) -> int | str:
    return value if isinstance(value, str) and parse_color(value) is not None else int(value)


def _palette(names: tuple[str, ...], palette: object) -> tuple[Color, ...]:
    if palette is None:
        return palette_for(names)
    if isinstance(palette, str) or not isinstance(palette, Sequence) or len(palette) != len(names):
        raise ValueError(f"palette={palette!r}: give a list of colors, one for each of the {len(names)} classes")
    return tuple(map(_color, palette))


def _color(color: Sequence[int]) -> Color:
    try:
        red, green, blue = (int(c) for c in color)
    except (TypeError, ValueError, OverflowError):
        red = green = blue = -1
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise ValueError(f"palette={color!r}: a color is three integers in 0..255 (red, green, blue)")
    return red, green, blue

"""Label maps: read as people write them, made of the values that masks hold, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fullyconv.data.public import PublicSet
from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels


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
    bad = [key for key in values if not isinstance(key, int)]
    if bad:
        raise ValueError(f"values: {bad[0]!r} is no whole number, and these masks hold no colors")
    return {int(value): name for value, name in values.items()}


def renamed(
    own: Labels, classes: Sequence[str] | None, numbers: Mapping[int, str] | None, known: PublicSet | None
) -> Labels:
    """Take the classes that annotations or a public set name, unless values are given other names."""
    if known is not None and classes is not None and tuple(classes) != own.names:
        return Labels.of(classes, values=numbers)
    if classes is not None and not numbers and tuple(classes) != own.names:
        raise ValueError(
            f"classes={list(classes)}: the annotations name the classes {list(own.names)}; rename or join them by "
            f"their values ({own.describe_values()}): values={{1: name, ...}} (--values)"
        )
    if not numbers:
        return own
    table: dict[int | str, str] = dict(own.values)
    table.update(numbers.items())
    if known is not None:  # whose classes stay, so that its models go on
        return Labels(own.names, own.palette, own.ignore_index, table)
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
    shown = ", ".join(map(str, values[:16])) + (", ..." if len(values) > 16 else "")
    remedy = (
        "Say what they mean: a classes.txt in the folder (one name a line, the first line for value 0), "
        'classes=["name", ...], or values={value: "name" or "ignore"}'
    )
    if values and values[0] < 0:
        raise DatasetError(
            f"{found[values[0]]}: the masks hold the value {values[0]}, which is no class; if it means no data, say so "
            f"together with the others (--values={values[0]}=ignore,...). {remedy}"
        )
    if values == [0, 255]:
        labels = Labels.of(["background", "foreground"], values={0: "background", 255: "foreground"})
        return labels, "the masks hold 0 and 255: read as 0 = background, 255 = foreground"
    classes = [value for value in values if value != 255]
    if len(classes) < 2:
        raise DatasetError(
            f"{found[values[0]] if values else 'masks'}: all masks together hold the values {shown}, which is fewer "
            f"than two classes. {remedy}"
        )
    # Class indices lie close together; gray levels (0, 128, 255), antialiased masks and probabilities do not.
    if classes[-1] > 2 * len(classes) + 8 or (255 in values and len(classes) > 200):
        raise DatasetError(
            f"{found[classes[-1]]}: the masks hold the values {shown}, which do not look like class indices (gray "
            f"levels, antialiased borders or colors?). {remedy}"
        )
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

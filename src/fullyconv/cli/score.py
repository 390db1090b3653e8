"""``test`` and ``validate``: the metrics of a model."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullyconv.cli.opening import open_segmenter
from fullyconv.cli.options import (
    DATA_HELP,
    FRACTIONS,
    MODEL_HELP,
    Commands,
    add_reading,
    add_shared,
    new_command,
    positive,
    print_json,
    reading_of,
    reading_words,
)
from fullyconv.cli.progress import busy

if TYPE_CHECKING:
    from fullyconv.confusion import SegmentationScores
    from fullyconv.data.pairs import Pair


def add(commands: Commands) -> None:
    """Add `test` and `validate`."""
    for name, split in (("test", "test"), ("validate", "val")):
        command = new_command(commands, _test, "MODEL DATA [options]", name)
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        command.add_argument("data", metavar="DATA", help=DATA_HELP)
        command.add_argument("--split", choices=("train", "val", "test"), default=split, help="(default: %(default)s)")
        command.add_argument("--report", metavar="FILE", help="write a page: scores, curves and the worst images")
        command.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images at a time (4)")
        command.add_argument("--json", action="store_true", help="for programs: one object, in percent")
        add_shared(command, "device", "allow_unverified")
        command.add_argument("--shard", metavar="K/N", help="score this part, such as 3/16, into --out; join adds up")
        command.add_argument("--out", metavar="FOLDER", help="of the parts that --shard scores")
        add_reading(command, FRACTIONS)


def _test(arguments: argparse.Namespace) -> int:
    """Print the metrics of a model on one split of a set. Or of a run: --config RECIPE --ckpt_path FILE."""
    from fullyconv.data.datamodule import SegmentationDataModule

    if (arguments.shard is None) != (arguments.out is None) or (arguments.shard and arguments.report):
        raise ValueError("--shard K/N and --out FOLDER: give both, and no --report; or none")
    segmenter = open_segmenter(arguments)
    reading = reading_of(arguments, segmenter.preprocessing.value_range)
    data = SegmentationDataModule(
        arguments.data, in_channels=int(segmenter.hparams["in_channels"]), batch_size=arguments.batch_size, **reading
    )
    for text in data.source.warned:
        print(f"fullyconv: {text}", file=sys.stderr)
    if arguments.shard:
        return _test_part(arguments, segmenter, data, reading)
    if arguments.report:
        from fullyconv.report import write_report

        words = f"fullyconv test {arguments.model} {arguments.data} --split {arguments.split}{reading_words(reading)}"
        with busy(f"scoring {arguments.model}"):
            result = write_report(segmenter, data, arguments.split, arguments.report, command=words)
        print(f"report written to {arguments.report}", file=sys.stderr)
    else:
        with busy(f"scoring {arguments.model}"):
            result = segmenter.evaluate(data, arguments.split, device=arguments.device)
    show(_where(arguments), segmenter.classes, result, arguments.json)
    return 0


def _test_part(arguments: argparse.Namespace, segmenter: Any, data: Any, reading: Mapping[str, Any]) -> int:
    from fullyconv.inference.identity import identity
    from fullyconv.inference.joining import score_part
    from fullyconv.inference.journal import Shard

    shard = Shard.parse(arguments.shard)
    pairs = data.dataset(arguments.split).pairs
    part = [pair for pair in pairs if shard.takes(pair.key)]
    read = sorted((key, str(value)) for key, value in reading.items())
    facts = {"where": _where(arguments), "model": identity(segmenter), "read": read, "pairs": _digest(pairs, keys=True)}

    def matrix_of(some: Sequence[Any]) -> Any:
        of_some = copy.copy(data)
        of_some.splits = {arguments.split: list(some)}
        segmenter.evaluate(of_some, arguments.split, device=arguments.device)
        return segmenter.test_matrices[0]

    with busy(f"scoring {arguments.model}"):
        new = score_part(arguments.out, shard, facts, segmenter.classes, part, matrix_of, stamp=_digest(part))
    before = "" if new else ", which were scored before"
    print(f"part {arguments.shard}: {len(part)} of {len(pairs)} images{before}; fullyconv join {arguments.out} adds up")
    return 0


def _digest(pairs: Sequence[Pair], keys: bool = False) -> str:
    """Say in short which pairs there are, and unless only their names are meant, what their files are now."""
    from fullyconv.inference.identity import file_identity

    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        # what is called FILE/NAME lies inside FILE
        files = () if keys else (path.parent if path.parent.is_file() else path for path in (pair.image, pair.mask))
        digest.update(json.dumps([pair.key, [file_identity(path) for path in files]]).encode())
    return f"{len(pairs)} {digest.hexdigest()}"


def _where(arguments: argparse.Namespace) -> dict[str, str]:
    return {"model": arguments.model, "data": Path(arguments.data).name, "split": arguments.split}


def show(where: Mapping[str, str], classes: Sequence[str], result: SegmentationScores, as_json: bool) -> None:
    """Print the metrics of a model.

    Args:
        where: its name, that of the set, and the split.
        classes: the K names.
        result: the metrics.
        as_json: for programs.
    """
    if as_json:
        print_json(dict(where) | result.to_dict(classes))
    else:
        print(f"{where['model']} on {where['data']}, {where['split']} split, {result.pixels:,} pixels")
        print(result.table(classes))

"""``test`` and ``validate``: the metrics of a model; ``join``: what several processes did of a test, or of a folder."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullyconv.cli import options
from fullyconv.cli.opening import open_data, open_segmenter
from fullyconv.cli.predict import told_of
from fullyconv.cli.progress import busy

if TYPE_CHECKING:
    from fullyconv.confusion import SegmentationScores
    from fullyconv.data.pairs import Pair


def add(commands: options.Commands) -> None:
    """Add `test`, `validate` and `join`."""
    for name, split in (("test", "test"), ("validate", "val")):
        command = options.new_command(commands, _test, "MODEL DATA [options]", name)
        command.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
        command.add_argument("data", metavar="DATA", help=options.DATA_HELP)
        command.add_argument("--split", choices=("train", "val", "test"), default=split, help="(default: %(default)s)")
        command.add_argument("--report", metavar="FILE", help="write a page: scores, curves and the worst images")
        command.add_argument("--batch-size", type=options.positive, default=4, metavar="N", help="images at a time (4)")
        command.add_argument("--json", action="store_true", help="for programs: one object, in percent")
        options.add_shared(command, "device", "allow_unverified")
        command.add_argument("--shard", metavar="K/N", help="score this part, such as 3/16, into --out; join adds up")
        command.add_argument("--out", metavar="FOLDER", help="of the parts that --shard scores")
        options.add_reading(command, options.FRACTIONS)
    join = options.new_command(commands, _join, "FOLDER [options]")
    join.add_argument("folder", metavar="FOLDER", help="--out of the processes")
    options.add_shared(join, "json")


def _test(arguments: argparse.Namespace) -> int:
    """Print the metrics of a model on one split of a set. Or of a run: --config RECIPE --ckpt_path FILE."""
    if (arguments.shard is None) != (arguments.out is None) or (arguments.shard and arguments.report):
        raise ValueError("--shard K/N and --out FOLDER: give both, and no --report; or none")
    segmenter = open_segmenter(arguments)
    reading = options.reading_of(arguments, segmenter.preprocessing.value_range)
    data = open_data(segmenter, arguments.data, reading, arguments.batch_size)
    where = {"model": arguments.model, "data": Path(arguments.data).name, "split": arguments.split}
    for text in data.source.warned:
        print(f"fullyconv: {text}", file=sys.stderr)
    if arguments.shard:
        return _test_part(arguments, segmenter, data, where, reading)
    with busy(f"scoring {arguments.model}"):
        if arguments.report:
            from fullyconv.report import write_report

            words = f"{arguments.model} {arguments.data} --split {arguments.split}{options.reading_words(reading)}"
            result = write_report(segmenter, data, arguments.split, arguments.report, command=f"fullyconv test {words}")
        else:
            result = segmenter.evaluate(data, arguments.split, device=arguments.device)
    if arguments.report:
        print(f"report written to {arguments.report}", file=sys.stderr)
    _show(where, segmenter.classes, result, arguments.json)
    return 0


def _test_part(
    arguments: argparse.Namespace, segmenter: Any, data: Any, where: Mapping[str, str], reading: Mapping[str, Any]
) -> int:
    from fullyconv.inference.identity import identity
    from fullyconv.inference.joining import score_part
    from fullyconv.inference.journal import Shard

    shard = Shard.parse(arguments.shard)
    pairs = data.dataset(arguments.split).pairs
    part = [pair for pair in pairs if shard.takes(pair.key)]
    read = sorted((key, str(value)) for key, value in reading.items())
    facts = {"where": where, "model": identity(segmenter), "read": read, "pairs": _digest(pairs, keys=True)}

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


def _show(where: Mapping[str, str], classes: Sequence[str], result: SegmentationScores, as_json: bool) -> None:
    if as_json:
        options.print_json(dict(where) | result.to_dict(classes))
    else:
        print(f"{where['model']} on {where['data']}, {where['split']} split, {result.pixels:,} pixels")
        print(result.table(classes))


def _join(arguments: argparse.Namespace) -> int:
    """Put together what `predict --shard` or `test --shard` left in a folder; parts that are missing are named.

    A test is printed as one process prints it.
    """
    from fullyconv.inference.joining import join_masks, join_scores, scored_in

    if scored_in(arguments.folder):
        found = join_scores(arguments.folder)
        _show(found.where, found.classes, found.scores, arguments.json)
        return 0
    joined = join_masks(arguments.folder)
    if arguments.json:
        options.print_json(told_of(joined.model, joined.result, joined.unread))
    else:
        for each in joined.result.failed:
            print(f"fullyconv: skipped: {each.error}", file=sys.stderr)
        print(f"{len(joined.result.predicted)} files, {len(joined.result.failed)} failed: {joined.result.out}")
    return 1 if joined.result.failed else 0

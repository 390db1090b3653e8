"""``join``: what several processes did of a folder or of a test, put together."""

from __future__ import annotations

import argparse
import sys

from fullyconv.cli.options import Commands, add_shared, new_command, print_json
from fullyconv.cli.predict import told_of
from fullyconv.cli.score import show


def add(commands: Commands) -> None:
    """Add the command."""
    join = new_command(commands, _join, "FOLDER [options]")
    join.add_argument("folder", metavar="FOLDER", help="--out of the processes")
    add_shared(join, "json")


def _join(arguments: argparse.Namespace) -> int:
    """Put together what `predict --shard` or `test --shard` left in a folder; parts that are missing are named.

    A test is printed as one process prints it.
    """
    from fullyconv.inference.joining import join_masks, join_scores, scored_in

    if scored_in(arguments.folder):
        found = join_scores(arguments.folder)
        show(found.where, found.classes, found.scores, arguments.json)
        return 0
    joined = join_masks(arguments.folder)
    if arguments.json:
        print_json(told_of(joined.model, joined.result, joined.unread))
    else:
        for each in joined.result.failed:
            print(f"fullyconv: skipped: {each.error}", file=sys.stderr)
        print(f"{len(joined.result.predicted)} files, {len(joined.result.failed)} failed: {joined.result.out}")
    return 1 if joined.result.failed else 0

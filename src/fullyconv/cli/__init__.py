"""The command line: parsing and printing.

Every command imports what it needs when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from fullyconv.cli import catalog, data, demo, fit, predict, score, weights
from fullyconv.errors import first_line, nearest

HELP = """usage: fullyconv COMMAND ...

Semantic segmentation with fully convolutional networks.

use a model
  demo       one photograph: a heat map of a word, and a segmentation
  predict    images, videos and folders of them
  join       what several processes did of them
  serve      a web page that segments the images dropped on it

your own data
  doctor     what is wrong with a folder of images and masks
  fit        train on it: fit DATA, or fit --config RECIPE
  test       the metrics of a model on its test split; validate: on val
  fetch      public data sets

weights
  list       the models there are; list NAME: all of one
  convert    weights from anywhere into a model folder
  export     one ONNX file, to predict without torch
  publish    to the Hugging Face Hub

fullyconv COMMAND --help says what a command takes; --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after ``fullyconv``; None takes them from the process.

    Returns:
        Exit status: 0 when everything was done, 1 when some input was not, 2 for a wrong call.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Names of files and classes may hold what the terminal's encoding lacks: no reason to stop half-way.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"fullyconv {version('fullyconv')}")
        return 0
    # Lightning's command line has the options of a recipe, and of fit those that fit itself does not know.
    command, *rest = words or [""]
    if command in ("fit", "test", "validate") and any(re.match("(--config|-c)(=|$)", word) for word in rest):
        return _guard(lambda: fit.by_recipe(command, rest))
    if command == "fit":
        return _guard(lambda: fit.fit(rest))
    arguments, unknown = _parser().parse_known_args(words)
    if unknown:
        return _refuse(arguments.parser, unknown)
    return _guard(lambda: int(arguments.run(arguments)))


def _guard(run: Any) -> int:
    try:
        return int(run())
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, ImportError) as error:
        # Every refusal of the package is one of these and says what to do; a traceback would only hide it.
        print(f"fullyconv: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from fullyconv.inference.budget import is_shortage

        if not is_shortage(error):
            raise
        print(
            f"fullyconv: not enough memory ({first_line(error)[:120]}); end other programs, raise the limit (ulimit "
            "-v, that of the container), or take smaller images or batches (predict: --memory, fit: --data.batch_size)",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as stopped:
        print(f"fullyconv: interrupted{f'; {stopped}' if str(stopped) else ''}", file=sys.stderr)
        return 130


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> int:
    """Say which words a command does not know, and the options that they look like."""
    known = re.findall(r"--[a-z][\w-]*", parser.format_help())
    hint = nearest(unknown[0].partition("=")[0], known)
    print(
        f"{parser.prog}: {' '.join(unknown)}: not understood. {hint}{parser.prog} --help lists the options",
        file=sys.stderr,
    )
    return 2


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return HELP


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fullyconv", usage="fullyconv COMMAND ...")
    kind = argparse.ArgumentParser
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=kind, prog="fullyconv")
    for module in (catalog, demo, predict, data, score, weights, fit):
        module.add(commands)
    return parser

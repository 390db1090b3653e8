"""``fit``: training, by a recipe or from a folder alone."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.opening import quiet_lightning
from fullyconv.cli.options import (
    CHANNELS,
    DATA_HELP,
    FRACTIONS,
    Commands,
    add_reading,
    add_shared,
    has_option,
    new_command,
    option_in,
    positive,
    reading_of,
    reading_words,
)
from fullyconv.cli.predict import MODEL
from fullyconv.cli.progress import busy

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule


def add(commands: Commands) -> argparse.ArgumentParser:
    """Add `fit`, and give its parser."""
    parser = new_command(commands, fit, "DATA [options]  |  fit --config RECIPE [options]")
    parser.allow_abbrev = False
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--model", metavar="MODEL", help=f"to start from, or random:PRESET (default: {MODEL})")
    parser.add_argument(
        "--epochs", type=positive, metavar="N", help="of a small set each shows every image several times"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="as long as this, scoring and interruptions included"
    )
    add_shared(parser, "device")
    parser.add_argument("--out", metavar="FOLDER", help="of the run (default: runs/ and the name of DATA)")
    add_shared(parser, "allow_unverified")
    parser.add_argument("--help-all", action="store_true", help="all options of Lightning, which hold here, too")
    add_reading(parser, FRACTIONS, CHANNELS)
    parser.add_argument("--data.train_on", dest="train_on", help=argparse.SUPPRESS)
    return parser


def fit(words: list[str]) -> int:
    """Train on images and masks of your own; what you leave out is chosen, with the reason.

    The run's folder gets a model folder, its score on held-out images and report.html. The same command goes on after
    an interruption.
    """
    began = time.monotonic()
    if "--help-all" in words:
        return by_recipe("fit", ["--help"])
    parser = add(argparse.ArgumentParser().add_subparsers())
    if {"-h", "--help"} & set(words):
        parser.print_help()
        return 0
    if not words:
        raise ValueError("fit: give DATA, a folder of images and masks, or --config RECIPE; fit --help says more")
    if words[0].startswith("-") or has_option(words, "--config"):
        return by_recipe("fit", words)
    own, others = parser.parse_known_args(words)
    chosen_by_us = own.model is None
    own.model = own.model or MODEL
    preset = option_in(others, "--model.model")
    if preset is not None:
        own.model = f"random:{preset}"  # a preset was asked for by name: nothing of another one could be kept
    own.out = own.out or option_in(others, "--run.folder")
    if has_option(others, "--data"):
        raise ValueError("--data: DATA is given already; give its options one by one, such as --data.split_seed 5")
    quiet_lightning()
    from fullyconv.cli.lightning import RecipeCLI, hold, is_first
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.plan import plan
    from fullyconv.training.resuming import resume, split_digest, write_state

    reading = reading_of(own)
    data = SegmentationDataModule(own.data, **reading)
    folder = Path(own.out or f"runs/{Path(own.data).resolve().name}")
    command = {
        "data": str(data.source.root.resolve()),
        "reading": json.loads(json.dumps(reading)),
        "model": own.model,
        "epochs": own.epochs,
        "minutes": own.minutes,
        "device": own.device,
        "options": others,
        # Further images would move some between what is trained on and what is scored.
        "splits": split_digest(data.splits),
    }
    with ExitStack() as stack, interruptible(folder):
        there = folder.is_dir()
        if there:
            hold(stack, folder)
        going_on = resume(folder, command)
        if going_on == "finished":
            model = option_in(others, "--run.model_folder") or folder / "model"
            print(f"{folder}: this run is finished; its model folder is {model}. --epochs N with more goes on")
            return 0
        if option_in(others, "--data.check") is None:
            with busy("reading every mask"):
                data.check()  # before a model is loaded and a folder made
            reading["check"] = False
        chosen = plan(
            data,
            model=own.model,
            epochs=own.epochs,
            minutes=own.minutes,
            device=own.device,
            batch_size=_number_in(others, "--data.batch_size"),
            repeats=_number_in(others, "--data.repeats"),
            loss=option_in(others, "--model.loss") or next((w for w in others if w.startswith("--model.loss.")), None),
            allow_unverified=own.allow_unverified,
        )
        if keeping := chosen.keeping(data.labels):
            chosen.reasons.append(
                f"the score layers of {own.model} are for {', '.join(keeping['classes'])} and start anew for other "
                f"names; if these are the same classes, keep them with{reading_words(keeping)}"
            )
        mine = [
            f"{name} = {option_in(others, f'--{name}')}" for name in chosen.settings if has_option(others, f"--{name}")
        ]
        if chosen_by_us and chosen.segmenter is not None:
            chosen.reasons.append(f"no --model was given, so it starts from {own.model}; --model MODEL takes another")
        if mine:
            chosen.reasons.append(f"as you say: {', '.join(mine)}")
        if is_first():
            where = "writes to" if going_on is None else "goes on in"
            print(data.report, *chosen.reasons, sep="\n")
            print(f"{where} {folder}; the same command goes on after an interruption")
        if not there:
            hold(stack, folder)
            if is_first() and resume(folder, command) is not None:
                raise ValueError(f"--out {folder}: another process has trained in it meanwhile; give the command again")
        defaults = {"data.data": own.data} | {f"data.{option}": value for option, value in reading.items()}
        defaults |= chosen.settings | {"run.folder": str(folder)}
        words_of_theirs = others if going_on is None else [f"--ckpt_path={going_on}", *others]
        budget = None if own.minutes is None else (60 * own.minutes, began)
        if is_first():
            write_state(folder, {"command": command, "finished": False})
        done = RecipeCLI("fit", words_of_theirs, chosen, defaults, data, anew=going_on is None, budget=budget)
        if done.model_folder is not None:
            _write_report(
                folder, done.model_folder, done.datamodule, chosen.reasons, shlex.join(["fullyconv", "fit", *words])
            )
            write_state(folder, {"command": command, "finished": True})
    for wanting in done.shortcomings:
        print(wanting)
    return 0


def _number_in(words: list[str], option: str) -> int | None:
    """Give a number above 0 in a command line; what else stands there, Lightning refuses."""
    word = option_in(words, option) or ""
    return int(word) or None if word.isdecimal() else None


@contextmanager
def interruptible(folder: Path | None, how: str = "") -> Iterator[None]:
    """Say how a run goes on that somebody interrupts; Lightning ends the process instead.

    Args:
        folder: of the run; None where only the recipe knows it.
        how: what is said then.

    Raises:
        KeyboardInterrupt: with what is to be said.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        if isinstance(stopped, SystemExit) and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        if folder is not None and (folder / "checkpoints" / "last.ckpt").is_file():
            how = f"the same command goes on from the last finished epoch, in {folder}"
        elif folder is not None:
            how = f"no epoch was finished in {folder}; the same command begins again"
        raise KeyboardInterrupt(how) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal from the first one on


def by_recipe(command: str, words: list[str]) -> int:
    """Run a recipe: Lightning's command line has the words."""
    quiet_lightning()
    from fullyconv.cli.lightning import RecipeCLI

    with interruptible(None, "--ckpt_path last beside the same words goes on" if command == "fit" else ""):
        done = RecipeCLI(command, words)
    for wanting in done.shortcomings:
        print(wanting)
    return 0


def _write_report(folder: Path, model: Path, data: SegmentationDataModule, told: list[str], command: str) -> None:
    """Write the page of a run that is finished: of what was stored, on the split that was not trained on."""
    from fullyconv.report import write_report
    from fullyconv.training.module import SegmentationModule

    split = next((split for split in ("test", "val") if split in data.splits), None)
    if split is None:
        print("no report: every image was trained on")
        return
    stored = SegmentationModule.from_pretrained(model)
    write_report(stored, data, split, folder / "report.html", history=folder / "log", told=told, command=command)
    print(f"report written to {folder / 'report.html'}")

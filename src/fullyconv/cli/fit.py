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

from fullyconv.cli import options
from fullyconv.cli.opening import quiet_lightning
from fullyconv.cli.predict import MODEL
from fullyconv.cli.progress import busy

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.plan import Plan

PLANNED_BY = ("model", "epochs", "minutes", "device")
"""Options of `fit` that a plan is made by."""


def add(commands: options.Commands) -> argparse.ArgumentParser:
    """Add `fit`, and give its parser."""
    parser = options.new_command(commands, fit, "DATA [options]  |  fit --config RECIPE [options]")
    parser.allow_abbrev = False
    parser.add_argument("data", metavar="DATA", help=options.DATA_HELP)
    parser.add_argument("--model", metavar="MODEL", help=f"to start from, or random:PRESET (default: {MODEL})")
    of_a_small_set = "of a small set each shows every image several times"
    parser.add_argument("--epochs", type=options.positive, metavar="N", help=of_a_small_set)
    all_of_it = "as long as this, scoring and interruptions included"
    parser.add_argument("--minutes", type=float, metavar="M", help=all_of_it)
    options.add_shared(parser, "device")
    parser.add_argument("--out", metavar="FOLDER", help="of the run (default: runs/ and the name of DATA)")
    options.add_shared(parser, "allow_unverified")
    parser.add_argument("--help-all", action="store_true", help="all options of Lightning, which hold here, too")
    options.add_reading(parser, options.FRACTIONS, options.CHANNELS)
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
    if not words:
        raise ValueError("fit: give DATA, a folder of images and masks, or --config RECIPE; fit --help says more")
    parser = add(argparse.ArgumentParser().add_subparsers())
    own, others = parser.parse_known_args(options.with_values(words, parser._option_string_actions))
    if stray := [word for word in others if not word.startswith("--")]:
        raise ValueError(f"{stray[0]}: not understood: DATA is {own.data}; fullyconv fit --help lists the options")
    settings = dict(word.removeprefix("--").partition("=")[::2] for word in others)
    for name in settings:  # fit reads the data itself: what says how would be lost under a spelling of Lightning alone
        group, _, option = name.rstrip("+").partition(".")
        if group == "data" and option.partition(".")[0] in ("", "data", *vars(own)):
            raise ValueError(f"--{name}: DATA is given already; give its options one by one, as --data.split_seed 5")
    preset = settings.get("model.model")
    own.chosen = own.model is None and preset is None  # by us
    # of a preset that was asked for by name, nothing of another model could be kept
    own.model = f"random:{preset}" if preset is not None else own.model or MODEL
    own.out = Path(own.out or settings.get("run.folder") or f"runs/{Path(own.data).resolve().name}")
    own.settings, own.others = settings, others
    quiet_lightning()
    with ExitStack() as held, interruptible(own.out):
        return _fit(own, held, began, shlex.join(["fullyconv", "fit", *words]))


def _fit(own: argparse.Namespace, held: ExitStack, began: float, line: str) -> int:
    """Train as the options of `fit` and those of Lightning say, from where the folder of the run stands."""
    from fullyconv.cli.lightning import RecipeCLI, hold, is_first
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.training.runs import resume, split_digest, write_state

    reading = options.reading_of(own)
    data = SegmentationDataModule(own.data, **reading)
    command = {
        "data": str(data.source.root.resolve()),
        "reading": json.loads(json.dumps(reading)),
        **{key: getattr(own, key) for key in PLANNED_BY},
        "options": own.others,
        # Further images would move some between what is trained on and what is scored.
        "splits": split_digest(data.splits),
    }
    going_on = resume(own.out, command)
    if going_on == "finished":
        model = own.settings.get("run.model_folder") or own.out / "model"
        print(f"{own.out}: this run is finished; its model folder is {model}. --epochs N with more goes on")
        return 0
    if "data.check" not in own.settings:
        with busy("reading every mask"):
            data.check()  # before a model is loaded and a folder made
        reading["check"] = False
    chosen = _chosen(own, data)
    if is_first():
        print(data.report, *chosen.reasons, sep="\n")
        where = "writes to" if going_on is None else "goes on in"
        print(f"{where} {own.out}; the same command goes on after an interruption")
    hold(held, own.out)
    if is_first():
        if resume(own.out, command) != going_on:
            raise ValueError(f"--out {own.out}: another process has trained in it meanwhile; give the command again")
        write_state(own.out, {"command": command, "finished": False})
    chosen.settings |= {f"data.{option}": value for option, value in reading.items()}
    chosen.settings |= {"data.data": own.data, "run.folder": str(own.out)}
    words = own.others if going_on is None else [f"--ckpt_path={going_on}", *own.others]
    budget = None if own.minutes is None else (60 * own.minutes, began)
    done = RecipeCLI("fit", words, chosen, budget)
    if done.model_folder is not None:
        _write_report(own.out, done.model_folder, data, chosen.reasons, line)
        write_state(own.out, {"command": command, "finished": True})
    for wanting in done.shortcomings:
        print(wanting)
    return 0


def _chosen(own: argparse.Namespace, data: SegmentationDataModule) -> Plan:
    """Choose what is left open; the reasons say what is not, and what another call would keep."""
    from fullyconv.plan import plan

    numbers = {name: int(value) for name, value in own.settings.items() if value.isdecimal()}
    arguments_of_loss = (name for name in own.settings if name.startswith("model.loss."))
    chosen = plan(
        data,
        **{key: getattr(own, key) for key in (*PLANNED_BY, "allow_unverified")},
        batch_size=numbers.get("data.batch_size"),
        repeats=numbers.get("data.repeats"),
        loss=own.settings.get("model.loss") or next(arguments_of_loss, None),
    )
    if keeping := chosen.keeping():
        chosen.reasons.append(
            f"the score layers of {own.model} are for {', '.join(keeping['classes'])} and start anew for other "
            f"names; if these are the same classes, keep them with{options.reading_words(keeping)}"
        )
    if own.chosen:
        chosen.reasons.append(f"no --model was given, so it starts from {own.model}; --model MODEL takes another")
    if instead := [f"{name} = {own.settings[name]}" for name in chosen.settings if name in own.settings]:
        chosen.reasons.append(f"but, as you say: {', '.join(instead)}")
    return chosen


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
    """Run a recipe: Lightning's command line has the words, beside DATA."""
    quiet_lightning()
    from fullyconv.cli.lightning import RecipeCLI

    words = options.with_values(words, ("--help", "--print_config"))
    places = [word for word in words if not word.startswith("-")]
    # behind the recipe, whose data it takes the place of; Lightning refuses a second one
    words = [word for word in words if word not in places] + [f"--data.data={word}" for word in places[:1]] + places[1:]
    with interruptible(None, "--ckpt_path last beside the same words goes on" if command == "fit" else ""):
        done = RecipeCLI(command, words)
    for wanting in done.shortcomings:
        print(wanting)
    return 0


def _write_report(folder: Path, model: Path, data: SegmentationDataModule, reasons: list[str], command: str) -> None:
    """Write the page of a run that is finished: of what was stored, on the split that was not trained on."""
    from fullyconv.report import write_report
    from fullyconv.training.module import SegmentationModule

    split = next((split for split in ("test", "val") if split in data.splits), None)
    if split is None:
        print("no report: every image was trained on")
        return
    stored = SegmentationModule.from_pretrained(model)
    write_report(stored, data, split, folder / "report.html", history=folder / "log", told=reasons, command=command)
    print(f"report written to {folder / 'report.html'}")

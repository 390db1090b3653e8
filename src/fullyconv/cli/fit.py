"""``fit``: training, by a recipe or from a folder alone."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.opening import quiet_lightning
from fullyconv.cli.options import (
    CHANNELS_HELP,
    DATA_HELP,
    Commands,
    add_reading,
    add_unverified,
    has_option,
    new_command,
    option_in,
    positive,
    reading_of,
)
from fullyconv.cli.predict import MODEL
from fullyconv.cli.progress import busy

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule


def add(commands: Commands) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "fit",
        "DATA [options]  |  fit --config RECIPE [options]",
        "Train on images and masks of your own; what is not said is chosen and told. The run's folder gets a model "
        "folder, its score on held-out images and report.html. The same command goes on after an interruption.",
    )
    parser.allow_abbrev = False
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--model", metavar="MODEL", help=f"to start from, or random:PRESET (default: {MODEL})")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the training images")
    parser.add_argument("--minutes", type=float, metavar="M", help="as long as this, over all interruptions")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--out", metavar="FOLDER", help="of the run (default: runs/ and the name of DATA)")
    add_unverified(parser)
    parser.add_argument("--help-all", action="store_true", help="all options of Lightning, which hold here, too")
    add_reading(parser, fractions=True)
    parser.add_argument("--in-channels", type=positive, metavar="C", help=CHANNELS_HELP)
    parser.add_argument("--data.in_channels", type=positive, dest="in_channels", help=argparse.SUPPRESS)
    parser.add_argument("--data.train_on", dest="train_on", help=argparse.SUPPRESS)
    return parser


def fit(words: list[str]) -> int:
    """Train: by a recipe, or from DATA alone with everything else chosen."""
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
    from fullyconv.cli.lightning import RecipeCLI
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.training import describe, plan, resume, split_digest, write_state

    reading = reading_of(own)
    reading |= {key: value for key in ("in_channels", "train_on") if (value := getattr(own, key)) is not None}
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
    going_on = resume(folder, command)
    if going_on == "finished":
        print(f"{folder}: this run is finished; its model folder is {folder / 'model'}. --epochs N with more goes on")
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
        loss=option_in(others, "--model.loss") or next((w for w in others if w.startswith("--model.loss.")), None),
        allow_unverified=own.allow_unverified,
    )
    mine = [f"{name} = {option_in(others, f'--{name}')}" for name in chosen.settings if has_option(others, f"--{name}")]
    if chosen_by_us and chosen.segmenter is not None:
        chosen.reasons.append(f"no --model was given, so it starts from {own.model}; --model MODEL takes another")
    if mine:
        chosen.reasons.append(f"instead of what was chosen, as you say: {', '.join(mine)}")
    print(describe(chosen, data, folder, going_on is not None))
    defaults = {"data.data": own.data} | {f"data.{option}": value for option, value in reading.items()}
    defaults |= chosen.settings | {"run.folder": str(folder)}
    if own.minutes is not None:
        hours, seconds = divmod(max(1, round(60 * own.minutes)), 3600)
        defaults["trainer.max_time"] = f"{hours // 24:02}:{hours % 24:02}:{seconds // 60:02}:{seconds % 60:02}"
    words_of_theirs = others if going_on is None else [f"--ckpt_path={going_on}", *others]
    write_state(folder, {"command": command, "finished": False})
    done = RecipeCLI("fit", words_of_theirs, chosen, defaults, data, anew=going_on is None)
    _write_report(folder, done.datamodule, chosen.reasons, shlex.join(["fullyconv", "fit", *words]))
    write_state(folder, {"command": command, "finished": True})
    return 0


def by_recipe(command: str, words: list[str]) -> int:
    """Run a recipe: Lightning's command line has the words."""
    quiet_lightning()
    from fullyconv.cli.lightning import RecipeCLI

    RecipeCLI(command, words)
    return 0


def _write_report(folder: Path, data: SegmentationDataModule, told: list[str], command: str) -> None:
    """Write the page of a run that is finished: of what was stored, on the split that was not trained on."""
    from fullyconv.module import SegmentationModule
    from fullyconv.report import write_report

    split = next((split for split in ("test", "val") if split in data.splits), None)
    if split is None:
        print("no report: every image was trained on")
        return
    stored = SegmentationModule.from_pretrained(folder / "model")
    write_report(stored, data, split, folder / "report.html", history=folder / "log", told=told, command=command)
    print(f"report written to {folder / 'report.html'}")

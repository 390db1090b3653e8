"""``fit``: training, by a recipe or from a folder alone."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.opening import quiet_lightning
from fullyconv.cli.options import (
    add_fractions,
    add_reading,
    add_unverified,
    has_option,
    option_in,
    positive,
    reading_of,
)

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands
    from fullyconv.data.datamodule import SegmentationDataModule


def add(commands: Commands) -> None:
    commands.add_parser("fit", help="train: fit [DATA] [--config YAML] [LightningCLI options]", add_help=False)


def fit(words: list[str]) -> int:
    """Train: by a recipe, or from DATA alone with everything else chosen."""
    if not words or words[0].startswith("-") or has_option(words, "--config") or {"-h", "--help"} & set(words):
        return by_recipe("fit", words)
    parser = argparse.ArgumentParser(prog="fullyconv fit", allow_abbrev=False, add_help=False)
    parser.add_argument("data")
    parser.add_argument("--model", default="street")
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out")
    add_unverified(parser)
    add_reading(parser)
    add_fractions(parser)
    parser.add_argument("--in-channels", "--data.in_channels", type=positive, dest="in_channels")
    own, others = parser.parse_known_args(words)
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
    if own.in_channels:
        reading["in_channels"] = own.in_channels
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
        data.check()  # before a model is loaded and a folder made
        reading["check"] = False
    chosen = plan(
        data,
        model=own.model,
        epochs=own.epochs,
        minutes=own.minutes,
        device=own.device,
        allow_unverified=own.allow_unverified,
    )
    mine = [f"{name} = {option_in(others, f'--{name}')}" for name in chosen.settings if has_option(others, f"--{name}")]
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

"""Options that several commands have, and what stands in them."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shlex
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

from fullyconv.errors import nearest

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


MODEL_HELP = "zoo name (fullyconv list), hub id, or model folder"
DATA_HELP = "folder, or name of a public set (fullyconv fetch)"


def halo(text: str) -> int | str:
    """Read a halo: exact, or a number of pixels."""
    if text == "exact":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: give exact, or a number of pixels")
    return int(text)


def value_range(text: str) -> tuple[float, float]:
    """Read the two numbers that are black and white."""
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: give the numbers that are black and white, such as 0,4095") from None
    return low, high


def scale(text: str) -> float:
    """Read one size of several."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: give numbers with spaces between, such as 0.75 1 1.25") from None


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


SHARED: dict[str, dict[str, Any]] = {
    "allow_unverified": {"action": "store_true", "help": "accept weights without a known digest; recorded"},
    "device": {"metavar": "NAME", "default": "auto", "help": "auto (an accelerator, if any), cpu, cuda, cuda:1"},
    "json": {"action": "store_true", "help": "for programs: one object"},
}
"""Options that several commands have -> how argparse adds them."""

RANGE: dict[str, Any] = {
    "metavar": "LOW,HIGH",
    "type": value_range,
    "help": "black and white of more than 8 bits, such as 0,4095",
}
"""How argparse adds ``--range``, of images of more than 8 bits."""

READING: dict[str, dict[str, Any]] = {
    "images": {"metavar": "PLACE", "help": "images inside DATA: a folder or quoted pattern"},
    "masks": {"metavar": "PLACE", "help": "masks inside DATA, JSON of annotations, or column"},
    "pairs": {"metavar": "FILE", "help": "table with columns image, mask and perhaps split"},
    "lists": {"metavar": "FOLDER", "help": "train.txt, val.txt, test.txt: names of images"},
    "classes": {"metavar": "A,B", "help": "class names, in order"},
    "values": {"metavar": "0=A,1=B", "help": "what mask values mean; 255=ignore, '#ff0000=A'; or a public set"},
    "unlabeled": {"metavar": "skip", "help": "leave out images without a mask"},
    "crowds": {"metavar": "category", "help": "read COCO's crowds as their category, not as ignored"},
    "value_range": RANGE,
    "skip_bad": {"action": "store_true", "default": None, "help": "leave out broken pairs, and list them"},
}
"""Options that say how a folder is read: argument of `SegmentationDataModule` -> how argparse adds it."""

FRACTIONS: dict[str, dict[str, Any]] = {
    "val_fraction": {"metavar": "SHARE", "type": float, "help": "of the training pairs, if there is no val (0.2)"},
    "test_fraction": {"metavar": "SHARE", "type": float, "help": "of the pairs, if there is no test (0: none)"},
    "split_seed": {"metavar": "SEED", "type": int, "help": "of what is set aside (0)"},
}
"""Options that say what a set without splits is tested with, of fit and of test."""

CHANNELS: dict[str, dict[str, Any]] = {
    "in_channels": {"metavar": "C", "type": positive, "help": "bands: 3 reads all as RGB, 1 as gray (default: 3)"},
}
"""The option of commands whose model does not say how many channels the images have."""


def new_command(
    commands: Commands, run: Callable[..., int], words: str, name: str | None = None
) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        commands: where it belongs to.
        run: what it does with its arguments; its docstring is the description.
        words: what follows the name, for the line of its usage.
        name: of the command; None is that of `run`.
    """
    name = name or run.__name__.strip("_")
    in_lines = partial(argparse.HelpFormatter, max_help_position=27)  # one an option, as far as it goes
    command = commands.add_parser(
        name, usage=f"fullyconv {name} {words}", description=run.__doc__, formatter_class=in_lines
    )
    command.set_defaults(run=run, parser=command)
    return command


def add_shared(command: Any, *keys: str) -> None:
    """Add options of `SHARED` to a command, or to a group of its options."""
    for key in keys:
        command.add_argument(_flag(key), **SHARED[key])


def add_reading(command: argparse.ArgumentParser, *further: Mapping[str, dict[str, Any]]) -> None:
    """Add the options that say how DATA is read, each also as the whole LightningCLI spells it, ``--data.NAME``.

    Args:
        command: to add them to.
        further: `FRACTIONS` and `CHANNELS`, where the command has them, too.
    """
    group = command.add_argument_group("how DATA is read, where it is not found out")
    for key, how in chain.from_iterable(options.items() for options in (READING, *further)):
        group.add_argument(_flag(key), dest=key, **how)
        of_lightning = {"type": json.loads} if "action" in how else how  # there all have a value
        group.add_argument(f"--data.{key}", **of_lightning | {"dest": key, "help": argparse.SUPPRESS})


def reading_of(arguments: argparse.Namespace, learned: tuple[float, float] | None = None) -> dict[str, Any]:
    """Give what a data module has to be told, of what stands in a command line.

    Args:
        arguments: the command line.
        learned: the range of values that the model was trained with; taken where the line names none.
    """
    reading = {key: getattr(arguments, key, None) for key in (*READING, *FRACTIONS, *CHANNELS, "train_on")}
    reading["value_range"] = reading["value_range"] or learned
    if reading["values"] is not None:
        reading["values"] = _read_values(reading["values"])
    if reading["classes"] is not None:
        reading["classes"] = split_names("--classes", reading["classes"])
    return {key: value for key, value in reading.items() if value is not None}


def reading_words(settings: Mapping[str, Any]) -> str:
    """Write the options of `add_reading` as words of a command line, those that are not left as they are."""
    words = []
    left_alone = {"unlabeled": "error", "crowds": "ignore", "val_fraction": 0.2}
    for key in (*READING, *FRACTIONS):
        value = settings.get(key)
        if value is None or value == left_alone.get(key, 0):
            continue
        if key == "value_range":
            value = f"{value[0]:.12g},{value[1]:.12g}"
        elif isinstance(value, Mapping):
            value = _join_names([f"{number}={name}" for number, name in value.items()])
        elif isinstance(value, list | tuple):
            value = _join_names(value)
        # what begins with a hyphen would be taken for an option
        between = "=" if str(value).startswith("-") else " "
        words.append(_flag(key) if value is True else f"{_flag(key)}{between}{shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)


def _flag(key: str) -> str:
    return "--range" if key == "value_range" else f"--{key.replace('_', '-')}"


def split_names(option: str, text: str) -> list[str]:
    """Split names at commas; one that holds a comma stands in double quotes.

    Args:
        option: where they were given.
        text: the names.
    """
    if text.strip()[:1] in ("[", "{"):
        raise ValueError(f"{option} {text[:60]}: give it without brackets, separated by commas")
    try:
        return [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    except csv.Error as error:
        raise ValueError(f"{option} {text[:60]}: {error}; give names separated by commas") from error


def _join_names(names: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(names)
    return written.getvalue()


def _read_values(text: str) -> dict[str, str] | str:
    from fullyconv.data.public import PUBLIC

    if text in PUBLIC:
        return text
    if "=" not in text and (hint := nearest(text, PUBLIC).strip()):
        raise ValueError(f"--values {text}: no public set is called that. {hint}")
    values: dict[str, str] = {}
    for part in filter(None, split_names("--values", text)):
        key, name = (word.strip() for word in part.partition("=")[::2])
        if not key or not name:
            raise ValueError(f"--values {text}: write VALUE=NAME, separated by commas, such as 0=road,255=ignore")
        if key in values:
            raise ValueError(f"--values {text}: {key} is there twice; give each value once")
        values[key] = name
    return values


def print_json(answer: Any) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer, indent=2, ensure_ascii=False, default=str))


def with_values(words: Sequence[str], flags: Container[str]) -> list[str]:
    """Write every option and its value as one word, ``--trainer.max_epochs=5``: what is no option then stands alone.

    Args:
        words: of a command line.
        flags: options that are left as they are; all others have a value.
    """
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        if re.fullmatch("--?[a-z][^=]*", before) and before not in flags and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined

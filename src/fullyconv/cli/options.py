"""Options that several commands have, and what stands in them."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


MODEL_HELP = "zoo name (fullyconv list), hub id, or model folder"

DATA_OPTIONS = {
    "images": "folder of the images inside DATA, or a quoted pattern, where it is not found",
    "masks": "folder of the masks inside DATA, or a quoted pattern, where it is not found; JSON file of annotations; "
    "column of a table",
    "pairs": "CSV, TSV or JSON-lines file with the columns image, mask and, if you like, split",
    "lists": "folder with train.txt and val.txt or test.txt, names of images, in place of the splits that DATA has",
    "classes": "class names, separated by commas",
    "values": "what values in the masks mean: 0=road,255=ignore or '#ff0000=road,#000000=ignore' (or JSON); or the "
    "name of a public set with that label map, such as voc2012",
    "unlabeled": "skip leaves out images without a mask",
}
"""Options that say how a folder is read, of doctor, fit, test and validate."""

FRACTIONS = {
    "val-fraction": (float, "share of the training pairs set aside where there is no val (default: 0.2)"),
    "test-fraction": (float, "share of the pairs set aside where there is no test (default: 0, none)"),
    "split-seed": (int, "seed of what is set aside (default: 0)"),
}
"""Options that say what a set without splits is tested with, of fit and of test."""

CHANNELS_HELP = "bands of the images: 3 reads all as RGB, 1 as gray, else that of the files (default: 3)"


def add_reading(command: argparse.ArgumentParser) -> None:
    for option, text in DATA_OPTIONS.items():
        # The second spelling is that of the whole LightningCLI.
        command.add_argument(f"--{option}", f"--data.{option}", dest=option, help=text)


def add_fractions(command: argparse.ArgumentParser) -> None:
    for option, (form, text) in FRACTIONS.items():
        key = option.replace("-", "_")
        command.add_argument(f"--{option}", f"--data.{key}", dest=key, type=form, help=text)


def reading_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give what a data module has to be told, of what stands in a command line."""
    told = {option: getattr(arguments, option) for option in ("images", "masks", "pairs", "lists", "unlabeled")}
    reading: dict[str, Any] = {option: value for option, value in told.items() if value}
    if arguments.values:
        reading["values"] = _read_values(arguments.values)
    if arguments.classes:
        reading["classes"] = _read_classes(arguments.classes)
    for option in FRACTIONS:
        key = option.replace("-", "_")
        if (value := getattr(arguments, key, None)) is not None:
            reading[key] = value
    return reading


def reading_words(settings: Mapping[str, Any]) -> str:
    """Write the options of `_reading` as words of a command line, those that are not left as they are."""
    words = []
    for key in ("images", "masks", "pairs", "lists", "unlabeled", "values", "classes", "val_fraction", "test_fraction",
                "split_seed"):  # fmt: skip
        value = settings.get(key)
        if value is None or value == {"unlabeled": "error", "val_fraction": 0.2}.get(key, 0):
            continue
        if isinstance(value, Mapping):
            plain = not any(set(f"{number}{name}") & set(",={") for number, name in value.items())
            joined = ",".join(f"{number}={name}" for number, name in value.items())
            value = joined if plain else json.dumps(dict(value), ensure_ascii=False)
        elif isinstance(value, list | tuple):
            value = json.dumps(list(value), ensure_ascii=False) if "," in "".join(value) else ",".join(value)
        words += [f"--{key.replace('_', '-')}", shlex.quote(str(value))]
    return "".join(f" {word}" for word in words)


def _read_classes(text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return [name.strip() for name in text.split(",")]
    read = _read_json("--classes", text)
    if not isinstance(read, list) or not all(isinstance(name, str) for name in read):
        raise ValueError(f"--classes {text}: give names separated by commas, or a JSON list of names")
    return read


def _read_values(text: str) -> dict[int | str, str] | str:
    from fullyconv.data.public import PUBLIC

    if text in PUBLIC:
        return text
    if text.lstrip().startswith("{"):
        read = _read_json("--values", text)
        return dict(read)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(key.strip() and name.strip() for key, _, name in pairs):
        raise ValueError(f"--values {text}: write VALUE=NAME, separated by commas, such as 0=road,255=ignore")
    return dict(_once("--values", [(key.strip(), name.strip()) for key, _, name in pairs]))


def _read_json(option: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: dict(_once(option, pairs)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} {text}: is no JSON ({error}); write 0=road,255=ignore") from error


def _once(option: str, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Refuse a key that is there twice, of which a dict would keep the last."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{option}: {key} is there twice; give each value once")
        seen.add(key)
    return pairs


def add_unverified(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-unverified",
        action="store_true",
        help="accept weights that nobody vouches for; their sha256 is shown and recorded, later loads must match",
    )


def option_in(words: Sequence[str], option: str) -> str | None:
    """Give the value of an option in a command line, the last one; None where it is not there."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == option or word.startswith(option + "="):
            found = following if word == option else word.partition("=")[2]
    return found


def has_option(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(option + "=") for word in words)


def halo(text: str) -> int | str:
    if text == "exact":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: give exact, or a number of pixels")
    return int(text)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number

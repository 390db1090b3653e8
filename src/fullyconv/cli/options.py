"""Options that several commands have, and what stands in them."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fullyconv.errors import nearest

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


MODEL_HELP = "zoo name (fullyconv list), hub id, or model folder"
DATA_HELP = "folder, or name of a public set (fullyconv fetch)"

DATA_OPTIONS = {
    "images": ("PLACE", "images inside DATA: a folder or quoted pattern"),
    "masks": ("PLACE", "masks inside DATA, JSON of annotations, or column"),
    "pairs": ("FILE", "table with columns image, mask and perhaps split"),
    "lists": ("FOLDER", "train.txt, val.txt, test.txt: names of images"),
    "classes": ("A,B", "class names, in order"),
    "values": ("0=A,1=B", "what mask values mean; 255=ignore, '#ff0000=A', or the name of a public set"),
    "unlabeled": ("skip", "leave out images without a mask"),
    "crowds": ("category", "read COCO's crowds as their category, not as ignored"),
}
"""Options that say how a folder is read: name -> what stands for the value, and the help."""

FRACTIONS = {
    "val-fraction": (float, "SHARE", "of the training pairs, if there is no val (0.2)"),
    "test-fraction": (float, "SHARE", "of the pairs, if there is no test (0: none)"),
    "split-seed": (int, "SEED", "of what is set aside (0)"),
}
"""Options that say what a set without splits is tested with, of fit and of test."""

CHANNELS_HELP = "bands: 3 reads all as RGB, 1 as gray (default: 3)"


class Lines(argparse.HelpFormatter):
    """One line an option, as far as it goes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=27)


def new_command(commands: Commands, name: str, words: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        commands: where it belongs to.
        name: of the command.
        words: what follows it, for the line of its usage.
        description: one or two sentences.
    """
    usage = f"fullyconv {name} {words}"
    return commands.add_parser(name, usage=usage, description=description, formatter_class=Lines)


def add_reading(command: argparse.ArgumentParser, fractions: bool = False) -> None:
    """Add the options that say how DATA is read.

    Args:
        command: to add them to.
        fractions: also what is set aside where it has no splits.
    """
    group = command.add_argument_group("how DATA is read, where it is not found out")
    for option, (metavar, text) in DATA_OPTIONS.items():
        group.add_argument(f"--{option}", metavar=metavar, help=text)
        # The second spelling is that of the whole LightningCLI.
        group.add_argument(f"--data.{option}", dest=option, help=argparse.SUPPRESS)
    group.add_argument(
        "--range", type=value_range, metavar="LOW,HIGH", help="black and white of more than 8 bits, such as 0,4095"
    )
    group.add_argument("--data.value_range", dest="range", type=value_range, help=argparse.SUPPRESS)
    group.add_argument("--skip-bad", action="store_true", help="leave out broken pairs, and list them")
    for option, (form, metavar, text) in FRACTIONS.items() if fractions else ():
        key = option.replace("-", "_")
        group.add_argument(f"--{option}", metavar=metavar, type=form, help=text)
        group.add_argument(f"--data.{key}", dest=key, type=form, help=argparse.SUPPRESS)


def reading_of(arguments: argparse.Namespace, learned: tuple[float, float] | None = None) -> dict[str, Any]:
    """Give what a data module has to be told, of what stands in a command line.

    Args:
        arguments: the command line.
        learned: the range of values that the model was trained with; taken where the line names none.
    """
    told = ("images", "masks", "pairs", "lists", "unlabeled", "crowds", "skip_bad")
    reading: dict[str, Any] = {option: value for option in told if (value := getattr(arguments, option))}
    if (bits := arguments.range or learned) is not None:
        reading["value_range"] = bits
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
    """Write the options of `add_reading` as words of a command line, those that are not left as they are."""
    words = []
    for key in ("images", "masks", "pairs", "lists", "unlabeled", "crowds", "values", "classes", "val_fraction",
                "test_fraction", "split_seed"):  # fmt: skip
        value = settings.get(key)
        if value is None or value == {"unlabeled": "error", "crowds": "ignore", "val_fraction": 0.2}.get(key, 0):
            continue
        if isinstance(value, Mapping):
            plain = not any(set(f"{number}{name}") & set(",={") for number, name in value.items())
            joined = ",".join(f"{number}={name}" for number, name in value.items())
            value = joined if plain else json.dumps(dict(value), ensure_ascii=False)
        elif isinstance(value, list | tuple):
            value = json.dumps(list(value), ensure_ascii=False) if "," in "".join(value) else ",".join(value)
        words += [f"--{key.replace('_', '-')}", shlex.quote(str(value))]
    if bits := settings.get("value_range"):
        words.append(f"--range {bits[0]:.12g},{bits[1]:.12g}")
    words += ["--skip-bad"] if settings.get("skip_bad") else []
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
    if "=" not in text and (hint := nearest(text, PUBLIC).strip()):
        raise ValueError(f"--values {text}: no public set is called that. {hint}")
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
    """Add `--allow-unverified`."""
    command.add_argument(
        "--allow-unverified", action="store_true", help="accept weights that nobody vouches for; recorded"
    )


def add_device(command: Any) -> None:
    """Add the option that says where is computed."""
    command.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (an accelerator, if any), cpu, cuda, cuda:1",
    )


def add_shard(command: Any, text: str) -> None:
    """Add the option that says which part of the files is meant."""
    command.add_argument("--shard", metavar="K/N", help=text)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    command.add_argument("--json", action="store_true", help="for programs: one object")


def print_json(answer: Any) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer, indent=2, ensure_ascii=False, default=str))


def option_in(words: Sequence[str], option: str) -> str | None:
    """Give the value of an option in a command line, the last one; None where it is not there."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == option or word.startswith(option + "="):
            found = following if word == option else word.partition("=")[2]
    return found


def has_option(words: Sequence[str], option: str) -> bool:
    """Tell whether a command line holds an option."""
    return any(word == option or word.startswith(option + "=") for word in words)


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


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number

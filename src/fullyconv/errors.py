"""The exceptions of the package, and the hint that goes with a misspelt name."""

from __future__ import annotations

from collections.abc import Iterable


class DatasetError(ValueError):
    """An image, a mask or a folder of them is not what it should be; the message names the file."""


class WeightsError(ValueError):
    """A weight file or a model folder is damaged, hostile or made for another model; the message names the file."""


class DownloadError(OSError):
    """A file could not be fetched: no network, no such repository, a server that fails; the message says what to do."""


class ConversionError(ValueError):
    """A classifier cannot be turned into a fully convolutional network; the message says what in it is in the way."""


_MANY = 100  # choices that nobody would read through


def near_miss(name: str, choices: Iterable[str]) -> str:
    """Say which choices there are, the nearest first; of very many only those that are near, or hold the same word.

    Args:
        name: what was asked for.
        choices: what there is.

    Returns:
        A sentence to end an error message with.

    Example:
        >>> near_miss("fcn8_vgg16", ["fcn8s_vgg16", "fcn16s_vgg16"])
        'Did you mean fcn8s_vgg16? Choices: fcn16s_vgg16, fcn8s_vgg16.'
    """
    import difflib  # for a message alone
    import re

    known = sorted(choices)
    if len(known) <= _MANY:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        return f"{hint}Choices: {', '.join(known)}."
    plain = {choice.lower(): choice for choice in reversed(known)}
    words = set(re.findall(r"\w+", name.lower()))
    near = [choice for choice in sorted(plain) if words and words <= set(re.findall(r"\w+", choice))]
    near += difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.7)
    same = [name.lower()] if name.lower() in plain else []
    found = [plain[choice] for choice in same or dict.fromkeys(near)][:5]
    return (f"Did you mean {' or '.join(found)}? " if found else "") + f"There are {len(known)} choices."

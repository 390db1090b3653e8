"""The exceptions of the package, the small words of its messages, and its logger."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = logging.getLogger("fullyconv")


class DatasetError(ValueError):
    """An image, a mask or a folder of them is not what it should be; the message names the file.

    Args:
        message: what is wrong, and the remedy.
        files: all files concerned, where there are several.
    """

    def __init__(self, message: str = "", *, files: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.files = tuple(map(str, files))


class WeightsError(ValueError):
    """A weight file or a model folder is damaged, hostile or made for another model; the message names the file."""


class DownloadError(OSError):
    """A file could not be fetched: no network, no such repository, a server that fails; the message says what to do."""


class ConversionError(ValueError):
    """A classifier cannot be turned into a fully convolutional network; the message says what in it is in the way."""


class ScoresError(ValueError):
    """The scores of an image are NaN or infinite, so that it has no best class."""


class FolderInUse(ValueError):
    """Another process writes into a folder; the message says which one, and since when."""


class TrainingError(ValueError):
    """Training cannot go on: the loss is no number; the message says where, and what was kept."""


MALFORMED = (KeyError, TypeError, ValueError, OverflowError, AttributeError)
"""What is raised where a document from anywhere does not hold what it should."""


@contextmanager
def refusing(what: object, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the block into a `WeightsError` whose message begins with what was refused.

    Args:
        what: the file or source, and what is wrong with it.
        kinds: the types of these errors.
    """
    try:
        yield
    except kinds as error:
        raise WeightsError(f"{what}: {error}") from error


_MANY = 40  # choices that nobody would read through


def nearest(name: str, choices: Iterable[str]) -> str:
    """Ask whether the nearest choice was meant; an empty text where none is near.

    Args:
        name: what was asked for.
        choices: what there is.

    Example:
        >>> nearest("--modle", ["--model", "--out"]), nearest("x", ["--out"])
        ('Did you mean --model? ', '')
    """
    import difflib  # for a message alone

    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def near_path(path: Path) -> str:
    """Ask whether the nearest name in the same folder was meant; an empty text where none is near.

    Args:
        path: of what is not there.
    """
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = nearest(path.name, names).removeprefix("Did you mean ")
    return f" (did you mean {path.with_name(near[:-2])}?)" if near else ""


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
        return f"{nearest(name, known)}Choices: {', '.join(known)}."
    plain = {choice.lower(): choice for choice in reversed(known)}
    words = set(re.findall(r"\w+", name.lower()))
    near = [choice for choice in sorted(plain) if words and words <= set(re.findall(r"\w+", choice))]
    near += difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.7)
    same = [name.lower()] if name.lower() in plain else []
    found = [plain[choice] for choice in same or dict.fromkeys(near)][:5]
    return (f"Did you mean {' or '.join(found)}? " if found else "") + f"There are {len(known)} choices."


def first_line(error: BaseException) -> str:
    r"""Give the first line of an error's message, printable and of at most 300 characters; its type where it is empty.

    Example:
        >>> first_line(ValueError("no such file.\nTraceback ..."))
        'no such file'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0], 300).rstrip(".") if lines else type(error).__name__


def printable(text: object, most: int = 200) -> str:
    """Write text of unknown origin, such as a name in a file, as one bounded line."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])


def some(names: Iterable[object], most: int = 6) -> str:
    """Name the first few of many.

    Args:
        names: what there is.
        most: how many are named.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(printable(name) for name in listed[:most]) + rest


def tell(message: str) -> None:
    """Say something a user should know: layers that start anew, weights without a known digest.

    It goes through the logger "fullyconv": ``logging.getLogger("fullyconv").setLevel(logging.WARNING)`` silences it.
    Where nobody has configured logging, it goes to stderr as it is.

    Args:
        message: one or more lines.
    """
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    if LOGGER.hasHandlers():
        LOGGER.info(message)
    elif LOGGER.isEnabledFor(logging.INFO):  # logging's own handler of last resort shows nothing below a warning
        print(f"fullyconv: {message}", file=sys.stderr)


def hush() -> None:
    """Keep Lightning's adverts, and warnings that nobody who trains can act on, off the screen.

    What is left out are its tips to install a service, its word on packages that it no longer needs, the deprecation
    of a torch class that it uses itself, and its advice for large sets (workers, logging interval), which is wrong for
    the small sets that most people have.
    """
    for message in (
        r".*treespec, LeafSpec",
        r".*`tensorboardX` has been removed as a dependency",
        r".*does not have many workers",
        r".*smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=message)
    for library in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{library}.utilities.rank_zero").addFilter(_no_advert)


def _no_advert(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in str(record.msg)

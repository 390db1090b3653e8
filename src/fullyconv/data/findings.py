"""What is said of a data set: one finding a rule, with the files concerned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        severity: "error" (training would fail or learn from wrong labels), "warning", or "note".
        rule: what was looked for, in a few words.
        message: what is wrong, and the remedy.
        files: the files concerned.
    """

    severity: Severity
    rule: str
    message: str
    files: tuple[str, ...] = ()


def many(number: int, what: str, plural: str | None = None) -> str:
    """Write a number and what it counts.

    Example:
        >>> many(1, "mask holds", "masks hold"), many(0, "error")
        ('1 mask holds', '0 errors')
    """
    return f"{number} {what if number == 1 else plural or what + 's'}"


def counted(severity: Severity, cases: Iterable[object], rule: tuple[str, str], message: str) -> list[Finding]:
    """Give one finding of all cases, or none where there are no cases.

    Args:
        severity: how bad it is.
        cases: files, or words about them.
        rule: what they are, of one and of many; the number stands before it.
        message: what is wrong, and the remedy.
    """
    files = tuple(map(str, cases))
    return [Finding(severity, many(len(files), *rule), message, files)] if files else []

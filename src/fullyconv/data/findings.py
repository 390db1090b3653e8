"""What is said of a data set: one finding a rule, with the files concerned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
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


def counted(severity: Severity, cases: Iterable[object], rule: str, message: str) -> list[Finding]:
    """Give one finding of all cases, or none where there are no cases.

    Args:
        severity: how bad it is.
        cases: files, or words about them.
        rule: what they are; their number is put before it.
        message: what is wrong, and the remedy.
    """
    files = tuple(map(str, cases))
    return [Finding(severity, f"{len(files)} x {rule}", message, files)] if files else []


def joined(severity: Severity, found: Iterable[Finding]) -> list[Finding]:
    """Give one finding of all that have one rule, with the message of the first."""
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for one in found:
        by_rule[one.rule].append(one)
    return [
        entry if len(entry.files) > 1 else replace(entry, files=())  # which its message names
        for rule, same in by_rule.items()
        for entry in counted(severity, (name for one in same for name in one.files), rule, same[0].message)
    ]

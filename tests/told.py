"""What the commands answer, for tests that care about the facts in an answer and not about its wording."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fullyconv import cli


@dataclass(frozen=True)
class Said:
    """An answer: the exit status, and what was printed on either stream."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Diagnosed:
    """What `doctor --json` answers; a refusal before anything was read is one error."""

    code: int
    findings: list[dict[str, Any]]
    pixels: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)

    def texts(self, *severities: str) -> list[str]:
        """Give rule, message and files of each finding, of these severities or of all."""
        return [
            "\n".join([found["rule"], found["message"], *found["files"]])
            for found in self.findings
            if not severities or found["severity"] in severities
        ]

    def text(self, *severities: str) -> str:
        return "\n".join(self.texts(*severities))

    @property
    def errors(self) -> str:
        return self.text("error")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Said:
    """Run a command in this process."""
    capsys.readouterr()
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as stopped:  # of argparse
        code = stopped.code if isinstance(stopped.code, int) else 2
    printed = capsys.readouterr()
    return Said(code, printed.out, printed.err)


def doctor(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> Diagnosed:
    """Ask the doctor about a folder; in what he says it is called DATA, so that its name is no part of the answer."""
    said = run(capsys, "doctor", folder, "--json", *words)
    try:
        told = json.loads(said.out.replace(str(folder), "DATA"))
    except ValueError:
        message = said.text.replace(str(folder), "DATA")
        return Diagnosed(said.code, [{"severity": "error", "rule": "refused", "message": message, "files": []}])
    pixels = {name: number for name, number in told["pixels"].items() if number}
    names = (told["labels"] or {}).get("names", [])
    return Diagnosed(said.code, told["findings"], pixels, told["splits"], names)


def options_in(text: str) -> list[list[str]]:
    """Give the options that a message names, each with the value behind it: [["--unlabeled", "skip"], ...]."""
    return [
        re.split(r"[ =]", option, maxsplit=1)
        for option in re.findall(r"--[a-z][a-z-]*(?:[ =][\w#.:=+-]+(?:,[\w#.:=+-]+)*)?", text)
    ]


def follow(capsys: pytest.CaptureFixture[str], folder: Path, text: str) -> Diagnosed:
    """Do what a message of the doctor advises: ask again with the first option in it that makes the set healthy."""
    options = options_in(text)
    assert options, f"no option is named in: {text}"
    asked = [doctor(capsys, folder, *words) for words in options]
    return next((found for found in asked if found.code == 0), asked[0])

"""The command that stands beside each score of the zoo is one that today's command line reads."""

from __future__ import annotations

import shlex

import pytest

from fullyconv.cli import _parser
from fullyconv.weights import catalog

COMMANDS = {
    entry.name: str((entry.config.score or {})["command"])
    for entry in catalog.shipped()
    if entry.kind == "segmenter" and entry.config is not None
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_beside_a_score_is_read(name: str) -> None:
    words = shlex.split(COMMANDS[name])
    arguments = _parser().parse_args(words[1:])
    assert (words[1], arguments.model, arguments.split) == ("test", name, "test")

"""Nothing is lost where a command is killed: a few moments of each, and around each renaming of a save.

`python tests/killing.py --kills 20` looks longer; docs/reliability.md has what that found.
"""

from __future__ import annotations

import sys

import pytest

from killing import JOBS, trial


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills groups of processes, which a server of processes forks")
@pytest.mark.parametrize("command", JOBS)
def test_a_command_that_is_killed_leaves_whole_files_and_the_next_one_ends_it(command: str) -> None:
    if command == "export":
        pytest.importorskip("onnxscript")
    with trial(command) as tried:
        found = tried.kill(3, renamings=3 if command == "save_pretrained" else 0)
    assert found.kills == (9 if command == "save_pretrained" else 3)
    assert not found.bad, "\n".join(found.bad)
    assert found.resumed == found.kills

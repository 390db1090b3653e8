"""One process at a time in a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from fullyconv.errors import FolderInUse
from fullyconv.locks import held

KILLED = """
import os, signal, sys
from fullyconv.locks import held
with held(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_that_is_held_is_refused_by_the_name_of_its_holder_until_it_is_let_go(tmp_path: Path) -> None:
    with held(tmp_path / "a") as before:
        assert before is None
        with pytest.raises(FolderInUse) as caught, held(tmp_path / "a"):
            pass
        with held(tmp_path / "b"), held(tmp_path / "a", "other"):
            pass
    for fact in (str(tmp_path / "a"), f"process {os.getpid()}", socket.gethostname(), "since 20"):
        assert fact in str(caught.value)
    with held(tmp_path / "a") as before:
        assert before is None  # it ended as it should
    assert not [path.name for path in (tmp_path / "a").iterdir() if "holder" in path.name]


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    code = "import sys; from fullyconv.locks import held\nwith held(sys.argv[1]): pass"
    with held(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in done.stderr


def test_who_was_killed_lets_go_and_is_named_to_the_next(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.wait() == -signal.SIGKILL
    with held(tmp_path) as before:
        assert before is not None
        assert f"process {done.pid}" in before
    with held(tmp_path) as before:
        assert before is None


@pytest.mark.parametrize(
    "note", ["", "{", '{"pid": "x"}', "[" * 10000, '{"pid": 1, "host": 5, "since": "\\u001b[31m"}']
)
def test_a_note_that_is_damaged_stops_nobody(note: str, tmp_path: Path) -> None:
    (tmp_path / "run.holder.json").write_text(note)
    with held(tmp_path) as before:
        assert before
        assert before.isprintable()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held(tmp_path):
        raise RuntimeError
    with held(tmp_path) as before:
        assert before is None


def test_the_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with held(tmp_path):
            modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o640}


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: FileLock) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with held(tmp_path) as before:
        assert before is None


def test_who_may_wait_comes_in_when_the_holder_lets_go(tmp_path: Path) -> None:
    inside = threading.Event()

    def short() -> None:
        with held(tmp_path):
            inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=short)
    thread.start()
    assert inside.wait(30)
    with held(tmp_path, wait=30):
        pass
    thread.join()

"""Files are written whole or not at all, with the mode of the umask, under hidden names that any file system holds."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv import errors, files
from fullyconv.files import digest, remove_unfinished, replacing, write
from fullyconv.images import MaskWriter, write_image
from fullyconv.inference.heatmap import Heatmap
from fullyconv.inference.segmentation import writing_probabilities
from limits import largest_file


def test_what_is_written_replaces_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "new" / "a.txt", "one")
    assert write(tmp_path / "new" / "a.txt", b"two", lasting=True).read_bytes() == b"two"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("new")
            assert path.read_text() == "old"
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert (os.listdir(tmp_path), path.read_text()) == (["a"], "old")


@pytest.mark.parametrize("name", ["a", "a.png", "a" * 255, "ä" * 127, "a" * 240 + ".overlay.png"])
def test_any_name_that_the_file_system_holds_can_be_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as part:
        assert part.name.startswith(".")
        assert len(os.fsencode(part.name)) <= max(40, len(os.fsencode(name)))
        part.touch()
    assert os.listdir(tmp_path) == [name]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "bad", "part")])
def test_an_error_of_the_writer_names_the_file_that_was_to_be_written(tmp_path: Path, error: OSError) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as part:
            if error.filename:
                error.filename = str(part)
            raise error

    with pytest.raises(OSError, match=r"a\.txt") as caught:
        fail()
    assert caught.value.errno == error.errno
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert ("make room" in str(caught.value)) == (error.errno == errno.ENOSPC)


@pytest.mark.parametrize("kind", ["mask", "probabilities"])
def test_a_disk_that_is_full_halfway_is_told_with_the_name_of_the_file(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0)
    path = tmp_path / ("m.png" if kind == "mask" else "p.npz")

    def fill() -> None:
        if kind == "mask":
            with MaskWriter(path, (4000, 1000)) as masks:
                masks.write(noise.integers(0, 255, (4000, 1000), np.uint8))
        else:
            with writing_probabilities(path, (2000, 1000)) as write:
                write(noise.random((2000, 1000)).astype(np.float16))

    with largest_file(2**16), pytest.raises(OSError, match=path.name) as caught:
        fill()
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_an_image_or_array_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*given: Any, **_: Any) -> None:
        next(each for each in given if hasattr(each, "write")).write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    heat = Heatmap(np.zeros((8, 8), np.float32), "cat", np.zeros((8, 8, 3), np.uint8))
    for name, save in (
        ("a.png", lambda path: write_image(path, np.zeros((8, 8, 3), np.uint8))),
        ("a.jpg", lambda path: heat.save(path)),
        ("a.npy", lambda path: heat.save(path)),
    ):
        path = write(tmp_path / name, "before")
        with monkeypatch.context() as full:
            full.setattr(Image.Image, "save", half)
            full.setattr(np, "save", half)
            with pytest.raises(OSError, match=name):
                save(path)
        assert path.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "a.npy", "a.png"]


def test_an_error_that_names_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), replacing(tmp_path / "a.txt"):
        (tmp_path / "source").read_bytes()


KILLED = """
import os, signal, sys
from fullyconv.files import replacing

with replacing(sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_what_a_killed_writer_left_is_removed_at_once_and_nothing_else_is(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.png"], check=False).returncode == -9
    others = {tmp_path / name for name in (".hidden", ".a.part", "a.01234567.part", "c.png")}
    for path in others:
        path.touch()
        os.utime(path, (1e9, 1e9))
    assert len(hidden(tmp_path)) == 3
    remove_unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == others
    remove_unfinished(tmp_path / "nowhere")


@pytest.mark.parametrize("why", ["somebody writes", "no locks"])
def test_what_may_still_be_written_is_left_for_an_hour(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no locks":
        monkeypatch.setattr(files, "fcntl", None)
    old, new = (files.Unfinished(tmp_path / name) for name in ("a.png", "b.png"))
    for file in (old, new):
        file.fill(b"half")
    os.utime(old.path, (1e9, 1e9))
    remove_unfinished(tmp_path)
    assert hidden(tmp_path) == [new.path.name]
    new.keep()
    old.discard()
    (tmp_path / ".c.png.01234567.part").touch()
    remove_unfinished(tmp_path)
    assert len(hidden(tmp_path)) == (why == "no locks")


KILLED_ASIDE = """
import os, signal, sys
from fullyconv.files import aside

with aside(sys.argv[1]) as place:
    (place / "whole copy").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_temporary_folder_is_gone_afterwards_and_those_of_killed_processes_before(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED_ASIDE, tmp_path], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    (tmp_path / "another").mkdir()
    with files.aside(tmp_path) as first, files.aside(tmp_path) as second:
        assert {path.name for path in tmp_path.iterdir()} == {"another", first.name, second.name}
        assert left not in (first, second)
    assert os.listdir(tmp_path) == ["another"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for number in range(5):
        write(tmp_path / f"{number}", "text")
        files.Unfinished(tmp_path / "none").discard()
        with files.aside(tmp_path):
            pass
        remove_unfinished(tmp_path)
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_a_digest_is_that_of_all_bytes(tmp_path: Path) -> None:
    import hashlib

    content = bytes(range(256)) * 5000
    found = digest(write(tmp_path / "a", content))
    assert (found.bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_messages_are_one_bounded_printable_line() -> None:
    assert errors.first_line(ValueError("a\x1b[31mb.\nmore")) == "a [31mb"
    assert errors.first_line(KeyError()) == "KeyError"
    assert len(errors.first_line(ValueError("x" * 1000))) == 300
    assert errors.some(["a\nb", "c"], 1) == "a b and 1 more"
    assert errors.some(iter("abc"), 3) == "a, b, c"


def test_making_a_folder_aside_removes_those_that_are_left_and_nobody_elses(tmp_path: Path) -> None:
    for name in (".fullyconv-aside-abcdefgh", ".fullyconv-masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"content")
    with files.aside(tmp_path) as place:
        assert place.parent == tmp_path
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([place.name, ".fullyconv-masks"])
    assert (tmp_path / ".fullyconv-masks" / "file").read_bytes() == b"content"

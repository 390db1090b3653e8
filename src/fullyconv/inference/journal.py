"""The note in a folder of masks that says how they were made and of what, so that a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

NAME = ".fullyconv-predict.jsonl"
"""The file: on its first line the settings and the heads of the model, then a line for each input that is done."""


class Journal:
    """What an earlier run has written into a folder, with the same settings.

    Nothing depends on a clock: an input counts as done if it was noted under these settings, is the same file of the
    same size and time as then, and all that was written for it is still there.

    Args:
        folder: of the masks.
        settings: what masks depend on, beside their inputs: plain values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.settings = json.loads(json.dumps(settings))
        self.heads, self._stamps = self._read()
        self._file: TextIO | None = None

    def _read(self) -> tuple[list[str] | None, dict[str, Any]]:
        """Give the heads of the model and what is noted; None and nothing where there is no note of these settings."""
        try:
            first, *lines = self.path.read_text(encoding="utf-8").splitlines()
            header = json.loads(first)
            if header["settings"] != self.settings:
                return None, {}
            heads = [str(head) for head in header["heads"]]
        except (OSError, ValueError, LookupError, TypeError):
            return None, {}
        stamps: dict[str, Any] = {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # the last line of a run that was killed
                key, stamp = json.loads(line)
                stamps[str(key)] = stamp
        return heads, stamps

    def forget(self) -> None:
        """Take nothing for done."""
        self.heads, self._stamps = None, {}

    def is_done(self, key: str, source: Path, files: Sequence[Path]) -> bool:
        """Tell whether an input is done.

        Args:
            key: what it is called here.
            source: the file that was read.
            files: all that is written for it.
        """
        noted = self._stamps.get(key)
        return noted is not None and noted == _stamp(source) and all(file.is_file() for file in files)

    def open(self, heads: Sequence[str]) -> None:
        """Begin to note, and keep other runs out of the folder until `close`.

        Args:
            heads: of the model; of one head [""].

        Raises:
            ValueError: if another run writes into the folder.
            OSError: if the folder or its note cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        try:
            _lock(self._file, self.path.parent)
        except ValueError:
            self.close()
            raise
        if not list(heads) == self.heads == self._read()[0]:  # another run may have ended meanwhile
            self.heads, self._stamps = list(heads), {}
            self._file.truncate(0)
            self._write({"settings": self.settings, "heads": self.heads})

    def note(self, key: str, source: Path) -> None:
        """Say that an input is done: all of its files are there."""
        self._stamps[key] = _stamp(source)
        self._write([key, self._stamps[key]])

    def _write(self, line: Any) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let other runs write into the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _stamp(source: Path) -> list[Any]:
    found = source.stat()
    return [os.fspath(source.resolve()), found.st_size, found.st_mtime_ns]


def _lock(file: TextIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no lock that lets others read
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"out={os.fspath(folder)!r}: another run writes into this folder; wait for it, or give another one"
        ) from error
    except OSError:  # a file system without locks
        return

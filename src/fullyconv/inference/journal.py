"""The note in a folder of masks that says how they were made and of what, so that a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fullyconv.files import write
from fullyconv.inference.identity import file_identity
from fullyconv.locks import held

NAME = ".fullyconv-predict.jsonl"
"""The file of a run that does all; one of several processes has its own, ``.fullyconv-predict.3-of-16.jsonl``."""

_ENTERING = 30.0  # seconds that one of several processes waits for the others, which only look around meanwhile


Line = tuple[list[Any] | None, int, Any]
"""What the file was that was read, as [path, size, time], or None if it failed; the place of the input among all; and
of an input, not of a frame, what became of it."""


@dataclass(frozen=True)
class Shard:
    """One of n parts.

    Args:
        number: which, from 1 on.
        of: how many there are.

    Example:
        >>> shard = Shard.parse("3/16")
        >>> str(shard), shard.takes("photos/a.jpg")
        ('3-of-16', False)
        >>> sum(Shard(number, 16).takes("photos/a.jpg") for number in range(1, 17))
        1
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/16".

        Raises:
            ValueError: if it is no part.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"shard={text!r}: write which part and of how many, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def takes(self, name: str) -> bool:
        """Tell whether a file belongs to this part: whatever else there is, it belongs to the same one.

        Args:
            name: the same for all processes, such as its path inside of a folder.
        """
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"


@dataclass(frozen=True)
class Note:
    """What a file of notes says: a line of settings and facts, then a line for each input.

    Args:
        settings: what masks depend on, beside their inputs: plain values.
        heads: of the model; None where none was opened.
        facts: what else is known of the run.
        lines: of each input and each frame of a video, by its name.
    """

    settings: Any
    heads: list[str] | None
    facts: dict[str, Any]
    lines: dict[str, Line]

    @classmethod
    def read(cls, path: Path) -> Note | None:
        """Read a file of notes as far as it goes; None where there is none.

        Args:
            path: the file.
        """
        try:
            first, *rest = path.read_text(encoding="utf-8").splitlines()
            header = json.loads(first)
            heads, facts = header["heads"], dict(header["facts"])
            found = cls(header["settings"], None if heads is None else [str(head) for head in heads], facts, {})
        except (OSError, ValueError, LookupError, TypeError):
            return None
        for line in rest:
            with contextlib.suppress(ValueError, TypeError):  # the last line of a run that was killed
                key, stamp, index, became = json.loads(line)
                found.lines[str(key)] = (stamp, int(index), became)
        return found

    def write(self, path: Path) -> None:
        """Write all of it, or nothing.

        Args:
            path: the file.
        """
        header = {"settings": self.settings, "heads": self.heads, "facts": self.facts}
        lines = [header, *([key, *line] for key, line in self.lines.items())]
        write(path, "".join(json.dumps(line) + "\n" for line in lines))


def notes_in(folder: Path) -> dict[Path, Note]:
    """Give all notes in a folder of masks, that of a run that does all first.

    Args:
        folder: of the masks.
    """
    paths = sorted(folder.glob(f"{Path(NAME).stem}*.jsonl"), key=lambda path: (path.name != NAME, path.name))
    return {path: note for path in paths if (note := Note.read(path)) is not None}


class Journal:
    """What earlier runs have written into a folder, with the same settings.

    Nothing depends on a clock: an input counts as done if it was noted under these settings, is the same file of the
    same size and time as then, and all that was written for it is still there.

    Args:
        folder: of the masks.
        settings: what masks depend on, beside their inputs: plain values.
        shard: the part of one process of several, which write into the folder at the same time.
        facts: what else is noted: plain values.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        shard: Shard | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / (NAME if shard is None else f"{Path(NAME).stem}.{shard}.jsonl")
        self.settings = json.loads(json.dumps(settings))
        self.heads: list[str] | None = None
        self._facts = dict(facts or {})
        self._shard = shard
        self._held = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._lines: dict[str, Line] = {}
        self._forgotten = False
        self._look()

    def _look(self) -> None:
        for note in notes_in(self.path.parent).values():
            if note.settings == self.settings and not self._forgotten:
                self.heads = note.heads or self.heads
                self._lines |= note.lines

    def forget(self) -> None:
        """Take nothing for done."""
        self.heads, self._lines, self._forgotten = None, {}, True

    def is_done(self, key: str, source: Path, files: Sequence[Path]) -> bool:
        """Tell whether an input is done.

        Args:
            key: what it is called here.
            source: the file that was read.
            files: all that is written for it.
        """
        stamp = self._lines[key][0] if key in self._lines else None
        return stamp is not None and stamp == file_identity(source) and all(file.is_file() for file in files)

    def open(self, heads: Sequence[str] | None, places: Mapping[str, int], left: Collection[str] = ()) -> None:
        """Begin to note, and keep other runs out of the folder until `close`.

        Args:
            heads: of the model; of one head [""]; None where none was opened.
            places: of each input of this run its place among all inputs.
            left: those that are predicted now, whatever was noted of them.

        Raises:
            FolderInUse: if another run writes into the folder; the message names it.
            OSError: if the folder or its note cannot be written.
        """
        folder, whole = self.path.parent, Path(NAME).stem
        try:
            if self._shard is None:
                self._held.enter_context(held(folder, whole))
                self._begin(heads, places, left)
            else:
                with held(folder, whole, _ENTERING):  # only while it looks around
                    self._held.enter_context(held(folder, self.path.stem))
                    self._begin(heads, places, left)
        except BaseException:
            self.close()
            raise

    def _begin(self, heads: Sequence[str] | None, places: Mapping[str, int], left: Collection[str]) -> None:
        folder, overwritten = self.path.parent, self._forgotten
        self._lines, self.heads = {}, None
        self._look()  # another run may have ended meanwhile
        if heads is not None and list(heads) != self.heads:
            self.forget()
        self.heads = self.heads if heads is None else list(heads)
        for path, note in notes_in(folder).items():
            same = note.settings == self.settings and (heads is None or note.heads in (None, self.heads))
            if path != self.path and (not same or self._shard is None or (overwritten and path.name == NAME)):
                with held(folder, path.stem) if path.name != NAME else contextlib.nullcontext():
                    path.unlink()  # its masks are made again, or are noted here from now on
        kept: dict[str, Line] = {}
        for key, (stamp, place, became) in self._lines.items():
            owner = key if key in places else key.rpartition("/")[0]  # a frame is called VIDEO/NUMBER
            if key not in left and (owner in places or self._shard is None):
                kept[key] = stamp, places.get(owner, place), became
        Note(self.settings, self.heads, self._facts, kept).write(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def note(self, key: str, stamp: list[Any] | None, index: int = 0, became: Any = None) -> None:
        """Say that an input is done, and that all of its files are there; or that it failed.

        Args:
            key: what it is called here.
            stamp: of the file, from before it was read; None says that it failed.
            index: its place among all inputs.
            became: what became of it, as plain values.
        """
        assert self._file is not None
        self._lines[key] = (stamp, index, became)
        self._file.write(json.dumps([key, *self._lines[key]]) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let other runs write into the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._held.close()

"""Write files whole or not at all, remove what killed writers left, and digest files."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEFT_AFTER = 3600.0
"""Seconds after which nobody is taken to be writing a file that has not changed since, where locks do not say."""

_PART = re.compile(r"\..*\.[0-9a-f]{8}\.part")
_ASIDE = ".fullyconv-aside-"  # a whole name of our own: folders of this name that nobody holds are removed
_MARKS = len("..01234567.part")
_SHORT = 40  # bytes of a name that every file system holds


class Unfinished:
    """A file that is being written beside the one it will be: `keep` puts it in place, `discard` removes it.

    It lies in the same folder, so that the replacement is one step on one file system. Until then the folder bears a
    shared lock of the system, which is how `remove_unfinished` knows that it is not left by a killed process. Where a
    block will do instead of two calls there is `replacing`.

    Args:
        path: the file to make or to replace; its folder is made where there is none.

    Attributes:
        target: that file.
        path: the file to write; whoever opens it makes it, with the mode that the umask leaves.
    """

    def __init__(self, path: str | Path) -> None:
        self.target = Path(path)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.path = self.target.with_name(_hidden(self.target.name))
        self._lock = _locked(self.target.parent, wait=True)

    def fill(self, content: bytes) -> None:
        """Write all of the file, and have it on the disk, so that a power cut after `keep` cannot empty it."""
        with self.naming(), self.path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def keep(self) -> None:
        """Put the file in the place of the target."""
        with self.naming():
            self.path.replace(self.target)
        self.let_go()

    def discard(self) -> None:
        """Remove the file where it is still unfinished."""
        with suppress(OSError):
            self.path.unlink()
        self.let_go()

    def let_go(self) -> None:
        """Write no more, and leave the file as it is."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Let an error of the writer name the target, if it names the unfinished file or none.

        Raises:
            OSError: of the writer, with the name.
        """
        try:
            yield
        except OSError as error:
            if error.errno is None or error.filename not in (None, str(self.path)):
                raise
            hint = "; make room there, or write to another disk" if error.errno == errno.ENOSPC else ""
            raise type(error)(error.errno, f"{error.strerror}{hint}", str(self.target)) from error


@contextmanager
def replacing(path: str | Path, *, lasting: bool = False) -> Iterator[Path]:
    """Give the name of a file to write, and put it in the place of `path` where the block ends well.

    Args:
        path: the file to make or to replace; it stays as it is until then.
        lasting: have the bytes on the disk before the name changes, so that a power cut leaves one of the two files.

    Raises:
        OSError: if it cannot be written; the message names `path`.

    Example:
        >>> import tempfile
        >>> with replacing(Path(tempfile.mkdtemp()) / "a.txt") as part:
        ...     size = part.write_text("whole")
    """
    file = Unfinished(path)
    try:
        with file.naming():
            yield file.path
            if lasting:
                with file.path.open("rb") as written:
                    os.fsync(written.fileno())
        file.keep()
    finally:
        file.discard()


def write(path: str | Path, content: bytes | memoryview | str, *, lasting: bool = False) -> Path:
    """Write a file, all of it or nothing.

    Args:
        path: the file to make or to replace.
        content: bytes, or text, which is written as UTF-8.
        lasting: as `replacing` takes it.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; the message names `path`.
    """
    with replacing(path, lasting=lasting) as part, part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Put files in the place of others: first all bytes on the disk, then one renaming after the other.

    Args:
        contents: file -> what it is to hold, in the order of the renamings.

    Raises:
        OSError: if one cannot be written; none was replaced then, unless renaming itself failed: what was not yet
            renamed lies ready beside its place.
    """
    files, kept = [Unfinished(path) for path in contents], 0
    try:
        for file, content in zip(files, contents.values(), strict=True):
            file.fill(content)
        for file in files:
            file.keep()
            kept += 1
    finally:
        for file in files:
            file.let_go() if kept else file.discard()


def _hidden(name: str) -> str:
    """Give a hidden name of at most as many bytes as `name`, or of few enough for any file system."""
    kept = name
    while len(os.fsencode(kept)) > max(len(os.fsencode(name)), _SHORT) - _MARKS:
        kept = kept[1:]
    return f".{kept}.{os.urandom(4).hex()}.part"


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed writers left in a folder: its unfinished files.

    Where another process is writing into the folder, or the file system has no locks, those go that have not changed
    for an hour.

    Args:
        folder: what lies in it is looked at, what lies in its folders is not.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        left = [entry for entry in entries if _PART.fullmatch(entry.name)]
        lock = _locked(folder, wait=False) if left else None
        for entry in left:
            with suppress(OSError):  # another process may be as quick
                if lock is not None or time.time() - entry.stat().st_mtime > LEFT_AFTER:
                    Path(entry.path).unlink()
        if lock is not None:
            os.close(lock)


@contextmanager
def aside(parent: str | Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards; those that killed processes left beside it are removed first.

    Args:
        parent: where it is made: on the disk where its contents are to be moved to.

    Raises:
        OSError: if it cannot be made.
    """
    for left in Path(parent).glob(f"{_ASIDE}*"):
        if (lock := _locked(left, wait=False)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while True:
        place = Path(tempfile.mkdtemp(dir=parent, prefix=_ASIDE))
        lock = _locked(place, wait=True)
        if place.exists():  # nobody took it for left before it was locked
            break
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def unfinished(path: str | Path) -> list[Path]:
    """Give the unfinished files that were to take the place of a file, those of killed writers and of others."""
    begin = f".{Path(path).name}."
    return [
        each for each in Path(path).parent.glob(".*.part") if _PART.fullmatch(each.name) and each.name.startswith(begin)
    ]


def _locked(folder: str | Path, wait: bool) -> int | None:
    """Lock a folder until the descriptor is closed: shared by those who write, alone without waiting; None if not."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:  # somebody writes, or there are no locks of folders, as in NFS
        if descriptor is not None:
            os.close(descriptor)
        return None


@dataclass(frozen=True)
class Digest:
    """What a file is: its size and its sha256.

    Args:
        sha256: 64 hexadecimal digits.
        bytes: size.
    """

    sha256: str
    bytes: int


def digest(path: str | Path) -> Digest:
    """Read a file once and give its size and sha256.

    Raises:
        OSError: if it cannot be read.

    Example:
        >>> digest(os.devnull).sha256[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as file:
        value = hashlib.file_digest(file, "sha256")
        return Digest(value.hexdigest(), file.tell())

"""One process at a time in a folder: whoever holds it is named in it, and the system lets go for a holder that died."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fullyconv.errors import FolderInUse, printable
from fullyconv.files import write


@contextmanager
def held(folder: str | Path, name: str = "run", wait: float = 0.0) -> Iterator[str | None]:
    """Hold a folder while the block runs, so that no other process writes into it.

    The lock is one of the operating system, on ``NAME.lock``; who holds it stands in ``NAME.holder.json`` meanwhile. A
    process that is killed lets go of the lock and leaves that note.

    Args:
        folder: which; it is made where there is none.
        name: of what is done there, the first part of both file names.
        wait: seconds until a holder is taken for one that stays.

    Yields:
        Who held it last and was killed, in words; None where nobody was.

    Raises:
        FolderInUse: if another process holds it; the message names it.
        OSError: if the folder cannot be written to.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    note = place / f"{name}.holder.json"
    file = place / f"{name}.lock"
    file.touch()
    lock = FileLock(file, timeout=wait, mode=file.stat().st_mode & 0o777)  # the umask's, in every version of filelock
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"{place}: in use by {_holder(note) or 'another process'}; wait until it has ended, or give another folder"
        ) from None
    except NotImplementedError:  # a file system without locks, where nobody can be kept out
        yield None
        return
    try:
        before = _holder(note)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write(note, json.dumps(mine))
        yield before
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def _holder(note: Path) -> str | None:
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        return f"process {int(said['pid'])} on {printable(said['host'], 80)} since {printable(said['since'], 20)}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return "a process that left no legible note"

"""The lock file: what was accepted without a known digest, by address: the commit, and sizes and digests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fullyconv.errors import WeightsError, tell
from fullyconv.files import Digest, write

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 16 * 2**20

Entries = dict[str, dict[str, Any]]

_ACCEPTED: ContextVar[Entries | None] = ContextVar("accepted", default=None)


def lock_file() -> Path:
    """Give the file that records what was accepted unverified: FULLYCONV_LOCK, or lock.json in the user's settings."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.environ.get("FULLYCONV_LOCK") or f"{base}/fullyconv/lock.json").expanduser()


def read_lock() -> Entries:
    """Read what was accepted unverified: address -> commit and files, each with bytes and sha256.

    Raises:
        WeightsError: if the file is damaged or cannot be read: what was accepted must not be forgotten in silence.
    """
    path = lock_file()
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
        sources = document["sources"]
        for entry in sources.values():
            for record in entry["files"].values():
                if not DIGEST.fullmatch(record["sha256"]):
                    raise ValueError(f"sha256={record['sha256']!r}")
            if entry.get("commit") is not None and not COMMIT.fullmatch(entry["commit"]):
                raise ValueError(f"commit={entry['commit']!r}")
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); it records which unverified weights were accepted. Make it "
            "readable, or name another file in FULLYCONV_LOCK"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is damaged ({error}); it records which unverified weights were accepted. Mend it, or remove it "
            "and accept them anew"
        ) from error
    return dict(sources)


def recorded(address: str) -> dict[str, Any]:
    """Give the commit and the files of an address that were accepted before, or so far in the block of `accepting`."""
    entries = read_lock()
    _merge(entries, _ACCEPTED.get() or {})
    return entries.get(address, {})


@contextmanager
def accepting() -> Iterator[None]:
    """Record what the block accepts when it has ended well: bytes that did not load bind no later load.

    Of blocks within each other the outermost decides.

    Raises:
        WeightsError: if it cannot be recorded.
    """
    if _ACCEPTED.get() is not None:
        yield
        return
    entries: Entries = {}
    token = _ACCEPTED.set(entries)
    try:
        yield
    finally:
        _ACCEPTED.reset(token)
    _record(entries)


def accept(address: str, commit: str | None, name: str, found: Digest) -> None:
    """Accept a file without a known digest; outside of a block of `accepting` it is recorded at once."""
    entries: Entries = {address: {"commit": commit, "files": {name: {"bytes": found.bytes, "sha256": found.sha256}}}}
    pending = _ACCEPTED.get()
    if pending is None:
        _record(entries)
    else:
        _merge(pending, entries)


def _merge(into: Entries, more: Mapping[str, Mapping[str, Any]]) -> None:
    for address, entry in more.items():
        into.setdefault(address, {"commit": entry["commit"], "files": {}})["files"].update(entry["files"])


def _record(entries: Entries) -> None:
    """Tell and record what was accepted."""
    from filelock import FileLock  # a dependency of huggingface_hub

    if not entries:
        return
    shown = lock_file()
    path = Path(os.path.realpath(shown))  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".guard"):  # other processes may accept something at the same time
            sources = read_lock()
            _merge(sources, entries)
            write(path, json.dumps({"format": 1, "sources": sources}, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WeightsError(
            f"{shown}: cannot be written ({error.strerror or error}); it records which unverified weights were "
            "accepted. Make it writable or make room there, or name another file in FULLYCONV_LOCK"
        ) from error
    for address, entry in entries.items():
        for name, file in entry["files"].items():
            tell(
                f"unverified: {f'{address}/{name}' if name else address}\n  commit {entry['commit'] or '-'}\n"
                f"  {file['bytes']} bytes\n  sha256 {file['sha256']}\n"
                f"  recorded in {shown}: every later load must match"
            )

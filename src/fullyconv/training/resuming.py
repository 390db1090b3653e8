"""How a run goes on after an interruption: what its folder says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullyconv.data.pairs import Pair
from fullyconv.files import remove_unfinished, write

STATE = "fit.json"
FREE = ("epochs", "minutes")  # what may grow from one call to the next


def resume(folder: Path, command: Mapping[str, Any]) -> str | None:
    """Say where a run goes on.

    Args:
        folder: the run's folder.
        command: what identifies the run: data, model and options.

    Returns:
        The checkpoint to go on from; None for a new run; "finished" where nothing is left to do.

    Raises:
        ValueError: if the folder holds another run.
    """
    state = read_state(folder)
    last = folder / "checkpoints" / "last.ckpt"
    if state is None:
        if last.parent.is_dir() and any(last.parent.iterdir()):
            raise ValueError(
                f"--out {folder}: holds checkpoints of a run that this command did not start; give another folder"
            )
        return None
    theirs = state.get("command", {})
    if not state.get("finished") and not (last.parent.is_dir() and any(last.parent.iterdir())):
        return None  # nothing was trained: a call that had gone wrong
    for key in sorted({*theirs, *command}):
        if key not in FREE and theirs.get(key) != command.get(key):
            raise ValueError(
                f"--out {folder}: holds another run ({key}: {theirs.get(key)!r}, now {command.get(key)!r}); give the "
                "same command to go on with it, another folder (--out) for a new run, or remove it"
            )
    before, now = theirs.get("epochs"), command.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        raise ValueError(f"--epochs {now}: the run in {folder} has {before}; give as many or more, or another --out")
    if state.get("finished") and all(theirs.get(key) == command.get(key) for key in FREE):
        return "finished"
    return str(last) if last.is_file() else None


def split_digest(splits: Mapping[str, Sequence[Pair]]) -> str:
    """Say in short which images are in which split."""
    digest = hashlib.blake2b(digest_size=6)
    for split, pairs in splits.items():
        digest.update(json.dumps([split, [pair.key for pair in pairs]]).encode())
    sizes = ", ".join(f"{split} {len(pairs)}" for split, pairs in splits.items())
    return f"{sizes} ({digest.hexdigest()})"


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read what a run's folder says of it; None where it says nothing."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged ({error}); give another folder (--out), or remove this one") from error
    return state if isinstance(state, dict) else None


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what a run's folder says of it, all of it or nothing."""
    remove_unfinished(folder)
    write(folder / STATE, json.dumps(state, indent=2))

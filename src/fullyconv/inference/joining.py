"""What several processes did, each its part, put together into what one process leaves that does all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.confusion import SegmentationScores, scores
from fullyconv.files import write
from fullyconv.inference.journal import NAME, Line, Note, Shard, notes_in
from fullyconv.inference.outputs import FolderResult, Predicted
from fullyconv.inference.segmentation import of_head
from fullyconv.locks import held

_SCORED = ".fullyconv-test"


@dataclass(frozen=True)
class JoinedMasks:
    """What the parts of a run left in a folder of masks.

    Args:
        model: what the model was called.
        result: what became of each file, in the order of one process that does all.
        unread: files that are images by their names and were not read: extension -> how many.
    """

    model: str | None
    result: FolderResult
    unread: Mapping[str, int]


def join_masks(folder: str | Path) -> JoinedMasks:
    """Make one note of those that the parts of a run left, so that the folder is that of one process.

    Args:
        folder: of the masks.

    Returns:
        What became of each file.

    Raises:
        ValueError: if there is no note, parts are missing or unfinished, were made with other settings, or of other
            files, or masks are gone; the message names the parts.
        FolderInUse: if a process still writes into the folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: there is no such folder")
    with held(place, Path(NAME).stem):
        notes = notes_in(place)
        if not notes:
            raise ValueError(f"{place}: holds nothing that `predict` noted; give the --out of its processes")
        for path in notes:
            if path.name != NAME:
                with held(place, path.stem):
                    pass  # nobody writes there now
        parts = {path: note for path, note in notes.items() if "shard" in note.facts} or notes
        _check_alike(place, {path.name: (note.settings, note.facts["total"]) for path, note in parts.items()})
        done = {path: {key: line for key, line in note.lines.items() if line[2]} for path, note in parts.items()}
        told = sorted({key: line for lines in done.values() for key, line in lines.items()}.values(), key=_place)
        first = next(iter(parts.values()))
        facts = {key: value for key, value in first.facts.items() if key not in ("shard", "part")}
        if "shard" in first.facts and len(told) != facts["total"]:
            counts = {note.facts["shard"]: (len(done[path]), note.facts["part"]) for path, note in parts.items()}
            raise ValueError(f"{place}: {_missing(counts)}; {len(told)} of {facts['total']} files are done")
        lines = {key: line for note in notes.values() for key, line in note.lines.items()}
        lines = dict(sorted(lines.items(), key=lambda item: _place(item[1])))
        heads = next((note.heads for note in notes.values() if note.heads), None)
        _check_there(place, lines, heads or [""])
        Note(first.settings, heads, facts, lines).write(place / NAME)
        for path in notes:
            if path.name != NAME:
                path.unlink()
                path.with_suffix(".lock").unlink(missing_ok=True)
    result = FolderResult(place, 0, tuple(_predicted(became) for _, _, became in told))
    return JoinedMasks(facts["model"], result, facts["unread"])


def _place(line: Line) -> int:
    return line[1]


def _check_alike(place: Path, known: Mapping[str, Any]) -> None:
    first, *others = known
    different = [name for name in others if known[name] != known[first]]
    if different:
        raise ValueError(
            f"{place}: {', '.join(different)} and {first} are of other settings, another model or other files; run all "
            "parts by the same command on the same files"
        )


def _missing(done: Mapping[str, tuple[int, int]]) -> str:
    """Say which parts of those of one run are not there, or not finished."""
    wanted = {Shard.parse(shard).of for shard in done}
    absent = [f"{k}/{n}" for n in sorted(wanted) for k in range(1, n + 1) if f"{k}/{n}" not in done]
    begun = [f"{shard} ({some} of {all_} done)" for shard, (some, all_) in done.items() if some < all_]
    names = [*(f"{shard} (not begun)" for shard in absent), *begun]
    return f"run --shard {', '.join(names)} to its end" if names else "run `predict` again, which goes on"


def _check_there(place: Path, lines: Mapping[str, Any], heads: Sequence[str]) -> None:
    gone = []
    for key, (stamp, _, became) in lines.items():
        if stamp is None or became is None:
            continue
        # of a video the table stands for all of it
        video = became["frames"] is not None
        file = place / (f"{key}.csv" if video else key)
        gone += [each for head in heads if not (each := of_head(file, head)).is_file()]
    if gone:
        others = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise ValueError(f"{gone[0]}: is gone{others}; run its part again")


def _predicted(told: Mapping[str, Any]) -> Predicted:
    paths = {key: None if told[key] is None else Path(told[key]) for key in ("source", "target")}
    return Predicted(**(dict(told) | paths))


@dataclass(frozen=True)
class JoinedScores:
    """What the parts of a test say of all images together.

    Args:
        where: model, data and split, as they were called.
        classes: the K class names.
        matrix: the confusion matrix.
    """

    where: Mapping[str, str]
    classes: Sequence[str]
    matrix: npt.NDArray[np.int64]

    @property
    def scores(self) -> SegmentationScores:
        """The four metrics and the IoU of every class."""
        return scores(self.matrix)


def scored_in(folder: str | Path) -> list[Path]:
    """Give the files in which parts of a test lie.

    Args:
        folder: of the parts.
    """
    return sorted(Path(folder).glob(f"{_SCORED}.*-of-*.json"))


def score_part(
    folder: str | Path,
    shard: Shard,
    facts: Mapping[str, Any],
    classes: Sequence[str],
    items: Sequence[Any],
    matrix_of: Callable[[Sequence[Any]], npt.NDArray[np.int64]],
    at_once: int = 64,
    stamp: Any = None,
) -> bool:
    """Score a part of a test, and keep what is counted, so that a process that was killed goes on.

    Args:
        folder: of the parts; it is made.
        shard: which part.
        facts: what all parts have to have in common, plain values; "where" is told when they are joined.
        classes: the K class names.
        items: the images of the part.
        matrix_of: gives the (K, K) confusion matrix of some of them.
        at_once: images after which it is written down how far the process is.
        stamp: what the images are, plain values: of others nothing that was counted is kept.

    Returns:
        Whether there was something left to do.

    Raises:
        FolderInUse: if another process scores this part.
        OSError: if the folder cannot be written.
    """
    place = Path(folder)
    path = place / f"{_SCORED}.{shard}.json"
    state = {"shard": f"{shard.number}/{shard.of}", "facts": facts, "classes": list(classes), "part": len(items)}
    state = json.loads(json.dumps(state | {"stamp": stamp}))
    with held(place, path.stem):
        done, matrix = 0, np.zeros((len(classes), len(classes)), np.int64)
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = json.loads(path.read_text(encoding="utf-8"))
            counted, reached = np.array(before.pop("matrix"), np.int64), int(before.pop("done"))
            if before == state and counted.shape == matrix.shape:
                done, matrix = reached, counted
        begun = done
        while True:
            write(path, json.dumps(state | {"done": done, "matrix": matrix.tolist()}))
            if done >= len(items):
                break
            some = items[done : done + at_once]
            matrix = matrix + matrix_of(some)
            done += len(some)
    return begun < len(items)


def join_scores(folder: str | Path) -> JoinedScores:
    """Add up what the parts of a test counted.

    Args:
        folder: of the parts.

    Raises:
        ValueError: if parts are missing or unfinished, or are of other tests; the message names them.
    """
    paths = scored_in(folder)
    parts: dict[str, Any] = {}
    for path in paths:
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
            parts[path.name] = {key: part[key] for key in ("shard", "facts", "classes", "done", "part", "matrix")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is damaged; remove it, and run its part again") from error
    of = {name: (Shard.parse(part["shard"]).of, part["facts"], part["classes"]) for name, part in parts.items()}
    _check_alike(Path(folder), of)
    counts = {part["shard"]: (part["done"], part["part"]) for part in parts.values()}
    first = next(iter(parts.values()))
    if len(parts) < Shard.parse(first["shard"]).of or any(some < every for some, every in counts.values()):
        raise ValueError(f"{folder}: {_missing(counts)}")
    matrix = np.sum([np.array(part["matrix"], np.int64) for part in parts.values()], 0)
    return JoinedScores(first["facts"]["where"], first["classes"], matrix)

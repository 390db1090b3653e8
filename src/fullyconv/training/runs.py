"""The folder of a run of training: where the run goes on, and the model folder that it leaves, scored as it is stored.

What the folder says of its run stands in ``fit.json``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fullyconv.confusion import SegmentationScores
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.pairs import Pair
from fullyconv.files import remove_unfinished, write
from fullyconv.training.module import SegmentationModule

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
    trained = last.parent.is_dir() and any(last.parent.iterdir())
    if state is None and trained:
        raise ValueError(
            f"--out {folder}: holds checkpoints of a run that this command did not start; give another folder"
        )
    finished = state is not None and bool(state.get("finished"))
    if state is None or not (finished or trained):
        return None  # without a checkpoint nothing was trained: a call that had gone wrong
    theirs = state["command"]
    for key in sorted({*theirs, *command}):
        if key not in FREE and theirs.get(key) != command.get(key):
            raise ValueError(
                f"--out {folder}: holds another run ({key}: {_said(theirs.get(key))}, now {_said(command.get(key))}); "
                "give the same command to go on with it, another folder (--out) for a new run, or remove it"
            )
    before, now = theirs.get("epochs"), command.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        raise ValueError(f"--epochs {now}: the run in {folder} has {before}; give as many or more, or another --out")
    if finished and all(theirs.get(key) == command.get(key) for key in FREE):
        return "finished"
    return str(last) if last.is_file() else None


def _said(value: object) -> str:
    return (shlex.join(map(str, value)) or "none") if isinstance(value, list) else repr(value)


def split_digest(splits: Mapping[str, Sequence[Pair]]) -> str:
    """Say in short which images are in which split."""
    digest = hashlib.blake2b(digest_size=6)
    for split, pairs in splits.items():
        digest.update(json.dumps([split, [pair.key for pair in pairs]]).encode())
    sizes = ", ".join(f"{split} {len(pairs)}" for split, pairs in splits.items())
    return f"{sizes} ({digest.hexdigest()})"


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read what a run's folder says of it; None where it says nothing.

    Raises:
        ValueError: if it is damaged; the message names the file.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state["command"], dict):
            raise ValueError("'command' is no object")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged ({error}); give another folder (--out), or remove this one") from error
    return dict(state)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what a run's folder says of it, all of it or nothing."""
    remove_unfinished(folder)
    write(folder / STATE, json.dumps(state, indent=2))


@dataclass
class RunOptions:
    """Where a run writes, and what it leaves.

    Args:
        folder: holds logs, checkpoints and the model folder. ``--ckpt_path last`` resumes from it.
        model_folder: where the trained model is written; None means ``model`` in the run's folder.
        dtype: of the stored weights.
        license: license of the weights, as you state it; the license of the training data binds you.
        data: what the card calls the training data; None means the last part of its path.
        split: split on which the stored model folder is scored once, after training; "auto" is test where there is one,
            else val.
    """

    folder: str = "runs/fit"
    model_folder: str | None = None
    dtype: Literal["float32", "float16"] = "float16"
    license: str | None = None
    data: str | None = None
    split: Literal["auto", "val", "test", "none"] = "auto"


def store(trainer: Any, module: SegmentationModule, run: RunOptions, data: SegmentationDataModule) -> Path:
    """Store the best checkpoint of a run as a model folder, with a record of the training.

    Args:
        trainer: that has trained it.
        module: what was trained; it has the best weights afterwards.
        run: where to.
        data: what it was trained on.

    Returns:
        The model folder.
    """
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best:
        # weights_only: a checkpoint holds plain values and tensors, and nothing of it is ever executed.
        state = torch.load(best, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        module.training_record |= {"best epoch": int(state["epoch"]) + 1}
    processor = f"CPU, {torch.get_num_threads()} thread(s) of torch"
    module.training_record |= {
        "data": run.data or Path(str(data.hparams["data"])).name,
        "epochs": int(trainer.current_epoch),
        "steps": int(trainer.global_step),
        "minutes": round(module.training_seconds / 60, 1),
        "hardware": torch.cuda.get_device_name(module.device) if module.device.type == "cuda" else processor,
    }
    folder = Path(run.model_folder or Path(run.folder) / "model")
    module.save_pretrained(folder, dtype=run.dtype, license=run.license)
    return folder


def score(
    folder: Path, module: SegmentationModule, run: RunOptions, data: SegmentationDataModule, reading: str
) -> tuple[str, SegmentationScores] | None:
    """Score a model folder as it is stored, and write the score into it.

    Args:
        folder: that `store` wrote.
        module: what was stored.
        run: says the split.
        data: what is scored on.
        reading: options by which a command line reads the data in the same way.

    Returns:
        The split and the metrics; None where nothing is set aside for it.
    """
    split = scored_split(data, run)
    if split is None:
        return None
    result = SegmentationModule.from_pretrained(folder).evaluate(data, split)
    name = str(module.training_record["data"])
    # A folder is never taken for a repository of the hub where it begins with a dot.
    place = str(folder) if folder.is_absolute() else f"./{folder}"
    if folder.name == f"{module.hparams['model']}.{name}":
        place = folder.name  # called as models of the zoo are
    where = f"{shlex.quote(place)} {shlex.quote(str(data.hparams['data']))}"
    said = {"data": name, "split": split} | result.to_dict(module.classes)
    said["command"] = f"fullyconv test {where} --split {split}{reading}"
    module.save_pretrained(folder, dtype=run.dtype, license=run.license, score=said)
    return split, result


def scored_split(data: SegmentationDataModule, run: RunOptions) -> str | None:
    """Say on which split the model folder is scored.

    Args:
        data: that is trained on.
        run: says the split, or leaves it open.

    Raises:
        ValueError: if there is no such split.
    """
    if run.split == "none":
        return None
    if run.split == "auto":
        return next((split for split in ("test", "val") if split in data.splits), None)
    if run.split not in data.splits:
        raise ValueError(
            f"--run.split {run.split}: the data has {', '.join(data.splits)}; name one of them, or leave it out"
        )
    return run.split

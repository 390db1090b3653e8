"""What a run of training leaves: the model folder of its best weights, scored as it is stored."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fullyconv.confusion import SegmentationScores
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.training.module import SegmentationModule


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


@dataclass(frozen=True)
class Scored:
    """What a stored model folder was measured to do.

    Args:
        data: what the card calls the data.
        split: the split.
        scores: the metrics.
        classes: names of the classes.
    """

    data: str
    split: str
    scores: SegmentationScores
    classes: list[str]


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
    module.training_record |= {
        "data": run.data or Path(str(data.hparams["data"])).name,
        "epochs": int(trainer.current_epoch),
        "steps": int(trainer.global_step),
        "minutes": round(module.training_seconds / 60, 1),
        "hardware": _hardware(module.device),
    }
    folder = Path(run.model_folder or Path(run.folder) / "model")
    module.save_pretrained(folder, dtype=run.dtype, license=run.license)
    return folder


def score(
    folder: Path, module: SegmentationModule, run: RunOptions, data: SegmentationDataModule, reading: str
) -> Scored | None:
    """Score a model folder as it is stored, and write the score into it.

    Args:
        folder: that `store` wrote.
        module: what was stored.
        run: says the split.
        data: what is scored on.
        reading: options by which a command line reads the data in the same way.

    Returns:
        The score; None where nothing is set aside for it.
    """
    split = scored_split(data, run)
    if split is None:
        return None
    stored = SegmentationModule.from_pretrained(folder)
    result = stored.evaluate(data, split)
    name = str(module.training_record["data"])
    said = {"data": name, "split": split} | result.to_dict(stored.classes)
    # A folder is never taken for a repository of the hub where it begins with a dot.
    place = str(folder) if folder.is_absolute() else f"./{folder}"
    if folder.name == f"{module.hparams['model']}.{name}":
        place = folder.name  # called as models of the zoo are
    where = f"{shlex.quote(place)} {shlex.quote(str(data.hparams['data']))}"
    said["command"] = f"fullyconv test {where} --split {split}{reading}"
    module.save_pretrained(folder, dtype=run.dtype, license=run.license, score=said)
    return Scored(name, split, result, stored.classes)


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


def _hardware(device: Any) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s) of torch"

"""Checkpoints that a kill at any moment leaves whole, and random numbers that a resumed run has again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import Tensor

from fullyconv.errors import WeightsError, first_line
from fullyconv.files import remove_unfinished, write
from fullyconv.weights.signatures import refuse_stray


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read a checkpoint; nothing in it runs.

    Args:
        path: of a ``.ckpt`` on this machine.

    Returns:
        All of it, its hyper-parameters and its tensors.

    Raises:
        FileNotFoundError: if it is not there.
        WeightsError: if it is damaged, holds Python objects, or is no checkpoint of a module.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path, "cpu")
    hyper, state = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    ours = isinstance(state, Mapping) and any(str(key).startswith("model.head.") for key in state)
    if not ours or not isinstance(hyper, Mapping):
        from fullyconv.weights.segmenters import stranger

        raise WeightsError(f"{path}: is no checkpoint of fullyconv; {stranger(path)}")
    return checkpoint, dict(hyper), dict(checkpoint["state_dict"])


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it when it is on the disk: a kill leaves the one before.

    It is read without its Python objects, whatever Lightning is told, so that nothing in it runs.
    """

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint of this machine.

        Raises:
            FileNotFoundError: if it is not there.
            WeightsError: if it is damaged or holds Python objects.
        """
        place = Path(path)
        if not place.is_file():
            raise FileNotFoundError(f"{place}: not found; pass a .ckpt file on this machine")
        refuse_stray(place, "checkpoint")
        try:
            checkpoint = super().load_checkpoint(place, map_location, weights_only=True)
            if isinstance(checkpoint, dict):
                return checkpoint
            why = f"it holds a {type(checkpoint).__name__}"
        except OSError:
            raise
        except Exception as error:  # whatever a damaged or hostile pickle brings about
            why = first_line(error)
        raise WeightsError(
            f"{place}: is damaged, or holds Python objects, which would run when they are read ({why}); pass a .ckpt "
            "that 'fullyconv fit' or a Trainer with a SegmentationModule wrote"
        )

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint, all of it or nothing."""
        if storage_options is not None:
            raise TypeError("storage_options: checkpoints are written to this machine; leave it out")
        remove_unfinished(Path(path).parent)
        content = io.BytesIO()  # as Lightning's own; torch would hide why a file cannot be written
        torch.save(checkpoint, content)
        write(path, content.getbuffer(), lasting=True)


class KeptWeights(ModelCheckpoint):
    """Keep the best weights in ``best.ckpt``, and those of the last epoch in ``last.ckpt``, wherever the folder lies.

    Args:
        folder: of both files.
        monitor: what says which weights are best, the more the better; None takes those of the last epoch.
    """

    def __init__(self, folder: Path, monitor: str | None) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=None if monitor else True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the weights of the epoch, also where they are not the best: a run goes on from them."""
        if self._known(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.last_model_path = str(Path(str(self.dirpath)) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the weights where they are the best."""
        if self._known(trainer):
            super().on_validation_end(trainer, pl_module)

    def _known(self, trainer: Trainer) -> bool:
        # no score where nothing was validated, or no pixel of val has a class
        return self.monitor is None or self.monitor in trainer.callback_metrics

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best weights again where the folder was moved; without their file there are none."""
        best = Path(str(self.dirpath)) / "best.ckpt"
        if best.is_file() and state_dict["best_model_path"]:
            here = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            kept = {str(best): score for score in state_dict["best_k_models"].values()}
            super().load_state_dict({**state_dict, **here, "best_k_models": kept})


class AveragedWeights(WeightAveraging):
    """Validate and keep an exponential moving average of the weights, whose decay warms up.

    With a constant decay of 0.99 the average of a run of 35 steps would consist of its first step by 70 %. The decay
    of step t is therefore at most (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage.

    Args:
        decay: of the average, between 0 and 1, once it is warm.
    """

    def __init__(self, decay: float) -> None:
        @torch.no_grad()
        def average(averaged: list[Tensor], current: list[Tensor], number: Tensor | int) -> None:
            weight = 1 - min(decay, (1 + int(number)) / (10 + int(number)))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, weight)
            else:  # numbers of batches seen
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average)


class EpochSeed(Callback):
    """Seed the random numbers of dropout and the like by the epoch: a resumed epoch draws what it drew before.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed for the epoch that begins."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)

"""What ends a run before its last epoch: patience, its minutes, and a loss that is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

from fullyconv.errors import TrainingError
from fullyconv.training.shortcomings import FEW_STEPS, few_steps

SKIPPED = 10  # losses in a row that are no number, which the scaler of half precision steps over
LOOKED_AT = 20  # steps between two looks at the loss on an accelerator, which has to be waited for
RESERVE = 0.02  # of the minutes, for what nobody measures: reading and writing weights
FALLING = 0.4
"""Share of its minutes in which a run lets the learning rate fall to zero."""


class PatientStop(EarlyStopping):
    """Stop when validation no longer gets better, also in a run that was killed after it had decided to.

    Where nothing was validated it says nothing.

    Args:
        monitor: what is compared; more is better.
        patience: validations without a better one.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, mode="max", patience=patience, strict=False, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where patience had run out before the interruption: the decision stands in the checkpoint."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class FiniteLoss(Callback):
    """Stop with an error when the loss or the weights are no numbers, before a checkpoint of them is written."""

    def __init__(self) -> None:
        self._bad = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of the step."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        if loss.device.type != "cpu" and batch_idx % LOOKED_AT and not trainer.is_last_batch:
            return
        value = float(loss.detach())
        self._bad = 0 if math.isfinite(value) else self._bad + 1
        if self._bad >= (SKIPPED if trainer.precision == "16-mixed" else 1):
            raise _stopped(trainer, f"the loss is {value:g}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights: a last step may have destroyed them."""
        if not all(bool(torch.isfinite(value).all()) for value in pl_module.parameters()):
            raise _stopped(trainer, "weights are not finite")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights where nothing was validated."""
        self.on_validation_start(trainer, pl_module)


def _stopped(trainer: Trainer, why: str) -> TrainingError:
    kept = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    there = f"what was good before is kept, --model {kept} starts from it" if kept.is_file() else "nothing is kept"
    return TrainingError(
        f"{why} in epoch {trainer.current_epoch + 1}, after {trainer.global_step} steps: training stopped; {there}. "
        "Try a smaller --model.lr, or --trainer.gradient_clip_val 1, with a new --out"
    )


class EnoughSteps(Callback):
    """Say before training that a run has too few steps to learn much.

    Args:
        say: is told.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps that are planned."""
        self._expect(trainer, trainer.estimated_stepping_batches)

    def _expect(self, trainer: Trainer, steps: float) -> None:
        if steps < FEW_STEPS and not self._warned and trainer.is_global_zero:
            self._warned = True
            self._say(f"warning: {few_steps(int(steps))}")


class Deadline(EnoughSteps):
    """End training in time for what comes after it, within so many seconds over all interruptions.

    Steps and validation are measured as they go; scoring and report look at images as validation does. A learning rate
    that is constant by steps falls in the last part of the time, as a schedule by steps cannot.

    Args:
        seconds: for all of it.
        began: `time.monotonic` when the command began: set-up counts.
        validated: images of a validation.
        scored: looks at an image after training.
        say: is told if too few steps fit.
    """

    def __init__(self, seconds: float, began: float, validated: int, scored: int, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._seconds, self._began, self._before = seconds, began, 0.0
        self._validated, self._scored = validated, scored
        self._mark = self._step = self._image = 0.0
        self._looks = self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Keep the seconds that were spent."""
        return {"seconds": self._spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = float(state_dict["seconds"])

    @property
    def _spent(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def _validation(self) -> float:
        return self._validated * self._image

    @property
    def _rest(self) -> float:
        return self._seconds * (1 - RESERVE) - self._spent - self._validation - self._scored * self._image

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the learning rate fall with the time that is left."""
        if pl_module.hparams.get("schedule") != "constant" or self._steps < 2:
            return
        factor = min(1.0, max(0.0, self._rest / (FALLING * self._seconds)))
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = min(group["lr"], factor * group.setdefault("initial_lr", group["lr"]))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure: loading a batch is part of its step."""
        self._mark = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure a validation, or the batch of it that is tried before training."""
        self._mark, self._looks = time.monotonic(), 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count its images."""
        self._looks += len(batch["image"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know what one image takes."""
        now = time.monotonic()
        self._image = (now - self._mark) / max(1, self._looks)
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the step, and stop where no further one fits."""
        now = time.monotonic()
        took, self._mark = now - self._mark, now
        self._steps += 1
        # The first step takes longer than any other: memory is taken, and workers start.
        self._step = took if self._steps <= 2 else 0.8 * self._step + 0.2 * took
        # After the last step of an epoch there is a validation anyway, and then one for the next step.
        needed = self._step + (self._validation if trainer.is_last_batch else 0.0)
        if trainer.strategy.reduce_boolean_decision(self._rest < needed, all=False):
            trainer.should_stop = True
            self._expect(trainer, trainer.global_step)
        elif self._steps == 2:
            each = self._step + self._validation / max(1, int(trainer.num_training_batches))
            self._expect(trainer, trainer.global_step + self._rest / max(each, 1e-9))

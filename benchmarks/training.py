"""Training by epochs that goes on where it was stopped, for the benchmarks that train on CamVid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fullyconv.training.checkpointing import AtomicCheckpointIO, EpochSeed

# 1 / ln(1.1 + frequency) of CamVid's training masks, the bounded weighting of ENet (Paszke et al. 2016), mean 1
WEIGHTS = [0.578, 0.478, 1.345, 0.393, 1.027, 0.767, 1.322, 1.327, 0.941, 1.387, 1.434]


def fit(module: L.LightningModule, batches: Iterable[Any], folder: Path, epochs: int, seed: int) -> None:
    """Train a module, or go on with it; it ends with the weights of the last epoch, whoever trained it.

    Args:
        module: to train.
        batches: of one epoch.
        folder: where its checkpoints lie.
        epochs: how many in all.
        seed: of the order and the augmentation of every epoch.
    """
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[
            ModelCheckpoint(
                folder, "latest", save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
            ),
            EpochSeed(seed),
        ],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(module, train_dataloaders=batches, ckpt_path=last if last.is_file() else None)
    module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])

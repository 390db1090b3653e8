"""Open models and sets, and keep libraries quiet."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullyconv.cli.progress import busy
from fullyconv.errors import hush
from fullyconv.files import remove_unfinished

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.training.module import SegmentationModule


def open_segmenter(arguments: argparse.Namespace) -> SegmentationModule:
    """Load a segmenter. Commands that have no --device compute on the processor."""
    quiet_lightning()
    from fullyconv.hub.load import load
    from fullyconv.training.module import SegmentationModule

    set_threads(None)
    device = getattr(arguments, "device", "cpu")
    with busy(f"opening {arguments.model}"):
        model = load(arguments.model, allow_unverified=arguments.allow_unverified, device=device)
    if not isinstance(model, SegmentationModule):
        raise ValueError(f"MODEL {arguments.model}: a classifier, which has no masks; give a segmenter")
    return model


def open_data(
    segmenter: SegmentationModule, data: str, reading: Mapping[str, Any], batch_size: int = 4
) -> SegmentationDataModule:
    """Open a set with as many channels as a segmenter wants."""
    from fullyconv.data.datamodule import SegmentationDataModule

    channels = int(segmenter.hparams["in_channels"])
    return SegmentationDataModule(data, in_channels=channels, batch_size=batch_size, **reading)


def set_threads(threads: int | None) -> None:
    """Compute with as many threads as were asked for, or with no more than there are cores for this process."""
    import torch

    from fullyconv.inference.budget import available_processors

    if threads is not None:
        torch.set_num_threads(threads)
    elif torch.get_num_threads() > available_processors():  # as torch does in a container that may use some of many
        torch.set_num_threads(available_processors())


def quiet_lightning() -> None:
    """Leave out what would stand between people and the answer, beside what `hush` leaves out of every training."""
    import lightning  # noqa: F401  # it sets the level of its logger when it is imported

    hush()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message="(?s).*Checkpoint directory .* exists and is not empty.*")


def check_target(path: Path, option: str = "--out") -> None:
    """Refuse a file that cannot be written before minutes are spent on what it would hold."""
    if path.is_dir() or not path.resolve().parent.is_dir() or path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{option} {path}: give a .png or .jpg file in a folder that exists")
    remove_unfinished(path.resolve().parent)

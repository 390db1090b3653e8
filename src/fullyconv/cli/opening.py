"""Open models, and keep libraries quiet."""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.progress import busy
from fullyconv.errors import hush
from fullyconv.files import remove_unfinished

if TYPE_CHECKING:
    from fullyconv.classifier import DenseScorer
    from fullyconv.inference.serving import Predictor
    from fullyconv.training.module import SegmentationModule


def open_model(arguments: argparse.Namespace) -> SegmentationModule | DenseScorer:
    """Load a segmenter; a classifier is converted. Commands that have no --device compute on the processor."""
    quiet_lightning()
    from fullyconv.hub.load import load, load_classifier
    from fullyconv.inference.processor import device_of
    from fullyconv.weights.described import NoSegmenter

    set_threads(getattr(arguments, "threads", None))
    unverified, device = arguments.allow_unverified, getattr(arguments, "device", "cpu")
    with busy(f"opening {arguments.model}"):
        try:
            return load(arguments.model, allow_unverified=unverified, device=device)
        except NoSegmenter:
            found = load_classifier(arguments.model, allow_unverified=unverified)
            return found.convolutionalize().to(device_of(device))


def open_predictor(arguments: argparse.Namespace) -> Predictor | DenseScorer:
    """Open a model to predict with it, which needs no Lightning; a classifier is converted."""
    from fullyconv.hub.predictor import open_predictor

    set_threads(getattr(arguments, "threads", None))
    with busy(f"opening {arguments.model}"):
        return open_predictor(arguments.model, allow_unverified=arguments.allow_unverified, device=arguments.device)


def set_threads(threads: int | None) -> None:
    """Compute with as many threads as were asked for, or with no more than there are cores for this process."""
    import torch

    from fullyconv.inference.budget import available_processors

    if threads is not None:
        torch.set_num_threads(threads)
    elif torch.get_num_threads() > available_processors():  # as torch does in a container that may use some of many
        torch.set_num_threads(available_processors())


def quiet_lightning() -> None:
    """Leave out what would stand between people and the answer, beside what `hush` leaves out everywhere."""
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

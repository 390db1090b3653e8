"""Predictions in the logger of a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from fullyconv import SegmentationDataModule, SegmentationModule
from fullyconv.drawing import overlay
from fullyconv.training.image_logging import PredictionImages


class Wandb(DummyLogger):
    """Take images as WandbLogger does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, Image.Image]] = []

    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        self.seen += [(key, int(step or 0), image) for image in images]


class Board(CSVLogger):
    """Take images as TensorBoardLogger does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[str, int, Any, str]] = []
        self.board = SimpleNamespace(
            add_image=lambda tag, image, step, dataformats: self.seen.append((tag, step, image, dataformats)),
            log_metrics=lambda *_: None,
            log_hparams=lambda *_: None,
            save=lambda: None,
        )

    @property
    def experiment(self) -> Any:
        return self.board


def fit(tree: Path, loggers: list[Any], callback: PredictionImages, epochs: int = 2) -> SegmentationModule:
    data = SegmentationDataModule(tree, crop_size=32, batch_size=4, flip=0)
    module = SegmentationModule("same_convolutions", data.labels, lr=1e-3)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=loggers, callbacks=[callback], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tree.parent,
    )  # fmt: skip
    trainer.fit(module, data)
    return module


quiet = pytest.mark.filterwarnings("ignore:.*(does not have many workers|logging interval).*")


@quiet
def test_images_are_logged_with_truth_and_prediction_beside_each(tree: Path, tmp_path: Path) -> None:
    wandb, board = Wandb(), Board(tmp_path / "board")
    module = fit(tree, [wandb, board, CSVLogger(tmp_path / "csv")], PredictionImages(images=2))

    data = SegmentationDataModule(tree)
    names = [f"predictions/{number}_{pair.image.stem}" for number, pair in enumerate(data.splits["val"][:2])]
    assert [key for key, *_ in wandb.seen] == names * 2
    assert [step for _, step, _ in wandb.seen] == sorted(step for _, step, _ in wandb.seen)
    assert wandb.seen[0][1] < wandb.seen[-1][1]
    for (key, step, image), (tag, at, pixels, form) in zip(wandb.seen, board.seen, strict=True):
        assert (tag, at, form) == (key, step, "HWC")
        assert np.array_equal(np.asarray(image), pixels)

    # the last ones are what the trained module predicts
    pair = data.splits["val"][1]
    height, width = np.asarray(Image.open(pair.image)).shape[:2]
    result = module.eval().predict(pair.image)
    truth = overlay(result.image, np.asarray(Image.open(pair.mask)), data.labels, legend=False)
    panels = np.asarray(wandb.seen[-1][2])
    assert panels.shape == (height, 3 * width, 3)
    assert np.array_equal(panels[:, :width], result.image)
    assert np.array_equal(panels[:, width : 2 * width], np.asarray(truth))
    assert np.array_equal(panels[:, 2 * width :], np.asarray(result.overlay(legend=False)))


@quiet
@pytest.mark.slow
def test_every_second_validation_is_drawn_and_large_images_are_made_small(tree: Path) -> None:
    wandb = Wandb()
    fit(tree, [wandb], PredictionImages(images=1, every=2, pixels=16), epochs=4)
    assert len(wandb.seen) == 2
    assert max(wandb.seen[0][2].size) <= 3 * 16


@quiet
@pytest.mark.slow
def test_tensorboard_takes_them(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    fit(tree, [logger], PredictionImages(images=1), epochs=1)
    events = EventAccumulator(logger.log_dir).Reload()
    (tag,) = events.Tags()["images"]
    assert tag.startswith("predictions/0_")
    assert events.Images(tag)[0].width > 0


@quiet
def test_a_logger_without_images_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CSVLogger takes no images; give the trainer logger=TensorBoardLogger"):
        fit(tree, [CSVLogger(tmp_path)], PredictionImages())


def test_of_several_heads_each_is_drawn() -> None:
    wandb = Wandb()
    module = SegmentationModule("fcn16s_resnet18_half", classes={"a": ["x", "y"], "b": ["x", "y", "z"]}).eval()
    mask = torch.zeros(1, 40, 56, dtype=torch.int64)
    image = torch.rand(1, 3, 40, 56)
    batch = {
        "image": image,
        "mask": {"a": mask, "b": mask},
        "size": torch.tensor([[36, 50]]),
        "path": ["somewhere/x.png"],
    }
    trainer: Any = SimpleNamespace(
        sanity_checking=False, state=SimpleNamespace(fn="fit"), is_global_zero=True, loggers=[wandb], global_step=7
    )
    with torch.no_grad():
        PredictionImages().on_validation_batch_end(trainer, module, None, batch, 0)
    assert [(key, step, image.size) for key, step, image in wandb.seen] == [
        ("predictions/0_x.a", 7, (150, 36)),
        ("predictions/0_x.b", 7, (150, 36)),
    ]


@pytest.mark.parametrize("argument", ["images", "every", "pixels"])
def test_numbers_below_one_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}=0: must be at least 1"):
        PredictionImages(**{argument: 0})

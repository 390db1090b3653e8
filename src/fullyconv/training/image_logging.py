"""Predictions as images in the logger of a training: TensorBoard, Weights & Biases, or any that takes images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

from fullyconv.drawing import overlay
from fullyconv.labels import Labels, by_head


class PredictionImages(Callback):
    """Log the first images of the validation split, with truth and prediction beside each, after every validation.

    A logger takes them if it has ``log_image(key, images, step)``, as `WandbLogger`, or an experiment with
    ``add_image``, as `TensorBoardLogger`.

    Args:
        images: how many; the same ones each time.
        every: validations from one to the next that is drawn.
        pixels: longest side of an image in the log.

    Raises:
        ValueError: if an argument is below 1; before training, if no logger takes images.

    Example:
        >>> PredictionImages(images=2).images
        2
    """

    def __init__(self, images: int = 4, every: int = 1, pixels: int = 480) -> None:
        for name, value in (("images", images), ("every", every), ("pixels", pixels)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.images, self.every, self.pixels = images, every, pixels
        self._validations = self._drawn = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse loggers that take no images."""
        if stage == "fit" and not any(_takes_images(logger) for logger in trainer.loggers):
            names = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "no logger"
            raise ValueError(
                f"PredictionImages: {names} takes no images; give the trainer logger=TensorBoardLogger(...) or "
                "WandbLogger(...)"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the images."""
        self._drawn = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validations of the training."""
        self._validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Draw the images of a batch, as long as some are wanted."""
        idle = trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero
        if idle or self._validations % self.every:
            return
        module: Any = pl_module
        labels, masks = by_head(module.labels), by_head(batch["mask"])
        for number, (image, size, path) in enumerate(zip(batch["image"], batch["size"], batch["path"], strict=True)):
            if self._drawn == self.images:
                return
            height, width = size.tolist()
            image = image[:, :height, :width]
            for head, logits in by_head(module(image[None])).items():
                mask = masks[head][number, :height, :width]
                panels = self._panels(image, mask, logits.argmax(1)[0], labels[head])
                tag = f"predictions/{self._drawn}_{Path(path).stem}{f'.{head}' if head else ''}"
                for logger in trainer.loggers:
                    _write(logger, tag, panels, trainer.global_step)
            self._drawn += 1

    def _panels(self, image: torch.Tensor, mask: torch.Tensor, found: torch.Tensor, labels: Labels) -> Image.Image:
        """Lay image, truth and prediction beside each other."""
        rgb = (image if len(image) >= 3 else image[:1].expand(3, -1, -1))[:3]
        pixels = (255 * rgb).round().byte().movedim(0, -1).cpu().numpy()
        drawn = [overlay(pixels, classes.cpu().numpy(), labels, legend=False) for classes in (mask, found)]
        sheet = Image.fromarray(np.hstack([pixels, *(np.asarray(panel.convert("RGB")) for panel in drawn)]))
        sheet.thumbnail((3 * self.pixels, self.pixels))
        return sheet


def _write(logger: Any, tag: str, image: Image.Image, step: int) -> None:
    if hasattr(logger, "log_image"):
        logger.log_image(tag, [image], step)
    elif _takes_images(logger):
        logger.experiment.add_image(tag, np.asarray(image), step, dataformats="HWC")


def _takes_images(logger: Any) -> bool:
    return hasattr(logger, "log_image") or hasattr(logger.experiment, "add_image")

"""SegmentationModule: a model with its class names, palette, preprocessing and optimisation, for Lightning."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from PIL import Image
from torch import Tensor, nn

from fullyconv import artefact
from fullyconv.confusion import SegmentationScores
from fullyconv.errors import WeightsError
from fullyconv.inference.predict import segment
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels
from fullyconv.losses import build_loss
from fullyconv.metrics import ConfusionMatrix
from fullyconv.models import FCN, MODELS, build_model
from fullyconv.preprocessing import IMAGENET, Preprocessing

Batch = dict[str, Any]
"""``image`` (N, C, H, W) float RGB in 0..1, ``mask`` (N, H, W) int64, ``size`` (N, 2) height and width, ``path``."""


class SegmentationModule(L.LightningModule):
    """Train, evaluate and use a segmentation model.

    Args:
        model: name of a preset of ``fullyconv.MODELS``, such as ``"fcn8s_vgg16"``, or ``"fcn8s_timm/NAME"``.
        classes: the K class names, in the order of the labels. In a recipe they come from the data.
        palette: K colours ``[red, green, blue]``; None gives the colours of PASCAL VOC.
        ignore_index: label of the pixels that count for nothing, in data, loss and metric alike.
        label_values: what values mean in the mask files of the training data: ``{value: class name or "ignore"}``.
        preprocessing: plain form of ``Preprocessing``; None means ImageNet's mean and deviation on RGB in 0..1.
        padding: ``"same"`` covers images of any size; ``"paper"`` pads 100 pixels and crops, as the reference networks.
        upsampling: ``"bilinear"`` (fixed), ``"learned"`` (transposed convolution from bilinear) or ``"frozen"``.
        in_channels: C of the images.
        loss: a key of ``fullyconv.losses.LOSSES``, or several joined by ``+``.
        class_weights: K weights for the loss, or None.
        optimizer: ``"sgd"`` with momentum, or ``"adamw"``.
        lr: base learning rate. Of the summed loss it is smaller by the number of pixels of an image.
        momentum: of SGD (0.9 with batches; the paper's heavy 0.99 with single images).
        weight_decay: of weights; biases and normalisation layers have none.
        bias_lr_factor: learning rate of biases in units of ``lr`` (the reference networks: 2).
        backbone_lr_factor: learning rate of the backbone in units of ``lr``.
        schedule: ``"constant"`` as the reference, ``"poly"`` or ``"cosine"`` down to zero at the last step.
        poly_power: exponent of the poly schedule.
        warmup_steps: optimiser steps during which the learning rate rises from zero.
        freeze: parameter prefixes that are not trained, such as ``["model.backbone"]``; their batch normalisation keeps
            its statistics, and their dropout is off.
        ema_decay: decay of the exponential moving average of the weights that is validated, saved and kept; or None.

    Raises:
        ValueError: if an argument is outside its range; the message lists the choices.

    Example:
        >>> module = SegmentationModule("fcn32s_resnet18_half", classes=["sky", "road"])
        >>> module(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 2, 40, 50])
    """

    monitor = "val/mean_iu"

    def __init__(
        self,
        model: str = "fcn8s_resnet18_half",
        classes: list[str] | None = None,
        palette: list[list[int]] | None = None,
        ignore_index: int = 255,
        label_values: dict[int, str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        padding: Literal["same", "paper"] = "same",
        upsampling: Literal["bilinear", "learned", "frozen"] = "bilinear",
        in_channels: int = 3,
        loss: str = "cross_entropy",
        class_weights: list[float] | None = None,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        bias_lr_factor: float = 1.0,
        backbone_lr_factor: float = 1.0,
        schedule: Literal["constant", "poly", "cosine"] = "poly",
        poly_power: float = 0.9,
        warmup_steps: int = 0,
        freeze: list[str] | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        if classes is None or len(classes) < 2:
            raise ValueError(
                f"classes={classes!r}: name at least two classes (two-class problems are background and foreground), "
                "for example classes=data.classes"
            )
        if class_weights is not None and len(class_weights) != len(classes):
            raise ValueError(
                f"class_weights has {len(class_weights)} entries for {len(classes)} classes: give one weight a class"
            )
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}: must lie between 0 and 1 (0.999 is usual), or be None")
        if schedule not in ("constant", "poly", "cosine"):
            raise ValueError(f'schedule={schedule!r}: choose "constant", "poly" or "cosine"')
        if optimizer not in ("sgd", "adamw"):
            raise ValueError(f'optimizer={optimizer!r}: choose "sgd" or "adamw"')
        for name, number, least in (
            ("momentum", momentum, 0.0),
            ("weight_decay", weight_decay, 0.0),
            ("bias_lr_factor", bias_lr_factor, 0.0),
            ("backbone_lr_factor", backbone_lr_factor, 0.0),
            ("poly_power", poly_power, 0.0),
            ("warmup_steps", warmup_steps, 0),
        ):
            if not isinstance(number, int | float) or not math.isfinite(number) or number < least:
                raise ValueError(f"{name}={number!r}: must be a finite number, at least {least}")
        if not isinstance(lr, int | float) or not math.isfinite(lr) or lr <= 0:
            raise ValueError(f"lr={lr!r}: must be a positive number")
        if isinstance(freeze, str):
            raise ValueError(f"freeze={freeze!r}: give a list of prefixes, [{freeze!r}]")
        for name, text in (("model", model), ("loss", loss)):
            if not isinstance(text, str):
                raise ValueError(f"{name}={text!r}: give a name")
        self.labels = Labels.of(classes, palette=palette, values=label_values, ignore_index=ignore_index)
        self.preprocessing = IMAGENET if preprocessing is None else Preprocessing.from_dict(preprocessing)
        if self.preprocessing.in_channels != in_channels:
            raise ValueError(
                f"in_channels={in_channels}: the preprocessing has {self.preprocessing.in_channels} channels; pass "
                f"preprocessing={{'mean': [...], 'std': [...]}} with {in_channels} numbers each"
            )
        # Only plain values: a checkpoint must load with weights_only=True, and a subclass must be able to add its own.
        self.save_hyperparameters()
        self.model: FCN = build_model(
            model, len(classes), in_channels=in_channels, padding=padding, upsampling=upsampling
        )
        self.loss = build_loss(loss, ignore_index, class_weights)
        self.val_confusion = ConfusionMatrix(len(classes), ignore_index)
        self.test_confusion = ConfusionMatrix(len(classes), ignore_index)
        self.score: dict[str, Any] | None = None
        self.licence: str | None = None
        self.training_record: dict[str, Any] = {}
        self._frozen = self._freeze(freeze or [])

    # ---- the model -------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The K class names."""
        return list(self.labels.names)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits of images.

        Args:
            image: (N, C, H, W) float RGB in 0..1, not normalised; any H, W >= 1.

        Returns:
            (N, K, H, W) logits.
        """
        logits: Tensor = self.model(self.preprocessing(image))
        return logits

    def scores(self, image: Tensor) -> Tensor:
        """Give the class scores before upsampling, (N, K, h, w), of (N, C, H, W) images in 0..1."""
        values: Tensor = self.model.scores(self.preprocessing(image))
        return values

    def predict(self, source: str | Path | Image.Image | npt.NDArray[Any] | Tensor) -> Segmentation:
        """Segment one picture.

        Args:
            source: a path, a PIL image, an array (H, W[, C]) uint8, or a tensor (C, H, W), uint8 or float in 0..1.

        Returns:
            The mask at the picture's own size, with names, shares and an overlay.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not a picture.
        """
        with self._evaluating():
            return segment(self, source, self.labels, self.device, int(self.hparams["in_channels"]), self._floating)

    @property
    def _floating(self) -> torch.dtype:
        return next(parameter.dtype for parameter in self.model.parameters())

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluate inside, and leave every submodule's mode as it was found."""
        modes = {name: module.training for name, module in self.named_modules()}
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for name, module in self.named_modules():
                module.training = modes[name]

    # ---- frozen parts ----------------------------------------------------------------------------------------------

    def _freeze(self, prefixes: Sequence[str]) -> list[nn.Module]:
        names = [name for name, _ in self.named_parameters()]
        for prefix in prefixes:
            inside = [name for name in names if name == prefix or name.startswith(prefix + ".")]
            if not inside:
                examples = ", ".join(sorted({".".join(name.split(".")[:3]) for name in names})[:12])
                raise ValueError(
                    f"freeze={list(prefixes)!r}: no parameter is called {prefix!r} or lies under it; "
                    f"there are {examples}, ..."
                )
            for name in inside:
                self.get_parameter(name).requires_grad_(False)
        return [
            module
            for name, module in self.named_modules()
            if name and any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
        ]

    def train(self, mode: bool = True) -> SegmentationModule:
        """Set the mode; frozen parts stay in evaluation mode, so that their batch norm statistics do not move."""
        super().train(mode)
        for module in getattr(self, "_frozen", []):
            module.training = False
        return self

    # ---- optimisation ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Build SGD or AdamW with groups for backbone and head, weights and biases, and the schedule by steps."""
        hp = self.hparams
        groups = self._parameter_groups()
        optimizer: torch.optim.Optimizer
        if hp["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(groups, lr=hp["lr"], momentum=hp["momentum"])
        else:
            optimizer = torch.optim.AdamW(groups, lr=hp["lr"])
        if hp["schedule"] == "constant" and not hp["warmup_steps"]:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total) and hp["schedule"] != "constant":
            raise ValueError(
                f"schedule={hp['schedule']!r}: it ends at the last step, and this trainer has none; set max_epochs or "
                'max_steps, or schedule="constant"'
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._lr_factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, step: int, total: float) -> float:
        hp = self.hparams
        warmup = hp["warmup_steps"]
        if step < warmup:
            return float((step + 1) / (warmup + 1))
        if hp["schedule"] == "constant":
            return 1.0
        rest = min(1.0, max(0.0, (step - warmup) / max(1.0, total - warmup)))
        if hp["schedule"] == "poly":
            return float((1 - rest) ** hp["poly_power"])
        return 0.5 * (1 + math.cos(math.pi * rest))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        hp = self.hparams
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                # One-dimensional parameters are biases and the scales of normalisation layers: no decay for either.
                groups.setdefault((name.startswith("model.backbone."), parameter.ndim <= 1), []).append(parameter)
        if not groups:
            raise ValueError(f"freeze={hp['freeze']!r}: nothing is left to train; freeze less")
        return [
            {
                "params": parameters,
                "lr": hp["lr"]
                * (hp["backbone_lr_factor"] if in_backbone else 1.0)
                * (hp["bias_lr_factor"] if is_bias else 1.0),
                "weight_decay": 0.0 if is_bias else hp["weight_decay"],
            }
            for (in_backbone, is_bias), parameters in groups.items()
        ]

    def configure_callbacks(self) -> Sequence[Callback]:
        """Average the weights while fitting, where ``ema_decay`` is set."""
        decay = self.hparams["ema_decay"]
        if decay is None or str(self.trainer.state.fn) not in ("fit", "TrainerFn.FITTING"):
            return []
        return [EMAWeightAveraging(decay=decay)]

    # ---- steps -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data has the classes of the model, before anything is trained or scored."""
        self.check_data(getattr(self.trainer, "datamodule", None))

    def check_data(self, data: object) -> None:
        """Check that a data module has the classes of the model, in the same order.

        Args:
            data: a data module; one that does not tell its ``classes`` is taken as it is.

        Raises:
            ValueError: if classes or ignore_index differ.
        """
        theirs = list(getattr(data, "classes", None) or [])
        if theirs and theirs != self.classes:
            raise ValueError(
                f"the data has the classes {theirs}, the model {self.classes}: they must be the same, in the same "
                "order; load the model with fullyconv.load(NAME, classes=data.classes), or give the data the model's "
                "classes"
            )
        ignored = getattr(data, "ignore_index", None)
        if ignored is not None and ignored != self.labels.ignore_index:
            raise ValueError(
                f"the data ignores the label {ignored}, the model {self.labels.ignore_index}: use one ignore_index"
            )

    def on_fit_start(self) -> None:
        """Train in train mode: a loaded segmenter comes in evaluation mode, and Lightning keeps what it finds."""
        self.train()
        # What was measured on other weights, and how they came to be, is not true of those that are trained now.
        self.score = None
        self.training_record = {} if self.origin is None else {"started from": self.origin}
        self._started = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the time spent training, over all interruptions, for the card."""
        checkpoint["training_seconds"] = self.training_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped; refuse one of another model or of other classes.

        Raises:
            ValueError: if the checkpoint's model, classes or ignore_index are not the module's.
        """
        theirs = checkpoint.get("hyper_parameters", {})
        for key in ("model", "padding", "upsampling", "in_channels", "classes", "ignore_index"):
            if key in theirs and theirs[key] != self.hparams[key]:
                raise ValueError(
                    f"the checkpoint has {key}={theirs[key]!r}, the module {self.hparams[key]!r}: a run goes on only "
                    "with the same; to change classes, load the artefact with fullyconv.load(FOLDER, classes=...)"
                )
        self._seconds_before = float(checkpoint.get("training_seconds", 0.0))

    @property
    def training_seconds(self) -> float:
        """Seconds spent in ``fit`` so far, those before a checkpoint that was resumed included."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    _seconds_before: float = 0.0
    _started: float | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of a batch."""
        logits = self(batch["image"])
        loss: Tensor = self.loss(logits, batch["mask"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the confusion matrix of the epoch."""
        loss = self._evaluate(batch, self.val_confusion)
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        self._log_scores("val", self.val_confusion)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the confusion matrix of the test."""
        loss = self._evaluate(batch, self.test_confusion)
        self.log("test/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole set and keep them as ``test_scores``."""
        self.test_scores = self._log_scores("test", self.test_confusion)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """Give the predictions of a batch, each (H, W) at its image's own size."""
        return [self(image[None]).argmax(1)[0] for image in _own_sizes(batch)]

    def _evaluate(self, batch: Batch, confusion: ConfusionMatrix) -> Tensor:
        """Score every image at its own size: padding that only made a batch must not change what is seen."""
        height, width = batch["image"].shape[-2:]
        if bool((batch["size"] == batch["size"].new_tensor([height, width])).all()):
            logits = self(batch["image"])
            confusion.update(logits.argmax(1), batch["mask"])
            loss: Tensor = self.loss(logits, batch["mask"])
            return loss
        losses = []
        for image, mask, (h, w) in zip(_own_sizes(batch), batch["mask"], batch["size"].tolist(), strict=True):
            logits, truth = self(image[None]), mask[None, :h, :w]
            confusion.update(logits.argmax(1), truth)
            losses.append(self.loss(logits, truth))
        return torch.stack(losses).mean()

    def _log_scores(self, stage: str, confusion: ConfusionMatrix) -> SegmentationScores:
        result = confusion.scores()
        confusion.reset()
        values = {
            f"{stage}/mean_iu": result.mean_iu,
            f"{stage}/pixel_accuracy": result.pixel_accuracy,
            f"{stage}/mean_accuracy": result.mean_accuracy,
            f"{stage}/frequency_weighted_iu": result.frequency_weighted_iu,
        }
        values |= {
            f"{stage}/iu/{name}": iu for name, iu in zip(self.classes, result.iu, strict=True) if not math.isnan(iu)
        }
        with warnings.catch_warnings():
            # The matrix is already summed over the processes: nothing is left to synchronise.
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
            for key, value in values.items():
                if not math.isnan(value):
                    self.log(key, value, prog_bar=key.endswith("/mean_iu"))
        return result

    # ---- artefact --------------------------------------------------------------------------------------------------

    def save(
        self,
        folder: str | Path,
        dtype: Literal["float32", "float16"] = "float32",
        score: dict[str, Any] | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write the segmenter as an artefact: ``model.safetensors``, ``config.json`` and a card.

        Args:
            folder: where to write; an artefact that is there is replaced, any other file in it is left alone.
            dtype: ``"float16"`` halves the file; batch norm statistics stay in float32.
            score: what was measured, in percent, with ``data`` and ``split``; None keeps the score it was loaded with.
            licence: licence of the weights, as stated by whoever trained them.

        Returns:
            The folder.

        Raises:
            ValueError: if a value does not fit into float16.
        """
        hp = self.hparams
        tensors = {
            # numpy has no bfloat16
            name: (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
            for name, value in self.model.state_dict().items()
        }
        config = artefact.Config(
            kind="segmenter",
            model={key: hp[key] for key in ("model", "padding", "upsampling", "in_channels")},
            labels=self.labels.to_dict(),
            preprocessing=self.preprocessing.to_dict(),
            score=score if score is not None else self.score,
            licence=licence or self.licence or "unstated",
            training=self.training_record,
        )
        return artefact.save(folder, tensors, config, dtype=dtype)

    @classmethod
    def load(cls, folder: str | Path) -> SegmentationModule:
        """Load an artefact from a folder, in evaluation mode.

        Args:
            folder: what ``save`` wrote.

        Raises:
            FileNotFoundError: if there is no artefact.
            WeightsError: if it is damaged, or its tensors are not those of its model.
        """
        config, tensors = artefact.load(folder)
        if config.kind != "segmenter":
            raise WeightsError(
                f"{folder}: config.json says kind={config.kind!r}, which is no segmenter; "
                "only kind='segmenter' loads as a SegmentationModule"
            )
        try:
            labels = Labels.from_dict(config.labels)
            module = cls(
                model=config.model["model"],
                classes=list(labels.names),
                palette=[list(colour) for colour in labels.palette],
                ignore_index=labels.ignore_index,
                label_values=dict(labels.values),
                preprocessing=config.preprocessing,
                padding=config.model["padding"],
                upsampling=config.model["upsampling"],
                in_channels=config.model["in_channels"],
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            path = Path(folder) / "config.json"
            raise WeightsError(f"{path}: does not describe a model of this package: {error}") from error
        artefact.check(
            {name: tuple(value.shape) for name, value in module.model.state_dict().items()},
            {name: tuple(value.shape) for name, value in tensors.items()},
            Path(folder) / "model.safetensors",
        )
        module.model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=True)
        module.score, module.licence, module.training_record = config.score, config.licence, dict(config.training)
        module.origin = Path(folder).resolve().name
        return module.eval()

    def with_classes(self, labels: Labels) -> SegmentationModule:
        """Give a segmenter for other classes: everything is kept but the score layers, which start at zero.

        With the same class names in the same order nothing is lost, only palette and label values are exchanged.

        Args:
            labels: the new classes.

        Returns:
            A new module in evaluation mode; ``reinitialised`` names the tensors that were not kept.
        """
        hp = dict(self.hparams)
        hp |= {
            "classes": list(labels.names),
            "palette": [list(colour) for colour in labels.palette],
            "ignore_index": labels.ignore_index,
            "label_values": dict(labels.values),
            "class_weights": None,
        }
        other = type(self)(**hp)
        own = self.model.state_dict()
        fresh = other.model.state_dict()
        depends = [name for name, value in fresh.items() if name not in own or own[name].shape != value.shape]
        if list(labels.names) != self.classes:
            # With as many classes as before the shapes agree, and yet the rows would belong to other classes.
            per_class = ("head.score.", "head.upscore.")
            depends += [name for name in fresh if name.startswith(per_class) and name not in depends]
        other.model.load_state_dict({name: value if name in depends else own[name] for name, value in fresh.items()})
        other.reinitialised = tuple(sorted(depends))
        return other._descend(self).eval()

    reinitialised: tuple[str, ...] = ()
    origin: str | None = None

    def _descend(self, parent: SegmentationModule) -> SegmentationModule:
        """Keep licence and origin: what binds the parent's weights binds those made from them."""
        self.licence, self.origin = parent.licence, parent.origin
        self.training_record = {} if parent.origin is None else {"started from": parent.origin}
        return self

    def grow(self, stride: int) -> SegmentationModule:
        """Give the next stage of staged training, FCN-32s to 16s to 8s to 4s (Long et al. 2015, section 4.2).

        All weights are kept, the new score layer is zero, so that the next stage starts at the outputs of this one.

        Args:
            stride: of the skip to add; half of the finest stride so far.

        Raises:
            ValueError: if the model has no such next stage.
        """
        hp = dict(self.hparams)
        finest = getattr(self.model.head, "strides", (0,))[-1]
        name = re.sub(r"^fcn\d+s(?!_atonce)", f"fcn{stride}s", hp["model"])
        if 2 * stride != finest or name == hp["model"] or ("timm/" not in name and name not in MODELS):
            raise ValueError(
                f"stride={stride}: {hp['model']} has no such next stage; staged training goes from 32 to 16 to 8 to 4, "
                "as far as the backbone has features of that stride"
            )
        other = type(self)(**(hp | {"model": name}))
        other.model.load_state_dict(self.model.grow(stride).state_dict())
        other.reinitialised = (f"head.score.{stride}.bias", f"head.score.{stride}.weight")
        return other._descend(self).train(self.training)


def _own_sizes(batch: Batch) -> list[Tensor]:
    return [image[:, :h, :w] for image, (h, w) in zip(batch["image"], batch["size"].tolist(), strict=True)]

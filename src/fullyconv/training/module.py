"""SegmentationModule: a model with its class names, palette, preprocessing and optimization, for Lightning."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from fullyconv.confusion import METRICS, SegmentationScores
from fullyconv.errors import hush, tell
from fullyconv.fcn import build_model
from fullyconv.inference.processor import Device, device_of
from fullyconv.inference.serving import Predictor, Predicts
from fullyconv.labels import Labels, at_edge, by_head
from fullyconv.preprocessing import IMAGENET, Preprocessing
from fullyconv.training import optimization
from fullyconv.training.checkpointing import AveragedWeights
from fullyconv.training.heads import labels_of, plain
from fullyconv.training.losses import PixelLoss, loss_name, loss_of
from fullyconv.training.metrics import ConfusionMatrix, best_class
from fullyconv.training.storing import text_of
from fullyconv.training.transfer import Transfers
from fullyconv.weights.lock import accepting
from fullyconv.weights.pretrained import MODEL_ARGUMENTS

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule

Batch = dict[str, Any]
"""``image`` (N, C, H, W) float RGB in 0..1, ``mask`` (N, H, W) int64, ``size`` (N, 2) height and width, ``path``."""


_REMEDIES = {
    "in_channels": "; give both the same in_channels",
    "classes": ", in the same order. To train, load the model with fullyconv.load(NAME, classes=data.classes). If they "
    "are the same classes under other names, give the data the model's names (values= or classes=, --values or "
    "--classes)",
    "ignore_index": "; use one ignore_index",
    "value_range": "; give the data the value_range that the model was trained with",
}
"""What a module and its data have to have in common, and what to do where they differ."""


class SegmentationModule(Transfers, Predicts):
    """Train, evaluate and use a segmentation model.

    Args:
        model: name of a preset of ``fullyconv.MODELS``, such as ``"fcn8s_vgg16"``, or ``"fcn8s_timm/NAME"``.
        classes: the K class names, in the order of the labels; or the labels of a data module, which bring palette,
            ignore_index and label_values along. In a recipe they come from the data. For several heads on one
            backbone, each with classes of its own, a dict by the names of the heads, and the model is a preset with
            skips: all that there is one of for a head is such a dict then, masks and logits, labels, palettes and
            weights of classes, predictions, `test_scores`. The loss is the sum of theirs, and ``val/mean_iou`` that of
            the first head; each is logged by its name, as ``val/semantic/mean_iou``.
        palette: K colors ``[red, green, blue]``; None gives colors that can be told apart.
        ignore_index: label of ignored pixels, in data, loss and metric alike.
        label_values: what values mean in the mask files of the training data: ``{value: class name or "ignore"}``,
            with numbers or colors ``"#rrggbb"`` for values.
        preprocessing: a ``Preprocessing`` or its plain form, a dict; None means ImageNet's mean and deviation on RGB
            in 0..1.
        padding: ``"same"`` covers images of any size; ``"paper"`` pads 100 pixels and crops, as the reference networks.
        upsampling: ``"bilinear"`` (fixed), ``"learned"`` (transposed convolution from bilinear) or ``"frozen"``; for
            torchvision's segmenters ``"bilinear"`` or their own ``"stretch"``.
        in_channels: C of the images.
        head_width: channels of the head, for presets whose name begins with ``ladder_``; None is the preset's own.
        loss: a key of ``fullyconv.training.losses.LOSSES``, or several joined by ``+``; or one of your own, a module or
            function of (N, K, H, W) logits and a (N, H, W) mask that gives one number.
        class_weights: K weights for the loss, or None.
        optimizer: ``"sgd"`` with momentum, or ``"adamw"``.
        lr: base learning rate. Of the summed loss it is smaller by the number of pixels of an image.
        momentum: of SGD (0.9 with batches; the paper's heavy 0.99 with single images).
        weight_decay: of weights; biases and normalization layers have none.
        bias_lr_factor: learning rate of biases in units of ``lr`` (the reference networks: 2).
        backbone_lr_factor: learning rate of the backbone in units of ``lr``.
        schedule: ``"constant"`` as the reference, ``"poly"`` or ``"cosine"`` down to zero at the last step.
        poly_power: exponent of the poly schedule.
        warmup_steps: optimizer steps during which the learning rate rises from zero.
        freeze: parameter prefixes that are not trained, such as ``["model.backbone"]``; their batch normalization keeps
            its statistics, and their dropout is off.
        ema_decay: decay of the exponential moving average of the weights that is validated, saved and kept, once it is
            warm (see `AveragedWeights`); or None.
        backbone_weights: weights of a classifier that the backbone starts from, as `load_backbone` takes them, such as
            ``"torchvision://VGG16_Weights.IMAGENET1K_V1"``; ``load_report`` says what became of each tensor, and where
            preprocessing is None it becomes theirs. It is no hyper-parameter: a checkpoint has its own weights.
        allow_unverified: accept backbone_weights without a known digest.

    Raises:
        ValueError: if an argument is outside its range; the message lists the choices.
        WeightsError: if backbone_weights do not belong to the backbone, or are not what was promised.
        DownloadError: if the download fails.

    Example:
        >>> module = SegmentationModule("fcn32s_resnet18_half", classes=["sky", "road"])
        >>> module(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 2, 40, 50])
        >>> heads = {"semantic": ["sky", "road", "tree"], "geometric": ["sky", "ground"]}
        >>> module = SegmentationModule("fcn16s_resnet18_half", classes=heads)
        >>> {name: tuple(logits.shape) for name, logits in module(torch.rand(1, 3, 40, 50)).items()}
        {'semantic': (1, 3, 40, 50), 'geometric': (1, 2, 40, 50)}
    """

    monitor = "val/mean_iou"
    confusion: Any  # by stage, a matrix for each head
    mean_loss: Any  # by stage
    _frozen: Sequence[nn.Module] = ()
    _predictor: Predictor | None = None
    _seconds_before: float = 0.0
    _started: float | None = None

    def __init__(
        self,
        model: str = "fcn8s_resnet18_half",
        classes: list[str] | dict[str, list[str]] | Labels | dict[str, Labels] | None = None,
        palette: list[list[int]] | dict[str, list[list[int]]] | None = None,
        ignore_index: int = 255,
        label_values: dict[int | str, str] | dict[str, dict[int | str, str]] | None = None,
        preprocessing: dict[str, Any] | Preprocessing | None = None,
        padding: Literal["same", "paper"] = "same",
        upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear",
        in_channels: int = 3,
        head_width: int | None = None,
        loss: str | nn.Module | PixelLoss = "cross_entropy",
        class_weights: list[float] | dict[str, list[float]] | None = None,
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
        backbone_weights: str | None = None,
        allow_unverified: bool = False,
    ) -> None:
        super().__init__()
        hush()  # before a trainer is made, which says the first of it
        # what users of one head, which is nearly everybody, are told by their type checker
        self.labels = cast(Labels, labels_of(classes, palette, label_values, ignore_index))
        if preprocessing is not None:
            self.preprocessing = Preprocessing.of(preprocessing)
        else:  # until backbone_weights say what they expect
            self.preprocessing = IMAGENET if backbone_weights is None else IMAGENET.for_channels(in_channels)
        if self.preprocessing.in_channels != in_channels:
            raise ValueError(
                f"in_channels={in_channels}: the preprocessing has {self.preprocessing.in_channels} channels; pass "
                f"preprocessing={{'mean': [...], 'std': [...]}} with {in_channels} numbers each"
            )
        # A subclass may add its own arguments, and pass on Labels that it was given: only plain values are kept, as
        # a checkpoint must load with weights_only=True.
        self.save_hyperparameters(ignore=["backbone_weights", "allow_unverified", "loss"])
        plain_values = {name: _plain_value(value) for name, value in self.hparams.items()}
        self.hparams.update(plain_values | plain(self.labels) | {"loss": loss_name(loss)})
        optimization.check(self.hparams)
        self._hparams_initial = copy.deepcopy(self.hparams)
        counts = {head: labels.num_classes for head, labels in self.heads.items()}
        self.model: Any = build_model(
            model,
            counts.get("", counts),
            in_channels=in_channels,
            padding=padding,
            upsampling=upsampling,
            head_width=head_width,
        )
        # Convolutions of small networks take a quarter less time on a CPU where channels lie together, and those of
        # large ones no more; on a GPU it is what tensor cores want. Values differ by rounding only.
        self.model.to(memory_format=torch.channels_last)
        ignored = self.hparams["ignore_index"]
        self.loss = loss_of(loss, self.labels, class_weights, ignored)
        self.confusion, self.mean_loss = nn.ModuleDict(), nn.ModuleDict()
        for stage in ("val", "test"):
            self.confusion[stage] = nn.ModuleList([ConfusionMatrix(number, ignored) for number in counts.values()])
            # Lightning's own mean rounds the number of images a process, which is no whole one where they differ.
            self.mean_loss[stage] = MeanMetric(nan_strategy="disable")
        self.training_record: dict[str, Any] = {}
        if backbone_weights is not None:
            self._start_from(backbone_weights, preprocessing is None, allow_unverified)
        self._frozen = self._freeze(freeze or [])

    @property
    def heads(self) -> dict[str, Labels]:
        """The labels of each head; one that stands alone is called ""."""
        return by_head(self.labels)

    @property
    def classes(self) -> list[str]:
        """The K class names; of several heads a dict by head."""
        names: list[str] = at_edge({head: list(labels.names) for head, labels in self.heads.items()})
        return names

    def forward(self, image: Tensor) -> Any:
        """Give the logits of images.

        Args:
            image: (N, C, H, W) float RGB in 0..1, not normalized; any H, W >= 1.

        Returns:
            (N, K, H, W) logits; of several heads a dict by head.
        """
        with self.predictor().native_precision(image):
            return self.model(self.preprocessing(image))

    def scores(self, image: Tensor) -> Any:
        """Give the class scores before upsampling, (N, K, h, w), of (N, C, H, W) images in 0..1."""
        with self.predictor().native_precision(image):
            return self.model.scores(self.preprocessing(image))

    def predictor(self) -> Predictor:
        """Give what predicts with this model, made anew where the model was exchanged."""
        if self._predictor is None or self._predictor.model is not self.model:
            # a subclass has the last word
            scores = None if type(self).scores is SegmentationModule.scores else self.scores
            self._predictor = Predictor(self.model, self.labels, self.preprocessing, owner=self, scores=scores)
        self._predictor.labels, self._predictor.preprocessing = self.labels, self.preprocessing
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `predict` made: a copy of the module makes its own, and compiled code cannot be pickled."""
        return {key: value for key, value in super().__getstate__().items() if key != "_predictor"}

    @accepting()
    def _start_from(self, source: str, with_preprocessing: bool, allow_unverified: bool) -> None:
        """Take a classifier's weights into the backbone, and its preprocessing where none was asked for."""
        from fullyconv.weights.classifiers import imagenet_for, start

        backbone = self.model.backbone
        weights = start(backbone, source, allow_unverified)
        self.load_report = backbone.load_report
        tell(f"backbone weights from {weights.source}\n{backbone.load_report.table()}")
        if with_preprocessing:
            self.preprocessing = backbone.preprocessing or imagenet_for(source).for_channels(backbone.in_channels)
            self.hparams["preprocessing"] = self.preprocessing.to_dict()  # a checkpoint has to know it
        self.license, self.origin = weights.license, weights.origin

    def _freeze(self, prefixes: Sequence[str]) -> list[nn.Module]:
        """Train nothing below these names, and give the modules that are there."""

        def below(name: str, prefix: str) -> bool:
            return name == prefix or name.startswith(prefix + ".")

        names = [name for name, _ in self.named_parameters()]
        for prefix in prefixes:
            inside = [name for name in names if below(name, prefix)]
            if not inside:
                examples = ", ".join(sorted({".".join(name.split(".")[:3]) for name in names})[:12])
                raise ValueError(
                    f"freeze={list(prefixes)!r}: no parameter is called {prefix!r} or lies under it; "
                    f"there are {examples}, ..."
                )
            for name in inside:
                self.get_parameter(name).requires_grad_(False)
        return [each for name, each in self.named_modules() if any(below(name, prefix) for prefix in prefixes)]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen parts stay in evaluation mode, so that their batch norm statistics do not move."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def configure_optimizers(self) -> Any:
        """Build SGD or AdamW with groups for backbone and head, weights and biases, and the schedule by steps."""
        return optimization.configure(
            self.hparams, self.named_parameters(), lambda: float(self.trainer.estimated_stepping_batches)
        )

    def configure_callbacks(self) -> Sequence[Callback]:
        """Average the weights while fitting, where ``ema_decay`` is set."""
        decay = self.hparams["ema_decay"]
        if decay is None or str(self.trainer.state.fn) not in ("fit", "TrainerFn.FITTING"):
            return []
        return [AveragedWeights(decay)]

    def setup(self, stage: str) -> None:
        """Check that the data has the classes of the model, and train in train mode.

        A loaded segmenter comes in evaluation mode, and Lightning keeps what it finds.
        """
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            if hasattr(data, "hparams"):  # what it learns is how images look by the range that they are read by
                self.preprocessing = replace(self.preprocessing, value_range=_range_of(data))
                self.hparams["preprocessing"] = self.preprocessing.to_dict()
            self.train()
        self.check_data(data)

    def check_data(self, data: object) -> None:
        """Check that a data module has the classes of the model, in the same order.

        Args:
            data: a data module; one that does not tell its ``classes`` is taken as it is.

        Raises:
            ValueError: if classes, ignore_index or the number of channels differ.
        """
        own: dict[str, Any] = {key: self.hparams[key] for key in ("in_channels", "classes", "ignore_index")}
        theirs = {name: getattr(data, name, None) for name in own}
        names = theirs["classes"]
        theirs["classes"] = dict(names) if isinstance(names, Mapping) else list(names or []) or None
        if self.preprocessing.value_range is not None and hasattr(data, "hparams"):
            own["value_range"], theirs["value_range"] = self.preprocessing.value_range, _range_of(data) or "unset"
        for name, value in theirs.items():
            if value is not None and value != own[name]:
                raise ValueError(
                    f"the data has {name}={value}, the model {name}={own[name]}: they must be the same{_REMEDIES[name]}"
                )

    def on_fit_start(self) -> None:
        """Forget what was measured on other weights, and how they came to be: it is not true of those trained now."""
        self.score = None
        self.training_record = {} if self.origin is None else {"started from": self.origin}
        self._started = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the card says of these weights: what binds them, and the time spent over all interruptions."""
        checkpoint["training_seconds"] = self.training_seconds
        checkpoint["license"], checkpoint["started from"] = self.license, self.origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped; refuse one of another model or of other classes.

        Raises:
            ValueError: if the checkpoint's model, classes or ignore_index are not the module's.
        """
        theirs = checkpoint.get("hyper_parameters", {})
        for key in (*MODEL_ARGUMENTS, "classes", "ignore_index"):
            own = self.hparams.get(key)
            if key in theirs and theirs[key] != own:
                raise ValueError(
                    f"the checkpoint has {key}={theirs[key]!r}, the module {own!r}: a run goes on only with the same; "
                    "to change classes, load the model folder with fullyconv.load(FOLDER, classes=...)"
                )
        self._seconds_before = float(checkpoint.get("training_seconds", 0.0))
        self.license = text_of(checkpoint.get("license")) or self.license
        self.origin = text_of(checkpoint.get("started from")) or self.origin

    @property
    def training_seconds(self) -> float:
        """Seconds spent in ``fit`` so far, those before a checkpoint that was resumed included."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of a batch."""
        logits = self(batch["image"])
        loss: Tensor = self.loss(logits, batch["mask"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the confusion matrix of the epoch."""
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        self._log_scores("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the confusion matrix of the test."""
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole set; keep them as ``test_scores``, and the matrices as ``test_matrices``."""
        self.test_matrices = [matrix.compute().cpu().numpy() for matrix in self._matrices("test").values()]
        self.test_scores = self._log_scores("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """Give what `predict` gives for each image of a batch, at its own size."""
        return [self.predict(image) for image in _own_sizes(batch)]

    def _matrices(self, stage: str) -> dict[str, ConfusionMatrix]:
        return dict(zip(self.heads, self.confusion[stage], strict=True))

    def _evaluate(self, stage: str, batch: Batch) -> None:
        """Score every image at its own size: padding that only made a batch must not change what is seen.

        The mean of the losses of the images is changed neither by batches nor by processes.
        """
        masks = by_head(batch["mask"])
        parts = [(batch["image"], masks)]
        sizes = batch["size"].tolist()
        if any(size != list(batch["image"].shape[-2:]) for size in sizes):
            parts = [
                (image[None], {head: mask[n : n + 1, :h, :w] for head, mask in masks.items()})
                for n, (image, (h, w)) in enumerate(zip(_own_sizes(batch), sizes, strict=True))
            ]
        losses = []
        for images, truths in parts:
            answers = by_head(self(images))
            for n in range(len(images)):
                logits, truth = (
                    at_edge({head: each[n : n + 1] for head, each in by.items()}) for by in (answers, truths)
                )
                losses.append(self.loss(logits, truth))
            for head, matrix in self._matrices(stage).items():
                matrix.update(best_class(answers[head]), truths[head])
        self.mean_loss[stage].update(torch.stack(losses))
        self.log(f"{stage}/loss", self.mean_loss[stage], on_epoch=True)

    def _log_scores(self, stage: str) -> Any:
        scores: dict[str, SegmentationScores] = {}
        values: dict[str, float] = {}
        for head, matrix in self._matrices(stage).items():
            of_head = scores[head] = matrix.scores()
            matrix.reset()
            prefix, names = f"{stage}/{head}" if head else stage, self.heads[head].names
            values |= {f"{prefix}/{metric}": getattr(of_head, metric) for metric in METRICS}
            values |= {f"{prefix}/iou/{name}": iou for name, iou in zip(names, of_head.iou, strict=True)}
        values.setdefault(f"{stage}/mean_iou", next(iter(scores.values())).mean_iou)
        for key, value in values.items():
            if not math.isnan(value):
                # the matrix is summed over the processes: all have this number, and the largest of equal ones is it
                self.log(key, value, prog_bar=key.endswith("/mean_iou"), reduce_fx="max", sync_dist=True)
        return at_edge(scores)

    def evaluate(
        self, data: SegmentationDataModule, split: str = "test", *, device: Device = "auto"
    ) -> SegmentationScores:
        """Score the segmenter on one split, each image at its own size, on one device.

        Args:
            data: the set.
            split: ``"train"``, ``"val"`` or ``"test"``.
            device: where it computes, as ``fullyconv.load`` takes it; the segmenter is where it was afterwards.

        Returns:
            The four metrics and the IoU of every class, from one confusion matrix.

        Raises:
            ValueError: if the set has no such split, or other classes than the segmenter, or there is no such device.
        """
        self.check_data(data)
        data.check(split)
        place, before = device_of(device), self.device
        trainer = L.Trainer(
            logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
            accelerator=place.type, devices=1 if place.type == "cpu" else [place.index or 0],
        )  # fmt: skip
        trainer.test(self, dataloaders=data.eval_dataloader(split), verbose=False)
        self.to(before)
        scores: SegmentationScores = self.test_scores
        return scores


def _plain_value(value: object) -> object:
    if isinstance(value, Labels):
        return list(value.names)
    if isinstance(value, Preprocessing):
        return value.to_dict()
    return str(value) if isinstance(value, Path) else value


def _range_of(data: Any) -> tuple[float, float] | None:
    bits = data.hparams.get("value_range")
    return None if bits is None else (float(bits[0]), float(bits[1]))


def _own_sizes(batch: Batch) -> list[Tensor]:
    return [image[:, :h, :w] for image, (h, w) in zip(batch["image"], batch["size"].tolist(), strict=True)]

"""SegmentationModule: a model with its class names, palette, preprocessing and optimization, for Lightning."""

from __future__ import annotations

import copy
import inspect
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from fullyconv.backbones import LoadReport
from fullyconv.checkpointing import AveragedWeights
from fullyconv.confusion import SegmentationScores
from fullyconv.errors import WeightsError, first_line, hush, printable, tell
from fullyconv.fcn import FCN, MODELS, MultiHeadFCN, build_model, with_heads
from fullyconv.images.raster import Raster
from fullyconv.inference.predict import ImageSource
from fullyconv.inference.processor import Device, device_of
from fullyconv.inference.segmentation import Segmentation, Written
from fullyconv.inference.serving import Predictor
from fullyconv.inference.tiles import Halo, Probabilities
from fullyconv.labels import Labels, as_text, default_palette, packed_color
from fullyconv.losses import AbsentLoss, PixelLoss, build_loss, check_weights, loss_name
from fullyconv.metrics import ConfusionMatrix, best_class
from fullyconv.preprocessing import IMAGENET, Preprocessing
from fullyconv.weights import pretrained, sources
from fullyconv.weights.building import build, describe
from fullyconv.weights.opening import Checkpoint, Opened, opened
from fullyconv.weights.uploading import Uploads

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule

hush()

MODEL_ARGUMENTS = ("model", "padding", "upsampling", "in_channels", "head_width")
"""What `build_model` is called with, beside the classes: a checkpoint, a folder and a run have to agree on it."""

Batch = dict[str, Any]
"""``image`` (N, C, H, W) float RGB in 0..1, ``mask`` (N, H, W) int64, ``size`` (N, 2) height and width, ``path``."""


class SegmentationModule(L.LightningModule, Uploads):
    """Train, evaluate and use a segmentation model.

    Args:
        model: name of a preset of ``fullyconv.MODELS``, such as ``"fcn8s_vgg16"``, or ``"fcn8s_timm/NAME"``.
        classes: the K class names, in the order of the labels; or the labels of a data module, which bring palette,
            ignore_index and label_values along. In a recipe they come from the data.
        palette: K colors ``[red, green, blue]``; None gives the colors of PASCAL VOC.
        ignore_index: label of the pixels that count for nothing, in data, loss and metric alike.
        label_values: what values mean in the mask files of the training data: ``{value: class name or "ignore"}``,
            with numbers or colors ``"#rrggbb"`` for values.
        preprocessing: a ``Preprocessing`` or its plain form, a dict; None means ImageNet's mean and deviation on RGB
            in 0..1.
        padding: ``"same"`` covers images of any size; ``"paper"`` pads 100 pixels and crops, as the reference networks.
        upsampling: ``"bilinear"`` (fixed), ``"learned"`` (transposed convolution from bilinear) or ``"frozen"``; for
            torchvision's segmenters ``"bilinear"`` or their own ``"stretch"``.
        in_channels: C of the images.
        head_width: channels of the head, for presets whose name begins with ``ladder_``; None is the preset's own.
        loss: a key of ``fullyconv.losses.LOSSES``, or several joined by ``+``; or one of your own, a module or function
            of (N, K, H, W) logits and a (N, H, W) mask that gives one number.
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
        allow_unverified: accept backbone_weights that nobody vouches for.

    Raises:
        ValueError: if an argument is outside its range; the message lists the choices.
        WeightsError: if backbone_weights do not belong to the backbone, or are not what was promised.
        DownloadError: if they could not be fetched.

    Example:
        >>> module = SegmentationModule("fcn32s_resnet18_half", classes=["sky", "road"])
        >>> module(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 2, 40, 50])
    """

    monitor = "val/mean_iou"

    def __init__(
        self,
        model: str = "fcn8s_resnet18_half",
        classes: list[str] | Labels | None = None,
        palette: list[list[int]] | None = None,
        ignore_index: int = 255,
        label_values: dict[int | str, str] | None = None,
        preprocessing: dict[str, Any] | Preprocessing | None = None,
        padding: Literal["same", "paper"] = "same",
        upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear",
        in_channels: int = 3,
        head_width: int | None = None,
        loss: str | nn.Module | PixelLoss = "cross_entropy",
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
        backbone_weights: str | None = None,
        allow_unverified: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(classes, Labels):
            if palette is not None or label_values is not None:
                raise ValueError("classes is Labels, which have palette and label_values: leave these out")
            # What is saved are plain values.
            palette, ignore_index = [list(color) for color in classes.palette], classes.ignore_index
            label_values, classes = dict(classes.values), list(classes.names)
        if isinstance(classes, Mapping):
            raise ValueError(
                f"classes={classes!r}: this module has one head and takes one list of names; use MultiHeadModule for "
                "several"
            )
        if classes is None or len(classes) < 2:
            raise ValueError(
                f"classes={classes!r}: name at least two classes (two-class problems are background and foreground), "
                "for example classes=data.classes"
            )
        check_weights(class_weights, len(classes))
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
        if not isinstance(model, str):
            raise ValueError(f"model={model!r}: give a name")
        self.labels = Labels.of(classes, palette=palette, values=label_values, ignore_index=ignore_index)
        self.preprocessing = IMAGENET if preprocessing is None else Preprocessing.of(preprocessing)
        if preprocessing is None and backbone_weights is not None:
            self.preprocessing = IMAGENET.for_channels(in_channels)  # until the weights say what they expect
        if self.preprocessing.in_channels != in_channels:
            raise ValueError(
                f"in_channels={in_channels}: the preprocessing has {self.preprocessing.in_channels} channels; pass "
                f"preprocessing={{'mean': [...], 'std': [...]}} with {in_channels} numbers each"
            )
        # A subclass may add its own arguments, and pass on Labels that it was given: only plain values are kept, as
        # a checkpoint must load with weights_only=True.
        self.save_hyperparameters(ignore=["backbone_weights", "allow_unverified", "loss"])
        for name, value in self.hparams.items():
            if isinstance(value, Labels):
                self.hparams[name] = list(value.names)
            elif isinstance(value, Preprocessing):
                self.hparams[name] = value.to_dict()
            elif isinstance(value, Path):
                self.hparams[name] = str(value)
        self.hparams["loss"] = loss_name(loss)
        self._hparams_initial = copy.deepcopy(self.hparams)
        self.model: FCN = build_model(
            model, len(classes), in_channels=in_channels, padding=padding, upsampling=upsampling, head_width=head_width
        )
        # Convolutions of small networks take a quarter less time on a CPU where channels lie together, and those of
        # large ones no more; on a GPU it is what tensor cores want. Values differ by rounding only.
        self.model.to(memory_format=torch.channels_last)
        self._loss_given = (loss,)  # in a tuple: no part of the module
        self.loss = build_loss(loss, ignore_index, class_weights)
        self.val_confusion = ConfusionMatrix(len(classes), ignore_index)
        self.test_confusion = ConfusionMatrix(len(classes), ignore_index)
        # Lightning's own mean rounds the number of images a process, which is no whole one where they differ.
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.test_loss = MeanMetric(nan_strategy="disable")
        self.score: dict[str, Any] | None = None
        self.license: str | None = None
        self.training_record: dict[str, Any] = {}
        if backbone_weights is not None:
            self._start_from(backbone_weights, preprocessing is None, allow_unverified)
        self._frozen = self._freeze(freeze or [])

    # ---- the model -------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The K class names."""
        return list(self.labels.names)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits of images.

        Args:
            image: (N, C, H, W) float RGB in 0..1, not normalized; any H, W >= 1.

        Returns:
            (N, K, H, W) logits.
        """
        with self.predictor().native_precision(image):
            logits: Tensor = self.model(self.preprocessing(image))
        return logits

    def scores(self, image: Tensor) -> Tensor:
        """Give the class scores before upsampling, (N, K, h, w), of (N, C, H, W) images in 0..1."""
        with self.predictor().native_precision(image):
            values: Tensor = self.model.scores(self.preprocessing(image))
        return values

    def predict(
        self,
        source: ImageSource,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: Probabilities | None = None,
        compile: bool = False,
    ) -> Segmentation:
        """Segment one image of any size.

        Args:
            source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a
                tensor (C, H, W), uint8 or float in 0..1.
            memory: bytes, or a word such as "2GB", that the prediction may take beside the network, the image and the
                mask; an image whose one pass takes more is segmented in tiles. None is half of what is free.
            halo: "exact" reads around each tile all that its scores depend on, so that there are no seams; a number of
                pixels is faster, and seams are possible.
            flip: average the probabilities with those of the mirrored image.
            scales: average the probabilities over the image at these sizes, relative to that at which it is seen.
            probabilities: "top" gives that of the winning class too, "all" those of every class.
            compile: run the network through ``torch.compile``: the first images take a minute, the others less time
                than without. It wants a C++ compiler, and keeps what it made for as long as the module lives.

        Returns:
            The mask at the image's own size, with names, shares and an overlay.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, an option is none, or torch cannot compile here.
        """
        found: Segmentation = self.predictor().predict(
            source, memory=memory, halo=halo, flip=flip, scales=scales, probabilities=probabilities, compile=compile
        )
        return found

    def predict_to(
        self,
        source: ImageSource,
        target: str | Path,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: tuple[Probabilities, str | Path] | None = None,
        preview: bool = False,
        compile: bool = False,
    ) -> Written:
        """Segment one image of any size into a file; neither has to fit in memory.

        A TIFF file of plain bands is read window by window (with the extra ``tiff``), and the mask is written band by
        band. See `predict` for the other arguments.

        Args:
            source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a
                tensor (C, H, W), uint8 or float in 0..1.
            target: file of the mask, ``.png`` or ``.tif``.
            memory: as `predict` takes it.
            halo: as `predict` takes it.
            flip: as `predict` takes it.
            scales: as `predict` takes it.
            probabilities: "top" or "all", and the ``.npz`` file that they go to.
            preview: give image and mask thinned to at most 4096 pixels a side too, for an overlay.
            compile: as `predict` takes it.

        Returns:
            Where the mask is, and the share of each class.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, or an option is none.
        """
        written: Written = self.predictor().predict_to(
            source, target, memory=memory, halo=halo, flip=flip, scales=scales, probabilities=probabilities,
            preview=preview, compile=compile,
        )  # fmt: skip
        return written

    def predict_batch(self, rasters: Sequence[Raster], **options: Any) -> list[Any]:
        """Segment images of one size, as many in one look as memory holds.

        Args:
            rasters: the images, as `fullyconv.images.raster.read_raster` reads them.
            options: memory and compile, as `predict` takes them.

        Returns:
            What `predict` gives for each, up to rounding where two classes are all but equal.
        """
        if type(self).predict not in (SegmentationModule.predict, MultiHeadModule.predict):  # which has the last word
            return [self.predict(raster, **options) for raster in rasters]
        return self.predictor().predict_batch(rasters, **options)

    def predictor(self) -> Predictor:
        """Give what predicts with this model, made anew where the model was exchanged."""
        if self._predictor is None or self._predictor.model is not self.model:
            ours = type(self).scores in (SegmentationModule.scores, MultiHeadModule.scores)
            scores = None if ours else self.scores  # a subclass has the last word
            self._predictor = Predictor(self.model, self.labels, self.preprocessing, owner=self, scores=scores)
        self._predictor.labels, self._predictor.preprocessing = self.labels, self.preprocessing
        return self._predictor

    _predictor: Predictor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `predict` made: a copy of the module makes its own, and compiled code cannot be pickled."""
        return {key: value for key, value in super().__getstate__().items() if key != "_predictor"}

    def _start_from(self, source: str, with_preprocessing: bool, allow_unverified: bool) -> None:
        """Take a classifier's weights into the backbone, and its preprocessing where none was asked for."""
        from fullyconv.weights.classifiers import fetch_classifier
        from fullyconv.weights.loading import apply

        found = fetch_classifier(source, allow_unverified=allow_unverified)
        self.load_report = apply(self.model.backbone, found.weights)
        tell(f"backbone weights from {found.weights.source}\n{self.load_report.table()}")
        theirs = self.model.backbone.preprocessing
        if with_preprocessing:
            if theirs is None:
                tell(f"{source}: says nothing of its preprocessing; ImageNet's mean and deviation are assumed")
            self.preprocessing = theirs or self.preprocessing
            self.hparams["preprocessing"] = self.preprocessing.to_dict()  # a checkpoint has to know it
        origin = found.weights.source
        # the record travels with the weights, and where a folder lay on this machine is nobody's business
        self.license, self.origin = found.weights.license, Path(origin).name if Path(origin).is_absolute() else origin

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

    # ---- optimization ----------------------------------------------------------------------------------------------

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
                # One-dimensional parameters are biases and the scales of normalization layers: no decay for either.
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
        return [AveragedWeights(decay)]

    # ---- steps -----------------------------------------------------------------------------------------------------

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
        self._check_images(data)
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

    def _check_images(self, data: object) -> None:
        theirs, own = getattr(data, "in_channels", None), int(self.hparams["in_channels"])
        if theirs is not None and theirs != own:
            raise ValueError(
                f"the data has images of {theirs} channels, the model takes {own}: give both the same in_channels"
            )
        learned = self.preprocessing.value_range
        if learned is not None and hasattr(data, "hparams") and _range_of(data) != learned:
            raise ValueError(
                f"the data is read with value_range={_range_of(data)}, the model was trained with {learned}: give the "
                f"data value_range={learned}"
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
        self.license = _text(checkpoint.get("license")) or self.license
        self.origin = _text(checkpoint.get("started from")) or self.origin

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
        self.val_loss.update(self._evaluate(batch, self.val_confusion))
        self.log("val/loss", self.val_loss, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        self._log_scores("val", self.val_confusion)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the confusion matrix of the test."""
        self.test_loss.update(self._evaluate(batch, self.test_confusion))
        self.log("test/loss", self.test_loss, on_epoch=True)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole set and keep them as ``test_scores``, with the ``test_matrix`` of one head."""
        if isinstance(self.test_confusion, ConfusionMatrix):
            self.test_matrix = self.test_confusion.compute().cpu().numpy()
        self.test_scores = self._log_scores("test", self.test_confusion)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """Give what `predict` gives for each image of a batch, at its own size."""
        return [self.predict(image) for image in _own_sizes(batch)]

    def _evaluate(self, batch: Batch, confusion: ConfusionMatrix) -> Tensor:
        """Score every image at its own size: padding that only made a batch must not change what is seen.

        Returns:
            (N,) the loss of each image, whose mean neither batches nor processes change.
        """
        height, width = batch["image"].shape[-2:]
        if bool((batch["size"] == batch["size"].new_tensor([height, width])).all()):
            logits = self(batch["image"])
            confusion.update(best_class(logits), batch["mask"])
            return torch.stack([self.loss(*one) for one in zip(logits.split(1), batch["mask"].split(1), strict=True)])
        losses = []
        for image, mask, (h, w) in zip(_own_sizes(batch), batch["mask"], batch["size"].tolist(), strict=True):
            logits, truth = self(image[None]), mask[None, :h, :w]
            confusion.update(best_class(logits), truth)
            losses.append(self.loss(logits, truth))
        return torch.stack(losses)

    def _log_scores(self, stage: str, confusion: ConfusionMatrix) -> SegmentationScores:
        result = confusion.scores()
        confusion.reset()
        self._log_values(_figures(stage, result, self.classes))
        return result

    def _log_values(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            if not math.isnan(value):
                # the matrix is summed over the processes: all have this number, and the largest of equal ones is it
                self.log(key, value, prog_bar=key.endswith("/mean_iou"), reduce_fx="max", sync_dist=True)

    # ---- model folder ----------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        folder: str | Path,
        dtype: Literal["float32", "float16"] = "float32",
        score: dict[str, Any] | None = None,
        license: str | None = None,
    ) -> Path:
        """Write the segmenter as a model folder: ``model.safetensors``, ``config.json`` and a card.

        `from_pretrained` and ``fullyconv.load`` read it.

        Args:
            folder: where to write; a model folder that is there is replaced, any other file in it is left alone.
            dtype: ``"float16"`` halves the file; batch norm statistics stay in float32.
            score: what was measured, in percent, with ``data`` and ``split``; None keeps the score it was loaded with.
            license: license of the weights, as stated by whoever trained them.

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
        config = pretrained.Config(
            kind="segmenter",
            model={key: hp[key] for key in MODEL_ARGUMENTS if hp.get(key) is not None},
            labels=self._plain_labels(),
            preprocessing=self.preprocessing.to_dict(),
            score=score if score is not None else self.score,
            license=license or self.license or "unstated",
            training=self.training_record,
        )
        return pretrained.save(folder, tensors, config, dtype=dtype)

    def _plain_labels(self) -> dict[str, Any]:
        return self.labels.to_dict()

    @classmethod
    def _made_for(cls, labels: Labels | Mapping[str, Labels], **options: Any) -> SegmentationModule:
        """Make a module for labels; those of several heads need one that has them."""
        several = isinstance(labels, Mapping) and cls is SegmentationModule
        return (MultiHeadModule if several else cls)(**_class_arguments(labels), **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, allow_unverified: bool = False, device: Device = None) -> Self:
        """Load pretrained weights as this class, in evaluation mode.

        Args:
            source: a model folder, a name of the zoo, an id of the hub: whatever ``fullyconv.load`` takes.
            allow_unverified: accept weights that nobody vouches for, as ``fullyconv.load`` does.
            device: where it computes, as ``fullyconv.load`` takes it; None is the processor.

        Returns:
            An instance of this class; of `SegmentationModule` a `MultiHeadModule` where the weights have several heads.

        Raises:
            ValueError: if the source means nothing, or there is no such device.
            FileNotFoundError: if a path leads nowhere.
            WeightsError: if the weights are damaged, not those that were promised, or not those of this class.
            DownloadError: if they could not be fetched.

        Example:
            >>> SegmentationModule.from_pretrained("pets").classes
            ['background', 'pet']
        """
        place = device_of(device)
        return cast(Self, cls.of(opened(sources.read(source), allow_unverified)).to(place))

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> SegmentationModule:
        """Load a checkpoint as Lightning does, but run nothing in it; of one behind an address Lightning does.

        `from_checkpoint` gives clearer errors.

        Raises:
            ValueError: if `weights_only` is False.
        """
        if weights_only is False:
            raise ValueError("weights_only=False: would run what a checkpoint holds; leave it out")
        loaded: SegmentationModule = super().load_from_checkpoint(
            checkpoint_path,
            map_location,
            hparams_file,
            strict,
            weights_only=True,
            # what a command line wrote names classes, such as that of the loss: none of them is imported
            **{"_instantiator": None, **kwargs},
        )
        return loaded

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> SegmentationModule:
        """Load a Lightning checkpoint of this class, without its optimizer, in evaluation mode. Nothing in it runs.

        Args:
            path: a ``.ckpt`` on this machine.

        Raises:
            FileNotFoundError: if it is not there.
            WeightsError: if it is damaged, holds Python objects, or is of another module.
        """
        place = Path(path)
        if not place.is_file():
            raise FileNotFoundError(f"{place}: not found; pass a .ckpt file")
        try:
            # weights_only: a checkpoint holds plain values and tensors, and nothing of it is ever executed.
            checkpoint = torch.load(place, map_location="cpu", weights_only=True)
            hyper, state = dict(checkpoint["hyper_parameters"]), dict(checkpoint["state_dict"])
        except Exception as error:  # torch.load raises whatever its unpickler meets
            raise WeightsError(
                f"{place}: is no checkpoint of fullyconv that can be read without executing it ({first_line(error)}); "
                "pass a .ckpt that 'fullyconv fit' or a Trainer with a SegmentationModule wrote"
            ) from error
        maker = MultiHeadModule if isinstance(hyper.get("classes"), dict) and cls is SegmentationModule else cls
        known = inspect.signature(maker.__init__).parameters
        try:
            module = maker(**{str(key): value for key, value in hyper.items() if key in known})
            if any(isinstance(part, AbsentLoss) for part in module.modules()):
                state = {key: value for key, value in state.items() if not key.startswith("loss.")}
            missing, unexpected = module.load_state_dict(state, strict=False)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{place}: is not of a model of this package: {error}") from error
        if missing or unexpected:
            listed = "; ".join(
                f"{len(keys)} {fault}: {', '.join(map(str, keys[:6]))}"
                for fault, keys in (("missing", missing), ("unknown", unexpected))
                if keys
            )
            raise WeightsError(f"{place}: its tensors are not those of the model {hyper.get('model')!r}: {listed}")
        record = {"epochs": checkpoint.get("epoch"), "steps": checkpoint.get("global_step")}
        module.training_record = {key: value + (key == "epochs") for key, value in record.items() if type(value) is int}
        module.origin, module.license = place.name, _text(checkpoint.get("license"))
        return module.eval()

    @classmethod
    def of(cls, found: Opened) -> SegmentationModule:
        """Make a segmenter of what a source led to, in evaluation mode; with several heads a `MultiHeadModule`.

        Args:
            found: a model folder, a checkpoint, or the translated weights of another library.

        Raises:
            WeightsError: if the weights are not those of the model they name.
        """
        if isinstance(found, Checkpoint):
            return cls.from_checkpoint(found.path)
        made = describe(found)
        preprocessing = made.preprocessing.to_dict()
        module = build(
            made,
            lambda: cls._made_for(made.labels, preprocessing=preprocessing, **made.arguments),
            lambda module: module.model,
        )
        module.score, module.license, module.training_record = made.score, made.license, dict(made.training)
        module.load_report, module.origin = made.load_report, made.origin
        return module.eval()

    def start_from(self, other: SegmentationModule) -> None:
        """Take all weights of a segmenter of the same model and classes, and what binds them.

        Args:
            other: the segmenter, as ``fullyconv.load(NAME, classes=...)`` gives it.

        Raises:
            ValueError: if it is another model, or has other classes.
        """
        for key in (*MODEL_ARGUMENTS, "classes"):
            own, theirs = self.hparams.get(key), other.hparams.get(key)
            if own != theirs:
                raise ValueError(f"{key}={own!r}: the start has {theirs!r}; leave it as the start has it")
        self.model.load_state_dict(other.model.state_dict(), strict=True)
        self.reinitialized, self.load_report = other.reinitialized, other.load_report
        self._descend(other)
        self.license, self.origin = other.license, other.origin or self.origin

    def evaluate(
        self, data: SegmentationDataModule, split: str = "test", *, device: Device = "auto"
    ) -> SegmentationScores:
        """Score the segmenter on one split, each image at its own size, on one device.

        Args:
            data: the set.
            split: ``"train"``, ``"val"`` or ``"test"``.
            device: where it computes, as ``fullyconv.load`` takes it; the segmenter is where it was afterwards.

        Returns:
            The four metrics and the IoU of every class, from one confusion matrix, which is kept as ``test_matrix``.

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
        return self.test_scores

    def with_classes(self, labels: Labels) -> SegmentationModule:
        """Give a segmenter for other classes: everything is kept but the score layers, which start at zero.

        With the same class names in the same order nothing is lost, only palette and label values are exchanged.

        Args:
            labels: the new classes.

        Returns:
            A new module in evaluation mode; ``reinitialized`` names the tensors that were not kept.
        """
        other = type(self)(**(self._arguments() | _class_arguments(labels) | {"class_weights": None}))
        own = self.model.state_dict()
        fresh = other.model.state_dict()
        depends = [name for name, value in fresh.items() if name not in own or own[name].shape != value.shape]
        if list(labels.names) != self.classes:
            # With as many classes as before the shapes agree, and yet the rows would belong to other classes.
            per_class = ("head.score.", "head.upscore.")
            depends += [name for name in fresh if name.startswith(per_class) and name not in depends]
        other.model.load_state_dict({name: value if name in depends else own[name] for name, value in fresh.items()})
        other.reinitialized, other.start_classes = tuple(sorted(depends)), tuple(self.classes)
        other.load_report = LoadReport(
            copied=tuple(name for name in fresh if name not in depends), reinitialized=other.reinitialized
        )
        return other._descend(self).eval()

    def expand_classes(self, classes: Sequence[str] | Labels) -> SegmentationModule:
        """Give a segmenter that knows further classes: all rows of the old ones are kept, those of the new are zero.

        Args:
            classes: names of the further classes, or the labels of all, beginning with those that are known already.
                With names alone, the value of a further class in mask files is its index, or the next that is free.

        Returns:
            A new module in evaluation mode; ``load_report`` says which tensors were copied and which were extended.

        Raises:
            ValueError: if a name is known already, the labels do not begin with the known ones, or the model has
                several heads.

        Example:
            >>> module = SegmentationModule("fcn32s_resnet18_half", classes=["sky", "road"])
            >>> module.expand_classes(["crack"]).classes
            ['sky', 'road', 'crack']
        """
        labels = classes if isinstance(classes, Labels) else self._further(classes)
        if list(labels.names[: len(self.classes)]) != self.classes or len(labels.names) == len(self.classes):
            raise ValueError(
                f"classes={list(labels.names)}: must begin with the known ones, {self.classes}, and go on; to exchange "
                "them use with_classes"
            )
        other = self.with_classes(labels)
        own, fresh = self.model.state_dict(), other.model.state_dict()
        grown = [name for name in other.reinitialized if name in own and own[name].shape[1:] == fresh[name].shape[1:]]
        with torch.no_grad():
            for name in grown:
                fresh[name][: len(self.classes)] = own[name]
        other.reinitialized = tuple(name for name in other.reinitialized if name not in grown)
        other.load_report = LoadReport(
            copied=tuple(name for name in fresh if name not in grown and name not in other.reinitialized),
            adapted=tuple(grown),
            reinitialized=other.reinitialized,
        )
        return other

    def _arguments(self) -> dict[str, Any]:
        """Give what another module like this one is made with."""
        return dict(self.hparams) | {"loss": self._loss_given[0]}

    def _further(self, names: Sequence[str]) -> Labels:
        """Add classes to the labels; their value in mask files is their index, or the next one that is free."""
        if isinstance(names, str):
            raise ValueError(f'classes={names!r} is one string; give a list of names, ["{names}"]')
        every = [*self.classes, *names]
        palette = [list(color) for color in self.labels.palette]
        taken = {tuple(color) for color in palette}
        values = dict(self.labels.values)
        many = default_palette(len(every) + len(taken) + len(values))
        spare = (color for color in many if color not in taken and as_text(packed_color(color)) not in values)
        palette += [list(color) for color, _ in zip(spare, names, strict=False)]
        for index, name in enumerate(names, len(self.classes)):
            if self.labels.by_color:
                values[as_text(packed_color(palette[index]))] = name
            else:
                values[next(value for value in count(index) if value not in values)] = name
        return Labels.of(every, palette, values, self.labels.ignore_index)

    reinitialized: tuple[str, ...] = ()
    start_classes: tuple[str, ...] = ()  # of the weights that classes were exchanged of
    load_report: LoadReport | None = None
    origin: str | None = None

    def _descend(self, parent: SegmentationModule) -> SegmentationModule:
        """Keep license and origin: what binds the parent's weights binds those made from them."""
        self.license, self.origin = parent.license, parent.origin
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
        name = self._next_stage(stride, getattr(self.model.head, "strides", (0,))[-1])
        other = type(self)(**(self._arguments() | {"model": name}))
        other.model.load_state_dict(self.model.grow(stride).state_dict())
        other.reinitialized = (f"head.score.{stride}.bias", f"head.score.{stride}.weight")
        return other._descend(self).train(self.training)

    def _next_stage(self, stride: int, finest: int) -> str:
        """Name the preset with one more skip."""
        hp = self.hparams
        name = re.sub(r"^fcn\d+s(?!_atonce)", f"fcn{stride}s", hp["model"])
        if 2 * stride != finest or name == hp["model"] or ("timm/" not in name and name not in MODELS):
            raise ValueError(
                f"stride={stride}: {hp['model']} has no such next stage; staged training goes from 32 to 16 to 8 to 4, "
                "as far as the backbone has features of that stride"
            )
        return name


class MultiHeadModule(SegmentationModule):
    """Train, evaluate and use a model with several heads on one backbone, such as semantic and geometric classes.

    It is a `SegmentationModule` in which everything that there is one of for a head is a dict by the names of the
    heads: classes, labels, logits, predictions, masks of a batch. The loss is the sum of those of the heads.

    Metrics are logged under the name of the head as well, ``val/semantic/mean_iou``; ``val/mean_iou``, which
    checkpoints go by, is that of the first head.

    Args:
        model: name of a preset with skips, such as ``"fcn8s_vgg16"``.
        classes: for each head the K class names, in the order of its labels.
        palette: for each head K colors ``[red, green, blue]``; None, or a head left out, gives those of PASCAL VOC.
        ignore_index: label of the pixels that count for nothing, the same for all heads.
        label_values: for each head what values mean in its mask files.
        preprocessing: as for `SegmentationModule`, as are all arguments that are not named here.
        class_weights: for each head K weights for the loss; None, or a head left out, weighs all classes alike.

    Raises:
        ValueError: if an argument is outside its range, or names a head that there is not.

    Example:
        >>> module = MultiHeadModule(
        ...     "fcn16s_resnet18_half", classes={"semantic": ["sky", "road", "tree"], "geometric": ["sky", "ground"]}
        ... )
        >>> {name: tuple(logits.shape) for name, logits in module(torch.rand(1, 3, 40, 50)).items()}
        {'semantic': (1, 3, 40, 50), 'geometric': (1, 2, 40, 50)}
    """

    def __init__(
        self,
        model: str = "fcn8s_resnet18_half",
        classes: dict[str, list[str]] | None = None,
        palette: dict[str, list[list[int]]] | None = None,
        ignore_index: int = 255,
        label_values: dict[str, dict[int | str, str]] | None = None,
        preprocessing: dict[str, Any] | Preprocessing | None = None,
        padding: Literal["same", "paper"] = "same",
        upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear",
        in_channels: int = 3,
        head_width: int | None = None,
        loss: str | nn.Module | PixelLoss = "cross_entropy",
        class_weights: dict[str, list[float]] | None = None,
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
        if not isinstance(classes, Mapping) or not classes:
            raise ValueError(
                f"classes={classes!r}: give for each head its class names, "
                "{'semantic': ['sky', 'road'], ...}; a model with one head is a SegmentationModule"
            )
        by_head = {"palette": palette, "label_values": label_values, "class_weights": class_weights}
        for name, given in by_head.items():
            if given is not None and (not isinstance(given, Mapping) or not given.keys() <= classes.keys()):
                raise ValueError(f"{name}={given!r}: give a dict by the names of the heads, {', '.join(classes)}")
        # The first head stands in for all of them, so that what does not depend on classes is checked and set up once.
        first = next(iter(classes))
        super().__init__(
            model=model,
            classes=classes[first],
            palette=(palette or {}).get(first),
            ignore_index=ignore_index,
            label_values=(label_values or {}).get(first),
            preprocessing=preprocessing,
            padding=padding,
            upsampling=upsampling,
            in_channels=in_channels,
            head_width=head_width,
            loss=loss,
            class_weights=(class_weights or {}).get(first),
            optimizer=optimizer,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            bias_lr_factor=bias_lr_factor,
            backbone_lr_factor=backbone_lr_factor,
            schedule=schedule,
            poly_power=poly_power,
            warmup_steps=warmup_steps,
            ema_decay=ema_decay,
            backbone_weights=backbone_weights,
            allow_unverified=allow_unverified,
        )
        for name, names in classes.items():
            if len(names) < 2:
                raise ValueError(f"classes[{name!r}]={names!r}: name at least two classes")
            check_weights((class_weights or {}).get(name), len(names))
        self.labels: dict[str, Labels] = {  # type: ignore[assignment]
            name: Labels.of(
                names,
                palette=(palette or {}).get(name),
                values=(label_values or {}).get(name),
                ignore_index=ignore_index,
            )
            for name, names in classes.items()
        }
        counts = {name: labels.num_classes for name, labels in self.labels.items()}
        single: nn.Module = self.model
        self.model: MultiHeadFCN = with_heads(cast(FCN, single), counts)  # type: ignore[assignment]
        weighted = class_weights or {}
        self.loss = _SummedLoss({name: build_loss(loss, ignore_index, weighted.get(name)) for name in classes})
        self.val_confusion = nn.ModuleDict(  # type: ignore[assignment]
            {name: ConfusionMatrix(count, ignore_index) for name, count in counts.items()}
        )
        self.test_confusion = nn.ModuleDict(  # type: ignore[assignment]
            {name: ConfusionMatrix(count, ignore_index) for name, count in counts.items()}
        )
        self._frozen = self._freeze(freeze or [])

    @property
    def classes(self) -> dict[str, list[str]]:  # type: ignore[override]
        """For each head the K class names."""
        return {name: list(labels.names) for name, labels in self.labels.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Give the logits of images.

        Args:
            image: (N, C, H, W) float RGB in 0..1, not normalized; any H, W >= 1.

        Returns:
            For each head (N, K, H, W) logits.
        """
        with self.predictor().native_precision(image):
            logits: dict[str, Tensor] = self.model(self.preprocessing(image))
        return logits

    def scores(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Give for each head the class scores before upsampling, (N, K, h, w), of (N, C, H, W) images in 0..1."""
        with self.predictor().native_precision(image):
            values: dict[str, Tensor] = self.model.scores(self.preprocessing(image))
        return values

    def predict(  # type: ignore[override]
        self,
        source: ImageSource,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: Probabilities | None = None,
    ) -> dict[str, Segmentation]:
        """Segment one image of any size, in one look for all heads.

        Args:
            source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a
                tensor (C, H, W), uint8 or float in 0..1.
            memory: bytes, or a word such as "2GB", that the prediction may take beside the network, the image and the
                mask; an image whose one pass takes more is segmented in tiles. None is half of what is free.
            halo: "exact" reads around each tile all that its scores depend on, so that there are no seams; a number of
                pixels is faster, and seams are possible.
            flip: average the probabilities with those of the mirrored image.
            scales: average the probabilities over the image at these sizes, relative to that at which it is seen.
            probabilities: "top" gives that of the winning class too, "all" those of every class.

        Returns:
            For each head the mask at the image's own size, with names, shares and an overlay.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, or an option is none.
        """
        found: dict[str, Segmentation] = self.predictor().predict(
            source, memory=memory, halo=halo, flip=flip, scales=scales, probabilities=probabilities
        )
        return found

    def predict_to(  # type: ignore[override]
        self,
        source: ImageSource,
        target: str | Path,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: tuple[Probabilities, str | Path] | None = None,
        preview: bool = False,
    ) -> dict[str, Written]:
        """Segment one image of any size into a file for each head, in one pass over its tiles.

        Args:
            source: as `SegmentationModule.predict_to` takes it.
            target: file of the masks, ``.png`` or ``.tif``; ``mask.png`` becomes ``mask.HEAD.png``.
            memory: as `predict` takes it.
            halo: as `predict` takes it.
            flip: as `predict` takes it.
            scales: as `predict` takes it.
            probabilities: "top" or "all", and the ``.npz`` file that they go to, named by head in the same way.
            preview: give image and masks thinned to at most 4096 pixels a side too, for an overlay.

        Returns:
            For each head where the mask is, and the share of each class.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, or an option is none.
        """
        written: dict[str, Written] = self.predictor().predict_to(
            source, target, memory=memory, halo=halo, flip=flip, scales=scales, probabilities=probabilities,
            preview=preview,
        )  # fmt: skip
        return written

    def check_data(self, data: object) -> None:
        """Check that a data module has the classes of the model, by head, in the same order.

        Args:
            data: a data module; one that does not tell its ``classes`` is taken as it is.

        Raises:
            ValueError: if classes, ignore_index or the number of channels differ.
        """
        self._check_images(data)
        theirs = getattr(data, "classes", None)
        if theirs and (not isinstance(theirs, Mapping) or dict(theirs) != self.classes):
            raise ValueError(
                f"the data has the classes {theirs}, the model {self.classes}: they must be the same for each head, in "
                "the same order; train it on data whose masks are dicts by the names of the heads"
            )
        ignored = getattr(data, "ignore_index", None)
        if ignored is not None and ignored != self.hparams["ignore_index"]:
            raise ValueError(
                f"the data ignores the label {ignored}, the model {self.hparams['ignore_index']}: use one ignore_index"
            )

    def _evaluate(self, batch: Batch, confusion: nn.ModuleDict) -> Tensor:  # type: ignore[override]
        """Score every image at its own size, for all heads."""
        height, width = batch["image"].shape[-2:]
        masks: dict[str, Tensor] = batch["mask"]
        if bool((batch["size"] == batch["size"].new_tensor([height, width])).all()):
            pairs = [(batch["image"], masks)]
        else:
            pairs = [
                (image[None], {name: mask[i : i + 1, :h, :w] for name, mask in masks.items()})
                for i, (image, (h, w)) in enumerate(zip(_own_sizes(batch), batch["size"].tolist(), strict=True))
            ]
        losses = []
        for image, truth in pairs:
            logits = self(image)
            losses += [
                self.loss({name: each[i : i + 1] for name, each in logits.items()},
                          {name: each[i : i + 1] for name, each in truth.items()})
                for i in range(len(image))
            ]  # fmt: skip
            for name, matrix in confusion.items():
                cast(ConfusionMatrix, matrix).update(best_class(logits[name]), truth[name])
        return torch.stack(losses)

    def _log_scores(self, stage: str, confusion: nn.ModuleDict) -> dict[str, SegmentationScores]:  # type: ignore[override]
        results = {name: cast(ConfusionMatrix, matrix).scores() for name, matrix in confusion.items()}
        for index, (name, result) in enumerate(results.items()):
            cast(ConfusionMatrix, confusion[name]).reset()
            self._log_values(_figures(f"{stage}/{name}", result, self.classes[name]))
            if index == 0:
                self._log_values({f"{stage}/mean_iou": result.mean_iou})
        return results

    def _plain_labels(self) -> dict[str, Any]:
        return {"heads": {name: labels.to_dict() for name, labels in self.labels.items()}}

    def with_classes(self, labels: Mapping[str, Labels]) -> MultiHeadModule:  # type: ignore[override]
        """Give a segmenter for other classes: the backbone is kept, and every head whose class names are the same.

        Args:
            labels: the new classes of each head; heads may be left out, and new ones start at zero.

        Returns:
            A new module in evaluation mode; ``reinitialized`` names the tensors that were not kept.

        Raises:
            ValueError: if labels are not given by head.
        """
        if not isinstance(labels, Mapping):
            raise ValueError(
                f"labels={labels!r}: the model has the heads {', '.join(self.classes)}; give a dict of Labels by head"
            )
        options = self._arguments() | _class_arguments(labels) | {"class_weights": None}
        other = type(self)(**options)
        same = {name for name, entry in labels.items() if list(entry.names) == self.classes.get(name)}
        own, fresh = self.model.state_dict(), other.model.state_dict()
        kept = [key for key in fresh if not key.startswith("head.") or key.split(".")[1] in same]
        other.model.load_state_dict({key: own[key] if key in kept else value for key, value in fresh.items()})
        other.reinitialized = tuple(sorted(key for key in fresh if key not in kept))
        other.load_report = LoadReport(copied=tuple(kept), reinitialized=other.reinitialized)
        other._descend(self)
        other.eval()
        return other

    def expand_classes(self, classes: Sequence[str] | Labels) -> MultiHeadModule:
        """Refuse: with several heads it is not said which one is to grow. Use `with_classes`.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"classes={classes!r}: the model has the heads {', '.join(self.classes)}; use with_classes with a dict of "
            "Labels by head"
        )

    def grow(self, stride: int) -> MultiHeadModule:
        """Give the next stage of staged training, for all heads at once; see `SegmentationModule.grow`.

        Args:
            stride: of the skip to add; half of the finest stride so far.

        Raises:
            ValueError: if the model has no such next stage.
        """
        finest = {head.strides[-1] for head in self.model.heads.values()}
        other = type(self)(**(self._arguments() | {"model": self._next_stage(stride, *finest)}))
        other.model.load_state_dict(self.model.grow(stride).state_dict())
        other.reinitialized = tuple(
            f"head.{name}.score.{stride}.{kind}" for name in self.classes for kind in ("bias", "weight")
        )
        other._descend(self)
        other.train(self.training)
        return other


class _SummedLoss(nn.ModuleDict):
    """The sum of the losses of all heads, with weight 1 each, as the reference's networks for SIFT Flow have it."""

    def forward(self, logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        if not isinstance(masks, Mapping) or masks.keys() != self.keys():
            found = f"the keys {', '.join(masks)}" if isinstance(masks, Mapping) else f"a {type(masks).__name__}"
            raise ValueError(f'batch["mask"] has {found}; give a dict with masks for each head: {", ".join(self)}')
        return torch.stack([loss(logits[name], masks[name]) for name, loss in self.items()]).sum()


def _figures(prefix: str, result: SegmentationScores, classes: Sequence[str]) -> dict[str, float]:
    """Name what is logged of one confusion matrix."""
    values = {
        f"{prefix}/mean_iou": result.mean_iou,
        f"{prefix}/pixel_accuracy": result.pixel_accuracy,
        f"{prefix}/mean_accuracy": result.mean_accuracy,
        f"{prefix}/frequency_weighted_iou": result.frequency_weighted_iou,
    }
    return values | {f"{prefix}/iou/{name}": iou for name, iou in zip(classes, result.iou, strict=True)}


def _class_arguments(labels: Labels | Mapping[str, Labels]) -> dict[str, Any]:
    """Give labels as the plain arguments of a module; those of several heads as dicts by head."""
    if isinstance(labels, Labels):
        return {
            "classes": list(labels.names),
            "palette": [list(color) for color in labels.palette],
            "ignore_index": labels.ignore_index,
            "label_values": dict(labels.values),
        }
    heads = {name: _class_arguments(entry) for name, entry in labels.items()}
    ignored = {entry["ignore_index"] for entry in heads.values()}
    if len(ignored) != 1:
        raise ValueError(f"labels ignore {sorted(ignored)}: heads share their ignore_index; give each the same")
    split = {key: {name: entry[key] for name, entry in heads.items()} for key in ("classes", "palette", "label_values")}
    return {**split, "ignore_index": ignored.pop()}


def _range_of(data: Any) -> tuple[float, float] | None:
    bits = data.hparams.get("value_range")
    return None if bits is None else (float(bits[0]), float(bits[1]))


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _own_sizes(batch: Batch) -> list[Tensor]:
    return [image[:, :h, :w] for image, (h, w) in zip(batch["image"], batch["size"].tolist(), strict=True)]

"""What a module is stored as, and read from: model folders and checkpoints. Nothing in a file runs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Self

import lightning as L

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError, printable, some, tell
from fullyconv.inference.processor import Device, device_of
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.training.checkpointing import read_checkpoint
from fullyconv.training.heads import plain
from fullyconv.training.losses import AbsentLoss, OwnLoss
from fullyconv.weights import pretrained
from fullyconv.weights.described import Checkpoint, Opened, describe, fill
from fullyconv.weights.lock import accepting
from fullyconv.weights.pretrained import MODEL_ARGUMENTS, Dtype
from fullyconv.weights.repositories import Uploads
from fullyconv.weights.segmenters import fetch_segmenter


class StoredModule(L.LightningModule, Uploads):
    """A module that is written as a model folder, and read from one, or from a checkpoint."""

    model: Any
    labels: Labels
    preprocessing: Preprocessing
    training_record: dict[str, Any]
    loss: Any

    start_classes: tuple[str, ...] = ()  # of the weights that classes were exchanged of
    load_report: LoadReport | None = None
    score: dict[str, Any] | None = None
    license: str | None = None
    origin: str | None = None

    @property
    def reinitialized(self) -> tuple[str, ...]:
        """The tensors that start anew, of what `load_report` tells."""
        return () if self.load_report is None else self.load_report.reinitialized

    def descend(self, parent: StoredModule) -> None:
        """Keep license and origin: what binds the parent's weights binds those made from them."""
        self.license, self.origin = parent.license, parent.origin
        self.training_record = {} if parent.origin is None else {"started from": parent.origin}

    def like(self, **changes: Any) -> Self:
        """Give another module with the arguments of this one, and weights from the beginning.

        Args:
            changes: arguments that differ.
        """
        own = (part.function for part in self.loss.modules() if isinstance(part, OwnLoss))
        return type(self)(**(dict(self.hparams) | {"loss": next(own, self.hparams["loss"])} | changes))

    def save_pretrained(
        self,
        folder: str | Path,
        dtype: Dtype = "float32",
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
        model = {key: self.hparams[key] for key in MODEL_ARGUMENTS if self.hparams.get(key) is not None}
        config = pretrained.Config.of(self, "segmenter", model, license, score)
        return pretrained.save(folder, self.model.state_dict(), config, dtype=dtype)

    @classmethod
    @accepting()
    def from_pretrained(cls, source: str | Path, *, allow_unverified: bool = False, device: Device = None) -> Self:
        """Load pretrained weights as this class, in evaluation mode.

        Args:
            source: a model folder, a name of the zoo, an id of the hub: whatever ``fullyconv.load`` takes.
            allow_unverified: accept weights without a known digest, as ``fullyconv.load`` does.
            device: where it computes, as ``fullyconv.load`` takes it; None is the processor.

        Returns:
            An instance of this class.

        Raises:
            ValueError: if the source means nothing, or there is no such device.
            FileNotFoundError: if a path does not exist.
            WeightsError: if the weights are damaged, differ from their digest, or are not of this class.
            DownloadError: if the download fails.

        Example:
            >>> from fullyconv import SegmentationModule
            >>> SegmentationModule.from_pretrained("pets").classes
            ['background', 'pet']
        """
        place = device_of(device)
        return cls.of(fetch_segmenter(source, allow_unverified)).to(place)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint as Lightning does, also one behind an address, but run nothing in it.

        `from_checkpoint` gives clearer errors.

        Args:
            checkpoint_path: the file.
            map_location: as Lightning takes it.
            hparams_file: as Lightning takes it.
            strict: as Lightning takes it.
            weights_only: True, or None.
            kwargs: arguments of the module that differ.

        Raises:
            ValueError: if `weights_only` is False.
        """
        if weights_only is False:
            raise ValueError("weights_only=False: would run what a checkpoint holds; leave it out")
        # what a command line wrote names classes, such as that of the loss: none of them is imported
        kwargs = {"_instantiator": None, **kwargs}
        loaded: Self = super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only=True, **kwargs
        )
        return loaded

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Load a Lightning checkpoint of this class, without its optimizer, in evaluation mode. Nothing in it runs.

        Args:
            path: a ``.ckpt`` on this machine.

        Raises:
            FileNotFoundError: if it is not there.
            WeightsError: if it is damaged, holds Python objects, or is of another module.
        """
        place = Path(path)
        checkpoint, hyper, state = read_checkpoint(place)
        known = inspect.signature(cls.__init__).parameters
        try:
            module = cls(**{str(key): value for key, value in hyper.items() if key in known})
            if any(isinstance(part, AbsentLoss) for part in module.modules()):
                state = {key: value for key, value in state.items() if not key.startswith("loss.")}
            missing, unknown = module.load_state_dict(state, strict=False)
        except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise WeightsError(f"{place}: is not of a model of this package: {error}") from error
        beside = tuple(key for key in unknown if not key.startswith("model."))  # of a loss, of metrics
        unexpected = [key for key in unknown if key not in beside]
        if missing or unexpected:
            raise WeightsError(
                f"{place}: its tensors are not those of the model {hyper.get('model')!r}: {len(missing)} missing: "
                f"{some(missing)}; {len(unexpected)} unknown: {some(unexpected)}"
            )
        record = {"epochs": checkpoint.get("epoch"), "steps": checkpoint.get("global_step")}
        module.training_record = {key: value + (key == "epochs") for key, value in record.items() if type(value) is int}
        module.origin, module.license = place.name, text_of(checkpoint.get("license"))
        if beside:
            module.load_report = LoadReport(tuple(key for key in state if key not in beside), unused=beside)
            tell(f"{place}: not of the model, and unused: {', '.join(beside)}")
        return module.eval()

    @classmethod
    def of(cls, found: Opened) -> Self:
        """Make a segmenter of what a source led to, in evaluation mode.

        Args:
            found: a model folder, a checkpoint, or the translated weights of another library.

        Raises:
            WeightsError: if the weights are not those of the model they name.
        """
        if isinstance(found, Checkpoint):
            return cls.from_checkpoint(found.path)
        made = describe(found)
        preprocessing = made.preprocessing.to_dict()
        with made.making():
            module = cls(**plain(made.labels), preprocessing=preprocessing, **made.arguments)
        fill(module.model, made.tensors, made.named)
        module.score, module.license, module.training_record = made.score, made.license, dict(made.training)
        module.load_report, module.origin = made.load_report, made.origin
        return module.eval()

    def start_from(self, other: StoredModule) -> None:
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
        self.load_report = other.load_report
        self.descend(other)


def text_of(value: object) -> str | None:
    """Give a text of a checkpoint as one that may be shown; None for what is no text."""
    return printable(value) if isinstance(value, str) else None

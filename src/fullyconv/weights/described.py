"""What a segmenter is made of, whoever wrote the file, and a model of it that holds the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import MALFORMED, WeightsError, refusing
from fullyconv.fcn import build_model
from fullyconv.labels import Labels, at_edge, by_head, from_plain
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained

FEW_CLASSES = 512  # of all heads together; no model of so few takes much
FEW_CHANNELS = 256  # of a head whose width is an option


class NoSegmenter(WeightsError):
    """What was asked for is a classifier; `fullyconv.load_classifier` loads it."""


@dataclass(frozen=True)
class ModelFolder:
    """The model folder of a segmenter on this machine.

    Args:
        path: where it is.
        origin: where it came from, for the record of what is made of it.
    """

    path: Path
    origin: str


class DenseFolder(ModelFolder):
    """The model folder of a converted classifier; only `DenseScorer` can be made of it."""


@dataclass(frozen=True)
class Checkpoint:
    """A Lightning checkpoint on this machine."""

    path: Path


@dataclass(frozen=True)
class Described:
    """What a segmenter is made of.

    Args:
        model: name that `build_model` takes.
        labels: the K classes; for a model of several heads, one for each head by its name.
        preprocessing: what the weights expect.
        tensors: the whole state dict of that model, under its own keys.
        load_report: what became of each tensor of another library's file.
        padding: "paper" for the reference networks.
        upsampling: as `build_model` takes it.
        in_channels: channels C of the images.
        license: of the weights, as their publisher states it.
        score: published or measured figures in percent with ``data``, ``split`` and ``measured_by``; None where none is
            known.
        training: what is known of the training, and where the file came from.
        head_width: as `build_model` takes it, where it is not the preset's own.
        file: the configuration that says so, of a model folder.
        place: where a model folder came from.
    """

    model: str
    labels: Labels | dict[str, Labels]
    preprocessing: Preprocessing
    tensors: Mapping[str, Tensor]
    load_report: LoadReport | None = None
    padding: Literal["same", "paper"] = "same"
    upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear"
    in_channels: int = 3
    license: str = "unstated"
    score: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    head_width: int | None = None
    file: str = ""
    place: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `build_model`, beside the classes."""
        return {name: value for name in pretrained.MODEL_ARGUMENTS if (value := getattr(self, name)) is not None}

    @property
    def origin(self) -> str:
        """Where it came from."""
        return self.place or str(self.training.get("source", self.model))

    @property
    def named(self) -> str:
        """What messages name: its configuration, or where it came from."""
        return self.file or self.origin

    def making(self) -> AbstractContextManager[None]:
        """Turn errors of the block, which makes what is described, into a `WeightsError`."""
        return refusing(f"{self.named}: does not describe a model of this package", *MALFORMED)


Opened = ModelFolder | Checkpoint | Described


def describe(opened: ModelFolder | Described) -> Described:
    """Read a model folder, or take the translated weights of another library.

    Raises:
        WeightsError: if the folder is damaged, no segmenter, or describes a model larger than its file.
    """
    if isinstance(opened, Described):
        return opened
    config, tensors = pretrained.load(opened.path)
    if config.kind != "segmenter":
        raise WeightsError(
            f"{opened.path}: config.json says kind={config.kind!r}, which is no segmenter; fullyconv.load and "
            "DenseScorer.from_pretrained load it"
        )
    file = str(opened.path / pretrained.CONFIG)
    with refusing(f"{file}: does not describe a model of this package", *MALFORMED):
        described = Described(
            labels=from_plain(config.labels),
            preprocessing=Preprocessing.from_dict(config.preprocessing),
            tensors={name: torch.from_numpy(value) for name, value in tensors.items()},
            license=config.license,
            score=config.score,
            training=dict(config.training),
            file=file,
            place=opened.origin,
            **config.model,
        )
    _check_size(described, opened.path)
    return described


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the tensors of a file, ``path``, into a network: all of them, or none.

    Raises:
        WeightsError: if names or shapes differ.
    """
    pretrained.check(network.state_dict(), tensors, Path(path))
    network.load_state_dict(dict(tensors), strict=True)


def counters(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the counters of batches that a file lacks: batch norm has them only since torch 0.4.1.

    Args:
        own: state dict of the network.
        tensors: of the file.
    """
    missing = (key for key in own if key.endswith("num_batches_tracked") and key not in tensors)
    return {key: torch.zeros((), dtype=torch.int64) for key in missing}


def build_described(described: Described) -> nn.Module:
    """Make the model that is described, with its weights, in evaluation mode.

    Raises:
        WeightsError: if it cannot be made, or the weights are not those of the model.
    """
    with described.making():
        model = _model(described).to(memory_format=torch.channels_last)
    fill(model, described.tensors, described.named)
    return model.eval()


def _model(described: Described) -> nn.Module:
    options = dict(described.arguments)
    classes = at_edge({head: labels.num_classes for head, labels in by_head(described.labels).items()})
    model: nn.Module = build_model(options.pop("model"), classes, **options)
    return model


def _check_size(described: Described, folder: Path) -> None:
    """Refuse a configuration whose model has more numbers than the file: it would fill the memory before they differ.

    The kernels of the reference's upsampling grow with the square of the classes, those of a ladder with that of its
    width, and heads add up.
    """
    classes = sum(labels.num_classes for labels in by_head(described.labels).values())
    if classes <= FEW_CLASSES and (described.head_width or 0) <= FEW_CHANNELS:
        return
    try:
        with torch.device("meta"):  # names and shapes alone
            model = _model(described)
    except (ValueError, TypeError, RuntimeError, KeyError):
        return  # whoever builds it says what is wrong
    numbers = sum(value.numel() for value in model.state_dict().values())
    size = (folder / pretrained.WEIGHTS).stat().st_size
    if 2 * numbers > size:  # half precision is the smallest that is stored
        raise WeightsError(
            f"{described.file}: describes a model of {numbers} numbers, {pretrained.WEIGHTS} has {size} bytes; fetch "
            "or save the model folder again"
        )

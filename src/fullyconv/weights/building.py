"""A segmenter from what a source led to: its description, and a model of it that holds the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError
from fullyconv.fcn import build_model
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained
from fullyconv.weights.foreign import ForeignSegmenter
from fullyconv.weights.opening import ModelFolder

FEW_CLASSES = 512  # of all heads together; no model of so few takes much
FEW_CHANNELS = 256  # of a head whose width is an option

M = TypeVar("M")


@dataclass(frozen=True)
class Described:
    """What a segmenter is made of.

    Args:
        arguments: of `build_model`, beside the classes.
        labels: the K classes; of several heads a dict by head.
        preprocessing: what the weights expect.
        tensors: the whole state dict of the model.
        file: that says so, for messages.
        origin: where it came from.
        license: of the weights.
        score: what was measured, in percent.
        training: what is known of the training.
        load_report: what became of each tensor of another library's file.
    """

    arguments: dict[str, Any]
    labels: Labels | dict[str, Labels]
    preprocessing: Preprocessing
    tensors: Mapping[str, Tensor]
    file: Path
    origin: str
    license: str
    score: dict[str, Any] | None
    training: dict[str, Any] = field(default_factory=dict)
    load_report: LoadReport | None = None


def describe(found: ModelFolder | ForeignSegmenter) -> Described:
    """Read a model folder, or take the translated weights of another library.

    Raises:
        WeightsError: if the folder is damaged, no segmenter, or describes a model larger than its file.
    """
    if isinstance(found, ForeignSegmenter):
        origin = str(found.training.get("source", found.model))
        names = ("model", "padding", "upsampling", "in_channels")
        return Described(
            {name: getattr(found, name) for name in names}, found.labels, found.preprocessing, found.tensors,
            Path(origin), origin, found.license, found.score, dict(found.training), found.load_report,
        )  # fmt: skip
    config, tensors = pretrained.load(found.path)
    if config.kind != "segmenter":
        raise WeightsError(
            f"{found.path}: config.json says kind={config.kind!r}, which is no segmenter; fullyconv.load and "
            "DenseScorer.from_pretrained load it"
        )
    _check_size(config, found.path)
    file = found.path / pretrained.CONFIG
    try:
        labels, preprocessing = _labels(config.labels), Preprocessing.from_dict(config.preprocessing)
        arguments = {name: config.model[name] for name in ("model", "padding", "upsampling", "in_channels")}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WeightsError(f"{file}: does not describe a model of this package: {error}") from error
    if "head_width" in config.model:
        arguments["head_width"] = config.model["head_width"]
    return Described(
        arguments, labels, preprocessing, {name: torch.from_numpy(value) for name, value in tensors.items()},
        file, found.origin, config.license, config.score, dict(config.training),
    )  # fmt: skip


def build(described: Described, make: Callable[[], M], model: Callable[[M], nn.Module]) -> M:
    """Make what is described, and fill it with the weights.

    Args:
        described: what `describe` gave.
        make: makes it, with any weights.
        model: finds the model in what was made.

    Raises:
        WeightsError: if it cannot be made, or the weights are not those of the model.
    """
    try:
        made = make()
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WeightsError(f"{described.file}: does not describe a model of this package: {error}") from error
    network = model(made)
    pretrained.check(
        network.state_dict(),
        described.tensors,
        described.file.with_name(pretrained.WEIGHTS) if described.file.name == pretrained.CONFIG else described.file,
    )
    network.load_state_dict(dict(described.tensors), strict=True)
    return made


def build_described(described: Described) -> nn.Module:
    """Make the model that is described, with its weights, in evaluation mode.

    Raises:
        WeightsError: if it cannot be made, or the weights are not those of the model.
    """
    labels, options = described.labels, {k: v for k, v in described.arguments.items() if k != "model"}
    classes = labels.num_classes if isinstance(labels, Labels) else {k: v.num_classes for k, v in labels.items()}

    def make() -> nn.Module:
        return build_model(described.arguments["model"], classes, **options).to(memory_format=torch.channels_last)

    return build(described, make, lambda model: model).eval()


def _labels(entry: Mapping[str, Any]) -> Labels | dict[str, Labels]:
    """Read labels as a configuration holds them, of one head or of several."""
    if "heads" not in entry:
        return Labels.from_dict(entry)
    if len(entry) != 1 or not isinstance(entry["heads"], Mapping):
        raise ValueError("labels must hold 'heads', an object of labels by name, and nothing else")
    return {name: Labels.from_dict(labels) for name, labels in entry["heads"].items()}


def _check_size(config: pretrained.Config, folder: Path) -> None:
    """Refuse a configuration whose model has more numbers than the file: it would fill the memory before they differ.

    The kernels of the reference's upsampling grow with the square of the classes, those of a ladder with that of its
    width, and heads add up.
    """
    heads = config.labels.get("heads")
    groups = heads if isinstance(heads, dict) else {"": config.labels}
    counts = {name: len(entry["names"]) for name, entry in groups.items()}
    width = config.model.get("head_width")
    narrow = not isinstance(width, int) or width <= FEW_CHANNELS
    if sum(counts.values()) <= FEW_CLASSES and narrow:
        return
    try:
        with torch.device("meta"):  # names and shapes alone
            options = {key: value for key, value in config.model.items() if key != "model"}
            model = build_model(config.model["model"], counts if heads else counts[""], **options)
    except (ValueError, TypeError, RuntimeError, KeyError):
        return  # whoever builds it says what is wrong
    numbers = sum(value.numel() for value in model.state_dict().values())
    size = (folder / pretrained.WEIGHTS).stat().st_size if (folder / pretrained.WEIGHTS).is_file() else 0
    if 2 * numbers > size:  # half precision is the smallest that is stored
        raise WeightsError(
            f"{folder / pretrained.CONFIG}: describes a model of {numbers} numbers, {pretrained.WEIGHTS} has {size} "
            "bytes; fetch or save the model folder again"
        )

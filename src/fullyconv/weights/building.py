"""A segmenter from what a source led to: its description, and a model of it that holds the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from fullyconv.errors import WeightsError
from fullyconv.fcn import build_model
from fullyconv.labels import at_edge, by_head, from_plain
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained
from fullyconv.weights.described import Described
from fullyconv.weights.opening import ModelFolder

FEW_CLASSES = 512  # of all heads together; no model of so few takes much
FEW_CHANNELS = 256  # of a head whose width is an option

M = TypeVar("M")


def describe(found: ModelFolder | Described) -> Described:
    """Read a model folder, or take the translated weights of another library.

    Raises:
        WeightsError: if the folder is damaged, no segmenter, or describes a model larger than its file.
    """
    if isinstance(found, Described):
        return found
    config, tensors = pretrained.load(found.path)
    if config.kind != "segmenter":
        raise WeightsError(
            f"{found.path}: config.json says kind={config.kind!r}, which is no segmenter; fullyconv.load and "
            "DenseScorer.from_pretrained load it"
        )
    _check_size(config, found.path)
    file = str(found.path / pretrained.CONFIG)
    try:
        return Described(
            labels=from_plain(config.labels),
            preprocessing=Preprocessing.from_dict(config.preprocessing),
            tensors={name: torch.from_numpy(value) for name, value in tensors.items()},
            license=config.license,
            score=config.score,
            training=dict(config.training),
            file=file,
            place=found.origin,
            **config.model,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WeightsError(f"{file}: does not describe a model of this package: {error}") from error


def build(described: Described, make: Callable[[], M], model: Callable[[M], nn.Module]) -> M:
    """Make what is described, and fill it with the weights.

    Args:
        described: what `describe` gave.
        make: makes it, with any weights.
        model: finds the model in what was made.

    Raises:
        WeightsError: if it cannot be made, or the weights are not those of the model.
    """
    file = described.file or described.origin
    try:
        made = make()
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WeightsError(f"{file}: does not describe a model of this package: {error}") from error
    network = model(made)
    pretrained.check(network.state_dict(), described.tensors, Path(file))
    network.load_state_dict(dict(described.tensors), strict=True)
    return made


def build_described(described: Described) -> nn.Module:
    """Make the model that is described, with its weights, in evaluation mode.

    Raises:
        WeightsError: if it cannot be made, or the weights are not those of the model.
    """
    options = dict(described.arguments)
    name = options.pop("model")
    classes = at_edge({head: labels.num_classes for head, labels in by_head(described.labels).items()})

    def make() -> nn.Module:
        model: nn.Module = build_model(name, classes, **options).to(memory_format=torch.channels_last)
        return model

    return build(described, make, lambda model: model).eval()


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

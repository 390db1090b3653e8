"""Classifier weights of any origin into a backbone: tensors, what they expect of an image, and a load report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fullyconv.backbones import BACKBONES, Backbone, LoadReport
from fullyconv.errors import WeightsError, tell
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights.checkpoints import canonical, fitting, recognize, translate
from fullyconv.weights.expectations import preprocessing_of


@dataclass(frozen=True)
class ClassifierWeights:
    """Weights of a classifier, with all that is known of them.

    Args:
        tensors: by the names of torchvision, timm, Caffe or this package.
        preprocessing: what they expect of an image; None where nobody says so.
        architecture: what the publisher calls the network, as `build_classifier` takes it ("torchvision/vgg16"); None
            where nobody says so.
        source: where they came from, for messages.
        license: as the publisher states it; None where nobody does.
        absent: prefixes of the layers that they are known to lack, by the classifier's keys.
        beside: names of tensors in the file that are none of the network's.
        classes: the K class names; None where they are not known.
        input_size: height and width it classifies at, in pixels; None where it is not known.
        sha256: of the file.
        training: what is known of the training.
        score: what was measured, in percent.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    architecture: str | None = None
    source: str = "state_dict"
    license: str | None = None
    absent: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    sha256: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] | None = None


def numbered(count: int, what: str) -> tuple[str, ...]:
    """Number the classes of a file, ``what``, that says nothing of them."""
    tell(f"{what}: says nothing of its classes; they are called 'class 0' to 'class {count - 1}'")
    return tuple(f"class {index}" for index in range(count))


def apply(backbone: Backbone, weights: ClassifierWeights) -> LoadReport:
    """Load weights into a backbone, whoever named their tensors. Either everything fits or nothing is changed.

    The backbone then knows its `load_report`, and as `preprocessing` what the weights expect, for its own number of
    channels. Where nobody said what they expect, the names tell (Caffe's do) or
    timm's own numbers of a network of timm; else it is None.

    Args:
        backbone: of this package.
        weights: what to load.

    Returns:
        What became of each tensor, by the names of the file.

    Raises:
        WeightsError: if too little fits; it says whose names the file has, and which backbone it fits.

    Example:
        >>> from fullyconv.backbones.resnet import narrow_classifier, resnet
        >>> weights = ClassifierWeights(narrow_classifier("resnet18_half", num_classes=10).state_dict())
        >>> apply(resnet("resnet18_half"), weights).unused
        ('fc.weight', 'fc.bias')
    """
    try:
        translation = translate(backbone.name, weights.tensors, weights.architecture)
        loaded = backbone.load_classifier(translation.tensors, absent=weights.absent)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error}{_hint(backbone.name, weights.tensors)}") from error
    origin, changed = translation.origin, set(translation.adapted)
    copied = [origin[key] for key in loaded.copied]
    load_report = LoadReport(
        copied=tuple(key for key in copied if key not in changed),
        reshaped=tuple(origin[key] for key in loaded.reshaped),
        adapted=(*(origin[key] for key in loaded.adapted), *(key for key in copied if key in changed)),
        reinitialized=loaded.reinitialized,
        unused=(*(origin[key] for key in loaded.unused), *translation.unused, *weights.beside),
    )
    expected = weights.preprocessing or preprocessing_of(backbone.name, weights.tensors)
    backbone.load_report = load_report
    backbone.preprocessing = None if expected is None else expected.for_channels(backbone.in_channels)
    return load_report


def _hint(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Say what the file looks like, for someone whose backbone it does not fit."""
    scheme = recognize(tensors)
    others = [other for other in fitting(tensors) if canonical(other) != canonical(name)]
    fits = f", and looks like {' or '.join(others)}: build that backbone" if others else ""
    if scheme.naming == "unknown":
        known = ", ".join(BACKBONES)
        return f" The file has {scheme}; known are those of torchvision, timm and Caffe, for {known} and timm/NAME."
    return f" The file has {scheme}{fits}."

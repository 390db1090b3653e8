"""Classifier weights of any origin into a backbone: tensors, what they expect of an image, and a load report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from fullyconv.backbones import BACKBONES, Backbone, LoadReport
from fullyconv.errors import WeightsError
from fullyconv.preprocessing import CAFFE, Preprocessing
from fullyconv.weights.architectures import preprocessing_of
from fullyconv.weights.checkpoints import Scheme, canonical, fitting, recognize, translate
from fullyconv.weights.statedict import read_state_dict

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What torchvision's GoogLeNet makes of ImageNet's normalization by its ``transform_input``: -1..1."""

CAFFE_VGG = Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, "bgr")
"""Bytes in the order blue, green, red minus the mean that Simonyan and Zisserman publish with their weights."""

MAX_CHANNELS = 1024


@dataclass(frozen=True)
class ClassifierWeights:
    """Weights of a classifier, with all that is known of them.

    Args:
        tensors: by the names of torchvision, timm, Caffe or this package.
        preprocessing: what they expect of an image; None where nobody says so.
        architecture: what the publisher calls the network; None where nobody says so.
        source: where they came from, for messages.
        license: as the publisher states it; None where nobody does.
        absent: prefixes of the layers that they are known to lack, by the classifier's keys.
        beside: names of tensors in the file that are none of the network's.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    architecture: str | None = None
    source: str = "state_dict"
    license: str | None = None
    absent: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


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
    expected = weights.preprocessing or preprocessing_from_names(translation.scheme) or preprocessing_of(backbone.name)
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


# ---- what weights expect of an image -------------------------------------------------------------------------------


def preprocessing_from_torchvision(weights: WeightsEnum) -> Preprocessing:
    """Give what weights published by torchvision expect of an image.

    Args:
        weights: a member of an enum, as ``torchvision.models.VGG16_Weights.IMAGENET1K_V1``.

    Returns:
        Mean and deviation of its transforms; GoogLeNet's and Inception's, whose classifiers shift the image once more
        before they look at it, are those of -1..1.

    Raises:
        WeightsError: if its transforms do not say.

    Example:
        >>> from torchvision.models import GoogLeNet_Weights
        >>> preprocessing_from_torchvision(GoogLeNet_Weights.IMAGENET1K_V1).mean
        (0.5, 0.5, 0.5)
    """
    if type(weights).__name__ in ("GoogLeNet_Weights", "Inception_V3_Weights"):
        return INCEPTION
    transforms = cast(Any, weights.transforms())
    try:
        return Preprocessing(tuple(transforms.mean), tuple(transforms.std))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights}: its transforms have no mean and std of a classifier ({error}); take weights of a classifier"
        ) from error


def preprocessing_from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Give what weights published for timm expect of an image.

    Args:
        config: the ``config.json`` of the repository: mean and std stand in ``pretrained_cfg``, or at the top in old
            ones.

    Returns:
        Mean and deviation in 0..1.

    Raises:
        WeightsError: if they are missing, or no plain numbers in their range.

    Example:
        >>> preprocessing_from_timm({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}).std
        (0.5, 0.5, 0.5)
    """
    entry = _pretrained_cfg(config)
    numbers: dict[str, tuple[float, ...]] = {}
    for name in ("mean", "std"):
        value = entry.get(name)
        if (
            not isinstance(value, list | tuple)
            or not 1 <= len(value) <= MAX_CHANNELS
            or not all(map(_is_number, value))
        ):
            raise WeightsError(
                f"config.json: {name}={_shown(value)}: must be a list of one number a channel; fetch the repository "
                "again, or pass preprocessing yourself"
            )
        numbers[name] = tuple(float(number) for number in value)
    try:
        return Preprocessing(numbers["mean"], numbers["std"])
    except ValueError as error:
        raise WeightsError(f"config.json: {error}") from error


def preprocessing_from_names(scheme: Scheme) -> Preprocessing | None:
    """Give what weights expect of an image, where their names alone tell: Caffe's classifiers see bytes in BGR."""
    if scheme.naming != "caffe":
        return None
    return CAFFE_VGG if scheme.family == "vgg" else CAFFE


def _pretrained_cfg(config: object) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise WeightsError(f"config.json: is a {type(config).__name__}, not an object; fetch the repository again")
    entry = config.get("pretrained_cfg", config)
    if not isinstance(entry, Mapping):
        raise WeightsError(
            f"config.json: pretrained_cfg={_shown(entry)}: must be an object; fetch the repository again"
        )
    return entry


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6 and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)[:100]
    return "".join(sign if sign.isprintable() else " " for sign in text)


# ---- a file with what is known of it -------------------------------------------------------------------------------


def torchvision_weights(weights: WeightsEnum, path: str | Path, source: str | None = None) -> ClassifierWeights:
    """Read the file of weights that torchvision publishes.

    Args:
        weights: the member of the enum.
        path: the file that was downloaded for it.
        source: where it came from, for messages; the name of the member by default.

    Returns:
        The weights. Those named ``IMAGENET1K_FEATURES`` were published without a usable fc6, fc7 and score layer, which
        therefore start anew.

    Raises:
        WeightsError: if the file is not what it should be.
    """
    from torchvision.models import get_model_weights, list_models

    names = [name for name in list_models() if get_model_weights(name) is type(weights)]
    absent = ("classifier.",) if weights.name.endswith("_FEATURES") else ()
    license = weights.meta.get("license")
    return ClassifierWeights(
        read_state_dict(path, without=absent).tensors,
        preprocessing_from_torchvision(weights),
        names[0] if len(names) == 1 else None,
        source or str(weights),
        str(license) if license else None,
        absent,
    )

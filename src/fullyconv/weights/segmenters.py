"""torchvision's segmenters under our names: key tables, and what torchvision states about the weights it publishes.

torchvision's own model, built without weights, says which tensors a file must hold. Their names are mapped by prefix:

| torchvision | here |
|---|---|
| ``backbone.`` | ``backbone.``, with ``features.`` behind it for MobileNetV3: the classifier's own keys |
| ``classifier.`` | ``head.``; the layers that score are ``head.score.STRIDE`` |
| ``aux_classifier.`` | nothing: it served the training only |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError, near_miss, some
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights.catalog import LICENSE_COCO
from fullyconv.weights.foreign import ForeignSegmenter

_FCN = {"0.": "conv.", "1.": "norm.", "4.": "score.8."}
_DEEPLABV3 = {"0.": "aspp.", "1.": "conv.", "2.": "norm.", "4.": "score.8."}
_LRASPP = {
    "cbr.0.": "conv.",
    "cbr.1.": "norm.",
    "scale.": "gate.",
    "high_classifier.": "score.16.",
    "low_classifier.": "score.8.",
}

# name: (prefix of the backbone, prefixes of the classifier)
SEGMENTERS: dict[str, tuple[str, dict[str, str]]] = {
    "fcn_resnet50": ("backbone.", _FCN),
    "fcn_resnet101": ("backbone.", _FCN),
    "deeplabv3_resnet50": ("backbone.", _DEEPLABV3),
    "deeplabv3_resnet101": ("backbone.", _DEEPLABV3),
    "deeplabv3_mobilenet_v3_large": ("backbone.features.", {**_DEEPLABV3, "4.": "score.16."}),
    "lraspp_mobilenet_v3_large": ("backbone.features.", _LRASPP),
}

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Published:
    """What torchvision states about weights that it publishes.

    Args:
        member: name of the weights, such as "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1".
        url: where the file lies; its name ends in the first eight digits of its sha256.
        labels: the 21 classes of PASCAL VOC.
        preprocessing: mean and deviation, and the shorter side that images are scaled to.
        score: mIoU and pixel accuracy in percent, on which data, and that the publisher measured it.
        training: where the weights come from and what they were trained on.
        license: of the weights, as far as it is stated.
    """

    member: str
    url: str
    labels: Labels
    preprocessing: Preprocessing
    score: dict[str, Any]
    training: dict[str, Any]
    license: str = LICENSE_COCO


def published(name: str) -> Published:
    """Read from the installed torchvision what it states about the weights of one of its segmenters.

    Args:
        name: a key of `SEGMENTERS`.

    Returns:
        The statement; nothing is downloaded.

    Raises:
        ValueError: if the name is unknown; a near miss is offered.

    Example:
        >>> published("fcn_resnet50").score["mean_iou"]
        60.5
    """
    _check_name(name)
    weights = torchvision.models.get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"]
    transforms = weights.transforms()
    (short_side,) = transforms.resize_size
    ((data, metrics),) = weights.meta["_metrics"].items()
    return Published(
        member=str(weights),
        url=weights.url,
        labels=Labels.of([category.strip("_") for category in weights.meta["categories"]]),  # "__background__"
        preprocessing=Preprocessing(tuple(transforms.mean), tuple(transforms.std), short_side=int(short_side)),
        score={
            "data": data,
            "split": "val",
            "mean_iou": float(metrics["miou"]),
            "pixel_accuracy": float(metrics["pixel_acc"]),
            "measured_by": "publisher",
        },
        training={
            "source": f"torchvision, {weights}",
            "url": weights.url,
            "data": "a subset of COCO, labeled with the 20 categories of PASCAL VOC and background",
            "recipe of the publisher": weights.meta["recipe"],
        },
    )


def names_of(name: str) -> dict[str, Tensor]:
    """Give tensors without data by torchvision's names, to find the segmenter in a checkpoint.

    Raises:
        ValueError: if the name is unknown; a near miss is offered.
    """
    _check_name(name)
    return _model(name, 21, auxiliary=True).state_dict()


def count_classes(name: str, state_dict: Mapping[str, Tensor]) -> int | None:
    """Read the number of classes off the layer that scores; None where there is none."""
    _, layers = SEGMENTERS[name]
    scores = (f"classifier.{theirs}weight" for theirs, ours in layers.items() if ours.startswith("score."))
    return next((int(state_dict[key].shape[0]) for key in scores if key in state_dict and state_dict[key].ndim), None)


def torchvision_segmenter(
    name: str, state_dict: Mapping[str, Tensor], *, labels: Labels | None = None
) -> ForeignSegmenter:
    """Translate a state dict of one of torchvision's segmenters.

    Either every tensor has its place or nothing is taken. The scores are stretched over the image, as torchvision does.

    Args:
        name: a key of `SEGMENTERS`: name of torchvision's builder, and of our preset.
        state_dict: what ``torchvision.models.segmentation.NAME(...).state_dict()`` returns, with or without its
            auxiliary classifier; by default that of the published weights.
        labels: classes of weights that you trained yourself. The published score, license and origin are then not
            claimed, and images are not scaled.

    Returns:
        The segmenter under our names. The auxiliary classifier stands in the load report as unused.

    Raises:
        ValueError: if the name is unknown; a near miss is offered.
        WeightsError: if tensors are missing, unknown or of another shape; the message names them.
    """
    facts = published(name)
    _check_entries(state_dict)
    wanted = _wanted(name, facts.labels.num_classes if labels is None else labels.num_classes, state_dict)
    _check(name, state_dict, wanted, own=labels is not None)
    tensors: dict[str, Tensor] = {}
    reinitialized: list[str] = []
    for key in wanted:
        target = _own_key(name, key)
        if target is not None and key in state_dict:
            tensors[target] = state_dict[key]
        elif target is not None:
            tensors[target] = torch.zeros((), dtype=torch.int64)
            reinitialized.append(target)
    unused = tuple(key for key in state_dict if _own_key(name, key) is None)
    load_report = LoadReport(
        copied=tuple(key for key in state_dict if key not in unused),
        reinitialized=tuple(reinitialized),
        unused=unused,
    )
    if labels is not None:
        preprocessing = Preprocessing(facts.preprocessing.mean, facts.preprocessing.std)
        return ForeignSegmenter(name, labels, preprocessing, tensors, load_report, upsampling="stretch")
    return ForeignSegmenter(
        name,
        facts.labels,
        facts.preprocessing,
        tensors,
        load_report,
        upsampling="stretch",
        license=facts.license,
        score=facts.score,
        training=facts.training,
    )


def _wanted(name: str, num_classes: int, state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Ask torchvision's own model for the names and shapes of its tensors."""
    auxiliary = any(key.startswith("aux_classifier.") for key in state_dict)
    return {key: tuple(value.shape) for key, value in _model(name, num_classes, auxiliary).state_dict().items()}


def _model(name: str, num_classes: int, auxiliary: bool) -> nn.Module:
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    with torch.device("meta"):
        # weights_backbone=None, because torchvision downloads a backbone otherwise
        model: nn.Module = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=num_classes, **options
        )
    return model


def _own_key(name: str, key: str) -> str | None:
    """Give our name of a tensor of torchvision's model; None for the auxiliary classifier."""
    backbone, classifier = SEGMENTERS[name]
    if key.startswith("backbone."):
        return backbone + key.removeprefix("backbone.")
    if key.startswith("aux_classifier."):
        return None
    rest = key.removeprefix("classifier.")
    (prefix,) = (prefix for prefix in classifier if rest.startswith(prefix))
    return f"head.{classifier[prefix]}{rest.removeprefix(prefix)}"


def _check_name(name: str) -> None:
    if name not in SEGMENTERS:
        raise ValueError(f"name={name!r} is not a segmenter of torchvision. {near_miss(name, SEGMENTERS)}")


def _check_entries(state_dict: Mapping[str, Tensor]) -> None:
    stray = [str(key) for key, value in state_dict.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if stray:
        raise WeightsError(
            f"state_dict holds what is no tensor with a name: {some(stray)}. Pass the state dict itself; a checkpoint "
            "of torchvision's training script keeps it under 'model'."
        )


def _check(name: str, state_dict: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], *, own: bool) -> None:
    """Refuse a state dict that is not wholly that of the model."""
    faults = {
        # batch norm counts its batches only since torch 0.4.1; older files are complete without the counter
        "missing": [key for key in wanted if key not in state_dict and not key.endswith(_COUNTER)],
        "unknown": [key for key in state_dict if key not in wanted],
        "of another shape": [
            f"{key} {tuple(value.shape)} for {wanted[key]}"
            for key, value in state_dict.items()
            if key in wanted and tuple(value.shape) != wanted[key]
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {fault}: {some(keys)}" for fault, keys in faults.items() if keys)
        other = "" if own else ", with labels=Labels.of(NAMES) if its classes are not the 21 of PASCAL VOC"
        raise WeightsError(
            f"state_dict does not fit model={name!r}, nothing was taken: {listed}. "
            f"Pass the state_dict of torchvision.models.segmentation.{name}(){other}."
        )

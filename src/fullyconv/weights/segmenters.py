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
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained
from fullyconv.weights.described import Described

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

LICENSE_COCO = "not stated by torchvision, whose code is BSD-3-Clause; the terms of COCO may bind"

_FCN = {"0.": "conv.", "1.": "norm.", "4.": "score.8."}
_DEEPLABV3 = {"0.": "aspp.", "1.": "conv.", "2.": "norm.", "4.": "score.8."}
_LRASPP = {"cbr.0.": "conv.", "cbr.1.": "norm.", "scale.": "gate."}
_LRASPP |= {"high_classifier.": "score.16.", "low_classifier.": "score.8."}

# name: (prefix of the backbone, prefixes of the classifier)
SEGMENTERS: dict[str, tuple[str, dict[str, str]]] = {
    "fcn_resnet50": ("backbone.", _FCN),
    "fcn_resnet101": ("backbone.", _FCN),
    "deeplabv3_resnet50": ("backbone.", _DEEPLABV3),
    "deeplabv3_resnet101": ("backbone.", _DEEPLABV3),
    "deeplabv3_mobilenet_v3_large": ("backbone.features.", {**_DEEPLABV3, "4.": "score.16."}),
    "lraspp_mobilenet_v3_large": ("backbone.features.", _LRASPP),
}


def published(name: str) -> WeightsEnum:
    """Give the weights that the installed torchvision publishes of one of its segmenters; nothing is downloaded.

    Args:
        name: a key of `SEGMENTERS`.
    """
    weights: WeightsEnum = torchvision.models.get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"]
    return weights


def names_of(name: str) -> dict[str, Tensor]:
    """Give tensors without data by torchvision's names, to find the segmenter in a checkpoint."""
    return _model(name, 21, auxiliary=True).state_dict()


def count_classes(name: str, state_dict: Mapping[str, Tensor]) -> int | None:
    """Read the number of classes off the layer that scores; None where there is none."""
    _, layers = SEGMENTERS[name]
    scores = (f"classifier.{theirs}weight" for theirs, ours in layers.items() if ours.startswith("score."))
    return next((int(state_dict[key].shape[0]) for key in scores if key in state_dict and state_dict[key].ndim), None)


def torchvision_segmenter(
    name: str, state_dict: Mapping[str, Tensor], *, labels: Labels | None = None, beside: tuple[str, ...] = ()
) -> Described:
    """Translate a state dict of one of torchvision's segmenters.

    Either every tensor has its place or nothing is taken. The scores are stretched over the image, as torchvision does.

    Args:
        name: a key of `SEGMENTERS`: name of torchvision's builder, and of our preset.
        state_dict: what ``torchvision.models.segmentation.NAME(...).state_dict()`` returns, with or without its
            auxiliary classifier; by default that of the published weights.
        labels: classes of weights that you trained yourself. The published score, license and origin are then not
            claimed, and images are not scaled.
        beside: names of what else the file holds, for the load report.

    Returns:
        The segmenter under our names. The auxiliary classifier stands in the load report as unused.

    Raises:
        WeightsError: if tensors are missing, unknown or of another shape; the message names them.
    """
    auxiliary = any(key.startswith("aux_classifier.") for key in state_dict)
    wanted = _model(name, 21 if labels is None else labels.num_classes, auxiliary).state_dict()
    # batch norm counts its batches only since torch 0.4.1; older files are complete without the counter
    missing = [key for key in wanted if key.endswith("num_batches_tracked") and key not in state_dict]
    whole = {**state_dict, **{key: torch.zeros((), dtype=torch.int64) for key in missing}}
    if differing := pretrained.misfits(wanted, whole):
        other = "" if labels else ", with labels=Labels.of(NAMES) if its classes are not the 21 of PASCAL VOC"
        raise WeightsError(
            f"state_dict does not fit model={name!r}, nothing was taken: {differing}. "
            f"Pass the state_dict of torchvision.models.segmentation.{name}(){other}."
        )
    places = {key: _own_key(name, key) for key in wanted}
    tensors = {place: whole[key] for key, place in places.items() if place}
    load_report = LoadReport(
        copied=tuple(key for key in state_dict if places[key]),
        reinitialized=tuple(places[key] for key in missing if places[key]),
        unused=(*(key for key in state_dict if not places[key]), *beside),
    )
    weights = published(name)
    transforms: Any = weights.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if labels is not None:
        return Described(name, labels, Preprocessing(mean, std), tensors, load_report, upsampling="stretch")
    ((data, metrics),) = weights.meta["_metrics"].items()
    (short_side,) = transforms.resize_size
    return Described(
        name,
        Labels.of([category.strip("_") for category in weights.meta["categories"]]),  # "__background__"
        Preprocessing(mean, std, short_side=int(short_side)),
        tensors,
        load_report,
        upsampling="stretch",
        license=LICENSE_COCO,
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


def _model(name: str, num_classes: int, auxiliary: bool) -> nn.Module:
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    with torch.device("meta"):
        # weights_backbone=None, because torchvision downloads a backbone otherwise
        model: nn.Module = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=num_classes, **options
        )
    return model


def _own_key(name: str, key: str) -> str:
    """Give our name of a tensor of torchvision's model; "" for the auxiliary classifier."""
    backbone, classifier = SEGMENTERS[name]
    if key.startswith("backbone."):
        return backbone + key.removeprefix("backbone.")
    if key.startswith("aux_classifier."):
        return ""
    rest = key.removeprefix("classifier.")
    (prefix,) = (prefix for prefix in classifier if rest.startswith(prefix))
    return f"head.{classifier[prefix]}{rest.removeprefix(prefix)}"

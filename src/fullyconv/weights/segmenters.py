"""Segmenters from any source: a model folder, a checkpoint, or weights of others translated to our names.

Of torchvision's segmenters, torchvision's own model, built without weights, says which tensors a file must hold. Their
names are mapped by prefix:

| torchvision | here |
|---|---|
| ``backbone.`` | ``backbone.``, with ``features.`` behind it for MobileNetV3: the classifier's own keys |
| ``classifier.`` | ``head.``; the layers that score are ``head.score.STRIDE`` |
| ``aux_classifier.`` | nothing: it served the training only |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError, near_miss, refusing, tell
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained, sources
from fullyconv.weights.caffe import caffe_segmenter
from fullyconv.weights.classifiers import imagenet_for, numbered
from fullyconv.weights.described import Checkpoint, DenseFolder, Described, ModelFolder, NoSegmenter, Opened, counters
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.translation import scheme_of
from fullyconv.weights.within import find

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

LIBRARIES = {
    "segmentation_models.pytorch": r"(?:^|\.)segmentation_head\.\d",
    "mmsegmentation": r"(?:^|\.)decode_head\.conv_seg\.",
    "transformers": r"(?:^|\.)decode_head\.(?:classifier|linear_c)\b",
}
"""Segmenters of other libraries -> a name that their files alone hold."""


def fetch_segmenter(source: str | Path, allow_unverified: bool = False) -> Opened:
    """Fetch and verify what a source leads to.

    Args:
        source: as `sources.read` takes it.
        allow_unverified: accept weights without a known digest; commit, size and sha256 are shown and recorded.

    Raises:
        FileNotFoundError: if a path does not exist.
        NoSegmenter: if it is a classifier.
        WeightsError: if it is damaged, or not what was promised.
        DownloadError: if the download fails.
    """
    place = sources.read(source)
    if place.entry is not None and not place.entry.free:
        name = (*place.entry.aliases, place.entry.name)[0]
        tell(f"{name}: not for every use; license of the weights: {place.entry.license}")
    if place.is_folder or (place.kind == "hub" and place.file == pretrained.WEIGHTS):
        return _model_folder(place, allow_unverified)
    if place.entry is not None and place.entry.kind == "classifier":
        raise NoSegmenter(_is_classifier(place.entry.name))
    if place.kind == "torchvision":
        return _torchvision(place)
    return _file(place, allow_unverified)


def fetch_segmenter_as(
    source: str | Path,
    architecture: str,
    labels: Labels | None = None,
    preprocessing: Preprocessing | None = None,
    allow_unverified: bool = False,
) -> Described:
    """Fetch, verify and translate weights that do not say which model they are of: those of a torchvision segmenter.

    Args:
        source: as `sources.read` takes it, of a single file.
        architecture: name of torchvision's builder.
        labels: the classes that it was trained on, in their order; None numbers them.
        preprocessing: what it was trained on; None assumes ImageNet's mean and deviation, as torchvision's own.
        allow_unverified: as `fetch_segmenter` takes it.

    Raises:
        ValueError: if the name is unknown, the source says by itself what it is, or the classes are too few or many.
        WeightsError: if the weights are damaged, or of another model.
        DownloadError: if the download fails.
    """
    place = sources.read(source)
    if architecture not in SEGMENTERS:
        raise ValueError(
            f"architecture={architecture!r}: no segmenter of torchvision. {near_miss(architecture, SEGMENTERS)} "
            "load_classifier(...) takes the architectures of classifiers"
        )
    if place.says_what_it_is:
        raise ValueError(
            f"architecture={architecture!r}: is for a single file that does not say what it is; leave it out, or name "
            f"the file in {place.address}"
        )
    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    what = fetched.path.name if place.kind == "file" else fetched.origin  # where it lay is nobody's business
    state = read_state_dict(fetched.path, like=_model(architecture, 21, auxiliary=True).state_dict())
    count = _classes_of(architecture, state.tensors)
    if labels is None and count:
        labels = Labels.of(numbered(count, what))
    if labels is not None and count is not None and labels.num_classes != count:
        raise ValueError(
            f"classes: {labels.num_classes} names, but {what} scores {count} classes; name those that it was trained "
            "on, in their order. with_classes(...) of the result exchanges them"
        )
    preprocessing = preprocessing or imagenet_for(what)
    with refusing(fetched.path, WeightsError):
        foreign = torchvision_segmenter(architecture, state.tensors, labels=labels, beside=state.beside)
    if state.beside:
        tell(f"{what}: not of the network, and unused: {', '.join(state.beside)}")
    record = {"source": what, "sha256": fetched.digest.sha256}
    return replace(foreign, preprocessing=preprocessing, training=record)


def _is_classifier(what: str) -> str:
    return (
        f"{what}: holds a classifier, not a segmenter: fullyconv.load_classifier loads it, and "
        "load_classifier(...).convolutionalize() makes a dense network of it; load_backbone(NAME, weights=...) and "
        "SegmentationModule(MODEL, backbone_weights=...) start a segmenter from it"
    )


def _model_folder(place: sources.Source, allow_unverified: bool) -> ModelFolder:
    def check(document: Mapping[str, Any]) -> None:
        if document.get("kind") == "classifier" or pretrained.is_of_timm(document):
            raise NoSegmenter(_is_classifier(place.address))

    weights = sources.fetch_folder(place, check, allow_unverified=allow_unverified)
    folder = weights.path.parent
    origin = folder.resolve().name if weights.commit is None else f"{place.repo}@{weights.commit}"
    return (ModelFolder if pretrained.read_config(folder).kind == "segmenter" else DenseFolder)(folder, origin)


def _torchvision(place: sources.Source) -> Described:
    member = sources.torchvision_member(place)
    names = {published(name): name for name in SEGMENTERS}
    if member not in names:
        raise NoSegmenter(_is_classifier(place.address))
    fetched = sources.fetch(place)
    foreign = torchvision_segmenter(names[member], read_state_dict(fetched.path).tensors)
    foreign.training["sha256"] = fetched.digest.sha256
    return foreign


def _file(place: sources.Source, allow_unverified: bool) -> Checkpoint | Described:
    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    suffix = fetched.path.suffix.lower()
    if suffix == ".ckpt":
        return Checkpoint(fetched.path)
    if suffix != ".caffemodel":
        if (fetched.path.parent / pretrained.CONFIG).is_file():
            raise WeightsError(f"{fetched.path}: is part of a model folder; pass its folder, {fetched.path.parent}/")
        raise WeightsError(f"{fetched.path}: {stranger(fetched.path)}")
    foreign = caffe_segmenter(fetched.path)
    foreign.training.update({"source": fetched.origin, "sha256": fetched.digest.sha256})
    entry = place.entry
    if entry is None:
        return foreign
    measured = {"data": entry.data, "split": entry.split, "mean_iou": entry.mean_iou, "measured_by": entry.measured_by}
    return replace(foreign, license=entry.license, score=foreign.score if entry.mean_iou is None else measured)


def stranger(path: Path) -> str:
    """Say whose a weight file is that does not say so, and what can be done with it.

    Args:
        path: a weight file or a checkpoint.

    Raises:
        WeightsError: if it cannot be read.
    """
    tensors = read_state_dict(path, whole=True).tensors
    for library, name in LIBRARIES.items():
        if any(re.search(name, key) for key in tensors):
            return (
                f"it is of {library}, whose decoders this package does not have: use it there. Where its encoder is "
                "one of the backbones here, load_backbone(NAME, weights=FILE) takes that"
            )
    if scheme_of(find(tensors)).naming == "fullyconv":
        return (
            "it holds the tensors of a model of this package, but not which one: load them into the module that you "
            "saved them from, and write that with save_pretrained(FOLDER), which keeps model and classes"
        )
    return (
        "does not say which model it belongs to; if it is of a segmenter of torchvision, pass architecture= "
        f"({', '.join(SEGMENTERS)}) and the names of its classes in their order, classes= (fullyconv convert FILE "
        "--architecture NAME --classes a,b,c --to FOLDER makes a model folder of it); if it is of a classifier, "
        "load_classifier loads it, load_backbone(NAME, weights=...) and SegmentationModule(MODEL, "
        "backbone_weights=...) start a segmenter from it"
    )


def published(name: str) -> WeightsEnum:
    """Give the weights that the installed torchvision publishes of one of its segmenters; nothing is downloaded.

    Args:
        name: a key of `SEGMENTERS`.
    """
    import torchvision  # which takes long

    weights: WeightsEnum = torchvision.models.get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"]
    return weights


def _classes_of(name: str, state_dict: Mapping[str, Tensor]) -> int | None:
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
    missing = counters(wanted, state_dict)
    whole = {**state_dict, **missing}
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
    preprocessing = Preprocessing(tuple(transforms.mean), tuple(transforms.std))
    if labels is not None:
        return Described(name, labels, preprocessing, tensors, load_report, upsampling="stretch")
    labels = Labels.of([category.strip("_") for category in weights.meta["categories"]])  # "__background__"
    (short_side,) = transforms.resize_size
    preprocessing = replace(preprocessing, short_side=int(short_side))
    ((data, metrics),) = weights.meta["_metrics"].items()
    score = {"data": data, "split": "val", "mean_iou": float(metrics["miou"])}
    score |= {"pixel_accuracy": float(metrics["pixel_acc"]), "measured_by": "publisher"}
    record = {
        "source": f"torchvision, {weights}",
        "url": weights.url,
        "data": "a subset of COCO, labeled with the 20 categories of PASCAL VOC and background",
        "recipe of the publisher": weights.meta["recipe"],
    }
    return Described(
        name, labels, preprocessing, tensors, load_report,
        upsampling="stretch", license=LICENSE_COCO, score=score, training=record,
    )  # fmt: skip


def _model(name: str, num_classes: int, auxiliary: bool) -> nn.Module:
    import torchvision

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

"""What a string that means a segmenter leads to: a verified model folder, a checkpoint, or translated weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullyconv.errors import WeightsError, near_miss, tell
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import pretrained, sources
from fullyconv.weights.caffe import caffe_segmenter
from fullyconv.weights.checkpoints import recognize
from fullyconv.weights.described import Checkpoint, Described, ModelFolder, NoSegmenter, Opened
from fullyconv.weights.loading import numbered
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.within import find

LIBRARIES = {
    "segmentation_models.pytorch": r"(?:^|\.)segmentation_head\.\d",
    "mmsegmentation": r"(?:^|\.)decode_head\.conv_seg\.",
    "transformers": r"(?:^|\.)decode_head\.(?:classifier|linear_c)\b",
}
"""Segmenters of other libraries -> a name that their files alone hold."""


def opened(place: sources.Source, allow_unverified: bool = False) -> Opened:
    """Fetch and verify what a source leads to.

    Args:
        place: what `sources.read` returned.
        allow_unverified: accept weights without a known digest; commit, size and sha256 are shown and recorded.

    Raises:
        FileNotFoundError: if a path does not exist.
        NoSegmenter: if it is a classifier.
        WeightsError: if it is damaged, or not what was promised.
        DownloadError: if it could not be fetched.
    """
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


def opened_as(
    place: sources.Source,
    architecture: str,
    labels: Labels | None = None,
    preprocessing: Preprocessing | None = None,
    allow_unverified: bool = False,
) -> Described:
    """Fetch, verify and translate weights that do not say which model they are of: those of a torchvision segmenter.

    Args:
        place: what `sources.read` returned, a single file.
        architecture: name of torchvision's builder.
        labels: the classes that it was trained on, in their order; None numbers them.
        preprocessing: what it was trained on; None assumes ImageNet's mean and deviation, as torchvision's own.
        allow_unverified: as `opened` takes it.

    Raises:
        ValueError: if the name is unknown, the source says by itself what it is, or the classes are too few or many.
        WeightsError: if the weights are damaged, or of another model.
        DownloadError: if the download fails.
    """
    from fullyconv.weights.segmenters import SEGMENTERS, count_classes, names_of, torchvision_segmenter

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
    state = read_state_dict(fetched.path, like=names_of(architecture))
    count = count_classes(architecture, state.tensors)
    if labels is None and count:
        labels = Labels.of(numbered(count, what))
    if labels is not None and count is not None and labels.num_classes != count:
        raise ValueError(
            f"classes: {labels.num_classes} names, but {what} scores {count} classes; name those that it was trained "
            "on, in their order. with_classes(...) of the result exchanges them"
        )
    if preprocessing is None:
        tell(f"{what}: says nothing of its preprocessing; ImageNet's mean and deviation are assumed")
    try:
        foreign = torchvision_segmenter(architecture, state.tensors, labels=labels, beside=state.beside)
    except WeightsError as error:
        raise WeightsError(f"{fetched.path}: {error}") from error
    if state.beside:
        tell(f"{what}: not of the network, and unused: {', '.join(state.beside)}")
    return replace(
        foreign,
        preprocessing=preprocessing or foreign.preprocessing,
        training={"source": what, "sha256": fetched.digest.sha256},
    )


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
    return ModelFolder(folder, pretrained.read_config(folder).kind, origin)


def _torchvision(place: sources.Source) -> Described:
    from fullyconv.weights.segmenters import SEGMENTERS, published, torchvision_segmenter

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
    from fullyconv.weights.segmenters import SEGMENTERS  # with torchvision, which takes long to import

    tensors = read_state_dict(path, whole=True).tensors
    for library, name in LIBRARIES.items():
        if any(re.search(name, key) for key in tensors):
            return (
                f"it is of {library}, whose decoders this package does not have: use it there. Where its encoder is "
                "one of the backbones here, load_backbone(NAME, weights=FILE) takes that"
            )
    if recognize(find(tensors)).naming == "fullyconv":
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

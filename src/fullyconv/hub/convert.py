"""``fullyconv convert``: a classifier from anywhere becomes a dense network in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fullyconv.classifier import DenseScorer
from fullyconv.errors import WeightsError
from fullyconv.hub.load import load, load_classifier
from fullyconv.preprocessing import Preprocessing
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import pretrained, sources
from fullyconv.weights.lock import accepting
from fullyconv.weights.segmenters import SEGMENTERS


@accepting()
def convert(
    source: str | Path,
    to: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    pool: Literal["window", "cam"] = "window",
    preprocessing: Preprocessing | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    allow_unverified: bool = False,
) -> SegmentationModule | DenseScorer:
    """Convert weights from anywhere into a model folder: a classifier becomes a dense network, a segmenter one of ours.

    The card names source, revision, digests and license.

    Args:
        source: as `load` and `load_classifier` take it.
        to: model folder.
        architecture: where the source does not say: of a classifier as `load_classifier` takes it, of a segmenter as
            `load` does.
        classes: the names of its classes in their order, where the source does not say.
        pool: what a global pooling becomes.
        preprocessing: what the weights expect of an image, where the source does not say.
        dtype: of the stored weights.
        allow_unverified: accept weights that nobody vouches for.

    Returns:
        What was written, loaded.

    Raises:
        ValueError: if the source means nothing, or the classifier is not convolutional.
        WeightsError: if the weights are damaged, or not what was promised.
        DownloadError: if they could not be fetched.
        NotADirectoryError: if the target is a file.
    """
    target = Path(to)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"--to {target}: is a file; a model folder is a folder, pass another name")
    place = sources.read(source)
    if place.kind == "folder" and Path(place.address).resolve() == target.resolve():
        raise ValueError(f"--to {target}: is the source itself; give another folder")
    if architecture in SEGMENTERS or _is_segmenter(place, allow_unverified):
        if architecture is None and classes is not None:
            raise ValueError(f"classes: {source} says its own; leave them out, load(classes=...) exchanges them")
        load_any: Any = load  # its signatures tell apart what goes together
        module: SegmentationModule | DenseScorer = load_any(
            source,
            architecture=architecture,
            classes=classes,
            preprocessing=preprocessing,
            allow_unverified=allow_unverified,
            device="cpu",
        )
        if dtype == "float16" and module.score is not None and module.score.get("measured_by") != "publisher":
            module.score = None  # it was measured on other numbers, if only a little
        module.save_pretrained(target, dtype=dtype)
        return module
    classifier = load_classifier(
        source,
        architecture=architecture,
        classes=classes,
        preprocessing=preprocessing,
        allow_unverified=allow_unverified,
        device="cpu",
    )
    dense = classifier.convolutionalize(pool)
    dense.save_pretrained(target, dtype=dtype)
    return dense


def _is_segmenter(place: sources.Source, allow_unverified: bool) -> bool:
    if place.entry is not None:
        return place.entry.kind == "segmenter"
    if place.kind == "torchvision":
        return "torchvision.models.segmentation" in type(sources.torchvision_member(place)).__module__
    if place.kind == "folder":
        try:
            return pretrained.read_config(place.address).kind != "classifier"
        except (WeightsError, FileNotFoundError):
            return False
    if place.kind == "hub" and place.file is None:
        config = sources.fetch(place, pretrained.CONFIG, allow_unverified=allow_unverified)
        try:
            return pretrained.read_config(config.path.parent).kind != "classifier"
        except WeightsError:
            return False
    name = place.file or place.address
    if not name.lower().endswith(".caffemodel"):
        return False
    from fullyconv.weights.caffemodel import read_caffemodel

    layers = read_caffemodel(sources.fetch(place, allow_unverified=allow_unverified).path)
    return any(layer.name.startswith("score_fr") for layer in layers)

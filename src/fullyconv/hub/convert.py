"""``fullyconv convert``: a classifier from anywhere becomes a dense network in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fullyconv.classifier import DenseScorer
from fullyconv.errors import nearest
from fullyconv.hub.load import load, load_classifier
from fullyconv.preprocessing import Preprocessing
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import sources
from fullyconv.weights.architectures import CLASSIFIERS
from fullyconv.weights.described import NoSegmenter
from fullyconv.weights.lock import accepting
from fullyconv.weights.pretrained import Dtype
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
    dtype: Dtype = "float32",
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
        allow_unverified: accept weights without a known digest.

    Returns:
        What was written, loaded.

    Raises:
        ValueError: if the source means nothing, or the classifier is not convolutional.
        WeightsError: if the weights are damaged, or not what was promised.
        DownloadError: if the download fails.
        NotADirectoryError: if the target is a file.
    """
    target = Path(to)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"--to {target}: is a file; a model folder is a folder, pass another name")
    place = sources.read(source)
    if place.kind == "folder" and Path(place.address).resolve() == target.resolve():
        raise ValueError(f"--to {target}: is the source itself; give another folder")
    reading: dict[str, Any] = {"allow_unverified": allow_unverified, "device": "cpu"}
    stated = reading | {"architecture": architecture, "classes": classes, "preprocessing": preprocessing}
    if architecture in SEGMENTERS or (architecture is None and not _is_bare(place)):
        load_any: Any = load  # its signatures tell apart what goes together
        try:
            module: SegmentationModule | DenseScorer = load_any(source, **(reading if architecture is None else stated))
        except NoSegmenter:
            pass
        else:
            if architecture is None and (classes is not None or preprocessing is not None):
                raise ValueError(
                    f"classes and preprocessing: {source} says its own; leave them out, load(classes=...) exchanges "
                    "its classes"
                )
            if dtype == "float16" and module.score is not None and module.score.get("measured_by") != "publisher":
                module.score = None  # it was measured on other numbers, if only a little
            module.save_pretrained(target, dtype=dtype)
            return module
    own = architecture is not None and ("/" in architecture or architecture in CLASSIFIERS)
    if architecture is not None and not own and (hint := nearest(architecture, SEGMENTERS)):
        raise ValueError(f"architecture={architecture!r}: no segmenter of torchvision is called that. {hint}")
    dense = load_classifier(source, **stated).convolutionalize(pool)
    dense.save_pretrained(target, dtype=dtype)
    return dense


def _is_bare(place: sources.Source) -> bool:
    """Tell whether a source is a file of weights alone, which says nothing of a segmenter."""
    suffix = Path(place.file or place.address).suffix.lower()
    return not place.says_what_it_is and suffix not in (".ckpt", ".caffemodel")

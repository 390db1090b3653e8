"""Open a model to predict with it, and nothing else: a model folder needs neither Lightning nor torchmetrics."""

from __future__ import annotations

from pathlib import Path

from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.inference.processor import Device, device_of
from fullyconv.inference.serving import Predictor
from fullyconv.weights.described import Checkpoint, DenseFolder, NoSegmenter, build_described, describe
from fullyconv.weights.lock import accepting
from fullyconv.weights.segmenters import fetch_segmenter


@accepting()
def open_predictor(
    source: str | Path, *, allow_unverified: bool = False, device: Device = "auto"
) -> Predictor | DenseScorer:
    """Open a model to predict with it.

    It predicts what `fullyconv.load` predicts, and nothing that trains is imported: ``benchmarks/cold_start.py``
    measures what that saves. A classifier is converted.

    Args:
        source: what `fullyconv.load` takes.
        allow_unverified: as `fullyconv.load` takes it.
        device: as `fullyconv.load` takes it.

    Raises:
        ValueError: if the source means nothing; the message lists what there is.
        FileNotFoundError: if a path does not exist.
        WeightsError: if the weights are damaged, not those that were promised, or made for another model.
        DownloadError: if the download fails.

    Example:
        >>> open_predictor("nuclei").classes
        ['background', 'nucleus']
    """
    place = device_of(device)
    try:
        opened = fetch_segmenter(source, allow_unverified)
    except NoSegmenter:
        classifier = Classifier.from_pretrained(source, allow_unverified=allow_unverified)
        return classifier.convolutionalize().to(place)
    if isinstance(opened, DenseFolder):
        return DenseScorer.from_pretrained(opened.path, device=place)
    if isinstance(opened, Checkpoint):
        from fullyconv.training.module import SegmentationModule  # Lightning's own format

        return SegmentationModule.from_checkpoint(opened.path).to(place).predictor()
    described = describe(opened)
    return Predictor(build_described(described), described.labels, described.preprocessing).to(place)

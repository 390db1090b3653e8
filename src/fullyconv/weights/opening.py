"""What a string that means a segmenter leads to: a verified model folder, a checkpoint, or translated weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fullyconv.errors import WeightsError, near_miss, tell
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import lock, pretrained, sources
from fullyconv.weights.described import Described, NoSegmenter


@dataclass(frozen=True)
class ModelFolder:
    """A model folder on this machine; it holds no classifier that was not converted.

    Args:
        path: where it is.
        kind: "segmenter" or "dense_classifier".
        origin: where it came from, for the record of what is made of it.
    """

    path: Path
    kind: str
    origin: str


@dataclass(frozen=True)
class Checkpoint:
    """A Lightning checkpoint on this machine."""

    path: Path


Opened = ModelFolder | Checkpoint | Described


def opened(place: sources.Source, allow_unverified: bool = False) -> Opened:
    """Fetch and verify what a source leads to.

    Args:
        place: what `sources.read` returned.
        allow_unverified: accept weights without a known digest; commit, size and sha256 are shown and recorded.

    Raises:
        FileNotFoundError: if a path leads nowhere.
        NoSegmenter: if it is a classifier.
        WeightsError: if it is damaged, or not what was promised.
        DownloadError: if it could not be fetched.
    """
    if place.entry is not None and not place.entry.free:
        name = (*place.entry.aliases, place.entry.name)[0]
        tell(f"{name}: not for every use; license of the weights: {place.entry.license}")
    if place.kind == "folder":
        if place.pins:
            # the shipped weights are those of the catalog, or nothing is loaded
            sources.fetch(place, pretrained.WEIGHTS)
        folder = Path(place.address)
        return _model_folder(folder, place.address, folder.resolve().name)
    if place.kind == "hub" and place.file in (None, pretrained.CONFIG, pretrained.WEIGHTS):
        return _repository(place, allow_unverified)
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
        DownloadError: if they could not be fetched.
    """
    from fullyconv.weights.loading import numbered
    from fullyconv.weights.segmenters import SEGMENTERS, count_classes, names_of, torchvision_segmenter
    from fullyconv.weights.statedict import read_state_dict

    if architecture not in SEGMENTERS:
        raise ValueError(
            f"architecture={architecture!r}: no segmenter of torchvision. {near_miss(architecture, SEGMENTERS)} "
            "load_classifier(...) takes the architectures of classifiers"
        )
    if place.kind in ("folder", "torchvision") or (place.kind == "hub" and place.file is None):
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


def _model_folder(folder: Path, what: str, origin: str) -> ModelFolder:
    kind = pretrained.read_config(folder).kind
    if kind not in ("segmenter", "dense_classifier"):
        raise NoSegmenter(_is_classifier(what))
    return ModelFolder(folder, kind, origin)


def _repository(place: sources.Source, allow_unverified: bool) -> ModelFolder:
    config = sources.fetch(place, pretrained.CONFIG, allow_unverified=allow_unverified)
    if not _is_ours(config.path):
        raise NoSegmenter(_is_classifier(f"{place.address} (its config.json is not of a segmenter of fullyconv)"))
    if place.file == pretrained.CONFIG and place.sha256 is not None:
        # who vouches for the configuration vouches for the digest in it
        named = pretrained.read_config(config.path.parent).weights.get("sha256")
        if isinstance(named, str) and lock.DIGEST.fullmatch(named):
            place = replace(place, pins={pretrained.WEIGHTS: named})
    sources.fetch_weights(place, config, allow_unverified=allow_unverified)
    return _model_folder(config.path.parent, place.address, f"{place.repo}@{config.commit}")


def _is_ours(path: Path) -> bool:
    """Tell whether a config.json has a kind at all; whether it is right is for `pretrained.read_config` to say."""
    document = pretrained.read_json(path)
    return "kind" in document or "architecture" not in document


def _torchvision(place: sources.Source) -> Described:
    from fullyconv.weights.segmenters import SEGMENTERS, published, torchvision_segmenter
    from fullyconv.weights.statedict import read_state_dict

    member = sources.torchvision_member(place)
    names = {published(name): name for name in SEGMENTERS}
    if member not in names:
        raise NoSegmenter(_is_classifier(place.address))
    fetched = sources.fetch(place)
    foreign = torchvision_segmenter(names[member], read_state_dict(fetched.path).tensors)
    foreign.training["sha256"] = fetched.digest.sha256
    return foreign


def _file(place: sources.Source, allow_unverified: bool) -> Checkpoint | Described:
    from fullyconv.weights.caffe import caffe_segmenter

    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    suffix = fetched.path.suffix.lower()
    if suffix == ".ckpt":
        return Checkpoint(fetched.path)
    if suffix != ".caffemodel":
        if (fetched.path.parent / pretrained.CONFIG).is_file():
            raise WeightsError(f"{fetched.path}: is part of a model folder; pass its folder, {fetched.path.parent}/")
        from fullyconv.weights.strangers import stranger

        raise WeightsError(f"{fetched.path}: {stranger(fetched.path)}")
    foreign = caffe_segmenter(fetched.path)
    foreign.training.update({"source": fetched.origin, "sha256": fetched.digest.sha256})
    entry = place.entry
    if entry is None:
        return foreign
    measured = {"data": entry.data, "split": entry.split, "mean_iou": entry.mean_iou, "measured_by": entry.measured_by}
    return replace(foreign, license=entry.license, score=foreign.score if entry.mean_iou is None else measured)

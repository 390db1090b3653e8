"""``fullyconv.load``: one string to a segmenter that is ready to predict or to be trained further."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch

from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.errors import DownloadError, WeightsError, tell
from fullyconv.labels import Labels
from fullyconv.models import build_model
from fullyconv.module import SegmentationModule
from fullyconv.preprocessing import IMAGENET, Preprocessing
from fullyconv.weights import catalog, efficientnet, pretrained, sources
from fullyconv.weights.architectures import build_classifier, input_size, preprocessing_of
from fullyconv.weights.checkpoints import recognize, translate
from fullyconv.weights.classifiers import FetchedClassifier, fetch_classifier, fit_classifier
from fullyconv.weights.loading import preprocessing_from_names

FEW_CLASSES = 512  # of all heads together; no model of so few takes much
IMAGENET_CLASSES = 1000
FEW_CHANNELS = 256  # of a head whose width is an option


class NoSegmenter(WeightsError):
    """What was asked for is a classifier; `load_classifier` loads it."""


@overload
def load(source: str | Path, *, allow_unverified: bool = False) -> SegmentationModule | DenseScorer: ...


@overload
def load(
    source: str | Path, *, classes: Sequence[str] | Labels, allow_unverified: bool = False
) -> SegmentationModule: ...


def load(
    source: str | Path, *, classes: Sequence[str] | Labels | None = None, allow_unverified: bool = False
) -> SegmentationModule | DenseScorer:
    """Load a pretrained segmenter.

    Args:
        source: a name or alias of the zoo, such as ``"street"``; ``"hf://ORG/REPO[@REVISION]"`` or ``"ORG/REPO"``, an
            model folder on the Hugging Face Hub; ``"torchvision://FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"``; the
            model folder; a ``.caffemodel`` of the reference networks; a ``.ckpt`` of this package; an https
            address of such a file, with ``#sha256=DIGEST``. A string that starts with ``.``, ``/`` or ``~`` or ends in
            ``/`` is always a path; another one is a zoo name first.
        classes: other classes than those of the weights: everything is kept but the score layers, which start at zero;
            ``load report`` of the result says so.
        allow_unverified: accept weights that nobody vouches for (the hub's, where no digest is pinned): commit, size
            and sha256 are shown and recorded in a lock file, and every later load must match them.

    Returns:
        The segmenter, in evaluation mode; a converted classifier where the model folder is one. ``Trainer.fit`` puts a
        segmenter into training mode.

    Raises:
        ValueError: if the string means nothing; the message lists what there is.
        FileNotFoundError: if a path leads nowhere.
        WeightsError: if the weights are damaged, not those that were promised, made for another model, or those of a
            classifier.
        DownloadError: if they could not be fetched.

    Example:
        >>> load("stret")
        Traceback (most recent call last):
            ...
        ValueError: source='stret': no model of the zoo and no folder with config.json. Did you mean street? ...
    """
    module = _load(sources.read(source), allow_unverified)
    if classes is None:
        return module
    if not isinstance(module, SegmentationModule):
        raise ValueError(
            f"classes: {source} is a converted classifier, which has no "
            "score layers to exchange; build a segmenter on it: SegmentationModule(MODEL, classes=..., "
            f"backbone_weights={str(source)!r})"
        )
    labels = classes if isinstance(classes, Labels) else Labels.of(classes)
    other = module.with_classes(labels)
    if other.reinitialized:
        kept = len(other.model.state_dict()) - len(other.reinitialized)
        tell(
            f"{source}: now {len(labels.names)} classes; {kept} tensors kept, {len(other.reinitialized)} start anew: "
            f"{', '.join(other.reinitialized)}"
        )
    return other


def _load(place: sources.Source, allow_unverified: bool) -> SegmentationModule | DenseScorer:
    if place.kind == "folder":
        if place.pins:
            sources.fetch(
                place, pretrained.WEIGHTS
            )  # the shipped weights are those of the catalog, or nothing is loaded
        return _from_folder(Path(place.address), place.address)
    if place.kind == "hub" and place.file in (None, pretrained.CONFIG, pretrained.WEIGHTS):
        return _repository(place, allow_unverified)
    if place.entry is not None and place.entry.kind == "classifier":
        raise NoSegmenter(_is_classifier(place.entry.name))
    if place.kind == "torchvision":
        return _torchvision(place)
    return _file(place, allow_unverified)


def _is_classifier(what: str) -> str:
    return (
        f"{what}: holds a classifier, not a segmenter: fullyconv.load_classifier loads it, and "
        "load_classifier(...).convolutionalize() makes a dense network of it; load_backbone(NAME, weights=...) and "
        "SegmentationModule(MODEL, backbone_weights=...) start a segmenter from it"
    )


def _from_folder(folder: Path, what: str) -> SegmentationModule | DenseScorer:
    config = pretrained.read_config(folder)
    kind = config.kind
    if kind == "segmenter":
        _check_room(config, folder)
        return SegmentationModule.load(folder)
    if kind == "dense_classifier":
        return DenseScorer.load(folder)
    raise NoSegmenter(_is_classifier(what))


def _check_room(config: pretrained.Config, folder: Path) -> None:
    """Refuse a configuration whose model has more numbers than the file: it would fill the memory before they differ.

    The kernels of the reference's upsampling grow with the square of the classes, those of a ladder with that of its
    width, and heads add up.
    """
    heads = config.labels.get("heads")
    groups = heads if isinstance(heads, dict) else {"": config.labels}
    counts = {name: len(entry["names"]) for name, entry in groups.items() if _has_names(entry)}
    width = config.model.get("head_width")
    narrow = not isinstance(width, int) or width <= FEW_CHANNELS
    if (sum(counts.values()) <= FEW_CLASSES and narrow) or len(counts) < len(groups):
        return
    try:
        with torch.device("meta"):  # names and shapes alone
            options = {key: value for key, value in config.model.items() if key != "model"}
            model = build_model(config.model["model"], counts if heads else counts[""], **options)
    except (ValueError, TypeError, RuntimeError, KeyError):
        return  # whoever builds it says what is wrong
    numbers = sum(value.numel() for value in model.state_dict().values())
    size = (folder / pretrained.WEIGHTS).stat().st_size if (folder / pretrained.WEIGHTS).is_file() else 0
    if 2 * numbers > size:  # half precision is the smallest that is stored
        raise WeightsError(
            f"{folder / pretrained.CONFIG}: describes a model of {numbers} numbers, {pretrained.WEIGHTS} has {size} "
            "bytes; fetch or save the model folder again"
        )


def _has_names(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("names"), list)


def _repository(place: sources.Source, allow_unverified: bool) -> SegmentationModule | DenseScorer:
    config = sources.fetch(place, pretrained.CONFIG, allow_unverified=allow_unverified)
    if not _is_ours(config.path):
        raise NoSegmenter(_is_classifier(f"{place.address} (its config.json is not of a segmenter of fullyconv)"))
    if place.file == pretrained.CONFIG and place.sha256 is not None:
        # who vouches for the configuration vouches for the digest in it
        named = pretrained.read_config(config.path.parent).weights.get("sha256")
        if isinstance(named, str) and sources.DIGEST.fullmatch(named):
            place = replace(place, pins={pretrained.WEIGHTS: named})
    weights = sources.fetch(place, pretrained.WEIGHTS, allow_unverified=allow_unverified)
    if weights.commit != config.commit:
        raise DownloadError(
            f"{place.address}: changed between two requests ({config.commit} and {weights.commit}); load it again"
        )
    module = _from_folder(config.path.parent, place.address)
    origin = f"{place.repo}@{config.commit}"
    if isinstance(module, SegmentationModule):
        module.origin = origin
    return module


def _is_ours(path: Path) -> bool:
    """Tell whether a config.json has a kind at all; whether it is right is for `pretrained.read_config` to say."""
    try:
        if path.stat().st_size > pretrained.MAX_CONFIG_BYTES:
            return True
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True
    return not isinstance(document, dict) or "kind" in document or "architecture" not in document


def _torchvision(place: sources.Source) -> SegmentationModule:
    from fullyconv.weights.segmenters import SEGMENTERS, published, torchvision_segmenter
    from fullyconv.weights.statedict import read_state_dict

    member = str(sources.torchvision_member(place))
    names = {published(name).member: name for name in SEGMENTERS}
    if member not in names:
        raise NoSegmenter(_is_classifier(place.address))
    fetched = sources.fetch(place)
    foreign = torchvision_segmenter(names[member], read_state_dict(fetched.path).tensors)
    foreign.training["sha256"] = fetched.digest.sha256
    return SegmentationModule.of(foreign)


def _file(place: sources.Source, allow_unverified: bool) -> SegmentationModule:
    from fullyconv.weights.caffe import caffe_segmenter

    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    suffix = fetched.path.suffix.lower()
    if suffix == ".ckpt":
        return SegmentationModule.from_checkpoint(fetched.path)
    if suffix != ".caffemodel":
        if (fetched.path.parent / pretrained.CONFIG).is_file():
            raise WeightsError(f"{fetched.path}: is part of a model folder; pass its folder, {fetched.path.parent}/")
        raise WeightsError(
            f"{fetched.path}: does not say which model it belongs to; load takes a model folder, a .ckpt of "
            "fullyconv or a .caffemodel. " + _is_classifier("If it")
        )
    foreign = caffe_segmenter(fetched.path)
    entry = place.entry
    foreign.training.update({"source": fetched.origin, "sha256": fetched.digest.sha256})
    module = SegmentationModule.of(foreign)
    if entry is not None:
        module.license = entry.license
        if entry.mean_iou is not None:
            module.score = {
                "data": entry.data,
                "split": entry.split,
                "mean_iou": entry.mean_iou,
                "measured_by": entry.measured_by,
            }
    return module


def load_classifier(
    source: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    allow_unverified: bool = False,
) -> Classifier:
    """Load a pretrained image classifier, ready to classify or to be converted.

    Args:
        source: a name of the zoo ("vgg16.imagenet"), "torchvision://VGG16_Weights.IMAGENET1K_V1",
            "hf://timm/resnet18.a1_in1k", a model folder of a classifier (on the hub or a folder), a weight file, or an
            https address with ``#sha256=DIGEST``.
        architecture: "torchvision/NAME", "timm/NAME" or a classifier of this package; only needed where the source does
            not say.
        classes: the K class names; only needed where the source does not say.
        preprocessing: what the weights expect of an image, as a `Preprocessing` or a dict; only needed where the source
            does not say.
        allow_unverified: accept weights that nobody vouches for; commit, size and sha256 are shown and recorded.

    Returns:
        The classifier, in evaluation mode; ``convolutionalize()`` gives the dense network.

    Raises:
        ValueError: if the source means nothing, or does not say which architecture it is of.
        WeightsError: if the weights do not belong to the architecture, or are not what was promised.
        DownloadError: if they could not be fetched.
    """
    found = fetch_classifier(source, allow_unverified=allow_unverified)
    weights, what = found.weights, found.weights.source
    name = architecture or found.architecture or _architecture_by_names(found)
    if name is None:
        raise ValueError(
            f"source={str(source)!r}: does not say of which architecture it is; pass architecture='torchvision/NAME', "
            "'timm/NAME' or a classifier of fullyconv.weights.architectures.CLASSIFIERS"
        )
    if weights.absent:
        raise WeightsError(f"{what}: was published without the classifier's own layers; load_backbone takes it")
    tensors = weights.tensors
    plain = name.rpartition("/")[2]
    naming = recognize(tensors).naming
    if naming == "caffe" and name.startswith("torchvision/"):
        tensors = translate(plain, tensors, weights.architecture).tensors
    if naming == "lukemelas":
        tensors = translate(name, tensors, weights.architecture).tensors
    named = tuple(classes) if classes is not None else found.classes
    if named is None and naming == "lukemelas" and len(tensors["classifier.bias"]) == IMAGENET_CLASSES:
        named = catalog.imagenet_classes()  # nothing else was published under these names
    try:
        network = build_classifier(name, len(named) if named is not None else 1000)
    except ValueError as error:
        if architecture is not None:
            raise
        raise WeightsError(f"{what}: names a classifier that cannot be built: {error}") from error
    if named is None:
        count = _count(network.state_dict(), tensors)
        named = tuple(f"class {index}" for index in range(count))
        tell(f"{what}: says nothing of its classes; they are called 'class 0' to 'class {count - 1}'")
        network = build_classifier(name, count)
    fit_classifier(network, tensors, what)
    given = None if preprocessing is None else Preprocessing.of(preprocessing)
    expected = given or weights.preprocessing or preprocessing_from_names(recognize(weights.tensors))
    expected = expected or preprocessing_of(name)
    if expected is None:
        tell(f"{what}: says nothing of its preprocessing; ImageNet's mean and deviation are assumed")
        expected = IMAGENET
    side = input_size(name)
    training: dict[str, Any] = dict(found.training or {}) | {"source": what}
    digests = list((found.digests or {}).values())
    if digests:
        training["sha256"] = digests[-1]
    return Classifier(
        network,
        named,
        expected,
        found.input_size or (side, side),
        name,
        weights.license or "unstated",
        training,
        dict(found.score) if found.score and named == found.classes else None,
    ).eval()


def _architecture_by_names(found: FetchedClassifier) -> str | None:
    """Name the network of a file whose layers tell: Caffe's and efficientnet_pytorch's do."""
    scheme = recognize(found.weights.tensors)
    if scheme.naming == "lukemelas":
        return efficientnet.architecture(found.weights.tensors)
    if scheme.naming != "caffe":
        return None
    if scheme.family == "caffenet":
        return "caffenet"
    return "torchvision/vgg19" if "conv3_4.weight" in found.weights.tensors else "torchvision/vgg16"


def _count(own: Any, tensors: Any) -> int:
    """Read the number of classes off the one place where a file differs from a network of 1000 classes."""
    counts = {
        int(tensors[name].shape[0])
        for name, value in own.items()
        if name in tensors
        and value.ndim
        and tensors[name].ndim
        and value.shape[0] == 1000 != tensors[name].shape[0]
        and value.shape[1:].numel() == tensors[name].shape[1:].numel()
    }
    return counts.pop() if len(counts) == 1 else 1000

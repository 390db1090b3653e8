"""A classifier's weights from any source: fetched, verified, read, and what is known of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.backbones import Backbone, Padding, build_backbone
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import catalog, efficientnet, pretrained, sources
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.checkpoints import recognize
from fullyconv.weights.loading import ClassifierWeights, apply, preprocessing_from_timm, torchvision_weights
from fullyconv.weights.lock import accepting
from fullyconv.weights.statedict import read_state_dict


@dataclass(frozen=True)
class FetchedClassifier:
    """What came from a source.

    Args:
        weights: tensors with preprocessing and license as far as they are known.
        architecture: as `build_classifier` takes it, "torchvision/vgg16"; None where it is not known.
        classes: the K class names; None where they are not known.
        input_size: height and width it classifies at, in pixels; None where it is not known.
        digests: sha256 of every file that was read, by its address.
        training: what a model folder says of its training.
        score: what a model folder says was measured, in percent.
    """

    weights: ClassifierWeights
    architecture: str | None = None
    classes: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    digests: Mapping[str, str] | None = None
    training: Mapping[str, Any] | None = None
    score: Mapping[str, Any] | None = None


@accepting()
def load_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    allow_unverified: bool = False,
) -> Backbone:
    """Build a backbone with the weights of the classifier it is the backbone of.

    Args:
        name: a key of `BACKBONES`, or "timm/NAME".
        weights: a name of the zoo ("vgg16.imagenet"), "torchvision://VGG16_Weights.IMAGENET1K_V1",
            "hf://timm/vgg16.tv_in1k", an https address with its sha256, a file, or the folder of a classifier. None
            builds it at random.
        in_channels: channels of the input; where it is not 3, the first convolution is made to fit.
        padding: "same" covers any image without waste; "paper" puts 100 pixels around it.
        allow_unverified: accept weights that nobody vouches for; their digest is shown and recorded.

    Returns:
        The backbone; its ``load_report`` says what became of each tensor, its ``preprocessing`` what its images need.

    Raises:
        ValueError: if a name is unknown.
        WeightsError: if the weights do not belong to the backbone, or are not what was promised; nothing is half
            loaded.
        DownloadError: if they could not be fetched.

    Example:
        >>> load_backbone("resnet18_half").channels
        {4: 32, 8: 64, 16: 128, 32: 256}
    """
    backbone = build_backbone(name, in_channels=in_channels, padding=padding)
    if weights is not None:
        apply(backbone, fetch_classifier(weights, allow_unverified=allow_unverified, like=names_of(backbone)).weights)
    return backbone


def names_of(network: Backbone | str) -> Mapping[str, Tensor]:
    """Give tensors by the names of a classifier, to find it in a file: of a backbone's, or of an architecture.

    Raises:
        ValueError: if there is no such architecture.
    """
    if isinstance(network, Backbone):
        if not network.name.startswith("timm/"):  # a fusion has the layers several times
            return {re.sub(r"^streams\.\d+\.", "", key): value for key, value in network.state_dict().items()}
        network = network.name
    try:
        with torch.device("meta"):
            return build_classifier(network, 1000).state_dict()
    except (RuntimeError, NotImplementedError):  # some of timm read numbers while they are built
        return build_classifier(network, 1000).state_dict()


def fetch_classifier(
    source: str | Path, *, allow_unverified: bool = False, like: Mapping[str, Tensor] | None = None
) -> FetchedClassifier:
    """Fetch, verify and read a classifier's weights.

    Args:
        source: as `sources.read` takes it.
        allow_unverified: accept a file that nobody vouches for; its digest is shown and recorded.
        like: tensors by the names of the network, where it is known, to find it in a checkpoint.

    Raises:
        ValueError: if the source means nothing.
        WeightsError: if it is no classifier, damaged, or not what was promised.
        DownloadError: if it could not be fetched.
    """
    place = sources.read(source)
    if place.kind == "torchvision":
        return _torchvision(place)
    if place.kind == "folder":
        return _folder(Path(place.address), place)
    if place.kind == "hub" and place.file is None:
        return _repository(place, allow_unverified)
    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    state = read_state_dict(fetched.path, like=like)
    entry = place.entry
    license = entry.license if entry else None
    return FetchedClassifier(
        ClassifierWeights(state.tensors, None, None, fetched.origin, license, beside=state.beside),
        entry.architecture if entry else None,
        tuple(entry.classes) if entry else None,
        digests={fetched.origin: fetched.digest.sha256},
        training={"credit": entry.credit} if entry and entry.credit else None,
    )


def _torchvision(place: sources.Source) -> FetchedClassifier:
    member = sources.torchvision_member(place)
    fetched = sources.fetch(place)
    weights = torchvision_weights(member, fetched.path, fetched.origin)
    if weights.license is None:
        weights = replace(weights, license=catalog.LICENSE_IMAGENET)
    categories = member.meta.get("categories") or (
        catalog.imagenet_classes() if member.meta.get("_metrics", {}).get("ImageNet-1K") else None
    )
    crop = getattr(member.transforms(), "crop_size", None)
    size = (int(crop[0]), int(crop[0])) if crop else None
    return FetchedClassifier(
        weights,
        f"torchvision/{weights.architecture}" if weights.architecture else None,
        tuple(categories) if categories else None,
        size,
        {fetched.origin: fetched.digest.sha256},
    )


def _folder(folder: Path, place: sources.Source) -> FetchedClassifier:
    document = _json(folder / pretrained.CONFIG)
    if place.pins:
        sources.fetch(place, pretrained.WEIGHTS)  # the shipped weights are those of the catalog, or nothing is loaded
    if "kind" in document:
        return _from_folder(folder, place.entry.name if place.entry else f"{folder}")
    weights = folder / pretrained.WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: not found; name the weight file itself if it is called otherwise")
    fetched = sources.fetch(place, pretrained.WEIGHTS)
    return _timm(document, weights, str(folder), {str(weights): fetched.digest.sha256})


def _repository(place: sources.Source, allow_unverified: bool) -> FetchedClassifier:
    config = sources.fetch(place, pretrained.CONFIG, allow_unverified=allow_unverified)
    document = _json(config.path)
    if document.get("kind") not in (None, "classifier", "dense_classifier"):
        _refuse_kind(str(document["kind"]), place.address)
    try:
        weights = sources.fetch(place, pretrained.WEIGHTS, allow_unverified=allow_unverified)
    except DownloadError as error:
        raise DownloadError(
            f"{error}; name the weight file, {place.address}/FILE, if it is called otherwise"
        ) from error
    digests = {config.origin: config.digest.sha256, weights.origin: weights.digest.sha256}
    if "kind" in document:
        return _from_folder(weights.path.parent, weights.origin, digests)
    return _timm(document, weights.path, weights.origin, digests)


def _from_folder(folder: Path, origin: str, digests: dict[str, str] | None = None) -> FetchedClassifier:
    config, tensors = pretrained.load(folder)
    if config.kind not in ("classifier", "dense_classifier"):
        _refuse_kind(config.kind, origin)
    try:
        preprocessing = Preprocessing.from_dict(config.preprocessing)
    except ValueError as error:
        raise WeightsError(f"{folder / pretrained.CONFIG}: {error}") from error
    height, width = config.model["input_size"]
    architecture = str(config.model["architecture"])
    return FetchedClassifier(
        ClassifierWeights(
            {name: torch.from_numpy(value) for name, value in tensors.items()},
            preprocessing,
            # among the names that publishers use, that of timm for what is ours here
            efficientnet.TF_NAMES.get(architecture, architecture.rpartition("/")[2]),
            origin,
            config.license,
        ),
        architecture,
        tuple(catalog.label_names(config.labels)),
        (height, width),
        digests or {origin: str(config.weights["sha256"])},
        config.training,
        config.score,
    )


def _refuse_kind(kind: str, where: str) -> None:
    raise WeightsError(
        f"{where}: config.json says kind={kind[:40]!r}, which is no classifier; fullyconv.load loads a segmenter"
    )


def _timm(document: dict[str, Any], weights: Path, origin: str, digests: dict[str, str]) -> FetchedClassifier:
    """Read a repository of timm: config.json with ``architecture`` and ``pretrained_cfg``."""
    pretrained = document.get("pretrained_cfg", document)
    architecture = document.get("architecture")
    if not isinstance(pretrained, dict) or not isinstance(architecture, str):
        raise WeightsError(
            f"{origin}: its config.json is neither of fullyconv (kind) nor of timm (architecture); name the weight "
            "file alone, .../FILE, and the architecture"
        )
    license = pretrained.get("license")
    state = read_state_dict(weights)
    size = pretrained.get("input_size")
    sized = isinstance(size, list) and len(size) == 3 and all(type(n) is int and 0 < n <= 4096 for n in size)
    names = document.get("label_names")
    named = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    count = document.get("num_classes", pretrained.get("num_classes"))
    classes = tuple(names) if named and names else (catalog.imagenet_classes() if count == 1000 else None)
    return FetchedClassifier(
        ClassifierWeights(
            state.tensors,
            preprocessing_from_timm(document),
            architecture,
            origin,
            license if isinstance(license, str) else None,
        ),
        f"timm/{architecture}",
        classes,
        (size[1], size[2]) if sized and size else None,
        digests,
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; a folder of weights has a {pretrained.CONFIG}; or name a file")
    return pretrained.read_json(path)


def fit_classifier(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> tuple[str, ...]:
    """Load tensors into a classifier: all of them, strictly; kernels of a converted one are flattened again.

    Auxiliary heads, which serve training only, are left out.

    Args:
        network: the classifier.
        tensors: by its own key names.
        what: the file, for the message.

    Returns:
        The names that were left out.

    Raises:
        WeightsError: if something is missing, unknown, or of another shape.
    """
    own = network.state_dict()
    unused = tuple(name for name in tensors if name not in own and name.startswith(("aux1.", "aux2.", "AuxLogits.")))
    fitted: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in unused:
            continue
        target = own.get(name)
        shapes = (value.ndim, target.ndim) if target is not None else None
        if target is not None and shapes in ((4, 2), (2, 4)) and value.numel() == target.numel():
            value = value.reshape(target.shape)
        fitted[name] = value
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in fitted:
            fitted[name] = value  # batch norm counts its batches only since torch 0.4.1
    pretrained.check(own, fitted, Path(what))
    network.load_state_dict(fitted, strict=True)
    return unused


def architecture_by_names(found: FetchedClassifier) -> str | None:
    """Name the network of a file whose layers tell: Caffe's and efficientnet_pytorch's do.

    Args:
        found: what was fetched.

    Returns:
        As `build_classifier` takes it, or None.
    """
    scheme = recognize(found.weights.tensors)
    if scheme.naming == "lukemelas":
        return efficientnet.architecture(found.weights.tensors)
    if scheme.naming != "caffe":
        return None
    if scheme.family == "caffenet":
        return "caffenet"
    return "torchvision/vgg19" if "conv3_4.weight" in found.weights.tensors else "torchvision/vgg16"


def count_classes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int:
    """Read the number of classes off the one place where a file differs from a network of 1000 classes.

    Args:
        own: state dict of the network with 1000 classes.
        tensors: of the file.
    """
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

"""A classifier's weights from any source: fetched, verified, read, and what is known of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fullyconv.backbones import Backbone, LoadReport, Padding, build_backbone
from fullyconv.errors import WeightsError, tell
from fullyconv.preprocessing import Preprocessing
from fullyconv.weights import catalog, efficientnet, pretrained, sources
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.checkpoints import Scheme, recognize, translate
from fullyconv.weights.loading import (
    ClassifierWeights,
    apply,
    numbered,
    preprocessing_from_timm,
    preprocessing_from_torchvision,
)
from fullyconv.weights.lock import accepting
from fullyconv.weights.statedict import read_state_dict

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

LICENSE_IMAGENET = "not stated by torchvision, whose code is BSD-3-Clause; the terms of ImageNet may bind"


@accepting()
def load_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    allow_unverified: bool = False,
) -> Backbone:
    """Build a backbone with the weights of a classifier.

    Args:
        name: a key of `BACKBONES`, or "timm/NAME".
        weights: a name of the zoo ("vgg16.imagenet"), "torchvision://VGG16_Weights.IMAGENET1K_V1",
            "hf://timm/vgg16.tv_in1k", an https address with its sha256, a file, or the folder of a classifier. None
            builds it at random.
        in_channels: channels of the input; if it is not 3, the first convolution is adapted.
        padding: "same" covers any image without waste; "paper" puts 100 pixels around it.
        allow_unverified: accept weights without a known digest; their digest is shown and recorded.

    Returns:
        The backbone; its ``load_report`` says what became of each tensor, its ``preprocessing`` what its images need.

    Raises:
        ValueError: if a name is unknown.
        WeightsError: if the weights do not belong to the backbone, or are not what was promised; nothing is half
            loaded.
        DownloadError: if the download fails.

    Example:
        >>> load_backbone("resnet18_half").channels
        {4: 32, 8: 64, 16: 128, 32: 256}
    """
    backbone = build_backbone(name, in_channels=in_channels, padding=padding)
    if weights is not None:
        apply(backbone, fetch_classifier(weights, allow_unverified=allow_unverified, like=names_of(backbone)))
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
) -> ClassifierWeights:
    """Fetch, verify and read a classifier's weights.

    Args:
        source: as `sources.read` takes it.
        allow_unverified: accept a file without a known digest; its digest is shown and recorded.
        like: tensors by the names of the network, where it is known, to find it in a checkpoint.

    Raises:
        ValueError: if the source means nothing.
        WeightsError: if it is no classifier, damaged, or not what was promised.
        DownloadError: if it could not be fetched.
    """
    place = sources.read(source)
    if place.kind == "torchvision":
        return _torchvision(place)
    if place.is_folder:
        return _model_folder(place, allow_unverified)
    fetched = sources.fetch(place, allow_unverified=allow_unverified)
    state = read_state_dict(fetched.path, like=like)
    known: dict[str, Any] = {}
    if entry := place.entry:
        known = {"architecture": entry.architecture, "license": entry.license, "classes": tuple(entry.classes)}
        known["training"] = {"credit": entry.credit} if entry.credit else {}
    return ClassifierWeights(
        state.tensors, source=fetched.origin, beside=state.beside, sha256=fetched.digest.sha256, **known
    )


def _torchvision(place: sources.Source) -> ClassifierWeights:
    member = sources.torchvision_member(place)
    fetched = sources.fetch(place)
    weights = torchvision_weights(member, fetched.path)
    return replace(weights, source=fetched.origin, sha256=fetched.digest.sha256)


def torchvision_weights(member: WeightsEnum, path: Path) -> ClassifierWeights:
    """Read the file of weights that torchvision publishes.

    Args:
        member: of its enum, as ``torchvision.models.VGG16_Weights.IMAGENET1K_V1``.
        path: the file that was downloaded for it.

    Returns:
        The weights. Those named ``IMAGENET1K_FEATURES`` were published without a usable fc6, fc7 and score layer, which
        therefore start anew.

    Raises:
        WeightsError: if the file is not what it should be.
    """
    from torchvision.models import get_model_weights, list_models

    names = [name for name in list_models() if get_model_weights(name) is type(member)]
    absent = ("classifier.",) if member.name.endswith("_FEATURES") else ()
    classes = member.meta.get("categories")
    if not classes and member.meta.get("_metrics", {}).get("ImageNet-1K"):
        classes = catalog.IMAGENET_CLASSES
    crop = getattr(member.transforms(), "crop_size", None)
    return ClassifierWeights(
        read_state_dict(path, without=absent).tensors,
        preprocessing_from_torchvision(member),
        f"torchvision/{names[0]}" if len(names) == 1 else None,
        str(member),
        str(member.meta.get("license") or LICENSE_IMAGENET),
        absent,
        classes=tuple(classes) if classes else None,
        input_size=(int(crop[0]), int(crop[0])) if crop else None,
    )


def _model_folder(place: sources.Source, allow_unverified: bool) -> ClassifierWeights:
    """Read a model folder of this package, or what timm publishes, here or on the hub."""

    def check(document: Mapping[str, Any]) -> None:
        if document.get("kind") not in (None, "classifier", "dense_classifier"):
            raise WeightsError(
                f"{place.address}: config.json says kind={str(document['kind'])[:40]!r}, which is no classifier; "
                "fullyconv.load loads a segmenter"
            )

    weights = sources.fetch_folder(place, check, allow_unverified=allow_unverified)
    origin = weights.origin if place.kind == "hub" else place.entry.name if place.entry else place.address
    document = pretrained.read_json(weights.path.with_name(pretrained.CONFIG))
    if pretrained.is_of_timm(document):
        return _timm(document, weights, origin)
    return _from_folder(weights.path.parent, origin)


def _from_folder(folder: Path, origin: str) -> ClassifierWeights:
    config, tensors = pretrained.load(folder)
    try:
        preprocessing = Preprocessing.from_dict(config.preprocessing)
    except ValueError as error:
        raise WeightsError(f"{folder / pretrained.CONFIG}: {error}") from error
    height, width = config.model["input_size"]
    return ClassifierWeights(
        {name: torch.from_numpy(value) for name, value in tensors.items()},
        preprocessing,
        config.model["architecture"],
        origin,
        config.license,
        classes=tuple(catalog.label_names(config.labels)),
        input_size=(height, width),
        sha256=str(config.weights["sha256"]),
        training=config.training,
        score=config.score,
    )


def _timm(document: dict[str, Any], fetched: sources.Fetched, origin: str) -> ClassifierWeights:
    """Read a repository of timm: config.json with ``architecture`` and ``pretrained_cfg``."""
    known = document.get("pretrained_cfg", document)
    architecture = document.get("architecture")
    if not isinstance(known, dict) or not isinstance(architecture, str):
        raise WeightsError(
            f"{origin}: its config.json names no architecture of timm; name the weight file alone, .../FILE, and the "
            "architecture"
        )
    license, names = known.get("license"), document.get("label_names")
    count = document.get("num_classes", known.get("num_classes"))
    named = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    match known.get("input_size"):
        case [_, int(height), int(width)] if 0 < height <= pretrained.MAX_INPUT and 0 < width <= pretrained.MAX_INPUT:
            size: tuple[int, int] | None = (height, width)
        case _:
            size = None
    return ClassifierWeights(
        read_state_dict(fetched.path).tensors,
        preprocessing_from_timm(document),
        f"timm/{architecture}",
        origin,
        license if isinstance(license, str) else None,
        classes=tuple(names) if named and names else (catalog.IMAGENET_CLASSES if count == 1000 else None),
        input_size=size,
        sha256=fetched.digest.sha256,
    )


def network_of(
    weights: ClassifierWeights, architecture: str | None, classes: Sequence[str] | None
) -> tuple[nn.Module, str, tuple[str, ...], LoadReport]:
    """Build the classifier that weights belong to, and load them.

    Args:
        weights: what `fetch_classifier` gave.
        architecture: as `build_classifier` takes it; None takes what the source or the names of the tensors say.
        classes: the K class names; None takes those of the source, or numbers them.

    Returns:
        The network, its architecture, its classes, and what became of each tensor.

    Raises:
        ValueError: if nobody says which architecture it is of, or there is none of that name.
        WeightsError: if the weights do not belong to it.
    """
    what = weights.source
    name = architecture or weights.architecture or _architecture_by_names(recognize(weights.tensors), weights.tensors)
    if name is None:
        raise ValueError(
            f"source={what!r}: does not say of which architecture it is; pass "
            "architecture='torchvision/NAME', 'timm/NAME' or a classifier of "
            "fullyconv.weights.architectures.CLASSIFIERS. A segmenter of torchvision is taken by fullyconv.load, "
            "and by fullyconv convert, with its name (deeplabv3_resnet50) as architecture, and with classes"
        )
    if weights.absent:
        raise WeightsError(f"{what}: was published without the classifier's own layers; load_backbone takes it")
    named = tuple(classes) if classes is not None else weights.classes
    try:
        network = build_classifier(name, 1000 if named is None else len(named))
    except ValueError as error:
        if architecture is not None:
            raise
        raise WeightsError(f"{what}: names a classifier that cannot be built: {error}") from error
    try:
        translation = translate(name.removeprefix("torchvision/"), weights.tensors, weights.architecture)
    except WeightsError as error:
        raise WeightsError(f"{what}: {error}") from error
    tensors, origin = translation.tensors, translation.origin
    if named is None:
        count = count_classes(network.state_dict(), tensors)
        # of efficientnet_pytorch nothing but ImageNet's was published
        known = translation.scheme.naming == "lukemelas" and count == len(catalog.IMAGENET_CLASSES)
        named = catalog.IMAGENET_CLASSES if known else numbered(count, what)
        network = build_classifier(name, count)
    left_out = fit_classifier(network, tensors, what)
    if weights.beside:
        tell(f"{what}: not of the network, and unused: {', '.join(weights.beside)}")
    load_report = LoadReport(
        copied=tuple(key for name, key in origin.items() if name not in left_out and key not in translation.adapted),
        adapted=translation.adapted,
        unused=(*(origin[name] for name in left_out), *translation.unused, *weights.beside),
    )
    return network, name, named, load_report


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


def _architecture_by_names(scheme: Scheme, tensors: Mapping[str, Tensor]) -> str | None:
    """Name the network of a file whose layers tell: Caffe's and efficientnet_pytorch's do."""
    if scheme.naming == "lukemelas":
        return efficientnet.architecture(tensors)
    if scheme.naming != "caffe":
        return None
    if scheme.family == "caffenet":
        return "caffenet"
    return "torchvision/vgg19" if "conv3_4.weight" in tensors else "torchvision/vgg16"


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

"""Weights of classifiers from any source: fetched, verified and read, with what is known of them, and who takes them.

What they expect of an image is told by their publisher, by the names of their tensors, or by their network: whoever
loads weights asks in this order. Where nobody says so, it is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fullyconv.backbones import BACKBONES, Backbone, LoadReport, Padding, build_backbone, efficientnet_lite
from fullyconv.errors import WeightsError, printable, refusing, tell
from fullyconv.preprocessing import CAFFE, IMAGENET, MAX_CHANNELS, Preprocessing
from fullyconv.weights import catalog, efficientnet, pretrained, sources
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.described import counters, fill
from fullyconv.weights.lock import accepting
from fullyconv.weights.repositories import Fetched
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.translation import Scheme, canonical, fitting, scheme_of, translate

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

LICENSE_IMAGENET = "not stated by torchvision, whose code is BSD-3-Clause; the terms of ImageNet may bind"

INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What torchvision's GoogLeNet makes of ImageNet's normalization by its ``transform_input``: -1..1."""

LITE = INCEPTION
"""As Google trained EfficientNet-Lite; the rest of the family has ImageNet's numbers."""

CAFFE_VGG = Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, "bgr")
"""Bytes in the order blue, green, red minus the mean that Simonyan and Zisserman publish with their weights."""


@dataclass(frozen=True)
class ClassifierWeights:
    """Weights of a classifier, with all that is known of them.

    Args:
        tensors: by the names of torchvision, timm, Caffe or this package.
        preprocessing: what they expect of an image; None where nobody says so.
        architecture: what the publisher calls the network, as `build_classifier` takes it ("torchvision/vgg16"); None
            where nobody says so.
        source: where they came from, for messages.
        license: as the publisher states it; None where nobody does.
        absent: prefixes of the layers that they are known to lack, by the classifier's keys.
        beside: names of tensors in the file that are none of the network's.
        classes: the K class names; None where they are not known.
        input_size: height and width it classifies at, in pixels; None where it is not known.
        sha256: of the file.
        training: what is known of the training.
        score: what was measured, in percent.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None = None
    architecture: str | None = None
    source: str = "state_dict"
    license: str | None = None
    absent: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    sha256: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] | None = None

    @property
    def origin(self) -> str:
        """The source, for records that travel with the weights: where a folder lies on this machine is left out."""
        return Path(self.source).name if Path(self.source).is_absolute() else self.source


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
        start(backbone, weights, allow_unverified)
    return backbone


def start(backbone: Backbone, source: str | Path, allow_unverified: bool = False) -> ClassifierWeights:
    """Let a backbone start from a classifier, fetched as `fetch_classifier` does and taken as `apply` does."""
    weights = fetch_classifier(source, allow_unverified=allow_unverified, like=names_of(backbone))
    apply(backbone, weights)
    return weights


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
        member, fetched = sources.torchvision_member(place), sources.fetch(place)
        weights = torchvision_weights(member, fetched.path)
        return replace(weights, source=fetched.origin, sha256=fetched.digest.sha256)
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
    config, tensors = pretrained.load(weights.path.parent)
    with refusing(weights.path.with_name(pretrained.CONFIG), ValueError):
        preprocessing = Preprocessing.from_dict(config.preprocessing)
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


def _timm(document: dict[str, Any], fetched: Fetched, origin: str) -> ClassifierWeights:
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
    size: Any = known.get("input_size")
    sound = isinstance(size, list) and len(size) == 3
    sound = sound and all(type(side) is int and 0 < side <= pretrained.MAX_INPUT for side in size[1:])
    return ClassifierWeights(
        read_state_dict(fetched.path).tensors,
        preprocessing_from_timm(document),
        f"timm/{architecture}",
        origin,
        license if isinstance(license, str) else None,
        classes=tuple(names) if named and names else (catalog.IMAGENET_CLASSES if count == 1000 else None),
        input_size=(size[1], size[2]) if sound else None,
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
    name = architecture or weights.architecture or _architecture_by_names(scheme_of(weights.tensors), weights.tensors)
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
    with refusing(what, WeightsError):
        translation = translate(name.removeprefix("torchvision/"), weights.tensors, weights.architecture)
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
    fitted = {name: value for name, value in tensors.items() if name not in unused} | counters(own, tensors)
    for name in own.keys() & fitted.keys():
        value, shape = fitted[name], own[name].shape
        if {value.ndim, len(shape)} == {2, 4} and value.numel() == shape.numel():
            fitted[name] = value.reshape(shape)
    fill(network, fitted, what)
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
    shapes = [(own[name].shape, tensors[name].shape) for name in own.keys() & tensors.keys()]
    pairs = [(ours, theirs) for ours, theirs in shapes if ours and theirs and ours[1:].numel() == theirs[1:].numel()]
    counts = {int(theirs[0]) for ours, theirs in pairs if ours[0] == 1000 != theirs[0]}
    return counts.pop() if len(counts) == 1 else 1000


def numbered(count: int, what: str) -> tuple[str, ...]:
    """Number the classes of a file, ``what``, that says nothing of them."""
    tell(f"{what}: says nothing of its classes; they are called 'class 0' to 'class {count - 1}'")
    return tuple(f"class {index}" for index in range(count))


def apply(backbone: Backbone, weights: ClassifierWeights) -> LoadReport:
    """Load weights into a backbone, whoever named their tensors. Either everything fits or nothing is changed.

    The backbone then knows its `load_report`, and as `preprocessing` what the weights expect, for its own number of
    channels. Where nobody said what they expect, the names tell (Caffe's do) or
    timm's own numbers of a network of timm; else it is None.

    Args:
        backbone: of this package.
        weights: what to load.

    Returns:
        What became of each tensor, by the names of the file.

    Raises:
        WeightsError: if too little fits; it says whose names the file has, and which backbone it fits.

    Example:
        >>> from fullyconv.backbones.resnet import narrow_classifier, resnet
        >>> weights = ClassifierWeights(narrow_classifier("resnet18_half", num_classes=10).state_dict())
        >>> apply(resnet("resnet18_half"), weights).unused
        ('fc.weight', 'fc.bias')
    """
    try:
        translation = translate(backbone.name, weights.tensors, weights.architecture)
        loaded = backbone.load_classifier(translation.tensors, absent=weights.absent)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error}{_hint(backbone.name, weights.tensors)}") from error
    origin, changed = translation.origin, set(translation.adapted)
    copied = [origin[key] for key in loaded.copied]
    load_report = LoadReport(
        copied=tuple(key for key in copied if key not in changed),
        reshaped=tuple(origin[key] for key in loaded.reshaped),
        adapted=(*(origin[key] for key in loaded.adapted), *(key for key in copied if key in changed)),
        reinitialized=loaded.reinitialized,
        unused=(*(origin[key] for key in loaded.unused), *translation.unused, *weights.beside),
    )
    expected = weights.preprocessing or preprocessing_of(backbone.name, weights.tensors)
    backbone.load_report = load_report
    backbone.preprocessing = None if expected is None else expected.for_channels(backbone.in_channels)
    return load_report


def _hint(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Say what the file looks like, for someone whose backbone it does not fit."""
    scheme = scheme_of(tensors)
    others = [other for other in fitting(tensors) if canonical(other) != canonical(name)]
    fits = f", and looks like {' or '.join(others)}: build that backbone" if others else ""
    if scheme.naming == "unknown":
        known = ", ".join(BACKBONES)
        return f" The file has {scheme}; known are those of torchvision, timm and Caffe, for {known} and timm/NAME."
    return f" The file has {scheme}{fits}."


def preprocessing_from_torchvision(weights: WeightsEnum) -> Preprocessing:
    """Give what weights published by torchvision expect of an image.

    Args:
        weights: a member of an enum, as ``torchvision.models.VGG16_Weights.IMAGENET1K_V1``.

    Returns:
        Mean and deviation of its transforms; GoogLeNet's and Inception's, whose classifiers shift the image once more
        before they look at it, are those of -1..1.

    Raises:
        WeightsError: if its transforms do not say.

    Example:
        >>> from torchvision.models import GoogLeNet_Weights
        >>> preprocessing_from_torchvision(GoogLeNet_Weights.IMAGENET1K_V1).mean
        (0.5, 0.5, 0.5)
    """
    if type(weights).__name__ in ("GoogLeNet_Weights", "Inception_V3_Weights"):
        return INCEPTION
    transforms = cast(Any, weights.transforms())
    try:
        return Preprocessing(tuple(transforms.mean), tuple(transforms.std))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights}: its transforms have no mean and std of a classifier ({error}); take weights of a classifier"
        ) from error


def preprocessing_from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Give what weights published for timm expect of an image.

    Args:
        config: the ``config.json`` of the repository: mean and std stand in ``pretrained_cfg``, or at the top in old
            ones.

    Returns:
        Mean and deviation in 0..1.

    Raises:
        WeightsError: if they are missing, or no plain numbers in their range.

    Example:
        >>> preprocessing_from_timm({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}).std
        (0.5, 0.5, 0.5)
    """
    entry = config.get("pretrained_cfg", config)
    try:
        mean, std = entry["mean"], entry["std"]
        if not isinstance(mean, list) or not isinstance(std, list) or len(mean) > MAX_CHANNELS:
            raise TypeError("no lists of one number a channel")
        return Preprocessing(tuple(mean), tuple(std))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise WeightsError(
            f"config.json: mean and std of pretrained_cfg are none ({printable(error)}); fetch the repository again, "
            "or pass preprocessing yourself"
        ) from error


def preprocessing_of(architecture: str, tensors: Iterable[str] = ()) -> Preprocessing | None:
    """Give what the published weights of a network expect of an image, where names tell.

    Args:
        architecture: as `build_classifier` or `build_backbone` takes it.
        tensors: names of tensors: Caffe's classifiers see bytes in the order blue, green, red.

    Returns:
        timm's own mean and deviation for "timm/NAME", those of EfficientNet-Lite and of Caffe; else None.

    Example:
        >>> preprocessing_of("timm/tf_efficientnet_lite0").mean
        (0.5, 0.5, 0.5)
    """
    scheme = scheme_of(tensors)
    if scheme.naming == "caffe":
        return CAFFE_VGG if scheme.family == "vgg" else CAFFE
    if architecture in efficientnet_lite.SCALES:
        return LITE
    family, _, name = architecture.partition("/")
    if family != "timm":
        return None
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return None if config is None else Preprocessing(tuple(config.mean), tuple(config.std))


def imagenet_for(what: str) -> Preprocessing:
    """Assume ImageNet's mean and deviation for weights, ``what``, that say nothing of their preprocessing."""
    tell(f"{what}: says nothing of its preprocessing; ImageNet's mean and deviation are assumed")
    return IMAGENET

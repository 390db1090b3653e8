"""Classifier weights of any origin: what they expect of an image, and how a backbone takes them.

What they expect is told by their publisher, by the names of their tensors, or by their network: whoever loads weights
asks in this order. Where nobody says so, it is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from fullyconv.backbones import BACKBONES, Backbone, LoadReport, efficientnet_lite
from fullyconv.errors import WeightsError, printable, tell
from fullyconv.preprocessing import CAFFE, Preprocessing
from fullyconv.weights.checkpoints import canonical, fitting, recognize, translate

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What torchvision's GoogLeNet makes of ImageNet's normalization by its ``transform_input``: -1..1."""

LITE = INCEPTION
"""As Google trained EfficientNet-Lite; the rest of the family has ImageNet's numbers."""

CAFFE_VGG = Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, "bgr")
"""Bytes in the order blue, green, red minus the mean that Simonyan and Zisserman publish with their weights."""

MAX_CHANNELS = 1024


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
    scheme = recognize(tensors)
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


def _hint(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Say what the file looks like, for someone whose backbone it does not fit."""
    scheme = recognize(tensors)
    others = [other for other in fitting(tensors) if canonical(other) != canonical(name)]
    fits = f", and looks like {' or '.join(others)}: build that backbone" if others else ""
    if scheme.naming == "unknown":
        known = ", ".join(BACKBONES)
        return f" The file has {scheme}; known are those of torchvision, timm and Caffe, for {known} and timm/NAME."
    return f" The file has {scheme}{fits}."

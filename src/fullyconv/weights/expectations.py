"""What classifier weights expect of an image: told by their publisher, by the names of their tensors, or by their own.

Whoever loads weights asks in this order; where nobody says so, it is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from fullyconv.backbones import efficientnet_lite
from fullyconv.errors import WeightsError, printable
from fullyconv.preprocessing import CAFFE, Preprocessing
from fullyconv.weights.checkpoints import recognize

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What torchvision's GoogLeNet makes of ImageNet's normalization by its ``transform_input``: -1..1."""

LITE = INCEPTION
"""As Google trained EfficientNet-Lite; the rest of the family has ImageNet's numbers."""

CAFFE_VGG = Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, "bgr")
"""Bytes in the order blue, green, red minus the mean that Simonyan and Zisserman publish with their weights."""

MAX_CHANNELS = 1024


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

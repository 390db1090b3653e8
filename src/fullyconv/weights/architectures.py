"""Classifiers by name: torchvision's, timm's, and the few of this package. Built at random; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from fullyconv.backbones import efficientnet_lite
from fullyconv.backbones.alexnet import caffenet_classifier
from fullyconv.backbones.cifar import CifarResNet
from fullyconv.backbones.resnet import NARROW, narrow_classifier
from fullyconv.backbones.timm import check_name
from fullyconv.backbones.vgg import vgg11_quarter_classifier
from fullyconv.errors import near_miss

CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "caffenet": caffenet_classifier,
    **{name: partial(narrow_classifier, name) for name in NARROW},
    "vgg11_quarter": vgg11_quarter_classifier,
    **{name: partial(efficientnet_lite.EfficientNetLiteClassifier, name) for name in efficientnet_lite.SCALES},
    "cifar_resnet20": partial(CifarResNet, 20),
    "cifar_resnet56": partial(CifarResNet, 56),
}
"""The classifiers of this package: name -> function of the number of classes K."""

INPUT_SIZES = efficientnet_lite.INPUT_SIZES | {"caffenet": 227, "cifar_resnet20": 32, "cifar_resnet56": 32}
"""Native height and width in pixels, where it is not 224."""

MAX_CLASSES = 50_000


def build_classifier(architecture: str, num_classes: int) -> nn.Module:
    """Build a classifier, randomly initialized.

    Args:
        architecture: "torchvision/NAME", "timm/NAME", or a key of `CLASSIFIERS`.
        num_classes: number of classes K.

    Raises:
        ValueError: if there is no such classifier.
        ImportError: for "timm/NAME" without timm.

    Example:
        >>> build_classifier("torchvision/resnet18", 5).fc.out_features
        5
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes={num_classes}: must be in 1..{MAX_CLASSES}")
    family, _, name = architecture.partition("/")
    if family == "timm" and name:
        check_name(name)
        import timm

        return timm.create_model(name, pretrained=False, num_classes=num_classes)
    if architecture in CLASSIFIERS:
        return CLASSIFIERS[architecture](num_classes)
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if family != "torchvision" or name not in known:
        choices = known if family == "torchvision" else [*CLASSIFIERS, "torchvision/NAME", "timm/NAME"]
        bare = architecture in known
        hint = f"Did you mean torchvision/{architecture}?" if bare else near_miss(name or architecture, choices)
        owner = "torchvision has " if family == "torchvision" else ""
        raise ValueError(f"architecture={architecture!r}: {owner}no such classifier. {hint}")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # The auxiliary heads serve training only; what their published weights do to the image is preprocessing here.
        options = {"aux_logits": False, "init_weights": False}
    elif name.startswith("vgg"):
        options = {"init_weights": False}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network


def input_size(architecture: str) -> int:
    """Give the native height and width of a classifier in pixels, as its library states it; 224 where it does not.

    Example:
        >>> input_size("torchvision/inception_v3"), input_size("cifar_resnet20")
        (299, 32)
    """
    family, _, name = architecture.partition("/")
    if family == "torchvision":
        from torchvision.models import get_model_weights

        sizes = [getattr(member.transforms(), "crop_size", [224])[0] for member in get_model_weights(name)]
        return int(sizes[0]) if sizes else 224
    if family == "timm":
        import timm

        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return int(config.input_size[-1]) if config is not None else 224
    return INPUT_SIZES.get(architecture, 224)

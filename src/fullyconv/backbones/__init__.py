"""Backbones: classifiers' backbones, each giving features by stride."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fullyconv.backbones import alexnet, efficientnet_lite, fusion, googlenet, mobilenet, resnet, timm, vgg
from fullyconv.backbones.base import Backbone, Features, LoadReport, Padding, Switch, is_paper
from fullyconv.errors import near_miss
from fullyconv.lazy import submodules


def _named(build: Callable[..., Backbone], *names: str) -> dict[str, Callable[..., Backbone]]:
    return {name: partial(build, name) for name in names}


BACKBONES: dict[str, Callable[..., Backbone]] = {
    **_named(vgg.vgg, "vgg11_quarter", "vgg16", "vgg16_bn"),
    "vgg16_late": fusion.vgg16_late,
    **_named(vgg.vgg, "vgg19", "vgg19_bn"),
    "alexnet": alexnet.alexnet,
    "caffenet": alexnet.caffenet,
    "googlenet": googlenet.googlenet,
    **_named(resnet.resnet, "resnet18", "resnet18_half", "resnet18_quarter", "resnet18_slim", "resnet34", "resnet50"),
    **_named(resnet.resnet, "resnet101", "resnet50_dilated", "resnet101_dilated"),
    **_named(mobilenet.mobilenet_v3, "mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v3_large_dilated"),
    **_named(efficientnet_lite.efficientnet_lite, "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
}


def build_backbone(name: str, *, in_channels: int = 3, padding: Padding = "same") -> Backbone:
    """Build a backbone by name, randomly initialized.

    Args:
        name: a key of `BACKBONES`, or "timm/NAME" for a classifier of timm.
        in_channels: channels of the input.
        padding: "same" covers any image without waste; "paper" puts 100 pixels around it, as the nets of the paper do.

    Returns:
        The backbone.

    Raises:
        ValueError: if the name is unknown (a near miss is offered), or the backbone has no such padding.
        ImportError: for "timm/NAME" without timm.

    Example:
        >>> build_backbone("resnet18_half").channels
        {4: 32, 8: 64, 16: 128, 32: 256}
    """
    if name.startswith(timm.PREFIX):
        return timm.timm_backbone(name, in_channels=in_channels, padding=padding)
    builder = BACKBONES.get(name)
    if builder is None:
        raise ValueError(f"name={name!r} is not a backbone. {near_miss(name, [*BACKBONES, 'timm/NAME'])}")
    is_paper(padding, name, paper=True)  # a misspelt word is refused before anything large is built
    return builder(in_channels=in_channels, padding=padding)


__all__ = ["BACKBONES", "Backbone", "Features", "LoadReport", "Padding", "Switch", "build_backbone"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

"""The presets, each a family of heads on a backbone, by name: ``fcn8s_vgg16``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, overload

from fullyconv.backbones import BACKBONES, Padding, build_backbone
from fullyconv.backbones.plain import PlainConvolutions
from fullyconv.backbones.vgg import vgg
from fullyconv.errors import near_miss
from fullyconv.fcn.model import FCN, MultiHeadFCN, check_heads, with_heads
from fullyconv.heads import ASPPHead, LadderHead, LRASPPHead, PlainHead, SkipHead, UnpoolHead, Upsampling

MAX_WIDTH = 1024

Stretched = Literal["bilinear", "stretch"]


def skips(
    backbone: str,
    num_classes: int,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
    *,
    strides: Sequence[int],
    scales: Mapping[int, float] | None = None,
) -> FCN:
    """Build a model of the paper: scores at some strides, from coarse to fine, summed and upsampled to the pixels.

    See `SkipHead` for strides and scales.
    """
    extractor = build_backbone(backbone, in_channels=in_channels, padding=padding)
    head = partial(SkipHead, upsampling=upsampling, scales=scales, padding=padding)
    return FCN(extractor, head(extractor.channels, num_classes, extractor.geometry, strides))


def coarsest(
    backbone: str,
    num_classes: int,
    in_channels: int = 3,
    upsampling: Stretched = "bilinear",
    *,
    head: type[PlainHead] | type[ASPPHead] = PlainHead,
) -> FCN:
    """Build a model of torchvision: a head on the coarsest map of a dilated backbone, stride 8 for ResNet.

    Its upsampling "bilinear" interpolates by the centers of the cells, as all presets do; "stretch" is torchvision's
    own, which its weights were trained with.
    """
    stretch = _is_stretched(upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    stride = max(extractor.channels)
    scored = head(extractor.channels[stride], num_classes, extractor.geometry[stride], stride=stride)
    return FCN(extractor, scored, stretch=stretch)


def plain(backbone: str, num_classes: int, in_channels: int = 3) -> FCN:
    """Build a model with torchvision's plain head on the coarsest map of any backbone; see `coarsest`."""
    return coarsest(backbone, num_classes, in_channels)


def lraspp(backbone: str, num_classes: int, in_channels: int = 3, upsampling: Stretched = "bilinear") -> FCN:
    """Build torchvision's LR-ASPP: scores at strides 16 and 8, the coarse features gated.

    The choice of upsampling brings the scores of stride 16 to those of stride 8, too; see `coarsest`.
    """
    extractor = build_backbone(backbone, in_channels=in_channels)
    stretch = _is_stretched(upsampling)
    head = LRASPPHead(extractor.channels, num_classes, extractor.geometry, strides=(16, 8), upsampling=upsampling)
    return FCN(extractor, head, stretch=stretch)


def ladder(backbone: str, num_classes: int, in_channels: int = 3, head_width: int = 64) -> FCN:
    """Build a model with a ladder of convolutions from the coarsest stride up to the finest, after SwiftNet.

    Args:
        backbone: a name that `build_backbone` takes, with features of two strides at least.
        num_classes: number of classes K.
        in_channels: channels of the input.
        head_width: channels on the ladder.

    Returns:
        The model; its scores have stride 4, or the finest stride above it that the backbone has.

    Raises:
        ValueError: if the backbone has features of one stride only.
    """
    extractor = build_backbone(backbone, in_channels=in_channels)
    strides = sorted((stride for stride in extractor.channels if stride >= 4), reverse=True)
    if len(strides) < 2:
        raise ValueError(
            f"backbone={backbone!r} has features of stride {strides} only; a ladder climbs over two or more"
        )
    return FCN(extractor, LadderHead(extractor.channels, num_classes, extractor.geometry, strides, inner=head_width))


def segnet(backbone: str, num_classes: int, in_channels: int = 3) -> FCN:
    """Build a SegNet: the convolutions of a VGG with batch norm, and their mirror image with unpooling.

    Args:
        backbone: "vgg16_bn", whose 13 convolutions are those of SegNet, or "vgg11_quarter".
        num_classes: number of classes K.
        in_channels: channels of the input.

    Returns:
        The model.
    """
    channels, depths = {
        "vgg16_bn": ({2: 64, 4: 128, 8: 256, 16: 512, 32: 512}, {2: 1, 4: 2, 8: 3, 16: 3, 32: 3}),
        "vgg11_quarter": ({2: 16, 4: 32, 8: 64, 16: 128, 32: 128}, {2: 1, 4: 1, 8: 2, 16: 2, 32: 2}),
    }[backbone]
    extractor = vgg(backbone, in_channels=in_channels, fc=False, switches=True)
    return FCN(extractor, UnpoolHead(channels, num_classes, depths=depths, geometry=extractor.geometry[32]))


def same_convolutions(num_classes: int, *, in_channels: int = 3, channels: int = 32, depth: int = 6) -> FCN:
    """Build the first idea of every explainer: same convolutions only, at full resolution.

    Its receptive field grows by two pixels a layer only, and every layer costs what a full map costs.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the input.
        channels: channels of each convolution.
        depth: number of 3 x 3 convolutions.

    Returns:
        The model.
    """
    backbone = PlainConvolutions("same_convolutions", [[channels] * depth], in_channels=in_channels)
    return FCN(backbone, SkipHead(backbone.channels, num_classes, backbone.geometry, strides=(1,)))


def pool_unpool(
    num_classes: int, *, in_channels: int = 3, channels: Sequence[int] = (32, 64, 128), depth: int = 2
) -> FCN:
    """Build the second idea of every explainer: same convolutions with pairs of 2 x 2 max pooling and unpooling.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the input.
        channels: channels of the convolutions in front of each pooling.
        depth: 3 x 3 convolutions in front of each pooling, and behind each unpooling.

    Returns:
        The model.
    """
    groups = [[width] * depth for width in channels]
    backbone = PlainConvolutions("pool_unpool", groups, pool=True, in_channels=in_channels)
    depths = dict.fromkeys(backbone.channels, depth)
    head = UnpoolHead(backbone.channels, num_classes, depths=depths, geometry=backbone.geometry[max(backbone.channels)])
    return FCN(backbone, head)


_VGG = ("vgg11_quarter", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")
_RESNET = ("resnet18", "resnet18_half", "resnet18_quarter", "resnet18_slim", "resnet34", "resnet50", "resnet101")
_MOBILE = ("mobilenet_v3_small", "mobilenet_v3_large")
_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_TO_STRIDE_4 = (*_VGG, *_RESNET, *_MOBILE, *_LITE)
_TO_STRIDE_8 = (*_TO_STRIDE_4, "alexnet", "caffenet", "googlenet")  # whose features of stride 4 do not exist

# What builds a model of a family, and the backbones it is listed with; each takes any classifier of timm, too.
FAMILIES: dict[str, tuple[Callable[..., FCN], Iterable[str]]] = {
    "fcn32s": (partial(skips, strides=(32,)), (*_TO_STRIDE_8, "vgg16_late")),
    "fcn16s": (partial(skips, strides=(32, 16)), _TO_STRIDE_8),
    "fcn8s": (partial(skips, strides=(32, 16, 8)), _TO_STRIDE_8),
    "fcn4s": (partial(skips, strides=(32, 16, 8, 4)), _TO_STRIDE_4),  # one skip more than the paper has
    # The factors of the reference (voc-fcn8s-atonce) stand for the magnitudes of pool4 and pool3 of Caffe's VGG.
    "fcn8s_atonce": (partial(skips, strides=(32, 16, 8), scales={16: 0.01, 8: 0.0001}), _TO_STRIDE_8),
    "plain": (plain, _TO_STRIDE_8),
    "ladder": (ladder, BACKBONES),
}

MODELS: dict[str, Callable[..., FCN]] = {
    **{f"{name}_{net}": partial(build, net) for name, (build, backbones) in FAMILIES.items() for net in backbones},
    # torchvision's segmenters, whose names we keep, leave unsaid that their backbones are dilated
    "fcn_resnet50": partial(coarsest, "resnet50_dilated"),
    "fcn_resnet101": partial(coarsest, "resnet101_dilated"),
    # training takes batches of at least two images
    "deeplabv3_resnet50": partial(coarsest, "resnet50_dilated", head=ASPPHead),
    "deeplabv3_resnet101": partial(coarsest, "resnet101_dilated", head=ASPPHead),
    "deeplabv3_mobilenet_v3_large": partial(coarsest, "mobilenet_v3_large_dilated", head=ASPPHead),
    "lraspp_mobilenet_v3_large": partial(lraspp, "mobilenet_v3_large_dilated"),
    "segnet_vgg16_bn": partial(segnet, "vgg16_bn"),
    "segnet_vgg11_quarter": partial(segnet, "vgg11_quarter"),
    "same_convolutions": same_convolutions,
    "pool_unpool": pool_unpool,
}


class Choices(TypedDict, total=False):
    """What `build_model` leaves to choose."""

    in_channels: int
    padding: Padding
    upsampling: Upsampling
    head_width: int | None


@overload
def build_model(name: str, num_classes: int, **choices: Unpack[Choices]) -> FCN: ...


@overload
def build_model(name: str, num_classes: Mapping[str, int], **choices: Unpack[Choices]) -> MultiHeadFCN: ...


def build_model(
    name: str,
    num_classes: int | Mapping[str, int],
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
    head_width: int | None = None,
) -> FCN | MultiHeadFCN:
    """Build a preset by name, randomly initialized, its score layers at zero.

    Args:
        name: a key of `MODELS`: a family and a backbone, "fcn8s_vgg16", "ladder_efficientnet_lite0"; or a family and
            any classifier of timm, "fcn8s_timm/NAME" (fcn32s, fcn16s, fcn8s, fcn4s, fcn8s_atonce, plain, ladder).
        num_classes: number of classes K; for several heads on one backbone their names and numbers of classes,
            {"semantic": 33, "geometric": 3}. Presets with skips have them (fcn32s, fcn16s, fcn8s, ...).
        in_channels: channels of the input.
        padding: "same" serves any size without waste; "paper" is the reference's 100 pixels around the image, with its
            crops.
        upsampling: "bilinear" is a fixed function; "learned" are transposed convolutions that start as bilinear
            interpolation; "frozen" the same with fixed kernels, as in the nets that were released; "stretch" is for
            torchvision's segmenters only, as their weights were trained.
        head_width: channels of the head, for ladders only; None is the preset's own.

    Returns:
        The model.

    Raises:
        ValueError: if the name is unknown (a near miss is offered), or the model does not exist with these arguments.

    Example:
        >>> build_model("fcn8s_resnet18_half", num_classes=11).geometry.stride
        (8.0, 8.0)
    """
    if isinstance(num_classes, Mapping):
        check_heads(num_classes)
        model = build_model(
            name, 1, in_channels=in_channels, padding=padding, upsampling=upsampling, head_width=head_width
        )
        return with_heads(model, num_classes)
    build = _found(name)
    takes = inspect.signature(build).parameters
    options: dict[str, Any] = {}
    chosen = (("padding", padding, "same"), ("upsampling", upsampling, "bilinear"), ("head_width", head_width, None))
    for argument, value, usual in chosen:
        if value == usual:
            continue
        if argument not in takes and not any(taken.kind is taken.VAR_KEYWORD for taken in takes.values()):
            raise ValueError(f"{argument}={value!r}: {name} has no such choice; leave {argument}={usual!r}.")
        options[argument] = value
    if head_width is not None and (type(head_width) is not int or not 1 <= head_width <= MAX_WIDTH):
        raise ValueError(f"head_width={head_width!r}: must be a number of channels in 1..{MAX_WIDTH}.")
    return build(num_classes, in_channels=in_channels, **options)


def _found(name: str) -> Callable[..., FCN]:
    if name in MODELS:
        return MODELS[name]
    family, _, classifier = name.partition("_timm/")
    if family in FAMILIES and classifier:
        return partial(FAMILIES[family][0], f"timm/{classifier}")
    raise ValueError(
        f"name={name!r} is not a model. {near_miss(name, MODELS)} Or a family ({', '.join(FAMILIES)}) and any "
        "classifier of timm: fcn8s_timm/NAME."
    )


def _is_stretched(upsampling: str) -> bool:
    if upsampling not in ("bilinear", "stretch"):
        raise ValueError(f"upsampling={upsampling!r}: choose 'bilinear' or 'stretch'.")
    return upsampling == "stretch"

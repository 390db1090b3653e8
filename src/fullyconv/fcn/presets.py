"""The presets, each a family of heads on a backbone, by name: ``fcn8s_vgg16``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from fullyconv.backbones import BACKBONES, Padding, build_backbone
from fullyconv.backbones.plain import PlainConvolutions
from fullyconv.backbones.vgg import vgg
from fullyconv.errors import near_miss
from fullyconv.fcn.model import FCN
from fullyconv.fcn.several import MultiHeadFCN, check_heads, with_heads
from fullyconv.heads import ASPPHead, LadderHead, LRASPPHead, PlainHead, SkipHead, UnpoolHead, Upsampling

MAX_WIDTH = 1024

Stretched = Literal["bilinear", "stretch"]


def skips(name: str, *strides: int, scales: Mapping[int, float] | None = None) -> Callable[..., FCN]:
    """Make a family of the paper: scores at some strides, summed, and upsampled to the pixels.

    Args:
        name: of the family.
        strides: of the features that are scored, from the coarsest to the finest.
        scales: a factor for the features of a stride; 1 where it is left out.

    Returns:
        What builds a model of it.
    """

    def build(
        backbone: str,
        num_classes: int,
        in_channels: int = 3,
        padding: Padding = "same",
        upsampling: Upsampling = "bilinear",
    ) -> FCN:
        extractor = build_backbone(backbone, in_channels=in_channels, padding=padding)
        head = SkipHead(
            extractor.channels,
            num_classes,
            extractor.geometry,
            strides,
            upsampling=upsampling,
            scales=scales,
            padding=padding,
        )
        return FCN(extractor, head)

    build.__name__ = name
    return build


fcn32s = skips("fcn32s", 32)
fcn16s = skips("fcn16s", 32, 16)
fcn8s = skips("fcn8s", 32, 16, 8)
fcn4s = skips("fcn4s", 32, 16, 8, 4)  # one skip more than the paper has
# The factors of the reference (voc-fcn8s-atonce) stand for the magnitudes of pool4 and pool3 of Caffe's VGG.
fcn8s_atonce = skips("fcn8s_atonce", 32, 16, 8, scales={16: 0.01, 8: 0.0001})


def coarsest(name: str, head: type[PlainHead] | type[ASPPHead]) -> Callable[..., FCN]:
    """Make a family of torchvision: a head on the coarsest map of a dilated backbone, stride 8 for ResNet.

    Args:
        name: of the family.
        head: what scores the map.

    Returns:
        What builds a model of it. Its upsampling "bilinear" interpolates by the centers of the cells, as all presets
        do; "stretch" is torchvision's own, which its weights were trained with.
    """

    def build(backbone: str, num_classes: int, in_channels: int = 3, upsampling: Stretched = "bilinear") -> FCN:
        extractor = build_backbone(backbone, in_channels=in_channels)
        stride = max(extractor.channels)
        scored = head(extractor.channels[stride], num_classes, extractor.geometry[stride], stride=stride)
        return FCN(extractor, scored, stretch=_is_stretched(upsampling))

    build.__name__ = name
    return build


fcn = coarsest("fcn", PlainHead)
deeplabv3 = coarsest("deeplabv3", ASPPHead)  # training takes batches of at least two images


def plain(backbone: str, num_classes: int, in_channels: int = 3) -> FCN:
    """Build a model with torchvision's plain head on the coarsest map of any backbone; see `coarsest`."""
    return fcn(backbone, num_classes, in_channels)


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
    backbone = PlainConvolutions("pool_unpool", groups, pool_last=True, in_channels=in_channels)
    depths = dict.fromkeys(backbone.channels, depth)
    head = UnpoolHead(backbone.channels, num_classes, depths=depths, geometry=backbone.geometry[max(backbone.channels)])
    return FCN(backbone, head)


def _presets(family: Callable[..., FCN], *backbones: str) -> dict[str, Callable[..., FCN]]:
    return {f"{family.__name__}_{name}": partial(family, name) for name in backbones}


_VGG = ("vgg11_quarter", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")
_RESNET = ("resnet18", "resnet18_half", "resnet18_quarter", "resnet18_slim", "resnet34", "resnet50", "resnet101")
_MOBILE = ("mobilenet_v3_small", "mobilenet_v3_large")
_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_TO_STRIDE_4 = (*_VGG, *_RESNET, *_MOBILE, *_LITE)
_TO_STRIDE_8 = (
    *_TO_STRIDE_4,
    "alexnet",
    "caffenet",
    "googlenet",
)  # whose features of strides 16 and 8 exist, 4 do not

MODELS: dict[str, Callable[..., FCN]] = {
    **_presets(fcn32s, *_TO_STRIDE_8, "vgg16_late"),
    **_presets(fcn16s, *_TO_STRIDE_8),
    **_presets(fcn8s, *_TO_STRIDE_8),
    **_presets(fcn4s, *_TO_STRIDE_4),
    **_presets(fcn8s_atonce, *_TO_STRIDE_8),
    **_presets(plain, *_TO_STRIDE_8),
    **_presets(ladder, *BACKBONES),
    # torchvision's segmenters, whose names we keep, leave unsaid that their backbones are dilated
    "fcn_resnet50": partial(fcn, "resnet50_dilated"),
    "fcn_resnet101": partial(fcn, "resnet101_dilated"),
    "deeplabv3_resnet50": partial(deeplabv3, "resnet50_dilated"),
    "deeplabv3_resnet101": partial(deeplabv3, "resnet101_dilated"),
    "deeplabv3_mobilenet_v3_large": partial(deeplabv3, "mobilenet_v3_large_dilated"),
    "lraspp_mobilenet_v3_large": partial(lraspp, "mobilenet_v3_large_dilated"),
    **_presets(segnet, "vgg16_bn", "vgg11_quarter"),
    "same_convolutions": same_convolutions,
    "pool_unpool": pool_unpool,
}

# the same presets with any classifier of timm: "fcn8s_timm/NAME"
TIMM_MODELS: dict[str, Callable[..., FCN]] = {
    f"{family.__name__}_timm/": family for family in (fcn32s, fcn16s, fcn8s, fcn4s, fcn8s_atonce, plain, ladder)
}


@overload
def build_model(
    name: str,
    num_classes: int,
    *,
    in_channels: int = ...,
    padding: Padding = ...,
    upsampling: Upsampling = ...,
    head_width: int | None = ...,
) -> FCN: ...


@overload
def build_model(
    name: str,
    num_classes: Mapping[str, int],
    *,
    in_channels: int = ...,
    padding: Padding = ...,
    upsampling: Upsampling = ...,
    head_width: int | None = ...,
) -> MultiHeadFCN: ...


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
    preset, timm, classifier = name.partition("timm/")
    if preset + timm in TIMM_MODELS and classifier:
        return partial(TIMM_MODELS[preset + timm], timm + classifier)
    families = ", ".join(prefix.removesuffix("_timm/") for prefix in TIMM_MODELS)
    raise ValueError(
        f"name={name!r} is not a model. {near_miss(name, MODELS)} Or a family ({families}) and any classifier of timm: "
        "fcn8s_timm/NAME."
    )


def _is_stretched(upsampling: str) -> bool:
    if upsampling not in ("bilinear", "stretch"):
        raise ValueError(f"upsampling={upsampling!r}: choose 'bilinear' or 'stretch'.")
    return upsampling == "stretch"

"""FCN: a backbone and a head; and the presets, each a backbone and a head by name (Long et al. 2015, section 4)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones import BACKBONES, Backbone, Padding, build_backbone
from fullyconv.backbones.plain import PlainConvolutions
from fullyconv.backbones.vgg import vgg11_quarter, vgg16_bn
from fullyconv.errors import near_miss
from fullyconv.geometry import Geometry
from fullyconv.heads import ASPPHead, LadderHead, LRASPPHead, PlainHead, SkipHead, UnpoolHead, Upsampling
from fullyconv.upsampling import grown_to, resample

MAX_WIDTH = 1024


class FCN(nn.Module):
    """A fully convolutional network: features by stride, and a head that turns them into class scores.

    `scores` are what the head gives, (N, K, h, w) on the grid of `geometry`; calling the model gives the logits, one
    for each pixel, for images of any height and width. The logits are the scores interpolated bilinearly at the pixels
    (`resample`); where the head upsamples by itself (learned or frozen kernels, unpooling), scores and logits are the
    same.

    Args:
        backbone: gives features by stride.
        head: a `SkipHead`, `PlainHead`, `ASPPHead`, `LRASPPHead`, `LadderHead` or `UnpoolHead` made for the backbone's
            channels.
        stretch: stretch the scores over the image whatever the centers of their cells, as torchvision's segmenters do:
            `interpolate(align_corners=False)` to the image's size. It asks for a network with ceil(H / stride) cells
            for H pixels.

    Example:
        >>> import torch
        >>> model = build_model("fcn8s_resnet18_half", num_classes=11)
        >>> model(torch.zeros(1, 3, 37, 50)).shape
        torch.Size([1, 11, 37, 50])
    """

    def __init__(
        self,
        backbone: Backbone,
        head: SkipHead | PlainHead | ASPPHead | LRASPPHead | LadderHead | UnpoolHead,
        *,
        stretch: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.stretch = stretch

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.head.num_classes

    @property
    def geometry(self) -> Geometry:
        """Where the scores lie on the image: the centers of what they depend on.

        With `stretch` they are not put there, see `geometry_for`.
        """
        return self.head.geometry

    def geometry_for(self, size: tuple[int, int]) -> Geometry:
        """Give the geometry by which the scores of an image become its logits.

        The logits are `resample(scores, model.geometry_for(size), Geometry.IDENTITY, size)`. It is `geometry`, unless
        scores are stretched: h cells over H pixels are then H/h pixels apart, the first at (H/h - 1)/2.

        Args:
            size: height and width of the image, in pixels.

        Returns:
            The geometry of the scores on that image.

        Example:
            >>> model = build_model("lraspp_mobilenet_v3_large", num_classes=21, upsampling="stretch")
            >>> model.geometry_for((96, 97)).stride
            (8.0, 7.461538461538462)
        """
        if not self.stretch:
            return self.geometry
        own = self.geometry.stride
        y, x = (n / math.ceil(n / stride) for n, stride in zip(size, own, strict=True))
        return dataclasses.replace(self.geometry, stride=(y, x), center=((y - 1) / 2, (x - 1) / 2))

    def scores(self, x: Tensor) -> Tensor:
        """Compute class scores before upsampling.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`; with a stride of 1 they are the logits, (N, K, H, W).

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        scores: Tensor = self.head(self.backbone(_padded(self.backbone, x)))
        height, width = x.shape[2:]
        return scores[..., :height, :width] if _at_pixels(self.geometry) else scores

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            (N, K, H, W) logits.

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        scores = self.scores(x)
        if _at_pixels(self.geometry):
            return scores
        size = (x.shape[2], x.shape[3])
        if self.stretch:
            return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return resample(scores, self.geometry, Geometry.IDENTITY, size)

    def grow(self, stride: int) -> FCN:
        """Make the next stage of staged training: the same network with one more skip (Long et al. 2015, section 4.2).

        All weights that both stages have are copied. The new score layer is zero, so that the new stage starts at the
        outputs of this one: up to the difference between interpolating once and twice, which is nothing where the cells
        of both strides coincide (ResNet), else at most an eighth of the second differences of the scores along each
        axis (VGG). Kernels of the new upsamplings start as bilinear.

        Args:
            stride: stride of the features to score as well; finer than those scored now.

        Returns:
            The grown model, on the same device, in the same mode. This one is left as it is.

        Raises:
            ValueError: if the head has no skips to add, or stride is not a finer stride of the backbone.

        Example:
            >>> fcn32s = build_model("fcn32s_resnet18_half", num_classes=11)
            >>> fcn32s.grow(16).grow(8).head.strides
            (32, 16, 8)
        """
        head = _grown(self.head, self.backbone, stride)
        grown = FCN(copy.deepcopy(self.backbone), head)
        grown.training = self.training
        return grown


class MultiHeadFCN(nn.Module):
    """A fully convolutional network with several heads on one backbone, one for each task (Long et al. 2015, table 5).

    It is an `FCN` that answers with a dict: scores and logits by the name of the head, in the order of `heads`.

    Args:
        backbone: gives features by stride.
        heads: a head for each task, made for the backbone's channels. Their names are Python identifiers, because they
            become part of the state dict's keys: ``head.semantic.score.32.weight``.

    Raises:
        ValueError: if there is no head, or its name cannot be part of a key.

    Example:
        >>> import torch
        >>> model = build_model("fcn16s_resnet18_half", num_classes={"semantic": 33, "geometric": 3})
        >>> {name: tuple(logits.shape) for name, logits in model(torch.zeros(1, 3, 37, 50)).items()}
        {'semantic': (1, 33, 37, 50), 'geometric': (1, 3, 37, 50)}
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, SkipHead]) -> None:
        super().__init__()
        _check_heads(heads)
        self.backbone = backbone
        self.head = nn.ModuleDict(dict(heads))

    @property
    def heads(self) -> dict[str, SkipHead]:
        """The heads by name."""
        return {name: cast(SkipHead, head) for name, head in self.head.items()}

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes K of each head."""
        return {name: head.num_classes for name, head in self.heads.items()}

    @property
    def geometry(self) -> dict[str, Geometry]:
        """Where the scores of each head lie on the image."""
        return {name: head.geometry for name, head in self.heads.items()}

    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Compute class scores before upsampling.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            For each head (N, K, h, w) scores on its grid of `geometry`; with a stride of 1 they are the logits.

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        features = self.backbone(_padded(self.backbone, x))
        height, width = x.shape[2:]
        return {
            name: head(features)[..., :height, :width] if _at_pixels(head.geometry) else head(features)
            for name, head in self.heads.items()
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the logits.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            For each head (N, K, H, W) logits.

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        scores, grids = self.scores(x), self.geometry
        size = (x.shape[2], x.shape[3])
        return {
            name: values if _at_pixels(grids[name]) else resample(values, grids[name], Geometry.IDENTITY, size)
            for name, values in scores.items()
        }

    def grow(self, stride: int) -> MultiHeadFCN:
        """Make the next stage of staged training: one more skip for every head; see `FCN.grow`.

        Args:
            stride: stride of the features to score as well; finer than those scored now.

        Returns:
            The grown model, on the same device, in the same mode. This one is left as it is.

        Raises:
            ValueError: if stride is not a finer stride of the backbone.
        """
        heads = {name: _grown(head, self.backbone, stride) for name, head in self.heads.items()}
        grown = MultiHeadFCN(copy.deepcopy(self.backbone), heads)
        grown.training = self.training
        grown.head.training = self.head.training
        return grown


def _at_pixels(geometry: Geometry) -> bool:
    return geometry.stride == (1, 1) and geometry.center == (0, 0)


def _padded(backbone: Backbone, x: Tensor) -> Tensor:
    """Continue the image at the bottom and right by its border, as far as the backbone demands it."""
    if x.ndim != 4 or min(x.shape[2:]) < 1:
        raise ValueError(f"x of shape {tuple(x.shape)} must be (N, {backbone.in_channels}, H, W) with H, W >= 1.")
    divisor, least = backbone.size_divisor, backbone.min_size
    if divisor == 1 and least <= 1:
        return x
    # any size reaches the first multiple of the divisor, so that the least size asks for no decision
    sides = [n if least <= divisor else cast(int, torch.sym_max(n, least)) for n in x.shape[2:]]
    height, width = ((n + divisor - 1) // divisor * divisor for n in sides)  # never negative, where rounding may differ
    return grown_to(x, (height, width))


def _grown(old: nn.Module, backbone: Backbone, stride: int) -> SkipHead:
    """Make a head with one more skip, which starts at zero, and all weights of the old one."""
    if not isinstance(old, SkipHead):
        raise ValueError(f"stride={stride}: {type(old).__name__} has no skips to add. Grow a model with a SkipHead.")
    finer = [choice for choice in backbone.channels if choice < old.strides[-1]]
    if stride not in finer:
        raise ValueError(
            f"stride={stride}: a model with strides={old.strides} grows by a finer stride of backbone="
            f"{backbone.name!r}: {', '.join(map(str, sorted(finer))) or 'there is none'}."
        )
    head = SkipHead(
        backbone.channels,
        old.num_classes,
        backbone.geometry,
        (*old.strides, stride),
        upsampling=old.upsampling,
        scales=old.scales,
        padding=old.padding,
    )
    own, new = old.state_dict(), head.state_dict()
    head.load_state_dict({key: own.get(key, value) for key, value in new.items()})
    head.to(next(old.parameters()))
    head.train(old.training)
    for name, parameter in old.named_parameters():
        if name in new:
            head.get_parameter(name).requires_grad_(parameter.requires_grad)
    return head


def _check_heads(names: Mapping[str, object]) -> None:
    """Refuse names that cannot stand in the keys of a state dict."""
    if not names:
        raise ValueError("a model has at least one head; give its name and number of classes, {'semantic': 33}.")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"{name!r} cannot name a head: it becomes part of the keys of the state dict. "
                "Give a Python identifier that is no attribute of a module, such as 'semantic'."
            )


def fcn32s(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build an FCN-32s: scores at stride 32, upsampled to the pixels.

    Args:
        backbone: a name that `build_backbone` takes.
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same", or "paper" for 100 pixels around the image and the crops of the reference.
        upsampling: "bilinear", "learned" or "frozen", as `SkipHead` takes it.

    Returns:
        The model.
    """
    return _skip((32,), None, backbone, num_classes, in_channels, padding, upsampling)


def fcn16s(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build an FCN-16s: scores at strides 32 and 16; see `fcn32s` for the arguments."""
    return _skip((32, 16), None, backbone, num_classes, in_channels, padding, upsampling)


def fcn8s(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build an FCN-8s: scores at strides 32, 16 and 8; see `fcn32s` for the arguments."""
    return _skip((32, 16, 8), None, backbone, num_classes, in_channels, padding, upsampling)


def fcn4s(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build an FCN-4s: one skip more than the paper has, at stride 4; see `fcn32s` for the arguments."""
    return _skip((32, 16, 8, 4), None, backbone, num_classes, in_channels, padding, upsampling)


def fcn8s_atonce(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build an FCN-8s to be trained at once: features of stride 16 times 0.01, of stride 8 times 0.0001.

    The factors are those of the reference (voc-fcn8s-atonce) and stand for the magnitudes of pool4 and pool3 of Caffe's
    VGG. See `fcn32s` for the arguments.
    """
    return _skip((32, 16, 8), {16: 0.01, 8: 0.0001}, backbone, num_classes, in_channels, padding, upsampling)


def plain(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build a model with torchvision's plain head on stride 32.

    Args:
        backbone: a name that `build_backbone` takes.
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" only.

    Returns:
        The model.

    Raises:
        ValueError: for another padding or upsampling.
    """
    _only("plain", padding, upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    return FCN(extractor, PlainHead(extractor.channels[32], num_classes, extractor.geometry[32], stride=32))


def fcn(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build torchvision's FCN: its plain head on the coarsest map of a dilated backbone, stride 8 for ResNet.

    Args:
        backbone: a name that `build_backbone` takes.
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" interpolates by the centers of the cells, as all presets do; "stretch" is torchvision's
            own, which its weights were trained with.

    Returns:
        The model.

    Raises:
        ValueError: for another padding or upsampling.
    """
    stretch = _is_stretched("fcn", padding, upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    stride = max(extractor.channels)
    head = PlainHead(extractor.channels[stride], num_classes, extractor.geometry[stride], stride=stride)
    return FCN(extractor, head, stretch=stretch)


def deeplabv3(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build torchvision's DeepLabV3: atrous spatial pyramid pooling on the coarsest map of a dilated backbone.

    See `fcn` for the arguments. Training takes batches of at least two images.
    """
    stretch = _is_stretched("deeplabv3", padding, upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    stride = max(extractor.channels)
    head = ASPPHead(extractor.channels[stride], num_classes, extractor.geometry[stride], stride=stride)
    return FCN(extractor, head, stretch=stretch)


def lraspp(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build torchvision's LR-ASPP: scores at strides 16 and 8, the coarse features gated; see `fcn` for the arguments.

    The same choice of upsampling brings the scores of stride 16 to those of stride 8.
    """
    stretch = _is_stretched("lraspp", padding, upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    head = LRASPPHead(
        extractor.channels,
        num_classes,
        extractor.geometry,
        strides=(16, 8),
        upsampling="stretch" if stretch else "bilinear",
    )
    return FCN(extractor, head, stretch=stretch)


def ladder(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
    head_width: int = 64,
) -> FCN:
    """Build a model with a ladder of convolutions from the coarsest stride up to the finest, after SwiftNet.

    Args:
        backbone: a name that `build_backbone` takes, with features of two strides at least.
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" only.
        head_width: channels on the ladder.

    Returns:
        The model; its scores have stride 4, or the finest stride above it that the backbone has.

    Raises:
        ValueError: for another padding or upsampling, or a backbone with features of one stride.
    """
    _only("ladder", padding, upsampling)
    extractor = build_backbone(backbone, in_channels=in_channels)
    strides = sorted((stride for stride in extractor.channels if stride >= 4), reverse=True)
    if len(strides) < 2:
        raise ValueError(
            f"backbone={backbone!r} has features of stride {strides} only; a ladder climbs over two or more"
        )
    return FCN(extractor, LadderHead(extractor.channels, num_classes, extractor.geometry, strides, inner=head_width))


def segnet(
    backbone: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
) -> FCN:
    """Build a SegNet: the convolutions of a VGG with batch norm, and their mirror image with unpooling.

    Args:
        backbone: "vgg16_bn", whose 13 convolutions are those of SegNet, or "vgg11_quarter".
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" only, although nothing is interpolated: it unpools.

    Returns:
        The model.

    Raises:
        ValueError: for another padding or upsampling.
    """
    _only(f"segnet_{backbone}", padding, upsampling)
    build, channels, depths = {
        "vgg16_bn": (vgg16_bn, {2: 64, 4: 128, 8: 256, 16: 512, 32: 512}, {2: 1, 4: 2, 8: 3, 16: 3, 32: 3}),
        "vgg11_quarter": (vgg11_quarter, {2: 16, 4: 32, 8: 64, 16: 128, 32: 128}, {2: 1, 4: 1, 8: 2, 16: 2, 32: 2}),
    }[backbone]
    extractor = build(in_channels=in_channels, fc=False, switches=True)
    return FCN(extractor, UnpoolHead(channels, num_classes, depths=depths, geometry=extractor.geometry[32]))


def same_convolutions(
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
    channels: int = 32,
    depth: int = 6,
) -> FCN:
    """Build the first idea of every explainer: same convolutions only, at full resolution.

    Its receptive field grows by two pixels a layer only, and every layer costs what a full map costs.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" only; there is nothing to upsample.
        channels: channels of each convolution.
        depth: number of 3 x 3 convolutions.

    Returns:
        The model.

    Raises:
        ValueError: for another padding or upsampling.
    """
    _only("same_convolutions", padding, upsampling)
    backbone = PlainConvolutions("same_convolutions", [[channels] * depth], in_channels=in_channels)
    return FCN(backbone, SkipHead(backbone.channels, num_classes, backbone.geometry, strides=(1,)))


def pool_unpool(
    num_classes: int,
    *,
    in_channels: int = 3,
    padding: Padding = "same",
    upsampling: Upsampling = "bilinear",
    channels: Sequence[int] = (32, 64, 128),
    depth: int = 2,
) -> FCN:
    """Build the second idea of every explainer: same convolutions with pairs of 2 x 2 max pooling and unpooling.

    Args:
        num_classes: number of classes K.
        in_channels: channels of the input.
        padding: "same" only.
        upsampling: "bilinear" only, although nothing is interpolated: it unpools.
        channels: channels of the convolutions in front of each pooling.
        depth: 3 x 3 convolutions in front of each pooling, and behind each unpooling.

    Returns:
        The model.

    Raises:
        ValueError: for another padding or upsampling.
    """
    _only("pool_unpool", padding, upsampling)
    groups = [[width] * depth for width in channels]
    backbone = PlainConvolutions("pool_unpool", groups, pool_last=True, in_channels=in_channels)
    depths = dict.fromkeys(backbone.channels, depth)
    head = UnpoolHead(backbone.channels, num_classes, depths=depths, geometry=backbone.geometry[max(backbone.channels)])
    return FCN(backbone, head)


def _presets(family: Callable[..., FCN], *backbones: str) -> dict[str, Callable[..., FCN]]:
    """Name a family's presets after it and the backbone, as the paper does."""
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
            torchvision's segmenters only, see `fcn`.
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
        _check_heads(num_classes)
        model = build_model(
            name, 1, in_channels=in_channels, padding=padding, upsampling=upsampling, head_width=head_width
        )
        return with_heads(model, num_classes)
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1.")
    build, options = _found(name), {}
    if head_width is not None:
        if not name.startswith("ladder_"):
            raise ValueError(
                f"head_width={head_width}: the head of {name} has no width to choose; that of a ladder has."
            )
        if isinstance(head_width, bool) or not isinstance(head_width, int) or not 1 <= head_width <= MAX_WIDTH:
            raise ValueError(f"head_width={head_width!r}: must be a number of channels in 1..{MAX_WIDTH}.")
        options = {"head_width": head_width}
    return build(num_classes, in_channels=in_channels, padding=padding, upsampling=upsampling, **options)


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


def with_heads(model: FCN, num_classes: Mapping[str, int]) -> MultiHeadFCN:
    """Put heads like that of a model on its backbone, one for each task.

    Args:
        model: its backbone is taken over, not copied; its head is left out.
        num_classes: number of classes K by the name of the head.

    Returns:
        The model, the score layers of all heads at zero.

    Raises:
        ValueError: if the model has no `SkipHead`, or a name cannot be part of a key.

    Example:
        >>> with_heads(build_model("fcn16s_resnet18_half", 2), {"semantic": 33, "geometric": 3}).num_classes
        {'semantic': 33, 'geometric': 3}
    """
    like = model.head
    if not isinstance(like, SkipHead):
        raise ValueError(
            f"num_classes={dict(num_classes)}: a model with {type(like).__name__} has one head only. Several heads go "
            "with models with skips, such as fcn16s_vgg16; pass one number of classes here."
        )
    heads = {
        task: SkipHead(
            model.backbone.channels,
            classes,
            model.backbone.geometry,
            like.strides,
            upsampling=like.upsampling,
            scales=like.scales,
            padding=like.padding,
        )
        for task, classes in num_classes.items()
    }
    return MultiHeadFCN(model.backbone, heads)


def _skip(
    strides: tuple[int, ...],
    scales: dict[int, float] | None,
    backbone: str,
    num_classes: int,
    in_channels: int,
    padding: Padding,
    upsampling: Upsampling,
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


def _only(name: str, padding: str, upsampling: str) -> None:
    """Refuse what a preset has no use for, lest somebody believes that it had an effect."""
    if padding != "same":
        raise ValueError(f"padding={padding!r}: {name} is not in the paper. Use padding='same'.")
    if upsampling != "bilinear":
        raise ValueError(f"upsampling={upsampling!r}: {name} has no such choice. Leave upsampling='bilinear'.")


def _is_stretched(name: str, padding: str, upsampling: str) -> bool:
    """Tell whether the scores of one of torchvision's segmenters are stretched; refuse what it has no use for."""
    _only(name, padding, "bilinear")
    if upsampling not in ("bilinear", "stretch"):
        raise ValueError(f"upsampling={upsampling!r}: {name} has no such choice. Choose 'bilinear' or 'stretch'.")
    return upsampling == "stretch"

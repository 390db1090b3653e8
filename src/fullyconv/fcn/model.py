"""A backbone and a head (Long et al. 2015, section 4), or several heads, one for each task (table 5)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones import Backbone, Features
from fullyconv.geometry import Geometry
from fullyconv.heads import ASPPHead, LadderHead, LRASPPHead, PlainHead, SkipHead, UnpoolHead
from fullyconv.upsampling import grown_to, resample


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
        >>> from fullyconv import build_model
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
            >>> from fullyconv import build_model
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
        return scored(self.head, self.backbone(padded(self.backbone, x)), (x.shape[2], x.shape[3]))

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
        size = (x.shape[2], x.shape[3])
        if self.stretch and not at_pixels(self.geometry):
            return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return upsampled(scores, self.geometry, size)

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
            >>> from fullyconv import build_model
            >>> fcn32s = build_model("fcn32s_resnet18_half", num_classes=11)
            >>> fcn32s.grow(16).grow(8).head.strides
            (32, 16, 8)
        """
        head = grown_head(self.head, self.backbone, stride)
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
        >>> from fullyconv import build_model
        >>> model = build_model("fcn16s_resnet18_half", num_classes={"semantic": 33, "geometric": 3})
        >>> {name: tuple(logits.shape) for name, logits in model(torch.zeros(1, 3, 37, 50)).items()}
        {'semantic': (1, 33, 37, 50), 'geometric': (1, 3, 37, 50)}
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, SkipHead]) -> None:
        super().__init__()
        check_heads(heads)
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
        features = self.backbone(padded(self.backbone, x))
        return {name: scored(head, features, (x.shape[2], x.shape[3])) for name, head in self.heads.items()}

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
        return {name: upsampled(scores[name], grids[name], (x.shape[2], x.shape[3])) for name in scores}

    def grow(self, stride: int) -> MultiHeadFCN:
        """Make the next stage of staged training: one more skip for every head; see `FCN.grow`.

        Args:
            stride: stride of the features to score as well; finer than those scored now.

        Returns:
            The grown model, on the same device, in the same mode. This one is left as it is.

        Raises:
            ValueError: if stride is not a finer stride of the backbone.
        """
        heads = {name: grown_head(head, self.backbone, stride) for name, head in self.heads.items()}
        grown = MultiHeadFCN(copy.deepcopy(self.backbone), heads)
        grown.training = self.training
        grown.head.training = self.head.training
        return grown


def at_pixels(geometry: Geometry) -> bool:
    """Tell whether scores lie at the pixels, so that they are the logits."""
    return geometry.stride == (1, 1) and geometry.center == (0, 0)


def scored(head: nn.Module, features: Features, size: tuple[int, int]) -> Tensor:
    """Score features; scores at the pixels are those of the image, without what it was continued by."""
    scores: Tensor = head(features)
    return scores[..., : size[0], : size[1]] if at_pixels(cast(Geometry, head.geometry)) else scores


def upsampled(scores: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """Interpolate scores at the pixels of an image, where they do not lie there already."""
    return scores if at_pixels(geometry) else resample(scores, geometry, Geometry.IDENTITY, size)


def padded(backbone: Backbone, x: Tensor) -> Tensor:
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


def head_like(old: SkipHead, backbone: Backbone, num_classes: int, strides: Sequence[int]) -> SkipHead:
    """Make a new head with the settings of another."""
    settings = {"upsampling": old.upsampling, "scales": old.scales, "padding": old.padding}
    return SkipHead(backbone.channels, num_classes, backbone.geometry, strides, **settings)  # type: ignore[arg-type]


def grown_head(old: nn.Module, backbone: Backbone, stride: int) -> SkipHead:
    """Make a head with one more skip, which starts at zero, and all weights of the old one."""
    if not isinstance(old, SkipHead):
        raise ValueError(f"stride={stride}: {type(old).__name__} has no skips to add. Grow a model with a SkipHead.")
    finer = [choice for choice in backbone.channels if choice < old.strides[-1]]
    if stride not in finer:
        raise ValueError(
            f"stride={stride}: a model with strides={old.strides} grows by a finer stride of backbone="
            f"{backbone.name!r}: {', '.join(map(str, sorted(finer))) or 'there is none'}."
        )
    head = head_like(old, backbone, old.num_classes, (*old.strides, stride))
    own, new = old.state_dict(), head.state_dict()
    head.load_state_dict({key: own.get(key, value) for key, value in new.items()})
    head.to(next(old.parameters()))
    head.train(old.training)
    for name, parameter in old.named_parameters():
        if name in new:
            head.get_parameter(name).requires_grad_(parameter.requires_grad)
    return head


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
        >>> from fullyconv import build_model
        >>> with_heads(build_model("fcn16s_resnet18_half", 2), {"semantic": 33, "geometric": 3}).num_classes
        {'semantic': 33, 'geometric': 3}
    """
    like = model.head
    if not isinstance(like, SkipHead):
        raise ValueError(
            f"num_classes={dict(num_classes)}: a model with {type(like).__name__} has one head only. Several heads go "
            "with models with skips, such as fcn16s_vgg16; pass one number of classes here."
        )
    heads = {task: head_like(like, model.backbone, classes, like.strides) for task, classes in num_classes.items()}
    return MultiHeadFCN(model.backbone, heads)


def check_heads(names: Mapping[str, object]) -> None:
    """Refuse names that cannot stand in the keys of a state dict."""
    if not names:
        raise ValueError("a model has at least one head; give its name and number of classes, {'semantic': 33}.")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"{name!r} cannot name a head: it becomes part of the keys of the state dict. "
                "Give a Python identifier that is no attribute of a module, such as 'semantic'."
            )

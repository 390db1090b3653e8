"""EfficientNet-Lite (Tan and Le, ICML 2019, in Google's variant for integer hardware): lite0, lite1 and lite2.

Beside EfficientNet it has no squeeze-and-excitation, so that nothing in it sees the whole image, and ReLU6 in place of
SiLU. Keys are those of timm's ``tf_efficientnet_lite0``; the published weights load as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones.base import Chain, Padding, first_convolution, is_paper

STEM, HEAD = 32, 1280  # channels of the first and the last convolution; the same at every width
EPSILON = 1e-3  # of all batch norms, as in TensorFlow


class Stage(NamedTuple):
    """Inverted residual blocks of one size: ``repeats`` of them, the first with ``stride``."""

    channels: int
    repeats: int
    stride: int
    kernel: int
    expansion: int


STAGES = (  # table 1 of the paper
    Stage(16, 1, 1, 3, 1),
    Stage(24, 2, 2, 3, 6),
    Stage(40, 2, 2, 5, 6),
    Stage(80, 3, 2, 3, 6),
    Stage(112, 3, 1, 5, 6),
    Stage(192, 4, 2, 5, 6),
    Stage(320, 1, 1, 3, 6),
)

SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
"""Factors of width and depth; the first and the last stage keep their depth."""

INPUT_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""Height and width that the published weights classify at, in pixels."""


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """Pad as TensorFlow's "same" does in front of a convolution of stride 2.

    The place of a cell depends on the side: an even side gets one pixel less at its beginning than at its end, an odd
    one the same at both. At sides that are multiples of the network's stride all sides on the way are even.

    Args:
        x: (N, C, h, w) values.
        kernel: side of the convolution's kernel, odd.

    Returns:
        (N, C, h + kernel - 2 + h % 2, w + kernel - 2 + w % 2) values.
    """
    (top, bottom), (left, right) = (((kernel - 2 + n % 2) // 2, (kernel - 1) // 2) for n in (x.shape[2], x.shape[3]))
    return F.pad(x, (left, right, top, bottom))


class PadSame(nn.Module):
    """Pad as TensorFlow's "same" does in front of a convolution of stride 2; see `pad_same`.

    Args:
        kernel: side of the convolution's kernel, odd.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Pad a map (N, C, h, w)."""
        return pad_same(x, self.kernel)


class InvertedResidual(nn.Sequential):
    """Expand the channels, convolve each, project them down again; added to the input where the shape stays.

    Args:
        before: channels C of the input.
        stage: what the blocks of its stage have in common; the stride is that of this block.
    """

    def __init__(self, before: int, stage: Stage) -> None:
        inner, after, strided = before * stage.expansion, stage.channels, stage.stride == 2
        padding = 0 if strided else stage.kernel // 2
        depthwise = nn.Conv2d(inner, inner, stage.kernel, stage.stride, padding, groups=inner, bias=False)
        convolved = {"pad": PadSame(stage.kernel), "conv_dw": depthwise} if strided else {"conv_dw": depthwise}
        # names and their order are timm's
        if stage.expansion == 1:
            layers = {
                **convolved, "bn1": _norm(inner), "act1": nn.ReLU6(inplace=True),
                "conv_pw": nn.Conv2d(inner, after, 1, bias=False), "bn2": _norm(after),
            }  # fmt: skip
        else:
            layers = {
                "conv_pw": nn.Conv2d(before, inner, 1, bias=False), "bn1": _norm(inner),
                "act1": nn.ReLU6(inplace=True), **convolved, "bn2": _norm(inner), "act2": nn.ReLU6(inplace=True),
                "conv_pwl": nn.Conv2d(inner, after, 1, bias=False), "bn3": _norm(after),
            }  # fmt: skip
        super().__init__(OrderedDict(layers))
        self.residual = not strided and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h / stride, w / stride), rounded up."""
        changed: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + changed if self.residual else changed


class EfficientNetLiteClassifier(nn.Sequential):
    """EfficientNet-Lite for images: (N, 3, H, W) normalized -> (N, K) scores, at any size as timm's network.

    Args:
        name: a key of `SCALES`.
        num_classes: number of classes K.
    """

    def __init__(self, name: str, num_classes: int = 1000) -> None:
        blocks = nn.Sequential()
        channels = STEM
        for stage in scaled(name):
            same = nn.Sequential()
            for block in (stage, *[stage._replace(stride=1)] * (stage.repeats - 1)):
                same.append(InvertedResidual(channels, block))
                channels = stage.channels
            blocks.append(same)
        layers = {
            "pad": PadSame(3), "conv_stem": nn.Conv2d(3, STEM, 3, stride=2, bias=False), "bn1": _norm(STEM),
            "stem_act": nn.ReLU6(inplace=True), "blocks": blocks,
            "conv_head": nn.Conv2d(channels, HEAD, 1, bias=False), "bn2": _norm(HEAD), "act": nn.ReLU6(inplace=True),
            "global_pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(HEAD, num_classes),
        }  # fmt: skip
        super().__init__(OrderedDict(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015, by the fan out of each group
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def efficientnet_lite(name: str, *, in_channels: int = 3, padding: Padding = "same") -> Chain:
    """Build the backbone of EfficientNet-Lite, randomly initialized.

    Features are the last block of each stride, in front of the last convolution. Images come in multiples of 32 pixels
    (`FCN` continues them at the right and bottom): only there the cells of all images lie at the same places.

    Args:
        name: a key of `SCALES`; lite0 has 2.9 million parameters.
        in_channels: channels of the input.
        padding: "same" only.
    """
    is_paper(padding, name)
    children = dict(EfficientNetLiteClassifier(name, num_classes=1).named_children())
    layers = {layer: children[layer] for layer in ("pad", "conv_stem", "bn1", "stem_act", "blocks")}
    layers["conv_stem"] = first_convolution(cast(nn.Conv2d, layers["conv_stem"]), in_channels)
    taps: dict[str, int] = {}
    channels: dict[int, int] = {}
    stride = 2
    for index, stage in enumerate(scaled(name)):
        stride *= stage.stride
        if stride > 2:
            taps[f"blocks.{index}"], channels[stride] = stride, stage.channels
    unused = ("conv_head.", "bn2.", "classifier.")
    return Chain(name, layers, taps, channels, in_channels=in_channels, size_divisor=32, unused=unused)


def scaled(name: str) -> tuple[Stage, ...]:
    """Scale the stages of the paper to a network's width and depth.

    Args:
        name: a key of `SCALES`.

    Returns:
        The stages, with channels in multiples of 8.
    """
    width, depth = SCALES[name]
    last = len(STAGES) - 1
    return tuple(
        stage._replace(
            channels=rounded(stage.channels * width),
            repeats=stage.repeats if index in (0, last) else math.ceil(stage.repeats * depth),
        )
        for index, stage in enumerate(STAGES)
    )


def rounded(channels: float) -> int:
    """Round a number of channels to a multiple of 8, but not below nine tenths of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)

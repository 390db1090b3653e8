"""ResNet (He et al., CVPR 2016): features at strides 4, 8, 16 and 32 are the outputs of its four stages.

In the dilated ones the last two stages keep stride 8 and dilate instead: features are those of strides 4 and 8, the
latter behind the last stage.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

from torch import nn

from fullyconv.backbones.base import Chain, Padding, first_convolution, is_paper


class ResNet18(nn.Sequential):
    """ResNet-18 of any width: torchvision's blocks, key names and initialization.

    Args:
        width: channels of the first stage; each further stage doubles them. 64 is torchvision's `resnet18`.
        num_classes: number of classes K.
        last: channels of the fourth stage, if not eight times the first's.
    """

    def __init__(self, width: int = 64, num_classes: int = 1000, last: int | None = None) -> None:
        last = 8 * width if last is None else last
        layers = {
            "conv1": nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False),
            "bn1": nn.BatchNorm2d(width),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            "layer1": _stage(width, width, stride=1),
            "layer2": _stage(width, 2 * width, stride=2),
            "layer3": _stage(2 * width, 4 * width, stride=2),
            "layer4": _stage(4 * width, last, stride=2),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(last, num_classes),
        }
        super().__init__(OrderedDict(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


NARROW = {"resnet18_half": (32, 256), "resnet18_quarter": (16, 128), "resnet18_slim": (32, 128)}
"""ResNet-18 small enough to train from scratch: channels of the first and of the last stage.

They have 2.8, 0.7 and 1.4 million parameters. Three quarters of `resnet18_half` are its fourth stage, which does not
widen in `resnet18_slim`: on a few hundred images it need not.
"""


def narrow_classifier(name: str, num_classes: int = 1000) -> ResNet18:
    """Build the classifier that a narrow backbone is the backbone of, randomly initialized.

    Args:
        name: a key of `NARROW`.
        num_classes: number of classes K.
    """
    width, last = NARROW[name]
    return ResNet18(width, num_classes, last)


def resnet(name: str, *, in_channels: int = 3, padding: Padding = "same") -> Chain:
    """Build the backbone of a ResNet, up to but without its global average pooling, randomly initialized.

    Where stages dilate instead of striding, several maps have the same stride: the feature is the last of them.

    Args:
        name: a key of `NARROW`, or torchvision's name. With "_dilated" behind it the third and fourth stage dilate by 2
            and 4 instead of striding (Yu and Koltun, ICLR 2016), as in torchvision's segmenters, so that the map of
            stride 8 is the one of the last stage; every fourth of its cells is a cell of the plain network at stride
            32. Keys and weights are those of the ordinary classifier.
        in_channels: channels of the input.
        padding: "same" only.
    """
    is_paper(padding, name)
    classifier: nn.Module
    if name in NARROW:
        classifier = narrow_classifier(name, num_classes=1)
    else:
        import torchvision  # takes seconds, and only its own networks need it

        plain = name.removesuffix("_dilated")
        dilate = [False, plain != name, plain != name]
        classifier = torchvision.models.get_model(plain, weights=None, replace_stride_with_dilation=dilate)
    layers = {
        layer: module for layer, module in classifier.named_children() if layer not in ("avgpool", "flatten", "fc")
    }
    layers["conv1"] = first_convolution(cast(nn.Conv2d, layers["conv1"]), in_channels)
    taps: dict[str, int] = {}
    channels: dict[int, int] = {}
    stride = 4
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        stage = cast(Any, layers[layer])
        stride *= stage[0].stride
        taps[layer] = stride
        channels[stride] = [part.num_features for part in stage[-1].modules() if isinstance(part, nn.BatchNorm2d)][-1]
    return Chain(name, layers, taps, channels, in_channels=in_channels, unused=("fc.",))


def _stage(inplanes: int, planes: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or inplanes != planes:
        downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))
    from torchvision.models.resnet import BasicBlock

    return nn.Sequential(BasicBlock(inplanes, planes, stride, downsample), BasicBlock(planes, planes))

"""ResNet (He et al., CVPR 2016): features at strides 4, 8, 16 and 32 are the outputs of its four stages.

In the dilated ones the last two stages keep stride 8 and dilate instead: features are those of strides 4 and 8, the
latter behind the last stage.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Padding, first_convolution, is_paper

if TYPE_CHECKING:
    import torchvision


class ResNet(Backbone):
    """The backbone of a ResNet, up to but without its global average pooling.

    Where stages dilate instead of striding, several maps have the same stride: the feature is the last of them.

    Args:
        name: the name it is built by.
        classifier: a classifier with torchvision's ResNet layers (conv1, bn1, relu, maxpool, layer1..layer4); they
            are taken over, not copied.
        in_channels: channels of the input.
    """

    def __init__(self, name: str, classifier: torchvision.models.ResNet | ResNet18, *, in_channels: int = 3) -> None:
        stages = (classifier.layer1, classifier.layer2, classifier.layer3, classifier.layer4)
        strides = tuple(accumulate((stage[0].stride for stage in stages), mul, initial=4))[1:]
        channels = dict(zip(strides, map(_out_channels, stages), strict=True))
        super().__init__(name, channels, in_channels=in_channels, unused=("fc.",))
        self.strides = strides  # of the four stages
        self.conv1 = first_convolution(classifier.conv1, in_channels)
        self.bn1 = classifier.bn1
        self.relu = classifier.relu
        self.maxpool = classifier.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> Features:
        """Compute the outputs of the four stages; see `Backbone.forward`."""
        size = self._size(x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps: dict[int, Tensor] = {}
        for stride, stage in zip(self.strides, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True):
            x = stage(x)
            maps[stride] = x
        return Features(maps, size)


class ResNet18(nn.Module):
    """ResNet-18 of any width: torchvision's blocks, key names and initialization.

    Args:
        width: channels of the first stage; each further stage doubles them. 64 is torchvision's `resnet18`.
        last: channels of the fourth stage, if not eight times the first's.
        num_classes: number of classes K.
    """

    def __init__(self, width: int = 64, num_classes: int = 1000, last: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        last = 8 * width if last is None else last
        self.layer4 = _stage(4 * width, last, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Score images (N, 3, H, W) as (N, K)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return cast(Tensor, self.fc(self.avgpool(x).flatten(1)))


def resnet18_half_classifier(num_classes: int = 1000) -> ResNet18:
    """Build the classifier that `resnet18_half` is the backbone of: 32, 64, 128 and 256 channels.

    Args:
        num_classes: number of classes K.

    Returns:
        The classifier, randomly initialized.
    """
    return ResNet18(width=32, num_classes=num_classes)


def resnet18_half(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build a ResNet-18 of half width (2.8 million parameters), small enough to train from scratch on a CPU.

    Args:
        in_channels: channels of the input.
        padding: "same" only.

    Returns:
        The backbone, randomly initialized.
    """
    is_paper(padding, "resnet18_half")
    return ResNet("resnet18_half", resnet18_half_classifier(num_classes=1), in_channels=in_channels)


def resnet18_quarter_classifier(num_classes: int = 1000) -> ResNet18:
    """Build the classifier that `resnet18_quarter` is the backbone of: 16, 32, 64 and 128 channels.

    Args:
        num_classes: number of classes K.

    Returns:
        The classifier, randomly initialized.
    """
    return ResNet18(width=16, num_classes=num_classes)


def resnet18_quarter(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build a ResNet-18 of a quarter of the width (0.7 million parameters), for two classes and few images.

    Args:
        in_channels: channels of the input.
        padding: "same" only.

    Returns:
        The backbone, randomly initialized.
    """
    is_paper(padding, "resnet18_quarter")
    return ResNet("resnet18_quarter", resnet18_quarter_classifier(num_classes=1), in_channels=in_channels)


def resnet18_slim_classifier(num_classes: int = 1000) -> ResNet18:
    """Build the classifier that `resnet18_slim` is the backbone of: 32, 64, 128 and 128 channels.

    Args:
        num_classes: number of classes K.

    Returns:
        The classifier, randomly initialized.
    """
    return ResNet18(width=32, num_classes=num_classes, last=128)


def resnet18_slim(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build a ResNet-18 of half width whose fourth stage does not widen (1.4 million parameters).

    Three quarters of `resnet18_half` are its fourth stage; on a few hundred images it does not need them.

    Args:
        in_channels: channels of the input.
        padding: "same" only.

    Returns:
        The backbone, randomly initialized.
    """
    is_paper(padding, "resnet18_slim")
    return ResNet("resnet18_slim", resnet18_slim_classifier(num_classes=1), in_channels=in_channels)


def resnet18(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-18; see `resnet18_half` for the arguments."""
    is_paper(padding, "resnet18")
    import torchvision  # takes seconds, and only its own networks need it

    return ResNet("resnet18", torchvision.models.resnet18(weights=None), in_channels=in_channels)


def resnet34(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-34; see `resnet18_half` for the arguments."""
    is_paper(padding, "resnet34")
    import torchvision  # takes seconds, and only its own networks need it

    return ResNet("resnet34", torchvision.models.resnet34(weights=None), in_channels=in_channels)


def resnet50(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-50; see `resnet18_half` for the arguments."""
    is_paper(padding, "resnet50")
    import torchvision  # takes seconds, and only its own networks need it

    return ResNet("resnet50", torchvision.models.resnet50(weights=None), in_channels=in_channels)


def resnet101(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-101; see `resnet18_half` for the arguments."""
    is_paper(padding, "resnet101")
    import torchvision  # takes seconds, and only its own networks need it

    return ResNet("resnet101", torchvision.models.resnet101(weights=None), in_channels=in_channels)


def resnet50_dilated(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-50 with stride 8, as its segmenters have it.

    The third and fourth stage dilate by 2 and 4 instead of striding (Yu and Koltun, ICLR 2016), so that the map of
    stride 8 is the one of the last stage; every fourth of its cells is a cell of `resnet50` at stride 32. Keys and
    weights are those of the ordinary classifier. See `resnet18_half` for the arguments.
    """
    is_paper(padding, "resnet50_dilated")
    import torchvision  # takes seconds, and only its own networks need it

    classifier = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    return ResNet("resnet50_dilated", classifier, in_channels=in_channels)


def resnet101_dilated(*, in_channels: int = 3, padding: Padding = "same") -> ResNet:
    """Build the backbone of torchvision's ResNet-101 with stride 8; see `resnet50_dilated`."""
    is_paper(padding, "resnet101_dilated")
    import torchvision  # takes seconds, and only its own networks need it

    classifier = torchvision.models.resnet101(weights=None, replace_stride_with_dilation=[False, True, True])
    return ResNet("resnet101_dilated", classifier, in_channels=in_channels)


def _stage(inplanes: int, planes: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or inplanes != planes:
        downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))
    from torchvision.models.resnet import BasicBlock

    return nn.Sequential(BasicBlock(inplanes, planes, stride, downsample), BasicBlock(planes, planes))


def _out_channels(stage: nn.Sequential) -> int:
    return [module.num_features for module in stage[-1].modules() if isinstance(module, nn.BatchNorm2d)][-1]

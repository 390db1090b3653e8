"""The ResNets of He et al. 2016, section 4.2, for images of 32 x 32 pixels: 6n + 2 layers of 16, 32 and 64 channels.

Classifiers only: they are small, published with weights, and real enough to show a conversion on real images.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut without parameters ("option A" of the paper).

    Where the stride is 2, the shortcut takes every second cell, and zeros make up the channels.

    Args:
        inplanes: channels C of the input.
        planes: channels of the output.
        stride: 1 or 2.
    """

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.missing = planes - inplanes

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block, (N, C, h, w) -> (N, C', h/stride, w/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.missing:
            before = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return F.relu(x + y)


class CifarResNet(nn.Sequential):
    """A ResNet for images of 32 x 32 pixels; keys are those of the published weights (conv1, layer1.0.bn1, linear).

    Args:
        depth: 6n + 2: 20, 32, 44, 56 or 110.
        num_classes: number of classes K.

    Raises:
        ValueError: if depth is not 6n + 2.

    Example:
        >>> import torch
        >>> CifarResNet(20)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth}: must be 6n + 2, such as 20 or 56")
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(16),
            "relu": nn.ReLU(),
        }
        before = 16
        for number, planes in enumerate((16, 32, 64), 1):
            first = CifarBlock(before, planes, 1 if planes == before else 2)
            rest = [CifarBlock(planes, planes, 1) for _ in range((depth - 2) // 6 - 1)]
            layers[f"layer{number}"], before = nn.Sequential(first, *rest), planes
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(64, num_classes)}
        super().__init__(OrderedDict(layers))

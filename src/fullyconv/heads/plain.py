"""The head of torchvision's `fcn_resnet50`: one 3 x 3 convolution and a score layer on one stride, no skips."""

from __future__ import annotations

from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.geometry import Geometry
from fullyconv.heads.skip import score_layer


class PlainHead(nn.Module):
    """Score the features of one stride behind a convolution of their own.

    A 3 x 3 convolution to a quarter of the channels without bias, batch norm, ReLU, dropout of 0.1 and a 1 x 1 score
    layer (torchvision's `FCNHead`). The score layer starts at zero, as in every head here.

    Args:
        channels: channels C of the features.
        num_classes: number of classes K.
        geometry: geometry of the features.
        stride: stride of the features.

    Raises:
        ValueError: if num_classes is below 1.

    Example:
        >>> import torch
        >>> head = PlainHead(2048, 21, Geometry((32, 32), (0, 0), (483, 483)), stride=32)
        >>> head(Features({32: torch.zeros(2, 2048, 7, 7)}, size=(224, 224))).shape
        torch.Size([2, 21, 7, 7])
    """

    def __init__(self, channels: int, num_classes: int, geometry: Geometry, stride: int = 32) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.num_classes = num_classes
        self.strides = (stride,)
        self.conv = nn.Conv2d(channels, inner, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.1)
        self.score = nn.ModuleDict({str(stride): score_layer(inner, num_classes)})
        self.geometry = geometry.conv(3, padding=1)

    def forward(self, features: Features) -> Tensor:
        """Score the features.

        Args:
            features: (N, C, h, w) maps by stride.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`.
        """
        (stride,) = self.strides
        x = self.dropout(self.relu(self.norm(self.conv(features[stride]))))
        scores: Tensor = self.score[str(stride)](x)
        return scores

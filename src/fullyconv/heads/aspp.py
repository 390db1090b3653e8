"""The head of DeepLabV3: context of several sizes beside each other on one stride (Chen et al. 2017, section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.geometry import Geometry
from fullyconv.heads.skip import score_layer


class ASPPHead(nn.Module):
    """Score the features of one stride behind atrous spatial pyramid pooling.

    A 1 x 1 convolution, a 3 x 3 convolution for each dilation and the mean over the whole map, each of 256 channels
    with batch norm and ReLU; all of them together through a 1 x 1 convolution, dropout of 0.5, a 3 x 3 convolution and
    a 1 x 1 score layer (torchvision's `DeepLabHead`). The score layer starts at zero, as in every head here.

    Args:
        channels: channels C of the features.
        num_classes: number of classes K.
        geometry: geometry of the features.
        stride: stride of the features.
        dilations: of the 3 x 3 convolutions, in cells. (12, 24, 36) are those of the paper at stride 8; torchvision
            takes them at stride 16 as well.

    Raises:
        ValueError: if num_classes is below 1.

    Example:
        >>> import torch
        >>> head = ASPPHead(960, 21, Geometry((16, 16), (0, 0), (595, 595)), stride=16).eval()
        >>> head(Features({16: torch.zeros(1, 960, 4, 5)}, size=(64, 80))).shape
        torch.Size([1, 21, 4, 5])
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        geometry: Geometry,
        stride: int = 8,
        *,
        dilations: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        inner = 256
        self.num_classes = num_classes
        self.strides = (stride,)
        self.dilations = tuple(dilations)
        from torchvision.models.segmentation.deeplabv3 import ASPP  # takes seconds, and only this head needs it

        self.aspp = ASPP(channels, self.dilations, inner)
        self.conv = nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.score = nn.ModuleDict({str(stride): score_layer(inner, num_classes)})
        widest = max(self.dilations)
        around = geometry.conv(3, padding=widest, dilation=widest).conv(3, padding=1)
        self.geometry = dataclasses.replace(around, global_context=True)  # the mean over the map

    def forward(self, features: Features) -> Tensor:
        """Score the features.

        Args:
            features: (N, C, h, w) maps by stride.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`.

        Raises:
            ValueError: if there is a single image while training: the mean over its map is one vector, which batch
                norm cannot normalize.
        """
        (stride,) = self.strides
        x = features[stride]
        if len(x) == 1 and self.aspp.convs[-1].training:
            raise ValueError(
                "features of one image: the batch norm behind the mean over the map needs two images while training. "
                "Train with batches of at least two (drop a last batch of one), or call eval() first."
            )
        scores: Tensor = self.score[str(stride)](self.relu(self.norm(self.conv(self.aspp(x)))))
        return scores

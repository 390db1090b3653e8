"""MobileNetV3 (Howard et al., ICCV 2019): features are the last block of each stride, at 32 the last convolution."""

from __future__ import annotations

from typing import cast

import torchvision
from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Padding, first_convolution, is_paper


class MobileNetV3(Backbone):
    """The trunk of torchvision's MobileNetV3. Its squeeze-and-excitation gates see the whole image, whatever its size.

    Args:
        name: the name it is built by.
        classifier: torchvision's classifier; its layers are taken over, not copied.
        in_channels: channels of the input.
    """

    def __init__(self, name: str, classifier: torchvision.models.MobileNetV3, *, in_channels: int = 3) -> None:
        taps: dict[int, int] = {}
        channels: dict[int, int] = {}
        stride = 1
        for index, block in enumerate(classifier.features):
            convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
            stride *= max(conv.stride[0] for conv in convolutions)
            taps[stride] = index
            channels[stride] = convolutions[-1].out_channels
        strides = (4, 8, 16, 32)
        super().__init__(name, {s: channels[s] for s in strides}, in_channels=in_channels, unused=("classifier.",))
        self.strides = {taps[s]: s for s in strides}  # index in `features` -> stride
        self.features = classifier.features
        self.features[0][0] = first_convolution(self.features[0][0], in_channels)

    def forward(self, x: Tensor) -> Features:
        """Compute the last map of each stride; see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        for index, block in enumerate(self.features):
            x = cast(Tensor, block(x))
            if index in self.strides:
                maps[self.strides[index]] = x
        return Features(maps, size)


def mobilenet_v3_small(*, in_channels: int = 3, padding: Padding = "same") -> MobileNetV3:
    """Build the trunk of torchvision's MobileNetV3-Small.

    Args:
        in_channels: channels of the input.
        padding: "same" only.

    Returns:
        The backbone, randomly initialised.
    """
    is_paper(padding, "mobilenet_v3_small")
    classifier = torchvision.models.mobilenet_v3_small(weights=None)
    return MobileNetV3("mobilenet_v3_small", classifier, in_channels=in_channels)


def mobilenet_v3_large(*, in_channels: int = 3, padding: Padding = "same") -> MobileNetV3:
    """Build the trunk of torchvision's MobileNetV3-Large; see `mobilenet_v3_small` for the arguments."""
    is_paper(padding, "mobilenet_v3_large")
    classifier = torchvision.models.mobilenet_v3_large(weights=None)
    return MobileNetV3("mobilenet_v3_large", classifier, in_channels=in_channels)

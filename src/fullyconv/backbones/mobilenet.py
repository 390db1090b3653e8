"""MobileNetV3 (Howard et al., ICCV 2019): features are the last block of each stride, at 32 the last convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Padding, first_convolution, is_paper, tapped


class MobileNetV3(Backbone):
    """The backbone of torchvision's MobileNetV3, randomly initialized. Its squeeze-and-excitation sees the whole image.

    Args:
        name: torchvision's name. With "_dilated" behind it the last three blocks dilate by 2 instead of striding, as
            in torchvision's segmenters. Features are then C1 and C2, the first blocks of strides 4 and 8, and C5, the
            last convolution: LR-ASPP reads C2, not the last block of stride 8 (Howard et al. 2019, section 6.4). Keys
            and weights are those of the ordinary classifier.
        in_channels: channels of the input.
        padding: "same" only.
    """

    def __init__(self, name: str, *, in_channels: int = 3, padding: Padding = "same") -> None:
        is_paper(padding, name)
        import torchvision  # takes seconds, and only its own networks need it

        plain = name.removesuffix("_dilated")
        features: Any = torchvision.models.get_model(plain, weights=None, dilated=plain != name).features
        last: dict[int, int] = {}  # stride -> index in `features`
        channels: dict[int, int] = {}
        stride = 1
        for index, block in enumerate(features):
            convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
            stride *= max(conv.stride[0] for conv in convolutions)
            last[stride] = index
            channels[index] = convolutions[-1].out_channels
        taps = {4: 2, 8: 4, 16: 16} if plain != name else {s: index for s, index in last.items() if s >= 4}
        super().__init__(
            name, {s: channels[index] for s, index in taps.items()}, in_channels=in_channels, unused=("classifier.",)
        )
        self.strides = {index: s for s, index in taps.items()}
        self.features = features
        self.features[0][0] = first_convolution(self.features[0][0], in_channels)

    def forward(self, x: Tensor) -> Features:
        """Compute the map of each stride; see `Backbone.forward`."""
        size = self._size(x)
        return Features(tapped(self.features, self.strides, x), size)

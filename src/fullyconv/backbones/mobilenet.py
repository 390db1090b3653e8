"""MobileNetV3 (Howard et al., ICCV 2019): features are the last block of each stride, at 32 the last convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Padding, first_convolution, is_paper, tapped

if TYPE_CHECKING:
    import torchvision


class MobileNetV3(Backbone):
    """The backbone of torchvision's MobileNetV3. Its squeeze-and-excitation gates see the whole image.

    Args:
        name: the name it is built by.
        classifier: torchvision's classifier; its layers are taken over, not copied.
        in_channels: channels of the input.
        taps: index in the classifier's `features` of the map of each stride; None takes the last map of the strides
            4, 8, 16 and 32.
    """

    def __init__(
        self,
        name: str,
        classifier: torchvision.models.MobileNetV3,
        *,
        in_channels: int = 3,
        taps: Mapping[int, int] | None = None,
    ) -> None:
        last: dict[int, int] = {}
        channels: dict[int, int] = {}
        stride = 1
        for index, block in enumerate(classifier.features):
            convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
            stride *= max(conv.stride[0] for conv in convolutions)
            last[stride] = index
            channels[index] = convolutions[-1].out_channels
        taps = {s: last[s] for s in (4, 8, 16, 32)} if taps is None else taps
        chosen = {s: channels[index] for s, index in taps.items()}
        super().__init__(name, chosen, in_channels=in_channels, unused=("classifier.",))
        self.strides = {index: s for s, index in taps.items()}  # index in `features` -> stride
        self.features = classifier.features
        self.features[0][0] = first_convolution(self.features[0][0], in_channels)

    def forward(self, x: Tensor) -> Features:
        """Compute the map of each stride; see `Backbone.forward`."""
        size = self._size(x)
        return Features(tapped(cast(nn.Sequential, self.features), self.strides, x), size)


def mobilenet(name: str, *, in_channels: int = 3, padding: Padding = "same") -> MobileNetV3:
    """Build the backbone of torchvision's MobileNetV3, randomly initialized.

    Args:
        name: torchvision's name. With "_dilated" behind it the last three blocks dilate by 2 instead of striding, as
            in torchvision's segmenters. Features are then C1 and C2, the first blocks of strides 4 and 8, and C5, the
            last convolution: LR-ASPP reads C2, not the last block of stride 8 (Howard et al. 2019, section 6.4). Keys
            and weights are those of the ordinary classifier.
        in_channels: channels of the input.
        padding: "same" only.
    """
    is_paper(padding, name)
    import torchvision  # takes seconds, and only its own networks need it

    plain = name.removesuffix("_dilated")
    classifier = torchvision.models.get_model(plain, weights=None, dilated=plain != name)
    taps = {4: 2, 8: 4, 16: 16} if plain != name else None
    return MobileNetV3(name, classifier, in_channels=in_channels, taps=taps)

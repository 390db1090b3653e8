"""MobileNetV3 (Howard et al., ICCV 2019): features are the last block of each stride, at 32 the last convolution."""

from __future__ import annotations

from typing import Any

from torch import nn

from fullyconv.backbones.base import Chain, Padding, first_convolution, is_paper


def mobilenet_v3(name: str, *, in_channels: int = 3, padding: Padding = "same") -> Chain:
    """Build the backbone of torchvision's MobileNetV3, randomly initialized.

    Its squeeze-and-excitation sees the whole image.

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
    features: Any = torchvision.models.get_model(plain, weights=None, dilated=plain != name).features
    places: dict[int, int] = {}  # stride -> index of the last block
    channels: list[int] = []
    stride = 1
    for index, block in enumerate(features):
        convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        stride *= max(conv.stride[0] for conv in convolutions)
        places[stride] = index
        channels.append(convolutions[-1].out_channels)
    places = {4: 2, 8: 4, 16: 16} if plain != name else {s: index for s, index in places.items() if s >= 4}
    features[0][0] = first_convolution(features[0][0], in_channels)
    return Chain(
        name,
        {"features": features},
        {f"features.{index}": s for s, index in places.items()},
        {s: channels[index] for s, index in places.items()},
        in_channels=in_channels,
        unused=("classifier.",),
    )

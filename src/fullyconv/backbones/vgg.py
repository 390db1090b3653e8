"""VGG (Simonyan and Zisserman, ICLR 2015) as Long et al. use it: fc6 and fc7 are convolutions; AlexNet is built alike.

Features of VGG at strides 4, 8 and 16 are pool2, pool3 and pool4, at 32 fc7. With ``fc=False`` the 13 (16) convolutions
stay alone, as in SegNet, and the map at 32 is pool5.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from fullyconv.backbones.base import PAPER_PADDING, Backbone, Features, Padding, Switch, first_convolution, is_paper
from fullyconv.conversion.linear import linear_to_conv

if TYPE_CHECKING:
    import torchvision


class VGG(Backbone):
    """The backbone of a VGG, or of torchvision's AlexNet: convolutions with poolings between, and fc6 and fc7.

    Every pooling rounds its output size up, as Caffe does, so that no row of pixels is lost and any image is served.

    Args:
        name: the name it is built by.
        classifier: torchvision's classifier, or a smaller one with its layers; they are taken over, not copied.
        in_channels: channels of the input.
        padding: "same" pads fc6 by 3 cells, so that its cells cover the image: those of VGG lie at 32 i + 15.5 pixels;
            "paper" pads the first convolution by 100 pixels and fc6 not at all (Long et al., reference networks).
        fc: keep fc6 and fc7.
        switches: record where each pooling found its maxima, by the stride after it (2 to 32), for max unpooling.
        stride: of the map in front of the first pooling.
        min_size: smallest height and width served without the paper's padding, in pixels.
    """

    def __init__(
        self,
        name: str,
        classifier: torchvision.models.VGG | torchvision.models.AlexNet | SmallVGG,
        *,
        in_channels: int = 3,
        padding: Padding = "same",
        fc: bool = True,
        switches: bool = False,
        stride: int = 1,
        min_size: int = 1,
    ) -> None:
        paper = is_paper(padding, name, paper=True)
        layers: list[nn.Module] = []
        channels: dict[int, int] = {}
        width, pooled = 0, stride
        for layer in classifier.features:
            if isinstance(layer, nn.MaxPool2d):
                pooled *= 2
                channels[pooled] = width
                layers.append(nn.MaxPool2d(layer.kernel_size, layer.stride, ceil_mode=True, return_indices=switches))
            else:
                width = layer.out_channels if isinstance(layer, nn.Conv2d) else width
                layers.append(layer)
        layers[0] = first_convolution(cast(nn.Conv2d, layers[0]), in_channels, PAPER_PADDING if paper else None)
        dense: list[nn.Module] = list(classifier.classifier)[:-1] if fc else []  # without the score layer
        for index, layer in enumerate(dense):
            if isinstance(layer, nn.Linear):
                kernel = math.isqrt(layer.in_features // width)  # cells of the last pool at the native size; of fc7 one
                dense[index] = conv = linear_to_conv(layer, kernel)
                conv.padding = (0, 0) if paper else (kernel // 2, kernel // 2)
                channels[32] = width = layer.out_features
        super().__init__(
            name,
            {s: number for s, number in channels.items() if s >= 4},
            in_channels=in_channels,
            min_size=1 if paper else min_size,
            unused=("classifier.6.",) if fc else ("classifier.",),
        )
        self.stride, self.switches = stride, switches
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(*dense) if fc else None

    def forward(self, x: Tensor) -> Features:
        """Compute the map behind each pooling from stride 4 on, and fc7; see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        switches: dict[int, Switch] = {}
        stride = self.stride
        for layer in self.features:
            before = (x.shape[2], x.shape[3])
            x = layer(x)
            if not isinstance(layer, nn.MaxPool2d):
                continue
            stride *= 2
            if self.switches:
                x, positions = x
                switches[stride] = Switch(positions, before)
            if stride in self.channels:
                maps[stride] = x
        if self.classifier is not None:
            maps[32] = cast(Tensor, self.classifier(x))
        return Features(maps, size, switches)


class SmallVGG(nn.Sequential):
    """VGG-11 with batch norm at any width: torchvision's layers, key names and initialization.

    Args:
        width: channels of the first convolution, which the stages multiply by 1, 2, 4, 8 and 8; 64 is torchvision's.
        hidden: outputs of fc6 and fc7; 4096 in torchvision's.
        num_classes: number of classes K.
        dropout: share of the outputs of fc6 and of fc7 that training leaves out.
    """

    features: nn.Sequential
    classifier: nn.Sequential

    def __init__(self, width: int = 64, hidden: int = 4096, num_classes: int = 1000, dropout: float = 0.5) -> None:
        features = nn.Sequential()
        before = 3
        for factor, depth in ((1, 1), (2, 1), (4, 2), (8, 2), (8, 2)):
            for _ in range(depth):
                after = factor * width
                features.append(nn.Conv2d(before, after, kernel_size=3, padding=1))
                features.append(nn.BatchNorm2d(after)).append(nn.ReLU(inplace=True))
                before = after
            features.append(nn.MaxPool2d(kernel_size=2, stride=2))
        dense = nn.Sequential(
            *(nn.Linear(before * 7 * 7, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            nn.Linear(hidden, num_classes),
        )
        layers = {"features": features, "avgpool": nn.AdaptiveAvgPool2d((7, 7)), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(layers | {"classifier": dense}))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))
            elif isinstance(module, nn.Linear):
                # torchvision's deviation of 0.01 is that of 4096 channels; fewer would let the scores fade
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)


def vgg11_quarter_classifier(num_classes: int = 1000) -> SmallVGG:
    """Build the classifier that `vgg11_quarter` is the backbone of: 16 to 128 channels, and 128 outputs of fc6 and fc7.

    Dropout is 0.1: half of so few channels are too many to do without.

    Args:
        num_classes: number of classes K.

    Returns:
        The classifier, randomly initialized.
    """
    return SmallVGG(width=16, hidden=128, num_classes=num_classes, dropout=0.1)


def vgg(name: str, *, in_channels: int = 3, padding: Padding = "same", fc: bool = True, switches: bool = False) -> VGG:
    """Build the backbone of a VGG, randomly initialized.

    Args:
        name: torchvision's name, or "vgg11_quarter": VGG-11 with batch norm at a quarter of the width (1.4 million
            parameters), to be trained from scratch.
        in_channels: channels of the input.
        padding: "same" covers any image without waste; "paper" puts 100 pixels around it.
        fc: keep fc6 and fc7.
        switches: record the positions of the maxima for max unpooling.
    """
    if name == "vgg11_quarter":
        classifier: torchvision.models.VGG | SmallVGG = vgg11_quarter_classifier(num_classes=1)
    else:
        import torchvision  # takes seconds, and only its own networks need it

        classifier = torchvision.models.get_model(name, weights=None, num_classes=1)
    return VGG(name, classifier, in_channels=in_channels, padding=padding, fc=fc, switches=switches)

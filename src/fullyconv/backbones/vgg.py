"""VGG (Simonyan and Zisserman, ICLR 2015) as Long et al. use it: fc6 and fc7 are convolutions.

Features at strides 4, 8 and 16 are pool2, pool3 and pool4, at 32 fc7. With ``fc=False`` the 13 (16) convolutions stay
alone, as in SegNet, and the map at 32 is pool5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from fullyconv.backbones.base import (
    PAPER_PADDING,
    Backbone,
    Features,
    Padding,
    Switch,
    first_convolution,
    is_paper,
)
from fullyconv.conversion.linear import linear_to_conv

if TYPE_CHECKING:
    import torchvision


class VGG(Backbone):
    """The backbone of a VGG.

    Every pooling rounds its output size up, as Caffe does, so that no row of pixels is lost and any image is served.

    Args:
        name: the name it is built by.
        classifier: torchvision's classifier, or a smaller one with its layers; they are taken over, not copied.
        in_channels: channels of the input.
        padding: "same" pads fc6 by 3 cells, so that its cells lie at 32 i + 15.5 pixels and cover the image; "paper"
            pads the first convolution by 100 pixels and fc6 not at all (Long et al., reference networks).
        fc: keep fc6 and fc7.
        switches: record where each pooling found its maxima, by the stride after it (2 to 32), for max unpooling.
    """

    def __init__(
        self,
        name: str,
        classifier: torchvision.models.VGG | SmallVGG,
        *,
        in_channels: int = 3,
        padding: Padding = "same",
        fc: bool = True,
        switches: bool = False,
    ) -> None:
        paper = is_paper(padding, name, paper=True)
        unused = ("classifier.6.",) if fc else ("classifier.",)
        channels = _pooled_channels(classifier.features)
        if fc:
            channels[32] = cast(nn.Linear, classifier.classifier[3]).out_features
        super().__init__(name, channels, in_channels=in_channels, unused=unused)
        self.switches = switches
        layers: list[nn.Module] = [
            nn.MaxPool2d(2, ceil_mode=True, return_indices=switches) if isinstance(layer, nn.MaxPool2d) else layer
            for layer in classifier.features
        ]
        layers[0] = first_convolution(cast(nn.Conv2d, layers[0]), in_channels, PAPER_PADDING if paper else None)
        self.features = nn.Sequential(*layers)
        self.classifier: nn.Sequential | None = None
        if fc:
            linear6, relu6, drop6, linear7, relu7, drop7 = list(classifier.classifier)[:6]
            fc6 = linear_to_conv(linear6, 7)
            fc6.padding = (0, 0) if paper else (3, 3)
            fc7 = linear_to_conv(linear7, 1)
            self.classifier = nn.Sequential(fc6, relu6, drop6, fc7, relu7, drop7)

    def forward(self, x: Tensor) -> Features:
        """Compute pool2, pool3, pool4 and fc7 (pool5 without fc); see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        switches: dict[int, Switch] = {}
        stride = 1
        for layer in self.features:
            if not isinstance(layer, nn.MaxPool2d):
                x = layer(x)
                continue
            stride *= 2
            if self.switches:
                before = (x.shape[2], x.shape[3])
                x, positions = layer(x)
                switches[stride] = Switch(positions, before)
            else:
                x = layer(x)
            if stride in self.channels:
                maps[stride] = x
        if self.classifier is not None:
            maps[32] = cast(Tensor, self.classifier(x))
        return Features(maps, size, switches)


def _pooled_channels(features: nn.Module) -> dict[int, int]:
    """Give the channels behind the poolings, by stride from 4 on."""
    channels, found, stride = 0, {}, 1
    for layer in features.children():
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            stride *= 2
            found[stride] = channels
    return {stride: number for stride, number in found.items() if stride >= 4}


class SmallVGG(nn.Module):
    """VGG-11 with batch norm at any width: torchvision's layers, key names and initialization.

    Args:
        width: channels of the first convolution, which the stages multiply by 1, 2, 4, 8 and 8; 64 is torchvision's.
        hidden: outputs of fc6 and fc7; 4096 in torchvision's.
        num_classes: number of classes K.
        dropout: share of the outputs of fc6 and of fc7 that training leaves out.
    """

    def __init__(self, width: int = 64, hidden: int = 4096, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for factor, depth in ((1, 1), (2, 1), (4, 2), (8, 2), (8, 2)):
            for _ in range(depth):
                layers += [
                    nn.Conv2d(before, factor * width, kernel_size=3, padding=1),
                    nn.BatchNorm2d(factor * width),
                    nn.ReLU(inplace=True),
                ]
                before = factor * width
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(before * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))
            elif isinstance(module, nn.Linear):
                # torchvision's deviation of 0.01 is that of 4096 channels; fewer would let the scores fade
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Score images (N, 3, H, W) as (N, K)."""
        return cast(Tensor, self.classifier(self.avgpool(self.features(x)).flatten(1)))


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

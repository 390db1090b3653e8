"""AlexNet: torchvision's (Krizhevsky 2014, one column) and CaffeNet, that of the reference networks (groups and LRN).

Features at strides 8 and 16 are pool1 and pool2 (behind its normalization in CaffeNet), at 32 fc7.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import cast

from torch import nn

from fullyconv.backbones.base import PAPER_PADDING, Chain, Padding, first_convolution, is_paper
from fullyconv.backbones.vgg import VGG
from fullyconv.conversion.linear import linear_to_conv

FC6_KERNEL = 6  # cells of pool5 at the native 224 (227) pixels


class CaffeNet(Chain):
    """The backbone of CaffeNet, fc6 and fc7 as convolutions.

    Args:
        name: the name it is built by.
        classifier: as `caffenet_classifier` builds it; its layers are taken over, not copied.
        in_channels: channels of the input.
        padding: "same" pads fc6 by 3 cells: its cells lie at 32 i + 17 pixels, one more than pool5 has; "paper" pads
            the first convolution by 100 pixels and fc6 not at all (Long et al., the reference FCN-AlexNet).
    """

    def __init__(
        self, name: str, classifier: nn.Sequential, *, in_channels: int = 3, padding: Padding = "same"
    ) -> None:
        paper = is_paper(padding, name, paper=True)
        layers = {layer: module for layer, module in classifier.named_children() if layer not in ("flatten", "fc8")}
        conv1 = cast(nn.Conv2d, layers["conv1"])
        layers["conv1"] = first_convolution(conv1, in_channels, PAPER_PADDING if paper else None)
        layers["fc6"] = fc6 = linear_to_conv(cast(nn.Linear, layers["fc6"]), FC6_KERNEL)
        layers["fc7"] = linear_to_conv(cast(nn.Linear, layers["fc7"]), 1)
        fc6.padding = (0, 0) if paper else (FC6_KERNEL // 2, FC6_KERNEL // 2)
        super().__init__(
            name,
            layers,
            {"norm1": 8, "norm2": 16, "drop7": 32},
            {8: 96, 16: 256, 32: 4096},
            in_channels=in_channels,
            min_size=1 if paper else 39,  # as AlexNet's 35, but conv1 has no padding of its own
            unused=("fc8.",),
        )


def caffenet_classifier(num_classes: int = 1000) -> nn.Sequential:
    """Build CaffeNet: AlexNet with two groups in conv2, conv4 and conv5, and pooling before normalization.

    Args:
        num_classes: number of classes K.

    Returns:
        Images of 227 x 227 pixels -> (N, K), randomly initialized; the layers have Caffe's names.
    """
    relu = partial(nn.ReLU, inplace=True)
    norm = partial(nn.LocalResponseNorm, 5, alpha=1e-4, beta=0.75)
    pool = partial(nn.MaxPool2d, 3, stride=2, ceil_mode=True)
    layers = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4), "relu1": relu(), "pool1": pool(), "norm1": norm(),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2), "relu2": relu(), "pool2": pool(), "norm2": norm(),
        "conv3": nn.Conv2d(256, 384, 3, padding=1), "relu3": relu(),
        "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2), "relu4": relu(),
        "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2), "relu5": relu(), "pool5": pool(),
        "flatten": nn.Flatten(),  # (C, h, w), as Caffe does
        "fc6": nn.Linear(256 * FC6_KERNEL * FC6_KERNEL, 4096), "relu6": relu(), "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(4096, 4096), "relu7": relu(), "drop7": nn.Dropout(0.5),
        "fc8": nn.Linear(4096, num_classes),
    }  # fmt: skip
    return nn.Sequential(OrderedDict(layers))


def alexnet(*, in_channels: int = 3, padding: Padding = "same") -> VGG:
    """Build the backbone of torchvision's AlexNet.

    Args:
        in_channels: channels of the input.
        padding: "same" covers the image without waste, cells of fc6 at 32 i + 15 pixels; "paper" puts 100 pixels
            around it.

    Returns:
        The backbone, randomly initialized.
    """
    import torchvision  # takes seconds, and only its own networks need it

    classifier = torchvision.models.alexnet(weights=None, num_classes=1)
    # pool1, pool2 and pool5 need 7, 3 and 2 cells for one cell of pool5; conv1 gives 8 at 35 pixels
    return VGG("alexnet", classifier, in_channels=in_channels, padding=padding, stride=4, min_size=35)


def caffenet(*, in_channels: int = 3, padding: Padding = "same") -> CaffeNet:
    """Build the backbone of CaffeNet; see `alexnet` for the arguments."""
    return CaffeNet("caffenet", caffenet_classifier(num_classes=1), in_channels=in_channels, padding=padding)

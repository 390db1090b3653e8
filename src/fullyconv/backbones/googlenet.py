"""GoogLeNet (Szegedy et al., CVPR 2015) in torchvision's form: batch norm in every convolution, no LRN.

Features at strides 8, 16 and 32 are inception3b, inception4e and inception5b; only the final loss branch is kept and
the last average pooling is left out (Long et al., section 4.1).
"""

from __future__ import annotations

from typing import Any, cast

from fullyconv.backbones.base import PAPER_PADDING, Chain, Padding, first_convolution, is_paper

_BEHIND = ("avgpool", "dropout", "fc", "aux1", "aux2")


def googlenet(*, in_channels: int = 3, padding: Padding = "same") -> Chain:
    """Build the backbone of torchvision's GoogLeNet, whose poolings round up by themselves.

    torchvision's published weights expect its `transform_input`, another normalization of the image: say so in the
    preprocessing that goes with the weights, the backbone does not do it.

    Args:
        in_channels: channels of the input.
        padding: "same" keeps the classifier's; "paper" pads the first convolution by 100 pixels.

    Returns:
        The backbone, randomly initialized.
    """
    import torchvision  # takes seconds, and only its own networks need it

    paper = is_paper(padding, "googlenet", paper=True)
    classifier = torchvision.models.googlenet(weights=None, num_classes=1, aux_logits=False, init_weights=True)
    layers = {layer: module for layer, module in classifier.named_children() if layer not in _BEHIND}
    conv1 = cast(Any, layers["conv1"])
    conv1.conv = first_convolution(conv1.conv, in_channels, PAPER_PADDING if paper else None)
    return Chain(
        "googlenet",
        layers,
        {"inception3b": 8, "inception4e": 16, "inception5b": 32},
        {8: 480, 16: 832, 32: 1024},
        in_channels=in_channels,
        min_size=1 if paper else 15,  # conv1 must give 8 cells: maxpool1 4, maxpool2 2, maxpool3 1
        unused=("fc.", "aux1.", "aux2."),
    )

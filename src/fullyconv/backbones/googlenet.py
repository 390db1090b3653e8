"""GoogLeNet (Szegedy et al., CVPR 2015) in torchvision's form: batch norm in every convolution, no LRN.

Features at strides 8, 16 and 32 are inception3b, inception4e and inception5b; only the final loss branch is kept and
the last average pooling is left out (Long et al., section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fullyconv.backbones.base import PAPER_PADDING, Backbone, Features, Padding, first_convolution, is_paper

if TYPE_CHECKING:
    import torchvision


class GoogLeNet(Backbone):
    """The backbone of torchvision's GoogLeNet; its poolings round up by themselves.

    torchvision's published weights expect its `transform_input`, another normalization of the image: say so in the
    preprocessing that goes with the weights, the backbone does not do it.

    Args:
        name: the name it is built by.
        classifier: torchvision's classifier; its layers are taken over, not copied.
        in_channels: channels of the input.
        padding: "same" keeps the classifier's; "paper" pads the first convolution by 100 pixels.
    """

    def __init__(
        self, name: str, classifier: torchvision.models.GoogLeNet, *, in_channels: int = 3, padding: Padding = "same"
    ) -> None:
        paper = is_paper(padding, name, paper=True)
        super().__init__(
            name,
            {8: 480, 16: 832, 32: 1024},
            in_channels=in_channels,
            min_size=1 if paper else 15,  # conv1 must give 8 cells: maxpool1 4, maxpool2 2, maxpool3 1
            unused=("fc.", "aux1.", "aux2."),
        )
        self.conv1 = classifier.conv1
        self.conv1.conv = first_convolution(self.conv1.conv, in_channels, PAPER_PADDING if paper else None)
        self.maxpool1 = classifier.maxpool1
        self.conv2, self.conv3 = classifier.conv2, classifier.conv3
        self.maxpool2 = classifier.maxpool2
        self.inception3a, self.inception3b = classifier.inception3a, classifier.inception3b
        self.maxpool3 = classifier.maxpool3
        self.inception4a, self.inception4b = classifier.inception4a, classifier.inception4b
        self.inception4c, self.inception4d = classifier.inception4c, classifier.inception4d
        self.inception4e = classifier.inception4e
        self.maxpool4 = classifier.maxpool4
        self.inception5a, self.inception5b = classifier.inception5a, classifier.inception5b

    def forward(self, x: Tensor) -> Features:
        """Compute inception3b, inception4e and inception5b; see `Backbone.forward`."""
        size = self._size(x)
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        inception3b = self.inception3b(self.inception3a(x))
        x = self.inception4b(self.inception4a(self.maxpool3(inception3b)))
        inception4e = self.inception4e(self.inception4d(self.inception4c(x)))
        inception5b = self.inception5b(self.inception5a(self.maxpool4(inception4e)))
        return Features({8: inception3b, 16: inception4e, 32: inception5b}, size)


def googlenet(*, in_channels: int = 3, padding: Padding = "same") -> GoogLeNet:
    """Build the backbone of torchvision's GoogLeNet.

    Args:
        in_channels: channels of the input.
        padding: "same" covers the image without waste; "paper" puts 100 pixels around it.

    Returns:
        The backbone, randomly initialized.
    """
    import torchvision  # takes seconds, and only its own networks need it

    classifier = torchvision.models.googlenet(weights=None, num_classes=1, aux_logits=False, init_weights=True)
    return GoogLeNet("googlenet", classifier, in_channels=in_channels, padding=padding)

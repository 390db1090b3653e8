"""The convolution that a dense network has where the classifier had a fully connected layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_WINDOWS = 256  # beyond, a convolution of the CPU is as fast as the product of matrices, and needs no copies


class FullyConnectedConv2d(nn.Conv2d):
    """A convolution that was a fully connected layer: the same, faster where it answers at few positions.

    Its kernel is the largest of the network and its map the smallest, while convolutions are written for the contrary:
    before each pass that of oneDNN lays the kernel out anew, which for AlexNet takes longer than all that follows.
    For a few windows on a CPU, without gradients, the layer's own product with each window is taken.
    """

    def _get_name(self) -> str:
        return "Conv2d"  # which it is, to whoever prints a network

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # whoever records the network is to see a convolution, which serves any size
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if torch.is_grad_enabled() or recorded or not self._few(input, weight):
            answer: Tensor = super()._conv_forward(input, weight, bias)
            return answer
        height, width = self._sides(input)
        windows = input.flatten(2) if self.kernel_size == (1, 1) else F.unfold(input, self.kernel_size)
        rows = F.linear(windows.transpose(1, 2), weight.flatten(1), bias)
        return rows.transpose(1, 2).reshape(len(input), self.out_channels, height, width)

    def _sides(self, input: Tensor) -> tuple[int, int]:
        return input.shape[2] - self.kernel_size[0] + 1, input.shape[3] - self.kernel_size[1] + 1

    def _few(self, input: Tensor, weight: Tensor) -> bool:
        """Tell whether the product of matrices is the same and faster."""
        plain = (self.stride, self.dilation, self.padding, self.groups) == ((1, 1), (1, 1), (0, 0), 1)
        if not plain or input.ndim != 4 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        # a kernel in another layout would be copied each time
        if input.dtype != weight.dtype or not weight.is_contiguous() or input.shape[1] != self.in_channels:
            return False
        height, width = self._sides(input)
        return min(height, width) > 0 and 0 < len(input) * height * width <= MOST_WINDOWS

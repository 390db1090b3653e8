"""One fully connected layer becomes one convolution (Long et al., section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.conversion.hooks import hooked, is_plain
from fullyconv.geometry import pair

MOST_WINDOWS = 256  # beyond, a convolution of the CPU is as fast as the product of matrices, and needs no copies
PARAMETERS = {"weight", "bias"}  # what a fully connected layer owns, unless they are computed from something else


def linear_to_conv(
    linear: nn.Linear, kernel_size: int | tuple[int, int], *, order: Literal["chw", "hwc"] = "chw"
) -> nn.Conv2d:
    """Turn a fully connected layer into the convolution whose kernel covers all nodes of the previous layer.

    A fully connected layer on a flattened (N, C, kH, kW) map multiplies every node of the map by its own weight and
    sums: exactly what one convolution of kernel (kH, kW) does at one position. On a larger map the convolution gives
    the layer's answer at every position. The kernel shares memory with the layer's weight where the order allows.

    Args:
        linear: the layer; its `in_features` must be C * kH * kW.
        kernel_size: height and width, in cells, of the map that was flattened in front of the layer.
        order: the order in which that map was flattened: "chw" (channels first, as `torch.flatten` does on N, C, H, W)
            or "hwc" (channels last, as TensorFlow and N, H, W, C networks do).

    Returns:
        A convolution without padding, weight (K, C, kH, kW) and the layer's bias.

    Raises:
        TypeError: `linear` is not a fully connected layer.
        ValueError: the kernel does not divide the layer's inputs, or the order is unknown, or the layer is more than
            its weight and bias: its weight is computed from other parameters (weight norm and the like), it has
            forward hooks or another forward.

    Example:
        >>> fc6 = torch.nn.Linear(512 * 7 * 7, 4096, device="meta")
        >>> linear_to_conv(fc6, 7)
        Conv2d(512, 4096, kernel_size=(7, 7), stride=(1, 1))
    """
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"linear={type(linear).__name__}: needs a torch.nn.Linear")
    height, width = pair(kernel_size)
    if height < 1 or width < 1:
        raise ValueError(f"kernel_size={kernel_size}: needs at least one cell in each direction")
    if linear.in_features % (height * width):
        raise ValueError(
            f"kernel_size=({height}, {width}): the layer has {linear.in_features} inputs, which are not a whole number "
            f"of channels of {height} x {width} cells; pass the size of the map that is flattened in front of it"
        )
    if order not in ("chw", "hwc"):
        raise ValueError(f"order={order!r}: needs 'chw' (channels first) or 'hwc' (channels last)")
    channels = linear.in_features // (height * width)
    index = torch.arange(linear.in_features, device="cpu")
    if order == "hwc":
        index = index.reshape(channels, height, width).permute(1, 2, 0).flatten()
    if not linear._parameters.keys() >= PARAMETERS or hooked(linear) or not is_plain(linear, nn.Linear):
        raise ValueError(
            f"linear={type(linear).__name__}: its weight is computed from other parameters (pruning, a norm, a "
            "parametrization), or it has forward hooks or a forward of its own, which the convolution would lose; make "
            "it a plain torch.nn.Linear first, e.g. by torch.nn.utils.parametrize.remove_parametrizations, "
            "torch.nn.utils.prune.remove, or the handles of its hooks"
        )
    return Kernel(channels, (height, width), index).convolution(linear)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Say where each input of a fully connected layer lies in the window of the map that feeds it.

    Args:
        channels: C of the map.
        size: (kH, kW), the window in cells.
        index: (D,) position of input d in the flattened (C, kH, kW) window. Inputs that stand nowhere get no entry
            (their cells weigh nothing), a position that is read twice sums both weights.
    """

    channels: int
    size: tuple[int, int]
    index: Tensor

    def weight(self, weight: Tensor) -> Tensor:
        """Rearrange a (K, D) weight to (K, C, kH, kW): a view wherever the order allows it."""
        cells = math.prod((self.channels, *self.size))
        if not torch.equal(self.index, torch.arange(cells, device="cpu")):
            weight = weight.new_zeros(len(weight), cells).index_add(1, self.index.to(weight.device), weight)
        return weight.reshape(len(weight), self.channels, *self.size)

    def same(self, other: Kernel) -> bool:
        """Tell whether two kernels would be the same convolution of the same layer."""
        return (self.channels, self.size) == (other.channels, other.size) and torch.equal(self.index, other.index)

    def convolution(self, linear: nn.Linear, kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
        """Build the convolution, of that class, with the layer's own parameters, flags and mode."""
        bias = linear.bias is not None
        with torch.device("meta"):  # nothing to initialize: the parameters are the layer's
            conv = kind(self.channels, linear.out_features, self.size, bias=bias)
        kernel = self.weight(linear.weight.detach())
        conv.weight = nn.Parameter(kernel, requires_grad=linear.weight.requires_grad)
        conv.bias = linear.bias
        conv.training = linear.training
        return conv


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

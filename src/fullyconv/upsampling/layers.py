"""Layers that upsample: fixed bilinear, transposed convolution, max unpooling (Long et al. 2015, section 3.3)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.geometry import Geometry
from fullyconv.upsampling import operators
from fullyconv.upsampling.axes import ROUNDING, cells_needed
from fullyconv.upsampling.resampling import ratios_and_phases, resample

Border = Literal["replicate", "zero"]


def bilinear_taps(factor: int, phase: float | None = None) -> Tensor:
    """Compute the bilinear filter along one axis: that of the transposed convolution from one grid to a finer one.

    The taps are ``1 - |m / factor + phase|`` at all whole m for which that is above zero.

    Args:
        factor: target cells per source cell.
        phase: position of target cell 0 in source cells; None for ``(1 / factor - 1) / 2``, which makes the symmetric
            filter of the paper, as Caffe fills it in.

    Returns:
        (k,) taps in float64; ``2 * factor - factor % 2`` for the filter of the paper.

    Raises:
        ValueError: if factor is below 1.

    Example:
        >>> bilinear_taps(2).tolist()
        [0.25, 0.75, 0.75, 0.25]
        >>> bilinear_taps(2, phase=0.0).tolist()
        [0.5, 1.0, 0.5]
        >>> bilinear_taps(2, phase=-0.125).tolist()
        [0.375, 0.875, 0.625, 0.125]
    """
    if factor < 1:
        raise ValueError(f"factor={factor} must be at least 1: it is the number of target cells per source cell.")
    stamp = Stamp(factor, (1 / factor - 1) / 2 if phase is None else phase)
    taps = torch.arange(stamp.first, stamp.first + stamp.size, dtype=torch.float64)
    return 1 - (taps / factor + stamp.phase).abs()


def bilinear_kernel(factor: int, phase: float | None = None) -> Tensor:
    """Compute the two-dimensional bilinear filter: the outer product of `bilinear_taps` with itself.

    Args:
        factor: target cells per source cell, along both axes.
        phase: position of target cell 0 in source cells, along both axes; None for the symmetric filter of the paper.

    Returns:
        (k, k) filter in float32; it sums to ``factor ** 2``.

    Raises:
        ValueError: if factor is below 1.

    Example:
        >>> bilinear_kernel(2)[0].tolist()
        [0.0625, 0.1875, 0.1875, 0.0625]
        >>> bilinear_kernel(32, phase=0.0).shape                  # the kernel of FCN-AlexNet
        torch.Size([63, 63])
    """
    taps = bilinear_taps(factor, phase)
    return torch.outer(taps, taps).float()


class Stamp(NamedTuple):
    """What one source cell writes along one axis of a transposed convolution from one grid to another.

    Args:
        factor: target cells per source cell.
        phase: position of target cell 0 in source cells.
    """

    factor: int
    phase: float

    @property
    def first(self) -> int:
        """First target cell, counted from cell factor * i, that source cell i has a weight in."""
        return math.floor(-self.factor * (1 + self.phase) + ROUNDING) + 1

    @property
    def size(self) -> int:
        """Number of target cells that a source cell has a weight in: the taps of the kernel."""
        return math.ceil(self.factor * (1 - self.phase) - ROUNDING) - self.first

    @staticmethod
    def between(source: Geometry, target: Geometry) -> tuple[Stamp, Stamp]:
        """Give the stamps of rows and columns.

        Raises:
            ValueError: if the ratio of the strides is not a whole number.
        """
        ratios, phases = ratios_and_phases(source, target)
        for ratio in ratios:
            if abs(ratio - round(ratio)) > ROUNDING or ratio < 1 - ROUNDING:
                raise ValueError(
                    f"source.stride={source.stride} over target.stride={target.stride}: a transposed convolution "
                    f"upsamples by a whole number, not by {ratio:g}. BilinearUpsampling with border='replicate' takes "
                    "any ratio."
                )
        rows, columns = (Stamp(round(ratio), phase) for ratio, phase in zip(ratios, phases, strict=True))
        return rows, columns


class _Between(nn.Module):
    """Bring a map from one grid to another."""

    def __init__(self, source: Geometry, target: Geometry, *, border: Border = "replicate") -> None:
        super().__init__()
        if border not in get_args(Border):
            raise ValueError(f"border={border!r} is not a border. Choose 'replicate' or 'zero'.")
        self.source = source
        self.target = target
        self.border = border

    @property
    def geometry(self) -> Geometry:
        """Geometry of `whole`: the output before it is cropped to the target grid."""
        rows, columns = Stamp.between(self.source, self.target)
        (y, x), (down, right) = self.target.center, self.target.stride
        grown = self.source.transposed_conv((rows.size, columns.size), (rows.factor, columns.factor))
        return dataclasses.replace(grown, center=(y + down * rows.first, x + right * columns.first))


class BilinearUpsampling(_Between):
    """Upsample with the fixed bilinear filter; no parameters.

    Args:
        source: geometry of the input.
        target: geometry of the output; `Geometry.IDENTITY` for pixels.
        border: "replicate" clamps positions at the border of the map, as `resample` does; "zero" takes what lies
            outside the map for zero, as the transposed convolutions of the paper do.

    Example:
        >>> to_pixels = BilinearUpsampling(Geometry((32, 32), (15.5, 15.5), (404, 404)), Geometry.IDENTITY)
        >>> to_pixels(torch.ones(1, 21, 12, 16), (375, 500)).shape
        torch.Size([1, 21, 375, 500])
    """

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample.

        Args:
            x: (N, C, h, w) values of the cells of `source`.
            size: height and width of the output, in cells of `target`.

        Returns:
            (N, C, *size) values.
        """
        if self.border == "replicate":
            return resample(x, self.source, self.target, size)
        return operators.resample(x, size, *ratios_and_phases(self.source, self.target), clamp=False)

    def whole(self, x: Tensor) -> Tensor:
        """Upsample to all cells that a transposed convolution with this filter reaches, as the reference does.

        Args:
            x: (N, C, h, w) values of the cells of `source`.

        Returns:
            (N, C, (h - 1) * factor + kH, (w - 1) * factor + kW) values; their cells are those of `geometry`.

        Raises:
            ValueError: if the ratio of the strides is not a whole number.
        """
        stamps = zip(x.shape[2:], Stamp.between(self.source, self.target), strict=True)
        height, width = ((n - 1) * stamp.factor + stamp.size for n, stamp in stamps)
        up: Tensor = BilinearUpsampling(self.source, self.geometry, border="zero")(x, (height, width))
        return up


class TransposedConvUpsampling(_Between):
    """Upsample by a transposed convolution that starts as bilinear interpolation (Long et al. 2015, section 3.3).

    The initial kernel is the bilinear filter in the phase that the two geometries demand; for a whole or half phase
    this is the symmetric filter of the paper (64 taps for VGG at stride 32, 63 for AlexNet and ResNet). With
    ``border="replicate"`` the map is continued by its border cells, so that the module at first equals `resample`
    everywhere; with ``border="zero"`` it fades at the border, as the nets of the paper do.

    Args:
        channels: channels C of input and output.
        source: geometry of the input.
        target: geometry of the output; `Geometry.IDENTITY` for pixels. Its stride divides that of `source`.
        frozen: keep the kernel as it is: the weight asks for no gradient.
        full: one C x C kernel whose diagonal is bilinear, as in the reference, in place of one kernel per channel.
            While it is frozen both are the same function; trained, it may mix classes.
        border: "replicate" or "zero".

    Raises:
        ValueError: if the ratio of the strides is not a whole number.

    Example:
        >>> vgg = Geometry((32, 32), (15.5, 15.5), (404, 404))
        >>> upscore = TransposedConvUpsampling(21, vgg, Geometry.IDENTITY)
        >>> upscore.weight.shape, upscore(torch.ones(1, 21, 12, 16), (375, 500)).shape
        (torch.Size([21, 1, 64, 64]), torch.Size([1, 21, 375, 500]))
    """

    def __init__(
        self,
        channels: int,
        source: Geometry,
        target: Geometry,
        *,
        frozen: bool = False,
        full: bool = False,
        border: Border = "replicate",
    ) -> None:
        super().__init__(source, target, border=border)
        if channels < 1:
            raise ValueError(f"channels={channels} must be at least 1.")
        self.channels = channels
        self.frozen = frozen
        self.full = full
        self._stamps = rows, columns = Stamp.between(source, target)
        self.factor, self.kernel_size = (rows.factor, columns.factor), (rows.size, columns.size)
        self.weight = nn.Parameter(
            torch.empty(channels, channels if full else 1, *self.kernel_size), requires_grad=not frozen
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the bilinear filter: for each class on the diagonal, zeros elsewhere."""
        rows, columns = (bilinear_taps(stamp.factor, stamp.phase) for stamp in self._stamps)
        kernel = torch.outer(rows, columns)
        with torch.no_grad():
            self.weight.zero_()
            for channel in range(self.channels):
                self.weight[channel, channel if self.full else 0] = kernel

    def whole(self, x: Tensor) -> Tensor:
        """Upsample without padding or cropping, as the layer of the reference does.

        Args:
            x: (N, C, h, w) values of the cells of `source`.

        Returns:
            (N, C, (h - 1) * factor + kH, (w - 1) * factor + kW) values; their cells are those of `geometry`.
        """
        groups = 1 if self.full else self.channels
        return F.conv_transpose2d(x, self.weight, stride=self.factor, groups=groups)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample to the target grid.

        Args:
            x: (N, C, h, w) values of the cells of `source`.
            size: height and width of the output, in cells of `target`.

        Returns:
            (N, C, *size) values.
        """
        starts = [0, 0]
        if self.border == "replicate":
            starts = [math.floor(phase + ROUNDING) for _, phase in self._stamps]
            counts = [cells_needed(m, *stamp) for m, stamp in zip(size, self._stamps, strict=True)]
            x = operators.continued(x, starts, counts)
        # `whole` begins with the first tap of its first cell, which lies at target cell factor * start + first
        crop = [-(stamp.factor * start + stamp.first) for stamp, start in zip(self._stamps, starts, strict=True)]
        return operators.window(self.whole(x), crop, size)


class MaxUnpooling(nn.Module):
    """Put values back where max pooling found them (Zeiler and Fergus 2014; DeconvNet, SegNet).

    By scattering, which is deterministic also under ``torch.use_deterministic_algorithms(True)``, where
    `torch.nn.MaxUnpool2d` raises an error. Where windows overlap, one position may be the maximum of several: the
    largest of their values is put back.

    Args:
        kernel_size: height and width of the pooling window, in cells.
        stride: cells from one window to the next; by default `kernel_size`.
        fill: the value of all other positions.

    Example:
        >>> pool = torch.nn.MaxPool2d(2, return_indices=True)
        >>> values, positions = pool(torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]))
        >>> MaxUnpooling(2)(values, positions, (2, 2)).tolist()
        [[[[0.0, 0.0], [4.0, 0.0]]]]
    """

    def __init__(self, kernel_size: int = 2, stride: int | None = None, *, fill: float = 0.0) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        if kernel_size < 1 or stride < 1:
            raise ValueError(f"kernel_size={kernel_size} and stride={stride} must be at least 1.")
        self.kernel_size = kernel_size
        self.stride = stride
        self.fill = fill

    def forward(self, x: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
        """Unpool.

        Args:
            x: (N, C, h, w) values.
            positions: (N, C, h, w) int64, the index of each value in the flattened (H * W) map, as
                ``MaxPool2d(return_indices=True)`` gives it.
            size: height H and width W of the map before the pool. It cannot be told from x: 12 cells may come from 23
                or 24.

        Returns:
            (N, C, H, W) map.

        Raises:
            ValueError: if the shapes of x and positions differ.
        """
        if x.shape != positions.shape:
            raise ValueError(
                f"positions of shape {tuple(positions.shape)} for x of shape {tuple(x.shape)}: every value needs its "
                f"position. Pass what the mirrored pool returned, and as many channels as it had."
            )
        overlapping = self.kernel_size > self.stride
        return operators.unpool(x, positions, size, self.fill, overlapping)

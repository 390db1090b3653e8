"""Upsampling of score maps: fixed bilinear, transposed convolution, max unpooling (Long et al. 2015, section 3.3).

All of it aligns by measured centers. A cell of a feature map stands for the pixel at the center of its receptive field,
and where those centers lie differs from network to network: at 32 i + 15.5 in VGG, at 32 i in ResNet. With source
centers at c + j i and target centers at c' + j' u, target cell u lies at

    t(u) = (c' + j' u - c) / j = u / r + phase,    r = j / j',  phase = (c' - c) / j

in source cells. Bilinear interpolation there, with positions clamped to the map, is what `resample` computes, and what
the transposed convolution of this file computes as long as its kernel is the initial one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from fullyconv.geometry import Geometry

Border = Literal["replicate", "zero"]

# Positions are sums and quotients of half pixels; what differs from a whole number by less than this many cells is
# rounding.
_ROUNDING = 1e-6

_open_sizes = False


@contextmanager
def open_sizes() -> Iterator[None]:
    """Let sizes stay open inside, for an exporter: whatever depends on the size of the image is one operator.

    How many cells are needed and where a map is cropped are decisions about numbers, which a trace would freeze.
    Inside, `resample`, `TransposedConvUpsampling`, `BilinearUpsampling`, `MaxUnpooling` and `grown_to` call operators
    ``fullyconv::resample``, ``continued``, ``window`` and ``unpool``, for which the exporter has translations; the
    values are the same.
    """
    global _open_sizes
    before, _open_sizes = _open_sizes, True
    try:
        yield
    finally:
        _open_sizes = before


def bilinear_taps(factor: int, phase: float | None = None, size: int | None = None) -> Tensor:
    """Compute the bilinear filter along one axis.

    Without a phase it is the symmetric filter of the paper, which Caffe fills in: ``1 - |m - c| / f`` with
    ``f = (size + 1) // 2`` around the center ``c = (size - 1) / 2``. With a phase it is the filter of the transposed
    convolution that puts target cell 0 at source position `phase`: tap m weighs a source cell at
    ``max(0, 1 - |(m - p) / factor + phase|)``, p being the first tap for which this is not zero.

    Args:
        factor: target cells per source cell.
        phase: position of target cell 0 in source cells; None for the symmetric filter.
        size: taps of the symmetric filter; by default ``2 * factor - factor % 2``. ``2 * factor - 1`` is the other
            choice.

    Returns:
        (k,) taps in float64.

    Raises:
        ValueError: if factor is below 1, size belongs to another factor, or both phase and size are given.

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
    if phase is not None:
        if size is not None:
            raise ValueError(f"size={size} cannot be chosen with phase={phase}: the phase decides it. Leave size out.")
        first, last = _support(factor, phase)
        taps = torch.arange(first, last + 1, dtype=torch.float64)
        return 1 - (taps / factor + phase).abs()
    size = 2 * factor - factor % 2 if size is None else size
    if (size + 1) // 2 != factor:
        raise ValueError(
            f"size={size} is no bilinear filter for factor={factor}. Pass {2 * factor} or "
            f"{2 * factor - 1}, or leave size out."
        )
    return 1 - (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs() / factor


def bilinear_kernel(factor: int, phase: float | None = None, size: int | None = None) -> Tensor:
    """Compute the two-dimensional bilinear filter: the outer product of `bilinear_taps` with itself.

    Args:
        factor: target cells per source cell, along both axes.
        phase: position of target cell 0 in source cells, along both axes; None for the symmetric filter of the paper.
        size: taps along each axis of the symmetric filter; by default ``2 * factor - factor % 2``.

    Returns:
        (k, k) filter in float32; it sums to ``factor ** 2``.

    Raises:
        ValueError: as `bilinear_taps` does.

    Example:
        >>> bilinear_kernel(2)[0].tolist()
        [0.0625, 0.1875, 0.1875, 0.0625]
        >>> bilinear_kernel(32, size=63).shape                  # the kernel of FCN-AlexNet
        torch.Size([63, 63])
    """
    taps = bilinear_taps(factor, phase, size)
    return torch.outer(taps, taps).float()


def resample(scores: Tensor, source: Geometry, target: Geometry, size: tuple[int, int]) -> Tensor:
    """Interpolate a map bilinearly at the centers of another grid, clamping positions at its border.

    Takes `torch.nn.functional.interpolate` wherever the phase permits, after replicating or cropping whole cells: with
    ``align_corners=False`` where target cells lie at half positions (VGG to pixels), with ``align_corners=True`` where
    they coincide (ResNet to pixels). Any other phase is a product with one matrix per axis. All give the same values.

    Args:
        scores: (N, C, h, w) values of the cells of `source`.
        source: geometry of `scores`.
        target: geometry of the wanted map; `Geometry.IDENTITY` for pixels.
        size: height and width of the wanted map, in cells of `target`.

    Returns:
        (N, C, *size) values; maybe a view of a larger map.

    Raises:
        ValueError: if scores has not four dimensions or no cell, or size is not positive.

    Example:
        >>> vgg = Geometry((32, 32), (15.5, 15.5), (404, 404))
        >>> resample(torch.ones(1, 21, 12, 16), vgg, Geometry.IDENTITY, (375, 500)).shape
        torch.Size([1, 21, 375, 500])
    """
    if _open_sizes:
        return _resample_openly(scores, source, target, size, clamp=True)
    _check(scores, size)
    return _resample([_Axis.of(source, target, axis, scores.shape[2 + axis], size[axis]) for axis in (0, 1)], scores)


def interpolation_matrix(source: Geometry, target: Geometry, axis: int, cells: int, wanted: int) -> Tensor:
    """Give the weights by which `resample` takes source cells for target cells along one axis.

    Args:
        source: geometry of the map.
        target: geometry of the wanted map.
        axis: 0 for rows, 1 for columns.
        cells: number of source cells along the axis.
        wanted: number of target cells.

    Returns:
        (wanted, cells) float64 on the CPU; every row sums to 1 and has at most two weights.

    Example:
        >>> cells = Geometry((2, 2), (0.5, 0.5), (1, 1))
        >>> interpolation_matrix(cells, Geometry.IDENTITY, 0, 2, 4)[:, 1].tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    return _Axis.of(source, target, axis, cells, wanted).matrix(clamp=True)


def grown_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Continue a map at the bottom and right by its border cells.

    Args:
        x: (N, C, h, w) values.
        size: height and width of the result, not below those of x.

    Returns:
        (N, C, *size) values; x itself where it has that size.

    Example:
        >>> grown_to(torch.tensor([[[[1.0, 2.0]]]]), (1, 4)).tolist()
        [[[[1.0, 2.0, 2.0, 2.0]]]]
    """
    if _open_sizes:
        continued: Tensor = torch.ops.fullyconv.continued(x, [0, 0], list(size))
        return continued
    bottom, right = size[0] - x.shape[2], size[1] - x.shape[3]
    return _bordered(x, [0, right, 0, bottom]) if bottom or right else x


class BilinearUpsampling(nn.Module):
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

    def __init__(self, source: Geometry, target: Geometry, *, border: Border = "replicate") -> None:
        super().__init__()
        _check_border(border)
        self.source = source
        self.target = target
        self.border = border

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
        if _open_sizes:
            return _resample_openly(x, self.source, self.target, size, clamp=False)
        _check(x, size)
        axes = [_Axis.of(self.source, self.target, axis, x.shape[2 + axis], size[axis]) for axis in (0, 1)]
        return _multiply(x, axes, clamp=False)

    @property
    def geometry(self) -> Geometry:
        """Geometry of `whole`."""
        return _reached(self.source, self.target)

    def whole(self, x: Tensor) -> Tensor:
        """Upsample to all cells that a transposed convolution with this filter reaches, as the reference does.

        Args:
            x: (N, C, h, w) values of the cells of `source`.

        Returns:
            (N, C, (h - 1) * factor + kH, (w - 1) * factor + kW) values; their cells are those of `geometry`.

        Raises:
            ValueError: if the ratio of the strides is not a whole number.
        """
        factor, _, kernel_size = _kernel(self.source, self.target)
        reached = BilinearUpsampling(self.source, self.geometry, border="zero")
        height, width = ((n - 1) * f + k for n, f, k in zip(x.shape[2:], factor, kernel_size, strict=True))
        up: Tensor = reached(x, (height, width))
        return up

    def extra_repr(self) -> str:
        """Say the strides in the printed module."""
        return f"stride={self.source.stride}, target_stride={self.target.stride}, border={self.border!r}"


class TransposedConvUpsampling(nn.Module):
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
        super().__init__()
        _check_border(border)
        if channels < 1:
            raise ValueError(f"channels={channels} must be at least 1.")
        self.channels = channels
        self.source = source
        self.target = target
        self.frozen = frozen
        self.full = full
        self.border = border
        self.factor, self._phase, self.kernel_size = _kernel(source, target)
        self.weight = nn.Parameter(
            torch.empty(channels, channels if full else 1, *self.kernel_size), requires_grad=not frozen
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the bilinear filter: for each class on the diagonal, zeros elsewhere."""
        rows, columns = (bilinear_taps(f, p) for f, p in zip(self.factor, self._phase, strict=True))
        kernel = torch.outer(rows, columns)
        with torch.no_grad():
            self.weight.zero_()
            for channel in range(self.channels):
                self.weight[channel, channel if self.full else 0] = kernel

    @property
    def geometry(self) -> Geometry:
        """Geometry of `whole`: the output before it is cropped to the target grid."""
        return _reached(self.source, self.target)

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
        if _open_sizes:
            return self._forward_openly(x, size)
        _check(x, size)
        axes = [_Axis.of(self.source, self.target, axis, x.shape[2 + axis], size[axis]) for axis in (0, 1)]
        starts = [0, 0]
        if self.border == "replicate":
            rows, columns = axes[0].needed(), axes[1].needed()
            x, starts = _take(x, rows, columns), [rows[0], columns[0]]
        return _window(self.whole(x), self._crop(starts), size)

    def _forward_openly(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        starts = [0, 0]
        if self.border == "replicate":
            starts = [math.floor(phase + _ROUNDING) for phase in self._phase]
            counts = [_cells(m, f, p) for m, f, p in zip(size, self.factor, self._phase, strict=True)]
            x = torch.ops.fullyconv.continued(x, starts, counts)
        window: Tensor = torch.ops.fullyconv.window(self.whole(x), self._crop(starts), list(size))
        return window

    def _crop(self, starts: Sequence[int]) -> list[int]:
        """Cells to cut off from `whole` of a map that begins with the cells `starts`."""
        # `whole` begins with the first tap of its first cell, which lies at target cell factor * start + first
        first = [_support(f, p)[0] for f, p in zip(self.factor, self._phase, strict=True)]
        return [-(f * start + lead) for f, start, lead in zip(self.factor, starts, first, strict=True)]

    def extra_repr(self) -> str:
        """Say the sizes in the printed module."""
        return (
            f"channels={self.channels}, kernel_size={self.kernel_size}, factor={self.factor}, frozen={self.frozen}, "
            f"full={self.full}, border={self.border!r}"
        )


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
        if _open_sizes:
            unpooled: Tensor = torch.ops.fullyconv.unpool(x, positions, list(size), self.fill, overlapping)
            return unpooled
        return _unpool(x, positions, size, self.fill, overlapping)

    def extra_repr(self) -> str:
        """Say the sizes in the printed module."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, fill={self.fill}"


class _Axis(NamedTuple):
    """How n source cells and m target cells lie along one axis: target cell u at u / ratio + phase, in source cells."""

    n: int
    m: int
    ratio: float
    phase: float

    @classmethod
    def of(cls, source: Geometry, target: Geometry, axis: int, n: int, m: int) -> _Axis:
        ratio = source.stride[axis] / target.stride[axis]
        return cls(n, m, ratio, (target.center[axis] - source.center[axis]) / source.stride[axis])

    @property
    def half(self) -> bool:
        """Tell whether interpolate(align_corners=False) hits the target cells: one lies at 1 / (2 ratio) - 1 / 2."""
        return self._on_grid((self.phase + 0.5) * self.ratio - 0.5)

    @property
    def whole(self) -> bool:
        """Tell whether interpolate(align_corners=True) hits the target cells: one lies at 0."""
        return self._on_grid(self.phase * self.ratio)

    def _on_grid(self, cells: float) -> bool:
        whole_ratio = self.ratio > 1 - _ROUNDING and abs(self.ratio - round(self.ratio)) <= _ROUNDING
        return whole_ratio and abs(cells - round(cells)) <= _ROUNDING

    def needed(self, overhang: float = 0.0) -> tuple[int, int]:
        """First source cell, and the one behind the last, that the positions lie at or between.

        Cells outside 0..n-1 are replicas of the border. `overhang` is how far outside the map, in cells, a position may
        lie and still need none; there is always one cell of the map itself.
        """
        last = (self.m - 1) / self.ratio + self.phase
        start, stop = math.floor(self.phase + _ROUNDING), math.ceil(last - _ROUNDING) + 1
        if start < 0:
            start = min(0, math.floor(self.phase + overhang + _ROUNDING))
        if stop > self.n:
            stop = max(self.n, math.ceil(last - overhang - _ROUNDING) + 1)
        return min(start, self.n - 1), max(stop, 1)

    def matrix(self, clamp: bool) -> Tensor:
        """Weights (m, n) of every source cell in every target cell: the hat function around its position."""
        # on the CPU, because not every accelerator has float64
        position = torch.arange(self.m, dtype=torch.float64) / self.ratio + self.phase
        if clamp:
            position = position.clamp(0, self.n - 1)
        cells = torch.arange(self.n, dtype=torch.float64)
        return (1 - (position[:, None] - cells).abs()).clamp(min=0)


def _kernel(source: Geometry, target: Geometry) -> tuple[tuple[int, int], tuple[float, float], tuple[int, int]]:
    """Factor, phase and kernel size of the transposed convolution from one grid to the other, each (y, x)."""
    factors, phases, sizes = [], [], []
    for axis in (0, 1):
        ratio = source.stride[axis] / target.stride[axis]
        if abs(ratio - round(ratio)) > _ROUNDING or ratio < 1 - _ROUNDING:
            raise ValueError(
                f"source.stride={source.stride} over target.stride={target.stride}: a transposed convolution upsamples "
                f"by a whole number, not by {ratio:g}. BilinearUpsampling with border='replicate' takes any ratio."
            )
        factors.append(round(ratio))
        phases.append((target.center[axis] - source.center[axis]) / source.stride[axis])
        first, last = _support(factors[-1], phases[-1])
        sizes.append(last - first + 1)
    return (factors[0], factors[1]), (phases[0], phases[1]), (sizes[0], sizes[1])


def _reached(source: Geometry, target: Geometry) -> Geometry:
    """Geometry of the uncropped transposed convolution: the target grid, begun at the first cell that is reached."""
    factor, phase, kernel_size = _kernel(source, target)
    first = [_support(f, p)[0] for f, p in zip(factor, phase, strict=True)]
    y, x = (c + j * cell for c, j, cell in zip(target.center, target.stride, first, strict=True))
    return dataclasses.replace(source.transposed_conv(kernel_size, factor), center=(y, x))


def _support(factor: int, phase: float) -> tuple[int, int]:
    """First and last target cell, counted from cell factor * i, that source cell i has a weight in."""
    return math.floor(-factor * (1 + phase) + _ROUNDING) + 1, math.ceil(factor * (1 - phase) - _ROUNDING) - 1


def _take(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Take cells start..stop-1 of a map that its border cells continue in every direction."""
    pads: list[int] = []
    slices: list[slice] = []
    for (start, stop), n in zip((rows, columns), x.shape[2:], strict=True):
        first, last = min(max(start, 0), n - 1), max(min(stop, n), 1)
        before = max(min(-start, stop - start - 1), 0)
        pads = [before, stop - start - (last - first) - before, *pads]  # F.pad wants the last axis first
        slices.append(slice(first, last))
    x = x[:, :, slices[0], slices[1]]
    return _bordered(x, pads) if any(pads) else x


def _bordered(x: Tensor, pads: list[int]) -> Tensor:
    """Continue a map (N, C, h, w) by its border cells: ``pads`` are left, right, top, bottom."""
    if not torch.compiler.is_compiling():
        return F.pad(x, pads, mode="replicate")
    # inductor expects a contiguous gradient of replication_pad2d, whose kernel gives channels_last (torch 2.9 to 2.14)
    for dim, (before, after) in ((3, pads[:2]), (2, pads[2:])):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([*[first] * before, x, *[last] * after], dim)
    return x


def _resample(axes: list[_Axis], scores: Tensor) -> Tensor:
    if all(axis.whole and round(axis.ratio) == 1 for axis in axes):
        return _shift(scores, axes)
    if all(axis.half for axis in axes):
        return _interpolate(scores, axes, align_corners=False)
    if all(axis.whole for axis in axes):
        return _interpolate(scores, axes, align_corners=True)
    return _multiply(scores, axes, clamp=True)


def _shift(x: Tensor, axes: list[_Axis]) -> Tensor:
    y, x_ = axes
    top, left = round(y.phase), round(x_.phase)
    return _take(x, (top, top + y.m), (left, left + x_.m))


def _interpolate(x: Tensor, axes: list[_Axis], *, align_corners: bool) -> Tensor:
    # with align_corners=False the result itself reaches beyond the outer centers: half a source less half a target cell
    spans = [axis.needed(0.0 if align_corners else 0.5 - 0.5 / axis.ratio) for axis in axes]
    x = _take(x, spans[0], spans[1])
    lengths, drops = [], []
    for axis, (start, stop) in zip(axes, spans, strict=True):
        r, phase = round(axis.ratio), axis.phase - start
        lengths.append(r * (stop - start - 1) + 1 if align_corners else r * (stop - start))
        drops.append(round(phase * r) if align_corners else round((phase + 0.5) * r - 0.5))
    up = F.interpolate(x, (lengths[0], lengths[1]), mode="bilinear", align_corners=align_corners)
    return _window(up, drops, (axes[0].m, axes[1].m))


def _multiply(x: Tensor, axes: list[_Axis], *, clamp: bool) -> Tensor:
    # float32 at least, and no autocast: weights in half precision would move the positions
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (axis.matrix(clamp).to(x.device, dtype) for axis in axes)
    with torch.autocast(x.device.type, enabled=False):
        # the order that costs less: the axis that is lengthened more comes last
        if axes[0].m * axes[1].n <= axes[0].n * axes[1].m:
            up = torch.matmul(torch.matmul(rows, x.to(dtype)), columns.T)
        else:
            up = torch.matmul(rows, torch.matmul(x.to(dtype), columns.T))
    return up.to(x.dtype)


def _window(x: Tensor, start: list[int], size: tuple[int, int]) -> Tensor:
    """Cut out the cells from `start` on, zeros where they lie outside."""
    h, w = x.shape[2:]
    (top, left), (m, n) = start, size
    if (top, left, m, n) == (0, 0, h, w):
        return x
    if top >= 0 and left >= 0 and top + m <= h and left + n <= w:
        return x[..., top : top + m, left : left + n]
    if top >= h or left >= w or top + m <= 0 or left + n <= 0:
        return x.new_zeros((*x.shape[:2], m, n))
    return F.pad(x, (-left, left + n - w, -top, top + m - h))


def _unpool(x: Tensor, positions: Tensor, size: Sequence[int], fill: float, overlapping: bool) -> Tensor:
    height, width = size
    out = x.new_full((*x.shape[:2], height * width), fill)
    values, index = x.flatten(2), positions.flatten(2)
    if overlapping:
        out = out.scatter_reduce(2, index, values, "amax", include_self=False)
    else:
        out = out.scatter(2, index, values)
    return out.view(*x.shape[:2], height, width)


def _cells(m: int, factor: int, phase: float) -> int:
    """Source cells, from floor(phase) on, that m target cells lie at or between; m may be symbolic."""
    lead = math.ceil(phase * factor - _ROUNDING)  # whole target cells, so that the rest is arithmetic of whole numbers
    # ONNX rounds towards zero, so whole factors are lent to stay above it
    lent = max(0, -(lead // factor))
    return (m + lead + factor - 2 + lent * factor) // factor - lent + 1 - math.floor(phase + _ROUNDING)


class AxisPlan(NamedTuple):
    """How `resample` goes along one axis by `interpolate`, whatever the sizes.

    Args:
        ratio: target cells per source cell.
        start: first source cell that is needed; below 0 it is a replica of the border.
        lead: the last one is ceil((m - 1 + lead) / ratio) for m target cells.
        tail: the same beyond the map, where interpolation itself continues the border for half a cell.
        drop: cells to cut off in front of the result.
    """

    ratio: int
    start: int
    lead: int
    tail: int
    drop: int


class ResamplingPlan(NamedTuple):
    """How `resample` goes by `interpolate`, whatever the sizes.

    Args:
        axes: the plans of both axes.
        align_corners: whether centers of cells coincide; else their borders do.
        shift: whether cells are only moved.
    """

    axes: tuple[AxisPlan, AxisPlan]
    align_corners: bool
    shift: bool


def resampling_plan(ratios: Sequence[float], phases: Sequence[float]) -> ResamplingPlan | None:
    """Say how `resample` goes by `interpolate`; None where the phase asks for a product with matrices.

    Args:
        ratios: target cells per source cell of both axes.
        phases: position of target cell 0 in source cells of both axes.

    Example:
        >>> resampling_plan((32, 32), (-15.5 / 32, -15.5 / 32)).axes[0]                     # VGG to pixels
        AxisPlan(ratio=32, start=0, lead=-15, tail=-31, drop=0)
    """
    axes = [_Axis(0, 0, ratio, phase) for ratio, phase in zip(ratios, phases, strict=True)]
    half = all(axis.half for axis in axes)
    if not half and not all(axis.whole for axis in axes):
        return None
    plans = []
    for axis in axes:
        r, start = round(axis.ratio), math.floor(axis.phase + _ROUNDING)
        overhang = 0.5 - 0.5 / r if half else 0.0
        if start < 0:
            start = min(0, math.floor(axis.phase + overhang + _ROUNDING))
        lead, tail = (math.ceil((axis.phase - over) * r - _ROUNDING) for over in (0.0, overhang))
        phase = axis.phase - start
        plans.append(AxisPlan(r, start, lead, tail, round((phase + 0.5) * r - 0.5 if half else phase * r)))
    shift = all(axis.whole and round(axis.ratio) == 1 for axis in axes)
    return ResamplingPlan((plans[0], plans[1]), not half, shift)


def _resample_openly(x: Tensor, source: Geometry, target: Geometry, size: tuple[int, int], *, clamp: bool) -> Tensor:
    axes = [_Axis.of(source, target, axis, 0, 0) for axis in (0, 1)]
    ratios, phases = [axis.ratio for axis in axes], [axis.phase for axis in axes]
    resampled: Tensor = torch.ops.fullyconv.resample(x, list(size), ratios, phases, clamp)
    return resampled


# The operators of `open_sizes`. What they compute is what the functions above compute; they may not return a view.


@library.custom_op("fullyconv::resample", mutates_args=())
def _resample_operator(
    x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool
) -> Tensor:
    axes = [_Axis(n, m, ratio, phase) for n, m, ratio, phase in zip(x.shape[2:], size, ratios, phases, strict=True)]
    return (_resample(axes, x) if clamp else _multiply(x, axes, clamp=False)).clone()


@library.custom_op("fullyconv::continued", mutates_args=())
def _continued_operator(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    return _take(x, (start[0], start[0] + size[0]), (start[1], start[1] + size[1])).clone()


@library.custom_op("fullyconv::window", mutates_args=())
def _window_operator(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    return _window(x, list(start), (size[0], size[1])).clone()


@library.custom_op("fullyconv::unpool", mutates_args=())
def _unpool_operator(x: Tensor, positions: Tensor, size: Sequence[int], fill: float, overlapping: bool) -> Tensor:
    return _unpool(x, positions, size, fill, overlapping)


def _of_size(x: Tensor, size: Sequence[int]) -> Tensor:
    """Give a tensor without values, of the size that an operator was asked for."""
    return x.new_empty((*x.shape[:2], *size))


_resample_operator.register_fake(lambda x, size, ratios, phases, clamp: _of_size(x, size))
_continued_operator.register_fake(lambda x, start, size: _of_size(x, size))
_window_operator.register_fake(lambda x, start, size: _of_size(x, size))
_unpool_operator.register_fake(lambda x, positions, size, fill, overlapping: _of_size(x, size))


def _check(x: Tensor, size: tuple[int, int]) -> None:
    if x.ndim != 4 or min(x.shape[2:]) < 1:
        raise ValueError(f"scores of shape {tuple(x.shape)} must be (N, C, h, w) with at least one cell.")
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be a positive height and width.")


def _check_border(border: str) -> None:
    if border not in ("replicate", "zero"):
        raise ValueError(f"border={border!r} is not a border. Choose 'replicate' or 'zero'.")

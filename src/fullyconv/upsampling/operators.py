"""The four operators that upsampling is made of: resample, continued, window, unpool.

How many cells are needed and where a map is cropped are decisions about numbers, which a trace would freeze. So
`torch.export` sees each as one operator, ``torch.ops.fullyconv.resample`` and so on, for which `fullyconv.export` has a
translation; elsewhere it is the operators of torch that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, library

from fullyconv.upsampling.axes import Axis

Operator = Callable[..., Tensor]


def _resample(x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool) -> Tensor:
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be a positive height and width.")
    axes = [Axis(n, m, ratio, phase) for n, m, ratio, phase in zip(x.shape[2:], size, ratios, phases, strict=True)]
    if not clamp:
        return _multiply(x, axes, clamp=False)
    if all(axis.whole and round(axis.ratio) == 1 for axis in axes):
        return _shift(x, axes)
    if all(axis.half for axis in axes):
        return _interpolate(x, axes, align_corners=False)
    if all(axis.whole for axis in axes):
        return _interpolate(x, axes, align_corners=True)
    return _multiply(x, axes, clamp=True)


def _shift(x: Tensor, axes: list[Axis]) -> Tensor:
    y, x_ = axes
    top, left = round(y.phase), round(x_.phase)
    return taken(x, (top, top + y.m), (left, left + x_.m))


def _interpolate(x: Tensor, axes: list[Axis], *, align_corners: bool) -> Tensor:
    # with align_corners=False the result itself reaches beyond the outer centers: half a source less half a target cell
    spans = [axis.needed(0.0 if align_corners else 0.5 - 0.5 / axis.ratio) for axis in axes]
    x = taken(x, spans[0], spans[1])
    lengths, drops = [], []
    for axis, (start, stop) in zip(axes, spans, strict=True):
        r, phase = round(axis.ratio), axis.phase - start
        lengths.append(r * (stop - start - 1) + 1 if align_corners else r * (stop - start))
        drops.append(round(phase * r) if align_corners else round((phase + 0.5) * r - 0.5))
    up = F.interpolate(x, (lengths[0], lengths[1]), mode="bilinear", align_corners=align_corners)
    return windowed(up, drops, (axes[0].m, axes[1].m))


def _multiply(x: Tensor, axes: list[Axis], *, clamp: bool) -> Tensor:
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


def taken(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
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
    # not by F.pad: inductor expects a contiguous gradient of replication_pad2d, whose kernel gives channels_last
    # (torch 2.9 to 2.14)
    for dim, (before, after) in ((3, pads[:2]), (2, pads[2:])):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([*[first] * before, x, *[last] * after], dim)
    return x


def windowed(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
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


def _continued(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    return taken(x, (start[0], start[0] + size[0]), (start[1], start[1] + size[1]))


# What an exporter sees: the same, but no view, and without a look at the sizes.


@library.custom_op("fullyconv::resample", mutates_args=())
def _whole_resample(
    x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool
) -> Tensor:
    return _resample(x, size, ratios, phases, clamp).clone()


@library.custom_op("fullyconv::continued", mutates_args=())
def _whole_continued(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    return _continued(x, start, size).clone()


@library.custom_op("fullyconv::window", mutates_args=())
def _whole_window(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    return windowed(x, start, size).clone()


@library.custom_op("fullyconv::unpool", mutates_args=())
def _whole_unpool(x: Tensor, positions: Tensor, size: Sequence[int], fill: float, overlapping: bool) -> Tensor:
    return _unpool(x, positions, size, fill, overlapping)


def _of_size(x: Tensor, size: Sequence[int]) -> Tensor:
    return x.new_empty((*x.shape[:2], *size))


_whole_resample.register_fake(lambda x, size, ratios, phases, clamp: _of_size(x, size))
_whole_continued.register_fake(lambda x, start, size: _of_size(x, size))
_whole_window.register_fake(lambda x, start, size: _of_size(x, size))
_whole_unpool.register_fake(lambda x, positions, size, fill, overlapping: _of_size(x, size))


def _either(whole: Operator, plain: Operator) -> Operator:
    return whole if torch.compiler.is_exporting() else plain


def resample(
    x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool = True
) -> Tensor:
    """Interpolate a map bilinearly at evenly spaced positions.

    Args:
        x: (N, C, h, w) values.
        size: height and width of the result.
        ratios: cells of the result per cell of x, along both axes.
        phases: position of the first cell of the result, in cells of x.
        clamp: clamp positions to the map; else what lies outside is zero.
    """
    found: Tensor = (_whole_resample if torch.compiler.is_exporting() else _resample)(
        x, list(size), ratios, phases, clamp
    )
    return found


def continued(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Take `size` cells from `start` on of a map that its border cells continue in every direction."""
    return _either(_whole_continued, _continued)(x, list(start), list(size))


def window(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Take `size` cells from `start` on of a map that zeros continue in every direction."""
    return _either(_whole_window, windowed)(x, list(start), list(size))


def unpool(x: Tensor, positions: Tensor, size: Sequence[int], fill: float, overlapping: bool) -> Tensor:
    """Put values at their positions of a map; where several meet and windows overlapped, the largest stays."""
    found: Tensor = (_whole_unpool if torch.compiler.is_exporting() else _unpool)(
        x, positions, list(size), fill, overlapping
    )
    return found

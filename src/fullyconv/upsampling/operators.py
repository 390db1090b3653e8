"""The four operators that upsampling is made of: resample, continued, window, unpool.

How many cells are needed and where a map is cropped are decisions about numbers, which a trace would freeze. So
`torch.export` sees each as one operator, ``torch.ops.fullyconv.resample`` and so on, for which `fullyconv.export` has a
translation; elsewhere it is the operators of torch that it is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, library

from fullyconv.upsampling.axes import hat_matrix, resampling_plan

Operator = TypeVar("Operator", bound=Callable[..., Tensor])


def _operator(size: int) -> Callable[[Operator], Operator]:
    """Let an exporter see a function as one operator: the same, but no view, and without a look at the sizes.

    Args:
        size: which argument holds the height and width of the result.
    """

    def register(plain: Operator) -> Operator:
        @functools.wraps(plain)
        def copied(*args: Any) -> Tensor:
            return plain(*args).clone()

        def shaped(x: Tensor, *others: Any) -> Tensor:
            return x.new_empty((*x.shape[:2], *others[size - 1]))

        whole = library.custom_op(f"fullyconv::{plain.__name__}", copied, mutates_args=())
        whole.register_fake(shaped)

        @functools.wraps(plain)
        def either(x: Tensor, *others: Any, **named: Any) -> Tensor:
            if x.ndim != 4 or min(x.shape[2:]) < 1:
                raise ValueError(f"x of shape {tuple(x.shape)} must be (N, C, h, w) with at least one cell.")
            found: Tensor = (whole if torch.compiler.is_exporting() else plain)(x, *others, **named)
            return found

        return cast(Operator, either)

    return register


@_operator(size=1)
def resample(x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool) -> Tensor:
    """Interpolate a map bilinearly at evenly spaced positions.

    Args:
        x: (N, C, h, w) values.
        size: height and width of the result.
        ratios: cells of the result per cell of x, along both axes.
        phases: position of the first cell of the result, in cells of x.
        clamp: clamp positions to the map; else what lies outside is zero.
    """
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be a positive height and width.")
    plan = resampling_plan(ratios, phases) if clamp else None
    if plan is None:
        return _multiply(x, size, ratios, phases, clamp)
    spans, lengths, drops = [], [], []
    for axis, n, m in zip(plan.axes, x.shape[2:], size, strict=True):
        start, stop = min(axis.start, n - 1), max(axis.stop(n, m), 1)  # one cell of the map itself, in any case
        spans.append((start, stop))
        lengths.append(axis.ratio * (stop - start - 1) + 1 if plan.align_corners else axis.ratio * (stop - start))
        drops.append(axis.drop + axis.ratio * (axis.start - start))
    x = taken(x, spans[0], spans[1])
    up = F.interpolate(x, (lengths[0], lengths[1]), mode="bilinear", align_corners=plan.align_corners)
    return window(up, drops, size)


@_operator(size=2)
def continued(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Take `size` cells from `start` on of a map that its border cells continue in every direction."""
    return taken(x, (start[0], start[0] + size[0]), (start[1], start[1] + size[1]))


@_operator(size=2)
def window(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Take `size` cells from `start` on of a map that zeros continue in every direction."""
    h, w = x.shape[2:]
    (top, left), (m, n) = start, size
    if (top, left, m, n) == (0, 0, h, w):
        return x
    if top >= 0 and left >= 0 and top + m <= h and left + n <= w:
        return x[..., top : top + m, left : left + n]
    if top >= h or left >= w or top + m <= 0 or left + n <= 0:
        return x.new_zeros((*x.shape[:2], m, n))
    return F.pad(x, (-left, left + n - w, -top, top + m - h))


@_operator(size=2)
def unpool(x: Tensor, positions: Tensor, size: Sequence[int], fill: float, overlapping: bool) -> Tensor:
    """Put values at their positions of a map; where several meet and windows overlapped, the largest stays."""
    height, width = size
    out = x.new_full((*x.shape[:2], height * width), fill)
    values, index = x.flatten(2), positions.flatten(2)
    if overlapping:
        out = out.scatter_reduce(2, index, values, "amax", include_self=False)
    else:
        out = out.scatter(2, index, values)
    return out.view(*x.shape[:2], height, width)


def _multiply(x: Tensor, size: Sequence[int], ratios: Sequence[float], phases: Sequence[float], clamp: bool) -> Tensor:
    # float32 at least, and no autocast: weights in half precision would move the positions
    dtype = torch.promote_types(x.dtype, torch.float32)
    axes = zip(x.shape[2:], size, ratios, phases, strict=True)
    rows, columns = (hat_matrix(*axis, clamp).to(x.device, dtype) for axis in axes)
    with torch.autocast(x.device.type, enabled=False):
        # the order that costs less: the axis that is lengthened more comes last
        if size[0] * x.shape[3] <= x.shape[2] * size[1]:
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

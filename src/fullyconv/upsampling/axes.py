"""Where the cells of one grid lie on another, along one axis: the arithmetic of resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullyconv.geometry import Geometry

ROUNDING = 1e-6
"""Cells: positions are sums and quotients of half pixels, and what differs from a whole number by less is rounding."""


class Axis(NamedTuple):
    """How n source cells and m target cells lie along one axis: target cell u at u / ratio + phase, in source cells."""

    n: int
    m: int
    ratio: float
    phase: float

    @classmethod
    def of(cls, source: Geometry, target: Geometry, axis: int, n: int, m: int) -> Axis:
        """Make the axis along which one map is brought to another."""
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
        whole_ratio = self.ratio > 1 - ROUNDING and abs(self.ratio - round(self.ratio)) <= ROUNDING
        return whole_ratio and abs(cells - round(cells)) <= ROUNDING

    def needed(self, overhang: float = 0.0) -> tuple[int, int]:
        """First source cell, and the one behind the last, that the positions lie at or between.

        Cells outside 0..n-1 are replicas of the border. `overhang` is how far outside the map, in cells, a position may
        lie and still need none; there is always one cell of the map itself.
        """
        last = (self.m - 1) / self.ratio + self.phase
        start, stop = math.floor(self.phase + ROUNDING), math.ceil(last - ROUNDING) + 1
        if start < 0:
            start = min(0, math.floor(self.phase + overhang + ROUNDING))
        if stop > self.n:
            stop = max(self.n, math.ceil(last - overhang - ROUNDING) + 1)
        return min(start, self.n - 1), max(stop, 1)

    def matrix(self, clamp: bool) -> Tensor:
        """Weights (m, n) of every source cell in every target cell: the hat function around its position."""
        # on the CPU, because not every accelerator has float64
        position = torch.arange(self.m, dtype=torch.float64) / self.ratio + self.phase
        if clamp:
            position = position.clamp(0, self.n - 1)
        cells = torch.arange(self.n, dtype=torch.float64)
        return (1 - (position[:, None] - cells).abs()).clamp(min=0)


class AxisPlan(NamedTuple):
    """How `resample` goes along one axis by `interpolate`, whatever the sizes.

    Args:
        ratio: target cells per source cell.
        start: first source cell that is needed; below 0 it is a replica of the border.
        lead: the last one is ceil((m - 1 + lead) / ratio) for m target cells.
        tail: like lead, for targets beyond the last cell, where interpolation continues the border by half a cell.
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
    axes = [Axis(0, 0, ratio, phase) for ratio, phase in zip(ratios, phases, strict=True)]
    half = all(axis.half for axis in axes)
    if not half and not all(axis.whole for axis in axes):
        return None
    plans = []
    for axis in axes:
        r, start = round(axis.ratio), math.floor(axis.phase + ROUNDING)
        overhang = 0.5 - 0.5 / r if half else 0.0
        if start < 0:
            start = min(0, math.floor(axis.phase + overhang + ROUNDING))
        lead, tail = (math.ceil((axis.phase - over) * r - ROUNDING) for over in (0.0, overhang))
        phase = axis.phase - start
        plans.append(AxisPlan(r, start, lead, tail, round((phase + 0.5) * r - 0.5 if half else phase * r)))
    shift = all(axis.whole and round(axis.ratio) == 1 for axis in axes)
    return ResamplingPlan((plans[0], plans[1]), not half, shift)


def cells_needed(m: int, factor: int, phase: float) -> int:
    """Source cells, from floor(phase) on, that m target cells lie at or between; m may be symbolic."""
    lead = math.ceil(phase * factor - ROUNDING)  # whole target cells, so that the rest is arithmetic of whole numbers
    # ONNX rounds towards zero: whole factors are added first, so that the division never sees a negative number
    lent = max(0, -(lead // factor))
    return (m + lead + factor - 2 + lent * factor) // factor - lent + 1 - math.floor(phase + ROUNDING)

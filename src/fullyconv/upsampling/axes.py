"""Where the cells of one grid lie on another: the arithmetic of resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Cells: positions are sums and quotients of half pixels, and what differs from a whole number by less is rounding."""


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

    def stop(self, n: int, m: int) -> int:
        """Give the cell behind the last that is needed for m target cells; beyond the n of the map it is a replica."""
        return min(_stop(m, self.ratio, self.lead), max(n, _stop(m, self.ratio, self.tail)))


class ResamplingPlan(NamedTuple):
    """How `resample` goes by `interpolate`, whatever the sizes.

    Args:
        axes: the plans of both axes.
        align_corners: whether centers of cells coincide; else their borders do.
    """

    axes: tuple[AxisPlan, AxisPlan]
    align_corners: bool


def resampling_plan(ratios: Sequence[float], phases: Sequence[float]) -> ResamplingPlan | None:
    """Say how `resample` goes by `interpolate`; None where the phase asks for a product with matrices.

    Args:
        ratios: target cells per source cell of both axes.
        phases: position of target cell 0 in source cells of both axes.

    Example:
        >>> resampling_plan((32, 32), (-15.5 / 32, -15.5 / 32)).axes[0]                     # VGG to pixels
        AxisPlan(ratio=32, start=0, lead=-15, tail=-31, drop=0)
    """
    axes = list(zip(ratios, phases, strict=True))
    # with align_corners=False a target cell lies at 1 / (2 ratio) - 1 / 2, with align_corners=True one lies at 0
    half = all(_is_whole(ratio, (phase + 0.5) * ratio - 0.5) for ratio, phase in axes)
    whole = all(_is_whole(ratio, phase * ratio) for ratio, phase in axes)
    if not half and not whole:
        return None
    plans = []
    for ratio, phase in axes:
        r, start = round(ratio), math.floor(phase + ROUNDING)
        # with align_corners=False the result reaches beyond the outer centers: half a source less half a target cell
        overhang = 0.5 - 0.5 / r if half else 0.0
        if start < 0:
            start = min(0, math.floor(phase + overhang + ROUNDING))
        lead, tail = (math.ceil((phase - over) * r - ROUNDING) for over in (0.0, overhang))
        drop = (phase - start + 0.5) * r - 0.5 if half else (phase - start) * r
        plans.append(AxisPlan(r, start, lead, tail, round(drop)))
    return ResamplingPlan((plans[0], plans[1]), not half)


def _is_whole(ratio: float, cells: float) -> bool:
    """Tell whether target cells divide the source cells, and so many of them are a whole number."""
    return ratio > 1 - ROUNDING and abs(ratio - round(ratio)) <= ROUNDING and abs(cells - round(cells)) <= ROUNDING


def hat_matrix(n: int, m: int, ratio: float, phase: float, clamp: bool = True) -> Tensor:
    """Give the weights (m, n) of every source cell in every target cell: the hat function around its position."""
    # on the CPU, because not every accelerator has float64
    position = torch.arange(m, dtype=torch.float64) / ratio + phase
    if clamp:
        position = position.clamp(0, n - 1)
    cells = torch.arange(n, dtype=torch.float64)
    return (1 - (position[:, None] - cells).abs()).clamp(min=0)


def cells_needed(m: int, factor: int, phase: float) -> int:
    """Source cells, from floor(phase) on, that m target cells lie at or between; m may be symbolic."""
    return _stop(m, factor, math.ceil(phase * factor - ROUNDING)) - math.floor(phase + ROUNDING)


def _stop(m: int, ratio: int, lead: int) -> int:
    """Give ceil((m - 1 + lead) / ratio) + 1, in whole numbers."""
    # ONNX rounds towards zero: whole ratios are added first, so that the division never sees a negative number
    lent = max(0, -(lead // ratio))
    return (m + lead + ratio - 2 + lent * ratio) // ratio - lent + 1

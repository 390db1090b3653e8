"""The package's own operators of upsampling, as functions of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch

from fullyconv.upsampling import resampling_plan

op: Any = onnxscript.opset18
"""ONNX's operators, of which onnxscript makes a graph; a type of theirs cannot be named."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Give for each operator what the exporter puts in its place."""
    operators = torch.ops.fullyconv
    return {
        operators.resample.default: _translate_resample,
        operators.continued.default: _translate_continued,
        operators.window.default: _translate_window,
        operators.unpool.default: _translate_unpool,
    }


def _translate_continued(x: Any, start: Sequence[int], size: Sequence[Any]) -> Any:
    return _gathered(x, start, [_number(side) for side in size])


def _translate_resample(
    x: Any, size: Sequence[Any], ratios: Sequence[float], phases: Sequence[float], clamp: bool
) -> Any:
    sides = [_number(side) for side in size]
    plan = resampling_plan(ratios, phases) if clamp else None
    if plan is None:
        rows, columns = (
            _hat_matrix(op.Shape(x, start=2 + axis, end=3 + axis), sides[axis], ratios[axis], phases[axis], clamp)
            for axis in (0, 1)
        )
        return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))
    counts, lengths = [], []
    for index, (side, axis) in enumerate(zip(sides, plan.axes, strict=True)):
        # what lies beyond the map is needed only where interpolation does not continue the border by itself
        length = op.Shape(x, start=2 + index, end=3 + index)
        stop = op.Min(_stop(side, axis.ratio, axis.lead), op.Max(length, _stop(side, axis.ratio, axis.tail)))
        counts.append(op.Sub(stop, _constant(axis.start)))
    taken = _gathered(x, [axis.start for axis in plan.axes], counts)
    for count, axis in zip(counts, plan.axes, strict=True):
        if plan.align_corners:
            lengths.append(op.Add(op.Mul(op.Sub(count, _constant(1)), _constant(axis.ratio)), _constant(1)))
        else:
            lengths.append(op.Mul(count, _constant(axis.ratio)))
    enlarged = op.Resize(
        taken,
        None,
        None,
        op.Concat(op.Shape(x, start=0, end=2), *lengths, axis=0),
        mode="linear",
        coordinate_transformation_mode="align_corners" if plan.align_corners else "half_pixel",
    )
    return _cropped(enlarged, [axis.drop for axis in plan.axes], sides)


def _stop(side: Any, ratio: int, lead: int) -> Any:
    """ceil((m - 1 + lead) / ratio) + 1 for m = side."""
    # ONNX rounds towards zero: whole ratios are added first, so that the division never sees a negative number
    lent = max(0, -(lead // ratio))
    above = op.Add(side, _constant(lead + ratio - 2 + lent * ratio))
    return op.Add(op.Div(above, _constant(ratio)), _constant(1 - lent))


def _translate_window(x: Any, start: Sequence[int], size: Sequence[Any]) -> Any:
    sides = [_number(side) for side in size]
    before = [max(0, -first) for first in start]
    first = [cells + lead for cells, lead in zip(start, before, strict=True)]
    pads: list[Any] = [_constant(lead) for lead in before]
    for axis, (side, lead) in enumerate(zip(sides, before, strict=True)):
        length = op.Shape(x, start=2 + axis, end=3 + axis)
        lacking = op.Sub(op.Add(side, _constant(first[axis])), op.Add(length, _constant(lead)))
        pads.append(op.Max(lacking, _constant(0)))
    padded = op.Pad(x, op.Concat(*pads, axis=0), None, op.Constant(value_ints=[2, 3]), mode="constant")
    return _cropped(padded, first, sides)


def _translate_unpool(x: Any, positions: Any, size: Sequence[Any], fill: float, overlapping: bool) -> Any:
    head = op.Shape(x, start=0, end=2)
    flat = op.Concat(head, _constant(-1), axis=0)
    sides = [_number(side) for side in size]
    filled = onnx.helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [fill])
    empty = op.ConstantOfShape(op.Concat(head, op.Mul(sides[0], sides[1]), axis=0), value=filled)
    # Pooling gives every cell a maximum; where windows overlap, the largest value of a position is kept. What is not
    # reached is `fill`, which would take part in the maximum, so that it has to lie below all values there.
    values, index = op.Reshape(x, flat), op.Reshape(positions, flat)
    if not overlapping:
        scattered = op.ScatterElements(empty, index, values, axis=2)
    else:
        lowest = op.Expand(op.Constant(value_floats=[-3.0e38]), op.Shape(values))
        cleared = op.ScatterElements(empty, index, lowest, axis=2)
        scattered = op.ScatterElements(cleared, index, values, axis=2, reduction="max")
    return op.Reshape(scattered, op.Concat(head, *sides, axis=0))


def _gathered(x: Any, start: Sequence[int], counts: Sequence[Any]) -> Any:
    """Take cells from `start` on; those outside are the border's."""
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    for axis, (first, count) in enumerate(zip(start, counts, strict=True)):
        cells = op.Add(op.Range(zero, op.Squeeze(count), one), _constant(first))
        last = op.Sub(op.Shape(x, start=2 + axis, end=3 + axis), _constant(1))
        x = op.Gather(x, op.Min(op.Max(cells, _constant(0)), last), axis=2 + axis)
    return x


def _cropped(x: Any, start: Sequence[int], sides: Sequence[Any]) -> Any:
    ends = [op.Add(side, _constant(first)) for side, first in zip(sides, start, strict=True)]
    return op.Slice(x, op.Constant(value_ints=list(start)), op.Concat(*ends, axis=0), op.Constant(value_ints=[2, 3]))


def _hat_matrix(n: Any, m: Any, ratio: float, phase: float, clamp: bool) -> Any:
    """Weights (m, n) of every source cell in every target cell."""

    def cells(count: Any) -> Any:
        whole = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
        return op.Cast(whole, to=1)

    position = op.Add(op.Mul(cells(m), _float(1 / ratio)), _float(phase))
    if clamp:
        last = op.Cast(op.Sub(n, _constant(1)), to=1)
        position = op.Min(op.Max(position, _float(0.0)), last)
    apart = op.Abs(op.Sub(op.Unsqueeze(position, _constant(1)), cells(n)))
    return op.Relu(op.Sub(_float(1.0), apart))


def _number(value: Any) -> Any:
    """Give a side as an int64 tensor of one number, whether it is known or not."""
    return _constant(value) if isinstance(value, int) else op.Reshape(value, op.Constant(value_ints=[1]))


def _constant(value: int) -> Any:
    return op.Constant(value_ints=[value])


def _float(value: float) -> Any:
    return op.Constant(value_floats=[value])

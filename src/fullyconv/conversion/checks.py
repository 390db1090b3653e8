"""What is computed about a conversion before anybody may rely on it: the head compared, the geometry measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullyconv.conversion.hooks import hooked
from fullyconv.conversion.network import DenseClassifier, Program
from fullyconv.conversion.operations import FeatureMap
from fullyconv.conversion.program import label
from fullyconv.conversion.refusals import UnsupportedHead
from fullyconv.conversion.report import Change, Guarantee, Report
from fullyconv.conversion.trace import GROWTH, REFERENCE, Trace, does_not_run, perform, place
from fullyconv.conversion.without_data import BATCH, example, tensors
from fullyconv.errors import first_line, some
from fullyconv.geometry import Geometry, Pair, measure, watch
from fullyconv.geometry.tracking import Tracker

ROUNDINGS = 100.0
"""As many times as one rounding of the image, that of the whole network may move its scores."""


def check_head(
    source: nn.Module,
    dense: DenseClassifier,
    found: Trace,
    maps: list[FeatureMap],
    head: list[fx.Node],
) -> None:
    """Compare the dense head on a larger map with the classifier's own head on two windows of it.

    This is what a conversion promises in every case, so it is computed for every conversion: whatever the
    head does that the walk misunderstood (a sum over the batch, a layer that is not what it says) shows here.
    """
    generator = torch.Generator().manual_seed(0)
    like = next((p for p in source.parameters() if p.is_floating_point()), torch.empty(0))
    # As many windows as there were images while tracing, because sizes found then are part of the graph.
    values: dict[fx.Node, Any] = {}
    corners, larger = ((0, 0), (1, 2), (0, 1)), []
    assert len(corners) == BATCH
    for map in maps:
        h, w = map.cells
        drawn = torch.randn(1, map.channels, h + 1, w + 2, generator=generator).abs()
        drawn = drawn.to(device=like.device, dtype=map.node.meta[REFERENCE].dtype)
        larger.append(drawn)
        parts = torch.cat([drawn[:, :, i : i + h, j : j + w] for i, j in corners])
        values[map.node] = parts if map.axes == (2, 3) else parts.permute(0, 2, 3, 1)
    try:
        for node in head:
            known = node.op != "get_attr" and not tensors(node.meta[REFERENCE])
            values[node] = node.meta[REFERENCE] if known else perform(node, source, values.__getitem__)
        expected = values[found.scores].reshape(BATCH, -1)
        scores = dense.scores_of(*larger)
    except Exception as error:
        raise UnsupportedHead(
            f"classifier={type(source).__name__}: its head does not run on several windows at once: "
            f"{type(error).__name__}: {first_line(error)}; use fullyconv.conversion.sliding_window"
        ) from error
    got = torch.stack([scores[0, :, i, j] for i, j in corners])
    _refuse_unlike(got, expected, source, "its head gives another answer when it sees several windows together")


def classify(source: nn.Module, dense: DenseClassifier, output: int | str | None) -> tuple[Tensor, Tensor] | None:
    """Run the classifier itself on two images, with all that hangs on it; give them and the scores of the first.

    Returns:
        None where there are no values to compare (meta device).

    Raises:
        ConversionError: it does not run.
    """
    if any(tensor.is_meta for tensor in (*source.parameters(), *source.buffers())):
        return None
    like = example(source, dense.in_channels, dense.input_size, batch=2)
    images = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)).to(like)
    try:
        with _same_random_numbers(images):
            return images, _scores_of(source, images, output)[:1]
    except Exception as error:
        raise does_not_run(source, dense.input_size, dense.in_channels, "", error) from error


def check_scores(
    source: nn.Module, dense: DenseClassifier, output: int | str | None, images: Tensor, expected: Tensor
) -> None:
    """Compare the scores at the classifier's own size with what it gave itself.

    The head was compared with what was followed. This shows what was not: a hook, a value that was kept, whatever.
    """
    with _same_random_numbers(images):
        got = dense(images[:1])  # alone, while it had company before: the scores of an image are its own
    got = got.mean((2, 3)) if dense.pool == "cam" else got.flatten(1)
    if not _agree(got, expected) and not _only_rounded(source, output, images, expected, got):
        _refuse_unlike(got, expected, source, "the converted network would give other scores")


def _only_rounded(source: nn.Module, output: int | str | None, images: Tensor, expected: Tensor, got: Tensor) -> bool:
    """Tell whether scores differ because one image is rounded otherwise than two, and the classifier makes much of it.

    Deep networks with random weights do, squeeze-excite above all. Then the classifier gives the same for the image
    alone, the same beside another image, and scores about as far away for an image that is changed by a rounding.
    """
    beside = torch.cat([images[:1], images[1:].flip(-1)])
    answers = []
    for given in (images[:1], beside, images * (1 + 2 * torch.finfo(images.dtype).eps)):
        with _same_random_numbers(images):
            torch.rand(1)  # what is random is not the same again
            try:
                answers.append(_scores_of(source, given, output)[:1])
            except Exception:  # it takes no single image, so that nothing can be told
                return False
    alone, together, nudged = answers
    far = float((nudged - expected).abs().max())
    return _agree(got, alone) and _agree(together, expected) and float((got - expected).abs().max()) <= ROUNDINGS * far


def _refuse_unlike(got: Tensor, expected: Tensor, source: nn.Module, what: str) -> None:
    if not _agree(got, expected):
        difference = f"{float((got - expected).abs().max()):.2g} of {float(expected.abs().max()):.2g}"
        hooks = some([place(source, path) for path, module in source.named_modules() if hooked(module)])
        raise UnsupportedHead(
            f"classifier={type(source).__name__}: {what} (difference {difference}): something in it is random (dropout "
            f"that is always on?), mixes the images of a batch, keeps state or cannot be followed"
            f"{f' ({hooks})' if hooks else ''}; use fullyconv.conversion.sliding_window"
        )


def _scores_of(classifier: nn.Module, images: Tensor, output: int | str | None) -> Tensor:
    returned = classifier(images)
    if output is not None:
        named = isinstance(output, str) and hasattr(returned, output)
        returned = getattr(returned, str(output)) if named else returned[output]
    (scores,) = tensors(returned)
    return scores.reshape(len(images), -1)


def _same_random_numbers(images: Tensor) -> AbstractContextManager[None]:
    return torch.random.fork_rng([images.device] if images.is_cuda else [])


def _agree(got: Tensor, expected: Tensor) -> bool:
    """Tell whether scores are the same up to the rounding of their precision."""
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    close = bool((got - expected).abs().max() <= tolerance * expected.abs().max())
    return close or torch.allclose(got, expected, tolerance, 1e-6, equal_nan=True)


class _Backbone(nn.Module):
    """Run the steps in front of the head only."""

    def __init__(self, dense: DenseClassifier) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.dense.feature_maps(x)


def describe(
    source: nn.Module,
    dense: DenseClassifier,
    program: Program,
    larger: Pair,
    maps: list[FeatureMap],
    changes: Sequence[Change],
    dropped: tuple[str, ...],
) -> None:
    """Measure the geometry, try some sizes, and write the report."""
    height, width = dense.input_size
    backbone = _Backbone(dense)
    strides = _Strides()
    geometries: list[Any] = [strides.geometry(map) for map in watch(backbone, larger, dense.in_channels, strides)]
    scored = [one.conv(window) for one, window in zip(geometries, program.windows, strict=True)]
    geometry: Geometry = functools.reduce(Geometry.join, scored)
    if _moves_with_size(backbone, larger, dense.in_channels, geometries):
        down, right = (max(1, math.ceil(stride)) for stride in geometry.stride)
        dense._keep(_steps=(down, right))
    guarantee: Guarantee = "head" if geometry.global_context else "interior" if geometry.padded else "window"

    # One step more, some steps more, twice the size, and one that no stride divides.
    (down, right), grown = (max(1, round(s)) for s in geometry.stride), (height + GROWTH[0], width + GROWTH[1])
    steps = [(height, width), (height + down, width + 3 * right), larger, grown, (2 * height, 2 * width)]
    grids = {size: dense._grid(size) for size in dict.fromkeys([*steps, (height + 37, width + 53)])}
    # A backbone that divides the map into blocks counted from the image's corner, or goes through a coarser map than
    # the last one, gives an answer at a place that depends on where the image was cut, even if it is all local.
    refused = any(grids[h, w] is None for h, w in steps if (h - height) % down == 0 == (w - width) % right)
    if refused or not strides.divide(geometry.stride):
        guarantee = "head"
    report = Report(
        classifier=type(source).__name__,
        input_size=dense.input_size,
        pool=dense.pool,
        changes=tuple(changes),
        frontier=tuple((name_of(map.node, source), (map.channels, *map.cells)) for map in maps),
        window=program.windows[0],
        geometry=geometry,
        guarantee=guarantee,
        grids=grids,
        dropped=dropped,
    )
    dense._keep(geometry=geometry, report=report)


def name_of(node: fx.Node, source: nn.Module) -> str:
    """Name what a node calls, for a message."""
    if node.op == "call_module":
        return str(node.target)
    if node.op == "placeholder":
        return "the image itself"
    return f"{label(node)} in {node.meta.get('module') or type(source).__name__}"


class _Strides(Tracker):  # type: ignore[no-untyped-call]
    """Note the stride of every map on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[float, float]] = set()

    def remember(self, tensor: Tensor, seen: Any) -> None:
        if seen.axes:
            self.found.add(seen.geometry.stride)
        super().remember(tensor, seen)

    def divide(self, stride: tuple[float, float]) -> bool:
        """Tell whether all of them divide the last one's, so that maps move with the image."""
        return all((last / step).is_integer() for steps in self.found for last, step in zip(stride, steps, strict=True))


def _moves_with_size(backbone: nn.Module, size: Pair, channels: int, geometries: Iterable[Geometry]) -> bool:
    """Tell whether the cells lie elsewhere where the image is a little larger: padding that looks at the size."""
    known = list(geometries)
    stride = max(1, *(round(step) for geometry in known for step in geometry.stride))
    try:
        others = measure(backbone, (size[0] + 1, size[1] + max(1, stride // 2)), channels)
    except ValueError:  # it does not run there
        return False
    return any(one.center != other.center for one, other in zip(known, others, strict=True))

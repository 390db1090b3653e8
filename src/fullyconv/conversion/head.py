"""Rewrite what a classifier does with its last feature map so that it gives one answer per window of a larger map.

At the reference size the last map is (N, C, h, w) and the head turns it into one vector of scores. On a larger map
there is one window of h x w cells for every score. While the head is walked, each of its tensors is known as entries of
those windows: a dense map (N, C, H, W), a window size, and a *layout* that says which entry of a window stands where
in the classifier's own tensor. The layout is found by doing to entry numbers what the head does to values:
flattening, viewing, permuting, slicing move entries about and cost nothing in the dense network. A fully connected
layer then knows the cell and channel of each of its inputs, and becomes a convolution. Poolings of the whole window
become poolings at stride 1. Whatever has no such form (layer norm, a product with a parameter, an attention pooling,
somebody's own idea) is run by the classifier's own code on the windows laid out as a batch, which is exact by
definition.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullyconv.conversion.cells import Cells, HeadPlan
from fullyconv.conversion.hooks import is_plain
from fullyconv.conversion.linear import PARAMETERS, Kernel
from fullyconv.conversion.operations import (
    ARITHMETIC,
    ENTRYWISE,
    ENTRYWISE_MODULES,
    MOVES,
    MOVING_MODULES,
    POOL_MODULES,
    POOLS,
    PRODUCTS,
    SAME,
    SAME_MODULES,
    FeatureMap,
    operation,
)
from fullyconv.conversion.program import Step, Value, label, pick_channels, rows_map, window_rows
from fullyconv.conversion.refusals import UnsupportedHead, no_activation_map
from fullyconv.conversion.trace import REFERENCE, called, perform
from fullyconv.conversion.without_data import BATCH, tensors

SLIDE = "Use fullyconv.conversion.sliding_window, which runs the classifier on every window"
TWICE = ("is used in two ways, which no one layer can follow", "Give each use its own layer")


class HeadWalk:
    """Walk the head once, in order, and collect the dense steps.

    Args:
        classifier: the classifier whose modules the nodes name.
        pool: what a global pooling becomes on a larger map: "window", the mean of every window; "cam", nothing.
    """

    def __init__(self, classifier: nn.Module, pool: Literal["window", "cam"]) -> None:
        self.classifier, self.pool = classifier, pool
        self.plan = HeadPlan()
        self.known: dict[fx.Node, Any] = {}
        self.remedied = False  # whether a refusal named a remedy of its own
        self.handlers: tuple[Callable[[fx.Node, Cells], Any], ...] = (
            self.move,
            self.entrywise,
            self.arithmetic,
            self.reduce,
            self.linear,
        )

    def emit(self, kind: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> str:
        """Add a step to the plan; give the name of its result."""
        name = f"head_{len(self.plan.steps)}"
        self.plan.steps.append(Step(kind, target, args, kwargs or {}, name))
        if kind == "module" and target not in self.plan.modules and target not in self.plan.kernels:
            self.plan.modules.append(target)
        return name

    def buffer(self, index: Tensor) -> str:
        """Add an index to the plan; give the name of the step that reads it."""
        name = f"_index_{len(self.plan.buffers)}"
        self.plan.buffers[name] = index
        return self.emit("attribute", name, ())

    def note(self, node: fx.Node, after: str) -> None:
        """Record what became of a node, for the report."""
        name, module = label(node), operation(node, self.classifier)[1]
        self.plan.changes.append((name, f"{name}()" if module is None else repr(module), after))

    def refuse(self, node: fx.Node, reason: str, remedy: str = "") -> UnsupportedHead:
        """Make the error for a node that has no dense form."""
        where = node.meta.get("module") or f"the forward of {type(self.classifier).__name__}"
        what = f"{node.target!r}" if node.op == "call_module" else f"{label(node)!r} in {where}"
        self.remedied = bool(remedy)
        return UnsupportedHead(f"classifier={type(self.classifier).__name__}: {what} {reason}. {remedy or SLIDE}")

    def add_map(self, map: FeatureMap, name: str) -> None:
        """Start from a map of the backbone, whose dense form (N, C, H, W) is the step `name`."""
        shape = (len(map.node.meta[REFERENCE]), map.channels, *map.cells)
        layout = torch.arange(math.prod(shape)).reshape(shape)
        layout = layout if map.axes == (2, 3) else layout.permute(0, 2, 3, 1)
        self.known[map.node] = Cells(name, map.channels, map.cells, layout)

    def visit(self, node: fx.Node) -> None:
        """Find the dense form of one node of the head."""
        reference = node.meta.get(REFERENCE)
        if node.op == "get_attr":
            self.known[node] = Value(self.emit("attribute", str(node.target), ()))
            return
        if not tensors(reference):
            self.known[node] = reference
            return
        sources = [self.known[source] for source in node.all_input_nodes]
        if any(isinstance(s, tuple) and any(isinstance(c, Cells) for c in s) for s in sources):
            self.known[node] = self.take(node)
        elif not any(isinstance(source, Cells) for source in sources):
            self.known[node] = Value(self.emit(*called(node, self.constants)))
        else:
            self.known[node] = self.dense(node)

    def dense(self, node: fx.Node) -> Any:
        """Give the dense form of a node, by the first handler that knows it."""
        cells = next(self.known[s] for s in node.all_input_nodes if isinstance(self.known[s], Cells))
        for handler in self.handlers:
            result = handler(node, cells)
            if result is not None:
                return result
        return self.by_window(node)

    def take(self, node: fx.Node) -> Any:
        """Take one part of what a node before gave."""
        source, key = self.known[node.all_input_nodes[0]], node.args[1] if len(node.args) > 1 else None
        if node.target is operator.getitem and isinstance(key, int):
            return source[key]
        if node.target is getattr and key in ("values", "indices"):  # of torch.max(x, dim) and its kind
            return source[key == "indices"]
        raise self.refuse(node, "joins several results at once, which has no dense form; join tensors one by one")

    def constants(self, leaf: Any) -> Any:
        """Resolve an argument that is no window: a parameter, a number, a flag."""
        return self.known[leaf] if isinstance(leaf, fx.Node) else leaf

    def names(self, leaf: Any) -> Any:
        """Give a leaf as an argument of a step."""
        known = self.constants(leaf)
        return Value(known.name) if isinstance(known, Cells) else known

    def on_numbers(self, node: fx.Node, numbers: Callable[[Cells], Tensor]) -> Any:
        """Do what a node does to numbers that stand for the entries of windows."""

        def value(source: fx.Node) -> Any:
            known = self.known[source]
            return numbers(known) if isinstance(known, Cells) else known

        return perform(node, self.classifier, value)

    def move(self, node: fx.Node, cells: Cells) -> Any:
        """Move entries about: do the same to their numbers."""
        name, module = operation(node, self.classifier)
        turned = name == "getattr" and node.args[1] in ("T", "mT")
        if not (name in MOVES or turned or isinstance(module, MOVING_MODULES)):
            return None
        first = next(source for source in node.all_input_nodes if isinstance(self.known[source], Cells))
        if (node.args and node.args[0] is not first) or any(
            isinstance(self.known[source], Value) for source in node.all_input_nodes
        ):
            return None  # indexed by a computed tensor
        layout = self.on_numbers(node, lambda known: known.layout)

        def moved(layout: Tensor) -> Cells:
            rows = cells.rows if torch.equal(layout, cells.layout) else None
            result = replace(cells, layout=layout, rows=rows)
            if result.batch_axis is None:
                raise self.refuse(
                    node, "lays the images of a batch out along one axis with something else, where windows get lost"
                )
            return result

        return moved(layout) if isinstance(layout, Tensor) else tuple(moved(part) for part in layout)

    def alone(self, node: fx.Node) -> bool:
        """Tell whether a node works on one tensor: windows, and besides them numbers only."""
        sources = [self.known[source] for source in node.all_input_nodes]
        return sum(isinstance(s, Cells) for s in sources) == 1 and not any(isinstance(s, Value) for s in sources)

    def entrywise(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Change every entry by itself: keep the operation, on the dense map."""
        name, module = operation(node, self.classifier)
        same = name in SAME or isinstance(module, SAME_MODULES)
        if not self.alone(node) or not (same or name in ENTRYWISE or isinstance(module, ENTRYWISE_MODULES)):
            return None
        done = self.emit(*called(node, self.names))
        return replace(cells, name=done, rows=None, linear=cells.linear and same)

    def arithmetic(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Add or multiply entries with numbers, or with other entries that stand in the same places."""
        name, _ = operation(node, self.classifier)
        others = [self.known[source] for source in node.all_input_nodes]
        if name not in ARITHMETIC or any(isinstance(other, Value) for other in others):
            return None  # broadcasting a parameter is left to the operation itself
        several = [other for other in others if isinstance(other, Cells)]
        if any(
            (other.window, other.channels) != (cells.window, cells.channels)
            or not torch.equal(other.layout, cells.layout)
            for other in several
        ):
            return None
        product = len(several) > 1 and name not in ("add", "add_", "iadd", "sub", "sub_", "isub")
        divisor = name in ("truediv", "itruediv", "div", "div_") and not isinstance(node.args[0], fx.Node)
        linear = _linear(several, not product and not divisor)
        opened = any(other.opened for other in several)
        return replace(cells, name=self.emit(*called(node, self.names)), rows=None, linear=linear, opened=opened)

    def reduce(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Pool the window away: mean, maximum or sum over all of its cells.

        How it is written (a module, a function, a mean over axes in some order) does not matter, for it is done to two
        sets of numbers: those of the channels tell whose result stands where, and random ones what was computed.
        """
        name, module = operation(node, self.classifier)
        reference = node.meta[REFERENCE]
        if not (name in POOLS or isinstance(module, POOL_MODULES)) or not isinstance(reference, Tensor):
            return None
        if not self.alone(node) or cells.batch_axis is None:
            return None
        what = (name or type(module).__name__).lower()
        count, size = BATCH * cells.channels, math.prod(cells.window)
        if "adaptive" in what and size > 1 and reference.shape == cells.layout.shape:
            self.note(node, "nothing (the window has that size)")
            return cells
        channels = torch.arange(count, dtype=torch.float64).repeat_interleave(size)
        drawn = torch.rand(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        owners, pooled = (
            self.on_numbers(node, lambda known, numbers=numbers: numbers[known.layout])  # type: ignore[misc]
            for numbers in (channels, drawn.flatten())
        )
        candidates: dict[str, Tensor] = {"mean": drawn.mean(1), "sum": drawn.sum(1)}
        for kind, expected in ({"max": drawn.amax(1)} if "max" in what else candidates).items():
            layout = (owners / (size if kind == "sum" else 1)).round().long().clamp(0, count - 1)
            if torch.allclose(pooled.double(), expected[layout], rtol=1e-4, atol=0):
                pooling = self.pooling(node, cells, kind)
                linear = cells.linear is not False and kind != "max"
                return replace(cells, name=pooling, window=(1, 1), layout=layout, linear=linear, rows=None)
        return None

    def pooling(self, node: fx.Node, cells: Cells, kind: str) -> str:
        """Plan a pooling over the whole map; give the name of its result."""
        window, name = cells.window, cells.name
        if window == (1, 1):
            self.note(node, "nothing (the window is one cell)")
            return name
        if kind == "max":
            name = self.emit("function", F.max_pool2d, (Value(name), window, 1))
        elif self.pool == "window":
            name = self.emit("function", F.avg_pool2d, (Value(name), window, 1))
            self.plan.averages.append(name)
        if kind == "sum":
            name = self.emit("function", torch.mul, (Value(name), math.prod(window)))
        windows = f"{kind} over every {window[0]}x{window[1]} window, stride 1"
        self.note(node, "nothing (class activation map)" if self.pool == "cam" else windows)
        return name

    def linear(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Turn a fully connected layer into a convolution as large as what it covers.

        One with hooks, with weights that are computed from others, or whose weights the forward reads as well stays
        what it is, and runs on every window.
        """
        _, layer = operation(node, self.classifier)
        path, shape = str(node.target), cells.layout.shape
        if (
            not isinstance(layer, nn.Linear)
            or not is_plain(layer, nn.Linear)
            or not layer._parameters.keys() >= PARAMETERS
        ):
            return None
        if cells.batch_axis != 0 or shape.numel() != BATCH * layer.in_features or shape[-1] != layer.in_features:
            return None
        reads = any(each.op == "get_attr" and str(each.target).rpartition(".")[0] == path for each in node.graph.nodes)
        if reads:
            return None
        kernel = Kernel(cells.channels, cells.window, None if cells.in_order() else cells.index())
        known = self.plan.kernels.setdefault(path, kernel)
        if path in self.plan.modules or not known.same(kernel):
            raise self.refuse(node, *TWICE)
        if known is kernel:
            self.plan.changes.append((path, repr(layer), repr(kernel.convolution(layer))))
        layout = torch.arange(BATCH * layer.out_features).reshape(*shape[:-1], layer.out_features)
        name = self.emit("module", path, (Value(cells.name),))
        return Cells(name, layer.out_features, (1, 1), layout, linear=cells.linear)

    def by_window(self, node: fx.Node) -> Any:
        """Run the classifier's own operation on all windows, laid out as a batch."""
        sources = [self.known[s] for s in node.all_input_nodes]
        cells = [source for source in sources if isinstance(source, Cells)]
        first, opened = cells[0], any(c.opened or c.window != (1, 1) for c in cells)
        what = label(node)
        self.plan.changes.append((what, what, "runs on every window" if opened else "runs on every cell"))
        if len(cells) == 1 and self.is_product(node) and sum(length > 1 for length in first.layout.shape) == 2:
            opened = False  # a fully connected layer, however it is written
        self.count(node, opened)
        linear = _linear(cells, self.is_affine(node, len(cells)))
        rows = {
            source: self.rows(node, self.known[source])
            for source in node.all_input_nodes
            if isinstance(self.known[source], Cells)
        }
        some_rows = next(iter(rows.values()))
        axis = first.batch_axis
        assert axis is not None

        def value(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node) and leaf in rows:
                return Value(rows[leaf])
            known = self.constants(leaf)
            if isinstance(leaf, fx.Node) and isinstance(known, int) and known == BATCH and not isinstance(known, bool):
                return Value(self.emit("method", "size", (Value(some_rows), axis)))
            return known

        if node.op == "call_module" and str(node.target) in self.plan.kernels:
            raise self.refuse(node, *TWICE)
        name = self.emit(*called(node, value))

        def back(reference: Any, name: str) -> Any:
            if isinstance(reference, Tensor):
                return self.back(node, reference, name, first, opened, linear)
            if reference is None or isinstance(reference, (bool, int, float)):
                return reference
            if isinstance(reference, (tuple, list)):
                return tuple(
                    back(part, self.emit("function", operator.getitem, (Value(name), i)))
                    for i, part in enumerate(reference)
                )
            raise self.refuse(node, f"returns {type(reference).__name__}, which has no dense form")

        return back(node.meta[REFERENCE], name)

    def rows(self, node: fx.Node, cells: Cells) -> str:
        """Give cells as the rows of a matrix."""
        if cells.rows is not None:
            return cells.rows
        axis = cells.batch_axis
        assert axis is not None
        shape = [length for i, length in enumerate(cells.layout.shape) if i != axis]
        index = None if cells.in_order() else Value(self.buffer(cells.index()))
        args = (Value(cells.name), cells.window, index, tuple(shape), axis)
        return self.emit("function", window_rows, args)

    def back(
        self, node: fx.Node, reference: Tensor, name: str, like: Cells, opened: bool, linear: bool | None
    ) -> Cells:
        """Give rows of a matrix as cells again."""
        shape = tuple(reference.shape)
        axes = [axis for axis, length in enumerate(shape) if length == BATCH]
        if not axes:
            raise self.refuse(node, "mixes the images of a batch, so that windows cannot be told apart", SLIDE)
        axis = like.batch_axis if like.batch_axis in axes else axes[0]
        assert axis is not None
        rest = [length for i, length in enumerate(shape) if i != axis]
        channels = math.prod(rest)
        dense = self.emit("function", rows_map, (Value(name), Value(like.name), like.window, axis))
        layout = torch.arange(BATCH * channels).reshape(BATCH, *rest).movedim(0, axis)
        return Cells(dense, channels, (1, 1), layout, opened=opened, linear=linear, rows=name)

    def count(self, node: fx.Node, opened: bool) -> None:
        """Add up the parameters of what looks at whole windows and is neither pooling nor fully connected layer."""
        if not opened:
            return
        if not self.plan.first_by_window:
            where = None if node.op == "call_module" else node.meta.get("module")
            self.plan.first_by_window = where or label(node)
        if node.op == "call_module":
            module = self.classifier.get_submodule(str(node.target))
            for name, parameter in module.named_parameters():
                self.plan.by_window[f"{node.target}.{name}"] = parameter.numel()
        for source in node.all_input_nodes:
            if source.op == "get_attr" and isinstance(source.meta[REFERENCE], Tensor):
                self.plan.by_window[str(source.target)] = source.meta[REFERENCE].numel()

    def is_product(self, node: fx.Node) -> bool:
        """Tell whether an operation multiplies with a matrix, whatever its hooks do besides."""
        if node.op == "call_module":
            return isinstance(self.classifier.get_submodule(str(node.target)), (nn.Linear, nn.Conv2d))
        return operation(node, self.classifier)[0] in PRODUCTS

    def is_affine(self, node: fx.Node, cells: int) -> bool:
        """Tell whether an operation is linear in the cells it reads (batch norm with stored statistics)."""
        name, module = operation(node, self.classifier)
        if name in ("cat", "concat", "stack", "batch_norm") or type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            return True
        return cells == 1 and (name in PRODUCTS or type(module) in (nn.Linear, nn.Conv2d))

    def finish(self, scores: fx.Node) -> HeadPlan:
        """Bring the scores into the form (N, K, Ho, Wo)."""
        cells = self.known.get(scores)
        if not isinstance(cells, Cells):
            raise self.refuse(scores, "does not depend on a feature map, so that there is nothing to convert")
        if cells.batch_axis != 0:
            raise self.refuse(
                scores, f"returns scores {tuple(cells.layout.shape)} for {BATCH} images", "They have to be (N, K)"
            )
        if cells.window != (1, 1):
            flat = self.emit("method", "flatten", (Value(self.rows(scores, cells)), 1))
            shape = torch.empty(BATCH, cells.layout[0].numel(), device="meta")
            cells = self.back(scores, shape, flat, cells, True, cells.linear)
        if not cells.in_order():
            index = self.buffer(cells.index())
            name = self.emit("function", pick_channels, (Value(cells.name), Value(index)))
            cells = replace(cells, name=name)
        if self.pool == "cam" and not cells.linear:
            raise UnsupportedHead(
                f"pool='cam': of {type(self.classifier).__name__}: {no_activation_map(cells.linear)}. Use pool='window'"
            )
        self.plan.result, self.plan.linear = cells.name, cells.linear
        return self.plan


def _linear(cells: Iterable[Cells], kept: bool) -> bool | None:
    """Say whether what an operation makes of cells is linear in what was pooled; None where nothing was."""
    before = [each.linear for each in cells]
    return None if all(each is None for each in before) else kept and False not in before

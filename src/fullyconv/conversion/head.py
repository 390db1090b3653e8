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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullyconv.conversion.cells import Cells
from fullyconv.conversion.linear import PARAMETERS, Kernel
from fullyconv.conversion.operations import (
    ARITHMETIC,
    ENTRYWISE,
    MOVES,
    POOLS,
    PRODUCTS,
    SAME,
    SUMS,
    FeatureMap,
    kind,
    operation,
)
from fullyconv.conversion.program import Kind, Step, Value, label, pick_channels, rows_map, window_rows
from fullyconv.conversion.refusals import UnsupportedHead
from fullyconv.conversion.report import Change
from fullyconv.conversion.trace import REFERENCE, called, perform
from fullyconv.conversion.without_data import BATCH, tensors

SLIDE = "Use fullyconv.conversion.sliding_window, which runs the classifier on every window"
TWICE = ("is used in two ways, which no one layer can follow", "Give each use its own layer")


class HeadWalk:
    """Walk the head once, in order, and collect the dense steps.

    Args:
        classifier: the classifier whose modules the nodes name.

    Attributes:
        steps: the dense head.
        kernels: path of each fully connected layer and how its weight becomes a kernel.
        modules: paths of the other modules that the steps call.
        buffers: index tensors that the steps need.
        changes: what became of the layers, in order.
        averages: names of the results that are means over windows.
        whole: parameters (by path) of what runs on whole windows and is neither pooling nor fully connected layer.
        first_whole: the first such operation.
        remedied: whether a refusal named a remedy of its own.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self.steps: list[Step] = []
        self.kernels: dict[str, Kernel] = {}
        self.modules: set[str] = set()
        self.buffers: dict[str, Tensor] = {}
        self.changes: list[Change] = []
        self.averages: list[str] = []
        self.whole: dict[str, int] = {}
        self.first_whole = ""
        self.remedied = False
        self.known: dict[fx.Node, Any] = {}
        self.handlers: tuple[Callable[[fx.Node, Cells], Any], ...] = (
            self.move,
            self.entrywise,
            self.arithmetic,
            self.reduce,
            self.linear,
        )

    def emit(self, kind: Kind, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> str:
        """Add a step; give the name of its result."""
        name = f"head_{len(self.steps)}"
        self.steps.append(Step(kind, target, args, kwargs or {}, name))
        if kind == "call_module" and target not in self.kernels:
            self.modules.add(target)
        return name

    def buffer(self, index: Tensor) -> str:
        """Add an index; give the name of the step that reads it."""
        name = f"_index_{len(self.buffers)}"
        self.buffers[name] = index
        return self.emit("get_attr", name, ())

    def note(self, node: fx.Node, after: str) -> None:
        """Record what became of a node, for the report."""
        module = self.classifier.get_submodule(str(node.target)) if node.op == "call_module" else None
        self.changes.append(Change(label(node), f"{label(node)}()" if module is None else repr(module), after))

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
            self.known[node] = Value(self.emit("get_attr", str(node.target), ()))
            return
        if not tensors(reference):
            self.known[node] = reference
            return
        sources = [self.known[source] for source in node.all_input_nodes]
        if any(isinstance(s, tuple) and any(isinstance(c, Cells) for c in s) for s in sources):
            self.known[node] = self.take(node)
        elif not any(isinstance(source, Cells) for source in sources):
            self.known[node] = Value(self.emit(*called(node, self.argument)))
        else:
            self.known[node] = self.dense(node)

    def dense(self, node: fx.Node) -> Any:
        """Give the dense form of a node, by the first handler that knows it."""
        cells = next(iter(self.inputs(node).values()))
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

    def inputs(self, node: fx.Node) -> dict[fx.Node, Cells]:
        """Give what a node reads of windows."""
        known = {source: self.known[source] for source in node.all_input_nodes}
        return {source: cells for source, cells in known.items() if isinstance(cells, Cells)}

    def computed(self, node: fx.Node) -> bool:
        """Tell whether a node reads a tensor besides windows: a parameter, or what is made of parameters."""
        return any(isinstance(self.known[source], Value) for source in node.all_input_nodes)

    def alone(self, node: fx.Node) -> bool:
        """Tell whether a node works on one tensor: windows, and besides them numbers only."""
        return len(self.inputs(node)) == 1 and not self.computed(node)

    def argument(self, leaf: Any) -> Any:
        """Give a leaf as an argument of a step: a dense map, a parameter, a number, a flag."""
        known = self.known[leaf] if isinstance(leaf, fx.Node) else leaf
        return Value(known.name) if isinstance(known, Cells) else known

    def on_numbers(self, node: fx.Node, numbers: Callable[[Cells], Tensor]) -> Any:
        """Do what a node does to numbers that stand for the entries of windows."""

        def value(source: fx.Node) -> Any:
            known = self.known[source]
            return numbers(known) if isinstance(known, Cells) else known

        return perform(node, self.classifier, value)

    def move(self, node: fx.Node, cells: Cells) -> Any:
        """Move entries about: do the same to their numbers."""
        name = operation(node, self.classifier)
        turned = name == "getattr" and node.args[1] in ("T", "mT")
        if not self.alone(node) or not (name in MOVES or turned):
            return None
        layout = self.on_numbers(node, lambda known: known.layout)
        parts = tuple(
            replace(cells, layout=part, rows=cells.rows if torch.equal(part, cells.layout) else None)
            for part in ([layout] if isinstance(layout, Tensor) else layout)
        )
        if any(part.batch_axis is None for part in parts):
            reason = "lays the images of a batch out along one axis with something else, where windows get lost"
            raise self.refuse(node, reason)
        return parts[0] if isinstance(layout, Tensor) else parts

    def entrywise(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Change every entry by itself: keep the operation, on the dense map."""
        name = operation(node, self.classifier)
        if not self.alone(node) or name not in SAME | ENTRYWISE:
            return None
        done = self.emit(*called(node, self.argument))
        return replace(cells, name=done, rows=None, linear=cells.linear and name in SAME)

    def arithmetic(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Add or multiply entries with numbers, or with other entries that stand in the same places."""
        name, several = operation(node, self.classifier), self.inputs(node).values()
        if name not in ARITHMETIC or self.computed(node):
            return None  # broadcasting a parameter is left to the operation itself
        if not all(cells.alike(other) for other in several):
            return None
        product = len(several) > 1 and name not in SUMS
        divisor = name in ("truediv", "itruediv", "div") and not isinstance(node.args[0], fx.Node)
        linear = _linear(several, not product and not divisor)
        opened = any(other.opened for other in several)
        done = self.emit(*called(node, self.argument))
        return replace(cells, name=done, rows=None, linear=linear, opened=opened)

    def reduce(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Pool the window away: mean, maximum or sum over all of its cells.

        How it is written (a module, a function, a mean over axes in some order) does not matter, for it is done to two
        sets of numbers: those of the channels tell whose result stands where, and random ones what was computed.
        """
        name, reference = operation(node, self.classifier), node.meta[REFERENCE]
        if name not in POOLS or not isinstance(reference, Tensor):
            return None
        if not self.alone(node) or cells.batch_axis is None:
            return None
        count, size = BATCH * cells.channels, math.prod(cells.window)
        if "adaptive" in name and size > 1 and reference.shape == cells.layout.shape:
            self.note(node, "nothing (the window has that size)")
            return cells
        channels = torch.arange(count, dtype=torch.float64).repeat_interleave(size)
        drawn = torch.rand(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        owners = self.on_numbers(node, lambda known: channels[known.layout])
        pooled = self.on_numbers(node, lambda known: drawn.flatten()[known.layout])
        candidates = {"max": drawn.amax(1)} if "max" in name else {"mean": drawn.mean(1), "sum": drawn.sum(1)}
        for what, expected in candidates.items():
            layout = (owners / (size if what == "sum" else 1)).round().long().clamp(0, count - 1)
            if torch.allclose(pooled.double(), expected[layout], rtol=1e-4, atol=0):
                pooling = self.pooling(node, cells, what)
                linear = cells.linear is not False and what != "max"
                return replace(cells, name=pooling, window=(1, 1), layout=layout, linear=linear, rows=None)
        return None

    def pooling(self, node: fx.Node, cells: Cells, what: str) -> str:
        """Plan a pooling over the whole map; give the name of its result."""
        (h, w), name = cells.window, cells.name
        if (h, w) == (1, 1):
            self.note(node, "nothing (the window is one cell)")
            return name
        name = self.emit("call_function", F.max_pool2d if what == "max" else F.avg_pool2d, (Value(name), (h, w), 1))
        if what != "max":
            self.averages.append(name)
        if what == "sum":
            name = self.emit("call_function", torch.mul, (Value(name), h * w))
        self.note(node, f"{what} over every {h}x{w} window, stride 1")
        return name

    def linear(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Turn a fully connected layer into a convolution as large as what it covers.

        One with hooks, with weights that are computed from others, or whose weights the forward reads as well stays
        what it is, and runs on every window.
        """
        path, shape = str(node.target), cells.layout.shape
        if node.op != "call_module" or operation(node, self.classifier) != "linear":
            return None
        layer = self.classifier.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        if cells.batch_axis != 0 or shape.numel() != BATCH * layer.in_features or shape[-1] != layer.in_features:
            return None
        reads = any(each.op == "get_attr" and str(each.target).rpartition(".")[0] == path for each in node.graph.nodes)
        if reads or not layer._parameters.keys() >= PARAMETERS:
            return None
        kernel = Kernel(cells.channels, cells.window, cells.index())
        known = self.kernels.setdefault(path, kernel)
        if path in self.modules or not known.same(kernel):
            raise self.refuse(node, *TWICE)
        if known is kernel:
            self.note(node, repr(kernel.convolution(layer)))
        layout = torch.arange(BATCH * layer.out_features).reshape(*shape[:-1], layer.out_features)
        name = self.emit("call_module", path, (Value(cells.name),))
        return Cells(name, layer.out_features, (1, 1), layout, linear=cells.linear)

    def by_window(self, node: fx.Node) -> Any:
        """Run the classifier's own operation on all windows, laid out as a batch."""
        if node.op == "call_module" and str(node.target) in self.kernels:
            raise self.refuse(node, *TWICE)
        inputs = self.inputs(node)
        cells, first = inputs.values(), next(iter(inputs.values()))
        what, does = label(node), kind(node, self.classifier)
        opened = any(each.opened or each.window != (1, 1) for each in cells)
        self.changes.append(Change(what, what, "runs on every window" if opened else "runs on every cell"))
        if len(inputs) == 1 and does in PRODUCTS and sum(length > 1 for length in first.layout.shape) == 2:
            opened = False  # a fully connected layer, however it is written
        if opened:
            self.count(node)
        linear = _linear(cells, self.is_affine(node, len(inputs)))
        rows = {source: self.rows(each) for source, each in inputs.items()}
        name = self.emit(*called(node, lambda leaf: self.row_argument(leaf, rows, first)))
        return self.as_cells(node, node.meta[REFERENCE], name, replace(first, opened=opened, linear=linear))

    def rows(self, cells: Cells) -> str:
        """Lay the windows of cells out as a batch; give the name of the result."""
        if cells.rows is not None:
            return cells.rows
        axis = cells.batch_axis
        shape = tuple(length for i, length in enumerate(cells.layout.shape) if i != axis)
        index = None if cells.in_order() else Value(self.buffer(cells.index()))
        return self.emit("call_function", window_rows, (Value(cells.name), cells.window, index, shape, axis))

    def row_argument(self, leaf: Any, rows: dict[fx.Node, str], first: Cells) -> Any:
        """Give a leaf as an argument of a step that runs on windows; the number of images is that of the windows."""
        if not isinstance(leaf, fx.Node):
            return leaf
        if leaf in rows:
            return Value(rows[leaf])
        known = self.argument(leaf)
        if type(known) is int and known == BATCH:
            some_rows = next(iter(rows.values()))
            return Value(self.emit("call_method", "size", (Value(some_rows), first.batch_axis)))
        return known

    def as_cells(self, node: fx.Node, reference: Any, name: str, like: Cells) -> Any:
        """Give what came of the windows of `like` as cells again.

        Args:
            node: what was run on them.
            reference: what it gave at the reference size: a tensor, a number, or a nest of them.
            name: of the step that has it for all windows.
            like: the map of the windows, and what is known of the result.
        """
        if reference is None or isinstance(reference, (bool, int, float)):
            return reference
        if isinstance(reference, (tuple, list)):
            items = [self.emit("call_function", operator.getitem, (Value(name), i)) for i in range(len(reference))]
            return tuple(self.as_cells(node, part, item, like) for part, item in zip(reference, items, strict=True))
        if not isinstance(reference, Tensor):
            raise self.refuse(node, f"returns {type(reference).__name__}, which has no dense form")
        axes = [axis for axis, length in enumerate(reference.shape) if length == BATCH]
        if not axes:
            raise self.refuse(node, "mixes the images of a batch, so that windows cannot be told apart", SLIDE)
        axis = like.batch_axis if like.batch_axis in axes else axes[0]
        rest = [length for i, length in enumerate(reference.shape) if i != axis]
        channels = math.prod(rest)
        dense = self.emit("call_function", rows_map, (Value(name), Value(like.name), like.window, axis))
        layout = torch.arange(BATCH * channels).reshape(BATCH, *rest).movedim(0, axis)
        return replace(like, name=dense, channels=channels, window=(1, 1), layout=layout, rows=name)

    def count(self, node: fx.Node) -> None:
        """Add up the parameters of what looks at whole windows and is neither pooling nor fully connected layer."""
        if not self.first_whole:
            where = None if node.op == "call_module" else node.meta.get("module")
            self.first_whole = where or label(node)
        if node.op == "call_module":
            module = self.classifier.get_submodule(str(node.target))
            self.whole |= {f"{node.target}.{name}": value.numel() for name, value in module.named_parameters()}
        for source in node.all_input_nodes:
            if source.op == "get_attr" and isinstance(source.meta[REFERENCE], Tensor):
                self.whole[str(source.target)] = source.meta[REFERENCE].numel()

    def whole_share(self) -> float:
        """Give the share of all parameters that look at whole windows."""
        total = sum(parameter.numel() for parameter in self.classifier.parameters())
        return sum(self.whole.values()) / max(total, 1)

    def is_affine(self, node: fx.Node, cells: int) -> bool:
        """Tell whether an operation is linear in the cells it reads (batch norm with stored statistics)."""
        name = operation(node, self.classifier)
        return name in ("cat", "concat", "stack", "batchnorm") or (cells == 1 and name in PRODUCTS)

    def finish(self, scores: fx.Node) -> Cells:
        """Bring the scores into the form (N, K, Ho, Wo), with windows of one cell and the entries in order."""
        cells = self.known.get(scores)
        if not isinstance(cells, Cells):
            raise self.refuse(scores, "does not depend on a feature map, so that there is nothing to convert")
        if cells.batch_axis != 0:
            found = f"returns scores {tuple(cells.layout.shape)} for {BATCH} images"
            raise self.refuse(scores, found, "They have to be (N, K)")
        if cells.window != (1, 1):
            flat = self.emit("call_method", "flatten", (Value(self.rows(cells)), 1))
            cells = self.as_cells(scores, cells.layout.flatten(1), flat, cells)
        if not cells.in_order():
            index = self.buffer(cells.index())
            cells = replace(cells, name=self.emit("call_function", pick_channels, (Value(cells.name), Value(index))))
        return cells


def _linear(cells: Iterable[Cells], kept: bool) -> bool | None:
    """Say whether what an operation makes of cells is linear in what was pooled; None where nothing was."""
    before = [each.linear for each in cells]
    return None if all(each is None for each in before) else kept and False not in before

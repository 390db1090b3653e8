"""Rewrite what a classifier does with its last feature map so that it gives one answer per window of a larger map.

At the reference size the last map is (N, C, h, w) and the head turns it into one vector of scores. On a larger map
there is one window of h x w cells for every score. While the head is walked, each of its tensors is known as entries of
those windows: a dense map (N, C, H, W), a window size, and a *layout* that says which entry of a window stands where
in the classifier's own tensor. The layout is found by doing to entry numbers what the head does to values:
flattening, viewing, permuting, slicing move entries about and cost nothing in the dense network. A fully connected
layer then knows the cell and channel of each of its inputs, and becomes a convolution. Poolings become poolings at
stride 1. Whatever has no such form (layer norm, an attention pooling, somebody's own idea) is run by the classifier's
own code on the windows laid out as a batch, which is exact by definition.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullyconv.conversion.cells import Cells, HeadPlan
from fullyconv.conversion.hooks import computed_weights, is_plain
from fullyconv.conversion.linear import Kernel, kernel_of
from fullyconv.conversion.operations import (
    ARITHMETIC,
    ENTRYWISE,
    ENTRYWISE_MODULES,
    MOVES,
    MOVING_MODULES,
    POOL_MODULES,
    POOLS,
    REDUCTIONS,
    SAME,
    SAME_MODULES,
    FeatureMap,
    operation,
)
from fullyconv.conversion.products import product
from fullyconv.conversion.program import Step, Value, label, map_leaves, pick_channels, rows_map, window_rows
from fullyconv.conversion.refusals import UnsupportedHead
from fullyconv.conversion.trace import REFERENCE, called, perform
from fullyconv.conversion.without_data import BATCH, tensors
from fullyconv.geometry import Pair

SLIDE = "Use fullyconv.conversion.sliding_window, which runs the classifier on every window"


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
            self.adaptive,
            self.linear,
            self.product,
            self.pointwise_convolution,
            self.norm_of_cells,
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

    def move(self, node: fx.Node, cells: Cells) -> Any:
        """Move entries about: do the same to their numbers."""
        name, module = operation(node, self.classifier)
        turned = name == "getattr" and node.args[1] in ("T", "mT")
        if not (name in MOVES or turned or isinstance(module, MOVING_MODULES)) or len(node.all_input_nodes) == 0:
            return None
        if node.args and node.args[0] is not self.cells_node(node):
            return None

        if any(isinstance(self.known[source], Value) for source in node.all_input_nodes):
            return None  # indexed by a computed tensor

        def value(source: fx.Node) -> Any:
            known = self.known[source]
            return known.layout if isinstance(known, Cells) else known

        layout = perform(node, self.classifier, value)

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

    def cells_node(self, node: fx.Node) -> fx.Node:
        """Give the node that the cells of a node come from."""
        return next(s for s in node.all_input_nodes if isinstance(self.known[s], Cells))

    def entrywise(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Change every entry by itself: keep the operation, on the dense map."""
        name, module = operation(node, self.classifier)
        same = name in SAME or isinstance(module, SAME_MODULES)
        changing = name in ENTRYWISE or isinstance(module, ENTRYWISE_MODULES)
        if not self.alone(node) or not (same or (changing and cells.fold is None)):
            return None
        done = self.emit(*called(node, self.names))
        return replace(cells, name=done, rows=None, linear=cells.linear and same)

    def arithmetic(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Add or multiply entries with numbers, or with other entries that stand in the same places."""
        name, _ = operation(node, self.classifier)
        if name not in ARITHMETIC or cells.fold is not None:
            return None
        others = [self.known[s] for s in node.all_input_nodes]
        for other in others:
            if isinstance(other, Value):
                return None  # a parameter: broadcasting is left to the operation itself
            if isinstance(other, Cells) and (
                (other.window, other.channels) != (cells.window, cells.channels)
                or other.fold is not None
                or not torch.equal(other.layout, cells.layout)
            ):
                return None
        vectors = sum(isinstance(other, Cells) for other in others)
        linear = cells.linear and all(o.linear for o in others if isinstance(o, Cells))
        if vectors > 1 and name not in ("add", "add_", "iadd", "sub", "sub_", "isub"):
            linear = _spoiled(linear)
        if name in ("truediv", "itruediv", "div", "div_") and not isinstance(node.args[0], fx.Node):
            linear = _spoiled(linear)
        done = self.emit(*called(node, self.names))
        opened = any(o.opened for o in others if isinstance(o, Cells))
        return replace(cells, name=done, rows=None, linear=linear, opened=opened)

    def reduce(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Pool the window away: mean, maximum or sum over its height, its width or both."""
        found = self.reduction(node, cells)
        if found is None or cells.fold is not None or cells.batch_axis is None:
            return None
        kind, axes, keep = found
        if not axes:
            self.note(node, "nothing (the window has that size)")
            return cells
        layout, (h, w) = cells.layout, cells.window
        axes = tuple(sorted(axis % layout.dim() for axis in axes))
        if cells.batch_axis in axes:
            return None
        kept = [axis for axis in range(layout.dim()) if axis not in axes]
        groups = layout.permute(*kept, *axes).reshape(*(layout.shape[axis] for axis in kept), -1)
        groups = groups.sort(dim=-1).values
        start, size = groups[..., :1], groups.shape[-1]
        for kernel, step in (((h, w), 1), ((1, w), 1), ((h, 1), w)):
            whole = (start + step * torch.arange(size) == groups).all()
            aligned = (
                (start % (h * w) == 0) if kernel == (h, w) else (start % w == 0 if step == 1 else start % (h * w) < w)
            )
            if size == kernel[0] * kernel[1] and whole and aligned.all():
                break
        else:
            return None
        rest = (h // kernel[0], w // kernel[1])
        entry = start.squeeze(-1)
        channel, y, x = entry // (h * w), entry % (h * w) // w, entry % w
        reduced = (channel * rest[0] + (y if rest[0] > 1 else 0)) * rest[1] + (x if rest[1] > 1 else 0)
        if keep:
            for axis in axes:
                reduced = reduced.unsqueeze(axis)
        name, linear = self.pooling(node, cells, kind, kernel)
        return replace(cells, name=name, window=rest, layout=reduced, linear=linear, rows=None)

    def pooling(self, node: fx.Node, cells: Cells, kind: str, kernel: Pair) -> tuple[str, bool | None]:
        """Plan a pooling over the whole map; give its result and whether it is linear."""
        size = f"{kernel[0]}x{kernel[1]}"
        if kernel == (1, 1):
            if cells.linear is None and cells.window == (1, 1):
                self.plan.pooled = True
            self.note(node, "nothing (the window is one cell)")
            return cells.name, True if cells.linear is None and kind != "max" else cells.linear
        self.plan.pooled = True
        if self.pool == "cam":
            if kind == "max":
                raise self.refuse(
                    node,
                    "is a maximum, which is not linear, so that pool='cam' has no meaning: the mean of a class "
                    "activation map would not be the classifier's score",
                    "Use pool='window'",
                )
            self.note(node, "nothing (class activation map)")
            name = cells.name
            if kind == "sum":
                name = self.emit("function", torch.mul, (Value(name), kernel[0] * kernel[1]))
            return name, cells.linear is not False
        if kind == "max":
            name = self.emit("function", F.max_pool2d, (Value(cells.name), kernel, 1))
            self.note(node, f"max over every {size} window, stride 1")
        else:
            extra = {"divisor_override": 1} if kind == "sum" else {}
            name = self.emit("function", F.avg_pool2d, (Value(cells.name), kernel, 1), extra)
            self.note(node, f"{kind} over every {size} window, stride 1")
        return name, None

    def reduction(
        self, node: fx.Node, cells: Cells
    ) -> tuple[Literal["mean", "max", "sum"], tuple[int, ...], bool] | None:
        """Say over which axes a node reduces, if it is a reduction or a pooling with one result per map."""
        name, module = operation(node, self.classifier)
        pool = POOLS.get(name) or POOLS.get(POOL_MODULES.get(type(module), ""))
        result: Any = node.meta[REFERENCE]
        if not isinstance(result, Tensor) or not self.alone(node):
            return None
        if pool is not None:
            count, kind, adaptive = pool
            shape = cells.layout.shape
            if len(shape) != count + 2:
                return None
            axes = []
            for axis in range(2, len(shape)):
                if result.shape[axis] == 1:
                    axes.append(axis)
                elif result.shape[axis] != shape[axis] or not adaptive:
                    return None
            if not adaptive and not self.whole_kernel(node, module, shape[2:]):
                return None
            return kind, tuple(axes), True
        if name not in REDUCTIONS or node.op == "call_module":
            return None
        arguments = list(node.args[1:])
        dims: Any = node.kwargs.get("dim", node.kwargs.get("axis", arguments[0] if arguments else None))
        if dims is None:
            return None
        dims = map_leaves(self.constants, dims)
        dims = (dims,) if isinstance(dims, int) else tuple(dims)
        return REDUCTIONS[name], dims, result.dim() == cells.layout.dim()

    def whole_kernel(self, node: fx.Node, module: nn.Module | None, shape: tuple[int, ...]) -> bool:
        """Tell whether a pooling with a fixed kernel covers the reference map exactly, once, without padding."""
        if module is not None:
            kernel, padding = module.kernel_size, module.padding
            plain = not getattr(module, "return_indices", False) and getattr(module, "divisor_override", None) is None
        else:
            arguments = map_leaves(self.constants, list(node.args))
            named = map_leaves(self.constants, dict(node.kwargs))
            kernel = named.get("kernel_size", arguments[1] if len(arguments) > 1 else None)
            padding = named.get("padding", arguments[3] if len(arguments) > 3 else 0)
            plain = named.get("divisor_override") is None and len(arguments) <= 6
        sizes = tuple(kernel) if isinstance(kernel, (tuple, list)) else (kernel,) * len(shape)
        pads = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,)
        return plain and (sizes * len(shape))[: len(shape)] == tuple(shape) and not any(pads)

    def adaptive(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Average to another size than the window's: wait for the fully connected layer that takes it in."""
        name, module = operation(node, self.classifier)
        if (name or POOL_MODULES.get(type(module))) != "adaptive_avg_pool2d":
            return None
        result: Tensor = node.meta[REFERENCE]
        if cells.window == (1, 1) or cells.fold is not None or cells.layout.dim() != 4 or not cells.in_order():
            return None
        if cells.layout.shape[2:] != cells.window or cells.batch_axis != 0:
            return None
        fold = (int(result.shape[2]), int(result.shape[3]))
        layout = torch.arange(BATCH * cells.channels * fold[0] * fold[1]).reshape(BATCH, cells.channels, *fold)
        self.note(node, f"folded into the kernel that follows ({cells.window[0]}x{cells.window[1]} cells)")
        return replace(cells, layout=layout, fold=fold, rows=None)

    def linear(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Turn a fully connected layer into a convolution as large as what it covers."""
        path = self.linear_path(node)
        if path is None:
            return None
        layer = self.classifier.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        shape = cells.layout.shape
        if cells.batch_axis != 0 or shape.numel() != BATCH * layer.in_features or shape[-1] != layer.in_features:
            return None
        if path in self.plan.modules:
            raise self.refuse(node, "is used in two ways, which no one layer can follow", "Give each use its own layer")
        kernel = self.kernel(node, cells)
        known = self.plan.kernels.get(path)
        if known is not None and not known.same(kernel):
            raise self.refuse(
                node, "shares its weights with a layer that reads another window", "Give each its own layer"
            )
        layout = torch.arange(BATCH * layer.out_features).reshape(*shape[:-1], layer.out_features)
        if self.is_read_besides(node.graph, path):  # so that the parameters have to stay as they are
            names = ("weight", "bias") if layer.bias is not None else ("weight",)
            matrix, *bias = (Value(self.emit("attribute", f"{path}.{name}", ())) for name in names)
            name = self.convolve(node, cells, (matrix, (0, 1), layer.out_features), kernel, bias[0] if bias else None)
            return Cells(name, layer.out_features, (1, 1), layout, linear=cells.linear)
        if known is None:
            try:
                after = repr(kernel.convolution(layer))
            except ValueError as error:
                reason, _, remedy = str(error).removeprefix("linear: ").partition("; ")
                raise self.refuse(node, f"cannot be converted: {reason}", remedy[:1].upper() + remedy[1:]) from None
            self.plan.kernels[path] = kernel
            self.plan.changes.append((path, repr(layer), after))
        name = self.emit("module", path, (Value(cells.name),))
        return Cells(name, layer.out_features, (1, 1), layout, linear=cells.linear)

    def linear_path(self, node: fx.Node) -> str | None:
        """Find the fully connected layer that a node runs, as a module or as a function of its parameters."""
        name, module = operation(node, self.classifier)
        if node.op == "call_module":
            called = self.classifier.get_submodule(str(node.target))
            plain = module is not None or computed_weights(called) is not None
            return str(node.target) if plain and is_plain(called, nn.Linear) else None
        if name != "linear":
            return None
        arguments = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
        weight, bias = arguments.get("weight"), arguments.get("bias")
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return None
        path, _, leaf = str(weight.target).rpartition(".")
        owner = self.classifier.get_submodule(path)
        own_bias = bias is None or (isinstance(bias, fx.Node) and str(bias.target) == f"{path}.bias".lstrip("."))
        if (
            leaf != "weight"
            or not isinstance(owner, nn.Linear)
            or not own_bias
            or (bias is None) != (owner.bias is None)
            or self.is_read_besides(node.graph, path)
        ):
            return None
        return path

    def is_read_besides(self, graph: fx.Graph, path: str) -> bool:
        """Tell whether the forward reads what a fully connected layer owns for something else than the layer."""
        prefix = f"{path}." if path else ""
        return any(
            node.op == "get_attr"
            and str(node.target).rpartition(".")[0] == path
            and (
                str(node.target) not in (f"{prefix}weight", f"{prefix}bias")
                or any(operation(user, self.classifier)[0] != "linear" for user in node.users)
            )
            for node in graph.nodes
        )

    def product(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Multiply the entries of a window by a matrix of parameters: a convolution as large as what it covers."""
        found = product(node, operation(node, self.classifier)[0])
        if found is None:
            return None
        mine = next((n for n, factor in enumerate(found.factors) if self.known[factor] is cells), None)
        matrix = None if mine is None else self.known[found.factors[1 - mine]]
        axis, added = cells.batch_axis, found.added and self.known[found.added]
        if mine is None or not isinstance(matrix, Value) or axis is None or not isinstance(added, Value | None):
            return None
        (own, other), out = (found.letters[mine], found.letters[1 - mine]), found.letters[2]
        sizes = dict(zip(own, cells.layout.shape, strict=True))
        lengths = dict(zip(other, found.factors[1 - mine].meta[REFERENCE].shape, strict=True))
        summed, free = [a for a in own if a in other], [a for a in out if a in other and a not in own]
        single = [a for a in own if a != own[axis] and a not in summed]
        if (
            any(len(set(letters)) < len(letters) for letters in found.letters)
            or own[axis] in other
            or any(sizes[a] != 1 for a in single)
            or any(sizes[a] != lengths[a] or a in out for a in summed)
            or set(other) != {*summed, *free}
            or set(out) != {own[axis], *single, *free}
        ):
            return None
        shape = [lengths[a] for a in free]
        outputs = math.prod(shape)
        layout = torch.arange(BATCH * outputs).reshape(BATCH, *shape)
        kept = [a for a in out if a not in single]
        layout = layout.permute([[own[axis], *free].index(a) for a in kept])
        for place, letter in enumerate(out):
            layout = layout.unsqueeze(place) if letter in single else layout
        if found.added is not None:
            # One number per output at most, the same for all images.
            of = found.added.meta[REFERENCE].shape
            padded = [1] * (len(out) - len(of)) + list(of)
            if padded[out.index(own[axis])] != 1 or math.prod(of) not in (1, outputs):
                return None
        by = (matrix, tuple(other.index(a) for a in (*free, *summed)), outputs)
        name = self.convolve(node, cells, by, self.kernel(node, cells), added, found.scales)
        return Cells(name, outputs, (1, 1), layout, linear=cells.linear)

    def kernel(self, node: fx.Node, cells: Cells) -> Kernel:
        """Say where in the window the inputs of a fully connected layer lie."""
        if cells.window != (1, 1) and self.pool == "cam":
            raise self.refuse(
                node,
                "reads a flattened map and there is no global average pooling, so that pool='cam' has no meaning",
                "Use pool='window'",
            )
        fold = None
        if cells.fold is not None:
            fold = (_averages(cells.fold[0], cells.window[0]), _averages(cells.fold[1], cells.window[1]))
        return Kernel(cells.channels, cells.window, None if cells.in_order() else cells.index(), fold)

    def convolve(
        self,
        node: fx.Node,
        cells: Cells,
        by: tuple[Value, tuple[int, ...], int],
        kernel: Kernel,
        bias: Value | None = None,
        scales: tuple[float, float] = (1, 1),
    ) -> str:
        """Convolve with a kernel that is made of a matrix of parameters at every call, so that it stays what it is."""
        made = self.emit("function", kernel_of, (*by, kernel))
        self.plan.changes.append((label(node), f"{label(node)}()", f"conv2d, kernel_size={kernel.size}"))
        name = self.emit("function", F.conv2d, (Value(cells.name), Value(made)))
        if scales[0] != 1:
            name = self.emit("function", torch.mul, (Value(name), scales[0]))
        if bias is not None:
            added = self.emit("method", "reshape", (bias, -1, 1, 1))
            name = self.emit("function", torch.add, (Value(name), Value(added)), {"alpha": scales[1]})
        return name

    def pointwise_convolution(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Keep a 1x1 convolution of the pooled vector, as it is."""
        _, module = operation(node, self.classifier)
        if not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
            return None
        simple = module.kernel_size == (1, 1) == module.stride and module.padding in ((0, 0), 0, "valid", "same")
        shape = (BATCH, cells.channels, 1, 1)
        if not simple or cells.window != (1, 1) or cells.layout.shape != shape or not cells.in_order():
            return None
        name = self.emit("module", str(node.target), (Value(cells.name),))
        layout = torch.arange(BATCH * module.out_channels).reshape(BATCH, module.out_channels, 1, 1)
        return Cells(name, module.out_channels, (1, 1), layout, linear=cells.linear)

    def norm_of_cells(self, node: fx.Node, cells: Cells) -> Cells | None:
        """Normalize over the channels of every cell (layer norm of tokens in front of their mean), cell by cell."""
        name, module = operation(node, self.classifier)
        over = tuple(cells.layout.shape[-1:])
        h, w = cells.window
        if not (isinstance(module, nn.LayerNorm) or name == "layer_norm") or cells.fold is not None or h * w == 1:
            return None
        shape = module.normalized_shape if isinstance(module, nn.LayerNorm) else None
        if module is None:
            arguments = dict(zip(("input", "normalized_shape"), node.args, strict=False)) | dict(node.kwargs)
            shape = map_leaves(self.constants, arguments["normalized_shape"])
        first = cells.layout[..., :1]
        channels = torch.arange(cells.channels) * (h * w)
        if tuple(shape or ()) != over or over != (cells.channels,) or bool((first % cells.entries >= h * w).any()):
            return None
        if not torch.equal(cells.layout, first + channels) or cells.batch_axis == cells.layout.dim() - 1:
            return None
        size, cell = (cells.channels,), (1, 1)
        rows = self.emit("function", window_rows, (Value(cells.name), cell, None, None, size, 0))

        def value(leaf: Any) -> Any:
            known = self.constants(leaf)
            return Value(rows) if isinstance(known, Cells) else known

        done = self.emit(*called(node, value))
        dense = self.emit("function", rows_map, (Value(done), Value(cells.name), cell, 0))
        self.note(node, "runs on every cell")
        return replace(cells, name=dense, rows=None, linear=_spoiled(cells.linear))

    def by_window(self, node: fx.Node) -> Any:
        """Run the classifier's own operation on all windows, laid out as a batch."""
        sources = [self.known[s] for s in node.all_input_nodes]
        cells = [source for source in sources if isinstance(source, Cells)]
        first, opened = cells[0], any(c.opened or c.nodes != (1, 1) for c in cells)
        self.count(node, opened)
        linear = first.linear
        if any(c.linear is not None for c in cells):
            linear = all(c.linear is not False for c in cells) and self.is_affine(node)
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
            raise self.refuse(node, "is used in two ways, which no one layer can follow", "Give each use its own layer")
        name = self.emit(*called(node, value))
        what = label(node)
        self.plan.changes.append((what, what, "runs on every window" if opened else "runs on every cell"))

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
        args = (Value(cells.name), cells.window, cells.fold, index, tuple(shape), axis)
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

    def is_affine(self, node: fx.Node) -> bool:
        """Tell whether an operation that runs cell by cell is a linear one (batch norm with stored statistics)."""
        name, module = operation(node, self.classifier)
        if name in ("linear", "cat", "concat", "stack"):
            return True
        return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear) or name == "batch_norm"

    def finish(self, scores: fx.Node) -> HeadPlan:
        """Bring the scores into the form (N, K, Ho, Wo)."""
        cells = self.known.get(scores)
        if not isinstance(cells, Cells):
            raise self.refuse(scores, "does not depend on a feature map, so that there is nothing to convert")
        if cells.batch_axis != 0:
            raise self.refuse(
                scores, f"returns scores {tuple(cells.layout.shape)} for {BATCH} images", "They have to be (N, K)"
            )
        if cells.nodes != (1, 1):
            flat = self.emit("method", "flatten", (Value(self.rows(scores, cells)), 1))
            shape = torch.empty(BATCH, cells.layout[0].numel(), device="meta")
            cells = self.back(scores, shape, flat, cells, True, cells.linear)
        if not cells.in_order():
            index = self.buffer(cells.index())
            name = self.emit("function", pick_channels, (Value(cells.name), Value(index)))
            cells = replace(cells, name=name)
        if self.pool == "cam":
            if not self.plan.pooled:
                raise self.refuse(
                    scores,
                    "does not come from a global average pooling, so that pool='cam' has no meaning",
                    "Use pool='window'",
                )
            if cells.linear is False:
                raise UnsupportedHead(
                    f"pool='cam': in {type(self.classifier).__name__} something behind the global pooling is not linear"
                    " (an activation or a normalization), so that the mean of a class activation map would not be the"
                    " classifier's score. Use pool='window'"
                )
        self.plan.result = cells.name
        return self.plan


def _spoiled(linear: bool | None) -> bool | None:
    return None if linear is None else False


def _averages(outputs: int, inputs: int) -> Tensor:
    """Write adaptive average pooling along one axis as a matrix (outputs, inputs), as torch defines its bins."""
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    for i in range(outputs):
        start, stop = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix

"""Follow the forward of a classifier: which maps grow with the image, and what is done with the last of them.

The classifier runs on tensors without data, at its own size and at a larger one. Every module that turns 4-D maps
that grow with the image into such maps belongs to the backbone and is left whole; only what is around and behind those
modules is traced. That is why the result is short, state-dict keys stay, and no list of architectures is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from fullyconv import geometry
from fullyconv.conversion.hooks import PARALLEL, hooks_of, is_plain
from fullyconv.conversion.program import Kind, Mode, execute, label, map_leaves
from fullyconv.conversion.refusals import InputSizeError, TraceError
from fullyconv.conversion.without_data import example, map_axes, tensors
from fullyconv.errors import ConversionError, first_line, near_miss
from fullyconv.geometry import Pair
from fullyconv.geometry.dispatch import WithoutData

# Height and width grow differently, which tells H from W; both are multiples of the usual strides 8 .. 64.
GROWTH = (128, 192)

REFERENCE, LARGER = "reference", "larger"


@dataclass
class Trace:
    """What was found out about a classifier.

    Args:
        graph: its forward, with the backbone's modules whole; the nodes carry their values at both sizes in `meta`.
        scores: the node of the scores.
        size: reference height and width in pixels.
        larger: height and width of the second run.
        failure: where and why the plain classifier stopped in the second run, or None.
        unfollowed: modules that were left whole because they could not be followed, and why.
    """

    graph: fx.Graph
    scores: fx.Node
    size: Pair
    larger: Pair
    failure: tuple[str, Exception] | None
    unfollowed: dict[str, str]


@dataclass
class _Run:
    """The shapes that went through every module, and where the run stopped if it did."""

    calls: dict[str, list[tuple[list[torch.Size], list[torch.Size]]]] = field(default_factory=dict)
    failure: tuple[str, Exception] | None = None


def _watch(classifier: nn.Module, channels: int, size: Pair) -> _Run:
    run, stack, hooks = _Run(), [], []
    try:
        for name, module in classifier.named_modules():

            def enter(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                stack.append((name, [t.shape for t in tensors((args, kwargs))]))

            def leave(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                shapes = stack.pop()[1]
                run.calls.setdefault(name, []).append((shapes, [t.shape for t in tensors(output)]))

            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(leave))
        with geometry.undisturbed(classifier), WithoutData():
            classifier(example(classifier, channels, size))
    except Exception as error:
        run.failure = (stack[-1][0] if stack else "", error)
    finally:
        for hook in hooks:
            hook.remove()
    return run


def _backbone_modules(classifier: nn.Module, reference: _Run, larger: _Run) -> set[str]:
    """Find the modules that map maps to maps: they stay whole."""
    found = set()
    for name, calls in reference.calls.items():
        grown = larger.calls.get(name, [])
        if not name or isinstance(classifier.get_submodule(name), PARALLEL):
            continue
        if len(calls) == len(grown) and all(map(_keeps_a_map, calls, grown)):
            found.add(name)
    return found


def _keeps_a_map(call: Any, grown: Any) -> bool:
    (given, returned), (larger, result) = call, grown
    if not given or not returned or (len(given), len(returned)) != (len(larger), len(result)):
        return False
    sources = [map_axes(a, b) for a, b in zip(given, larger, strict=True)]
    targets = [map_axes(a, b) for a, b in zip(returned, result, strict=True)]
    if None in sources or None in targets:
        return False
    # A module that ends in a single cell may hide a pooling over the whole map, so it is looked into, unless it
    # moves by one cell per cell (a convolution as large as the map, as a converted fc6).
    moves = [larger[0][axis] - given[0][axis] for axis in sources[0] or ()]
    for shape, size, axes in zip(returned, result, targets, strict=True):
        if all(shape[axis] == 1 for axis in axes or ()) and [size[axis] - 1 for axis in axes or ()] != moves:
            return False
    return True


class _Proxy(fx.Proxy):
    """A proxy that knows the length and the truth of what it stands for, as it was at the reference size."""

    def __len__(self) -> int:
        return len(_reference(self))

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", _assign, (self, key, value), {})

    def __index__(self) -> int:
        value = _reference(self)
        if not isinstance(value, int):
            raise TypeError("a tensor is needed as a number")
        return value


class _Attribute(fx.proxy.Attribute, _Proxy):
    """A proxy of `root.name`, which becomes a method call if it is called."""


def _assign(tensor: Tensor, key: Any, value: Any) -> Tensor:
    tensor[key] = value
    return tensor


def _reference(proxy: fx.Proxy) -> Any:
    if REFERENCE not in proxy.node.meta:
        raise fx.proxy.TraceError(f"{proxy.node.name} has no value at the reference size")
    return proxy.node.meta[REFERENCE]


class _Tracer(fx.Tracer):
    """Trace the forward, with the value of every node at the reference size and, as far as it goes, at the larger."""

    def __init__(self, leaves: set[str], inputs: dict[str, Tensor]) -> None:
        super().__init__(param_shapes_constant=True)
        self.leaves, self.inputs, self.mode = leaves, inputs, WithoutData()
        self.autocast = _autocast()
        self.stack: list[str] = []
        self.lost_in: str | None = None
        self._evaluating = False

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Follow the call of the classifier, which its hooks belong to, and not its forward alone."""
        image = self.create_proxy("placeholder", "x", (), {})
        return (lambda root, x: root(x)), [self.root, image]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.leaves:
            return True
        if not module_qualified_name or isinstance(m, PARALLEL) or "forward" in vars(m):
            return False
        # Normalizations of other makers too: their forward decides on the mode, which tracing would fix.
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            return True
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        builtin = type_before_parametrizations(m).__module__.startswith("torch.nn") and not isinstance(m, containers)
        # Linear's subclasses are recognized by what their forward does.
        return builtin and (not isinstance(m, nn.Linear) or is_plain(m, nn.Linear))

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._evaluating:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.stack.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.lost_in is None and path not in self.leaves:
                self.lost_in = path
            raise
        self.stack.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        # Control flow is decided as for one window, which is what every score of the dense network stands for.
        return bool(_reference(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(_reference(obj)))])  # type: ignore[index]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        if _autocast() != self.autocast:
            raise fx.proxy.TraceError("it switches torch.autocast on or off, which a list of operations does not hold")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node: fx.Node = proxy.node
        node.meta["module"] = self.stack[-1] if self.stack else ""
        if kind == "placeholder":
            node.meta |= self.inputs
            return proxy
        for when in (REFERENCE, LARGER):
            for source in node.all_input_nodes:
                if source.op == "get_attr" and when not in source.meta:  # buffers come without a proxy of their own
                    source.meta[when] = self._evaluate(source, when)
            if any(when not in source.meta for source in node.all_input_nodes):
                continue
            try:
                self._evaluating = True
                node.meta[when] = self._evaluate(node, when)
            except Exception:
                if when == REFERENCE:
                    raise
            finally:
                self._evaluating = False
        if args and isinstance(args[0], _Proxy) and not isinstance(args[0], _Attribute) and self._in_place(node):
            args[0].node = node  # whoever reads the tensor from here on reads what it was changed to
            return args[0]
        return proxy

    def _in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return getattr(self.root.get_submodule(str(node.target)), "inplace", False) is True
        name = label(node)
        return node.kwargs.get("inplace") is True or node.target is _assign or (name[-1:] == "_" and name[-2:] != "__")

    def _evaluate(self, node: fx.Node, when: str) -> Any:
        with self.mode:
            return perform(node, self.root, lambda source: source.meta[when])


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def called(node: fx.Node, leaf: Callable[[Any], Any]) -> tuple[Kind, Any, tuple[Any, ...], dict[str, Any]]:
    """Give what a node does as kind, target and arguments of a step, its leaves replaced."""
    target = node.target if node.op == "call_function" else str(node.target)
    # Plain lists, not the graph's immutable ones: some modules write into the lists they are given.
    return cast(Kind, node.op), target, map_leaves(leaf, tuple(node.args)), map_leaves(leaf, dict(node.kwargs))


def perform(node: fx.Node, classifier: nn.Module, value: Callable[[fx.Node], Any]) -> Any:
    """Do what a node does."""

    def leaf(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return value(argument)
        return bool(argument) if isinstance(argument, Mode) else argument

    return execute(classifier, *called(node, leaf))


def trace(
    classifier: nn.Module, size: Pair, channels: int, output: int | str | None, leaves: Sequence[str] = ()
) -> Trace:
    """Follow the forward of a classifier at its own size and at a larger one.

    Args:
        classifier: in eval mode.
        size: height and width at which it classifies.
        channels: C of its input.
        output: which of several outputs holds the scores.
        leaves: modules to leave whole in any case.

    Raises:
        InputSizeError: it does not run at `size`.
        TraceError: its forward cannot be followed.
    """
    modules = dict(classifier.named_modules())
    for leaf in leaves:
        if leaf not in modules:
            raise TraceError(f"leaves={leaf!r}: no such module in the classifier. {near_miss(leaf, modules)}")
    reference = _watch(classifier, channels, size)
    kind = type(classifier).__name__
    if reference.failure is not None:
        raise does_not_run(classifier, size, channels, *reference.failure)
    sizes = ((size[0] + GROWTH[0], size[1] + GROWTH[1]), (2 * size[0], 3 * size[1]))
    runs = []
    for larger in sizes:
        runs.append((_watch(classifier, channels, larger), larger))
        if runs[-1][0].failure is None:
            break
    # The run that got furthest: a classifier without an adaptive pooling stops at its first fully connected layer.
    run, larger = max(runs, key=lambda item: (item[0].failure is None, len(item[0].calls)))

    whole = _backbone_modules(classifier, reference, run) | set(leaves)
    tracer, unfollowed = _follow(classifier, {REFERENCE: size, LARGER: larger}, channels, whole, reference)
    out = next(node for node in tracer.graph.nodes if node.op == "output")
    scores = _select(out.args[0], output, kind)
    return Trace(tracer.graph, scores, size, larger, run.failure, unfollowed)


def does_not_run(classifier: nn.Module, size: Pair, channels: int, where: str, error: Exception) -> ConversionError:
    """Say why a classifier does not run: on images of this size, without the values of tensors, or at all."""
    kind, at = type(classifier).__name__, place(classifier, where)
    try:
        classifier(example(classifier, channels, size))
    except Exception as seen:
        error = seen
    else:
        return TraceError(
            f"classifier={kind}: {at} cannot be followed, because it works on the values of tensors, not with "
            f"operations of torch alone: {first_line(error)}. Write it with operations of torch, or use "
            "fullyconv.conversion.sliding_window"
        )
    return InputSizeError(
        f"input_size={size[0]} x {size[1]}: {kind} does not run on an image of {channels} channels of this size: {at}: "
        f"{first_line(error)}. Pass the size and in_channels it was trained with, and a classifier of one dtype on one "
        "device"
    )


def _follow(
    classifier: nn.Module, sizes: dict[str, Pair], channels: int, leaves: set[str], reference: _Run
) -> tuple[_Tracer, dict[str, str]]:
    flags = [(name, module, module.training) for name, module in classifier.named_modules()]
    unfollowed: dict[str, str] = {}
    while True:
        with WithoutData():
            inputs = {when: example(classifier, channels, size) for when, size in sizes.items()}
        tracer = _Tracer(leaves, inputs)
        try:
            inside = tuple(f"{leaf}." for leaf in leaves)
            for name, module, _ in flags:
                if name not in leaves and not name.startswith(inside) and not tracer.is_leaf_module(module, name):
                    module.training = Mode.of(name)
            tracer.graph = tracer.trace(classifier)
            return tracer, unfollowed
        except Exception as error:
            lost = tracer.lost_in
            where = f"{place(classifier, lost or '')} cannot be followed: {first_line(error)}"
            if isinstance(error, NameError):  # of torch.fx: somebody's closure
                where += " (a function of it that holds the classifier goes on using that, not the copy: copy=False)"
            # A module whose forward cannot be followed may stay whole if it is one tensor in, one tensor out.
            calls = reference.calls.get(lost or "", [])
            if lost and lost not in leaves and calls and all(len(i) == len(o) == 1 for i, o in calls):
                leaves = {*leaves, lost}
                unfollowed[lost] = where
                continue
            raise TraceError(
                f"classifier={type(classifier).__name__}: {where}. If it turns a map into a map, or a vector into a "
                "vector, pass its name in leaves=('...',); if not, move what depends on values into such a module, or "
                "use fullyconv.conversion.sliding_window"
            ) from error
        finally:
            for _, module, flag in flags:
                module.training = flag


def _select(returned: Any, output: int | str | None, kind: str) -> fx.Node:
    """Find the node of the scores in what the forward returns."""
    whole = _known(returned)
    if output is None and isinstance(returned, fx.Node) and isinstance(whole, Tensor):
        return returned
    keys: dict[Any, Any] = {}  # by name
    if isinstance(whole, dict):
        keys = {name: name for name in whole}
    elif isinstance(whole, (tuple, list)):
        keys = {name: index for index, name in enumerate(getattr(whole, "_fields", range(len(whole))))}
    keys = {name: key for name, key in keys.items() if isinstance(_known(whole[key]), Tensor)}
    names = list(keys)
    if not names:
        raise TraceError(f"classifier={kind}: its forward returns no tensor that depends on the image")
    if output is None and len(names) > 1:
        raise TraceError(
            f"output=None: {kind} returns {len(names)} values; say which one holds the scores, "
            f"output={names[0]!r} for instance (choices: {names})"
        )
    if output is not None and output not in keys:
        raise TraceError(f"output={output!r}: {kind} returns no such value (choices: {names})")
    key = keys[names[0] if output is None else output]
    found = whole[key]
    if isinstance(found, fx.Node):
        return found
    # of a module that was left whole: taken out of its answer
    with returned.graph.inserting_after(returned):
        node: fx.Node = returned.graph.call_function(operator.getitem, (returned, key))
    node.meta["module"] = ""
    node.meta |= {when: returned.meta[when][key] for when in (REFERENCE, LARGER) if when in returned.meta}
    return node


def _known(item: Any) -> Any:
    return item.meta.get(REFERENCE) if isinstance(item, fx.Node) else item


def place(classifier: nn.Module, path: str) -> str:
    """Name a module of a classifier for a message, with its hooks."""
    module = classifier.get_submodule(path)
    hooks = hooks_of(module)
    kind = type(module).__name__
    if path:
        return f"module {path!r} ({kind}{f' with {hooks}' if hooks else ''})"
    return f"the forward of {kind}{f', with {hooks},' if hooks else ''}"

"""Follow the forward of a classifier: which maps grow with the image, and what is done with the last of them.

The classifier runs on tensors without data, at its own size and at a larger one. Every module that turns 4-D maps
that grow with the image into such maps belongs to the trunk and is left whole; only what is around and behind those
modules is traced. That is why the result is short, state-dict keys stay, and no list of architectures is needed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from fullyconv.conversion.program import map_leaves
from fullyconv.conversion.refusals import InputSizeError, TraceError
from fullyconv.errors import near_miss

Pair = tuple[int, int]

# Odd and unlike any usual number of cells, so that the batch axis of an intermediate tensor is found by its length.
BATCH = 3
# Height and width grow differently, which tells H from W; both are multiples of the usual strides 8 .. 64.
GROWTH = (128, 192)

REFERENCE, LARGER = "reference", "larger"


class TrainingFlag(int):
    """The `training` attribute of a traced module: false, and recognised again in the arguments of what it calls."""

    path: str

    @staticmethod
    def of(path: str) -> TrainingFlag:
        """Make the flag of the module at `path`."""
        flag = TrainingFlag(0)
        flag.path = path
        return flag


@dataclass
class Trace:
    """What was found out about a classifier.

    Args:
        graph: its forward, with the trunk's modules whole; the nodes carry their values at both sizes in `meta`.
        scores: the node of the scores.
        size: reference height and width in pixels.
        larger: height and width of the second run.
        failure: where and why the plain classifier stopped in the second run, or None.
        broken: the first traced operation that did not work at the larger size, and its error, or None.
    """

    graph: fx.Graph
    scores: fx.Node
    size: Pair
    larger: Pair
    failure: tuple[str, Exception] | None
    broken: tuple[fx.Node, Exception] | None


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put every module in eval mode for a while, without calling an overridden `train`, and back after."""
    flags = [(m, m.training) for m in module.modules()]
    try:
        for m, _ in flags:
            m.training = False
        with torch.no_grad():
            yield
    finally:
        for m, flag in flags:
            m.training = flag


class _QuickBatchNorm(TorchFunctionMode):
    """Answer batch norm in eval mode by its shape: torch composes it anew from a dozen operations every time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            call = dict(zip(("input", "running_mean", "running_var", "weight", "bias", "training"), args, strict=False))
            call |= kwargs or {}
            x, mean = call["input"], call["running_mean"]
            if not call.get("training") and mean is not None and x.dim() > 1 and x.shape[1] == mean.numel():
                return torch.empty_like(x)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_data() -> Iterator[FakeTensorMode]:
    """Compute shapes only; failures, which are expected here, are not logged."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, _QuickBatchNorm():
            yield mode
    finally:
        logger.disabled = disabled


def example(module: nn.Module, channels: int, size: Pair, batch: int = BATCH) -> Tensor:
    """Make an input in the precision and on the device of a module's parameters."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, channels, *size, dtype=like.dtype, device=like.device)


def tensors(value: Any) -> list[Tensor]:
    """List the tensors in a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors(item)]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors(item)]
    return []


def map_axes(reference: Sequence[int], larger: Sequence[int]) -> Pair | None:
    """Say which axes of a tensor are the height and width of a map: (2, 3), (1, 2), or None where it is no map."""
    if len(reference) != 4 or len(larger) != 4:
        return None
    grown = tuple(axis for axis in range(4) if larger[axis] > reference[axis])
    same = all(larger[axis] == reference[axis] for axis in range(4) if axis not in grown)
    return grown if same and grown in ((2, 3), (1, 2)) else None


@dataclass
class _Run:
    """The shapes that went through every module, and where the run stopped if it did."""

    calls: dict[str, list[tuple[list[torch.Size], list[torch.Size]]]] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)  # of the modules that return one bare tensor
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
                if isinstance(output, Tensor):
                    run.dtypes[name] = output.dtype

            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(leave))
        with without_data():
            classifier(example(classifier, channels, size))
    except Exception as error:
        run.failure = (stack[-1][0] if stack else "", error)
    finally:
        for hook in hooks:
            hook.remove()
    return run


def _trunk_modules(reference: _Run, larger: _Run) -> set[str]:
    """Find the modules that map maps to maps: they stay whole."""
    found = set()
    for name, calls in reference.calls.items():
        grown = larger.calls.get(name, [])
        if name and len(calls) == len(grown) and all(map(_keeps_a_map, calls, grown)):
            found.add(name)
    return found


def _keeps_a_map(call: Any, grown: Any) -> bool:
    shapes, larger = [*call[0], *call[1]], [*grown[0], *grown[1]]
    if not call[0] or not call[1] or len(shapes) != len(larger):
        return False
    axes = [map_axes(a, b) for a, b in zip(shapes, larger, strict=True)]
    if any(a is None for a in axes):
        return False
    # A module that ends in a single cell may hide a pooling over the whole map, so it is looked into, unless it
    # moves by one cell per cell (a convolution as large as the map, as a converted fc6).
    for shape, size, axis in zip(call[1], grown[1], axes[len(call[0]) :], strict=True):
        assert axis is not None
        if all(shape[a] == 1 for a in axis):
            source = axes[0]
            assert source is not None
            if [size[a] - 1 for a in axis] != [larger[0][a] - shapes[0][a] for a in source]:
                return False
    return True


class _Proxy(fx.Proxy):
    """A proxy that knows the length and the truth of what it stands for, as it was at the reference size."""

    def __len__(self) -> int:
        return len(_reference(self))

    def __getattr__(self, name: str) -> _Attribute:  # type: ignore[override]
        return _Attribute(self, name)

    def __index__(self) -> int:
        value = _reference(self)
        if not isinstance(value, int):
            raise TypeError("a tensor is needed as a number")
        return value


class _Attribute(_Proxy):
    """A proxy of `root.name`, which becomes a method call if it is called."""

    def __init__(self, root: fx.Proxy, name: str) -> None:
        self.root, self.attr, self.tracer = root, name, root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def _reference(proxy: fx.Proxy) -> Any:
    if REFERENCE not in proxy.node.meta:
        raise fx.proxy.TraceError(f"{proxy.node.name} has no value at the reference size")
    return proxy.node.meta[REFERENCE]


class _Tracer(fx.Tracer):
    """Trace the forward, with the value of every node at the reference size and, as far as it goes, at the larger."""

    def __init__(
        self, leaves: set[str], inputs: dict[str, Tensor], runs: dict[str, _Run], mode: FakeTensorMode
    ) -> None:
        super().__init__(param_shapes_constant=True)
        self.leaves, self.inputs, self.runs, self.mode = leaves, inputs, runs, mode
        self.stack: list[str] = []
        self.lost_in: str | None = None
        self.broken: tuple[fx.Node, Exception] | None = None
        self._evaluating = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.leaves:
            return True
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        plain_linear = isinstance(m, nn.Linear)  # subclasses are recognised by what their forward does
        # Normalisations of other makers too: their forward decides on the mode, which tracing would fix.
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            return True
        builtin = m.__module__.startswith("torch.nn") and not isinstance(m, containers)
        return builtin and (not plain_linear or type(m).forward is nn.Linear.forward)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._evaluating:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.stack.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.lost_in is None:
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
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node: fx.Node = proxy.node
        node.meta["module"] = self.stack[-1] if self.stack else ""
        for when in (REFERENCE, LARGER):
            if kind == "placeholder":
                if when in self.inputs:
                    node.meta[when] = self.inputs.pop(when)
                continue
            for source in node.all_input_nodes:
                if source.op == "get_attr" and when not in source.meta:  # buffers come without a proxy of their own
                    source.meta[when] = self._evaluate(source, when)
            if any(when not in source.meta for source in node.all_input_nodes):
                continue
            try:
                self._evaluating = True
                node.meta[when] = self._evaluate(node, when)
            except Exception as error:
                if when == REFERENCE:
                    raise
                if self.broken is None and target is not torch._assert:
                    self.broken = (node, error)
            finally:
                self._evaluating = False
        return proxy

    def _evaluate(self, node: fx.Node, when: str) -> Any:
        def value(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return leaf.meta[when]
            return bool(leaf) if isinstance(leaf, TrainingFlag) else leaf

        # Plain lists, not the graph's immutable ones: some modules write into the lists they are given.
        args, kwargs = map_leaves(value, tuple(node.args)), map_leaves(value, dict(node.kwargs))
        with self.mode, _QuickBatchNorm():
            if node.op == "get_attr":
                owner: Any = self.root
                for name in str(node.target).split("."):
                    owner = getattr(owner, name)
                return owner
            if node.op == "call_module":
                run, path = self.runs[when], str(node.target)
                calls = run.calls.get(path, [])
                if path in run.dtypes and len(calls) == 1:  # known already from watching the classifier
                    return torch.empty(calls[0][1][0], dtype=run.dtypes[path], device=tensors((args, kwargs))[0].device)
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            assert callable(node.target)
            return node.target(*args, **kwargs)


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
        where, error = reference.failure
        raise InputSizeError(
            f"input_size={size[0]} x {size[1]}: {kind} does not run on an image of {channels} channels of this size: "
            f"{_place(classifier, where)}: {first_line(error)}. Pass the size and in_channels it was trained with"
        )
    sizes = ((size[0] + GROWTH[0], size[1] + GROWTH[1]), (2 * size[0], 3 * size[1]))
    runs = []
    for larger in sizes:
        runs.append((_watch(classifier, channels, larger), larger))
        if runs[-1][0].failure is None:
            break
    # The run that got furthest: a classifier without an adaptive pooling stops at its first fully connected layer.
    run, larger = max(runs, key=lambda item: (item[0].failure is None, len(item[0].calls)))

    whole = _trunk_modules(reference, run) | set(leaves)
    tracer = _follow(
        classifier, {REFERENCE: size, LARGER: larger}, channels, whole, {REFERENCE: reference, LARGER: run}
    )
    out = next(node for node in tracer.graph.nodes if node.op == "output")
    scores = _select(out.args[0], output, kind)
    return Trace(tracer.graph, scores, size, larger, run.failure, tracer.broken)


def _follow(
    classifier: nn.Module, sizes: dict[str, Pair], channels: int, leaves: set[str], runs: dict[str, _Run]
) -> _Tracer:
    defaults = {
        name: parameter.default
        for name, parameter in list(inspect.signature(type(classifier).forward).parameters.items())[2:]
        if parameter.default is not inspect.Parameter.empty
    }
    flags = [(name, module, module.training) for name, module in classifier.named_modules()]
    while True:
        with without_data() as mode:
            inputs = {when: example(classifier, channels, size) for when, size in sizes.items()}
        tracer = _Tracer(leaves, inputs, runs, mode)
        try:
            inside = tuple(f"{leaf}." for leaf in leaves)
            for name, module, _ in flags:
                if name not in leaves and not name.startswith(inside) and not tracer.is_leaf_module(module, name):
                    module.training = TrainingFlag.of(name)
            logger = logging.getLogger("torch._subclasses.fake_tensor")
            disabled, logger.disabled = logger.disabled, True
            try:
                tracer.graph = tracer.trace(classifier, concrete_args=defaults or None)
            finally:
                logger.disabled = disabled
            return tracer
        except Exception as error:
            lost = tracer.lost_in
            # A module whose forward cannot be followed may stay whole if it is one tensor in, one tensor out.
            calls = runs[REFERENCE].calls.get(lost or "", [])
            if lost and lost not in leaves and calls and all(len(i) == len(o) == 1 for i, o in calls):
                leaves = {*leaves, lost}
                continue
            where = _place(classifier, lost or "")
            raise TraceError(
                f"classifier={type(classifier).__name__}: {where} cannot be followed: {first_line(error)}. If it turns "
                "a map into a map, or a vector into a vector, pass its name in leaves=('...',); if not, move what "
                "depends on values into such a module, or use fullyconv.conversion.sliding_window"
            ) from error
        finally:
            for _, module, flag in flags:
                module.training = flag


def _select(returned: Any, output: int | str | None, kind: str) -> fx.Node:
    """Find the node of the scores in what the forward returns."""
    if output is None:
        if isinstance(returned, fx.Node):
            value = returned.meta.get(REFERENCE)
            if isinstance(value, Tensor):
                return returned
            if isinstance(value, (tuple, list, dict)):
                choices = list(value) if isinstance(value, dict) else list(range(len(value)))
                raise TraceError(
                    f"output=None: a module of {kind} returns {type(value).__name__} as a whole; say which entry holds "
                    f"the scores (choices: {choices})"
                )
        names = _entries(returned)
        if len(names) == 1:
            return _select(returned, names[0], kind)
        raise TraceError(
            f"output=None: {kind} returns {len(names)} values; say which one holds the scores, "
            f"output={names[0]!r} for instance (choices: {names})"
            if names
            else f"classifier={kind}: its forward returns no tensor that depends on the image"
        )
    if isinstance(returned, fx.Node):
        value = returned.meta.get(REFERENCE)
        chosen = None
        if isinstance(value, (dict, tuple, list)):
            try:
                chosen = value[output]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                chosen = None
        if not isinstance(chosen, Tensor):
            raise TraceError(f"output={output!r}: {kind} returns {type(value).__name__} without such an entry")
        with returned.graph.inserting_after(returned):
            node = returned.graph.call_function(_entry, (returned, output))
        node.meta.update({"module": "", REFERENCE: chosen})
        if LARGER in returned.meta:
            node.meta[LARGER] = returned.meta[LARGER][output]
        return node
    names = _entries(returned)
    if output not in names:
        raise TraceError(f"output={output!r}: {kind} returns no such value (choices: {names})")
    if isinstance(returned, dict):
        node = returned[output]
    else:
        node = returned[output] if isinstance(output, int) else getattr(returned, output)
    assert isinstance(node, fx.Node)
    return node


def _entry(returned: Any, key: int | str) -> Any:
    return returned[key]


def _entries(returned: Any) -> list[Any]:
    """Name the entries of a returned structure that are tensors."""

    def holds(item: Any) -> bool:
        return isinstance(item, fx.Node) and isinstance(item.meta.get(REFERENCE), Tensor)

    if isinstance(returned, dict):
        return [key for key, item in returned.items() if holds(item)]
    if isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", range(len(returned)))
        return [name for name, item in zip(names, returned, strict=True) if holds(item)]
    return []


def _place(classifier: nn.Module, path: str) -> str:
    module = classifier.get_submodule(path)
    return f"module {path!r} ({type(module).__name__})" if path else f"the forward of {type(module).__name__}"


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]

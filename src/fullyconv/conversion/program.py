"""The steps a converted classifier runs: what its own forward did, as a short list that can be stored and copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Kind = Literal["call_module", "call_function", "call_method", "get_attr"]  # the words of torch.fx


@dataclass(frozen=True)
class Value:
    """Stand, in the arguments of a step, for the result of an earlier one."""

    name: str


class Mode(int):
    """The `training` flag of a module: false while its forward is followed, and looked up when its steps run."""

    path: str

    @staticmethod
    def of(path: str) -> Mode:
        """Make the flag of the module at `path`."""
        flag = Mode(0)
        flag.path = path
        return flag


@dataclass(frozen=True, eq=False)
class Step:
    """Do one thing: call a module, a function or a method of a tensor, or read a parameter.

    Args:
        kind: what `target` is.
        target: path of a module or parameter, a function, or the name of a method.
        args: positional arguments, in which `Value` and `Mode` stand for what is known when running only.
        kwargs: keyword arguments, likewise.
        result: name of the result.
        release: results that nobody needs after this step.
    """

    kind: Kind
    target: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: str
    release: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Some functions, such as F.max_pool2d, are closures, which pickle cannot find again by itself.
        name = getattr(self.target, "__name__", "")
        target = name if getattr(F, name, None) is self.target else self.target
        return _step, (self.kind, target, self.args, self.kwargs, self.result, self.release)


def _step(kind: Any, target: Any, *rest: Any) -> Step:
    return Step(kind, getattr(F, target) if kind == "call_function" and isinstance(target, str) else target, *rest)


def label(node: fx.Node) -> str:
    """Name what a node of a traced forward calls."""
    return str(getattr(node.target, "__name__", node.target))


def map_leaves(change: Callable[[Any], Any], argument: Any) -> Any:
    """Change every leaf of nested arguments; tuples, lists, dicts and slices come back as plain ones."""
    if isinstance(argument, torch.Size):
        return argument
    if isinstance(argument, tuple) and hasattr(argument, "_fields"):
        return type(argument)(*(map_leaves(change, item) for item in argument))
    if isinstance(argument, tuple):
        return tuple(map_leaves(change, item) for item in argument)
    if isinstance(argument, list):
        return [map_leaves(change, item) for item in argument]
    if isinstance(argument, dict):
        return {key: map_leaves(change, item) for key, item in argument.items()}
    if isinstance(argument, slice):
        return slice(*(map_leaves(change, item) for item in (argument.start, argument.stop, argument.step)))
    return change(argument)


def find_module(root: nn.Module, path: str) -> nn.Module:
    """Find a module by path, also where its name is that of an attribute of the class (`report`, `geometry`)."""
    module: Any = root
    for name in path.split(".") if path else ():
        module = module._modules[name]
    return module  # type: ignore[no-any-return]


def find_attribute(root: nn.Module, path: str) -> Any:
    """Find a parameter, buffer or plain attribute by path."""
    prefix, _, name = path.rpartition(".")
    owner = find_module(root, prefix)
    for shelf in (owner._parameters, owner._buffers):
        if name in shelf:
            return shelf[name]
    return getattr(owner, name)


def leaves_of(step: Step) -> list[Any]:
    """List the leaves of the arguments of a step."""
    found: list[Any] = []
    map_leaves(found.append, (step.args, step.kwargs))
    return found


def with_releases(steps: Iterable[Step], keep: Iterable[str]) -> tuple[Step, ...]:
    """Note at each step what may be freed after it, so that memory peaks where the classifier's own forward does."""
    seen = set(keep)
    linked: list[Step] = []
    for step in reversed(list(steps)):
        named = dict.fromkeys([*(leaf.name for leaf in leaves_of(step) if isinstance(leaf, Value)), step.result])
        linked.append(replace(step, release=tuple(name for name in named if name not in seen)))
        seen.update(named)
    return tuple(reversed(linked))


def execute(
    root: nn.Module, kind: Kind, target: str | Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Do what a step says, on the modules of `root`, with arguments in which nothing stands for something else."""
    if kind == "get_attr":
        return find_attribute(root, str(target))
    if kind == "call_method":
        return getattr(args[0], str(target))(*args[1:], **kwargs)
    if kind == "call_function":
        assert callable(target)
        return target(*args, **kwargs)
    return find_module(root, str(target))(*args, **kwargs)


def run(root: nn.Module, steps: Sequence[Step], values: dict[str, Any]) -> dict[str, Any]:
    """Run steps on the modules of `root`; `values` starts with the inputs and ends with what was not released."""

    def known(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return values[leaf.name]
        if isinstance(leaf, Mode):
            return bool(find_module(root, leaf.path).training)
        return leaf

    for step in steps:
        values[step.result] = execute(root, step.kind, step.target, *map_leaves(known, (step.args, step.kwargs)))
        for name in step.release:
            values.pop(name, None)
    return values


def window_rows(
    map: Tensor,
    window: tuple[int, int],
    index: Tensor | None,
    shape: tuple[int, ...],
    batch_axis: int,
) -> Tensor:
    """Lay the windows of a map out as a batch, in the form the classifier's own operation expects.

    Args:
        map: (N, C, h, w).
        window: (kH, kW), the cells one score looks at.
        index: which entries of the flattened (C, kH, kW) window are taken, in which order; None: all, as they are.
        shape: shape of one window without its batch axis.
        batch_axis: where the batch axis belongs.

    Returns:
        A tensor of `shape` with an axis of N * Ho * Wo windows inserted at `batch_axis`.
    """
    channels = map.shape[1]
    if window == (1, 1):
        rows = map.permute(0, 2, 3, 1).reshape(-1, channels)
    else:
        rows = F.unfold(map, window).transpose(1, 2).reshape(-1, channels * window[0] * window[1])
    if index is not None:
        rows = rows[:, index]
    return rows.reshape(-1, *shape).movedim(0, batch_axis)


def rows_map(rows: Tensor, map: Tensor, window: tuple[int, int], batch_axis: int) -> Tensor:
    """Put the answers of all windows back in their places, the inverse of `window_rows`.

    Args:
        rows: answers, with N * Ho * Wo windows along `batch_axis`.
        map: (N, C, h, w), the map whose windows they are.
        window: (kH, kW).
        batch_axis: the axis of the windows.

    Returns:
        (N, D, Ho, Wo), D being the number of answers per window.
    """
    count = map.shape[0]
    height, width = map.shape[2] - window[0] + 1, map.shape[3] - window[1] + 1
    flat = rows.movedim(batch_axis, 0)
    answers = math.prod(flat.shape[1:])
    return flat.reshape(count, height, width, answers).permute(0, 3, 1, 2)


def pick_channels(map: Tensor, index: Tensor) -> Tensor:
    """Take channels of a map (N, C, h, w) by their number, in the given order."""
    return map[:, index.to(map.device)]

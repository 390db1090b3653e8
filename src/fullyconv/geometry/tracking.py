"""Follow rows and columns of an image through every operation that a network executes.

`Tracker` stands between a network and torch. It knows of each tensor in which of its dims the rows and columns
of the map are, whole, merged with others (tokens, windows) or moved (channels last), and with which geometry; each kind
of operation has one rule for its output (`fullyconv.geometry.rules`). An operation without a rule is assumed to see the
entire map. This is the machine behind `fullyconv.geometry.measure`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fullyconv.geometry.algebra import Geometry
from fullyconv.geometry.dispatch import Watch
from fullyconv.geometry.rules import ALIKE, RULES, Axis, Rule, Seen, pointwise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILLS = _words("zeros ones full scalar_tensor zeros_like ones_like full_like new_zeros new_ones new_full zero fill")
# What takes form, not values, from a tensor.
_CONSTANTS = _words(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full "
    "new_empty_strided zero normal uniform bernoulli"
)


class Tracker(Watch):  # type: ignore[no-untyped-call]
    """Follow the axes of the image through every operation that is executed."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[Tensor, Seen]] = {}  # keeps the tensors, so that no id is used again
        self._roots: dict[int, tuple[Tensor, Tensor]] = {}  # of views: the tensor they look into
        self._dirty: dict[int, tuple[Tensor, Seen]] = {}  # written to through a view
        self._uniform: dict[int, Tensor] = {}  # the same at all places, but for borders

    def remember(self, tensor: Tensor, seen: Seen) -> None:
        """Keep what is known of a tensor, and the tensor itself, so that its id stays its own."""
        self._seen[id(tensor)] = (tensor, seen)

    def start(self, image: Tensor) -> None:
        """Follow an image (1, C, H, W) from here on."""
        height, width = image.shape[-2:]
        self.remember(image, Seen.map(Geometry.IDENTITY, [Axis(2, 1, height), Axis(3, 1, width)]))

    def seen(self, tensor: object) -> Seen | None:
        """Give what is known of a tensor; None where nothing is."""
        if not isinstance(tensor, Tensor):
            return None
        _, known = self._seen.get(id(tensor), (None, None))
        _, root = self._roots.get(id(tensor), (None, tensor))
        _, written = self._dirty.get(id(root), (None, None))
        if written is None:
            return known
        return known.flagged() if known is not None else written.entire()

    def placed(self, tensor: object, dims: Iterable[int], more: int = 0) -> bool:
        """Tell whether a tensor that is not of the image has values of its own along dims of rows and columns.

        Coordinates and embeddings of positions have; a channel of ones has not.

        Args:
            tensor: an operand.
            dims: where rows and columns are in the tensor that it is joined with.
            more: the dims that broadcasting puts in front of the tensor's own.
        """
        if not isinstance(tensor, Tensor) or self.seen(tensor) is not None or id(tensor) in self._uniform:
            return False
        return any(d >= more and tensor.shape[d - more] > 1 for d in dims)

    def geometry(self, tensor: object) -> Geometry | None:
        """Give where the cells of a tensor lie on the image; None where nothing is known."""
        seen = self.seen(tensor)
        if seen is None:
            return None
        return seen.resolved(cast(Tensor, tensor).shape).geometry if seen.axes else seen.geometry.conv(seen.cells)

    def map(self, tensor: object) -> Seen | None:
        """Give what is known of a tensor whose last two dims are rows and columns, else None."""
        seen = self.seen(tensor)
        if seen is None or not seen.axes:
            return None
        shape = cast(Tensor, tensor).shape
        seen = seen.resolved(shape)
        wanted = tuple(Axis(len(shape) + d, 1, shape[d]) for d in (-2, -1))
        return seen if seen.axes == wanted else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation(func)
        tracked = [t for t in tree_leaves((args, kwargs)) if self.seen(t) is not None]
        rule = RULES.get(name) or (pointwise if _is_pointwise(func) else None)
        if tracked and rule is None and func.namespace == "aten":
            with self:  # an operation that torch composes of known ones
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._note_uniform(name, rule, args, result)
        before = self.seen(args[0]) if args else None
        if not tracked:
            for output in tree_leaves(result):
                self._note_aliases(func, args, output, None, None)
            return result
        arguments = _bind(func, args, kwargs)
        seen = rule(self, arguments, result) if rule else None
        for output in tree_leaves(result):
            if not isinstance(output, Tensor) or name in _CONSTANTS:
                continue
            known = seen if seen is not None else self._unknown(tracked, output)
            if known.axes and any(axis.dim >= output.ndim for axis in known.axes):
                known = known.entire()  # a second output of another form, such as the statistics of a norm
            self._note_aliases(func, args, output, known, before)
            self.remember(output, known)
        return result

    def _unknown(self, tracked: list[Tensor], output: Tensor) -> Seen:
        """Assume of an unknown operation that each element sees the entire map."""
        known = [(t, cast(Seen, self.seen(t)).resolved(t.shape)) for t in tracked]
        for tensor, seen in known:
            same = tensor.ndim == output.ndim and all(tensor.shape[d] == output.shape[d] for d in seen.dims)
            if seen.axes and same:
                return seen.flagged()
        return known[0][1].entire()

    def _note_uniform(self, name: str, rule: Rule | None, args: tuple[Any, ...], result: Any) -> None:
        """Note what is filled with one number, and what is made of that by operations that treat all places alike."""
        given = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        if rule is pointwise:
            uniform = bool(given) and all(id(t) in self._uniform or t.numel() == 1 for t in given)
        else:
            uniform = rule in ALIKE and bool(given) and id(given[0]) in self._uniform
        for output in tree_leaves(result):
            if isinstance(output, Tensor):
                if uniform or name in _FILLS:
                    self._uniform[id(output)] = output
                else:
                    self._uniform.pop(id(output), None)

    def _note_aliases(
        self, func: Any, args: tuple[Any, ...], output: object, seen: Seen | None, before: Seen | None
    ) -> None:
        """Note what looks into another tensor, and what was changed through such a view."""
        target = args[0] if args and isinstance(args[0], Tensor) else None
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        if target is None or alias is None or not isinstance(output, Tensor):
            return
        _, root = self._roots.setdefault(id(target), (target, target))
        if not alias.is_write:
            self._roots[id(output)] = (output, root)
        elif root is not target and seen is not None and seen != before:
            self._dirty[id(root)] = (root, seen.flagged())


def operation(func: Any) -> str:
    """Name an operation without name space, overload and the underscore of the in-place form."""
    name: str = func.name().split("::")[-1].split(".")[0]
    return name[:-1] if name.endswith("_") else name


def _is_pointwise(func: Any) -> bool:
    """Tell whether an operation works number by number; older torch tags only the form that is not in place."""
    if torch.Tag.pointwise in func.tags:
        return True
    packet = getattr(torch.ops.aten, operation(func), None) if func.namespace == "aten" else None
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of an operation, defaults filled in."""
    names = func._schema.arguments
    bound = {arg.name: arg.default_value for arg in names if arg.has_default_value()}
    bound.update(zip((arg.name for arg in names), args, strict=False))
    bound.update(kwargs)
    return bound

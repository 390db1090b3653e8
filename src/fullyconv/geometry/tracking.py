"""Follow rows and columns of an image through every operation that a network executes.

`Tracker` stands between a network and torch. It knows of each tensor in which of its dims the rows and columns
of the map are, whole, merged with others (tokens, windows) or moved (channels last), and with which geometry; each kind
of operation has one rule for its output. An operation without a rule is assumed to see the entire map. This is the
machine behind `fullyconv.geometry.measure`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fullyconv.geometry.algebra import Geometry, Pair, pair
from fullyconv.geometry.dispatch import Watch


@dataclass(frozen=True)
class _Axis:
    """Find the rows (or columns) of a map in a tensor: row = (index along ``dim`` // inner) % size."""

    dim: int
    inner: int
    size: int


@dataclass(frozen=True)
class _Seen:
    """Know of a tensor which cells its elements belong to.

    ``y`` and ``x`` say where rows and columns are; both are None where the tensor tells of the entire map (a pooled
    vector, class token). ``cells`` are the rows and columns of the last map.
    """

    geometry: Geometry
    y: _Axis | None
    x: _Axis | None
    cells: Pair

    @property
    def axes(self) -> tuple[_Axis, ...]:
        return () if self.y is None or self.x is None else (self.y, self.x)

    @property
    def dims(self) -> set[int]:
        return {axis.dim for axis in self.axes}

    def flagged(self) -> _Seen:
        return replace(self, geometry=replace(self.geometry, global_context=True))

    def entire(self) -> _Seen:
        return replace(self.flagged(), y=None, x=None)

    def moved(self, new: Callable[[int], int]) -> _Seen:
        """Renumber the dims."""
        y, x = (replace(axis, dim=new(axis.dim)) for axis in self.axes)
        return replace(self, y=y, x=x)

    def resolved(self, shape: Sequence[int]) -> _Seen:
        """Undo a repetition of cells: a dim of size*inner elements is a map ``inner`` times as fine."""
        seen = self
        if len(self.dims) < 2:  # rows and columns flattened into one dim: inner counts the columns
            return self
        for n, axis in enumerate(self.axes):
            if axis.inner > 1 and axis.inner * axis.size == shape[axis.dim]:
                fine = _Axis(axis.dim, 1, shape[axis.dim])
                factor = (axis.inner, 1) if n == 0 else (1, axis.inner)
                cells = (fine.size, seen.cells[1]) if n == 0 else (seen.cells[0], fine.size)
                geometry = seen.geometry.transposed_conv(factor, factor)
                seen = replace(seen, geometry=geometry, cells=cells, **{"yx"[n]: fine})
        return seen


Arguments = Mapping[str, Any]
Rule = Callable[["Tracker", Arguments, Any], "_Seen | None"]


class Tracker(Watch):  # type: ignore[no-untyped-call]
    """Follow the axes of the image through every operation that is executed."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[Tensor, _Seen]] = {}  # keeps the tensors, lest an id is used again
        self._roots: dict[int, tuple[Tensor, Tensor]] = {}  # of views: the tensor they look into
        self._dirty: dict[int, tuple[Tensor, _Seen]] = {}  # written to through a view
        self._uniform: dict[int, Tensor] = {}  # the same at all places, but for borders

    def remember(self, tensor: Tensor, seen: _Seen) -> None:
        """Keep what is known of a tensor, and the tensor itself, so that its id stays its own."""
        self._seen[id(tensor)] = (tensor, seen)

    def start(self, image: Tensor) -> None:
        """Follow an image (1, C, H, W) from here on."""
        height, width = image.shape[-2:]
        self.remember(image, _Seen(Geometry.IDENTITY, _Axis(2, 1, height), _Axis(3, 1, width), (height, width)))

    def seen(self, tensor: object) -> _Seen | None:
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
        if seen.axes:
            return seen.resolved(cast(Tensor, tensor).shape).geometry
        return seen.geometry.conv(seen.cells)

    def map(self, tensor: object) -> tuple[_Seen, Geometry] | None:
        """Give what is known of a tensor whose last two dims are rows and columns, else None."""
        seen = self.seen(tensor)
        if seen is None or not seen.axes:
            return None
        shape = cast(Tensor, tensor).shape
        seen = seen.resolved(shape)
        wanted = tuple(_Axis(len(shape) + d, 1, shape[d]) for d in (-2, -1))
        return (seen, seen.geometry) if seen.axes == wanted else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation(func)
        tracked = [t for t in tree_leaves((args, kwargs)) if self.seen(t) is not None]
        rule = _RULES.get(name) or (_pointwise if _is_pointwise(func) else None)
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

    def _unknown(self, tracked: list[Tensor], output: Tensor) -> _Seen:
        """Assume of an unknown operation that each element sees the entire map."""
        known = [(t, cast(_Seen, self.seen(t)).resolved(t.shape)) for t in tracked]
        for tensor, seen in known:
            same = tensor.ndim == output.ndim and all(tensor.shape[d] == output.shape[d] for d in seen.dims)
            if seen.axes and same:
                return seen.flagged()
        return known[0][1].entire()

    def _note_uniform(self, name: str, rule: Rule | None, args: tuple[Any, ...], result: Any) -> None:
        """Note what is filled with one number, and what is made of that by operations that treat all places alike."""
        given = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        if rule is _pointwise:
            uniform = bool(given) and all(id(t) in self._uniform or t.numel() == 1 for t in given)
        else:
            uniform = rule in _ALIKE and bool(given) and id(given[0]) in self._uniform
        for output in tree_leaves(result):
            if isinstance(output, Tensor):
                if uniform or name in _FILLS:
                    self._uniform[id(output)] = output
                else:
                    self._uniform.pop(id(output), None)

    def _note_aliases(
        self, func: Any, args: tuple[Any, ...], output: object, seen: _Seen | None, before: _Seen | None
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


# One rule per kind of operation: what is known of the output. None: not covered, take the worst.


def _pointwise(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    return _joined(t, tree_leaves(dict(a)), tree_leaves(out)[0].shape)


def _joined(t: Tracker, operands: Iterable[Any], shape: Sequence[int]) -> _Seen | None:
    """Join operands that broadcast to one shape."""
    operands = list(operands)
    maps: list[tuple[_Seen, Sequence[int]]] = []
    others: list[_Seen] = []
    for operand in operands:
        seen = t.seen(operand)
        if seen is None:
            continue
        more = len(shape) - operand.ndim
        if seen.axes and all(operand.shape[d] == shape[d + more] for d in seen.dims):
            maps.append((seen.moved(lambda d, more=more: d + more), shape))  # type: ignore[misc]
        else:
            others.append(seen)
    if not maps:
        return others[0].entire() if others else None
    joined = _joined_maps(maps)
    placed = any(t.placed(o, joined.dims, len(shape) - o.ndim) for o in operands if isinstance(o, Tensor))
    return joined.flagged() if others or placed else joined


def _joined_maps(maps: Sequence[tuple[_Seen, Sequence[int]]]) -> _Seen:
    """Join maps, given with the shapes of their tensors."""
    if any(seen.axes != maps[0][0].axes for seen, _ in maps):
        maps = [(seen.resolved(shape), shape) for seen, shape in maps]
    joined, _ = maps[0]
    for other, _ in maps[1:]:
        joined = _join(joined, other)
    return joined


def _join(one: _Seen, other: _Seen) -> _Seen:
    try:
        geometry = one.geometry.join(other.geometry)
    except ValueError:  # drifting grids: no fixed window
        return one.flagged()
    joined = replace(one, geometry=geometry)
    return joined if one.axes == other.axes else joined.flagged()


def _cat(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    dim = a.get("dim", 0) % out.ndim
    known = [(seen, tensor.shape) for tensor in a["tensors"] if (seen := t.seen(tensor)) is not None]
    if any(dim in seen.dims for seen, _ in known):
        return known[0][0].entire()
    joined = _joined_alike(known)
    return joined.flagged() if any(t.placed(tensor, joined.dims) for tensor in a["tensors"]) else joined


def _stack(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    dim = a.get("dim", 0) % out.ndim
    known = [seen for tensor in a["tensors"] if (seen := t.seen(tensor)) is not None]
    joined = _joined_alike([(s.moved(lambda d: d + (d >= dim)) if s.axes else s, out.shape) for s in known])
    placed = any(t.placed(tensor, seen.dims) for tensor in a["tensors"] for seen in known)
    return joined.flagged() if placed else joined


def _joined_alike(known: Sequence[tuple[_Seen, Sequence[int]]]) -> _Seen:
    """Join what does not broadcast; some of it may be no maps."""
    maps = [(seen, shape) for seen, shape in known if seen.axes]
    if not maps:
        return known[0][0].entire()
    joined = _joined_maps(maps)
    return joined if len(maps) == len(known) else joined.flagged()


def _convolution(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["input"])
    if found is None or len(a["stride"]) != 2:
        return None
    seen, geometry = found
    kernel = tuple(a["weight"].shape[2:])
    if a["transposed"]:
        geometry = geometry.transposed_conv(kernel, tuple(a["stride"]), tuple(a["padding"]), tuple(a["dilation"]))
    else:
        geometry = geometry.conv(kernel, tuple(a["stride"]), tuple(a["padding"]), tuple(a["dilation"]))
    result = _map_of(seen, geometry, out)
    return result.flagged() if t.seen(a["weight"]) is not None else result


def _pool(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["self"])
    if found is None:
        return None
    seen, geometry = found
    kernel = pair(a["kernel_size"])
    stride = pair(a["stride"] or kernel)
    padding, dilation = pair(a["padding"]), pair(a.get("dilation", 1))
    first = tree_leaves(out)[0]
    # a window that hangs over the far edge (ceil_mode) sees less than others, as with padding
    hangs_over = any(
        (n_out - 1) * s - p + d * (k - 1) > n_in - 1
        for n_out, n_in, k, s, p, d in zip(
            first.shape[-2:], a["self"].shape[-2:], kernel, stride, padding, dilation, strict=True
        )
    )
    geometry = geometry.conv(kernel, stride, padding, dilation)
    return _map_of(seen, replace(geometry, padded=geometry.padded or hangs_over), first)


def _adaptive_pool(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["self"])
    if found is None:
        return None
    seen, geometry = found
    first = tree_leaves(out)[0]
    sizes = list(zip(a["self"].shape[-2:], first.shape[-2:], strict=True))
    if all(n_in == n_out for n_in, n_out in sizes):
        return _map_of(seen, geometry, first)
    if all(n_out == 1 for _, n_out in sizes):
        return seen.entire()
    for axis, (n_in, n_out) in enumerate(sizes):
        reads = [(o * n_in // n_out, -((o + 1) * n_in // -n_out) - 1) for o in range(n_out)]
        geometry = geometry.resample(axis, reads, n_in / n_out)
    return _map_of(seen, geometry, first).flagged()  # the window depends on the size of the map


def _pad(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    if seen is None or not seen.axes:
        return None
    seen = seen.resolved(a["self"].shape)
    pads = list(a["pad"] if "pad" in a else a["padding"])
    padding = [(0, 0), (0, 0)]
    axes = list(seen.axes)
    for n, axis in enumerate(seen.axes):
        back = out.ndim - 1 - axis.dim
        if 2 * back + 1 < len(pads):
            before, after = pads[2 * back], pads[2 * back + 1]
            if (before, after) != (0, 0) and axis.size != a["self"].shape[axis.dim]:
                return None
            padding[n] = (before, after)
            axes[n] = _Axis(axis.dim, axis.inner, axis.size + before + after)
    geometry = seen.geometry.pad((padding[0], padding[1]))
    return _Seen(geometry, axes[0], axes[1], (axes[0].size, axes[1].size))


def _slice(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    shape = a["self"].shape
    dim = a["dim"] % len(shape)
    if seen is None or dim not in seen.dims or out.shape[dim] == shape[dim]:
        return seen
    seen = seen.resolved(shape)
    axes = list(seen.axes)
    start = min(max((a["start"] or 0) + (shape[dim] if (a["start"] or 0) < 0 else 0), 0), shape[dim])
    step = a["step"] or 1
    geometry = seen.geometry
    for n, axis in enumerate(seen.axes):
        if axis.dim != dim:
            continue
        if axis.inner != 1 or axis.size != shape[dim]:
            return None
        shift = (-start, 0) if n == 0 else (0, -start)
        geometry = geometry.shift(shift).conv(1, (step, 1) if n == 0 else (1, step))
        axes[n] = _Axis(dim, 1, out.shape[dim])
    return _Seen(geometry, axes[0], axes[1], (axes[0].size, axes[1].size))


def _select(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    return _without(t.seen(a["self"]), {a["dim"] % a["self"].ndim})


def _unbind(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    return _without(t.seen(a["self"]), {a["dim"] % a["self"].ndim})


def _without(seen: _Seen | None, gone: set[int]) -> _Seen | None:
    """Drop dims; a map that loses its rows or columns is a map no more."""
    if seen is None or not seen.axes:
        return seen
    if seen.dims & gone:
        return seen.entire()
    return seen.moved(lambda d: d - sum(g < d for g in gone))


def _split(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    return seen.entire() if seen is not None and a["dim"] % a["self"].ndim in seen.dims else seen


def _along(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow what works along one dim (softmax, cumsum, sort, index_select) and leaves the order of dims."""
    seen = t.seen(a["self"])
    return None if seen is None or a["dim"] % a["self"].ndim in seen.dims else seen


def _moving(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow what moves elements along given dims (roll, flip): it leads over the border of the map."""
    seen = t.seen(a["self"])
    if seen is None:
        return None
    dims = [d % a["self"].ndim for d in a["dims"]]
    return seen.flagged() if not dims or seen.dims & set(dims) else seen


def _reduction(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    if seen is None:
        return None
    ndim = a["self"].ndim
    dims = a.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(ndim))
    gone = {d % ndim for d in dims}
    if seen.dims & gone:
        return seen.entire()
    return seen if a.get("keepdim") else _without(seen, gone)


def _permute(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    if seen is None or not seen.axes:
        return seen
    order = [d % out.ndim for d in a["dims"]]
    return seen.moved(order.index)


def _transpose(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    if seen is None or not seen.axes or out.ndim < 2:
        return seen
    one, other = a.get("dim0", 0) % out.ndim, a.get("dim1", 1) % out.ndim
    swap = {one: other, other: one}
    return seen.moved(lambda d: swap.get(d, d))


def _unsqueeze(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    dim = a["dim"] % out.ndim
    return seen.moved(lambda d: d + (d >= dim)) if seen is not None and seen.axes else seen


def _squeeze(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    tensor = a["self"]
    dims = a.get("dim")
    dims = range(tensor.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    return _without(t.seen(tensor), {d % tensor.ndim for d in dims if tensor.shape[d] == 1})


def _expand(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["self"])
    if seen is None or not seen.axes:
        return seen
    tensor = a["self"]
    more = out.ndim - tensor.ndim
    if any(tensor.shape[d] != out.shape[d + more] for d in seen.dims):
        return seen.entire()
    return seen.moved(lambda d: d + more)


def _view(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow a reshape. The order of elements stays, so a row is found again by its distance in elements.

    A row of distance S and ``size`` rows lie in the dim whose distance T fits: T <= S and S*size <= T*length. Where the
    rows are cut in two dims (size/r, r), the outer one is followed, as the map of r times the stride.
    """
    seen = t.seen(a["self"])
    if seen is None:
        return None
    if not seen.axes:
        return _reborn(seen, out)
    old, new = tuple(a["self"].shape), tuple(out.shape)
    if old == new:
        return seen
    return _replaced(seen, old, new) or _replaced(seen.resolved(old), old, new) or seen.resolved(old).entire()


def _replaced(seen: _Seen, old: Sequence[int], new: Sequence[int]) -> _Seen | None:
    """Find rows and columns again in a tensor reshaped from ``old`` to ``new``."""
    geometry = seen.geometry
    axes: list[_Axis] = []
    for n, axis in enumerate(seen.axes):
        distance = math.prod(old[axis.dim + 1 :]) * axis.inner
        found = _place(new, distance, axis.size, prefer=axis.dim)
        if found is None:
            return None
        placed, r = found
        if r > 1:
            factor = (r, 1) if n == 0 else (1, r)
            geometry = geometry.conv(factor, factor)
        axes.append(placed)
    return _Seen(geometry, axes[0], axes[1], (axes[0].size, axes[1].size))


def _place(shape: Sequence[int], distance: int, size: int, prefer: int) -> tuple[_Axis, int] | None:
    """Find ``size`` cells that lie ``distance`` elements apart in a tensor of another shape."""
    whole: list[_Axis] = []
    for dim, length in enumerate(shape):
        step = math.prod(shape[dim + 1 :])
        if distance % step == 0 and step * length % (distance * size) == 0:
            whole.append(_Axis(dim, distance // step, size))
    if whole:
        # several fit only where there is one cell: take a dim of that cell alone, in its place if possible
        return min(whole, key=lambda axis: (shape[axis.dim] != size, axis.dim != prefer, axis.dim)), 1
    for dim, length in enumerate(shape):
        step = math.prod(shape[dim + 1 :])
        r, rest = divmod(step, distance)
        if rest == 0 and 1 < r < size and size % r == 0 and step * length % (distance * size) == 0:
            return _Axis(dim, 1, size // r), r
    return None


def _reborn(seen: _Seen, out: Tensor) -> _Seen:
    """Take a tensor that tells of the entire map for a map where it gets the map's form again (ViT without token)."""
    h, w = seen.cells
    if h * w > 1 and out.ndim == 4:
        for y, x in ((2, 3), (1, 2)):
            if (out.shape[y], out.shape[x]) == (h, w):
                return replace(seen, y=_Axis(y, 1, h), x=_Axis(x, 1, w))
    return seen


def _matmul(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow mm, bmm and the like: one dim of each factor is summed over."""
    left = a["self"] if "mat2" in a and "mat1" not in a else a.get("mat1", a.get("batch1"))
    right = a.get("mat2", a.get("batch2"))
    results: list[_Seen] = []
    plain = True
    for factor, summed in ((left, -1), (right, -2)):
        seen = t.seen(factor)
        if seen is None:
            continue
        if not seen.axes or factor.ndim + summed in seen.dims:
            plain = False
            results.append(seen.entire())
        else:
            results.append(seen)
    if not results:
        return None
    if len(results) == 2 and plain:  # both over the same cells: in the batch dim alone
        plain = all(seen.dims == {0} and out.ndim == 3 for seen in results) and results[0].axes == results[1].axes
        if plain:
            return _join(*results)
    results.sort(key=lambda seen: not seen.axes)
    alone = len(results) == 1 and ("mat1" not in a or t.seen(a["self"]) is None)
    return results[0] if alone else results[0].flagged()


def _attention(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow fused attention (N, heads, tokens, channels): exact where the cells are in the batch, as in windows."""
    known = [(seen, a[name].shape) for name in ("query", "key", "value") if (seen := t.seen(a[name])) is not None]
    return _joined_alike(known) if all(seen.axes and seen.dims <= {0, 1} for seen, _ in known) else None


def _linear(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["input"])
    if seen is None or t.seen(a["weight"]) is not None:
        return None
    return seen.entire() if a["input"].ndim - 1 in seen.dims else seen


def _batch_norm(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    seen = t.seen(a["input"])
    return None if a.get("training", a.get("train", False)) else seen


def _layer_norm(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    tensor = a["input"]
    seen = t.seen(tensor)
    normalized = set(range(tensor.ndim - len(a["normalized_shape"]), tensor.ndim))
    return seen.flagged() if seen is not None and seen.dims & normalized else seen


def _interpolate(support: int, mode: str) -> Rule:
    """Make the rule for a resampling that reads ``support`` cells on each side of a position."""

    def rule(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
        found = t.map(a.get("self", a.get("input")))
        if found is None:
            return None
        seen, geometry = found
        sizes = zip(seen.cells, out.shape[-2:], (a.get("scales_h"), a.get("scales_w")), strict=True)
        corners = bool(a.get("align_corners"))
        for axis, (n_in, n_out, scale) in enumerate(sizes):
            if n_in == n_out and not (scale and scale != 1):
                continue
            ratio = 1 / scale if scale else n_in / n_out
            if corners:
                ratio = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
            if n_in == 1 or ratio == 0:
                return seen.entire()  # one cell spread over the map
            reads: list[tuple[int, int]] = []
            for o in range(n_out):
                if mode == "nearest":
                    at = math.floor(o * ratio + 1e-9)
                    reads.append((at, at))
                elif mode == "nearest-exact":
                    at = math.floor((o + 0.5) * ratio + 1e-9)
                    reads.append((at, at))
                else:
                    x = o * ratio if corners else (o + 0.5) * ratio - 0.5
                    reach = support * max(ratio, 1.0) if mode == "antialias" else support
                    reads.append((math.floor(x - reach + 1e-9) + 1, math.ceil(x + reach - 1e-9) - 1))
            geometry = geometry.resample(axis, reads, ratio)
        return _map_of(seen, geometry, out)

    return rule


def _unpool(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    values, positions = t.map(a["self"]), t.map(a["indices"])
    if values is None:
        return None
    seen, geometry = values
    if positions is not None:
        try:
            geometry = geometry.join(positions[1])
        except ValueError:
            return None
    for axis, (n_in, n_out) in enumerate(zip(seen.cells, out.shape[-2:], strict=True)):
        factor = round(n_out / n_in)
        geometry = geometry.resample(axis, [(o // factor, o // factor) for o in range(n_out)], 1 / factor)
    return _map_of(seen, geometry, out)


def _pixel_shuffle(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["self"])
    r = a.get("upscale_factor", 1)
    return None if found is None else _map_of(found[0], found[1].transposed_conv(r, r), out)


def _pixel_unshuffle(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["self"])
    r = a.get("downscale_factor", 1)
    return None if found is None else _map_of(found[0], found[1].conv(r, r), out)


def _im2col(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    found = t.map(a["self"])
    if found is None or out.ndim != 3:
        return None
    _, geometry = found
    kernel, dilation, padding, stride = (pair(a[k]) for k in ("kernel_size", "dilation", "padding", "stride"))
    sizes = zip(a["self"].shape[-2:], kernel, dilation, padding, stride, strict=True)
    h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sizes)
    return _Seen(geometry.conv(kernel, stride, padding, dilation), _Axis(2, w, h), _Axis(2, 1, w), (h, w))


def _unfold(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    tensor = a["self"]
    seen = t.seen(tensor)
    dim = a["dimension"] % tensor.ndim
    if seen is None or dim not in seen.dims:
        return seen
    seen = seen.resolved(tensor.shape)
    axes, geometry = list(seen.axes), seen.geometry
    for n, axis in enumerate(seen.axes):
        if axis.dim == dim:
            if axis.inner != 1 or axis.size != tensor.shape[dim]:
                return None
            size, step = a["size"], a["step"]
            geometry = geometry.conv((size, 1) if n == 0 else (1, size), (step, 1) if n == 0 else (1, step))
            axes[n] = _Axis(dim, 1, out.shape[dim])
    return _Seen(geometry, axes[0], axes[1], (axes[0].size, axes[1].size))


def _index(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    """Follow indexing by one list of positions along one dim, other than rows and columns."""
    tensor, seen = a["self"], t.seen(a["self"])
    used = [(d, i) for d, i in enumerate(a["indices"]) if i is not None]
    if seen is None or len(used) != 1 or used[0][1].ndim != 1 or used[0][1].dtype in (torch.bool, torch.uint8):
        return None
    return None if used[0][0] in seen.dims or out.ndim != tensor.ndim else seen


def _map_of(seen: _Seen, geometry: Geometry, out: Tensor) -> _Seen:
    h, w = out.shape[-2:]
    return _Seen(geometry, _Axis(out.ndim - 2, 1, h), _Axis(out.ndim - 1, 1, w), (h, w))


def _channels(t: Tracker, a: Arguments, out: Any) -> _Seen | None:
    return t.seen(a["self"])


# By the name of the operation in ATen, without the underscore of the in-place form.
_CONSTANTS = frozenset(  # take form, not values, from a tensor
    name
    for names in (
        ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
        ("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
        ("zero", "normal", "uniform", "bernoulli"),
    )
    for name in names
)

_KINDS: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (_convolution, ("convolution", "convolution_overrideable")),
    (_pool, ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d")),
    (_adaptive_pool, ("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")),
    (_pad, ("constant_pad_nd", "reflection_pad2d", "replication_pad2d")),
    (_pointwise, ("clone", "_to_copy", "detach", "alias", "lift_fresh", "lift_fresh_copy", "copy", "where", "fill")),
    (_pointwise, ("_prelu_kernel", "masked_fill", "native_dropout")),
    (_cat, ("cat",)),
    (_stack, ("stack",)),
    (_slice, ("slice",)),
    (_select, ("select",)),
    (_unbind, ("unbind",)),
    (_split, ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")),
    (_along, ("_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk", "glu", "index_select")),
    (_moving, ("roll", "flip")),
    (_reduction, ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod")),
    (_reduction, ("logsumexp", "linalg_vector_norm", "argmax", "argmin", "any", "all", "median", "nansum")),
    (_permute, ("permute",)),
    (_transpose, ("transpose", "t")),
    (_unsqueeze, ("unsqueeze",)),
    (_squeeze, ("squeeze",)),
    (_expand, ("expand", "repeat")),
    (_view, ("view", "_unsafe_view", "_reshape_alias", "reshape")),
    (_matmul, ("mm", "bmm", "addmm", "baddbmm")),
    (_linear, ("linear",)),
    (_attention, ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")),
    (_attention, ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")),
    (_batch_norm, ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")),
    (_batch_norm, ("_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm")),
    (_layer_norm, ("native_layer_norm", "_fused_rms_norm")),
    (_interpolate(0, "nearest"), ("upsample_nearest2d",)),
    (_interpolate(0, "nearest-exact"), ("_upsample_nearest_exact2d",)),
    (_interpolate(1, "linear"), ("upsample_bilinear2d",)),
    (_interpolate(2, "linear"), ("upsample_bicubic2d",)),
    (_interpolate(1, "antialias"), ("_upsample_bilinear2d_aa",)),
    (_interpolate(2, "antialias"), ("_upsample_bicubic2d_aa",)),
    (_unpool, ("max_unpool2d",)),
    (_pixel_shuffle, ("pixel_shuffle",)),
    (_pixel_unshuffle, ("pixel_unshuffle",)),
    (_channels, ("native_channel_shuffle", "channel_shuffle")),
    (_im2col, ("im2col",)),
    (_unfold, ("unfold",)),
    (_index, ("index",)),
)
_RULES: dict[str, Rule] = {name: rule for rule, names in _KINDS for name in names}

_FILLS = frozenset(
    ("zeros", "ones", "full", "scalar_tensor", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones")
) | {"new_full", "zero", "fill"}
_ALIKE = frozenset(
    (_convolution, _pool, _pad, _slice, _select, _expand, _view, _permute, _transpose, _unsqueeze, _squeeze)
)


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of an operation, defaults filled in."""
    names = func._schema.arguments
    bound = {arg.name: arg.default_value for arg in names if arg.has_default_value()}
    bound.update(zip((arg.name for arg in names), args, strict=False))
    bound.update(kwargs)
    return bound

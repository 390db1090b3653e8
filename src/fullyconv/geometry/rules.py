"""What each operation of torch makes of rows and columns: one rule for each kind of operation.

A rule is given the arguments of an operation by name and what came out, and says what is known of the output; None says
that it does not cover the case, so that the worst is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fullyconv.geometry.algebra import Geometry, Pair, pair

if TYPE_CHECKING:
    from fullyconv.geometry.tracking import Tracker


@dataclass(frozen=True)
class Axis:
    """Find the rows (or columns) of a map in a tensor: row = (index along ``dim`` // inner) % size."""

    dim: int
    inner: int
    size: int


@dataclass(frozen=True)
class Seen:
    """Know of a tensor which cells its elements belong to.

    Args:
        geometry: of the map.
        axes: where its rows and columns are; none where the tensor tells of the entire map (a pooled vector, a class
            token).
        cells: the rows and columns of the last map.
    """

    geometry: Geometry
    axes: tuple[Axis, ...]
    cells: Pair

    @classmethod
    def map(cls, geometry: Geometry, axes: Sequence[Axis]) -> Seen:
        """Know a tensor with rows and columns."""
        rows, columns = axes
        return cls(geometry, (rows, columns), (rows.size, columns.size))

    @property
    def dims(self) -> set[int]:
        """The dims in which rows and columns are."""
        return {axis.dim for axis in self.axes}

    def flagged(self) -> Seen:
        """Know the same cells to depend on the entire map."""
        return replace(self, geometry=replace(self.geometry, global_context=True))

    def entire(self) -> Seen:
        """Know that the tensor tells of the entire map."""
        return replace(self.flagged(), axes=())

    def moved(self, new: Callable[[int], int]) -> Seen:
        """Renumber the dims."""
        return replace(self, axes=tuple(replace(axis, dim=new(axis.dim)) for axis in self.axes))

    def without(self, gone: set[int]) -> Seen:
        """Drop dims; a map that loses its rows or columns is a map no more."""
        return self.entire() if self.dims & gone else self.moved(lambda d: d - sum(g < d for g in gone))

    def resolved(self, shape: Sequence[int]) -> Seen:
        """Undo a repetition of cells: a dim of size*inner elements is a map ``inner`` times as fine."""
        if len(self.dims) < 2:  # rows and columns flattened into one dim: inner counts the columns
            return self
        geometry, axes = self.geometry, list(self.axes)
        for n, axis in enumerate(self.axes):
            if axis.inner > 1 and axis.inner * axis.size == shape[axis.dim]:
                factor = _at(n, axis.inner, 1)
                geometry = geometry.transposed_conv(factor, factor)
                axes[n] = Axis(axis.dim, 1, shape[axis.dim])
        return Seen.map(geometry, axes)


Arguments = Mapping[str, Any]
Rule = Callable[["Tracker", Arguments, Any], "Seen | None"]
OneRule = Callable[[Seen, Arguments, Any], "Seen | None"]

RULES: dict[str, Rule] = {}
"""By the name of the operation in ATen, without the underscore of the in-place form."""


def _rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by their names."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def _following(names: str) -> Callable[[OneRule], Rule]:
    """Register a rule that follows rows and columns of one tensor; what tells of the entire map goes on to do so."""

    def register(rule: OneRule) -> Rule:
        def follow(t: Tracker, a: Arguments, out: Any) -> Seen | None:
            seen = t.seen(_operand(a))
            return rule(seen, a, out) if seen is not None and seen.axes else seen

        return _rule(names)(follow)

    return register


def _on_map(names: str) -> Callable[[OneRule], Rule]:
    """Register a rule for a tensor whose last two dims are rows and columns; it covers no other."""

    def register(rule: OneRule) -> Rule:
        def follow(t: Tracker, a: Arguments, out: Any) -> Seen | None:
            seen = t.map(_operand(a))
            return None if seen is None else rule(seen, a, out)

        return _rule(names)(follow)

    return register


def _operand(a: Arguments) -> Any:
    return a["self"] if "self" in a else a["input"]


def _at(n: int, value: int, other: int) -> Pair:
    """Give a pair with a value for rows (0) or columns (1)."""
    return (value, other) if n == 0 else (other, value)


def _map_of(geometry: Geometry, out: Tensor) -> Seen:
    """Know a tensor whose last two dims are rows and columns."""
    return Seen.map(geometry, [Axis(out.ndim + d, 1, out.shape[d]) for d in (-2, -1)])


@_rule(
    "clone _to_copy detach alias lift_fresh lift_fresh_copy copy where fill _prelu_kernel masked_fill native_dropout"
)
def pointwise(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    """Join operands that broadcast to one shape."""
    operands, shape = [o for o in tree_leaves(dict(a)) if isinstance(o, Tensor)], tree_leaves(out)[0].shape
    maps: list[tuple[Seen, Sequence[int]]] = []
    others: list[Seen] = []
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
    placed = any(t.placed(operand, joined.dims, len(shape) - operand.ndim) for operand in operands)
    return joined.flagged() if others or placed else joined


def _joined_maps(maps: Sequence[tuple[Seen, Sequence[int]]]) -> Seen:
    """Join maps, given with the shapes of their tensors."""
    if any(seen.axes != maps[0][0].axes for seen, _ in maps):
        maps = [(seen.resolved(shape), shape) for seen, shape in maps]
    joined, _ = maps[0]
    for other, _ in maps[1:]:
        joined = _join(joined, other)
    return joined


def _join(one: Seen, other: Seen) -> Seen:
    try:
        geometry = one.geometry.join(other.geometry)
    except ValueError:  # drifting grids: no fixed window
        return one.flagged()
    joined = replace(one, geometry=geometry)
    return joined if one.axes == other.axes else joined.flagged()


@_rule("cat")
def _cat(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    dim = a.get("dim", 0) % out.ndim
    known = [(seen, tensor.shape) for tensor in a["tensors"] if (seen := t.seen(tensor)) is not None]
    if any(dim in seen.dims for seen, _ in known):
        return known[0][0].entire()
    joined = _joined_alike(known)
    return joined.flagged() if any(t.placed(tensor, joined.dims) for tensor in a["tensors"]) else joined


@_rule("stack")
def _stack(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    dim = a.get("dim", 0) % out.ndim
    known = [seen for tensor in a["tensors"] if (seen := t.seen(tensor)) is not None]
    joined = _joined_alike([(seen.moved(lambda d: d + (d >= dim)), out.shape) for seen in known])
    placed = any(t.placed(tensor, seen.dims) for tensor in a["tensors"] for seen in known)
    return joined.flagged() if placed else joined


def _joined_alike(known: Sequence[tuple[Seen, Sequence[int]]]) -> Seen:
    """Join what does not broadcast; some of it may be no maps."""
    maps = [(seen, shape) for seen, shape in known if seen.axes]
    if not maps:
        return known[0][0].entire()
    joined = _joined_maps(maps)
    return joined if len(maps) == len(known) else joined.flagged()


@_rule("convolution convolution_overrideable")
def _convolution(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    seen = t.map(a["input"])
    if seen is None or len(a["stride"]) != 2:
        return None
    numbers = (tuple(a[name]) for name in ("stride", "padding", "dilation"))
    moves = seen.geometry.transposed_conv if a["transposed"] else seen.geometry.conv
    result = _map_of(moves(tuple(a["weight"].shape[2:]), *numbers), out)
    return result.flagged() if t.seen(a["weight"]) is not None else result


@_on_map("max_pool2d_with_indices max_pool2d avg_pool2d")
def _pool(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    kernel = pair(a["kernel_size"])
    stride = pair(a["stride"] or kernel)
    padding, dilation = pair(a["padding"]), pair(a.get("dilation", 1))
    first = tree_leaves(out)[0]
    # a window that hangs over the far edge (ceil_mode) sees less than others, as with padding
    hangs_over = any(
        (n_out - 1) * s - p + d * (k - 1) > n_in - 1
        for n_out, n_in, k, s, p, d in zip(first.shape[-2:], seen.cells, kernel, stride, padding, dilation, strict=True)
    )
    geometry = seen.geometry.conv(kernel, stride, padding, dilation)
    return _map_of(replace(geometry, padded=geometry.padded or hangs_over), first)


@_on_map("_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d")
def _adaptive_pool(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    geometry, first = seen.geometry, tree_leaves(out)[0]
    sizes = list(zip(seen.cells, first.shape[-2:], strict=True))
    if all(n_in == n_out for n_in, n_out in sizes):
        return _map_of(geometry, first)
    if all(n_out == 1 for _, n_out in sizes):
        return seen.entire()
    for axis, (n_in, n_out) in enumerate(sizes):
        reads = [(o * n_in // n_out, -((o + 1) * n_in // -n_out) - 1) for o in range(n_out)]
        geometry = geometry.resample(axis, reads, n_in / n_out)
    return _map_of(geometry, first).flagged()  # the window depends on the size of the map


@_following("constant_pad_nd reflection_pad2d replication_pad2d")
def _pad(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    shape = a["self"].shape
    seen = seen.resolved(shape)
    pads = list(a["pad"] if "pad" in a else a["padding"])
    padding, axes = [(0, 0), (0, 0)], list(seen.axes)
    for n, axis in enumerate(seen.axes):
        back = out.ndim - 1 - axis.dim
        if 2 * back + 1 < len(pads):
            padding[n] = before, after = pads[2 * back], pads[2 * back + 1]
            if (before, after) != (0, 0) and axis.size != shape[axis.dim]:
                return None
            axes[n] = replace(axis, size=axis.size + before + after)
    return Seen.map(seen.geometry.pad((padding[0], padding[1])), axes)


@_following("slice")
def _slice(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    shape = a["self"].shape
    dim = a["dim"] % len(shape)
    if dim not in seen.dims or out.shape[dim] == shape[dim]:
        return seen
    seen = seen.resolved(shape)
    geometry, axes = seen.geometry, list(seen.axes)
    start, step = a["start"] or 0, a["step"] or 1
    start = min(max(start + (shape[dim] if start < 0 else 0), 0), shape[dim])
    for n, axis in enumerate(seen.axes):
        if axis.dim != dim:
            continue
        if axis.inner != 1 or axis.size != shape[dim]:
            return None
        geometry = geometry.shift(_at(n, -start, 0)).conv(1, _at(n, step, 1))
        axes[n] = Axis(dim, 1, out.shape[dim])
    return Seen.map(geometry, axes)


@_following("select unbind")
def _select(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return seen.without({a["dim"] % a["self"].ndim})


@_following("split split_with_sizes unsafe_split unsafe_split_with_sizes")
def _split(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return seen.entire() if a["dim"] % a["self"].ndim in seen.dims else seen


@_following("_softmax _log_softmax cumsum cumprod logcumsumexp sort topk glu index_select")
def _along(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    """Follow what works along one dim and leaves the order of dims."""
    return None if a["dim"] % a["self"].ndim in seen.dims else seen


@_following("roll flip")
def _moving(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    """Follow what moves elements along given dims: it leads over the border of the map."""
    dims = {d % a["self"].ndim for d in a["dims"]}
    return seen.flagged() if not dims or seen.dims & dims else seen


@_following(
    "mean sum amax amin max min var std var_mean std_mean prod logsumexp linalg_vector_norm argmax argmin any "
    "all median nansum"
)
def _reduction(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    ndim, dims = a["self"].ndim, a.get("dim")
    gone = {d % ndim for d in ([dims] if isinstance(dims, int) else dims or range(ndim))}
    return seen if a.get("keepdim") and not seen.dims & gone else seen.without(gone)


@_following("permute")
def _permute(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return seen.moved([d % out.ndim for d in a["dims"]].index)


@_following("transpose t")
def _transpose(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    if out.ndim < 2:
        return seen
    one, other = a.get("dim0", 0) % out.ndim, a.get("dim1", 1) % out.ndim
    swap = {one: other, other: one}
    return seen.moved(lambda d: swap.get(d, d))


@_following("unsqueeze")
def _unsqueeze(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    dim = a["dim"] % out.ndim
    return seen.moved(lambda d: d + (d >= dim))


@_following("squeeze")
def _squeeze(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    shape, dims = a["self"].shape, a.get("dim")
    dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return seen.without({d % len(shape) for d in dims if shape[d] == 1})


@_following("expand repeat")
def _expand(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    shape = a["self"].shape
    more = out.ndim - len(shape)
    if any(shape[d] != out.shape[d + more] for d in seen.dims):
        return seen.entire()
    return seen.moved(lambda d: d + more)


@_rule("view _unsafe_view _reshape_alias reshape")
def _view(t: Tracker, a: Arguments, out: Any) -> Seen | None:
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


def _replaced(seen: Seen, old: Sequence[int], new: Sequence[int]) -> Seen | None:
    """Find rows and columns again in a tensor reshaped from ``old`` to ``new``."""
    geometry = seen.geometry
    axes: list[Axis] = []
    for n, axis in enumerate(seen.axes):
        distance = math.prod(old[axis.dim + 1 :]) * axis.inner
        found = _place(new, distance, axis.size, prefer=axis.dim)
        if found is None:
            return None
        placed, r = found
        if r > 1:
            geometry = geometry.conv(_at(n, r, 1), _at(n, r, 1))
        axes.append(placed)
    return Seen.map(geometry, axes)


def _place(shape: Sequence[int], distance: int, size: int, prefer: int) -> tuple[Axis, int] | None:
    """Find ``size`` cells that lie ``distance`` elements apart in a tensor of another shape."""
    steps = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    fits = [step * length % (distance * size) == 0 for step, length in zip(steps, shape, strict=True)]
    whole = [Axis(dim, distance // step, size) for dim, step in enumerate(steps) if fits[dim] and distance % step == 0]
    if whole:
        # several fit only where there is one cell: take a dim of that cell alone, in its place if possible
        return min(whole, key=lambda axis: (shape[axis.dim] != size, axis.dim != prefer, axis.dim)), 1
    for dim, step in enumerate(steps):
        r, rest = divmod(step, distance)
        if fits[dim] and rest == 0 and 1 < r < size and size % r == 0:
            return Axis(dim, 1, size // r), r
    return None


def _reborn(seen: Seen, out: Tensor) -> Seen:
    """Take a tensor that tells of the entire map for a map where it gets the map's form again (ViT without token)."""
    h, w = seen.cells
    if h * w > 1 and out.ndim == 4:
        for y, x in ((2, 3), (1, 2)):
            if (out.shape[y], out.shape[x]) == (h, w):
                return replace(seen, axes=(Axis(y, 1, h), Axis(x, 1, w)))
    return seen


@_rule("mm bmm addmm baddbmm")
def _matmul(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    """Follow a product of matrices: one dim of each factor is summed over."""
    left = a["self"] if "mat2" in a and "mat1" not in a else a.get("mat1", a.get("batch1"))
    right = a.get("mat2", a.get("batch2"))
    results: list[Seen] = []
    plain = True
    for factor, summed in ((left, -1), (right, -2)):
        seen = t.seen(factor)
        if seen is None:
            continue
        if not seen.axes or factor.ndim + summed in seen.dims:
            plain = False
            seen = seen.entire()
        results.append(seen)
    if not results:
        return None
    if len(results) == 2 and plain:  # both over the same cells: in the batch dim alone
        one, other = results
        if one.dims == {0} == other.dims and out.ndim == 3 and one.axes == other.axes:
            return _join(one, other)
    results.sort(key=lambda seen: not seen.axes)
    alone = len(results) == 1 and ("mat1" not in a or t.seen(a["self"]) is None)
    return results[0] if alone else results[0].flagged()


@_rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
)
def _attention(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    """Follow fused attention (N, heads, tokens, channels): exact where the cells are in the batch, as in windows."""
    known = [(seen, a[name].shape) for name in ("query", "key", "value") if (seen := t.seen(a[name])) is not None]
    return _joined_alike(known) if all(seen.axes and seen.dims <= {0, 1} for seen, _ in known) else None


@_rule("linear")
def _linear(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    seen = t.seen(a["input"])
    if seen is None or t.seen(a["weight"]) is not None:
        return None
    return seen.entire() if a["input"].ndim - 1 in seen.dims else seen


@_following(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
    "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm"
)
def _batch_norm(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return None if a.get("training", a.get("train", False)) else seen


@_following("native_layer_norm _fused_rms_norm")
def _layer_norm(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    ndim = a["input"].ndim
    normalized = set(range(ndim - len(a["normalized_shape"]), ndim))
    return seen.flagged() if seen.dims & normalized else seen


def _resampling(name: str, support: int, mode: str) -> None:
    """Register the rule for a resampling that reads ``support`` cells on each side of a position."""

    @_on_map(name)
    def rule(seen: Seen, a: Arguments, out: Any) -> Seen | None:
        geometry, corners = seen.geometry, bool(a.get("align_corners"))
        sizes = zip(seen.cells, out.shape[-2:], (a.get("scales_h"), a.get("scales_w")), strict=True)
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
                if support == 0:
                    at = math.floor((o + (0.5 if mode == "exact" else 0.0)) * ratio + 1e-9)
                    reads.append((at, at))
                else:
                    x = o * ratio if corners else (o + 0.5) * ratio - 0.5
                    reach = support * max(ratio, 1.0) if mode == "antialias" else support
                    reads.append((math.floor(x - reach + 1e-9) + 1, math.ceil(x + reach - 1e-9) - 1))
            geometry = geometry.resample(axis, reads, ratio)
        return _map_of(geometry, out)


_resampling("upsample_nearest2d", 0, "floor")
_resampling("_upsample_nearest_exact2d", 0, "exact")
_resampling("upsample_bilinear2d", 1, "linear")
_resampling("upsample_bicubic2d", 2, "linear")
_resampling("_upsample_bilinear2d_aa", 1, "antialias")
_resampling("_upsample_bicubic2d_aa", 2, "antialias")


@_rule("max_unpool2d")
def _unpool(t: Tracker, a: Arguments, out: Any) -> Seen | None:
    seen, positions = t.map(a["self"]), t.map(a["indices"])
    if seen is None:
        return None
    geometry = seen.geometry
    if positions is not None:
        try:
            geometry = geometry.join(positions.geometry)
        except ValueError:
            return None
    for axis, (n_in, n_out) in enumerate(zip(seen.cells, out.shape[-2:], strict=True)):
        factor = round(n_out / n_in)
        geometry = geometry.resample(axis, [(o // factor, o // factor) for o in range(n_out)], 1 / factor)
    return _map_of(geometry, out)


@_on_map("pixel_shuffle")
def _pixel_shuffle(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return _map_of(seen.geometry.transposed_conv(a["upscale_factor"], a["upscale_factor"]), out)


@_on_map("pixel_unshuffle")
def _pixel_unshuffle(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return _map_of(seen.geometry.conv(a["downscale_factor"], a["downscale_factor"]), out)


@_following("native_channel_shuffle channel_shuffle")
def _channels(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    return seen


@_on_map("im2col")
def _im2col(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    if out.ndim != 3:
        return None
    kernel, dilation, padding, stride = (pair(a[k]) for k in ("kernel_size", "dilation", "padding", "stride"))
    sizes = zip(seen.cells, kernel, dilation, padding, stride, strict=True)
    h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sizes)
    return Seen.map(seen.geometry.conv(kernel, stride, padding, dilation), [Axis(2, w, h), Axis(2, 1, w)])


@_following("unfold")
def _unfold(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    shape = a["self"].shape
    dim = a["dimension"] % len(shape)
    if dim not in seen.dims:
        return seen
    seen = seen.resolved(shape)
    geometry, axes = seen.geometry, list(seen.axes)
    for n, axis in enumerate(seen.axes):
        if axis.dim == dim:
            if axis.inner != 1 or axis.size != shape[dim]:
                return None
            geometry = geometry.conv(_at(n, a["size"], 1), _at(n, a["step"], 1))
            axes[n] = Axis(dim, 1, out.shape[dim])
    return Seen.map(geometry, axes)


@_following("index")
def _index(seen: Seen, a: Arguments, out: Any) -> Seen | None:
    """Follow indexing by one list of positions along one dim, other than rows and columns."""
    used = [(d, i) for d, i in enumerate(a["indices"]) if i is not None]
    if len(used) != 1 or used[0][1].ndim != 1 or used[0][1].dtype in (torch.bool, torch.uint8):
        return None
    return None if used[0][0] in seen.dims or out.ndim != a["self"].ndim else seen


ALIKE = frozenset(
    (_convolution, _pool, _pad, _slice, _select, _expand, _view, _permute, _transpose, _unsqueeze, _squeeze)
)
"""What treats all places alike."""

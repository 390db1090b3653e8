"""The best class at every pixel, straight from the scores of a coarser grid: upsampling and argmax without the logits.

Bilinear interpolation between four neighboring cells is a convex combination of their scores. So a class that is on
top in all four is on top everywhere between them, and nothing has to be interpolated there; in masks of photographs
that holds for five squares in six. In the others a class is left out when it is below one class, or below one fixed
mixture of classes, in all four cells: then it is below it everywhere between them. The classes that remain, usually
two or three, are interpolated, and the running maximum is the answer. No step guesses: the labels are those of
interpolating all classes, up to the rounding of float32 where two scores are all but equal.

With numba installed (``pip install 'fullyconv[fast]'``) a compiled loop does the same on the CPU in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, get_args

import numpy.typing as npt
import torch
from torch import Tensor

from fullyconv.errors import ScoresError
from fullyconv.geometry import Geometry
from fullyconv.inference import kernels
from fullyconv.upsampling import interpolation_matrix

Route = Literal["auto", "torch", "compiled"]

BAND_BYTES = 2**23  # of numbers at a time; more is no faster, because it leaves the processor's cache
SCALED_BYTES = 2**21  # of logits at a time in `scaled_argmax`, which goes over them once for each class

_SCALED_ROWS = 16  # at least, because every band costs some launches a class
_LARGEST_BLOCK = 32  # pixels along an axis that are decided together
_WORTH_COMPILING = 2**22  # logits; below, importing and starting the compiled loop takes longer than the torch route


def upsample_argmax(
    scores: Tensor,
    source: Geometry,
    size: tuple[int, int],
    *,
    origin: tuple[int, int] = (0, 0),
    route: Route = "auto",
    band_bytes: int | None = None,
) -> Tensor:
    """Find the class with the highest interpolated score at every pixel, without interpolating all scores.

    The labels are those of ``resample(scores, source, Geometry.IDENTITY, size).argmax(1)``, the lowest class on a tie;
    where two scores differ by less than rounding, either may be taken. Scores of half precision are interpolated in
    float32. Memory beside the result is a few times `band_bytes`, whatever the size of the image.

    Args:
        scores: (N, K, h, w) floating scores on the grid of `source`, of any strides; infinite values are taken for very
            large ones.
        source: where the scores lie. A map that lies at the pixels already is only searched for its largest scores.
        size: height and width of the wanted labels, in pixels.
        origin: (row, column) of the first pixel wanted, so that a large image can be labeled window by window.
            Positions outside the map are clamped to it.
        route: "torch" for plain torch operations on any device, "compiled" for numba on the CPU in float32, "auto" for
            the compiled loop where it applies, is installed, and the map is large enough to be worth it.
        band_bytes: bytes of numbers that are worked on at a time; by default 8 MiB, on accelerators 128 MiB.

    Returns:
        (N, H, W) labels, uint8 for at most 255 classes (so that 255 stays free for pixels without a class), else int32.

    Raises:
        ValueError: if scores are not floating numbers (N, K, h, w) with at least one class and one cell; if size is not
            positive; if route="compiled" is not possible.
        ScoresError: if scores are NaN.

    Example:
        >>> vgg = Geometry((32, 32), (15.5, 15.5), (404, 404))
        >>> scores = torch.zeros(1, 21, 12, 16)
        >>> scores[:, 15, :, 8:] = 4.0
        >>> upsample_argmax(scores, vgg, (375, 500))[0, 100, [0, 255, 256, 499]].tolist()
        [0, 15, 15, 15]
    """
    _check(scores, size)
    if band_bytes is None:
        # every band costs a few dozen launches on an accelerator, which has no cache of this size to stay in
        band_bytes = BAND_BYTES if scores.device.type == "cpu" else 16 * BAND_BYTES
    classes, (height, width) = scores.shape[1], size
    with torch.no_grad():
        scores = _finite(scores.detach())
        rows = _Blocks.of(source, 0, scores.shape[2], origin[0], height)
        columns = _Blocks.of(source, 1, scores.shape[3], origin[1], width)
        labels = scores.new_empty((len(scores), height, width), dtype=_label_type(classes))
        compiled = kernels.label_blocks() if _to_compile(scores, size, route) else None
        _label(scores, rows, columns, labels, band_bytes, compiled)
    return labels


def scaled_argmax(scores: Tensor, source: Geometry, seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Find the best class at every pixel of an image that the network saw at another size.

    Scores are interpolated at the pixels that the network saw, and these logits at the image's own. Two bilinear
    interpolations in a row are none, but along each axis they are one product, in which a pixel takes four cells at
    most; so the logits of the image seen are never made, and those of its own size in bands that stay in the cache.

    Args:
        scores: (N, K, h, w) floating scores on the grid of `source`.
        source: where the scores lie on the image seen.
        seen: height and width of the image that the network saw.
        size: the image's own height and width.

    Returns:
        (N, H, W) labels, as `upsample_argmax` gives them.

    Raises:
        ValueError: as `upsample_argmax` does.

    Example:
        >>> scores = torch.zeros(1, 2, 4, 4)
        >>> scores[:, 1, :, 2:] = 1.0
        >>> stride8 = Geometry((8, 8), (3.5, 3.5), (1, 1))
        >>> scaled_argmax(scores, stride8, (32, 32), (8, 8))[0, 0].tolist()
        [0, 0, 0, 1, 1, 1, 1, 1]
    """
    _check(scores, size)
    with torch.no_grad():
        scores = _finite(scores.detach())
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        n, classes, height, width = scores.shape
        rows, columns = (
            _twice(source, axis, cells, seen[axis], size[axis]) for axis, cells in ((0, height), (1, width))
        )
        labels = scores.new_empty((n, *size), dtype=_label_type(classes))
        bytes_at_once = SCALED_BYTES if scores.device.type == "cpu" else 16 * BAND_BYTES
        step = max(_SCALED_ROWS, bytes_at_once // (4 * classes * size[1]))
        bands = [(top, min(top + step, size[0])) for top in range(0, size[0], step)]
        needed = [rows[top:bottom].any(0).nonzero() for top, bottom in bands]
        spans = [(int(cells.min()), int(cells.max()) + 1) for cells in needed]
        rows, columns = (matrix.to(scores.device, scores.dtype) for matrix in (rows, columns))
        with torch.autocast(scores.device.type, enabled=False):
            for one, out in zip(scores, labels, strict=True):
                wide = torch.matmul(one, columns.T).transpose(0, 1).reshape(height, -1)  # rows of all classes
                for (top, bottom), (first, last) in zip(bands, spans, strict=True):
                    logits = torch.matmul(rows[top:bottom, first:last], wide[first:last]).view(-1, classes, size[1])
                    _running_argmax(logits, out[top:bottom])
        return labels


def _twice(source: Geometry, axis: int, cells: int, seen: int, size: int) -> Tensor:
    """Give the weights (size, cells) of interpolating from cells to the pixels seen, and from these to the image."""
    ratio = size / seen  # pixels of the image from one pixel seen to the next
    scaled = Geometry((ratio, ratio), ((ratio - 1) / 2, (ratio - 1) / 2), (1.0, 1.0))
    outer = interpolation_matrix(scaled, Geometry.IDENTITY, axis, seen, size)
    return outer @ interpolation_matrix(source, Geometry.IDENTITY, axis, cells, seen)


def _running_argmax(logits: Tensor, out: Tensor) -> None:
    """Write the best class of (H, K, W) finite logits to (H, W), the lowest on a tie.

    It is faster than `argmax` across rows, which jumps from class to class. All steps are ones of floating numbers,
    because comparisons and choices are not vectorized.
    """
    best = logits[:, 0].contiguous()
    labels, rise, higher = torch.zeros_like(best), torch.empty_like(best), torch.empty_like(best)
    numbers = torch.arange(logits.shape[1], dtype=best.dtype, device=best.device)
    for k in range(1, logits.shape[1]):
        torch.maximum(best, logits[:, k], out=higher)
        torch.sub(higher, best, out=rise).sign_()  # 1 where this class is better, else 0
        labels.lerp_(numbers[k], rise)
        best, higher = higher, best
    out.copy_(labels)


class _Blocks(NamedTuple):
    """The m pixels along one axis, in B blocks of at most R that lie between the same two source cells.

    Pixels beyond the map are blocks of their own, between the outermost cell and itself.
    """

    low: Tensor  # (B,) source cell before
    high: Tensor  # (B,) and behind
    start: Tensor  # (B + 1,) first pixel of each block, and m
    pixel: Tensor  # (B, R) pixels of each block, the last one repeated
    weight: Tensor  # (m,) float64, share of the source cell behind
    block: Tensor  # (m,) block of each pixel

    @classmethod
    def of(cls, source: Geometry, axis: int, n: int, origin: int, m: int) -> _Blocks:
        # on the CPU, because not every accelerator has float64
        stride = source.stride[axis]
        index = torch.arange(m)
        position = ((index + origin).double() - source.center[axis]) / stride
        low = position.floor().clamp(0, n - 1)
        high = (low + 1).clamp(max=n - 1)
        high[position <= 0] = 0
        weight = torch.where(high > low, position - low, 0.0)
        if not weight.any():
            high = low  # every pixel is the center of a cell
        # a change of either cell begins a block; `first` is where the run of equal cells begins
        new = torch.ones(m, dtype=torch.bool)
        new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        first = torch.where(new, index, 0).cummax(0).values
        most = min(max(1, -int(-stride // 1)), _LARGEST_BLOCK)
        begins = (index - first) % most == 0
        start = torch.cat([index[begins], index.new_tensor([m])])
        pixel = torch.minimum(start[:-1, None] + torch.arange(most), start[1:, None] - 1)
        return cls(low[begins].long(), high[begins].long(), start, pixel, weight, begins.cumsum(0) - 1)

    def to(self, device: torch.device) -> _Blocks:
        """Move all but the weights, which are moved in the type that is needed."""
        return _Blocks(*(part if part is self.weight else part.to(device) for part in self))

    def sides(self) -> list[npt.NDArray[Any]]:
        """Give what the compiled loop takes of them."""
        return [part.numpy() for part in (self.low, self.high, self.start, self.weight.float())]

    def part(self, first: int, last: int) -> tuple[_Blocks, int, int]:
        """Cut out blocks first..last - 1; source cells and pixels are counted from the first cell and pixel of those.

        Returns:
            The blocks, and the first source cell and the one behind the last that they need.
        """
        cells = slice(int(self.low[first]), int(self.high[first:last].max()) + 1)
        begin, end = int(self.start[first]), int(self.start[last])
        return (
            _Blocks(
                self.low[first:last] - cells.start,
                self.high[first:last] - cells.start,
                self.start[first : last + 1] - begin,
                self.pixel[first:last] - begin,
                self.weight[begin:end],
                self.block[begin:end] - first,
            ),
            cells.start,
            cells.stop,
        )

    def bands(self, bytes_per_cell: int, bytes_per_pixel: int, budget: int) -> list[tuple[int, int]]:
        """Split the blocks into bands whose source cells and pixels fit a number of bytes; one block at least."""
        bands, first, count = [], 0, len(self.low)
        low, start = self.low.tolist(), self.start.tolist()
        for last in range(1, count + 1):
            cells = low[last] - low[first] + 2 if last < count else 0
            pixels = start[min(last + 1, count)] - start[first]
            if last == count or cells * bytes_per_cell > budget or pixels * bytes_per_pixel > budget:
                bands.append((first, last))
                first = last
        return bands


def _label(
    scores: Tensor,
    rows: _Blocks,
    columns: _Blocks,
    labels: Tensor,
    band_bytes: int,
    compiled: Callable[..., None] | None,
) -> None:
    """Write the labels (N, H, W) of maps (N, K, h, w) band by band; the compiled loop in torch's threads."""
    left, right = int(columns.low.min()), int(columns.high.max()) + 1
    columns = columns._replace(low=columns.low - left, high=columns.high - left)
    there = columns.to(labels.device)
    out: Any = labels if compiled is None else labels.numpy()  # as inference mode does not reach other threads

    def work(image: int, first: int, last: int) -> None:
        band, top, bottom = rows.part(first, last)
        begin = int(rows.start[first])
        # the classes of a cell side by side, which is a view for maps in channels_last
        cells = scores[image, :, top:bottom, left:right].permute(1, 2, 0).contiguous()
        cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
        target = out[image, begin : begin + int(band.start[-1])]
        if compiled is None:
            _label_band(cells.flatten(0, 1), right - left, band.to(labels.device), there, target, band_bytes)
        else:
            compiled(cells.numpy(), *band.sides(), *columns.sides(), target)

    threads = 1 if compiled is None else torch.get_num_threads()
    budget = band_bytes if compiled is None else max(1, band_bytes // (4 * threads))
    bands = rows.bands(4 * scores.shape[1] * (right - left), 4 * labels.shape[2], budget)
    jobs = [(image, first, last) for image in range(len(scores)) for first, last in bands]
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            work(*job)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()


def _label_band(cells: Tensor, w: int, rows: _Blocks, columns: _Blocks, out: Tensor, band_bytes: int) -> None:
    """Write the labels of a band of blocks whose source cells are (h * w, K)."""
    best = cells.max(1).indices
    grid = best.to(out.dtype).view(-1, w)
    if torch.equal(rows.low, rows.high) and torch.equal(columns.low, columns.high):
        # every pixel is a cell, as where a network upsamples by itself
        torch.index_select(grid.index_select(1, columns.low[columns.block]), 0, rows.low[rows.block], out=out)
        return
    upper, lower = grid.index_select(0, rows.low), grid.index_select(0, rows.high)
    corners = [part.index_select(1, side) for part in (upper, lower) for side in (columns.low, columns.high)]
    mixed = (corners[1] != corners[0]) | (corners[2] != corners[0]) | (corners[3] != corners[0])
    torch.index_select(corners[0].index_select(1, columns.block), 0, rows.block, out=out)
    by, bx = mixed.nonzero(as_tuple=True)
    if not len(by):
        return
    height, width, classes = rows.pixel.shape[1], columns.pixel.shape[1], cells.shape[1]
    row_weight, column_weight = (axis.weight.to(cells.device, cells.dtype)[axis.pixel] for axis in (rows, columns))
    # at most a dozen numbers for each class of a block, and eight for each of its pixels
    most = max(1, band_bytes // (4 * (12 * classes + 8 * height * width)))
    flat = out.view(-1)
    for y, x in zip(torch.split(by, most), torch.split(bx, most), strict=True):
        at = [(side_y[y] * w + side_x[x]) for side_y in (rows.low, rows.high) for side_x in (columns.low, columns.high)]
        if height * width == 1:  # nothing is gained by looking at the corners first
            upper, lower = (torch.lerp(cells[a], cells[b], column_weight[x]) for a, b in (at[:2], at[2:]))
            flat[rows.pixel[y, 0] * out.shape[1] + columns.pixel[x, 0]] = (
                torch.lerp(upper, lower, row_weight[y]).argmax(1).to(out.dtype)
            )
            continue
        labels, order = _decide(cells, best, at, row_weight[y], column_weight[x], out.dtype)
        y, x = y[order], x[order]
        where = rows.pixel[y].T[:, None] * out.shape[1] + columns.pixel[x].T[None]
        flat[where.reshape(-1)] = labels.reshape(-1)


def _decide(
    cells: Tensor, best: Tensor, at: list[Tensor], row_weight: Tensor, column_weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Find the best class at every pixel of n blocks whose corners differ.

    Args:
        cells: (cells, K) scores.
        best: (cells,) their best classes.
        at: for each of the four corners the cells (n,): upper left, upper right, lower left, lower right.
        row_weight: (n, R) share of the lower corners in each row of pixels.
        column_weight: (n, R') share of the right corners in each column of pixels.
        dtype: of the labels.

    Returns:
        (R, R', n) labels, the blocks in another order, and that order (n,).
    """
    classes = cells.shape[1]
    corners = [cells.index_select(0, index) for index in at]
    keep = _undominated(corners, [best[index] for index in at])
    count = keep.sum(1)
    # blocks with many candidates first: those that have an i-th one are then the first so and so many
    count, order = count.sort(descending=True)
    block, label = keep.index_select(0, order).nonzero(as_tuple=True)
    place = order[block] * classes + label
    a, b, c, d = (corner.view(-1)[place] for corner in corners)
    del corners, keep
    offset = count.cumsum(0) - count
    having = torch.bincount(count).flip(0).cumsum(0).flip(0)[1:].tolist()  # blocks with at least 1, 2, ... candidates
    fy, fx = row_weight[order].T.contiguous(), column_weight[order].T.contiguous()
    label = label.to(dtype)
    top, labels = _EMPTY, _EMPTY
    for i, n in enumerate(having):
        # blocks lie along the last axis, the long one, for the sake of vector instructions
        index = offset[:n] + i
        left = torch.lerp(a[index], c[index], fy[:, :n])
        slope = torch.lerp(b[index], d[index], fy[:, :n]) - left
        value = torch.addcmul(left[:, None], fx[None, :, :n], slope[:, None])
        if i == 0:
            top, labels = value, label[index].expand(value.shape).clone()
            continue
        better = value > top[..., :n]  # on a tie the lower class stays
        labels[..., :n] = torch.where(better, label[index], labels[..., :n])
        torch.maximum(value, top[..., :n], out=top[..., :n])
    return labels, order


_EMPTY = torch.empty(0)


def _undominated(corners: list[Tensor], winners: list[Tensor]) -> Tensor:
    """Tell (n, K) which classes may win between the four corners, each (n, K), given their winners, each (n,).

    A class that is below a winner in all four corners cannot win; nor can one that is below the mean of the winners,
    because the mean is never above all of them.
    """
    bounds = torch.stack([torch.stack([corner.gather(1, one[:, None]) for one in winners]) for corner in corners])
    bounds = torch.cat([bounds, bounds.mean(1, keepdim=True)], 1)  # (corner, winner, n, 1)
    dominated: Tensor | None = None
    for k in range(bounds.shape[1]):
        below = corners[0] < bounds[0, k]
        for j in (1, 2, 3):
            below &= corners[j] < bounds[j, k]
        dominated = below if dominated is None else dominated.logical_or_(below)
    assert dominated is not None
    keep = dominated.logical_not_()
    # the mean is rounded: whatever it says, the winners of the corners stay
    return keep.scatter_(1, torch.stack(winners, 1), True)


def _label_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 255 else torch.int32


def _to_compile(scores: Tensor, size: tuple[int, int], route: Route) -> bool:
    """Tell whether the compiled loop is wanted and possible."""
    if route not in get_args(Route):
        raise ValueError(f"route={route!r} is not known. Choose 'auto', 'torch' or 'compiled'.")
    possible = scores.device.type == "cpu" and scores.dtype != torch.float64
    if route == "compiled":
        if not possible:
            raise ValueError(
                f"route='compiled' with scores in {scores.dtype} on {scores.device}: it runs on the CPU in float32. "
                "Leave route='auto'."
            )
        if kernels.label_blocks() is None:
            raise ValueError("route='compiled' needs numba: pip install 'fullyconv[fast]', or leave route='auto'.")
        return True
    return route == "auto" and possible and len(scores) * scores.shape[1] * size[0] * size[1] >= _WORTH_COMPILING


def _finite(scores: Tensor) -> Tensor:
    """Refuse NaN, and replace what is infinite by numbers whose differences are still finite."""
    # one pass in place of several: a sum is finite only where every term is
    if bool(scores.sum(dtype=torch.promote_types(scores.dtype, torch.float32)).isfinite()):
        return scores
    if bool(scores.isnan().any()):
        share = float(scores.isnan().any(1).float().mean())
        raise ScoresError(f"scores are NaN in {100 * share:.3g} % of the cells: there is no best class.")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    most = torch.finfo(scores.dtype).max / 4
    return scores.clamp(-most, most)


def _check(scores: Tensor, size: tuple[int, int]) -> None:
    if scores.ndim != 4 or min(scores.shape[1:]) < 1 or not scores.is_floating_point():
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} and type {scores.dtype} must be floating numbers (N, K, h, w) with "
            "at least one class and one cell."
        )
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be a positive height and width.")

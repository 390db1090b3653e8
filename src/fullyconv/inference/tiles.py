"""Images of any size: in one pass where that fits in memory, else in tiles that overlap so far that no seam is left.

A cell of the scores depends on the pixels of its receptive field and on nothing else. A tile is therefore read with
all pixels that the cells of its core depend on, begins at a multiple of every stride in the network, so that its cells
are those of the whole image, and ends at such a multiple or where the image ends. The zeros that the network pads
with at the borders of a tile are then never looked at, except where they are the borders of the image.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fullyconv.errors import tell
from fullyconv.geometry import Geometry
from fullyconv.geometry.dispatch import Watch, WithoutData
from fullyconv.inference.argmax import upsample_argmax
from fullyconv.inference.budget import parse_memory
from fullyconv.inference.options import Halo, Options
from fullyconv.inference.processor import free_memory, sent
from fullyconv.inference.scaling import scaled_size
from fullyconv.inference.windows import Mirrored, Scaled, WindowedImage
from fullyconv.labels import Labels
from fullyconv.upsampling import resample

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, left, bottom, right

BAND_BYTES = 2**26  # of logits at a time: a thousand classes at every pixel of a photograph would take gigabytes

_WORKSPACE = 1.5  # what convolutions take beside their inputs and outputs, measured on oneDNN
_UNMEASURED = 2**20  # pixels of an image that needs no look at the memory
_BYTES: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Head:
    """What has to be known of one head of a network.

    Args:
        labels: of its K classes.
        geometry: where the cells of its scores lie, and what they depend on.
        geometry_for: where the scores of an image of a given size are put, which is `geometry` unless they are
            stretched.
    """

    labels: Labels
    geometry: Geometry
    geometry_for: Callable[[Size], Geometry]


@dataclass(frozen=True)
class Network:
    """What is run on images: a network with all of its heads, in evaluation mode.

    Args:
        module: whose use of memory is measured, once.
        scores: (N, C, H, W) RGB in 0..1 -> for each head its class scores (N, K, h, w).
        heads: by name; one that stands alone is called "".
        align: a multiple of every stride in the network, in pixels.
        least: smallest side served, in pixels.
        in_channels: channels C.
        device: where it computes.
        dtype: floating type that it expects.
        value_range: the numbers that are black and white in images of more than 8 bits.
        short_side: pixels that the shorter side of an image is scaled to before the network looks at it, as it was
            trained; None leaves the image as it is. An image is never enlarged to more than 4096 pixels along its
            longer side, so that a long strip of few pixels stays affordable.
    """

    module: nn.Module
    scores: Callable[[Tensor], Mapping[str, Tensor]]
    heads: Mapping[str, Head]
    align: int
    least: int = 1
    in_channels: int = 3
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    value_range: tuple[float, float] | None = None
    short_side: int | None = None

    @property
    def classes(self) -> int:
        """Number of classes of all heads, whose scores are in memory at once."""
        return sum(head.labels.num_classes for head in self.heads.values())

    def seen(self, size: Size) -> Size:
        """Give the size at which the network looks at an image."""
        return size if self.short_side is None else scaled_size(size, self.short_side)

    def bytes_per_pixel(self) -> float:
        """Estimate the memory that a pixel of the image takes at most while the network runs, without running it."""
        if self.module not in _BYTES:
            side = self.align * max(8, -(-2 * self.least // self.align))
            small, large = _peak(self, side), _peak(self, 2 * side)
            _BYTES[self.module] = (large - small) / (3 * side * side)
        return _BYTES[self.module] * _WORKSPACE


@dataclass(frozen=True)
class Block:
    """The answer for one window of an image.

    Args:
        window: top, left, bottom, right, in pixels.
        mask: (h, w) class indices.
        probabilities: None, (h, w) or (h, w, K) float16, as asked for.
    """

    window: Window
    mask: npt.NDArray[np.unsignedinteger[Any]]
    probabilities: npt.NDArray[np.float16] | None


@dataclass(frozen=True)
class _View:
    """One pass over the image: scaled, mirrored, or as it is."""

    image: WindowedImage
    own: Size  # of the image that is asked about
    mirrored: bool

    def cells(self, window: Window) -> Window:
        """Give the pixels of this view that a window of the image is interpolated from."""
        top, left, bottom, right = self.turned(window)
        (y0, y1), (x0, x1) = self._reads(top, bottom, 0), self._reads(left, right, 1)
        return y0, x0, y1, x1

    def turned(self, window: Window) -> Window:
        top, left, bottom, right = window
        return (top, self.own[1] - right, bottom, self.own[1] - left) if self.mirrored else window

    def grid(self) -> Geometry:
        """Give where the pixels of this view lie on the image: stretched over it, edge to edge."""
        y, x = (own / seen for own, seen in zip(self.own, self.image.size, strict=True))
        return Geometry((y, x), ((y - 1) / 2, (x - 1) / 2), (1.0, 1.0))

    def _reads(self, start: int, stop: int, axis: int) -> tuple[int, int]:
        seen, grid = self.image.size[axis], self.grid()
        stride, center = grid.stride[axis], grid.center[axis]
        first = min(max(math.floor((start - center) / stride), 0), seen - 1)
        last = min(max(math.ceil((stop - 1 - center) / stride), 0), seen - 1)
        return first, last + 1


@dataclass(frozen=True)
class Plan:
    """How an image is cut.

    Args:
        side: height and width of the core of a tile, in pixels.
        tiles: the cores, row by row.
        exact: whether every tile sees all that its scores depend on.
    """

    side: Size
    tiles: tuple[Window, ...]
    exact: bool


def plan(network: Network, size: Size, options: Options) -> Plan:
    """Choose the tiles of an image: the largest whose passes fit in memory, one for all of it if that does.

    Args:
        network: what is run.
        size: height and width of the image, in pixels.
        options: how it is segmented.

    Returns:
        The tiles.

    Raises:
        ValueError: if not even the smallest tile fits.
    """
    looked = network.seen(size)
    if options.memory is None and math.prod(size) <= _UNMEASURED and math.prod(looked) <= _UNMEASURED:
        return Plan(size, ((0, 0, *size),), True)
    ratio = [max(options.scales) * s / n for s, n in zip(looked, size, strict=True)]
    budget = _budget(options.memory, network.device)
    views = len(options.scales) * (1 + options.flip)
    least, most = (_round(n / max(r, 1e-9), network.align) for n, r in ((1, max(ratio)), (max(size), 1.0)))
    fitting = [
        side for side in _sides(least, most) if _cost(network, size, (side, side), ratio, options, views) <= budget
    ]
    if not fitting:
        need = _cost(network, size, (least, least), ratio, options, views)
        raise ValueError(
            f"memory={options.memory!r}: {budget / 1e6:.1f} MB do not hold the smallest tile, which takes "
            f"{need / 1e6:.0f} MB with all that its scores depend on; give more, or a small halo in pixels (halo=64), "
            "with which seams are possible"
        )
    side = max(fitting)
    sides = [_even(n, side, network.align) for n in size]
    tiles = tuple(
        (top, left, min(top + sides[0], size[0]), min(left + sides[1], size[1]))
        for top in range(0, size[0], sides[0])
        for left in range(0, size[1], sides[1])
    )
    exact = len(tiles) == 1 or (options.halo == "exact" and not _sees_all(network))
    return Plan((sides[0], sides[1]), tiles, exact)


def fits(network: Network, size: Size, options: Options, images: int = 1) -> bool:
    """Tell whether images and the logits of all their pixels fit in memory at once.

    Args:
        network: what is run.
        size: height and width of the image, in pixels.
        options: how it is segmented.
        images: how many there are of the size.
    """
    looked = network.seen(size)
    if options.memory is None and images * max(math.prod(size), math.prod(looked)) <= _UNMEASURED:
        return True
    passing = math.prod(looked) * network.bytes_per_pixel()
    logits = 2 * 4 * network.classes * (math.prod(size) + (math.prod(looked) if looked != size else 0))
    return images * (passing + logits) <= _budget(options.memory, network.device)


def blocks(network: Network, image: WindowedImage, options: Options) -> Iterator[dict[str, Block]]:
    """Segment an image tile by tile, for all heads on one backbone: a tile is read and run once.

    The scores of every tile are those of the whole image, unless the network sees all of it at once or the halo is
    chosen smaller, with a warning in both cases.

    Args:
        network: in evaluation mode.
        image: what is segmented.
        options: how.

    Yields:
        For each head the answer for a tile, row by row from the left.
    """
    chosen = plan(network, image.size, options)
    if not chosen.exact:
        tell_of_seams(network, options, len(chosen.tiles))
    views = list(_views(image, options, network.seen(image.size)))
    for tile in chosen.tiles:
        scored: dict[str, list[tuple[_View, Tensor, Geometry]]] = {name: [] for name in network.heads}
        for view in views:
            known: dict[Window, Mapping[str, Tensor]] = {}  # heads on one grid look at the same pixels
            for name, head in network.heads.items():
                window = region(network, head, view.cells(tile), view.image.size, options.halo)
                if window not in known:
                    known[window] = network.scores(image_of(network, view.image, window))
                scored[name].append((view, known[window][name], _placed(head, view, window)))
        yield {name: _answer(head.labels, scored[name], tile, options) for name, head in network.heads.items()}


def bands(found: Iterator[dict[str, Block]], width: int) -> Iterator[dict[str, Block]]:
    """Join the blocks of each row of tiles to bands of the full width, for each head."""
    row: list[dict[str, Block]] = []
    for blocks in found:
        row.append(blocks)
        if next(iter(blocks.values())).window[3] == width:
            yield {head: _band([each[head] for each in row], width) for head in blocks}
            row = []


def _band(row: Sequence[Block], width: int) -> Block:
    top, _, bottom, _ = row[0].window
    probabilities = [part.probabilities for part in row if part.probabilities is not None]
    return Block(
        (top, 0, bottom, width),
        np.concatenate([part.mask for part in row], 1),
        np.concatenate(probabilities, 1) if probabilities else None,
    )


def assemble(
    found: Iterator[dict[str, Block]], size: Size
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.float16] | None]]:
    """Put blocks together.

    Returns:
        For each head the mask (H, W), and the probabilities where they were asked for.
    """
    whole: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.float16] | None]] = {}
    for blocks in found:
        for head, block in blocks.items():
            if head not in whole:
                kept = block.probabilities
                empty = None if kept is None else np.empty((*size, *kept.shape[2:]), np.float16)
                whole[head] = np.empty(size, block.mask.dtype), empty
            mask, probabilities = whole[head]
            top, left, bottom, right = block.window
            mask[top:bottom, left:right] = block.mask
            if probabilities is not None:
                probabilities[top:bottom, left:right] = block.probabilities
    return whole


def region(network: Network, head: Head, window: Window, size: Size, halo: Halo = "exact") -> Window:
    """Give the pixels that the network has to see so that the logits of a window are those of the whole image.

    Args:
        network: what is run.
        head: whose logits.
        window: of the image, in pixels.
        size: height and width of the image, in pixels.
        halo: "exact", or the pixels around the cells that are seen.

    Returns:
        The window to read; it begins at a multiple of all strides and lies in the image.
    """
    put, own, align = head.geometry_for(size), head.geometry, network.align
    sides = []
    for axis in (0, 1):
        n, (start, stop) = size[axis], (window[axis], window[axis + 2])
        first = max(0, math.floor((start - put.center[axis]) / put.stride[axis]))
        last = max(first, math.ceil((stop - 1 - put.center[axis]) / put.stride[axis]))
        if halo == "exact":
            # Upsampling inside the network may reach further than the receptive field says, by less than one cell.
            low = own.first[axis] + own.stride[axis] * first - align
            high = own.last[axis] + own.stride[axis] * last + align
        else:
            low = min(start, own.center[axis] + own.stride[axis] * first) - halo
            high = max(stop - 1, own.center[axis] + own.stride[axis] * last) + halo
        end = min(n, -(-math.floor(high + 1) // align) * align)
        if end == n:  # the last cell may lie before the window, and has to be among those of the tile
            low = min(low, n - network.least - align)
        sides.append((max(0, math.floor(low) // align * align), end))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def image_of(network: Network, photo: WindowedImage, window: Window) -> Tensor:
    """Read a window as the network takes it, (1, C, h, w)."""
    pixels = photo.read(*window)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    return sent(image, network.device).float().div_(255).to(network.dtype)


def _placed(head: Head, view: _View, window: Window) -> Geometry:
    """Say where the scores of a window that was read lie on the view."""
    put, own = head.geometry_for(view.image.size), head.geometry
    # The tile begins at a multiple of the strides, so that its first cell is a cell of the whole.
    y, x = round(window[0] / own.stride[0]), round(window[1] / own.stride[1])
    return replace(put, center=(put.center[0] + put.stride[0] * y, put.center[1] + put.stride[1] * x))


def _logits(view: _View, scores: Tensor, geometry: Geometry, window: Window) -> Tensor:
    """Interpolate scores at the pixels of a window of the image, (1, K, h, w)."""
    top, left, bottom, right = view.turned(window)
    size = (bottom - top, right - left)
    if view.image.size == view.own:
        logits = resample(scores, geometry, _pixels(top, left), size)
    else:
        y0, x0, y1, x1 = view.cells(window)
        seen = resample(scores, geometry, _pixels(y0, x0), (y1 - y0, x1 - x0))
        grid = view.grid()
        (sy, sx), (cy, cx) = grid.stride, grid.center
        logits = resample(seen, replace(grid, center=(cy + sy * y0, cx + sx * x0)), _pixels(top, left), size)
    return logits.flip(-1) if view.mirrored else logits


def _answer(known: Labels, scored: Sequence[tuple[_View, Tensor, Geometry]], tile: Window, options: Options) -> Block:
    top, left, bottom, right = tile
    classes, mask = known.num_classes, np.empty((bottom - top, right - left), known.dtype)
    kept: npt.NDArray[np.float16] | None = None
    if options.probabilities is not None:
        kept = np.empty((*mask.shape, *([classes] if options.probabilities == "all" else [])), np.float16)
    rows = max(1, BAND_BYTES // (4 * classes * (right - left)))
    for start in range(top, bottom, rows):
        stop = min(bottom, start + rows)
        window = (start, left, stop, right)
        inside = slice(start - top, stop - top)
        view, scores, geometry = scored[0]
        if options.plain:
            if view.image.size == view.own:
                labels = upsample_argmax(scores, geometry, (stop - start, right - left), origin=(start, left))[0]
            else:
                labels = _logits(view, scores, geometry, window).max(1).indices[0]
            mask[inside] = labels.cpu().numpy()
            continue
        mean = sum(_logits(*one, window).float().softmax(1) for one in scored) / len(scored)
        assert isinstance(mean, Tensor)
        best, labels = mean[0].max(0)
        mask[inside] = labels.cpu().numpy()
        if kept is not None:
            values = mean[0].permute(1, 2, 0) if options.probabilities == "all" else best
            kept[inside] = values.half().cpu().numpy()
    return Block(tile, mask, kept)


def _pixels(top: int, left: int) -> Geometry:
    return Geometry((1.0, 1.0), (float(top), float(left)), (1.0, 1.0))


def _views(image: WindowedImage, options: Options, seen: Size) -> Iterator[_View]:
    own = image.size
    for scale in options.scales:
        size = (max(1, round(seen[0] * scale)), max(1, round(seen[1] * scale)))
        looked = image if size == own else Scaled(image, size)
        yield _View(looked, own, False)
        if options.flip:
            yield _View(Mirrored(looked), own, True)


def tell_of_seams(network: Network, options: Options, tiles: int) -> None:
    """Say why the scores of tiles may differ from those of one pass."""
    if _sees_all(network):
        tell(
            f"the image is segmented in {tiles} tiles, and a part of this network (pooling or attention over the "
            "whole image) sees each tile alone: scores differ from those of one pass, and seams are possible. More "
            "memory makes the tiles larger"
        )
    elif options.halo != "exact":
        reach = max(max(head.geometry.receptive_field) for head in network.heads.values())
        tell(
            f"the image is segmented in {tiles} tiles with a halo of {options.halo} pixels, less than the scores "
            f"depend on ({reach:.0f} pixels around): seams are possible"
        )


def _sees_all(network: Network) -> bool:
    return any(head.geometry.global_context for head in network.heads.values())


def _reach(own: Geometry, align: int, halo: Halo) -> float:
    """Give the most pixels that a tile is read with on either side of its core."""
    if halo != "exact":
        return halo + max(own.stride) + align
    return max(*own.last, *(-first for first in own.first)) + max(own.stride) + 2 * align


def _cost(network: Network, size: Size, side: Size, ratio: Sequence[float], options: Options, views: int) -> float:
    """Estimate the bytes of a tile: its largest pass, the scores of all views, and the logits of a band."""
    grids = [head.geometry for head in network.heads.values()]
    reach = max(_reach(grid, network.align, options.halo) for grid in grids)
    pixels = 1.0
    for n, s, r in zip(size, side, ratio, strict=True):
        pixels *= max(network.least, min(s * r + 2 * reach, n * r))
    cells = pixels / min(math.prod(grid.stride) for grid in grids)
    scores = views * cells * 4 * network.classes
    core = min(side[0], size[0]) * min(side[1], size[1])
    logits = min(4 * network.classes * core, BAND_BYTES) * (2 if options.plain else 4)
    kept = 2 * core * (network.classes if options.probabilities == "all" else bool(options.probabilities))
    return pixels * network.bytes_per_pixel() + scores + logits + kept


def _budget(memory: int | str | None, device: torch.device) -> int:
    return free_memory(device) // 2 if memory is None else parse_memory(memory)


def _round(pixels: float, align: int) -> int:
    return max(1, math.ceil(pixels / align)) * align


def _sides(least: int, most: int) -> Iterator[int]:
    """Give the sides to choose from, each an eighth larger than the one before, in multiples of the smallest."""
    side = least
    while side < most:
        yield side
        side += max(1, side // 8 // least) * least
    yield max(most, least)


def _even(n: int, side: int, align: int) -> int:
    """Give a side not above the one that fits with which all tiles are about as large."""
    if side >= n:
        return n
    return min(side, _round(n / math.ceil(n / side), align))


def _peak(network: Network, side: int) -> int:
    """Add up the bytes that are alive at once while the network runs on an image of that side, without data."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        WithoutData(),
        _Memory() as memory,
    ):
        image = torch.empty(1, network.in_channels, side, side, dtype=network.dtype, device=network.device)
        network.scores(image)
        return int(memory.most)


class _Memory(Watch):  # type: ignore[no-untyped-call]
    """Add up the storages of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._users: dict[int, int] = {}  # tensors on a storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key, held = storage._cdata, storage.nbytes()
                if key not in self._users:
                    self._now += held
                    self.most = max(self.most, self._now)
                self._users[key] = self._users.get(key, 0) + 1
                weakref.finalize(leaf, self._release, key, held)
        return out

    def _release(self, key: int, held: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._now -= held

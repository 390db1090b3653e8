"""Images of any size: in one pass where that fits in memory, else in tiles that overlap so far that no seam is left.

A cell of the scores depends on the pixels of its receptive field and on nothing else. A tile is therefore read with
all pixels that the cells of its core depend on, begins at a multiple of every stride in the network, so that its cells
are those of the whole image, and ends at such a multiple or where the image ends. The zeros that the network pads
with at the borders of a tile are then never looked at, except where they are the borders of the image.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fullyconv.errors import tell
from fullyconv.geometry import Geometry
from fullyconv.geometry.dispatch import Watch, WithoutData
from fullyconv.inference.argmax import scaled_argmax, upsample_argmax
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

    def reach(self, halo: Halo) -> float:
        """Give the most pixels that a tile is read with on either side of its core."""
        grids = [head.geometry for head in self.heads.values()]
        stride = max(max(grid.stride) for grid in grids)
        if halo != "exact":
            return halo + stride + self.align
        return max(max(*grid.last, *(-first for first in grid.first)) for grid in grids) + stride + 2 * self.align

    def bytes_per_pixel(self) -> float:
        """Estimate the memory that a pixel of the image takes at most while the network runs, without running it."""
        if self.module not in _BYTES:
            side = self.align * max(8, -(-2 * self.least // self.align))
            small, large = _peak(self, side), _peak(self, 2 * side)
            _BYTES[self.module] = (large - small) / (3 * side * side)
        return _BYTES[self.module] * _WORKSPACE


@dataclass(frozen=True)
class Block:
    """The answer for one window of N images.

    Args:
        window: top, left, bottom, right, in pixels.
        mask: (N, h, w) class indices.
        probabilities: None, (N, h, w) or (N, h, w, K) float16, as asked for.
    """

    window: Window
    mask: npt.NDArray[np.unsignedinteger[Any]]
    probabilities: npt.NDArray[np.float16] | None


@dataclass(frozen=True)
class View:
    """One pass over images of one size: scaled, mirrored, continued beyond the border, or as they are.

    Args:
        images: what the network looks at.
        own: height and width of the images that are asked about.
        mirrored: whether left and right are exchanged.
        margin: rows and columns by which the images are continued on each side.
    """

    images: Sequence[WindowedImage]
    own: Size
    mirrored: bool = False
    margin: Size = (0, 0)

    @property
    def size(self) -> Size:
        """Height and width of what the network looks at."""
        return self.images[0].size

    @property
    def grid(self) -> Geometry:
        """Where the pixels of this view lie on the image: stretched over it, edge to edge."""
        y, x = (n / (m - 2 * k) for n, m, k in zip(self.own, self.size, self.margin, strict=True))
        center = ((y - 1) / 2 - y * self.margin[0], (x - 1) / 2 - x * self.margin[1])
        return Geometry((y, x), center, (1.0, 1.0))

    def cells(self, window: Window) -> Window:
        """Give the pixels of this view that a window of the image is interpolated from."""
        grid, sides = self.grid, []
        top, left, bottom, right = self.turned(window)
        for axis, (start, stop) in enumerate(((top, bottom), (left, right))):
            seen, stride, center = self.size[axis], grid.stride[axis], grid.center[axis]
            first = min(max(math.floor((start - center) / stride), 0), seen - 1)
            last = min(max(math.ceil((stop - 1 - center) / stride), 0), seen - 1)
            sides.append((first, last + 1))
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]

    def turned(self, window: Window) -> Window:
        """Give a window of the image as it lies on the mirrored one."""
        top, left, bottom, right = window
        return (top, self.own[1] - right, bottom, self.own[1] - left) if self.mirrored else window


class Scored(NamedTuple):
    """The scores of a tile as one view gives them, and where their cells lie on that view."""

    view: View
    scores: Tensor  # (N, K, h, w)
    geometry: Geometry


@dataclass(frozen=True)
class Plan:
    """How an image is cut.

    Args:
        tiles: the cores, row by row.
        exact: whether every tile sees all that its scores depend on.
    """

    tiles: tuple[Window, ...]
    exact: bool


def sizes_seen(network: Network, size: Size, options: Options) -> list[Size]:
    """Give the sizes at which the network looks at an image, one for each scale.

    Args:
        network: what is run.
        size: height and width of the image, in pixels.
        options: how it is segmented.
    """
    height, width = network.seen(size)
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in options.scales]


def plan(network: Network, size: Size, options: Options, seen: Sequence[Size] | None = None) -> Plan:
    """Choose the tiles of an image: of those whose passes fit in memory the ones with which least is read in all.

    Args:
        network: what is run.
        size: height and width of the image, in pixels.
        options: how it is segmented.
        seen: the sizes at which the network looks at it; None says `sizes_seen`.

    Returns:
        The tiles.

    Raises:
        ValueError: if not even the smallest tile fits.
    """
    seen = seen or sizes_seen(network, size, options)
    if fits(network, size, options, seen):
        return Plan(((0, 0, *size),), True)
    budget = _budget(options.memory, network.device)
    ratio = max(looked[axis] / size[axis] for looked in seen for axis in (0, 1))
    least = _round(1 / ratio, network.align)
    heights, widths = (_sides(n, least, network.align) for n in size)
    sides = list(itertools.product(heights, widths))
    fitting = [side for side in sides if _cost(network, size, side, seen, options) <= budget]
    if not fitting:
        need = _cost(network, size, sides[0], seen, options)
        raise ValueError(
            f"memory={options.memory!r}: {budget / 1e6:.1f} MB do not hold the smallest tile, which takes "
            f"{need / 1e6:.0f} MB with all that its scores depend on; give more, or a small halo in pixels (halo=64), "
            "with which seams are possible"
        )

    def read(side: Size) -> float:
        count = math.prod(math.ceil(n / core) for n, core in zip(size, side, strict=True))
        return count * _read(network, size, side, seen, options)

    height, width = min(fitting, key=read)
    tiles = tuple(
        (top, left, min(top + height, size[0]), min(left + width, size[1]))
        for top in range(0, size[0], height)
        for left in range(0, size[1], width)
    )
    return Plan(tiles, len(tiles) == 1 or (options.halo == "exact" and not _sees_all(network)))


def fits(network: Network, size: Size, options: Options, seen: Sequence[Size], images: int = 1) -> bool:
    """Tell whether memory holds a pass over whole images.

    Args:
        network: what is run.
        size: height and width of the images, in pixels.
        options: how they are segmented.
        seen: the sizes at which the network looks at them.
        images: how many are in a pass.
    """
    if options.memory is None and images * max(map(math.prod, (size, *seen))) <= _UNMEASURED:
        return True
    return images * _cost(network, size, size, seen, options) <= _budget(options.memory, network.device)


def blocks(network: Network, images: Sequence[WindowedImage], options: Options) -> Iterator[dict[str, Block]]:
    """Segment images of one size tile by tile, for all heads on one backbone: a tile is read and run once.

    The scores of every tile are those of the whole image, unless the network sees all of it at once or the halo is
    chosen smaller, with a warning in both cases.

    Args:
        network: in evaluation mode.
        images: what is segmented.
        options: how.

    Yields:
        For each head the answer for a tile, row by row from the left.
    """
    own = images[0].size
    seen = sizes_seen(network, own, options)
    chosen = plan(network, own, options, seen)
    views = []
    for size in seen:
        looked = images if size == own else [Scaled(image, size) for image in images]
        views.append(View(looked, own))
        if options.flip:
            views.append(View([Mirrored(image) for image in looked], own, mirrored=True))
    for tile, scored in scored_tiles(network, views, chosen, options):
        yield {name: _answer(head.labels, scored[name], tile, options) for name, head in network.heads.items()}


def scored_tiles(
    network: Network, views: Sequence[View], chosen: Plan, options: Options
) -> Iterator[tuple[Window, dict[str, list[Scored]]]]:
    """Run the network on every tile of images.

    Args:
        network: in evaluation mode.
        views: the passes over the images.
        chosen: the tiles.
        options: how the images are segmented.

    Yields:
        A tile, and for each head what every view gives.
    """
    if not chosen.exact:
        _tell_of_seams(network, options, len(chosen.tiles))
    for tile in chosen.tiles:
        scored: dict[str, list[Scored]] = {name: [] for name in network.heads}
        for view in views:
            known: dict[Window, Mapping[str, Tensor]] = {}  # heads on one grid look at the same pixels
            for name, head in network.heads.items():
                window = (0, 0, *view.size)
                if len(chosen.tiles) > 1:
                    window = region(network, head, view.cells(tile), view.size, options.halo)
                if window not in known:
                    known[window] = network.scores(_tensor_of(network, view, window))
                scored[name].append(Scored(view, known[window][name], _placed(head, view, window)))
        yield tile, scored


def bands(found: Iterator[dict[str, Block]], width: int) -> Iterator[dict[str, Block]]:
    """Join the blocks of each row of tiles to bands of the full width, for each head."""
    row: list[dict[str, Block]] = []
    for blocks in found:
        row.append(blocks)
        if next(iter(blocks.values())).window[3] == width:
            yield joined(row, 2)
            row = []


def joined(parts: Sequence[dict[str, Block]], axis: int) -> dict[str, Block]:
    """Join blocks that lie beside each other (axis 2) or below each other (axis 1), for each head."""
    if len(parts) == 1:
        return parts[0]
    whole = {}
    for head in parts[0]:
        row = [part[head] for part in parts]
        kept = [block.probabilities for block in row if block.probabilities is not None]
        mask = np.concatenate([block.mask for block in row], axis)
        window = (*row[0].window[:2], *row[-1].window[2:])
        whole[head] = Block(window, mask, np.concatenate(kept, axis) if kept else None)
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


def _tensor_of(network: Network, view: View, window: Window) -> Tensor:
    """Read a window as the network takes it, (N, C, h, w)."""
    pixels = np.stack([image.read(*window) for image in view.images]).transpose(0, 3, 1, 2)
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    return sent(image, network.device).float().div_(255).to(network.dtype)


def _placed(head: Head, view: View, window: Window) -> Geometry:
    """Say where the scores of a window that was read lie on the view."""
    put, own = head.geometry_for(view.size), head.geometry
    # The tile begins at a multiple of the strides, so that its first cell is a cell of the whole.
    y, x = round(window[0] / own.stride[0]), round(window[1] / own.stride[1])
    return replace(put, center=(put.center[0] + put.stride[0] * y, put.center[1] + put.stride[1] * x))


def pixels_of(window: Window) -> tuple[Geometry, Size]:
    """Say where the pixels of a window lie, and how many there are along each axis."""
    top, left, bottom, right = window
    return Geometry((1.0, 1.0), (float(top), float(left)), (1.0, 1.0)), (bottom - top, right - left)


def rows_of(tile: Window, classes: int) -> Iterator[Window]:
    """Cut a tile into bands of rows whose logits are few enough to be worked on at a time."""
    top, left, bottom, right = tile
    rows = max(1, BAND_BYTES // (4 * classes * (right - left)))
    for start in range(top, bottom, rows):
        yield start, left, min(bottom, start + rows), right


def _seen(scored: Scored, window: Window) -> tuple[Tensor, Geometry]:
    """Interpolate scores at the pixels that the network saw of a window, and say where these lie on the image.

    Where it saw the image at another size, these pixels are interpolated again: two bilinear interpolations in a row
    are none.
    """
    view, scores, geometry = scored
    if view.size == view.own:
        return scores, geometry
    cells = view.cells(window)
    (sy, sx), (cy, cx) = view.grid.stride, view.grid.center
    return resample(scores, geometry, *pixels_of(cells)), replace(
        view.grid, center=(cy + sy * cells[0], cx + sx * cells[1])
    )


def _best(scored: Scored, tile: Window, classes: int) -> Tensor:
    """Find the best class at the pixels of a tile, (N, h, w)."""
    view, scores, geometry = scored
    if view.size != view.own and tile == (0, 0, *view.own) and math.prod(view.own) <= math.prod(view.size):
        return scaled_argmax(scores, geometry, view.size, view.own)  # both interpolations are one product
    found = []
    for window in [tile] if view.size == view.own else rows_of(tile, classes):
        _, size = pixels_of(window)
        found.append(upsample_argmax(*_seen(scored, window), size, origin=window[:2]))
    return torch.cat(found, 1)


def _answer(known: Labels, scored: Sequence[Scored], tile: Window, options: Options) -> Block:
    """Say for one head which class is the best at each pixel of a tile, and how probable it is."""
    classes = known.num_classes
    if options.plain:
        return Block(tile, _best(scored[0], tile, classes).cpu().numpy(), None)
    masks, kept = [], []
    for window in rows_of(tile, classes):
        mean = sum(_probabilities(one, window) for one in scored) / len(scored)
        assert isinstance(mean, Tensor)
        best, labels = mean.max(1)
        masks.append(labels.cpu().numpy().astype(known.dtype))
        if options.probabilities is not None:
            values = mean.permute(0, 2, 3, 1) if options.probabilities == "all" else best
            kept.append(values.half().cpu().numpy())
    return Block(tile, np.concatenate(masks, 1), np.concatenate(kept, 1) if kept else None)


def _probabilities(scored: Scored, window: Window) -> Tensor:
    """Give the probability of each class at the pixels of a window, (N, K, h, w)."""
    logits = resample(*_seen(scored, window), *pixels_of(scored.view.turned(window)))
    shares = logits.float().softmax(1)
    return shares.flip(-1) if scored.view.mirrored else shares


def _tell_of_seams(network: Network, options: Options, tiles: int) -> None:
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


def _read(network: Network, size: Size, side: Size, seen: Sequence[Size], options: Options) -> float:
    """Estimate the pixels of the largest pass over a tile, with what is read around its core."""
    pixels = 1.0
    for axis, (n, core) in enumerate(zip(size, side, strict=True)):
        most = max(looked[axis] for looked in seen)
        pixels *= max(network.least, min(core * most / n + 2 * network.reach(options.halo), most))
    return pixels


def _cost(network: Network, size: Size, side: Size, seen: Sequence[Size], options: Options) -> float:
    """Estimate the bytes of a tile: its largest pass, the scores of all views, some logits, and what its row gives."""
    pixels = _read(network, size, side, seen, options)
    cells = pixels / min(math.prod(head.geometry.stride) for head in network.heads.values())
    scores = len(seen) * (1 + options.flip) * cells * 4 * network.classes
    logits = min(4 * network.classes * math.prod(side), BAND_BYTES) * (2 if options.plain else 4)
    kept = network.classes if options.probabilities == "all" else bool(options.probabilities)
    row = side[0] * size[1] * 2 * (len(network.heads) + kept)  # is written when all of its tiles are done
    return pixels * network.bytes_per_pixel() + scores + logits + row


def _budget(memory: int | str | None, device: torch.device) -> int:
    return free_memory(device) // 2 if memory is None else parse_memory(memory)


def _round(pixels: float, align: int) -> int:
    return max(1, math.ceil(pixels / align)) * align


def _sides(n: int, least: int, align: int) -> list[int]:
    """Give the sides to choose from for n pixels, with which all tiles are about as large, in multiples of `align`."""
    found, side = [], least
    while side < n:
        found.append(_round(n / math.ceil(n / side), align))
        side += max(1, side // 8 // least) * least
    return [*dict.fromkeys(found), n]


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

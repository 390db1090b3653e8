"""Images of any size: in one pass where that fits in memory, else in tiles that overlap so far that no seam is left.

A cell of the scores depends on the pixels of its receptive field and on nothing else. A tile is therefore read with
all pixels that the cells of its core depend on, begins at a multiple of every stride in the network, so that its cells
are those of the whole image, and ends at such a multiple or where the image ends. The zeros that the network pads
with at the borders of a tile are then never looked at, except where they are the borders of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.errors import tell
from fullyconv.geometry import Geometry
from fullyconv.images.raster import Raster
from fullyconv.inference.argmax import scaled_argmax, upsample_argmax
from fullyconv.inference.network import Head, Network, Size, Window
from fullyconv.inference.options import Options
from fullyconv.inference.processor import sent
from fullyconv.inference.tiling import BAND_BYTES, Plan, plan, region, sizes_seen
from fullyconv.inference.windows import Mirrored, Scaled, WindowedImage
from fullyconv.labels import Labels
from fullyconv.upsampling import resample


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
        looked = images if size == own else [_scaled(image, size, len(chosen.tiles) == 1) for image in images]
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


def _scaled(image: WindowedImage, size: Size, whole: bool) -> WindowedImage:
    """Give an image at another size; in memory and in one pass it is torchvision's, bit by bit."""
    if not whole or not isinstance(image, Raster):
        return Scaled(image, size)
    # on the CPU, because not every accelerator has the antialiased filter; rounded, as torchvision scales bytes
    pixels = torch.from_numpy(np.ascontiguousarray(image.pixels.transpose(2, 0, 1)))[None].float()
    scaled = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True).round()
    return Raster(scaled[0].permute(1, 2, 0).to(torch.uint8).numpy())


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
    if network.sees_all:
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

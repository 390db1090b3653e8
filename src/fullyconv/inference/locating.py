"""Where on an image a classifier sees a class: the share of one class at every cell, brought to every pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fullyconv.geometry import Geometry
from fullyconv.images.raster import Raster
from fullyconv.inference.options import Options
from fullyconv.inference.tiles import Network, Size, image_of, plan, region, tell_of_seams
from fullyconv.inference.windows import Continued, Mirrored, Scaled, WindowedImage
from fullyconv.upsampling import interpolation_matrix

_BAND = 2**22  # pixels that are interpolated at a time

Shares = npt.NDArray[np.float32]


def shares_of_class(
    network: Network,
    pixels: npt.NDArray[np.uint8],
    index: int,
    sizes: Sequence[Size],
    *,
    flip: bool = False,
    memory: int | str | None = None,
) -> Shares:
    """Give the softmax probability of one class at every pixel, the mean over several looks at the image.

    No more than one class is ever brought to the size of the image. Shares are interpolated between the centers of the
    cells. Where the cells are windows, whose first center lies half a window from the border, the image is continued by
    its outermost rows and columns, so that every pixel has its window.

    Args:
        network: what scores cells, by one head; in evaluation mode.
        pixels: (H, W, C) uint8.
        index: of the class.
        sizes: heights and widths that the image is looked at.
        flip: look at the mirrored image, too.
        memory: bytes, or a word such as "2GB", that a pass may take; None is half of what is free.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        ValueError: if the memory does not hold the smallest tile, or the scores are NaN.
    """
    (head,) = network.heads.values()
    own, at = (pixels.shape[0], pixels.shape[1]), head.geometry
    margin = (
        max(0, math.floor(at.center[0] / network.align)) * network.align,
        max(0, math.floor(at.center[1] / network.align)) * network.align,
    )
    values = np.zeros(own, np.float32)
    for size, mirrored in itertools.product(sizes, (False, True) if flip else (False,)):
        image: WindowedImage = Raster(pixels)
        if size != own:
            image = Scaled(image, size)
        if mirrored:
            image = Mirrored(image)
        if any(margin):
            image = Continued(image, margin)
        cells = _cells(network, image, index, Options(memory))
        if not np.isfinite(cells).all():
            raise ValueError("the scores of the classifier are NaN or infinite: there is nothing to be seen")
        cells /= len(sizes) * (1 + flip)
        grid = _scaled(at, margin, size, own)
        rows, columns = (_weights(grid, axis, cells.shape[axis], own[axis]) for axis in (0, 1))
        if mirrored:
            columns = columns[::-1]
        step = max(1, _BAND // own[1])
        for top in range(0, own[0], step):
            values[top : top + step] += (rows[top : top + step] @ cells) @ columns.T
    return values


def _cells(network: Network, image: WindowedImage, index: int, options: Options) -> Shares:
    """Give the probability of one class at every cell of an image, (h, w), tile by tile."""
    chosen = plan(network, image.size, options)
    if not chosen.exact:
        tell_of_seams(network, options, len(chosen.tiles))
    ((name, head),) = network.heads.items()
    grid: list[list[Shares]] = []
    for tile in chosen.tiles:
        window = region(network, head, tile, image.size)
        scores = network.scores(image_of(network, image, window))[name]
        share = scores.float().softmax(1)[0, index].cpu().numpy()
        rows, columns = (_owned(head.geometry, tile, window, axis, image.size) for axis in (0, 1))
        if tile[1] == 0:
            grid.append([])
        grid[-1].append(share[rows, columns])
    return np.concatenate([np.concatenate(row, 1) for row in grid])


def _owned(geometry: Geometry, tile: Sequence[int], window: Sequence[int], axis: int, size: Size) -> slice:
    """Give the cells of a window that was read whose centers lie on its tile; what is beyond goes with the last one."""
    stride, center = geometry.stride[axis], geometry.center[axis]
    skipped = round(window[axis] / stride)  # a window begins at a multiple of the strides
    start, stop = tile[axis], tile[axis + 2]
    first = 0 if start == 0 else max(0, math.ceil((start - center) / stride)) - skipped
    last = None if stop == size[axis] else max(0, math.ceil((stop - center) / stride)) - skipped
    return slice(first, last)


def _scaled(geometry: Geometry, margin: Size, seen: Size, own: Size) -> Geometry:
    """Say where cells lie on an image of size `own` that was looked at scaled, edge to edge, and with a margin."""
    y, x = (n / m for n, m in zip(own, seen, strict=True))
    (sy, sx), (cy, cx) = geometry.stride, geometry.center
    center = ((cy - margin[0] + 0.5) * y - 0.5, (cx - margin[1] + 0.5) * x - 0.5)
    return replace(geometry, stride=(sy * y, sx * x), center=center)


def _weights(grid: Geometry, axis: int, cells: int, wanted: int) -> Shares:
    weights: Shares = interpolation_matrix(grid, Geometry.IDENTITY, axis, cells, wanted).float().numpy()
    return weights

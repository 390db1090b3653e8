"""Where on an image a classifier sees a class: the share of one class at every cell, brought to every pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fullyconv.errors import ScoresError
from fullyconv.images.raster import Raster
from fullyconv.inference.network import Network, Size, Window
from fullyconv.inference.options import Options
from fullyconv.inference.tiles import Scored, View, pixels_of, rows_of, scored_tiles
from fullyconv.inference.tiling import plan
from fullyconv.inference.windows import Continued, Mirrored, Scaled, WindowedImage
from fullyconv.upsampling import resample

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
        ValueError: if the memory does not hold the smallest tile.
        ScoresError: if the scores are NaN or infinite.
    """
    ((name, head),) = network.heads.items()
    own, options = (pixels.shape[0], pixels.shape[1]), Options(memory, flip=flip)
    y, x = (max(0, math.floor(center / network.align)) * network.align for center in head.geometry.center)
    views = []
    for size, mirrored in itertools.product(sizes, (False, True) if flip else (False,)):
        image: WindowedImage = Raster(pixels)
        if size != own:
            image = Scaled(image, size)
        if mirrored:
            image = Mirrored(image)
        views.append(View([Continued(image, (y, x))], own, mirrored, (y, x)))
    values = np.empty(own, np.float32)
    chosen = plan(network, own, options, sorted({view.size for view in views}))
    for tile, scored in scored_tiles(network, views, chosen, options):
        for band in rows_of(tile, 1):
            top, left, bottom, right = band
            total = sum((_share(one, index, band) for one in scored[name]), torch.zeros(()))
            values[top:bottom, left:right] = (total / len(views)).cpu().numpy()
    if not np.isfinite(values).all():
        raise ScoresError("the scores of the classifier are NaN or infinite: there is nothing to be seen")
    return values


def _share(scored: Scored, index: int, window: Window) -> Tensor:
    """Give the probability of one class at the pixels of a window, (h, w), from the cells that one view has of it."""
    view, scores, cells = scored
    grid = view.grid
    (sy, sx), (cy, cx) = grid.stride, grid.center
    stride = (sy * cells.stride[0], sx * cells.stride[1])
    center = (cy + sy * cells.center[0], cx + sx * cells.center[1])
    share = scores.float().softmax(1)[:, index : index + 1]
    found = resample(share, replace(cells, stride=stride, center=center), *pixels_of(view.turned(window)))[0, 0]
    return found.flip(-1) if view.mirrored else found

"""How an image is cut into tiles: what a tile is read with, and which tiles fit in memory and read the least in all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fullyconv.inference.budget import parse_memory
from fullyconv.inference.network import Head, Network, Size, Window
from fullyconv.inference.options import Halo, Options
from fullyconv.inference.processor import free_memory

BAND_BYTES = 2**26  # of logits at a time: a thousand classes at every pixel of a photograph would take gigabytes

_UNMEASURED = 2**20  # pixels of an image that needs no look at the memory


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
    return Plan(tiles, len(tiles) == 1 or (options.halo == "exact" and not network.sees_all))


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

"""What is run on images: a network with all of its heads, what its scores depend on, and what it takes of memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fullyconv.geometry import Geometry
from fullyconv.geometry.dispatch import Watch, WithoutData
from fullyconv.inference.options import Halo
from fullyconv.inference.scaling import scaled_size
from fullyconv.labels import Labels

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, left, bottom, right

_WORKSPACE = 1.5  # what convolutions take beside their inputs and outputs, measured on oneDNN
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
    def sees_all(self) -> bool:
        """Whether a part of it (pooling or attention over the whole image) sees all of an image at once."""
        return any(head.geometry.global_context for head in self.heads.values())

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

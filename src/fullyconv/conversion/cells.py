"""What is known of a tensor of the head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fullyconv.conversion.without_data import BATCH
from fullyconv.geometry import Pair


@dataclass(frozen=True, eq=False)
class Cells:
    """Know a tensor of the head as entries of the windows of a dense map.

    Args:
        name: result of the step that computes the dense map (N, C, H, W).
        channels: C.
        window: cells of the map that one score still looks at; (1, 1) once they are pooled or convolved away.
        layout: int64, shape of the classifier's own tensor: n * C * h * w + the entry's place in the (C, h, w) window.
        opened: true once the windows became a batch, until the next fully connected layer.
        linear: whether the pooling, and everything since, is linear; None before a pooling.
        rows: result of a step that already has the windows as a batch, in exactly this layout.
    """

    name: str
    channels: int
    window: Pair
    layout: Tensor
    opened: bool = False
    linear: bool | None = None
    rows: str | None = None

    @property
    def entries(self) -> int:
        """Number of entries of one window."""
        return self.channels * self.window[0] * self.window[1]

    @property
    def batch_axis(self) -> int | None:
        """Find the axis along which the windows differ; None where the windows are mixed."""
        for axis, length in enumerate(self.layout.shape):
            if length == BATCH:
                first = self.layout.select(axis, 0)
                if all(torch.equal(self.layout.select(axis, n), first + n * self.entries) for n in range(1, BATCH)):
                    return axis
        return None

    def index(self) -> Tensor:
        """List the entries of a window in the order in which the classifier's own tensor holds them."""
        axis = self.batch_axis
        assert axis is not None
        return self.layout.select(axis, 0).flatten()

    def in_order(self) -> bool:
        """Tell whether the classifier's own tensor holds all entries in the order (C, h, w)."""
        return torch.equal(self.index(), torch.arange(self.entries))

    def alike(self, other: Cells) -> bool:
        """Tell whether the entries of two tensors stand in the same places."""
        same = (self.window, self.channels) == (other.window, other.channels)
        return same and torch.equal(self.layout, other.layout)

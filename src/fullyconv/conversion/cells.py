"""What is known of a tensor of the head, and what was decided about the head."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fullyconv.conversion.linear import Kernel
from fullyconv.conversion.program import Step
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


@dataclass
class HeadPlan:
    """What the walk decided.

    Args:
        trunk: the backbone.
        maps: names of the results that the head begins with.
        steps: the dense head.
        result: name of the scores (N, K, Ho, Wo).
        kernels: path of each fully connected layer and how its weight becomes a kernel.
        changes: (name, before, after) in the order of the head.
        modules: paths of the other modules that the steps call.
        buffers: index tensors that the steps need.
        by_window: parameters (by path) of what runs on whole windows, and the first such operation.
        averages: names of the results that are means over windows.
        linear: whether the scores are linear in what was pooled; None where nothing was.
    """

    trunk: list[Step] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    result: str = ""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    by_window: dict[str, int] = field(default_factory=dict)
    first_by_window: str = ""
    averages: list[str] = field(default_factory=list)
    linear: bool | None = None

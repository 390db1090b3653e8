"""The dense network that a classifier becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.conversion.linear import Kernel
from fullyconv.conversion.program import Step, run
from fullyconv.conversion.report import Guarantee, Report
from fullyconv.conversion.without_data import example, undisturbed
from fullyconv.errors import WeightsError, some
from fullyconv.geometry import Geometry, Pair
from fullyconv.geometry.dispatch import WithoutData


@dataclass(frozen=True)
class Program:
    """What a dense network runs.

    Args:
        backbone: steps from the image to the last feature maps.
        head: steps from the feature maps to the scores.
        maps: names of the last feature maps, one as a rule.
        windows: (kH, kW) of the cells of each map that a score reads.
        scores: name of the scores.
        linear: whether the scores are linear in what was pooled; None where nothing was.
        averages: results of the head that are means over windows.
        kernels: of the fully connected layers, by the path of each.
    """

    backbone: tuple[Step, ...]
    head: tuple[Step, ...]
    maps: tuple[str, ...]
    windows: tuple[Pair, ...]
    scores: str
    linear: bool | None
    averages: tuple[str, ...]
    kernels: Mapping[str, Kernel]


class DenseClassifier(nn.Module):
    """Score every window of an image of any size with a classifier; made by `convolutionalize`.

    Its modules and state-dict keys are the classifier's own; only the weights of fully connected layers have another
    shape, (K, C, kH, kW) in place of (K, C * kH * kW). It trains, moves, copies and pickles like any module.

    Attributes:
        report: what the conversion did; printable.
        geometry: stride, receptive field and center of the scores, in pixels.
        input_size: (H, W) of the window, in pixels.
        in_channels: C of the image.
        pool: "window" or "cam", the meaning of a global pooling on larger maps.
    """

    pool: Literal["window", "cam"] = "window"
    report: Report
    geometry: Geometry
    _grids: dict[Pair, Pair | None]
    _steps: Pair | None = None  # of a network whose cells move with the size of the image
    _min_size: Pair | None = None

    def __init__(self, input_size: Pair, in_channels: int, program: Program) -> None:
        super().__init__()
        self.input_size, self.in_channels = input_size, in_channels
        self._program, self._grids = program, {}

    @property
    def guarantee(self) -> Guarantee:
        """What a score equals, computed from what the network executes.

        "window": nothing pads, so that score (i, j) is the classifier on its window, up to rounding. "interior":
        something pads; scores whose receptive field lies inside the image do not depend on where the image was cut.
        "head": something in front of the head sees the entire image; score (i, j) is the classifier's head on its
        window of the feature map, which holds in all three cases. With `pool="cam"` read: the mean of the scores over a
        window.
        """
        return self.report.guarantee

    @property
    def min_size(self) -> Pair:
        """The smallest (H, W) in pixels that gives one score."""
        if self._min_size is None:
            self._min_size = self._least(0), self._least(1)
        return self._min_size

    def grid(self, H: int, W: int) -> Pair:
        """Give the number of rows and columns of scores for an image of H x W pixels, without computing them.

        Raises:
            ValueError: the image is too small, or the backbone does not run at that size.
        """
        found = self._grid((H, W))
        if found is None:
            raise ValueError(self._refusal(H, W))
        return found

    def whole_windows(self, H: int, W: int) -> Pair:
        """Give how many windows of the classifier's size lie wholly on an image of H x W pixels, at the stride.

        Backbones that round up give more scores than that: those of the last row or column stand for windows that reach
        over the edge of the image.
        """
        counts = [
            max(0, int((size - window) // stride) + 1)
            for size, window, stride in zip((H, W), self.input_size, self.geometry.stride, strict=True)
        ]
        return counts[0], counts[1]

    def centers(self, h: int, w: int) -> tuple[list[float], list[float]]:
        """Give the pixel coordinates of the centers of h rows and w columns of scores: the y's and the x's."""
        return self.geometry.centers(h, w)

    def forward(self, x: Tensor) -> Tensor:
        """Score every window.

        Args:
            x: (N, C, H, W), as the classifier expects it.

        Returns:
            (N, K, h, w); h = w = 1 at `input_size` (with `pool="window"`).

        Raises:
            ValueError: x is no batch of images with C channels, or too small.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x={tuple(x.shape)}: needs a batch of images (N, {self.in_channels}, H, W)")
        if torch.compiler.is_compiling():
            return self.scores_of(*self.feature_maps(x))
        height, width = x.shape[2:]
        try:
            maps = self.feature_maps(x)
        except (RuntimeError, AssertionError, ValueError) as error:
            if self._grid((height, width)) is None:  # the size is the reason, not the memory or a user's hook
                raise ValueError(self._refusal(height, width)) from error
            raise
        for map, window in zip(maps, self._program.windows, strict=True):
            if map.shape[2] < window[0] or map.shape[3] < window[1]:
                raise ValueError(self._refusal(height, width, (map.shape[2], map.shape[3]), window))
        return self.scores_of(*maps)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the last feature maps (N, C, h, w), one as a rule: what the backbone gives and the head scores.

        A network that pads by the size of its image (TensorFlow's "same") puts its cells elsewhere at another size.
        Images for such a one are continued at the bottom and right until they are whole strides larger or smaller than
        `input_size`, so that the cells of all images lie where `geometry` says.
        """
        if self._steps is not None:
            sides = zip(x.shape[2:], self.input_size, self._steps, strict=True)
            bottom, right = ((own - n) % step for n, own, step in sides)
            x = F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
        values = run(self, self._program.backbone, {"x": x})
        return tuple(values[name] for name in self._program.maps)

    def scores_of(self, *maps: Tensor) -> Tensor:
        """Score every window of feature maps (N, C, h, w): the dense head alone."""
        program = self._program
        scores: Tensor = run(self, program.head, dict(zip(program.maps, maps, strict=True)))[program.scores]
        return scores

    def load_classifier(self, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Load a checkpoint of the classifier, reshaping the weights of its fully connected layers.

        Every entry must be there and fit. Entries of what the conversion dropped (auxiliary heads) are passed over, and
        weights that have the dense shape already are taken as they are.

        Args:
            state_dict: the classifier's own, or that of a dense one.

        Returns:
            The names of the weights that were reshaped.

        Raises:
            WeightsError: entries are missing, unexpected or of another shape; nothing is loaded then.
        """
        own = self.state_dict()
        fitted: dict[str, Tensor] = {}
        reshaped, misshaped, unexpected = [], [], []
        for name, tensor in state_dict.items():
            path, _, leaf = name.rpartition(".")
            if name not in own:
                if not any(name.startswith(f"{part}.") or name == part for part in self.report.dropped):
                    unexpected.append(name)
                continue
            kernel = self._program.kernels.get(path)
            if kernel is not None and leaf == "weight" and tensor.shape == (len(own[name]), len(kernel.index)):
                tensor = kernel.weight(tensor)
                reshaped.append(name)
            if tensor.shape != own[name].shape:
                misshaped.append(f"{name} {tuple(tensor.shape)} where {tuple(own[name].shape)} is needed")
            fitted[name] = tensor
        missing = [name for name in own if name not in fitted]
        faults = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped)]
        if any(names for _, names in faults):
            told = "; ".join(f"{len(names)} {fault}: {some(names)}" for fault, names in faults if names)
            raise WeightsError(
                f"state_dict: does not belong to this {self.report.classifier}: {told}. Nothing was loaded; pass the "
                "state_dict of the classifier that was converted"
            )
        self.load_state_dict(fitted, strict=True)
        return tuple(reshaped)

    def extra_repr(self) -> str:
        """Say what the network was made for."""
        return f"input_size={self.input_size}, in_channels={self.in_channels}, pool={self.pool!r}"

    def _least(self, axis: int) -> int:
        """Search the smallest height or width that runs, while the other side stands at a size that is known to do."""
        low, high, stride = 1, self.input_size[axis], math.ceil(self.geometry.stride[axis])
        # What rounds sides down serves none smaller, what rounds up those of the same number of strides: tried first.
        likely = [high - stride, high - stride + 1, high - 1]
        while low < high:
            side = likely.pop() if likely else (low + high) // 2
            if low <= side < high:
                size = (side, self.input_size[1]) if axis == 0 else (self.input_size[0], side)
                low, high = (low, side) if self._grid(size) is not None else (side + 1, high)
        return low

    def _grid(self, size: Pair) -> Pair | None:
        """Give the scores (h, w) of an image of a size; None where the network does not run or there is none."""
        if size not in self._grids:
            self._grids[size] = None
            with suppress(Exception), undisturbed(self), WithoutData():
                maps = self.feature_maps(example(self, self.in_channels, size, batch=2))
                windows = zip(maps, self._program.windows, strict=True)
                counts = [(map.shape[2] - h + 1, map.shape[3] - w + 1) for map, (h, w) in windows]
                grid = min(rows for rows, _ in counts), min(columns for _, columns in counts)
                self._grids[size] = grid if min(grid) > 0 else None
        return self._grids[size]

    def _keep(self, **known: Any) -> None:
        """Keep what is known of the network, past nn.Module: the classifier may have modules of these names."""
        vars(self).update(known)

    def _change(self, program: Program, geometry: Geometry, **reported: Any) -> None:
        """Run another program, whose scores lie elsewhere."""
        report = self.report
        self._keep(_program=program, geometry=geometry, _grids={}, _min_size=None)
        grids = {size: self._grid(size) for size in report.grids}
        window = program.windows[0]
        self._keep(report=replace(report, geometry=geometry, window=window, grids=grids, **reported))

    def _refusal(self, H: int, W: int, map: Pair | None = None, window: Pair | None = None) -> str:
        smallest = self.min_size
        if smallest[0] <= H and smallest[1] <= W:
            valid = self.report.valid_sizes
            hint = (
                "try another size" if valid is None else f"sizes that run: {', '.join(f'{h} x {w}' for h, w in valid)}"
            )
            return f"x of {H} x {W} pixels: {self.report.classifier} does not run at this size; {hint}"
        cells = f" (map of {map[0]} x {map[1]} cells, window of {window[0]} x {window[1]})" if map and window else ""
        return (
            f"x of {H} x {W} pixels: too small, needs at least {smallest[0]} x {smallest[1]} pixels for one score"
            f"{cells}; enlarge or pad the image"
        )

"""What a conversion did and what its scores can be relied on for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fullyconv.geometry import Geometry, Pair

Guarantee = Literal["window", "interior", "head"]

MEANING: dict[str, str] = {
    "window": "no operation pads: every score equals the classifier on its window of the image",
    "interior": (
        "some operation pads: scores whose receptive field lies inside the image do not depend on where the image was "
        "cut; they see real context where the classifier, given its window alone, sees padding"
    ),
    "head": (
        "some operation in front of the head sees the entire image (squeeze-excite, attention, ...), or how it divides "
        "the map depends on the image: every score equals the classifier's head on its window of the feature map, "
        "which itself depends on more than that window"
    ),
}


@dataclass(frozen=True)
class Change:
    """Tell what became of one layer.

    Args:
        name: path of the layer, or the name of the function.
        before: what it was.
        after: what it is.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Report:
    """Describe a converted classifier; `print` it.

    Args:
        classifier: name of its class.
        input_size: (H, W) at which it classifies, in pixels.
        pool: meaning of a global pooling on larger maps.
        changes: what became of the layers of the head, in order.
        frontier: the last feature maps that grow with the image: name and (C, h, w) at `input_size`.
        window: (kH, kW), cells of that map which one score looks at.
        geometry: stride, receptive field and center of the scores, in pixels.
        guarantee: what a score equals: "window", "interior" or "head".
        grids: (H, W) in pixels -> (h, w) scores, for sizes that were tried; None where the backbone does not run.
        dropped: modules with parameters that have no part in the scores (auxiliary heads).
    """

    classifier: str
    input_size: Pair
    pool: str
    changes: tuple[Change, ...]
    frontier: tuple[tuple[str, tuple[int, int, int]], ...]
    window: Pair
    geometry: Geometry
    guarantee: Guarantee
    grids: dict[Pair, Pair | None]
    dropped: tuple[str, ...] = ()

    @property
    def valid_sizes(self) -> tuple[Pair, ...] | None:
        """The sizes that were tried and run, if some did not; None if all did."""
        if all(grid is not None for grid in self.grids.values()):
            return None
        return tuple(size for size, grid in self.grids.items() if grid is not None)

    def __str__(self) -> str:
        geometry, (height, width) = self.geometry, self.input_size
        lines = [f"{self.classifier}, converted for windows of {height} x {width} pixels, pool={self.pool!r}"]
        lines += ["", "layers"]
        lines += [f"  {c.name}: {c.before}" + (f"  ->  {c.after}" if c.after else "") for c in self.changes]
        if not self.changes:
            lines.append("  none: it has no fully connected layer")
        if self.dropped:
            lines.append(f"  dropped, no part in the scores: {', '.join(self.dropped)}")
        rows: list[tuple[str, str]] = []
        for name, (c, h, w) in self.frontier:
            rows.append(("last feature map", f"{name}, {c} channels of {h} x {w} cells"))
        rows += [
            ("window", f"{self.window[0]} x {self.window[1]} cells"),
            ("stride", f"{_pair(geometry.stride)} pixels from one score to the next"),
            ("receptive field", f"{_pair(geometry.receptive_field)} pixels"),
            ("center of score (0, 0)", f"pixel {_pair(geometry.center, ', ')}"),
            ("padding", "yes" if geometry.padded else "no"),
            ("global context", "yes" if geometry.global_context else "no"),
            ("guarantee", f"{self.guarantee!r}: {MEANING[self.guarantee]}"),
        ]
        for (h, w), grid in self.grids.items():
            rows.append((f"grid at {h} x {w}", f"{grid[0]} x {grid[1]}" if grid else "does not run at this size"))
        if self.valid_sizes is not None:
            sizes = ", ".join(f"{h} x {w}" for h, w in self.valid_sizes)
            rows.append(("valid sizes", f"not all; of those tried: {sizes}"))
        return "\n".join([*lines, "", *(f"{name:24}{value}" for name, value in rows)])


def _pair(values: tuple[float, float], between: str = " x ") -> str:
    return between.join(f"{value:g}" for value in values)

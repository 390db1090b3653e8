"""What became of files that were predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Predicted:
    """What became of one image or video.

    Args:
        source: the file.
        target: its mask; of a video the folder of the masks, or the overlay where one is written. None if it failed.
        shares: for each head the share of each class, the largest first; the one head of a plain model is called "".
        frames: of a video, how many were segmented.
        heatmaps: of a classifier, how much is seen of each class that was asked for: "up to 60.0 %".
        note: what a person should know of it.
        error: why it was left out.
    """

    source: Path
    target: Path | None = None
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    frames: int | None = None
    heatmaps: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class FolderResult:
    """What became of many files.

    Args:
        out: folder of the masks.
        before: files that an earlier run had done.
        predicted: one for each of the others, in their order.
    """

    out: Path
    before: int
    predicted: tuple[Predicted, ...]

    @property
    def failed(self) -> list[Predicted]:
        """Those that were left out."""
        return [each for each in self.predicted if each.error is not None]

    def __repr__(self) -> str:
        done = len(self.predicted) - len(self.failed)
        return (
            f"FolderResult({str(self.out)!r}: {done} predicted, {self.before} done before, {len(self.failed)} failed)"
        )

"""How an image is to be segmented. It needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fullyconv.inference.budget import parse_memory

Halo = Literal["exact"] | int
Probabilities = Literal["top", "all"]


@dataclass(frozen=True)
class Options:
    """How an image is to be segmented.

    Args:
        memory: bytes, or a word such as "2GB", that a prediction may take beside the network, the image and the mask;
            None for half of what is free on the device.
        halo: "exact" reads around each tile what its scores depend on; a number of pixels reads only so many, which is
            faster and may leave seams.
        flip: average the probabilities with those of the mirrored image.
        scales: average the probabilities over the image at these sizes, relative to the one it is looked at.
        probabilities: None, "top" for that of the winning class, "all" for those of every class.

    Raises:
        ValueError: if a value is not one of these.
    """

    memory: int | str | None = None
    halo: Halo = "exact"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    probabilities: Probabilities | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_memory(self.memory)
        if self.halo != "exact" and (isinstance(self.halo, bool) or not isinstance(self.halo, int) or self.halo < 0):
            raise ValueError(f'halo={self.halo!r}: give "exact", or a number of pixels from 0 on')
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise ValueError(f"scales={self.scales}: give one or more numbers above 0, such as (0.75, 1.0, 1.25)")
        if self.probabilities not in (None, "top", "all"):
            raise ValueError(f'probabilities={self.probabilities!r}: give None, "top" or "all"')

    @property
    def plain(self) -> bool:
        """Whether the best class of one pass over the image is all that is asked for."""
        return not self.flip and self.scales == (1.0,) and self.probabilities is None

"""The result of a prediction. It needs numpy and Pillow, not torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.drawing import overlay
from fullyconv.images import write_mask
from fullyconv.labels import Labels


@dataclass(frozen=True)
class Segmentation:
    """A mask at the picture's own size, and what its numbers mean.

    Args:
        mask: (H, W) uint8, or uint16 with more than 255 classes: index of the class of each pixel.
        labels: names and colours of the classes.
        image: (H, W, 3) uint8, the picture as it was read; of more bands the first three.
    """

    mask: npt.NDArray[np.unsignedinteger[Any]]
    labels: Labels
    image: npt.NDArray[np.uint8]

    @property
    def classes(self) -> list[str]:
        """The K class names; ``classes[mask[y, x]]`` is the name at a pixel."""
        return list(self.labels.names)

    def shares(self) -> dict[str, float]:
        """Give the share of each class among the pixels, between 0 and 1, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels.names))[: len(self.labels.names)]
        total = max(1, int(counts.sum()))
        order = np.argsort(-counts, kind="stable")
        return {self.labels.names[i]: float(counts[i] / total) for i in order}

    def overlay(self, alpha: float = 0.55, legend: bool = True) -> Image.Image:
        """Draw the classes over the picture, with a legend of those that occur.

        Args:
            alpha: 0 shows the picture alone, 1 the classes alone.
            legend: whether to draw names, colours and shares.
        """
        return overlay(self.image, self.mask, self.labels, alpha=alpha, legend=legend)

    def save(self, path: str | Path) -> Path:
        """Write the mask as a PNG with the palette of the classes; its pixel values are the class indices."""
        write_mask(path, self.mask, self.labels.palette if len(self.labels.names) <= 256 else None)
        return Path(path)

"""The class activation map of a converted classifier: its head at every cell, in front of the global pooling.

Where everything behind a global average pooling is linear, the head may be applied first and the mean be taken then
(Zhou et al. 2016): one score for every cell of the last feature map, whose mean over a window is the window's score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from fullyconv.conversion.network import DenseClassifier
from fullyconv.conversion.program import Step, run
from fullyconv.conversion.refusals import no_activation_map
from fullyconv.errors import ConversionError
from fullyconv.geometry import Geometry


@dataclass(frozen=True)
class ClassActivation:
    """Score every cell of the last feature map; made by `class_activation`.

    Args:
        dense: the converted classifier, whose weights are used.
        geometry: stride, receptive field and center of the cells, in pixels.
        head: the steps of the head without its pooling.
    """

    dense: DenseClassifier
    geometry: Geometry
    head: tuple[Step, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Score every cell.

        Args:
            x: (N, C, H, W), as the classifier expects it.

        Returns:
            (N, K, h, w) scores before softmax, one for each cell of the last feature map.
        """
        return self.of(self.dense.feature_maps(x)[0])

    def of(self, map: Tensor) -> Tensor:
        """Score every cell of a feature map (N, C, h, w): the head alone."""
        scores: Tensor = run(self.dense, self.head, {self.dense._maps[0]: map})[self.dense._result]
        return scores


def class_activation(dense: DenseClassifier) -> ClassActivation:
    """Take the global average pooling out of the head of a converted classifier.

    That means something only where all behind the pooling is linear, which the conversion found out.

    Args:
        dense: with either meaning of a global pooling.

    Returns:
        What scores the cells.

    Raises:
        ConversionError: if the classifier has no class activation map; the message says why.
    """
    name = dense.report.classifier
    if len(dense._maps) > 1:
        raise ConversionError(f"{name}: has no class activation map: its head reads several feature maps")
    window = dense._windows[0]
    if window != (1, 1) and not dense._linear:
        raise ConversionError(f"{name}: has no class activation map: {no_activation_map(dense._linear)}")
    head = tuple(_passing(step) if step.result in dense._averages else step for step in dense._head)
    geometry = dense.geometry
    # The pooling began at the first pixel that its first cell depends on, and reached (window - 1) strides further.
    reach = [stride * (cells - 1) for stride, cells in zip(geometry.stride, window, strict=True)]
    (y, x), (height, width) = geometry.center, geometry.receptive_field
    return ClassActivation(
        dense,
        replace(
            geometry,
            center=(y - reach[0] / 2, x - reach[1] / 2),
            receptive_field=(height - reach[0], width - reach[1]),
        ),
        head,
    )


def _passing(step: Step) -> Step:
    return Step("method", "view_as", (step.args[0], step.args[0]), {}, step.result, step.release)

"""The class activation map of a converted classifier: its head at every cell, in front of the global pooling.

Where everything behind a global average pooling is linear, the head may be applied first and the mean be taken then
(Zhou et al. 2016): one score for every cell of the last feature map, whose mean over a window is the window's score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.conversion.dense import SpreadPool
from fullyconv.conversion.network import DenseClassifier
from fullyconv.conversion.program import Step, Value, find_module, run
from fullyconv.errors import ConversionError
from fullyconv.geometry import Geometry
from fullyconv.geometry.measuring import evaluating


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

    Whether that means anything is computed: on a random map, the pooled scores of the cells have to be the scores of
    the windows.

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
    pools = [] if window == (1, 1) else [step for step in dense._head if _averages(dense, step)]
    if not pools and window != (1, 1):
        raise ConversionError(
            f"{name}: has no class activation map: there is no global average pooling in front of its scores, which "
            f"see {window[0]} x {window[1]} cells of the last feature map at once"
        )
    removed = {step.result for step in pools}
    head = tuple(_passing(step) if step.result in removed else step for step in dense._head)
    geometry = dense.geometry
    # The pooling began at the first pixel that its first cell depends on, and reached (window - 1) strides further.
    reach = [stride * (cells - 1) for stride, cells in zip(geometry.stride, window, strict=True)]
    (y, x), (height, width) = geometry.center, geometry.receptive_field
    found = ClassActivation(
        dense,
        replace(
            geometry,
            center=(y - reach[0] / 2, x - reach[1] / 2),
            receptive_field=(height - reach[0], width - reach[1]),
        ),
        head,
    )
    if pools:
        _check(found, pools)
    return found


def _averages(dense: DenseClassifier, step: Step) -> bool:
    """Tell whether a step of the head is an average over windows."""
    if step.kind == "function":
        return step.target is F.avg_pool2d
    if step.kind != "module":
        return False
    module = find_module(dense, str(step.target))
    return isinstance(module.pool if isinstance(module, SpreadPool) else module, nn.AvgPool2d)


def _passing(step: Step) -> Step:
    return Step("method", "view_as", (step.args[0], step.args[0]), {}, step.result, step.release)


def _check(found: ClassActivation, pools: list[Step]) -> None:
    dense, window = found.dense, found.dense._windows[0]
    like = next(p for p in dense.parameters() if p.is_floating_point())
    channels = dense.report.frontier[0][1][0]
    generator = torch.Generator().manual_seed(0)
    map = torch.randn(1, channels, window[0] + 1, window[1] + 2, generator=generator).abs().to(like)
    with evaluating(dense), torch.no_grad():
        expected, pooled = dense.scores_of(map), found.of(map)
        for step in pools:
            last = replace(step, args=(Value("map"), *step.args[1:]), result="map", release=())
            pooled = run(dense, [last], {"map": pooled})["map"]
    tolerance = 1e-3 if like.dtype in (torch.float32, torch.float64) else 5e-2
    if pooled.shape != expected.shape or bool((pooled - expected).abs().max() > tolerance * expected.abs().max()):
        raise ConversionError(
            f"{dense.report.classifier}: has no class activation map: something behind its global pooling is not "
            "linear (an activation or a normalization), so that the mean of the map would not be the classifier's score"
        )

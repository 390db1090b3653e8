"""The class activation map of a converted classifier: its head at every cell, in front of the global pooling.

Where everything behind a global average pooling is linear, the head may be applied first and the mean be taken then
(Zhou et al. 2016): one score for every cell of the last feature map, whose mean over a window is the window's score.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from fullyconv.conversion.network import DenseClassifier
from fullyconv.conversion.program import Step
from fullyconv.errors import ConversionError


def class_activation(dense: DenseClassifier) -> DenseClassifier:
    """Take the global average pooling out of the head of a converted classifier.

    That means something only where all behind the pooling is linear, which the conversion found out.

    Args:
        dense: with either meaning of a global pooling.

    Returns:
        What gives (N, K, h, w) scores before softmax, one for each cell of the last feature map. It shares its modules
        with `dense`.

    Raises:
        ConversionError: if the classifier has no class activation map; the message says why.
    """
    if dense.pool == "cam":
        return dense
    program, window, why = dense._program, dense.report.window, ""
    if len(program.maps) > 1:
        why = "its head reads several feature maps"
    elif window != (1, 1) and program.linear is None:
        why = "there is no global average pooling in front of the scores"
    elif window != (1, 1) and not program.linear:
        why = "the global pooling or something behind it is not linear (a maximum, an activation, a normalization)"
    if why:
        raise ConversionError(
            f"pool='cam': of {dense.report.classifier}: {why}, so that the mean of a class activation map would not be "
            "the classifier's score. Use pool='window', or method='window' of a heat map"
        )
    geometry = dense.geometry
    # The pooling began at the first pixel that its first cell depends on, and reached (window - 1) strides further.
    down, right = (stride * (n - 1) for stride, n in zip(geometry.stride, window, strict=True))
    (y, x), (height, width) = geometry.center, geometry.receptive_field
    moved = replace(geometry, center=(y - down / 2, x - right / 2), receptive_field=(height - down, width - right))
    averaged = ("mean over every", "sum over every")
    changes = tuple(
        replace(change, after="nothing (class activation map)") if change.after.startswith(averaged) else change
        for change in dense.report.changes
    )
    head = tuple(_passing(step) if step.result in program.averages else step for step in program.head)
    cells = copy.copy(dense)
    cells._keep(pool="cam")
    cells._change(replace(program, head=head, windows=((1, 1),)), moved, pool="cam", changes=changes)
    return cells


def _passing(step: Step) -> Step:
    return Step("call_method", "view_as", (step.args[0], step.args[0]), {}, step.result, step.release)

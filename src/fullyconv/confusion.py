"""The arithmetic of the confusion matrix: four metrics and the IoU of every class, without torch.

Section 5 of Long, Shelhamer and Darrell (2015) defines the metrics on one confusion matrix over the whole set:
``matrix[i, j]`` counts the pixels of class i that were predicted to be class j. Scores of single images are never
averaged. The rule for absent classes is the reference's: a class that occurs neither in the masks nor in the
predictions has no IoU and does not enter the mean; one that was predicted although it occurs nowhere has IoU 0 and
does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mIoU",
    "frequency_weighted_iou": "frequency weighted IoU",
}
"""The four metrics of section 5: attribute of `SegmentationScores` -> what people call it."""

CARD_METRICS = METRICS | {"frequency_weighted_iou": "f.w. IoU", "top1": "top-1 accuracy"}
"""What a stored score may hold, in percent -> what a card calls it: the four, and the accuracy of a classifier."""


@dataclass(frozen=True)
class SegmentationScores:
    """What a confusion matrix says, as fractions between 0 and 1 (nan where nothing was counted).

    Args:
        pixel_accuracy: sum_i n_ii / sum_i t_i.
        mean_accuracy: mean over the classes that occur of n_ii / t_i.
        mean_iou: mean over the classes that occur or were predicted of n_ii / (t_i + sum_j n_ji - n_ii).
        frequency_weighted_iou: the IoU of each class weighted with t_i.
        iou: IoU of each class; nan where the class occurs nowhere.
        accuracy: n_ii / t_i of each class; nan where t_i = 0.
        pixels: number of pixels that counted.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    pixels: int

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Give the scores in percent as plain JSON values, ``null`` for classes without a score.

        Args:
            names: the K class names.

        Raises:
            ValueError: if there are not as many names as classes.
        """
        _check_names(names, len(self.iou))
        return {
            **{metric: _percent(getattr(self, metric)) for metric in METRICS},
            "iou": {name: _percent(value) for name, value in zip(names, self.iou, strict=True)},
            "pixels": self.pixels,
        }

    def table(self, names: Sequence[str]) -> str:
        """Write the scores in percent as lines of text, one class a line.

        Args:
            names: the K class names.

        Example:
            >>> print(scores(np.array([[3, 1], [0, 4]])).table(["sky", "road"]))
            pixel accuracy           87.50 %
            mean accuracy            87.50 %
            mIoU                     77.50 %
            frequency weighted IoU   77.50 %
            <BLANKLINE>
            class    IoU %   accuracy %
            sky      75.00        75.00
            road     80.00       100.00
        """
        _check_names(names, len(self.iou))
        lines = [f"{label:<22} {getattr(self, metric) * 100:>7.2f} %" for metric, label in METRICS.items()]
        width = max(len("class"), *(len(name) for name in names))
        lines += ["", f"{'class':<{width}}  {'IoU %':>7}  {'accuracy %':>11}"]
        for name, iou, accuracy in zip(names, self.iou, self.accuracy, strict=True):
            lines.append(f"{name:<{width}}  {_cell(iou):>7}  {_cell(accuracy):>11}")
        return "\n".join(lines)


def count(
    prediction: npt.NDArray[Any], mask: npt.NDArray[Any], num_classes: int, ignore_index: int = 255
) -> npt.NDArray[np.int64]:
    """Count the pixels of each true class (row) that were predicted to be each class (column), without torch.

    Args:
        prediction: (H, W) or any shape, integers in 0..K-1; where the mask is ignored, anything.
        mask: same shape, integers in 0..K-1, or ignore_index.
        num_classes: K.
        ignore_index: label of ignored pixels, outside 0..K-1.

    Returns:
        (K, K) int64.

    Raises:
        ValueError: if the shapes differ, or a label is neither a class nor ignore_index.

    Example:
        >>> count(np.array([0, 1, 1]), np.array([0, 1, 255]), num_classes=2).tolist()
        [[1, 0], [0, 1]]
    """
    if prediction.shape != mask.shape:
        raise ValueError(f"prediction of shape {prediction.shape}, mask of shape {mask.shape}: both must be the same")
    if 0 <= ignore_index < num_classes:
        raise ValueError(f"ignore_index={ignore_index}: it must lie outside the classes 0..{num_classes - 1}")
    truth, found = mask.ravel(), prediction.ravel()
    strange = 0
    if truth.dtype == np.uint8 and found.dtype == np.uint8:
        # Bytes are counted unseen, and what is no class is found in the table, not in the image.
        cells = truth.astype(np.uint16)
        cells <<= 8
        cells |= found
        table = np.bincount(cells, minlength=2**16).reshape(256, 256)
        matrix = table[:num_classes, :num_classes].astype(np.int64)
        ignored = int(table[ignore_index].sum()) if 0 <= ignore_index < 256 else 0
        strange = truth.size - int(matrix.sum()) - ignored
    else:
        counts = truth != ignore_index
        truth, found = truth[counts].astype(np.int64), found[counts].astype(np.int64)
        good = (truth >= 0) & (truth < num_classes) & (found >= 0) & (found < num_classes)
        strange = int((~good).sum())
        matrix = np.bincount(num_classes * truth[good] + found[good], minlength=num_classes**2)
        matrix = matrix.reshape(num_classes, num_classes).astype(np.int64)
    if strange:
        raise ValueError(
            f"{strange} pixels of mask or prediction are no class: labels must be 0..{num_classes - 1}, in the mask "
            f"also ignore_index={ignore_index}"
        )
    return matrix


def scores(matrix: npt.ArrayLike) -> SegmentationScores:
    """Compute the metrics of section 5 from one confusion matrix.

    Args:
        matrix: (K, K) counts; rows are the true classes, columns the predicted ones.

    Raises:
        ValueError: if the matrix is not square, or holds negative counts.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] == 0:
        raise ValueError(f"matrix of shape {counts.shape}: a confusion matrix is (K, K); pass one row for each class")
    if (counts < 0).any():
        raise ValueError("matrix holds negative counts: pass numbers of pixels")
    counts = counts.astype(np.float64)
    hits = np.diag(counts)
    truth = counts.sum(axis=1)
    union = truth + counts.sum(axis=0) - hits
    total = truth.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = np.where(truth > 0, hits / truth, np.nan)
        iou = np.where(union > 0, hits / union, np.nan)
    occurs = truth > 0
    return SegmentationScores(
        pixel_accuracy=float(hits.sum() / total) if total else math.nan,
        mean_accuracy=float(accuracy[occurs].mean()) if occurs.any() else math.nan,
        mean_iou=float(iou[union > 0].mean()) if (union > 0).any() else math.nan,
        frequency_weighted_iou=float((truth[occurs] * iou[occurs]).sum() / total) if total else math.nan,
        iou=tuple(float(value) for value in iou),
        accuracy=tuple(float(value) for value in accuracy),
        pixels=int(total),
    )


def headline(score: Mapping[str, Any]) -> str:
    """Say the metrics of a stored score (percent) in one line: the paper's four, or a classifier's accuracy."""
    return ", ".join(f"{label} {score[key]:.2f}" for key, label in CARD_METRICS.items() if score.get(key) is not None)


def _check_names(names: Sequence[str], number: int) -> None:
    if len(names) != number:
        raise ValueError(f"names={list(names)!r}: the confusion matrix has {number} classes; pass {number} names")


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(value * 100, 4)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value * 100:.2f}"

"""One confusion matrix over a whole set, summed over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from fullyconv.confusion import SegmentationScores, scores


def best_class(scores: Tensor) -> Tensor:
    """Give the class with the highest score of every pixel, the lowest on a tie.

    On a CPU `max` across the planes of the classes is five to eight times as fast as `argmax`, and says the same.

    Args:
        scores: (N, K, ...) floating scores.

    Returns:
        (N, ...) int64.

    Example:
        >>> best_class(torch.tensor([[[0.5, 2.0], [0.5, 1.0]]])).tolist()
        [[0, 0]]
    """
    return scores.max(dim=1).indices


def confusion_matrix(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of each true class (row) that were predicted to be each class (column).

    Every pixel is counted by one ``bincount`` over 256 rows, and the ignored row is cut off afterwards: masking
    first would copy both maps, which takes most of the time of the usual implementation. Moving numbers takes most of
    what is left, so they are as narrow as they can be.

    Args:
        prediction: (N, H, W) or any shape, integers in 0..K-1.
        mask: same shape, integers in 0..K-1, or ignore_index.
        num_classes: K.
        ignore_index: label of ignored pixels, outside 0..K-1.

    Returns:
        (K, K) int64.

    Raises:
        ValueError: if the shapes differ, or a label is neither a class nor ignore_index.
    """
    if prediction.shape != mask.shape:
        raise ValueError(
            f"prediction of shape {tuple(prediction.shape)} and mask of shape {tuple(mask.shape)}: both must be the "
            "same (N, H, W); upsample the scores to the mask's size and take the argmax first"
        )
    if mask.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=mask.device)
    low, high = (int(label) for label in torch.aminmax(prediction))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"prediction holds labels {low}..{high}: predictions must be 0..{num_classes - 1}; "
            "take the argmax of K logits"
        )
    if max(num_classes, ignore_index + 1) > 256 or ignore_index < 0:
        no_class = (mask < 0) | (mask >= num_classes)
        if bool((no_class & (mask != ignore_index)).any()):
            raise _stray(mask, num_classes, ignore_index)
        truth = torch.where(no_class, num_classes, mask.long())
        cells, side = (truth * (num_classes + 1) + prediction).flatten(), num_classes + 1
        return torch.bincount(cells, minlength=side**2).view(side, side)[:num_classes, :num_classes]
    if mask.dtype != torch.uint8:
        low, high = (int(label) for label in torch.aminmax(mask))
        if low < 0 or high > 255:
            raise _stray(mask, num_classes, ignore_index)
    dtype = torch.int16 if 256 * num_classes <= 2**15 else torch.int32
    cells = mask.flatten().to(dtype, copy=True).mul_(num_classes).add_(prediction.flatten().to(dtype))
    full = torch.bincount(cells, minlength=256 * num_classes).view(256, num_classes)
    matrix = full[:num_classes]
    if int(matrix.sum() + full[ignore_index].sum()) != mask.numel():
        raise _stray(mask, num_classes, ignore_index)
    return matrix


def _stray(mask: Tensor, num_classes: int, ignore_index: int) -> ValueError:
    found = torch.unique(mask)
    stray = found[((found < 0) | (found >= num_classes)) & (found != ignore_index)].tolist()
    return ValueError(
        f"mask holds labels {stray[:8]}: labels must be 0..{num_classes - 1} or ignore_index={ignore_index}; "
        "map them to classes when the mask is read (Labels.values)"
    )


class ConfusionMatrix(Metric):
    """One (K, K) confusion matrix over a whole set; processes are summed, never averaged.

    Args:
        num_classes: K.
        ignore_index: label of ignored pixels, outside 0..K-1.

    Raises:
        ValueError: if ignore_index is one of the classes (the score of that class would silently change its meaning).
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        if 0 <= ignore_index < num_classes:
            raise ValueError(
                f"ignore_index={ignore_index}: it must lie outside the classes 0..{num_classes - 1}; to leave a class "
                "out, map its label to ignore when the mask is read"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: (N, H, W) class indices, or (N, K, H, W) floating scores, whose argmax is taken.
            mask: (N, H, W) class indices or ignore_index.
        """
        if prediction.is_floating_point():
            prediction = best_class(prediction)
        self.matrix += confusion_matrix(prediction, mask, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """Give the (K, K) matrix, summed over the processes."""
        return self.matrix

    def scores(self) -> SegmentationScores:
        """Give the four metrics and the IoU of each class, of all processes together."""
        return scores(self.compute().cpu().numpy())

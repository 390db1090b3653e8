"""One confusion matrix over a whole set, summed over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from fullyconv.confusion import SegmentationScores, scores


def confusion_matrix(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of each true class (row) that were predicted to be each class (column).

    Every pixel is counted by one ``bincount`` over rows as wide as the largest label, and the ignored rows are cut off
    afterwards: masking first would copy both maps, which takes most of the time of the usual implementation.

    Args:
        prediction: (N, H, W) or any shape, integers in 0..K-1.
        mask: same shape, integers in 0..K-1, or ignore_index.
        num_classes: K.
        ignore_index: label of the pixels that count for nothing, outside 0..K-1.

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
    low, high = torch.aminmax(prediction)
    if int(low) < 0 or int(high) >= num_classes:
        raise ValueError(
            f"prediction holds labels {int(low)}..{int(high)}: predictions must be 0..{num_classes - 1}; "
            "take the argmax of K logits"
        )
    if max(num_classes, ignore_index + 1) <= 256 and ignore_index >= 0:
        width, rows = 256, mask
    else:
        # Rows as wide as a large ignore_index would take gigabytes, so that one is moved behind the classes.
        width = num_classes + 1
        rows = torch.where(mask == ignore_index, num_classes, mask)
        if bool((((mask < 0) | (mask >= num_classes)) & (mask != ignore_index)).any()):
            raise _stray(mask, num_classes, ignore_index)
    pairs = rows.to(torch.int64) * width + prediction
    try:
        counts = torch.bincount(pairs.flatten(), minlength=width * width)
    except RuntimeError:  # torch names no label; this does
        raise _stray(mask, num_classes, ignore_index) from None
    full = counts[: width * width].view(width, width)
    matrix = full[:num_classes, :num_classes]
    ignored = full[ignore_index if width == 256 else num_classes].sum()
    if int(matrix.sum() + ignored) != mask.numel():
        raise _stray(mask, num_classes, ignore_index)
    return matrix.clone()


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
        ignore_index: label of the pixels that count for nothing, outside 0..K-1.

    Raises:
        ValueError: if ignore_index is one of the classes (the score of that class would silently change its meaning).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: at least one class is needed")
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
            prediction = prediction.argmax(dim=1)
        self.matrix += confusion_matrix(prediction, mask, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """Give the (K, K) matrix, summed over the processes."""
        return self.matrix

    def scores(self) -> SegmentationScores:
        """Give the four metrics and the IU of each class, of all processes together."""
        return scores(self.compute().cpu().numpy())

"""What a trained model lacks, in sentences for people: classes that are never found, too few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fullyconv.confusion import SegmentationScores
from fullyconv.errors import some

FEW_STEPS = 100
"""Steps below which a start with new score layers has hardly begun to learn."""


def few_steps(steps: int) -> str:
    """Say that so few steps are not enough, and what to try."""
    number = f"{steps} step{'' if steps == 1 else 's'}"
    return (
        f"only {number}: fewer than {FEW_STEPS} rarely teach a model its classes; train longer, or with a smaller "
        "data.batch_size"
    )


def shortcomings(
    scores: SegmentationScores | None, classes: Sequence[str], split: str, steps: object = None
) -> list[str]:
    """Say what a model lacks, the worst last.

    Args:
        scores: what was measured; None where nothing was.
        classes: the K names.
        split: on which it was measured.
        steps: that it was trained for; anything but a number says nothing.

    Returns:
        A sentence for each shortcoming.
    """
    found = [few_steps(steps)] if isinstance(steps, int) and steps < FEW_STEPS else []
    if scores is None:
        return found
    each = zip(classes, scores.iou, scores.accuracy, strict=True)
    # A class without a pixel in the split has no accuracy, and its IoU of 0 says nothing of it.
    if lost := [name for name, iou, accuracy in each if iou == 0 and not math.isnan(accuracy)]:
        found.append(
            f"never found on {split} (IoU 0): {some(lost, 24)}. Look with 'fullyconv doctor' at how many pixels of it "
            "train has and whether the masks fit; then train longer, with another "
            "model.loss or model.lr, or from another start"
        )
    return found

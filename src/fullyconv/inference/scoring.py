"""Score a folder of predicted masks against the true ones, one pair at a time, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullyconv.confusion import SegmentationScores, count, scores
from fullyconv.errors import DatasetError
from fullyconv.images import find_images, read_mask


def score_masks(
    predicted: str | Path, masks: str | Path, num_classes: int, ignore_index: int = 255
) -> SegmentationScores:
    """Score a folder of predicted masks, such as `predict` writes, by one confusion matrix over all.

    Args:
        predicted: folder of masks whose values are classes.
        masks: folder of the true masks, of the same names but for the ending.
        num_classes: K.
        ignore_index: value of the pixels of the true masks that count for nothing.

    Returns:
        The four metrics and the IoU of every class.

    Raises:
        FileNotFoundError: if a folder is missing or holds no image.
        DatasetError: if a true mask has no prediction, or they differ in size or hold other values; it names the file.
    """
    found = {path.stem: path for path in find_images(predicted)}
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for path in find_images(masks):
        if path.stem not in found:
            raise DatasetError(f"{path}: has no prediction in {predicted}; predict all images first")
        try:
            matrix += count(read_mask(found[path.stem]), read_mask(path), num_classes, ignore_index)
        except ValueError as error:
            raise DatasetError(f"{found[path.stem]} and {path}: {error}") from error
    return scores(matrix)

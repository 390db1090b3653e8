from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.confusion import count, headline, scores
from fullyconv.errors import DatasetError
from fullyconv.images import write_mask
from fullyconv.inference.scoring import score_masks
from fullyconv.training.metrics import confusion_matrix

# Six classes: four occur, class 4 is only predicted, class 5 occurs nowhere. Counted by hand.
TOY = np.array(
    [
        [50, 2, 0, 0, 3, 0],
        [4, 30, 1, 0, 0, 0],
        [0, 5, 10, 5, 0, 0],
        [0, 0, 0, 7, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
)


def test_the_four_metrics_follow_their_formulas() -> None:
    result = scores(TOY)
    truth = np.array([55, 35, 20, 8])
    hits = np.array([50, 30, 10, 7])
    union = np.array([59, 42, 21, 13])
    iou = hits / union
    assert result.pixel_accuracy == pytest.approx(hits.sum() / 118)
    assert result.mean_accuracy == pytest.approx((hits / truth).mean())
    # class 4 was predicted and never occurs: IoU 0 in the mean; class 5 occurs nowhere: not in the mean
    assert result.mean_iou == pytest.approx(iou.sum() / 5)
    assert result.frequency_weighted_iou == pytest.approx((truth * iou).sum() / 118)
    assert result.iou[4] == 0
    assert math.isnan(result.iou[5])
    assert math.isnan(result.accuracy[4])
    assert result.pixels == 118


def test_a_perfect_prediction_scores_one_hundred_percent() -> None:
    assert scores(np.diag([3, 4])).to_dict(["a", "b"])["mean_iou"] == 100


def test_an_empty_matrix_gives_no_number_instead_of_a_wrong_one() -> None:
    result = scores(np.zeros((2, 2)))
    assert math.isnan(result.mean_iou)
    assert result.to_dict(["a", "b"])["mean_iou"] is None
    assert "nan" in result.table(["a", "b"])


def test_classes_without_a_score_are_null_in_json_and_a_dash_in_the_table() -> None:
    result = scores(TOY)
    names = list("abcdef")
    assert result.to_dict(names)["iou"]["f"] is None
    assert result.table(names).splitlines()[-1].split() == ["f", "-", "-"]


def test_the_headline_leaves_out_what_nobody_measured() -> None:
    assert headline({"mean_iou": 51.234}) == "mIoU 51.23"


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\): a confusion matrix is \(K, K\)"),
        (np.zeros((0, 0)), "is \\(K, K\\)"),
        (np.array([[-1]]), "negative counts"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores(matrix)


def test_the_wrong_number_of_names_is_refused() -> None:
    with pytest.raises(ValueError, match="pass 6 names"):
        scores(TOY).table(["a"])


@pytest.mark.parametrize("num_classes", [1, 2, 12, 32, 33, 64, 65, 128, 129, 200, 300])
@pytest.mark.parametrize("ignore_index", [255, 300, -1, 65535])
def test_every_layout_of_the_table_counts_the_same(num_classes: int, ignore_index: int) -> None:
    if 0 <= ignore_index < num_classes:
        return
    rng = np.random.default_rng(num_classes)
    for size in (1, 3, 4, 1001):
        mask, prediction = rng.integers(0, num_classes, (2, size))
        mask[rng.random(size) < 0.1] = ignore_index
        expected = np.zeros((num_classes, num_classes), np.int64)
        for true, predicted in zip(mask, prediction, strict=True):
            if true != ignore_index:
                expected[true, predicted] += 1
        ours = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(mask), num_classes, ignore_index)
        np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("stray", [3, 254, 256, 300, -1, 65536 + 1, -65536])
def test_a_stray_label_is_named(stray: int) -> None:
    mask = np.array([0, 1, stray, 255])
    prediction = np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match=rf"mask holds labels \[{stray}\]"):
        confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(mask), 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize(("classes", "ignore"), [(2, 255), (21, 255), (7, 40), (255, 255)])
def test_counting_without_torch_gives_the_matrix_of_the_metric(dtype: type, classes: int, ignore: int) -> None:
    rng = np.random.default_rng(classes)
    mask = rng.integers(0, classes, (31, 17)).astype(dtype)
    prediction = rng.integers(0, classes, mask.shape).astype(dtype)
    mask[rng.random(mask.shape) < 0.1] = ignore
    expected = confusion_matrix(
        torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(mask.astype(np.int64)), classes, ignore
    )
    np.testing.assert_array_equal(count(prediction, mask, classes, ignore), expected.numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_counting_refuses_what_is_no_class(dtype: type) -> None:
    good = np.zeros((3, 3), dtype)
    bad = good.copy()
    bad[0, 0] = 2
    for prediction, mask in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="1 pixels"):
            count(prediction, mask, 2)
    with pytest.raises(ValueError, match="shape"):
        count(good, good[:2], 2)
    with pytest.raises(ValueError, match="ignore_index"):
        count(good, good, 2, ignore_index=1)


def test_folders_of_masks_are_scored_by_one_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    total = np.zeros((3, 3), np.int64)
    for index in range(4):
        mask, prediction = rng.integers(0, 3, (2, 5 + index, 6)).astype(np.uint8)
        mask[0, 0] = 255
        total += count(prediction, mask, 3)
        write_mask(tmp_path / "masks" / f"{index}.png", mask)
        write_mask(tmp_path / "predicted" / f"{index}.png", prediction)
    assert score_masks(tmp_path / "predicted", tmp_path / "masks", 3) == scores(total)
    (tmp_path / "predicted" / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"2\.png: has no prediction"):
        score_masks(tmp_path / "predicted", tmp_path / "masks", 3)
    write_mask(tmp_path / "predicted" / "2.png", np.full((1, 1), 2, np.uint8))
    with pytest.raises(DatasetError, match=r"2\.png.*shape"):
        score_masks(tmp_path / "predicted", tmp_path / "masks", 3)

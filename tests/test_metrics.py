from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from fullyconv.training.metrics import ConfusionMatrix, best_class, confusion_matrix


def maps(classes: int, seed: int = 0, ignore: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, (3, 20, 31), generator=generator)
    mask = torch.where(torch.rand(3, 20, 31, generator=generator) < 0.6, prediction, prediction.roll(1, 0))
    if ignore:
        mask[torch.rand(3, 20, 31, generator=generator) < 0.2] = 255
    return prediction, mask


@pytest.mark.parametrize("classes", [2, 11, 21, 32, 33, 64, 65, 128, 129, 150, 254])
def test_the_matrix_equals_that_of_torchmetrics(classes: int) -> None:
    prediction, mask = maps(classes)
    theirs = MulticlassConfusionMatrix(classes, ignore_index=255)(prediction, mask)
    assert torch.equal(confusion_matrix(prediction, mask, classes), theirs)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [21, 50, 100, 200])
def test_the_matrix_does_not_depend_on_the_type_of_the_maps(classes: int, kind: torch.dtype) -> None:
    prediction, mask = maps(classes)
    expected = confusion_matrix(prediction, mask, classes)
    assert torch.equal(confusion_matrix(prediction.to(kind), mask, classes), expected)
    assert torch.equal(confusion_matrix(prediction, mask.to(kind), classes), expected)
    assert torch.equal(confusion_matrix(prediction.to(kind), mask.to(kind), classes), expected)


def test_maps_that_lie_otherwise_in_memory_are_counted_alike_and_left_as_they_were() -> None:
    prediction, mask = maps(11)
    turned = confusion_matrix(prediction.transpose(1, 2), mask.transpose(1, 2), 11)
    assert torch.equal(turned, confusion_matrix(prediction, mask, 11))
    narrow = prediction.to(torch.int16), mask.to(torch.int16)
    assert torch.equal(turned, confusion_matrix(*narrow, 11))
    assert torch.equal(narrow[0].long(), prediction)
    assert torch.equal(narrow[1].long(), mask)


def test_more_than_255_classes_count_with_another_ignore_index() -> None:
    prediction, mask = maps(400)
    mask[mask == 255] = 65535
    theirs = MulticlassConfusionMatrix(400, ignore_index=65535)(prediction, mask)
    assert torch.equal(confusion_matrix(prediction, mask, 400, ignore_index=65535), theirs)


def test_the_metric_agrees_with_torchmetrics_where_the_definitions_agree() -> None:
    metric = ConfusionMatrix(11)
    jaccard, micro = (
        MulticlassJaccardIndex(11, ignore_index=255),
        MulticlassAccuracy(11, average="micro", ignore_index=255),
    )
    weighted = MulticlassJaccardIndex(11, average="weighted", ignore_index=255)
    for seed in range(3):
        for m in (metric, jaccard, micro, weighted):
            m.update(*maps(11, seed))
    result = metric.scores()
    assert result.mean_iou == pytest.approx(float(jaccard.compute()), rel=1e-5)
    assert result.frequency_weighted_iou == pytest.approx(float(weighted.compute()), rel=1e-5)
    assert result.pixel_accuracy == pytest.approx(float(micro.compute()), rel=1e-5)


def test_one_matrix_over_the_set_is_not_the_mean_over_images() -> None:
    mask = torch.tensor([[[0, 0], [0, 1]], [[1, 1], [1, 0]]])
    prediction = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    metric = ConfusionMatrix(2)
    metric.update(prediction, mask)
    assert metric.scores().mean_iou == pytest.approx(0.6)


def test_predictions_on_ignored_pixels_count_for_nothing() -> None:
    prediction, mask = maps(4)
    changed = torch.where(mask == 255, (prediction + 1) % 4, prediction)
    assert torch.equal(confusion_matrix(prediction, mask, 4), confusion_matrix(changed, mask, 4))


def test_logits_and_their_argmax_give_the_same_scores() -> None:
    logits = torch.randn(2, 5, 6, 7)
    mask = torch.randint(0, 5, (2, 6, 7))
    one, other = ConfusionMatrix(5), ConfusionMatrix(5)
    one.update(logits, mask)
    other.update(logits.argmax(1), mask)
    assert torch.equal(one.matrix, other.matrix)


def test_merging_two_halves_equals_the_whole() -> None:
    whole = ConfusionMatrix(11)
    halves = [ConfusionMatrix(11), ConfusionMatrix(11)]
    for seed in range(4):
        whole.update(*maps(11, seed))
        halves[seed % 2].update(*maps(11, seed))
    halves[0].merge_state(halves[1])
    np.testing.assert_array_equal(halves[0].matrix.numpy(), whole.matrix.numpy())


@pytest.mark.parametrize("label", [11, 12, 254, 300, -1, 100000])
def test_a_stray_label_is_named(label: int) -> None:
    prediction, mask = maps(11)
    mask[0, 0, 0] = label
    with pytest.raises(ValueError, match=rf"mask holds labels \[{label}\]: labels must be 0..10 or ignore_index=255"):
        confusion_matrix(prediction, mask, 11)


def test_a_prediction_that_is_no_class_is_named() -> None:
    prediction, mask = maps(11)
    prediction[0, 0, 0] = 11
    mask[0, 0, 0] = 3
    with pytest.raises(ValueError, match=r"predictions must be 0\.\.10"):
        confusion_matrix(prediction, mask, 11)


@pytest.mark.parametrize(("label", "classes", "ignore"), [(256, 2, 255), (3, 2, 65535), (-1, 256, 300)])
def test_a_prediction_is_never_counted_in_another_row(label: int, classes: int, ignore: int) -> None:
    prediction = torch.full((1, 2, 2), label)
    with pytest.raises(ValueError, match=r"predictions must be"):
        confusion_matrix(prediction, torch.zeros(1, 2, 2).long(), classes, ignore)


def test_a_negative_ignore_index_counts_for_nothing_too() -> None:
    prediction, mask = maps(4)
    expected = confusion_matrix(prediction, mask, 4)
    mask[mask == 255] = -100
    assert torch.equal(confusion_matrix(prediction, mask, 4, ignore_index=-100), expected)


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="upsample the scores to the mask's size"):
        confusion_matrix(torch.zeros(1, 2, 2).long(), torch.zeros(1, 4, 4).long(), 2)


def test_ignoring_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="ignore_index=0: it must lie outside the classes"):
        ConfusionMatrix(3, ignore_index=0)


def test_an_empty_batch_adds_nothing() -> None:
    assert confusion_matrix(torch.zeros(0, 4, 4).long(), torch.zeros(0, 4, 4).long(), 3).sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_best_class_is_that_of_argmax_and_the_lowest_on_a_tie(dtype: torch.dtype) -> None:
    logits = torch.randint(0, 3, (2, 7, 33, 29), generator=torch.Generator().manual_seed(0)).to(
        dtype
    )  # ties everywhere
    for scores in (logits, logits.to(memory_format=torch.channels_last)):
        found = best_class(scores)
        assert torch.equal(found, logits.argmax(1))
        lower = torch.arange(7)[:, None, None] < found[:, None]
        assert not ((scores == scores.amax(1, keepdim=True)) & lower).any()

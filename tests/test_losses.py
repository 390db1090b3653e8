from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from closeness import assert_close
from fullyconv.training.losses import (
    LOSSES,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    PixelCrossEntropy,
    PixelSquaredError,
    TverskyLoss,
    build_loss,
)


def batch(ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 4, (2, 5, 6), generator=generator)
    mask[torch.rand(2, 5, 6, generator=generator) < ignored] = 255
    return logits, mask


def test_the_mean_form_is_torchs_cross_entropy() -> None:
    logits, mask = batch()
    assert_close(PixelCrossEntropy()(logits, mask), F.cross_entropy(logits, mask, ignore_index=255))


def test_the_weighted_mean_form_is_torchs_cross_entropy() -> None:
    logits, mask = batch()
    weights = [0.5, 1, 2, 4]
    assert_close(
        PixelCrossEntropy(class_weights=weights).double()(logits, mask),
        F.cross_entropy(logits, mask, torch.tensor(weights).double(), ignore_index=255),
    )


def test_the_summed_form_is_the_mean_times_the_pixels_of_an_image() -> None:
    logits, mask = batch()
    pixels = (mask != 255).sum()
    assert_close(PixelCrossEntropy(reduction="sum")(logits, mask), PixelCrossEntropy()(logits, mask) * pixels / 2)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, mask = batch()
    assert_close(FocalLoss(gamma=0)(logits, mask), PixelCrossEntropy()(logits, mask))


def test_focal_loss_leaves_less_to_what_is_already_right() -> None:
    logits = torch.tensor([[[[4.0]], [[0.0]]]])
    mask = torch.zeros(1, 1, 1, dtype=torch.long)
    p = math.exp(4) / (math.exp(4) + 1)
    assert float(FocalLoss(gamma=2)(logits, mask)) == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-4)


def test_dice_of_a_perfect_prediction_is_zero_and_of_a_wrong_one_nearly_one() -> None:
    mask = torch.randint(0, 3, (1, 32, 32))
    right = F.one_hot(mask, 3).movedim(-1, 1).double() * 200
    assert float(DiceLoss()(right, mask)) == pytest.approx(0, abs=1e-9)
    assert float(DiceLoss()(right.roll(1, 1), mask)) > 0.99


def counted(logits: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (P, K) and labels (P,) of the pixels that count."""
    valid = mask.numpy().ravel() != 255
    return logits.detach().softmax(1).movedim(1, -1).reshape(-1, logits.shape[1]).numpy()[valid], mask.numpy().ravel()[
        valid
    ]


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.5, 0.5), (1, 0)])
def test_tversky_is_that_of_the_paper(alpha: float, beta: float) -> None:
    logits, mask = batch()
    mask[mask == 2] = 1  # a class that does not occur counts for nothing
    p, labels = counted(logits, mask)
    found = []
    for k in np.unique(labels):
        g = labels == k
        tp, fp, fn = (p[:, k] * g).sum(), (p[:, k] * ~g).sum(), ((1 - p[:, k]) * g).sum()
        found.append(tp / (tp + alpha * fp + beta * fn))
    value = TverskyLoss(alpha=alpha, beta=beta, smooth=0)(logits, mask)
    assert float(value.detach()) == pytest.approx(1 - np.mean(found), rel=1e-9)


def test_tversky_with_equal_halves_is_dice_with_the_same_smoothing() -> None:
    logits, mask = batch()
    weights = [1.0, 2, 3, 4]
    assert_close(
        TverskyLoss(255, weights, 0.5, 0.5, 7.0).double()(logits, mask),
        DiceLoss(255, weights, 7.0).double()(logits, mask),
    )
    p, labels = counted(logits, mask)
    dice = [(2 * (p[:, k] * (labels == k)).sum() + 7) / (p[:, k].sum() + (labels == k).sum() + 7) for k in range(4)]
    expected = float(np.average(1 - np.array(dice), weights=weights))
    assert float(DiceLoss(255, weights, 7.0).double()(logits, mask).detach()) == pytest.approx(expected, rel=1e-9)


def lovasz_gradient(sorted_truth: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Berman et al. 2018."""
    p = len(sorted_truth)
    positives = sorted_truth.sum()
    intersection = positives - sorted_truth.cumsum()
    union = positives + (1 - sorted_truth).cumsum()
    g = 1 - intersection / union
    if p > 1:
        g[1:p] = g[1:p] - g[0:-1]
    return g


@pytest.mark.parametrize("weights", [None, [1.0, 2, 3, 4]])
def test_lovasz_is_that_of_the_paper_over_the_classes_that_occur(weights: list[float] | None) -> None:
    logits, mask = batch()
    mask[mask == 2] = 1
    p, labels = counted(logits, mask)
    there = np.unique(labels)
    found = []
    for k in there:
        errors = np.abs((labels == k) - p[:, k])
        order = np.argsort(-errors)
        found.append(errors[order] @ lovasz_gradient((labels == k)[order].astype(float)))
    expected = np.average(found, weights=None if weights is None else np.array(weights)[there])
    assert float(LovaszLoss(255, weights).double()(logits, mask).detach()) == pytest.approx(float(expected), rel=1e-9)


def test_lovasz_of_a_hard_prediction_is_one_minus_its_mean_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    mask, prediction = (torch.randint(0, 3, (2, 16, 16), generator=generator) for _ in range(2))
    ious = [((mask == k) & (prediction == k)).sum() / ((mask == k) | (prediction == k)).sum() for k in range(3)]
    logits = F.one_hot(prediction, 3).movedim(-1, 1).double() * 200
    assert float(LovaszLoss()(logits, mask)) == pytest.approx(1 - float(torch.stack(ious).mean()), rel=1e-5)


def test_squared_error_of_probabilities_is_the_brier_score() -> None:
    logits, mask = batch(ignored=0)
    expected = ((logits.softmax(1) - F.one_hot(mask, 4).movedim(-1, 1)) ** 2).sum(1).mean()
    assert_close(PixelSquaredError()(logits, mask), expected)


def test_squared_error_of_scores_is_zero_at_the_one_hot_label() -> None:
    mask = torch.randint(0, 4, (1, 3, 3))
    assert float(PixelSquaredError(of="scores")(F.one_hot(mask, 4).movedim(-1, 1).float(), mask)) == 0


@pytest.mark.parametrize("name", [*LOSSES, "cross_entropy+dice", "cross_entropy+lovasz"])
class TestEveryLoss:
    def test_ignored_pixels_have_no_influence_and_no_gradient(self, name: str) -> None:
        logits, mask = batch()
        loss = build_loss(name, 255, [1, 2, 3, 4]).double()
        value = loss(logits, mask)
        value.backward()
        ignored = (mask == 255)[:, None].expand_as(logits)
        assert logits.grad is not None
        assert logits.grad[ignored].abs().max() == 0
        # Lovasz has none where the class is wrong by less than at each of its own pixels.
        assert (logits.grad[~ignored] != 0).double().mean() > (0.9 if name == "lovasz" else 0.999)
        changed = torch.where(ignored, logits.detach() + 3, logits.detach())
        assert_close(loss(changed, mask), value)

    def test_an_image_without_a_label_gives_zero_and_a_gradient_of_zeros(self, name: str) -> None:
        logits, mask = batch(ignored=1)
        value = build_loss(name)(logits, mask)
        value.backward()
        assert float(value.detach()) == 0
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_the_gradient_is_that_of_finite_differences(self, name: str) -> None:
        logits, mask = batch()
        assert torch.autograd.gradcheck(build_loss(name, 255, [1, 2, 3, 4]).double(), (logits, mask))

    def test_half_precision_counts_more_pixels_than_its_range(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, 3, 300, 300, generator=generator)
        mask = torch.randint(0, 3, (1, 300, 300), generator=generator)
        loss = build_loss(name)
        assert_close(loss(logits.half(), mask), loss(logits, mask), rel=2e-3)

    def test_training_on_one_batch_makes_it_smaller(self, name: str) -> None:
        logits, mask = batch()
        values = nn.Parameter(logits.detach().clone())
        loss, optimizer = build_loss(name), torch.optim.Adam([values], lr=0.1)
        start = float(loss(values, mask).detach())
        for _ in range(20):
            optimizer.zero_grad()
            loss(values, mask).backward()
            optimizer.step()
        assert float(loss(values, mask).detach()) < 0.7 * start


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_loss("crossentropy"), "no loss is called 'crossentropy'. Did you mean cross_entropy"),
        (lambda: build_loss("dice", 255, [1, -1]), "must be finite and not negative"),
        (lambda: PixelCrossEntropy(reduction="none"), 'choose "mean" or "sum"'),
        (lambda: FocalLoss(gamma=-1), "gamma=-1: must not be negative"),
        (lambda: TverskyLoss(alpha=-1), "alpha=-1: must be a finite number, not negative"),
        (lambda: TverskyLoss(beta=math.nan), "beta=nan: must be a finite number"),
        (lambda: build_loss("dice+focal2"), "Did you mean focal.* Several are joined by "),
        (lambda: build_loss("dice", 255, "median"), "class_weights='median': give a list of numbers"),
        (lambda: build_loss("dice", 255, "12"), "class_weights='12': give a list of numbers"),
        (lambda: build_loss("dice", 255, [1, "two"]), "give a list of numbers"),
        (lambda: build_loss("dice", 255, 3), "class_weights=3: give a list of numbers"),
        (lambda: build_loss("dice", 255, []), "give a list of numbers"),
        (lambda: PixelSquaredError(of="logits"), 'choose "probabilities" or "scores"'),
        (lambda: PixelCrossEntropy()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2).long()), "of the same size"),
        (
            lambda: build_loss("cross_entropy", 255, [1, 2, 3])(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()),
            "3 entries for 2 classes",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

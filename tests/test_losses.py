from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from closeness import assert_close
from fullyconv.losses import LOSSES, DiceLoss, FocalLoss, PixelCrossEntropy, PixelSquaredError, build_loss


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


def test_squared_error_of_probabilities_is_the_brier_score() -> None:
    logits, mask = batch(ignored=0)
    expected = ((logits.softmax(1) - F.one_hot(mask, 4).movedim(-1, 1)) ** 2).sum(1).mean()
    assert_close(PixelSquaredError()(logits, mask), expected)


def test_squared_error_of_scores_is_zero_at_the_one_hot_label() -> None:
    mask = torch.randint(0, 4, (1, 3, 3))
    assert float(PixelSquaredError(of="scores")(F.one_hot(mask, 4).movedim(-1, 1).float(), mask)) == 0


@pytest.mark.parametrize("name", [*LOSSES, "cross_entropy+dice"])
class TestEveryLoss:
    def test_ignored_pixels_have_no_influence_and_no_gradient(self, name: str) -> None:
        logits, mask = batch()
        loss = build_loss(name, 255, [1, 2, 3, 4]).double()
        value = loss(logits, mask)
        value.backward()
        ignored = (mask == 255)[:, None].expand_as(logits)
        assert logits.grad is not None
        assert logits.grad[ignored].abs().max() == 0
        assert logits.grad[~ignored].abs().min() > 0
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

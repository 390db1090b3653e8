"""Losses over pixels, and custom ones.

Every one here leaves out the pixels labeled ``ignore_index`` and is zero where no pixel counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.errors import near_miss
from fullyconv.labels import AnyLabels, Labels
from fullyconv.training.heads import of_heads


class PixelwiseLoss(nn.Module):
    """What losses over pixels have in common: a label that is ignored, weights of the classes, a check of the shapes.

    Args:
        ignore_index: label of ignored pixels.
        class_weights: K weights, or None.
    """

    class_weights: Tensor | None

    def __init__(self, ignore_index: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        values = None if class_weights is None else torch.tensor(_numbers(class_weights))
        # A buffer that is not saved: it follows the module's device, and checkpoints do not depend on the loss.
        self.register_buffer("class_weights", values, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Give the loss of (N, K, H, W) logits against a (N, H, W) mask."""
        if logits.ndim != 4 or mask.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} and mask of shape {tuple(mask.shape)}: expected (N, K, H, W) "
                "logits and a (N, H, W) mask of the same size; upsample the scores first"
            )
        if self.class_weights is not None:
            _one_each(len(self.class_weights), logits.shape[1])
        if logits.dtype in (torch.float16, torch.bfloat16):  # the pixels of one batch do not fit into its range
            logits = logits.float()
        return self._loss(logits, mask, mask != self.ignore_index)

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        """Give the loss, where `valid` marks the pixels that count."""
        raise NotImplementedError

    def _weights(self, mask: Tensor, valid: Tensor) -> Tensor:
        """Give the weight of every pixel."""
        return valid if self.class_weights is None else valid * self.class_weights[mask.where(valid, 0)]

    def _mean_of_present(self, losses: Tensor, present: Tensor) -> Tensor:
        """Average the losses of the classes that occur, by their weights."""
        weight = present > 0
        return _mean(losses, weight if self.class_weights is None else weight * self.class_weights)


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    return _share((losses * weight).sum(), weight)


def _share(total: Tensor, weight: Tensor) -> Tensor:
    # 0/0 where every pixel is ignored, as torch's own mean has it: one such batch would destroy the weights.
    return total / weight.sum().to(total.dtype).clamp(min=torch.finfo(total.dtype).tiny)


def _one_hot(values: Tensor, mask: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the ignored pixels of (N, K, H, W) values and give the one-hot truth, zero there as well."""
    truth = F.one_hot(mask.where(valid, 0), values.shape[1]).movedim(-1, 1).to(values.dtype) * valid[:, None]
    return values * valid[:, None], truth


class PixelCrossEntropy(PixelwiseLoss):
    """Softmax cross entropy of every pixel.

    Args:
        ignore_index: label of ignored pixels.
        class_weights: K weights, or None. With ``reduction="mean"`` the mean is weighted too.
        reduction: ``"mean"`` over the pixels that count; ``"sum"`` over the pixels of an image, averaged over the
            images: the loss of the reference networks, which divides by the number of images and not of pixels, so that
            its learning rates (1e-10 with momentum 0.99) are smaller by the number of pixels (section 4.3).
        label_smoothing: in 0..1, spread evenly over the classes.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction={reduction!r}: choose "mean" or "sum"')
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits,
            mask,
            self.class_weights,
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / len(logits) if self.reduction == "sum" else _share(total, self._weights(mask, valid))


class FocalLoss(PixelwiseLoss):
    """Cross entropy times (1 - p)^gamma, the mean over the pixels that count (Lin et al. 2017).

    Args:
        ignore_index: label of ignored pixels.
        class_weights: K weights, or None.
        gamma: 0 gives cross entropy; larger values leave more to the pixels that are still wrong.
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, gamma: float = 2.0
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if gamma < 0:
            raise ValueError(f"gamma={gamma}: must not be negative")
        self.gamma = gamma

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1).gather(1, mask.where(valid, 0)[:, None]).squeeze(1)
        return _mean(-((1 - log_p.exp()) ** self.gamma) * log_p, self._weights(mask, valid))


class TverskyLoss(PixelwiseLoss):
    """One minus the mean Tversky index of the classes that occur in the batch (Salehi et al. 2017).

    The index is TP / (TP + alpha FP + beta FN), of probabilities. With both 0.5 it is the Dice coefficient.

    Args:
        ignore_index: label of ignored pixels, in the prediction as in the mask.
        class_weights: K weights of the mean, or None.
        alpha: what a pixel counts that is wrongly taken for the class.
        beta: what a missed pixel of the class counts; more than alpha finds more of a rare class.
        smooth: pixels added above and below, so that a tiny class does not jump.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
    ) -> None:
        super().__init__(ignore_index, class_weights)
        for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: must be a finite number, not negative")
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        probabilities, truth = _one_hot(logits.softmax(dim=1), mask, valid)
        overlap = (probabilities * truth).sum(dim=(0, 2, 3))
        present = truth.sum(dim=(0, 2, 3))
        wrong = self.alpha * (probabilities.sum(dim=(0, 2, 3)) - overlap) + self.beta * (present - overlap)
        # Twice of everything, so that smooth is that of the Dice coefficient, 2 TP / (2 TP + FP + FN).
        index = (2 * overlap + self.smooth) / (2 * overlap + 2 * wrong + self.smooth)
        return self._mean_of_present(1 - index, present)


class DiceLoss(TverskyLoss):
    """One minus the mean Dice coefficient of the classes that occur in the batch (Milletari et al. 2016).

    Args:
        ignore_index: label of ignored pixels, in the prediction as in the mask.
        class_weights: K weights of the mean, or None.
        smooth: pixels added above and below, so that a tiny class does not jump.
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, smooth: float = 1.0
    ) -> None:
        super().__init__(ignore_index, class_weights, alpha=0.5, beta=0.5, smooth=smooth)


class LovaszLoss(PixelwiseLoss):
    """The Lovasz extension of one minus the IoU, the mean over the classes of the batch (Berman et al. 2018).

    It is made for the IoU itself, of the batch and not of the set, and is used beside cross entropy or after it.

    Args:
        ignore_index: label of ignored pixels.
        class_weights: K weights of the mean, or None.
    """

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        probabilities = logits.softmax(dim=1).movedim(1, 0).flatten(1)[:, valid.flatten()]
        truth = F.one_hot(mask[valid], len(probabilities)).T.to(logits.dtype)
        errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        present = truth.sum(dim=1)
        # IoU if the pixels up to each one, the worst first, are wrong and all others right.
        iou = (present[:, None] - truth.cumsum(1)) / (present[:, None] + (1 - truth).cumsum(1))
        growth = torch.diff(1 - iou, dim=1, prepend=iou.new_zeros(len(iou), 1))
        return self._mean_of_present((errors * growth).sum(dim=1), present)


class PixelSquaredError(PixelwiseLoss):
    """Squared distance to the one-hot label, the mean over the pixels that count: the loss of the first approaches.

    Args:
        ignore_index: label of ignored pixels.
        class_weights: K weights by the true class, or None.
        of: ``"probabilities"`` after softmax (the Brier score), or the raw ``"scores"``, regressed to 0 and 1.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        of: Literal["probabilities", "scores"] = "probabilities",
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if of not in ("probabilities", "scores"):
            raise ValueError(f'of={of!r}: choose "probabilities" or "scores"')
        self.of = of

    def _loss(self, logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        values = logits.softmax(dim=1) if self.of == "probabilities" else logits
        values, truth = _one_hot(values, mask, valid)
        return _mean(((values - truth) ** 2).sum(dim=1), self._weights(mask, valid))


class SumOfLosses(nn.Module):
    """The sum of several losses, each with weight 1: ``cross_entropy+dice`` and its like."""

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Give the sum for (N, K, H, W) logits against a (N, H, W) mask."""
        return torch.stack([loss(logits, mask) for loss in self.losses]).sum()


class SummedLoss(nn.ModuleDict):
    """The sum of the losses of all heads, with weight 1 each, as the reference's networks for SIFT Flow have it."""

    def forward(self, logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Give the sum for logits and masks by head."""
        if not isinstance(masks, Mapping) or masks.keys() != self.keys():
            found = f"the keys {', '.join(masks)}" if isinstance(masks, Mapping) else f"a {type(masks).__name__}"
            raise ValueError(f'batch["mask"] has {found}; give a dict with masks for each head: {", ".join(self)}')
        return torch.stack([loss(logits[head], masks[head]) for head, loss in self.items()]).sum()


PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""(N, K, H, W) logits and a (N, H, W) int64 mask -> one number; a module or a function."""

_OWN = "own:"  # before the name of a loss in hyper-parameters that is none of LOSSES


class OwnLoss(nn.Module):
    """A loss of somebody else, which has to give one number.

    Args:
        function: the loss; what it leaves out and how it weighs classes is its own affair.
    """

    def __init__(self, function: PixelLoss) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Give the loss of (N, K, H, W) logits against a (N, H, W) mask."""
        value = self.function(logits, mask)
        if not isinstance(value, Tensor) or value.ndim:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"loss={loss_name(self.function)}: gives {found}; give one number, such as the mean over the pixels "
                "that count, as a tensor without dimensions"
            )
        return value


class AbsentLoss(nn.Module):
    """Stand in for a loss of somebody's own: a checkpoint holds its name alone, and nothing is imported from it.

    Args:
        name: what the checkpoint calls it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"loss={self.name!r}: was not loaded with the checkpoint, which only names it; give it, "
            "load_from_checkpoint(PATH, loss=...)"
        )


LOSSES: dict[str, Callable[[int, Sequence[float] | None], nn.Module]] = {
    "cross_entropy": PixelCrossEntropy,
    "cross_entropy_sum": partial(PixelCrossEntropy, reduction="sum"),
    "focal": FocalLoss,
    "dice": DiceLoss,
    "tversky": TverskyLoss,
    "lovasz": LovaszLoss,
    "squared_error": PixelSquaredError,
    "squared_error_scores": partial(PixelSquaredError, of="scores"),
}


def loss_name(loss: str | PixelLoss) -> str:
    """Say in words what loss it is: its name, or where one of somebody else comes from.

    Args:
        loss: as `build_loss` takes it.

    Example:
        >>> loss_name(F.cross_entropy)
        'own:torch.nn.functional.cross_entropy'
    """
    if isinstance(loss, str):
        return loss
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{_OWN}{kind.__module__}.{kind.__qualname__}"


def build_loss(
    name: str | PixelLoss, ignore_index: int = 255, class_weights: Sequence[float] | None = None
) -> nn.Module:
    """Build a loss by name, or use a custom one.

    Args:
        name: a key of LOSSES, or several joined by ``+``, such as ``"cross_entropy+dice"``; or a module or function of
            (N, K, H, W) logits and a (N, H, W) mask that gives one number.
        ignore_index: label of ignored pixels.
        class_weights: K weights, or None.

    Raises:
        ValueError: if a name is unknown, a weight is negative or not finite, or weights are given with a custom loss.
    """
    if not isinstance(name, str):
        if not callable(name) or isinstance(name, type):
            raise ValueError(f"loss={name!r}: give a name, or an object that is called with logits and mask")
        if class_weights is not None:
            raise ValueError("class_weights are for losses by name; a loss of your own has its own")
        return OwnLoss(name)
    if name.startswith(_OWN):
        return AbsentLoss(name.removeprefix(_OWN))
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in LOSSES:
            own = f" In a recipe a loss of your own is {{class_path: {part}}}." if "." in part else ""
            raise ValueError(
                f"loss={name!r}: no loss is called {part!r}. {near_miss(part, LOSSES)} Several are joined by +, as "
                f"cross_entropy+dice.{own}"
            )
    losses = [LOSSES[part](ignore_index, class_weights) for part in parts]
    return losses[0] if len(losses) == 1 else SumOfLosses(losses)


def loss_of(loss: str | nn.Module | PixelLoss, labels: AnyLabels, class_weights: Any, ignore_index: int) -> nn.Module:
    """Build the loss; that of several heads is the sum of theirs.

    Args:
        loss: as `SegmentationModule` takes it.
        labels: the classes.
        class_weights: K weights, or None; of several heads a dict by head.
        ignore_index: label of ignored pixels.

    Returns:
        A module of logits and masks, or of dicts of them by head, that gives one number.

    Raises:
        ValueError: if the loss or the weights are invalid.
    """
    if isinstance(labels, Labels):
        built = build_loss(loss, ignore_index, class_weights)
        if class_weights is not None:
            _one_each(len(class_weights), labels.num_classes)
        return built
    weights = of_heads("class_weights", class_weights, labels)
    return SummedLoss({head: loss_of(loss, one, weights.get(head), ignore_index) for head, one in labels.items()})


def _numbers(weights: Sequence[float]) -> list[float]:
    """Give class weights as numbers; refuse what is none."""
    try:
        numbers = [] if isinstance(weights, str) else [float(weight) for weight in weights]
    except (TypeError, ValueError):
        numbers = []
    if not any(numbers) or not all(0 <= number < math.inf for number in numbers):
        raise ValueError(
            f"class_weights={weights!r}: give a list of numbers, one a class in their order; they must be finite "
            "and not negative, some above 0; 'fullyconv doctor DATA' prints such weights"
        )
    return numbers


def _one_each(weights: int, classes: int) -> None:
    if weights != classes:
        raise ValueError(f"class_weights has {weights} entries for {classes} classes: give one weight a class")

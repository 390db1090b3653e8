"""How weights are optimized: SGD or AdamW, by groups of parameters, with a schedule by steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import nn

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "poly", "cosine"]


@dataclass(frozen=True)
class Optimization:
    """The numbers of an optimizer and its schedule; `SegmentationModule` says what they mean.

    Raises:
        ValueError: if a number is outside its range, or a name is none.
    """

    optimizer: Optimizer = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr_factor: float = 1.0
    backbone_lr_factor: float = 1.0
    schedule: Schedule = "poly"
    poly_power: float = 0.9
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        if self.schedule not in ("constant", "poly", "cosine"):
            raise ValueError(f'schedule={self.schedule!r}: choose "constant", "poly" or "cosine"')
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f'optimizer={self.optimizer!r}: choose "sgd" or "adamw"')
        for name in ("momentum", "weight_decay", "bias_lr_factor", "backbone_lr_factor", "poly_power", "warmup_steps"):
            number = getattr(self, name)
            if not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
                raise ValueError(f"{name}={number!r}: must be a finite number, at least 0")
        if not isinstance(self.lr, int | float) or not math.isfinite(self.lr) or self.lr <= 0:
            raise ValueError(f"lr={self.lr!r}: must be a positive number")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Take the numbers from the arguments of a module."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def configure(self, named: Iterable[tuple[str, nn.Parameter]], steps: Callable[[], float]) -> Any:
        """Build the optimizer, and the schedule by steps.

        Args:
            named: the parameters of the module; those that are not trained are left out.
            steps: gives the number of optimizer steps of the run.

        Returns:
            What Lightning's `configure_optimizers` returns.

        Raises:
            ValueError: if no parameter is trained, or the schedule ends with a run that has no end.
        """
        groups = self._groups(named)
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr)
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        total = steps()
        if not math.isfinite(total) and self.schedule != "constant":
            raise ValueError(
                f"schedule={self.schedule!r}: it ends at the last step, and this trainer has none; set max_epochs or "
                'max_steps, or schedule="constant"'
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def factor(self, step: int, total: float) -> float:
        """Give what the learning rate of a step is multiplied by.

        Args:
            step: counted from 0.
            total: number of steps of the run.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        rest = min(1.0, max(0.0, (step - self.warmup_steps) / max(1.0, total - self.warmup_steps)))
        if self.schedule == "poly":
            return float((1 - rest) ** self.poly_power)
        return 0.5 * (1 + math.cos(math.pi * rest))

    def _groups(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in named:
            if parameter.requires_grad:
                # One-dimensional parameters are biases and the scales of normalization layers: no decay for either.
                groups.setdefault((name.startswith("model.backbone."), parameter.ndim <= 1), []).append(parameter)
        if not groups:
            raise ValueError("freeze: nothing is left to train; freeze less")
        return [
            {
                "params": parameters,
                "lr": self.lr
                * (self.backbone_lr_factor if in_backbone else 1.0)
                * (self.bias_lr_factor if is_bias else 1.0),
                "weight_decay": 0.0 if is_bias else self.weight_decay,
            }
            for (in_backbone, is_bias), parameters in groups.items()
        ]

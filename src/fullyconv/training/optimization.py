"""How weights are optimized: SGD or AdamW, by groups of parameters, with a schedule by steps.

The numbers are hyper-parameters of `SegmentationModule`, which says what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn


def check(hp: Mapping[str, Any]) -> None:
    """Check every number and name.

    Args:
        hp: the hyper-parameters of a module.

    Raises:
        ValueError: if a number is outside its range, or a name is none.
    """
    if not isinstance(hp["model"], str):
        raise ValueError(f"model={hp['model']!r}: give a name")
    if isinstance(hp["freeze"], str):
        raise ValueError(f"freeze={hp['freeze']!r}: give a list of prefixes, [{hp['freeze']!r}]")
    if hp["ema_decay"] is not None and not 0 < hp["ema_decay"] < 1:
        raise ValueError(f"ema_decay={hp['ema_decay']}: must lie between 0 and 1 (0.999 is usual), or be None")
    if hp["schedule"] not in ("constant", "poly", "cosine"):
        raise ValueError(f'schedule={hp["schedule"]!r}: choose "constant", "poly" or "cosine"')
    if hp["optimizer"] not in ("sgd", "adamw"):
        raise ValueError(f'optimizer={hp["optimizer"]!r}: choose "sgd" or "adamw"')
    for name in ("momentum", "weight_decay", "bias_lr_factor", "backbone_lr_factor", "poly_power", "warmup_steps"):
        number = hp[name]
        if not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
            raise ValueError(f"{name}={number!r}: must be a finite number, at least 0")
    if not isinstance(hp["lr"], int | float) or not math.isfinite(hp["lr"]) or hp["lr"] <= 0:
        raise ValueError(f"lr={hp['lr']!r}: must be a positive number")


def configure(hp: Mapping[str, Any], named: Iterable[tuple[str, nn.Parameter]], steps: Callable[[], float]) -> Any:
    """Build the optimizer, and the schedule by steps.

    Args:
        hp: the hyper-parameters of the module.
        named: its parameters; those that are not trained are left out.
        steps: gives the number of optimizer steps of the run.

    Returns:
        What Lightning's `configure_optimizers` returns.

    Raises:
        ValueError: if no parameter is trained, or the schedule ends with a run that has no end.
    """
    groups, schedule = _groups(hp, named), hp["schedule"]
    optimizer: torch.optim.Optimizer
    if hp["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=hp["lr"], momentum=hp["momentum"])
    else:
        optimizer = torch.optim.AdamW(groups, lr=hp["lr"])
    if schedule == "constant" and not hp["warmup_steps"]:
        return optimizer
    total = steps()
    if not math.isfinite(total) and schedule != "constant":
        raise ValueError(
            f"schedule={schedule!r}: it ends at the last step, and this trainer has none; set max_epochs or max_steps, "
            'or schedule="constant"'
        )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(hp, step, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def factor(hp: Mapping[str, Any], step: int, total: float) -> float:
    """Give what the learning rate of a step is multiplied by.

    Args:
        hp: the hyper-parameters of the module.
        step: counted from 0.
        total: number of steps of the run.
    """
    warmup = hp["warmup_steps"]
    if step < warmup:
        return float((step + 1) / (warmup + 1))
    if hp["schedule"] == "constant":
        return 1.0
    rest = min(1.0, max(0.0, (step - warmup) / max(1.0, total - warmup)))
    if hp["schedule"] == "poly":
        return float((1 - rest) ** hp["poly_power"])
    return 0.5 * (1 + math.cos(math.pi * rest))


def _groups(hp: Mapping[str, Any], named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            # One-dimensional parameters are biases and the scales of normalization layers: no decay for either.
            groups.setdefault((name.startswith("model.backbone."), parameter.ndim <= 1), []).append(parameter)
    if not groups:
        raise ValueError("freeze: nothing is left to train; freeze less")
    found = []
    for (in_backbone, is_bias), parameters in groups.items():
        rate = hp["lr"] * (hp["backbone_lr_factor"] if in_backbone else 1) * (hp["bias_lr_factor"] if is_bias else 1)
        decay = 0.0 if is_bias else hp["weight_decay"]
        found.append({"params": parameters, "lr": rate, "weight_decay": decay})
    return found

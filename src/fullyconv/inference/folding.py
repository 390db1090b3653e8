"""Batch norm folded into the convolution in front of it: the same outputs from fewer passes over memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)

_TOLERANCE = 1e-3  # of the largest output, between a model and its folded copy


def fold(model: M, run: Callable[[M], Tensor]) -> M | None:
    """Copy a model in evaluation mode with every batch norm folded into its convolution.

    A batch norm is folded where a run of the model shows that it takes what a convolution has just given, that nothing
    else that is a module takes that too, and that both ran once. The copy is used only if it gives the same outputs.

    Args:
        model: in evaluation mode; it is left as it is.
        run: calls a model on an example and gives its output.

    Returns:
        The copy, its parameters without gradients; None where there is nothing to fold or the outputs would differ.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
        >>> print(fold(net, lambda model: model(torch.ones(1, 3, 5, 5))))
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
    """
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return None
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.inference_mode():
        expected, pairs = _watched(copied, run)
        if not pairs:
            return None
        for conv, norm in pairs:
            fused = fuse_conv_bn_eval(copied.get_submodule(conv), copied.get_submodule(norm))  # type: ignore[type-var, arg-type]
            copied.set_submodule(conv, fused.requires_grad_(False))
            copied.set_submodule(norm, nn.Identity())
        found = run(copied)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    if not math.isfinite(largest) or found.shape != expected.shape:
        return None
    return copied if torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * largest) else None


def _watched(model: M, run: Callable[[M], Tensor]) -> tuple[Tensor, list[tuple[str, str]]]:
    """Run a model, and name the convolutions with the batch norms that take their outputs."""
    kept: list[Tensor] = []  # alive until the end, so that no address is used twice
    givers: dict[int, str] = {}
    takers: dict[int, list[str]] = {}
    calls: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            for value in inputs:
                if isinstance(value, Tensor):
                    takers.setdefault(id(value), []).append(name)
                    kept.append(value)
            if type(module) is nn.Conv2d and isinstance(output, Tensor):  # a parametrized one is of a class of its own
                givers[id(output)] = name
                kept.append(output)

        return hook

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves.items()]
    try:
        output = run(model)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for given, conv in givers.items():
        taken = takers.get(given, [])
        if len(taken) == 1 and type(leaves[taken[0]]) is nn.BatchNorm2d and calls[conv] == calls[taken[0]] == 1:
            pairs.append((conv, taken[0]))
    return output, pairs


def fingerprint(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Tell whether weights were changed or exchanged since: where each tensor lies, and how often it was written to.

    Args:
        model: any model.

    Returns:
        A value that is equal as long as nothing was changed.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return tuple((value.data_ptr(), -1 if value.is_inference() else value._version) for value in tensors)

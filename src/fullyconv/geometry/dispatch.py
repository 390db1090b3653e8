"""Modes that see every operation of torch, among them one that runs them without data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_NORMS = {
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten._native_batch_norm_legit.default,
    torch.ops.aten._native_batch_norm_legit_no_training.default,
}
_ACTIVATIONS = {
    getattr(torch.ops.aten, name).default
    for plain in ("hardtanh", "silu", "hardswish", "hardsigmoid", "gelu", "elu", "leaky_relu")
    for name in (plain, f"{plain}_")
}
_SUMS = {getattr(torch.ops.aten, name).Tensor for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See every operation, without the import of torch's compiler that its base asks for at the first one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class WithoutData(Watch):  # type: ignore[no-untyped-call]
    """Run operations on the shapes of tensors alone: every tensor is taken as one of the meta device.

    torch's own mode for this knows more operations, and its import takes longer than that of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # alive, so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on tensors without data."""
        args, kwargs = tree_map(self._emptied, (args, kwargs or {}))
        # Of these torch computes the shapes by its compiler or by sympy, whose imports take longer than all else here.
        if func in _ACTIVATIONS or (func in _SUMS and _alike(args)):
            return args[0] if func._schema.is_mutable else args[0].new_empty(args[0].shape)
        if func in _NORMS:
            statistics = args[0].new_empty(args[0].shape[1])
            return args[0].new_empty(args[0].shape), statistics, statistics.clone()
        if func is torch.ops.aten.convolution.default and (result := _convolved(*args)) is not None:
            return result
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)

    def _emptied(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.is_meta:
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value, value.to("meta")
        return self._known[id(value)][1]


def _convolved(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
               output_padding: Any, groups: int) -> Tensor | None:  # fmt: skip
    """Give the empty result of a convolution; None where the image does not fit, of which torch says what is wrong."""
    taken, channels = weight.shape[1] * groups, weight.shape[0]
    if transposed:
        taken, channels = weight.shape[0], weight.shape[1] * groups
    if x.ndim != weight.ndim or x.shape[1] != taken:
        return None
    sizes = []
    for i, size in enumerate(x.shape[2:]):
        step, reach = stride[i], dilation[i] * (weight.shape[2 + i] - 1) - 2 * padding[i]
        sizes.append(
            (size - 1) * step + reach + output_padding[i] + 1 if transposed else (size - reach - 1) // step + 1
        )
    return x.new_empty(x.shape[0], channels, *sizes) if min(sizes) > 0 else None


def _alike(args: tuple[Any, ...]) -> bool:
    """Tell whether two operands are of one shape and floating type, so that their sum is, too."""
    one, two = args
    return isinstance(two, Tensor) and one.is_floating_point() and (one.shape, one.dtype) == (two.shape, two.dtype)

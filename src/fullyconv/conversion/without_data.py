"""Running a classifier without data, and leaving no mark on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fullyconv import geometry
from fullyconv.conversion.hooks import PARALLEL
from fullyconv.geometry import Pair

# Odd and unlike any usual number of cells, so that the batch axis of an intermediate tensor is found by its length.
BATCH = 3


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluate for a while without gradients; afterwards restore modes, attributes and values, whatever ran."""
    with geometry.undisturbed(module), torch.no_grad():
        values = [(buffer, buffer.clone()) for buffer in module.buffers() if not buffer.is_meta]
        for each in module.modules():  # a hook of the backward pass is nothing to what stands for a tensor
            each.__dict__["_backward_hooks"], each.__dict__["_backward_pre_hooks"] = OrderedDict(), OrderedDict()
            if isinstance(each, PARALLEL):
                each.__dict__["forward"] = each._modules["module"]
        try:
            yield
        finally:
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def example(module: nn.Module, channels: int, size: Pair, batch: int = BATCH) -> Tensor:
    """Make an input in the precision and on the device of a module's parameters."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, channels, *size, dtype=like.dtype, device=like.device)


def tensors(value: Any) -> list[Tensor]:
    """List the tensors in a nested value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def map_axes(reference: Sequence[int], larger: Sequence[int]) -> Pair | None:
    """Say which axes of a tensor are the height and width of a map: (2, 3), (1, 2), or None where it is no map."""
    if len(reference) != 4 or len(larger) != 4:
        return None
    grown = tuple(axis for axis in range(4) if larger[axis] > reference[axis])
    same = all(larger[axis] == reference[axis] for axis in range(4) if axis not in grown)
    return grown if same and grown in ((2, 3), (1, 2)) else None

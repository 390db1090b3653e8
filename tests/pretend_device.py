"""A pretend accelerator: tensors that say they are on ``pretend:0`` and are computed by the processor.

As on a real one, an operation takes tensors of one device, but for numbers without dimensions, and what is read by
numpy has to be copied first. So code that runs here mixes no devices. torch is told of it for the whole process; a test
begins one of its own for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class Memory(_DummyBackendModule):
    """What torch asks a device for."""

    free = 2**33

    def mem_get_info(self, _: Any) -> tuple[int, int]:
        return self.free, 2**34

    def memory_reserved(self, _: Any) -> int:
        return 0

    memory_allocated = memory_reserved

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


MEMORY = Memory()
_setup_privateuseone_for_python_backend("pretend", MEMORY)
DEVICE = torch.device("pretend", 0)
COPIES = ("aten::_to_copy", "aten::copy_", "aten::to")


class Away(Tensor):
    """A tensor that lies elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        made: Away = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=self.dtype, **options).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Make tensors on the pretend device where they are asked for, and compute there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def here(one: Any) -> Any:
    if isinstance(one, Away):
        return one.inner
    return torch.device("cpu") if isinstance(one, torch.device) and one.type == DEVICE.type else one


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation by the processor, and give its tensors the device that they would have."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(one, Away) for one in given)
    stray = [tuple(one.shape) for one in given if not isinstance(one, Away) and one.dim()]
    if away and stray and func.name().partition(".")[0] not in COPIES:
        raise RuntimeError(f"{func}: tensors on {DEVICE}, and on the processor of the shapes {stray}")
    for one in tree_leaves((args, kwargs)):
        away = one.type == DEVICE.type if isinstance(one, torch.device) else away
    kept = {id(one.inner): one for one in given if isinstance(one, Away)}
    args, kwargs = tree_map(here, (args, kwargs))

    def placed(one: Any) -> Any:
        if not isinstance(one, Tensor) or not away:
            return one
        return kept[id(one)] if id(one) in kept else Away(one)  # what was written to, or something new

    return tree_map(placed, func(*args, **kwargs))

"""What computes: the device that somebody asks for, its memory, and the types that its processor only emulates."""

from __future__ import annotations

import platform
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from fullyconv.inference.budget import available_memory

Device = str | torch.device | None
"""A device by its name, as torch has it; "auto" is the accelerator of this machine, None its processor."""

Precision = Literal["float32", "bfloat16", "float16"]
"""What convolutions are computed in; labels are found in float32 all the same."""

_PINNED = ("cuda", "xpu")  # devices that copy from pinned memory while the processor goes on


def device_of(device: Device) -> torch.device:
    """Say which device is meant.

    Args:
        device: its name, "auto" for the accelerator of this machine (its processor where there is none), or None for
            the processor.

    Raises:
        ValueError: if torch knows no such device, or this machine has none.

    Example:
        >>> device_of(None)
        device(type='cpu')
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return accelerator or torch.device("cpu")
    count = 0 if accelerator is None else torch.accelerator.device_count()
    found = None if accelerator is None else accelerator.type
    names = [f"{found}:{index}" for index in range(count)] if count > 1 else [str(found)] * count
    here = f"write auto, or what is here: {', '.join(['cpu', *names])}"
    try:
        place = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: is no device that torch knows; {here}") from error
    if place.type in ("cpu", "meta"):
        return place
    if place.type != found or (place.index or 0) >= count:
        raise ValueError(f"device={str(device)!r}: this machine has no such device, as torch sees it; {here}")
    return place


def free_memory(device: torch.device) -> int:
    """Give the bytes that are free on a device now; what torch keeps there for later and does not use counts as free.

    Args:
        device: the processor, or an accelerator.
    """
    if device.type in ("cpu", "meta"):
        return available_memory()
    known = torch.get_device_module(device)
    if not hasattr(known, "mem_get_info"):  # Apple's, which shares the memory of the machine
        return max(0, int(known.recommended_max_memory()) - int(known.driver_allocated_memory()))
    free, _ = known.mem_get_info(device)
    return int(free) + int(known.memory_reserved(device)) - int(known.memory_allocated(device))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the processor to a device, which does not keep the processor waiting where there is a way.

    Args:
        tensor: on the processor.
        device: where it is wanted.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type in _PINNED else tensor.to(device)


@cache
def emulates(dtype: torch.dtype) -> bool:
    """Tell whether the processor computes convolutions in a floating type only by emulating it, many times slower.

    What has its own instructions for products of the type does not; that is a property of the processor.

    Args:
        dtype: such as ``torch.bfloat16``.
    """
    if dtype in (torch.float32, torch.float64):
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        cpu = torch.cpu
        if dtype == torch.bfloat16:
            return not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
        return dtype != torch.float16 or not cpu._is_amx_fp16_supported()
    named = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    try:
        return not getattr(torch.ops.mkldnn, named[dtype])()
    except (KeyError, AttributeError, RuntimeError):  # a type of another kind, or a torch without oneDNN
        return True

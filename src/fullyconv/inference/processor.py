"""What computes: the device that somebody asks for, and what its processor only emulates."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F

Device = str | torch.device | None
"""A device by its name, as torch has it; "auto" is the accelerator of this machine, None its processor."""

_TIMES_SLOWER = 3.0  # emulation takes 8 to 150 times as long; a processor that can do it takes no longer than float32


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
    here = "cpu" if accelerator is None else f"cpu or {accelerator.type}"
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: is no device that torch knows; write auto, {here}") from error
    if found.type in ("cpu", "meta"):
        return found
    if accelerator is None or found.type != accelerator.type or (found.index or 0) >= torch.accelerator.device_count():
        raise ValueError(
            f"device={str(device)!r}: this machine has no such device, as torch sees it; write auto, {here}"
        )
    return found


@cache
def emulates(dtype: torch.dtype) -> bool:
    """Tell whether the processor computes convolutions in a floating type only by emulating it, many times slower.

    It is measured once, in some milliseconds: what processors promise differs between systems, and their promises say
    little about the kernels that torch has for them.

    Args:
        dtype: such as ``torch.bfloat16``.
    """
    if dtype in (torch.float32, torch.float64):
        return False

    def seconds(kind: torch.dtype) -> float:
        image, weight = torch.ones(1, 64, 48, 48, dtype=kind), torch.ones(96, 64, 1, 1, dtype=kind)
        times = []
        for _ in range(4):  # the first one prepares
            begun = time.perf_counter()
            F.conv2d(image, weight)
            times.append(time.perf_counter() - begun)
        return min(times)

    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        try:
            return seconds(dtype) > _TIMES_SLOWER * seconds(torch.float32)
        except RuntimeError:  # not implemented at all
            return True

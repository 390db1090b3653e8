"""What the processor at hand does badly: floating types that it only emulates."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F

_TIMES_SLOWER = 3.0  # emulation takes 8 to 150 times as long; a processor that can do it takes no longer than float32


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

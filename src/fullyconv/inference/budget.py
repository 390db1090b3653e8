"""How much memory and how many cores a prediction may take: of a word, or of the machine. It needs no torch."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from fullyconv.images.opening import MAX_PIXELS

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")  # what a container may use is less than what the machine has
_UNKNOWN = 2**31  # bytes, where the system does not say


def parse_memory(value: int | str) -> int:
    """Read an amount of memory.

    Args:
        value: bytes, or a number with a unit: ``"2GB"``, ``"1.5 GiB"``, ``"500MB"``.

    Returns:
        Bytes.

    Raises:
        ValueError: if it is no positive amount.

    Example:
        >>> parse_memory("2GB"), parse_memory("1.5 GiB"), parse_memory(1000)
        (2000000000, 1610612736, 1000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _UNITS.get(found[2].upper()) if found else None
    if isinstance(value, bool) or found is None or unit is None or float(found[1]) * unit < 1:
        raise ValueError(f"memory={value!r}: give a number of bytes above 0, or a number with a unit such as '2GB'")
    return int(float(found[1]) * unit)


def available_memory() -> int:
    """Give the bytes of main memory that are free now, as far as the system and the container tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):  # counts what the cache of files would give back
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, AttributeError):  # other systems
        free = _UNKNOWN
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        if most != "max":
            free = min(free, max(0, int(most) - int((_CGROUP / "memory.current").read_text())))
    except (OSError, ValueError):
        pass
    return free


def available_processors() -> int:
    """Give the number of cores that this process may use, as far as the system and the container tell.

    A container that may use two of 64 cores still sees 64, and 64 threads then wait for each other.

    Returns:
        At least 1; shares of a core are rounded up.
    """
    try:
        found = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # other systems
        found = os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        if quota != "max":
            found = min(found, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, found)


def most_pixels(memory: int | str | None, in_channels: int) -> int:
    """Give the pixels that an image may have: who says how much memory there is may fill half of it with an image.

    Args:
        memory: what was said, or None.
        in_channels: bands of the image.
    """
    return MAX_PIXELS if memory is None else max(MAX_PIXELS, parse_memory(memory) // (2 * in_channels))

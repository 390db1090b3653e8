"""How much memory and how many cores a prediction may take: of a word, or of the machine. It needs no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fullyconv.errors import DatasetError, first_line
from fullyconv.images.opening import MAX_PIXELS

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")  # what a container may use is less than what the machine has
_UNKNOWN = 2**31  # bytes, where the system does not say
_SHORT = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|could not create a primitive|can't start new thread"
)


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
    """Give the bytes of main memory that are free now, as far as the system, the container and the shell tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):  # counts what the cache of files would give back
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, AttributeError):  # other systems
        free = _UNKNOWN
    return int(max(0, min(free, *_left_to_groups(), _left_to_process())))


def _left_to_groups() -> Iterator[int]:
    """Give the bytes that are left to the control group of this process, and to each group around it."""
    kinds = {  # of version 1, of version 2
        "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        "": ("", "memory.max", "memory.current", "inactive_file"),
    }
    places = {("", "/"), ("memory", "/")}
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            places |= {(kind, place) for kind in kinds if kind in controllers.split(",")}
    for kind, place in places:
        mount, most, used, cache = kinds[kind]
        inner = _CGROUP / mount / place.lstrip("/")
        for group in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such group here, or no limit: "max"
                left = int((group / most).read_text()) - int((group / used).read_text())
                with suppress(OSError, ValueError, KeyError):
                    told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    left += int(told[cache])  # what the cache of files would give back
                yield left
            if group == _CGROUP:
                break


def _left_to_process() -> float:
    """Give the bytes of addresses that ``ulimit -v`` leaves to this process."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most == resource.RLIM_INFINITY:
            return math.inf
        return most - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # other systems
        return math.inf


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that memory could not be had."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SHORT.search(str(error))))


@contextmanager
def naming_memory(name: str) -> Iterator[None]:
    """Let an error of the allocator name the image that memory was wanted for, and what to do.

    Args:
        name: of the image.

    Raises:
        DatasetError: where memory could not be had.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise DatasetError(
            f"{name}: needs more memory than there is ({first_line(error)[:120]}); give the bytes that a prediction "
            "may take (memory=, --memory 500MB), by which images are cut into tiles"
        ) from error


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

"""What the benchmarks share: the machine, turns, medians, peaks of memory, and the rows that `all.py` collects.

It imports nothing but the standard library, so that a process that uses it holds no more than it needs.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Spread = tuple[float, float, float]  # median, least, largest


@dataclass(frozen=True)
class Row:
    """One comparison: what was done, by whom, and how they compare.

    Args:
        what: the task, with its size.
        ours: which way of ours.
        peer: who does it otherwise, with a version.
        seconds: of ours.
        peer_seconds: of the peer.
        times: how many times faster ours is, of each turn.
        memory: how many times less memory ours takes.
        least_times: what `times` should be at least.
        least_memory: what `memory` should be at least.
        most_seconds: what `seconds` should be at most.
        note: what else belongs to it.
    """

    what: str
    ours: str
    peer: str
    seconds: Spread | None = None
    peer_seconds: Spread | None = None
    times: Spread | None = None
    memory: float | None = None
    least_times: float | None = None
    least_memory: float | None = None
    most_seconds: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether every target is met; None where there is none."""
        found = [
            (self.times[0] if self.times else None, self.least_times),
            (self.memory, self.least_memory),
            (-self.seconds[0] if self.seconds else None, None if self.most_seconds is None else -self.most_seconds),
        ]
        judged = [value is not None and value >= least for value, least in found if least is not None]
        return all(judged) if judged else None

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Row:
        """Read what `to_dict` gives."""
        spreads = ("seconds", "peer_seconds", "times")
        return cls(
            **{key: tuple(value) if key in spreads and value else value for key, value in document.items()}  # type: ignore[arg-type]
        )


def spread(values: Sequence[float]) -> Spread:
    """Give the median, the least and the largest."""
    return statistics.median(values), min(values), max(values)


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Give how many times more theirs took, turn by turn."""
    return spread([one / other for one, other in zip(theirs, ours, strict=True)])


def clock_for(threads: int) -> Callable[[], float]:
    """Give a clock: seconds of the processor with one thread, which other processes do not change; else the wall's."""
    return time.process_time if threads == 1 else time.perf_counter


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run all in turn, so that a busy moment hits all of them, and give the seconds of each turn.

    Args:
        runs: what is run, by name.
        repeats: turns that count.
        warm_up: turns before that do not.
        clock: what gives seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + repeats):
        for name, run in runs.items():
            begun = clock()
            run()
            if turn >= warm_up:
                taken[name].append(clock() - begun)
    return taken


class Peak:
    """The memory that a block needs at most beyond what the process held before, in MiB.

    Example:
        >>> with Peak() as peak:
        ...     text = "x" * 2**25
        >>> peak.mib > 30
        True
    """

    mib = 0.0

    def __enter__(self) -> Peak:
        gc.collect()
        if os.access("/proc/self/clear_refs", os.W_OK):
            with open("/proc/self/clear_refs", "w", encoding="utf-8") as reset:
                reset.write("5")  # the peak begins anew
        self._before = held_mib()
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = held_mib() - self._before


def held_mib() -> float:
    """Give the most memory that this process has held, in MiB."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as lines:
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds on the wall, MiB at most, seconds of processors, and what it printed."""

    seconds: float
    mib: float
    busy: float
    output: str


# What a child has used is only known to its parent once it has ended, and only as the largest of all its children; and
# a child begins with the memory of its parent. So a small process stands between.
_WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_maxrss, used.ru_utime + used.ru_stime, done.stdout]))
sys.exit(done.returncode)
"""


def process(command: Sequence[str | Path], threads: int = 1) -> Usage:
    """Run a Python command (what follows the interpreter) in a process of its own, and watch what it takes.

    Raises:
        SystemExit: with what it printed, if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    words = [sys.executable, "-c", _WATCH, sys.executable, *map(str, command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stderr[-3000:]}")
    seconds, most, busy, output = json.loads(done.stdout.splitlines()[-1])
    return Usage(seconds, most / (2**20 if sys.platform == "darwin" else 2**10), busy, output)


def machine(*packages: str, threads: int | None = None) -> str:
    """Name processor, cores, load and versions."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    running = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    versions = ", ".join([f"Python {platform.python_version()}", *map(version, (*packages, "fullyconv"))])
    return f"{model}, {os.cpu_count()} cores{running}{load}; {versions}"


def version(package: str) -> str:
    """Give the name of an installed package and its version."""
    return f"{package} {importlib.metadata.version(package)}"


def add_arguments(parser: argparse.ArgumentParser, repeats: int, *, threads: bool = True) -> None:
    """Add the options that all benchmarks share."""
    parser.add_argument(
        "--repeats", type=_positive, default=repeats, help="turns; medians count (default: %(default)s)"
    )
    if threads:
        parser.add_argument("--threads", type=_positive, default=1, help="with 1, processor time is measured")
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option for the collector."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows that all.py collects")


def finish(rows: Sequence[Row], path: Path | None, about: str) -> None:
    """Write the rows for the collector, whole or not at all, if it asked for them."""
    if path is None:
        return
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps({"machine": about, "rows": [row.to_dict() for row in rows]}, indent=1), "utf-8")
    whole.replace(path)


def seconds_words(value: float) -> str:
    """Write seconds with a fitting unit.

    Example:
        >>> seconds_words(0.0123), seconds_words(2.5), seconds_words(432.1)
        ('12.3 ms', '2.50 s', '432 s')
    """
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def spread_words(value: Spread | None, unit: str = "s") -> str:
    """Write a median with its range; `unit` is "s" for seconds or "x" for ratios."""
    if value is None:
        return "-"
    if unit == "x":
        return "{:.2f}x [{:.2f} - {:.2f}]".format(*value)
    return "{} [{} - {}]".format(*map(seconds_words, value))


def print_rows(rows: Sequence[Row]) -> None:
    """Print what a script has found, one row a line."""
    for row in rows:
        memory = "" if row.memory is None else f", memory 1/{row.memory:.1f}"
        print(
            f"{row.what}: {row.ours} {spread_words(row.seconds)}, {row.peer} {spread_words(row.peer_seconds)}: "
            f"{spread_words(row.times, 'x')}{memory}{'; ' + row.note if row.note else ''}",
            flush=True,
        )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value

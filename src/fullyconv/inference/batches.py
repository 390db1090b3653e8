"""Images on their way to a network: read ahead by several threads, and put together where they are of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fullyconv.errors import DatasetError, ScoresError
from fullyconv.images.raster import Raster

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


@dataclass
class _Job(Generic[I, R]):
    item: I
    read: Future[Any]
    done: Future[R]


def run(
    items: Sequence[I],
    read: Callable[[I], Any],
    predict: Callable[[Sequence[I], Sequence[Any]], Sequence[Callable[[], R]]],
    *,
    workers: int = 1,
    most: int = 1,
) -> Generator[tuple[I, Future[R]], None, None]:
    """Read items ahead, predict them in turn, and finish each while the next ones are predicted.

    An item whose reading or prediction fails with `DatasetError`, `ScoresError` or `OSError` has it in its future.

    Args:
        items: what there is.
        read: gives what is predicted, in one of several threads.
        predict: is given items and what was read of them: one of any kind, or several rasters of one size; gives for
            each a function that finishes it, in one of several threads.
        workers: threads that read, and as many that finish.
        most: rasters that are predicted together.

    Yields:
        Each item, in its order, with its future.
    """
    ahead = most + max(most, workers)
    left, reading, untold = iter(items), deque[_Job[I, R]](), deque[_Job[I, R]]()
    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as writers:
        while True:
            while len(reading) < ahead and (one := next(left, None)) is not None:
                job = _Job(one, readers.submit(read, one), Future[R]())
                reading.append(job)
                untold.append(job)
            if not reading:
                break
            first = reading[0]
            group = _alike(reading, most)
            try:
                content = [job.read.result() for job in group]
                for job, finish in zip(group, predict([job.item for job in group], content), strict=True):
                    job.done = writers.submit(finish)
            except (DatasetError, ScoresError, OSError) as error:
                for job in group:
                    job.done.set_exception(error)
            while untold[0] is not first:  # those that are finished while this group was predicted
                job = untold.popleft()
                yield job.item, job.done
        for job in untold:
            yield job.item, job.done


def _alike(reading: deque[_Job[I, R]], most: int) -> list[_Job[I, R]]:
    """Take the first of those that are read, and others that are rasters of its size."""
    group = [reading.popleft()]
    for job in list(reading) if most > 1 else ():
        if len(group) == most:
            break
        if (size := _size(group[0])) is not None and _size(job) == size:
            group.append(job)
            reading.remove(job)
    return group


def _size(job: _Job[Any, Any]) -> tuple[int, ...] | None:
    if job.read.exception() is not None:
        return None
    found = job.read.result()
    return found.pixels.shape if isinstance(found, Raster) else None

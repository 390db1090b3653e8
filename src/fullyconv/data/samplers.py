"""Which samples a process reads, in which order; both samplers share a data set out among processes themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch.distributed as dist
from torch.utils.data import DistributedSampler

from fullyconv.errors import DatasetError


class _Sampler(DistributedSampler[Any]):
    """Share a data set out; also for one process: Lightning then leaves it alone and tells it the epoch."""

    def __init__(self, dataset: Any, num_replicas: int | None, rank: int | None, **options: Any) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            num_replicas, rank = num_replicas or 1, rank or 0
        super().__init__(dataset, num_replicas, rank, **options)


class EpochSampler(_Sampler):
    """Shuffle anew every epoch, by seed and epoch alone, and hand the epoch on to the data set.

    The order of epoch n is the same whether training came there or was resumed there. Lightning calls `set_epoch`; a
    plain loop has to do so itself.

    Args:
        dataset: the data set.
        seed: another seed is another order.
        num_replicas: number of processes; by default those of torch.distributed, or one.
        rank: which of them this is.
        repeats: times that an epoch goes through the data set, in another order each time.

    Yields:
        (turn, index): the number of times that all was gone through before, which is the epoch without repeats.
    """

    def __init__(
        self, dataset: Sized, seed: int = 0, num_replicas: int | None = None, rank: int | None = None, repeats: int = 1
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.repeats = repeats

    def __len__(self) -> int:
        return self.repeats * super().__len__()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for turn in range(epoch * self.repeats, (epoch + 1) * self.repeats):
            self.epoch = turn  # by which torch's sampler shuffles
            order = list(super().__iter__())
            self.epoch = epoch
            for index in order:
                yield turn, index


class UnpaddedDistributedSampler(_Sampler):
    """Share a data set out among processes so that every sample is read exactly once.

    The sampler of torch repeats samples until every process has as many, and those count twice in every score. Here
    some processes have one sample fewer, which is fine where nothing waits for all processes within an epoch.

    Args:
        dataset: the data set; at least as many samples as processes.
        num_replicas: number of processes; by default those of torch.distributed, or one.
        rank: which of them this is.

    Raises:
        DatasetError: if there are fewer samples than processes: one without any would wait for ever in the end.

    Example:
        >>> [list(UnpaddedDistributedSampler(range(7), 3, rank)) for rank in range(3)]
        [[0, 3, 6], [1, 4], [2, 5]]
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        length = len(dataset)
        if length < (processes := self.num_replicas):
            what = f"{length} samples cannot be shared out among {processes} processes"
            raise DatasetError(f"{what}; use at most {length} devices")
        self._indices = range(self.rank, length, processes)
        self.num_samples = len(self._indices)
        self.total_size = length

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

"""Data for models with several heads: one image, a mask for each head.

Files, caches, transforms and batches know one mask a sample. So the masks of all heads travel as one: the class indices
of a pixel in all heads are the digits of a number, and that number is the pixel's label on the way. What comes out of
the loaders is a dict by head. Nothing is interpolated on the way, and padding is ignored by all heads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import DataLoader

from fullyconv.data.datamodule import SegmentationDataModule, collate, described
from fullyconv.data.pairs import Pair
from fullyconv.data.public import PUBLIC
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels


class MultiHeadReader(Protocol):
    """Read the masks of all heads."""

    def masks(self, pair: Pair) -> dict[str, npt.NDArray[Any]]:
        """Read for each head the mask as (H, W) integers: the values in its file."""


class HeadCodes:
    """Write the labels of several heads as one, and read them back.

    Args:
        labels: for each head its classes; at most 4,096 combinations, and one `ignore_index`.

    Raises:
        ValueError: if there are more, or heads ignore different indices.

    Example:
        >>> import torch
        >>> codes = HeadCodes({"what": Labels.of(["sky", "road"]), "how": Labels.of(["far", "near", "flat"])})
        >>> joint = codes.join({"what": np.array([[0, 1, 255]]), "how": np.array([[2, 255, 255]])})
        >>> {head: mask.tolist() for head, mask in codes.split(torch.from_numpy(joint.astype(np.int64))).items()}
        {'what': [[0, 1, 255]], 'how': [[2, 255, 255]]}
    """

    def __init__(self, labels: Mapping[str, Labels]) -> None:
        if len({entry.ignore_index for entry in labels.values()}) != 1:
            raise ValueError("labels: heads share their ignore_index; give each the same")
        self.labels = dict(labels)
        self.ignore_index = next(iter(labels.values())).ignore_index
        combinations = itertools.product(*([*entry.names, "ignore"] for entry in labels.values()))
        names = [" / ".join(parts) for parts in combinations]
        self.joint = Labels.of(names[:-1])  # all ignored is no combination, it is ignored
        self._sizes = tuple(entry.num_classes + 1 for entry in labels.values())

    def join(self, masks: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Write class indices of all heads as joint labels.

        Args:
            masks: for each head (H, W) class indices, of one size.

        Returns:
            (H, W) joint labels.
        """
        digits = tuple(
            np.where(masks[head] == self.ignore_index, entry.num_classes, masks[head]).astype(np.int64)
            for head, entry in self.labels.items()
        )
        joint = np.ravel_multi_index(digits, self._sizes)
        last = self.joint.num_classes
        result: npt.NDArray[Any] = np.where(joint == last, self.joint.ignore_index, joint).astype(self.joint.dtype)
        return result

    def split(self, joint: Tensor) -> dict[str, Tensor]:
        """Read the class indices of each head from joint labels.

        Args:
            joint: (..., H, W) int64.

        Returns:
            For each head the same shape, int64.
        """
        rest = joint.where(joint != self.joint.ignore_index, self.joint.num_classes)
        found = {}
        for head, size in reversed(list(zip(self.labels, self._sizes, strict=True))):
            digit, rest = rest % size, rest // size
            found[head] = digit.where(digit < size - 1, self.ignore_index)
        return {head: found[head] for head in self.labels}


@dataclass(frozen=True)
class JointReader(FileReader):
    """Read the masks of all heads as joint labels.

    Args:
        reader: reads the masks.
        labels: for each head what the values in its masks mean.
    """

    reader: MultiHeadReader
    labels: dict[str, Labels] = field(hash=False)

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Read the masks as (H, W) joint labels.

        Raises:
            DatasetError: if masks differ in size, or one holds a value that is not in its label map.
        """
        masks = self.reader.masks(pair)
        if len({mask.shape for mask in masks.values()}) > 1:
            shapes = ", ".join(f"{head} {mask.shape}" for head, mask in masks.items())
            raise DatasetError(f"{pair.mask}: the masks of the heads differ in size ({shapes}); replace them")
        encoded = {}
        for head, entry in self.labels.items():
            try:
                encoded[head] = entry.encode(masks[head], pair.mask)
            except DatasetError as error:
                raise DatasetError(f"head {head!r}: {error}") from error
        return HeadCodes(self.labels).join(encoded)


class MultiHeadDataModule(SegmentationDataModule):
    """Load images with a mask for each head, for `SegmentationModule`.

    A batch is that of `SegmentationDataModule`, with `mask` a dict by head of (N, H, W) int64.

    Args:
        data: the name of a public set with several heads under the folder that FULLYCONV_DATA names, or its folder.
        options: as `SegmentationDataModule` takes them, but for classes and values, which the set has.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if it is no public set with several heads.
        ValueError: if an argument is out of its range.
    """

    def __init__(self, data: str | Path, **options: Any) -> None:
        for name in ("classes", "values"):
            if options.get(name) is not None:
                raise ValueError(f"{name}={options[name]!r}: a set with several heads has its own; leave it out")
        super().__init__(data, **options)
        source = self.source
        if source.known is None or len(source.known.labels) < 2:
            several = [name for name, entry in PUBLIC.items() if len(entry.labels) > 1]
            raise DatasetError(
                f"data={os.fspath(data)!r}: has one mask an image; give a set with several heads "
                f"({', '.join(several)}), or use SegmentationDataModule"
            )
        self._codes = HeadCodes(source.known.labels)
        joint = JointReader(cast(MultiHeadReader, source.reader), self._codes.labels)
        source.reader = joint.with_bands(source.reader.channels, source.reader.value_range)
        source.labels = self._codes.joint
        source.counts.clear()
        self.keep_decoded(self.hparams["cache"], self.hparams["cache_gigabytes"])  # as joint labels

    @property
    def labels(self) -> dict[str, Labels]:  # type: ignore[override]
        """For each head its classes, and what the values in its masks mean."""
        return self._codes.labels

    @property
    def classes(self) -> dict[str, list[str]]:  # type: ignore[override]
        """For each head its class names, in the order of the network's outputs."""
        return {head: list(entry.names) for head, entry in self.labels.items()}

    @property
    def ignore_index(self) -> int:
        """Index of ignored pixels, the same for all heads."""
        return self._codes.ignore_index

    def _described(self) -> list[str]:
        return [f"{head}: {described(entry)}" for head, entry in self.labels.items()]

    def _loader(self, *arguments: Any, **options: Any) -> DataLoader[Any]:
        loader = super()._loader(*arguments, **options)
        loader.collate_fn = partial(_collate, codes=self._codes)
        return loader


def _collate(samples: Sequence[dict[str, Any]], codes: HeadCodes) -> dict[str, Any]:
    """Make a batch of samples with joint labels, and split them by head."""
    batch = collate(samples, ignore_index=codes.joint.ignore_index)
    return {**batch, "mask": codes.split(batch["mask"])}

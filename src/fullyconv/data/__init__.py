"""Images and masks: folders, public sets, training transforms, and the data module that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullyconv.data.datamodule import SegmentationDataModule, collate
from fullyconv.data.folder import SegmentationFolder
from fullyconv.data.layouts import LAYOUTS
from fullyconv.data.pairs import Pair
from fullyconv.data.samplers import EpochSampler, UnpaddedDistributedSampler
from fullyconv.data.sources import PUBLIC_SETS, Source, check_labels, dataset_root, open_source
from fullyconv.data.transforms import PAD_VALUE, Augmentation, TrainingTransform
from fullyconv.lazy import submodules

__all__ = [
    "LAYOUTS",
    "PAD_VALUE",
    "PUBLIC_SETS",
    "Augmentation",
    "EpochSampler",
    "Pair",
    "SegmentationDataModule",
    "SegmentationFolder",
    "Source",
    "TrainingTransform",
    "UnpaddedDistributedSampler",
    "check_labels",
    "collate",
    "dataset_root",
    "open_source",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

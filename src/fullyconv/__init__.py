"""Fully convolutional networks for semantic segmentation (Long, Shelhamer and Darrell 2015) on PyTorch Lightning.

Importing this module is cheap: every name below is loaded when it is first used, and nothing touches the network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv.backbones import BACKBONES, Backbone, build_backbone
    from fullyconv.conversion import convolutionalize, linear_to_conv, sliding_window
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.errors import ConversionError, DatasetError, WeightsError
    from fullyconv.hub.load import load
    from fullyconv.inference.segmentation import Segmentation
    from fullyconv.labels import Labels
    from fullyconv.models import FCN, MODELS, build_model
    from fullyconv.module import SegmentationModule

_HOME = {
    "BACKBONES": "backbones",
    "Backbone": "backbones",
    "build_backbone": "backbones",
    "convolutionalize": "conversion",
    "linear_to_conv": "conversion",
    "sliding_window": "conversion",
    "SegmentationDataModule": "data.datamodule",
    "ConversionError": "errors",
    "DatasetError": "errors",
    "WeightsError": "errors",
    "load": "hub.load",
    "Segmentation": "inference.segmentation",
    "Labels": "labels",
    "FCN": "models",
    "MODELS": "models",
    "build_model": "models",
    "SegmentationModule": "module",
}

__all__ = [
    "BACKBONES",
    "FCN",
    "MODELS",
    "Backbone",
    "ConversionError",
    "DatasetError",
    "Labels",
    "Segmentation",
    "SegmentationDataModule",
    "SegmentationModule",
    "WeightsError",
    "build_backbone",
    "build_model",
    "convolutionalize",
    "linear_to_conv",
    "load",
    "sliding_window",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fullyconv")
    if name not in _HOME:
        raise AttributeError(f"module 'fullyconv' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fullyconv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

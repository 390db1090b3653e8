"""Fully convolutional networks for semantic segmentation (Long, Shelhamer and Darrell 2015) on PyTorch Lightning.

Importing this module is cheap: every name below and every submodule is loaded when it is first used, and nothing
touches the network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fullyconv.lazy import submodules

if TYPE_CHECKING:
    from fullyconv.backbones import BACKBONES, Backbone, build_backbone
    from fullyconv.classifier import Classifier, DenseScorer
    from fullyconv.conversion import convolutionalize, linear_to_conv, sliding_window
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.errors import ConversionError, DatasetError, DownloadError, WeightsError
    from fullyconv.fcn import FCN, MODELS, MultiHeadFCN, build_model
    from fullyconv.hub.convert import convert
    from fullyconv.hub.load import load, load_classifier
    from fullyconv.hub.publish import publish
    from fullyconv.inference.folder import predict_folder
    from fullyconv.inference.heatmap import Heatmap
    from fullyconv.inference.segmentation import Segmentation
    from fullyconv.inference.video import predict_video
    from fullyconv.labels import Labels
    from fullyconv.listing import models, presets
    from fullyconv.training.module import SegmentationModule
    from fullyconv.weights.classifiers import load_backbone

_NAMES = {
    "backbones": ("BACKBONES", "Backbone", "build_backbone"),
    "classifier": ("Classifier", "DenseScorer"),
    "conversion": ("convolutionalize", "linear_to_conv", "sliding_window"),
    "data.datamodule": ("SegmentationDataModule",),
    "errors": ("ConversionError", "DatasetError", "DownloadError", "WeightsError"),
    "fcn": ("FCN", "MODELS", "MultiHeadFCN", "build_model"),
    "hub.convert": ("convert",),
    "hub.load": ("load", "load_classifier"),
    "hub.publish": ("publish",),
    "inference.folder": ("predict_folder",),
    "inference.heatmap": ("Heatmap",),
    "inference.segmentation": ("Segmentation",),
    "inference.video": ("predict_video",),
    "labels": ("Labels",),
    "listing": ("models", "presets"),
    "training.module": ("SegmentationModule",),
    "weights.classifiers": ("load_backbone",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BACKBONES",
    "FCN",
    "MODELS",
    "Backbone",
    "Classifier",
    "ConversionError",
    "DatasetError",
    "DenseScorer",
    "DownloadError",
    "Heatmap",
    "Labels",
    "MultiHeadFCN",
    "Segmentation",
    "SegmentationDataModule",
    "SegmentationModule",
    "WeightsError",
    "build_backbone",
    "build_model",
    "convert",
    "convolutionalize",
    "linear_to_conv",
    "load",
    "load_backbone",
    "load_classifier",
    "models",
    "predict_folder",
    "predict_video",
    "presets",
    "publish",
    "sliding_window",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fullyconv")
    if name not in _HOME:
        return submodules("fullyconv")(name)
    value = getattr(importlib.import_module(f"fullyconv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

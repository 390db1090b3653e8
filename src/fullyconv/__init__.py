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

_HOME = {
    "BACKBONES": "backbones",
    "Backbone": "backbones",
    "build_backbone": "backbones",
    "Classifier": "classifier",
    "DenseScorer": "classifier",
    "convolutionalize": "conversion",
    "linear_to_conv": "conversion",
    "sliding_window": "conversion",
    "SegmentationDataModule": "data.datamodule",
    "ConversionError": "errors",
    "DatasetError": "errors",
    "DownloadError": "errors",
    "WeightsError": "errors",
    "convert": "hub.convert",
    "load": "hub.load",
    "load_classifier": "hub.load",
    "publish": "hub.publish",
    "predict_folder": "inference.folder",
    "Heatmap": "inference.heatmap",
    "Segmentation": "inference.segmentation",
    "predict_video": "inference.video",
    "Labels": "labels",
    "models": "listing",
    "presets": "listing",
    "FCN": "fcn",
    "MODELS": "fcn",
    "MultiHeadFCN": "fcn",
    "build_model": "fcn",
    "SegmentationModule": "training.module",
    "load_backbone": "weights.classifiers",
}

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

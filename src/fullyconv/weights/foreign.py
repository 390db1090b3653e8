"""What a weight file from elsewhere becomes: everything a `SegmentationModule` is made of, under our names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fullyconv.backbones import LoadReport
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing


@dataclass(frozen=True)
class ForeignSegmenter:
    """A segmenter of another library, translated.

    Args:
        model: name that `build_model` takes.
        labels: the K classes; for a model of several heads, one for each head by its name.
        preprocessing: what the weights expect.
        tensors: the whole state dict of that model, under its own keys.
        load_report: what became of each tensor of the file.
        padding: "paper" for the reference networks.
        upsampling: as `build_model` takes it.
        in_channels: channels C of the images.
        license: of the weights, as their publisher states it.
        score: published figures in percent with ``data``, ``split`` and ``measured_by``; None where none is known.
        training: what is known of the training, and where the file came from.
    """

    model: str
    labels: Labels | dict[str, Labels]
    preprocessing: Preprocessing
    tensors: dict[str, Tensor]
    load_report: LoadReport
    padding: Literal["same", "paper"] = "same"
    upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear"
    in_channels: int = 3
    license: str = "unstated"
    score: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)

"""What a segmenter is made of, whoever wrote the file: everything a `SegmentationModule` needs, under our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing


class NoSegmenter(WeightsError):
    """What was asked for is a classifier; `fullyconv.load_classifier` loads it."""


@dataclass(frozen=True)
class Described:
    """What a segmenter is made of.

    Args:
        model: name that `build_model` takes.
        labels: the K classes; for a model of several heads, one for each head by its name.
        preprocessing: what the weights expect.
        tensors: the whole state dict of that model, under its own keys.
        load_report: what became of each tensor of another library's file.
        padding: "paper" for the reference networks.
        upsampling: as `build_model` takes it.
        in_channels: channels C of the images.
        license: of the weights, as their publisher states it.
        score: published or measured figures in percent with ``data``, ``split`` and ``measured_by``; None where none is
            known.
        training: what is known of the training, and where the file came from.
        head_width: as `build_model` takes it, where it is not the preset's own.
        file: the configuration that says so, of a model folder.
        place: where a model folder came from.
    """

    model: str
    labels: Labels | dict[str, Labels]
    preprocessing: Preprocessing
    tensors: Mapping[str, Tensor]
    load_report: LoadReport | None = None
    padding: Literal["same", "paper"] = "same"
    upsampling: Literal["bilinear", "learned", "frozen", "stretch"] = "bilinear"
    in_channels: int = 3
    license: str = "unstated"
    score: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    head_width: int | None = None
    file: str = ""
    place: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `build_model`, beside the classes."""
        names = ("model", "padding", "upsampling", "in_channels")
        width = {} if self.head_width is None else {"head_width": self.head_width}
        return {name: getattr(self, name) for name in names} | width

    @property
    def origin(self) -> str:
        """Where it came from."""
        return self.place or str(self.training.get("source", self.model))

"""The layers of a ``.caffemodel`` beside those of a model: what is taken, what differs, what becomes of the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.errors import WeightsError, some
from fullyconv.weights.caffemodel import CaffeLayer, Values, plain_shape, read_caffemodel


class CaffeFile:
    """The layers of one file, with a list of what was taken from them and of what is wrong.

    Args:
        path: a ``.caffemodel``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.all = read_caffemodel(path)
        self.layers: dict[str, CaffeLayer] = {}
        for layer in self.all:
            if not layer.blobs:
                continue
            if layer.name in self.layers:
                raise WeightsError(f"{self.path}: has two layers {_shown(layer.name)} with weights; pass another file")
            self.layers[layer.name] = replace(layer, blobs=tuple(v.reshape(plain_shape(v.shape)) for v in layer.blobs))
        self._groups: dict[str, str] = {}  # key -> field of the load report
        self._faults: list[str] = []

    def take(self, name: str, index: int, shape: tuple[int, ...]) -> Tensor:
        """Take a blob as a tensor of the given shape; what does not fit is noted, and zeros stand in for it."""
        key = key_of(name, index)
        blobs = self.layers[name].blobs if name in self.layers else ()
        if index >= len(blobs):
            self._faults.append(f"{key} is missing")
            return torch.zeros(shape)
        found = blobs[index].shape
        if found == shape:
            self._groups[key] = "copied"
        elif len(shape) == 4 and found == (shape[0], math.prod(shape[1:])):
            self._groups[key] = "reshaped"  # Caffe flattens (C, h, w), as PyTorch does
        else:
            self._faults.append(f"{key} has shape {found}, not {shape}")
            return torch.zeros(shape)
        return self.tensor(key, blobs[index], shape)

    def tensor(self, key: str, values: Values, shape: Sequence[int]) -> Tensor:
        """Copy values of the file."""
        copied = np.array(values, dtype=np.float32).reshape(shape)
        # without an array of truth values as large as the weights: both ends of what holds a NaN are NaN
        if not np.isfinite(copied.min()) or not np.isfinite(copied.max()):
            self._faults.append(f"{key} holds values that are not finite")
        return torch.from_numpy(copied)

    def names(self) -> str:
        """Name the first layers."""
        return some(map(_shown, self.layers), 8) or "none"

    def adapt(self, *keys: str) -> None:
        """Note that the values of some blobs went into those of the model, changed."""
        self._groups |= dict.fromkeys(keys, "adapted")

    def classes(self, name: str) -> int:
        """Read the number of classes off a score layer."""
        layer = self.layers.get(name)
        if layer is None or layer.blobs[0].ndim != 4:
            raise WeightsError(f"{self.path}: {name}.weight is missing or no (K, C, 1, 1); pass another file")
        return int(layer.blobs[0].shape[0])

    def check_convolution(self, name: str, ours: nn.Conv2d) -> None:
        """Compare what the file says of a convolution with ours; a fully connected layer says nothing."""
        stated = self.layers[name].convolution if name in self.layers else None
        if stated is None:
            return
        pairs: dict[str, tuple[object, object]] = {
            "stride": (stated.stride, ours.stride),
            "pad": (stated.pad, ours.padding),
            "dilation": (stated.dilation, ours.dilation),
            "group": (stated.group, ours.groups),
        }
        if stated.kernel != (0, 0):
            pairs["kernel_size"] = stated.kernel, ours.kernel_size
        self._compare(name, pairs)

    def check_kernel(self, name: str, bilinear: Tensor, factor: tuple[int, int]) -> None:
        """Compare an upsampling of the file with the frozen bilinear one, (K, K, kH, kW), diagonal over the classes."""
        key = key_of(name, 0)
        layer = self.layers.get(name)
        if layer is None:
            self._faults.append(f"{key} is missing")
            return
        stated = layer.convolution
        if stated is not None:
            self._compare(name, {"stride": (stated.stride, factor), "pad": (stated.pad, (0, 0))})
        found, wanted = layer.blobs[0], bilinear.numpy()
        classes = wanted.shape[0]
        if found.shape == (classes, 1, *wanted.shape[2:]):
            # one kernel for each class, written with as many groups
            wanted, how = wanted[range(classes), range(classes)][:, None], "adapted"
        elif found.shape == wanted.shape:
            how = "copied"
        else:
            self._faults.append(f"{key} has shape {found.shape}, not {wanted.shape}")
            return
        if not np.allclose(found, wanted, rtol=0, atol=1e-5):
            self._faults.append(
                f"{key} is not the bilinear kernel: it was trained, which none of the released ones was"
            )
        self._groups[key] = how

    def check_scale(self, name: str, factor: float, channels: int) -> None:
        """Compare the fixed factor on a skip with ours."""
        values = self.take(name, 0, (channels,))
        self.adapt(key_of(name, 0))
        if not torch.allclose(values, torch.full_like(values, factor), rtol=1e-5, atol=0):
            self._faults.append(f"{name} multiplies by other numbers than {factor}")
        if name in self.layers and len(self.layers[name].blobs) > 1:
            self._faults.append(f"{name} adds a bias, which the reference does not")

    def check_crop(self, name: str, ours: tuple[int, int]) -> None:
        """Compare the offsets of a crop with ours, where the file states them."""
        for layer in self.all:
            if layer.name == name and layer.offset:
                self._compare(name, {"offset": ((layer.offset[0], layer.offset[-1]), ours)})

    def check_order(self) -> None:
        """Tell CaffeNet from AlexNet, whose tensors have the same names and shapes: it pools before it normalizes.

        Raises:
            WeightsError: if the file says that it normalizes first.
        """
        bottoms = [layer.bottoms for layer in self.all if layer.name == "norm1"]
        if bottoms and "pool1" not in bottoms[0]:
            raise WeightsError(
                f"{self.path}: normalizes before it pools, which is AlexNet (bvlc_alexnet); "
                "only CaffeNet (bvlc_reference_caffenet) can be read"
            )

    def load_report(self) -> LoadReport:
        """Say what became of each tensor of the file."""
        keys = [key_of(name, index) for name, layer in self.layers.items() for index in range(len(layer.blobs))]
        groups = ("copied", "reshaped", "adapted", "unused")
        became = {group: [key for key in keys if self._groups.get(key, "unused") == group] for group in groups}
        return LoadReport(**{group: tuple(keys) for group, keys in became.items()})

    def finish(self) -> None:
        """Raise if anything was wrong.

        Raises:
            WeightsError: with all of it.
        """
        if self._faults:
            raise WeightsError(
                f"{self.path}: is not one of the reference networks, nothing was taken from it: "
                f"{some(self._faults, 12)}. Fetch it again, or pass a file of one of them"
            )

    def _compare(self, name: str, pairs: Mapping[str, tuple[object, object]]) -> None:
        for setting, (theirs, ours) in pairs.items():
            if theirs != ours:
                self._faults.append(f"{name} has {setting}={_plain(theirs)}, not {_plain(ours)}")


def key_of(name: str, index: int) -> str:
    """Name a blob of a layer: its weight, its bias, or another one."""
    return f"{_shown(name)}.{('weight', 'bias')[index] if index < 2 else f'blob{index}'}"


def _shown(name: str) -> str:
    return re.sub(r"\s|[^ -~]", "?", name[:80])


def _plain(value: object) -> object:
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value

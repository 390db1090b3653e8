"""The reference networks of Long et al. and the classifiers they start from, out of ``.caffemodel`` files.

Which network a file holds is read off the names of its layers, the number of classes off their shapes. What the file
says of padding, strides, groups, crops and sums is compared with ours, so that a network that only looks alike is
refused instead of being wrong by some pixels. Every tensor of the model comes from the file or is a fixed bilinear
kernel that the file was seen to agree with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv import label_sets
from fullyconv.backbones import Backbone, LoadReport, build_backbone
from fullyconv.backbones.alexnet import CaffeNet
from fullyconv.errors import WeightsError, some
from fullyconv.heads import SkipHead
from fullyconv.labels import Labels
from fullyconv.preprocessing import CAFFE, Preprocessing
from fullyconv.weights.caffemodel import CaffeLayer, read_caffemodel
from fullyconv.weights.foreign import ForeignSegmenter

Inputs = Literal["color", "hha"]

LICENSE = (
    "not stated in the file; the reference networks are released under BSD-2-Clause or for unrestricted use "
    "(BVLC model license)"
)

# Means in bytes, as the data layers of the reference subtract them: blue, green, red; and HHA in its own order.
_NYUD = (116.190, 97.203, 92.318)
_HHA = (132.431, 94.076, 118.477)
_LOG_DEPTH = 7.844  # of the natural logarithm of the depth in millimeters
_SIFT_FLOW = (114.578, 115.294, 108.353)

# The published data sets by their number of classes.
_LABELS = {21: label_sets.voc, 60: label_sets.pascal_context, 40: label_sets.nyudv2}

_SCORES = {32: "score_fr", 16: "score_pool4", 8: "score_pool3"}
# Upsamplings and crops by the strides they lead from and to; 1 are the pixels.
_UPSCORES = {
    (32,): {"32to1": "upscore"},
    (32, 16): {"32to16": "upscore2", "16to1": "upscore16"},
    (32, 16, 8): {"32to16": "upscore2", "16to8": "upscore_pool4", "8to1": "upscore8"},
}
_SCALES = {16: "scale_pool4", 8: "scale_pool3"}
_AT_ONCE = {16: 0.01, 8: 0.0001}

_TASKS = {"semantic": "_sem", "geometric": "_geo"}


class CaffeClassifier(dict[str, Tensor]):
    """The tensors of a classifier under Caffe's names: ``conv1_1.weight``, ``fc6.bias``, ``fc8.weight``.

    Weights of convolutions are (C', C, kH, kW), those of fully connected layers (K, C) in the order of (C, h, w).

    Args:
        tensors: the tensors.
        network: "vgg16", "vgg19" or "caffenet".
    """

    def __init__(self, tensors: Mapping[str, Tensor], network: Literal["vgg16", "vgg19", "caffenet"]) -> None:
        super().__init__(tensors)
        self.network = network


def caffe_classifier(path: str | Path) -> CaffeClassifier:
    """Read a classifier: VGG_ILSVRC_16_layers, VGG_ILSVRC_19_layers or bvlc_reference_caffenet.

    A segmenter made of one of them is taken as well, with its score layers in place of fc8.

    Args:
        path: the ``.caffemodel``.

    Returns:
        Its tensors under Caffe's names, and which network it is.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, or another network; the message names the file.
    """
    file = _File(path)
    network: Literal["vgg16", "vgg19", "caffenet"]
    if "conv5_4" in file.layers:
        network = "vgg19"
    elif "conv5_3" in file.layers:
        network = "vgg16"
    elif "conv5" in file.layers and "conv1" in file.layers:
        network = "caffenet"
        file.check_order()
    else:
        raise WeightsError(
            f"{file.path}: holds neither VGG-16, VGG-19 nor CaffeNet, its layers are {_names(file.layers)}; "
            "these three are the classifiers that can be read from Caffe"
        )
    tensors: dict[str, Tensor] = {}
    for name, layer in file.layers.items():
        if layer.type == "Deconvolution" or name.startswith("upscore"):
            continue
        for index, values in enumerate(layer.blobs[:2]):
            # the old form of a shape has four dimensions, ones in front of a matrix or a bias
            shape = values.shape[2:] if values.ndim == 4 and values.shape[:2] == (1, 1) else values.shape
            key = _key(name, index)
            tensors[key] = file.tensor(key, values, (values.size,) if index == 1 else shape)
    file.finish()
    return CaffeClassifier(tensors, network)


def caffe_segmenter(
    path: str | Path,
    *,
    labels: Labels | Mapping[str, Labels] | None = None,
    inputs: Inputs | None = None,
) -> ForeignSegmenter:
    """Read one of the reference networks: FCN-32s, 16s, 8s and 8s at-once on VGG-16, FCN-AlexNet, and their relatives.

    The relatives are those for NYUDv2, on color, on HHA, on color and depth (early fusion), on color and HHA (late
    fusion), and those for SIFT Flow with a semantic and a geometric head.

    Args:
        path: the ``.caffemodel``.
        labels: its classes; for SIFT Flow by head. None takes them from the number of classes: 21 are PASCAL VOC, 60
            PASCAL-Context, 40 NYUDv2, 33 and 3 SIFT Flow.
        inputs: what a network for NYUDv2 with three channels sees, "color" or "hha", which its weights do not tell.
            None takes it from the data layer in the file, or from the file's name.

    Returns:
        Everything a module is made of, under our names. The structure does not tell who trained the weights, so that
        there is no score, and the license says which one the released files have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `inputs` is no choice for this network.
        WeightsError: if the file is damaged, is another network, lacks a tensor or has one of another shape; the
            message names the file and all that is wrong.
    """
    file = _File(path)
    if not any(name.startswith("score_fr") for name in file.layers):
        hint = "it is a classifier: start a backbone from it" if "fc8" in file.layers else "pass one of those"
        raise WeightsError(
            f"{file.path}: is none of the reference segmenters, which have a layer score_fr; its layers are "
            f"{_names(file.layers)}; {hint}"
        )
    backbone, suffixes, in_channels = _which_backbone(file)
    with torch.device("meta"):  # only names and shapes are wanted
        extractor = build_backbone(backbone, in_channels=in_channels, padding="paper")
    several = "score_fr_sem" in file.layers
    tasks = _TASKS if several else {"": ""}
    first = next(iter(tasks.values()))
    strides = _which_strides(file, first)
    counts = {task: file.classes(f"score_fr{suffix or suffixes[0]}") for task, suffix in tasks.items()}
    # before anything is laid out for so many classes
    known = _which_labels(file, counts, labels)
    seen = _which_inputs(file, counts, in_channels, inputs, given=labels is not None)
    at_once = any(name in file.layers for name in _SCALES.values())
    if (backbone != "vgg16" and strides != (32,)) or (at_once and strides != (32, 16, 8)):
        raise WeightsError(
            f"{file.path}: scores the strides {', '.join(map(str, strides))} of {backbone}"
            f"{' behind fixed factors' if at_once else ''}, which none of the reference networks does; "
            "pass a file of one of them"
        )

    tensors: dict[str, Tensor] = {}
    for name, module in _convolutions(extractor, suffixes, early=in_channels == 4):
        layer = cast(nn.Conv2d, extractor.get_submodule(module))
        file.check_convolution(name, layer)
        tensors[f"backbone.{module}.weight"] = file.take(name, 0, tuple(layer.weight.shape))
        tensors[f"backbone.{module}.bias"] = file.take(name, 1, (layer.out_channels,))
    order = [f"backbone.{key}" for key in extractor.state_dict()]
    tensors = {key: tensors[key] for key in order}
    for task, suffix in tasks.items():
        head = SkipHead(
            extractor.channels,
            counts[task],
            extractor.geometry,
            strides,
            upsampling="frozen",
            scales=_AT_ONCE if at_once else None,
            padding="paper",
        )
        streams = [suffix] if several else list(suffixes)
        for key, value in _head(file, head, streams).items():
            tensors[f"head.{task}.{key}" if several else f"head.{key}"] = value
    file.finish()

    preset = f"fcn{strides[-1]}s" + ("_atonce" if at_once else "")
    return ForeignSegmenter(
        model=f"{preset}_{backbone}",
        labels=known,
        preprocessing=_which_preprocessing(in_channels, several, seen),
        tensors=tensors,
        load_report=file.load_report(),
        padding="paper",
        upsampling="frozen",
        in_channels=in_channels,
        license=LICENSE,
        training={"read from": file.path.name, "channels": _describe(in_channels, seen)},
    )


# ---- which network it is ---------------------------------------------------------------------------------------------


def _which_backbone(file: _File) -> tuple[str, tuple[str, ...], int]:
    """Tell the backbone, the suffixes of its layers by stream, and its input channels."""
    if "conv1_1color" in file.layers and "conv1_1hha" in file.layers:
        return "vgg16_late", ("color", "hha"), 6
    if "conv1_1_bgrd" in file.layers:
        return "vgg16", ("",), 4
    if "conv1_1" in file.layers:
        return "vgg16", ("",), 3
    if "conv1" in file.layers:
        file.check_order()
        return "caffenet", ("",), 3
    raise WeightsError(
        f"{file.path}: has a score layer, but neither VGG-16's conv1_1 nor CaffeNet's conv1; its layers are "
        f"{_names(file.layers)}; only networks on these two can be read"
    )


def _which_strides(file: _File, suffix: str) -> tuple[int, ...]:
    if f"score_pool3{suffix}" in file.layers:
        return (32, 16, 8)
    return (32, 16) if f"score_pool4{suffix}" in file.layers else (32,)


def _which_inputs(
    file: _File, counts: Mapping[str, int], in_channels: int, inputs: Inputs | None, given: bool
) -> Inputs | None:
    """Tell what the three channels of a network for NYUDv2 are; None for any other network."""
    if inputs is not None and (in_channels != 3 or inputs not in ("color", "hha")):
        raise ValueError(
            f'inputs={inputs!r}: choose "color" or "hha" for a network of three channels; {file.path.name} has '
            f"{in_channels}"
        )
    if inputs is not None or in_channels != 3 or counts.get("") != len(label_sets.NYUDV2) or given:
        return inputs
    # the data layer of the reference lists what it puts on top: 'tops': ['hha', 'label']
    for text in (*(layer.text for layer in file.all if "tops" in layer.text), file.path.name):
        named: list[Inputs] = [kind for kind in ("color", "hha") if kind in text.lower()]
        if len(named) == 1:
            return named[0]
    raise WeightsError(
        f"{file.path}: scores the 40 classes of NYUDv2 from three channels, and neither its data layer nor its name "
        'tells whether they are color or HHA; pass inputs="color" or inputs="hha"'
    )


def _which_labels(
    file: _File, counts: Mapping[str, int], given: Labels | Mapping[str, Labels] | None
) -> Labels | dict[str, Labels]:
    several = "" not in counts
    if given is None:
        if several:
            known = {"semantic": label_sets.sift_flow_semantic(), "geometric": label_sets.sift_flow_geometric()}
        else:
            known = {"": _LABELS[counts[""]]()} if counts[""] in _LABELS else {}
        remedy = "say what they are: labels=Labels.of([...])" + (" for each head" if several else "")
    else:
        known = dict(given) if isinstance(given, Mapping) else {"": given}
        remedy = "give labels of as many classes" + (f" for each of the heads {', '.join(counts)}" if several else "")
    if {task: entry.num_classes for task, entry in known.items()} != dict(counts):
        found = counts[""] if not several else dict(counts)
        raise WeightsError(f"{file.path}: scores {found} classes, whose names do not stand in the file; {remedy}")
    return known if several else known[""]


def _which_preprocessing(in_channels: int, several: bool, inputs: Inputs | None) -> Preprocessing:
    if in_channels == 6:
        return Preprocessing((*_NYUD, *_HHA), (1.0,) * 6, 255.0, "bgr")
    if in_channels == 4:
        # scaled by 255 and divided by it again: the fourth channel is the logarithm itself, not something in 0..1
        return Preprocessing((*_NYUD, 255 * _LOG_DEPTH), (1.0, 1.0, 1.0, 255.0), 255.0, "bgr")
    if several:
        return Preprocessing(_SIFT_FLOW, (1.0,) * 3, 255.0, "bgr")
    if inputs == "hha":
        return Preprocessing(_HHA, (1.0,) * 3, 255.0, "rgb")
    return CAFFE if inputs is None else Preprocessing(_NYUD, (1.0,) * 3, 255.0, "bgr")


def _describe(in_channels: int, inputs: Inputs | None) -> str:
    color, hha = "red, green, blue in 0..1", "horizontal disparity, height above ground, angle with gravity in 0..1"
    if in_channels == 6:
        return f"{color}; {hha}"
    if in_channels == 4:
        return f"{color}; natural logarithm of the depth in millimeters"
    return hha if inputs == "hha" else color


# ---- where its tensors go --------------------------------------------------------------------------------------------


def _convolutions(backbone: Backbone, suffixes: Sequence[str], early: bool) -> Iterator[tuple[str, str]]:
    """Pair the names of Caffe's convolutions with those of the backbone's modules."""
    streams = [f"streams.{i}." for i in range(len(suffixes))] if len(suffixes) > 1 else [""]
    for suffix, prefix in zip(suffixes, streams, strict=True):
        part = cast(Backbone, backbone.get_submodule(prefix.rstrip(".")))
        if isinstance(part, CaffeNet):
            for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
                yield name, name
            continue
        stage, index = 1, 0
        for key, layer in cast(nn.Sequential, part.features).named_children():
            if isinstance(layer, nn.Conv2d):
                index += 1
                first = "_bgrd" if early and stage == index == 1 else ""
                yield f"conv{stage}_{index}{first}{suffix}", f"{prefix}features.{key}"
            elif isinstance(layer, nn.MaxPool2d):
                stage, index = stage + 1, 0
        yield f"fc6{suffix}", f"{prefix}classifier.0"
        yield f"fc7{suffix}", f"{prefix}classifier.3"


def _head(file: _File, head: SkipHead, streams: Sequence[str]) -> dict[str, Tensor]:
    """Take the tensors of one head under its own keys; `streams` are the suffixes of its score layers on fc7."""
    tensors = head.state_dict()
    suffix = streams[0] if len(streams) == 1 else ""
    for stride in head.strides:
        names = [_SCORES[stride] + stream for stream in streams]
        layer = cast(nn.Conv2d, head.score[str(stride)])
        for name in names:
            file.check_convolution(name, layer)
        classes, channels = layer.weight.shape[:2]
        shape = (classes, channels // len(names), 1, 1)
        weights = [file.take(name, 0, shape) for name in names]
        biases = [file.take(name, 1, (classes,)) for name in names]
        if len(names) > 1:
            # the sum of the score maps of several streams is one score layer over all of their features
            factors = file.factors("score_fused", len(names))
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
            biases = [bias * factor for bias, factor in zip(biases, factors, strict=True)]
            file.adapt(*(_key(name, index) for name in names for index in (0, 1)))
        tensors[f"score.{stride}.weight"] = torch.cat(weights, 1)
        tensors[f"score.{stride}.bias"] = torch.stack(biases).sum(0)
        if stride in head.scales:
            file.check_scale(_SCALES[stride], head.scales[stride], channels)
    for step, name in _UPSCORES[head.strides].items():
        up, target = head.upscore[step], int(step.partition("to")[2])
        file.check_kernel(name + suffix, tensors[f"upscore.{step}.weight"], cast("tuple[int, int]", up.factor))
        crop = "score" + suffix if target == 1 else f"{_SCORES[target]}{suffix}c"
        file.check_crop(crop, head.crops[target])
    return tensors


class _File:
    """The layers of one file, with a list of what was taken from them and of what is wrong."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.all = read_caffemodel(path)
        self.layers: dict[str, CaffeLayer] = {}
        for layer in self.all:
            if not layer.blobs:
                continue
            if layer.name in self.layers:
                raise WeightsError(f"{self.path}: has two layers {_shown(layer.name)} with weights; pass another file")
            self.layers[layer.name] = layer
        self._groups: dict[str, Literal["copied", "reshaped", "adapted"]] = {}
        self._faults: list[str] = []

    def take(self, name: str, index: int, shape: tuple[int, ...]) -> Tensor:
        """Take a blob as a tensor of the given shape; what does not fit is noted, and zeros stand in for it."""
        key = _key(name, index)
        blobs = self.layers[name].blobs if name in self.layers else ()
        if index >= len(blobs):
            self._faults.append(f"{key} is missing")
            return torch.zeros(shape)
        found = blobs[index].shape
        # the old form of a shape has four dimensions, ones in front
        matrix = (shape[0], int(np.prod(shape[1:])))
        if found == shape or (len(shape) == 1 and found == (1, 1, 1, *shape)):
            self._groups[key] = "copied"
        elif len(shape) == 4 and found in (matrix, (1, 1, *matrix)):
            self._groups[key] = "reshaped"  # Caffe flattens (C, h, w), as PyTorch does
        else:
            self._faults.append(f"{key} has shape {found}, not {shape}")
            return torch.zeros(shape)
        return self.tensor(key, blobs[index], shape)

    def tensor(
        self, key: str, values: np.ndarray[tuple[int, ...], np.dtype[np.floating]], shape: Sequence[int]
    ) -> Tensor:
        """Copy values of the file."""
        copied = np.array(values, dtype=np.float32).reshape(shape)
        # without an array of truth values as large as the weights: both ends of what holds a NaN are NaN
        if not np.isfinite(copied.min()) or not np.isfinite(copied.max()):
            self._faults.append(f"{key} holds values that are not finite")
        return torch.from_numpy(copied)

    def adapt(self, *keys: str) -> None:
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
            "kernel_size": (stated.kernel, ours.kernel_size),
            "stride": (stated.stride, ours.stride),
            "pad": (stated.pad, ours.padding),
            "dilation": (stated.dilation, ours.dilation),
            "group": (stated.group, ours.groups),
        }
        if stated.kernel == (0, 0):
            del pairs["kernel_size"]
        self._compare(name, pairs)

    def check_kernel(self, name: str, bilinear: Tensor, factor: tuple[int, int]) -> None:
        """Compare an upsampling of the file with the frozen bilinear one, (K, K, kH, kW), diagonal over the classes."""
        key = _key(name, 0)
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
        self._groups[key] = cast("Literal['copied', 'adapted']", how)

    def check_scale(self, name: str, factor: float, channels: int) -> None:
        """Compare the fixed factor on a skip with ours."""
        faults = len(self._faults)
        values = self.take(name, 0, (channels,))
        if len(self._faults) > faults:
            return
        self.adapt(_key(name, 0))
        if not torch.allclose(values, torch.full_like(values, factor), rtol=1e-5, atol=0):
            self._faults.append(f"{name} multiplies by other numbers than {factor}")
        if len(self.layers[name].blobs) > 1:
            self._faults.append(f"{name} adds a bias, which the reference does not")

    def check_crop(self, name: str, ours: tuple[int, int]) -> None:
        """Compare the offsets of a crop with ours, where the file states them."""
        for layer in self.all:
            if layer.name == name and layer.offset:
                self._compare(name, {"offset": ((layer.offset[0], layer.offset[-1]), ours)})

    def factors(self, name: str, count: int) -> list[float]:
        """Read the factors of a sum of score maps; the reference averages."""
        for layer in self.all:
            if layer.name == name and layer.type == "Eltwise":
                if layer.coefficients and len(layer.coefficients) != count:
                    self._faults.append(f"{name} has {len(layer.coefficients)} factors for {count} maps")
                    break
                return list(layer.coefficients) or [1.0] * count
        return [1 / count] * count

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
        keys = [_key(name, index) for name, layer in self.layers.items() for index in range(len(layer.blobs))]
        groups = {
            group: tuple(k for k in keys if self._groups.get(k) == group) for group in ("copied", "reshaped", "adapted")
        }
        unused = tuple(key for key in keys if key not in self._groups)
        return LoadReport(groups["copied"], groups["reshaped"], groups["adapted"], (), unused)

    def finish(self) -> None:
        """Raise if anything was wrong.

        Raises:
            WeightsError: with all of it.
        """
        if self._faults:
            shown = "; ".join(self._faults[:12])
            rest = f"; and {len(self._faults) - 12} more" if len(self._faults) > 12 else ""
            raise WeightsError(
                f"{self.path}: is not one of the reference networks, nothing was taken from it: {shown}{rest}. "
                "Fetch it again, or pass a file of one of them"
            )

    def _compare(self, name: str, pairs: Mapping[str, tuple[object, object]]) -> None:
        for setting, (theirs, ours) in pairs.items():
            if theirs != ours:
                self._faults.append(f"{name} has {setting}={_plain(theirs)}, not {_plain(ours)}")


def _key(name: str, index: int) -> str:
    return f"{_shown(name)}.{('weight', 'bias')[index] if index < 2 else f'blob{index}'}"


def _shown(name: str) -> str:
    return re.sub(r"\s|[^ -~]", "?", name[:80])


def _names(layers: Iterable[str]) -> str:
    return some(map(_shown, layers), 8) or "none"


def _plain(value: object) -> object:
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value

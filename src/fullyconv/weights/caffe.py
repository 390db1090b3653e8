"""The reference networks of Long et al. and the classifiers they start from, out of ``.caffemodel`` files.

Which network a file holds is read off the names of its layers, the number of classes off their shapes. What the file
says of padding, strides, groups, crops and sums is compared with ours, so that a network that only looks alike is
refused instead of being wrong by some pixels. Every tensor of the model comes from the file or is a fixed bilinear
kernel that the file was seen to agree with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fullyconv import label_sets
from fullyconv.backbones import Backbone, build_backbone
from fullyconv.backbones.alexnet import CaffeNet
from fullyconv.errors import WeightsError
from fullyconv.heads import SkipHead
from fullyconv.labels import Labels
from fullyconv.preprocessing import CAFFE, Preprocessing
from fullyconv.weights.caffefile import CaffeFile, key_of
from fullyconv.weights.described import Described, NoSegmenter
from fullyconv.weights.translation import vgg_of_caffe

LICENSE = (
    "not stated in the file; the reference networks are released under BSD-2-Clause or for unrestricted use "
    "(BVLC model license)"
)

# Means in bytes, as the data layers of the reference subtract them: blue, green, red; and HHA in its own order.
_NYUD = (116.190, 97.203, 92.318)
_HHA = (132.431, 94.076, 118.477)
_LOG_DEPTH = 7.844  # of the natural logarithm of the depth in millimeters
_SIFT_FLOW = (114.578, 115.294, 108.353)

# The published data sets by their numbers of classes.
_LABELS: dict[tuple[int, ...], Callable[[], list[Labels]]] = {
    (21,): lambda: [label_sets.voc()],
    (60,): lambda: [label_sets.pascal_context()],
    (40,): lambda: [label_sets.nyudv2()],
    (33, 3): lambda: [label_sets.sift_flow_semantic(), label_sets.sift_flow_geometric()],
}

# First convolution of a segmenter -> backbone, suffixes of its layers by stream, and input channels.
_BACKBONES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "conv1_1color": ("vgg16_late", ("color", "hha"), 6),
    "conv1_1_bgrd": ("vgg16", ("",), 4),
    "conv1_1": ("vgg16", ("",), 3),
    "conv1": ("caffenet", ("",), 3),
}

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


def caffe_classifier(path: str | Path) -> dict[str, Tensor]:
    """Read a classifier: VGG_ILSVRC_16_layers, VGG_ILSVRC_19_layers or bvlc_reference_caffenet.

    A segmenter made of one of them is taken as well, with its score layers in place of fc8.

    Args:
        path: the ``.caffemodel``.

    Returns:
        Its tensors under Caffe's names: ``conv1_1.weight``, ``fc6.bias``, ``fc8.weight``. Weights of convolutions are
        (C', C, kH, kW), those of fully connected layers (K, C) in the order of (C, h, w).

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, or another network; the message names the file.
    """
    file = CaffeFile(path)
    if "conv5_3" not in file.layers:
        if not {"conv1", "conv5"} <= file.layers.keys():
            raise WeightsError(
                f"{file.path}: holds neither VGG-16, VGG-19 nor CaffeNet, its layers are {file.names()}; "
                "these three are the classifiers that can be read from Caffe"
            )
        file.check_order()
    tensors: dict[str, Tensor] = {}
    for name, layer in file.layers.items():
        if not name.startswith("upscore"):  # of a segmenter: kernels that are large, and no classifier's
            for index, values in enumerate(layer.blobs[:2]):
                key = key_of(name, index)
                tensors[key] = file.tensor(key, values, values.shape)
    file.finish()
    return tensors


def caffe_segmenter(path: str | Path) -> Described:
    """Read one of the reference networks: FCN-32s, 16s, 8s and 8s at-once on VGG-16, FCN-AlexNet, and their relatives.

    The relatives are those for NYUDv2, on color, on HHA, on color and depth (early fusion), on color and HHA (late
    fusion), and those for SIFT Flow with a semantic and a geometric head.

    Args:
        path: the ``.caffemodel``. Its classes follow from their number: 21 are PASCAL VOC, 60 PASCAL-Context, 40
            NYUDv2, 33 and 3 SIFT Flow.

    Returns:
        Everything a module is made of, under our names. The structure does not tell who trained the weights, so that
        there is no score, and the license says which one the released files have.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if the file is damaged, is another network, lacks a tensor or has one of another shape; the
            message names the file and all that is wrong.
    """
    file = CaffeFile(path)
    if not any(name.startswith("score_fr") for name in file.layers):
        classifier = "fc8" in file.layers
        hint = "it is a classifier: start a backbone from it" if classifier else "pass one of those"
        raise (NoSegmenter if classifier else WeightsError)(
            f"{file.path}: is none of the reference segmenters, which have a layer score_fr; its layers are "
            f"{file.names()}; {hint}"
        )
    backbone, suffixes, in_channels = _which_backbone(file)
    with torch.device("meta"):  # only names and shapes are wanted
        extractor = build_backbone(backbone, in_channels=in_channels, padding="paper")
    tasks = _TASKS if "score_fr_sem" in file.layers else {"": ""}
    finer = [stride for stride in (16, 8) if _SCORES[stride] + next(iter(tasks.values())) in file.layers]
    strides = (32, 16, 8)[: 3 if 8 in finer else 1 + len(finer)]
    counts = {task: file.classes(f"score_fr{suffix or suffixes[0]}") for task, suffix in tasks.items()}
    # before anything is laid out for so many classes
    if tuple(counts.values()) not in _LABELS:
        raise WeightsError(
            f"{file.path}: scores {' and '.join(map(str, counts.values()))} classes, whose names do not stand in the "
            "file; only the classes of the released networks are known"
        )
    labels = dict(zip(counts, _LABELS[tuple(counts.values())](), strict=True))
    preprocessing, channels = _which_preprocessing(file, tuple(counts.values()), in_channels)
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
    tensors = {key: tensors[key] for key in (f"backbone.{key}" for key in extractor.state_dict())}
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
        for key, value in _head(file, head, [suffix] if task else suffixes).items():
            tensors[f"head.{task}.{key}" if task else f"head.{key}"] = value
    file.finish()
    return Described(
        model=f"fcn{strides[-1]}s{'_atonce' if at_once else ''}_{backbone}",
        labels=labels.get("", labels),
        preprocessing=preprocessing,
        tensors=tensors,
        load_report=file.load_report(),
        padding="paper",
        upsampling="frozen",
        in_channels=in_channels,
        license=LICENSE,
        training={"read from": file.path.name, "channels": channels},
    )


def _which_backbone(file: CaffeFile) -> tuple[str, tuple[str, ...], int]:
    """Tell the backbone, the suffixes of its layers by stream, and its input channels."""
    for first, found in _BACKBONES.items():
        if first in file.layers:
            if found[0] == "caffenet":
                file.check_order()
            return found
    raise WeightsError(
        f"{file.path}: has a score layer, but neither VGG-16's conv1_1 nor CaffeNet's conv1; its layers are "
        f"{file.names()}; only networks on these two can be read"
    )


def _which_preprocessing(file: CaffeFile, counts: tuple[int, ...], in_channels: int) -> tuple[Preprocessing, str]:
    """Tell what the network sees, and what its channels are."""
    color, hha = "red, green, blue in 0..1", "horizontal disparity, height above ground, angle with gravity in 0..1"
    if in_channels == 6:
        return Preprocessing((*_NYUD, *_HHA), (1.0,) * 6, 255.0, "bgr"), f"{color}; {hha}"
    if in_channels == 4:
        # scaled by 255 and divided by it again: the fourth channel is the logarithm itself, not something in 0..1
        preprocessing = Preprocessing((*_NYUD, 255 * _LOG_DEPTH), (1.0, 1.0, 1.0, 255.0), 255.0, "bgr")
        return preprocessing, f"{color}; natural logarithm of the depth in millimeters"
    if len(counts) > 1:
        return Preprocessing(_SIFT_FLOW, (1.0,) * 3, 255.0, "bgr"), color
    if counts != (len(label_sets.NYUDV2),):
        return CAFFE, color
    named = [kind for kind in ("color", "hha") if kind in file.path.name.lower()]
    if len(named) != 1:
        raise WeightsError(
            f"{file.path}: scores the 40 classes of NYUDv2 from three channels, and its name does not tell whether "
            "they are color or HHA; rename the file, with color or hha in its name"
        )
    if named == ["hha"]:
        return Preprocessing(_HHA, (1.0,) * 3, 255.0, "rgb"), hha
    return Preprocessing(_NYUD, (1.0,) * 3, 255.0, "bgr"), color


def _convolutions(backbone: Backbone, suffixes: Sequence[str], early: bool) -> Iterator[tuple[str, str]]:
    """Pair the names of Caffe's convolutions with those of the backbone's modules."""
    if isinstance(backbone, CaffeNet):
        yield from ((name, name) for name, part in backbone.named_modules() if isinstance(part, nn.Conv2d))
        return
    for stream, suffix in enumerate(suffixes):
        prefix = f"streams.{stream}." if len(suffixes) > 1 else ""
        for name, module in vgg_of_caffe("vgg16").items():
            if name != "fc8":  # the classifier's own, in whose place a segmenter scores
                yield f"{name}{'_bgrd' if early and name == 'conv1_1' else ''}{suffix}", prefix + module


def _head(file: CaffeFile, head: SkipHead, streams: Sequence[str]) -> dict[str, Tensor]:
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
            # the mean of the score maps of several streams is one score layer over all of their features
            weights, biases = ([value / len(names) for value in values] for values in (weights, biases))
            file.adapt(*(key_of(name, index) for name in names for index in (0, 1)))
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

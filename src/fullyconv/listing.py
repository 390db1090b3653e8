"""Tables of what there is: ``fullyconv.models()`` the weights, ``fullyconv.presets()`` the architectures."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    Row = TypeVar("Row", "Model", "Preset")
else:
    Row = TypeVar("Row")


@dataclass(frozen=True)
class Model:
    """Weights that load by a name.

    Args:
        name: what ``fullyconv.load`` takes, or ``load_classifier`` where it finds one class an image.
        finds: what it finds, in words.
        classes: number of classes.
        mean_iou: in percent, on the test images of its card or as published; None of a classifier, and where nobody
            measured it.
        megabytes: size of the file in 10^6 bytes, None where it is not known.
        license: of the weights.
    """

    name: str
    finds: str
    classes: int
    mean_iou: float | None
    megabytes: float | None
    license: str


@dataclass(frozen=True)
class Preset:
    """An architecture that ``build_model`` and ``SegmentationModule`` build by its name, family_backbone.

    Args:
        name: a key of ``fullyconv.MODELS``.
        family: what the head is, as the paper names it.
        backbone: a key of ``fullyconv.BACKBONES``; None of a network that is all of its own.
    """

    name: str
    family: str
    backbone: str | None


class Table(tuple[Row, ...], Generic[Row]):
    """Rows of one kind, shown as a table; an ordinary tuple otherwise.

    Example:
        >>> Table([Preset("fcn8s_vgg16", "fcn8s", "vgg16"), Preset("pool_unpool", "pool_unpool", None)])
        name         family       backbone
        fcn8s_vgg16  fcn8s        vgg16
        pool_unpool  pool_unpool
    """

    def __repr__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        head, *rows = (
            "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)
            for tag, line in zip(["th", *["td"] * len(self)], self._cells(), strict=True)
        )
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def _cells(self) -> list[tuple[str, ...]]:
        if not self:
            return [("nothing",)]
        return [tuple(field.name for field in fields(self[0])), *(tuple(map(_shown, astuple(row))) for row in self)]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def models(*, everywhere: bool = False) -> Table[Model]:
    """List the weights that load by a name.

    Args:
        everywhere: list those of others too, which are fetched when they are first loaded: from the Hugging Face Hub,
            torchvision and the authors of the paper.

    Returns:
        What comes with the package first. ``fullyconv.weights.catalog.entries()`` has all that is known of each.

    Example:
        >>> [model.name for model in models() if model.finds.startswith("cell")]
        ['nuclei', 'membranes']
    """
    from fullyconv.weights import catalog

    return Table(
        Model(
            entry.aliases[0] if entry.source == "shipped" and entry.aliases else entry.name,
            entry.finds,
            len(entry.classes),
            entry.mean_iou,
            None if entry.bytes is None else round(entry.bytes / 1e6, 1),
            entry.license,
        )
        for entry in (catalog.entries() if everywhere else catalog.shipped())
    )


def presets() -> Table[Preset]:
    """List the architectures: each family of heads with each backbone that it fits on.

    Any classifier of timm is a backbone, too: ``"fcn8s_timm/NAME"``.

    Example:
        >>> [preset.name for preset in presets() if preset.backbone == "alexnet"][:3]
        ['fcn32s_alexnet', 'fcn16s_alexnet', 'fcn8s_alexnet']
    """
    from fullyconv.fcn import MODELS

    return Table(_preset(name, build) for name, build in MODELS.items())


def _preset(name: str, build: Any) -> Preset:
    if isinstance(build, partial):
        backbone = build.args[0]
        # torchvision leaves unsaid that its backbones are dilated
        family = name.removesuffix("_dilated").removesuffix(f"_{backbone.removesuffix('_dilated')}")
        return Preset(name, family, backbone)
    return Preset(name, name, None)

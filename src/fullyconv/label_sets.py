"""The classes of public data sets, in the order in which the published networks score them. Names are facts.

The names stand in ``label_sets.json``. A function for each set makes `Labels` of them, with what the values in the mask
files of the data mean. They are drawn in the colors of `default_palette`, which can be told apart. The colors in which
the files of a set are stored are another thing: those of CamVid and Cityscapes stand in `FILE_COLORS`, all others are
PASCAL VOC's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullyconv.labels import IGNORE, Labels
from fullyconv.palettes import Color, default_palette


def _color(levels: list[int]) -> Color:
    red, green, blue = levels
    return red, green, blue


_SETS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

VOC: tuple[str, ...] = tuple(_SETS["voc"])
"""PASCAL VOC (Everingham et al. 2010): 20 classes behind background."""

PASCAL_CONTEXT: tuple[str, ...] = (*VOC, *_SETS["pascal_context"])
"""PASCAL-Context (Mottaghi et al. 2014): the 59 frequent classes behind background, those of VOC first, 60 in all."""

NYUDV2: tuple[str, ...] = tuple(_SETS["nyudv2"])
"""NYUDv2 (Silberman et al. 2012) with the 40 classes of Gupta et al. 2014, spelt as there; there is no background."""

SIFT_FLOW_SEMANTIC: tuple[str, ...] = tuple(_SETS["sift_flow_semantic"])
"""SIFT Flow (Liu et al. 2011): 33 classes of which cow, desert and moon do not occur in the test images."""

SIFT_FLOW_GEOMETRIC: tuple[str, ...] = tuple(_SETS["sift_flow_geometric"])
"""The geometric classes of SIFT Flow (Tighe and Lazebnik 2010)."""

CITYSCAPES: dict[str, tuple[int, Color]] = {
    name: (value, _color(levels)) for name, (value, levels) in _SETS["cityscapes"].items()
}
"""Cityscapes (Cordts et al. 2016): the 19 classes that are scored -> their value in `labelIds` files and color."""

CAMVID: dict[str, Color] = {name: _color(levels) for name, levels in _SETS["camvid"].items()}
"""CamVid as SegNet labels it (Badrinarayanan et al. 2017): 11 classes with their colors."""

FILE_COLORS: dict[tuple[str, ...], dict[str, Color]] = {
    tuple(CAMVID): CAMVID,
    tuple(CITYSCAPES): {name: color for name, (_, color) in CITYSCAPES.items()},
}
"""Class names of a set -> the color of each in masks that are stored in colors."""

_COCO_GAPS = frozenset([11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90])  # ids that COCO planned and never used, less 1


def voc() -> Labels:
    """Give the labels of PASCAL VOC: a value is its class, 255 (borders and difficult regions) is ignored.

    Returns:
        21 classes.

    Example:
        >>> voc().names[15], voc().values[255]
        ('person', 'ignore')
    """
    return Labels.of(VOC)


def pascal_context() -> Labels:
    """Give the labels of PASCAL-Context: a value is its class; background is trained and scored as a class.

    Returns:
        60 classes.
    """
    return Labels.of(PASCAL_CONTEXT)


def nyudv2() -> Labels:
    """Give the labels of NYUDv2: values 1 to 40 are the classes, 0 and 255 are ignored.

    Returns:
        40 classes.

    Example:
        >>> nyudv2().values[0], nyudv2().values[1]
        ('ignore', 'wall')
    """
    return _from_one(NYUDV2)


def sift_flow_semantic() -> Labels:
    """Give the semantic labels of SIFT Flow: values 1 to 33 are the classes, 0 and 255 are ignored.

    Returns:
        33 classes.
    """
    return _from_one(SIFT_FLOW_SEMANTIC)


def sift_flow_geometric() -> Labels:
    """Give the geometric labels of SIFT Flow: values 1 to 3 are the classes, 0 and 255 are ignored.

    The files mark void as -1 too, which no mask can hold: write it as 0.

    Returns:
        3 classes.
    """
    return _from_one(SIFT_FLOW_GEOMETRIC)


def cityscapes() -> Labels:
    """Give the labels of Cityscapes: values are label ids 0 to 33, of which 19 are classes and the others ignored.

    Returns:
        19 classes, in the order of their train ids.

    Example:
        >>> cityscapes().values[7], cityscapes().values[9], cityscapes().names.index("bicycle")
        ('road', 'ignore', 18)
    """
    values = dict.fromkeys(range(34), IGNORE) | {value: name for name, (value, _) in CITYSCAPES.items()}
    return Labels.of(tuple(CITYSCAPES), values=values)


def ade20k() -> Labels:
    """Give the labels of the scene parsing benchmark of ADE20K (Zhou et al. 2017): 1 to 150 are classes, 0 is ignored.

    Returns:
        150 classes, each by the first of its names.
    """
    return _from_one(tuple(_SETS["ade20k"]))


def coco_stuff() -> Labels:
    """Give the labels of COCO-Stuff (Caesar et al. 2018): values are ids less 1, with 11 gaps; 255 is ignored.

    Returns:
        171 classes: the 80 things of COCO and 91 kinds of stuff.

    Example:
        >>> coco_stuff().values[0], coco_stuff().values[181], 11 in coco_stuff().values
        ('person', 'wood', False)
    """
    values = [value for value in range(182) if value not in _COCO_GAPS]
    return Labels.of(_SETS["coco_stuff"], values=dict(zip(values, _SETS["coco_stuff"], strict=True)))


def camvid() -> Labels:
    """CamVid: the 11 classes in the order of the mask values 0..10; 11 is void and ignored.

    Example:
        >>> camvid().values[11]
        'ignore'
    """
    colors = default_palette(12)
    palette = [colors[k] for k in (1, 2, 7, 6, 5, 4, 10, 8, 9, 3, 11)]  # a blue sky, light green trees, a dark road
    return Labels.of(tuple(CAMVID), palette, {**dict(enumerate(CAMVID)), len(CAMVID): IGNORE})


def oxford_pet(*, border: bool = False) -> Labels:
    """Give the labels of the trimaps of Oxford-IIIT Pet (Parkhi et al. 2012): pet 1, background 2, border 3.

    Args:
        border: whether the border is a class of its own; else it is ignored.

    Returns:
        2 classes, or 3.
    """
    names = ("background", "pet", "border") if border else ("background", "pet")
    return Labels.of(names, values={1: "pet", 2: "background", 3: "border" if border else IGNORE})


def _from_one(names: tuple[str, ...]) -> Labels:
    return Labels.of(names, values={0: IGNORE, **dict(enumerate(names, 1))})

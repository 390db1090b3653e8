"""labelme files: shapes with names, one JSON file an image, drawn as labelme itself draws them.

Later shapes cover earlier ones. The copy of the image that such a file may hold is never looked at.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fullyconv.data.documents import BACKGROUND, class_name, read_json
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, near_miss
from fullyconv.images import MAX_PIXELS, Encoded, read_mask

Array = npt.NDArray[Any]
Points = list[tuple[float, float]]

MAX_JSON = 2**28
"""Bytes of one file: it may hold a copy of its image, as text."""

MOST_POINTS = 200_000
"""Points of one file: Pillow goes through all that a shape has for every row of it."""

_FARTHEST = 2**20  # pixels from the origin, beyond which a coordinate is a mistake and Pillow's integers end


@dataclass(frozen=True)
class LabelmeReader(FileReader):
    """Draw the shapes of labelme files.

    Args:
        channels: C of the images.
        values: name of a class -> value of its pixels.
    """

    values: Mapping[str, int] = field(default_factory=dict, hash=False)

    def mask(self, pair: Pair) -> Array:
        """Draw the mask as (H, W) integers; what no shape covers is background.

        Raises:
            DatasetError: if the file is damaged or a shape cannot be drawn; the message names file and shape.
        """
        content = content_of(pair.mask)
        size = self.size(pair)
        said = _size(content, pair.mask) or size
        if said != size:
            raise DatasetError(
                f"{pair.mask}: is for {said[0]} x {said[1]} pixels, {pair.image} has {size[0]} x {size[1]} (H x W); "
                "both must be equal: label the image that is there, or replace it"
            )
        if math.prod(size) > MAX_PIXELS:
            raise DatasetError(f"{pair.image}: too large ({size[0]} x {size[1]} pixels), the bound is {MAX_PIXELS}")
        _bound_points(content["shapes"], pair.mask)
        wide = max(self.values.values()) > 255
        image = Image.new("I" if wide else "L", (size[1], size[0]), self.values[BACKGROUND])
        for number, shape in enumerate(content["shapes"]):
            name, where = label_of(shape, number, pair.mask)
            if name not in self.values:
                raise DatasetError(f"{where}: no class of the set. {near_miss(name, self.values)}")
            if not is_short(shape):
                _draw(image, shape, self.values[name], where)
        return np.array(image).astype(np.uint16 if wide else np.uint8)


def content_of(path: Path) -> dict[str, Any]:
    """Read a labelme file.

    Raises:
        DatasetError: if it is none.
    """
    content = read_json(path, MAX_JSON)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DatasetError(f"{path}: has no list of shapes, as labelme writes it; save it anew")
    return content


def _bound_points(shapes: Sequence[Any], path: Path) -> None:
    points = 0
    for number, shape in enumerate(shapes):
        given = shape.get("points") if isinstance(shape, dict) else None
        points += len(given) if isinstance(given, list) else 0
        if points > MOST_POINTS:
            raise DatasetError(
                f"{path}: shape {number}: the file has more than {MOST_POINTS} points up to here; draw with fewer, or "
                "remove shapes"
            )


def _size(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    sides = [content.get("imageHeight"), content.get("imageWidth")]
    if sides == [None, None]:
        return None
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise DatasetError(f"{path}: imageHeight and imageWidth are {sides[0]!r} and {sides[1]!r}; save it anew")
    height, width = (int(side or 0) for side in sides)
    if height * width > MAX_PIXELS:
        raise DatasetError(f"{path}: too large ({height} x {width} pixels), the bound is {MAX_PIXELS}")
    return height, width


def label_of(shape: object, number: int, path: Path) -> tuple[str, str]:
    """Give the class of a shape, and where it stands, for messages."""
    where = f"{path}: shape {number}"
    if not isinstance(shape, dict):
        raise DatasetError(f"{where} is no object with label and points; save it anew")
    name = class_name(shape.get("label"), where)
    return name, f"{where} ({name})"


def is_short(shape: Mapping[str, Any]) -> bool:
    """Tell whether a shape is a polygon of which no pixel can be drawn."""
    points = shape.get("points")
    if shape.get("shape_type") not in (None, "", "polygon") or not isinstance(points, list) or len(points) > 2:
        return False
    return all(isinstance(point, list) and len(point) == 2 for point in points)


def _draw(image: Image.Image, shape: Mapping[str, Any], value: int, where: str) -> None:
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape.get("points"), where)
    draw = ImageDraw.Draw(image)
    if kind == "polygon":
        draw.polygon(points, fill=value, outline=value)
    elif kind == "rectangle":
        _need(len(points) == 2, "a rectangle has two points", where)
        (x0, y0), (x1, y1) = points
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], fill=value, outline=value)
    elif kind == "circle":
        _need(len(points) == 2, "a circle has two points, its center and one on it", where)
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(x - edge_x, y - edge_y)
        # Pillow would take half a minute for one that is a hundred times as large
        _need(radius <= sum(image.size), "its radius is larger than the image", where)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)
    elif kind == "mask":
        _need(len(points) == 2, "a mask has two points, its corners", where)
        _paste(image, shape.get("mask"), points, value, where)
    else:
        raise DatasetError(
            f"{where}: a {str(kind)[:40]} covers no area, and how thick it is meant nobody knows; draw a polygon, or "
            "remove the shape"
        )


def _points(given: object, where: str) -> Points:
    try:
        points = np.asarray(given)
    except ValueError:  # of different lengths
        points = np.array("")
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise DatasetError(f"{where}: its points are no list of [x, y]; correct or remove it")
    if not np.isfinite(points).all():
        raise DatasetError(f"{where}: a coordinate is not finite; correct or remove it")
    if np.abs(points.astype(np.float64)).max() > _FARTHEST:
        raise DatasetError(f"{where}: lies {np.abs(points).max():g} pixels off; correct or remove it")
    return [(float(x), float(y)) for x, y in points]


def _need(is_so: bool, rule: str, where: str) -> None:
    if not is_so:
        raise DatasetError(f"{where}: {rule}; correct or remove it")


def _paste(image: Image.Image, text: object, points: Points, value: int, where: str) -> None:
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise DatasetError(f"{where}: its mask is no base64 ({error}); save it anew") from error
    inside = read_mask(Encoded(where, data)) > 0
    left, top = (int(min(axis)) for axis in zip(*points, strict=True))
    image.paste(value, (left, top), Image.fromarray((inside * 255).astype(np.uint8)))

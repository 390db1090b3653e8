"""labelme files: shapes with names, one JSON file an image, drawn as labelme itself draws them.

Later shapes cover earlier ones. The copy of the image that such a file may hold is never looked at.
"""

from __future__ import annotations

import base64
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fullyconv.data.annotations.beside import MOST_POINTS, drawn_size, pair_documents
from fullyconv.data.documents import BACKGROUND, class_name, classes_of, points_of, read_json, read_text
from fullyconv.data.layouts import Reading, Source, Tree
from fullyconv.data.pairs import Pair, plain_name
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, near_miss
from fullyconv.images import Encoded, read_mask
from fullyconv.labels import IGNORE

MAX_JSON = 2**28
"""Bytes of one file: it may hold a copy of its image, as text."""

_FARTHEST = 2**20  # pixels from the origin, beyond which a coordinate is a mistake and Pillow's integers end
_LISTS = ("labels.txt", "classes.txt")


@dataclass(frozen=True, kw_only=True)
class LabelmeReader(FileReader):
    """Draw the shapes of labelme files.

    Args:
        channels: C of the images.
        values: name of a class -> value of its pixels.
    """

    values: Mapping[str, int] = field(default_factory=dict, hash=False)

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Draw the mask as (H, W) integers; what no shape covers is background.

        Raises:
            DatasetError: if the file is damaged or a shape cannot be drawn; the message names file and shape.
        """
        content = _content(pair.mask)
        height, width = drawn_size(self, pair, (content.get("imageHeight"), content.get("imageWidth")))
        wide = max(self.values.values()) > 255
        image = Image.new("I" if wide else "L", (width, height), self.values[BACKGROUND])
        left = MOST_POINTS
        for number, shape in enumerate(content["shapes"]):
            name, where = _label(shape, number, pair.mask)
            points = points_of(shape.get("points"), where, _FARTHEST)
            left -= len(points)
            if left < 0:
                raise DatasetError(f"{where}: the file has more than {MOST_POINTS} points up to here; draw with fewer")
            if name not in self.values:
                raise DatasetError(f"{where}: no class of the set. {near_miss(name, self.values)}")
            if not _is_short(shape):
                _draw(image, shape, points, self.values[name], where)
        return np.array(image).astype(np.uint16 if wide else np.uint8)


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path, MAX_JSON)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DatasetError(f"{path}: has no list of shapes, as labelme writes it; save it anew")
    return content


def _label(shape: Any, number: int, path: Path) -> tuple[str, str]:
    """Give the class of a shape, and where it stands, for messages."""
    where = f"{path}: shape {number}"
    if not isinstance(shape, dict):
        raise DatasetError(f"{where} is no object with label and points; save it anew")
    name = class_name(shape.get("label"), where)
    return name, f"{where} ({name})"


def _is_short(shape: Mapping[str, Any]) -> bool:
    """Tell whether a shape is a polygon of which no pixel can be drawn."""
    points = shape.get("points")
    return shape.get("shape_type") in (None, "", "polygon") and isinstance(points, list) and len(points) < 3


def _draw(image: Image.Image, shape: Mapping[str, Any], points: npt.NDArray[Any], value: int, where: str) -> None:
    kind = shape.get("shape_type") or "polygon"
    draw = ImageDraw.Draw(image)
    if kind == "polygon":
        draw.polygon([(x, y) for x, y in points.tolist()], fill=value, outline=value)
        return
    if kind not in ("rectangle", "circle", "mask"):
        raise DatasetError(f"{where}: a {str(kind)[:40]} covers no area; draw a polygon, or remove the shape")
    if len(points) != 2:
        raise DatasetError(f"{where}: a {kind} has two points; correct or remove it")
    first, second = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if kind == "rectangle":
        draw.rectangle([*first, *second], fill=value, outline=value)
    elif kind == "circle":
        (x, y), radius = points[0].tolist(), math.dist(*points)
        if radius > sum(image.size):  # Pillow would take half a minute for one that is a hundred times as large
            raise DatasetError(f"{where}: its radius is larger than the image; correct or remove it")
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)
    else:
        try:
            data = base64.b64decode(shape.get("mask") or "", validate=True)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where}: its mask is no base64 ({error}); save it anew") from error
        inside = np.where(read_mask(Encoded(where, data)) > 0, np.uint8(255), np.uint8(0))
        image.paste(value, (int(first[0]), int(first[1])), Image.fromarray(inside))


def labelme_layout(tree: Tree, files: Sequence[Path], reading: Reading) -> Source:
    """Pair images with labelme files, and find the classes: the names of all shapes, in the order of the alphabet.

    Where `labels.txt` or `classes.txt` lies in the folder, its lines are the classes, and no shape may have another.

    Args:
        tree: what is in the data folder.
        files: the labelme files.
        reading: what becomes of images without a file.

    Returns:
        The source, with reader and labels.

    Raises:
        DatasetError: if no shape has a name.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for photo in tree.images:
        by_name[plain_name(photo.stem)].append(photo)
    source = Source("labelme files beside images", root=tree.root)
    told, lonely = pair_documents(
        source, tree, files, _told, lambda path, said: _image(tree.root, path, said[0], by_name)
    )
    labels = {name: where for _, found in reversed(told.values()) for name, where in found.items()}
    if lonely and reading.unlabeled == "skip":
        source.notes.append(f"{len(lonely)} images without a labelme file are left out")
    elif lonely:
        label = "label it (a file without shapes is all background), remove it"
        remedy = f'{label}, or leave such images out (unlabeled="skip", --unlabeled skip)'
        source.lose("images without a labelme file", lonely, f"no labelme file names it; {remedy}")
    if not source.splits:
        return source
    source.named, values = classes_of(_names(labels, source))
    if source.named.num_classes < 2:
        raise DatasetError(f"{files[0]}: no shape of any file has a name that is a class; draw some")
    source.reader = LabelmeReader(values=values)
    source.notes.append("where shapes overlap the later one is on top; what is in none is background")
    return source


def _told(path: Path) -> tuple[tuple[object, dict[str, str]], list[str]]:
    """Give the image that a file names, its labels, each with where it stands, and polygons that are none."""
    content = _content(path)
    named = [_label(shape, at, path) for at, shape in enumerate(content["shapes"])]
    short = [where for (_, where), shape in zip(named, content["shapes"], strict=True) if _is_short(shape)]
    return (content.get("imagePath"), dict(named)), short


def _image(root: Path, path: Path, given: object, by_name: Mapping[str, Sequence[Path]]) -> Path:
    """Find the image of a file: by the path in it, by its own name beside it, or by the name in it anywhere."""
    if not isinstance(given, str | None) or "\0" in (given or "") or len(given or "") > 4096:
        raise DatasetError(f"{path}: imagePath={str(given)[:80]!r} is no name of a file; correct it")
    parts = PureWindowsPath(given or path.name)  # which splits at both slashes
    named = Path(os.path.normpath(path.parent.joinpath(*parts.parts)))
    if parts.drive or parts.root or root not in named.parents:
        raise DatasetError(f"{path}: imagePath={given!r:.200} leads out of {root}; give a name relative to this file")
    alike = by_name.get(plain_name(named.stem), [])
    beside = [image for image in by_name.get(plain_name(path.stem), []) if image.parent == path.parent]
    if beside and named in alike and named not in beside:
        raise DatasetError(f"{path}: lies beside {beside[0].name} and names {given!r:.200}; correct imagePath")
    for some in ([image for image in alike if image == named], beside, alike):
        if len(some) == 1:
            return some[0]
        if some:
            raise DatasetError(f"{path}: its image could be {', '.join(map(str, some[:4]))}; name it in imagePath")
    raise DatasetError(f"{path}: its image {named.name} is not there; add it, correct imagePath, or remove the file")


def _names(labels: Mapping[str, str], source: Source) -> list[str]:
    listing = next((path for name in _LISTS if (path := source.root / name).is_file()), None)
    if listing is None:
        return sorted(labels)
    names = [class_name(line, str(listing)) for line in read_text(listing).splitlines() if line.strip()]
    for name, where in labels.items():
        if name not in (*names, BACKGROUND, IGNORE):
            raise DatasetError(f"{where}: is no class of {listing}. {near_miss(name, names)}")
    source.notes.append(f"classes from {listing}")
    return names

"""COCO annotations: polygons and run lengths of objects, drawn into masks when they are asked for.

Where objects overlap the smaller one is on top, of two of one size the later. Crowds (`iscrowd`) are drawn first, and
are ignored unless they are to be of their category: what is in them was not outlined one by one.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.documents import class_name, read_json, safe_parts
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.images import MAX_PIXELS
from fullyconv.labels import IGNORE

Array = npt.NDArray[Any]

_MOST_OUTLINE = 2**22  # pixels along outlines: more are none, and would take time and memory without end
_LOCK = threading.Lock()


class NotCoco(DatasetError):
    """Say that a JSON file is of another kind."""


@dataclass(frozen=True)
class Annotation:
    """One object.

    Args:
        number: its id, for messages.
        category: id of its class.
        crowd: whether it is a region of many objects.
        segmentation: arrays (2 n,) of polygons x, y, ..., or what stands in the file.
    """

    number: str
    category: int
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class Document:
    """What a file says.

    Args:
        images: name in `Pair.mask` -> name of the file in parts, height and width in pixels (0 where it does not say).
        names: id of a category -> name of the class.
        annotations: name in `Pair.mask` -> objects, in the order of the file.
        bad: id of a category -> what is wrong with each of its objects that no pixel can be drawn of.
    """

    images: dict[str, tuple[tuple[str, ...], int, int]]
    names: dict[int, str]
    annotations: dict[str, tuple[Annotation, ...]]
    bad: dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class CocoReader(FileReader):
    """Draw the objects of COCO files. The mask of a pair is called after its file and the id of its image.

    Args:
        channels: C of the images.
        values: name of a class -> value of its pixels.
        crowds: "ignore", or "category" for those of their category.
    """

    values: Mapping[str, int] = field(default_factory=dict, hash=False)
    crowds: str = "ignore"

    def mask(self, pair: Pair) -> Array:
        """Draw the mask as (H, W) integers.

        Raises:
            DatasetError: if an object cannot be drawn; the message names the file and the annotation.
        """
        document = read_document(pair.mask.parent)
        if pair.mask.name not in document.images:
            raise DatasetError(f"{pair.mask.parent}: has no image {pair.mask.name} any more; open the set anew")
        _, height, width = document.images[pair.mask.name]
        size = (height, width) if height else self.size(pair)
        objects = document.annotations.get(pair.mask.name, ())
        drawn: list[tuple[bool, int, int, Array]] = []
        outlines, most = 0.0, max(_MOST_OUTLINE, size[0] * size[1])
        for annotation in objects:
            where = f"{pair.mask.parent}: annotation {annotation.number} (of {pair.image.name})"
            runs = runs_of(annotation.segmentation, size, where)
            if not isinstance(annotation.segmentation, Mapping):
                outlines += sum(_outline(np.asarray(polygon, np.float64)) for polygon in annotation.segmentation)
            if outlines > most:
                raise DatasetError(
                    f"{where}: the outlines of its image are longer than {most} pixels together; remove what is "
                    "there more than once, or export run lengths"
                )
            ignored = annotation.crowd and self.crowds == "ignore"
            name = IGNORE if ignored else document.names[annotation.category]
            drawn.append((not annotation.crowd, -int(runs[1::2].sum()), self.values[name], runs))
        drawn.sort(key=lambda entry: entry[:2])  # stable: of two of one size the later comes later
        flat = np.zeros(size[0] * size[1], np.uint8 if max(self.values.values()) <= 255 else np.uint16)
        for _, _, value, runs in drawn:
            ends = np.cumsum(runs)
            for start, end in zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=False):
                flat[start:end] = value
        return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)  # runs go down the columns


def runs_of(segmentation: object, size: tuple[int, int], where: str) -> Array:
    """Give an object as run lengths down the columns, of outside and inside in turn, as COCO does.

    Args:
        segmentation: polygons, or {"counts": ..., "size": [H, W]} with counts as a list or packed as text.
        size: height and width of the image.
        where: what messages begin with.

    Returns:
        (n,) lengths; their sum is H W.

    Raises:
        DatasetError: if it is neither, or breaks a rule.
        ImportError: if pycocotools is needed and not installed.
    """
    if isinstance(segmentation, Mapping):
        given, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(given, list) or given != list(size):
            raise DatasetError(
                f"{where}: its run lengths are for {given} pixels, its image has {size[0]} x {size[1]} (H x W); "
                "both must be equal"
            )
        return _checked_runs(unpack(counts, where) if isinstance(counts, str) else counts, size, where)
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise DatasetError(
            f"{where}: has no segmentation, and a box is no mask; export polygons or run lengths, or remove it"
        )
    polygons = [_checked_polygon(entry, size, where) for entry in segmentation]
    if sum(map(_outline, polygons)) > _MOST_OUTLINE:
        raise DatasetError(f"{where}: its outline is longer than {_MOST_OUTLINE} pixels; correct or remove it")
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError(f"{where}: polygons of COCO need pycocotools: pip install 'fullyconv[coco]'") from error
    packed = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], *size))
    return _checked_runs(unpack(packed["counts"].decode("ascii"), where), size, where)


def _checked_polygon(entry: object, size: tuple[int, int], where: str) -> Array:
    try:
        points = np.asarray(entry)
    except ValueError:  # lists of different lengths
        points = np.array("")
    if points.ndim != 1 or points.dtype.kind not in "iuf" or len(points) < 6 or len(points) % 2:
        raise DatasetError(
            f"{where}: a polygon is a list x, y, x, y, ... of at least three points; correct or remove it"
        )
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise DatasetError(f"{where}: a coordinate is not finite; correct or remove it")
    if _outline(points) > _MOST_OUTLINE:
        raise DatasetError(f"{where}: its outline is longer than {_MOST_OUTLINE} pixels; correct or remove it")
    if np.abs(points).max() > 8 * max(size) + 1000:
        raise DatasetError(
            f"{where}: lies {np.abs(points).max():g} pixels off, its image has {size[0]} x {size[1]} (H x W); "
            "correct or remove it"
        )
    return points


def _outline(points: Array) -> float:
    corners = points.reshape(-1, 2)
    return float(np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum())


def _checked_runs(counts: object, size: tuple[int, int], where: str) -> Array:
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError):
        runs = np.array("")
    if runs.ndim != 1 or runs.dtype.kind not in "iou" or not len(runs):
        raise DatasetError(f"{where}: run lengths are whole numbers in a list, or packed as text; export it anew")
    if runs.min() < 0 or runs.max() > MAX_PIXELS or int(runs.sum(dtype=np.int64)) != size[0] * size[1]:
        raise DatasetError(
            f"{where}: its run lengths do not add up to the {size[0]} x {size[1]} pixels of its image; export it anew"
        )
    return runs.astype(np.int64)


def unpack(text: str, where: str = "counts") -> list[int]:
    """Unpack run lengths that are written as text: five bits a character, differences to the one before the last.

    pycocotools can do it, but trusts what it reads, and writes beyond the mask where the lengths are wrong.

    Raises:
        DatasetError: if it is no such text.

    Example:
        >>> unpack("52203")
        [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value, shift = 0, 0
    for sign in text:
        code = ord(sign) - 48
        if not 0 <= code < 64 or shift > 35:
            raise DatasetError(f"{where}: its run lengths are damaged; export it anew")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise DatasetError(f"{where}: its run lengths are cut short; export it anew")
    return counts


def read_document(path: Path) -> Document:
    """Read a file once in every process, and again when it has changed.

    Raises:
        DatasetError: if it is damaged, or breaks a rule of the format; the message names the entry.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); replace it") from error
    with _LOCK:  # else every thread would read the same file
        return _document(str(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _document(name: str, changed: int, size: int) -> Document:
    path = Path(name)
    content = read_json(path, hook=_compacted)
    if not is_coco(content):
        raise NotCoco(f"{path}: has no lists of images, annotations and categories; export it as COCO")
    names: dict[int, str] = {}
    supers = set()
    for entry in content["categories"]:
        number = _number(entry, "id", f"{path}: a category")
        if number in names:
            raise DatasetError(f"{path}: two categories have the id {number}; give each its own")
        names[number] = class_name(entry.get("name"), f"{path}: category {number}")
        supers.add(str(entry.get("supercategory")))
    images: dict[str, tuple[tuple[str, ...], int, int]] = {}
    by_id: dict[Any, str] = {}
    files: dict[tuple[str, ...], Any] = {}
    for position, entry in enumerate(content["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            raise DatasetError(f"{path}: image {position} of its images has no id; export it anew")
        where = f"{path}: image {entry['id']}"
        if entry["id"] in by_id:
            raise DatasetError(f"{where} is there twice; remove one")
        key = str(entry["id"]) if isinstance(entry["id"], int) else f"image {position}"
        by_id[entry["id"]] = key
        sides = [_side(entry, side, where) for side in ("height", "width")]
        if sides[0] * sides[1] > MAX_PIXELS:
            raise DatasetError(f"{where}: too large ({sides[0]} x {sides[1]} pixels), the bound is {MAX_PIXELS}")
        parts = safe_parts(entry.get("file_name"), where)
        if parts in files:
            raise DatasetError(f"{where} has the file of image {files[parts]}, {'/'.join(parts)}; join the two")
        files[parts] = entry["id"]
        images[key] = (parts, *(sides if all(sides) else (0, 0)))
    annotations: dict[str, list[Annotation]] = defaultdict(list)
    bad: dict[int, list[str]] = defaultdict(list)
    used = set()
    for position, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict):
            raise DatasetError(f"{path}: entry {position} of its annotations is no object; export it anew")
        number = entry.get("id", f"at place {position}")
        where = f"{path}: annotation {number}"
        image = entry.get("image_id")
        if not isinstance(image, int | str) or image not in by_id:
            raise DatasetError(f"{where} belongs to the image {image!r}, which is not in the list; remove it")
        category = _number(entry, "category_id", where)
        if category not in names:
            raise DatasetError(f"{where} has the category {category}, which is not in the list; add it there")
        used.add(category)
        segmentation = _whole_polygons(entry.get("segmentation"))
        if isinstance(segmentation, str):
            bad[category].append(f"{where} (of {'/'.join(images[by_id[image]][0])}): {segmentation}")
            continue
        annotations[by_id[image]].append(Annotation(str(number), category, bool(entry.get("iscrowd")), segmentation))
    # Some tools write the group of all categories as a category of its own.
    groups = [number for number, text in names.items() if number not in used and text in supers and len(names) > 1]
    for number in groups:
        del names[number]
    return Document(
        images,
        names,
        {key: tuple(found) for key, found in annotations.items()},
        {category: tuple(found) for category, found in bad.items()},
    )


def _whole_polygons(segmentation: Any) -> Any:
    """Take polygons of one or two points out of a list; say what is wrong where nothing is left."""
    if segmentation is None or (isinstance(segmentation, list | tuple) and not segmentation):
        return "has no segmentation, and a box is no mask"
    if not isinstance(segmentation, list | tuple):
        return segmentation
    kept = [polygon for polygon in segmentation if not _is_short(polygon)]
    return kept or "a polygon has at least three points"


def _is_short(polygon: object) -> bool:
    numbers = polygon.tolist() if isinstance(polygon, np.ndarray) else polygon
    return isinstance(numbers, list) and len(numbers) in (0, 2, 4) and all(isinstance(x, int | float) for x in numbers)


def _compacted(entry: dict[str, Any]) -> dict[str, Any]:
    """Hold polygons as arrays, a quarter of the memory of lists of numbers; what is wrong is told when it is drawn."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        try:
            arrays = tuple(np.asarray(polygon) for polygon in segmentation)
        except ValueError:  # lists of different lengths
            return entry
        if all(array.dtype.kind in "iuf" for array in arrays):
            entry["segmentation"] = arrays
    return entry


def _number(entry: Any, key: str, where: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise DatasetError(f"{where}: {key}={value!r} is no whole number; export it anew")
    return value


def _side(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**24 or value != int(value):
        raise DatasetError(f"{where}: {key}={value!r} is no number of pixels; correct it")
    return int(value)


def is_coco_file(path: Path) -> bool:
    """Tell whether a file is of this kind; one that is damaged is, and says so when it is used."""
    try:
        read_document(path)
    except NotCoco:
        return False
    except DatasetError:
        return True
    return True


def is_coco(content: object) -> bool:
    """Tell whether a JSON document is of this kind."""
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)

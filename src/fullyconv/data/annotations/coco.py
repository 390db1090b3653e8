"""COCO annotations: polygons and run lengths of objects, drawn into masks when they are asked for.

Where objects overlap the smaller one is on top, of two of one size the later. Crowds (`iscrowd`) are drawn first, and
are ignored unless they are to be of their category: what is in them was not outlined one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.annotations.beside import drawn_size
from fullyconv.data.documents import class_name, classes_of, points_of, read_json, read_once, safe_parts
from fullyconv.data.layouts import Reading, Source, Tree
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.data.words import meaning_of, split_of
from fullyconv.errors import DatasetError
from fullyconv.images import MAX_PIXELS
from fullyconv.labels import IGNORE

Array = npt.NDArray[Any]

_MOST_OUTLINE = 2**22  # pixels along outlines: more are none, and would take time and memory without end


class NotCoco(DatasetError):
    """Say that a JSON file is of another kind."""


@dataclass(frozen=True)
class Annotation:
    """One object.

    Args:
        number: its id, for messages.
        name: its class.
        crowd: whether it is a region of many objects.
        segmentation: arrays (2 n,) of polygons x, y, ..., or what stands in the file.
    """

    number: str
    name: str
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class Photo:
    """One image.

    Args:
        parts: the name of its file, in parts.
        said: height and width in pixels, as the file says.
        objects: what is on it, in the order of the file.
    """

    parts: tuple[str, ...]
    said: tuple[object, object]
    objects: list[Annotation]


@dataclass(frozen=True)
class Document:
    """What a file says.

    Args:
        images: name in `Pair.mask` -> the image.
        names: the classes, in the order of their ids.
        bad: the class of each object that no pixel can be drawn of, and what is wrong with it.
    """

    images: dict[str, Photo]
    names: list[str]
    bad: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
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
        photo = read_document(pair.mask.parent).images.get(pair.mask.name)
        if photo is None:
            raise DatasetError(f"{pair.mask.parent}: has no image {pair.mask.name} any more; open the set anew")
        height, width = size = drawn_size(self, pair, photo.said)
        drawn: list[tuple[bool, int, int, Array]] = []
        left = most = max(_MOST_OUTLINE, height * width)
        for entry in photo.objects:
            where = f"{pair.mask.parent}: annotation {entry.number} (of {pair.image.name})"
            shape = shape_of(entry.segmentation, size, where)
            left -= sum(map(_outline, shape)) if isinstance(shape, list) else 0
            if left < 0:
                what = f"the outlines of its image are longer than {most} pixels together"
                raise DatasetError(f"{where}: {what}; remove what is there more than once, or export run lengths")
            runs = runs_of(shape, size, where)
            name = IGNORE if entry.crowd and self.crowds == "ignore" else entry.name
            drawn.append((not entry.crowd, -int(runs[1::2].sum()), self.values[name], runs))
        drawn.sort(key=lambda one: one[:2])  # stable: of two of one size the later comes later
        flat = np.zeros(height * width, np.uint8 if max(self.values.values()) <= 255 else np.uint16)
        for _, _, value, runs in drawn:
            flat[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = value
        return np.ascontiguousarray(flat.reshape(width, height).T)  # runs go down the columns


def shape_of(segmentation: object, size: tuple[int, int], where: str) -> list[Array] | Array:
    """Read the outline of an object.

    Args:
        segmentation: polygons, or {"counts": ..., "size": [H, W]} with counts as a list or packed as text.
        size: height and width of the image.
        where: what messages begin with.

    Returns:
        Polygons, each (n, 2), or (n,) run lengths, whose sum is H W.

    Raises:
        DatasetError: if it is neither, or breaks a rule.
    """
    if isinstance(segmentation, Mapping):
        given, counts = segmentation.get("size"), segmentation.get("counts")
        if given != list(size):
            raise DatasetError(f"{where}: its run lengths are for {given} pixels, not the {size} (H, W) of its image")
        return _checked_runs(unpack(counts, where) if isinstance(counts, str) else counts, size, where)
    if not isinstance(segmentation, list | tuple) or not segmentation:
        raise DatasetError(f"{where}: has no segmentation, and a box is no mask; export polygons or run lengths")
    polygons = [points_of(entry, where, 8 * max(size) + 1000) for entry in segmentation]
    if min(map(len, polygons)) < 3:
        raise DatasetError(f"{where}: a polygon has at least three points; correct or remove it")
    return polygons


def runs_of(shape: list[Array] | Array, size: tuple[int, int], where: str) -> Array:
    """Give an object as run lengths down the columns, of outside and inside in turn, as COCO does.

    Args:
        shape: as `shape_of` gives it.
        size: height and width of the image.
        where: what messages begin with.

    Returns:
        (n,) lengths; their sum is H W.

    Raises:
        ImportError: if pycocotools is needed and not installed.
    """
    if not isinstance(shape, list):
        return shape
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError(f"{where}: polygons of COCO need pycocotools: pip install 'fullyconv[coco]'") from error
    packed = coco_mask.merge(coco_mask.frPyObjects([points.ravel().tolist() for points in shape], *size))
    return _checked_runs(unpack(packed["counts"].decode("ascii"), where), size, where)


def _outline(points: Array) -> int:
    return int(np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum())


def _checked_runs(counts: object, size: tuple[int, int], where: str) -> Array:
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError):
        runs = np.array("")
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or not len(runs):
        raise DatasetError(f"{where}: run lengths are whole numbers in a list, or packed as text; export it anew")
    if runs.min() < 0 or runs.max() > MAX_PIXELS or int(runs.sum(dtype=np.int64)) != size[0] * size[1]:
        raise DatasetError(f"{where}: its run lengths do not add up to the {size} (H, W) of its image; export it anew")
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


@read_once(8)
def read_document(path: Path) -> Document:
    """Read a file once in every process, and again when it has changed.

    Raises:
        DatasetError: if it is damaged, or breaks a rule of the format; the message names the entry.
    """
    content = read_json(path, hook=_compacted)
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in lists):
        raise NotCoco(f"{path}: has no lists of images, annotations and categories; export it as COCO")
    names = _categories(_entries(path, content, "categories", "category"))
    photos = _photos(_entries(path, content, "images", "image"))
    bad: list[tuple[str, str]] = []
    used = set()
    for where, entry in _entries(path, content, "annotations", "annotation"):
        image, category = entry.get("image_id"), entry.get("category_id")
        if "segments_info" in entry:
            raise DatasetError(f"{path}: is of COCO's panoptic form, which is not read; export objects, or index masks")
        if not isinstance(image, int | str) or image not in photos:
            raise DatasetError(f"{where} belongs to the image {image!r}, which is not in the list; remove it")
        if not isinstance(category, int) or category not in names:
            raise DatasetError(f"{where} has the category {category!r}, which is not in the list; add it there")
        used.add(category)
        name, photo = names[category], photos[image]
        segmentation = _whole_polygons(entry.get("segmentation"))
        if isinstance(segmentation, str):
            bad.append((name, f"{where} (of {'/'.join(photo.parts)}): {segmentation}"))
        else:
            number, crowd = str(entry.get("id", "without id")), bool(entry.get("iscrowd"))
            photo.objects.append(Annotation(number, name, crowd, segmentation))
    # Some tools write the group of all categories as a category of its own.
    supers = {str(entry.get("supercategory")) for entry in content["categories"]}
    groups = {number for number, text in names.items() if number not in used and text in supers and len(names) > 1}
    keys = [str(key) if isinstance(key, int) else f"image {at}" for at, key in enumerate(photos)]
    called = [names[number] for number in sorted(names.keys() - groups)]
    return Document(dict(zip(keys, photos.values(), strict=True)), called, bad)


def _entries(path: Path, content: Mapping[str, Any], kind: str, one: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the objects of a list, each with what messages call it."""
    for position, entry in enumerate(content[kind]):
        if not isinstance(entry, dict):
            raise DatasetError(f"{path}: entry {position} of its {kind} is no object; export it anew")
        yield f"{path}: {one} {str(entry.get('id', f'at place {position}'))[:80]}", entry


def _categories(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[int, str]:
    """Give id -> name."""
    names: dict[int, str] = {}
    for where, entry in entries:
        number = entry.get("id")
        if not isinstance(number, int) or number in names:
            raise DatasetError(f"{where}: its id is no whole number, or that of another; give each its own")
        names[number] = class_name(entry.get("name"), where)
    return names


def _photos(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[int | str, Photo]:
    """Give id -> image, without objects."""
    photos: dict[int | str, Photo] = {}
    files: dict[tuple[str, ...], int | str] = {}
    for where, entry in entries:
        number = entry.get("id")
        if not isinstance(number, int | str) or number in photos:
            raise DatasetError(f"{where} is there twice, or has no id; remove one")
        parts = safe_parts(entry.get("file_name"), where)
        if files.setdefault(parts, number) != number:
            raise DatasetError(f"{where} has the file of image {files[parts]}, {'/'.join(parts)}; join the two")
        photos[number] = Photo(parts, (entry.get("height") or None, entry.get("width") or None), [])
    return photos


def _whole_polygons(segmentation: Any) -> Any:
    """Take polygons of one or two points out of a list; say what is wrong where nothing is left."""
    if segmentation is None or (isinstance(segmentation, list | tuple) and not segmentation):
        return "has no segmentation, and a box is no mask"
    if isinstance(segmentation, str):
        return "has a segmentation that is text"
    if not isinstance(segmentation, tuple):  # run lengths, or what cannot be drawn and says so when it is
        return segmentation
    return [polygon for polygon in segmentation if polygon.size > 4] or "a polygon has at least three points"


def _compacted(entry: dict[str, Any]) -> dict[str, Any]:
    """Hold polygons as arrays, a quarter of the memory of lists; what is wrong is reported when it is drawn."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        try:
            arrays = tuple(np.asarray(polygon) for polygon in segmentation)
        except ValueError:  # lists of different lengths
            return entry
        if all(array.dtype.kind in "iuf" for array in arrays):
            entry["segmentation"] = arrays
    return entry


def is_coco_file(path: Path) -> bool:
    """Tell whether a file is of this kind; one that is damaged is, and says so when it is used."""
    try:
        read_document(path)
    except NotCoco:
        return False
    except DatasetError:
        return True
    return True


def coco_layout(tree: Tree, files: Sequence[Path], reading: Reading) -> Source:
    """Pair the images of COCO files with their objects.

    Args:
        tree: what is in the data folder.
        files: the COCO files.
        reading: the folder of the images inside root, where it is not found, and what becomes of crowds.

    Returns:
        The source, with reader and labels.

    Raises:
        DatasetError: if two files could be of one split, or images lie in more than one folder.
    """
    root, photos = tree.root, tree.images
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_split[split_of(file.relative_to(root))].append(file)
    name = "COCO annotations of " + ", ".join(file.relative_to(root).as_posix() for file in files[:4])
    source = Source(name, root=root)
    documents: dict[Path, Document] = {}
    for split, some in by_split.items():
        file = _one_of(source, split, some)
        documents[file] = read_document(file)
        for pair in _paired(source, file, documents[file], photos, reading.images):
            place = pair.image.relative_to(root).parent.as_posix()
            own = meaning_of(place)[1] if [*by_split] == ["all"] else ""  # one file for the folders of all splits
            source.splits.setdefault(own or split, []).append(pair)
    if not any(source.splits.values()) and not source.lost:
        raise DatasetError(f"{files[0]}: lists no images; export it anew")
    source.named, values = classes_of(name for document in documents.values() for name in document.names)
    if source.named.num_classes < 2:
        raise DatasetError(f"{files[0]}: has no categories, which become the classes; export it anew")
    source.reader = CocoReader(values=values, crowds=reading.crowds)
    source.notes.append("where objects overlap the smaller one is on top; what is in none is background")
    objects = [photo.objects for document in documents.values() for photo in document.images.values()]
    _tell_crowds(source, documents, list(chain(*objects)), reading.crowds)
    _tell_undrawn(source, documents, {entry.name for entry in chain(*objects)})
    if empty := sum(not found for found in objects):
        source.notes.append(f"{empty} images have no objects: they are background")
    if rest := len({*photos} - {pair.image for pair in source.pairs}):
        source.notes.append(f"{rest} images are in no list, and left out")
    return source


def _one_of(source: Source, split: str, files: Sequence[Path]) -> Path:
    """Choose the file of a split: the only one, or that of objects beside those of key points and captions."""
    objects = [file for file in files if file.name.startswith("instances")]
    if len(files) > 1 and len(objects) == 1:
        others = ", ".join(file.name for file in files if file not in objects)
        source.notes.append(f"{objects[0].name} is taken, and {others} left out")
        files = objects
    if len(files) > 1:
        listed = ", ".join(file.relative_to(source.root).as_posix() for file in files)
        what = f"the annotations of {'its images' if split == 'all' else split} could be {listed}"
        remedy = "say which by masks=FILE (--masks), or a pattern that fits one file a split"
        raise DatasetError(f"{source.root}: {what}; {remedy}")
    return files[0]


def _tell_crowds(source: Source, files: Iterable[Path], objects: Sequence[Annotation], crowds: str) -> None:
    """Tell regions of many objects: nothing is left of a class that has no others."""
    number, total = sum(entry.crowd for entry in objects), len(objects)
    if number and crowds == "category":
        source.notes.append(f"{number} regions of many objects (iscrowd) are read as their category")
    elif number:
        what = f"{number} of {total} annotations ({number / total:.1%}) are regions of many objects (iscrowd)"
        option = 'crowds="category" (--crowds category) reads them as their category'
        whole = {entry.name for entry in objects if not entry.crowd}
        if gone := list(dict.fromkeys(entry.name for entry in objects if entry.name not in whole)):
            message = f"{next(iter(files))}: {what}, which are ignored; nothing is left of {', '.join(gone)}; {option}"
            source.fail("classes that are all crowd", message, files)
        else:
            source.warn("crowds", f"{what}, and ignored; {option}", files)


def _tell_undrawn(source: Source, documents: Mapping[Path, Document], drawn: Collection[str]) -> None:
    """Tell objects that no pixel can be drawn of: a class of nothing else is an error."""
    bad: dict[str, list[str]] = defaultdict(list)
    for name, message in chain(*(document.bad for document in documents.values())):
        bad[name].append(message)
    if skipped := [message for name, found in bad.items() for message in found if name in drawn]:
        rule = f"{len(skipped)} annotations without a polygon of three points or a segmentation"
        source.warn(rule, "nothing can be drawn of them: they are skipped, and are background", skipped)
    for name, messages in bad.items():
        if name in drawn:
            continue
        message = f"{messages[0]}; export polygons or run lengths, or remove it. So is every annotation of {name}"
        source.fail("classes that cannot be drawn", message, messages if len(messages) > 1 else ())


def _paired(source: Source, file: Path, document: Document, photos: Sequence[Path], images: str | None) -> list[Pair]:
    """Find the images of a file."""
    root, there = source.root, set(photos)
    listed = {key: photo.parts for key, photo in document.images.items()}
    base = root / images if images is not None else _base(root, file, list(listed.values()), photos)
    split = "" if base == root else base.relative_to(root).as_posix() + "/"
    pairs = [
        Pair(base.joinpath(*parts), file / key, split + Path(*parts).with_suffix("").as_posix())
        for key, parts in listed.items()
    ]
    if missing := [pair.image for pair in pairs if pair.image not in there]:
        what = f"{file}: {len(missing)} of {len(pairs)} images are not there"
        remedy = "add them, remove them from the file, or say in which folder they are (images=, --images)"
        source.lose("images that are listed and not there", missing, f"{what}; {remedy}")
    return [pair for pair in pairs if pair.image in there]


def _base(root: Path, file: Path, names: Iterable[tuple[str, ...]], images: Sequence[Path]) -> Path:
    """Find the folder to which the names of the images are relative."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name].append(image)
    hits = Counter(
        image.parents[len(parts) - 1]
        for parts in names
        for image in by_name[parts[-1]]
        if image.parts[-len(parts) :] == parts
    )
    inside = {folder: count for folder, count in hits.items() if folder == root or root in folder.parents}
    if not inside:
        return file.parent
    best = {folder: folder.relative_to(root) for folder, count in inside.items() if count == max(inside.values())}
    split = split_of(file.relative_to(root))
    for some in (
        [*best],
        [folder for folder, place in best.items() if meaning_of(place.as_posix())[0] not in ("mask", "object")],
        [folder for folder in best if folder == file.parent],
        [folder for folder, place in best.items() if split != "all" and split_of(place / "x") == split],
    ):
        if len(some) == 1:
            return some[0]
    shown = ", ".join(f"{place.as_posix()}/" for place in best.values())
    raise DatasetError(f"{file}: its images could be in {shown}; say which by images=FOLDER (--images)")

"""YOLO's polygons: a text file an image, in each line the number of a class and x, y, ... in fractions of the sides.

Where objects overlap the smaller one is on top. Boxes, five numbers a line, are no masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fullyconv.data.annotations.beside import MOST_POINTS, drawn_size, pair_documents
from fullyconv.data.class_names import names_beside
from fullyconv.data.documents import BACKGROUND, class_name, classes_of, read_text, whole_number
from fullyconv.data.folders import mask_places
from fullyconv.data.layouts import Source, Tree
from fullyconv.data.pairs import Pair, plain_name
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels

MAX_BYTES = 2**24
MAX_YAML_BYTES = 2**20  # no description of a set is longer, and a parser takes seconds for more
MAX_CLASS = 4094
_IMAGES_BESIDE = {"labels": "images", "Labels": "Images", "LABELS": "IMAGES"}
_FAR = 0.1  # fractions of a side beyond the image, which tools write for what is cut at its border


@dataclass(frozen=True)
class YoloReader(FileReader):
    """Draw the polygons of YOLO's text files: class i has the value i + 1, and 0 is background.

    Args:
        channels: C of the images.
    """

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Draw the mask as (H, W) integers; what no polygon covers is background.

        Raises:
            DatasetError: if a line is no polygon; the message names file and line.
        """
        height, width = drawn_size(self, pair)
        # Files of six digits miss whole pixels by a little, and Pillow cuts what is behind the point.
        polygons = [(number, (points * (width, height)).round(2)) for number, points in read_polygons(pair.mask)[0]]
        image = Image.new("I", (width, height))
        draw = ImageDraw.Draw(image)
        for number, points in sorted(polygons, key=lambda entry: -_area(entry[1])):
            draw.polygon([(x, y) for x, y in points.tolist()], fill=number + 1)
        wide = any(number >= 254 for number, _ in polygons)
        mask: npt.NDArray[Any] = np.array(image).astype(np.uint16 if wide else np.uint8)
        return mask


def read_polygons(path: Path) -> tuple[list[tuple[int, npt.NDArray[np.float64]]], list[str]]:
    """Read the lines of a file.

    Args:
        path: the file.

    Returns:
        Of each polygon the number of its class and (n, 2) x and y in fractions; and where those stand that have fewer
        than three points.

    Raises:
        DatasetError: if a line is a box or nothing of the kind.
    """
    polygons, short, left = [], [], MOST_POINTS
    for at, line in _lines(path):
        where = f"{path}: line {at}"
        try:
            values = np.array(line.split(), np.float64)
        except ValueError:
            values = np.array([np.nan])
        if not (np.isfinite(values).all() and 0 <= values[0] <= MAX_CLASS and values[0] % 1 == 0 and len(values) % 2):
            raise DatasetError(f"{where}: is no class with x, y, x, y, ... in fractions of the sides; export it anew")
        if len(values) == 5:
            raise DatasetError(f"{where}: is a box, and a box is no mask; export polygons (segmentation)")
        if np.abs(values[1:] - 0.5).max(initial=0) > 0.5 + _FAR:
            raise DatasetError(f"{where}: lies outside of the image; coordinates are fractions of its sides, 0..1")
        left -= len(values) // 2
        if left < 0:
            raise DatasetError(f"{where}: the file has more than {MOST_POINTS} points up to here; draw with fewer")
        if len(values) < 7:
            short.append(where)
        else:
            polygons.append((int(values[0]), values[1:].reshape(-1, 2)))
    return polygons, short


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = read_text(path, MAX_BYTES).splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _area(points: npt.NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def label_files(tree: Tree) -> list[Path]:
    """List the text files that go with an image in `images/` beside their `labels/`, as YOLO has them, if there are.

    Boxes beside masks are no labels of pixels, and not meant.
    """
    there = {plain_name(image.with_suffix("").as_posix()) for image in tree.images}
    found = [path for path in tree.by_suffix.get(".txt", []) if _image_stem(tree.root, path) in there]
    heads = [words for path in found[:20] if (words := _first_words(path))]
    if all(len(words) == 5 for words in heads) and mask_places(tree):
        return []
    polygons = sum(len(words) >= 5 and words[0].replace(".", "", 1).isdigit() for words in heads)
    return found if 2 * polygons > len(heads) else []


def _first_words(path: Path) -> list[str]:
    """Give the words of the first line that is not empty; of what is no such text one that is no number."""
    try:
        lines = _lines(path)
    except DatasetError:
        return ["?"]
    return lines[0][1].split() if lines else []


def _image_stem(root: Path, path: Path) -> str:
    """Give the path, without extension, of the image that a text file is of: in images/ where that is in labels/."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    for at in reversed(range(len(parts) - 1)):
        if parts[at] in _IMAGES_BESIDE:
            parts[at] = _IMAGES_BESIDE[parts[at]]
            break
    return plain_name(root.joinpath(*parts).as_posix())


def yolo_layout(tree: Tree, files: Sequence[Path]) -> Source:
    """Pair images with YOLO's text files; `data.yaml` names classes and splits.

    Args:
        tree: what is in the data folder.
        files: the text files.

    Returns:
        The source, with reader and labels.

    Raises:
        DatasetError: if all are boxes, or a class has no name.
    """
    root = tree.root
    source = Source("polygons of YOLO", root=root, reader=YoloReader())
    by_stem = {plain_name(image.with_suffix("").as_posix()): image for image in tree.images}
    path, described = _described(tree)
    base = path.parent if described else root
    places = {split: _places(base, described.get(split)) for split in ("train", "val", "test")}
    told, lonely = pair_documents(
        source,
        tree,
        [path for path in files if _image_stem(root, path) in by_stem],
        read_polygons,
        lambda path, _: by_stem[_image_stem(root, path)],
        lambda image: next((split for split, folders in places.items() if folders & {image, *image.parents}), ""),
    )
    if lonely:
        message = "they are left out: write an empty text file for each that shows no object, and it is background"
        source.warn(f"{len(lonely)} images without a text file", message, lonely)
    folders = {path.parent for path in files}
    near = (path for path in tree.by_suffix[".txt"] if path.parent in folders)
    others = [path for path in near if _image_stem(root, path) not in by_stem]
    if imageless := [path for path in others if len(words := _first_words(path)) >= 5 and words[1][:1].isdigit()]:
        source.lose("text files without an image", imageless, "no image of the same name; add it, or remove the file")
    used = {number for polygons in told.values() for number, _ in polygons}
    given = described.get("names")
    if given is None:
        given = {number: f"class {number}" for number in sorted(used)}
        beside = names_beside(root, {file.parent for file in files})
        if beside is not None and not beside.by_color:
            path, given = beside.files[0], beside.values
    source.named = _labels(path, given, used)
    source.notes.append("where objects overlap the smaller one is on top; what is in none is background")
    return source


def _described(tree: Tree) -> tuple[Path, Mapping[str, Any]]:
    """Read the file that names classes and splits, data.yaml as a rule, and give its folder; empty where none does."""
    import yaml

    for path in (*tree.by_suffix.get(".yaml", []), *tree.by_suffix.get(".yml", [])):
        if path.stat().st_size > MAX_YAML_BYTES:
            continue
        try:
            content = yaml.safe_load(read_text(path))
        except (yaml.YAMLError, RecursionError) as error:
            raise DatasetError(f"{path}: is no YAML ({' '.join(str(error).split())}); correct it") from error
        if isinstance(content, dict) and content.keys() & {"names", "train", "nc"}:
            return path, content
    return tree.root, {}


def _places(base: Path, given: object) -> set[Path]:
    """Find the folders, or the images of a list, that a split names: by the end of their paths, wherever they were."""
    found = {place for text in (given if isinstance(given, list) else [given]) if (place := _place(base, text))}
    lists = {place for place in found if place.suffix == ".txt" and place.is_file()}
    listed = {place for path in lists for _, line in _lines(path) if (place := _place(base, line))}
    return (found - lists) | listed


def _place(base: Path, text: object) -> Path | None:
    parts = PureWindowsPath(text.strip()).parts if isinstance(text, str) else ()
    parts = tuple(part for part in parts if part.strip("./\\:"))
    tails = (base.joinpath(*parts[start:]) for start in range(len(parts)))
    try:
        return next((path for path in tails if path.exists()), None)
    except OSError:  # a name too long
        return None


def _labels(path: Path, given: object, used: set[int]) -> Labels:
    """Name the classes by what a file says: number -> name, or names in their order."""
    listed = given.items() if isinstance(given, dict) else enumerate(given if isinstance(given, list) else [])
    names = {}
    for key, text in listed:
        number = whole_number(key)
        if number is None or number > MAX_CLASS:
            raise DatasetError(f"{path}: names: a key is no number of a class, 0..{MAX_CLASS}; correct it")
        plain = isinstance(text, str | int | float)  # a list that holds itself many times has no end as text
        names[number] = class_name(str(text) if plain else None, f"{path}: class {number}")
    if nameless := sorted(used - names.keys()):
        raise DatasetError(f"{path}: class {nameless[0]} is drawn and has no name; add it to names")
    labels, values = classes_of(names[number] for number in sorted(names))
    table = {number + 1: name for number, name in names.items()}
    return Labels.of(labels.names, values={0: BACKGROUND, **table, values[IGNORE]: IGNORE})

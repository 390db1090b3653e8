"""Which image is whose among labelme files, and what the classes are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath

from fullyconv.data.annotations.beside import pair_documents
from fullyconv.data.annotations.labelme import LabelmeReader, content_of, is_short, label_of
from fullyconv.data.documents import BACKGROUND, class_name, classes_of
from fullyconv.data.layouts import Layout, Reading, Tree
from fullyconv.data.pairs import lost, plain_name
from fullyconv.errors import DatasetError, near_miss
from fullyconv.labels import IGNORE

_LISTS = ("labels.txt", "classes.txt")


def labelme_layout(tree: Tree, files: Sequence[Path], reading: Reading) -> Layout:
    """Pair images with labelme files, and find the classes: the names of all shapes, in the order of the alphabet.

    Where `labels.txt` or `classes.txt` lies in the folder, its lines are the classes, and no shape may have another.

    Args:
        tree: what is in the data folder.
        files: the labelme files.
        reading: what becomes of images without a file.

    Returns:
        The layout, with reader and labels.

    Raises:
        DatasetError: if images of a split lie beside others of none, or no shape has a name.
    """
    root, images = tree.root, tree.images
    by_name: dict[str, list[Path]] = defaultdict(list)
    for photo in images:
        by_name[plain_name(photo.stem)].append(photo)
    there = set(images)
    layout = Layout("labelme files beside images", root=root)
    told, lonely = pair_documents(
        layout, tree, files, _told, lambda path, said: _image(root, path, said[0], there, by_name)
    )
    labels: dict[str, str] = {}
    for _, found in told.values():
        labels |= {name: where for name, where in found.items() if name not in labels}
    if lonely and reading.unlabeled == "skip":
        layout.notes.append(f"{len(lonely)} images without a labelme file are left out")
    elif lonely:
        remedy = (
            "no labelme file names it; label it (a file without shapes is all background), remove it, or leave such "
            'images out (unlabeled="skip", --unlabeled skip)'
        )
        layout.lost.append(lost("images without a labelme file", lonely, remedy))
    if not layout.splits:
        return layout
    layout.labels, values = classes_of(_names(root, labels, layout))
    if layout.labels.num_classes < 2:
        raise DatasetError(f"{files[0]}: no shape of any file has a name that is a class; draw some")
    layout.reader = LabelmeReader(values=values)
    layout.notes.append("where shapes overlap the later one is on top; what is in none is background")
    return layout


def _told(path: Path) -> tuple[tuple[object, dict[str, str]], list[str]]:
    """Give the image that a file names, its labels, each with where it stands, and polygons that are none."""
    content = content_of(path)
    named = [label_of(shape, at, path) for at, shape in enumerate(content["shapes"])]
    short = [where for (_, where), shape in zip(named, content["shapes"], strict=True) if is_short(shape)]
    return (content.get("imagePath"), dict(named)), short


def _image(root: Path, path: Path, given: object, there: set[Path], by_name: Mapping[str, Sequence[Path]]) -> Path:
    named = path
    if given is not None and given != "":
        if not isinstance(given, str) or "\0" in given or len(given) > 4096:
            raise DatasetError(f"{path}: imagePath={str(given)[:80]!r} is no name of a file; correct it")
        parts = PureWindowsPath(given)  # which splits at both slashes
        named = Path(os.path.normpath(path.parent.joinpath(*parts.parts)))
        if parts.drive or parts.root or root not in named.parents:
            raise DatasetError(
                f"{path}: imagePath={given[:200]!r} leads out of {root}; give the name of the image, relative to "
                "this file"
            )
        if named in there:
            return named
    beside = [image for image in by_name.get(plain_name(path.stem), []) if image.parent == path.parent]
    for some in (beside, by_name.get(plain_name(named.stem), [])):
        if len(some) == 1:
            return some[0]
        if some:
            shown = ", ".join(str(image) for image in some[:4])
            raise DatasetError(f"{path}: its image could be {shown}; name it in imagePath")
    raise DatasetError(f"{path}: its image {named.name} is not there; add it, correct imagePath, or remove the file")


def _names(root: Path, labels: Mapping[str, str], layout: Layout) -> list[str]:
    for listing in (root / name for name in _LISTS):
        if not listing.is_file():
            continue
        try:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{listing}: not UTF-8 text; save it as UTF-8, one class name a line") from error
        names = [class_name(line, str(listing)) for line in lines if line.strip()]
        for name, where in labels.items():
            if name not in (*names, BACKGROUND, IGNORE):
                raise DatasetError(f"{where}: is no class of {listing}. {near_miss(name, names)}")
        layout.notes.append(f"classes from {listing}")
        return names
    return sorted(labels)

"""Which image is whose in COCO files: their splits, folders and classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fullyconv.data.annotations.coco import CocoReader, Document, read_document
from fullyconv.data.documents import classes_of
from fullyconv.data.layouts import Layout, Reading, Tree
from fullyconv.data.pairs import Pair, lost
from fullyconv.data.rows import whole_splits
from fullyconv.data.words import meaning_of, split_of
from fullyconv.errors import DatasetError


def coco_layout(tree: Tree, files: Sequence[Path], reading: Reading) -> Layout:
    """Pair the images of COCO files with their objects.

    Args:
        tree: what is in the data folder.
        files: the COCO files.
        reading: the folder of the images inside root, where it is not found, and what becomes of crowds.

    Returns:
        The layout, with reader and labels.

    Raises:
        DatasetError: if two files could be of one split, or images lie in more than one folder.
    """
    root, photos = tree.root, tree.images
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_split[split_of(file.relative_to(root))].append(file)
    name = "COCO annotations of " + ", ".join(file.relative_to(root).as_posix() for file in files[:4])
    layout = Layout(name, root=root)
    names: list[str] = []
    documents: dict[Path, Document] = {}
    for split, some in by_split.items():
        objects = [file for file in some if file.name.startswith("instances")]  # beside key points and captions
        if len(some) > 1 and len(objects) == 1:
            others = ", ".join(file.name for file in some if file not in objects)
            layout.notes.append(f"{objects[0].name} is taken, and {others} left out")
            some[:] = objects
        if len(some) > 1:
            listed = ", ".join(file.relative_to(root).as_posix() for file in some)
            raise DatasetError(
                f"{root}: the annotations of {'its images' if split == 'all' else split} could be {listed}; say "
                "which by masks=FILE (--masks), or a pattern that fits one file a split"
            )
        document = documents[some[0]] = read_document(some[0])
        names += [name for _, name in sorted(document.names.items())]
        layout.splits[split] = _paired(layout, some[0], document, photos, reading.images)
    if not any(layout.splits.values()) and not layout.lost:
        raise DatasetError(f"{files[0]}: lists no images; export it anew")
    whole_splits(layout, f"{root}: some of {', '.join(map(str, documents))} name a split and some do not")
    layout.labels, values = classes_of(names)
    if layout.labels.num_classes < 2:
        raise DatasetError(f"{files[0]}: has no categories, which become the classes; export it anew")
    layout.reader = CocoReader(values=values, crowds=reading.crowds)
    layout.notes.append("where objects overlap the smaller one is on top; what is in none is background")
    _crowds(layout, documents, reading.crowds)
    _undrawn(layout, documents)
    empty = sum(key not in document.annotations for document in documents.values() for key in document.images)
    if empty:
        layout.notes.append(f"{empty} images have no objects: they are background")
    listed_images = {pair.image for pair in layout.pairs}
    rest = sum(image not in listed_images for image in photos)
    if rest:
        layout.notes.append(f"{rest} images are in no list, and left out")
    return layout


def _crowds(layout: Layout, documents: Mapping[Path, Document], crowds: str) -> None:
    """Tell regions of many objects: nothing is left of a class that has no others."""
    flags: dict[str, list[bool]] = defaultdict(list)
    for document in documents.values():
        for entry in (entry for found in document.annotations.values() for entry in found):
            flags[document.names[entry.category]].append(entry.crowd)
    total, number = sum(map(len, flags.values())), sum(map(sum, flags.values()))
    if not number:
        return
    files = tuple(map(str, documents))
    if crowds == "category":
        layout.notes.append(f"{number} regions of many objects (iscrowd) are read as their category")
        return
    what = f"{number} of {total} annotations ({number / total:.1%}) are regions of many objects (iscrowd)"
    option = 'crowds="category" (--crowds category) reads them as their category'
    if gone := [name for name, found in flags.items() if all(found)]:
        message = f"{files[0]}: {what}, which are ignored, and nothing is left of {', '.join(gone)}; {option}"
        layout.fail("classes that are all crowd", message, files)
    else:
        layout.warn("crowds", f"{what}, and ignored; {option}", files)


def _undrawn(layout: Layout, documents: Mapping[Path, Document]) -> None:
    """Tell objects that no pixel can be drawn of: a class of nothing else is an error."""
    bad: dict[str, list[str]] = defaultdict(list)
    for document in documents.values():
        for category, found in document.bad.items():
            bad[document.names[category]] += found
    both = [(document, found) for document in documents.values() for found in document.annotations.values()]
    drawn = {document.names[entry.category] for document, found in both for entry in found}
    skipped = [message for name, found in bad.items() for message in found if name in drawn]
    if skipped:
        rule = f"{len(skipped)} annotations without a polygon of three points or a segmentation"
        layout.warn(rule, "nothing can be drawn of them: they are skipped, and are background", skipped)
    for name, messages in bad.items():
        if name not in drawn:
            message = f"{messages[0]}; export polygons or run lengths, or remove it. So is every annotation of {name}"
            layout.fail("classes that cannot be drawn", message, messages if len(messages) > 1 else ())


def _paired(layout: Layout, file: Path, document: Document, photos: Sequence[Path], images: str | None) -> list[Pair]:
    root, there = layout.root, set(photos)
    listed = {key: parts for key, (parts, _, _) in document.images.items()}
    base = root / images if images is not None else _base(root, file, list(listed.values()), photos)
    split = "" if base == root else base.relative_to(root).as_posix() + "/"
    places = {key: base.joinpath(*parts) for key, parts in listed.items()}
    missing = [image for image in places.values() if image not in there]
    if missing:
        remedy = (
            f"{file}: {len(missing)} of {len(listed)} images are not there; add them, remove them from the file, or "
            "say in which folder they are (images=, --images)"
        )
        layout.lost.append(lost("images that are listed and not there", missing, remedy))
    return [
        Pair(image, file / key, split + Path(*listed[key]).with_suffix("").as_posix())
        for key, image in places.items()
        if image in there
    ]


def _base(root: Path, file: Path, names: Iterable[tuple[str, ...]], images: Sequence[Path]) -> Path:
    """Find the folder to which the names of the images are relative."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name].append(image)
    hits: dict[Path, int] = defaultdict(int)
    for parts in names:
        for image in by_name.get(parts[-1], []):
            if image.parts[-len(parts) :] == parts:
                hits[image.parents[len(parts) - 1]] += 1
    inside = {folder: count for folder, count in hits.items() if folder == root or root in folder.parents}
    if not inside:
        return file.parent
    best = [folder for folder, count in inside.items() if count == max(inside.values())]
    split = split_of(file.relative_to(root))
    for some in (
        best,
        [folder for folder in best if meaning_of(folder.relative_to(root).as_posix())[0] not in ("mask", "object")],
        [folder for folder in best if folder == file.parent],
        [folder for folder in best if split != "all" and split_of(folder.relative_to(root) / "x") == split],
    ):
        if len(some) == 1:
            return some[0]
    shown = ", ".join(folder.relative_to(root).as_posix() + "/" for folder in best)
    raise DatasetError(f"{file}: its images could be in {shown}; say which by images=FOLDER (--images)")

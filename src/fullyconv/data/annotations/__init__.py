"""Folders whose labels are no masks in files beside images: COCO, YOLO, labelme, and tables of Hugging Face.

The files of a folder say what it holds. Where two kinds of labels could be meant, nothing is guessed: they are listed,
with the option to give.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.data.annotations.coco import coco_layout, is_coco_file
from fullyconv.data.annotations.labelme import labelme_layout
from fullyconv.data.annotations.tables import saved_tables, table_layout
from fullyconv.data.annotations.yolo import label_files, yolo_layout
from fullyconv.data.folders import mask_places
from fullyconv.data.layouts import Reading, Source, Tree
from fullyconv.data.rows import METADATA, metadata_layout
from fullyconv.errors import DatasetError, tell
from fullyconv.lazy import submodules

_COCO_HEAD = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_LABELME_HEAD = re.compile(rb'"shapes"\s*:\s*\[')
_HEAD = 65536


def find_annotated(tree: Tree, reading: Reading) -> Source | None:
    """Find labels that are no masks in files beside images.

    Args:
        tree: what is in the data folder.
        reading: folder of the images, or the column of a table; a JSON file or a pattern of such, a pattern of YOLO's
            text files, or the column of a table, where they are not found.

    Returns:
        The source, or None where there is nothing of the kind, or the options name something else.

    Raises:
        FileNotFoundError: if `masks` names a file that is not there.
        DatasetError: if several kinds of labels could be meant, or those that there are break a rule.
    """
    root, masks = tree.root, reading.masks
    if masks is not None and masks.lower().endswith((".json", ".txt")):
        return _chosen(tree, reading, masks)
    tables = saved_tables(tree)
    parquet = tree.by_suffix.get(".parquet", [])
    if not tables and parquet and (masks is not None or not mask_places(tree)):  # else they hold other things
        tables = parquet
    if masks is not None and (not tables or any(sign in masks for sign in "/*?[") or (root / masks).exists()):
        return None
    if tables:
        return table_layout(root, tables, reading)
    metadata = tree.named(*METADATA)
    if reading.images is None and metadata:
        try:
            if (named := metadata_layout(root, metadata)) is not None:
                return named
        except DatasetError as error:
            if not mask_places(tree):
                raise
            tell(f"{error}. The folder of masks is read without it")
    coco, labelme = _sniffed(tree)
    yolo = label_files(tree)
    kinds = []
    for kind, files in (("COCO", coco), ("labelme", labelme), ("YOLO", yolo)):
        if files:
            path = files[0].relative_to(root)
            option = path.as_posix() if kind == "COCO" else f"'{path.with_name('*' + path.suffix).as_posix()}'"
            kinds.append(f"{kind} ({path.as_posix()}; --masks {option})")
    if not kinds:
        return None
    kinds += [f"masks ({place}/; --masks {place})" for place in mask_places(tree)]
    if len(kinds) > 1:
        raise DatasetError(f"{root}: its labels could be {', or '.join(kinds)}; say which by masks=")
    if coco:
        return coco_layout(tree, coco, reading)
    return labelme_layout(tree, labelme, reading) if labelme else yolo_layout(tree, yolo)


def _chosen(tree: Tree, reading: Reading, masks: str) -> Source:
    """Read the files of annotations that were named."""
    hits = set(tree.root.glob(masks))
    chosen = [path for path in tree.by_suffix.get(Path(masks).suffix.lower(), []) if path in hits]
    if not chosen:
        raise FileNotFoundError(f"masks={masks!r}: no such file in {tree.root}; give one relative to it, or a pattern")
    if chosen[0].suffix.lower() == ".txt":
        return yolo_layout(tree, chosen)
    coco = [path for path in chosen if is_coco_file(path)]
    if coco and len(coco) < len(chosen):
        other = next(path for path in chosen if path not in coco)
        raise DatasetError(f"masks={masks!r}: {coco[0]} is COCO and {other} is not; name files of one kind")
    return coco_layout(tree, coco, reading) if coco else labelme_layout(tree, chosen, reading)


def _sniffed(tree: Tree) -> tuple[list[Path], list[Path]]:
    """Tell which JSON files are of COCO and which of labelme."""
    coco, labelme, others = [], [], []
    for path in tree.by_suffix.get(".json", []):
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError:
            head = b""
        if _LABELME_HEAD.search(head):
            labelme.append(path)
        elif _COCO_HEAD.search(head) and is_coco_file(path):
            coco.append(path)
        else:
            others.append(path)
    if labelme:  # a damaged one is told, not overlooked
        beside = {image.with_suffix("") for image in tree.images}
        labelme += [path for path in others if path.with_suffix("") in beside]
    return coco, sorted(labelme)


if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

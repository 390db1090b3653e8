"""Folders whose labels are no masks in files beside images: COCO, labelme, and tables of Hugging Face.

What is in a folder is told by its files. Where two kinds of labels could be meant, nothing is guessed: they are listed,
with the option to give.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.data.annotated.coco import coco_layout, is_coco_file
from fullyconv.data.annotated.labelme import labelme_layout
from fullyconv.data.annotated.tables import METADATA, metadata_layout, saved_tables, table_layout
from fullyconv.data.layouts import MAX_FILES, Layout, Lost, mask_places
from fullyconv.errors import DatasetError
from fullyconv.images import EXTENSIONS
from fullyconv.lazy import submodules

_COCO_HEAD = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_LABELME_HEAD = re.compile(rb'"shapes"\s*:\s*\[')
_HEAD = 65536


def find_annotated(
    root: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    unlabeled: str = "error",
    lost: list[Lost] | None = None,
) -> Layout | None:
    """Find labels that are no masks in files beside images.

    Args:
        root: the data folder.
        images: folder of the images inside it, or the column of a table, where it is not found.
        masks: a JSON file or a pattern of such, or the column of a table, where they are not found.
        unlabeled: what becomes of images without labels.
        lost: where it is given, files that are in the way are left out and told here, instead of an error.

    Returns:
        The layout, or None where there is nothing of the kind, or the options name something else.

    Raises:
        FileNotFoundError: if `masks` names a JSON file that is not there.
        DatasetError: if several kinds of labels could be meant, or those that there are break a rule.
    """
    by_name = masks is not None and masks.lower().endswith(".json")
    found = _Files(root)
    if by_name:
        chosen = [path for path in sorted(root.glob(str(masks))) if path in set(found.documents)]
        if not chosen:
            raise FileNotFoundError(f"masks={masks!r}: no such file in {root}; give one relative to it, or a pattern")
        coco = [path for path in chosen if is_coco_file(path)]
        if coco and len(coco) < len(chosen):
            other = next(path for path in chosen if path not in coco)
            raise DatasetError(f"masks={masks!r}: {coco[0]} is COCO and {other} is not; name files of one kind")
        if coco:
            return coco_layout(root, coco, found.images, images=images, lost=lost)
        return labelme_layout(root, chosen, found.images, unlabeled=unlabeled, lost=lost)
    tables = saved_tables(root)
    if not tables and found.tables and (masks is not None or not mask_places(root)):  # else they hold other things
        tables = found.tables
    if masks is not None and (not tables or any(sign in masks for sign in "/*?[") or (root / masks).exists()):
        return None
    if tables:
        return table_layout(root, tables, images=images, masks=masks)
    if not found.documents and not found.metadata:
        return None
    if images is None and found.metadata:
        unread = [path for path in found.metadata if not _is_utf8(path)]
        if unread and mask_places(root):  # the masks are found without it
            found.metadata = [path for path in found.metadata if path not in unread]
        named = metadata_layout(root, found.metadata, lost)
        if named is not None:
            return named
    coco, labelme = found.sniffed()
    kinds = []
    if coco:
        kinds.append(f"COCO ({coco[0].relative_to(root).as_posix()}; --masks {coco[0].relative_to(root).as_posix()})")
    if labelme:
        place = labelme[0].relative_to(root).parent.as_posix()
        pattern = "*.json" if place == "." else f"{place}/*.json"
        kinds.append(f"labelme ({labelme[0].relative_to(root).as_posix()}; --masks '{pattern}')")
    if not kinds:
        return None
    places = mask_places(root)
    kinds += [f"masks ({place}/; --masks {place})" for place in places]
    if len(kinds) > 1:
        raise DatasetError(f"{root}: its labels could be {', or '.join(kinds)}; say which by masks=")
    if coco:
        return coco_layout(root, coco, found.images, images=images, lost=lost)
    return labelme_layout(root, labelme, found.images, unlabeled=unlabeled, lost=lost)


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


class _Files:
    """What lies in a folder, by its names."""

    def __init__(self, root: Path) -> None:
        self.images: list[Path] = []
        self.documents: list[Path] = []
        self.tables: list[Path] = []
        self.metadata: list[Path] = []
        count = 0
        for here, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            count += len(files)
            if count > MAX_FILES:
                raise DatasetError(f"{root}: holds more than {MAX_FILES} files; give the folder of one data set")
            for name in sorted(files):
                suffix = os.path.splitext(name)[1].lower()
                kind = {".json": self.documents, ".parquet": self.tables}.get(suffix)
                kind = self.images if suffix in EXTENSIONS else kind
                kind = self.metadata if name.lower() in METADATA else kind
                path = Path(here) / name
                if kind is None or name.startswith("."):
                    continue
                if kind is self.images or path.is_file():  # many: they say themselves when they are read
                    kind.append(path)

    def sniffed(self) -> tuple[list[Path], list[Path]]:
        """Tell which JSON files are of COCO and which of labelme."""
        coco, labelme, others = [], [], []
        for path in self.documents:
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
            beside = {image.with_suffix("") for image in self.images}
            labelme += [path for path in others if path.with_suffix("") in beside]
        return coco, sorted(labelme)


if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

"""Pairs from the metadata.csv or metadata.jsonl of a folder of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fullyconv.data.layouts import Layout
from fullyconv.data.rows import add_rows, rows_of, whole_splits
from fullyconv.data.words import meaning_of
from fullyconv.errors import DatasetError

_FILE_NAMES = ("_file_name", "_filename", "_file", "_path")


def metadata_layout(root: Path, files: Iterable[Path]) -> Layout | None:
    """Make pairs of the lines of `metadata.csv` or `metadata.jsonl`, as `datasets` wants them in a folder of images.

    The column of an image is `file_name` or `image_file_name`; that of its mask is called after masks, labels,
    annotations or segmentations, with or without `_file_name`.

    Args:
        root: the data folder.
        files: the metadata files in it.

    Returns:
        The layout, or None where no file has a column of masks.

    Raises:
        DatasetError: if several columns could be the masks, or some lines name a split and some do not.
    """
    layout = Layout(root=root)
    used = []
    for path in sorted(files):
        rows = list(rows_of(path, ()))
        columns = _metadata_columns(path, [name for _, row in rows[:1] for name in row if name is not None])
        if columns is None:
            continue
        used.append(path.relative_to(root).as_posix())
        folder = meaning_of(path.relative_to(root).parent.as_posix())[1]
        named = (
            (at, {"image": row.get(columns[0]), "mask": row.get(columns[1]), "split": row.get("split") or folder})
            for at, row in rows
        )
        add_rows(layout, path, named)
    if not used:
        return None
    whole_splits(layout, f"{root}: some lines of {', '.join(used)} name a split and some do not")
    layout.name = "pairs of " + ", ".join(used)
    return layout


def _metadata_columns(path: Path, names: Sequence[str]) -> tuple[str, str] | None:
    plain = {}
    for name in names:
        word = name.strip().lower()
        for ending in _FILE_NAMES:
            word = word.removesuffix(ending)
        plain[name] = word
    files = [name for name in names if name.strip().lower() in ("file_name", "image_file_name", "image_filename")]
    masks = [name for name in names if name not in files and meaning_of(plain[name])[0] == "mask"]
    # "label" alone is, as a rule, the class of a whole image.
    masks = [name for name in masks if plain[name] not in ("label", "labels") or plain[name] != name.strip().lower()]
    if len(files) != 1 or not masks:
        return None
    if len(masks) > 1:
        raise DatasetError(
            f"{path}: the masks could be in the columns {', '.join(masks)}; give the pairs by pairs=FILE (--pairs), "
            "with the columns image and mask"
        )
    return files[0], masks[0]

"""Pairs that lie in the lines of tables: CSV, TSV and JSON lines, and the metadata of a folder of images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullyconv.data.documents import read_csv, read_text
from fullyconv.data.layouts import Source
from fullyconv.data.pairs import Pair
from fullyconv.data.words import SPLIT_WORDS, meaning_of
from fullyconv.errors import DatasetError

METADATA = ("metadata.csv", "metadata.jsonl")


def from_table(root: Path, given: str) -> Source:
    """Read the pairs of a table.

    Args:
        root: the data folder.
        given: a CSV, TSV or JSON-lines file, inside root, or else from the working directory, or absolute.

    Raises:
        FileNotFoundError: if it is not there.
        DatasetError: if it cannot be read, or names no pairs.
    """
    path = next((path for path in (root / given, Path(given)) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"pairs={given!r}: no such file, in {root} or here; give a CSV, TSV or JSON-lines file")
    source = Source(f"pairs of {path.name}", root=root)
    _add_rows(source, path, _rows_of(path))
    if not source.splits and not source.lost:
        raise DatasetError(f"{path}: no pairs in it; write the columns image and mask, one pair a line")
    return source


def metadata_layout(root: Path, files: Iterable[Path]) -> Source | None:
    """Make pairs of the lines of `metadata.csv` or `metadata.jsonl`, as `datasets` wants them in a folder of images.

    The column of an image is `file_name` or `image_file_name`; that of its mask is called after masks, labels,
    annotations or segmentations, with or without `_file_name`.

    Args:
        root: the data folder.
        files: the metadata files in it.

    Returns:
        The source, or None where no file has a column of masks.

    Raises:
        DatasetError: if a file cannot be read, or several columns could be the masks.
    """
    source = Source(root=root)
    used = []
    for path in sorted(files):
        rows = list(_rows_of(path))
        columns = _metadata_columns(path, [name for _, row in rows[:1] for name in row])
        if columns is None:
            continue
        image, mask = columns
        used.append(path.relative_to(root).as_posix())
        folder = meaning_of(path.relative_to(root).parent.as_posix())[1]
        named = [
            (number, {"image": row.get(image), "mask": row.get(mask), "split": row.get("split") or folder})
            for number, row in rows
        ]
        _add_rows(source, path, named)
    source.layout = "pairs of " + ", ".join(used)
    return source if used else None


def _metadata_columns(path: Path, names: Sequence[str]) -> tuple[str, str] | None:
    """Tell which columns name images and masks; "label" alone is, as a rule, the class of a whole image."""
    words = {name: name.strip().lower() for name in names}
    files = [name for name, word in words.items() if word in ("file_name", "image_file_name", "image_filename")]
    bare = {name: re.sub("(_file_name|_filename|_file|_path)$", "", word) for name, word in words.items()}
    others = [name for name in names if name not in files and words[name] not in ("label", "labels")]
    masks = [name for name in others if meaning_of(bare[name])[0] == "mask"]
    if len(files) != 1 or not masks:
        return None
    if len(masks) > 1:
        raise DatasetError(f"{path}: the masks could be in the columns {', '.join(masks)}; give pairs=FILE (--pairs)")
    return files[0], masks[0]


def _add_rows(source: Source, path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Add the pairs of lines to a source; what names no pair is lost."""
    bad: list[str] = []
    for number, row in rows:
        try:
            split, pair = _pair_of_row(source.root, path, f"{path}: line {number}", row)
        except DatasetError as error:
            bad.append(str(error))
            continue
        source.splits.setdefault(split, []).append(pair)
    if bad:
        source.lose(f"lines of {path.name} that name no pair", bad)


def _pair_of_row(root: Path, path: Path, where: str, row: Mapping[str, Any]) -> tuple[str, Pair]:
    """Make a pair of a line with image, mask and, if there is one, split; names are relative to the file's folder."""
    named = [text.strip() if isinstance(text := row.get(column), str) else "" for column in ("image", "mask")]
    if not all(named):
        missing = [column for column, name in zip(("image", "mask"), named, strict=True) if not name]
        raise DatasetError(f"{where} has no {' and no '.join(missing)}; every line has the columns image and mask")
    files = [path.parent / name for name in named]
    for name, place in zip(named, files, strict=True):
        try:
            above, there = place.resolve().parents, place.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a circle of links
            raise DatasetError(f"{where}: {name[:80]!r} is no name of a file ({type(error).__name__})") from error
        if root.resolve() not in above and path.parent.resolve() not in above:
            raise DatasetError(f"{where}: {name!r} leads out of {path.parent}; keep the files of a set in its folder")
        if not there:
            raise DatasetError(f"{where}: {place}: no such file; correct the line or remove it")
    word = str(row.get("split") or "all").strip().lower()
    split = SPLIT_WORDS.get(word, word)
    if split not in ("train", "val", "test", "all"):
        raise DatasetError(f"{where}: split={word!r}; choose train, val or test")
    return split, Pair(files[0], files[1], str(Path(named[0]).with_suffix("")))


def _rows_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the lines of a CSV, TSV or JSON-lines file.

    Args:
        path: the file.

    Yields:
        The number of the line, and column -> what stands in it.

    Raises:
        DatasetError: if the file is damaged.
    """
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        yield from read_csv(path)
        return
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: line {number} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}: line {number} is no JSON object with image and mask")
        if row:
            yield number, row

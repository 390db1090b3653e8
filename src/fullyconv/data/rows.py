"""Pairs that lie in the lines of tables: CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullyconv.data.findings import Finding
from fullyconv.data.layouts import Layout
from fullyconv.data.pairs import Pair
from fullyconv.data.words import SPLIT_WORDS
from fullyconv.errors import DatasetError


def from_table(root: Path, given: str) -> Layout:
    """Read the pairs of a table.

    Args:
        root: the data folder.
        given: a CSV, TSV or JSON-lines file, relative to root or absolute.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = Path(given) if Path(given).is_absolute() else root / given
    if not path.is_file():
        raise FileNotFoundError(f"pairs={given!r}: no such file; give a CSV, TSV or JSON-lines file")
    layout = Layout(f"pairs of {path.name}", root=root)
    try:
        add_rows(layout, path, rows_of(path))
        if not layout.splits and not layout.lost:
            raise DatasetError(f"{path}: no pairs in it; write the columns image and mask, one pair a line")
        whole_splits(layout, f"{path}: {len(layout.splits.get('all', []))} lines name no split and others do")
    except DatasetError as error:
        layout.fail("the table cannot be read", str(error))
    return layout


def add_rows(layout: Layout, path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Add the pairs of lines to a layout; what names no pair is lost."""
    bad: list[str] = []
    for number, row in rows:
        try:
            split, pair = pair_of_row(layout.root, path, number, row)
        except DatasetError as error:
            bad.append(str(error))
            continue
        layout.splits.setdefault(split, []).append(pair)
    if bad:
        layout.lost.append(Finding("error", f"lines of {path.name} that name no pair", bad[0], tuple(bad)))


def whole_splits(layout: Layout, message: str) -> None:
    """Refuse pairs of no split beside those of one."""
    if "all" in layout.splits and len(layout.splits) > 1:
        raise DatasetError(f"{message}; name it for all, or for none")


def pair_of_row(root: Path, path: Path, number: int, row: Mapping[str, str]) -> tuple[str, Pair]:
    """Make a pair of a line with image, mask and, if there is one, split.

    Args:
        root: the data folder.
        path: the file of the line; names are relative to its folder.
        number: of the line, for messages.
        row: column -> what stands in it.

    Returns:
        The split, or "all", and the pair.

    Raises:
        DatasetError: if a name is missing, leads out of both folders, or is that of no file.
    """
    files = {}
    for column in ("image", "mask"):
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{path}: line {number} has no {column}; every line has the columns image and mask")
        place = path.parent / name.strip()
        try:
            real = place.resolve()
            there = place.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a circle of links
            raise DatasetError(
                f"{path}: line {number}: {name[:80]!r} is no name of a file ({type(error).__name__}); correct the line"
            ) from error
        if root.resolve() not in real.parents and path.parent.resolve() not in real.parents:
            raise DatasetError(
                f"{path}: line {number}: {name!r} leads out of {path.parent}; keep the files of a set in its folder"
            )
        if not there:
            raise DatasetError(f"{path}: line {number}: {place}: no such file; correct the line or remove it")
        files[column] = place
    word = str(row.get("split") or "all").strip().lower()
    split = SPLIT_WORDS.get(word, word)
    if split not in ("train", "val", "test", "all"):
        raise DatasetError(f"{path}: line {number}: split={word!r}; choose train, val or test")
    return split, Pair(files["image"], files["mask"], str(Path(row["image"].strip()).with_suffix("")))


def rows_of(path: Path, needed: Sequence[str] = ("image", "mask")) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Read the lines of a CSV, TSV or JSON-lines file.

    Args:
        path: the file.
        needed: columns that a CSV or TSV file has to have.

    Yields:
        The number of the line, and column -> what stands in it.

    Raises:
        DatasetError: if the file is damaged, or a column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    lines = text.splitlines()
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path}: line {number} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{path}: line {number} is no JSON object with image and mask")
            yield number, row
        return
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if delimiter == "," and lines and "," not in lines[0] and ";" in lines[0]:
        delimiter = ";"  # as spreadsheets write it where the comma is the decimal sign
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise DatasetError(f"{path}: line 1 cannot be read ({error}); save it as CSV with one pair a line") from error
    if not set(needed) <= set(columns):
        raise DatasetError(
            f"{path}: its first line names the columns {columns}; it must name image and mask (and split, if you like)"
        )
    reader.fieldnames = columns
    try:
        yield from enumerate(reader, 2)
    except csv.Error as error:
        raise DatasetError(f"{path}: cannot be read ({error}); save it as CSV with one pair a line") from error

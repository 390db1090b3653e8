"""Tables of Hugging Face: sets that `datasets` saved, and parquet files that hold images.

All is read from the folder, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullyconv.data.documents import read_json, read_once, safe_parts
from fullyconv.data.layouts import Reading, Source, Tree
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.data.words import meaning_of, split_of
from fullyconv.errors import DatasetError
from fullyconv.images import Encoded

STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class TableReader(FileReader):
    """Read images and masks that lie in the rows of tables. A pair is called after its table and its row.

    Args:
        channels: C of the images.
        image_column: the column of the images.
        mask_column: the column of the masks.
    """

    image_column: str = "image"
    mask_column: str = "mask"

    def image_file(self, pair: Pair) -> Path | Encoded:
        """Give the bytes of the image, or its file."""
        return _cell(pair.image, self.image_column)

    def mask_file(self, pair: Pair) -> Path | Encoded:
        """Give the bytes of the mask, or its file."""
        return _cell(pair.mask, self.mask_column)


def _cell(place: Path, column: str) -> Path | Encoded:
    where = f"{place.parent}: row {place.name}, column {column}"
    table = _column(place.parent, column)
    try:
        cell = table[int(place.name)][column]
    except Exception as error:  # of pyarrow, for tables that are damaged
        raise DatasetError(f"{where}: cannot be read ({error}); save the set anew") from error
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return Encoded(where, cell["bytes"])
    if not isinstance(cell, Mapping) or cell.get("path") is None:
        raise DatasetError(f"{where}: is empty; remove the row, or fill it")
    file = place.parent.parent.joinpath(*safe_parts(cell["path"], where))
    if place.parent.parent.resolve() not in file.resolve().parents:
        raise DatasetError(f"{where}: {cell['path']!r} leads out of its folder; save the set with its images inside")
    if not file.is_file():
        raise DatasetError(f"{where}: {file}: no such file; save the set with its images inside")
    return file


@read_once(256)
def _column(path: Path, column: str) -> Any:
    import datasets

    table = open_table(path).select_columns([column])
    return table.cast_column(column, datasets.Image(decode=False))


def open_table(path: Path) -> Any:
    """Open a table without reading it: the `state.json` of a saved set, or a parquet file.

    Raises:
        DatasetError: if it is damaged, or names files outside of its folder.
        ImportError: if `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{path}: such a set needs datasets: pip install 'fullyconv[datasets]'") from error
    if path.name == STATE:
        state = read_json(path)
        lists = [state.get(key) for key in ("_data_files", "_indices_data_files")] if isinstance(state, dict) else []
        found = [entry for some in lists if isinstance(some, list) for entry in some]
        if not found or not all(isinstance(entry, dict) for entry in found):
            raise DatasetError(f"{path}: does not name the files of the set; save it anew")
        for entry in found:
            _validate(path.parent.joinpath(*safe_parts(entry.get("filename"), str(path))))
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if path.name == STATE:
            return datasets.load_from_disk(str(path.parent)).with_format(None)
        return datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # of pyarrow and datasets, whatever is wrong with the files
        raise DatasetError(f"{path}: cannot be read as a table ({error}); save the set anew") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _validate(file: Path) -> None:
    """Refuse an arrow file whose lengths or offsets lead out of it, which the readers of pyarrow would follow.

    Raises:
        DatasetError: if it is damaged.
    """
    import pyarrow

    try:
        with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
            for batch in stream:  # one at a time, so that memory is bounded by the largest
                batch.validate(full=True)
    except Exception as error:  # of pyarrow, whatever is wrong with the file
        raise DatasetError(f"{file}: damaged ({error}); save the set anew") from error


def table_layout(root: Path, tables: Sequence[Path], reading: Reading) -> Source:
    """Make pairs of the rows of tables.

    Args:
        root: the data folder.
        tables: `state.json` files of saved sets, or parquet files.
        reading: the names of the columns, where they are not found.

    Returns:
        The source, with reader; what the masks mean is for others to find out.

    Raises:
        DatasetError: if a table is damaged, or its columns do not tell which is which.
    """
    source = Source("table of images and masks", root=root)
    folders, columns = set(), set()
    for table in tables:
        inner, key = (table.parent.parent, table.parent.name) if table.name == STATE else (table.parent, table.stem)
        while inner != root and meaning_of(inner.name)[1]:
            inner = inner.parent
        folders.add(inner)
        content = open_table(table)
        columns.add(_columns(content.features, table, reading))
        rows = [table / str(row) for row in range(len(content))]
        pairs = source.splits.setdefault(split_of(table.relative_to(root)), [])
        pairs += [Pair(place, place, f"{key}/{place.name}") for place in rows]
    if len(folders) > 1:
        shown = ", ".join(f"{folder.relative_to(root).as_posix()}/" for folder in sorted(folders))
        raise DatasetError(f"{root}: holds more than one set, in {shown}; give the folder of one of them")
    if len(columns) > 1:
        raise DatasetError(f"{root}: its tables have different columns, {sorted(columns)}; give images= and masks=")
    if not source.pairs:
        raise DatasetError(f"{tables[0]}: has no rows; save the set anew")
    image, mask = columns.pop()
    source.layout += f" (columns {image} and {mask})"
    source.reader = TableReader(image_column=image, mask_column=mask)
    return source


def _columns(features: Mapping[str, Any], table: Path, reading: Reading) -> tuple[str, str]:
    """Tell which columns hold images and masks."""
    import datasets

    kinds = {name: str(getattr(feature, "dtype", None) or type(feature).__name__) for name, feature in features.items()}

    def holds_images(name: str, feature: object) -> bool:
        packed = isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
        return packed or kinds[name] in ("binary", "large_binary")

    photos = [name for name, feature in features.items() if holds_images(name, feature)]
    found = []
    for role, given in (("image", reading.images), ("mask", reading.masks)):
        if given is not None and given not in photos:
            raise DatasetError(f"{table}: {role}s={given!r}: no column of images; there are {', '.join(photos)}")
        some = [given] if given is not None else [name for name in photos if _role(name) == role]
        if len(some) != 1:
            every = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            what = f"which column holds the {role}s is not known: {', '.join(some) or 'none is called so'}"
            remedy = "say which by images=COLUMN and masks=COLUMN (--images, --masks)"
            raise DatasetError(f"{table}: {what}, of the columns {every}; {remedy}")
        found += some
    if found[0] == found[1]:
        raise DatasetError(f"{table}: images and masks are both {found[0]!r}; name two columns")
    return found[0], found[1]


def _role(column: str) -> str:
    return "image" if column == "pixel_values" else meaning_of(column)[0]  # as processors of transformers call it


def saved_tables(tree: Tree) -> list[Path]:
    """List the tables of a set that `datasets` saved: one, or one a split."""
    states = [path for path in tree.named(STATE) if path.with_name("dataset_info.json").is_file()]
    listings = tree.named("dataset_dict.json")
    if not listings:
        return states
    (listing, *more) = listings
    if more:
        raise DatasetError(f"{tree.root}: holds more than one set, {listing} and {more[0]}; give the folder of one")
    content = read_json(listing, 2**20)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list) or not splits:
        raise DatasetError(f"{listing}: names no splits; save the set anew")
    tables = [listing.parent.joinpath(*safe_parts(split, str(listing)), STATE) for split in splits]
    if gone := [table for table in tables if not table.is_file()]:
        raise DatasetError(f"{listing}: names {gone[0]}, which is not there; save it anew")
    return tables

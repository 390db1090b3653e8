"""From a folder or the name of a public set to splits and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fullyconv import label_sets
from fullyconv.data import checks
from fullyconv.data.class_names import (
    ClassNames,
    labels_from_values,
    names_beside,
    numbers_of,
    only_numbers,
    renamed,
)
from fullyconv.data.layouts import Source, find_layout, is_text, shown
from fullyconv.data.masks import VALUES, AnyReader, MaskReader, decide
from fullyconv.data.pairs import Pair
from fullyconv.data.public import PUBLIC, fetch
from fullyconv.data.readers import FileReader, Reader, count_mask, files_of, in_threads, masks_as, read_both
from fullyconv.errors import DatasetError, near_miss
from fullyconv.errors import some as listed
from fullyconv.images.reading import is_deep, read_noting
from fullyconv.labels import IGNORE, Labels, as_text, packed_color

ENVIRONMENT = "FULLYCONV_DATA"

LOOKED_AT = 6  # images, for whether their values are of more bits than they use


def dataset_root(data: str | Path) -> Path:
    """Find the folder of a data set.

    Args:
        data: a folder, or the name of one under the folder that the environment variable FULLYCONV_DATA names.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is none; the message says what to set, or which sets there are.
    """
    path = Path(data).expanduser()
    if not is_text(str(path.absolute())):
        raise DatasetError(f"data={shown(str(path))}: this name is no UTF-8, and no report could hold it; rename it")
    if path.is_dir():
        return path
    if path.is_file():
        raise DatasetError(f"data={str(data)!r} is a file: give the folder that holds images and masks")
    if len(path.parts) != 1:
        raise FileNotFoundError(f"data={str(data)!r}: no such folder; check the path")
    root = os.environ.get(ENVIRONMENT)
    if not root:
        raise FileNotFoundError(
            f"data={str(data)!r}: no such folder here; for a public set by its name set {ENVIRONMENT}=FOLDER to the "
            f"folder that holds it (known sets: {', '.join(PUBLIC)})"
        )
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{ENVIRONMENT}={root}: no such folder; set it to that which holds the public sets")
    own = Path(root) / path
    if path.name in PUBLIC:
        try:
            return fetch(path.name, root, download=False)  # found, or unpacked from archives that lie there
        except FileNotFoundError:
            if not own.is_dir():
                raise  # a folder of that name that holds something else is taken as it is
    if own.is_dir():
        return own
    near = near_miss(str(data), [entry.name for entry in Path(root).iterdir() if entry.is_dir()])
    raise FileNotFoundError(f"data={str(data)!r}: no such folder, neither here nor in {ENVIRONMENT}={root}. {near}")


def open_source(
    data: str | Path,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
    **options: Any,
) -> Source:
    """Find splits and labels of a data set.

    The classes are, in this order: those given; those of a public set or of annotations; those that a file names
    (`classes.txt`, `class_dict.csv`, ...); the values or colors that the masks hold, named after them.

    Args:
        data: a folder or the name of a public set.
        classes: class names in the order of the network's outputs; by default value i in a mask is class i.
        values: value in the mask file -> class name or "ignore"; a value is a number, or a color "#rrggbb". Or the
            name of a public set, "voc2012", whose label map is taken.
        options: as `fullyconv.data.layouts.Reading` takes them.

    Returns:
        The source; `splits` as they are in the folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if the layout is none that is understood, images and masks do not pair, or the values in the masks
            do not tell what they mean.
        ValueError: if `classes` or `values` break a rule of `Labels`, or another option has an invalid value.
    """
    source = find_source(data, **options)
    for finding in source.findings:
        if finding.severity == "error":
            raise DatasetError(finding.message, files=finding.files)
    _refuse_shared(source.splits)
    find_labels(source, classes=classes, values=values)
    if told := _faint(source):
        source.notes.append(told)
    return source


def _faint(source: Source) -> str | None:
    """Look whether a few images of more than 8 bits are nearly black; None where one of them is not."""
    reader = source.reader
    if not isinstance(reader, FileReader) or reader.value_range is not None:
        return None
    pairs = source.pairs
    few = pairs[:: max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT]
    told = []
    for pair in few:
        try:
            file = files_of(reader, pair)[0]
            told.append(read_noting(file, reader.channels)[1] if is_deep(file) else None)
        except (DatasetError, OSError, ImportError):  # who reads it says so
            continue
    return told[0] if told and all(told) else None


def find_source(data: str | Path, **options: Any) -> Source:
    """Find the pairs of image and mask; labels are found later. The arguments are those of `open_source`.

    Args:
        data: a folder or the name of a public set.
        options: as `fullyconv.data.layouts.Reading` takes them.

    Returns:
        The source, with a stand-in for labels. What is wrong is among its findings.
    """
    root = dataset_root(data)
    source = find_layout(root, PUBLIC.get(str(data)) if Path(data) != root else None, **options)
    if options.get("skip_bad"):
        _leave_out_broken(source)
    return source


def _leave_out_broken(source: Source) -> None:
    """Leave out pairs of which a file cannot be read, or whose sizes differ, and tell them."""
    plain = source.named is None and not isinstance(source.reader, MaskReader)
    reader: Reader = masks_as(AnyReader, source.reader) if plain else source.reader
    broken = dict(zip(source.pairs, in_threads(partial(broken_pair, reader), source.pairs), strict=True))
    messages = tuple(message for message in broken.values() if message)
    if messages:
        source.warn(f"{len(messages)} broken pairs", "they are left out, as skip_bad (--skip-bad) says", messages)
        kept = {split: [pair for pair in part if not broken[pair]] for split, part in source.splits.items()}
        source.splits = {split: part for split, part in kept.items() if part}
    if not source.splits:
        source.fail("no pairs are left", f"{source.root}: every pair is broken", messages)


def broken_pair(reader: Reader, pair: Pair) -> str:
    """Say what is wrong with the files of a pair; empty where both can be read and fit."""
    try:
        read_both(reader, pair)
    except (DatasetError, OSError) as error:
        return str(error)
    return ""


def find_labels(
    source: Source,
    some: Sequence[Pair] | None = None,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
) -> None:
    """Find labels and reader of a source: the second half of `open_source`.

    Args:
        source: where labels, reader and notes are set.
        some: the pairs whose masks are looked at; by default all.
        classes: class names.
        values: value in the mask file -> class name or "ignore", or the name of a public set.
    """
    if isinstance(values, str):
        _take_preset(source, some, classes, values)
        return
    values = numbers_of(values)
    source.explicit = values is not None
    if source.named is not None:
        source.labels = renamed(source.named, classes, only_numbers(values), source.known)
        listing = source.root / "classes.txt"
        if source.known is None and listing.is_file() and f"classes from {listing}" not in source.notes:
            source.notes.append(f"{listing} is not used: the annotations name the classes; values= renames them")
        return
    every = source.pairs if some is None else list(some)
    beside = None
    if classes is None:
        beside = names_beside(source.root, {path.parent for pair in every for path in (pair.image, pair.mask)})
    if beside is not None and not beside.in_order:
        beside, values = (None, values) if values is not None else (beside, beside.values)
    base = source.reader if isinstance(source.reader, MaskReader) else masks_as(MaskReader, source.reader)
    named = classes is not None or (beside is not None and beside.in_order)
    where = VALUES if beside is None else str(beside.files[0])
    decision = decide(every, values, named=named, base=base, where=where)
    source.counts.update({pair.mask: found for pair, found in decision.counts.items()})
    source.reader = decision.reader
    source.notes += decision.notes
    source.findings += decision.findings
    if beside is not None and beside.by_color and decision.labels is None:
        beside = values = None  # which is told
    if beside is not None:
        source.notes.append(f"classes from {listed(beside.files, 3)}")
    if decision.labels is not None:
        source.labels = decision.labels
        if classes is not None and list(source.labels.names) != list(classes):
            raise ValueError(
                f"classes={list(classes)}: the masks hold colors, whose classes are {list(source.labels.names)}; name "
                'them with values={"#rrggbb": name} instead'
            )
        return
    _name_values(source, every, classes, only_numbers(values), beside, decision.nodata)


def _name_values(
    source: Source,
    every: Sequence[Pair],
    classes: Sequence[str] | None,
    numbers: dict[int, str] | None,
    beside: ClassNames | None,
    nodata: Iterable[int],
) -> None:
    """Name the classes of masks that hold numbers."""
    if beside is not None and beside.in_order:
        lines = {int(value): name for value, name in beside.values.items()}
        names = [name for name in lines.values() if name != IGNORE]
        try:
            source.labels = Labels.of(names, values={**lines, **(numbers or {})})
        except ValueError as error:
            raise DatasetError(f"{beside.files[0]}: {error}") from error
    elif classes is not None:
        source.labels = Labels.of(classes, values=numbers)
    elif numbers:
        names = list(dict.fromkeys(name for _, name in sorted(numbers.items()) if name != IGNORE))
        source.labels = Labels.of(names, values=numbers)
    else:
        count_values(source, every)
        found = {value: path for path, values in source.counts.items() for value in values}
        left = {value: path for value, path in found.items() if value not in nodata or 0 <= value < 255}
        source.labels, note = labels_from_values(left)
        source.notes.append(note)
    own = source.labels
    for value in sorted(nodata):
        if own.values.get(value, IGNORE) != IGNORE:
            message = f"GDAL_NODATA is {value}, read as {own.values[value]}; {value}=ignore in --values ignores it"
            source.warn("a class that the files call no data", message)
        elif value not in own.values:
            source.notes.append(f"{value} is ignored: GDAL_NODATA says so")
            own = Labels(own.names, own.palette, own.ignore_index, {**own.values, value: IGNORE})
    source.labels = own


def _take_preset(source: Source, some: Sequence[Pair] | None, classes: Sequence[str] | None, name: str) -> None:
    """Read masks by the label map of a public set: by its numbers or, where they hold colors, by its colors."""
    if classes is not None:
        raise ValueError(f"values={name!r} names a public set, whose classes are known; leave classes= out")
    if name not in PUBLIC:
        what = "give a mapping, value in the mask -> class name, or the name of a public set"
        raise ValueError(f"values={name!r}: {what}. {near_miss(name, PUBLIC)}")
    own = next(iter(PUBLIC[name].labels.values()))
    notes = list(source.notes)
    try:
        find_labels(source, some, values=dict(own.values.items()))
        source.labels = own
    except DatasetError as error:
        source.notes[:] = notes
        colors = label_sets.FILE_COLORS.get(own.names)
        if colors is None:
            raise
        try:
            find_labels(source, some, values={as_text(packed_color(color)): text for text, color in colors.items()})
        except DatasetError:
            raise error from None
        source.labels = replace(source.labels, palette=own.palette)
    source.notes.append(f"label map of {name}, {own.num_classes} classes")


def count_values(source: Source, pairs: Iterable[Pair]) -> None:
    """Read masks and image headers in parallel and remember the pixels of every value; sizes that differ are an error.

    Args:
        source: where the counts are kept; masks that were read before are not read again.
        pairs: what to read.

    Raises:
        DatasetError: if a file is damaged, or an image and its mask differ in size; the first in the order of `pairs`.
    """
    todo = [pair for pair in pairs if pair.mask not in source.counts]
    counted = in_threads(partial(count_mask, source.reader), todo)
    source.counts.update((pair.mask, counts) for pair, counts in zip(todo, counted, strict=True))


def check_labels(source: Source, pairs: Sequence[Pair]) -> dict[str, int]:
    """Read every mask once and see that training will not stumble over one.

    Args:
        source: the data set.
        pairs: the pairs to check.

    Returns:
        Class name -> pixels in these masks, and "ignore" -> pixels.

    Raises:
        DatasetError: if a file is damaged, sizes differ, a value is not in the label map (with every such file counted
            and the first five named), if no pixel has a class, or if the masks look like 0/255 and the labels ignore
            255.
    """
    count_values(source, pairs)
    counts = {pair.mask: source.counts[pair.mask] for pair in pairs}
    for finding in checks.values(source, counts):
        others = finding.files[1:]
        more = f" The same goes for {len(others)} more: {listed(others, 4)}." if others else ""
        raise DatasetError(f"{finding.message}{more}", files=finding.files)
    labels = source.labels
    totals = dict.fromkeys([*labels.names, IGNORE], 0)
    for found in counts.values():
        for value, pixels in found.items():
            totals[labels.meaning[value]] += pixels
    if not any(totals[name] for name in labels.names):
        raise DatasetError(f"{pairs[0].mask}: all pixels of all masks are ignored; check the label map and the masks")
    return totals


def _refuse_shared(splits: Mapping[str, Sequence[Pair]]) -> None:
    """A file in two splits (a link, a folder given twice) makes every score a lie."""
    seen: dict[Path, tuple[str, Path]] = {}
    for split, pairs in splits.items():
        for pair in pairs:
            other, image = seen.setdefault(pair.image.resolve(), (split, pair.image))
            if other != split:
                raise DatasetError(
                    f"{pair.image} and {image} are one file, in the splits {other} and {split}; keep it in one of them"
                )

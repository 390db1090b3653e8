"""From a folder or the name of a public set to splits and labels."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fullyconv.data import checks
from fullyconv.data.layouts import Source, find_layout, is_text, shown
from fullyconv.data.meaning import count_values, labeled
from fullyconv.data.pairs import Pair
from fullyconv.data.public import PUBLIC, fetch
from fullyconv.data.readers import FileReader, in_threads, read_both
from fullyconv.errors import DatasetError, near_miss, near_path, some
from fullyconv.images.opening import head_of
from fullyconv.images.reading import read_noting
from fullyconv.labels import IGNORE

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
    path, given = Path(data).expanduser(), f"data={str(data)!r}"
    if not is_text(str(path.absolute())):
        raise DatasetError(f"data={shown(str(path))}: this name is no UTF-8, and no report could hold it; rename it")
    if path.is_dir():
        return path
    if path.is_file():
        raise DatasetError(f"{given} is a file: give the folder that holds images and masks")
    if len(path.parts) != 1:
        raise FileNotFoundError(f"{given}: no such folder; check the path{near_path(path)}")
    root, here = os.environ.get(ENVIRONMENT), f"here{near_path(path)}"
    if not root:
        remedy = f"check the path, or for a public set ('fullyconv fetch' lists them) set {ENVIRONMENT}=FOLDER"
        raise FileNotFoundError(f"{given}: no such folder {here}; {remedy} to the folder that holds it")
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
    raise FileNotFoundError(f"{given}: no such folder, neither {here} nor in {ENVIRONMENT}={root}. {near}")


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
    _tell_shared(source)
    source = labeled(source, classes=classes, values=values)
    if told := _faint(source):
        source.notes.append(told)
    return source


def _faint(source: Source) -> str | None:
    """Look whether a few images of more than 8 bits are nearly black; None where one of them is not."""
    reader, pairs, told = source.reader, source.pairs, None
    for pair in pairs[:: max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT] if source.known is None else ():
        try:
            note = read_noting(reader.image_file(pair), reader.channels, value_range=reader.value_range)[1]
        except (DatasetError, OSError, ImportError):  # who reads it says so
            continue
        if note is None:
            return None
        told = told or note
    return told


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
    if not options.get("skip_bad"):
        return source
    broken = broken_pairs(source)
    if broken:
        messages = broken.values()
        source.warn(f"{len(broken)} broken pairs", "they are left out, as skip_bad (--skip-bad) says", messages)
        kept = {split: [pair for pair in part if pair not in broken] for split, part in source.splits.items()}
        source.splits = {split: part for split, part in kept.items() if part}
    if not source.splits:
        source.fail("no pairs are left", f"{source.root}: every pair is broken", broken.values())
    return source


def broken_pairs(source: Source) -> dict[Pair, str]:
    """Say what is wrong with pairs of which a file cannot be read, or whose sizes differ."""
    reader = source.reader if source.named is not None else replace(source.reader, unknown=True)
    told = in_threads(partial(_broken, reader), source.pairs)
    return {pair: message for pair, message in zip(source.pairs, told, strict=True) if message}


def _broken(reader: FileReader, pair: Pair) -> str:
    try:
        read_both(reader, pair)
    except (DatasetError, OSError) as error:
        return str(error)
    return ""


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
        more = f" The same goes for {len(others)} more: {some(others, 4)}." if others else ""
        raise DatasetError(f"{finding.message}{more}", files=finding.files)
    labels = source.labels
    totals = dict.fromkeys([*labels.names, IGNORE], 0)
    for found in counts.values():
        for value, pixels in found.items():
            totals[labels.meaning[value]] += pixels
    if not any(totals[name] for name in labels.names):
        raise DatasetError(f"{pairs[0].mask}: all pixels of all masks are ignored; check the label map and the masks")
    return totals


def _tell_shared(source: Source) -> None:
    """A file in two splits (a link, a folder given twice) makes every score a lie, and so does a copy."""
    seen: dict[object, tuple[str, Path]] = {}
    sizes: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, image in ((split, pair.image) for split, pairs in source.splits.items() for pair in pairs):
        other, first = seen.setdefault(image.resolve(), (split, image))
        if other != split:
            where = f"in the splits {other} and {split}; keep it in one of them"
            raise DatasetError(f"{image} and {first} are one file, {where}")
        if image.is_file():
            sizes[image.stat().st_size].append((split, image))
    copies = []
    for same in sizes.values():
        for split, image in same if len({split for split, _ in same}) > 1 else ():
            other, first = seen.setdefault(hashlib.blake2b(head_of(image, 2**16)).digest(), (split, image))
            if other != split and filecmp.cmp(first, image, shallow=False):
                copies.append(f"{first} ({other}) = {image} ({split})")
    if copies and source.known is None:
        message = "every score is too good: keep each in one split"
        source.warn(f"{len(copies)} images are in two splits", message, copies)

"""What the numbers and colors in mask files mean: how they are to be read, and which classes they are.

The files are looked at before anything is believed of them, and whatever is done to their values is reported: a color
table, soft edges cut at the middle, colors snapped to the nearest one. A number never means two things in one set: what
is in doubt is refused with the remedy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv import label_sets
from fullyconv.data.class_names import ClassNames, labels_from_values, names_beside, numbers_of, only_numbers, renamed
from fullyconv.data.layouts import Finding, Source
from fullyconv.data.pairs import Pair
from fullyconv.data.public import PUBLIC
from fullyconv.data.readers import SNAP, count_mask, in_threads, nearest_color
from fullyconv.errors import DatasetError, near_miss, some
from fullyconv.images import Encoded, lossy_format, mask_mode, nodata_of, palette_of, read_colors, read_mask
from fullyconv.labels import (
    IGNORE,
    NO_COLOR,
    OTHER,
    VOID_COLOR,
    Labels,
    as_text,
    count_values_of,
    packed,
    packed_color,
    parse_color,
)
from fullyconv.palettes import default_palette, voc_palette

MAX_COLORS = 256
VALUES = "values="
_VOID = packed_color(VOID_COLOR)  # the border that PASCAL VOC draws, index 255


def labeled(
    source: Source,
    pairs: Sequence[Pair] | None = None,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
) -> Source:
    """Give a source with its labels, and with the reader that its masks need: the second half of `open_source`.

    Args:
        source: the source, which stays as it is.
        pairs: those whose masks are looked at; by default all.
        classes: class names.
        values: value in the mask file -> class name or "ignore", or the name of a public set.

    Raises:
        DatasetError: if masks hold values or colors that do not tell what they mean; it says what to give.
        ValueError: if `values` mixes numbers and colors, a color is none, or a rule of `Labels` is broken.
    """
    if isinstance(values, str):
        return _by_preset(source, pairs, classes, values)
    given = numbers_of(values)
    source = replace(
        source, notes=[*source.notes], findings=[*source.findings], counts={**source.counts}, explicit=given is not None
    )
    if source.named is not None:
        source.labels = renamed(source.named, classes, only_numbers(given), source.known)
        listing = source.root / "classes.txt"
        if source.known is None and listing.is_file() and f"classes from {listing}" not in source.notes:
            source.notes.append(f"{listing} is not used: the annotations name the classes; values= renames them")
        return source
    pairs, beside = source.pairs if pairs is None else pairs, None
    if classes is None:
        beside = names_beside(source.root, {path.parent for pair in pairs for path in (pair.image, pair.mask)})
    in_order = beside is not None and beside.in_order
    masks, where = _Masks(source, pairs, given, named=classes is not None or in_order), VALUES
    source.explicit |= 255 in masks.nodata  # the files say what it is
    if beside is not None and not in_order:  # it says what values= says, which comes first
        where = str(beside.files[0])
        if given is None and masks.may_hold(_colors_in(beside.values), where):
            masks.given = given = beside.values
        else:
            beside = None
    colors = _colors_in(given)
    labels = _by_table(masks, colors, where) if colors else _by_number(masks)
    if beside is not None:
        source.notes.append(f"classes from {some(beside.files, 3)}")
    if labels is not None and classes is not None and list(labels.names) != list(classes):
        what = f"the masks hold colors, whose classes are {list(labels.names)}"
        raise ValueError(f'classes={list(classes)}: {what}; name them with values={{"#rrggbb": name}} instead')
    source.labels = labels or _without_nodata(masks, _of_numbers(masks, classes, only_numbers(given), beside))
    return source


def _by_preset(source: Source, pairs: Sequence[Pair] | None, classes: Sequence[str] | None, name: str) -> Source:
    """Read masks by the label map of a public set: by its numbers or, where they hold colors, by its colors."""
    if classes is not None:
        raise ValueError(f"values={name!r} names a public set, whose classes are known; leave classes= out")
    if name not in PUBLIC:
        what = "give a mapping, value in the mask -> class name, or the name of a public set"
        raise ValueError(f"values={name!r}: {what}. {near_miss(name, PUBLIC)}")
    own = next(iter(PUBLIC[name].labels.values()))
    try:
        source = labeled(source, pairs, values=dict(own.values))
        source.labels = own
    except DatasetError as error:
        colors = label_sets.FILE_COLORS.get(own.names)
        if colors is None:
            raise
        table: dict[int | str, str] = {as_text(packed_color(color)): text for text, color in colors.items()}
        try:
            source = labeled(source, pairs, values=table)
        except DatasetError:
            raise error from None
        source.labels = replace(source.labels, palette=own.palette)
    source.notes.append(f"label map of {name}, {own.num_classes} classes")
    return source


def _of_numbers(
    masks: _Masks, classes: Sequence[str] | None, numbers: dict[int, str] | None, beside: ClassNames | None
) -> Labels:
    """Name the classes of masks that hold numbers: by what is said, else by the numbers."""
    if beside is not None and beside.in_order:
        lines = {int(value): name for value, name in beside.values.items()}
        classes, numbers = [name for name in lines.values() if name != IGNORE], {**lines, **(numbers or {})}
    elif classes is None and numbers:
        classes = list(dict.fromkeys(name for _, name in sorted(numbers.items()) if name != IGNORE))
    if classes is None:
        masks.values(list(masks.headers))
        _refuse_doubtful(masks.source.counts, masks.nodata)
        nodata = masks.nodata - {*range(255)}
        found = {value: path for path, counts in masks.source.counts.items() for value in counts if value not in nodata}
        labels, note = labels_from_values(found)
        masks.source.notes.append(note)
        return labels
    try:
        return Labels.of(classes, values=numbers)
    except ValueError as error:
        if beside is None:
            raise
        raise DatasetError(f"{beside.files[0]}: {error}") from error


def _refuse_doubtful(counts: Mapping[Path, Mapping[int, int]], nodata: Collection[int]) -> None:
    """Refuse masks that number their objects, and those of 255 with a few strays: it would be ignored."""
    remedy = "say what the values mean: values={value: name} (--values)"
    total = _sum(counts.values())
    strays = total.total() - total[0] - total[255]
    if 255 not in nodata and 0 < strays < 0.01 * min(total[0], total[255]):
        path, value = next((path, value) for path, held in counts.items() for value in held if value not in (0, 255))
        what = f"holds {value}, and the masks so much more of 255 that it can hardly be what is ignored"
        raise DatasetError(f"{path}: {what}; correct the mask, or {remedy}")
    # Objects: every mask counts from 1 on without a gap, and nearly each up to another number.
    highest = {path: max(held) for path, found in counts.items() if (held := found.keys() - {0})}
    gapless = all(len(counts[path].keys() - {0}) == last for path, last in highest.items())
    if gapless and len({*highest.values()}) > 2 and max(highest.values(), default=0) > 7:
        path = max(highest, key=highest.__getitem__)
        what = f"holds 1 to {highest[path]} without a gap, as every mask counts from 1 on: objects, and no classes?"
        raise DatasetError(f"{path}: {what} Draw each with the value of its class, or {remedy}")


def _without_nodata(masks: _Masks, labels: Labels) -> Labels:
    """Ignore what the files themselves call no data, where it is no class."""
    for value in sorted(masks.nodata):
        if labels.values.get(value, IGNORE) != IGNORE:
            message = f"GDAL_NODATA is {value}, read as {labels.values[value]}; {value}=ignore in --values ignores it"
            masks.source.warn("a class that the files call no data", message)
        elif value not in labels.values:
            masks.source.notes.append(f"{value} is ignored: GDAL_NODATA says so")
            labels = replace(labels, values={**labels.values, value: IGNORE})
    return labels


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


@dataclass(frozen=True)
class _Header:
    """What the header of a mask says."""

    mode: str
    lossy: str
    palette: bytes
    nodata: int | None


def _header(file: Path | Encoded) -> _Header:
    mode = mask_mode(file)
    lossy = lossy_format(file) if mode in ("L", "RGB") else ""
    palette = palette_of(file) if mode == "P" else b""
    if palette and palette == bytes(level // 3 for level in range(len(palette))):
        mode, palette = "L", b""  # the palette of those who gave none: a number is its own gray
    number = None if mode in ("mat", "seg") else nodata_of(file)
    nodata = int(number) if number is not None and math.isfinite(number) and number == int(number) else None
    return _Header(mode, lossy, palette, nodata)


class _Masks:
    """The masks of a source while it is found out what they hold; what is decided goes to the source.

    Args:
        source: gets reader, notes, findings and counts.
        pairs: the pairs.
        given: what was said of the values.
        named: whether class names are given elsewhere: classes.txt, classes=.
    """

    def __init__(
        self, source: Source, pairs: Sequence[Pair], given: Mapping[int | str, str] | None, named: bool
    ) -> None:
        self.source, self.given, self.named = source, given, named
        headers = in_threads(lambda pair: _header(source.reader.mask_file(pair)), pairs)
        self.headers = dict(zip(pairs, headers, strict=True))

    @property
    def nodata(self) -> set[int]:
        """Values that the files themselves call no data."""
        return {header.nodata for header in self.headers.values() if header.nodata is not None}

    def read_as(self, note: str, **how: Any) -> None:
        """Read masks in another way; what was counted is not what will be read."""
        self.source.reader = replace(self.source.reader, **how)
        self.source.notes.append(note)
        self.source.counts.clear()

    def of(self, *modes: str) -> list[Pair]:
        """Give the pairs whose masks are of these modes."""
        return [pair for pair, header in self.headers.items() if header.mode in modes]

    def but(self, some: Sequence[Pair]) -> list[Pair]:
        """Give the others."""
        taken = set(some)
        return [pair for pair in self.headers if pair not in taken]

    def values(self, pairs: Sequence[Pair]) -> Counter[int]:
        """Count the values of masks that hold numbers."""
        count_values(self.source, pairs)
        return _sum(self.source.counts[pair.mask] for pair in pairs)

    def colors(self, pairs: Sequence[Pair]) -> Counter[int]:
        """Count the colors of masks, whatever they hold."""
        read = self.source.reader.mask_file
        return _sum(in_threads(lambda pair: count_values_of(packed(read_colors(read(pair)))), pairs))

    def may_hold(self, colors: Sequence[int], where: str) -> bool:
        """Tell whether these may be the colors of the masks; a file of others is told, and of no use."""
        if not colors or self.of("RGB", "P") or set(self.colors(list(self.headers))) <= {*colors}:
            return True
        message = f"{where} names colors, and the masks hold numbers: say which is which by values= (--values)"
        self.source.warn("names that do not fit the masks", message, [where])
        return False


def _sum(counts: Iterable[Mapping[int, int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for found in counts:
        total.update(found)
    return total


def _by_number(masks: _Masks) -> Labels | None:
    """Take masks for numbers, unless they hold colors, which are their classes."""
    source, given = masks.source, masks.given
    lossy = [pair for pair, header in masks.headers.items() if header.lossy]
    if lossy and given:
        formats = " and ".join(sorted({masks.headers[pair].lossy for pair in lossy}))
        levels = tuple(sorted(int(value) for value in given if 0 <= int(value) <= 255))
        what = f"{len(lossy)} masks are {formats}, which changes values near borders"
        masks.read_as(f"{what}: snapped to the nearest of {', '.join(map(str, levels))}", levels=levels)
        return None
    if lossy:
        read_mask(source.reader.mask_file(lossy[0]))  # which refuses it and says why
    indexed = masks.of("P")
    totals = masks.colors(masks.of("RGB"))
    colored = any(color != (color & 255) * 0x010101 for color in totals)  # no gray
    disagreement = "" if colored else _disagreement(masks, indexed)
    if colored or disagreement:
        return _mixed_colors(masks, totals, disagreement)
    if given is None:
        _check_kinds(masks, indexed)
        if not masks.named:
            _from_levels(masks)
    elif masks.of("1") and 255 in given and 1 not in given:
        masks.read_as("1-bit masks: a set pixel is read as 255", bit_value=255)
    elif set(given) == {0, 255} and IGNORE not in given.values():
        _from_levels(masks)  # both are classes, so that what lies between may be soft edges
    return None


def _disagreement(masks: _Masks, indexed: Sequence[Pair]) -> str:
    """Say of which index that occurs the palettes give different colors; empty where there is none."""
    palettes = {masks.headers[pair].palette: pair for pair in reversed(indexed)}
    for index in sorted(masks.values(indexed)) if len(palettes) > 1 else ():
        colors: dict[bytes, Path] = {}
        for palette, pair in palettes.items():
            if color := palette[3 * index : 3 * index + 3]:
                colors.setdefault(color, pair.mask)
        if len(colors) > 1:
            shown = [f"#{color.hex()} in {path}" for color, path in sorted(colors.items(), key=lambda one: str(one[1]))]
            return f"the palettes disagree: index {index} is {shown[0]} and {shown[1]}"
    return ""


def _mixed_colors(masks: _Masks, totals: Counter[int], disagreement: str) -> Labels | None:
    """Read masks of colors, and palette masks among them or with palettes that disagree, by their colors."""
    colored, indexed = masks.of("RGB"), masks.of("P")
    totals = totals + masks.colors(indexed)
    others = masks.but([*colored, *indexed])
    gray = masks.colors(others)
    if not set(gray) <= set(totals):
        fewer = [pair.mask for pair in min([*colored, *indexed], others, key=len)]
        what = f"{(indexed or colored)[0].mask} holds colors and {others[0].mask} numbers"
        why = f" ({disagreement})" if disagreement else ""
        rule = f"masks of one set are of one kind; convert {len(fewer)} of them{why}"
        raise DatasetError(f"{what}: {rule}", files=fewer)
    files = [str(pair.mask) for pair in (min(indexed, colored, key=len) if colored and indexed else indexed)]
    if disagreement and (masks.named or masks.given is not None):
        remedy = 'name the colors: values={"#rrggbb": "name", ...} (--values "#rrggbb=name,...")'
        raise DatasetError(f"{files[0]}: {disagreement}, so that no number means one thing; {remedy}", files=files)
    labels = _from_colors(masks, totals + gray, (colored or indexed)[0].mask)
    if disagreement:
        masks.source.warn("palettes that disagree", f"{disagreement}; all are read by color", files)
    elif indexed:
        message = f"{len(indexed)} masks have a palette and {len(colored)} hold colors: all are read by color"
        masks.source.findings.append(Finding("note", "palettes beside colors", message, tuple(files)))
    return labels


def _check_kinds(masks: _Masks, indexed: Sequence[Pair]) -> None:
    """Refuse palette masks beside gray ones that have no value in common but 0, or whose colors are these in turn."""
    others = masks.but(indexed)
    if not indexed or not others:
        return
    here, there = masks.values(indexed).keys(), masks.values(others).keys()
    palette = max((masks.headers[pair].palette for pair in indexed), key=len)
    colors = {index: palette[3 * index : 3 * index + 3] for index in sorted(here)}
    levels = {index: color[0] for index, color in colors.items() if len({*color}) == 1}
    gray = {value: 255 * value if value == 1 and masks.of("1") else value for value in there}
    turned = {*levels.values()} == {*gray.values()} and any(gray.get(i, level) != level for i, level in levels.items())
    shown = f" of the gray levels {some([*levels.values()], 8)}" if turned else ""
    if turned or (here - {0} and there - {0} and not here & there - {0}):
        raise DatasetError(
            f"{indexed[0].mask} has a palette{shown} and the indices {some(sorted(here), 8)}, {others[0].mask} none "
            f"and the values {some(sorted(there), 8)}: they do not say that a class is the same in both; give "
            "values={value: name} (--values) for all of them, or convert one kind",
            files=[pair.mask for pair in min(indexed, others, key=len)],
        )


def _from_levels(masks: _Masks) -> None:
    """See whether gray levels are soft edges between 0 and 255, and what 1-bit files stand beside."""
    bits = masks.of("1")
    if not bits and not masks.of("L", "RGB"):
        return
    total, beside = masks.values(list(masks.headers)), masks.values(masks.but(bits))
    if bits and beside and beside.keys() <= {0, 255}:
        masks.read_as("some masks have 1 bit and some hold 0 and 255: a set pixel is read as 255", bit_value=255)
        return
    between = [number for value, number in total.items() if 16 < value < 240]
    if len(total) > 32 and between and sum(between) <= 0.03 * total.total() and max(total) <= 255:
        soft = 1 - (total[0] + total[255]) / total.total()
        what = f"{len(total)} gray levels between 0 and 255 (soft edges, {soft:.1%} of the pixels)"
        masks.read_as(f"the masks hold {what}: cut at 128", threshold=128)


def _from_colors(masks: _Masks, counts: Counter[int], path: Path) -> Labels | None:
    """Find the colors that are classes among those that occur; those of PASCAL VOC's map are numbers."""
    pixels = counts.total()
    voc = [packed_color(color) for color in voc_palette(256)]
    numbered = masks.named or masks.given is not None
    if set(counts) <= {*voc, _VOID} and (len(counts) > 2 or numbered):
        present = sorted(voc.index(color) for color in counts if color != _VOID)
        note = f"the masks have the colors of PASCAL VOC's map: color i is read as value i ({len(present)} occur)"
        masks.read_as(note, colors=(*voc[:255], _VOID), codes=(*range(255), 255))
        names = {value: f"class {value}" for value in present}
        return None if numbered else Labels.of(list(names.values()), values=names)
    frequent = [color for color, count in counts.items() if count >= 0.002 * pixels]
    kept = sorted(frequent if len(counts) > 64 else counts)
    edges = len(kept) > max(8, 2 * len(frequent))  # a mask or two that were resized
    off = pixels - sum(counts[color] for color in kept)
    if numbered or edges or not 2 <= len(kept) <= 64 or off > 0.08 * pixels:
        shown = ", ".join(f"{as_text(color)} {count / pixels:.1%}" for color, count in counts.most_common(12))
        what = f"{path}: the masks hold {len(counts)} colors ({shown}{' ...' if len(counts) > 12 else ''})"
        why = "photographs, or antialiased edges?" if len(counts) > MAX_COLORS else "which is which class is not known"
        why = why if numbered else "too many to be classes (antialiased edges?)"
        remedy = 'give every color its class: values={"#ff0000": "name", "#000000": "ignore", ...} (--values)'
        raise DatasetError(f"{what}, {why}; {remedy}")
    note = f"the masks hold {len(kept)} colors, each read as a class named after it: name them with values="
    masks.read_as(note, colors=tuple(kept), snap=bool(off))
    if off:
        masks.source.notes.append(
            f"{off / pixels:.1%} of the pixels have one of {len(counts) - len(kept)} other colors (soft edges?): "
            f"read as the nearest color within {SNAP:g}, else ignored"
        )
    texts = [as_text(color) for color in kept]
    return Labels.of(texts, [color.to_bytes(3) for color in kept], {text: text for text in texts})


def _by_table(masks: _Masks, colors: Sequence[int], where: str) -> Labels:
    """Take the colors that were given; what is none of them is snapped, and counted."""
    source, values = masks.source, masks.given or {}
    names = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    by_name = {values[as_text(color)]: color for color in reversed(colors)}
    unseen = (color for color in map(packed_color, default_palette(4096)) if color not in colors)
    palette = [(by_name[name] if name in by_name else next(unseen)).to_bytes(3) for name in names]
    labels = Labels.of(names, palette, values)
    counts = masks.colors(list(masks.headers))
    strays = np.array([color for color in counts if color not in set(colors)], np.int64)
    off = sum(counts[int(color)] for color in strays)
    source.reader = replace(source.reader, colors=tuple(colors), snap=bool(off) or OTHER in values)
    if off:
        pixels = counts.total()
        _, near = nearest_color(strays, colors)
        far = Counter({int(color): counts[int(color)] for color in strays[~near]})
        lost = far.total()
        shown = ", ".join(f"{as_text(color)} {number / pixels:.1%}" for color, number in far.most_common(3))
        if lost > (0.5 if where == VALUES else 0.01) * pixels and OTHER not in values:
            what = f"{lost / pixels:.0%} of the pixels of all masks are near no color of {where} ({shown})"
            path = next(iter(masks.headers)).mask
            raise DatasetError(f"{path}: {what}; give every color its class, or correct {where}")
        lossy = next((header.lossy for header in masks.headers.values() if header.lossy), "")
        why = f"{lossy} changes colors near borders" if lossy else "antialiased edges?"
        source.notes.append(
            f"{off / pixels:.2%} of the pixels ({off}) have none of the colors given ({why}): {off - lost} are read as "
            f"the nearest within {SNAP:g}, {lost} as {values.get(OTHER, IGNORE)}" + (f" ({shown} ...)" if lost else "")
        )
    return labels


def _colors_in(values: Mapping[int | str, str] | None) -> list[int]:
    """Give the colors that a label map names; none where it names numbers."""
    texts = [key for key in values or () if isinstance(key, str)]
    if not values or not texts:
        return []
    if len(texts) < len(values):
        raise ValueError(f"values={dict(values)!r}: mixes numbers and colors; masks hold one or the other")
    colors = {text: parse_color(text) for text in texts}
    if bad := [text for text, color in colors.items() if color is None]:
        raise ValueError(f'values: {bad[0]!r} is no number and no color; write #rrggbb, such as "#ff0000"')
    if found := [color for color in colors.values() if color is not None and color != NO_COLOR]:
        return found
    raise ValueError(f'values={dict(values)!r}: names no color; give at least one, such as "#ff0000"')

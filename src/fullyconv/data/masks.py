"""What the numbers and colors in mask files are: indices, gray levels, colors, 1 bit, MATLAB and BSDS files.

The files are looked at before anything is believed of them, and whatever is done to their values is said: a color
table, soft edges cut at the middle, colors snapped to the nearest one. A number never means two things in one set: what
is in doubt is refused with the remedy.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.findings import Finding
from fullyconv.data.matlab import read_labels, read_seg
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.images import (
    Encoded,
    lossy_format,
    mask_mode,
    nodata_of,
    palette_of,
    read_colors,
    read_image,
    read_mask,
)
from fullyconv.labels import (
    IGNORE,
    NO_COLOR,
    OTHER,
    Labels,
    as_text,
    count_values_of,
    packed,
    packed_color,
    parse_color,
    runs_of,
)
from fullyconv.palettes import default_palette, voc_palette

Array = npt.NDArray[Any]

SNAP = 64.0
"""Largest distance in RGB at which a color counts as one of the table: a quarter of the range of a channel."""

MAX_COLORS = 256
VALUES = "values="
_VOID = 0xE0E0C0  # the border that PASCAL VOC draws, index 255


@dataclass(frozen=True)
class MaskReader(FileReader):
    """Read masks of one set as integers, whatever kind of file they are.

    Args:
        channels: C of the images.
        colors: 0xRRGGBB of every color that masks may hold; empty where masks hold numbers.
        codes: the value of each of these colors; empty where the color itself is the value.
        snap: whether a color that is none of them counts as the nearest within `SNAP`, else as `NO_COLOR`; without
            it, such a color is an error.
        threshold: gray levels from here on are 255, those below 0; None keeps them.
        bit_value: what a set pixel of a 1-bit file means.
        levels: values that lossy masks are snapped to; empty refuses them.
    """

    colors: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    snap: bool = False
    threshold: int | None = None
    bit_value: int = 1
    levels: tuple[int, ...] = ()

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers: numbers as they stand in the file, or colors as 0xRRGGBB."""
        file = self.mask_file(pair)
        suffix = file.suffix.lower() if isinstance(file, Path) else ""
        if suffix == ".mat":
            return read_labels(pair.mask)
        if suffix == ".seg":
            return read_seg(pair.mask)
        if self.colors:
            return self._by_color(read_colors(file), str(file))
        if self.levels and lossy_format(file):
            gray = read_colors(file)[..., 1].astype(np.int32)
            levels = np.array(self.levels)
            nearest: Array = levels[np.abs(gray[..., None] - levels).argmin(-1)].astype(np.uint16)
            return nearest
        mode = mask_mode(file)
        if mode == "RGB" and not lossy_format(file):
            mask = _gray(read_colors(file), str(file))
        else:
            mask = read_mask(file)  # which refuses lossy files and says why
            if mode == "1" and self.bit_value != 1:
                mask = mask * np.uint8(self.bit_value)
        if self.threshold is not None:
            mask = np.where(mask >= self.threshold, 255, 0).astype(np.uint8)
        return mask

    def _by_color(self, pixels: npt.NDArray[np.uint8], name: str) -> Array:
        runs, lengths = runs_of(packed(pixels))
        found, inverse = np.unique(runs, return_inverse=True)
        own = dict(zip(self.colors, self.codes or self.colors, strict=True))
        values = np.array([own.get(int(color), -1) for color in found], np.int32)
        missing = np.flatnonzero(values < 0)
        if len(missing) and not self.snap:
            first = int(found[missing[0]])
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            known = ", ".join(map(as_text, self.colors[:8])) + (" ..." if len(self.colors) > 8 else "")
            raise DatasetError(
                f"{name}: holds the color {as_text(first)}{more}, which is none of the label map ({known}); "
                "correct the mask, or give the color a class in values="
            )
        if len(missing):
            nearest, near = _nearest(found[missing], self.colors)
            codes = np.array(self.codes or self.colors, np.int32)
            values[missing] = np.where(near, codes[nearest], NO_COLOR)
        result: Array = np.repeat(values[inverse.ravel()], lengths).reshape(pixels.shape[:2])
        return result if not self.codes or NO_COLOR in values else result.astype(np.uint8)


def _nearest(colors: Array, table: Sequence[int]) -> tuple[Array, Array]:
    """Give for each color the place of the nearest in a table, and whether it is near enough to count as it."""
    places = np.zeros(len(colors), np.int64)
    near = np.zeros(len(colors), np.bool_)
    for start in range(0, len(colors), 4096):  # a photograph has as many colors as pixels
        part = slice(start, start + 4096)
        distance = ((_rgb(colors[part])[:, None] - _rgb(np.array(table))[None]) ** 2).sum(-1)
        places[part] = distance.argmin(1)
        near[part] = distance.min(1) <= SNAP**2
    return places, near


@dataclass(frozen=True)
class AnyReader(FileReader):
    """Read masks of which nobody knows what they hold: numbers where there are any, else nothing but the size."""

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers, zeros for what holds no numbers."""
        if pair.mask.suffix.lower() in (".mat", ".seg"):
            return np.zeros(self.size(pair), np.uint8)
        if mask_mode(pair.mask) == "RGB" or lossy_format(pair.mask):
            return np.zeros(read_image(pair.mask).shape[:2], np.uint8)
        return read_mask(pair.mask)


@dataclass
class Decision:
    """How the masks of a set are to be read.

    Args:
        reader: the reader.
        labels: the classes, where colors tell them.
        notes: what was decided, one sentence each.
        findings: what of it names files.
        nodata: values that the files themselves call no data.
    """

    reader: MaskReader
    labels: Labels | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    nodata: frozenset[int] = frozenset()


def decide(
    pairs: Sequence[Pair],
    values: Mapping[int | str, str] | None,
    *,
    named: bool,
    count: Callable[[MaskReader, Pair], dict[int, int]],
    counts: dict[Pair, dict[int, int]],
    base: MaskReader | None = None,
    where: str = VALUES,
) -> Decision:
    """Look at the masks of a set and find out how to read them.

    Args:
        pairs: the pairs.
        values: the label map if it is given; its keys are numbers, or colors "#rrggbb".
        named: whether class names are given elsewhere (classes.txt, classes=).
        count: counts the values of the mask of a pair.
        counts: where the counts of masks are kept that had to be read anyway.
        base: the reader to start from, which knows where the files are.
        where: who gave the label map, for messages.

    Returns:
        The decision.

    Raises:
        DatasetError: if masks hold colors or levels that do not tell what they mean; it says what to give.
        ValueError: if `values` mixes numbers and colors, or a color is none.
    """
    reader = MaskReader() if base is None else base
    colors = _given_colors(values)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        headers = dict(zip(pairs, pool.map(lambda pair: _header(reader.mask_file(pair)), pairs), strict=True))
        masks = _Masks(reader, headers, pool, count, counts)
        unused = None
        if colors and where != VALUES and not masks.of("RGB", "P") and not set(masks.colors(pairs)) <= {*colors}:
            message = f"{where} names colors, and the masks hold numbers: say which is which by values= (--values)"
            unused, colors, values = Finding("warning", "names that do not fit the masks", message, (where,)), [], None
        if colors:
            return _by_table(masks, colors, values or {}, where)
        decision = _by_number(masks, values, named)
        decision.findings += [unused] if unused else []
        nodata = frozenset(header.nodata for header in headers.values() if header.nodata is not None)
        return replace(decision, nodata=nodata if decision.labels is None else frozenset())


@dataclass(frozen=True)
class _Header:
    """What the header of a mask says."""

    mode: str
    lossy: str
    palette: bytes = b""
    nodata: int | None = None


def _header(file: Path | Encoded) -> _Header:
    mode = mask_mode(file)
    lossy = lossy_format(file) if mode in ("L", "RGB") else ""
    palette = palette_of(file) if mode == "P" else b""
    if palette and palette == bytes(level // 3 for level in range(len(palette))):
        mode, palette = "L", b""  # the palette of those who gave none: a number is its own gray
    number = None if mode in ("mat", "seg") else nodata_of(file)
    nodata = int(number) if number is not None and math.isfinite(number) and number == int(number) else None
    return _Header(mode, lossy, palette, nodata)


@dataclass(frozen=True)
class _Masks:
    """The masks of a set, and what was found out about them."""

    reader: MaskReader
    headers: Mapping[Pair, _Header]
    pool: ThreadPoolExecutor
    count: Callable[[MaskReader, Pair], dict[int, int]]
    counts: dict[Pair, dict[int, int]]

    def of(self, *modes: str) -> list[Pair]:
        """Give the pairs whose masks are of these modes."""
        return [pair for pair, header in self.headers.items() if header.mode in modes]

    def values(self, pairs: Sequence[Pair]) -> list[dict[int, int]]:
        """Count the values of masks that hold numbers."""
        todo = [pair for pair in pairs if pair not in self.counts]
        self.counts.update(zip(todo, self.pool.map(lambda pair: self.count(self.reader, pair), todo), strict=True))
        return [self.counts[pair] for pair in pairs]

    def colors(self, pairs: Sequence[Pair]) -> Counter[int]:
        """Count the colors of masks, whatever they hold."""
        total: Counter[int] = Counter()
        for found in self.pool.map(self._colors, pairs):
            total.update(found)
        return total

    def _colors(self, pair: Pair) -> dict[int, int]:
        return count_values_of(packed(read_colors(self.reader.mask_file(pair))))


def _by_number(masks: _Masks, values: Mapping[int | str, str] | None, named: bool) -> Decision:
    """Take masks for numbers, unless they hold colors."""
    reader, pairs = masks.reader, list(masks.headers)
    lossy = [pair for pair in pairs if masks.headers[pair].lossy]
    if lossy and values:
        formats = " and ".join(sorted({masks.headers[pair].lossy for pair in lossy}))
        levels = tuple(sorted(int(value) for value in values if 0 <= int(value) <= 255))
        note = (
            f"{len(lossy)} masks are {formats}, which changes values near borders: snapped to the nearest of "
            f"{', '.join(map(str, levels))}"
        )
        return Decision(replace(reader, levels=levels), notes=[note])
    if lossy:
        read_mask(reader.mask_file(lossy[0]))  # which refuses it and says why
    colored, indexed = masks.of("RGB"), masks.of("P")
    totals = masks.colors(colored)
    if colored and not all(_is_gray(color) for color in totals):
        return _mixed_colors(masks, totals, colored, indexed, values, named)
    if indexed and (found := _disagreement(masks, indexed)):
        return _mixed_colors(masks, totals, colored, indexed, values, named, found)
    if indexed and len(indexed) < len(pairs) and values is None:
        _check_kinds(masks, indexed)
    if values is None and not named:
        return _from_levels(masks)
    bits = masks.of("1")
    if bits and values is None:
        _check_bits(masks, bits)
    if bits and values is not None and 255 in values and 1 not in values:
        return Decision(replace(reader, bit_value=255), notes=["1-bit masks: a set pixel is read as 255"])
    ends = {str(value) for value in values or ()} == {"0", "255"} and IGNORE not in (values or {}).values()
    if ends:  # both are classes, so that what lies between may be soft edges
        cut = _from_levels(masks)
        if cut.reader.threshold is not None:
            return cut
    return Decision(reader)


def _disagreement(masks: _Masks, indexed: Sequence[Pair]) -> str:
    """Say of which index that occurs the palettes give different colors; empty where there is none."""
    palettes = {masks.headers[pair].palette: pair for pair in reversed(indexed)}
    if len(palettes) < 2:
        return ""
    for index in sorted({value for found in masks.values(indexed) for value in found}):
        colors: dict[bytes, Pair] = {}
        for palette, pair in palettes.items():
            if color := palette[3 * index : 3 * index + 3]:
                colors.setdefault(color, pair)
        if len(colors) > 1:
            shown = [
                f"#{color.hex()} in {pair.mask}" for color, pair in sorted(colors.items(), key=lambda c: str(c[1].mask))
            ]
            return f"the palettes disagree: index {index} is {shown[0]} and {shown[1]}"
    return ""


def _mixed_colors(
    masks: _Masks,
    totals: Counter[int],
    colored: Sequence[Pair],
    indexed: Sequence[Pair],
    values: Mapping[int | str, str] | None,
    named: bool,
    found: str = "",
) -> Decision:
    """Read masks of colors, and palette masks among them or with palettes that disagree, by their colors."""
    totals = totals + masks.colors(indexed)
    others = [pair for pair in masks.headers if pair not in {*colored, *indexed}]
    gray = masks.colors(others) if others else Counter[int]()
    if not set(gray) <= set(totals):
        fewer = min([*colored, *indexed], others, key=len)
        first = (indexed or colored)[0]
        raise DatasetError(
            f"{first.mask} holds colors and {others[0].mask} numbers: masks of one set are of one kind; convert "
            f"{len(fewer)} of them" + (f" ({found})" if found else ""),
            files=[pair.mask for pair in fewer],
        )
    files = tuple(str(pair.mask) for pair in (min(indexed, colored, key=len) if colored and indexed else indexed))
    if found and (named or values is not None):
        raise DatasetError(
            f"{files[0]}: {found}, so that no number means one thing; name the colors: "
            'values={"#rrggbb": "name", ...} (--values "#rrggbb=name,...")',
            files=files,
        )
    decision = _from_colors(masks.reader, totals + gray, values, named, (colored or indexed)[0].mask)
    if found:
        decision.findings.append(Finding("warning", "palettes that disagree", f"{found}; all are read by color", files))
    elif indexed:
        message = f"{len(indexed)} masks have a palette and {len(colored)} hold colors: all are read by color"
        decision.findings.append(Finding("note", "palettes beside colors", message, files))
    return decision


def _check_kinds(masks: _Masks, indexed: Sequence[Pair]) -> None:
    """Refuse palette masks beside gray ones that have no value in common but 0: is an index a gray level?"""
    others = [pair for pair in masks.headers if pair not in set(indexed)]
    here, there = ({value for found in masks.values(some) for value in found} - {0} for some in (indexed, others))
    if here and there and not here & there:
        fewer = min(indexed, others, key=len)
        raise DatasetError(
            f"{indexed[0].mask} has a palette and the indices {_numbers(here)}, {others[0].mask} none and the values "
            f"{_numbers(there)}: they do not say that a class is the same in both; give values={{value: name}} "
            "(--values) for all of them, or convert one kind",
            files=[pair.mask for pair in fewer],
        )


def _numbers(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)[:8])) + (" ..." if len(values) > 8 else "")


def _check_bits(masks: _Masks, bits: Sequence[Pair]) -> None:
    """Refuse 1-bit files beside files of 0 and 255: by the names alone a set pixel is 1 in these, ignored in those."""
    others = [pair for pair in masks.headers if pair not in set(bits)]
    found = masks.values(others)
    full = [pair for pair, values in zip(others, found, strict=True) if 255 in values]
    if full and all(set(values) <= {0, 255} for values in found):
        raise DatasetError(
            f"{bits[0].mask} has 1 bit, {full[0].mask} holds 0 and 255: class names alone do not say "
            'that a set pixel is the same in both; give values={0: "name", 255: "name"} (--values), and it is',
            files=[pair.mask for pair in min(bits, full, key=len)],
        )


def _from_levels(masks: _Masks) -> Decision:
    """See whether gray levels are soft edges between 0 and 255, and what 1-bit files stand beside."""
    reader = masks.reader
    if not masks.of("L", "RGB", "1"):
        return Decision(reader)
    total: Counter[int] = Counter()
    other: Counter[int] = Counter()  # of the files that are not 1-bit
    bits = masks.of("1")
    kept = dict(masks.counts)
    for pair, found in zip(masks.headers, masks.values(list(masks.headers)), strict=True):
        total.update(found)
        if pair not in bits:
            other.update(found)
    changed = None
    if bits and set(other) and set(other) <= {0, 255}:
        note = "some masks have 1 bit and some hold 0 and 255: a set pixel is read as 255"
        changed = Decision(replace(reader, bit_value=255), notes=[note])
    pixels = sum(total.values())
    ends = sum(number for value, number in total.items() if value <= 16 or value >= 240)
    levels = [value for value in total if 16 < value < 240]
    if changed is None and len(total) > 32 and levels and ends >= 0.97 * pixels and max(total) <= 255:
        soft = 1 - (total.get(0, 0) + total.get(255, 0)) / pixels
        note = (
            f"the masks hold {len(total)} gray levels between 0 and 255 (soft edges, {soft:.1%} of the pixels): "
            "cut at 128"
        )
        changed = Decision(replace(reader, threshold=128), notes=[note])
    if changed is not None:  # what was counted is not what will be read
        masks.counts.clear()
        masks.counts.update(kept)
    return changed or Decision(reader)


def _from_colors(
    reader: MaskReader, counts: Counter[int], values: Mapping[int | str, str] | None, named: bool, path: Path
) -> Decision:
    """Find the colors that are classes among those that occur."""
    remedy = 'give every color its class: values={"#ff0000": "name", "#000000": "ignore", ...} (--values)'
    pixels = sum(counts.values())
    voc = [packed_color(color) for color in voc_palette(256)]
    numbered = named or values is not None
    if set(counts) <= {*voc, _VOID} and (len(counts) > 2 or numbered):
        present = sorted(voc.index(color) for color in counts if color != _VOID)
        reader = replace(reader, colors=(*voc[:255], _VOID), codes=(*range(255), 255))
        note = f"the masks have the colors of PASCAL VOC's map: color i is read as value i ({len(present)} occur)"
        if numbered:
            return Decision(reader, notes=[note])
        names = {value: f"class {value}" for value in present}
        return Decision(reader, Labels.of(list(names.values()), values=names), [note])
    if numbered:
        shown = ", ".join(f"{as_text(color)} {count / pixels:.1%}" for color, count in counts.most_common(12))
        shown += " ..." if len(counts) > 12 else ""
        shown = "photographs, or antialiased edges?" if len(counts) > MAX_COLORS else shown
        raise DatasetError(
            f"{path}: the masks hold {len(counts)} colors ({shown}), and which is which class is not known; {remedy}"
        )
    kept = sorted(color for color, count in counts.items() if count >= 0.002 * pixels)
    off = pixels - sum(counts[color] for color in kept)
    if len(counts) <= 64:
        kept, off = sorted(counts), 0
    if not 2 <= len(kept) <= 64 or off > 0.08 * pixels:
        shown = ", ".join(f"{as_text(color)} {count / pixels:.1%}" for color, count in counts.most_common(6))
        raise DatasetError(
            f"{path}: the masks hold {len(counts)} colors ({shown} ...), too many to be classes (photographs, or "
            f"antialiased edges?); {remedy}"
        )
    notes = [f"the masks hold {len(kept)} colors, each read as a class named after it: name them with values="]
    if off:
        others = len(counts) - len(kept)
        notes.append(
            f"{off / pixels:.1%} of the pixels have one of {others} other colors (antialiased edges?): read as the "
            f"nearest color within {SNAP:g}, else ignored"
        )
    texts = [as_text(color) for color in kept]
    labels = Labels.of(texts, [_bytes(color) for color in kept], {text: text for text in texts})
    return Decision(replace(reader, colors=tuple(kept), snap=bool(off)), labels, notes)


def _by_table(masks: _Masks, colors: Sequence[int], values: Mapping[int | str, str], where: str) -> Decision:
    """Take the colors that were given; what is none of them is snapped, and counted."""
    names = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    by_name: dict[str, int] = {}
    for color in colors:
        by_name.setdefault(values[as_text(color)], color)
    unseen = (color for color in map(packed_color, default_palette(4096)) if color not in colors)
    palette = [_bytes(by_name[name] if name in by_name else next(unseen)) for name in names]
    labels = Labels.of(names, palette, values)
    pairs = list(masks.headers)
    counts = masks.colors(pairs)
    pixels = sum(counts.values())
    strays = np.array([color for color in counts if color not in set(colors)], np.int64)
    off = sum(counts[int(color)] for color in strays)
    notes = []
    if off:
        _, near = _nearest(strays, colors)
        far = Counter({int(color): counts[int(color)] for color in strays[~near]})
        lost = sum(far.values())
        shown = ", ".join(f"{as_text(color)} {number / pixels:.1%}" for color, number in far.most_common(3))
        meaning = values.get(OTHER, IGNORE)
        if lost > (0.5 if where == VALUES else 0.01) * pixels and OTHER not in values:
            raise DatasetError(
                f"{pairs[0].mask}: {lost / pixels:.0%} of the pixels of all masks have none of the colors of {where} "
                f"and are near none of them ({shown}); give every color its class, or correct {where}"
            )
        lossy = next((header.lossy for header in masks.headers.values() if header.lossy), "")
        why = f"{lossy} changes colors near borders" if lossy else "antialiased edges?"
        notes.append(
            f"{off / pixels:.2%} of the pixels ({off}) have none of the colors given ({why}): {off - lost} of them "
            f"are read as the nearest within {SNAP:g}, {lost} as {meaning}" + (f" ({shown} ...)" if lost else "")
        )
    return Decision(replace(masks.reader, colors=tuple(colors), snap=bool(off) or OTHER in values), labels, notes)


def _given_colors(values: Mapping[int | str, str] | None) -> list[int]:
    if not values:
        return []
    texts = [key for key in values if isinstance(key, str)]
    if not texts:
        return []
    if len(texts) < len(values):
        raise ValueError(f"values={dict(values)!r}: mixes numbers and colors; masks hold one or the other")
    colors = []
    for text in texts:
        color = parse_color(text)
        if color is None:
            raise ValueError(f'values: {text!r} is no number and no color; write #rrggbb, such as "#ff0000"')
        if color != NO_COLOR:
            colors.append(color)
    if not colors:
        raise ValueError(f'values={dict(values)!r}: names no color; give at least one, such as "#ff0000"')
    return colors


def _is_gray(color: int) -> bool:
    return color >> 16 == (color >> 8) & 255 == color & 255


def _gray(pixels: npt.NDArray[np.uint8], path: str) -> Array:
    if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 1] != pixels[..., 2]).any():
        raise DatasetError(
            f'{path}: holds colors where the other masks hold gray levels; give values={{"#rrggbb": ...}}'
        )
    return pixels[..., 0].copy()


def _rgb(colors: Array) -> Array:
    return np.stack([colors >> 16, (colors >> 8) & 255, colors & 255], axis=-1).astype(np.float64)


def _bytes(color: int) -> tuple[int, int, int]:
    return color >> 16, (color >> 8) & 255, color & 255

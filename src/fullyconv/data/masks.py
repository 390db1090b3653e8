"""What the numbers and colors in mask files are: indices, gray levels, colors, 1 bit, MATLAB and BSDS files.

The files are looked at before anything is believed of them, and whatever is done to their values is reported: a color
table, soft edges cut at the middle, colors snapped to the nearest one. A number never means two things in one set: what
is in doubt is refused with the remedy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.findings import Finding
from fullyconv.data.matlab import read_labels, read_seg
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, count_mask, in_threads
from fullyconv.errors import DatasetError, some
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
    VOID_COLOR,
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
_VOID = packed_color(VOID_COLOR)  # the border that PASCAL VOC draws, index 255


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
            pixels = read_colors(file)
            if (pixels != pixels[..., :1]).any():
                raise DatasetError(f'{file}: holds colors, other masks gray levels; give values={{"#rrggbb": ...}}')
            mask = pixels[..., 0].copy()
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
            strange, known = some(map(as_text, found[missing].tolist()), 1), some(map(as_text, self.colors), 8)
            what = f"holds the color {strange}, which is none of the label map ({known})"
            raise DatasetError(f"{name}: {what}; correct the mask, or give the color a class in values=")
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


@dataclass
class Decision:
    """What is found out about the masks of a set, and how they are to be read.

    Args:
        reader: the reader.
        headers: what the header of each mask says.
        given: what was said of their values.
        named: whether class names are given elsewhere.
        labels: the classes, where colors tell them.
        notes: what was decided, one sentence each.
        findings: what of it names files.
        counts: pair -> value -> pixels, of masks that had to be read anyway.
    """

    reader: MaskReader
    headers: Mapping[Pair, _Header]
    given: Mapping[int | str, str] | None
    named: bool
    labels: Labels | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[Pair, dict[int, int]] = field(default_factory=dict)

    @property
    def nodata(self) -> set[int]:
        """Values that the files themselves call no data."""
        return {header.nodata for header in self.headers.values() if header.nodata is not None}

    def read_as(self, note: str, **how: Any) -> None:
        """Read masks in another way; what was counted is not what will be read."""
        self.reader = replace(self.reader, **how)
        self.notes.append(note)
        self.counts = {}

    def of(self, *modes: str) -> list[Pair]:
        """Give the pairs whose masks are of these modes."""
        return [pair for pair, header in self.headers.items() if header.mode in modes]

    def but(self, some: Sequence[Pair]) -> list[Pair]:
        """Give the others."""
        taken = set(some)
        return [pair for pair in self.headers if pair not in taken]

    def values(self, pairs: Sequence[Pair]) -> list[dict[int, int]]:
        """Count the values of masks that hold numbers."""
        todo = [pair for pair in pairs if pair not in self.counts]
        self.counts.update(zip(todo, in_threads(partial(count_mask, self.reader), todo), strict=True))
        return [self.counts[pair] for pair in pairs]

    def colors(self, pairs: Sequence[Pair]) -> Counter[int]:
        """Count the colors of masks, whatever they hold."""
        total: Counter[int] = Counter()
        for found in in_threads(lambda pair: count_values_of(packed(read_colors(self.reader.mask_file(pair)))), pairs):
            total.update(found)
        return total


def decide(
    pairs: Sequence[Pair],
    values: Mapping[int | str, str] | None,
    *,
    named: bool,
    base: MaskReader,
    where: str = VALUES,
) -> Decision:
    """Look at the masks of a set and find out how to read them.

    Args:
        pairs: the pairs.
        values: the label map if it is given; its keys are numbers, or colors "#rrggbb".
        named: whether class names are given elsewhere (classes.txt, classes=).
        base: the reader to start from, which knows where the files are.
        where: who gave the label map, for messages.

    Returns:
        The decision.

    Raises:
        DatasetError: if masks hold colors or levels that do not tell what they mean; it says what to give.
        ValueError: if `values` mixes numbers and colors, or a color is none.
    """
    colors = _given_colors(values)
    headers = dict(zip(pairs, in_threads(lambda pair: _header(base.mask_file(pair)), pairs), strict=True))
    masks = Decision(base, headers, values, named)
    if colors and where != VALUES and not masks.of("RGB", "P") and not set(masks.colors(pairs)) <= {*colors}:
        message = f"{where} names colors, and the masks hold numbers: say which is which by values= (--values)"
        masks.findings.append(Finding("warning", "names that do not fit the masks", message, (where,)))
        colors, masks.given = [], None
    if colors:
        _by_table(masks, colors, where)
    else:
        _by_number(masks)
    return masks


def _by_number(masks: Decision) -> None:
    """Take masks for numbers, unless they hold colors."""
    reader, given = masks.reader, masks.given
    lossy = [pair for pair, header in masks.headers.items() if header.lossy]
    if lossy and given:
        formats = " and ".join(sorted({masks.headers[pair].lossy for pair in lossy}))
        levels = tuple(sorted(int(value) for value in given if 0 <= int(value) <= 255))
        what = f"{len(lossy)} masks are {formats}, which changes values near borders"
        note = f"{what}: snapped to the nearest of {', '.join(map(str, levels))}"
        masks.read_as(note, levels=levels)
        return
    if lossy:
        read_mask(reader.mask_file(lossy[0]))  # which refuses it and says why
    indexed = masks.of("P")
    totals = masks.colors(masks.of("RGB"))
    colored = any(color != (color & 255) * 0x010101 for color in totals)  # no gray
    disagreement = "" if colored else _disagreement(masks, indexed)
    if colored or disagreement:
        _mixed_colors(masks, totals, disagreement)
        return
    if given is None:
        _check_kinds(masks, indexed)
        if not masks.named:
            _from_levels(masks)
    elif masks.of("1") and 255 in given and 1 not in given:
        masks.read_as("1-bit masks: a set pixel is read as 255", bit_value=255)
    elif set(given) == {0, 255} and IGNORE not in given.values():
        _from_levels(masks)  # both are classes, so that what lies between may be soft edges


def _disagreement(masks: Decision, indexed: Sequence[Pair]) -> str:
    """Say of which index that occurs the palettes give different colors; empty where there is none."""
    palettes = {masks.headers[pair].palette: pair for pair in reversed(indexed)}
    if len(palettes) < 2:
        return ""
    for index in sorted({value for found in masks.values(indexed) for value in found}):
        colors: dict[bytes, Path] = {}
        for palette, pair in palettes.items():
            if color := palette[3 * index : 3 * index + 3]:
                colors.setdefault(color, pair.mask)
        if len(colors) > 1:
            shown = [f"#{color.hex()} in {path}" for color, path in sorted(colors.items(), key=lambda one: str(one[1]))]
            return f"the palettes disagree: index {index} is {shown[0]} and {shown[1]}"
    return ""


def _mixed_colors(masks: Decision, totals: Counter[int], disagreement: str) -> None:
    """Read masks of colors, and palette masks among them or with palettes that disagree, by their colors."""
    colored, indexed = masks.of("RGB"), masks.of("P")
    totals = totals + masks.colors(indexed)
    others = masks.but([*colored, *indexed])
    gray = masks.colors(others)
    if not set(gray) <= set(totals):
        fewer = min([*colored, *indexed], others, key=len)
        what = f"{(indexed or colored)[0].mask} holds colors and {others[0].mask} numbers"
        why = f" ({disagreement})" if disagreement else ""
        raise DatasetError(
            f"{what}: masks of one set are of one kind; convert {len(fewer)} of them{why}",
            files=[pair.mask for pair in fewer],
        )
    files = tuple(str(pair.mask) for pair in (min(indexed, colored, key=len) if colored and indexed else indexed))
    if disagreement and (masks.named or masks.given is not None):
        raise DatasetError(
            f"{files[0]}: {disagreement}, so that no number means one thing; name the colors: "
            'values={"#rrggbb": "name", ...} (--values "#rrggbb=name,...")',
            files=files,
        )
    _from_colors(masks, totals + gray, (colored or indexed)[0].mask)
    if disagreement:
        message = f"{disagreement}; all are read by color"
        masks.findings.append(Finding("warning", "palettes that disagree", message, files))
    elif indexed:
        message = f"{len(indexed)} masks have a palette and {len(colored)} hold colors: all are read by color"
        masks.findings.append(Finding("note", "palettes beside colors", message, files))


def _check_kinds(masks: Decision, indexed: Sequence[Pair]) -> None:
    """Refuse palette masks beside gray ones that have no value in common but 0: is an index a gray level?"""
    others = masks.but(indexed)
    if not indexed or not others:
        return
    here, there = ({value for found in masks.values(side) for value in found} - {0} for side in (indexed, others))
    if here and there and not here & there:
        raise DatasetError(
            f"{indexed[0].mask} has a palette and the indices {some(sorted(here), 8)}, {others[0].mask} none and the "
            f"values {some(sorted(there), 8)}: they do not say that a class is the same in both; give values={{value: "
            "name}} (--values) for all of them, or convert one kind",
            files=[pair.mask for pair in min(indexed, others, key=len)],
        )


def _from_levels(masks: Decision) -> None:
    """See whether gray levels are soft edges between 0 and 255, and what 1-bit files stand beside."""
    bits = masks.of("1")
    if not bits and not masks.of("L", "RGB"):
        return
    total: Counter[int] = Counter()
    for found in masks.values(list(masks.headers)):
        total.update(found)
    beside = {value for found in masks.values(masks.but(bits)) for value in found}
    if bits and beside and beside <= {0, 255}:
        note = "some masks have 1 bit and some hold 0 and 255: a set pixel is read as 255"
        masks.read_as(note, bit_value=255)
        return
    pixels = sum(total.values())
    between = {value for value in total if 16 < value < 240}
    ends = pixels - sum(total[value] for value in between)
    if len(total) > 32 and between and ends >= 0.97 * pixels and max(total) <= 255:
        soft = 1 - (total[0] + total[255]) / pixels
        what = f"{len(total)} gray levels between 0 and 255 (soft edges, {soft:.1%} of the pixels)"
        masks.read_as(f"the masks hold {what}: cut at 128", threshold=128)


def _from_colors(masks: Decision, counts: Counter[int], path: Path) -> None:
    """Find the colors that are classes among those that occur."""
    remedy = 'give every color its class: values={"#ff0000": "name", "#000000": "ignore", ...} (--values)'
    pixels = sum(counts.values())
    voc = [packed_color(color) for color in voc_palette(256)]
    numbered = masks.named or masks.given is not None
    if set(counts) <= {*voc, _VOID} and (len(counts) > 2 or numbered):
        present = sorted(voc.index(color) for color in counts if color != _VOID)
        note = f"the masks have the colors of PASCAL VOC's map: color i is read as value i ({len(present)} occur)"
        names = {value: f"class {value}" for value in present}
        masks.read_as(note, colors=(*voc[:255], _VOID), codes=(*range(255), 255))
        masks.labels = None if numbered else Labels.of(list(names.values()), values=names)
        return
    kept = [color for color, count in counts.items() if count >= 0.002 * pixels or len(counts) <= 64]
    off = pixels - sum(counts[color] for color in kept)
    if numbered or not 2 <= len(kept) <= 64 or off > 0.08 * pixels:
        shown = ", ".join(f"{as_text(color)} {count / pixels:.1%}" for color, count in counts.most_common(12))
        what = f"{path}: the masks hold {len(counts)} colors ({shown}{' ...' if len(counts) > 12 else ''})"
        why = "photographs, or antialiased edges?" if len(counts) > MAX_COLORS else "which is which class is not known"
        raise DatasetError(f"{what}, {why if numbered else 'too many to be classes (antialiased edges?)'}; {remedy}")
    kept.sort()
    note = f"the masks hold {len(kept)} colors, each read as a class named after it: name them with values="
    masks.read_as(note, colors=tuple(kept), snap=bool(off))
    if off:
        masks.notes.append(
            f"{off / pixels:.1%} of the pixels have one of {len(counts) - len(kept)} other colors (soft edges?): "
            f"read as the nearest color within {SNAP:g}, else ignored"
        )
    texts = [as_text(color) for color in kept]
    masks.labels = Labels.of(texts, [color.to_bytes(3) for color in kept], {text: text for text in texts})


def _by_table(masks: Decision, colors: Sequence[int], where: str) -> None:
    """Take the colors that were given; what is none of them is snapped, and counted."""
    values = masks.given or {}
    names = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    by_name = {values[as_text(color)]: color for color in reversed(colors)}
    unseen = (color for color in map(packed_color, default_palette(4096)) if color not in colors)
    palette = [(by_name[name] if name in by_name else next(unseen)).to_bytes(3) for name in names]
    masks.labels = Labels.of(names, palette, values)
    counts = masks.colors(list(masks.headers))
    pixels = sum(counts.values())
    strays = np.array([color for color in counts if color not in set(colors)], np.int64)
    off = sum(counts[int(color)] for color in strays)
    masks.reader = replace(masks.reader, colors=tuple(colors), snap=bool(off) or OTHER in values)
    if off:
        _, near = _nearest(strays, colors)
        far = Counter({int(color): counts[int(color)] for color in strays[~near]})
        lost = sum(far.values())
        shown = ", ".join(f"{as_text(color)} {number / pixels:.1%}" for color, number in far.most_common(3))
        if lost > (0.5 if where == VALUES else 0.01) * pixels and OTHER not in values:
            raise DatasetError(
                f"{next(iter(masks.headers)).mask}: {lost / pixels:.0%} of the pixels of all masks are near no color "
                f"of {where} ({shown}); give every color its class, or correct {where}"
            )
        lossy = next((header.lossy for header in masks.headers.values() if header.lossy), "")
        why = f"{lossy} changes colors near borders" if lossy else "antialiased edges?"
        masks.notes.append(
            f"{off / pixels:.2%} of the pixels ({off}) have none of the colors given ({why}): {off - lost} are read as "
            f"the nearest within {SNAP:g}, {lost} as {values.get(OTHER, IGNORE)}" + (f" ({shown} ...)" if lost else "")
        )


def _given_colors(values: Mapping[int | str, str] | None) -> list[int]:
    texts = [key for key in values or () if isinstance(key, str)]
    if not values or not texts:
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


def _rgb(colors: Array) -> Array:
    return np.stack([colors >> 16, (colors >> 8) & 255, colors & 255], axis=-1).astype(np.float64)

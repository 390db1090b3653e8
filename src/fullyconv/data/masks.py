"""What the numbers and colors in mask files are: indices, gray levels, colors, 1 bit, MATLAB and BSDS files.

The files are looked at before anything is believed of them, and whatever is done to their values is said: a color
table, soft edges cut at the middle, colors snapped to the nearest one. What is in doubt is refused with the remedy.
"""

from __future__ import annotations

import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.images import MAX_PIXELS, Encoded, lossy_format, mask_mode, read_colors, read_mask
from fullyconv.labels import (
    IGNORE,
    NO_COLOR,
    OTHER,
    Labels,
    as_text,
    count_values_of,
    default_palette,
    packed,
    packed_color,
    parse_color,
    runs_of,
)

Array = npt.NDArray[Any]

SNAP = 64.0
"""Largest distance in RGB at which a color counts as one of the table: a quarter of the range of a channel."""

MAX_COLORS = 256
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
            return _read_mat(pair.mask)
        if suffix == ".seg":
            return _read_seg(pair.mask)
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


Reading = TypeVar("Reading", bound=MaskReader)


def reader_for(
    pairs: Sequence[Pair],
    values: Mapping[int | str, str] | None,
    *,
    named: bool,
    base: Reading | None = None,
    count: Callable[[MaskReader, Pair], dict[int, int]] | None = None,
    counts: dict[Pair, dict[int, int]] | None = None,
    threads: int | None = None,
) -> tuple[MaskReader, Labels | None, list[str]]:
    """Look at the masks of a set and find out how to read them.

    Args:
        pairs: the pairs.
        values: the label map if it is given; its keys are numbers, or colors "#rrggbb".
        named: whether class names are given elsewhere (classes.txt, classes=).
        base: the reader to start from, which knows where the files are.
        count: counts the values of the mask of a pair.
        counts: where the counts of masks are kept that had to be read anyway.
        threads: number of threads.

    Returns:
        The reader; the labels where colors or levels tell them; and what was decided, one sentence each.

    Raises:
        DatasetError: if masks hold colors or levels that do not tell what they mean; it says what to give.
        ValueError: if `values` mixes numbers and colors, or a color is none.
    """
    reader: MaskReader = MaskReader() if base is None else base
    colors = _given_colors(values)
    counts = {} if counts is None else counts
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        kinds = list(pool.map(lambda pair: _kind(reader.mask_file(pair)), pairs))
        modes = [mode for mode, _ in kinds]
        lossy = [pair for pair, (_, is_lossy) in zip(pairs, kinds, strict=True) if is_lossy]
        colored = [pair for pair, mode in zip(pairs, modes, strict=True) if mode == "RGB"]
        if colors:
            return _by_table(reader, pairs, colors, values or {}, next((kind for _, kind in kinds if kind), ""), pool)
        if lossy and values:
            formats = " and ".join(sorted({kind for _, kind in kinds if kind}))
            levels = tuple(sorted(int(value) for value in values if int(value) <= 255))
            note = (
                f"{len(lossy)} masks are {formats}, which changes values near borders: snapped to the nearest of "
                f"{', '.join(map(str, levels))}"
            )
            return replace(reader, levels=levels), None, [note]
        if lossy:
            read_mask(reader.mask_file(lossy[0]))  # which refuses it and says why
        totals: Counter[int] = Counter()
        if colored:
            for found in pool.map(lambda pair: _count_colors(reader, pair), colored):
                totals.update(found)
        if colored and not all(_is_gray(color) for color in totals):
            if len(colored) < len(pairs):
                other = next(pair for pair, mode in zip(pairs, modes, strict=True) if mode != "RGB")
                raise DatasetError(
                    f"{colored[0].mask} holds colors and {other.mask} numbers: masks of one set are of one kind; "
                    "convert one of them"
                )
            return _from_colors(reader, totals, values, named, colored[0].mask)
        if values is None and not named:
            return _from_levels(reader, pairs, modes, count or _count, counts, pool)
        if "1" in modes and values is None:
            _check_bits(reader, pairs, modes, count or _count, pool)
        if "1" in modes and values is not None and 255 in values and 1 not in values:
            note = "1-bit masks: a set pixel is read as 255"
            return replace(reader, bit_value=255), None, [note]
        ends = {str(value) for value in values or ()} == {"0", "255"} and IGNORE not in (values or {}).values()
        if ends:  # both are classes, so that what lies between may be soft edges
            cut = _from_levels(reader, pairs, modes, count or _count, counts, pool)
            if cut[0].threshold is not None:
                return cut
        return reader, None, []


def _kind(file: Path | Encoded) -> tuple[str, str]:
    mode = mask_mode(file)
    return mode, lossy_format(file) if mode in ("L", "RGB") else ""


def _count(reader: MaskReader, pair: Pair) -> dict[int, int]:
    return count_values_of(reader.mask(pair))


def _check_bits(
    reader: MaskReader,
    pairs: Sequence[Pair],
    modes: Sequence[str],
    count: Callable[[MaskReader, Pair], dict[int, int]],
    pool: ThreadPoolExecutor,
) -> None:
    """Refuse 1-bit files beside files of 0 and 255: by the names alone a set pixel is 1 in these, ignored in those."""
    others = [pair for pair, mode in zip(pairs, modes, strict=True) if mode != "1"]
    found = list(pool.map(lambda pair: count(reader, pair), others))
    full = [pair for pair, values in zip(others, found, strict=True) if 255 in values]
    if full and all(set(values) <= {0, 255} for values in found):
        raise DatasetError(
            f"{pairs[modes.index('1')].mask} has 1 bit, {full[0].mask} holds 0 and 255: class names alone do not say "
            'that a set pixel is the same in both; give values={0: "name", 255: "name"} (--values), and it is'
        )


def _from_levels(
    reader: MaskReader,
    pairs: Sequence[Pair],
    modes: Sequence[str],
    count: Callable[[MaskReader, Pair], dict[int, int]],
    counts: dict[Pair, dict[int, int]],
    pool: ThreadPoolExecutor,
) -> tuple[MaskReader, Labels | None, list[str]]:
    """See whether gray levels are soft edges between 0 and 255, and what 1-bit files stand beside."""
    if not set(modes) & {"L", "RGB", "1"}:
        return reader, None, []
    total: Counter[int] = Counter()
    other: Counter[int] = Counter()  # of the files that are not 1-bit
    read: dict[Pair, dict[int, int]] = {}
    for pair, found, mode in zip(pairs, pool.map(lambda pair: count(reader, pair), pairs), modes, strict=True):
        read[pair] = found
        total.update(found)
        if mode != "1":
            other.update(found)
    if "1" in modes and set(other) and set(other) <= {0, 255}:
        note = "some masks have 1 bit and some hold 0 and 255: a set pixel is read as 255"
        return replace(reader, bit_value=255), None, [note]
    pixels = sum(total.values())
    ends = sum(number for value, number in total.items() if value <= 16 or value >= 240)
    levels = [value for value in total if 16 < value < 240]
    if len(total) > 32 and levels and ends >= 0.97 * pixels and max(total) <= 255:
        soft = 1 - (total.get(0, 0) + total.get(255, 0)) / pixels
        note = (
            f"the masks hold {len(total)} gray levels between 0 and 255 (soft edges, {soft:.1%} of the pixels): "
            "cut at 128"
        )
        return replace(reader, threshold=128), None, [note]
    counts.update(read)
    return reader, None, []


def _from_colors(
    reader: MaskReader, counts: Counter[int], values: Mapping[int | str, str] | None, named: bool, path: Path
) -> tuple[MaskReader, Labels | None, list[str]]:
    """Find the colors that are classes among those that occur."""
    remedy = 'give every color its class: values={"#ff0000": "name", "#000000": "ignore", ...} (--values)'
    pixels = sum(counts.values())
    voc = [packed_color(color) for color in default_palette(256)]
    numbered = named or values is not None
    if set(counts) <= {*voc, _VOID} and (len(counts) > 2 or numbered):
        present = sorted(voc.index(color) for color in counts if color != _VOID)
        reader = replace(reader, colors=(*voc[:255], _VOID), codes=(*range(255), 255))
        note = f"the masks have the colors of PASCAL VOC's map: color i is read as value i ({len(present)} occur)"
        if numbered:
            return reader, None, [note]
        names = {value: f"class {value}" for value in present}
        palette = [_bytes(voc[value]) for value in present]
        return reader, Labels.of(list(names.values()), palette, names), [note]
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
    return replace(reader, colors=tuple(kept), snap=bool(off)), labels, notes


def _by_table(
    reader: MaskReader,
    pairs: Sequence[Pair],
    colors: Sequence[int],
    values: Mapping[int | str, str],
    lossy: str,
    pool: ThreadPoolExecutor,
) -> tuple[MaskReader, Labels, list[str]]:
    """Take the colors that were given; what is none of them is snapped, and counted."""
    names = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    by_name: dict[str, int] = {}
    for color in colors:
        by_name.setdefault(values[as_text(color)], color)
    unseen = (color for color in map(packed_color, default_palette(4096)) if color not in colors)
    palette = [_bytes(by_name[name] if name in by_name else next(unseen)) for name in names]
    labels = Labels.of(names, palette, values)
    counts: Counter[int] = Counter()
    for found in pool.map(lambda pair: _count_colors(reader, pair), pairs):
        counts.update(found)
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
        if lost > 0.5 * pixels and OTHER not in values:
            raise DatasetError(
                f"{pairs[0].mask}: {lost / pixels:.0%} of the pixels of all masks have none of the colors of values= "
                f"and are near none of them ({shown}); give every color its class, or correct values="
            )
        why = f"{lossy} changes colors near borders" if lossy else "antialiased edges?"
        notes.append(
            f"{off / pixels:.2%} of the pixels ({off}) have none of the colors given ({why}): {off - lost} of them "
            f"are read as the nearest within {SNAP:g}, {lost} as {meaning}" + (f" ({shown} ...)" if lost else "")
        )
    return replace(reader, colors=tuple(colors), snap=bool(off) or OTHER in values), labels, notes


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


def _count_colors(reader: MaskReader, pair: Pair) -> dict[int, int]:
    return count_values_of(packed(read_colors(reader.mask_file(pair))))


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


def _read_mat(path: Path) -> Array:
    """Read the label matrix of a MATLAB file: groundTruth.Segmentation (BSDS), GTcls.Segmentation (SBD), or the one."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise ImportError(f"{path}: MATLAB masks need SciPy: pip install 'fullyconv[mat]'") from error
    try:
        _bound_mat(path, whosmat(str(path)))
        content = loadmat(str(path))
    except DatasetError:
        raise
    except Exception as error:  # NotImplementedError for v7.3, ValueError, struct.error ... for damaged ones
        raise DatasetError(
            f"{path}: cannot be read as a MATLAB file of version 7 or older ({error}); save it as PNG"
        ) from error
    names = [name for name in content if not name.startswith("__")]
    matrices: list[Array] = []
    for name in names:
        _collect(content[name], matrices, 0)
    if len(matrices) != 1:
        raise DatasetError(
            f"{path}: holds {len(matrices)} label matrices ({', '.join(map(str, names))}); save the one that is meant "
            "as PNG"
        )
    return matrices[0]


def _bound_mat(path: Path, variables: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    """Refuse matrices of too many pixels, and files that unpack to more than one of those, before they are loaded."""
    remedy = f"the bound is {MAX_PIXELS}; save a smaller mask, as PNG"
    for name, shape, _ in variables:
        if math.prod(shape) > MAX_PIXELS:
            raise DatasetError(f"{path}: {name} is too large ({' x '.join(map(str, shape))} pixels), {remedy}")
    left = 8 * MAX_PIXELS + 2**24  # of the widest numbers
    if path.stat().st_size * 1032 <= left:  # deflate packs no better than 1032 to 1
        return
    with path.open("rb") as file:
        head = file.read(128)
        if head[126:128] not in (b"IM", b"MI"):
            return  # of version 4, which packs nothing
        order: Literal["little", "big"] = "little" if head[126:128] == b"IM" else "big"
        while len(tag := file.read(8)) == 8:
            kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            if kind != 15:  # not packed
                file.seek(size, os.SEEK_CUR)
                left -= size
            else:
                left -= _unpacked_bytes(file.read(size), left)
            if left < 0:
                raise DatasetError(f"{path}: too large when it is unpacked, {remedy}")


def _unpacked_bytes(data: bytes, most: int) -> int:
    """Count the bytes that zlib would unpack, and stop beyond a number of them."""
    unpack = zlib.decompressobj()
    count = 0
    while data and count <= most and not unpack.eof:
        count += len(unpack.decompress(data, 2**22))
        data = unpack.unconsumed_tail
    return count


def _collect(value: Any, found: list[Array], depth: int) -> None:
    if not isinstance(value, np.ndarray) or depth > 6:
        return
    if value.dtype.names:
        if "Segmentation" in value.dtype.names:
            for entry in value["Segmentation"].ravel()[:1]:
                _collect(entry, found, depth + 1)
        return
    if value.dtype == object:
        for entry in value.ravel()[:1]:
            _collect(entry, found, depth + 1)
        return
    if value.ndim == 2 and min(value.shape) > 1 and np.issubdtype(value.dtype, np.number):
        whole = value.astype(np.int64)
        if (whole == value).all() and whole.min() >= 0 and whole.max() <= 65535:
            found.append(whole.astype(np.uint8 if whole.max() <= 255 else np.uint16))


def _read_seg(path: Path) -> Array:
    """Read the run-length text of the Berkeley segmentation data set: lines of segment, row, first and last column."""
    try:
        head, _, body = path.read_text(encoding="ascii", errors="strict").partition("\ndata\n")
        fields = dict(line.split(maxsplit=1) for line in head.splitlines() if len(line.split(maxsplit=1)) == 2)
        height, width = int(fields["height"]), int(fields["width"])
        if not (0 < height <= 65536 and 0 < width <= 65536 and height * width <= MAX_PIXELS):
            raise ValueError(f"{height} x {width} pixels")
        runs = np.array(body.split(), dtype=np.int64).reshape(-1, 4)
    except (ValueError, KeyError, OSError, UnicodeError) as error:
        raise DatasetError(
            f"{path}: is no segmentation file of BSDS ({error}); replace it, or save the mask as PNG"
        ) from error
    mask = np.full((height, width), 65535, np.uint16)
    for segment, row, first, last in runs.tolist():
        if not (0 <= row < height and 0 <= first <= last < width and 0 <= segment < 65535):
            raise DatasetError(
                f"{path}: a run ({segment} {row} {first} {last}) lies outside of {height} x {width} pixels"
            )
        mask[row, first : last + 1] = segment
    if (mask == 65535).any():
        raise DatasetError(f"{path}: its runs do not cover all of {height} x {width} pixels; replace it")
    return mask.astype(np.uint8) if mask.max() <= 255 else mask

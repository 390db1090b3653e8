"""What the numbers and colours in mask files are: indices, grey levels, colours, 1 bit, MATLAB and BSDS files.

The files are looked at before anything is believed of them, and whatever is done to their values is said: a colour
table, soft edges cut at the middle, colours snapped to the nearest one. What is in doubt is refused with the remedy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.images import mask_mode, read_image, read_mask
from fullyconv.labels import IGNORE, Labels, default_palette

Array = npt.NDArray[Any]

SNAP = 64.0
"""Largest distance in RGB at which a colour counts as one of the table: a quarter of the range of a channel."""

MAX_COLOURS = 256
UNKNOWN = 65535
"""The value of pixels whose colour is like none of the table."""

_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class MaskReader(FileReader):
    """Read masks of one set as integers, whatever kind of file they are.

    Args:
        colours: 0xRRGGBB of each value 0, 1, ...; empty where masks hold numbers.
        snap: whether a colour that is none of the table counts as the nearest within `SNAP`, else it is an error.
        threshold: grey levels from here on are 255, those below 0; None keeps them.
        bit_value: what a set pixel of a 1-bit file means.
        levels: values that lossy masks are snapped to; empty refuses them.
    """

    colours: tuple[int, ...] = ()
    snap: bool = False
    threshold: int | None = None
    bit_value: int = 1
    levels: tuple[int, ...] = ()

    def mask(self, pair: Pair) -> Array:
        """Read the mask as (H, W) integers."""
        suffix = pair.mask.suffix.lower()
        if suffix == ".mat":
            return _read_mat(pair.mask)
        if suffix == ".seg":
            return _read_seg(pair.mask)
        if self.colours:
            return self._values_of(read_image(pair.mask), pair.mask)
        if suffix in _LOSSY:
            if not self.levels:
                return read_mask(pair.mask)  # which refuses it and says why
            grey = read_image(pair.mask)[..., 1].astype(np.int32)
            levels = np.array(self.levels)
            nearest: Array = levels[np.abs(grey[..., None] - levels).argmin(-1)].astype(np.uint16)
            return nearest
        mode = mask_mode(pair.mask)
        if mode == "RGB":
            mask = _grey(read_image(pair.mask), pair.mask)
        else:
            mask = read_mask(pair.mask)
            if mode == "1" and self.bit_value != 1:
                mask = mask * np.uint8(self.bit_value)
        if self.threshold is not None:
            mask = np.where(mask >= self.threshold, 255, 0).astype(np.uint8)
        return mask

    def _values_of(self, pixels: npt.NDArray[np.uint8], path: Path) -> Array:
        runs, lengths = _runs(packed(pixels))
        found, inverse = np.unique(runs, return_inverse=True)
        table = np.array(self.colours, np.int64)
        own = {int(colour): value for value, colour in enumerate(self.colours)}
        stray = [int(colour) for colour in found if int(colour) not in own]
        if stray and not self.snap:
            more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
            known = ", ".join(map(as_text, self.colours[:8])) + (" ..." if len(table) > 8 else "")
            raise DatasetError(
                f"{path}: holds the colour {as_text(stray[0])}{more}, which is none of the label map ({known}); "
                "correct the mask, or give the colour a class in values="
            )
        values = np.array([own.get(int(colour), -1) for colour in found])
        if stray:
            missing = np.flatnonzero(values < 0)
            distance = np.sqrt(((_rgb(found[missing])[:, None] - _rgb(table)[None]) ** 2).sum(-1))
            values[missing] = np.where(distance.min(1) <= SNAP, distance.argmin(1), UNKNOWN)
        result: Array = np.repeat(values[inverse.ravel()].astype(np.uint16), lengths).reshape(pixels.shape[:2])
        return result if (result > 255).any() else result.astype(np.uint8)


def packed(pixels: npt.NDArray[np.uint8]) -> Array:
    """Pack colours (H, W, 3) as 0xRRGGBB.

    Example:
        >>> hex(int(packed(np.array([[[255, 0, 16]]], np.uint8))[0, 0]))
        '0xff0010'
    """
    wide = pixels.astype(np.int32)
    result: Array = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return result


def as_text(colour: int) -> str:
    """Write a colour as #rrggbb.

    Example:
        >>> as_text(0xff0010)
        '#ff0010'
    """
    return f"#{colour:06x}"


def parse_colour(text: str) -> int | None:
    """Read #rrggbb; None if it is none."""
    digits = text.removeprefix("#")
    if not text.startswith("#") or len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def reader_for(
    pairs: Sequence[Pair], values: Mapping[int | str, str] | None, *, named: bool, threads: int | None = None
) -> tuple[MaskReader, Labels | None, list[str]]:
    """Look at the masks of a set and find out how to read them.

    Args:
        pairs: the pairs.
        values: the label map if it is given; its keys are numbers, or colours "#rrggbb".
        named: whether class names are given elsewhere (classes.txt, classes=).
        threads: number of threads.

    Returns:
        The reader; the labels where colours or levels tell them; and what was decided, one sentence each.

    Raises:
        DatasetError: if masks hold colours or levels that do not tell what they mean; it says what to give.
        ValueError: if `values` mixes numbers and colours, or a colour is none.
    """
    colours = _given_colours(values)
    lossy = [pair for pair in pairs if pair.mask.suffix.lower() in _LOSSY]
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        modes = list(pool.map(lambda pair: mask_mode(pair.mask), pairs))
        coloured = [pair for pair, mode in zip(pairs, modes, strict=True) if mode == "RGB"]
        if colours:
            return _by_table(pairs, colours, values or {}, bool(lossy), pool)
        if lossy and values:
            levels = tuple(sorted(int(value) for value in values if int(value) <= 255))
            note = f"{len(lossy)} masks are JPEG, which changes values near borders: snapped to the nearest of {levels}"
            return MaskReader(levels=levels), None, [note]
        if lossy:
            read_mask(lossy[0].mask)  # which refuses it and says why
        counts: Counter[int] = Counter()
        if coloured:
            for found in pool.map(_count_colours, coloured):
                counts.update(found)
        if coloured and not all(_is_grey(colour) for colour in counts):
            if len(coloured) < len(pairs):
                other = next(pair for pair, mode in zip(pairs, modes, strict=True) if mode != "RGB")
                raise DatasetError(
                    f"{coloured[0].mask} holds colours and {other.mask} numbers: masks of one set are of one kind; "
                    "convert one of them"
                )
            return _from_colours(counts, values, named, coloured[0].mask)
        reader = MaskReader()
        notes: list[str] = []
        if values is None and not named:
            return _from_levels(reader, pairs, modes, notes, pool)
        if "1" in modes and values is not None and 255 in values and 1 not in values:
            reader = replace(reader, bit_value=255)
            notes.append("1-bit masks: a set pixel is read as 255")
        return reader, None, notes


def _from_levels(
    reader: MaskReader, pairs: Sequence[Pair], modes: Sequence[str], notes: list[str], pool: ThreadPoolExecutor
) -> tuple[MaskReader, Labels | None, list[str]]:
    """See whether grey levels are soft edges between 0 and 255, and what 1-bit files stand beside."""
    if not set(modes) & {"L", "RGB", "1"}:
        return reader, None, notes
    total: Counter[int] = Counter()
    other: Counter[int] = Counter()  # of the files that are not 1-bit
    for (values, counts), mode in zip(pool.map(lambda pair: _levels(reader, pair), pairs), modes, strict=True):
        total.update(dict(zip(values, counts, strict=True)))
        if mode != "1":
            other.update(dict(zip(values, counts, strict=True)))
    if "1" in modes and set(other) and set(other) <= {0, 255}:
        notes.append("some masks have 1 bit and some hold 0 and 255: a set pixel is read as 255")
        return replace(reader, bit_value=255), None, notes
    pixels = sum(total.values())
    ends = sum(count for value, count in total.items() if value <= 16 or value >= 240)
    levels = [value for value in total if 16 < value < 240]
    if len(total) > 32 and levels and ends >= 0.97 * pixels and max(total) <= 255:
        soft = 1 - (total.get(0, 0) + total.get(255, 0)) / pixels
        notes.append(
            f"the masks hold {len(total)} grey levels between 0 and 255 (soft edges, {soft:.1%} of the pixels): "
            "cut at 128"
        )
        return replace(reader, threshold=128), None, notes
    return reader, None, notes


def _from_colours(
    counts: Counter[int], values: Mapping[int | str, str] | None, named: bool, path: Path
) -> tuple[MaskReader, Labels | None, list[str]]:
    """Find the colours that are classes among those that occur."""
    remedy = 'give every colour its class: values={"#ff0000": "name", "#000000": "ignore", ...} (--values)'
    pixels = sum(counts.values())
    voc = [(red << 16) | (green << 8) | blue for red, green, blue in default_palette(256)]
    border = 0xE0E0C0
    if set(counts) <= {*voc, border} and len(counts) > 2:
        present = sorted(voc.index(colour) for colour in counts if colour != border)
        size = max(present) + 1
        table = tuple(voc[:size]) + ((border,) if border in counts else ())
        note = f"the masks have the colours of PASCAL VOC's map: colour i is read as value i ({len(present)} occur)"
        if values is not None or named:
            return MaskReader(colours=table), None, [note]
        names = {value: f"class {value}" for value in present}
        palette = [_bytes(voc[value]) for value in present]
        known = names | ({size: IGNORE} if border in counts else {})
        return MaskReader(colours=table), Labels.of(list(names.values()), palette, known), [note]
    if named and values is None:
        shown = ", ".join(f"{as_text(colour)} {count / pixels:.1%}" for colour, count in counts.most_common(12))
        shown += " ..." if len(counts) > 12 else ""
        shown = "photographs, or antialiased edges?" if len(counts) > MAX_COLOURS else shown
        raise DatasetError(
            f"{path}: the masks hold {len(counts)} colours ({shown}), and which is which class is not known; {remedy}"
        )
    kept = sorted(colour for colour, count in counts.items() if count >= 0.002 * pixels)
    off = pixels - sum(counts[colour] for colour in kept)
    if len(counts) <= 64:
        kept, off = sorted(counts), 0
    if not 2 <= len(kept) <= 64 or off > 0.08 * pixels:
        shown = ", ".join(f"{as_text(colour)} {count / pixels:.1%}" for colour, count in counts.most_common(6))
        raise DatasetError(
            f"{path}: the masks hold {len(counts)} colours ({shown} ...), too many to be classes (photographs, or "
            f"antialiased edges?); {remedy}"
        )
    notes = [f"the masks hold {len(kept)} colours, each read as a class named after it: name them with values="]
    if off:
        others = len(counts) - len(kept)
        notes.append(
            f"{off / pixels:.1%} of the pixels have one of {others} other colours (antialiased edges?): read as the "
            f"nearest colour within {SNAP:g}, else ignored"
        )
    labels = Labels.of(
        [as_text(colour) for colour in kept],
        [_bytes(colour) for colour in kept],
        {**{value: as_text(colour) for value, colour in enumerate(kept)}, UNKNOWN: IGNORE},
    )
    return MaskReader(colours=tuple(kept), snap=bool(off)), labels, notes


def _by_table(
    pairs: Sequence[Pair],
    colours: Sequence[int],
    values: Mapping[int | str, str],
    lossy: bool,
    pool: ThreadPoolExecutor,
) -> tuple[MaskReader, Labels, list[str]]:
    """Take the colours that were given; what is none of them is snapped, and counted."""
    names = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    by_name: dict[str, int] = {}
    for colour in colours:
        by_name.setdefault(values[as_text(colour)], colour)
    labels = Labels.of(
        names,
        [_bytes(by_name[name]) for name in names],
        {**{value: values[as_text(colour)] for value, colour in enumerate(colours)}, UNKNOWN: IGNORE},
    )
    counts: Counter[int] = Counter()
    for found in pool.map(_count_colours, pairs):
        counts.update(found)
    pixels = sum(counts.values())
    off = pixels - sum(counts[colour] for colour in colours)
    notes = []
    if off:
        why = "JPEG changes colours near borders" if lossy else "antialiased edges?"
        notes.append(
            f"{off / pixels:.1%} of the pixels have none of the colours given ({why}): read as the nearest within "
            f"{SNAP:g}, else ignored"
        )
    return MaskReader(colours=tuple(colours), snap=bool(off)), labels, notes


def _given_colours(values: Mapping[int | str, str] | None) -> list[int]:
    if not values:
        return []
    texts = [key for key in values if isinstance(key, str)]
    if not texts:
        return []
    if len(texts) < len(values):
        raise ValueError(f"values={dict(values)!r}: mixes numbers and colours; masks hold one or the other")
    colours = []
    for text in texts:
        colour = parse_colour(text.lower())
        if colour is None:
            raise ValueError(f'values: {text!r} is no number and no colour; write #rrggbb, such as "#ff0000"')
        colours.append(colour)
    return colours


def _levels(reader: MaskReader, pair: Pair) -> tuple[list[int], list[int]]:
    found, counts = np.unique(reader.mask(pair), return_counts=True)
    return found.tolist(), counts.tolist()


def _count_colours(pair: Pair) -> dict[int, int]:
    runs, lengths = _runs(packed(read_image(pair.mask)))
    found, inverse = np.unique(runs, return_inverse=True)
    counts = np.bincount(inverse.ravel(), weights=lengths)
    return {int(colour): int(count) for colour, count in zip(found, counts, strict=True)}


def _runs(values: Array) -> tuple[Array, Array]:
    """Give the values of the runs of equal pixels, row by row, and their lengths: masks have few of them."""
    flat = values.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(np.concatenate([starts, [flat.size]]))


def _is_grey(colour: int) -> bool:
    return colour >> 16 == (colour >> 8) & 255 == colour & 255


def _grey(pixels: npt.NDArray[np.uint8], path: Path) -> Array:
    if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 1] != pixels[..., 2]).any():
        raise DatasetError(
            f'{path}: holds colours where the other masks hold grey levels; give values={{"#rrggbb": ...}}'
        )
    return pixels[..., 0].copy()


def _rgb(colours: Array) -> Array:
    return np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=-1).astype(np.float64)


def _bytes(colour: int) -> tuple[int, int, int]:
    return colour >> 16, (colour >> 8) & 255, colour & 255


def _read_mat(path: Path) -> Array:
    """Read the label matrix of a MATLAB file: groundTruth.Segmentation (BSDS), GTcls.Segmentation (SBD), or the one."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"{path}: MATLAB masks need SciPy: pip install 'fullyconv[mat]'") from error
    try:
        content = loadmat(str(path))
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
        if not (0 < height <= 65536 and 0 < width <= 65536 and height * width <= 2**28):
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

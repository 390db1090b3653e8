"""Read every image and mask of a data set once, and say all that is wrong with it before training finds out."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.data.folder import check_sizes
from fullyconv.data.layouts import Lost
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, Reader
from fullyconv.data.sources import (
    Source,
    dataset_root,
    find_labels,
    find_source,
    shifted_hint,
    two_ends_hint,
)
from fullyconv.drawing import contact_sheet
from fullyconv.errors import DatasetError
from fullyconv.images import MASK_EXTENSIONS, Encoded, mask_mode, read_image, read_mask, visible
from fullyconv.labels import IGNORE, Labels, count_values_of

Severity = Literal["error", "warning", "note"]

SMALL = 32
"""Pixels: below it the coarsest features of a network are one cell."""

DARK = 31
"""An image whose lightest pixel is not above it uses an eighth of its range: 12 bits stored in 16, or 0 and 1."""

LOOK = 16
"""Side in pixels of the thumbnails by which images are compared."""

ALIKE, APART = 0.99, 3.0
"""Images look alike if their thumbnails correlate at least so well and differ by fewer levels of 255 on average.

On photographs of pets, streets and steel the same image saved twice correlates above 0.995 and differs by less than
half a level; the nearest different images of two splits stay below 0.975.
"""

MOST_COMPARED = 20_000  # images, because each is compared with all others
SHEET_COLUMNS, SHEET_CELLS, SHEET_SIDE = 4, 12, 320
MOST_CLASSES = 60  # rows of the table, unless all are asked for

# Text beside images and masks: nobody expects it to be read as one.
_EXPECTED = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".db", ".ini", ".html", ".pdf")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        severity: "error" (training would fail or learn from wrong labels), "warning", or "note".
        rule: what was looked for, in a few words.
        message: what is wrong, and the remedy.
        files: the files concerned.
    """

    severity: Severity
    rule: str
    message: str
    files: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """What the doctor found.

    Args:
        root: the folder.
        layout: its layout in words; empty where none was found.
        splits: number of pairs of each split.
        labels: the classes, or None where they could not be found.
        findings: everything that was found, the worst first.
        pixels: class name (and "ignore") -> pixels.
        images: class name -> number of masks that hold it.
        weights: class name -> weight for the loss by median frequency (Eigen and Fergus 2015; SegNet), 1 in the median.
        soft_weights: class name -> weight by the inverse square root of its share of the pixels, 1 on average.
        sizes: least, median and largest height and width in pixels, and how many sizes there are.
        kinds: "RGB", "gray", "16 bits", ... -> number of images.
        source: the opened set, for the sheet.
        telling: pairs that show what was found, and why, for the sheet.
    """

    root: str
    layout: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    labels: Labels | None = None
    findings: list[Finding] = field(default_factory=list)
    pixels: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    soft_weights: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    source: Source | None = field(default=None, repr=False)
    telling: list[tuple[Pair, str]] = field(default_factory=list, repr=False)

    def count(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def healthy(self, *, strict: bool = False) -> bool:
        """Tell whether training can start: no errors and, if strict, no warnings."""
        return not self.count("error") and not (strict and self.count("warning"))

    def to_dict(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {
            "root": self.root,
            "healthy": self.healthy(),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "layout": self.layout,
            "splits": self.splits,
            "labels": None if self.labels is None else self.labels.to_dict(),
            "findings": [
                {"severity": f.severity, "rule": f.rule, "message": f.message, "files": list(f.files)}
                for f in self.findings
            ],
            "pixels": self.pixels,
            "images": self.images,
            "weights": self.weights,
            "soft_weights": self.soft_weights,
            "sizes": self.sizes,
            "kinds": self.kinds,
        }

    def text(self, most: int | None = 5) -> str:
        """Lay the diagnosis out for people: the statistics, then what was found, the worst first.

        Args:
            most: files named in a finding; None names all, and all classes.
        """
        lines = [f"{self.root}: {self.layout or 'no layout found'}"]
        if self.splits:
            lines.append("pairs: " + ", ".join(f"{split} {number}" for split, number in self.splits.items()))
        if self.sizes:
            least, middle, largest = self.sizes["least"], self.sizes["median"], self.sizes["largest"]
            lines.append(
                f"sizes (H x W): least {least[0]} x {least[1]}, median {middle[0]} x {middle[1]}, largest {largest[0]} "
                f"x {largest[1]}, {self.sizes['distinct']} different"
            )
        if len(self.kinds) > 1 or (self.kinds and "RGB" not in self.kinds):
            lines.append("images: " + ", ".join(f"{number} {kind}" for kind, number in self.kinds.items()))
        if self.labels is not None and self.pixels:
            lines += ["", *self._table(self.labels, most is None)]
        for severity in ("error", "warning", "note"):
            found = [finding for finding in self.findings if finding.severity == severity]
            for rule, same in groupby(found, key=lambda finding: finding.rule):
                lines += ["", f"{severity}: {rule}"]
                for finding in same:
                    lines += [f"  {line}" for line in finding.message.splitlines()]
                    shown = finding.files if most is None else finding.files[:most]
                    lines += [f"    {printable(name)}" for name in shown]
                    if len(shown) < len(finding.files):
                        lines.append(f"    and {len(finding.files) - len(shown)} more (--all)")
        lines += ["", f"{_many(self.count('error'), 'error')}, {_many(self.count('warning'), 'warning')}"]
        return "\n".join(lines)

    def _table(self, labels: Labels, every: bool) -> list[str]:
        total = max(1, sum(self.pixels.values()))
        names = [*labels.names, *([IGNORE] if self.pixels.get(IGNORE) else [])]
        width = max(len(name) for name in names)
        lines = [f"{'class':<{width}}  {'pixels':>7}  {'masks':>6}  {'weight':>6}  {'softer':>6}"]
        for name in names if every else names[:MOST_CLASSES]:
            share = f"{100 * self.pixels.get(name, 0) / total:.2f} %"
            weights = [f"{table[name]:.2f}" if name in table else "-" for table in (self.weights, self.soft_weights)]
            lines.append(
                f"{name:<{width}}  {share:>7}  {self.images.get(name, 0):>6}  {weights[0]:>6}  {weights[1]:>6}"
            )
        if not every and len(names) > MOST_CLASSES:
            lines.append(f"and {len(names) - MOST_CLASSES} more (--all)")
        return [*lines, f"values in the masks: {labels.describe_values()}"]

    def __str__(self) -> str:
        return self.text()


@dataclass
class _Seen:
    """What one pair told."""

    pair: Pair
    split: str
    size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = field(default_factory=dict)
    digest: bytes = b""
    labeled: bytes = b""  # digest of the mask
    look: npt.NDArray[np.uint8] | None = None
    constant: bool = False
    highest: int = 255
    kind: str = ""
    turned: bool = False  # by the camera, in a way that sizes do not tell, and the mask is not
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # rule, file, message


def examine(
    data: str | Path,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    lists: str | None = None,
    unlabeled: str = "error",
    in_channels: int = 3,
    threads: int | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Read everything once and collect what is wrong, instead of stopping at the first.

    What stops a training does not stop the doctor: files that do not pair are told and left out, masks that cannot be
    read are told and the rest is looked at, and where nobody knows what the values in the masks mean, images, sizes
    and duplicates are looked at all the same.

    Args:
        data: a folder or the name of a public set, like all that follow as `open_source` takes it.
        classes: class names.
        values: value in the mask file -> class name or "ignore", or the name of a public set.
        images: folder of the images, or a pattern.
        masks: folder of the masks, or a pattern.
        pairs: a file of pairs.
        lists: a folder of lists of names.
        unlabeled: what becomes of images without a mask.
        in_channels: C of the images.
        threads: number of threads; by default the number of processors, at most 16.
        progress: show a progress bar; by default on a terminal.

    Returns:
        The diagnosis.

    Raises:
        FileNotFoundError: if there is no such folder, or an option names a file or folder that is not there.
        ValueError: if an option is wrong.

    Example:
        >>> examine("photos/").healthy()  # doctest: +SKIP
        True
    """
    dataset_root(data)  # a folder that is not there is a wrong call, not a finding
    diagnosis = Diagnosis(str(data))
    options: dict[str, Any] = {
        "images": images,
        "masks": masks,
        "pairs": pairs,
        "lists": lists,
        "unlabeled": unlabeled,
        "in_channels": in_channels,
    }
    threads = threads or min(os.cpu_count() or 1, 16)
    source = _opened(data, options, diagnosis)
    if source is None:
        return diagnosis
    every = [(split, pair) for split, found in source.splits.items() for pair in found]
    labels, stopped = _labels(source, [pair for _, pair in every], classes, values, threads)
    reader = source.reader if labels is not None or source.annotated is not None else _AnyReader(channels=in_channels)
    diagnosis.source, diagnosis.root, diagnosis.layout = source, str(source.root), source.layout
    diagnosis.splits = {split: len(found) for split, found in source.splits.items()}
    diagnosis.labels = labels
    with ThreadPoolExecutor(threads) as pool:
        work = pool.map(lambda item: _look_at(item, reader), every)
        seen = list(_with_bar(work, len(every), progress))
    problems = _problems(seen)
    if stopped and not any(stopped in (finding.message, *finding.files) for finding in problems):
        rule = "what the masks hold is not known" if labels is None else "the masks cannot be read as they are"
        if labels is None or not problems:
            diagnosis.findings.append(Finding("error", rule, stopped))
    diagnosis.findings += problems
    if labels is not None:
        diagnosis.findings += [*_stray(seen, labels), *_empty(seen, labels), *_classes(seen, labels)]
    diagnosis.findings += [*_enough(diagnosis.splits, source), *_twins(seen), *_alike(seen), *_images(seen)]
    diagnosis.findings += _unread(source)
    diagnosis.findings += [Finding("note", "how it was read", note) for note in source.notes]
    _statistics(diagnosis, seen, labels)
    diagnosis.telling = _telling(seen, labels)
    order = {"error": 0, "warning": 1, "note": 2}
    diagnosis.findings.sort(key=lambda finding: order[finding.severity])
    return diagnosis


def printable(text: str) -> str:
    """Write a name on one line: what a terminal would not print becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _many(number: int, what: str, plural: str | None = None) -> str:
    """Write a number and what it counts.

    Example:
        >>> _many(1, "mask holds", "masks hold"), _many(0, "error")
        ('1 mask holds', '0 errors')
    """
    return f"{number} {what if number == 1 else plural or what + 's'}"


# ---- opening, without stopping ---------------------------------------------------------------------------------------


def _opened(data: str | Path, options: Mapping[str, Any], diagnosis: Diagnosis) -> Source | None:
    """Find the pairs; where some files are in the way, tell them and take the others."""
    try:
        return find_source(data, **options)
    except (DatasetError, FileNotFoundError) as error:
        stopped = str(error)
        if stopped.startswith(("images=", "masks=", "pairs=", "lists=")):
            raise  # an option that names nothing is a wrong call
    lost: list[Lost] = []
    try:
        source = find_source(data, **options, lost=lost)
    except (DatasetError, FileNotFoundError):
        source = None
    told = [
        Finding("error", f"{len(one.files)} x {one.rule}", one.message, one.files if len(one.files) > 1 else ())
        for one in _joined(lost)
    ]
    diagnosis.findings += told or [Finding("error", "the folder cannot be read as a data set", stopped)]
    return source


def _joined(lost: Iterable[Lost]) -> list[Lost]:
    """Make one of all that the splits lost by the same rule."""
    by_rule: dict[str, list[Lost]] = defaultdict(list)
    for one in lost:
        by_rule[one.rule].append(one)
    return [
        Lost(rule, some[0].message, tuple(name for one in some for name in one.files)) for rule, some in by_rule.items()
    ]


def _labels(
    source: Source,
    pairs: Sequence[Pair],
    classes: Sequence[str] | None,
    values: Mapping[int | str, str] | str | None,
    threads: int,
) -> tuple[Labels | None, str]:
    """Find the labels; where single masks are in the way, from the others. Say what stopped it, too."""
    try:
        find_labels(source, pairs, classes=classes, values=values)
        return source.labels, ""
    except DatasetError as error:
        stopped = str(error)
    with ThreadPoolExecutor(threads) as pool:
        any_reader = _AnyReader(channels=source.in_channels)
        reader: Reader = any_reader if source.annotated is None else source.reader
        good = pool.map(partial(_is_sound, reader), pairs)
        sound = [pair for pair, is_good in zip(pairs, good, strict=True) if is_good]
    if not 0 < len(sound) < len(pairs):
        return None, stopped
    try:
        find_labels(source, sound, classes=classes, values=values)
        return source.labels, stopped
    except DatasetError as error:
        return None, str(error)


@dataclass(frozen=True)
class _AnyReader(FileReader):
    """Read masks of which nobody knows what they hold: numbers where there are any, else nothing but the size."""

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        if pair.mask.suffix.lower() in (".mat", ".seg"):
            return np.zeros(self.size(pair), np.uint8)
        if mask_mode(pair.mask) == "RGB" or pair.mask.suffix.lower() in (".jpg", ".jpeg"):
            return np.zeros(read_image(pair.mask).shape[:2], np.uint8)
        return read_mask(pair.mask)


def _is_sound(reader: Reader, pair: Pair) -> bool:
    try:
        mask = reader.mask(pair)
        check_sizes(pair, reader.size(pair), (mask.shape[0], mask.shape[1]))
    except (DatasetError, OSError):
        return False
    return True


def _unread(source: Source) -> list[Finding]:
    """Say which files beside the images and masks are of formats that are not read."""
    if source.annotated is not None:
        return []
    folders = {path.parent for found in source.splits.values() for pair in found for path in (pair.image, pair.mask)}
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folders):
        for entry in sorted(folder.iterdir()):
            suffix = entry.suffix.lower()
            plain = entry.name.startswith(".") or suffix in (*MASK_EXTENSIONS, *_EXPECTED, "")
            if not plain and entry.is_file():
                by_suffix[suffix].append(str(entry))
    return [
        Finding(
            "note",
            f"{_many(len(files), 'file is', 'files are')} {suffix}, which is not read",
            f"images and masks are {', '.join(MASK_EXTENSIONS)}: convert them, if they belong to the set",
            tuple(files),
        )
        for suffix, files in by_suffix.items()
        if suffix != ".db"
    ]


# ---- one pair --------------------------------------------------------------------------------------------------------


def _look_at(item: tuple[str, Pair], reader: Reader) -> _Seen:
    split, pair = item
    seen = _Seen(pair, split)
    orientation = 1
    try:
        image = reader.image(pair)
        seen.size = (image.shape[0], image.shape[1])
        seen.digest = _digest(image)
        seen.look = _look(image)
        seen.highest = int(image.max())
        seen.constant = bool((image == image[:1, :1]).all())
        seen.kind, orientation = _header(reader.image_file(pair) if isinstance(reader, FileReader) else pair.image)
    except (DatasetError, OSError) as error:
        seen.problems.append(("images that cannot be read", str(pair.image), str(error)))
    rule = "masks that cannot be read"
    try:
        mask = reader.mask(pair)
        seen.counts = count_values_of(mask)
        seen.labeled = _digest(mask)
        if seen.digest:
            rule = "pairs whose image and mask differ in size"
            check_sizes(pair, seen.size, (mask.shape[0], mask.shape[1]))
        # Half a turn, a mirror, or a quarter turn of a square: the sizes fit, and nothing else would tell.
        hidden = orientation in (2, 3, 4) or (orientation != 1 and seen.size[0] == seen.size[1])
        file = reader.mask_file(pair) if isinstance(reader, FileReader) else pair.mask
        seen.turned = hidden and _header(file)[1] != orientation
    except (DatasetError, OSError) as error:
        seen.problems.append((rule, str(pair.mask), str(error)))
    return seen


def _digest(array: npt.NDArray[Any]) -> bytes:
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


def _look(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give the thumbnail by which images are compared."""
    small = Image.fromarray(np.ascontiguousarray(visible(image))).resize((LOOK, LOOK), Image.Resampling.BOX)
    return np.asarray(small)


def _header(path: Path | Encoded) -> tuple[str, int]:
    """Tell kind and EXIF orientation of an image file; nothing and 1 for files that are no images."""
    try:
        with Image.open(io.BytesIO(path.data) if isinstance(path, Encoded) else path) as image:
            orientation = image.getexif().get(0x0112, 1)
            mode = image.mode
    except (OSError, ValueError, SyntaxError):
        return "", 1
    kinds = {"L": "gray", "1": "1 bit", "P": "palette", "RGBA": "RGB with alpha", "LA": "gray with alpha", "F": "float"}
    kind = "16 bits" if mode.startswith("I") else kinds.get(mode, mode)
    return kind, orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _with_bar(work: Iterable[_Seen], total: int, progress: bool | None) -> Iterable[_Seen]:
    if not (sys.stderr.isatty() if progress is None else progress):
        return work
    from tqdm import tqdm

    bar: Iterable[_Seen] = tqdm(work, total=total, desc="reading", unit="pair", file=sys.stderr)
    return bar


# ---- what all pairs together say -------------------------------------------------------------------------------------


def _problems(seen: Sequence[_Seen]) -> list[Finding]:
    by_rule: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for result in seen:
        for rule, file, message in result.problems:
            by_rule[rule].append((file, message))
    findings = []
    for rule, found in by_rule.items():
        # One file is named in its message; of many, each is shown with what is wrong with it.
        several = tuple(message for _, message in found) if len({_reason(*entry) for entry in found}) > 1 else ()
        files = several or tuple(file for file, _ in found)
        findings.append(Finding("error", f"{len(found)} x {rule}", found[0][1], files if len(found) > 1 else ()))
    return findings


def _reason(file: str, message: str) -> str:
    return message.replace(file, "")


def _stray(seen: Sequence[_Seen], labels: Labels) -> list[Finding]:
    bad = [result for result in seen if labels.unknown(result.counts)]
    if not bad:
        return []
    files = []
    for result in bad:
        unknown = labels.unknown(result.counts)
        shown = ", ".join(map(labels.value_text, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
        files.append(f"{result.pair.mask}: {shown} ({sum(result.counts[value] for value in unknown)} pixels)")
    message = labels.stray_message(bad[0].counts, bad[0].pair.mask)
    message += shifted_hint(labels, {value for result in seen for value in result.counts})
    holds = _many(len(bad), "mask holds", "masks hold")
    return [Finding("error", f"{holds} values that are not in the label map", message, tuple(files))]


def _classes_in(result: _Seen, labels: Labels) -> list[str]:
    return sorted({labels.meaning[value] for value in result.counts if value in labels.meaning} - {IGNORE})


def _empty(seen: Sequence[_Seen], labels: Labels) -> list[Finding]:
    findings: list[Finding] = []
    read = [result for result in seen if result.counts]
    ignored = [result for result in read if all(labels.meaning.get(value, "") == IGNORE for value in result.counts)]
    if ignored:
        whole = {result.split for result in read} - {result.split for result in read if result not in ignored}
        message = "nothing is learned from them: correct the masks or the label map, or remove the pairs"
        if whole:
            message += f"; all masks of {', '.join(sorted(whole))} are such"
        files = tuple(str(result.pair.mask) for result in ignored)
        rule = f"{_many(len(ignored), 'mask ignores', 'masks ignore')} every pixel"
        findings.append(Finding("error" if whole else "warning", rule, message, files))
    if hint := two_ends_hint(labels, {value for result in read for value in result.counts}):
        findings.append(Finding("error", "255 is ignored and nothing else but 0 is there", hint))
    held = [_classes_in(result, labels) for result in read]
    single = sum(len(names) == 1 for names in held)
    if single and labels.num_classes > 1:
        usual = Counter(names[0] for names in held if len(names) == 1).most_common(1)[0]
        severity: Severity = "warning" if single == len(read) > 1 else "note"
        rule = f"{single} of {_many(len(read), 'mask holds', 'masks hold')} one class alone"
        findings.append(Finding(severity, rule, f"most often {usual[0]} ({_many(usual[1], 'mask')}): is it meant so?"))
    return findings


def _enough(splits: Mapping[str, int], source: Source) -> list[Finding]:
    """See that there is something to train on and something to validate with, as the data module needs it."""
    rule = "there is not enough to train"
    if not splits.keys() & {"train", "all"}:
        message = f"{source.root}: has {', '.join(splits)} and no train: good for testing a model, not for training one"
        return [Finding("note", rule, message)]
    if "val" in splits:
        return []
    name = "train" if "train" in splits else "all"
    if splits[name] < 2:
        message = (
            f"{source.splits[name][0].image}: one image cannot be split into training and validation; add images, or "
            "give a val/ folder"
        )
        return [Finding("error", rule, message)]
    return []


def _twins(seen: Sequence[_Seen]) -> list[Finding]:
    """Find images that are there twice; across splits they make every score a lie."""
    same: dict[bytes, list[_Seen]] = defaultdict(list)
    for result in seen:
        if result.digest:
            same[result.digest].append(result)
    groups = [group for group in same.values() if len(group) > 1]
    across = [group for group in groups if len({result.split for result in group}) > 1]
    within = [group for group in groups if len({result.split for result in group}) == 1]
    contradicting = [group for group in groups if len({result.labeled for result in group if result.labeled}) > 1]
    findings = []
    if across:
        files = tuple(" = ".join(f"{result.pair.image} ({result.split})" for result in group) for group in across)
        message = "what is trained on is scored as well, so that every score is too good: keep each in one split"
        rule = f"{_many(len(across), 'image is', 'images are')} in more than one split"
        findings.append(Finding("error", rule, message, files))
    if within:
        files = tuple(" = ".join(str(result.pair.image) for result in group) for group in within)
        rule = f"{_many(len(within), 'image is', 'images are')} there more than once"
        message = "each counts as often as it is there: keep one"
        if not any(result.split == "val" for result in seen) and any(
            group[0].split in ("train", "all") for group in within
        ):
            message += (
                ". There is no val: a part is set aside at random for validation, and would hold copies of what is "
                "trained on"
            )
        findings.append(Finding("warning", rule, message, files))
    if contradicting:
        files = tuple(" / ".join(str(result.pair.mask) for result in group) for group in contradicting)
        rule = f"{_many(len(contradicting), 'image has', 'images have')} masks that contradict each other"
        findings.append(Finding("warning", rule, "the same image is there with different masks: keep one", files))
    return findings


def _alike(seen: Sequence[_Seen]) -> list[Finding]:
    """Find images that are nearly the same: across splits, or where a split will be drawn at random."""
    found = [result for result in seen if result.look is not None and not result.constant]
    if len(found) < 2:
        return []
    if len(found) > MOST_COMPARED:
        return [Finding("note", "look-alikes were not looked for", f"more than {MOST_COMPARED:,} images are there")]
    groups = _groups(_near([result.look for result in found if result.look is not None]))
    several = [[found[index] for index in group] for group in groups]
    several = [group for group in several if len({result.digest for result in group}) > 1]
    across = [group for group in several if len({result.split for result in group}) > 1]
    drawn = [group for group in several if {result.split for result in group} in ({"train"}, {"all"})]
    if any(result.split == "val" for result in seen):
        drawn = []
    findings = []
    for some, where, message in (
        (
            across,
            "across splits",
            "the same image saved twice, or frames of one video? Then scores are too good: keep them in one split",
        ),
        (
            drawn,
            "and there is no val",
            "the same image saved twice, or frames of one video? A part is set aside at random for validation, and "
            "would hold neighbors of what is trained on: give a val/ of other scenes",
        ),
    ):
        if some:
            files = tuple(_group_text(group) for group in some)
            rule = f"{_many(sum(map(len, some)), 'image')} look alike {where}"
            findings.append(Finding("warning", rule, message, files))
    return findings


def _group_text(group: Sequence[_Seen]) -> str:
    first: dict[str, _Seen] = {}  # one of every split, then the others
    for result in group:
        first.setdefault(result.split, result)
    shown = [*first.values(), *(result for result in group if result is not first[result.split])][:4]
    text = " ~ ".join(f"{result.pair.image} ({result.split})" for result in shown)
    return text + (f" ~ {len(group) - 4} more" if len(group) > 4 else "")


def _groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Put together what is linked, directly or by others.

    Example:
        >>> _groups([(0, 4), (1, 2), (2, 4)])
        [[0, 1, 2, 4]]
    """
    leader: dict[int, int] = {}

    def top(index: int) -> int:
        while leader.setdefault(index, index) != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for left, right in pairs:
        leader[top(left)] = top(right)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in sorted(leader):
        groups[top(index)].append(index)
    return list(groups.values())


def _near(looks: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[int, int]]:
    """List the pairs of thumbnails that are nearly the same, the first before the second."""
    plain = np.stack(looks).reshape(len(looks), -1).astype(np.float32)
    unit = plain - plain.mean(1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    found: list[tuple[int, int]] = []
    step = 1024
    for start in range(0, len(unit), step):
        alike = unit[start : start + step] @ unit[start:].T >= ALIKE
        for row, column in np.argwhere(np.triu(alike, 1)).tolist():
            left, right = start + row, start + column
            if np.abs(plain[left] - plain[right]).mean() < APART:
                found.append((left, right))
    return found


def _classes(seen: Sequence[_Seen], labels: Labels) -> list[Finding]:
    present: dict[str, set[str]] = {name: set() for name in labels.names}
    for result in seen:
        for name in _classes_in(result, labels):
            present[name].add(result.split)
    findings = []
    never = [name for name, splits in present.items() if not splits]
    if never:
        message = f"{', '.join(never)}: no mask holds it; correct the label map, or leave the class out"
        findings.append(
            Finding("warning", f"{_many(len(never), 'class never occurs', 'classes never occur')}", message)
        )
    splits = {result.split for result in seen}
    if len(splits) > 1 and "train" in splits:
        untrained = [name for name, where in present.items() if where and "train" not in where]
        if untrained:
            message = f"{', '.join(untrained)}: in no training mask, so that it cannot be learned; split anew"
            rule = f"{_many(len(untrained), 'class is', 'classes are')} not in train"
            findings.append(Finding("warning", rule, message))
        unscored = [name for name, where in present.items() if where == {"train"}]
        if unscored:
            message = f"{', '.join(unscored)}: in training masks only, so that nobody will know how well it is found"
            rule = f"{_many(len(unscored), 'class is', 'classes are')} scored nowhere"
            findings.append(Finding("note", rule, message))
    return findings


def _images(seen: Sequence[_Seen]) -> list[Finding]:
    findings = []
    for chosen, singular, plural, message in (
        (
            [result for result in seen if result.turned],
            "image is turned by its EXIF orientation and its mask is not",
            "images are turned by their EXIF orientation and their masks are not",
            "the sizes fit either way: look whether the masks do (--sheet), else turn the masks or strip the tags",
        ),
        (
            [result for result in seen if result.digest and min(result.size) < SMALL],
            "image is tiny",
            "images are tiny",
            f"smaller than {SMALL} pixels, which is one cell of the coarsest features of a network",
        ),
        (
            [result for result in seen if result.constant and result.size != (1, 1)],
            "image is of one color",
            "images are of one color",
            "every pixel is the same: exported wrongly?",
        ),
        (
            [result for result in seen if result.digest and not result.constant and result.highest <= DARK],
            "image is nearly black",
            "images are nearly black",
            f"no value is above {DARK} of 255 (16 bits are read as value / 257): 12 bits stored in 16, or values of "
            "0 and 1? Stretch all of them by one factor and save them with 8 bits",
        ),
    ):
        if chosen:
            rule = _many(len(chosen), singular, plural)
            findings.append(Finding("warning", rule, message, tuple(str(result.pair.image) for result in chosen)))
    kinds = Counter(result.kind for result in seen if result.kind)
    depths = {"16 bits": "16", "float": "32"}
    if len({depths.get(kind, "8") for kind in kinds}) > 1:
        few = min(kinds, key=lambda kind: kinds[kind])
        files = tuple(str(result.pair.image) for result in seen if result.kind == few)
        shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        message = f"{shown}: 16 bits are read as value / 257; see that all have one brightness (--sheet)"
        findings.append(Finding("warning", "images of different depths are mixed", message, files))
    return findings


def _statistics(diagnosis: Diagnosis, seen: Sequence[_Seen], labels: Labels | None) -> None:
    sizes = [result.size for result in seen if result.digest]
    if sizes:
        by_area = sorted(sizes, key=lambda size: size[0] * size[1])
        diagnosis.sizes = {
            "least": list(by_area[0]),
            "median": list(by_area[len(by_area) // 2]),
            "largest": list(by_area[-1]),
            "distinct": len(set(sizes)),
        }
    diagnosis.kinds = dict(Counter(result.kind for result in seen if result.kind).most_common())
    if labels is None:
        return
    pixels: Counter[str] = Counter()
    images: Counter[str] = Counter()
    there: Counter[str] = Counter()  # pixels of the masks that hold the class
    for result in seen:
        total = sum(result.counts.values())
        names: Counter[str] = Counter()
        for value, number in result.counts.items():
            if value in labels.meaning:
                names[labels.meaning[value]] += number
        pixels.update(names)
        for name in names:
            images[name] += 1
            there[name] += total
    diagnosis.pixels = {name: pixels[name] for name in (*labels.names, IGNORE)}
    diagnosis.images = {name: images[name] for name in (*labels.names, IGNORE)}
    frequency = {name: pixels[name] / there[name] for name in labels.names if pixels[name]}
    if frequency:
        median = float(np.median(list(frequency.values())))
        diagnosis.weights = {name: round(median / value, 4) for name, value in frequency.items()}
        roots = {name: pixels[name] ** -0.5 for name in frequency}
        mean = sum(roots.values()) / len(roots)
        diagnosis.soft_weights = {name: round(root / mean, 4) for name, root in roots.items()}


# ---- the sheet -------------------------------------------------------------------------------------------------------


def _telling(seen: Sequence[_Seen], labels: Labels | None) -> list[tuple[Pair, str]]:
    """Choose pairs that are worth a look, one of each kind of trouble, then the rarest classes."""
    if labels is None:
        return []
    drawable = [result for result in seen if result.digest and result.counts and not result.problems]
    chosen: list[tuple[Pair, str]] = []
    troubles: list[tuple[str, list[_Seen]]] = [
        ("a value that is no class", [result for result in drawable if labels.unknown(result.counts)]),
        ("turned by EXIF", [result for result in drawable if result.turned]),
        ("all ignored", [result for result in drawable if not _classes_in(result, labels)]),
        ("nearly black", [result for result in drawable if result.highest <= DARK]),
        ("of one color", [result for result in drawable if result.constant]),
    ]
    single = [result for result in drawable if len(_classes_in(result, labels)) == 1]
    if len(single) * 10 <= len(drawable):  # where it is usual, it tells nothing
        troubles.append(("one class alone", single))
    for why, results in troubles:
        chosen += [(result.pair, why) for result in results[:2]]
    pixels: Counter[str] = Counter()
    best: dict[str, tuple[int, _Seen]] = {}
    for result in drawable:
        for value, number in result.counts.items():
            name = labels.meaning.get(value, IGNORE)
            pixels[name] += number
            if name != IGNORE and number > best.get(name, (0, result))[0]:
                best[name] = (number, result)
    rare = sorted(best, key=lambda name: pixels[name])[: min(4, max(0, len(best) - 2))]
    return chosen[: SHEET_CELLS // 2] + [(best[name][1].pair, f"most {name}") for name in rare]


def sheet(diagnosis: Diagnosis, cells: int = SHEET_CELLS) -> Image.Image:
    """Draw a contact sheet: what looks suspicious, the rarest classes, and images spread evenly over the splits.

    Values that are no class are drawn as ignored.

    Args:
        diagnosis: what `examine` returned.
        cells: images on the sheet.

    Returns:
        An RGB image.

    Raises:
        DatasetError: if no pair can be read.
    """
    source, labels = diagnosis.source, diagnosis.labels
    if source is None or labels is None:
        raise DatasetError(f"{diagnosis.root}: no pairs to draw; see the findings")
    every = [pair for pairs in source.splits.values() for pair in pairs]
    telling = diagnosis.telling[: max(1, 2 * cells // 3)]
    step = max(1, len(every) // max(1, cells - len(telling)))
    chosen = [*telling, *((pair, "") for pair in (*every[step // 2 :: step], *every))]
    shown: list[tuple[Any, Any, str]] = []
    taken: set[Path] = set()
    for pair, why in chosen:
        if len(shown) == cells:
            break
        if pair.image in taken:
            continue
        taken.add(pair.image)
        try:
            image, mask = source.reader.image(pair), source.reader.mask(pair)
            check_sizes(pair, (image.shape[0], image.shape[1]), (mask.shape[0], mask.shape[1]))
        except (DatasetError, OSError):
            continue
        shown.append((visible(image), _drawn(mask, labels), f"{pair.key}: {why}" if why else pair.key))
    if not shown:
        raise DatasetError(f"{diagnosis.root}: no pair can be drawn; see the findings")
    return contact_sheet(shown, labels, columns=SHEET_COLUMNS, side=SHEET_SIDE)


def _drawn(mask: npt.NDArray[Any], labels: Labels) -> npt.NDArray[Any]:
    known = np.isin(mask, list(labels.meaning))
    some = next(iter(labels.meaning))
    result: npt.NDArray[Any] = np.where(known, labels.encode(np.where(known, mask, some)), labels.ignore_index)
    return result

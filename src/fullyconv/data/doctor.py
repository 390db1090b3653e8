"""Read every image and mask of a data set once, and say all that is wrong with it before training finds out."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fullyconv.data.folder import check_sizes
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import Reader
from fullyconv.data.sources import Source, dataset_root, open_source
from fullyconv.drawing import contact_sheet
from fullyconv.errors import DatasetError
from fullyconv.labels import IGNORE, Labels

Severity = Literal["error", "warning", "note"]

SMALL = 32  # pixels: below it the coarsest features of a network are one cell
SHEET_COLUMNS, SHEET_CELLS, SHEET_SIDE = 4, 12, 320


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
        sizes: least, median and largest height and width in pixels, and how many sizes there are.
        source: the opened set, for the sheet.
    """

    root: str
    layout: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    labels: Labels | None = None
    findings: list[Finding] = field(default_factory=list)
    pixels: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    source: Source | None = field(default=None, repr=False)

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
            "sizes": self.sizes,
        }

    def text(self, most: int | None = 5) -> str:
        """Lay the diagnosis out for people: the worst first.

        Args:
            most: files named in a finding; None names all.
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
        if self.labels is not None and self.pixels:
            total = max(1, sum(self.pixels.values()))
            width = max(len(name) for name in (*self.labels.names, IGNORE))
            lines += ["", f"{'class':<{width}}  {'pixels':>7}  {'masks':>6}  weight"]
            for name in (*self.labels.names, IGNORE):
                if name == IGNORE and not self.pixels.get(name):
                    continue
                weight = f"{self.weights[name]:.2f}" if name in self.weights else "-"
                share = f"{100 * self.pixels.get(name, 0) / total:.2f} %"
                lines.append(f"{name:<{width}}  {share:>7}  {self.images.get(name, 0):>6}  {weight:>6}")
            lines.append(f"values in the masks: {self.labels.describe_values()}")
        for severity in ("error", "warning", "note"):
            for finding in self.findings:
                if finding.severity != severity:
                    continue
                lines += ["", f"{severity}: {finding.rule}", f"  {finding.message}"]
                shown = finding.files if most is None else finding.files[:most]
                lines += [f"    {name}" for name in shown]
                if len(shown) < len(finding.files):
                    lines.append(f"    and {len(finding.files) - len(shown)} more (--all)")
        lines += ["", f"{self.count('error')} errors, {self.count('warning')} warnings"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


@dataclass
class _Seen:
    """What one pair told."""

    pair: Pair
    size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = field(default_factory=dict)
    digest: bytes = b""
    look: int = 0
    constant: bool = False
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # rule, file, message


def examine(
    data: str | Path,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    unlabelled: str = "error",
    threads: int | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Read everything once and collect what is wrong, instead of stopping at the first.

    Args:
        data: a folder or the name of a public set, like all that follow as `open_source` takes it.
        classes: class names.
        values: value in the mask file -> class name or "ignore".
        images: folder of the pictures, or a pattern.
        masks: folder of the masks, or a pattern.
        pairs: a file of pairs.
        unlabelled: what becomes of pictures without a mask.
        threads: number of threads; by default the number of processors, at most 16.
        progress: show a progress bar; by default on a terminal.

    Returns:
        The diagnosis.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if an option is wrong.
    """
    options: dict[str, Any] = {"classes": classes, "values": values, "images": images, "masks": masks, "pairs": pairs}
    diagnosis = Diagnosis(str(data))
    source: Source | None = None
    dataset_root(data)  # a folder that is not there is a wrong call, not a finding
    for how in dict.fromkeys((unlabelled, "skip")):
        try:
            source = open_source(data, **options, unlabelled=how)
            break
        except (DatasetError, FileNotFoundError) as error:
            finding = Finding("error", "the folder cannot be read as a data set", str(error))
            if finding not in diagnosis.findings:
                diagnosis.findings.append(finding)
    if source is None:
        return diagnosis
    diagnosis.source, diagnosis.root, diagnosis.layout = source, str(source.root), source.layout
    diagnosis.splits = {split: len(found) for split, found in source.splits.items()}
    diagnosis.labels = source.labels
    diagnosis.findings += [Finding("note", "how it was read", note) for note in source.notes]
    every = [(split, pair) for split, found in source.splits.items() for pair in found]
    reader, labels = source.reader, source.labels
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        work = pool.map(lambda item: _look_at(item[1], reader, labels), every)
        seen = list(_with_bar(work, len(every), progress))
    by_split: dict[str, list[_Seen]] = defaultdict(list)
    for (split, _), result in zip(every, seen, strict=True):
        by_split[split].append(result)
    diagnosis.findings += [
        *_problems(seen),
        *_stray(seen, labels),
        *_empty(seen, labels),
        *_twins(by_split),
        *_classes(by_split, labels),
        *_pictures(seen),
    ]
    _statistics(diagnosis, seen, labels)
    order = {"error": 0, "warning": 1, "note": 2}
    diagnosis.findings.sort(key=lambda finding: order[finding.severity])
    return diagnosis


def _look_at(pair: Pair, reader: Reader, labels: Labels) -> _Seen:
    seen = _Seen(pair)
    try:
        image = reader.image(pair)
        seen.size = (image.shape[0], image.shape[1])
        seen.digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=repr(image.shape).encode()).digest()
        seen.look = _look(image)
        seen.constant = bool((image == image[:1, :1]).all())
    except (DatasetError, OSError) as error:
        seen.problems.append(("images that cannot be read", str(pair.image), str(error)))
    try:
        mask = reader.mask(pair)
        found, counts = np.unique(mask, return_counts=True)
        seen.counts = dict(zip(found.tolist(), counts.tolist(), strict=True))
        if seen.digest:
            check_sizes(pair, seen.size, (mask.shape[0], mask.shape[1]))
    except (DatasetError, OSError) as error:
        rule = "an image and its mask differ in size" if seen.counts else "masks that cannot be read"
        seen.problems.append((rule, str(pair.mask), str(error)))
    return seen


def _look(image: np.ndarray[Any, Any]) -> int:
    """Give 64 bits that look-alikes share: whether each of 8 x 8 patches is lighter than its right neighbour."""
    small = np.asarray(Image.fromarray(image[..., :3]).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _with_bar(work: Iterable[_Seen], total: int, progress: bool | None) -> Iterable[_Seen]:
    if not (sys.stderr.isatty() if progress is None else progress):
        return work
    from tqdm import tqdm

    bar: Iterable[_Seen] = tqdm(work, total=total, desc="reading", unit="pair", file=sys.stderr)
    return bar


def _problems(seen: Sequence[_Seen]) -> list[Finding]:
    by_rule: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for result in seen:
        for rule, file, message in result.problems:
            by_rule[rule].append((file, message))
    return [
        Finding("error", f"{len(found)} x {rule}", found[0][1], tuple(file for file, _ in found))
        for rule, found in by_rule.items()
    ]


def _stray(seen: Sequence[_Seen], labels: Labels) -> list[Finding]:
    bad = [result for result in seen if labels.unknown(result.counts)]
    if not bad:
        return []
    files = [
        f"{result.pair.mask}: {', '.join(map(str, labels.unknown(result.counts)[:8]))}"
        f" ({sum(result.counts[value] for value in labels.unknown(result.counts))} pixels)"
        for result in bad
    ]
    message = labels.stray_message(bad[0].counts, bad[0].pair.mask)
    return [Finding("error", f"{len(bad)} masks hold values that are not in the label map", message, tuple(files))]


def _empty(seen: Sequence[_Seen], labels: Labels) -> list[Finding]:
    read = [result for result in seen if result.counts]
    ignored = [result for result in read if all(labels.values.get(value, "") == IGNORE for value in result.counts)]
    findings: list[Finding] = []
    if ignored:
        files = tuple(str(result.pair.mask) for result in ignored)
        severity: Severity = "error" if len(ignored) == len(read) else "warning"
        findings.append(
            Finding(
                severity,
                f"{len(ignored)} masks ignore every pixel",
                "nothing is learned from them: correct the masks or the label map, or remove the pairs",
                files,
            )
        )
    values = {value for result in read for value in result.counts}
    if values == {0, 255} and labels.values.get(255) == IGNORE and labels.num_classes == 2:
        first, second = labels.names
        findings.append(
            Finding(
                "error",
                "the masks hold 0 and 255 and nothing else, and 255 is ignored",
                f'{second!r} never occurs: say what they mean, values={{0: "{first}", 255: "{second}"}} (--values)',
            )
        )
    return findings


def _twins(by_split: Mapping[str, Sequence[_Seen]]) -> list[Finding]:
    """Find pictures that are there twice; across splits they make every score a lie."""
    same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    alike: dict[int, list[tuple[str, str, bytes]]] = defaultdict(list)
    for split, results in by_split.items():
        for result in results:
            if result.digest:
                same[result.digest].append((split, str(result.pair.image)))
                if not result.constant:
                    alike[result.look].append((split, str(result.pair.image), result.digest))
    groups = [group for group in same.values() if len(group) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    within = [group for group in groups if len({split for split, _ in group}) == 1]
    findings = []
    if across:
        files = tuple(" = ".join(f"{name} ({split})" for split, name in group) for group in across)
        message = "what is trained on is scored as well, so that every score is too good: keep each in one split"
        findings.append(Finding("error", f"{len(across)} pictures are in more than one split", message, files))
    if within:
        files = tuple(" = ".join(name for _, name in group) for group in within)
        findings.append(
            Finding(
                "warning", f"{len(within)} pictures are there more than once", "they count twice: remove one", files
            )
        )
    near = [
        group
        for group in alike.values()
        if len({split for split, _, _ in group}) > 1 and len({digest for _, _, digest in group}) > 1
    ]
    if near:
        files = tuple(" ~ ".join(f"{name} ({split})" for split, name, _ in group[:4]) for group in near)
        message = "perhaps frames of one video or one picture stored twice: split by scene, if you can"
        findings.append(Finding("warning", f"{len(near)} pictures look alike across splits", message, files))
    return findings


def _classes(by_split: Mapping[str, Sequence[_Seen]], labels: Labels) -> list[Finding]:
    present: dict[str, set[str]] = {name: set() for name in labels.names}
    for split, results in by_split.items():
        for result in results:
            for value in result.counts:
                name = labels.values.get(value)
                if name in present:
                    present[name].add(split)
    findings = []
    never = [name for name, splits in present.items() if not splits]
    if never:
        message = f"{', '.join(never)}: no mask holds it; correct the label map, or leave the class out"
        findings.append(Finding("warning", f"{len(never)} classes never occur", message))
    if len(by_split) > 1 and "train" in by_split:
        untrained = [name for name, splits in present.items() if splits and "train" not in splits]
        if untrained:
            message = f"{', '.join(untrained)}: in no training mask, so that it cannot be learned; split anew"
            findings.append(Finding("warning", f"{len(untrained)} classes are not in train", message))
        unscored = [name for name, splits in present.items() if splits == {"train"}]
        if unscored:
            message = f"{', '.join(unscored)}: in training masks only, so that nobody will know how well it is found"
            findings.append(Finding("note", f"{len(unscored)} classes are scored nowhere", message))
    return findings


def _pictures(seen: Sequence[_Seen]) -> list[Finding]:
    findings = []
    small = tuple(str(result.pair.image) for result in seen if result.digest and min(result.size) < SMALL)
    if small:
        message = f"they are smaller than {SMALL} pixels, which is one cell of the coarsest features of a network"
        findings.append(Finding("warning", f"{len(small)} pictures are tiny", message, small))
    constant = tuple(str(result.pair.image) for result in seen if result.constant and result.size != (1, 1))
    if constant:
        message = "every pixel of them is the same: were they exported wrongly?"
        findings.append(Finding("warning", f"{len(constant)} pictures are of one colour", message, constant))
    return findings


def _statistics(diagnosis: Diagnosis, seen: Sequence[_Seen], labels: Labels) -> None:
    pixels: Counter[str] = Counter()
    images: Counter[str] = Counter()
    there: Counter[str] = Counter()  # pixels of the masks that hold the class
    for result in seen:
        total = sum(result.counts.values())
        names: Counter[str] = Counter()
        for value, number in result.counts.items():
            if value in labels.values:
                names[labels.values[value]] += number
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
    sizes = [result.size for result in seen if result.digest]
    if sizes:
        by_area = sorted(sizes, key=lambda size: size[0] * size[1])
        diagnosis.sizes = {
            "least": list(by_area[0]),
            "median": list(by_area[len(by_area) // 2]),
            "largest": list(by_area[-1]),
            "distinct": len(set(sizes)),
        }


def sheet(diagnosis: Diagnosis, cells: int = SHEET_CELLS) -> Image.Image:
    """Draw a contact sheet: pictures with their masks, spread evenly over the splits.

    Args:
        diagnosis: what `examine` returned.
        cells: pictures on the sheet.

    Returns:
        An RGB image.

    Raises:
        DatasetError: if no pair can be read.
    """
    source, labels = diagnosis.source, diagnosis.labels
    if source is None or labels is None:
        raise DatasetError(f"{diagnosis.root}: no pairs to draw; see the findings")
    every = [pair for pairs in source.splits.values() for pair in pairs]
    step = max(1, len(every) // cells)
    chosen = [*every[step // 2 :: step], *every]
    shown: list[tuple[Any, Any, str]] = []
    taken: set[Path] = set()
    for pair in chosen:
        if len(shown) == cells:
            break
        if pair.image in taken:
            continue
        taken.add(pair.image)
        try:
            image, mask = source.reader.image(pair), labels.encode(source.reader.mask(pair), pair.mask)
            check_sizes(pair, (image.shape[0], image.shape[1]), (mask.shape[0], mask.shape[1]))
        except (DatasetError, OSError):
            continue
        shown.append((image[..., :3], mask, pair.key))
    if not shown:
        raise DatasetError(f"{diagnosis.root}: no pair can be drawn; see the findings")
    return contact_sheet(shown, labels, columns=SHEET_COLUMNS, side=SHEET_SIDE)

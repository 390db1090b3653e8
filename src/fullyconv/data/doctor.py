"""Read every image and mask of a data set once, and say all that is wrong with it before training finds out."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullyconv.data import checks
from fullyconv.data.checks import Seen, look_at
from fullyconv.data.layouts import Finding, Severity, Source, joined
from fullyconv.data.meaning import labeled
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import in_threads, read_both
from fullyconv.data.sources import broken_pairs, find_source
from fullyconv.drawing import contact_sheet
from fullyconv.errors import DatasetError, printable
from fullyconv.images import visible
from fullyconv.labels import IGNORE, Labels

SHEET_COLUMNS, SHEET_CELLS, SHEET_SIDE = 4, 12, 320
_PLAIN = ("pixels", "images", "weights", "soft_weights", "sizes", "kinds")
MOST_CLASSES = 60  # rows of the table, unless all are asked for


@dataclass
class Diagnosis:
    """What the doctor found.

    Args:
        source: the opened set, with everything that was found, the worst first.
        labels: the classes, or None where they could not be found.
        pixels: class name (and "ignore") -> pixels.
        images: class name -> number of masks that hold it.
        weights: class name -> weight for the loss by median frequency (Eigen and Fergus 2015; SegNet), 1 in the median.
        soft_weights: class name -> weight by the inverse square root of its share of the pixels, 1 on average.
        sizes: least, median and largest height and width in pixels, and how many sizes there are.
        kinds: "RGB", "gray", "16 bits", ... -> number of images.
        telling: pairs that show what was found, and why, for the sheet.
    """

    source: Source
    labels: Labels | None = None
    pixels: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    soft_weights: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    telling: list[tuple[Pair, str]] = field(default_factory=list, repr=False)

    @property
    def splits(self) -> dict[str, int]:
        """Number of pairs of each split."""
        return {split: len(pairs) for split, pairs in self.source.splits.items()}

    @property
    def findings(self) -> list[Finding]:
        """Everything that was found, the worst first."""
        return self.source.findings

    def count(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def healthy(self, *, strict: bool = False) -> bool:
        """Tell whether training can start: no errors and, if strict, no warnings."""
        return not self.count("error") and not (strict and self.count("warning"))

    def to_dict(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {
            "root": str(self.source.root),
            "layout": self.source.layout,
            "splits": self.splits,
            "healthy": self.healthy(),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "labels": None if self.labels is None else self.labels.to_dict(),
            "findings": [asdict(finding) for finding in self.findings],
        } | {name: getattr(self, name) for name in _PLAIN}

    def text(self, most: int | None = 5) -> str:
        """Lay the diagnosis out for people: the statistics, then what was found, the worst first.

        Args:
            most: files named in a finding; None names all, and all classes.
        """
        lines = [f"{self.source.root}: {self.source.layout or 'no layout found'}"]
        if self.splits:
            lines.append("pairs: " + ", ".join(f"{split} {number}" for split, number in self.splits.items()))
        if self.sizes:
            ends = [f"{name} {' x '.join(map(str, self.sizes[name]))}" for name in ("least", "median", "largest")]
            lines.append(f"sizes (H x W): {', '.join(ends)}, {self.sizes['distinct']} different")
        if len(self.kinds) > 1 or (self.kinds and "RGB" not in self.kinds):
            lines.append("images: " + ", ".join(f"{number} {kind}" for kind, number in self.kinds.items()))
        if self.labels is not None and self.pixels:
            lines += ["", *self._table(self.labels, most is None)]
        for title, same in groupby(self.findings, key=lambda finding: f"{finding.severity}: {finding.rule}"):
            lines += ["", title]
            for finding in same:
                lines += [f"  {line}" for line in finding.message.splitlines()]
                lines += [f"    {printable(name, 4096)}" for name in finding.files[:most]]
                if most is not None and len(finding.files) > most:
                    lines.append(f"    and {len(finding.files) - most} more (--all)")
        errors, warnings = self.count("error"), self.count("warning")
        lines += ["", f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"]
        return "\n".join(lines)

    def _table(self, labels: Labels, every: bool) -> list[str]:
        total = max(1, sum(self.pixels.values()))
        names = [*labels.names, *([IGNORE] if self.pixels.get(IGNORE) else [])]
        width = max(len(name) for name in names)
        lines = [f"{'class':<{width}}  {'pixels':>7}  {'masks':>6}  {'weight':>6}  {'softer':>6}"]
        for name in names if every else names[:MOST_CLASSES]:
            share = f"{100 * self.pixels.get(name, 0) / total:.2f} %"
            weight, softer = (
                f"{known[name]:.2f}" if name in known else "-" for known in (self.weights, self.soft_weights)
            )
            lines.append(f"{name:<{width}}  {share:>7}  {self.images.get(name, 0):>6}  {weight:>6}  {softer:>6}")
        if not every and len(names) > MOST_CLASSES:
            lines.append(f"and {len(names) - MOST_CLASSES} more (--all)")
        return [*lines, f"values in the masks: {labels.describe_values()}"]

    def __str__(self) -> str:
        return self.text()


def examine(
    data: str | Path,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Diagnosis:
    """Read everything once and collect what is wrong, instead of stopping at the first.

    What stops a training does not stop the doctor: files that do not pair are reported and left out, masks that cannot
    be read are reported and the rest is looked at, and where nobody knows what the values in the masks mean, images,
    sizes and duplicates are looked at all the same.

    Args:
        data: a folder or the name of a public set.
        classes: class names.
        values: value in the mask file -> class name or "ignore", or the name of a public set.
        progress: show a progress bar; by default on a terminal.
        options: as `fullyconv.data.layouts.Reading` takes them.

    Returns:
        The diagnosis.

    Raises:
        FileNotFoundError: if there is no such folder, or an option names a file or folder that is not there.
        ValueError: if an option is wrong.

    Example:
        >>> examine("photos/").healthy()  # doctest: +SKIP
        True
    """
    source = find_source(data, **options)
    diagnosis = Diagnosis(source)
    if source.splits:
        _look_through(diagnosis, partial(labeled, classes=classes, values=values), progress)
    order = {"error": 0, "warning": 1, "note": 2}
    diagnosis.findings.sort(key=lambda finding: order[finding.severity])
    return diagnosis


def _look_through(diagnosis: Diagnosis, naming: Callable[..., Source], progress: bool | None) -> None:
    stopped = _name(diagnosis, naming)
    source, findings, labels = diagnosis.source, diagnosis.findings, diagnosis.labels
    unknown = labels is None and source.named is None
    reader = replace(source.reader, unknown=True) if unknown else source.reader
    every = [(split, pair) for split, found in source.splits.items() for pair in found]
    seen = list(_with_bar(in_threads(partial(look_at, reader=reader), every), len(every), progress))
    problems = joined("error", (one for result in seen for one in result.problems))
    if stopped is not None and not any(str(stopped) in (finding.message, *finding.files) for finding in problems):
        rule = "what the masks hold is not known" if labels is None else "the masks cannot be read as they are"
        if labels is None or not problems:
            findings.append(Finding("error", rule, str(stopped), stopped.files))
    findings += [*problems, *checks.swapped(seen), *checks.converted(seen)]
    if labels is not None:
        findings += checks.values(source, {result.pair.mask: result.counts for result in seen if result.counts})
        findings += [*checks.empty(seen, labels), *checks.occurring(seen, labels)]
    findings += [*checks.enough(diagnosis.splits, source), *checks.twins(seen), *checks.look_alikes(seen)]
    findings += [*checks.images(seen), *(Finding("note", "how it was read", note) for note in source.notes)]
    _statistics(diagnosis, seen, labels)
    diagnosis.telling = _telling(seen, labels)


def _name(diagnosis: Diagnosis, naming: Callable[..., Source]) -> DatasetError | None:
    """Find the labels; where single masks are in the way, from the others. Give what stopped it."""
    source, stopped = diagnosis.source, None
    try:
        diagnosis.source = naming(source)
    except DatasetError as error:
        broken = broken_pairs(source)
        sound = [pair for pair in source.pairs if pair not in broken]
        if not sound or not broken:
            return error
        try:
            diagnosis.source = naming(source, sound)
        except DatasetError as other:
            return other
        stopped = error
    diagnosis.labels = diagnosis.source.labels
    return stopped


def _with_bar(work: Iterable[Seen], total: int, progress: bool | None) -> Iterable[Seen]:
    if not (sys.stderr.isatty() if progress is None else progress):
        return work
    from tqdm import tqdm

    bar: Iterable[Seen] = tqdm(work, total=total, desc="reading", unit="pair", file=sys.stderr)
    return bar


def _statistics(diagnosis: Diagnosis, seen: Sequence[Seen], labels: Labels | None) -> None:
    if sizes := sorted((result.size for result in seen if result.digest), key=math.prod):
        ends = {"least": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]}
        diagnosis.sizes = {name: list(size) for name, size in ends.items()} | {"distinct": len(set(sizes))}
    diagnosis.kinds = dict(Counter(result.kind for result in seen if result.kind).most_common())
    if labels is None:
        return
    pixels: Counter[str] = Counter()
    images: Counter[str] = Counter()
    there: Counter[str] = Counter()  # pixels of the masks that hold the class
    for result in seen:
        found = result.pixels(labels)
        pixels.update(found)
        images.update(found.keys())
        there.update(dict.fromkeys(found, sum(result.counts.values())))
    diagnosis.pixels = {name: pixels[name] for name in (*labels.names, IGNORE)}
    diagnosis.images = {name: images[name] for name in (*labels.names, IGNORE)}
    names = [name for name in labels.names if pixels[name]]
    if names:
        frequency = np.array([pixels[name] / there[name] for name in names])
        roots = np.array([pixels[name] ** -0.5 for name in names])
        weights, softer = (np.median(frequency) / frequency).round(4), (roots / roots.mean()).round(4)
        diagnosis.weights = dict(zip(names, weights.tolist(), strict=True))
        diagnosis.soft_weights = dict(zip(names, softer.tolist(), strict=True))


def _telling(seen: Sequence[Seen], labels: Labels | None) -> list[tuple[Pair, str]]:
    """Choose pairs that are worth a look, one of each kind of trouble, then the rarest classes."""
    if labels is None:
        return []
    drawable = [result for result in seen if result.digest and result.counts and not result.problems]
    alone = {result.pair for result in drawable if len(result.classes(labels)) == 1}
    if len(alone) * 10 > len(drawable):  # where it is usual, it tells nothing
        alone = set()
    groups = checks.together((result.digest, result) for result in drawable)
    groups.sort(key=lambda group: len({result.labeled for result in group}) == 1)  # those that contradict first
    twins = {result.pair for result in (groups[0] if groups else [])}
    troubles: dict[str, Callable[[Seen], bool]] = {
        "a value that is no class": lambda result: bool(labels.unknown(result.counts)),
        "turned by EXIF": lambda result: result.turned,
        "all ignored": lambda result: not result.classes(labels),
        "nearly black": lambda result: result.highest <= checks.DARK,
        "of one color": lambda result: result.constant,
        "there twice": lambda result: result.pair in twins,
        "one class alone": lambda result: result.pair in alone,
    }
    chosen = [(one.pair, why) for why, is_odd in troubles.items() for one in [*filter(is_odd, drawable)][:2]]
    rarest = []
    held = [(result.pair, result.pixels(labels)) for result in drawable]
    total = sum((pixels for _, pixels in held), Counter[str]())
    rare = sorted((name for name in labels.names if total[name]), key=lambda name: total[name])
    for name in rare[: min(4, max(0, len(rare) - 2))]:
        most = max(held, key=lambda both: both[1][name])[0]
        rarest.append((most, f"most {name}"))
    return chosen[: SHEET_CELLS // 2] + rarest


def sheet(diagnosis: Diagnosis) -> Image.Image:
    """Draw a contact sheet: what looks suspicious, the rarest classes, and images spread evenly over the splits.

    Values that are no class are drawn as ignored.

    Args:
        diagnosis: what `examine` returned.

    Returns:
        An RGB image.

    Raises:
        DatasetError: if no pair can be read.
    """
    source, labels = diagnosis.source, diagnosis.labels
    none = DatasetError(f"{source.root}: no pair can be drawn; see the findings")
    if labels is None:
        raise none
    telling = diagnosis.telling[: 2 * SHEET_CELLS // 3]
    every = source.pairs
    step = max(1, len(every) // (SHEET_CELLS - len(telling)))
    chosen: dict[Pair, str] = {}
    for pair, why in (*telling, *((pair, "") for pair in (*every[step // 2 :: step], *every))):
        chosen.setdefault(pair, why)
    shown: list[tuple[Any, Any, str]] = []
    for pair, why in chosen.items():
        try:
            image, mask = read_both(source.reader, pair)
        except (DatasetError, OSError):
            continue
        known = np.isin(mask, list(labels.meaning))
        drawn = labels.encode(np.where(known, mask, next(iter(labels.meaning))))
        drawn = np.where(known, drawn, labels.ignore_index)
        shown.append((visible(image), drawn, f"{pair.key}: {why}" if why else pair.key))
        if len(shown) == SHEET_CELLS:
            break
    if not shown:
        raise none
    return contact_sheet(shown, labels, columns=SHEET_COLUMNS, side=SHEET_SIDE)

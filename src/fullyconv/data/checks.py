"""What all pairs of a set together say: for the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.data.class_names import shifted_hint, two_ends_hint
from fullyconv.data.findings import Finding, counted
from fullyconv.data.layouts import Source
from fullyconv.data.looking import Seen
from fullyconv.errors import some
from fullyconv.images.opening import converted_lines, head_of, without_cr_lf
from fullyconv.labels import IGNORE, Labels

SMALL = 32
"""Pixels: below it the coarsest features of a network are one cell."""

DARK = 31
"""An image whose lightest pixel is not above it uses an eighth of its range: 12 bits stored in 16, or 0 and 1."""

ALIKE, APART = 0.99, 3.0
"""Images look alike if their thumbnails correlate at least so well and differ by fewer levels of 255 on average.

On photographs of pets, streets and steel the same image saved twice correlates above 0.995 and differs by less than
half a level; the nearest different images of two splits stay below 0.975.
"""

MOST_COMPARED = 20_000  # images, because each is compared with all that do not look like it


def swapped(seen: Sequence[Seen]) -> list[Finding]:
    """Find pairs whose sizes are each the other way round than those of another."""
    by_sizes: dict[tuple[tuple[int, int], tuple[int, int]], list[Seen]] = defaultdict(list)
    for result in seen:
        if result.digest and result.counts and result.size != result.mask_size:
            by_sizes[result.size, result.mask_size].append(result)
    found = [
        f"{result.pair.image}: {' or '.join(str(other.pair.mask) for other in others[:3])} has its size"
        for (size, mask_size), same in by_sizes.items()
        if (others := by_sizes.get((mask_size, size), []))
        for result in same
    ]
    message = "the sizes of one are those of another the other way round: were their masks, or their images, swapped?"
    return counted("error", found, "pairs that look swapped", message)


def converted(seen: Sequence[Seen]) -> list[Finding]:
    """Find files that lost their CR LF: the PNG among them show it in their first bytes, JPEG decode to torn blocks."""
    every = sorted({path for result in seen for path in (result.pair.image, result.pair.mask) if path.is_file()})
    if not any(path.suffix.lower() == ".png" and converted_lines(head_of(path, 16)) for path in every):
        return []
    message = (
        "every CR LF in them became LF, as git and FTP do with text; images that still decode are torn. Get them again "
        "as binary files (in git: '*.png binary' and '*.jpg binary' in .gitattributes)"
    )
    return counted(
        "error", (path for path in every if without_cr_lf(path)), "files whose line endings were converted", message
    )


def values(source: Source, counts: Mapping[Path, Mapping[int, int]]) -> list[Finding]:
    """Find values of masks that mean nothing, or more than one thing.

    Args:
        source: the set, whose labels are known.
        counts: mask -> value -> pixels.
    """
    labels = source.labels
    seen = {value for held in counts.values() for value in held}
    findings = []
    if bad := {path: unknown for path, held in counts.items() if (unknown := labels.unknown(held))}:
        first = next(iter(bad))
        files = []
        for path, unknown in bad.items():
            pixels = sum(counts[path][value] for value in unknown)
            files.append(f"{path}: {some(map(labels.value_text, unknown), 8)} ({pixels} pixels)")
        message = f"{labels.stray_message(counts[first], first)}{shifted_hint(labels, seen)}"
        findings += counted("error", files, "masks that hold values that are not in the label map", message)
    findings += two_meanings(source, {**source.counts, **counts})
    if hint := two_ends_hint(labels, seen):
        findings.append(
            Finding("error", "255 is ignored and nothing else but 0 is there", f"{next(iter(counts))}: {hint}")
        )
    return findings


def two_meanings(source: Source, counts: Mapping[Path, Iterable[int]]) -> list[Finding]:
    """Find masks of 0 and 1 beside masks of 0 and 255, unless somebody said what 255 is."""
    meaning = source.labels.values
    if source.explicit or source.named is not None or meaning.get(255) != IGNORE or meaning.get(1, IGNORE) == IGNORE:
        return []
    held = {path: {*found} for path, found in counts.items()}
    ones, full = ([path for path, found in held.items() if found | {0} == {0, end}] for end in (1, 255))
    several = any(len(found - {0}) > 1 or not found <= {0, 1, 255} for found in held.values())
    if several or not ones or {0, 255} not in held.values():
        return []
    message = (
        f"{ones[0]} holds 0 and 1, {full[0]} 0 and 255, and no mask both: is 255 the class, or ignored? Say it: "
        'values={0: "background", 1: "foreground", 255: "foreground"} (--values '
        '0=background,1=foreground,255=foreground), or 255: "ignore"'
    )
    files = ones if len(ones) < len(full) else full
    return [Finding("error", "a number of two meanings", message, tuple(map(str, files)))]


def empty(seen: Sequence[Seen], labels: Labels) -> list[Finding]:
    """Find masks that show nothing."""
    read = [result for result in seen if result.counts]
    ignored = [result for result in read if all(labels.meaning.get(value, "") == IGNORE for value in result.counts)]
    whole = {result.split for result in read} - {result.split for result in read if result not in ignored}
    message = "nothing is learned from them: correct the masks or the label map, or remove the pairs"
    message += f"; all masks of {', '.join(sorted(whole))} are such" if whole else ""
    masks = (result.pair.mask for result in ignored)
    findings = counted("error" if whole else "warning", masks, "masks that ignore every pixel", message)
    single = [names[0] for result in read if len(names := result.classes(labels)) == 1]
    if single and labels.num_classes > 1:
        name, number = Counter(single).most_common(1)[0]
        rule = f"{len(single)} of {len(read)} masks hold one class alone"
        message = f"most often {name} (in {number}): is it meant so?"
        findings.append(Finding("warning" if len(single) == len(read) > 1 else "note", rule, message))
    return findings


def enough(splits: Mapping[str, int], source: Source) -> list[Finding]:
    """See that there is something to train on and something to validate with, as the data module needs it."""
    rule = "there is not enough to train"
    name = next((name for name in ("train", "all") if name in splits), None)
    if name is None:
        message = f"{source.root}: has {', '.join(splits)} and no train: good for testing a model, not for training one"
        return [Finding("note", rule, message)]
    if "val" in splits or splits[name] > 1:
        return []
    message = "one image cannot be split into training and validation; add images, or give a val/ folder"
    return [Finding("error", rule, f"{source.splits[name][0].image}: {message}")]


def occurring(seen: Sequence[Seen], labels: Labels) -> list[Finding]:
    """Find classes that occur nowhere, or in no training mask."""
    present: dict[str, set[str]] = {name: set() for name in labels.names}
    for result in seen:
        for name in result.classes(labels):
            present[name].add(result.split)
    splits = {result.split for result in seen}
    here = {name: where for name, where in present.items() if where and len(splits) > 1 and "train" in splits}
    never = [name for name, where in present.items() if not where]
    untrained = [name for name, where in here.items() if "train" not in where]
    unscored = [name for name, where in here.items() if where == {"train"}]
    no_mask = "no mask holds them; correct the label map, or leave them out"
    no_training = "no training mask holds them, so that they cannot be learned; split anew"
    no_score = "training masks alone hold them, so that nobody will know how well they are found"
    return [
        *counted("warning", never, "classes that never occur", no_mask),
        *counted("warning", untrained, "classes that are not in train", no_training),
        *counted("note", unscored, "classes that are scored nowhere", no_score),
    ]


def images(seen: Sequence[Seen]) -> list[Finding]:
    """Find what is odd about images."""
    read = [result for result in seen if result.digest]
    findings = []
    for odd, rule, message in (
        (
            [result for result in seen if result.turned],
            "images that are turned by their EXIF orientation, and their masks are not",
            "the sizes fit either way: look whether the masks do (--sheet), else turn the masks or strip the tags",
        ),
        (
            [result for result in read if min(result.size) < SMALL],
            "tiny images",
            f"smaller than {SMALL} pixels, which is one cell of the coarsest features of a network",
        ),
        (
            [result for result in read if result.constant and result.size != (1, 1)],
            "images of one color",
            "every pixel is the same: exported wrongly?",
        ),
        (
            [result for result in read if not result.constant and result.highest <= DARK],
            "images that are nearly black",
            f"no value is above {DARK} of 255 (of 16 bits the upper 8 are read): 12 bits stored in 16? Then say so, "
            "--range 0,4095. Or values of 0 and 1? Stretch all of them by one factor",
        ),
    ):
        findings += counted("warning", (result.pair.image for result in odd), rule, message)
    kinds = Counter(result.kind for result in seen if result.kind)
    if len({kind if kind in ("16 bits", "float") else "8 bits" for kind in kinds}) > 1:
        few = min(kinds, key=lambda kind: kinds[kind])
        files = tuple(str(result.pair.image) for result in seen if result.kind == few)
        listed = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        message = f"{listed}: of 16 bits the upper 8 are read; see that all have one brightness (--sheet)"
        findings.append(Finding("warning", "images of different depths are mixed", message, files))
    return findings


def twins(seen: Sequence[Seen]) -> list[Finding]:
    """Find images that are there twice; across splits they make every score a lie."""
    groups = _groups((result.digest, result) for result in seen if result.digest)
    across = [group for group in groups if _mixed(group)]
    within = [group for group in groups if not _mixed(group)]
    contradicting = [group for group in groups if len({result.labeled for result in group if result.labeled}) > 1]
    message = "each counts as often as it is there: keep one"
    if _drawn(seen) and any(group[0].split in ("train", "all") for group in within):
        message += ". There is no val: a part is set aside at random for validation, and would hold copies of the rest"
    return [
        *counted(
            "error",
            [" = ".join(f"{result.pair.image} ({result.split})" for result in group) for group in across],
            "images that are in more than one split",
            "what is trained on is scored as well, so that every score is too good: keep each in one split",
        ),
        *counted(
            "warning",
            [" = ".join(str(result.pair.image) for result in group) for group in within],
            "images that are there more than once",
            message,
        ),
        *counted(
            "warning",
            [" / ".join(str(result.pair.mask) for result in group) for group in contradicting],
            "images with masks that contradict each other",
            "the same image is there with different masks: keep one",
        ),
    ]


def look_alikes(seen: Sequence[Seen]) -> list[Finding]:
    """Find images that are nearly the same: across splits, or where a split will be drawn at random."""
    found = [(result, result.look) for result in seen if result.look is not None and not result.constant]
    if len(found) < 2:
        return []
    if len(found) > MOST_COMPARED:
        return [Finding("note", "look-alikes were not looked for", f"more than {MOST_COMPARED:,} images are there")]
    firsts = near([look for _, look in found])
    groups = _groups((int(first), result) for first, (result, _) in zip(firsts, found, strict=True))
    groups = [group for group in groups if len({result.digest for result in group}) > 1]
    drawn = [group for group in groups if not _mixed(group) and group[0].split in ("train", "all")]
    message = "the same image saved twice, or frames of one video?"
    findings = []
    for alike, where, remedy in (
        (
            [group for group in groups if _mixed(group)],
            "across splits",
            "Then scores are too good: keep them in one split",
        ),
        (
            drawn if _drawn(seen) else [],
            "and there is no val",
            "A part is set aside at random for validation, and would hold neighbors of what is trained on: give a val/ "
            "of other scenes",
        ),
    ):
        if alike:
            rule = f"{sum(map(len, alike))} images look alike {where}"
            findings.append(Finding("warning", rule, f"{message} {remedy}", tuple(map(_group_text, alike))))
    return findings


def _groups(keyed: Iterable[tuple[object, Seen]]) -> list[list[Seen]]:
    """Give what has one key together, where that is more than one."""
    same: dict[object, list[Seen]] = defaultdict(list)
    for key, result in keyed:
        same[key].append(result)
    return [group for group in same.values() if len(group) > 1]


def _mixed(group: Sequence[Seen]) -> bool:
    return len({result.split for result in group}) > 1


def _drawn(seen: Sequence[Seen]) -> bool:
    """Tell whether what is to be validated with will be drawn at random."""
    return not any(result.split == "val" for result in seen)


def _group_text(group: Sequence[Seen]) -> str:
    first: dict[str, Seen] = {}  # one of every split, then the others
    for result in group:
        first.setdefault(result.split, result)
    shown = [*first.values(), *(result for result in group if result is not first[result.split])][:4]
    text = " ~ ".join(f"{result.pair.image} ({result.split})" for result in shown)
    return text + (f" ~ {len(group) - 4} more" if len(group) > 4 else "")


def near(looks: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """Give for each thumbnail the first of the group that it is linked to, directly or by others that look alike.

    What is in a group is compared no more with the rest of it, so that images that are all alike cost little.
    """
    plain = np.stack(looks).reshape(len(looks), -1).astype(np.float32)
    unit = plain - plain.mean(1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    group = np.arange(len(unit))
    for start in range(0, len(unit), 64):
        rows = np.arange(start, min(start + 64, len(unit)))
        others = np.arange(start + 1, len(unit))
        if (group[rows] == group[start]).all():
            others = others[group[others] != group[start]]
        for row, alike in zip(rows, unit[rows] @ unit[others].T >= ALIKE, strict=True):
            hits = others[alike]
            hits = hits[(hits > row) & (group[hits] != group[row])]
            hits = hits[np.abs(plain[hits] - plain[row]).mean(1) < APART]
            if hits.size:
                linked = np.unique(group[np.append(hits, row)])
                group[np.isin(group, linked)] = linked[0]
    return group

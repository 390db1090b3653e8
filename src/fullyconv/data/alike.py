"""Images that are there twice, or nearly so: across splits they make every score a lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullyconv.data.findings import Finding, many
from fullyconv.data.looking import Seen

ALIKE, APART = 0.99, 3.0
"""Images look alike if their thumbnails correlate at least so well and differ by fewer levels of 255 on average.

On photographs of pets, streets and steel the same image saved twice correlates above 0.995 and differs by less than
half a level; the nearest different images of two splits stay below 0.975.
"""

MOST_COMPARED = 20_000  # images, because each is compared with all that do not look like it


def twins(seen: Sequence[Seen]) -> list[Finding]:
    """Find images that are there twice; across splits they make every score a lie."""
    same: dict[bytes, list[Seen]] = defaultdict(list)
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
        rule = f"{many(len(across), 'image is', 'images are')} in more than one split"
        findings.append(Finding("error", rule, message, files))
    if within:
        files = tuple(" = ".join(str(result.pair.image) for result in group) for group in within)
        rule = f"{many(len(within), 'image is', 'images are')} there more than once"
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
        rule = f"{many(len(contradicting), 'image has', 'images have')} masks that contradict each other"
        findings.append(Finding("warning", rule, "the same image is there with different masks: keep one", files))
    return findings


def look_alikes(seen: Sequence[Seen]) -> list[Finding]:
    """Find images that are nearly the same: across splits, or where a split will be drawn at random."""
    found = [result for result in seen if result.look is not None and not result.constant]
    if len(found) < 2:
        return []
    if len(found) > MOST_COMPARED:
        return [Finding("note", "look-alikes were not looked for", f"more than {MOST_COMPARED:,} images are there")]
    groups: dict[int, list[Seen]] = defaultdict(list)
    for result, first in zip(found, near([result.look for result in found if result.look is not None]), strict=True):
        groups[int(first)].append(result)
    several = [group for group in groups.values() if len(group) > 1]
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
            rule = f"{many(sum(map(len, some)), 'image')} look alike {where}"
            findings.append(Finding("warning", rule, message, files))
    return findings


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

"""What the pairs of a set say to the doctor: each by itself, and all together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.data.class_names import shifted_hint, two_ends_hint
from fullyconv.data.layouts import Finding, Severity, Source, counted
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, check_sizes
from fullyconv.errors import DatasetError, printable, some
from fullyconv.images import Encoded, visible
from fullyconv.images.opening import converted_lines, head_of, opened, without_cr_lf
from fullyconv.images.reading import orientation_of
from fullyconv.labels import IGNORE, Labels, count_values_of

LOOK = 16
"""Side in pixels of the thumbnails by which images are compared."""

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

_KINDS = {"L": "gray", "1": "1 bit", "P": "palette", "RGBA": "RGB with alpha", "LA": "gray with alpha", "F": "float"}


@dataclass
class Seen:
    """What one pair tells."""

    pair: Pair
    split: str
    size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = field(default_factory=dict)
    digest: bytes = b""
    labeled: bytes = b""  # digest of the mask
    look: npt.NDArray[np.uint8] | None = None
    constant: bool = False
    highest: int = 255
    kind: str = ""
    turned: bool = False  # by the camera, in a way that sizes do not tell, and the mask is not
    problems: list[Finding] = field(default_factory=list)

    def pixels(self, labels: Labels) -> Counter[str]:
        """Count the pixels of every class, and of what is ignored."""
        found: Counter[str] = Counter()
        for value in self.counts.keys() & labels.meaning.keys():
            found[labels.meaning[value]] += self.counts[value]
        return found

    def classes(self, labels: Labels) -> list[str]:
        """Name the classes that the mask shows."""
        return sorted(self.pixels(labels).keys() - {IGNORE})


def look_at(item: tuple[str, Pair], reader: FileReader) -> Seen:
    """Read both files of a pair; what is wrong with them is returned, not raised."""
    split, pair = item
    seen = Seen(pair, split)
    orientation = 1
    rule = "images that cannot be read"
    try:
        image = reader.image(pair)
        seen.size = (image.shape[0], image.shape[1])
        seen.digest = _digest(image)
        small = Image.fromarray(np.ascontiguousarray(visible(image))).resize((LOOK, LOOK), Image.Resampling.BOX)
        seen.look = np.asarray(small)
        seen.highest = int(image.max())
        seen.constant = bool((image == image[:1, :1]).all())
        seen.kind, orientation = _header(reader.image_file(pair))
    except (DatasetError, OSError) as error:
        seen.problems.append(Finding("error", rule, str(error), (str(error),)))
    rule = "masks that cannot be read"
    try:
        mask = reader.mask(pair)
        seen.counts, seen.labeled = count_values_of(mask), _digest(mask)
        seen.mask_size = (mask.shape[0], mask.shape[1])
        if seen.digest:
            rule = "pairs whose image and mask differ in size"
            check_sizes(pair, seen.size, seen.mask_size)
        # Half a turn, a mirror, or a quarter turn of a square: the sizes fit, and nothing else would tell.
        hidden = orientation in (2, 3, 4) or (orientation != 1 and seen.size[0] == seen.size[1])
        seen.turned = hidden and _header(reader.mask_file(pair))[1] != orientation
    except (DatasetError, OSError) as error:
        seen.problems.append(Finding("error", rule, str(error), (str(error),)))
    return seen


def _digest(array: npt.NDArray[Any]) -> bytes:
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


def _header(path: Path | Encoded) -> tuple[str, int]:
    """Tell kind and EXIF orientation of an image file; nothing and 1 for files that are no images."""
    try:
        with opened(path, None) as image:
            kind = "16 bits" if image.mode.startswith("I") else _KINDS.get(image.mode, image.mode)
            return kind, orientation_of(image)
    except (DatasetError, OSError):
        return "", 1


def swapped(seen: Sequence[Seen]) -> list[Finding]:
    """Find pairs whose sizes are each the other way round than those of another."""
    unlike = [result for result in seen if result.digest and result.counts and result.size != result.mask_size]
    by_sizes: dict[object, list[str]] = defaultdict(list)
    for result in unlike:
        by_sizes[result.mask_size, result.size].append(str(result.pair.mask))
    found = [
        f"{result.pair.image}: {' or '.join(others[:3])} has its size"
        for result in unlike
        if (others := by_sizes.get((result.size, result.mask_size)))
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
    lost = [path for path in every if without_cr_lf(path)]
    return counted("error", lost, "files whose line endings were converted", message)


def values(source: Source, counts: Mapping[Path, Mapping[int, int]]) -> Iterator[Finding]:
    """Find values of masks that mean nothing, or more than one thing.

    Args:
        source: the set, whose labels are known.
        counts: mask -> value -> pixels.
    """
    labels = source.labels
    seen = {value for held in counts.values() for value in held}
    if bad := {path: unknown for path, held in counts.items() if (unknown := labels.unknown(held))}:
        first = next(iter(bad))
        files = [
            f"{path}: {some(map(labels.value_text, unknown), 8)} ({sum(map(counts[path].__getitem__, unknown))} pixels)"
            for path, unknown in bad.items()
        ]
        message = f"{labels.stray_message(counts[first], first)}{shifted_hint(labels, seen)}"
        yield from counted("error", files, "masks that hold values that are not in the label map", message)
    yield from two_meanings(source, {**source.counts, **counts})
    if hint := two_ends_hint(labels, seen):
        yield Finding("error", "255 is ignored and nothing else but 0 is there", f"{next(iter(counts))}: {hint}")


def two_meanings(source: Source, counts: Mapping[Path, Iterable[int]]) -> Iterator[Finding]:
    """Find masks of classes beside masks of 0 and 255, unless somebody said what 255 is or a mask has both."""
    meaning = source.labels.values
    if source.explicit or source.named is not None or meaning.get(255) != IGNORE:
        return
    held = {path: {*found} for path, found in counts.items()}
    ones, full = ([path for path, found in held.items() if (255 in found) == end and found - {0}] for end in (0, 1))
    if not ones or {0, 255} not in held.values() or any(held[path] - {0, 255} for path in full):
        return
    classes = sorted({value for path in ones for value in held[path]} | {0})
    what = f"{ones[0]} holds {some(sorted(held[ones[0]]), 8)}, {full[0]} 0 and 255, and no mask both: "
    table = {value: meaning[value] for value in classes if value in meaning} | {255: IGNORE}
    options = ",".join(f"{value}={name}" for value, name in table.items())
    message = f"{what}is 255 a class, or ignored? Say it: values={table} (--values {options}), or 255 and a class"
    files = ones if len(ones) < len(full) else full
    yield Finding("error", "a number of two meanings", message, tuple(map(str, files)))


def empty(seen: Sequence[Seen], labels: Labels) -> Iterator[Finding]:
    """Find masks that show nothing."""
    read = [result for result in seen if result.counts]
    ignored = [result for result in read if all(labels.meaning.get(value, "") == IGNORE for value in result.counts)]
    whole = {result.split for result in read} - {result.split for result in read if result not in ignored}
    message = "nothing is learned from them: correct the masks or the label map, or remove the pairs"
    message += f"; all masks of {', '.join(sorted(whole))} are such" if whole else ""
    masks = (result.pair.mask for result in ignored)
    yield from counted("error" if whole else "warning", masks, "masks that ignore every pixel", message)
    single = [names[0] for result in read if len(names := result.classes(labels)) == 1]
    trained = {name for result in read if result.split in ("train", "all") for name in result.classes(labels)}
    if problem := one_class(trained, labels):
        yield Finding("error", "there is nothing to tell apart", problem)
    elif single and labels.num_classes > 1:
        name, number = Counter(single).most_common(1)[0]
        rule = f"{len(single)} of {len(read)} masks hold one class alone"
        severity: Severity = "warning" if len(single) == len(read) > 1 else "note"
        yield Finding(severity, rule, f"most often {name} (in {number}): is it meant so?")


def one_class(there: Iterable[str], labels: Labels) -> str:
    """Say that training masks hold one of several classes alone; nothing where they do not.

    Args:
        there: the classes that have a pixel in training masks.
        labels: the classes.
    """
    names = list(there)
    if len(names) != 1 or labels.num_classes == 1:
        return ""
    return (
        f"every labeled pixel of the training masks is {printable(names[0])}, so that nothing else can be learned; say "
        f"what the values in the masks mean (values=, --values), now {labels.describe_values()}; or add masks of "
        "other classes"
    )


def enough(splits: Mapping[str, int], source: Source) -> Iterator[Finding]:
    """See that there is something to train on and something to validate with, as the data module needs it."""
    rule = "there is not enough to train"
    name = next((name for name in ("train", "all") if name in splits), None)
    if name is None:
        what = f"has {', '.join(splits)} and no train: good for testing a model, not for training one"
        yield Finding("note", rule, f"{source.root}: {what}")
    elif "val" not in splits and splits[name] < 2:
        what = "one image cannot be split into training and validation; add images, or give a val/ folder"
        yield Finding("error", rule, f"{source.splits[name][0].image}: {what}")


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
    folded = Counter(map(str.casefold, labels.names))
    alike = [name for name in labels.names if folded[name.casefold()] > 1]
    several = "they are learned apart: if one is meant, correct the names, or join their values by values= (--values)"
    no_mask = "no mask holds them; correct the label map, or leave them out"
    no_training = "no training mask holds them, so that they cannot be learned; split anew"
    no_score = "training masks alone hold them, so that nobody will know how well they are found"
    return [
        *counted("warning", alike, "classes whose names differ in upper and lower case alone", several),
        *counted("warning", never, "classes that never occur", no_mask),
        *counted("warning", untrained, "classes that are not in train", no_training),
        *counted("note", unscored, "classes that are scored nowhere", no_score),
    ]


def images(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Find what is odd about images."""

    def odd(is_odd: Callable[[Seen], bool], rule: str, message: str) -> list[Finding]:
        return counted("warning", (one.pair.image for one in seen if one.digest and is_odd(one)), rule, message)

    rule = "images that are turned by their EXIF orientation, and their masks are not"
    message = "the sizes fit either way: look whether the masks do (--sheet), else turn the masks or strip the tags"
    yield from odd(lambda one: one.turned, rule, message)
    message = f"smaller than {SMALL} pixels, which is one cell of the coarsest features of a network"
    yield from odd(lambda one: min(one.size) < SMALL, "tiny images", message)
    message = "every pixel is the same: exported wrongly?"
    yield from odd(lambda one: one.constant and one.size != (1, 1), "images of one color", message)
    message = (
        f"no value is above {DARK} of 255 (of 16 bits the upper 8 are read): 12 bits stored in 16? Then say so, "
        "--range 0,4095. Or values of 0 and 1? Stretch all of them by one factor"
    )
    yield from odd(lambda one: not one.constant and one.highest <= DARK, "images that are nearly black", message)
    kinds = Counter(result.kind for result in seen if result.kind)
    if len({kind if kind in ("16 bits", "float") else "8 bits" for kind in kinds}) > 1:
        few = min(kinds, key=lambda kind: kinds[kind])
        files = tuple(str(result.pair.image) for result in seen if result.kind == few)
        listed = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        message = f"{listed}: of 16 bits the upper 8 are read; see that all have one brightness (--sheet)"
        yield Finding("warning", "images of different depths are mixed", message, files)


def twins(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Find images that are there twice; across splits they make every score a lie."""
    groups = together((result.digest, result) for result in seen if result.digest)
    across = [_text(group, " = ") for group in groups if _mixed(group)]
    message = "what is trained on is scored as well, so that every score is too good: keep each in one split"
    yield from counted("error", across, "images that are in more than one split", message)
    within = [group for group in groups if not _mixed(group)]
    message = "each counts as often as it is there: keep one"
    if _drawn(seen) and any(group[0].split in ("train", "all") for group in within):
        message += ". There is no val: a part is set aside at random for validation, and would hold copies of the rest"
    files = (_text(group, " = ") for group in within)
    yield from counted("warning", files, "images that are there more than once", message)
    unlike = [group for group in groups if len({one.labeled for one in group if one.labeled}) > 1]
    files = (" / ".join(str(one.pair.mask) for one in group) for group in unlike)
    message = "the same image is there with different masks: keep one"
    yield from counted("warning", files, "images with masks that contradict each other", message)


def look_alikes(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Find images that are nearly the same: across splits, or where a split will be drawn at random."""
    found = [(result, result.look) for result in seen if result.look is not None and not result.constant]
    if len(found) > MOST_COMPARED:
        yield Finding("note", "look-alikes were not looked for", f"more than {MOST_COMPARED:,} images are there")
    if not 2 <= len(found) <= MOST_COMPARED:
        return
    firsts = near([look for _, look in found])
    groups = together((int(first), result) for first, (result, _) in zip(firsts, found, strict=True))
    groups = [group for group in groups if len({result.digest for result in group}) > 1]
    across = [group for group in groups if _mixed(group)]
    within = [group for group in groups if not _mixed(group) and group[0].split in ("train", "all")]
    aside = "A part is set aside at random for validation, and would hold neighbors of what is trained on"
    for alike, where, remedy in (
        (across, "across splits", "Then scores are too good: keep them in one split"),
        (within if _drawn(seen) else [], "and there is no val", f"{aside}: give a val/ of other scenes"),
    ):
        if alike:
            rule = f"{sum(map(len, alike))} images look alike {where}"
            message = f"the same image saved twice, or frames of one video? {remedy}"
            yield Finding("warning", rule, message, tuple(_text(group, " ~ ") for group in alike))


def together(keyed: Iterable[tuple[object, Seen]]) -> list[list[Seen]]:
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


def _text(group: Sequence[Seen], sign: str) -> str:
    """Name up to four images: one of every split, then others."""
    first: dict[str, Seen] = {}
    for result in group:
        first.setdefault(result.split, result)
    shown = [*first.values(), *(result for result in group if result is not first[result.split])]
    more = [f"{len(group) - 4} more"] if len(group) > 4 else []
    return sign.join([*(f"{result.pair.image} ({result.split})" for result in shown[:4]), *more])


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

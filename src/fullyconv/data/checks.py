"""What all pairs of a set together say: for the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fullyconv.data.findings import Finding, Severity, many
from fullyconv.data.label_maps import shifted_hint, two_ends_hint
from fullyconv.data.layouts import shown
from fullyconv.data.looking import Seen
from fullyconv.data.sources import Source
from fullyconv.images import MASK_EXTENSIONS
from fullyconv.images.opening import converted_lines, head_of, without_cr_lf
from fullyconv.labels import IGNORE, Labels

SMALL = 32
"""Pixels: below it the coarsest features of a network are one cell."""

DARK = 31
"""An image whose lightest pixel is not above it uses an eighth of its range: 12 bits stored in 16, or 0 and 1."""

# Text beside images and masks: nobody expects it to be read as one.
_EXPECTED = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".db", ".ini", ".html", ".pdf")


def problems(seen: Sequence[Seen]) -> list[Finding]:
    """Find what could not be read."""
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
    return findings + _exchanged(seen)


def _exchanged(seen: Sequence[Seen]) -> list[Finding]:
    """Find pairs whose sizes differ, each the other way round than those of another: their files were exchanged."""
    differ = [result for result in seen if result.digest and result.counts and result.size != result.mask_size]
    by_sizes: dict[tuple[tuple[int, int], tuple[int, int]], list[Seen]] = defaultdict(list)
    for result in differ:
        by_sizes[result.size, result.mask_size].append(result)
    swapped = [
        f"{result.pair.image}: {' or '.join(str(other.pair.mask) for other in others[:3])} has its size"
        for result in differ
        if (others := by_sizes.get((result.mask_size, result.size), []))
    ]
    message = "the sizes of one are those of another the other way round: were their masks, or their images, swapped?"
    return [Finding("error", f"{len(swapped)} pairs look swapped", message, tuple(swapped))] if swapped else []


def _reason(file: str, message: str) -> str:
    return message.replace(file, "")


def converted(seen: Sequence[Seen]) -> list[Finding]:
    """Find files that lost their CR LF: the PNG among them show it in their first bytes, JPEG decode to torn blocks."""
    every = {path for result in seen for path in (result.pair.image, result.pair.mask) if path.is_file()}
    if not any(_is_converted_png(path) for path in every):
        return []
    files = tuple(str(path) for path in sorted(every) if without_cr_lf(path))
    message = (
        "every CR LF in them became LF, as git and FTP do with text; images that still decode are torn. Get them again "
        "as binary files (in git: '*.png binary' and '*.jpg binary' in .gitattributes)"
    )
    rule = f"the line endings of {many(len(files), 'file')} were converted"
    return [Finding("error", rule, message, files)]


def _is_converted_png(path: Path) -> bool:
    return path.suffix.lower() == ".png" and converted_lines(head_of(path, 16))


def stray(seen: Sequence[Seen], labels: Labels) -> list[Finding]:
    """Find values of masks that mean nothing."""
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
    holds = many(len(bad), "mask holds", "masks hold")
    return [Finding("error", f"{holds} values that are not in the label map", message, tuple(files))]


def classes_in(result: Seen, labels: Labels) -> list[str]:
    """Name the classes that a mask shows."""
    return sorted({labels.meaning[value] for value in result.counts if value in labels.meaning} - {IGNORE})


def empty(seen: Sequence[Seen], labels: Labels) -> list[Finding]:
    """Find masks that show nothing."""
    findings: list[Finding] = []
    read = [result for result in seen if result.counts]
    ignored = [result for result in read if all(labels.meaning.get(value, "") == IGNORE for value in result.counts)]
    if ignored:
        whole = {result.split for result in read} - {result.split for result in read if result not in ignored}
        message = "nothing is learned from them: correct the masks or the label map, or remove the pairs"
        if whole:
            message += f"; all masks of {', '.join(sorted(whole))} are such"
        files = tuple(str(result.pair.mask) for result in ignored)
        rule = f"{many(len(ignored), 'mask ignores', 'masks ignore')} every pixel"
        findings.append(Finding("error" if whole else "warning", rule, message, files))
    if hint := two_ends_hint(labels, {value for result in read for value in result.counts}):
        findings.append(Finding("error", "255 is ignored and nothing else but 0 is there", hint))
    held = [classes_in(result, labels) for result in read]
    single = sum(len(names) == 1 for names in held)
    if single and labels.num_classes > 1:
        usual = Counter(names[0] for names in held if len(names) == 1).most_common(1)[0]
        severity: Severity = "warning" if single == len(read) > 1 else "note"
        rule = f"{single} of {many(len(read), 'mask holds', 'masks hold')} one class alone"
        findings.append(Finding(severity, rule, f"most often {usual[0]} ({many(usual[1], 'mask')}): is it meant so?"))
    return findings


def enough(splits: Mapping[str, int], source: Source) -> list[Finding]:
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


def occurring(seen: Sequence[Seen], labels: Labels) -> list[Finding]:
    """Find classes that occur nowhere, or in no training mask."""
    present: dict[str, set[str]] = {name: set() for name in labels.names}
    for result in seen:
        for name in classes_in(result, labels):
            present[name].add(result.split)
    findings = []
    never = [name for name, splits in present.items() if not splits]
    if never:
        message = f"{', '.join(never)}: no mask holds it; correct the label map, or leave the class out"
        findings.append(Finding("warning", f"{many(len(never), 'class never occurs', 'classes never occur')}", message))
    splits = {result.split for result in seen}
    if len(splits) > 1 and "train" in splits:
        untrained = [name for name, where in present.items() if where and "train" not in where]
        if untrained:
            message = f"{', '.join(untrained)}: in no training mask, so that it cannot be learned; split anew"
            rule = f"{many(len(untrained), 'class is', 'classes are')} not in train"
            findings.append(Finding("warning", rule, message))
        unscored = [name for name, where in present.items() if where == {"train"}]
        if unscored:
            message = f"{', '.join(unscored)}: in training masks only, so that nobody will know how well it is found"
            rule = f"{many(len(unscored), 'class is', 'classes are')} scored nowhere"
            findings.append(Finding("note", rule, message))
    return findings


def images(seen: Sequence[Seen]) -> list[Finding]:
    """Find what is odd about images."""
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
            f"no value is above {DARK} of 255 (of 16 bits the upper 8 are read): 12 bits stored in 16? Then say so, "
            "--range 0,4095. Or values of 0 and 1? Stretch all of them by one factor",
        ),
    ):
        if chosen:
            rule = many(len(chosen), singular, plural)
            findings.append(Finding("warning", rule, message, tuple(str(result.pair.image) for result in chosen)))
    kinds = Counter(result.kind for result in seen if result.kind)
    depths = {"16 bits": "16", "float": "32"}
    if len({depths.get(kind, "8") for kind in kinds}) > 1:
        few = min(kinds, key=lambda kind: kinds[kind])
        files = tuple(str(result.pair.image) for result in seen if result.kind == few)
        shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        message = f"{shown}: of 16 bits the upper 8 are read; see that all have one brightness (--sheet)"
        findings.append(Finding("warning", "images of different depths are mixed", message, files))
    return findings


def unread(source: Source) -> list[Finding]:
    """Say which files beside the images and masks are of formats that are not read."""
    if source.named is not None and source.known is None:
        return []
    folders = {path.parent for found in source.splits.values() for pair in found for path in (pair.image, pair.mask)}
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        for entry in sorted(folder.iterdir()):
            suffix = entry.suffix.lower()
            plain = entry.name.startswith(".") or suffix in (*MASK_EXTENSIONS, *_EXPECTED, "")
            if not plain and entry.is_file():
                by_suffix[suffix].append(shown(str(entry)))
    return [
        Finding(
            "note",
            f"{many(len(files), 'file is', 'files are')} {suffix}, which is not read",
            f"images and masks are {', '.join(MASK_EXTENSIONS)}: convert them, if they belong to the set",
            tuple(files),
        )
        for suffix, files in by_suffix.items()
        if suffix != ".db"
    ]

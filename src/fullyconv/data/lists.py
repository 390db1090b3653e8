"""Splits by lists of names: ImageSets/Segmentation/train.txt, or train.txt with val.txt or test.txt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fullyconv.data.layouts import Layout
from fullyconv.data.pairs import Pair, plain_name

Lists = dict[str, list[tuple[int, str]]]

FEW = 0.03
"""Share of pairs that lists may leave out with no more than a note."""


def split_by_lists(root: Path, layout: Layout, own: tuple[Path, Lists] | None = None) -> None:
    """Take the splits of a layout from lists: those given, or those beside its pairs, of each tree its own.

    Lists that do not fit the pairs are an error: another split than theirs is never made of them.

    Args:
        root: the data folder.
        layout: its splits, notes and findings are changed; where it has splits, only lists that are given count.
        own: the folder of the lists that are given, and these.
    """
    groups: list[tuple[Path, Path, Lists, list[Pair]]] = []
    unlisted: list[Pair] = []
    if own is not None:
        groups.append((own[0], root, own[1], layout.pairs))
    elif set(layout.splits) == {"all"}:
        groups, unlisted = _beside(root, layout)
    splits: dict[str, list[Pair]] = defaultdict(list)
    notes = []
    for folder, place, lists, pairs in groups:
        listed = _listed_pairs(folder, place, lists, _Names(root, pairs), layout)
        if listed is None:
            return
        notes.append(f"splits from {folder if own else folder.relative_to(root).as_posix()}/*.txt")
        notes += listed[1]
        for split, part in listed[0].items():
            splits[split] += part
        taken = {pair for part in listed[0].values() for pair in part}
        unlisted += [pair for pair in pairs if pair not in taken]
    if not groups:
        return
    total, number = len(layout.pairs), len(unlisted)
    layout.splits = dict(splits)
    layout.notes.append(
        "; ".join([notes[0], *([f"{number} pairs are in no list and left out"] * bool(number)), *notes[1:]])
    )
    if own is None and number > FEW * total:
        message = "they are left out: add their names to a list, if they are meant"
        layout.warn(f"{number} of {total} pairs are in no list", message, [pair.image for pair in unlisted])


def _beside(root: Path, layout: Layout) -> tuple[list[tuple[Path, Path, Lists, list[Pair]]], list[Pair]]:
    """Find for each pair the nearest lists above it; and the pairs that have none."""
    found: dict[Path, Lists] = {}
    by_folder: dict[tuple[Path, Path], list[Pair]] = defaultdict(list)
    unlisted: list[Pair] = []
    for pair in layout.pairs:
        places = [place for place in pair.image.parents[1:] if place == root or root in place.parents] or [root]
        above = [(folder, place) for place in places for folder in (place / "ImageSets" / "Segmentation", place)]
        for folder, _ in above:
            if folder not in found:
                found[folder] = read_lists(folder, layout)
        nearest = next((both for both in above if found[both[0]]), None)
        (unlisted if nearest is None else by_folder[nearest]).append(pair)
    groups = [(folder, place, found[folder], pairs) for (folder, place), pairs in sorted(by_folder.items())]
    return groups, unlisted if groups else []


def read_lists(folder: Path, layout: Layout) -> Lists:
    """Read the lists of a folder; none where there is none for train, or nothing beside it."""
    lists: Lists = {}
    for path in (folder / f"{split}.txt" for split in ("train", "val", "test")):
        try:
            text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        except UnicodeDecodeError:
            layout.fail("lists that are no text", f"{path}: not UTF-8 text; save it as UTF-8, one name a line", [path])
            return {}
        if lines := [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]:
            lists[path.stem] = lines
    return lists if "train" in lists and len(lists) > 1 else {}


def _listed_pairs(
    folder: Path, place: Path, lists: Lists, names: _Names, layout: Layout
) -> tuple[dict[str, list[Pair]], list[str]] | None:
    """Give the pairs of every list of a folder, and what was decided; None where a list is wrong, which is told."""
    found: dict[str, list[Pair]] = {}
    gone: list[str] = []
    for split, lines in lists.items():
        path = folder / f"{split}.txt"
        there: dict[Pair, None] = {}
        missing: list[str] = []
        for number, line in lines:
            hits = names.find(line, place)
            if len(hits) > 1:
                candidates = ", ".join(str(pair.image) for pair in hits[:5]) + (", ..." if len(hits) > 5 else "")
                message = (
                    f"{path}: line {number}: {line!r} could be {candidates}; write the path of the image in the "
                    f"list, or remove or rename {path.name}"
                )
                layout.fail("lists of names that fit several images", message, [path])
                return None
            if hits:
                there[hits[0]] = None
            else:
                missing.append(line)
        if missing:
            gone.append(f"{path.name} names {len(missing)} of {len(lines)} that are not there ({missing[0]} ...)")
        if there:
            found[split] = list(there)
        elif split == "train" or not names.without_mask(missing):
            message = (
                f"{path}: none of its {len(lines)} names is that of an image with a mask ({missing[0]!r} ...); "
                f"correct the names, or remove or rename {path.name} to have the images split at random"
            )
            layout.fail("lists of names that fit no image", message, [path])
            return None
    taken: set[Pair] = set()
    for split in ("test", "val", "train"):  # what is scored must not be trained on
        both = [pair for pair in found.get(split, []) if pair in taken]
        if both:
            found[split] = [pair for pair in found[split] if pair not in taken]
            gone.append(f"{len(both)} of {split}.txt are in another list as well ({both[0].key} ...): taken out of it")
        taken.update(found.get(split, []))
    if not found["train"]:
        path = folder / "train.txt"
        message = f"{path}: all its images are in another list as well; take them out of one, or rename {path.name}"
        layout.fail("lists that leave nothing to train on", message, [path])
        return None
    return {split: part for split, part in found.items() if part}, gone


class _Names:
    """Find the pair that a line of a list means.

    Args:
        root: the data folder.
        pairs: every pair, the images inside root.
    """

    def __init__(self, root: Path, pairs: Sequence[Pair]) -> None:
        self._whole: dict[str, dict[Pair, None]] = defaultdict(dict)
        self._tails: dict[str, dict[Pair, None]] = defaultdict(dict)
        self._folders = {pair.image.parent for pair in pairs}
        for pair in pairs:
            suffix = pair.image.suffix
            for path in (pair.image.relative_to(root).as_posix().removesuffix(suffix), pair.key):
                parts = plain_name(path).split("/")
                for start in range(len(parts)):
                    tail = "/".join(parts[start:])
                    for form in (tail, tail + suffix):
                        self._tails[form][pair] = None
                        if start == 0:
                            self._whole[form][pair] = None

    def find(self, line: str, place: Path) -> list[Pair]:
        """Give the pairs that a line may mean: by the path or name in it first, then by the end of its path.

        Args:
            line: the name or path of an image, with or without that of its mask behind it.
            place: where the list belongs; its own images come first.
        """
        whole, first = ([part for part in _posix(text).split("/") if part] for text in (line, line.split()[0]))
        tries = [(whole, 0), (first, 0)]  # a name may have a blank in it, and the second word may be the mask
        tries += [(parts, start) for parts in (first, whole) for start in range(1, len(parts))]
        for parts, start in tries:
            for form in _forms("/".join(parts[start:])):
                hits = list(self._whole.get(form, {}) if not start else {}) or list(self._tails.get(form, {}))
                near = [pair for pair in hits if place in pair.image.parents]
                if hits:
                    return near if len(near) == 1 else hits
        return []

    def without_mask(self, lines: Iterable[str]) -> bool:
        """Tell whether some line names an image that lies beside the others and has no mask."""
        stems = {plain_name(file.stem) for folder in self._folders for file in folder.iterdir()}
        texts = (_posix(text).rsplit("/", 1)[-1] for line in lines for text in (line, line.split()[0]))
        return any(form in stems for text in texts for form in _forms(text))


def _posix(text: str) -> str:
    return plain_name(text.replace("\\", "/")).removeprefix("./")


def _forms(name: str) -> list[str]:
    """Give a name as it is, and without its extension."""
    cut = name.rsplit(".", 1)[0]
    return [name, cut] if cut and "." in name.rsplit("/", 1)[-1][-5:] else [name]

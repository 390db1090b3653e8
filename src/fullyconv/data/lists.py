"""Splits by lists of names: ImageSets/Segmentation/train.txt, or train.txt with val.txt or test.txt."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fullyconv.data.documents import read_text
from fullyconv.data.layouts import Source
from fullyconv.data.pairs import Pair, plain_name
from fullyconv.data.words import SPLIT_WORDS, split_of
from fullyconv.errors import DatasetError, some

Lists = dict[str, tuple[Path, list[tuple[int, str]]]]  # split -> the file, and its lines by their numbers
Group = tuple[Path, Path, Lists, list[Pair]]  # the folder of lists, where they belong, and the pairs there

FEW = 0.03
"""Share of pairs that lists may leave out with no more than a note."""


def split_by_lists(source: Source, given: str | None) -> None:
    """Take the splits of a source from lists: those given, or those beside its pairs, of each tree its own.

    Lists that do not fit the pairs are an error: another split than theirs is never made of them.

    Args:
        source: its splits, notes and findings are changed.
        given: the folder of the lists, if they are given.

    Raises:
        FileNotFoundError: if there are no lists in that folder.
    """
    splits: dict[str, list[Pair]] = defaultdict(list)
    notes = []
    total = len(source.pairs)
    try:
        groups, unlisted = _beside(source) if given is None else (_in_folder(source, given), [])
        for folder, place, lists, pairs in groups:
            listed, said = _listed_pairs(place, lists, _Names(source.root, pairs))
            where = folder if given else folder.relative_to(source.root).as_posix()
            notes += [f"splits from {where}/*.txt", *said]
            for split, part in listed.items():
                splits[split] += part
            taken = {pair for part in listed.values() for pair in part}
            unlisted += [pair for pair in pairs if pair not in taken]
    except DatasetError as error:
        source.fail("lists that do not fit", str(error), error.files)
        return
    if not groups:
        _tell_unread(source)
        return
    source.splits = dict(splits)
    if unlisted:
        notes.insert(1, f"{len(unlisted)} pairs are in no list and left out")
    source.notes.append("; ".join(notes))
    if given is None and len(unlisted) > FEW * total:
        message = "they are left out: add their names to a list, if they are meant"
        source.warn(f"{len(unlisted)} of {total} pairs are in no list", message, [pair.image for pair in unlisted])


def _tell_unread(source: Source) -> None:
    """Warn of names of splits where none is read, so that the splits will be drawn at random."""
    holding = {path.parent for pair in source.pairs for path in (pair.image, pair.mask)}
    below = (place for place in source.root.glob("[!.]*") if place.is_dir() and place not in holding)
    inside = sorted(path for folder in (source.root, *below) for path in folder.iterdir())
    suffixes = (".txt", ".csv", ".json", ".lst")
    unread = [path for path in inside if path.suffix.lower() in suffixes and split_of(Path(path.name)) != "all"]
    by_name = {split_of(Path(pair.image.name)): pair.image for pair in source.pairs}  # train_1.jpg and val_1.jpg
    if unread := unread or ([*by_name.values()] if "train" in by_name and len(by_name) > 1 else []):
        remedy = "lists=FOLDER (--lists: train.txt with val.txt, a name a line), or pairs=FILE (--pairs)"
        source.warn("names that seem to say splits", f"they are not read: if they are meant, give {remedy}", unread)


def _in_folder(source: Source, given: str) -> list[Group]:
    folder = Path(given).expanduser()
    lists = _read_lists(folder)
    if not lists:
        raise FileNotFoundError(f"lists={given!r}: no train.txt with val.txt or test.txt in it; check it")
    return [(folder, source.root, lists, source.pairs)]


def _beside(source: Source) -> tuple[list[Group], list[Pair]]:
    """Find for each pair the nearest lists above it; and the pairs that have none."""
    root = source.root
    read = functools.cache(_read_lists)
    by_folder: dict[tuple[Path, Path], list[Pair]] = defaultdict(list)
    unlisted: list[Pair] = []
    for pair in source.pairs:
        places = [place for place in pair.image.parents[1:] if place == root or root in place.parents] or [root]
        above = [(folder, place) for place in places for folder in (place / "ImageSets" / "Segmentation", place)]
        nearest = next((both for both in above if read(both[0])), None)
        (unlisted if nearest is None else by_folder[nearest]).append(pair)
    return [(folder, place, read(folder), pairs) for (folder, place), pairs in sorted(by_folder.items())], unlisted


def _read_lists(folder: Path) -> Lists:
    """Read the lists of a folder; none where there is none for train, or nothing beside it."""
    lists: Lists = {}
    there = {path.name.lower(): path for path in folder.glob("*.[tT][xX][tT]") if path.is_file()}
    for word, split in SPLIT_WORDS.items():  # train.txt before trainval.txt, and Validation.txt of CVAT
        if split not in lists and (path := there.get(f"{word}.txt")):
            lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
            if kept := [(number, line) for number, line in lines if line]:
                lists[split] = path, kept
    return lists if "train" in lists and len(lists) > 1 else {}


def _listed_pairs(place: Path, lists: Lists, names: _Names) -> tuple[dict[str, list[Pair]], list[str]]:
    """Give the pairs of every list of a folder, and what was decided.

    Raises:
        DatasetError: if a list is wrong.
    """
    found: dict[str, list[Pair]] = {}
    gone: list[str] = []
    taken: set[Pair] = set()
    for split, (path, lines) in reversed(lists.items()):  # test, val, train: what is scored is not trained on
        there: dict[Pair, None] = {}
        missing: list[str] = []
        for number, line in lines:
            hits = names.find(line, place)
            if len(hits) > 1:
                what = f"line {number}: {line!r} could be {some((pair.image for pair in hits), 5)}"
                remedy = f"write the path of the image in the list, or remove or rename {path.name}"
                raise DatasetError(f"{path}: {what}; {remedy}", files=[path])
            there.update(dict.fromkeys(hits))
            missing += [] if hits else [line]
        if missing:
            gone.append(f"{path.name} names {len(missing)} of {len(lines)} that are not there ({missing[0]} ...)")
        if not there and (split == "train" or not names.without_mask(missing)):
            what = f"none of its {len(lines)} names is that of an image with a mask ({missing[0]!r} ...)"
            remedy = f"correct the names, or remove or rename {path.name} to have the images split at random"
            raise DatasetError(f"{path}: {what}; {remedy}", files=[path])
        if both := [pair for pair in there if pair in taken]:
            gone.append(f"{len(both)} of {path.name} are in another list as well ({both[0].key} ...): taken out of it")
        found[split] = [pair for pair in there if pair not in taken]
        taken.update(there)
    if not found["train"]:
        path = lists["train"][0]
        raise DatasetError(f"{path}: all its images are in another list as well; take them out of one", files=[path])
    return {split: part for split, part in found.items() if part}, gone


class _Names:
    """Find the pair that a line of a list means.

    Args:
        root: the data folder.
        pairs: every pair, the images inside root.
    """

    def __init__(self, root: Path, pairs: Sequence[Pair]) -> None:
        self._folders = {pair.image.parent for pair in pairs}
        # end of a path -> pair -> whether it is the whole path
        self._called: dict[str, dict[Pair, bool]] = defaultdict(dict)
        for pair in pairs:
            suffix = pair.image.suffix
            for path in (pair.image.relative_to(root).as_posix().removesuffix(suffix), pair.key):
                parts = plain_name(path).split("/")
                for start in range(len(parts)):
                    for form in ("/".join(parts[start:]), "/".join(parts[start:]) + suffix):
                        self._called[form][pair] = start == 0 or self._called[form].get(pair, False)

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
                found = self._called.get(form, {})
                hits = [pair for pair, is_whole in found.items() if is_whole and not start] or list(found)
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

"""Find out how a folder is laid out: which files are images and labels, and which split each belongs to.

Names of folders say it, where they are those that people use. Where two folders could be the masks of the same
images, nothing is guessed: the candidates are listed, with the option to give.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.data.words import apart, meaning_of
from fullyconv.errors import DatasetError, some
from fullyconv.images import EXTENSIONS, MASK_EXTENSIONS
from fullyconv.images.pixels import check_range
from fullyconv.labels import Labels
from fullyconv.preprocessing import MAX_CHANNELS

if TYPE_CHECKING:
    from fullyconv.data.public import PublicSet

MAX_FILES = 2_000_000
MOST_NAMED = 20  # files of a finding; the doctor names all

OPTIONS = (
    "say which: images=FOLDER and masks=FOLDER (--images, --masks; inside the data folder, a pattern such as "
    '"*/*_lesion/*.bmp" is fine), or pairs=FILE (--pairs, a CSV with the columns image, mask and, if you like, split)'
)

LAYOUTS = """\
  images/ + masks/                                       (a part is set aside for validation)
  train/images/ + train/masks/, the same in val/, test/  (val/ and test/ may be missing)
  images/train/ + masks/train/, the same with val, test  (val and test may be missing)
  train/ + train_masks/ or trainannot/, val/ + ...       (or any other name with its masks beside it)
  x.jpg + x_mask.png in one folder, also in train/, valid/, test/
with masks of one channel (index or palette PNG), each named like its image up to the extension,
and optionally classes.txt: one class name a line, the first line for value 0; or images with annotations of COCO
(annotations/instances_train.json, train/_annotations.coco.json), YOLO (images/train + labels/train/x.txt) or labelme
(x.json beside x.jpg), or a set that Hugging Face's datasets saved"""


@dataclass(frozen=True)
class Reading:
    """How a data set is read, where that is not found out.

    Args:
        images: folder of the images inside the data folder, or a pattern of files; of a table the column.
        masks: folder of the masks inside the data folder, or a pattern of files; of annotations their file or a
            pattern, of a table the column.
        pairs: a CSV, TSV or JSON-lines file with the columns image, mask and, if you like, split.
        lists: a folder with train.txt and val.txt, test.txt or both: names of images, one a line, which take the place
            of the splits that the data has.
        unlabeled: "skip" leaves out images without a mask, "error" refuses them.
        in_channels: C of the images; 3 reads all as RGB, 1 as gray, any other number has to be that of the files.
        skip_bad: leave out what does not pair and pairs that cannot be read, and tell them, instead of an error.
        crowds: "ignore" or "category": what becomes of COCO's regions of many objects (`iscrowd`).
        value_range: the numbers that are black and white in images of more than 8 bits; None for the whole range.

    Raises:
        ValueError: if an option has an invalid value, or options contradict each other.
    """

    images: str | None = None
    masks: str | None = None
    pairs: str | None = None
    lists: str | None = None
    unlabeled: str = "error"
    in_channels: int = 3
    skip_bad: bool = False
    crowds: str = "ignore"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("unlabeled", ("error", "skip")), ("crowds", ("ignore", "category"))):
            if getattr(self, name) not in choices:
                raise ValueError(f'{name}={getattr(self, name)!r}: choose "{choices[0]}" or "{choices[1]}"')
        for name, given in (("images", self.images), ("masks", self.masks)):
            if given is not None and (Path(given).is_absolute() or ".." in Path(given).parts):
                raise ValueError(f"{name}={given!r}: is looked for inside the data folder; give a path relative to it")
        if self.pairs is not None and (self.images is not None or self.masks is not None):
            raise ValueError("pairs: names every file itself; leave images and masks out")
        if self.value_range is not None:
            check_range(self.value_range)
        bands = self.in_channels
        if isinstance(bands, bool) or not isinstance(bands, int) or not 1 <= bands <= MAX_CHANNELS:
            raise ValueError(f"in_channels={bands!r}: the number of bands of the images, 1..{MAX_CHANNELS}")


Severity = Literal["error", "warning", "note"]


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


def counted(severity: Severity, cases: Iterable[object], rule: str, message: str) -> list[Finding]:
    """Give one finding of all cases, or none where there are no cases.

    Args:
        severity: how bad it is.
        cases: files, or words about them.
        rule: what they are; their number is put before it.
        message: what is wrong, and the remedy.
    """
    files = tuple(map(str, cases))
    return [Finding(severity, f"{len(files)} x {rule}", message, files)] if files else []


def joined(severity: Severity, found: Iterable[Finding]) -> list[Finding]:
    """Give one finding of all that have one rule, with the message of the first."""
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for one in found:
        by_rule[one.rule].append(one)
    return [
        entry if len(entry.files) > 1 else replace(entry, files=())  # which its message names
        for rule, same in by_rule.items()
        for entry in counted(severity, (name for one in same for name in one.files), rule, same[0].message)
    ]


@dataclass
class Source:
    """Hold what is known of a data set before an image of it is used.

    Args:
        layout: its layout in words; empty where there is none.
        splits: "train", "val", "test" -> pairs, or "all" -> pairs where it has no splits.
        root: its folder.
        notes: what was found out or decided on the way, one sentence each, for people to read.
        findings: what is wrong, and what was left out.
        lost: what of it was left out because it does not pair or cannot be read, as errors.
        reader: how its files are read.
        known: the public set that it is, if it is one.
        named: the classes, where annotations or a public set name them.
        labels: classes and what the values in the masks mean; a stand-in until they are found.
        counts: mask -> value -> pixels, of the masks that were read so far.
        explicit: whether somebody said what each value means.
    """

    layout: str = ""
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    root: Path = Path()
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lost: list[Finding] = field(default_factory=list)
    reader: FileReader = field(default_factory=FileReader, repr=False)
    known: PublicSet | None = None
    named: Labels | None = None
    labels: Labels = field(default_factory=lambda: Labels.of(["unknown"]))
    counts: dict[Path, dict[int, int]] = field(default_factory=dict, repr=False)
    explicit: bool = False

    @property
    def pairs(self) -> list[Pair]:
        """All pairs of all splits, each once."""
        return list(dict.fromkeys(pair for part in self.splits.values() for pair in part))

    @property
    def warned(self) -> list[str]:
        """What people who train or score have to know, each with the files concerned."""
        told = []
        for one in self.findings:
            more = len(one.files) - MOST_NAMED
            rest = [f"and {more} more"] if more > 0 else []
            lines = [f"{one.severity}: {one.rule}: {one.message}", *one.files[:MOST_NAMED], *rest]
            told.append("\n    ".join(lines))
        return told

    def warn(self, rule: str, message: str, files: Iterable[object] = ()) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", rule, message, tuple(map(str, files))))

    def fail(self, rule: str, message: str, files: Iterable[object] = ()) -> None:
        """Add an error that leaves out no files."""
        self.findings.append(Finding("error", rule, message, tuple(map(str, files))))

    def lose(self, rule: str, files: Iterable[object], what: str = "") -> None:
        """Tell files that are left out because they do not pair or cannot be read.

        Args:
            rule: what is wrong with them.
            files: the files, or a message about each.
            what: what is wrong and the remedy, to follow their names; nothing where they are messages.
        """
        names = tuple(map(str, files))
        message = f"{some(names, 5)}: {what}" if what else names[0]
        self.lost.append(Finding("error", rule, message, names))


@dataclass(frozen=True)
class Folder:
    """One folder with images in it, or called after images or masks, and what its path says."""

    path: str  # relative to the root, "." for the root
    role: str  # "image", "mask", "object" or ""
    split: str  # or ""
    group: tuple[str, ...]  # the words of the path that say neither
    files: tuple[Path, ...]


@dataclass
class Tree:
    """What lies in a folder, by its names; every list is sorted by folder and name."""

    root: Path
    folders: list[Folder] = field(default_factory=list)
    by_suffix: dict[str, list[Path]] = field(default_factory=dict)  # of text and tables

    @property
    def images(self) -> list[Path]:
        """All images, and masks that are images."""
        return [file for folder in self.folders for file in folder.files if file.suffix.lower() in EXTENSIONS]

    def named(self, *names: str) -> list[Path]:
        """Give the files of these names, in small letters."""
        return [path for found in self.by_suffix.values() for path in found if path.name.lower() in names]


_TEXT = (".json", ".jsonl", ".csv", ".parquet", ".txt", ".yaml", ".yml")


def walk(root: Path) -> Tree:
    """Look through a folder once. Links to folders are followed, but never in a circle."""
    tree = Tree(root)
    count = 0
    todo: list[tuple[Path, Path, tuple[str, ...]]] = [(root, Path(), (os.path.realpath(root),))]
    while todo:
        here, meaning, above = todo.pop()
        try:
            with os.scandir(here) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except PermissionError as error:
            raise DatasetError(f"{here}: may not be read; change its permissions, or move it away") from error
        count += len(entries)
        if count > MAX_FILES:
            raise DatasetError(f"{root}: holds more than {MAX_FILES} files; give the folder of one data set")
        inside = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
        if bad := next((entry.path for entry in inside if not is_text(entry.name)), None):
            what = "its name is no UTF-8, and no list and no report could hold it: rename it"
            raise DatasetError(f"{shown(bad)}: {what}")
        folders = [entry for entry in inside if entry.is_dir()]
        files: list[Path] = []
        for entry in inside:
            suffix = Path(entry.name).suffix.lower()
            there = entry.is_file() or not (here / entry.name).exists()  # a link to nothing is told when it is read
            if suffix in (*MASK_EXTENSIONS, *_TEXT) and there:
                kept = tree.by_suffix.setdefault(suffix, []) if suffix in _TEXT else files
                kept.append(here / entry.name)
        role, split, group = meaning_of(meaning.as_posix())
        if files or (role and not folders and meaning_of(apart(here.name, []))[0]):
            tree.folders.append(Folder(here.relative_to(root).as_posix(), role, split, group, tuple(files)))
        names = [entry.name for entry in folders]
        for entry in reversed(folders):
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if real not in above:
                todo.append((here / entry.name, meaning / apart(entry.name, names), (*above, os.path.realpath(real))))
    return tree


def find_layout(root: Path, known: PublicSet | None = None, **options: Any) -> Source:
    """Find the pairs and splits of a folder.

    Args:
        root: the folder.
        known: the public set whose name was given.
        options: as `Reading` takes them.

    Returns:
        The source, with a stand-in for labels. What is wrong with the data is in it; what could be read is there all
        the same.

    Raises:
        FileNotFoundError: if an option names a folder or file that is not there.
        ValueError: if an option has an invalid value, or options contradict each other.
    """
    from fullyconv.data.lists import split_by_lists

    reading = Reading(**options)
    source = _found(root, known, reading)
    source.splits = {name: part for name in ("train", "val", "test", "all") if (part := source.splits.get(name))}
    plain = source.known is None and type(source.reader) is FileReader and set(source.splits) == {"all"}
    if reading.lists is not None or plain:
        split_by_lists(source, reading.lists)
    if "all" in source.splits and len(source.splits) > 1:
        first, others = source.splits["all"][0].image, ", ".join(source.splits.keys() - {"all"})
        remedy = f"name one for all, or for none; or {OPTIONS}"
        source.fail("pairs of no split", f"{first} is of no split, and other pairs are of {others}; {remedy}")
    if not source.splits and not source.lost and not source.findings:
        source.fail("no pairs", f"{source.root}: no image has a mask; add masks, or {OPTIONS}")
    source.findings += joined("warning" if reading.skip_bad else "error", source.lost)
    source.reader = source.reader.with_bands(reading.in_channels, reading.value_range)
    return source


def _found(root: Path, known: PublicSet | None, reading: Reading) -> Source:
    from fullyconv.data.annotations import find_annotated
    from fullyconv.data.folders import from_options, pair_folders
    from fullyconv.data.rows import from_table

    named = reading.images is not None or reading.masks is not None
    try:
        if reading.pairs is not None:
            return from_table(root, reading.pairs)
        if not named and (public := _public(root, known)) is not None:
            return _published(public[0], walk(public[1]), reading)
        tree = walk(root)
        annotated = find_annotated(tree, reading)
        return annotated or (from_options(tree, reading) if named else pair_folders(tree, reading))
    except DatasetError as error:
        source = Source(root=root)
        source.fail("the folder cannot be read as a data set", str(error), error.files)
        return source


def _public(root: Path, named: PublicSet | None) -> tuple[PublicSet, Path] | None:
    """Tell which public set a folder is, and where in it the set lies: by the name that was given, or by its files."""
    from fullyconv.data.public import locate, recognize

    if named is not None and (folder := locate(named, root)) is not None:
        return named, folder
    for _ in range(4):  # as archives unpack: one folder in another
        if (found := recognize(root)) is not None:
            return found
        inside = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]
        if len(inside) != 1:
            break
        root = inside[0]
    return None


def _published(known: PublicSet, tree: Tree, reading: Reading) -> Source:
    """Take what was published; where files of it are missing, what the names of its folders say of the others."""
    from fullyconv.data.folders import pair_folders

    try:
        source = Source(known.facts.title, known.find_splits(tree.root), tree.root)
    except (DatasetError, FileNotFoundError) as error:
        try:
            source = pair_folders(tree, reading)
        except DatasetError:
            source = Source(root=tree.root)
        source.findings.insert(0, Finding("error", "files of the set are missing", str(error)))
    source.notes += [*known.facts.notes, *known.fewer(source.splits)]
    source.known, source.reader, source.named = known, known.reader(tree.root), next(iter(known.labels.values()))
    return source


def is_text(name: str) -> bool:
    """Tell whether a name is UTF-8."""
    return name.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in name)


def shown(name: str) -> str:
    r"""Write a name so that it can be printed: bytes that are no UTF-8 as \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

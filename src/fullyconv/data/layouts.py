"""Find out how a folder is laid out: which folders hold images, which masks, which split each belongs to.

Names of folders say it, where they are those that people use. Where two folders could be the masks of the same
images, nothing is guessed: the candidates are listed, with the option to give.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fullyconv.data.pairs import Pair, distinct_parts, name_hint, plain_name
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, some
from fullyconv.images import EXTENSIONS, MASK_EXTENSIONS
from fullyconv.labels import Labels

# fmt: off
IMAGE_WORDS = frozenset(
    [
        "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "raw", "rgb", "input",
        "inputs", "frame", "frames", "scan", "scans"
    ]
)
MASK_WORDS = frozenset(
    [
        "mask", "masks", "label", "labels", "labelled", "labeled", "annotation", "annotations", "annot", "annots",
        "seg", "segs", "segmentation", "segmentations", "segmentationclass", "gt", "groundtruth", "truth",
        "target", "targets", "trimap", "trimaps"
    ]
)
# fmt: on
OBJECT_WORDS = frozenset(["segmentationobject", "instances", "instance"])  # which object, not which class
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MAX_FILES = 2_000_000

OPTIONS = (
    "say which: images=FOLDER and masks=FOLDER (--images, --masks; inside the data folder, a pattern such as "
    '"*/*_lesion/*.bmp" is fine), or pairs=FILE (--pairs, a CSV with the columns image, mask and, if you like, split)'
)


@dataclass
class Layout:
    """What was found.

    Args:
        name: the layout in words.
        splits: "train", "val", "test" -> pairs, or "all" -> pairs.
        notes: what was decided on the way, one sentence each.
        reader: reads the files, where these are no images of masks.
        labels: the classes, where the files name them.
    """

    name: str
    splits: dict[str, list[Pair]]
    notes: list[str] = field(default_factory=list)
    reader: FileReader | None = None
    labels: Labels | None = None


@dataclass(frozen=True)
class Lost:
    """What does not pair.

    Args:
        rule: what was looked for, in a few words.
        message: what is wrong, and the remedy.
        files: the files concerned.
    """

    rule: str
    message: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Folder:
    """One folder with images in it, and what its path says."""

    path: str  # relative to the root, "." for the root
    role: str  # "image", "mask", "object" or ""
    split: str  # or ""
    group: tuple[str, ...]  # the words of the path that say neither
    files: tuple[Path, ...]

    @property
    def stems(self) -> set[str]:
        return {plain_name(file.stem) for file in self.files}


def find_layout(
    root: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    unlabeled: str = "error",
    lost: list[Lost] | None = None,
) -> Layout:
    """Find the pairs and splits of a folder.

    Args:
        root: the folder.
        images: folder of the images inside it, or a pattern of files; None finds it.
        masks: folder of the masks inside it, or a pattern of files; None finds it.
        pairs: a CSV, TSV or JSON-lines file of pairs, relative to root or absolute; then the two above are not used.
        unlabeled: "error" refuses images without a mask, "skip" leaves them out and says so.
        lost: where it is given, files that do not pair are left out and told here, instead of an error.

    Returns:
        The layout.

    Raises:
        FileNotFoundError: if a folder or file that was named is not there.
        DatasetError: if there is no layout, or more than one; the message lists what there is and the option to give.
        ValueError: if `unlabeled` is unknown, or options contradict each other.
    """
    if unlabeled not in ("error", "skip"):
        raise ValueError(f'unlabeled={unlabeled!r}: choose "error" or "skip"')
    for option, given in (("images", images), ("masks", masks)):
        if given is not None and (Path(given).is_absolute() or ".." in Path(given).parts):
            raise ValueError(
                f"{option}={given!r}: is looked for inside the data folder; give a path relative to {root}"
            )
    if pairs is not None:
        if images is not None or masks is not None:
            raise ValueError("pairs: names every file itself; leave images and masks out")
        return _from_table(root, pairs, lost)
    if images is not None and masks is not None:
        return _from_patterns(root, images, masks, unlabeled, lost)
    folders = _folders(root)
    for option, given in (("images", images), ("masks", masks)):
        if given is not None:
            _named(root, given, option)  # refuses what is not there before anything else is said
    if masks is not None:
        chosen = [folder for folder in folders if folder.role == "image"]
        return _from_patterns(root, _only_images(root, chosen, folders, masks), masks, unlabeled, lost)
    if images is not None:
        chosen = [folder for folder in folders if folder.role == "mask"]
        if len(chosen) != 1:
            raise DatasetError(f"{root}: images={images!r} is given, and {_candidates(chosen or folders)}; {OPTIONS}")
        return _from_patterns(root, images, chosen[0].path, unlabeled, lost)
    return _found(root, folders, unlabeled, lost)


def mask_places(root: Path) -> list[str]:
    """List the folders that seem to hold images of masks, by their names, or beside the images."""
    folders = _folders(root)
    return [folder.path for folder in folders if folder.role == "mask" or _both_in_one(folder) is not None]


def ambiguous(root: Path) -> bool:
    """Tell whether some images could have their masks in more than one folder."""
    folders = _folders(root)
    return any(len(_candidates_of(folder, folders)) > 1 for folder in folders if folder.role == "image")


def _only_images(root: Path, chosen: Sequence[_Folder], folders: Sequence[_Folder], masks: str) -> str:
    beside = [folder for folder in chosen if Path(folder.path).parent == Path(masks).parent]
    for few in (beside, chosen):
        if len(few) == 1:
            return few[0].path
    raise DatasetError(f"{root}: masks={masks!r} is given, and {_candidates(chosen or folders)}; {OPTIONS}")


def _folders(root: Path) -> list[_Folder]:
    """Walk the tree once; links to folders are not followed, so that no circle can hold us."""
    found: list[_Folder] = []
    count = 0
    for here, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith((".", "__MACOSX")))
        images = tuple(Path(here) / name for name in sorted(files) if _is_file(Path(here) / name))
        count += len(files)
        if count > MAX_FILES:
            raise DatasetError(f"{root}: holds more than {MAX_FILES} files; give the folder of one data set")
        if images:
            relative = Path(here).relative_to(root).as_posix()
            found.append(_Folder(relative, *meaning_of(relative), images))
    return found


def meaning_of(relative: str) -> tuple[str, str, tuple[str, ...]]:
    """Tell what the words of a path say.

    Args:
        relative: the path of a folder inside the data folder, or the name of a column.

    Returns:
        The role ("image", "mask", "object" or ""), the split (or ""), and the words that say neither.

    Example:
        >>> meaning_of("training/camera_a/labels")
        ('mask', 'train', ('camera', 'a'))
    """
    role, split, rest = "", "", []
    for part in Path(relative).parts:
        for word in re.findall(r"[A-Za-z0-9.]+", part):
            lower = word.lower()
            annotated = re.fullmatch(r"(train|val|test)(annot|masks?|labels?|images?)", lower)
            if annotated:
                split = SPLIT_WORDS[annotated[1]]
                role = "image" if annotated[2].startswith("image") else "mask"
            elif lower in OBJECT_WORDS:
                role = "object"
            elif lower in MASK_WORDS:
                role = role if role == "object" else "mask"
            elif lower in IMAGE_WORDS:
                role = role or "image"
            elif lower in SPLIT_WORDS:
                split = SPLIT_WORDS[lower]
            else:
                rest.append(lower)
    return role, split, tuple(rest)


def _found(root: Path, folders: list[_Folder], unlabeled: str, lost: list[Lost] | None) -> Layout:
    """Pair folders by what their names say."""
    if not folders:
        raise DatasetError(f"{root}: no images in it; accepted are {', '.join(EXTENSIONS)}")
    images = [folder for folder in folders if folder.role == "image"]
    notes: list[str] = []
    splits: dict[str, list[Pair]] = defaultdict(list)
    used: set[str] = set()
    for folder in images:
        inside = _both_in_one(folder)
        if inside is not None:
            splits[folder.split or "all"] += [_keyed(root, pair) for pair in inside]
            used.add(folder.path)
            continue
        candidates = _candidates_of(folder, folders)
        if not candidates:
            notes.append(f"{folder.path}: {len(folder.files)} images without masks, left out")
            continue
        if len(candidates) > 1:
            raise DatasetError(f"{root}: the masks of {folder.path}/ could be {_candidates(candidates)}; {OPTIONS}")
        mask = candidates[0]
        same = [other for other in images if other.path != folder.path and mask in _candidates_of(other, folders)]
        if same:
            raise DatasetError(
                f"{root}: the images of {mask.path}/ could be in {_candidates([folder, *same])}; {OPTIONS}"
            )
        matched = match_files(folder.files, mask.files, f"{root}/{folder.path}", f"{root}/{mask.path}", unlabeled, lost)
        notes += matched.notes
        splits[folder.split or "all"] += [_keyed(root, pair) for pair in matched.splits["all"]]
        used |= {folder.path, mask.path}
    if not splits:
        raise DatasetError(
            f"{root}: no folder of images with a folder of masks beside it, only {_candidates(folders)}; {OPTIONS}"
        )
    for folder in folders:
        if folder.role == "mask" and folder.path not in used:
            notes.append(f"{folder.path}: {len(folder.files)} masks without images, left out")
    listed = _lists(root, splits, lost)
    if listed is not None:
        splits, note = listed
        notes.append(note)
    if "all" in splits and len(splits) > 1:
        raise DatasetError(
            f"{root}: some folders belong to a split ({', '.join(sorted(set(splits) - {'all'}))}) and some to "
            f"none; {OPTIONS}"
        )
    name = " + ".join(sorted(used)) if len(used) <= 6 else f"{len(used)} folders"
    return Layout(name, dict(splits), notes)


def _candidates_of(images: _Folder, folders: Sequence[_Folder]) -> list[_Folder]:
    """List the folders that could be the masks of these images."""
    stems = images.stems
    beside = [folder for folder in folders if folder.path != images.path]
    named = [
        folder
        for folder in beside
        if folder.role == "mask" and folder.group == images.group and folder.split == images.split
    ]
    # A folder whose files are called as the images are could be theirs, whatever it is called itself.
    alike = [
        folder
        for folder in beside
        if folder not in named
        and folder.role in ("", "mask")
        and folder.split == images.split
        and len(_common(stems, folder.stems)) >= 0.9 * len(stems)
    ]
    # Below the mask folder of the same name only, where every class or recording has a folder of its own.
    deeper = [folder for folder in alike if folder.role == "mask" and folder.group != images.group]
    if named and all(_nested(folder, images) for folder in deeper):
        alike = [folder for folder in alike if folder not in deeper]
    return [*named, *alike]


def _nested(folder: _Folder, images: _Folder) -> bool:
    """Tell whether a folder of masks belongs to other images, those of its own group."""
    return bool(folder.group) and len(folder.group) == len(images.group)


def _common(some: set[str], others: set[str]) -> set[str]:
    exact = some & others
    if exact:
        return exact
    one, two = distinct_parts(some), distinct_parts(others)
    return set(one) & set(two) if len(one) == len(some) and len(two) == len(others) else set()


def _both_in_one(folder: _Folder) -> list[Pair] | None:
    """Pair a folder in which every image lies beside its mask: x.jpg and x.png."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in folder.files:
        by_stem[file.stem].append(file)
    if not all(len(files) == 2 for files in by_stem.values()):
        return None
    pairs = []
    for stem, files in by_stem.items():
        lossy = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg")]
        if len(lossy) != 1:  # a mask is never a JPEG beside an image that is none
            return None
        (mask,) = [file for file in files if file not in lossy]
        pairs.append(Pair(lossy[0], mask, stem))
    return pairs


def _keyed(root: Path, pair: Pair) -> Pair:
    """Name a pair after its image's place, without the words that say only that it is an image."""
    relative = pair.image.relative_to(root).with_suffix("")
    empty = IMAGE_WORDS | set(SPLIT_WORDS)
    parts = [part for part in relative.parent.parts if not set(re.findall(r"[a-z0-9.]+", part.lower())) <= empty]
    return Pair(pair.image, pair.mask, "/".join([*parts, relative.name]))


def match_files(
    images: Sequence[Path],
    masks: Sequence[Path],
    images_at: str,
    masks_at: str,
    unlabeled: str = "error",
    lost: list[Lost] | None = None,
) -> Layout:
    """Pair files by their names without extension; what all names of one side begin or end with is taken off.

    Where nothing but numbers is left, the numbers have to be equal: 04 goes with labels00000004.

    Args:
        images: images.
        masks: masks.
        images_at: where the images are, for messages.
        masks_at: where the masks are, for messages.
        unlabeled: "error" or "skip" for images without a mask.
        lost: where it is given, what does not pair is left out and told here, instead of an error.

    Raises:
        DatasetError: if an image has no mask or a mask no image, or two files share a name.
    """
    if lost is not None:
        images, masks = _without_twins(images, masks, lost)
    left, right = _by_stem(images), _by_stem(masks)
    notes: list[str] = []
    if not left.keys() & right.keys():
        one, two = distinct_parts(left), distinct_parts(right)
        if len(one) == len(left) and len(two) == len(right) and one.keys() & two.keys():
            left = {key: left[stem] for key, stem in one.items()}
            right = {key: right[stem] for key, stem in two.items()}
            key = next(iter(one.keys() & two.keys()))
            notes.append(paired_by_part(Pair(left[key], right[key], key)))
    lonely, extra = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    if lonely and (unlabeled == "error" or len(lonely) == len(left)):
        files = [left[key] for key in lonely]
        hint = name_hint(files[0], masks)
        remedy = (
            f"no mask of the same name in {masks_at}{hint}; add the masks (the name without its extension must be "
            'equal), remove the images, or leave them out (unlabeled="skip", --unlabeled skip)'
        )
        if lost is None or len(lonely) == len(left):
            raise DatasetError(f"{some(files, 5)}: {remedy}")
        lost.append(Lost("images without a mask", f"{files[0]}: {remedy}", tuple(map(str, files))))
    if extra:
        files = [right[key] for key in extra]
        hint = name_hint(files[0], images)
        remedy = (
            f"no image of the same name in {images_at}{hint}; add the images (the name without its extension must "
            "be equal) or remove the masks"
        )
        if lost is None:
            raise DatasetError(f"{some(files, 5)}: {remedy}")
        lost.append(Lost("masks without an image", f"{files[0]}: {remedy}", tuple(map(str, files))))
    if lonely and unlabeled == "skip":
        notes.append(f"{images_at}: {len(lonely)} images without a mask are left out")
    pairs = [Pair(left[key], right[key], left[key].stem) for key in sorted(left.keys() & right.keys())]
    return Layout(f"{images_at} + {masks_at}", {"all": pairs}, notes)


def paired_by_part(pair: Pair) -> str:
    """Say by an example that the names of images and masks were not equal."""
    return f"paired by the part of the names that differs: {pair.image.name} with {pair.mask.name}"


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        name = plain_name(file.stem)
        if name in found:
            raise DatasetError(f"{found[name]} and {file} share one name; remove or rename one of them")
        found[name] = file
    return found


def _without_twins(images: Sequence[Path], masks: Sequence[Path], lost: list[Lost]) -> tuple[list[Path], list[Path]]:
    """Leave out every name that two images or two masks share."""
    twins: set[str] = set()
    for files in (images, masks):
        by_name: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            by_name[plain_name(file.stem)].append(file)
        for name, same in by_name.items():
            if len(same) > 1:
                twins.add(name)
                both = " and ".join(map(str, same))
                message = f"{both} share one name; remove or rename one of them"
                lost.append(Lost("files that share one name", message, tuple(map(str, same))))
    kept = [[file for file in files if plain_name(file.stem) not in twins] for files in (images, masks)]
    return kept[0], kept[1]


# ---- what was named --------------------------------------------------------------------------------------------------


def _from_patterns(root: Path, images: str, masks: str, unlabeled: str, lost: list[Lost] | None) -> Layout:
    left, right = _named(root, images, "images"), _named(root, masks, "masks")
    by_split: dict[str, dict[str, list[Path]]] = {}
    for kind, files in (("image", left), ("mask", right)):
        for file in files:
            split = meaning_of(file.relative_to(root).parent.as_posix())[1] or "all"
            by_split.setdefault(split, {"image": [], "mask": []})[kind].append(file)
    if not any(part["image"] and part["mask"] for part in by_split.values()):
        by_split = {"all": {"image": left, "mask": right}}
    layout = Layout(f"{images} + {masks}", {})
    layout.notes += _one_sided(by_split, images, masks, unlabeled, lost)
    by_split = {split: part for split, part in by_split.items() if part["image"] and part["mask"]}
    for split, part in by_split.items():
        matched = match_files(part["image"], part["mask"], images, masks, unlabeled, lost)
        layout.splits[split] = [_keyed(root, pair) for pair in matched.splits["all"]]
        layout.notes += matched.notes
    if layout.splits.keys() != {"all"} and "train" not in layout.splits:
        layout.splits = {"all": [pair for part in layout.splits.values() for pair in part]}
    listed = _lists(root, layout.splits, lost)
    if listed is not None:
        layout.splits, note = listed
        layout.notes.append(note)
    return layout


def _one_sided(
    by_split: Mapping[str, Mapping[str, list[Path]]], images: str, masks: str, unlabeled: str, lost: list[Lost] | None
) -> list[str]:
    """Refuse splits that have images only or masks only, or tell them; a split is never mixed with another."""
    notes = []
    for split, part in by_split.items():
        if part["image"] and part["mask"]:
            continue
        where = f"of the split {split!r}" if split != "all" else "outside the folders of the splits"
        if part["image"] and unlabeled == "skip":
            notes.append(f"{images}: {len(part['image'])} images {where} are without masks and left out")
            continue
        if part["image"]:
            files, rule = part["image"], "images without a mask"
            remedy = (
                f"images {where}, where {masks} has no masks; add the masks, remove the images, or leave them out "
                '(unlabeled="skip", --unlabeled skip)'
            )
        else:
            files, rule = part["mask"], "masks without an image"
            remedy = f"masks {where}, where {images} has no images; add the images or remove the masks"
        if lost is None:
            raise DatasetError(f"{some(files, 5)}: {remedy}")
        lost.append(Lost(rule, f"{files[0]}: {remedy}", tuple(map(str, files))))
    return notes


def _named(root: Path, given: str, option: str) -> list[Path]:
    place = root / given
    if place.is_dir():
        files = [path for path in sorted(place.rglob("*")) if _is_file(path)]
    elif any(sign in given for sign in "*?["):
        files = [path for path in sorted(root.glob(given)) if _is_file(path)]
        nested = [path for path in sorted(root.glob(given)) if path.is_dir()]
        files += [path for folder in nested for path in sorted(folder.rglob("*")) if _is_file(path)]
    else:
        there = ", ".join(folder.path for folder in _folders(root)[:12])
        raise FileNotFoundError(f"{option}={given!r}: no such folder in {root}; there are {there}")
    if not files:
        raise DatasetError(f"{option}={given!r}: no images there in {root}; accepted are {', '.join(EXTENSIONS)}")
    return files


def _is_file(path: Path) -> bool:
    return path.suffix.lower() in MASK_EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _from_table(root: Path, given: str, lost: list[Lost] | None = None) -> Layout:
    path = Path(given) if Path(given).is_absolute() else root / given
    if not path.is_file():
        raise FileNotFoundError(f"pairs={given!r}: no such file; give a CSV, TSV or JSON-lines file")
    splits: dict[str, list[Pair]] = defaultdict(list)
    bad: list[str] = []
    for number, row in rows_of(path):
        try:
            split, pair = pair_of_row(root, path, number, row)
        except DatasetError as error:
            if lost is None:
                raise
            bad.append(str(error))
            continue
        splits[split].append(pair)
    if lost is not None and bad:
        lost.append(Lost(f"lines of {path.name} that name no pair", bad[0], tuple(bad)))
    if not splits and bad:
        raise DatasetError(bad[0])
    if not splits:
        raise DatasetError(f"{path}: no pairs in it; write the columns image and mask, one pair a line")
    if "all" in splits and len(splits) > 1:
        raise DatasetError(f"{path}: {len(splits['all'])} lines name no split and others do; name it in every line")
    return Layout(f"pairs of {path.name}", dict(splits))


def pair_of_row(root: Path, path: Path, number: int, row: Mapping[str, str]) -> tuple[str, Pair]:
    """Make a pair of a line with image, mask and, if there is one, split.

    Args:
        root: the data folder.
        path: the file of the line; names are relative to its folder.
        number: of the line, for messages.
        row: column -> what stands in it.

    Returns:
        The split, or "all", and the pair.

    Raises:
        DatasetError: if a name is missing, leads out of both folders, or is that of no file.
    """
    files = {}
    for column in ("image", "mask"):
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{path}: line {number} has no {column}; every line has the columns image and mask")
        place = path.parent / name.strip()
        try:
            real = place.resolve()
            there = place.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a circle of links
            raise DatasetError(
                f"{path}: line {number}: {name[:80]!r} is no name of a file ({type(error).__name__}); correct the line"
            ) from error
        if root.resolve() not in real.parents and path.parent.resolve() not in real.parents:
            raise DatasetError(
                f"{path}: line {number}: {name!r} leads out of {path.parent}; keep the files of a set in its folder"
            )
        if not there:
            raise DatasetError(f"{path}: line {number}: {place}: no such file; correct the line or remove it")
        files[column] = place
    word = str(row.get("split") or "all").strip().lower()
    split = SPLIT_WORDS.get(word, word)
    if split not in ("train", "val", "test", "all"):
        raise DatasetError(f"{path}: line {number}: split={word!r}; choose train, val or test")
    return split, Pair(files["image"], files["mask"], str(Path(row["image"].strip()).with_suffix("")))


def rows_of(path: Path, needed: Sequence[str] = ("image", "mask")) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Read the lines of a CSV, TSV or JSON-lines file.

    Args:
        path: the file.
        needed: columns that a CSV or TSV file has to have.

    Yields:
        The number of the line, and column -> what stands in it.

    Raises:
        DatasetError: if the file is damaged, or a column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    lines = text.splitlines()
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path}: line {number} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{path}: line {number} is no JSON object with image and mask")
            yield number, row
        return
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if delimiter == "," and lines and "," not in lines[0] and ";" in lines[0]:
        delimiter = ";"  # as spreadsheets write it where the comma is the decimal sign
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise DatasetError(f"{path}: line 1 cannot be read ({error}); save it as CSV with one pair a line") from error
    if not set(needed) <= set(columns):
        raise DatasetError(
            f"{path}: its first line names the columns {columns}; it must name image and mask (and split, if you like)"
        )
    reader.fieldnames = columns
    try:
        yield from enumerate(reader, 2)
    except csv.Error as error:
        raise DatasetError(f"{path}: cannot be read ({error}); save it as CSV with one pair a line") from error


def _lists(
    root: Path, splits: Mapping[str, list[Pair]], lost: list[Lost] | None = None
) -> tuple[dict[str, list[Pair]], str] | None:
    """Take the splits from files of names, ImageSets/Segmentation/train.txt or train.txt with val.txt or test.txt.

    Lists that do not fit the pairs are refused, or told in `lost`: another split than theirs is never made of them.
    """
    if set(splits) != {"all"}:
        return None
    pairs = splits["all"]
    names = _Names(root, pairs)
    wrong: list[Lost] = []
    places = {root, *(pair.image.parent.parent for pair in pairs)}
    for place in sorted(place for place in places if place == root or root in place.parents):
        for folder in (place / "ImageSets" / "Segmentation", place):
            lists = _read_lists(folder)
            if lists is None:
                continue
            listed = _listed_pairs(folder, place, lists, names)
            if isinstance(listed, Lost):
                wrong.append(listed)
                continue
            found, gone = listed
            taken = {pair for part in found.values() for pair in part}
            rest = len(pairs) - len(taken)
            more = f"; {rest} pairs are in no list and left out" if rest else ""
            more += "".join(f"; {sentence}" for sentence in gone)
            return found, f"splits from {folder.relative_to(root).as_posix()}/*.txt{more}"
    if wrong and lost is None:
        raise DatasetError(wrong[0].message)
    if lost is not None:
        lost += wrong[:1]
    return None


def _read_lists(folder: Path) -> dict[str, list[tuple[int, str]]] | None:
    """Read the lists of a folder; None where there is none for train, or nothing beside it."""
    paths = [folder / f"{split}.txt" for split in ("train", "val", "test")]
    lists = {path.stem: lines for path in paths if path.is_file() and (lines := _lines(path))}
    return lists if "train" in lists and len(lists) > 1 else None


def _lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a list that are not empty, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8, one name a line") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _listed_pairs(
    folder: Path, place: Path, lists: Mapping[str, list[tuple[int, str]]], names: _Names
) -> tuple[dict[str, list[Pair]], list[str]] | Lost:
    """Give the pairs of every list of a folder, and what was decided; or what is wrong with a list."""
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
                return Lost("lists of names that fit several images", message, (str(path),))
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
            return Lost("lists of names that fit no image", message, (str(path),))
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
        return Lost("lists that leave nothing to train on", message, (str(path),))
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
        stems = {plain_name(file.stem) for folder in self._folders for file in folder.iterdir() if _is_file(file)}
        texts = (_posix(text).rsplit("/", 1)[-1] for line in lines for text in (line, line.split()[0]))
        return any(form in stems for text in texts for form in _forms(text))


def _posix(text: str) -> str:
    return plain_name(text.replace("\\", "/")).removeprefix("./")


def _forms(name: str) -> list[str]:
    """Give a name as it is, and without its extension."""
    cut = name.rsplit(".", 1)[0]
    return [name, cut] if cut and "." in name.rsplit("/", 1)[-1][-5:] else [name]


def split_by(root: Path, layout: Layout, folder: str | Path, lost: list[Lost] | None = None) -> Layout:
    """Take the splits of a layout from a folder of lists, in place of those that it has.

    Args:
        root: the data folder.
        layout: where the pairs lie.
        folder: holds train.txt and val.txt, test.txt or both: names of images, one a line.
        lost: where it is given, lists that do not fit are told here, and the layout is left as it is.

    Returns:
        The layout with the splits of the lists; images that no list names are left out.

    Raises:
        FileNotFoundError: if the folder holds no such lists.
        DatasetError: if a line fits several images, or no line of a list one.
    """
    folder = Path(folder).expanduser()
    lists = _read_lists(folder)
    if lists is None:
        raise FileNotFoundError(f"lists={str(folder)!r}: no train.txt with val.txt or test.txt in it; check the path")
    pairs = list(dict.fromkeys(pair for part in layout.splits.values() for pair in part))
    listed = _listed_pairs(folder, root, lists, _Names(root, pairs))
    if isinstance(listed, Lost):
        if lost is None:
            raise DatasetError(listed.message)
        lost.append(listed)
        return layout
    splits, gone = listed
    rest = len(pairs) - sum(map(len, splits.values()))
    more = [f"{rest} pairs are in no list and left out"] if rest else []
    layout.notes.append("; ".join([f"splits from {folder}/*.txt", *more, *gone]))
    return replace(layout, splits=splits)


def with_lists(root: Path, layout: Layout) -> Layout:
    """Split a layout that has no splits by the lists of names beside it, if there are any."""
    listed = _lists(root, layout.splits)
    if listed is None:
        return layout
    splits, note = listed
    return Layout(layout.name, splits, [*layout.notes, note])


def _candidates(folders: Sequence[_Folder]) -> str:
    shown = [f"{folder.path}/ ({len(folder.files)} files, {folder.files[0].name} ...)" for folder in folders]
    return some(shown, 10)

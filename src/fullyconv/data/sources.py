"""From a folder or the name of a public set to splits and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fullyconv.data import camvid
from fullyconv.data.annotated import find_annotated
from fullyconv.data.annotated.documents import read_json
from fullyconv.data.folder import LAYOUTS, check_sizes, find_splits
from fullyconv.data.layouts import OPTIONS, Layout, Lost, ambiguous, find_layout, paired_by_part, split_by, with_lists
from fullyconv.data.masks import MaskReader, reader_for
from fullyconv.data.pairs import Pair, plain_name
from fullyconv.data.public import PUBLIC, PublicSet, fetch, locate, recognize
from fullyconv.data.readers import FileReader, Reader
from fullyconv.errors import DatasetError, near_miss
from fullyconv.images import may_be_cut
from fullyconv.labels import IGNORE, Labels, as_text, count_values_of, packed_color

PUBLIC_SETS = tuple(PUBLIC)
"""Sets whose layout, classes and splits are known by name."""

ENVIRONMENT = "FULLYCONV_DATA"

MAX_CHANNELS = 1024  # what a model folder holds at most


@dataclass
class Source:
    """Hold what is known of a data set before an image of it is used.

    Args:
        root: its folder.
        layout: its layout in words.
        splits: "train", "val", "test" -> pairs, or "all" -> pairs where it has no splits.
        labels: classes and what the values in the masks mean.
        notes: what was found out or decided on the way, one sentence each, for people to read.
        counts: value -> pixels, of the masks that were read so far.
        reader: how its files are read.
        known: the public set that it is, if it is one.
        in_channels: C of the images.
        annotated: the layout, where its labels are no images of masks.
    """

    root: Path
    layout: str
    splits: dict[str, list[Pair]]
    labels: Labels
    notes: list[str] = field(default_factory=list)
    counts: dict[Path, dict[int, int]] = field(default_factory=dict, repr=False)
    reader: Reader = field(default_factory=FileReader, repr=False)
    known: PublicSet | None = None
    in_channels: int = 3
    annotated: Layout | None = None


def dataset_root(data: str | Path) -> Path:
    """Find the folder of a data set.

    Args:
        data: a folder, or the name of one under the folder that the environment variable FULLYCONV_DATA names.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is none; the message says what to set, or which sets there are.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise DatasetError(f"data={str(data)!r} is a file: give the folder that holds images and masks")
    root = os.environ.get(ENVIRONMENT)
    is_name = len(path.parts) == 1
    if not is_name:
        raise FileNotFoundError(f"data={str(data)!r}: no such folder; check the path")
    if not root:
        raise FileNotFoundError(
            f"data={str(data)!r}: no such folder here; for a public set by its name set {ENVIRONMENT}=FOLDER to the "
            f"folder that holds it (known sets: {', '.join(PUBLIC_SETS)})"
        )
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"{ENVIRONMENT}={root}: no such folder; set it to the folder that holds the public sets"
        )
    if path.name in PUBLIC:
        try:
            return fetch(path.name, root, download=False)  # found, or unpacked from archives that lie there
        except FileNotFoundError:
            if not (Path(root) / path).is_dir():
                raise  # a folder of that name that holds something else is taken as it is
    if (Path(root) / path).is_dir():
        return Path(root) / path
    there = [entry.name for entry in Path(root).iterdir() if entry.is_dir()]
    raise FileNotFoundError(
        f"data={str(data)!r}: no such folder, neither here nor in {ENVIRONMENT}={root}. {near_miss(str(data), there)}"
    )


def open_source(
    data: str | Path,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    lists: str | None = None,
    unlabeled: str = "error",
    in_channels: int = 3,
) -> Source:
    """Find splits and labels of a data set.

    The classes are, in this order: those given; those of a public set; the lines of `classes.txt`; the values or
    colors that the masks hold, named after them.

    Args:
        data: a folder or the name of a public set.
        classes: class names in the order of the network's outputs; by default value i in a mask is class i.
        values: value in the mask file -> class name or "ignore"; a value is a number, or a color "#rrggbb". Or the
            name of a public set, "voc2012", whose label map is taken.
        images: folder of the images inside the data folder, or a pattern of files, where it is not found.
        masks: folder of the masks inside the data folder, or a pattern of files, where it is not found; of annotations
            their JSON file or a pattern, of a table the column.
        pairs: a CSV, TSV or JSON-lines file with the columns image, mask and, if you like, split.
        lists: a folder with train.txt and val.txt, test.txt or both: names of images, one a line, which take the place
            of the splits that the data has.
        unlabeled: "skip" leaves out images without a mask, "error" refuses them.
        in_channels: C of the images; 3 reads all as RGB, 1 as gray, any other number has to be that of the files.

    Returns:
        The source; `splits` as they are in the folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if the layout is none that is understood, images and masks do not pair, or the values in the masks
            do not tell what they mean.
        ValueError: if `classes` or `values` break a rule of `Labels`, or `in_channels` is no number of bands.
    """
    source = find_source(
        data, images=images, masks=masks, pairs=pairs, lists=lists, unlabeled=unlabeled, in_channels=in_channels
    )
    _refuse_shared(source.splits)
    find_labels(source, classes=classes, values=values)
    return source


def find_source(
    data: str | Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    pairs: str | None = None,
    lists: str | None = None,
    unlabeled: str = "error",
    in_channels: int = 3,
    lost: list[Lost] | None = None,
) -> Source:
    """Find the pairs of a data set, and no labels yet: the first half of `open_source`, whose arguments these are.

    Args:
        data: a folder or the name of a public set.
        images: folder of the images, or a pattern.
        masks: folder of the masks, or a pattern.
        pairs: a file of pairs.
        lists: a folder of lists of names.
        unlabeled: what becomes of images without a mask.
        in_channels: C of the images.
        lost: where it is given, files that do not pair are left out and told here, instead of an error.

    Returns:
        The source, with stand-ins for labels and reader.
    """
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or not 1 <= in_channels <= MAX_CHANNELS:
        raise ValueError(f"in_channels={in_channels!r}: the number of bands of the images, 1..{MAX_CHANNELS}")
    root = dataset_root(data)
    known: PublicSet | None = None
    if images is None and masks is None and pairs is None:
        known, root = _public(data, root)
    if known is not None and (lost is None or known.name != "camvid"):
        layout = Layout(known.facts.title, known.find_splits(root), list(known.facts.notes))
        layout.notes += _fewer(layout.splits, known)
    elif images is None and masks is None and pairs is None and camvid.has_layout(root):
        if lost is None:
            layout = Layout("CamVid", camvid.find_splits(root))
        else:
            layout = Layout("CamVid", {})
            for split in camvid.SPLITS:
                both = split, f"{split}annot"
                if all((root / name).is_dir() for name in both):
                    found = find_layout(root, images=both[0], masks=both[1], unlabeled=unlabeled, lost=lost)
                    layout.splits[split] = [pair for part in found.splits.values() for pair in part]
    else:
        options = {"images": images, "masks": masks, "unlabeled": unlabeled}
        annotated = None if pairs is not None else find_annotated(root, **_checked(options, root), lost=lost)
        layout = annotated or _layout(root, images, masks, pairs, unlabeled, lost)
    if lists is not None:
        layout = split_by(root, layout, lists, lost)
    source = Source(root, layout.name, layout.splits, Labels.of(["unknown"]), list(layout.notes), known=known)
    source.in_channels = in_channels
    source.annotated = layout if layout.reader is not None else None
    source.reader = with_channels(layout.reader or source.reader, in_channels)
    return source


def find_labels(
    source: Source,
    some: Sequence[Pair] | None = None,
    *,
    classes: Sequence[str] | None = None,
    values: Mapping[int | str, str] | str | None = None,
) -> None:
    """Find labels and reader of a source: the second half of `open_source`.

    Args:
        source: where labels, reader and notes are set.
        some: the pairs whose masks are looked at; by default all.
        classes: class names.
        values: value in the mask file -> class name or "ignore", or the name of a public set.
    """
    if isinstance(values, str):
        _take_preset(source, some, classes, values)
        return
    values = _numbers(values)
    every = [pair for split in source.splits.values() for pair in split] if some is None else list(some)
    root = source.root
    listing = root / "classes.txt"
    known = source.known
    if known is None and source.layout == "CamVid" and camvid.is_camvid(root, source.splits):
        known = PUBLIC["camvid"]  # of which files are missing
    if known is not None:
        own = next(iter(known.labels.values()))
        numbers = _only_numbers(values)
        source.reader = with_channels(known.reader(root), source.in_channels)
        source.in_channels = int(getattr(source.reader, "channels", source.in_channels))
        if classes is not None and tuple(classes) != own.names:
            source.labels = Labels.of(classes, values=numbers)
        elif numbers:
            source.labels = Labels(own.names, own.palette, own.ignore_index, {**own.values, **dict(numbers.items())})
        else:
            source.labels = own
        return
    if source.annotated is not None and source.annotated.labels is not None:
        source.labels = _renamed(source.annotated.labels, classes, _only_numbers(values))
        if listing.is_file() and f"classes from {listing}" not in source.notes:
            source.notes.append(f"{listing} is not used: the annotations name the classes; values= renames them")
        return
    numbered = root / "id2label.json"
    if values is None and classes is None and not listing.is_file() and numbered.is_file():
        values = _numbers(read_json(numbered, 2**20))
        source.notes.append(f"classes from {numbered}")
    named = classes is not None or listing.is_file()
    base = source.reader if isinstance(source.reader, MaskReader) else None
    reader, labels, notes = reader_for(every, values, named=named, base=base)
    source.reader = with_channels(reader, source.in_channels)
    source.notes += notes
    if labels is not None:
        source.labels = labels
        if classes is not None and list(labels.names) != list(classes):
            raise ValueError(
                f"classes={list(classes)}: the masks hold colors, whose classes are {list(labels.names)}; name them "
                'with values={"#rrggbb": name} instead'
            )
        return
    numbers = _only_numbers(values)
    if classes is not None:
        source.labels = Labels.of(classes, values=numbers)
    elif listing.is_file():
        source.labels = _labels_from_listing(listing, numbers)
        source.notes.append(f"classes from {listing}")
    elif numbers:
        names = dict.fromkeys(name for _, name in sorted(numbers.items()) if name != IGNORE)
        source.labels = Labels.of(tuple(names), values=numbers)
    else:
        count_values(source, every)
        found_values = {value: path for path in source.counts for value in source.counts[path]}
        source.labels, note = labels_from_values(found_values)
        source.notes.append(note)


def _take_preset(source: Source, some: Sequence[Pair] | None, classes: Sequence[str] | None, name: str) -> None:
    """Read masks by the label map of a public set: by its numbers or, where they hold colors, by its colors."""
    if classes is not None:
        raise ValueError(f"values={name!r} names a public set, whose classes are known; leave classes= out")
    if name not in PUBLIC:
        raise ValueError(
            f"values={name!r}: give a mapping, value in the mask -> class name, or the name of a public set. "
            f"{near_miss(name, PUBLIC)}"
        )
    own = next(iter(PUBLIC[name].labels.values()))
    notes = list(source.notes)
    try:
        find_labels(source, some, values=dict(own.values.items()))
        source.labels = own
    except DatasetError as error:
        source.notes[:] = notes
        palette = {as_text(packed_color(color)): text for text, color in zip(own.names, own.palette, strict=True)}
        if len(palette) < len(own.names):
            raise  # two classes share a color
        try:
            find_labels(source, some, values=dict(palette.items()))
        except DatasetError:
            raise error from None
    source.notes.append(f"label map of {name}, {own.num_classes} classes")


def _public(data: str | Path, root: Path) -> tuple[PublicSet | None, Path]:
    """Tell which public set a folder is, and where in it the set lies: by the name that was given, or by its files."""
    named = PUBLIC.get(str(data)) if Path(data) != root else None
    if named is not None and (folder := locate(named, root)) is not None:
        return named, folder
    return recognize(root) or (None, root)


def _fewer(splits: Mapping[str, Sequence[Pair]], known: PublicSet) -> list[str]:
    """Say where a split is not as large as it was published."""
    return [
        f"{split}: {len(splits[split])} pairs, {count} were published"
        for split, count in known.facts.counts.items()
        if split in splits and len(splits[split]) != count
    ]


def _layout(
    root: Path,
    images: str | None,
    masks: str | None,
    pairs: str | None,
    unlabeled: str,
    lost: list[Lost] | None = None,
) -> Layout:
    """Take the names that everybody uses as they are, unless other folders could be meant as well."""
    if images is None and masks is None and pairs is None and unlabeled == "error" and lost is None:
        plain = find_splits(root) if not ambiguous(root) else None
        if plain is not None:
            every = [pair for found in plain[1].values() for pair in found]
            unequal = [pair for pair in every if plain_name(pair.image.stem) != plain_name(pair.mask.stem)]
            notes = [paired_by_part(unequal[0])] if unequal else []
            return with_lists(root, Layout(*plain, notes))
    try:
        return find_layout(root, images=images, masks=masks, pairs=pairs, unlabeled=unlabeled, lost=lost)
    except DatasetError as error:
        if "no folder of images" not in str(error) and "no images in it" not in str(error):
            raise
        there = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
        listed = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "") if there else "nothing"
        raise DatasetError(
            f"{root}: holds {listed}, which is no layout that is understood. Accepted:\n{LAYOUTS}\nOr {OPTIONS}"
        ) from error


def _numbers(values: Mapping[int | str, str] | None) -> dict[int | str, str] | None:
    """Read keys as numbers where they are: JSON, YAML and command lines write them as text."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ValueError(f'values={values!r}: give a mapping of values in the mask files to names, {{0: "road"}}')
    read: dict[int | str, str] = {}
    for key, name in values.items():
        if not isinstance(name, str):
            raise ValueError(f"values={{{key!r}: {str(name)[:80]!r}}}: a class name is text")
        text = str(key).strip()
        value: int | str = int(text) if text.isascii() and text.isdigit() else text.lower()
        if value in read:
            raise ValueError(f"values: {value} is there twice ({read[value]} and {name}); give each value once")
        read[value] = name
    return read


def _only_numbers(values: Mapping[int | str, str] | None) -> dict[int, str] | None:
    if not values:
        return None
    bad = [key for key in values if not isinstance(key, int)]
    if bad:
        raise ValueError(f"values: {bad[0]!r} is no whole number, and these masks hold no colors")
    return {int(value): name for value, name in values.items()}


def _checked(options: dict[str, Any], root: Path) -> dict[str, Any]:
    """Refuse options before anything is looked for, as `find_layout` does."""
    if options["unlabeled"] not in ("error", "skip"):
        raise ValueError(f'unlabeled={options["unlabeled"]!r}: choose "error" or "skip"')
    for name in ("images", "masks"):
        given = options[name]
        if given is not None and (Path(given).is_absolute() or ".." in Path(given).parts):
            raise ValueError(f"{name}={given!r}: is looked for inside the data folder; give a path relative to {root}")
    return options


def _renamed(own: Labels, classes: Sequence[str] | None, numbers: Mapping[int, str] | None) -> Labels:
    """Take the classes that annotations name, unless values are given other names."""
    if classes is not None and not numbers and tuple(classes) != own.names:
        raise ValueError(
            f"classes={list(classes)}: the annotations name the classes {list(own.names)}; rename or join them by "
            f"their values ({own.describe_values()}): values={{1: name, ...}} (--values)"
        )
    if not numbers:
        return own
    table: dict[int | str, str] = dict(own.values)
    table.update(numbers.items())
    names = classes or list(dict.fromkeys(name for name in table.values() if name != IGNORE))
    return Labels.of(names, values=table)


def with_channels(reader: Reader, in_channels: int) -> Reader:
    """Make a reader of files read images of another number of bands.

    Args:
        reader: the reader; one that combines files, such as color and depth, has a number of its own.
        in_channels: C of the images; 3, the default everywhere, leaves such a reader as it is.

    Raises:
        ValueError: if the reader gives another number of bands and cannot be told to.
    """
    if isinstance(reader, FileReader):
        return replace(reader, channels=in_channels)
    own = getattr(reader, "channels", None)
    if in_channels not in (3, own):
        raise ValueError(f"in_channels={in_channels}: the images of this set have {own or 'their own'}; leave it out")
    return reader


def labels_from_values(found: Mapping[int, Path]) -> tuple[Labels, str]:
    """Name the classes after the values that masks hold, where the values leave no doubt.

    Args:
        found: value -> a mask that holds it.

    Returns:
        The labels, and a sentence that says what was made of the values.

    Raises:
        DatasetError: if the values may mean more than one thing; it says how to tell.

    Example:
        >>> labels_from_values({0: Path("a.png"), 1: Path("a.png"), 255: Path("b.png")})[0].values
        {0: 'class 0', 1: 'class 1', 255: 'ignore'}
    """
    values = sorted(found)
    shown = ", ".join(map(str, values[:16])) + (", ..." if len(values) > 16 else "")
    remedy = (
        "Say what they mean: a classes.txt in the folder (one name a line, the first line for value 0), "
        'classes=["name", ...], or values={value: "name" or "ignore"}'
    )
    if values == [0, 255]:
        labels = Labels.of(["background", "foreground"], values={0: "background", 255: "foreground"})
        return labels, "the masks hold 0 and 255: read as 0 = background, 255 = foreground"
    classes = [value for value in values if value != 255]
    if len(classes) < 2:
        raise DatasetError(
            f"{found[values[0]] if values else 'masks'}: all masks together hold the values {shown}, which is fewer "
            f"than two classes. {remedy}"
        )
    # Class indices lie close together; gray levels (0, 128, 255), antialiased masks and probabilities do not.
    if classes[-1] > 2 * len(classes) + 8 or (255 in values and len(classes) > 200):
        raise DatasetError(
            f"{found[classes[-1]]}: the masks hold the values {shown}, which do not look like class indices (gray "
            f"levels, antialiased borders or colors?). {remedy}"
        )
    table = {value: f"class {value}" for value in classes} | {255: IGNORE}
    note = f"no classes.txt: classes named after the values in the masks ({shown}; 255 = ignore)"
    return Labels.of([table[value] for value in classes], values=table), note


def count_values(source: Source, pairs: Iterable[Pair], threads: int | None = None) -> None:
    """Read masks and image headers in parallel and remember the pixels of every value; sizes that differ are an error.

    Args:
        source: where the counts are kept; masks that were read before are not read again.
        pairs: what to read.
        threads: number of threads; by default the number of processors, at most 16.

    Raises:
        DatasetError: if a file is damaged, or an image and its mask differ in size; the first in the order of `pairs`.
    """
    todo = [pair for pair in pairs if pair.mask not in source.counts]
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        for pair, counts in zip(todo, pool.map(partial(_count, source.reader), todo), strict=True):
            source.counts[pair.mask] = counts


def check_labels(source: Source, pairs: Sequence[Pair], threads: int | None = None) -> dict[str, int]:
    """Read every mask once and see that training will not stumble over one.

    Args:
        source: the data set.
        pairs: the pairs to check.
        threads: number of threads.

    Returns:
        Class name -> pixels in these masks, and "ignore" -> pixels.

    Raises:
        DatasetError: if a file is damaged, sizes differ, a value is not in the label map (with every such file counted
            and the first five named), if no pixel has a class, or if the masks look like 0/255 and the labels ignore
            255.
    """
    count_values(source, pairs, threads)
    labels = source.labels
    bad = [pair for pair in pairs if labels.unknown(source.counts[pair.mask])]
    if bad:
        others = [str(pair.mask) for pair in bad[1:5]]
        more = f" The same goes for {len(bad) - 1} more: {', '.join(others)}{', ...' if len(bad) > 5 else ''}."
        message = labels.stray_message(source.counts[bad[0].mask], bad[0].mask)
        values = {value for pair in pairs for value in source.counts[pair.mask]}
        raise DatasetError(message + (more if others else "") + shifted_hint(labels, values))
    totals = dict.fromkeys([*labels.names, IGNORE], 0)
    seen: set[int] = set()
    for pair in pairs:
        for value, pixels in source.counts[pair.mask].items():
            totals[labels.meaning[value]] += pixels
            seen.add(value)
    if hint := two_ends_hint(labels, seen):
        raise DatasetError(f"{pairs[0].mask}: {hint}")
    if not any(totals[name] for name in labels.names):
        raise DatasetError(f"{pairs[0].mask}: all pixels of all masks are ignored; check the label map and the masks")
    return totals


def two_ends_hint(labels: Labels, seen: set[int]) -> str:
    """Say what masks of 0 and 255 mean where the label map ignores 255; empty where that is not so."""
    if seen != {0, 255} or labels.values.get(255) != IGNORE or labels.num_classes != 2:
        return ""
    first, second = labels.names
    return (
        f"the masks hold 0 and 255 and nothing else, and 255 is ignored, so that {second!r} never occurs. Say what "
        f'they mean: values={{0: "{first}", 255: "{second}"}} (--values "0={first},255={second}")'
    )


def shifted_hint(labels: Labels, seen: set[int]) -> str:
    """Say that masks seem to count their classes from 1 where the label map counts from 0; empty where that is not so.

    Example:
        >>> shifted_hint(Labels.of(["a", "b"]), {1, 2, 255})
        ' The masks hold 1..2 and never 0: counted from 1? Then give values={1: "a", 2: "b"} (--values 1=a,2=b)'
    """
    count = labels.num_classes
    from_zero = all(labels.values.get(value) == name for value, name in enumerate(labels.names))
    if not from_zero or 0 in seen or labels.unknown(seen) != [count]:
        return ""
    table = list(enumerate(labels.names, 1))
    python = ", ".join(f'{value}: "{name}"' for value, name in table[:8]) + (", ..." if count > 8 else "")
    words = ",".join(f"{value}={name}" for value, name in table[:8]) + (",..." if count > 8 else "")
    return f" The masks hold 1..{count} and never 0: counted from 1? Then give values={{{python}}} (--values {words})"


def _count(reader: Reader, pair: Pair) -> dict[int, int]:
    mask = reader.mask(pair)
    check_sizes(pair, reader.size(pair), (mask.shape[0], mask.shape[1]))
    if may_be_cut(reader.image_file(pair) if isinstance(reader, FileReader) else pair.image):
        reader.image(pair)  # which names it, if it cannot be decoded
    return count_values_of(mask)


def _labels_from_listing(path: Path, values: Mapping[int, str] | None) -> Labels:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; save it as UTF-8, one class name a line") from error
    if not lines:
        raise DatasetError(f"{path}: empty; write one class name a line, the first line for value 0")
    if "" in lines:
        value = lines.index("")
        raise DatasetError(f'{path}: line {value + 1} is empty; write a class name, or "{IGNORE}", for value {value}')
    names = tuple(name for name in lines if name != IGNORE)
    try:
        table: dict[int, str] = dict(enumerate(lines))
        return Labels.of(names, values={**table, **(values or {})})
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def _refuse_shared(splits: Mapping[str, Sequence[Pair]]) -> None:
    """A file in two splits (a link, a folder given twice) makes every score a lie."""
    seen: dict[Any, tuple[str, Path]] = {}
    for split, pairs in splits.items():
        for pair in pairs:
            image = pair.image.resolve()
            if image in seen and seen[image][0] != split:
                raise DatasetError(
                    f"{pair.image} and {seen[image][1]} are one file, in the splits {seen[image][0]} and {split}; "
                    "keep it in one of them"
                )
            seen[image] = (split, pair.image)

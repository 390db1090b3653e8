"""Files that annotate one image each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fullyconv.data.layouts import Source, Tree
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, check_sizes, in_threads
from fullyconv.data.words import meaning_of
from fullyconv.errors import DatasetError
from fullyconv.images import MAX_PIXELS

MOST_POINTS = 200_000
"""Points of one file: Pillow goes through all that a shape has for every row of it."""


def drawn_size(reader: FileReader, pair: Pair, said: Sequence[object] = ()) -> tuple[int, int]:
    """Give height and width of an image that a mask is drawn for.

    Args:
        reader: reads the image.
        pair: the pair.
        said: height and width that the file of annotations says, if it says them.

    Raises:
        DatasetError: if it says others, or the image is too large.
    """
    height, width = reader.size(pair)
    if any(side is not None for side in said):
        sides = (side if isinstance(side, int | float) else repr(side)[:20] for side in said)
        check_sizes(pair, (height, width), tuple(sides))
    if height * width > MAX_PIXELS:
        raise DatasetError(f"{pair.image}: too large ({height} x {width} pixels), the bound is {MAX_PIXELS}")
    return height, width


def pair_documents(
    source: Source,
    tree: Tree,
    files: Sequence[Path],
    read: Callable[[Path], tuple[Any, list[str]]],
    image_of: Callable[[Path, Any], Path],
    split_of: Callable[[Path], str] = lambda image: "",
) -> tuple[dict[Path, Any], list[Path]]:
    """Pair images with the files that annotate them; what cannot be read is lost.

    Args:
        source: gets splits, and what is wrong.
        tree: what is in the data folder.
        files: the files.
        read: reads one, and lists the polygons in it of which nothing can be drawn.
        image_of: tells the image of a file, by what it says.
        split_of: tells the split of an image where its folders do not count.

    Returns:
        What the file of each image says, and the images beside these that have none.
    """

    def told_by(path: Path) -> tuple[Path, Any, list[str]] | str:
        try:
            said, short = read(path)
            return image_of(path, said), said, short
        except DatasetError as error:
            return str(error)

    told: dict[Path, Any] = {}
    owner: dict[Path, Path] = {}
    bad: list[str] = []
    skipped: list[str] = []
    for path, found in zip(files, in_threads(told_by, files), strict=True):
        if isinstance(found, str):
            bad.append(found)
            continue
        image, said, short = found
        if owner.setdefault(image, path) != path:
            bad.append(f"{path} and {owner[image]} both label {image}; remove one")
            continue
        told[image] = said
        skipped += short
        relative = image.relative_to(source.root)
        split = split_of(image) or meaning_of(relative.parent.as_posix())[1] or "all"
        source.splits.setdefault(split, []).append(Pair(image, path, relative.with_suffix("").as_posix()))
    if bad:
        source.lose("annotations that cannot be read", bad)
    if skipped:
        rule = f"{len(skipped)} polygons without three points"
        source.warn(rule, "nothing can be drawn of them: they are skipped, and are background", skipped)
    source.splits = {split: sorted(pairs, key=lambda pair: pair.key) for split, pairs in source.splits.items()}
    folders = {image.parent for image in told}
    return told, [image for image in tree.images if image not in told and image.parent in folders]

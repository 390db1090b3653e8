"""Files that annotate one image each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fullyconv.data.findings import Finding
from fullyconv.data.layouts import Layout, Tree
from fullyconv.data.pairs import Pair
from fullyconv.data.rows import whole_splits
from fullyconv.data.words import meaning_of
from fullyconv.errors import DatasetError


def pair_documents(
    layout: Layout,
    tree: Tree,
    files: Sequence[Path],
    read: Callable[[Path], tuple[Any, list[str]]],
    image_of: Callable[[Path, Any], Path],
    split_of: Callable[[Path], str] = lambda image: "",
) -> tuple[dict[Path, Any], list[Path]]:
    """Pair images with the files that annotate them; what cannot be read is lost.

    Args:
        layout: gets splits, and what is wrong.
        tree: what is in the data folder.
        files: the files.
        read: reads one, and lists the polygons in it of which nothing can be drawn.
        image_of: tells the image of a file, by what it says.
        split_of: tells the split of an image where its folders do not count.

    Returns:
        What the file of each image says, and the images beside these that have none.

    Raises:
        DatasetError: if images of a split lie beside others of none.
    """
    root = layout.root
    told: dict[Path, Any] = {}
    owner: dict[Path, Path] = {}
    bad: list[str] = []
    short: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        work = [pool.submit(read, path) for path in files]
    for path, done in zip(files, work, strict=True):
        try:
            said, few = done.result()
            image = image_of(path, said)
            if image in owner:
                raise DatasetError(f"{path} and {owner[image]} both label {image}; remove one")
        except DatasetError as error:
            bad.append(str(error))
            continue
        told[image], owner[image] = said, path
        short += few
        split = split_of(image) or meaning_of(image.relative_to(root).parent.as_posix())[1] or "all"
        key = image.relative_to(root).with_suffix("").as_posix()
        layout.splits.setdefault(split, []).append(Pair(image, path, key))
    if bad:
        layout.lost.append(Finding("error", "annotations that cannot be read", bad[0], tuple(bad)))
    if short:
        rule = f"{len(short)} polygons without three points"
        layout.warn(rule, "nothing can be drawn of them: they are skipped, and are background", short)
    whole_splits(layout, f"{root}: some images lie in the folder of a split and some in none")
    layout.splits = {split: sorted(pairs, key=lambda pair: pair.key) for split, pairs in layout.splits.items()}
    folders = {image.parent for image in told}
    return told, [image for image in tree.images if image not in told and image.parent in folders]

"""Lists of names, and the pairs that they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fullyconv.data.layouts import Source
from fullyconv.data.pairs import Pair, pair_names
from fullyconv.errors import DatasetError


def read_names(path: Path) -> list[str]:
    """Read a list: the first word of every line that is not empty and no comment.

    Args:
        path: the file.

    Returns:
        The names, each once, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no text, empty, or a name leads out of the folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it lists the images of a split, one name a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text; replace it by the published list") from error
    names = [line.split()[0].replace("\\", "/") for line in lines if line.strip() and not line.startswith("#")]
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or ":" in name:
            raise DatasetError(f"{path}: {name!r} leads out of the folder of the set; replace the list")
    if not names:
        raise DatasetError(f"{path}: empty; replace it by the published list")
    return list(dict.fromkeys(names))


def pairs_of(listing: Path, root: Path, image: str, mask: str, names: Iterable[str] | None = None) -> list[Pair]:
    """Make a pair of every name of a list.

    Args:
        listing: the list.
        root: what image and mask are relative to.
        image: path of an image, with {} for its name.
        mask: path of a mask, with {} for its name.
        names: the names, where they are not simply those of the list.

    Returns:
        The pairs, in the order of the names.

    Raises:
        DatasetError: if a file is missing; it tells how many are, and the first.
    """
    listed = read_names(listing) if names is None else names
    pairs = [Pair(root / image.replace("{}", name), root / mask.replace("{}", name), name) for name in listed]
    gone = [path for pair in pairs for path in (pair.image, pair.mask) if not path.is_file()]
    if gone:
        raise DatasetError(
            f"{listing}: names {len(pairs)} images, and {len(gone)} files of them are not there ({gone[0]}"
            f"{', ...' if len(gone) > 1 else ''}); unpack the set again, or correct the list"
        )
    return pairs


def exclude(pairs: Sequence[Pair], others: Iterable[Pair]) -> list[Pair]:
    """Leave out the pairs whose name is among those of others."""
    names = {pair.key for pair in others}
    return [pair for pair in pairs if pair.key not in names]


def by_suffix(folder: Path, ending: str) -> dict[str, Path]:
    """List the files of a folder and its sub-folders by what stands before an ending.

    Args:
        folder: the folder.
        ending: such as "_leftImg8bit.png".

    Returns:
        Path inside the folder without the ending -> the file, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; unpack all parts of the set")
    return {
        path.relative_to(folder).as_posix().removesuffix(ending): path
        for path in sorted(folder.rglob(f"*{ending}"))
        if not path.name.startswith(".")
    }


def paired(images: Mapping[str, Path], masks: Mapping[str, Path], where: Path) -> list[Pair]:
    """Pair two listings by name.

    Args:
        images: name -> image.
        masks: name -> mask.
        where: the folder of the masks, for the message.

    Returns:
        The pairs, sorted by name.

    Raises:
        DatasetError: if one side lacks what the other has, or there is nothing.
    """
    told = Source()
    pairs = pair_names(told, images, masks, "the set", str(where))
    if told.lost:
        raise DatasetError(f"{told.lost[0].message}; or unpack the set again")
    if not pairs:
        raise DatasetError(f"{where}: no images and masks there; unpack all parts of the set")
    return pairs

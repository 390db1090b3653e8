"""Public data sets with their own layouts, classes, palettes, splits and quirks: one file a set.

A set is asked for by its name, under the folder that FULLYCONV_DATA names, or known by its files where a folder is
given.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv import label_sets
from fullyconv.data.public.archives import ENDINGS, fetch_archive, install
from fullyconv.data.public.description import Archive, Facts, PublicSet
from fullyconv.data.public.nyudv2 import Nyudv2
from fullyconv.data.public.oxford_pet import OxfordPet
from fullyconv.data.public.pascal_context import PascalContext
from fullyconv.data.public.siftflow import SiftFlow
from fullyconv.data.public.trees import train_ids, trees
from fullyconv.data.public.voc import YEARS, Sbd, Voc
from fullyconv.errors import DatasetError, near_miss, tell
from fullyconv.labels import IGNORE, Labels
from fullyconv.lazy import submodules

__all__ = ["PUBLIC", "Archive", "Facts", "PublicSet", "describe", "fetch", "locate", "recognize", "set_named"]

_VOC = {"main": label_sets.voc()}
_NYUD = {"main": label_sets.nyudv2()}
_CONTEXT = label_sets.PASCAL_CONTEXT[1:]
_SEMANTIC, _GEOMETRIC = {"semantic": label_sets.sift_flow_semantic()}, {"geometric": label_sets.sift_flow_geometric()}
PUBLIC: dict[str, PublicSet] = {
    known.name: known
    for known in (
        trees("camvid", label_sets.camvid()),
        *(Voc(f"voc{year}", _VOC, year) for year in YEARS),
        Sbd("sbd", _VOC),
        Sbd("sbd_seg11valid", _VOC, "sbd", "seg11valid"),
        Sbd("sbd_noval", _VOC, "noval", "voc2012"),
        Sbd("voc2012_augmented", _VOC, "augmented", "voc2012"),
        PascalContext("pascal_context", {"main": label_sets.pascal_context()}),
        PascalContext(
            "pascal_context59", {"main": Labels.of(_CONTEXT, values={0: IGNORE, **dict(enumerate(_CONTEXT, 1))})}
        ),
        Nyudv2("nyudv2", _NYUD),
        Nyudv2("nyudv2_depth", _NYUD, "depth"),
        Nyudv2("nyudv2_hha", _NYUD, "hha"),
        Nyudv2("nyudv2_rgb_depth", _NYUD, "rgb-depth"),
        Nyudv2("nyudv2_rgb_hha", _NYUD, "rgb-hha"),
        SiftFlow("siftflow", _SEMANTIC | _GEOMETRIC),
        SiftFlow("siftflow_geometric", _GEOMETRIC),
        trees("cityscapes", label_sets.cityscapes(), train_ids()),
        trees("ade20k", label_sets.ade20k()),
        OxfordPet("oxford_pet", {"main": label_sets.oxford_pet()}),
        OxfordPet("oxford_pet_border", {"main": label_sets.oxford_pet(border=True)}),
        trees("coco_stuff", label_sets.coco_stuff()),
    )
}
"""The sets by name; several of them are one with another option."""


def set_named(name: str) -> PublicSet:
    """Find a set by its name.

    Raises:
        ValueError: if there is none of that name; the message offers the nearest.

    Example:
        >>> set_named("voc2011").facts.counts
        {'train': 1112, 'val': 1111}
    """
    if name not in PUBLIC:
        raise ValueError(f"{name!r}: no such public set. {near_miss(name, PUBLIC)}")
    return PUBLIC[name]


def recognize(root: Path) -> tuple[PublicSet, Path] | None:
    """Tell which public set a folder is, by what tells its files from those of any other set in the same layout.

    Args:
        root: the folder of the set, or one that holds nothing but what its archive unpacks to.

    Returns:
        The set and its own folder; None where it is none.

    Raises:
        DatasetError: if it is several; the message names them.
    """
    found: list[tuple[PublicSet, Path]] = []
    for known in PUBLIC.values():
        if any(known.entry == other.entry and known.is_set(folder) for other, folder in found):
            continue  # the same files with another option
        if (folder := _among([root], known)) is not None:
            found.append((known, folder))
    if len(found) > 1:  # the masks of PASCAL-Context lie in VOC 2010, which has its own; VOCdevkit holds many years
        names = [known.name for known, _ in found]
        raise DatasetError(
            f"{root}: holds more than one public set: {', '.join(names)}. Say which by its name: set "
            f"FULLYCONV_DATA={root} and give {names[0]!r}, or give the folder of one of them"
        )
    return found[0] if found else None


def locate(known: PublicSet, base: Path) -> Path | None:
    """Find the folder of a set in a folder of sets.

    Args:
        known: the set.
        base: the folder, as a rule that of FULLYCONV_DATA.

    Returns:
        The set's own folder, or None.
    """
    return _among([base / name for name in (*known.facts.folders, ".")], known)


def _among(folders: Iterable[Path], known: PublicSet) -> Path | None:
    """Find the first of several folders that is a set, as it is or as its archive unpacks."""
    for folder in folders:
        for place in (".", *known.facts.inside):
            try:
                if known.is_set(folder / place):
                    return folder / place
            except (DatasetError, OSError):  # an empty list, a mask that is none, a folder that may not be read
                continue
    return None


def fetch(name: str, base: str | Path, *, download: bool = True) -> Path:
    """Make a set ready in a folder of sets: find it, else unpack its archives, else fetch them where that is allowed.

    Nothing is half there: archives are checked and unpacked under another name, and moved into place.

    Args:
        name: the set.
        base: the folder of sets, as a rule that of FULLYCONV_DATA. Archives are looked for in it, and in the folder in
            it that is called after the set; what is unpacked goes into the latter.
        download: whether to fetch archives that are not there.

    Returns:
        The set's own folder.

    Raises:
        ValueError: if there is no set of that name.
        FileNotFoundError: if it is not there and cannot be fetched; the message says where to get it, whether that
            needs a login, and which files are looked for.
        DownloadError: if fetching failed.
        DatasetError: if an archive is damaged or hostile.
    """
    known, base = set_named(name), Path(base)
    folder = locate(known, base)
    if folder is None or not _complete(known, folder):
        for other in known.facts.needs:
            fetch(other, base, download=download)
        folder = locate(known, base)
    if folder is not None:
        return folder
    home = base / known.facts.folders[0]
    whole = next((ending for ending in ENDINGS if (base / f"{name}{ending}").is_file()), None)
    archives = known.archives if whole is None else (Archive(f"{name}{whole}"),)  # somebody packed the whole set
    places = [(archive, folder / archive.file) for archive in archives for folder in (base, home)]
    there = {archive: path for archive, path in places if path.is_file()}
    wanted = [archive for archive in archives if archive in there or not archive.optional]
    gone = [archive for archive in wanted if archive not in there]
    if not wanted or (gone and not (download and all(archive.urls for archive in gone))):
        raise FileNotFoundError(describe(known, base))
    if gone:
        tell(f"{known.facts.title}: {known.facts.license}; fetching it into {home}")
    ready = [(archive, there.get(archive) or fetch_archive(archive, home)) for archive in wanted]
    try:
        install(ready, home)
    except DatasetError:
        if locate(known, base) is None:  # else another process was faster
            raise
    folder = locate(known, base)
    if folder is None:
        raise DatasetError(f"{home}: was unpacked and is not laid out as {known.facts.title}:\n{known.facts.layout}")
    return folder


def _complete(known: PublicSet, folder: Path) -> bool:
    """Tell whether what a set needs of others is there."""
    if not known.facts.needs:
        return True
    try:
        known.find_splits(folder)
    except FileNotFoundError:
        return False
    return True


def describe(known: PublicSet, base: Path | None = None) -> str:
    """Say where a set is to be had and how it has to lie.

    Args:
        known: the set.
        base: the folder in which it was looked for.

    Returns:
        Several lines.
    """
    facts, archives = known.facts, known.archives
    where = "" if base is None else f" is not in {base}"
    lines = [f"{known.name}: {facts.title}{where}. {'Page' if facts.login else 'Get it from'}: {facts.page}"]
    if facts.login:
        lines.append("Its files are given to people with an account: log in, accept the terms, fetch them by hand.")
    if facts.needs:
        lines.append(f"It needs {', '.join(facts.needs)} as well.")
    if archives and all(archive.urls for archive in archives):
        lines.append(f"It can be fetched: fullyconv fetch {known.name}")
    if archives:
        files = ", ".join(archive.file for archive in archives)
        lines.append(f"Archives are unpacked where they lie in the folder: {files}, or {known.name}.zip or .tar")
    lines += [f"License: {facts.license}", "Its files, unpacked:", *(f"  {line}" for line in facts.layout.splitlines())]
    return "\n".join(lines)


if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

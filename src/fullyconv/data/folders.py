"""Pairs by the names of folders, and by those that options name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fullyconv.data.layouts import LAYOUTS, OPTIONS, Folder, Reading, Source, Tree
from fullyconv.data.pairs import Pair, common_names, pair_files
from fullyconv.data.words import IMAGE_WORDS, MASK_WORDS, SPLIT_WORDS, image_base, mask_base, meaning_of
from fullyconv.errors import DatasetError, some
from fullyconv.images import EXTENSIONS


def pair_folders(tree: Tree, reading: Reading) -> Source:
    """Pair folders by what their names say.

    Raises:
        DatasetError: if there is no layout, or more than one; the message lists what there is and the option to give.
    """
    root, folders, source = tree.root, tree.folders, Source(root=tree.root)
    images = image_folders(folders)
    inside = {folder.path: within(folder) for folder in images}
    masks = {folder.path: _masks_of(folder, folders, images) for folder in images}
    used = {path: found[0] for path, found in masks.items() if found}  # path of images -> masks
    if not used:
        found = f"no folder of images with a folder of masks beside it, only {_listed(folders)}"
        raise DatasetError(_unknown(root, found if folders else "no images in it"))
    for folder in images:
        if folder.path not in used:
            _without_masks(source, folder, used, reading)
            continue
        if len(several := masks[folder.path]) > 1:
            alike = len({tuple(sorted(file.stem for file in other.files)) for other in several}) == 1
            hint = "; if each holds the mask of one class, draw them into one" if alike else ""
            raise DatasetError(f"{root}: the masks of {folder.path}/ could be {_listed(several)}{hint}; {OPTIONS}")
        mask = used[folder.path]
        if same := [other for other in images if other is not folder and mask in masks[other.path]]:
            raise DatasetError(f"{root}: the images of {mask.path}/ could be in {_listed([folder, *same])}; {OPTIONS}")
        both = inside[folder.path] or (folder.files, mask.files)
        places = f"{root}/{folder.path}", f"{root}/{mask.path}"
        if not any(both):
            source.fail("an empty folder", f"{places[0]}: no images in it; accepted are {', '.join(EXTENSIONS)}")
        _add(source, folder.split, both, places, reading)
    taken = {*used, *(mask.path for mask in used.values())}
    source.layout = " + ".join(sorted(taken)) if len(taken) <= 6 else f"{len(taken)} folders"
    for folder in folders:
        if folder.path in taken or folder in images or not folder.files:
            continue
        if folder.role == "mask" or (folder.split and not folder.role):
            what = "masks without images" if folder.role else "images without masks"
            source.notes.append(f"{folder.path}: {len(folder.files)} {what}, left out")
    return source


def _add(
    source: Source, split: str, both: tuple[Sequence[Path], Sequence[Path]], places: tuple[str, str], reading: Reading
) -> None:
    """Pair the files of two folders, and add them to a split."""
    pairs = pair_files(source, *both, places, reading.unlabeled)
    if pairs:
        source.splits.setdefault(split or "all", []).extend(_keyed(source.root, pair) for pair in pairs)


def image_folders(folders: Sequence[Folder]) -> list[Folder]:
    """List the folders that hold images: they are called so, or their masks lie beside or among them."""
    named = [folder for folder in folders if folder.role == "image"]
    claimed = {(folder.group, folder.split) for folder in named}
    masks = {(folder.group, folder.split) for folder in folders if folder.role == "mask"} - claimed
    of_splits = {(group, True) for group, split in masks if split}

    def beside(folder: Folder) -> bool:
        of_masks = (folder.group, folder.split) in masks or (folder.group, bool(folder.split)) in of_splits
        return not folder.role and bool(folder.files) and (of_masks or within(folder) is not None)

    return [folder for folder in folders if folder in named or beside(folder)]


def mask_places(tree: Tree) -> list[str]:
    """List the folders that seem to hold images of masks, by their names, or beside the images."""
    return [
        folder.path for folder in tree.folders if folder.files and (folder.role == "mask" or within(folder) is not None)
    ]


def within(folder: Folder) -> tuple[list[Path], list[Path]] | None:
    """Part a folder in which every image lies beside its mask: x.jpg and x_mask.png, or x.jpg and x.png."""
    if folder.role in ("mask", "object"):
        return None
    bases = {file: mask_base(file.stem) for file in folder.files}
    based = {*bases.values()}  # 1_l of 1_l_mask is an image, and no mask of 1
    images = [file for file, base in bases.items() if base is None or file.stem in based]
    masks = [file for file in bases if file not in {*images}]
    plain = {name for file in images for name in (file.stem, image_base(file.stem))}
    if masks and 2 * sum(bases[file] in plain for file in masks) > len(masks):
        return images, masks
    if not folder.role and not folder.split and folder.path != ".":
        return None  # two forms of one file, as a rule
    # A mask is never a JPEG beside an image that is none.
    photos, others = ([file for file in folder.files if _is_jpeg(file) == jpeg] for jpeg in (True, False))
    stems, names = ([file.stem for file in side] for side in (photos, others))
    alike = photos and sorted(stems) == sorted(names) and len(set(stems)) == len(stems)
    return (photos, others) if alike else None


def _is_jpeg(file: Path) -> bool:
    return file.suffix.lower() in (".jpg", ".jpeg")


def _masks_of(images: Folder, folders: Sequence[Folder], others: Sequence[Folder]) -> list[Folder]:
    """List the folders that could be the masks of these images; it is their own, where every image has its mask by it.

    Args:
        images: a folder of images.
        folders: all folders.
        others: all folders of images.
    """
    if within(images) is not None:
        return [images]
    beside = [folder for folder in folders if folder.path != images.path and folder.split == images.split]
    named = [folder for folder in beside if folder.role == "mask" and folder.group == images.group]
    if not images.role:
        return [folder for folder in named if folder.files] or named
    # A folder whose files are called as the images are could be theirs, whatever it is called itself.
    least = 0.9 * len(images.files)
    alike = [
        folder
        for folder in beside
        if folder not in (*named, *others) and folder.role in ("", "mask") and len(folder.files) >= least > 0
        if folder.role or not all(map(_is_jpeg, folder.files))  # else overlays, thumbnails
    ]
    alike = [folder for folder in alike if common_names(images.files, folder.files) >= least]
    # Below the mask folder of the same name only, where every class or recording has a folder of its own.
    deeper = [folder for folder in alike if folder.role == "mask" and folder.group != images.group]
    if named and all(folder.group and len(folder.group) == len(images.group) for folder in deeper):
        alike = [folder for folder in alike if folder not in deeper]
    return [folder for folder in (*named, *alike) if folder.files] or named


def _without_masks(source: Source, folder: Folder, used: dict[str, Folder], reading: Reading) -> None:
    """Tell images that have no folder of masks: an error in train and val, where other splits have theirs."""
    number = f"{folder.path}: {len(folder.files)} images without masks, left out"
    others = next((mask.path for mask in used.values() if mask.split and mask.split != folder.split), None)
    if folder.split in ("", "test"):
        source.warn("images without masks", number, folder.files)
    elif others is None or reading.unlabeled == "skip":
        source.notes.append(number)
    else:
        what = f"no folder of masks goes with {source.root}/{folder.path}, as {others} with another split"
        remedy = 'add the masks, or leave the images out (unlabeled="skip", --unlabeled skip)'
        source.lose("images without a mask", folder.files, f"{what}; {remedy}")


def _keyed(root: Path, pair: Pair) -> Pair:
    """Name a pair after its image's place, without the words that say only that it is an image."""
    relative = pair.image.relative_to(root).with_suffix("")
    empty = IMAGE_WORDS | set(SPLIT_WORDS)
    parts = [part for part in relative.parent.parts if not set(re.findall(r"[a-z0-9.]+", part.lower())) <= empty]
    return Pair(pair.image, pair.mask, "/".join([*parts, relative.name]))


def from_options(tree: Tree, reading: Reading) -> Source:
    """Pair the images and masks that options name; of one that is not given what the names of folders say.

    Raises:
        FileNotFoundError: if an option names a folder that is not there.
        DatasetError: if what is not given could be several folders.
    """
    every = [file for folder in tree.folders for file in folder.files]
    options = {"image": (reading.images, reading.masks), "mask": (reading.masks, reading.images)}
    given_first = sorted(options, key=lambda role: options[role][0] is None)  # what is not given is found after it
    found = {role: _given(tree, every, role, *options[role]) for role in given_first}
    (images, left), (masks, right) = found["image"], found["mask"]
    by_split: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for kind, files in enumerate((left, right)):
        for file in files:
            by_split[meaning_of(file.relative_to(tree.root).parent.as_posix())[1] or "all"][kind].append(file)
    if not any(all(both) for both in by_split.values()):
        by_split = {"all": (left, right)}
    source = Source(f"{images} + {masks}", root=tree.root)
    for split, both in by_split.items():
        _add(source, split, both, (images, masks), reading)
    if "train" not in source.splits:
        source.splits = {"all": source.pairs}
    return source


def _given(
    tree: Tree, every: Sequence[Path], role: str, given: str | None, other: str | None
) -> tuple[str, list[Path]]:
    """Give what an option names and its files: a folder, or a pattern; where it is not given, the only such folder."""
    root, option = tree.root, f"{role}s"
    if given is None:
        chosen = [folder for folder in tree.folders if folder.role == role]
        near = [folder for folder in chosen if Path(folder.path).parent == Path(str(other)).parent]
        few = near if len(near) == 1 and role == "image" else chosen
        if len(few) != 1:
            told = f"{'masks' if role == 'image' else 'images'}={other!r} is given"
            raise DatasetError(f"{root}: {told}, and {_listed(chosen or tree.folders)}; {OPTIONS}")
        given = few[0].path
    if (root / given).is_dir():
        files = [file for file in every if root / given in file.parents]
    elif any(sign in given for sign in "*?["):
        hits = set(root.glob(given))
        files = [file for file in every if file in hits or not hits.isdisjoint(file.parents)]
    else:
        there = ", ".join(folder.path for folder in tree.folders[:12])
        raise FileNotFoundError(f"{option}={given!r}: no such folder in {root}; there are {there}")
    if not files:
        raise DatasetError(f"{option}={given!r}: no images there in {root}; accepted are {', '.join(EXTENSIONS)}")
    return given, files


def _unknown(root: Path, found: str) -> str:
    there = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    above, place = "", root.absolute()
    if place.name.lower() in IMAGE_WORDS | MASK_WORDS | SPLIT_WORDS.keys():
        above = f"if the set is {place.parent}, give that. This folder "
    holds = f"{above}holds {some(there, 12) or 'nothing'}, which is no layout that is understood ({found})"
    return f"{root}: {holds}. Accepted:\n{LAYOUTS}\nOr {OPTIONS}"


def _listed(folders: Sequence[Folder]) -> str:
    firsts = {folder: f", {folder.files[0].name} ..." if folder.files else "" for folder in folders}
    return some((f"{folder.path}/ ({len(folder.files)} files{first})" for folder, first in firsts.items()), 10)

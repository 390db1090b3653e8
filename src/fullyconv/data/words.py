"""The words by which people say in names of folders and files what is image, what mask, and of which split."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath

# fmt: off
IMAGE_WORDS = frozenset([
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "raw", "rgb", "input",
    "inputs", "frame", "frames", "scan", "scans",
])
MASK_WORDS = frozenset([
    "mask", "masks", "label", "labels", "labelled", "labeled", "annotation", "annotations", "annot", "annots", "ann",
    "anns", "anno", "annos", "lbl", "lbls", "seg", "segs", "segmentation", "segmentations", "segmentationclass", "gt",
    "groundtruth", "truth", "target", "targets", "trimap", "trimaps",
])
# fmt: on
OBJECT_WORDS = frozenset(["segmentationobject", "instances", "instance"])  # which object, not which class
SPLIT_WORDS = {"train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val"}
SPLIT_WORDS |= {"validation": "val", "test": "test", "testing": "test"}
_MASKS = "|".join(sorted(MASK_WORDS, key=len, reverse=True))
_JOINED = re.compile(r"(train|val|test)(annot|masks?|labels?|images?)|(images?|labels?)(tr|ts|val)")
_BESIDE = re.compile(rf"(.+?)[ _.-]*({_MASKS})", re.IGNORECASE)
_TWICE = r"\.(?:bmp|jpe?g|png|tiff?)"  # a.jpg.png, a.jpg.mask.png
_MASK_END = re.compile(rf"(.+?)(?:(?:{_TWICE})?[ _.-]+(?:{_MASKS}|l)|{_TWICE})", re.IGNORECASE)
_IMAGE_END = re.compile(rf"(.+?)[ _.-]+(?:{'|'.join(IMAGE_WORDS)}|sat)", re.IGNORECASE)


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
        splits = []
        for word in re.findall(r"[A-Za-z0-9.]+", part):
            lower = word.lower()
            if joined := _JOINED.fullmatch(lower):  # trainannot; imagesTr of nnU-Net
                splits.append(joined[1] or {"tr": "train", "ts": "test", "val": "val"}[joined[4]])
                role = "image" if (joined[2] or joined[3]).startswith("image") else "mask"
            elif lower in OBJECT_WORDS:
                role = "object"
            elif lower in MASK_WORDS:
                role = role if role == "object" else "mask"
            elif lower in IMAGE_WORDS:
                role = role or "image"
            elif (name := re.sub(r"(?<=.)20[0-9]{2}$", "", lower)) in SPLIT_WORDS:  # train2017
                splits.append(SPLIT_WORDS[name])
            else:
                rest.append(lower)
        if splits:  # train_val is trained on
            split = "train" if "train" in splits else splits[-1]
    return role, split, tuple(rest)


def split_of(relative: PurePath) -> str:
    """Tell by the name of a file, or else of its folders from below, to which split it belongs; "all" where none does.

    Example:
        >>> split_of(PurePath("annotations/instances_val2017.json"))
        'val'
    """
    for part in (relative.name.split(".")[0], *reversed(relative.parts[:-1])):
        for word in re.findall(r"[A-Za-z]+", part):
            if word.lower() in SPLIT_WORDS:
                return SPLIT_WORDS[word.lower()]
    return "all"


def apart(name: str, beside: Collection[str]) -> str:
    """Part the word for masks from the name of a folder that is called after the one beside it.

    Args:
        name: of the folder.
        beside: the names of all folders beside it.

    Example:
        >>> apart("dayannot", ["day", "dayannot"]), apart("dayannot", ["dayannot"])
        ('day annot', 'dayannot')
    """
    found = _BESIDE.fullmatch(name)
    return f"{found[1]} {found[2]}" if found and found[1].lower() in {other.lower() for other in beside} else name


def mask_base(stem: str) -> str | None:
    """Give what stands before the word for masks, or the extension, at the end of a name; None where there is neither.

    Example:
        >>> mask_base("a1_mask"), mask_base("a1.jpg"), mask_base("a1")
        ('a1', 'a1', None)
    """
    found = _MASK_END.fullmatch(stem)
    return found[1] if found else None


def image_base(stem: str) -> str | None:
    """Give what stands before the word for images at the end of a name; None where there is no such word.

    Example:
        >>> image_base("a1_sat"), image_base("a1_mask")
        ('a1', None)
    """
    found = _IMAGE_END.fullmatch(stem)
    return found[1] if found else None

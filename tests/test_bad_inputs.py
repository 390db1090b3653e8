"""A table of files and folders gone wrong in one way each: the message names file and remedy, or it is handled.

Every row goes through the doctor and through what `fit` does before its first step, images through `predict` as well;
no row ends in another exception, and none in a mask that is read wrongly.
"""

# ruff: noqa: E501

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated_trees import SIZE, SQUARE, annotation, coco_tree, labelme, labelme_tree, photo, shape
from conftest import write_tree
from fullyconv import cli
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine
from fullyconv.errors import DatasetError
from fullyconv.hub.load import load
from fullyconv.images import read_image

HTML = b"<!doctype html><html><body>Sign in to see this image</body></html>"


@dataclass(frozen=True)
class Row:
    """What goes wrong, what the doctor says, and whether training is stopped; None where it is simply handled."""

    name: str
    damage: Callable[[Path], object]
    doctor: str | None
    stops: str | None
    changes: bool = False  # whether the damage is to the labels themselves


def image(root: Path, number: int = 0) -> Path:
    return root / "train" / "images" / f"{number:03}.png"


def mask(root: Path, number: int = 0) -> Path:
    return root / "train" / "masks" / f"{number:03}.png"


def array(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def put(path: Path, values: np.ndarray, **options: object) -> None:
    Image.fromarray(values).save(path, **options)


def all_masks(root: Path) -> list[Path]:
    return sorted(root.glob("*/masks/*"))


def cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    put(path, change(array(path)))


def stray(value: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        values = array(mask(root))
        values[3, 4] = value
        put(mask(root), values)

    return damage


def as_jpeg(root: Path) -> None:
    for path in all_masks(root):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def rgb_masks(root: Path) -> None:
    for path in all_masks(root):
        Image.open(path).convert("RGB").save(path)


def turned(root: Path) -> None:
    photo = Image.open(image(root))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.convert("RGB").save(image(root).with_suffix(".jpg"), exif=exif)
    image(root).unlink()


def bomb(root: Path) -> None:
    import struct
    import zlib

    data = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
    image(root).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def frames(path: Path, suffix: str) -> None:
    photo = Image.open(path).convert("L")
    photo.save(path.with_suffix(suffix), save_all=True, append_images=[photo.rotate(180)])
    path.unlink()


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def ignored(root: Path) -> None:
    for path in all_masks(root):
        edit(path, lambda values: np.full_like(values, 255))


def zero_and_255(root: Path) -> None:
    (root / "classes.txt").write_text("ground\nbox\n")
    for path in all_masks(root):
        edit(path, lambda values: np.where(values == 1, 255, 0).astype(np.uint8))


def both(root: Path, name: str) -> None:
    rename(image(root), name)
    rename(mask(root), name)


def saved(path: Path, suffix: str, **options: object) -> None:
    photo = Image.open(path)
    photo.load()
    path.unlink()
    photo.save(path.with_suffix(suffix), **options)


def upside_down(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    saved(image(root), ".jpg", exif=exif)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def from_one(root: Path) -> None:
    for path in all_masks(root):
        edit(path, lambda values: np.where(values == 255, 255, values + 1).astype(np.uint8))


def soft(root: Path) -> None:
    for path in all_masks(root):
        box = Image.fromarray((array(path) == 1).astype(np.uint8) * 255)
        box.resize((640, 480), Image.Resampling.BICUBIC).resize((64, 48), Image.Resampling.BICUBIC).save(path)


def colored(root: Path) -> None:
    for path in all_masks(root):
        put(path, np.stack([array(path) * 80, array(path) % 3 * 40, array(path)], -1))


def photographs(root: Path) -> None:
    for path in all_masks(root):
        shutil.copy(path.parent.parent / "images" / path.name, path)


def nameless(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def both_done(root: Path) -> None:
        (root / "classes.txt").unlink()
        damage(root)

    return both_done


def listed(**lists: bytes) -> Callable[[Path], None]:
    """Make one split of the tree, with lists of names beside it."""

    def damage(root: Path) -> None:
        for kind in ("images", "masks"):
            shutil.move(root / "train" / kind, root / kind)
        for split in ("train", "val", "test"):
            shutil.rmtree(root / split)
        for split, text in lists.items():
            (root / f"{split}.txt").write_bytes(text)

    return damage


def leave(root: Path, split: str, number: int) -> None:
    for other in ("train", "val", "test"):
        if other != split:
            shutil.rmtree(root / other)
    for path in (root / split).rglob("*.png"):
        if int(path.stem) >= number:
            path.unlink()


def contradicted(root: Path) -> None:
    shutil.copy(image(root), image(root, 90))
    put(mask(root, 90), np.roll(array(mask(root)), 7, axis=1))


def classes(text: str | bytes) -> Callable[[Path], object]:
    return lambda root: (root / "classes.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


NO_MASK = r"000\.png: no mask of the same name .*add the masks"
ROWS = [
    Row("an image cut short", lambda r: cut(image(r)), r"images that cannot be read", "damaged or truncated"),
    Row("a mask cut short", lambda r: cut(mask(r)), r"masks/000\.png: damaged or truncated", "damaged or truncated"),
    Row("an image of no bytes", lambda r: image(r).write_bytes(b""), r"000\.png: an empty file", "an empty file"),
    Row("a mask of no bytes", lambda r: mask(r).write_bytes(b""), r"masks/000\.png: an empty file", "an empty file"),
    Row("a page saved as an image", lambda r: image(r).write_bytes(HTML), "is a web page", "is a web page"),
    Row("a page saved as a mask", lambda r: mask(r).write_bytes(HTML), "is a web page", "is a web page"),
    Row("a JPEG called PNG", lambda r: Image.open(image(r)).save(image(r), "JPEG"), None, None),
    Row("a mask missing", lambda r: mask(r).unlink(), NO_MASK, NO_MASK),
    Row("an image missing", lambda r: image(r).unlink(), r"000\.png: no image of the same name", "no image of the"),
    Row("a mask in other letters", lambda r: rename(mask(r), "000.PNG"), None, None),
    Row("a name twice", lambda r: Image.open(image(r)).save(image(r).with_suffix(".jpg")), "share one name", "share one"),
    Row("a mask one pixel short", lambda r: edit(mask(r), lambda v: v[:-1]), "differ in size", "47 x 64; both must be eq"),
    Row("a mask transposed", lambda r: edit(mask(r), np.transpose), "differ in size", "both must be equal"),
    Row("an image turned by its camera", turned, "EXIF orientation and the mask is not", "EXIF orientation and the mask"),
    Row("a value too many", stray(3), r"masks that hold values that are not in the label map", r"label value 3 \(1 pixels\)"),
    Row("a value far off", stray(200), r"000\.png: 200 \(1 pixels\)", "label value 200"),
    Row("a value in 16 bits", lambda r: put(mask(r), array(mask(r)).astype(np.uint16) + 256), "label value", "label value"),
    Row("32 bits below zero", lambda r: (put(mask(r).with_suffix(".tif"), array(mask(r)).astype(np.int32) - 1),
        mask(r).unlink()), r"label value -1", r"label value -1"),
    Row("fractions for labels", lambda r: (put(mask(r).with_suffix(".tif"), array(mask(r)).astype(np.float32)),
        mask(r).unlink()), None, None),
    Row("masks in gray RGB", rgb_masks, None, None),
    Row("one mask in colors", lambda r: put(mask(r), np.stack([array(mask(r)) * 80] * 2 + [array(mask(r))], -1)),
        "masks of one set are of one kind", "masks of one set are of one kind"),
    Row("JPEG masks", as_jpeg, "a JPEG mask; lossy compression", "a JPEG mask; lossy compression"),
    Row("a mask of two pages", lambda r: frames(mask(r), ".tif"), "holds 2 images; a mask is one", "holds 2 images"),
    Row("an image that moves", lambda r: frames(image(r), ".gif"), None, None),
    Row("a mask with alpha", lambda r: Image.open(mask(r)).convert("LA").save(mask(r)), None, None),
    Row("a palette mask", lambda r: Image.open(mask(r)).convert("P").save(mask(r)), None, None),
    Row("a CMYK image", lambda r: (Image.open(image(r)).convert("CMYK").save(image(r).with_suffix(".jpg")),
        image(r).unlink()), None, None),
    Row("an image of 16 bits", lambda r: put(image(r), array(image(r))[..., 0].astype(np.uint16) * 257), None, None),
    Row("an image with alpha", lambda r: Image.open(image(r)).convert("RGBA").save(image(r)), None, None),
    Row("an image of fractions", lambda r: (put(image(r).with_suffix(".tif"), array(image(r))[..., 0] / np.float32(255)),
        image(r).unlink()), None, None),
    Row("a header of a bomb", bomb, "too large|not an image", "too large|not an image"),
    Row("masks that ignore all", ignored, "masks that ignore every pixel", "all pixels of all masks are ignored"),
    Row("0 and 255 under two names", zero_and_255, "hold 0 and 255 and nothing else", "hold 0 and 255 and nothing else"),
    Row("no masks", lambda r: shutil.rmtree(r / "train" / "masks"), "no folder of masks goes with", "no folder of masks"),
    Row("an empty folder", lambda r: [p.unlink() for p in (r / "train").rglob("*.png")], "no images in it", "no images"),
    Row("a file in two splits", lambda r: shutil.copy(image(r), r / "val" / "images" / "000.png"),
        "images that are in more than one split", None),
    Row("a link into another split", lambda r: ((r / "val" / "images" / "000.png").unlink(),
        (r / "val" / "images" / "000.png").symlink_to(image(r))), "images that are in more than one split", "are one file, in the"),
    Row("an image twice", lambda r: (shutil.copy(image(r), image(r, 90)), shutil.copy(mask(r), mask(r, 90))),
        "images that are there more than once", None),
    Row("a broken link", lambda r: image(r).with_name("999.png").symlink_to(r / "nowhere.png"),
        "1 x images without a mask", r"999\.png: no mask"),
    Row("a link in a circle", lambda r: (r / "train" / "images" / "up").symlink_to(r, target_is_directory=True), None, None),
    Row("a folder called x.png", lambda r: image(r).with_name("folder.png").mkdir(), None, None),
    Row("droppings of systems", lambda r: [(image(r).with_name(n)).write_bytes(b"x") for n in (".DS_Store", "Thumbs.db",
        "._000.png")], None, None),
    Row("classes that are no text", classes(b"\xff\xfeg\x00"), r"classes\.txt: not UTF-8", r"classes\.txt: not UTF-8"),
    Row("classes with a mark and carriage returns", classes("\ufeffground\r\nbox\r\nsky\r\n"), None, None),
    Row("classes with a blank line", classes("ground\n\nsky\n"), "line 2 is empty", "line 2 is empty"),
    Row("a class twice", classes("ground\nground\nsky\n"), "holds 'ground' twice", "holds 'ground' twice"),
    Row("no classes in the file", classes(""), r"classes\.txt: empty", r"classes\.txt: empty"),
    Row("too few classes", classes("ground\nbox\n"), "not in the label map", "label value 2"),
    Row("a class too many", classes("ground\nbox\nsky\nmoon\n"), "1 x classes that never occur", None),
    Row("names in other scripts", classes("земля\n箱\nουρανός\n"), None, None),
    Row("tiny images", lambda r: (put(image(r), np.arange(3, dtype=np.uint8).reshape(1, 1, 3)),
        put(mask(r), np.ones((1, 1), np.uint8))), "tiny images", None, True),
    Row("an image of one color", lambda r: edit(image(r), np.zeros_like), "images of one color", None),
    Row("a class only in test", lambda r: [edit(p, lambda v: np.where(v == 1, 0, v).astype(np.uint8))
        for p in all_masks(r) if "train" in p.parts], "1 x classes that are not in train", None, True),
    Row("a JPEG cut short", lambda r: (saved(image(r), ".jpg"), cut(image(r).with_suffix(".jpg"))),
        "images that cannot be read", r"000\.jpg: damaged or truncated"),
    Row("a pipe", lambda r: pipe(image(r)), "no image of the same name", "no image of the same name"),
    Row("an image of a telephone", lambda r: rename(image(r), "000.heic"), r"000\.heic is there, but \.heic is no form",
        r"000\.heic is there, but \.heic is no format"),
    Row("masks of NumPy", lambda r: [(np.save(p.with_suffix(".npy"), array(p)), p.unlink()) for p in all_masks(r)],
        r"000\.npy is there, but \.npy is no format", r"000\.npy is there, but \.npy is no format"),
    Row("capitals in one name", lambda r: (rename(image(r), "IMG_1.png"), rename(mask(r), "img_1.png")),
        "img_1.png differs in upper and lower case only: rename one", "differs in upper and lower case only"),
    Row("accents of macOS", lambda r: (rename(image(r), "u\u0308.png"), rename(mask(r), "\u00fc.png")), None, None),
    Row("a name of other scripts", lambda r: both(r, "猫 и 犬.png"), None, None),
    Row("a long name", lambda r: both(r, "a" * 240 + ".png"), None, None),
    Row("a name of two lines", lambda r: both(r, "a\nb.png"), None, None),
    Row("a name that is no text", lambda r: both(r, os.fsdecode(b"\xff\xfe.png")), r"\\xff\\xfe\.png: its name is no UTF-8",
        r"\\xff\\xfe\.png: its name is no UTF-8"),
    Row("an image upside down", upside_down, "images that are turned by their EXIF orientation, and their masks are not", None),
    Row("labels counted from one", from_one, r"counted from 1\? Then give .*--values 1=ground,2=box,3=sky",
        r"counted from 1\? Then give .*--values 1=ground,2=box,3=sky"),
    Row("labels that are no numbers", lambda r: (put(mask(r).with_suffix(".tif"),
        np.where(array(mask(r)) == 0, np.nan, 1).astype(np.float32)), mask(r).unlink()),
        "a mask of floating point numbers", "a mask of floating point numbers"),
    Row("soft edges under names", soft, "not in the label map", "is not in the label map"),
    Row("soft edges", nameless(soft), "do not look like class indices", "do not look like class indices"),
    Row("colors under names", colored, r"hold 4 colors \(#000000 \d+", r"hold 4 colors \(#000000 \d+.*values="),
    Row("photographs for masks", photographs, "photographs, or antialiased edges", "photographs, or antialiased edges"),
    Row("masks of one class", lambda r: [edit(p, np.zeros_like) for p in all_masks(r)],
        "there is nothing to tell apart", "every labeled pixel of the training masks is"),
    Row("masks of one value", nameless(lambda r: [edit(p, np.zeros_like) for p in all_masks(r)]),
        "fewer than two classes", "fewer than two classes"),
    Row("validation that ignores all", lambda r: [edit(p, lambda v: np.full_like(v, 255)) for p in all_masks(r)
        if "val" in p.parts], "all masks of val are such", "all pixels of all masks are ignored"),
    Row("12 bits in 16", lambda r: put(image(r), array(image(r))[..., 0].astype(np.uint16) * 16), "images that are nearly black", None),
    Row("one image with two masks", contradicted, "masks that contradict each other", None),
    Row("one image alone", lambda r: leave(r, "train", 1), "one image cannot be split", "one image cannot be split"),
    Row("nothing but a test split", lambda r: leave(r, "test", 9), None, None),
    Row("a file in place of the masks", lambda r: (shutil.rmtree(r / "train" / "masks"), (r / "train" / "masks").touch()),
        "no folder of masks goes with", "no folder of masks goes with"),
    Row("a folder of macOS", lambda r: ((r / "__MACOSX" / "train" / "images").mkdir(parents=True),
        (r / "__MACOSX" / "train" / "images" / "._000.png").write_bytes(b"x")), None, None),
    Row("a class called ignore", classes("ground\nignore\nsky\n"), None, None),
    Row("lists of names", listed(train=b"000\n001\n002\n", val=b"003\n"), None, None, True),
    Row("lists that are no text", listed(train=b"stra\xdfe\n", val=b"003\n"), r"train\.txt: not UTF-8", r"train\.txt: not U"),
    Row("lists of places long gone", listed(train=b"/home/me/old/000.jpg\n/home/me/old/001.jpg\n", val=b"C:\\old\\002.jpg\n"),
        None, None, True),
    Row("lists of what is not there", listed(train=b"000\n001\n777\n", val=b"003\n"), None, None, True),
]  # fmt: skip


def test_the_table_is_long_enough_and_names_every_row_once() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) >= 80


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_a_folder_gone_wrong_in_one_way(row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "val": 3, "test": 2})
    before = {path: array(path) for path in all_masks(root)}
    row.damage(root)

    diagnosis = examine(root)
    said = diagnosis.text(None)
    if row.doctor is None:
        assert diagnosis.healthy(), said
    else:
        assert re.search(row.doctor, said), said
        serious = [finding for finding in diagnosis.findings if finding.severity != "note"]
        assert serious, said
        assert row.stops is None or not diagnosis.healthy()

    data, problem = opened(root)
    if row.stops is not None:
        assert re.search(row.stops, problem), problem
        return
    assert data is not None, f"training was stopped: {problem}"
    if row.changes:
        return
    # what is trained on is what the masks said before the damage
    for pairs in data.splits.values():
        for pair in pairs:
            old = before.get(pair.mask.with_name(pair.mask.name.lower()).with_suffix(".png"))
            assert old is None or (data.source.reader.mask(pair) == old).all(), pair.mask


def opened(root: Path, **options: str) -> tuple[SegmentationDataModule | None, str]:
    try:
        data = SegmentationDataModule.from_folder(root, **options)
        data.check()
        for split in data.splits:
            data.check(split)
    except (DatasetError, FileNotFoundError) as error:
        return None, str(error)
    return data, ""


# ---- files of pairs --------------------------------------------------------------------------------------------------

GOOD = "".join(f"train/images/00{n}.png,train/masks/00{n}.png,{s}\n" for n, s in enumerate(["train"] * 4 + ["val"] * 2))
PAIRS = [
    ("columns of other names", b"image,label\na,b\n", "line 2 has no mask; every line has the columns image and mask"),
    ("nothing", b"", "write the columns image and mask"),
    ("a line that is short", b"image,mask\ntrain/images/000.png\n", "line 2 has no mask"),
    ("a way out", b"image,mask\n../../etc/passwd,train/masks/000.png\n", "line 2: '../../etc/passwd' leads out of"),
    ("a place elsewhere", b"image,mask\n/etc/passwd,train/masks/000.png\n", "line 2: '/etc/passwd' leads out of"),
    ("a place long gone", b"image,mask\ntrain/images/zzz.png,train/masks/000.png\n", r"zzz\.png: no such file; correct"),
    ("a null byte", b"image,mask\ntrain/\0.png,train/masks/000.png\n", "line 2: .* is no name of a file"),
    ("a name without end", b"image,mask\n" + b"a" * 5000 + b",train/masks/000.png\n", "line 2: .* is no name of a file"),
    ("a field without end", b"image,mask\n" + b"a" * 200_000 + b",x\n", "cannot be read .field larger than"),
    ("another encoding", "image,mask\nstraße.png,x\n".encode("latin1"), "not UTF-8 text; save it as UTF-8"),
    ("a split of no name", b"image,mask,split\ntrain/images/000.png,train/masks/000.png,dev\n", "split='dev'; choose train"),
    ("a split left out", f"image,mask,split\n{GOOD}test/images/000.png,test/masks/000.png,\n".encode(), "is of no split"),
    ("an image in two splits", f"image,mask,split\n{GOOD}train/images/000.png,train/masks/000.png,val\n".encode(),
     "images that are in more than one split|are one file, in the splits"),
    ("semicolons", f"image,mask,split\n{GOOD}".replace(",", ";").encode(), None),
    ("a mark and carriage returns", ("\ufeff" + f"Image, Mask ,split\n{GOOD}".replace("\n", "\r\n")).encode(), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), PAIRS, ids=[row[0].replace(" ", "-") for row in PAIRS])
def test_a_file_of_pairs_gone_wrong(name: str, text: bytes, message: str | None, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "test": 2})
    (root / "pairs.csv").write_bytes(text)
    diagnosis = examine(root, pairs="pairs.csv")
    data, problem = opened(root, pairs="pairs.csv")
    if message is None:
        assert diagnosis.healthy(strict=True), diagnosis.text()
        assert data is not None
        assert {split: len(found) for split, found in data.splits.items()} == {"train": 4, "val": 2}
        return
    assert re.search(message, diagnosis.text()), diagnosis.text()
    assert not diagnosis.healthy()
    assert data is None
    assert re.search(message, problem), problem


# ---- annotations in JSON ---------------------------------------------------------------------------------------------


def coco_with(segmentation: Any, **more: Any) -> Callable[[Path], Any]:
    return lambda root: coco_tree(root, annotation(77, 0, 3, segmentation, **more), annotation(2, 1, 7, [SQUARE]))


def coco_text(change: Callable[[str], str]) -> Callable[[Path], Any]:
    def damage(root: Path) -> None:
        path = coco_tree(root) / "annotations.json"
        path.write_text(change(path.read_text()))

    return damage


def labelme_with(points: Any, kind: str = "polygon", **more: Any) -> Callable[[Path], Any]:
    return lambda root: (labelme_tree(root), labelme(root / "002.json", shape("weed", points, kind), **more))


def rle(size: list[int], counts: Any) -> dict[str, Any]:
    return {"size": size, "counts": counts}


GONE_WRONG: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a polygon of two points", coco_with([[1, 2, 3, 4]]), r"json: annotation 77 .*at least three points"),
    ("a polygon of odd length", coco_with([[1, 2, 3, 4, 5, 6, 7]]), r"annotation 77 .*x, y, x, y"),
    ("a polygon of words", coco_with([["1", "2", "3", "4", "5", "6"]]), r"annotation 77 .*x, y, x, y"),
    ("a polygon that is not finite", coco_with([[1, 2, float("nan"), 4, 5, 6]]), r"annotation 77 .*lies nan pixels"),
    ("a polygon without end", coco_with([[0, 0, 1e12, 0, 5, 6]]), r"annotation 77 .*lies 1e\+12 pixels"),
    ("a segmentation of words", coco_with("x" * 9999), r"annotation 77 \(of \S+\): has a segmentation that is text"),
    ("a box alone", coco_with([], bbox=[1, 2, 3, 4]), r"annotation 77 .*a box is no mask"),
    ("runs of another size", coco_with(rle([30, 30], [900])), r"annotation 77 .*run lengths are for \[30, 30\] pixels"),
    ("runs too long", coco_with(rle([*SIZE], [10, 10**9])), r"annotation 77 .*do not add up"),
    ("runs below zero", coco_with(rle([*SIZE], [-1, 2401])), r"annotation 77 .*do not add up"),
    ("runs beyond 64 bits", coco_with(rle([*SIZE], [10**30])), r"annotation 77 .*whole numbers"),
    ("packed runs that are damaged", coco_with(rle([*SIZE], "\u00e4\u00e4")), r"annotation 77 .*are damaged"),
    ("packed runs cut short", coco_with(rle([*SIZE], "oooo")), r"annotation 77 .*cut short"),
    ("an object of no image", lambda r: coco_tree(r, annotation(77, 99, 3, [SQUARE])), "annotation 77 belongs to the"),
    ("an object of no category", lambda r: coco_tree(r, annotation(77, 0, 9, [SQUARE])), "annotation 77 has the category 9"),
    ("an image twice", coco_text(lambda t: t.replace('"id": 1, "file', '"id": 0, "file')), "image 0 is there twice"),
    ("a file twice", coco_text(lambda t: t.replace("001.png", "000.png")), "image 1 has the file of image 0"),
    ("an image of no size", coco_text(lambda t: t.replace('"width": 60', '"width": Infinity')), "40 x inf; both must be equal"),
    ("an image outside", coco_text(lambda t: t.replace("003.png", "../../etc/passwd")), r"image 3: .*leads out of its"),
    ("an image elsewhere", coco_text(lambda t: t.replace("003.png", "C:/x.png")), r"image 3: .*leads out of its"),
    ("an image that is gone", lambda r: (coco_tree(r) / "images/003.png").unlink(), "1 of 4 images are not there"),
    ("an image of another size", lambda r: photo(coco_tree(r) / "images/000.png", (30, 30)), "both must be equal"),
    ("an image without end", coco_text(lambda t: t.replace('"height": 40', '"height": 4000000')), "4000000 x 60; both must be equal"),
    ("an image of fractions", coco_text(lambda t: t.replace('"width": 60', '"width": 60.5')), "40 x 60.5; both must be equal"),
    ("a category without a name", coco_text(lambda t: t.replace('"cat"', "null")), "category 3: 'None' is no name of a cl"),
    ("annotations cut short", coco_text(lambda t: t[:-30]), r"annotations\.json: is no JSON"),
    ("lists without end", coco_text(lambda t: t[:-1] + ', "x": ' + "[" * 200_000), r"annotations\.json: is no JSON"),
    ("a rectangle of one point", labelme_with([[1, 1]], "rectangle"), r"002\.json: shape 0 \(weed\): a rectangle has two poi"),
    ("a circle without end", labelme_with([[1, 1], [90000, 2]], "circle"), r"shape 0 \(weed\): its radius is larger"),
    ("a line", labelme_with([[1, 1], [2, 2]], "line"), r"002\.json: shape 0 \(weed\): a line covers no area"),
    ("a shape that is not finite", labelme_with([[1, float("inf")], [2, 2], [3, 3]]), r"shape 0 .*lies inf pixels"),
    ("a shape far off", labelme_with([[1, 1e9], [2, 2], [3, 3]]), r"shape 0 \(weed\): lies 1e\+09 pixels off"),
    ("points that are none", labelme_with([[1, 2, 3], [2, 2]]), r"shape 0 \(weed\): its points are no list of \[x, y\]"),
    ("a mask that is none", lambda r: (labelme_tree(r), labelme(r / "002.json", shape("weed", [[1, 1], [5, 5]], "mask",
        mask="AAAA"))), r"shape 0 \(weed\): not an image"),
    ("a label that is none", lambda r: (labelme_tree(r), labelme(r / "002.json", shape("", [[1, 1]]))), r"shape 0: '' is no"),
    ("an image outside of it", labelme_with([[1, 1], [9, 1], [9, 9]], imagePath="../../x.png"), r"002\.json: imagePath=.*leads"),
    ("an image of root", labelme_with([[1, 1], [9, 1], [9, 9]], imagePath="/etc/x.png"), r"002\.json: imagePath=.*leads out"),
    ("a file cut short", lambda r: (labelme_tree(r) / "002.json").write_text('{"shapes": [{'), r"002\.json: is no JSON"),
    ("a file of nothing", lambda r: (labelme_tree(r) / "002.json").write_text(""), r"002\.json: is no JSON"),
    ("another size", labelme_with([[1, 1], [9, 1], [9, 9]], imageHeight=41), "both must be equal"),
    ("a size that is none", labelme_with([[1, 1], [9, 1], [9, 9]], imageHeight="40"), "'40' x 60; both must be equal"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "message"), GONE_WRONG, ids=[row[0].replace(" ", "-") for row in GONE_WRONG]
)
def test_annotations_gone_wrong(name: str, damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    damage(tmp_path)
    with pytest.raises(DatasetError, match=message):
        SegmentationDataModule.from_folder(tmp_path).check()
    diagnosis = examine(tmp_path)
    assert not diagnosis.healthy()
    assert re.search(message, diagnosis.text(None)), diagnosis.text(None)


# ---- images to be segmented ----------------------------------------------------------------------------------------


def exif_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(path, ".jpg", exif=exif)


def wide(path: Path) -> None:
    import struct
    import zlib

    data = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def gray16(path: Path) -> None:
    put(path, array(path)[..., 0].astype(np.uint16) * 257)


def floats(path: Path) -> None:
    put(path.with_suffix(".tif"), array(path)[..., 0] / np.float32(255))
    path.unlink()


PICTURES: list[tuple[str, Callable[[Path], object], str | None]] = [
    ("cut short", cut, "damaged or truncated"),
    ("a JPEG cut short", lambda p: (saved(p, ".jpg"), cut(p.with_suffix(".jpg"))), "damaged or truncated"),
    ("of no bytes", lambda p: p.write_bytes(b""), "an empty file"),
    ("a page", lambda p: p.write_bytes(HTML), "is a web page"),
    ("a bomb", wide, "too large|not an image"),
    ("fractions", floats, None),
    ("noise", lambda p: p.write_bytes(np.random.default_rng(0).bytes(4000)), "not an image"),
    ("a JPEG called PNG", lambda p: Image.open(p).convert("RGB").save(p, "JPEG"), None),
    ("CMYK", lambda p: (Image.open(p).convert("CMYK").save(p.with_suffix(".jpg")), p.unlink()), None),
    ("that moves", lambda p: frames(p, ".gif"), None),
    ("of two pages", lambda p: frames(p, ".tif"), "holds 2 images"),
    ("of 16 bits", gray16, None),
    ("with alpha", lambda p: Image.open(p).convert("RGBA").save(p), None),
    ("of one bit", lambda p: Image.open(p).convert("1").save(p), None),
    ("of a palette", lambda p: Image.open(p).convert("P").save(p), None),
    ("of one pixel", lambda p: put(p, np.zeros((1, 1, 3), np.uint8)), None),
    ("one pixel high", lambda p: put(p, np.zeros((1, 70, 3), np.uint8)), None),
    ("turned", exif_turned, None),
    ("of a name that is no text", lambda p: p.rename(p.with_name(os.fsdecode(b"\xff.png"))), None),
]


def test_every_image_is_segmented_at_its_own_size_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter = load("street")
    monkeypatch.setattr("fullyconv.hub.predictor.open_predictor", lambda *_, **__: segmenter)
    good, bad = 0, []
    for number, (name, damage, message) in enumerate(PICTURES):
        write_tree(tmp_path / "one", {"train": 1})
        folder = tmp_path / "in" / f"{number:02}"
        folder.mkdir(parents=True)
        shutil.move(image(tmp_path / "one"), folder / "000.png")
        damage(folder / "000.png")
        (path,) = folder.iterdir()
        if message is None:
            assert segmenter.predict(path).mask.shape == read_image(path).shape[:2], name
            good += 1
        else:
            with pytest.raises(DatasetError, match=message) as caught:
                segmenter.predict(path)
            assert str(path) in str(caught.value), name
            bad.append(path.relative_to(tmp_path))
    assert cli.main(["predict", "in", "--out", "out"]) == 1
    said = capsys.readouterr().err
    assert f"{len(bad)} of {len(PICTURES)} images could not be read" in said
    assert all(f"skipped: {path}: " in said for path in bad), said
    assert len(list((tmp_path / "out").rglob("*.png"))) == good


def test_what_is_no_image_is_not_read_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmenter = load("street")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "link.png")
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("pipe.png", "is no regular file"),
        ("link.png", "a link to "),
        ("folder.png", "a folder where an image is expected"),
        ("gone.png", "no such file"),
    ):
        with pytest.raises((DatasetError, FileNotFoundError), match=rf"{name}: {message}"):
            segmenter.predict(tmp_path / name)
    assert cli.main(["predict", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no image in the folder" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "val": 3})

    def refused(path: Path, *rest: object) -> Image.Image:
        if Path(path) == image(root):
            raise PermissionError(13, "Permission denied", str(path))
        return Image.open(path)

    monkeypatch.setattr("fullyconv.images.opening._open", refused)
    diagnosis = examine(root)
    assert re.search(r"000\.png: may not be read; change its permissions", diagnosis.text())
    assert not diagnosis.healthy()


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("doctor", "nowhere"), "no such folder"),
        (("doctor", "shape"), "data='shape': no such folder"),
        (("doctor", "shapes", "--masks", "mask"), "masks='mask': no such folder in shapes; there are"),
        (("doctor", "shapes", "--pairs", "gone.csv"), "pairs='gone.csv': no such file, in shapes or here"),
        (("doctor", "shapes", "--mask", "x", "--strickt"), "--strickt: not understood. Did you mean --strict?"),
        (("doctor", "shapes", "more"), "fullyconv doctor: more: not understood. fullyconv doctor --help lists"),
        (("doctor", "shapes", "--values", "voc2021"), "--values voc2021: no public set is called that. Did you mean"),
        (("doctor", "shapes", "--values", "0=ground,1=bax", "--classes", "ground,box"), "Did you mean box?"),
        (("doctor", "file.zip"), "is a file: give the folder that holds images and masks"),
        (("doctor", "shapes", "--values", "0"), "write VALUE=NAME"),
        (("doctor", "shapes", "--values", "{0: x}"), "without brackets"),
        (("doctor", "shapes", "--classes", '["ground", "box"]'), "without brackets"),
        (("doctor", "shapes", "--masks", "../x"), "is looked for inside the data folder"),
        (("doctor", "shapes", "--unlabeled", "drop"), 'choose "error" or "skip"'),
        (("doctor", "shapes", "--sheet", "x.txt"), "--sheet x.txt: give a .png or .jpg"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tree(tmp_path / "shapes", {"train": 4, "val": 2})
    (tmp_path / "file.zip").write_bytes(b"PK")
    monkeypatch.chdir(tmp_path)
    assert cli.main(list(words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert set(os.listdir(tmp_path)) == {"shapes", "file.zip"}


ROW = {row.name: row for row in ROWS}
COMMANDS = [
    "a mask missing",
    "classes that are no text",
    "one image alone",
    "photographs for masks",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_fit_stops_with_one_line_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "val": 3, "test": 2})
    ROW[name].damage(root)
    monkeypatch.chdir(tmp_path)
    words = ["--model", "random:fcn32s_resnet18_quarter", "--epochs", "1", "--device", "cpu"]
    assert cli.main(["fit", "shapes", *words, "--trainer.enable_progress_bar=false"]) == 2
    assert re.search(ROW[name].stops or "", capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_fit_says_that_a_set_without_training_images_cannot_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "val": 3, "test": 2})
    leave(root, "test", 9)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "shapes", "--model", "random:fcn32s_resnet18_quarter"]) == 2
    assert "has no split 'train', only test" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a mask cut short", "a JPEG cut short", "a value too many", "labels counted from one"]
)
@pytest.mark.parametrize("command", ["doctor", "fit"])
def test_a_process_ends_with_a_message_and_no_traceback(command: str, name: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "shapes", {"train": 6, "val": 3})
    ROW[name].damage(root)
    words = ["--model", "random:fcn32s_resnet18_quarter", "--epochs", "1"] if command == "fit" else []
    done = subprocess.run(
        [sys.executable, "-m", "fullyconv", command, str(root), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == (1 if command == "doctor" else 2), said
    assert re.search(ROW[name].stops or "", said), said
    assert "Traceback" not in said

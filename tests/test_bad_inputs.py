"""A table of files and folders gone wrong in one way each: the message names file and remedy, or it is handled.

Every row goes through the doctor and through what `fit` does before its first step; no row ends in another exception,
and none in a mask that is read wrongly.
"""

# ruff: noqa: E501

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_tree
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine
from fullyconv.errors import DatasetError

HTML = b"<!doctype html><html><body>Sign in to see this picture</body></html>"


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
    picture = Image.open(image(root))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.convert("RGB").save(image(root).with_suffix(".jpg"), exif=exif)
    image(root).unlink()


def bomb(root: Path) -> None:
    import struct
    import zlib

    data = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
    image(root).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def frames(path: Path, suffix: str) -> None:
    picture = Image.open(path).convert("L")
    picture.save(path.with_suffix(suffix), save_all=True, append_images=[picture.rotate(180)])
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


def classes(text: str | bytes) -> Callable[[Path], object]:
    return lambda root: (root / "classes.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


NO_MASK = r"000\.png: no mask of the same name .*add the masks"
ROWS = [
    Row("a picture cut short", lambda r: cut(image(r)), r"images that cannot be read", "damaged or truncated"),
    Row("a mask cut short", lambda r: cut(mask(r)), r"masks/000\.png: damaged or truncated", "damaged or truncated"),
    Row("a picture of no bytes", lambda r: image(r).write_bytes(b""), r"000\.png: an empty file", "an empty file"),
    Row("a mask of no bytes", lambda r: mask(r).write_bytes(b""), r"masks/000\.png: an empty file", "an empty file"),
    Row("a page saved as a picture", lambda r: image(r).write_bytes(HTML), "not a picture, or its beginning", "not a"),
    Row("a page saved as a mask", lambda r: mask(r).write_bytes(HTML), "not a picture, or its beginning", "not a pic"),
    Row("a JPEG called PNG", lambda r: Image.open(image(r)).save(image(r), "JPEG"), None, None),
    Row("a mask missing", lambda r: mask(r).unlink(), NO_MASK, NO_MASK),
    Row("a picture missing", lambda r: image(r).unlink(), r"000\.png: no picture of the same name", "no picture of the"),
    Row("a mask in other letters", lambda r: rename(mask(r), "000.PNG"), None, None),
    Row("a name twice", lambda r: Image.open(image(r)).save(image(r).with_suffix(".jpg")), "share one name", "share one"),
    Row("a mask one pixel short", lambda r: edit(mask(r), lambda v: v[:-1]), "differ in size", "47 x 64; both must be eq"),
    Row("a mask transposed", lambda r: edit(mask(r), np.transpose), "differ in size", "both must be equal"),
    Row("a picture turned by its camera", turned, "EXIF orientation and the mask is not", "EXIF orientation and the mask"),
    Row("a value too many", stray(3), r"masks hold values that are not in the label map", r"label value 3 \(1 pixels\)"),
    Row("a value far off", stray(200), r"000\.png: 200 \(1 pixels\)", "label value 200"),
    Row("a value in 16 bits", lambda r: put(mask(r), array(mask(r)).astype(np.uint16) + 256), "label value", "label value"),
    Row("32 bits below zero", lambda r: (put(mask(r).with_suffix(".tif"), array(mask(r)).astype(np.int32) - 1),
        mask(r).unlink()), r"label value -1", r"label value -1"),
    Row("fractions for labels", lambda r: (put(mask(r).with_suffix(".tif"), array(mask(r)).astype(np.float32)),
        mask(r).unlink()), r"a mask of mode F", r"a mask of mode F"),
    Row("masks in grey RGB", rgb_masks, None, None),
    Row("one mask in colours", lambda r: put(mask(r), np.stack([array(mask(r)) * 80] * 2 + [array(mask(r))], -1)),
        "masks of one set are of one kind", "masks of one set are of one kind"),
    Row("JPEG masks", as_jpeg, "a JPEG mask; lossy compression", "a JPEG mask; lossy compression"),
    Row("a mask of two pages", lambda r: frames(mask(r), ".tif"), "holds 2 pictures; a mask is one", "holds 2 pictures"),
    Row("a picture that moves", lambda r: frames(image(r), ".gif"), None, None),
    Row("a mask with alpha", lambda r: Image.open(mask(r)).convert("LA").save(mask(r)), None, None),
    Row("a palette mask", lambda r: Image.open(mask(r)).convert("P").save(mask(r)), None, None),
    Row("a CMYK picture", lambda r: (Image.open(image(r)).convert("CMYK").save(image(r).with_suffix(".jpg")),
        image(r).unlink()), None, None),
    Row("a picture of 16 bits", lambda r: put(image(r), array(image(r))[..., 0].astype(np.uint16) * 257), None, None),
    Row("a picture with alpha", lambda r: Image.open(image(r)).convert("RGBA").save(image(r)), None, None),
    Row("a picture of fractions", lambda r: (put(image(r).with_suffix(".tif"), array(image(r))[..., 0] / np.float32(255)),
        image(r).unlink()), "a picture of floating point numbers", None),
    Row("a header of a bomb", bomb, "too large|not a picture", "too large|not a picture"),
    Row("masks that ignore all", ignored, "masks ignore every pixel", "all pixels of all masks are ignored"),
    Row("0 and 255 under two names", zero_and_255, "hold 0 and 255 and nothing else", "hold 0 and 255 and nothing else"),
    Row("no masks", lambda r: shutil.rmtree(r / "train" / "masks"), "no such folder", "no such folder"),
    Row("an empty folder", lambda r: [p.unlink() for p in (r / "train").rglob("*.png")], "no pictures in it", "no pict"),
    Row("a file in two splits", lambda r: shutil.copy(image(r), r / "val" / "images" / "000.png"),
        "pictures are in more than one split", None),
    Row("a link into another split", lambda r: ((r / "val" / "images" / "000.png").unlink(),
        (r / "val" / "images" / "000.png").symlink_to(image(r))), "are one file, in the splits", "are one file, in the"),
    Row("a picture twice", lambda r: (shutil.copy(image(r), image(r, 90)), shutil.copy(mask(r), mask(r, 90))),
        "pictures are there more than once", None),
    Row("a broken link", lambda r: image(r).with_name("999.png").symlink_to(r / "nowhere.png"), None, None),
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
    Row("a class too many", classes("ground\nbox\nsky\nmoon\n"), "1 classes never occur", None),
    Row("names in other scripts", classes("земля\n箱\nουρανός\n"), None, None),
    Row("tiny pictures", lambda r: (put(image(r), np.arange(3, dtype=np.uint8).reshape(1, 1, 3)),
        put(mask(r), np.ones((1, 1), np.uint8))), "pictures are tiny", None, True),
    Row("a picture of one colour", lambda r: edit(image(r), np.zeros_like), "pictures are of one colour", None),
    Row("a class only in test", lambda r: [edit(p, lambda v: np.where(v == 1, 0, v).astype(np.uint8))
        for p in all_masks(r) if "train" in p.parts], "1 classes are not in train", None, True),
]  # fmt: skip


def test_the_table_is_long_enough_and_names_every_row_once() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) >= 40


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


def opened(root: Path) -> tuple[SegmentationDataModule | None, str]:
    try:
        data = SegmentationDataModule.from_folder(root)
        data.check()
    except (DatasetError, FileNotFoundError) as error:
        return None, str(error)
    return data, ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("doctor", "nowhere"), "no such folder"),
        (("doctor", "file.zip"), "is a file: give the folder that holds images and masks"),
        (("doctor", "shapes", "--values", "0"), "write VALUE=NAME"),
        (("doctor", "shapes", "--values", "{0: x}"), "is no JSON"),
        (("doctor", "shapes", "--masks", "../x"), "is looked for inside the data folder"),
        (("doctor", "shapes", "--unlabelled", "drop"), 'choose "error" or "skip"'),
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
    from fullyconv import cli

    write_tree(tmp_path / "shapes", {"train": 4, "val": 2})
    (tmp_path / "file.zip").write_bytes(b"PK")
    monkeypatch.chdir(tmp_path)
    assert cli.main(list(words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == ["shapes", "file.zip"] or set(os.listdir(tmp_path)) == {"shapes", "file.zip"}

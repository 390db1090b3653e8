"""Masks and annotations that people have, and what is wanted of them: read as they are meant, or refused by name."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tifffile
from PIL import Image

from annotated_trees import SIZE, SQUARE, annotation, coco, coco_tree, labelme_tree, shape
from conftest import NAMES, write_tree
from fullyconv import SegmentationDataModule
from odd_trees import fixed_camera, strangely_named
from told import Diagnosed, doctor, follow, run

COLORS = np.array([[0, 0, 0], [200, 30, 30], [30, 30, 200]], np.uint8)

Capture = pytest.CaptureFixture[str]


def masks_of(root: Path) -> list[Path]:
    return sorted(root.glob("*/masks/*"))


def inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def array(path: Path) -> np.ndarray[Any, Any]:
    return np.array(Image.open(path))


def plain_tree(root: Path, sizes: dict[str, int] | None = None) -> Path:
    """A tree whose masks hold three classes and nothing that is ignored."""
    write_tree(root, sizes or {"train": 4, "val": 2})
    (root / "classes.txt").unlink()
    for path in masks_of(root):
        values = array(path)
        Image.fromarray(np.where(values == 255, 0, values).astype(np.uint8)).save(path)
    return root


def truth(root: Path) -> list[int]:
    """Pixels of each class over all masks of a plain tree, the fewest first."""
    return sorted(np.bincount(np.concatenate([array(path).ravel() for path in masks_of(root)])).tolist())


def as_palette(path: Path, order: Sequence[int]) -> None:
    """Save class k of a mask as index order[k], with the color of class k there."""
    values = array(path)
    table = np.zeros((256, 3), np.uint8)
    table[list(order)] = COLORS
    image = Image.fromarray(np.array(order, np.uint8)[values])
    image.putpalette(table.tobytes())
    image.save(path)


def as_colors(path: Path) -> None:
    Image.fromarray(COLORS[array(path)]).save(path)


# ---- W1: palettes ----------------------------------------------------------------------------------------------------


def permuted(root: Path) -> tuple[Path, list[int]]:
    plain_tree(root)
    wanted = truth(root)
    for number, path in enumerate(masks_of(root)):
        as_palette(path, [(0, 1, 2), (2, 0, 1), (1, 2, 0)][number % 3])
    return root, wanted


def read_by_color_or_refused(found: Diagnosed, wanted: list[int], masks: Sequence[str]) -> None:
    if found.errors:
        assert any(name in found.errors for name in masks)
        assert "palette" in found.errors
        return
    assert sorted(found.pixels.values()) == wanted
    assert any("palette" in text and "colo" in text for text in found.texts())


@pytest.mark.parametrize("named", ["", "classes.txt", "--values"])
def test_w1_palette_masks_whose_palettes_disagree_are_read_by_color(
    named: str, tmp_path: Path, capsys: Capture
) -> None:
    root, wanted = permuted(tmp_path / "set")
    if named == "classes.txt":
        (root / "classes.txt").write_text("\n".join(NAMES))
    words = ["--values", "0=ground,1=box,2=sky"] if named == "--values" else []
    read_by_color_or_refused(doctor(capsys, root, *words), wanted, [inside(root, path) for path in masks_of(root)])


def test_w1_palettes_that_disagree_only_where_no_pixel_is_are_read_by_index(tmp_path: Path, capsys: Capture) -> None:
    root = plain_tree(tmp_path / "set")
    wanted = truth(root)
    for number, path in enumerate(masks_of(root)):
        as_palette(path, (0, 1, 2))
        image = Image.open(path)
        image.putpalette([*COLORS.ravel().tolist(), number, 7, 7])
        image.save(path)
    found = doctor(capsys, root)
    assert not found.errors
    assert sorted(found.pixels.values()) == wanted


# ---- W2: lists of splits ---------------------------------------------------------------------------------------------


def voc_tree(root: Path, index: int, train: int = 6, val: int = 3, unlisted: int = 0) -> Path:
    """Images and masks of background and one class, and the lists of their splits."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "": []}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number, split in enumerate([*["train"] * train, *["val"] * val, *[""] * unlisted]):
        rng = np.random.default_rng([index, number])
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / "JPEGImages" / f"{number:03}.jpg")
        mask = np.zeros((*SIZE, 3), np.uint8)
        mask[5:20, 10:30] = [(128, 0, 0), (0, 128, 0), (128, 128, 0)][index]  # of 1, 2, 3 in the map of PASCAL VOC
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{number:03}.png")
        lists[split].append(f"{number:03}")
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(lists[split]) + "\n")
    return root


def test_w2_lists_of_trees_side_by_side_are_joined(tmp_path: Path, capsys: Capture) -> None:
    for index, name in enumerate(("ant", "bee", "cow")):
        voc_tree(tmp_path / name, index)
    found = doctor(capsys, tmp_path)
    assert found.code == 0, found.errors
    assert found.splits == {"train": 18, "val": 9}
    assert sorted(found.pixels.values())[:3] == [9 * 15 * 20] * 3  # each of the three classes


def test_w2_many_pairs_in_no_list_are_a_warning(tmp_path: Path, capsys: Capture) -> None:
    found = doctor(capsys, voc_tree(tmp_path, 0, unlisted=4))
    assert found.splits == {"train": 6, "val": 3}
    assert any(re.search(r"(?s)(\b4 .*list|list.*\b4 )", text) for text in found.texts("warning", "error"))


def test_w2_lists_that_hold_every_pair_are_no_warning(tmp_path: Path, capsys: Capture) -> None:
    found = doctor(capsys, voc_tree(tmp_path, 0))
    assert not found.text("warning", "error")


# ---- W3: crowds ------------------------------------------------------------------------------------------------------


def crowded(root: Path, cats: Sequence[int], dogs: Sequence[int]) -> Path:
    """Two annotations a class, each a crowd or not."""
    flags = [(3, crowd) for crowd in cats] + [(7, crowd) for crowd in dogs]
    entries = [
        annotation(number, number, category, [SQUARE], iscrowd=crowd) for number, (category, crowd) in enumerate(flags)
    ]
    return coco_tree(root, *entries)


@pytest.mark.parametrize("dogs", [(0, 0), (1, 1)])
def test_w3_a_class_that_is_all_crowd_is_an_error(dogs: tuple[int, int], tmp_path: Path, capsys: Capture) -> None:
    found = doctor(capsys, crowded(tmp_path, (1, 1), dogs))
    assert found.code != 0
    assert any("crowd" in text and re.search(r"\bcat\b", text) for text in found.texts("error"))


def test_w3_training_is_refused_where_all_of_a_class_is_crowd(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crowd"):
        SegmentationDataModule.from_folder(crowded(tmp_path / "set", (1, 1), (0, 0))).check()


def test_w3_some_crowds_are_a_warning_with_their_share(tmp_path: Path, capsys: Capture) -> None:
    found = doctor(capsys, crowded(tmp_path, (1, 0), (0, 0)))
    assert found.code == 0
    assert any("crowd" in text and "%" in text for text in found.texts("warning"))


def test_w3_the_error_names_the_option_that_reads_crowds_as_their_category(tmp_path: Path, capsys: Capture) -> None:
    whole = doctor(capsys, crowded(tmp_path / "whole", (0, 0), (0, 0)))
    root = crowded(tmp_path / "crowds", (1, 1), (1, 1))
    advice = "\n".join(text for text in doctor(capsys, root).texts("error") if "crowd" in text)
    assert follow(capsys, root, advice).pixels == whole.pixels


# ---- annotations -----------------------------------------------------------------------------------------------------


def test_c24_a_coco_category_with_a_line_break_names_file_and_category(tmp_path: Path, capsys: Capture) -> None:
    root = coco_tree(tmp_path)
    entries = [annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, [SQUARE])]
    coco(root / "annotations.json", 4, *entries, categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "dog\nfox"}])
    found = doctor(capsys, root)
    assert found.code != 0
    assert "annotations.json" in found.errors
    assert "category 7" in found.errors or "dog" in found.errors


def test_c24_a_labelme_label_with_a_line_break_names_file_and_label(tmp_path: Path, capsys: Capture) -> None:
    found = doctor(capsys, labelme_tree(tmp_path, shape("dog\nfox", [[10, 5], [30, 5], [30, 25]])))
    assert found.code != 0
    assert ".json" in found.errors
    assert "dog" in found.errors


DEGENERATE = {
    "empty": [],
    "one point": [[10.0, 5.0]],
    "two points": [[10.0, 5.0, 30.0, 5.0]],
    "null": None,
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_l5_degenerate_segmentations_are_skipped_with_a_count(kind: str, tmp_path: Path, capsys: Capture) -> None:
    good = [annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, [SQUARE])]
    bad = [annotation(3, 2, 3, DEGENERATE[kind]), annotation(4, 3, 7, DEGENERATE[kind])]
    root = coco_tree(tmp_path / "bad", *good, *bad)
    whole = doctor(capsys, coco_tree(tmp_path / "good", *good))
    found = doctor(capsys, root)
    if found.code:  # an option may be asked for
        found = follow(capsys, root, found.errors)
    assert found.code == 0
    assert found.pixels == whole.pixels
    told = [text for text in found.texts("warning", "note") if re.search(r"\b2\b", text)]
    assert any("segmentation" in text or "polygon" in text for text in told)


# ---- numbers ---------------------------------------------------------------------------------------------------------


IGNORED = 6 * 2 * 64  # pixels: two rows of each mask of a tree


def tiff_masks(root: Path, nodata: int, **options: Any) -> Path:
    """Turn the masks of a tree into TIFF files with `nodata` where pixels are ignored."""
    write_tree(root, {"train": 4, "val": 2})
    for path in masks_of(root):
        values = array(path).astype(np.int16)
        tifffile.imwrite(path.with_suffix(".tif"), np.where(values == 255, nodata, values).astype(np.int16), **options)
        path.unlink()
    return root


@pytest.mark.parametrize("nodata", [-9999, -1])
@pytest.mark.parametrize(
    "words", ["--values 0=ground,1=box,2=sky,{}=ignore", "--values={}=ignore,0=ground,1=box,2=sky"]
)
def test_m1_negative_values_may_be_ignored(words: str, nodata: int, tmp_path: Path, capsys: Capture) -> None:
    root = tiff_masks(tmp_path, nodata)
    found = doctor(capsys, root, *words.format(nodata).split())
    assert found.code == 0, found.errors
    assert found.pixels["ignore"] == IGNORED


def test_m1_the_nodata_value_that_a_tiff_names_is_ignored(tmp_path: Path, capsys: Capture) -> None:
    root = tiff_masks(tmp_path, -9999, extratags=[(42113, "s", 0, "-9999", True)])
    found = doctor(capsys, root)
    assert found.code == 0, found.errors
    assert found.pixels["ignore"] == IGNORED


@pytest.mark.parametrize("place", ["pages", "SubIFDs"])
def test_m3_overviews_of_a_tiff_mask_do_not_count(place: str, tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 4, "val": 2})
    plain = doctor(capsys, root)
    for path in masks_of(root):
        with tifffile.TiffWriter(path.with_suffix(".tif")) as file:
            options: dict[str, Any] = {"photometric": "minisblack", "tile": (16, 16)}
            file.write(array(path), subifds=2 if place == "SubIFDs" else 0, **options)
            for step in (2, 4):
                file.write(array(path)[::step, ::step], subfiletype=1, **options)
        path.unlink()
    found = doctor(capsys, root)
    assert found.code == 0, found.errors
    assert found.pixels == plain.pixels


def test_l6_masks_of_floats_that_are_whole_numbers_are_read(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 4, "val": 2})
    plain = doctor(capsys, root)
    for path in masks_of(root):
        tifffile.imwrite(path.with_suffix(".tif"), array(path).astype(np.float32))
        path.unlink()
    found = doctor(capsys, root)
    assert found.code == 0, found.errors
    assert found.pixels == plain.pixels


def test_l6_masks_of_floats_between_whole_numbers_are_refused_by_name(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 4, "val": 2})
    path = masks_of(root)[0]
    tifffile.imwrite(path.with_suffix(".tif"), array(path).astype(np.float32) + np.float32(0.25))
    path.unlink()
    found = doctor(capsys, root)
    assert found.code != 0
    assert path.stem + ".tif" in found.errors
    assert "float" in found.errors


# ---- colors ----------------------------------------------------------------------------------------------------------


def test_m9_palette_masks_beside_rgb_masks_are_read_by_color_and_named(tmp_path: Path, capsys: Capture) -> None:
    root = plain_tree(tmp_path)
    wanted, masks = truth(root), masks_of(root)
    for path in masks[:4]:
        as_colors(path)
    for path in masks[4:]:
        as_palette(path, (0, 1, 2))
    found = doctor(capsys, root)
    told = "\n".join(text for text in found.texts() if "palette" in text or "colo" in text)
    assert all(inside(root, path) in told for path in masks[4:])  # whether read or refused
    assert found.code == 0, found.errors
    assert sorted(found.pixels.values()) == wanted


NAMED = {
    "class_dict.csv": "name,r,g,b\nground,0,0,0\nbox,200,30,30\nsky,30,30,200\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nground:0,0,0::\nbox:200,30,30::\nsky:30,30,200::\n",
    "_classes.csv": "Pixel Value, Class\n0, ground\n1, box\n2, sky\n",
    "classes.json": json.dumps({"0": "ground", "1": "box", "2": "sky"}),
    "id2label.json": json.dumps({"0": "ground", "1": "box", "2": "sky"}),
}


def named_tree(root: Path, name: str, content: str) -> Path:
    plain_tree(root)
    (root / name).write_text(content)
    if "200" in content:
        for path in masks_of(root):
            as_colors(path)
    return root


@pytest.mark.parametrize("name", NAMED)
def test_l4_names_of_classes_are_read_where_they_lie(name: str, tmp_path: Path, capsys: Capture) -> None:
    wanted = truth(plain_tree(tmp_path / "plain"))
    found = doctor(capsys, named_tree(tmp_path / "set", name, NAMED[name]))
    assert found.code == 0, found.errors
    assert sorted(found.classes) == sorted(NAMES)
    assert sorted(found.pixels.values()) == wanted
    assert found.pixels["box"] == min(wanted)  # the rarest


@pytest.mark.parametrize("name", NAMED)
def test_l4_names_that_disagree_with_the_masks_are_told(name: str, tmp_path: Path, capsys: Capture) -> None:
    content = NAMED[name].replace('"2"', '"7"').replace("2, sky", "7, sky").replace("30,30,200", "1,99,1")
    found = doctor(capsys, named_tree(tmp_path / "set", name, content))
    told = found.text("error", "warning")
    assert name in told or re.search(r"\b2\b|#1e1ec8|30, ?30, ?200", told)
    assert "sky" in found.classes or name in told  # the file was read


# ---- pairs -----------------------------------------------------------------------------------------------------------


def many_masks(root: Path, how: str) -> list[str]:
    """Several masks for each of four images, and the names of those of the first."""
    for number in range(4):
        image = root / "images" / f"{number:03}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
        for which in ("road", "car") if how == "a class" else ("0", "1", "2"):
            mask = np.zeros(SIZE, np.uint8)
            mask[:10] = 255
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / f"{number:03}_{which}.png")
    return sorted(path.name for path in (root / "masks").glob("000_*"))


@pytest.mark.parametrize("how", ["a class", "an instance"])
def test_m5_several_masks_of_an_image_are_told_as_such(how: str, tmp_path: Path, capsys: Capture) -> None:
    names = many_masks(tmp_path, how)
    found = doctor(capsys, tmp_path, "--unlabeled", "skip")
    if found.code == 0:
        assert sum(found.splits.values()) == 4
        return
    assert "--unlabeled skip" not in found.errors
    assert "000.png" in found.errors
    assert all(name in found.errors for name in names[:2])


def test_m13_two_masks_whose_sizes_are_each_others_are_told_as_exchanged(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 4, "val": 2})
    images = sorted((root / "train" / "images").iterdir())
    masks = sorted((root / "train" / "masks").iterdir())
    for path in (images[1], masks[2]):
        Image.open(path).crop((0, 0, 40, 44)).save(path)
    found = doctor(capsys, root)
    assert found.code != 0
    told = "\n".join(text for text in found.texts("error") if re.search("swap|exchange|each other", text))
    assert all(inside(root, path) in told for path in (images[1], images[2]))


# ---- sets that are damaged, strangely named, or monotonous -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_c18_a_changed_byte_in_a_saved_table_is_an_answer_and_no_crash(tmp_path: Path) -> None:
    def png(seed: int, *channels: int) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 2, (12, 16, *channels), dtype=np.uint8)).save(
            file, "PNG"
        )
        return {"bytes": file.getvalue(), "path": None}

    rows = [{"image": png(number, 3), "mask": png(number)} for number in range(3)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "set")
    (table,) = (tmp_path / "set").glob("*.arrow")
    content = bytearray(table.read_bytes())
    lengths = np.cumsum([0, *(len(row["image"]["bytes"]) for row in rows)])
    place = content.index(np.array(lengths, "<i4").tobytes())  # where each image begins
    content[place + 4 + 3] ^= 0x40  # the second: a gigabyte further
    table.write_bytes(content)
    words = [sys.executable, "-m", "fullyconv", "doctor", str(tmp_path / "set")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert any(name in done.stdout + done.stderr for name in (table.name, "state.json"))


@pytest.mark.parametrize("where", ["file", "folder"])
def test_c8_names_that_are_no_utf8_are_told_by_the_doctor(where: str, tmp_path: Path, capsys: Capture) -> None:
    root = strangely_named(tmp_path, where)
    said = run(capsys, "doctor", root)
    assert said.code != 0
    assert "caf" in said.text
    assert re.search("(?i)utf-?8", said.text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_c25_images_of_a_fixed_camera_take_memory_in_proportion_to_their_number(
    tmp_path: Path, capsys: Capture
) -> None:
    doctor(capsys, fixed_camera(tmp_path / "first", 2))  # what is imported on the way is no part of the measure
    peaks = {}
    for number in (50, 200):
        root = fixed_camera(tmp_path / str(number), number)
        tracemalloc.start()
        found = doctor(capsys, root)
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert any(str(number) in text and "alike" in text for text in found.texts("warning"))
    assert peaks[200] < 5 * peaks[50]

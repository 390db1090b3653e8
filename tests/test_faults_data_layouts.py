"""Folders as people have them, and what is wanted of them: found, or refused with the way to what is in them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from annotated_trees import SIZE, coco_tree, labelme_tree, photo
from conftest import write_tree
from told import Diagnosed, doctor

Capture = pytest.CaptureFixture[str]
BOX = (10, 5, 30, 25)  # left, top, right, bottom of the object in every mask
AREA = 20 * 20


def mask(path: Path) -> None:
    values = np.zeros(SIZE, np.uint8)
    values[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def found_whole(found: Diagnosed, splits: dict[str, int]) -> None:
    """See that every pair was found, and its mask read."""
    assert found.code == 0, found.errors
    assert found.splits == splits
    number = sum(splits.values())
    assert sorted(found.pixels.values()) == [number * AREA, number * (SIZE[0] * SIZE[1] - AREA)]


# ---- X beside X_masks ------------------------------------------------------------------------------------------------


BESIDE = ["{}_labels", "{}_masks", "{}annot", "{}-masks"]
SPLITS = [("train", "val", "test"), ("train", "test"), ("train",), ("day", "night")]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("splits", SPLITS, ids="-".join)
def test_l1_a_folder_beside_that_of_its_masks_is_found(
    splits: tuple[str, ...], beside: str, tmp_path: Path, capsys: Capture
) -> None:
    for split in splits:
        for number in range(3):
            photo(tmp_path / split / f"{split}{number}.png")
            mask(tmp_path / beside.format(split) / f"{split}{number}.png")
    found = doctor(capsys, tmp_path)
    found_whole(found, dict.fromkeys(splits, 3) if "train" in splits else {"all": 3 * len(splits)})


@pytest.mark.parametrize("form", ["{}_mask.gif", "{}_L.png"])
def test_l1_names_of_masks_may_end_in_a_word_of_their_own(form: str, tmp_path: Path, capsys: Capture) -> None:
    for number in range(6):
        photo(tmp_path / "train" / f"a{number}.jpg")
        mask(tmp_path / "train_masks" / form.format(f"a{number}"))
    found_whole(doctor(capsys, tmp_path), {"train": 6})


def test_l1_images_to_be_predicted_beside_those_with_masks_are_left_out(tmp_path: Path, capsys: Capture) -> None:
    """As in Carvana: train/, train_masks/, and test/ of which nobody knows the masks."""
    for number in range(3):
        photo(tmp_path / "train" / f"a{number}.jpg")
        photo(tmp_path / "test" / f"b{number}.jpg")
        mask(tmp_path / "train_masks" / f"a{number}_mask.gif")
    found = doctor(capsys, tmp_path)
    found_whole(found, {"train": 3})
    assert any("test" in text and re.search(r"\b3\b", text) for text in found.texts())


# ---- polygons of YOLO ------------------------------------------------------------------------------------------------


def yolo(root: Path, form: str) -> Path:
    """Images with polygons in fractions of width and height; the first image of each split has no object."""
    height, width = SIZE
    corners = [(x, y) for x, y in ((BOX[0], BOX[1]), (BOX[2], BOX[1]), (BOX[2], BOX[3]), (BOX[0], BOX[3]))]
    numbers = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in corners)
    for split, there in (("train", 4), ("val", 2)):
        for number in range(there):
            image, label = (
                root / form.format(kind=kind, split=split) / f"{split}{number}" for kind in ("images", "labels")
            )
            photo(image.with_suffix(".jpg"))
            label.parent.mkdir(parents=True, exist_ok=True)
            label.with_suffix(".txt").write_text(f"1 {numbers}\n" if number else "")
    places = {split: form.format(kind="images", split=split) for split in ("train", "val")}
    lines = [f"{split}: {place}" for split, place in places.items()]
    (root / "data.yaml").write_text("\n".join(["path: .", *lines, "names:", "  0: cat", "  1: dog"]) + "\n")
    return root


@pytest.mark.parametrize("form", ["{kind}/{split}", "{split}/{kind}"])
@pytest.mark.parametrize("names", ["mapping", "list", "none"])
def test_m4_l2_polygons_in_fractions_are_drawn_and_named(
    form: str, names: str, tmp_path: Path, capsys: Capture
) -> None:
    root = yolo(tmp_path, form)
    if names == "list":
        text = (root / "data.yaml").read_text().partition("names:")[0]
        (root / "data.yaml").write_text(text + "nc: 2\nnames: ['cat', 'dog']\n")
    if names == "none":
        (root / "data.yaml").unlink()
    found = doctor(capsys, root)
    assert found.code == 0, found.errors
    assert found.splits == {"train": 4, "val": 2}
    drawn = min(found.pixels.values())
    assert drawn == pytest.approx(4 * AREA, rel=0.12)  # by the rule for pixels on the border
    if names != "none":
        assert found.pixels["dog"] == drawn
        assert "cat" in found.classes


def test_m4_boxes_of_yolo_are_refused_as_what_they_are(tmp_path: Path, capsys: Capture) -> None:
    root = yolo(tmp_path, "{kind}/{split}")
    for path in root.rglob("labels/*/*.txt"):
        path.write_text("1 0.5 0.5 0.2 0.2\n")
    found = doctor(capsys, root)
    assert found.code != 0
    assert "box" in found.errors
    assert ".txt" in found.errors


# ---- images and masks in one folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [("",), ("train", "valid", "test"), ("train", "valid")])
@pytest.mark.parametrize(
    ("image", "label"),
    [("{}.jpg", "{}_mask.png"), ("{}_sat.jpg", "{}_mask.png"), ("{}.png", "{}_mask.png"), ("{}.jpg", "{}_label.png")],
)
def test_l3_masks_beside_their_images_are_found_by_their_ending(
    image: str, label: str, splits: tuple[str, ...], tmp_path: Path, capsys: Capture
) -> None:
    for split in splits:
        for number in range(4):
            photo(tmp_path / split / image.format(f"{split}{number}"))
            mask(tmp_path / split / label.format(f"{split}{number}"))
    wanted = {{"valid": "val", "": "all"}.get(split, split): 4 for split in splits}
    found_whole(doctor(capsys, tmp_path), wanted)


# ---- one level too high ----------------------------------------------------------------------------------------------

TREES: dict[str, Callable[[Path], Path]] = {
    "images + masks": lambda root: pairs(root),
    "images/train": lambda root: pairs(root, "{kind}/train"),
    "train/images and classes.txt": lambda root: write_tree(root, {"train": 4, "val": 2}),
    "coco": lambda root: coco_tree(root),
    "labelme": lambda root: labelme_tree(root),
    "camvid": lambda root: camvid(root),
    "a saved table": lambda root: table(root),
}


def camvid(root: Path) -> Path:
    for split in ("train", "val"):
        for number in range(3):
            photo(root / split / f"{number}.png")
            mask(root / f"{split}annot" / f"{number}.png")
    return root


def table(root: Path) -> Path:
    place = pairs(root.parent / "files")
    rows = [{"image": str(place / "images" / f"{n}.png"), "mask": str(place / "masks" / f"{n}.png")} for n in range(4)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows, features=features).save_to_disk(root)
    shutil.rmtree(place)
    return root


def pairs(root: Path, form: str = "{kind}", suffixes: tuple[str, str] = ("png", "png")) -> Path:
    for number in range(4):
        photo(root / form.format(kind="images") / f"{number}.{suffixes[0]}")
        mask(root / form.format(kind="masks") / f"{number}.{suffixes[1]}")
    return root


@pytest.mark.parametrize("above", ["archive", "dataset-v2/export"])
@pytest.mark.parametrize("kind", TREES)
def test_m14_a_folder_one_level_too_high_is_found_or_the_one_below_is_named(
    kind: str, above: str, tmp_path: Path, capsys: Capture
) -> None:
    below = TREES[kind](tmp_path / above / "set")
    wanted = doctor(capsys, below)
    found = doctor(capsys, tmp_path)
    assert wanted.code == 0, wanted.errors
    if found.code:
        assert f"{above}/set" in found.errors
    else:
        assert (found.splits, found.classes) == (wanted.splits, wanted.classes)
        assert found.pixels == wanted.pixels

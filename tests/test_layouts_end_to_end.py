"""Folders as tools export them, from doctor through fit to masks by predict, with no option that says how to read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullyconv.images import read_mask
from fullyconv.images.georeference import georeference_of
from told import doctor, run

SIZE = (48, 64)
COLORS = np.array([[40, 120, 40], [200, 60, 60], [90, 140, 230]])
BOX = (12, 8, 44, 36)  # left, top, right, bottom


def scene(number: int, value: int = 1, split: str = "") -> tuple[Image.Image, np.ndarray[Any, Any]]:
    """An image that tells its mask by its colors."""
    mask = np.zeros(SIZE, np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] + number % 5 : BOX[2] + number % 5] = value
    noise = np.random.default_rng([number, *split.encode()]).integers(-20, 20, (*SIZE, 3))
    return Image.fromarray((COLORS[mask] + noise).clip(0, 255).astype(np.uint8)), mask


def put(path: Path, image: Image.Image | np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def yolo(root: Path) -> tuple[str, ...]:
    for split, there in (("train", 6), ("val", 3)):
        for number in range(there):
            image, _ = scene(number, split=split)
            put(root / "images" / split / f"{number}.jpg", image)
            x0, x1 = ((x + number % 5) / SIZE[1] for x in (BOX[0], BOX[2]))
            y0, y1 = (y / SIZE[0] for y in (BOX[1], BOX[3]))
            label = root / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"0 {x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1}\n")
    (root / "data.yaml").write_text(
        "path: /home/somebody/datasets/x\ntrain: /home/somebody/datasets/x/images/train\nval: ../x/images/val\n"
        "nc: 1\nnames: [box]\n"
    )
    return "background", "box"


def roboflow(root: Path) -> tuple[str, ...]:
    for split, there in (("train", 6), ("valid", 3), ("test", 2)):
        for number in range(there):
            image, mask = scene(number, split=split)
            name = f"{number}_png.rf.0a1b2c3d{number}"
            put(root / split / f"{name}.jpg", image)
            put(root / split / f"{name}_mask.png", mask)
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, box\n")
    (root / "README.roboflow.txt").write_text("exported\n")
    return "background", "box"


def cvat(root: Path) -> tuple[str, ...]:
    palette = np.array([[0, 0, 0], [250, 50, 83]], np.uint8)
    for number in range(9):
        image, mask = scene(number)
        put(root / "JPEGImages" / f"frame_{number}.jpg", image)
        put(root / "SegmentationClass" / f"frame_{number}.png", palette[mask])
        put(root / "SegmentationObject" / f"frame_{number}.png", palette[mask])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("\n".join(f"frame_{number}" for number in range(9)))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nbox:250,50,83::\n")
    return "background", "box"


def beside(root: Path) -> tuple[str, ...]:
    for split, there in (("train", 6), ("val", 3)):
        for number in range(there):
            image, mask = scene(number, split=split)
            put(root / split / f"{split}_{number}.png", image)
            put(root / f"{split}_labels" / f"{split}_{number}_L.png", mask)
    return "class 0", "class 1"


def trees(root: Path) -> tuple[str, ...]:
    for index in range(6):
        tree = root / f"kind{index}"
        names = [f"{number:03}" for number in range(4)]
        for number, name in enumerate(names):
            image, mask = scene(number, 1 + index % 2, tree.name)
            put(tree / "JPEGImages" / f"{name}.jpg", image)
            colors = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
            put(tree / "SegmentationClass" / f"{name}.png", colors[mask])
        (tree / "ImageSets" / "Segmentation").mkdir(parents=True)
        for split, listed in (("train", names[:3]), ("val", names[3:])):
            (tree / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(listed))
    return "class 0", "class 1", "class 2"


def geotiffs(root: Path) -> tuple[str, ...]:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(9):
        image, mask = scene(number)
        mask[:3] = 255  # no data
        for kind, values in (("images", np.asarray(image)), ("masks", mask)):
            place = [
                (33550, "d", 3, (0.5, 0.5, 0.0), True),
                (33922, "d", 6, (0.0, 0.0, 0.0, 690_000.0 + 40 * number, 5_334_000.0, 0.0), True),
                (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632), True),
            ]
            nodata = [(42113, "s", 0, "255", True)] if kind == "masks" else []
            photometric = "rgb" if kind == "images" else "minisblack"
            path = root / kind / f"tile_{number}.tif"
            tifffile.imwrite(path, values, photometric=photometric, extratags=[*place, *nodata], compression="zlib")
    return "class 0", "class 1"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [yolo, roboflow, cvat, beside, trees, geotiffs])
def test_an_export_goes_from_doctor_through_fit_to_masks(
    make: Callable[[Path], tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = make(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    found = doctor(capsys, tmp_path / "set")
    assert found.code == 0, found.errors
    assert tuple(found.classes) == names
    assert found.pixels[names[1]] > 0
    words = ["--model", "random:fcn32s_resnet18_quarter", "--epochs", "1", "--device", "cpu"]
    said = run(capsys, "fit", "set", *words, "--trainer.enable_progress_bar=false")
    assert said.code == 0, said.text
    assert f"classes: {', '.join(names)}" in said.out
    image, _ = scene(99)
    put(tmp_path / "new" / "a.png", image)
    said = run(capsys, "predict", "new", "--model", os.path.join("runs", "set", "model"), "--out", "masks")
    assert said.code == 0, said.text
    if make is geotiffs:
        tiles = ["set/images", "--model", os.path.join("runs", "set", "model"), "--out", "tiles", "--format", "tif"]
        assert run(capsys, "predict", *tiles).code == 0
        for image_file in sorted((tmp_path / "set" / "images").glob("*.tif")):
            assert georeference_of(tmp_path / "tiles" / image_file.name) == georeference_of(image_file)
    mask = read_mask(tmp_path / "masks" / "a.png")
    assert mask.shape == SIZE
    assert set(np.unique(mask)) <= set(range(len(names)))

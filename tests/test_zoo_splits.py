"""zoo/splits.py and zoo/leaks.py: copies, overlaps and tiles of one image are found, and end in one split."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "zoo"))

import leaks
import splits

RNG = np.random.default_rng(0)


def scene(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make smooth blotches, which neighboring lines share as they do in a photograph."""
    coarse = Image.fromarray(RNG.integers(0, 256, (height // 4, width // 4), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write(folder: Path, **images: npt.NDArray[np.uint8]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in images]


def test_copies_are_alike_however_they_are_turned_lit_or_scaled(tmp_path: Path) -> None:
    one, other = scene(96, 96), scene(96, 96)
    dark = (one // 3 + 20).astype(np.uint8)
    small = np.asarray(Image.fromarray(one).resize((64, 64), Image.Resampling.BOX))
    thumbs = leaks.thumbnails(write(tmp_path, a=one, b=np.rot90(dark), c=one[:, ::-1], d=small, e=other))
    alike = leaks.likeness(thumbs[:1], thumbs)[0]
    assert alike[0] == pytest.approx(1, abs=1e-3)
    assert alike[1:4].min() > 0.9
    assert alike[4] < 0.35
    assert leaks.likeness(thumbs[:1], thumbs[1:3], turned=False)[0].tolist() == [
        pytest.approx(float(alike[4]), abs=0.3),
        pytest.approx(1, abs=1e-2),
    ]


def test_crops_that_overlap_are_alike(tmp_path: Path) -> None:
    whole = scene(96, 160)
    thumbs = leaks.thumbnails(write(tmp_path, a=whole[:, :96], b=whole[:, 48:144], c=scene(96, 96)))
    alike = leaks.likeness(thumbs, thumbs)
    assert alike[0, 1] > 0.5 > 0.35 > alike[0, 2]
    assert alike[0, 1] == pytest.approx(float(alike[1, 0]), abs=0.1)


def test_tiles_of_one_image_touch(tmp_path: Path) -> None:
    whole = scene(120, 120)
    tiles = {f"t{row}{column}": whole[row : row + 60, column : column + 60] for row in (0, 60) for column in (0, 60)}
    files = write(tmp_path, **tiles, other=scene(60, 60), smaller=whole[60:100, :40])
    assert sorted(leaks.touching(files)) == [(0, 1), (0, 2), (1, 3), (2, 3)]


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Two shots and one copy of each of eight places, and tiles of four more."""
    for place in range(8):
        whole = scene(96, 144)
        write(
            tmp_path / "field/images",
            **{f"{place}a": whole[:, :96], f"{place}b": whole[:, 48:], f"{place}c": whole[:, 95::-1]},
        )
    for place in range(8, 12):
        whole = scene(96, 192)
        write(tmp_path / "field/images", **{f"{place}a": whole[:, :96], f"{place}b": whole[:, 96:]})
    for image in (tmp_path / "field/images").iterdir():
        write(tmp_path / "field/masks", **{image.stem: np.repeat(np.eye(2, dtype=np.uint8), 48, 0).repeat(48, 1)})
    recipe = {"data": str(tmp_path / "field"), "lists": "lists", "values": {0: "soil", 1: "plant"}}
    (tmp_path / "zoo/ladder_efficientnet_lite0.field").mkdir(parents=True)
    (tmp_path / "zoo/ladder_efficientnet_lite0.field/recipe.yaml").write_text(yaml.safe_dump({"data": recipe}))
    return tmp_path


def test_a_place_is_in_one_split_and_the_check_says_so(
    field: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(splits, "ZOO", field / "zoo")
    splits.split("field", splits.Rule(test=0.25, val=0.25))
    assert "32 images in 12 groups, the largest of 3" in capsys.readouterr().out
    lists = {name: (field / "lists" / f"{name}.txt").read_text() for name in ("train", "val", "test")}
    places = {name: {Path(line).name[:-1] for line in text.split()} for name, text in lists.items()}
    assert sum(map(len, places.values())) == len(set().union(*places.values())) == 12
    options = {"data": str(field / "field"), "values": {0: "soil", 1: "plant"}}
    assert leaks.check("field", options | {"lists": str(field / "lists")}) == 0
    assert f"test {len(lists['test'].split())} in {len(places['test'])} groups" in capsys.readouterr().out
    assert leaks.check("field", options | {"test_fraction": 0.25}) > 0


def test_a_published_test_part_stays_less_what_training_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(96, 96) for _ in range(9)]
    write(tmp_path / "set/train/images", **{f"n{number}": image for number, image in enumerate(images[:6])})
    write(tmp_path / "set/test/images", **{f"n{number}": image for number, image in enumerate(images[5:])})
    for image in tmp_path.glob("set/*/images/*"):
        write(image.parents[1] / "masks", **{image.stem: np.repeat(np.eye(2, dtype=np.uint8), 48, 0).repeat(48, 1)})
    recipe = {"data": str(tmp_path / "set"), "lists": "lists", "values": {0: "soil", 1: "plant"}}
    (tmp_path / "zoo/ladder_efficientnet_lite0.set").mkdir(parents=True)
    (tmp_path / "zoo/ladder_efficientnet_lite0.set/recipe.yaml").write_text(yaml.safe_dump({"data": recipe}))
    monkeypatch.setattr(splits, "ZOO", tmp_path / "zoo")
    splits.split("set", splits.Rule(val=0.5, published=True))
    named = {name: (tmp_path / "lists" / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}
    assert named["test"] == ["test/images/n1", "test/images/n2", "test/images/n3"]
    assert sorted(named["train"] + named["val"]) == [f"train/images/n{number}" for number in range(6)]
    assert len(named["val"]) == 3

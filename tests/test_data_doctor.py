from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_tree
from fullyconv import cli
from fullyconv.data import doctor
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine, sheet
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels


def put_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path)


def stray(path: Path, value: int) -> None:
    mask = np.array(Image.open(path))
    mask[3, 4] = value
    put_mask(path, mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 6, "val": 3})


def test_a_healthy_set_has_nothing_but_its_statistics(root: Path) -> None:
    diagnosis = examine(root)
    assert diagnosis.healthy(strict=True), diagnosis.text()
    assert diagnosis.splits == {"train": 6, "val": 3}
    assert diagnosis.sizes == {"least": [48, 64], "median": [48, 64], "largest": [48, 64], "distinct": 1}
    assert sum(diagnosis.pixels.values()) == 9 * 48 * 64
    assert diagnosis.images == {"ground": 9, "box": 9, "sky": 9, "ignore": 9}
    # all classes are in all masks, so that the weights are inverse to the pixels, and the median class has 1
    assert sorted(diagnosis.weights.values())[1] == 1.0
    products = [diagnosis.weights[name] * diagnosis.pixels[name] for name in ("ground", "box", "sky")]
    assert products == pytest.approx([products[0]] * 3, rel=1e-3)


def test_everything_is_found_in_one_go_the_worst_first(root: Path) -> None:
    (root / "train" / "masks" / "000.png").unlink()
    for number in (1, 2):
        path = root / "train" / "masks" / f"00{number}.png"
        mask = np.array(Image.open(path))
        mask[0, :number] = 9
        Image.fromarray(mask).save(path)
    (root / "train" / "images" / "003.png").write_bytes(b"broken")
    shutil.copy(root / "train" / "images" / "004.png", root / "val" / "images" / "001.png")
    diagnosis = examine(root)
    said = diagnosis.text()
    for rule in (
        "1 x images without a mask",
        "no mask of the same name",
        "2 x masks that hold values that are not in the label map",
        r"001\.png: 9 \(1 pixels\)",
        r"002\.png: 9 \(2 pixels\)",
        "images that cannot be read",
        r"004\.png \(train\) = .*001\.png \(val\)",
    ):
        assert re.search(rule, said), rule
    severities = [finding.severity for finding in diagnosis.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert not diagnosis.healthy()


def test_files_that_do_not_pair_hide_nothing(root: Path) -> None:
    (root / "train" / "masks" / "000.png").unlink()
    (root / "train" / "images" / "001.png").unlink()
    shutil.copy(root / "train" / "images" / "002.png", root / "train" / "images" / "002.bmp")
    stray(root / "train" / "masks" / "003.png", 9)
    (root / "val" / "masks" / "000.png").write_bytes(b"")
    diagnosis = examine(root)
    rules = [finding.rule for finding in diagnosis.findings if finding.severity == "error"]
    assert sorted(rules) == [
        "1 x images without a mask",
        "1 x masks that cannot be read",
        "1 x masks that hold values that are not in the label map",
        "1 x masks without an image",
        "2 x files that share one name",
    ]
    assert diagnosis.splits == {"train": 3, "val": 3}


def test_masks_in_the_way_of_the_labels_hide_nothing(root: Path) -> None:
    (root / "classes.txt").unlink()
    (root / "train" / "masks" / "000.png").write_bytes(b"x")
    put_mask(root / "train" / "masks" / "001.png", np.zeros((40, 64), np.uint8))
    diagnosis = examine(root)
    assert diagnosis.labels is not None
    assert diagnosis.labels.names == ("class 0", "class 1", "class 2")
    rules = {finding.rule for finding in diagnosis.findings if finding.severity == "error"}
    assert rules == {"1 x masks that cannot be read", "1 x pairs whose image and mask differ in size"}


def test_where_nobody_knows_what_the_values_mean_the_rest_is_looked_at(root: Path) -> None:
    (root / "classes.txt").unlink()
    for path in root.rglob("masks/*.png"):
        mask = np.array(Image.open(path))
        put_mask(path, np.where(mask == 1, 100, mask).astype(np.uint8))
    (root / "train" / "images" / "000.png").write_bytes(b"x")
    (root / "train" / "masks" / "001.png").write_bytes(b"x")
    put_mask(root / "val" / "masks" / "001.png", np.zeros((40, 64), np.uint8))
    shutil.copy(root / "train" / "images" / "003.png", root / "val" / "images" / "002.png")
    diagnosis = examine(root)
    assert diagnosis.labels is None
    said = diagnosis.text()
    for message in (
        "do not look like class indices",
        "1 x images that cannot be read",
        "1 x masks that cannot be read",
        "1 x pairs whose image and mask differ in size",
        "1 x images that are in more than one split",
    ):
        assert message in said, said
    assert json.loads(json.dumps(diagnosis.to_dict()))["healthy"] is False


def test_options_that_name_nothing_are_a_wrong_call(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="masks='gone': no such folder"):
        examine(root, masks="gone")
    with pytest.raises(FileNotFoundError, match=r"pairs='gone\.csv': no such file"):
        examine(root, pairs="gone.csv")


def test_long_lists_are_cut_unless_all_is_asked_for(root: Path) -> None:
    for path in (root / "train" / "masks").iterdir():
        Image.fromarray(np.full((48, 64), 9, np.uint8)).save(path)
    diagnosis = examine(root)
    assert "and 1 more (--all)" in diagnosis.text()
    assert "more (--all)" not in diagnosis.text(None)


def photograph(seed: int, noise: int = 0) -> np.ndarray:
    """Make an image that is like no other of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = np.array(Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)).astype(np.int16)
    smooth += np.random.default_rng(seed + noise).integers(-noise, noise + 1, smooth.shape).astype(np.int16)
    return smooth.clip(0, 255).astype(np.uint8)


@pytest.fixture
def photographs(root: Path) -> Path:
    for number, path in enumerate(sorted(root.rglob("images/*.png"))):
        Image.fromarray(photograph(number)).save(path)
    return root


def test_look_alikes_across_splits_are_a_warning(photographs: Path) -> None:
    assert examine(photographs).healthy(strict=True)
    Image.fromarray(photograph(2, noise=4)).save(photographs / "val" / "images" / "000.png")
    diagnosis = examine(photographs)
    (finding,) = [finding for finding in diagnosis.findings if finding.severity == "warning"]
    assert finding.rule == "2 images look alike across splits"
    assert re.search(r"002\.png \(train\) ~ .*000\.png \(val\)", finding.files[0])
    assert diagnosis.healthy()
    assert not diagnosis.healthy(strict=True)


def test_an_image_saved_as_jpeg_looks_like_itself_and_a_darker_one_does_not(photographs: Path) -> None:
    target = photographs / "val" / "images" / "000.png"
    Image.fromarray(photograph(2)).save(target.with_suffix(".jpg"), quality=92)
    target.unlink()
    assert "2 images look alike across splits" in str(examine(photographs))
    target.with_suffix(".jpg").unlink()
    Image.fromarray(photograph(2) // 2).save(target)
    assert "look alike" not in str(examine(photographs))


def test_look_alikes_in_one_split_matter_where_a_part_of_it_will_be_drawn(photographs: Path) -> None:
    for number in (1, 2, 3):
        Image.fromarray(photograph(50, noise=number)).save(photographs / "train" / "images" / f"00{number}.png")
    assert "look alike" not in str(examine(photographs))
    shutil.rmtree(photographs / "val")
    (finding,) = [finding for finding in examine(photographs).findings if "look alike" in finding.rule]
    assert finding.rule == "3 images look alike and there is no val"
    assert finding.files[0].count("~") == 2  # one group of three


def test_one_image_with_two_masks_contradicts_itself(root: Path) -> None:
    shutil.copy(root / "train" / "images" / "000.png", root / "train" / "images" / "001.png")
    shutil.copy(root / "train" / "masks" / "000.png", root / "train" / "masks" / "001.png")
    assert "contradict" not in str(examine(root))
    stray(root / "train" / "masks" / "001.png", 1)
    assert "1 x images with masks that contradict each other" in str(examine(root))


def test_weights_are_those_of_the_papers(root: Path) -> None:
    for path in root.rglob("masks/*.png"):
        mask = np.zeros((48, 64), np.uint8)
        mask[:12] = 1
        if path.stem == "000" and "train" in path.parts:
            mask[12:24] = 2
        put_mask(path, mask)
    diagnosis = examine(root)
    # Pixels of a class over the pixels of the masks that hold it: 35/36 of 3/4 + ..., 1/4, and 1/4 in the one mask.
    frequency = {"ground": (8 * 0.75 + 0.5) / 9, "box": 0.25, "sky": 0.25}
    assert diagnosis.weights == pytest.approx({name: 0.25 / value for name, value in frequency.items()}, abs=1e-3)
    shares = np.array([6.5, 2.25, 0.25]) ** -0.5
    assert list(diagnosis.soft_weights.values()) == pytest.approx(list(shares / shares.mean()), abs=1e-3)


def test_images_of_several_kinds_are_counted(root: Path) -> None:
    for number, mode in ((0, "L"), (1, "L"), (2, "RGBA"), (3, "P")):
        path = root / "train" / "images" / f"00{number}.png"
        Image.open(path).convert(mode).save(path)
    diagnosis = examine(root)
    assert diagnosis.kinds == {"RGB": 5, "gray": 2, "RGB with alpha": 1, "palette": 1}
    assert "images: 5 RGB, 2 gray, 1 RGB with alpha, 1 palette" in diagnosis.text()
    assert diagnosis.healthy(strict=True)


def test_the_sheet_shows_images_masks_names_and_legend(root: Path) -> None:
    drawn = sheet(examine(root))
    assert drawn.mode == "RGB"
    assert drawn.width > 4 * 320
    colors = {color for _, color in drawn.getcolors(2**24) or []}
    assert Labels.of(["ground", "box", "sky"]).palette[2] in colors  # the legend's sky


def test_the_sheet_begins_with_what_is_suspicious_and_what_is_rare(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray(root / "train" / "masks" / "004.png", 77)
    put_mask(root / "val" / "masks" / "001.png", np.full((48, 64), 255, np.uint8))
    diagnosis = examine(root)
    told = [(pair.image.parent.parent.name, pair.key, why) for pair, why in diagnosis.telling]
    assert told[0] == ("train", "004", "a value that is no class")
    assert told[1] == ("val", "001", "all ignored")
    assert told[2][2] == "most box"
    shown: list[str] = []
    monkeypatch.setattr(doctor, "contact_sheet", lambda cells, *_, **__: shown.extend(cell[2] for cell in cells))
    sheet(diagnosis)  # the stray value does not stop it
    assert shown[:3] == ["004: a value that is no class", "001: all ignored", f"{told[2][1]}: most box"]
    assert len(shown) == 9


def test_the_sheet_shows_an_image_beside_its_copy_those_of_unlike_masks_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, copy, original in (("train", "005", "003"), ("val", "002", "001")):
        for folder in ("images", "masks"):
            place = root / split / folder
            shutil.copy(place / f"{original}.png", place / f"{copy}.png")
    mask = np.array(Image.open(root / "val" / "masks" / "002.png"))
    put_mask(root / "val" / "masks" / "002.png", np.where(mask == 2, 0, mask))
    told = [(pair.key, why) for pair, why in examine(root).telling if why == "there twice"]
    assert told == [("001", "there twice"), ("002", "there twice")]


def test_training_masks_of_one_class_alone_are_an_error(root: Path) -> None:
    for path in root.glob("train/masks/*"):
        put_mask(path, np.where(np.array(Image.open(path)) == 0, 0, 255).astype(np.uint8))
    found = next(finding for finding in examine(root).findings if finding.severity == "error")
    assert found.rule == "there is nothing to tell apart"
    assert "every labeled pixel of the training masks is ground" in found.message
    with pytest.raises(DatasetError, match="shapes: every labeled pixel of the training masks is ground"):
        SegmentationDataModule(root).check("train")
    SegmentationDataModule(root).check("val")


def test_the_sheet_is_of_bounded_size_whatever_the_images(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "wide", {"train": 20, "val": 10}, size=(40, 900))
    drawn = sheet(examine(root))
    assert drawn.width < 1400
    assert drawn.height < 500


def test_a_set_without_a_readable_pair_has_no_sheet(root: Path) -> None:
    for path in root.rglob("images/*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="no pair can be drawn"):
        sheet(examine(root))


def test_the_command_prints_writes_and_tells_programs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", str(root), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()
    assert cli.main(["doctor", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"train": 6, "val": 3}
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(root / "val" / "masks" / "000.png")
    assert cli.main(["doctor", str(root)]) == 0
    assert cli.main(["doctor", str(root), "--strict"]) == 1
    (root / "val" / "masks" / "000.png").write_bytes(b"")
    assert cli.main(["doctor", str(root)]) == 1
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    capsys.readouterr()
    assert cli.main(["doctor", str(root), "--json", "--sheet", str(tmp_path / "none.png")]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["errors"] == 2
    assert "no contact sheet: " in printed.err
    assert not (tmp_path / "none.png").exists()


def test_options_say_how_the_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "soil", "weeds"):
        (tmp_path / "field" / folder).mkdir(parents=True)
    label = np.zeros((40, 50), np.uint8)
    label[10:20] = 7
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "field" / "images" / f"{number}.png")
        for folder in ("soil", "weeds"):
            Image.fromarray(label).save(tmp_path / "field" / folder / f"{number}.png")
    field = str(tmp_path / "field")
    assert cli.main(["doctor", field]) == 1
    assert "soil/ (3 files, 0.png ...), weeds/ (3 files" in capsys.readouterr().out
    assert cli.main(["doctor", field, "--masks", "weeds", "--values", "0=soil,7=weed"]) == 0
    printed = capsys.readouterr().out
    assert "{0=soil, 7=weed, 255=ignore}" in printed
    assert re.search(r"weed +25.00 % +3", printed)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "clothes_voc", "magnetic_tile", "neu_seg", "pets128", "sci_16bit"])
def test_real_sets_are_healthy(data_root: Path, name: str) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"no {name} under FULLYCONV_DATA={data_root}")
    diagnosis = examine(data_root / name)
    assert diagnosis.healthy(), diagnosis.text()


def test_copies_are_drawn_into_validation_where_there_is_no_val(root: Path) -> None:
    for folder in ("images", "masks"):
        first = min((root / "train" / folder).iterdir())
        shutil.copy(first, first.with_stem("copy"))

    def told() -> str:
        return next(found.message for found in examine(root).findings if "there more than once" in found.rule)

    assert "set aside at random" not in told()
    shutil.rmtree(root / "val")
    assert "a part is set aside at random for validation" in told()

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
from fullyconv.data.doctor import examine, sheet
from fullyconv.errors import DatasetError


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
        "no mask of the same name",
        "2 masks hold values that are not in the label map",
        r"001\.png: 9 \(1 pixels\)",
        r"002\.png: 9 \(2 pixels\)",
        "images that cannot be read",
        r"004\.png \(train\) = .*001\.png \(val\)",
    ):
        assert re.search(rule, said), rule
    severities = [finding.severity for finding in diagnosis.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert not diagnosis.healthy()


def test_long_lists_are_cut_unless_all_is_asked_for(root: Path) -> None:
    for path in (root / "train" / "masks").iterdir():
        Image.fromarray(np.full((48, 64), 9, np.uint8)).save(path)
    diagnosis = examine(root)
    assert "and 1 more (--all)" in diagnosis.text()
    assert "more (--all)" not in diagnosis.text(None)


def test_look_alikes_across_splits_are_a_warning(root: Path) -> None:
    picture = Image.open(root / "train" / "images" / "002.png")
    picture.save(root / "val" / "images" / "000.png")
    slightly = np.array(picture)
    slightly[0, 0] ^= 1
    Image.fromarray(slightly).save(root / "val" / "images" / "000.png")
    diagnosis = examine(root)
    assert any("look alike across splits" in finding.rule for finding in diagnosis.findings)
    assert diagnosis.healthy()
    assert not diagnosis.healthy(strict=True)


def test_the_sheet_shows_pictures_masks_names_and_legend(root: Path) -> None:
    drawn = sheet(examine(root))
    assert drawn.mode == "RGB"
    assert drawn.width > 4 * 320
    colours = {colour for _, colour in drawn.getcolors(2**24) or []}
    assert (0, 128, 0) in colours  # the legend's sky


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

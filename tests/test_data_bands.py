"""Images of any number of bands, all the way: doctor, data module, training, model folder, prediction of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import fullyconv
from closeness import assert_same_mask
from conftest import write_tree
from fullyconv import cli
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine, sheet
from fullyconv.data.sources import open_source
from fullyconv.errors import DatasetError
from fullyconv.plan import plan
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.module import SegmentationModule

PRESET = "fcn32s_resnet18_quarter"


def many_bands(root: Path, bands: int, sizes: dict[str, int] | None = None) -> Path:
    """Write the small set with images of that many bands: PNG up to four, TIFF beyond."""
    write_tree(root, sizes or {"train": 6, "val": 3, "test": 2})
    for path in root.rglob("images/*.png"):
        color = np.array(Image.open(path))
        wide = np.concatenate([color] * (bands // 3 + 1), axis=2)[..., :bands]
        if bands > 4:
            tifffile.imwrite(path.with_suffix(".tif"), wide, photometric="minisblack", planarconfig="contig")
            path.unlink()
        else:
            Image.fromarray(wide[..., 0] if bands == 1 else wide).save(path)
    return root


@pytest.mark.parametrize("bands", [1, 2, 4, 6])
def test_batches_have_the_bands_that_were_asked_for(tmp_path: Path, bands: int) -> None:
    root = many_bands(tmp_path / "shapes", bands)
    data = SegmentationDataModule.from_folder(root, in_channels=bands, batch_size=2, crop_size=32)
    data.check()
    assert data.in_channels == bands
    assert f"images of {bands} channels" in data.report
    assert next(iter(data.train_dataloader()))["image"].shape == (2, bands, 32, 32)
    assert next(iter(data.val_dataloader()))["image"].shape == (2, bands, 48, 64)
    diagnosis = examine(root, in_channels=bands)
    assert diagnosis.healthy(strict=True), diagnosis.text()
    assert sheet(diagnosis).mode == "RGB"


def test_all_images_are_rgb_unless_told_otherwise(tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(many_bands(tmp_path / "shapes", 4))
    assert data.in_channels == 3
    assert "channels" not in data.report
    assert next(iter(data.val_dataloader()))["image"].shape[1] == 3


def test_doctor_and_training_name_an_image_of_other_bands(tmp_path: Path) -> None:
    root = many_bands(tmp_path / "shapes", 4)
    odd = root / "train" / "images" / "003.png"
    Image.open(odd).convert("RGB").save(odd)
    diagnosis = examine(root, in_channels=4)
    message = r"003\.png: has 3 bands \(mode RGB\), and in_channels=4 is given"
    assert re.search(message, diagnosis.text())
    assert not diagnosis.healthy()
    with pytest.raises(DatasetError, match=message):
        SegmentationDataModule.from_folder(root, in_channels=4).check()


def test_many_bands_without_their_number_say_what_to_give(tmp_path: Path) -> None:
    root = many_bands(tmp_path / "shapes", 6)
    assert re.search(r"in_channels= \(--in-channels\)", examine(root).text())


@pytest.mark.parametrize("number", [0, -1, True, 4.0, 5000])
def test_a_number_of_bands_that_cannot_be_is_refused(tmp_path: Path, number: Any) -> None:
    with pytest.raises(ValueError, match=r"in_channels=.*the number of bands of the images"):
        open_source(many_bands(tmp_path / "shapes", 4), in_channels=number)


class TestPlan:
    def test_a_random_start_has_numbers_for_every_channel(self, tmp_path: Path) -> None:
        data = SegmentationDataModule.from_folder(many_bands(tmp_path / "shapes", 6), in_channels=6)
        chosen = plan(data, model=f"random:{PRESET}", device="cpu")
        assert chosen.settings["model.in_channels"] == 6
        assert chosen.settings["model.preprocessing"]["mean"] == list(IMAGENET.for_channels(6).mean)
        assert any(reason.startswith("6 channels: the first three have") for reason in chosen.reasons)

    def test_a_start_for_three_channels_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        data = SegmentationDataModule.from_folder(many_bands(tmp_path / "shapes", 4), in_channels=4)
        with pytest.raises(
            ValueError, match=r"takes images of 3 channels, and in_channels=4 .* random:ladder_efficientnet_lite0"
        ):
            plan(data)


def test_module_and_data_of_different_channels_do_not_meet(tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(many_bands(tmp_path / "shapes", 4), in_channels=4)
    module = SegmentationModule(PRESET, classes=data.classes)
    with pytest.raises(ValueError, match=r"the data has in_channels=4, the model in_channels=3: .* give both the same"):
        L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(module, data)


def test_fit_test_and_predict_go_through_with_six_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many_bands(tmp_path / "shapes", 6)
    monkeypatch.chdir(tmp_path)
    words = ["--model", f"random:{PRESET}", "--epochs", "1", "--device", "cpu", "--data.in_channels", "6"]
    assert cli.main(["fit", "shapes", *words, "--trainer.enable_progress_bar=false"]) == 0
    assert "images of 6 channels" in capsys.readouterr().out
    assert (tmp_path / "runs/shapes/report.html").is_file()
    segmenter = fullyconv.load("runs/shapes/model")
    path = root / "test" / "images" / "000.tif"
    result = segmenter.predict(path)
    assert result.mask.shape == (48, 64)
    assert result.image.shape == (48, 64, 3)
    assert result.overlay(legend=False).size == (64, 48)
    pixels = tifffile.imread(path)
    for source in (pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        assert_same_mask(segmenter.predict(source).mask, result.mask)
    assert cli.main(["test", "runs/shapes/model", "shapes", "--json"]) == 0
    assert cli.main(["predict", str(path), "--model", "runs/shapes/model"]) == 0
    assert (tmp_path / "masks" / "000.png").is_file()
    Image.new("RGB", (64, 48)).save("three.png")
    assert cli.main(["predict", "three.png", "--model", "runs/shapes/model"]) == 1
    assert "three.png: has 3 bands (mode RGB), and in_channels=6 is given" in capsys.readouterr().err

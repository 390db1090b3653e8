"""`fullyconv fit`: what people ran into, and what is wanted of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

import fullyconv
from conftest import write_tree
from fullyconv import SegmentationDataModule, SegmentationModule
from odd_trees import deep_tree, strangely_named, thin
from told import Said, run

Capture = pytest.CaptureFixture[str]

RANDOM = "random:fcn32s_resnet18_half"
PLATEAU = ("--model.lr=1e-12", "--model.ema_decay=null")  # nothing is learned


@pytest.fixture(autouse=True)
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's command line


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 8, "val": 4, "test": 2}, size=(32, 48))


@pytest.fixture
def before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a run where it would begin to train: what is said before that is all that matters."""

    def trains(*_: object) -> None:
        raise ValueError("training began")  # which the command prints

    monkeypatch.setattr(SegmentationModule, "training_step", trains)


def fit(capsys: Capture, data: Path, *words: object, out: str = "run", epochs: int | None = 1) -> Said:
    """Train for an epoch, from random weights unless a model is named."""
    start = () if "--model" in words else ("--model", RANDOM)
    length = () if epochs is None else ("--epochs", epochs)
    return run(capsys, "fit", data, "--out", out, *start, *length, "--trainer.enable_progress_bar=false", *words)


def stored(out: str = "run") -> Path:
    """The folder of the weights that a run has left."""
    (path,) = [path for path in Path(out).rglob("config.json") if "training" in json.loads(path.read_text())]
    return path.parent


def config(out: str = "run") -> dict[str, Any]:
    """What stands beside the weights that a run has left."""
    return dict(json.loads((stored(out) / "config.json").read_text()))


def checkpoint(name: str, out: str = "run") -> dict[str, Any]:
    return dict(torch.load(next(Path(out).rglob(f"{name}.ckpt")), map_location="cpu", weights_only=True))


# ---- W8: rare classes ------------------------------------------------------------------------------------------------


def trained(data: SegmentationDataModule, decay: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Train 12 steps, and give the weights of the head before and after."""
    torch.manual_seed(0)
    module = SegmentationModule(
        "fcn32s_resnet18_half", data.classes, optimizer="adamw", lr=1e-3, schedule="constant", ema_decay=decay
    )
    before = torch.cat([value.detach().flatten().clone() for value in module.model.head.parameters()])
    plain: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        max_steps=12, accelerator="cpu", limit_val_batches=0, enable_progress_bar=False, **plain
    )
    trainer.fit(module, data)
    return before, torch.cat([value.detach().flatten() for value in module.model.head.parameters()])


def test_w8_averaged_weights_of_a_short_run_are_near_the_plain_ones(shapes: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes, batch_size=2, crop_size=32)
    (before, plain), (_, averaged) = trained(data, None), trained(data, 0.99)
    assert (averaged - plain).norm() < 0.5 * (before - plain).norm()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_w8_a_rare_class_is_found_after_a_short_run(tmp_path: Path, capsys: Capture) -> None:
    said = fit(capsys, thin(tmp_path / "lines"), "--model", "street", epochs=18)
    assert said.code == 0, said.text
    assert config()["score"]["iou"]["foreground"] > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.data
def test_w8_real_cracks_are_found_after_a_short_run(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    cracks = data_root / "crackforest"
    if not cracks.is_dir():
        pytest.skip(f"no crackforest under FULLYCONV_DATA={data_root}")
    root = tmp_path / "cracks"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for truth in sorted((cracks / "groundTruth").glob("*.mat"))[:24]:
        shutil.copy(cracks / "image" / f"{truth.stem}.jpg", root / "images")
        values = loadmat(truth)["groundTruth"]["Segmentation"][0, 0]  # 1 is road, 2 is crack
        Image.fromarray(np.where(values == 2, 255, 0).astype(np.uint8)).save(root / "masks" / f"{truth.stem}.png")
    said = fit(capsys, root, "--model", "street", epochs=8)
    assert said.code == 0, said.text
    assert config()["score"]["iou"]["foreground"] > 40


def test_w8_a_class_that_is_never_found_is_said_last_and_at_the_top_of_the_report(
    shapes: Path, capsys: Capture
) -> None:
    said = fit(capsys, shapes, *PLATEAU)
    lost = [name for name, iou in config()["score"]["iou"].items() if iou == 0]
    assert lost  # the case is as it was meant
    ends = [stream.strip().splitlines()[-1:] for stream in (said.out, said.err)]
    assert any(all(name in line for name in lost) for end in ends for line in end)
    page = next(Path("run").rglob("report.html")).read_text()
    above = page[page.index("<body") : page.index("<table")]
    assert all(name in above for name in lost)


# ---- W9: names of classes --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("before_training")
def test_w9_score_layers_lost_to_names_alone_are_said_with_the_values_that_keep_them(
    tmp_path: Path, capsys: Capture
) -> None:
    root = thin(tmp_path / "lines", 4, 32)
    said = fit(capsys, root, "--model", "cracks")
    values = re.search(r"--values[ =]['\"]?([^'\"\s]+)", said.out)
    assert values is not None
    table = dict(part.split("=") for part in values[1].split(","))
    data = SegmentationDataModule.from_folder(root, values=table)
    assert not fullyconv.load("cracks", classes=data.labels).reinitialized
    assert table == {"0": "road", "255": "crack"}


# ---- W10: a budget of time -------------------------------------------------------------------------------------------


def warns_of_few_steps(text: str) -> bool:
    return any("step" in line and re.search("(?i)few|only|warning|not enough", line) for line in text.splitlines())


def test_w10_too_few_steps_are_a_warning_before_and_after(shapes: Path, capsys: Capture) -> None:
    said = fit(capsys, shapes, "--minutes", "0.01", epochs=None)
    assert said.code == 0, said.text
    assert config()["training"]["steps"] < 50
    before, _, after = said.text.partition("written to")
    assert warns_of_few_steps(before)
    assert warns_of_few_steps(after)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_w10_set_up_validation_and_scoring_are_part_of_the_budget(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """On a clock that work alone moves on: a minute of set-up, a second an image in training, ten in scoring."""
    now = time.monotonic()
    start, checked = now, False
    forward, check = SegmentationModule.forward, SegmentationDataModule.check

    def slow_forward(self: SegmentationModule, image: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += (1 if self.training else 10) * len(image)
        return forward(self, image)

    def slow_check(self: SegmentationDataModule, split: str | None = None) -> dict[str, int]:
        nonlocal now, checked
        now, checked = now + (0 if checked else 60), True
        return check(self, split)

    monkeypatch.setattr(SegmentationModule, "forward", slow_forward)
    monkeypatch.setattr(SegmentationDataModule, "check", slow_check)
    for name in ("monotonic", "perf_counter", "time"):
        monkeypatch.setattr(time, name, lambda: now)
    said = fit(capsys, shapes, "--minutes", "10", epochs=None)
    assert said.code == 0, said.text
    assert config()["training"]["steps"] >= 10
    assert now - start < 1.1 * 600


# ---- W11, W13, W14, W18: going on ------------------------------------------------------------------------------------


def bound(found: dict[str, Any]) -> tuple[str, str | None]:
    """What binds the weights: their license, and what they were started from."""
    license_ = next(found[key] for key in ("license", "license") if key in found)
    return str(license_), found["training"].get("started from")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["more epochs", "after an interruption"])
def test_w11_license_and_origin_survive_going_on(how: str, tmp_path: Path, capsys: Capture) -> None:
    root = thin(tmp_path / "lines", 4, 32)
    assert fit(capsys, root, "--model", "cracks").code == 0
    first = bound(config())
    assert "non-commercial" in first[0]
    if how == "more epochs":
        assert fit(capsys, root, "--model", "cracks", epochs=2).code == 0
    else:
        state = json.loads(Path("run/fit.json").read_text())
        Path("run/fit.json").write_text(json.dumps(state | {"finished": False}))
        shutil.rmtree(stored())
        assert fit(capsys, root, "--model", "cracks").code == 0
    assert bound(config()) == first


def test_w13_the_last_checkpoint_is_that_of_the_last_epoch_also_on_a_plateau(shapes: Path, capsys: Capture) -> None:
    assert fit(capsys, shapes, *PLATEAU, epochs=3).code == 0
    assert checkpoint("best")["epoch"] == 0
    assert checkpoint("last")["epoch"] == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_w14_a_second_run_in_the_folder_of_one_that_is_running_is_refused(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step = SegmentationModule.training_step
    second: list[subprocess.CompletedProcess[str]] = []

    def meanwhile(self: SegmentationModule, *args: Any) -> torch.Tensor:
        if not second:
            words = ["fit", str(shapes), "--out", "run", "--model", RANDOM, "--epochs", "1", "--model.lr=0.5"]
            command = [sys.executable, "-m", "fullyconv", *words, "--trainer.enable_progress_bar=false"]
            second.append(subprocess.run(command, capture_output=True, text=True, check=False))
        return step(self, *args)

    monkeypatch.setattr(SegmentationModule, "training_step", meanwhile)
    first = fit(capsys, shapes)
    assert first.code == 0, first.text
    assert second[0].returncode == 2
    assert "run" in second[0].stderr
    assert "Traceback" not in second[0].stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moved", [False, True])
def test_w18_a_run_that_goes_on_keeps_its_best_weights_wherever_it_lies(
    moved: bool, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert fit(capsys, shapes, "--model.ema_decay=null", epochs=2).code == 0
    best = checkpoint("best")
    out = "elsewhere" if moved else "run"
    if moved:
        shutil.move("run", out)
    step = SegmentationModule.training_step
    monkeypatch.setattr(SegmentationModule, "training_step", lambda *args: -step(*args))  # it gets worse
    assert fit(capsys, shapes, "--model.ema_decay=null", out=out, epochs=4).code == 0
    assert config(out)["training"]["best epoch"] == best["epoch"] + 1
    kept = checkpoint("best", out)
    assert all(torch.equal(value, kept["state_dict"][name]) for name, value in best["state_dict"].items())


# ---- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", pytest.param("folder", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("before_training")
def test_c8_names_that_are_no_utf8_are_refused_before_training(where: str, tmp_path: Path, capsys: Capture) -> None:
    said = fit(capsys, strangely_named(tmp_path, where))
    assert said.code == 2
    assert "caf" in said.err


@pytest.mark.parametrize("form", ["gray.png", pytest.param("color.tif", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("before_training")
def test_w5_fit_warns_of_values_far_below_the_range_of_their_type(form: str, tmp_path: Path, capsys: Capture) -> None:
    said = fit(capsys, deep_tree(tmp_path / "set", form, 4095))
    assert re.search("12 bits|range|4095", said.text)


def test_m11_a_test_without_a_test_split_names_both_ways_out(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path / "set", {"train": 4, "val": 2}, size=(32, 32))
    labels = SegmentationDataModule.from_folder(root).labels
    folder = SegmentationModule("fcn32s_resnet18_half", labels).save_pretrained(tmp_path / "model")
    said = run(capsys, "test", folder, root)
    assert said.code == 2
    assert "--split val" in said.err
    assert "--test-fraction" in said.err


def test_m12_the_help_of_fit_begins_with_our_options(capsys: Capture) -> None:
    said = run(capsys, "fit", "--help")
    assert said.code == 0
    for option in ("--model", "--epochs", "--minutes", "--out"):
        place = re.search(rf"(?m)^ *{option}\b(?!\.)", said.out)
        assert place is not None
        assert "--trainer." not in said.out[: place.start()]

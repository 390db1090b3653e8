"""``fit DATA``: what it chooses, and that a run killed at any moment ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import fullyconv
from closeness import assert_close
from conftest import write_tree
from fullyconv import cli
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.sources import Source, open_source
from fullyconv.images import read_mask
from fullyconv.plan import plan
from fullyconv.training.checkpointing import AtomicCheckpointIO
from fullyconv.training.module import SegmentationModule
from fullyconv.training.runs import read_state, resume, split_digest, write_state

RANDOM = "random:fcn32s_resnet18_quarter"
QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 8, "val": 4, "test": 2})


class TestPlan:
    def test_it_starts_from_the_street_model_unless_told_otherwise(self, shapes: Path) -> None:
        chosen = plan(SegmentationDataModule.from_folder(shapes))
        assert chosen.segmenter is not None
        assert chosen.segmenter.classes == ["ground", "box", "sky"]
        assert chosen.settings["model.model"] == "ladder_efficientnet_lite0"
        assert any("started from street; 2 tensors, those of the classes, start anew" in r for r in chosen.reasons)

    def test_a_classifier_is_a_start_under_a_new_head(self, shapes: Path) -> None:
        chosen = plan(SegmentationDataModule.from_folder(shapes), model="resnet18.imagenet")
        assert chosen.segmenter is None
        assert chosen.settings["model.model"] == "ladder_resnet18"
        assert chosen.settings["model.backbone_weights"] == "resnet18.imagenet"
        assert any("its backbone started from resnet18.imagenet; the head starts anew" in r for r in chosen.reasons)

    def test_classes_weigh_by_how_rare_their_pixels_are(self, shapes: Path) -> None:
        data = SegmentationDataModule.from_folder(shapes)
        data.check()
        chosen = plan(data, model=RANDOM)
        pixels = data.check("train")
        weights = dict(zip(data.classes, chosen.settings["model.class_weights"], strict=True))
        assert sorted(weights, key=weights.__getitem__) == sorted(data.classes, key=pixels.__getitem__, reverse=True)
        assert sum(weights.values()) / len(weights) == pytest.approx(1, abs=2e-3)
        assert chosen.settings["model.loss"] == "cross_entropy+dice"
        rare = min(data.classes, key=pixels.__getitem__)
        assert any(f"{rare} {weights[rare]:.2f}" in reason for reason in chosen.reasons)

    def test_a_class_without_a_pixel_in_training_is_named_and_weighs_nothing_special(self, shapes: Path) -> None:
        values: dict[int | str, str] = {0: "ground", 1: "box", 2: "sky", 3: "moon"}
        (shapes / "classes.txt").unlink()
        data = SegmentationDataModule.from_folder(shapes, values=values)
        data.check()
        chosen = plan(data, model=RANDOM)
        assert chosen.settings["model.class_weights"][data.classes.index("moon")] == 1
        assert any("no pixel of moon" in reason for reason in chosen.reasons)

    def test_masks_that_nobody_counted_give_no_weights_and_that_is_said(self, shapes: Path) -> None:
        chosen = plan(SegmentationDataModule.from_folder(shapes), model=RANDOM)
        assert "model.class_weights" not in chosen.settings
        assert any("all classes weigh alike" in reason for reason in chosen.reasons)

    def test_a_loss_that_was_asked_for_brings_its_own_weights(self, shapes: Path) -> None:
        data = SegmentationDataModule.from_folder(shapes)
        data.check()
        chosen = plan(data, model=RANDOM, loss="focal")
        assert not {"model.loss", "model.class_weights"} & chosen.settings.keys()
        assert any("loss focal, as you say" in reason for reason in chosen.reasons)

    def test_random_initialization_is_said_aloud(self, shapes: Path) -> None:
        chosen = plan(SegmentationDataModule.from_folder(shapes), model=RANDOM)
        assert chosen.segmenter is None
        assert any("RANDOM INITIALIZATION" in reason for reason in chosen.reasons)

    def test_crop_batch_and_epochs_follow_the_data(self, tmp_path: Path) -> None:
        small = SegmentationDataModule.from_folder(write_tree(tmp_path / "a", {"train": 5, "val": 2}, size=(40, 70)))
        large = SegmentationDataModule.from_folder(write_tree(tmp_path / "b", {"train": 20, "val": 2}, size=(400, 700)))
        one, two = plan(small, model=RANDOM, device="cpu"), plan(large, model=RANDOM, device="cpu")
        assert (one.settings["data.crop_size"], two.settings["data.crop_size"]) == ((32, 64), (320, 320))
        assert (one.settings["data.batch_size"], two.settings["data.batch_size"]) == (4, 4)
        assert (one.settings["data.repeats"], two.settings["data.repeats"]) == (16, 4)
        assert one.settings["trainer.max_epochs"] == 25
        assert plan(small, model=RANDOM, epochs=7).settings["trainer.max_epochs"] == 7
        given = plan(small, model=RANDOM, epochs=7, batch_size=2, repeats=3)
        steps = 3 * len(small.dataset("train").pairs) // 2
        assert given.reasons[-1] == f"7 epochs of {steps} steps"
        assert given.settings["model.warmup_steps"] == max(1, 7 * steps // 20)

    @pytest.mark.parametrize("number", [1, 2, 3, 19, 94, 500])
    def test_an_epoch_has_enough_steps_however_few_images_there_are(self, number: int, shapes: Path) -> None:
        data = SegmentationDataModule.from_folder(shapes)
        data.splits["train"] = (data.splits["train"] * number)[:number]
        settings = plan(data, model=RANDOM, device="cpu").settings
        opened = data.load_by(batch_size=settings["data.batch_size"], repeats=settings["data.repeats"])
        assert 20 <= len(opened.train_dataloader()) <= 75
        assert settings["data.batch_size"] <= min(8, number)
        assert settings["trainer.max_epochs"] * len(opened.train_dataloader()) >= 500

    def test_a_long_run_learns_more_slowly(self, shapes: Path) -> None:
        data = SegmentationDataModule.from_folder(shapes)
        short, long = (plan(data, model=RANDOM, epochs=epochs).settings for epochs in (9, 900))
        assert short["model.lr"] > long["model.lr"]
        assert short["model.warmup_steps"] < long["model.warmup_steps"]

    def test_score_layers_that_other_names_lose_are_kept_by_another_reading(self, tmp_path: Path) -> None:
        module = SegmentationModule("fcn32s_resnet18_quarter", classes=["ground", "box", "sky"])
        torch.nn.init.ones_(module.model.state_dict()["head.score.32.bias"])
        start = str(module.save_pretrained(tmp_path / "start"))
        tree = write_tree(tmp_path / "shapes", {"train": 4, "val": 2})

        def kept(**reading: Any) -> dict[str, Any] | None:
            data = SegmentationDataModule.from_folder(tree, **reading)
            return plan(data, model=start).keeping()

        assert kept() is None
        assert kept(classes=["a", "b"], values={0: "a", 1: "b", 2: "b"}) is None  # not names alone
        for classes in (["soil", "crate", "air"], ["Ground", "BOX", "sky"]):
            reading = kept(classes=classes)
            assert reading == {"values": {0: "ground", 1: "box", 2: "sky"}, "classes": ["ground", "box", "sky"]}
            assert kept(**reading) is None
        assert kept(classes=["a", "b", "c"], values={0: "a", 1: "b", 2: "c", 9: "ignore"})["values"][9] == "ignore"  # type: ignore[index]
        reordered = kept(classes=["sky", "ground", "box"], values={2: "sky", 0: "ground", 1: "box"})
        assert reordered is not None
        assert reordered["values"] == {0: "ground", 1: "box", 2: "sky"}
        assert kept(**reordered) is None

    def test_a_budget_of_minutes_has_no_schedule_that_could_not_end(self, shapes: Path) -> None:
        chosen = plan(SegmentationDataModule.from_folder(shapes), model=RANDOM, minutes=3)
        assert chosen.settings["model.schedule"] == "constant"
        assert any("as fit into 3 minutes" in reason for reason in chosen.reasons)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "tpu"}, "write auto, or what is here: cpu"),
            ({"epochs": 0}, "at least 1"),
            ({"minutes": -1.0}, "a number of minutes above 0"),
            ({"minutes": float("nan")}, "a number of minutes above 0"),
            ({"model": "nowhere"}, "no model of the zoo"),
        ],
    )
    def test_what_cannot_be_is_refused(self, shapes: Path, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            plan(SegmentationDataModule.from_folder(shapes), **options)  # type: ignore[arg-type]

    def test_a_device_that_is_not_there_is_refused(self, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        with pytest.raises(ValueError, match="this machine has no such device"):
            plan(SegmentationDataModule.from_folder(shapes), device="cuda")


class TestFolder:
    COMMAND: ClassVar[dict[str, object]] = {"data": "a", "model": "street", "epochs": 3, "minutes": None, "options": []}

    def test_a_new_folder_is_a_new_run(self, tmp_path: Path) -> None:
        assert resume(tmp_path / "new", self.COMMAND) is None

    def test_the_same_command_goes_on_and_a_finished_run_says_so(self, tmp_path: Path) -> None:
        write_state(tmp_path, {"command": self.COMMAND, "finished": False})
        assert resume(tmp_path, self.COMMAND) is None
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last.ckpt").touch()
        assert resume(tmp_path, self.COMMAND) == str(tmp_path / "checkpoints" / "last.ckpt")
        write_state(tmp_path, {"command": self.COMMAND, "finished": True})
        assert resume(tmp_path, self.COMMAND) == "finished"
        assert resume(tmp_path, self.COMMAND | {"epochs": 9}) == str(tmp_path / "checkpoints" / "last.ckpt")

    def test_a_call_that_went_wrong_before_training_binds_nobody(self, tmp_path: Path) -> None:
        write_state(tmp_path, {"command": self.COMMAND, "finished": False})
        assert resume(tmp_path, self.COMMAND | {"options": ["--trainer.max_epoch=3"]}) is None

    def test_fewer_epochs_than_were_asked_for_are_refused(self, tmp_path: Path) -> None:
        write_state(tmp_path, {"command": self.COMMAND, "finished": True})
        with pytest.raises(ValueError, match=r"--epochs 2: the run in .* has 3; give as many or more"):
            resume(tmp_path, self.COMMAND | {"epochs": 2})

    def test_further_images_are_another_run(self, shapes: Path) -> None:
        first = split_digest(SegmentationDataModule.from_folder(shapes).splits)
        assert first.startswith("train 8, val 4, test 2 (")
        (shapes / "train" / "images" / "000.png").rename(shapes / "train" / "images" / "new.png")
        (shapes / "train" / "masks" / "000.png").rename(shapes / "train" / "masks" / "new.png")
        assert split_digest(SegmentationDataModule.from_folder(shapes).splits) != first

    def test_another_run_is_never_mixed_in(self, tmp_path: Path) -> None:
        write_state(tmp_path, {"command": self.COMMAND, "finished": False})
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last.ckpt").touch()
        with pytest.raises(ValueError, match=r"holds another run \(model: 'street', now 'other'\); give the same"):
            resume(tmp_path, self.COMMAND | {"model": "other"})
        (tmp_path / "strange" / "checkpoints").mkdir(parents=True)
        (tmp_path / "strange" / "checkpoints" / "last.ckpt").touch()
        with pytest.raises(ValueError, match="holds checkpoints of a run that this command did not start"):
            resume(tmp_path / "strange", self.COMMAND)

    @pytest.mark.parametrize("note", ["{", "[]", "{}", '{"command": "street", "finished": true}', '{"command": []}'])
    def test_a_damaged_note_is_told(self, note: str, tmp_path: Path) -> None:
        (tmp_path / "fit.json").write_text(note)
        with pytest.raises(ValueError, match=r"fit\.json: is damaged"):
            read_state(tmp_path)


def test_a_start_of_another_kind_is_refused() -> None:
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"])
    with pytest.raises(ValueError, match="model='fcn32s_resnet18_quarter': the start has 'ladder_efficientnet_lite0'"):
        module.start_from(fullyconv.load("street", classes=["a", "b"]))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()

    class Unwritable:
        def __reduce__(self) -> None:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        io.save_checkpoint({"a": Unwritable()}, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def fit(folder: Path, *words: str, kill_after: float | None = None, data: str = "shapes") -> str:
    """Run the command in a process of its own; perhaps kill it so many seconds after its first checkpoint."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fullyconv", "fit", data, QUIET, *words],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if kill_after is not None:
        last = folder / "runs" / "shapes" / "checkpoints" / "last.ckpt"
        while process.poll() is None and not last.exists():
            time.sleep(0.01)
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert kill_after is not None or process.returncode == 0, said
    return said


def weights(folder: Path) -> str:
    path = folder / "runs" / "shapes" / "model" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_at_any_moment_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        write_tree(tmp_path / name / "shapes", {"train": 8, "val": 4, "test": 2})
    words = ("--model", RANDOM, "--epochs", "40")
    fit(tmp_path / "whole", *words)
    for moment in (0.0, 0.35, 0.8):
        fit(tmp_path / "killed", *words, kill_after=moment)
    said = fit(tmp_path / "killed", *words)
    assert "goes on in runs/shapes" in said or "is finished" in said
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    one, two = (
        json.loads((tmp_path / name / "runs" / "shapes" / "model" / "config.json").read_text())
        for name in ("whole", "killed")
    )
    assert one["score"] == two["score"]
    assert one["training"]["epochs"] == two["training"]["epochs"]
    assert "is finished" in fit(tmp_path / "killed", *words)


def test_fit_without_a_recipe_ends_with_a_scored_model_folder(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "street", "--epochs", "1", "--out", "mine", "--data.batch_size=4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's command line
    assert cli.main(["fit", "shapes", QUIET, *words]) == 0
    printed = capsys.readouterr().out
    for said in (
        "as you say: data.batch_size = 4",
        "batches of 4 for",
        "3 classes: ground, box, sky",
        "started from street",
        "writes to mine",
        "model folder written to mine",
    ):
        assert said in printed
    assert "started from street" in (tmp_path / "mine" / "report.html").read_text()
    segmenter = fullyconv.load(tmp_path / "mine" / "model")
    assert isinstance(segmenter, SegmentationModule)
    assert segmenter.score is not None
    assert "CamVid" in (segmenter.license or "")  # what binds the start binds what was made of it
    assert segmenter.training_record["started from"] == "ladder_efficientnet_lite0.camvid"
    assert cli.main(["fit", "shapes", QUIET, *words]) == 0
    assert "this run is finished" in capsys.readouterr().out


def test_the_data_is_opened_once(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(data: str, **options: object) -> Source:
        opened.append(data)
        return open_source(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fullyconv.data.datamodule.open_source", counted)
    monkeypatch.setattr(SegmentationModule, "training_step", lambda *_: exec("raise ValueError('training began')"))
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's command line
    words = ["--model", RANDOM, "--out", str(tmp_path / "out"), "--values", "0=a,1=b,2=c,255=ignore", QUIET]
    assert cli.main(["fit", str(shapes), *words, "--data.flip=0", "--test-fraction", "0.3"]) == 2
    assert opened == [str(shapes)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trained_on_train_and_val_the_weights_of_the_last_epoch_are_kept(shapes: Path, tmp_path: Path) -> None:
    words = ("--model", RANDOM, "--epochs", "2", "--out", "mine", "--data.train_on=train+val")
    assert "model folder written" in fit(tmp_path, *words)
    kept = torch.load(tmp_path / "mine" / "checkpoints" / "best.ckpt", weights_only=True)
    assert (kept["epoch"], kept["global_step"]) == (1, 2 * (7 * 12 // 4))
    segmenter = fullyconv.load(tmp_path / "mine" / "model")
    assert segmenter.score is not None
    assert segmenter.score["split"] == "test"
    name = "backbone.conv1.weight"
    found, last = segmenter.model.state_dict()[name], kept["state_dict"][f"model.{name}"]  # type: ignore[union-attr]
    assert_close(found, last, rel=1e-3)  # stored in half precision


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "nowhere"], "no such folder"),
        (["fit", "shapes", "--model", "stret"], "Did you mean street?"),
        (["fit", "shapes", "--epochs", "2", "--out", "taken"], "holds another run (data: 'x', now "),
        (["fit", "shapes", "--masks", "nowhere"], "masks='nowhere': no such folder"),
        (["fit", "shapes", "--values", "0"], "write VALUE=NAME"),
        (["fit", "shapes", "--minutes", "0"], "a number of minutes above 0"),
        (["fit", "shapes", "--values", "0=a,0=b"], "0 is there twice"),
        (["fit", "shapes", "--data", "{}"], "--data: DATA is given already"),
        (["fit", "--data.data", "shapes", "shapes"], "--data.data: DATA is given already"),
        (["fit", "shapes", "--data.values.0=road"], "--data.values.0: DATA is given already"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    words: list[str], message: str, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shapes.parent)
    write_state(Path("taken"), {"command": {"data": "x", "epochs": 2}, "finished": True})
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["shapes", "--epochs", "3", "--trainer.max_steps", "5", "--data.skip_bad", "true"],
        ["--epochs", "3", "--trainer.max_steps", "5", "--data.skip_bad", "true", "shapes"],
        ["--trainer.max_steps", "5", "shapes", "--data.skip_bad=true", "--epochs=3"],
        ["--skip-bad", "shapes", "--trainer.max_steps=5", "--epochs", "3"],
    ],
)
def test_data_stands_anywhere_among_the_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("fullyconv.cli.fit._fit", lambda own, *_: calls.append(own) or 0)
    assert cli.main(["fit", *words]) == 0
    (own,) = calls
    assert (own.data, own.epochs, own.skip_bad, own.others) == ("shapes", 3, True, ["--trainer.max_steps=5"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_of_the_score_gives_the_score(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was said of how the folder is read and split, it stands in the command, and the split is that of fit."""
    root = tmp_path / "odd one"
    for kind in ("images", "truth"):
        (root / kind).mkdir(parents=True)
    for index, mask in enumerate(sorted((shapes / "train" / "masks").iterdir())):
        shutil.copy(shapes / "train" / "images" / mask.name, root / "images" / f"{index}.png")
        Image.fromarray(read_mask(mask) * np.uint8(40)).save(root / "truth" / f"{index}.png")
    said = ("--data.masks", "truth", "--data.values", "0=ground,40=a box,80=sky,216=ignore", "--test-fraction", "0.4")
    fit(tmp_path, *said, "--data.split_seed=3", "--model", RANDOM, "--epochs", "1", "--out", "mine", data="odd one")
    monkeypatch.chdir(tmp_path)
    score = json.loads((tmp_path / "mine" / "model" / "config.json").read_text())["score"]
    assert score["split"] == "test"
    words = shlex.split(score["command"])
    assert words[-2:] == ["--split-seed", "3"]
    page = (tmp_path / "mine" / "report.html").read_text()  # scored on the same images
    assert f"{score['mean_iou']:.1f} %" in page
    assert "--data.values" in page
    assert cli.main([*words[1:], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["mean_iou"] == pytest.approx(score["mean_iou"], abs=0.5)
    assert again["pixels"] == score["pixels"]


def test_a_mask_that_is_wrong_stops_a_run_before_anything_is_made(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = next((shapes / "test" / "masks").iterdir())
    Image.fromarray(np.full_like(read_mask(mask), 77)).save(mask)
    monkeypatch.chdir(shapes.parent)
    assert cli.main(["fit", "shapes", "--epochs", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{mask.name}: label value 77" in said
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_killed_after_it_had_stopped_early_does_not_train_on(shapes: Path, tmp_path: Path) -> None:
    words = ("--model", RANDOM, "--epochs", "40", "--model.lr=1e-12", "--model.ema_decay=null")
    fit(tmp_path, *words)  # learns nothing, so that patience runs out
    pretrained = tmp_path / "runs" / "shapes" / "model"
    first = json.loads((pretrained / "config.json").read_text())["training"]
    assert first["epochs"] < 40
    state = read_state(tmp_path / "runs" / "shapes")
    assert state is not None
    write_state(
        tmp_path / "runs" / "shapes", state | {"finished": False}
    )  # as if killed before the model folder was there
    fit(tmp_path, *words)
    assert json.loads((pretrained / "config.json").read_text())["training"]["steps"] == first["steps"]

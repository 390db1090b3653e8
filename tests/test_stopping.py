"""What ends a run, and what is said of one that was too short or found nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

import fullyconv
from conftest import write_tree
from fullyconv import SegmentationDataModule, SegmentationModule
from fullyconv.confusion import scores
from fullyconv.errors import TrainingError
from fullyconv.training.shortcomings import FEW_STEPS, shortcomings
from fullyconv.training.stopping import Deadline, FiniteLoss
from told import Said, run

Capture = pytest.CaptureFixture[str]
SMALL = "same_convolutions"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 4, "val": 2, "test": 2}, (32, 40))


@pytest.fixture(autouse=True)
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def fit(capsys: Capture, *words: object) -> Said:
    quiet = "--trainer.enable_progress_bar=false"
    return run(capsys, "fit", "shapes", "--model", f"random:{SMALL}", "--out", "run", quiet, *words)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def trained(deadline: Deadline, clock: Clock, step: float, image: float, steps: int = 10, val: int = 4) -> Any:
    """Run the hooks of a trainer whose steps and images take so long, until the deadline stops it."""
    module = SimpleNamespace(hparams={"schedule": "constant"})
    group = {"lr": 1.0}
    trainer: Any = SimpleNamespace(
        should_stop=False, global_step=0, is_last_batch=False, num_training_batches=steps, is_global_zero=True,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        optimizers=[SimpleNamespace(param_groups=[group])], rates=[], validations=0,
    )  # fmt: skip

    def validate(images: int) -> None:
        deadline.on_validation_start(trainer, module)  # type: ignore[arg-type]
        for _ in range(images):
            clock.now += image
            deadline.on_validation_batch_end(trainer, module, None, {"image": [0]}, 0)  # type: ignore[arg-type]
        deadline.on_validation_end(trainer, module)  # type: ignore[arg-type]

    validate(1)
    while not trainer.should_stop:
        deadline.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
        for index in range(steps):
            trainer.is_last_batch = index == steps - 1
            group["lr"] = 1.0  # as a schedule by steps sets it
            deadline.on_train_batch_start(trainer, module, None, index)  # type: ignore[arg-type]
            trainer.rates.append(group["lr"])
            clock.now += step
            trainer.global_step += 1
            deadline.on_train_batch_end(trainer, module, None, None, index)  # type: ignore[arg-type]
            if trainer.should_stop:
                break
        validate(val)
        trainer.validations += 1
    return trainer


@pytest.mark.parametrize(("step", "image"), [(1, 0.1), (0.5, 5), (20, 1), (3, 8)])
def test_training_ends_in_time_for_scoring_and_not_much_earlier(
    step: float, image: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    deadline = Deadline(600, clock.now - 60, 4, 6, lambda _: None)
    trained(deadline, clock, step, image)
    after = 600 - (clock.now - 1000 + 60) - 6 * image
    assert -1 <= after <= 12 + 2 * step + 4 * image


def test_the_rate_falls_to_nearly_zero_in_the_last_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    rates = trained(Deadline(600, clock.now, 4, 6, lambda _: None), clock, 1, 0.1).rates
    assert rates[: len(rates) // 2] == [1.0] * (len(rates) // 2)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02


def test_the_seconds_before_an_interruption_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Deadline(600, clock.now, 4, 6, lambda _: None)
    clock.now += 500
    state = first.state_dict()
    clock.now += 10_000  # the machine was off
    second = Deadline(600, clock.now, 4, 6, lambda _: None)
    second.load_state_dict(state)
    assert trained(second, clock, 1, 0.1).global_step < 100


@pytest.mark.parametrize(("seconds", "step", "told"), [(600, 1, 0), (60, 1, 1), (1, 5, 1), (600, 30, 1)])
def test_too_few_steps_are_said_once_and_as_soon_as_they_are_known(
    seconds: float, step: float, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    said: list[tuple[str, float]] = []
    began = clock.now
    trainer = trained(Deadline(seconds, began, 4, 6, lambda text: said.append((text, clock.now))), clock, step, 0.1)
    assert len(said) == told
    for text, when in said:
        number = int(re.findall(r"only (\d+) step", text)[0])
        assert number == pytest.approx(trainer.global_step, rel=0.3, abs=2)
        assert when - began < 3 * step + 1


def a_step(loss: float, **trainer: Any) -> None:
    watch = FiniteLoss()
    state: dict[str, Any] = {"precision": "32-true", "current_epoch": 0, "global_step": 1, "checkpoint_callback": None}
    for _ in range(trainer.pop("times", 1)):
        watch.on_train_batch_end(
            SimpleNamespace(**(state | trainer)),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            {"loss": torch.tensor(loss)},
            None,
            0,
        )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_at_once_and_in_half_precision_if_it_stays(loss: float) -> None:
    with pytest.raises(TrainingError, match=f"the loss is {loss} in epoch 1, after 1 steps"):
        a_step(loss)
    a_step(loss, precision="16-mixed", times=9)
    with pytest.raises(TrainingError):
        a_step(loss, precision="16-mixed", times=10)
    with pytest.raises(TrainingError):
        a_step(loss, precision="bf16-mixed")
    a_step(1e30)


def test_what_was_good_before_a_loss_became_no_number_is_kept_and_starts_another_run(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step = SegmentationModule.training_step

    def broken(self: SegmentationModule, *args: Any) -> torch.Tensor:
        loss = step(self, *args)
        return loss * math.nan if self.trainer.current_epoch == 2 else loss

    monkeypatch.setattr(SegmentationModule, "training_step", broken)
    said = fit(capsys, "--epochs", 4)
    assert said.code == 2
    assert "the loss is nan in epoch 3" in said.err
    kept = re.findall(r"--model (\S+) starts from it", said.err)
    assert kept
    assert all(bool(torch.isfinite(value).all()) for value in fullyconv.load(kept[0]).model.parameters())
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_weights_that_the_last_step_of_an_epoch_destroyed_are_not_kept(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    start = SegmentationModule.on_train_epoch_end

    def destroy(self: SegmentationModule) -> None:
        start(self)

    def last(self: SegmentationModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)

    monkeypatch.setattr(SegmentationModule, "on_train_epoch_end", destroy)
    monkeypatch.setattr(SegmentationModule, "on_train_batch_end", last)
    for words in ((), ("--data.train_on=train+val",)):
        shutil.rmtree("run", ignore_errors=True)
        said = fit(capsys, "--epochs", 1, "--model.ema_decay=null", *words)
        assert said.code == 2
        assert "weights are not finite" in said.err
        assert not list(Path("run").rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.overfit_batches=1",),
        ("--trainer.limit_train_batches=2",),
        ("--trainer.limit_val_batches=0.0",),
        ("--trainer.enable_checkpointing=false",),
        ("--trainer.max_epochs=-1", "--trainer.max_steps=3"),
        ("--trainer.val_check_interval=0.5",),
        ("--trainer.logger=false",),
    ],
)
def test_an_option_of_the_trainer_that_shortens_a_run_leaves_a_model(
    words: tuple[str, ...], shapes: Path, capsys: Capture
) -> None:
    said = fit(capsys, "--epochs", 1, *words)
    assert said.code == 0, said.text
    assert fullyconv.load("./run/model").classes == ["ground", "box", "sky"]
    validated = not {"--trainer.limit_val_batches=0.0", "--trainer.enable_checkpointing=false"} & set(words)
    if not validated:
        assert "without a better mIoU" not in said.out


def test_val_without_a_pixel_of_any_class_stops_nobody(shapes: Path, capsys: Capture) -> None:
    for mask in (shapes / "val" / "masks").iterdir():
        Image.new("L", (40, 32), 255).save(mask)
    said = fit(capsys, "--epochs", 1, "--data.check=false")
    assert said.code == 0, said.text
    assert "has the weights of the last step" in said.out


def test_a_trial_of_a_few_batches_leaves_nothing_and_binds_nobody(shapes: Path, capsys: Capture) -> None:
    said = fit(capsys, "--epochs", 2, "--trainer.fast_dev_run=1")
    assert said.code == 0, said.text
    assert "nothing of it is kept" in said.out
    assert not Path("run/model").exists()
    assert fit(capsys, "--epochs", 1).code == 0


@pytest.mark.parametrize(
    ("words", "patience"),
    [
        (("--epochs", 5), None),
        (("--epochs", 20), None),
        (("--epochs", 50), 25),
        (("--epochs", 5, "--trainer.max_epochs=60"), 30),
        (("--epochs", 50, "--trainer.check_val_every_n_epoch=2"), 20),
        (("--epochs", 30, "--trainer.check_val_every_n_epoch=2"), None),
        (("--epochs", 50, "--trainer.limit_val_batches=0"), None),
        (("--epochs", 50, "--data.train_on=train+val"), None),
        (("--minutes", 5), None),
    ],
)
def test_that_a_run_may_stop_early_is_said_where_it_may(
    words: tuple[object, ...], patience: int | None, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(SegmentationModule, "training_step", lambda *_: exec("raise ValueError('training began')"))
    said = fit(capsys, *words)
    assert "training began" in said.err
    assert re.findall(r"stops after (\d+) validations without a better mIoU", said.out) == (
        [str(patience)] * bool(patience)
    )


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interruption_says_what_the_same_command_does(
    epoch: int, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    step = SegmentationModule.training_step

    def interrupted(self: SegmentationModule, *args: Any) -> torch.Tensor:
        if self.trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        return step(self, *args)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", interrupted)
        said = fit(capsys, "--epochs", 2)
    assert said.code == 130
    assert signal.getsignal(signal.SIGINT) == handler
    goes_on = "goes on from the last finished epoch" in said.err
    assert goes_on == (epoch == 1)
    assert goes_on or "begins again" in said.err
    said = fit(capsys, "--epochs", 2)  # and it does
    assert said.code == 0
    assert ("goes on in run" in said.out) == goes_on
    assert json.loads(Path("run/model/config.json").read_text())["training"]["epochs"] == 2


def test_an_interruption_while_the_model_is_scored_is_one_too(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "test_step", interrupted)
        said = fit(capsys, "--epochs", 1)
    assert said.code == 130
    assert "the same command goes on" in said.err
    assert fit(capsys, "--epochs", 1).code == 0


def test_classes_that_are_never_found_are_named_and_those_without_a_pixel_are_not() -> None:
    found = scores(torch.tensor([[90, 3, 0, 0], [5, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]).numpy())
    told = shortcomings(found, ["road", "crack", "spot", "moon"], "val", FEW_STEPS)
    assert len(told) == 1
    assert "never found on val (IoU 0): crack, spot." in told[0]
    ghost = scores(torch.tensor([[90, 3], [0, 0]]).numpy())  # predicted, and nowhere in truth
    assert shortcomings(ghost, ["road", "crack"], "val", 10**6) == []
    assert "only 1 step:" in shortcomings(None, [], "", 1)[0]
    assert shortcomings(None, [], "", None) == shortcomings(None, [], "", "many") == []


def test_too_few_epochs_are_said_before_and_after_and_in_the_report(shapes: Path, capsys: Capture) -> None:
    said = fit(capsys, "--epochs", 1)
    before, _, after = said.out.partition("model folder written to")
    for part in (before, after, Path("run/report.html").read_text()):
        assert "only 20 steps" in part
    assert "class='banner'" in Path("run/report.html").read_text()


@pytest.mark.parametrize("lost", [False, True])
def test_a_copied_run_without_its_best_weights_begins_to_look_for_them_anew(
    lost: bool, shapes: Path, capsys: Capture
) -> None:
    assert fit(capsys, "--epochs", 1).code == 0
    shutil.copytree("run", "copy")
    shutil.rmtree("run")
    if lost:
        Path("copy/checkpoints/best.ckpt").unlink()
    said = fit(capsys, "--epochs", 2, "--out", "copy")
    assert said.code == 0, said.text
    assert Path("copy/checkpoints/best.ckpt").is_file()
    assert not Path("run").exists()


def test_the_report_is_of_the_model_folder_wherever_it_lies(shapes: Path, capsys: Capture) -> None:
    said = fit(capsys, "--epochs", 1, "--run.model_folder", "elsewhere")
    assert said.code == 0, said.text
    assert Path("elsewhere/config.json").is_file()
    assert Path("run/report.html").is_file()
    assert "its model folder is elsewhere" in fit(capsys, "--epochs", 1, "--run.model_folder", "elsewhere").out


def test_a_checkpoint_knows_what_binds_its_weights(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes, batch_size=2, crop_size=32, num_workers=0)
    module = SegmentationModule(SMALL, data.labels)
    module.license, module.origin = "for nobody", "somewhere"
    plain: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False
    )
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, log_every_n_steps=1, **plain)
    trainer.fit(module, data)
    trainer.save_checkpoint("a.ckpt")
    assert fullyconv.load("a.ckpt").license == "for nobody"
    other = SegmentationModule(SMALL, data.labels)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", limit_val_batches=0, log_every_n_steps=1, **plain)
    trainer.fit(other, data, ckpt_path="a.ckpt", weights_only=True)
    assert (other.license, other.training_record["started from"]) == ("for nobody", "somewhere")
    content = torch.load("a.ckpt", weights_only=True)
    torch.save(content | {"license": {"a": 1}, "started from": 5}, "odd.ckpt")
    assert fullyconv.load("odd.ckpt").license is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.class_weights=median",), "class_weights"),
        (("--model.class_weights=[1,2]",), "2 entries for 3 classes"),
        (("--model.loss=focal2",), "joined by +"),
    ],
)
def test_wrong_losses_and_weights_are_answered_as_a_user_reads_it(
    words: tuple[str, ...], message: str, shapes: Path, capsys: Capture
) -> None:
    said = fit(capsys, "--epochs", 1, *words)
    assert said.code == 2
    assert message in said.err
    assert "6 entries" not in said.err

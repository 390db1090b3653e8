"""Faults of training, and of the data that it begins with, that were seen; each stated as what is wanted. A row is
named by its number, as ``c4``."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullyconv
from conftest import NAMES, write_tree
from fullyconv import cli
from limits import largest_file

SMALL = "same_convolutions"
QUIET = "--trainer.enable_progress_bar=false"


def run(*words: object) -> int:
    """Run the command line in this process, and give its exit status. What libraries warn of is no error of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cli.main([str(word) for word in words])
        except SystemExit as stopped:
            return stopped.code if isinstance(stopped.code, int) else 1


def fit(data: Path, out: Path, *words: object) -> int:
    """Train a small network from random weights."""
    return run("fit", data, "--model", f"random:{SMALL}", "--out", out, QUIET, "--trainer.accelerator=cpu", *words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 4, "val": 2, "test": 2}, (32, 40))


def module_of(data: Path) -> fullyconv.SegmentationDataModule:
    return fullyconv.SegmentationDataModule.from_folder(data, batch_size=2, crop_size=32)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(default_root_dir=folder, **(defaults | options))


# ---- W15: what a subclass passes on ---------------------------------------------------------------------------------


class Own(fullyconv.SegmentationModule):
    """As the guide for subclasses has it: the labels of the data are passed on."""

    def __init__(self, classes: Any = None, lr: float = 0.01) -> None:
        super().__init__(SMALL, classes=classes, lr=lr)


class Renamed(fullyconv.SegmentationModule):
    """Its argument for the labels has another name, and one argument is a path."""

    def __init__(self, labels: Any, notes: Path = Path("notes")) -> None:
        super().__init__(SMALL, classes=labels)


@contextmanager
def few_workers_are_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|treespec|logging interval).*")
        yield


def checkpoint_of(kind: Callable[[Any], fullyconv.SegmentationModule], data: Path, path: Path) -> Path:
    source = module_of(data)
    with few_workers_are_fine():
        training = trainer(path.parent)
        training.fit(kind(source.labels), source)
        training.save_checkpoint(path)
    return path


def test_w15_the_checkpoint_of_a_subclass_holds_plain_values(data: Path, tmp_path: Path) -> None:
    for kind in (Own, Renamed):
        path = checkpoint_of(kind, data, tmp_path / f"{kind.__name__}.ckpt")
        content = torch.load(path, weights_only=True)
        assert content["global_step"] == 2


def test_w15_the_checkpoint_of_a_subclass_is_loaded_by_the_subclass_and_by_load(data: Path, tmp_path: Path) -> None:
    path = checkpoint_of(Own, data, tmp_path / "own.ckpt")
    for found in (Own.load_from_checkpoint(path), fullyconv.load(path)):
        assert found.classes == NAMES
        assert found.labels.num_classes == 3


def test_w15_training_of_a_subclass_goes_on_from_its_checkpoint(data: Path, tmp_path: Path) -> None:
    path = checkpoint_of(Own, data, tmp_path / "own.ckpt")
    source = module_of(data)
    with few_workers_are_fine():
        training = trainer(tmp_path, max_epochs=2)
        training.fit(Own(source.labels), source, ckpt_path=path, weights_only=True)
    assert training.global_step == 4


# ---- W19: several processes with unequal numbers of images ----------------------------------------------------------

PROCESSES = """
import json, sys, warnings
import torch
import lightning as L
import fullyconv

warnings.simplefilter("always")
torch.set_num_threads(1)
folder, data, devices, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
segmenter = fullyconv.load(folder)
run = L.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
source = fullyconv.SegmentationDataModule.from_folder(data, batch_size=batch)
found = run.validate(segmenter, source, verbose=False)[0] | run.test(segmenter, source, verbose=False)[0]
print("RESULT", json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_w19_losses_of_two_processes_are_those_of_one_and_nothing_is_warned_of(batch: int, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "odd", {"train": 4, "val": 5, "test": 5})
    torch.manual_seed(0)
    segmenter = fullyconv.SegmentationModule(SMALL, classes=NAMES)
    for value in segmenter.model.get_submodule("head").parameters():
        nn.init.normal_(value)
    folder = segmenter.save_pretrained(tmp_path / "model")
    results, said = [], ""
    for devices in (1, 2):
        words = [sys.executable, "-c", PROCESSES, str(folder), str(root), str(devices), str(batch)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert lines, done.stderr
        results.append(json.loads(lines[0].removeprefix("RESULT ")))
        said += done.stderr
    assert {"val/loss", "test/loss"} <= results[0].keys()
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    assert "sync_dist" not in said


# ---- C4: a full disk ------------------------------------------------------------------------------------------------


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]


def test_c4_a_checkpoint_that_finds_no_room_is_named_in_one_line_and_leaves_no_half(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with largest_file(2**17):
        assert fit(data, tmp_path / "run", "--epochs", 1) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "run") in said
    assert re.search("too large|space|disk", said)
    assert list((tmp_path / "run").rglob("*.ckpt")) == []
    assert hidden(tmp_path / "run") == []


def test_c4_a_model_folder_that_finds_no_room_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    folder = fullyconv.SegmentationModule(SMALL, classes=["a", "b"]).save_pretrained(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with largest_file(2**16), pytest.raises((OSError, ValueError)) as caught:
        fullyconv.SegmentationModule(SMALL, classes=["x", "y"]).save_pretrained(folder)
    assert "mine" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the notes of a run, and none for its checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_c4_a_full_disk_is_said_to_be_one(data: Path, little_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(data, little_disk / "run", "--epochs", 1) == 2
    said = capsys.readouterr().err
    assert str(little_disk) in said
    assert "space" in said
    assert list(little_disk.rglob("*.ckpt")) == []
    assert hidden(little_disk) == []


# ---- C8: names that are no UTF-8 ------------------------------------------------------------------------------------


def renamed(path: Path, name: bytes) -> None:
    try:
        os.rename(os.fsencode(path), os.path.join(os.fsencode(path.parent), name))
    except OSError:
        pytest.skip("this file system has no such names")


@pytest.fixture(params=["files", "folder"])
def foreign_names(request: pytest.FixtureRequest, data: Path) -> Path:
    if request.param == "files":
        for kind in ("images", "masks"):
            renamed(data / "train" / kind / "001.png", b"caf\xe9.png")
        return data
    renamed(data, b"caf\xe9")
    return Path(os.fsdecode(os.path.join(os.fsencode(data.parent), b"caf\xe9")))


def test_c8_names_that_are_no_utf8_are_an_error_of_the_doctor(
    foreign_names: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", foreign_names) != 0
    assert "caf" in "".join(capsys.readouterr())


@pytest.mark.parametrize("foreign_names", ["files", pytest.param("folder", marks=pytest.mark.slow)], indirect=True)
def test_c8_names_that_are_no_utf8_are_refused_before_anything_is_trained(
    foreign_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(foreign_names, tmp_path / "run", "--epochs", 1) == 2
    assert "caf" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- C12: options of Lightning that exclude others ------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        pytest.param("--trainer.check_val_every_n_epoch=5", marks=pytest.mark.slow),
    ],
)
def test_c12_an_option_of_the_trainer_works_or_is_refused_by_name(
    word: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = fit(data, tmp_path / "run", "--epochs", 2, word)
    if status:
        assert status == 2
        assert word.removeprefix("--trainer.").partition("=")[0] in capsys.readouterr().err


# ---- C14: a loss that is no number ----------------------------------------------------------------------------------


def test_c14_training_stops_in_the_epoch_in_which_the_loss_is_no_number(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(data, tmp_path / "run", "--epochs", 4, "--model.lr=1e30", "--data.batch_size=1") != 0
    assert re.search(r"\bnan\b|not finite|no number", capsys.readouterr().err, re.IGNORECASE)
    begun = set()
    for log in (tmp_path / "run").rglob("metrics.csv"):
        with log.open(newline="") as file:
            begun |= {int(row["epoch"]) for row in csv.DictReader(file) if row.get("epoch")}
    assert begun <= {0, 1}


# ---- C15: who may read what a run writes ----------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_c15_files_of_a_run_may_be_read_by_whom_the_umask_lets(data: Path, tmp_path: Path) -> None:
    with umask(0o027):
        assert fit(data, tmp_path / "run", "--epochs", 1) == 0
    modes = {
        path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    assert {"fit.json", "best.ckpt", "last.ckpt", "config.json", "model.safetensors"} <= modes.keys()
    assert set(modes.values()) == {"0o640"}, modes


# ---- C16: Ctrl-C ----------------------------------------------------------------------------------------------------


def test_c16_an_interrupted_run_says_so_and_how_it_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = fullyconv.SegmentationModule.training_step

    def interrupted(self: Any, *arguments: Any) -> Any:
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(fullyconv.SegmentationModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        status = fit(data, tmp_path / "run", "--epochs", 3)
    except KeyboardInterrupt:
        status = -1
    finally:
        signal.signal(signal.SIGINT, handler)
    said = capsys.readouterr().err
    assert status == 130
    assert "interrupted" in said
    assert str(tmp_path / "run") in said or "same command" in said


# ---- C17: a compiled step -------------------------------------------------------------------------------------------

HEADS = {
    "skips": "fcn8s_resnet18_quarter",
    "plain": "plain_resnet18_quarter",
    "pyramid pooling": "deeplabv3_mobilenet_v3_large",
    "gated": "lraspp_mobilenet_v3_large",
    "ladder": "ladder_resnet18_quarter",
    "unpooling": "segnet_vgg11_quarter",
}


def assert_steps_agree(preset: str, compiled: Callable[[nn.Module], Any]) -> None:
    """Compare the gradients of one training step of a network and of what is made of it."""
    torch.manual_seed(0)
    model = fullyconv.build_model(preset, num_classes=3).to(memory_format=torch.channels_last).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for value in model.get_submodule("head").parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=0.05)  # score layers start at zero, which would tell nothing
    image = torch.rand(2, 3, 41, 57).to(memory_format=torch.channels_last)
    mask = torch.randint(0, 3, (2, 41, 57))
    steps = []
    for network in (model, compiled(model)):
        model.zero_grad()
        nn.functional.cross_entropy(network(image), mask).backward()
        found = {name: value.grad for name, value in model.named_parameters()}
        steps.append({name: grad.clone() for name, grad in found.items() if grad is not None})
    assert steps[0].keys() == steps[1].keys()
    scale = max(float(value.abs().max()) for value in steps[0].values())
    assert scale > 0
    for name, value in steps[0].items():
        assert (steps[1][name] - value).abs().max() < 1e-3 * scale, name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
@pytest.mark.parametrize("head", HEADS)
def test_c17_a_compiled_step_equals_the_eager_one_and_has_no_replication_padding_in_the_way(head: str) -> None:
    """Without the code that inductor makes: what it would be made of is noted, and computed as it stands."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    operations: list[str] = []

    def note(graph: Any, _: Any) -> Any:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    assert_steps_agree(HEADS[head], lambda model: torch.compile(model, backend=aot_autograd(fw_compiler=note)))
    assert any("convolution_backward" in name for name in operations)
    assert [name for name in operations if "replication_pad" in name] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor wants a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_c17_a_step_compiled_by_inductor_equals_the_eager_one() -> None:
    torch.compiler.reset()
    assert_steps_agree(HEADS["skips"], torch.compile)


# ---- C18: a table with a changed byte -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("column", ["image", "mask"])
def test_c18_a_changed_byte_in_a_saved_table_is_an_error_that_names_the_file(column: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    rows = {
        "image": [Image.fromarray(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)) for _ in range(6)],
        "mask": [Image.fromarray(rng.integers(0, 2, (20, 30)).astype(np.uint8)) for _ in range(6)],
    }
    features = datasets.Features({name: datasets.Image() for name in rows})
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "set"))
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    stored = table.cast_column(column, datasets.Image(decode=False))[column]
    first, second = (len(stored[row]["bytes"]) for row in (0, 1))
    # where the bytes of the images begin: 0, then the length of the first, then the sum of both
    content = bytearray(arrow.read_bytes())
    place = content.index(struct.pack("<3i", 0, first, first + second))
    content[place + 7] ^= 0x70  # the first is now said to have nearly two billion bytes
    arrow.write_bytes(content)
    words = [sys.executable, "-m", "fullyconv", "doctor", str(tmp_path / "set")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "set") in done.stdout + done.stderr


# ---- C23: what a killed process leaves ------------------------------------------------------------------------------

KILLED_SAVE = """
import os, signal, sys
import fullyconv

os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
fullyconv.SegmentationModule("same_convolutions", classes=["a", "b"]).save_pretrained(sys.argv[1])
"""
KILLED_FIT = """
import os, signal, sys
from fullyconv import cli

real = os.replace

def replace(source, target, **options):
    if str(target).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target, **options)

os.replace = replace
cli.main(sys.argv[2:])
"""


def killed(code: str, *words: object) -> None:
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def age(folder: Path) -> None:
    """Let all files be old, so that nobody can take them for those of a process that is still at work."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))


@pytest.mark.slow
def test_c23_the_next_save_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    killed(KILLED_SAVE, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir())
    age(tmp_path / "mine")
    fullyconv.SegmentationModule(SMALL, classes=["a", "b"]).save_pretrained(tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", ["fit.json", "last.ckpt", "model.safetensors"])
def test_c23_the_next_fit_removes_what_a_killed_one_left(file: str, data: Path, tmp_path: Path) -> None:
    words = ["fit", data, "--model", f"random:{SMALL}", "--out", tmp_path / "run", QUIET, "--epochs", 1]
    killed(KILLED_FIT, file, *words)
    assert hidden(tmp_path / "run")
    age(tmp_path / "run")
    assert run(*words) == 0
    assert hidden(tmp_path / "run") == []


# ---- M10: messages about arguments ----------------------------------------------------------------------------------


def test_m10_class_weights_that_are_a_word_are_not_counted_by_letters() -> None:
    said = "taken: median"
    try:
        fullyconv.SegmentationModule(SMALL, classes=["a", "b"], class_weights="median")  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        said = str(error)
    assert "median" in said
    assert "6 entries" not in said


def test_m10_an_unknown_loss_is_answered_with_all_that_may_be_written() -> None:
    with pytest.raises(ValueError, match="focal2") as caught:
        fullyconv.SegmentationModule(SMALL, classes=["a", "b"], loss="focal2")
    assert "Did you mean focal?" in str(caught.value)
    assert "+" in str(caught.value)


# ---- M12: the help of fit -------------------------------------------------------------------------------------------


def test_m12_the_help_of_fit_begins_with_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--help") == 0
    said = capsys.readouterr().out
    own = ["--model", "--epochs", "--minutes", "--device", "--out", "--val-fraction", "--masks", "--values"]
    places = [re.search(rf"(?<![\w-]){option}(?![\w.-])", said) for option in own]
    assert None not in places, dict(zip(own, places, strict=True))
    theirs = said.find("--trainer.max_epochs")
    assert theirs < 0 or all(place is not None and place.start() < theirs for place in places)

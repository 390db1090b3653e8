"""Processes that torchrun starts, as on several machines: one run, one folder, the figures of one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_tree

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
DDP = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def fullyconv(place: Path, *words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, in one process or two."""
    many = processes > 1
    command = [sys.executable, *(TORCHRUN if many else []), "-m", "fullyconv", *words, *(DDP if many else [])]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=400, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def figures(said: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"((?:test|val)/\S+)[\s│]+(\d\.\d+)", said)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_of_torchrun_train_in_one_folder_and_score_as_one_does(tmp_path: Path) -> None:
    write_tree(tmp_path / "odd", {"train": 4, "val": 5, "test": 5}, (32, 40))
    words = ["fit", "odd", "--model", "random:same_convolutions", "--out", "run", "--epochs", "1", "--device", "cpu"]
    words += ["--trainer.enable_progress_bar", "false"]
    trained = fullyconv(tmp_path, *words, processes=2)
    for once in ("model folder written to run/model", "report written to run/report.html", "writes to run;"):
        assert trained.stdout.count(once) == 1, trained.stdout
    assert {"model", "report.html", "checkpoints", "fit.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    recipe = ["--config", "run/log/version_0/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt"]
    recipe += ["--trainer.devices", "1", "--data.batch_size", "2"]
    one, two = (fullyconv(tmp_path, "test", *recipe, processes=count) for count in (1, 2))
    assert "test/loss" in figures(one.stdout)
    assert figures(two.stdout) == pytest.approx(figures(one.stdout), rel=1e-4)
    assert "sync_dist" not in one.stderr + two.stderr

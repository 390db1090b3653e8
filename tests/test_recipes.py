"""The recipes of the zoo: each begins to train on its own data."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from fullyconv import cli

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("zoo/*/recipe.yaml"))}
SEGMENTERS = [name for name, path in RECIPES.items() if "run" in yaml.safe_load(path.read_text(encoding="utf-8"))]
BRIEFLY = [
    "--trainer.precision=32-true",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    if "FULLYCONV_DATA" not in os.environ:
        pytest.skip("needs FULLYCONV_DATA, the folder of the data sets")
    monkeypatch.setenv("FULLYCONV_DATA", str(Path(os.environ["FULLYCONV_DATA"]).resolve()))
    monkeypatch.chdir(ROOT)  # recipes name the lists of their splits from there


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_recipe_takes_two_steps_and_leaves_a_model_folder(name: str, tmp_path: Path) -> None:
    folders = [f"--run.folder={tmp_path}", f"--run.model_folder={tmp_path / name}", "--run.split=none"]
    assert cli.main(["fit", "--config", str(RECIPES[name]), *folders, *BRIEFLY, "--data.check=false"]) == 0
    assert (tmp_path / name / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SEGMENTERS])
def test_every_recipe_of_a_classifier_takes_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(RECIPES[name]), f"--folder={tmp_path}", *BRIEFLY]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "zoo/classifier.py"), *words])
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert list(tmp_path.rglob("config.json"))

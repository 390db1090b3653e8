"""zoo/classifier.py: from folders of kinds to a classifier that is scored, loaded, converted and built upon."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullyconv
from fullyconv import SegmentationModule, WeightsError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "zoo" / "classifier.py"


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """Gray images in folders of two kinds, bright or dark in the middle, each with its mask beside it."""
    random = np.random.default_rng(0)
    for kind, value in (("Dent", 30), ("Spot", 230)):
        folder = tmp_path / "tiles" / f"MT_{kind}" / "Imgs"
        folder.mkdir(parents=True)
        for index in range(14):
            image = random.integers(110, 140, (40, 48), np.uint8)
            mask = np.zeros_like(image)
            image[14:26, 16:32], mask[14:26, 16:32] = value, 255
            Image.fromarray(image).save(folder / f"{kind}{index}.jpg")
            Image.fromarray(mask).save(folder / f"{kind}{index}.png")
    return tmp_path / "tiles"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder, text=True, capture_output=True, env=os.environ, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_folders_of_kinds_become_a_classifier_and_a_start_for_a_segmenter(kinds: Path, tmp_path: Path) -> None:
    words = ["--data.data=tiles", "--data.size=64", "--data.area=0.8", "--data.batch_size=8", "--seed_everything=1"]
    words += ["--model.architecture=resnet18_quarter", "--folder=run", "--license=of the tests", "--model.lr=0.003"]
    words += ["--trainer.max_epochs=12", "--trainer.accelerator=cpu", "--trainer.logger=false", "--ema_decay=0.5"]
    done = run(tmp_path, "fit", *words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "resnet18_quarter.run"
    classifier = fullyconv.load_classifier(folder)
    assert classifier.classes == ["dent", "spot"]
    assert classifier.license == "of the tests"
    assert classifier.score is not None
    assert classifier.score["top1"] >= 80  # by chance 50
    assert classifier.training_record["epochs"] == 12
    # the command beside the score gives the score
    said = shlex.split(classifier.score["command"])
    assert said[:3] == ["python", "zoo/classifier.py", "test"]
    again = run(tmp_path, "test", f"{folder}/", *said[4:], "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert {key: classifier.score[key] for key in found} == found
    # each image is tested on by whoever asks for the same splits
    assert found["images"] == 6
    module = SegmentationModule("fcn4s_resnet18_quarter", classes=["tile", "defect"], backbone_weights=f"{folder}/")
    stored = classifier.network.state_dict()["conv1.weight"]
    assert bool((module.model.backbone.state_dict()["conv1.weight"] == stored).all())


def test_a_segmenter_is_refused(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "test", "street", str(kinds)])
    with pytest.raises(WeightsError, match="kind='segmenter', which is no classifier"):
        runpy.run_path(str(SCRIPT), run_name="__main__")

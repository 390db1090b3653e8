"""What was trained on values of a range is tested, predicted and exported by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

import fullyconv
from fullyconv import SegmentationDataModule, SegmentationModule
from fullyconv.images import read_image
from odd_trees import deep_tree
from told import run

BITS = (0.0, 4095.0)

pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|treespec|logging interval).*")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deep_tree(tmp_path_factory.mktemp("deep") / "set", "gray.png", 4095)


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that was trained on values 0..4095."""
    torch.manual_seed(0)
    data = SegmentationDataModule(root, value_range=BITS, batch_size=2, crop_size=32)
    module = SegmentationModule("fcn32s_resnet18_quarter", data.labels, optimizer="adamw", lr=1e-2)
    plain: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_steps=4, accelerator="cpu", limit_val_batches=0, enable_progress_bar=False, **plain)
    trainer.fit(module, data)
    return module.save_pretrained(tmp_path_factory.mktemp("model") / "deep")


def test_the_model_folder_knows_its_range_and_predicts_by_it(folder: Path, root: Path, tmp_path: Path) -> None:
    module = fullyconv.load(folder)
    assert module.preprocessing.value_range == BITS
    (image, *_) = sorted((root / "val" / "images").iterdir())
    shown = np.clip(np.rint(np.array(Image.open(image)) / 4095 * 255), 0, 255).astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "shown.png")
    deep, plain = (module.predict(path, probabilities="all") for path in (image, tmp_path / "shown.png"))
    dark = module.predict(Image.fromarray((np.array(Image.open(image)) >> 8).astype(np.uint8)), probabilities="all")
    rounding, darkness = (np.abs(deep.probabilities - other.probabilities).max() for other in (plain, dark))
    assert rounding < darkness / 4  # of values in bytes, and of values that are a sixteenth of those learned


def test_a_test_reads_by_the_range_that_was_learned(
    folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, "test", folder, root, "--split", "val", "--json")
    assert told.code == 0, told.text
    same = run(capsys, "test", folder, root, "--split", "val", "--range", "0,4095", "--json")
    assert same.out == told.out
    other = run(capsys, "test", folder, root, "--split", "val", "--range", "0,65535")
    assert other.code == 2
    assert "value_range=(0.0, 4095.0)" in other.err


@pytest.mark.parametrize("bits", [None, (0, 65535)])
def test_data_read_by_another_range_is_refused(folder: Path, root: Path, bits: tuple[float, float] | None) -> None:
    data = SegmentationDataModule(root, value_range=bits)
    with pytest.raises(ValueError, match=r"the model value_range=\(0\.0, 4095\.0\): .* give the data the value_range"):
        fullyconv.load(folder).evaluate(data, "val")


def test_int8_is_calibrated_on_what_the_model_sees(folder: Path, root: Path) -> None:
    pytest.importorskip("onnx")
    from fullyconv.export.parity import feeds_of

    (image, *_) = sorted((root / "val" / "images").iterdir())
    feeds = feeds_of(fullyconv.load(folder), image)
    np.testing.assert_array_equal(feeds["image"][0], read_image(image, value_range=BITS))

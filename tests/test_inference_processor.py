"""Types that a processor only emulates, cores that are ours, and copies of what predicts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from closeness import assert_close, assert_same_mask
from fullyconv import SegmentationModule
from fullyconv.inference import budget, processor
from fullyconv.inference.processor import emulates

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)


def small() -> SegmentationModule:
    torch.manual_seed(0)
    segmenter = SegmentationModule("fcn8s_resnet18_quarter", classes=["a", "b", "c"]).eval()
    for parameter in segmenter.model.head.parameters():  # which is zero at first
        torch.nn.init.normal_(parameter, std=0.5)
    return segmenter


def test_single_precision_is_never_emulated_and_the_others_are_measured() -> None:
    assert not emulates(torch.float32)
    assert not emulates(torch.float64)
    assert emulates(torch.bfloat16) in (True, False)


def test_a_model_in_a_type_that_is_emulated_predicts_in_single_precision_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "emulates", lambda kind: kind == torch.bfloat16)
    segmenter = small().bfloat16()
    expected = copy.deepcopy(segmenter).float().predict(PICTURE).mask
    with pytest.warns(UserWarning, match="only emulates torch.bfloat16"):
        found = segmenter.predict(PICTURE).mask
    assert_same_mask(found, expected)
    assert next(segmenter.parameters()).dtype == torch.bfloat16
    segmenter.predict(PICTURE)  # warns once: warnings are errors here


def test_an_autocast_to_a_type_that_is_emulated_is_left_out_and_any_other_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "emulates", lambda kind: kind == torch.bfloat16)
    segmenter, image = small(), torch.rand(1, 3, 40, 56)
    plain, scores = segmenter(image), segmenter.scores(image)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="many times slower"):
        assert_close(segmenter(image), plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(segmenter.scores(image), scores)  # warned once
    monkeypatch.setattr(processor, "emulates", lambda kind: False)
    with torch.autocast("cpu", torch.bfloat16):
        assert (segmenter(image) - plain).abs().max() > 1e-4 * plain.abs().max(), "it is computed in half precision"


@pytest.mark.parametrize(
    ("text", "expected"), [("200000 100000", 2), ("150000 100000", 2), ("max 100000", 8), ("1 0", 8), ("?", 8)]
)
def test_a_container_that_may_use_some_cores_of_many_is_given_so_many_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int
) -> None:
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)
    monkeypatch.setattr(budget.os, "sched_getaffinity", lambda _: range(8), raising=False)
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert budget.available_processors() == expected


def test_a_copy_predicts_by_its_own_weights() -> None:
    segmenter = small()
    expected = segmenter.predict(PICTURE, probabilities="all")
    other = pickle.loads(pickle.dumps(copy.deepcopy(segmenter)))
    with torch.no_grad():
        for parameter in segmenter.model.parameters():
            parameter.neg_()
    assert np.abs(segmenter.predict(PICTURE, probabilities="all").probabilities - expected.probabilities).max() > 0.1
    assert_same_mask(other.predict(PICTURE).mask, expected.mask)


def test_a_copy_of_a_module_in_training_leaves_its_trainer_behind() -> None:
    # What averages weights copies the module after the processes of a run are joined, and no group can be copied.
    segmenter = small()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    segmenter.trainer = trainer
    segmenter.predict(PICTURE)
    assert segmenter._predictor is not None
    twin = copy.deepcopy(segmenter)
    assert (twin._trainer, twin._predictor) == (None, None)
    assert segmenter.trainer is trainer

"""Doors for the code of others, as a package that depends on this one goes through them: public names alone."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import fullyconv
from conftest import NAMES
from fullyconv import Segmentation, SegmentationDataModule, SegmentationModule
from fullyconv.training.losses import LOSSES

SMALL = "fcn32s_resnet18_quarter"

STRANGER = '''
"""A package that depends on fullyconv and uses its public names alone."""

import numpy as np
import torch


class HalfOfTheTruth(torch.nn.Module):
    """Cross entropy times a weight that is learned: a loss with an option and a parameter."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = factor
        self.temperature = torch.nn.Parameter(torch.ones(()))

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.factor * torch.nn.functional.cross_entropy(logits * self.temperature, mask, ignore_index=255)


class Mirrored:
    """As albumentations is called: by keyword alone, with arrays, and a dict comes back."""

    def __call__(self, *args, force_apply=False, **data):
        assert not args
        return {key: np.flip(value, 1) for key, value in data.items()}
'''


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "stranger.py").write_text(textwrap.dedent(STRANGER))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    import stranger

    yield stranger
    del sys.modules["stranger"]


def quick(**options: Any) -> L.Trainer:
    return L.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", **options
    )


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_a_loss_of_a_stranger_trains(tree: Path, tmp_path: Path, stranger: Any) -> None:
    data = SegmentationDataModule(tree, crop_size=32)
    loss = stranger.HalfOfTheTruth(0.25)
    segmenter = SegmentationModule(SMALL, data.labels, loss=loss, lr=0.1)
    trainer = quick(enable_checkpointing=False)
    trainer.fit(segmenter, data)
    assert loss.temperature.item() != 1.0
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    again = SegmentationModule.load_from_checkpoint(tmp_path / "last.ckpt", loss=stranger.HalfOfTheTruth())
    assert again.loss.function.temperature.item() == loss.temperature.item()
    assert again.hparams["loss"] == "own:stranger.HalfOfTheTruth"


def test_a_checkpoint_names_the_loss_of_a_stranger_and_predicts_without_it(
    tree: Path, tmp_path: Path, stranger: Any
) -> None:
    data = SegmentationDataModule(tree, crop_size=32)
    segmenter = SegmentationModule(SMALL, data.labels, loss=stranger.HalfOfTheTruth())
    trainer = quick(enable_checkpointing=False)
    trainer.fit(segmenter, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    alone = SegmentationModule.from_checkpoint(tmp_path / "last.ckpt")
    image = np.full((40, 50, 3), 99, np.uint8)
    assert np.array_equal(alone.predict(image).mask, segmenter.predict(image).mask)
    with pytest.raises(ValueError, match=r"loss='stranger\.HalfOfTheTruth': was not loaded.*loss=\.\.\."):
        alone.training_step(next(iter(data.train_dataloader())), 0)


def test_a_function_is_a_loss_and_stays_with_what_is_made_of_the_segmenter() -> None:
    def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return logits.sum() * 0 + 3

    logits, mask = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    segmenter = SegmentationModule(SMALL, classes=["a", "b"], loss=loss)
    for module in (
        segmenter,
        segmenter.with_classes(segmenter.labels),
        segmenter.grow(16),
        segmenter.expand_classes(["c"]),
    ):
        assert module.loss(logits, mask) == 3
    heads = SegmentationModule(SMALL, classes={"a": ["x", "y"], "b": ["u", "v"]}, loss=loss)
    assert heads.loss({"a": logits, "b": logits}, {"a": mask, "b": mask}) == 6


def test_a_recipe_names_the_loss_and_the_augmentation_of_a_stranger(
    tree: Path, tmp_path: Path, stranger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fullyconv import cli

    monkeypatch.chdir(tmp_path)
    recipe = {
        "model": {"model": SMALL, "loss": {"class_path": "stranger.HalfOfTheTruth", "init_args": {"factor": 0.125}}},
        "data": {"data": str(tree), "crop_size": 32, "augment": {"class_path": "stranger.Mirrored"}},
        "trainer": {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "accelerator": "cpu"},
        "run": {"folder": str(tmp_path / "run")},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    made: list[float] = []
    monkeypatch.setattr(
        stranger.HalfOfTheTruth, "forward", lambda self, logits, mask: made.append(self.factor) or logits.mean()
    )
    assert cli.main(["fit", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert set(made) == {0.125}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"loss": 3}, "give a name, or an object that is called"),
        ({"loss": torch.nn.CrossEntropyLoss}, "give a name, or an object that is called"),
        ({"loss": torch.nn.CrossEntropyLoss(), "class_weights": [1.0, 2.0]}, "a loss of your own has its own"),
        ({"loss": "mypackage.Tversky"}, r"\{class_path: mypackage\.Tversky\}"),
    ],
)
def test_what_is_no_loss_is_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        SegmentationModule(SMALL, classes=["a", "b"], **options)


def test_a_loss_that_gives_a_number_for_each_pixel_is_refused() -> None:
    segmenter = SegmentationModule(SMALL, classes=["a", "b"], loss=torch.nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match=r"gives a tensor of shape \(1, 4, 4\); give one number"):
        segmenter.loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))
    assert "own:torch.nn.modules.loss.CrossEntropyLoss" not in LOSSES


# ---- augmentations --------------------------------------------------------------------------------------------------

STILL: dict[str, Any] = {
    "scale": (1.0, 1.0), "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "batch_size": 8,
}  # fmt: skip


def batch(tree: Path, **options: Any) -> dict[str, Any]:
    return next(iter(SegmentationDataModule(tree, **STILL, **options).train_dataloader()))


def test_transforms_of_torchvision_and_callables_as_albumentations_are_taken(tree: Path, stranger: Any) -> None:
    plain = batch(tree)

    def by_name(image: Any, mask: Any) -> Any:
        return image[:, ::-1].astype(np.float32) / 255, mask[:, ::-1]

    for augment in (
        v2.RandomHorizontalFlip(1.0),
        v2.Compose([v2.RandomHorizontalFlip(1.0)]),
        stranger.Mirrored(),
        by_name,
    ):
        mirrored = batch(tree, augment=augment)
        assert torch.allclose(mirrored["image"], plain["image"].flip(-1))
        assert torch.equal(mirrored["mask"], plain["mask"].flip(-1))
        assert mirrored["path"] == plain["path"]


def test_an_augmentation_is_the_same_for_the_same_seed_and_leaves_evaluation_alone(tree: Path) -> None:
    def noisy(image: Any, mask: Any) -> Any:
        return (np.random.rand(*image.shape) * 255).astype(np.uint8), mask

    first, second, third = batch(tree, augment=noisy), batch(tree, augment=noisy), batch(tree, augment=noisy, seed=1)
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], third["image"])
    assert not torch.equal(first["image"][0], first["image"][1])
    data = SegmentationDataModule(tree, augment=noisy)
    known = SegmentationDataModule(tree)
    assert torch.equal(next(iter(data.val_dataloader()))["image"], next(iter(known.val_dataloader()))["image"])
    json.dumps(dict(data.hparams))  # a checkpoint holds plain values


def test_an_augmentation_stays_with_other_options_of_the_same_data(tree: Path, stranger: Any) -> None:
    data = SegmentationDataModule(tree, augment=stranger.Mirrored())
    assert data.load_by(batch_size=2).augment is data.augment
    assert data.load_by(augment=None).augment is None


def test_a_rotation_of_torchvision_fills_with_what_is_ignored(tree: Path) -> None:
    turn = v2.RandomRotation((45, 45), fill={tv_tensors.Image: 128, tv_tensors.Mask: 255})
    assert (batch(tree, augment=turn)["mask"][:, 0, 0] == 255).all()


@pytest.mark.parametrize(
    ("augment", "rule"),
    [
        (lambda image, mask: image, "gives ndarray; give image and mask"),
        (
            lambda image, mask: (image, mask[:-1]),
            r"gives as mask a ndarray of shape \(47, 64\) .*give class indices of the size",
        ),
        (lambda image, mask: (image, mask * 7), "gives a mask with the labels .*give class indices below 3"),
        (lambda image, mask: (image, mask / 2), "masks are never interpolated"),
        (lambda image, mask: (image - 300.0, mask), r"or floats in 0\.\.1: do not normalize"),
        (lambda image, mask: (image[..., :2], mask), "give one of 3 channels"),
    ],
)
def test_what_an_augmentation_must_not_give_is_refused(tree: Path, augment: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        batch(tree, augment=augment)


def test_what_is_no_augmentation_is_refused(tree: Path) -> None:
    for augment in ("flip", v2.RandomHorizontalFlip):
        with pytest.raises(ValueError, match=r"augment=.*give an object that is called with an image and its mask"):
            SegmentationDataModule(tree, augment=augment)


# ---- Trainer.predict, and images that are no files ------------------------------------------------------------------


def test_a_trainer_predicts_the_test_split_as_predict_does(tree: Path) -> None:
    data = SegmentationDataModule(tree, batch_size=3)
    segmenter = SegmentationModule(SMALL, data.labels)
    batches = quick().predict(segmenter, data)
    assert [len(results) for results in batches] == [3, 1]
    results = [result for each in batches for result in each]
    for pair, result in zip(data.splits["test"], results, strict=True):
        assert isinstance(result, Segmentation)
        assert result.classes == NAMES
        own = segmenter.predict(pair.image)
        assert np.array_equal(result.mask, own.mask)
        assert np.array_equal(result.image, own.image)


def test_an_image_is_read_from_bytes_and_from_what_is_open(tree: Path) -> None:
    path = tree / "test" / "images" / "000.png"
    data = path.read_bytes()
    segmenter = SegmentationModule(SMALL, NAMES)
    dense = fullyconv.load_classifier("tile_kinds").convolutionalize()
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert np.array_equal(segmenter.predict(source).image, segmenter.predict(path).image)
    with path.open("rb") as file:
        assert dense.predict(file).mask.shape == (48, 64)
    with path.open(encoding="latin-1") as text, pytest.raises(ValueError, match="was opened as text; open it with"):
        segmenter.predict(text)  # type: ignore[arg-type]
    with pytest.raises(fullyconv.DatasetError, match="source: not an image"):
        segmenter.predict(b"no image")

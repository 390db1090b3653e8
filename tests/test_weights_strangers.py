"""Segmenters of others: loaded where their names are known, told apart where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import fullyconv
from fullyconv.errors import WeightsError
from fullyconv.hub.convert import convert
from hub_server import HubServer
from test_weights_segmenters import theirs

LRASPP = "lraspp_mobilenet_v3_large"
CLASSES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(theirs(LRASPP, num_classes=3).state_dict())


def saved(folder: Path, content: Any, name: str = "mine.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_classes_that_nobody_names_are_numbered(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="fullyconv"):
        segmenter = fullyconv.load(saved(tmp_path, state), architecture=LRASPP)
    assert segmenter.classes == ["class 0", "class 1", "class 2"]
    assert segmenter.training_record["source"] == "mine.pth"
    for said in ("mine.pth: says nothing of its classes", "says nothing of its preprocessing"):
        assert said in caplog.text


def test_what_it_was_trained_on_is_taken_as_it_is_given(state: dict[str, Tensor], tmp_path: Path) -> None:
    preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3}
    path = saved(tmp_path, state)
    segmenter = fullyconv.load(path, architecture=LRASPP, classes=CLASSES, preprocessing=preprocessing)
    assert segmenter.preprocessing.mean == (0.5, 0.5, 0.5)
    segmenter.save_pretrained(tmp_path / "mine")
    again = fullyconv.load(tmp_path / "mine")
    assert isinstance(again, fullyconv.SegmentationModule)
    assert (again.preprocessing, again.classes) == (segmenter.preprocessing, CLASSES)
    with pytest.raises(ValueError, match="preprocessing: goes with architecture"):
        fullyconv.load(tmp_path / "mine", preprocessing=preprocessing)  # type: ignore[call-overload]


def test_what_stands_beside_is_listed(state: dict[str, Tensor], tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(3), "val_iou.matrix": torch.zeros(3, 3)}
    content = {f"module.model.{key}": value for key, value in state.items()} | beside
    segmenter = fullyconv.load(saved(tmp_path, {"model": content}), architecture=LRASPP, classes=CLASSES)
    assert segmenter.load_report is not None
    assert segmenter.load_report.unused == tuple(beside)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["a", "b"]}, "classes: 2 names, but mine.pth scores 3 classes; name those that it was trained on"),
        ({"architecture": "lraspp_mobilenet"}, "architecture='lraspp_mobilenet': no segmenter of torchvision. Did you"),
        (
            {"architecture": "fcn_resnet50"},
            r"mine.pth: state_dict does not fit model='fcn_resnet50', nothing was",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fullyconv.load(saved(tmp_path, state), **({"architecture": LRASPP, "classes": CLASSES} | options))


def test_what_says_itself_what_it_is_takes_no_architecture(tmp_path: Path) -> None:
    for source in ("street", "hf://org/mine", "torchvision://FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"):
        with pytest.raises(ValueError, match=r"architecture='fcn_resnet50': is for a single file .* leave it out"):
            fullyconv.load(source, architecture="fcn_resnet50")
    torch.save({"net.conv.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"does not say of which architecture it is; .* A segmenter of torchvision"):
        convert(tmp_path / "x.pth", tmp_path / "made")
    with pytest.raises(ValueError, match="classes and preprocessing: street says its own; leave them out"):
        convert("street", tmp_path / "made", classes=CLASSES)


def test_without_its_name_the_architectures_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 1}, "x.ckpt")
    with pytest.raises(WeightsError, match=rf"x.ckpt: .* a segmenter of torchvision, pass architecture= \(.*{LRASPP}"):
        fullyconv.load(path)


def smp() -> dict[str, Tensor]:
    trunk = torchvision.models.resnet18(weights=None).state_dict()
    encoder = {f"encoder.{key}": value for key, value in trunk.items() if not key.startswith("fc.")}
    return encoder | {
        "decoder.blocks.0.conv1.0.weight": torch.zeros(256, 768, 3, 3),
        "segmentation_head.0.weight": torch.zeros(3, 16, 3, 3),
    }


def test_the_encoder_of_another_library_starts_a_segmenter_as_the_message_says(tmp_path: Path) -> None:
    path = saved(tmp_path, {f"model.{key}": value for key, value in smp().items()}, "unet.pth")
    with pytest.raises(WeightsError, match=r"segmentation_models.pytorch, .*load_backbone\(NAME, weights=FILE\)"):
        fullyconv.load(path)
    backbone = fullyconv.load_backbone("resnet18", path)
    assert torch.equal(backbone.state_dict()["conv1.weight"], smp_first(path))
    assert backbone.load_report is not None
    assert any(name.endswith("segmentation_head.0.weight") for name in backbone.load_report.unused)


def smp_first(path: Path) -> Tensor:
    loaded = torch.load(path, weights_only=True)
    return next(value for key, value in loaded.items() if key.endswith("encoder.conv1.weight"))


@pytest.mark.parametrize(
    ("config", "library"),
    [
        ({"_model_class": "Unet", "encoder_name": "resnet34"}, "segmentation_models.pytorch"),
        ({"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}, "transformers"),
    ],
)
def test_a_repository_of_another_library_is_called_that(config: dict[str, Any], library: str, hub: HubServer) -> None:
    hub.add_repo("org/other", {"config.json": json.dumps(config).encode(), "model.safetensors": b"x"})
    with pytest.raises(WeightsError, match=rf"config.json: format=None, .* it is of {library}"):
        fullyconv.load("org/other", allow_unverified=True)


def test_tensors_of_this_package_alone_are_called_that(tmp_path: Path) -> None:
    module = fullyconv.SegmentationModule("same_convolutions", classes=CLASSES)
    with pytest.raises(WeightsError, match=r"mine.pth: .* of this package, but not which one: .*save_pretrained"):
        fullyconv.load(saved(tmp_path, module.state_dict()))

"""torchvision's segmenters under our names: its own logits, and what is said of the weights it publishes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from closeness import assert_close, assert_same_mask, assert_same_tensors
from fullyconv import label_sets
from fullyconv.errors import WeightsError
from fullyconv.fcn import MODELS, build_model
from fullyconv.labels import Labels
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.module import SegmentationModule
from fullyconv.weights.described import Described
from fullyconv.weights.segmenters import SEGMENTERS, published, torchvision_segmenter

SMALL = "lraspp_mobilenet_v3_large"
DEEP = ("fcn_resnet101", "deeplabv3_resnet101")
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in SEGMENTERS]


def theirs(name: str, **options: object) -> nn.Module:
    """torchvision's own model without weights; it would download those of the backbone unless told not to."""
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)


@cache
def on_meta(name: str) -> dict[str, Tensor]:
    """A state dict of the published model's shapes, at no cost."""
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    with torch.device("meta"):
        return dict(theirs(name, **options).state_dict())


def calibrated(model: nn.Module) -> nn.Module:
    """Let batch norm see noise once: without it the scores hardly depend on the image."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 64, 96))
    return model.eval()


def module_of(segmenter: Described) -> SegmentationModule:
    assert isinstance(segmenter.labels, Labels)
    module = SegmentationModule(
        segmenter.model,
        classes=list(segmenter.labels.names),
        preprocessing=segmenter.preprocessing.to_dict(),
        padding=segmenter.padding,
        upsampling=segmenter.upsampling,
    )
    module.model.load_state_dict(segmenter.tensors)
    return module.eval()


# Parity.


@pytest.mark.parametrize("name", EACH)
def test_logits_are_torchvisions_at_even_and_odd_sizes(name: str) -> None:
    torch.manual_seed(0)
    original = calibrated(theirs(name))
    segmenter = torchvision_segmenter(name, original.state_dict())
    with torch.device("meta"):
        model = build_model(name, 21, upsampling=segmenter.upsampling)
    model.load_state_dict(segmenter.tensors, strict=True, assign=True)
    model.eval()
    with torch.no_grad():
        for size in [(64, 96), (65, 99)]:
            images = torch.randn(2, 3, *size)
            expected, logits = original(images)["out"], model(images)
            assert logits.shape == (2, 21, *size)
            assert_close(logits, expected, varying=(0,))


def test_interpolating_by_centers_is_another_function_of_the_same_scores() -> None:
    torch.manual_seed(0)
    original = calibrated(theirs("deeplabv3_mobilenet_v3_large"))
    tensors = torchvision_segmenter("deeplabv3_mobilenet_v3_large", original.state_dict()).tensors
    models = [build_model("deeplabv3_mobilenet_v3_large", 21, upsampling=word) for word in ("bilinear", "stretch")]
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for model in models:
            model.load_state_dict(tensors)
            model.eval()
        centered, stretched = (model.scores(image) for model in models)
        assert_close(centered, stretched)
        one, other = (model(image) for model in models)
        assert (one - other).abs().max() > 0.01 * one.abs().max()


# Names.


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_tensor_of_the_published_file_has_its_place(name: str) -> None:
    segmenter = torchvision_segmenter(name, on_meta(name))
    with torch.device("meta"):
        own = build_model(name, 21, upsampling="stretch").state_dict()
    assert {key: value.shape for key, value in segmenter.tensors.items()} == {k: v.shape for k, v in own.items()}
    load_report = segmenter.load_report
    assert sorted(load_report.copied + load_report.unused) == sorted(on_meta(name))
    assert len(load_report.copied) == len(segmenter.tensors)
    assert (load_report.reshaped, load_report.adapted, load_report.reinitialized) == ((), (), ())
    assert len(load_report.unused) == (0 if name == SMALL else 8)
    assert all(key.startswith("aux_classifier.") for key in load_report.unused)
    parameters = sum(v.numel() for k, v in on_meta(name).items() if "running" not in k and "num_batches" not in k)
    weights = published(name)
    assert parameters == weights.meta["num_params"]


def test_the_table_names_presets_and_all_segmenters_of_torchvision() -> None:
    assert set(SEGMENTERS) <= set(MODELS)
    assert set(SEGMENTERS) == set(torchvision.models.list_models(torchvision.models.segmentation))


def test_names_of_the_heads_explain_themselves() -> None:
    keys = {
        name: {key.rpartition(".")[0] for key in torchvision_segmenter(name, on_meta(name)).tensors if "head" in key}
        for name in SEGMENTERS
    }
    assert keys["fcn_resnet50"] == {"head.conv", "head.norm", "head.score.8"}
    assert keys[SMALL] == {"head.conv", "head.norm", "head.gate.1", "head.score.16", "head.score.8"}
    assert {"head.conv", "head.norm", "head.score.8", "head.aspp.convs.4.1"} < keys["deeplabv3_resnet50"]
    assert {"head.score.16", "head.aspp.project.0"} < keys["deeplabv3_mobilenet_v3_large"]


def test_state_dict_without_the_auxiliary_classifier_is_complete() -> None:
    without = {key: value for key, value in on_meta("fcn_resnet50").items() if not key.startswith("aux_")}
    assert torchvision_segmenter("fcn_resnet50", without).load_report.unused == ()


def test_files_from_before_the_batch_counter_are_complete() -> None:
    old = {key: value for key, value in on_meta(SMALL).items() if not key.endswith("num_batches_tracked")}
    segmenter = torchvision_segmenter(SMALL, old)
    assert len(segmenter.load_report.reinitialized) == len(on_meta(SMALL)) - len(old) > 0
    assert all(int(segmenter.tensors[key]) == 0 for key in segmenter.load_report.reinitialized)


# What is said of the weights.


@pytest.mark.parametrize("name", SEGMENTERS)
def test_what_torchvision_states_of_its_weights_comes_along(name: str) -> None:
    segmenter = torchvision_segmenter(name, on_meta(name))
    assert segmenter.model == name
    assert (segmenter.upsampling, segmenter.padding, segmenter.in_channels) == ("stretch", "same", 3)
    assert segmenter.labels == label_sets.voc()
    assert (segmenter.preprocessing.mean, segmenter.preprocessing.std) == (IMAGENET.mean, IMAGENET.std)
    assert segmenter.preprocessing.short_side == 520
    assert "BSD-3-Clause" in segmenter.license
    assert "COCO" in segmenter.license
    assert "\n" not in segmenter.license
    mean_iou, pixel_accuracy = {
        "fcn_resnet50": (60.5, 91.4),
        "fcn_resnet101": (63.7, 91.9),
        "deeplabv3_resnet50": (66.4, 92.4),
        "deeplabv3_resnet101": (67.4, 92.4),
        "deeplabv3_mobilenet_v3_large": (60.3, 91.2),
        "lraspp_mobilenet_v3_large": (57.9, 91.2),
    }[name]
    assert segmenter.score == {
        "data": "COCO-val2017-VOC-labels",
        "split": "val",
        "mean_iou": mean_iou,
        "pixel_accuracy": pixel_accuracy,
        "measured_by": "publisher",
    }
    assert segmenter.training["source"] == f"torchvision, {published(name)}"
    assert segmenter.training["url"] == published(name).url
    assert "COCO" in segmenter.training["data"]


def test_weights_of_your_own_training_claim_nothing_of_the_published_ones() -> None:
    labels = Labels.of(["background", "crack", "rust"])
    with torch.device("meta"):
        state = theirs(SMALL, num_classes=3).state_dict()
    segmenter = torchvision_segmenter(SMALL, state, labels=labels)
    assert segmenter.labels == labels
    assert segmenter.tensors["head.score.16.weight"].shape == (3, 128, 1, 1)
    assert (segmenter.score, segmenter.license, segmenter.training) == (None, "unstated", {})
    assert segmenter.preprocessing == IMAGENET


# As a module.


@pytest.fixture(scope="module")
def segmenter() -> Described:
    torch.manual_seed(0)
    return torchvision_segmenter(SMALL, calibrated(theirs(SMALL)).state_dict())


def test_model_folder_round_trip_keeps_logits_and_scale(segmenter: Described, tmp_path: Path) -> None:
    module = module_of(segmenter)
    module.save_pretrained(tmp_path / "a", score=segmenter.score, license=segmenter.license)
    loaded = SegmentationModule.from_pretrained(tmp_path / "a")
    assert loaded.hparams["upsampling"] == "stretch"
    assert loaded.preprocessing.short_side == 520
    assert (loaded.score, loaded.license) == (segmenter.score, segmenter.license)
    assert_same_tensors(loaded, module)


@pytest.mark.parametrize("name", [SMALL, "fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_other_classes_cost_the_score_layers_alone(name: str) -> None:
    module = SegmentationModule(name, classes=["a", "b"], upsampling="stretch")
    strides = module.model.head.strides
    assert module.with_classes(Labels.of(["a", "b", "c"])).reinitialized == tuple(
        sorted(f"head.score.{stride}.{kind}" for stride in strides for kind in ("weight", "bias"))
    )


def test_an_image_is_looked_at_as_torchvision_does_and_answered_at_its_own_size(segmenter: Described) -> None:
    module = module_of(segmenter)
    torch.manual_seed(1)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 13), size=(61, 90), mode="bicubic").clamp(0, 1)[0]
    image = (image * 255).round().to(torch.uint8)
    seen = published(SMALL).transforms()(image)
    assert seen.shape == (3, 520, 767)
    with torch.no_grad():
        logits = module.model(seen[None])
    expected = torch.nn.functional.interpolate(logits, size=(61, 90), mode="bilinear").argmax(1)[0]
    result = module.predict(image)
    assert result.mask.shape == (61, 90)
    assert len(expected.unique()) > 2
    assert_same_mask(result.mask, expected)  # torchvision normalizes in another order of operations


# Messages.


def without(state: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def test_misfits_are_named() -> None:
    state = without(on_meta(SMALL), "backbone.0.0.weight", "classifier.scale.1.weight")
    state["classifier.cbr.9.weight"] = torch.zeros(1)
    state["classifier.low_classifier.bias"] = torch.zeros(5)
    with pytest.raises(
        WeightsError,
        match=r"does not fit model='lraspp_mobilenet_v3_large', nothing was taken: "
        r"2 missing: backbone.0.0.weight, classifier.scale.1.weight; 1 unknown: classifier.cbr.9.weight; "
        r"1 of another shape: classifier.low_classifier.bias \(5,\) for \(21,\)\. "
        r"Pass the state_dict of torchvision.models.segmentation.lraspp_mobilenet_v3_large\(\), with labels=Labels.of",
    ):
        torchvision_segmenter(SMALL, state)


def test_a_state_dict_of_another_segmenter_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"34 missing: classifier.0.convs.0.0.weight.* and 28 more; 5 unknown"):
        torchvision_segmenter("deeplabv3_resnet50", on_meta("fcn_resnet50"))
    with pytest.raises(WeightsError, match=r"1 unknown: aux_classifier.9.weight\. "):
        torchvision_segmenter(SMALL, {**on_meta(SMALL), "aux_classifier.9.weight": torch.zeros(1)})

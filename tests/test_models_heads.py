"""Models with several heads on one backbone, and with two backbones under one head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from caffe_nets import FC, thin_vgg16
from closeness import assert_close
from fullyconv.backbones.fusion import LateFusion, vgg16_late
from fullyconv.fcn import FCN, MultiHeadFCN, build_model
from fullyconv.heads import SkipHead

TASKS = {"semantic": 5, "geometric": 3}


def random_scores(model: nn.Module) -> nn.Module:
    """Give the score layers values: at zero everything would be equal."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def two_heads(name: str = "fcn8s_resnet18_quarter", **options: object) -> MultiHeadFCN:
    torch.manual_seed(0)
    model = build_model(name, TASKS, **options)  # type: ignore[call-overload]
    random_scores(model)
    assert isinstance(model, MultiHeadFCN)
    return model


def single(model: MultiHeadFCN, name: str) -> FCN:
    return FCN(model.backbone, model.heads[name]).eval()


# ---- several heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampling", ["bilinear", "learned", "frozen"])
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 96)])
def test_each_head_gives_what_it_gives_alone(upsampling: str, size: tuple[int, int]) -> None:
    model = two_heads(upsampling=upsampling)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, scores = model(image), model.scores(image)
        assert list(logits) == list(scores) == list(TASKS)
        for name, classes in TASKS.items():
            alone = single(model, name)
            assert logits[name].shape == (2, classes, *size)
            assert_close(logits[name], alone(image), varying=(0,))
            assert_close(scores[name], alone.scores(image))


def test_backbone_is_run_once_for_all_heads() -> None:
    model = two_heads()
    calls: list[Tensor] = []
    model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0]))
    model(torch.randn(1, 3, 32, 32))
    assert len(calls) == 1


def test_backbone_that_demands_a_size_is_padded_for_all_heads() -> None:
    pytest.importorskip("timm")
    model = build_model("fcn8s_timm/regnetx_002", TASKS).eval()
    logits = model(torch.randn(1, 3, 33, 50))
    assert {name: value.shape[2:] for name, value in logits.items()} == dict.fromkeys(TASKS, (33, 50))


def test_keys_name_the_head_and_the_stride() -> None:
    model = two_heads("fcn16s_resnet18_quarter", upsampling="learned")
    head = [key for key in model.state_dict() if key.startswith("head.")]
    assert head == [
        f"head.{task}.{key}"
        for task in TASKS
        for key in (
            *("score.32.weight", "score.32.bias", "score.16.weight", "score.16.bias"),
            *("upscore.32to16.weight", "upscore.16to1.weight"),
        )
    ]
    assert model.num_classes == TASKS
    assert {name: grid.stride for name, grid in model.geometry.items()} == dict.fromkeys(TASKS, (1, 1))
    assert list(model.heads) == list(TASKS)


def test_one_number_of_classes_gives_a_model_with_one_head() -> None:
    model = build_model("fcn16s_resnet18_quarter", 5).eval()
    assert isinstance(model, FCN)
    assert "head.score.32.weight" in model.state_dict()
    assert isinstance(model(torch.zeros(1, 3, 8, 8)), Tensor)


def test_staged_growth_adds_a_skip_to_every_head_and_changes_no_more_than_rounding() -> None:
    model = two_heads("fcn32s_resnet18_quarter")
    grown = model.grow(16).grow(8)
    assert {name: head.strides for name, head in grown.heads.items()} == dict.fromkeys(TASKS, (32, 16, 8))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, logits in grown(image).items():
            assert_close(logits, model(image)[name], varying=(2, 3))
    assert not grown.training
    assert not grown.head.training
    with pytest.raises(ValueError, match=r"stride=32: a model with strides=\(32,\) grows by a finer stride"):
        model.grow(32)


def test_both_heads_train_the_backbone() -> None:
    model = two_heads()
    for name in TASKS:
        model.zero_grad()
        model(torch.randn(1, 3, 32, 32))[name].square().mean().backward()
        assert model.backbone.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_errors_name_argument_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match="a model has at least one head; give its name and number of classes"):
        build_model("fcn8s_resnet18_quarter", {})
    for name in ("", "two words", "a.b", "keys", "training", "0"):
        with pytest.raises(ValueError, match="cannot name a head: it becomes part of the keys"):
            build_model("fcn8s_resnet18_quarter", {name: 2})
    with pytest.raises(ValueError, match=r"num_classes={'a': 2}: a model with PlainHead has one head only"):
        build_model("plain_resnet18_quarter", {"a": 2})
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        build_model("fcn8s_resnet18_quarter", {"a": 0})
    with pytest.raises(ValueError, match=r"x of shape \(3, 8, 8\) must be \(N, 3, H, W\)"):
        two_heads()(torch.zeros(3, 8, 8))


# ---- late fusion -----------------------------------------------------------------------------------------------------


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.backbones.fusion.vgg", lambda name, **options: thin_vgg16(**options))


def test_score_layer_over_both_backbones_averages_their_scores(thin: None) -> None:
    torch.manual_seed(0)
    model = build_model("fcn32s_vgg16_late", 4, in_channels=6, padding="paper", upsampling="frozen").eval()
    random_scores(model)
    assert isinstance(model.backbone, LateFusion)
    singles = []
    for index in range(2):
        backbone = model.backbone.streams[index]
        head = SkipHead(backbone.channels, 4, backbone.geometry, (32,), upsampling="frozen", padding="paper")
        head.score["32"].weight.data = 2 * model.head.score["32"].weight[:, index * FC : (index + 1) * FC].data
        head.score["32"].bias.data = model.head.score["32"].bias.data.clone()
        singles.append(FCN(backbone, head).eval())
    image = torch.randn(1, 6, 40, 50) * 50
    with torch.no_grad():
        expected = (singles[0](image[:, :3]) + singles[1](image[:, 3:])) / 2
        assert_close(model(image), expected, varying=(2, 3))


def test_backbones_see_their_own_channels_and_give_features_one_behind_the_other(thin: None) -> None:
    backbone = vgg16_late().eval()
    assert backbone.channels == {stride: 2 * count for stride, count in thin_vgg16().channels.items()}
    image = torch.randn(1, 6, 40, 50)
    with torch.no_grad():
        both = backbone(image)
        for index, half in enumerate((image[:, :3], image[:, 3:])):
            for stride, features in backbone.streams[index](half).items():
                assert_close(both[stride].chunk(2, dim=1)[index], features)
    assert both.size == (40, 50)
    assert backbone.geometry == backbone.streams[0].geometry


@pytest.mark.parametrize(("channels", "split"), [(6, [3, 3]), (4, [3, 1]), (3, [2, 1]), (2, [1, 1])])
def test_first_three_channels_are_the_first_backbone(channels: int, split: list[int], thin: None) -> None:
    assert [stream.in_channels for stream in vgg16_late(in_channels=channels).streams] == split


def test_both_backbones_start_from_one_classifier(thin: None) -> None:
    donor = thin_vgg16()
    classifier = dict(donor.state_dict())
    backbone = vgg16_late(in_channels=4)
    load_report = backbone.load_classifier(classifier)
    for stream in backbone.streams:
        assert torch.equal(stream.classifier[0].weight, donor.classifier[0].weight)
    first = classifier["features.0.weight"]
    assert torch.equal(backbone.streams[0].features[0].weight, first)
    # a single channel is answered as a gray image was
    assert_close(backbone.streams[1].features[0].weight, first.sum(1, keepdim=True))
    assert load_report.adapted == ("features.0.weight",)
    assert len(load_report.copied) == len(classifier) - 1


def test_late_fusion_errors_name_argument_rule_and_remedy(thin: None) -> None:
    with pytest.raises(ValueError, match=r"in_channels=1: late fusion has two backbones.*pass in_channels=6"):
        vgg16_late(in_channels=1)
    with pytest.raises(ValueError, match=r"backbone='vgg16_late' takes \(N, 6, H, W\)"):
        vgg16_late()(torch.zeros(1, 3, 32, 32))

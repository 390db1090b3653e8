from __future__ import annotations

import copy
import sys
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from closeness import assert_close
from fullyconv.backbones import BACKBONES, Backbone, build_backbone
from fullyconv.backbones.base import LoadReport
from fullyconv.backbones.resnet import narrow_classifier
from fullyconv.backbones.vgg import vgg
from fullyconv.errors import WeightsError

CHANNELS = {
    "vgg11_quarter": {4: 32, 8: 64, 16: 128, 32: 128},
    "vgg16": {4: 128, 8: 256, 16: 512, 32: 4096},
    "vgg16_bn": {4: 128, 8: 256, 16: 512, 32: 4096},
    "vgg16_late": {4: 256, 8: 512, 16: 1024, 32: 8192},
    "vgg19": {4: 128, 8: 256, 16: 512, 32: 4096},
    "vgg19_bn": {4: 128, 8: 256, 16: 512, 32: 4096},
    "alexnet": {8: 64, 16: 192, 32: 4096},
    "caffenet": {8: 96, 16: 256, 32: 4096},
    "googlenet": {8: 480, 16: 832, 32: 1024},
    "resnet18": {4: 64, 8: 128, 16: 256, 32: 512},
    "resnet18_half": {4: 32, 8: 64, 16: 128, 32: 256},
    "resnet18_quarter": {4: 16, 8: 32, 16: 64, 32: 128},
    "resnet18_slim": {4: 32, 8: 64, 16: 128, 32: 128},
    "resnet34": {4: 64, 8: 128, 16: 256, 32: 512},
    "resnet50": {4: 256, 8: 512, 16: 1024, 32: 2048},
    "resnet101": {4: 256, 8: 512, 16: 1024, 32: 2048},
    "mobilenet_v3_small": {4: 16, 8: 24, 16: 48, 32: 576},
    "mobilenet_v3_large": {4: 24, 8: 40, 16: 112, 32: 960},
    "efficientnet_lite0": {4: 24, 8: 40, 16: 112, 32: 320},
    "efficientnet_lite1": {4: 24, 8: 40, 16: 112, 32: 320},
    "efficientnet_lite2": {4: 24, 8: 48, 16: 120, 32: 352},
    "resnet50_dilated": {4: 256, 8: 2048},
    "resnet101_dilated": {4: 256, 8: 2048},
    "mobilenet_v3_large_dilated": {4: 24, 8: 40, 16: 960},
}
TIMM = {
    "timm/resnet18": {4: 64, 8: 128, 16: 256, 32: 512},
    "timm/convnext_atto": {4: 40, 8: 80, 16: 160, 32: 320},
    "timm/tf_efficientnet_b0": {4: 24, 8: 40, 16: 112, 32: 320},
    "timm/regnety_002": {4: 24, 8: 56, 16: 152, 32: 368},
    "timm/densenet121": {4: 256, 8: 512, 16: 1024, 32: 1024},
    "timm/mobilenetv3_small_100": {4: 16, 8: 24, 16: 48, 32: 576},
}


def on_meta(name: str, **options: object) -> Backbone:
    """The backbone's structure without its weights: nothing is drawn and nothing allocated."""
    try:
        with torch.device("meta"):
            return build_backbone(name, **options).eval()
    except ValueError:  # a constructor that reads values back, or an operation that older torch lacks there
        return build_backbone(name, **options).eval().to("meta")


@cache
def shared(name: str, padding: str = "same") -> Backbone:
    """One backbone on meta for all tests that leave it as it is."""
    return on_meta(name, padding=padding)


# --- strides, channels, sizes -----------------------------------------------------------------------------------------


def test_every_backbone_is_in_the_table_of_channels() -> None:
    assert set(BACKBONES) == set(CHANNELS)


@pytest.mark.parametrize("name", CHANNELS)
def test_features_have_the_stated_strides_and_channels_at_an_odd_size(name: str) -> None:
    backbone = shared(name)
    features = backbone(torch.empty(2, 3, 97, 141, device="meta"))
    assert backbone.channels == CHANNELS[name]
    assert list(features) == list(backbone.channels)
    assert {stride: map.shape[1] for stride, map in features.items()} == CHANNELS[name]
    assert features.size == (97, 141)


@pytest.mark.parametrize("name", CHANNELS)
def test_no_pixel_lies_far_outside_the_cells(name: str) -> None:
    backbone = shared(name)
    for size in (97, 100, 225):
        for stride, map in backbone(torch.empty(1, 3, size, size, device="meta")).items():
            first = backbone.geometry[stride].center[0]
            last = first + stride * (map.shape[2] - 1)
            # at most a stride; the unpadded poolings of AlexNet and CaffeNet leave a little more in their fine maps
            most = stride if stride == 32 else 1.5 * stride
            assert 0 <= first < most
            assert last > size - 1 - most, f"stride {stride}: no cell near the last of {size} pixels"


@pytest.mark.parametrize("padding", ["same", "paper"])
@pytest.mark.parametrize("name", CHANNELS)
def test_the_smallest_image_is_served_and_a_smaller_one_refused(
    name: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = name.startswith(("vgg", "alexnet", "caffenet", "googlenet"))
    if padding == "paper" and not paper:
        with pytest.raises(ValueError, match=r"padding='paper'.*VGG, AlexNet, CaffeNet and GoogLeNet have it"):
            build_backbone(name, padding=padding)
        return
    backbone = shared(name, padding)
    size = backbone.min_size
    assert size == (1 if padding == "paper" else {"alexnet": 35, "caffenet": 39, "googlenet": 15}.get(name, 1))
    assert all(min(map.shape) >= 1 for map in backbone(torch.empty(1, 3, size, size, device="meta")).values())
    if size > 1:
        with pytest.raises(ValueError, match=rf"{size} x {size - 1} pixels.*needs {size} x {size}.*Pad the image"):
            backbone(torch.empty(1, 3, size, size - 1, device="meta"))
        monkeypatch.setattr(backbone, "min_size", 1)  # the bound is no higher than need be
        with pytest.raises(RuntimeError):
            backbone(torch.empty(1, 3, size - 1, size - 1, device="meta"))


FIRST = [
    "vgg16",
    "vgg16_late",
    "alexnet",
    "caffenet",
    "googlenet",
    "resnet18_quarter",
    "resnet50",
    "mobilenet_v3_small",
]


@pytest.mark.parametrize("name", [*FIRST, "timm/convnext_atto", "timm/tf_efficientnet_b0"])
def test_first_convolution_takes_other_channels(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    backbone = on_meta(name, in_channels=5)
    assert backbone.in_channels == 5
    backbone(torch.empty(1, 5, 64, 64, device="meta"))
    with pytest.raises(ValueError, match=r"takes \(N, 5, H, W\)"):
        backbone(torch.empty(1, 3, 64, 64, device="meta"))


def test_new_first_convolution_is_drawn_at_the_scale_of_the_old_one() -> None:
    torch.manual_seed(0)
    gray = build_backbone("resnet18", in_channels=1)
    color = build_backbone("resnet18")
    assert gray.conv1.weight.std().item() / color.conv1.weight.std().item() == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="in_channels=0: an image has at least one channel"):
        build_backbone("resnet18", in_channels=0)


@pytest.mark.parametrize(
    ("name", "same", "paper"),
    [
        ("vgg16", {4: 1.5, 8: 3.5, 16: 7.5, 32: 15.5}, {4: -97.5, 8: -95.5, 16: -91.5, 32: 12.5}),
        ("alexnet", {8: 7, 16: 15, 32: 15}, {8: -91, 16: -83, 32: 13}),
        ("caffenet", {8: 9, 16: 17, 32: 17}, {8: -91, 16: -83, 32: 13}),
        ("googlenet", {8: 6, 16: 14, 32: 22}, {8: -91, 16: -83, 32: -75}),
        ("resnet18_half", {4: 0, 8: 0, 16: 0, 32: 0}, None),
        ("mobilenet_v3_large", {4: 0, 8: 0, 16: 0, 32: 0}, None),
        ("resnet50_dilated", {4: 0, 8: 0}, None),
        ("mobilenet_v3_large_dilated", {4: 0, 8: 0, 16: 0}, None),
    ],
)
def test_cells_lie_where_the_arithmetic_of_the_paper_puts_them(
    name: str, same: dict[int, float], paper: dict[int, float] | None
) -> None:
    for padding, centers in (("same", same), ("paper", paper)):
        if centers is not None:
            geometry = shared(name, padding).geometry
            assert {stride: g.center for stride, g in geometry.items()} == {s: (c, c) for s, c in centers.items()}
            assert {stride: g.stride for stride, g in geometry.items()} == {s: (s, s) for s in centers}


# --- the same answers as the classifier -------------------------------------------------------------------------------


def calibrate(model: nn.Module, size: int) -> None:
    """Let every batch norm know its true statistics; without them the scores hardly depend on the image."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(4, 3, size, size))
    model.eval()


def test_every_fourth_cell_of_the_dilated_resnet_is_a_cell_of_the_strided_one() -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.resnet50(num_classes=1)
    calibrate(classifier, 64)
    strided, dilated = (on_meta(name).to_empty(device="cpu") for name in ("resnet50", "resnet50_dilated"))
    for backbone in (strided, dilated):
        load_report = backbone.load_classifier(classifier.state_dict())  # an ordinary classifier's weights
        assert load_report.unused == ("fc.weight", "fc.bias")
        assert load_report.reinitialized == ()
    image = torch.randn(1, 3, 97, 70)
    with torch.no_grad():
        coarse, fine = strided(image), dilated(image)
    assert_close(fine[4], coarse[4])
    assert fine[8].shape == (1, 2048, 13, 9)
    assert_close(fine[8][..., ::4, ::4], coarse[32], varying=(2, 3))


def test_dilated_mobilenet_takes_the_classifiers_weights_and_gives_the_maps_of_torchvisions_segmenters() -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.mobilenet_v3_large(num_classes=1)
    calibrate(classifier, 64)
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    backbone = {k.removeprefix("features."): v for k, v in classifier.state_dict().items() if k.startswith("features.")}
    theirs.backbone.load_state_dict(backbone)
    ours = build_backbone("mobilenet_v3_large_dilated").eval()
    assert all(key.startswith("classifier.") for key in ours.load_classifier(classifier.state_dict()).unused)
    image = torch.randn(1, 3, 97, 70)
    with torch.no_grad():
        maps, features = theirs.backbone(image), ours(image)
    assert_close(features[16], maps["high"], varying=(2, 3))
    assert_close(features[8], maps["low"], varying=(2, 3))


@pytest.mark.parametrize(
    ("name", "own"),
    [("alexnet", 2), ("caffenet", 0), ("googlenet", 3), pytest.param("vgg16", 1, marks=pytest.mark.slow)],
)
def test_paper_padding_is_same_padding_of_an_image_in_a_black_frame(name: str, own: int) -> None:
    torch.manual_seed(0)
    same = build_backbone(name).eval()
    paper = on_meta(name, padding="paper")
    paper.load_state_dict(same.state_dict(), assign=True)
    image = torch.randn(1, 3, 30, 41)
    with torch.no_grad():
        features = paper(image)
        framed = same(F.pad(image, (100 - own,) * 4))
    assert features.size == (30, 41)
    for stride, map in features.items():
        wide = framed[stride]
        if stride == 32 and name != "googlenet":
            wide = wide[:, :, 3:-3, 3:-3]  # where the kernel of fc6 lies within pool5
        assert_close(map, wide, varying=(2, 3))


def test_caffenet_is_the_reference_network() -> None:
    backbone = shared("caffenet", "paper")
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items() if key.endswith("weight")}
    assert shapes == {
        "conv1.weight": (96, 3, 11, 11),
        "conv2.weight": (256, 48, 5, 5),
        "conv3.weight": (384, 256, 3, 3),
        "conv4.weight": (384, 192, 3, 3),
        "conv5.weight": (256, 192, 3, 3),
        "fc6.weight": (4096, 256, 6, 6),
        "fc7.weight": (4096, 4096, 1, 1),
    }
    assert sum(parameter.numel() for parameter in backbone.parameters()) + 21 * 4097 == pytest.approx(56.95e6, rel=1e-4)
    features = backbone(torch.empty(1, 3, 500, 500, device="meta"))
    assert [tuple(map.shape[2:]) for map in features.values()] == [(86, 86), (43, 43), (16, 16)]
    # Caffe's normalization across channels: the sum of squares is divided by the number of channels summed
    pooled = torch.rand(1, 96, 4, 4)
    squares = F.pad(pooled**2, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    assert_close(backbone.norm1(pooled), pooled / (1 + 1e-4 / 5 * squares) ** 0.75)


# --- names and weights ------------------------------------------------------------------------------------------------


def test_key_names_of_vgg16_are_torchvisions() -> None:
    layers = [f"features.{index}" for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    layers += ["classifier.0", "classifier.3"]
    state = shared("vgg16").state_dict()
    assert list(state) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert state["classifier.0.weight"].shape == (4096, 512, 7, 7)
    assert state["classifier.3.weight"].shape == (4096, 4096, 1, 1)


def test_key_names_of_resnets_are_torchvisions() -> None:
    keys = list(torchvision.models.resnet18().state_dict())
    assert keys[-2:] == ["fc.weight", "fc.bias"]
    assert list(shared("resnet18").state_dict()) == keys[:-2]
    assert list(shared("resnet18_half").state_dict()) == keys[:-2]
    assert list(narrow_classifier("resnet18_half").state_dict()) == keys


def test_the_full_width_of_our_resnet18_is_torchvisions() -> None:
    from fullyconv.backbones.resnet import ResNet18

    torch.manual_seed(0)
    theirs, ours = torchvision.models.resnet18(num_classes=5), ResNet18(64, num_classes=5)
    calibrate(theirs, 64)
    ours.eval().load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(ours(image), theirs(image), varying=(0,))


def test_misfits_are_named_and_nothing_is_changed() -> None:
    backbone = build_backbone("resnet18_half")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    weights = narrow_classifier("resnet18_half").state_dict()
    del weights["bn1.bias"]
    weights["conv1.weight"] = weights["conv1.weight"][:, :1]
    weights["layer9.weight"] = torch.zeros(1)
    with pytest.raises(
        WeightsError,
        match=r"backbone='resnet18_half', nothing was changed: 1 missing: bn1.bias; 1 unknown: layer9.weight; "
        r"1 of another shape: conv1.weight \(32, 1, 7, 7\) for \(32, 3, 7, 7\)\. Pass the state_dict",
    ):
        backbone.load_classifier(weights)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_weights_of_a_deeper_relative_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"96 unknown: layer1.2.conv1.weight.* and 90 more"):
        build_backbone("resnet18").load_classifier(torchvision.models.resnet34().state_dict())


@pytest.mark.parametrize("in_channels", [1, 2, 4, 6])
def test_color_weights_are_adapted_to_other_channels(in_channels: int) -> None:
    backbone = build_backbone("resnet18_half", in_channels=in_channels)
    weights = narrow_classifier("resnet18_half").state_dict()
    load_report = backbone.load_classifier(weights)
    assert load_report.adapted == ("conv1.weight",)
    assert load_report.unused == ("fc.weight", "fc.bias")
    assert load_report.reinitialized == ()
    assert len(load_report.copied) == len(backbone.state_dict()) - 1
    colors = weights["conv1.weight"]
    if in_channels < 3:
        expected = colors.sum(1, keepdim=True).expand(-1, in_channels, -1, -1) / in_channels
    else:
        expected = torch.cat([colors, *[colors.mean(1, keepdim=True)] * (in_channels - 3)], 1)
    assert_close(backbone.conv1.weight, expected)


def test_layers_declared_absent_start_anew_and_no_other_may_lack() -> None:
    backbone = build_backbone("resnet18_half")
    weights = {
        k: v for k, v in narrow_classifier("resnet18_half").state_dict().items() if not k.startswith("layer4.1.")
    }
    with pytest.raises(WeightsError, match=r"10 missing: layer4.1.conv1.weight"):
        backbone.load_classifier(weights)
    before = backbone.layer4[1].conv1.weight.clone()
    load_report = backbone.load_classifier(weights, absent=("layer4.1.",))
    assert len(load_report.reinitialized) == 12
    assert torch.equal(backbone.layer4[1].conv1.weight, before)


def test_files_from_before_the_batch_counter_are_complete() -> None:
    weights = {k: v for k, v in narrow_classifier("resnet18_half").state_dict().items() if "num_batches" not in k}
    load_report = build_backbone("resnet18_half").load_classifier(weights)
    assert len(load_report.reinitialized) == 20
    assert all(key.endswith("num_batches_tracked") for key in load_report.reinitialized)


def test_load_report_is_a_table() -> None:
    load_report = LoadReport(("a",), reinitialized=tuple(f"l{i}" for i in range(8)), unused=("fc.weight", "fc.bias"))
    assert load_report.table().splitlines() == [
        "copied             1  a",
        "reshaped           0",
        "adapted            0",
        "re-initialized     8  l0, l1, l2, l3, l4, l5 and 2 more",
        "unused             2  fc.weight, fc.bias",
    ]


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"name='vgg61' is not a backbone. Did you mean vgg1[69]\? Choices: alexnet"):
        build_backbone("vgg61")
    with pytest.raises(ValueError, match="padding='valid' is neither 'same'"):
        build_backbone("vgg16", padding="valid")


# --- switches ---------------------------------------------------------------------------------------------------------


def test_switches_put_every_maximum_back_in_its_place_at_odd_sizes() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = vgg("vgg16_bn", fc=False, switches=True)
        plain = vgg("vgg16_bn", fc=False)
    backbone = backbone.to_empty(device="cpu")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    plain.load_state_dict(backbone.state_dict(), assign=True)
    backbone.eval(), plain.eval()
    image = torch.randn(1, 3, 45, 61)
    with torch.no_grad():
        features = backbone(image)
        without = plain(image)
    assert backbone.channels[32] == 512
    assert {stride: switch.size for stride, switch in features.switches.items()} == {
        2: (45, 61),
        4: (23, 31),
        8: (12, 16),
        16: (6, 8),
        32: (3, 4),
    }
    assert without.switches == {}
    for stride, map in features.items():
        assert_close(map, without[stride])
        positions, size = features.switches[stride]
        unpooled = F.max_unpool2d(map, positions, 2, output_size=size)
        assert unpooled.shape[2:] == size
        assert torch.equal(F.max_pool2d(unpooled, 2, ceil_mode=True), map)


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM)
def test_timm_features_have_the_strides_and_channels_timm_states(name: str) -> None:
    pytest.importorskip("timm")
    backbone = shared(name)
    features = backbone(torch.empty(1, 3, 96, 128, device="meta"))
    assert backbone.channels == TIMM[name] == {stride: map.shape[1] for stride, map in features.items()}
    assert all(map.shape[2:] == (96 // stride, 128 // stride) for stride, map in features.items())
    assert backbone.size_divisor == 32


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnety_002"])
def test_timm_features_are_those_of_timms_classifier(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    classifier = timm.create_model(name, pretrained=False, num_classes=7)
    calibrate(classifier, 64)
    backbone = build_backbone(f"timm/{name}").eval()
    load_report = backbone.load_classifier(classifier.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        own = timm.create_model(name, pretrained=False, features_only=True).eval()
        own.load_state_dict({key.removeprefix("trunk."): value for key, value in backbone.state_dict().items()})
        expected = own(images)[-4:]
        features = backbone(images)
        assert_close(features[32], classifier.forward_features(images), varying=(0,))
    for map, theirs in zip(features.values(), expected, strict=True):
        assert_close(map, theirs, varying=(0,))
    assert all(key.startswith(("fc.", "head.")) for key in load_report.unused)
    assert len(load_report.copied) == len(backbone.state_dict())
    with pytest.raises(WeightsError, match="unknown"):
        backbone.load_classifier({**classifier.state_dict(), "stages.9.weight": torch.zeros(1)})


def test_timm_transformers_with_maps_last_are_turned_and_run_at_any_multiple() -> None:
    timm = pytest.importorskip("timm")
    backbone = build_backbone("timm/swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert {stride: tuple(map.shape) for stride, map in features.items()} == {
        4: (1, 96, 16, 24),
        8: (1, 192, 8, 12),
        16: (1, 384, 4, 6),
        32: (1, 768, 2, 3),
    }
    load_report = backbone.load_classifier(timm.create_model("swin_tiny_patch4_window7_224").state_dict())
    assert len(load_report.copied) == len(backbone.state_dict())


def test_timm_without_maps_or_of_one_size_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"runs only on images of 224 x 224 pixels. Choose a convolutional network"):
        build_backbone("timm/mixer_b16_224")
    with pytest.raises(ValueError, match=r"'timm/resnet-50': timm has no such model. Did you mean resnet50"):
        build_backbone("timm/resnet-50")
    with pytest.raises(ValueError, match="padding='paper': backbone='timm/resnet18' is not in the paper"):
        build_backbone("timm/resnet18", padding="paper")


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"'timm/resnet18' needs timm: pip install 'fullyconv\[timm\]'"):
        build_backbone("timm/resnet18")


# --- alignment --------------------------------------------------------------------------------------------------------

NEUTRAL = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.GELU,
    nn.Dropout,
)
GATES = {"SqueezeExcitation", "SqueezeExcite", "SEModule"}


def first_axis_mean(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].mean(-1 if isinstance(module, nn.Linear) else 1, keepdim=True),)


def linearized(module: nn.Module) -> nn.Module:
    """The same network with positive equal weights, average for max pooling, and nothing that is not linear.

    With equal weights all channels are equal, so that one of them is enough; the geometry is untouched.
    """
    for name, child in module.named_children():
        if isinstance(child, NEUTRAL) or type(child).__name__ in GATES or "activations" in type(child).__module__:
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            average = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
            setattr(module, name, average)
        else:
            if isinstance(child, nn.Conv2d | nn.Linear):
                kernel = child.weight.shape[2:]
                child.groups = child.in_channels = child.out_channels = 1
                child.weight = nn.Parameter(torch.full((1, 1, *kernel), 1 / kernel.numel(), dtype=torch.float64))
                child.bias = None
                child.register_forward_pre_hook(first_axis_mean)
            for key, parameter in child.named_parameters(recurse=False):
                if parameter.is_meta:  # the scale of a residual layer
                    setattr(child, key, nn.Parameter(torch.ones(1, dtype=torch.float64)))
            linearized(child)
    return module


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        *[(name, "same") for name in [*CHANNELS, *TIMM] if name != "timm/densenet121"],
        *[(name, "paper") for name in ("vgg16", "alexnet", "caffenet", "googlenet")],
        pytest.param("timm/densenet121", "same", marks=pytest.mark.slow),  # a receptive field of 2071 pixels
    ],
)
def test_centroid_of_the_gradient_of_a_cell_is_its_measured_center(name: str, padding: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    geometry = shared(name, padding).geometry
    reach = max(g.receptive_field[0] for g in geometry.values())
    long = 32 * int(reach // 32 + 4)  # the receptive field of a cell in the middle lies within the image
    backbone = linearized(copy.deepcopy(shared(name, padding)))
    pixels = torch.arange(long, dtype=torch.float64)
    for axis in (0, 1):  # strips: what a cell sees along one axis is the same whatever it sees along the other
        size = (long, 64) if axis == 0 else (64, long)
        x = torch.ones(1, 3, *size, dtype=torch.float64, requires_grad=True)
        for stride, map in backbone(x).items():
            own = geometry[stride]
            cell = round((long / 2 - own.center[axis]) / stride)
            line = map.transpose(2, 2 + axis)[:, :, cell]
            (gradient,) = torch.autograd.grad(line[:, :, line.shape[2] // 2].sum(), x, retain_graph=True)
            weight = gradient.sum((0, 1, 3 - axis))
            seen = (weight > 0).nonzero().flatten()
            assert seen[0] > 0, "the receptive field is cut off"
            assert seen[-1] < long - 1, "the receptive field is cut off"
            assert seen[-1] - seen[0] + 1 == own.receptive_field[axis]
            centroid = float((weight @ pixels) / weight.sum())
            assert centroid == pytest.approx(own.center[axis] + stride * cell, abs=0.01)

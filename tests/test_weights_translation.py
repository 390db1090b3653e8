from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import fullyconv
from caffe_nets import FC, WIDTHS, thin_vgg16
from closeness import assert_close
from fullyconv.backbones import BACKBONES, Backbone, build_backbone
from fullyconv.backbones.alexnet import caffenet_classifier
from fullyconv.backbones.resnet import narrow_classifier
from fullyconv.backbones.vgg import vgg11_quarter_classifier
from fullyconv.errors import WeightsError
from fullyconv.preprocessing import CAFFE, IMAGENET, Preprocessing
from fullyconv.weights import translation
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.classifiers import (
    CAFFE_VGG,
    INCEPTION,
    ClassifierWeights,
    apply,
    preprocessing_from_timm,
    preprocessing_from_torchvision,
    preprocessing_of,
    torchvision_weights,
)
from fullyconv.weights.translation import Scheme, canonical, fitting, scheme_of, translate

models = torchvision.models


def timm_classifier(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, pretrained=False, num_classes=7, **options)


def drawn(build: Callable[[], nn.Module], size: int, gain: float = 1.0) -> nn.Module:
    """A classifier at random weights, quickly: nothing is drawn that is drawn again; no two layers are alike.

    The statistics of its batch norms are those of noise, so that the scores depend on the image. A small gain makes
    variances small, so that the epsilon of the batch norms counts.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu")
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            with torch.no_grad():
                if tensor.ndim > 1:
                    tensor.uniform_(-1, 1).mul_(gain * (6 / tensor[0].numel()) ** 0.5)
                elif name == "weight" or name == "gamma":
                    tensor.uniform_(0.5, 1.5)
                else:
                    tensor.uniform_(-0.1, 0.1)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
            module.momentum = 1.0
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def empty(name: str, **options: Any) -> Backbone:
    """A backbone that holds nothing yet: all it will answer with comes from the weights."""
    with torch.device("meta"):
        backbone = build_backbone(name, **options)
    return backbone.to_empty(device="cpu").eval()


def same_scores(
    classifier: nn.Module, backbone: Backbone, head: Callable[[nn.Module, Tensor], Tensor], size: int
) -> None:
    torch.manual_seed(1)
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected = classifier(images)
        scores = head(classifier, backbone(images)[max(backbone.channels)])
    assert_close(scores, expected, varying=(0,))


def middle(score: nn.Module, map: Tensor) -> Tensor:
    assert isinstance(score, nn.Linear)
    scores = F.conv2d(map, score.weight[:, :, None, None], score.bias)
    return scores[:, :, scores.shape[2] // 2, scores.shape[3] // 2]


def fc7(classifier: nn.Module, map: Tensor) -> Tensor:
    return middle(classifier.classifier[6], map)


def fc(classifier: nn.Module, map: Tensor) -> Tensor:
    return classifier.fc(map.mean((2, 3)))


def pooled(classifier: nn.Module, map: Tensor) -> Tensor:
    return classifier.classifier(map.mean((2, 3)))


def timm_head(classifier: nn.Module, map: Tensor) -> Tensor:
    return classifier.forward_head(map)


def lite_head(classifier: nn.Module, map: Tensor) -> Tensor:
    map = classifier.act(classifier.bn2(classifier.conv_head(map)))
    return classifier.classifier(map.mean((2, 3)))


Case = tuple[str, int, Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]
CASES: dict[str, Case] = {
    # torchvision's classifiers (and our own two) into the backbones named after them
    "vgg16": ("vgg16", 224, lambda: models.vgg16(num_classes=7), fc7),
    "vgg11_quarter": ("vgg11_quarter", 224, lambda: vgg11_quarter_classifier(7), fc7),
    "vgg16_bn": ("vgg16_bn", 224, lambda: models.vgg16_bn(num_classes=7), fc7),
    "vgg19": ("vgg19", 224, lambda: models.vgg19(num_classes=7), fc7),
    "vgg19_bn": ("vgg19_bn", 224, lambda: models.vgg19_bn(num_classes=7), fc7),
    "alexnet": ("alexnet", 224, lambda: models.alexnet(num_classes=7), fc7),
    "caffenet": ("caffenet", 227, lambda: caffenet_classifier(7), lambda c, f: middle(c.fc8, f)),
    "googlenet": ("googlenet", 96, lambda: models.googlenet(num_classes=7, init_weights=False, aux_logits=False), fc),
    "resnet18": ("resnet18", 96, lambda: models.resnet18(num_classes=7), fc),
    "resnet18_half": ("resnet18_half", 96, lambda: narrow_classifier("resnet18_half", 7), fc),
    "resnet18_quarter": ("resnet18_quarter", 96, lambda: narrow_classifier("resnet18_quarter", 7), fc),
    "resnet18_slim": ("resnet18_slim", 96, lambda: narrow_classifier("resnet18_slim", 7), fc),
    "resnet34": ("resnet34", 96, lambda: models.resnet34(num_classes=7), fc),
    "resnet50": ("resnet50", 96, lambda: models.resnet50(num_classes=7), fc),
    "resnet101": ("resnet101", 96, lambda: models.resnet101(num_classes=7), fc),
    **{
        f"efficientnet_lite{n}": (
            f"efficientnet_lite{n}",
            96,
            partial(build_classifier, f"efficientnet_lite{n}", 7),
            lite_head,
        )
        for n in range(3)
    },
    "resnet50_dilated": (
        "resnet50_dilated",
        96,
        lambda: models.resnet50(num_classes=7, replace_stride_with_dilation=[False, True, True]),
        fc,
    ),
    "resnet101_dilated": (
        "resnet101_dilated",
        96,
        lambda: models.resnet101(num_classes=7, replace_stride_with_dilation=[False, True, True]),
        fc,
    ),
    "mobilenet_v3_small": ("mobilenet_v3_small", 96, lambda: models.mobilenet_v3_small(num_classes=7), pooled),
    "mobilenet_v3_large": ("mobilenet_v3_large", 96, lambda: models.mobilenet_v3_large(num_classes=7), pooled),
    "mobilenet_v3_large_dilated": (
        "mobilenet_v3_large_dilated",
        96,
        lambda: models.mobilenet_v3_large(num_classes=7, dilated=True),
        pooled,
    ),
    # timm's into those of torchvision's names
    **{
        f"{name} of timm": (
            name,
            224,
            lambda name=name: timm_classifier(name),
            lambda c, f: middle(c.head.fc, f),
        )
        for name in ("vgg16", "vgg16_bn", "vgg19", "vgg19_bn")
    },
    **{
        f"{name} of timm": (name, 96, lambda name=name: timm_classifier(name), fc)
        for name in ("resnet18", "resnet34", "resnet50", "resnet101")
    },
    **{
        f"{name} of timm": (
            name,
            96,
            lambda theirs=theirs: timm_classifier(theirs),
            timm_head,
        )
        for name, theirs in (
            ("mobilenet_v3_small", "mobilenetv3_small_100"),
            ("mobilenet_v3_large", "mobilenetv3_large_100"),
        )
    },
    # timm's into timm's backbones
    **{
        f"timm/{name}": (f"timm/{name}", size, lambda name=name: timm_classifier(name), timm_head)
        for name, size in (
            ("resnet18", 96),
            ("resnet50", 96),
            ("vgg16", 224),
            ("mobilenetv3_small_100", 96),
            ("convnext_atto", 96),
            ("convnext_tiny", 96),
            ("densenet121", 96),
        )
    },
    "timm/efficientnet_b0": (
        "timm/efficientnet_b0",
        96,
        lambda: timm_classifier("efficientnet_b0"),
        lambda c, f: c.forward_head(c.bn2(c.conv_head(f))),
    ),
    # torchvision's into timm's backbones
    "timm/resnet50 of torchvision": ("timm/resnet50", 96, lambda: models.resnet50(num_classes=7), fc),
    "timm/densenet121 of torchvision": ("timm/densenet121", 96, lambda: models.densenet121(num_classes=7), pooled),
    "timm/vgg16 of torchvision": (
        "timm/vgg16",
        224,
        lambda: models.vgg16(num_classes=7),
        lambda c, f: c.classifier(c.avgpool(f).flatten(1)),
    ),
    "timm/mobilenetv3_small_100 of torchvision": (
        "timm/mobilenetv3_small_100",
        96,
        lambda: models.mobilenet_v3_small(num_classes=7),
        pooled,
    ),
    "timm/mobilenetv3_large_100 of torchvision": (
        "timm/mobilenetv3_large_100",
        96,
        lambda: models.mobilenet_v3_large(num_classes=7),
        pooled,
    ),
}
SLOW = (  # relatives are quick
    "vgg", "timm/vgg", "resnet34", "resnet50_dilated", "resnet101", "efficientnet_lite1", "efficientnet_lite2",
    "timm/convnext_tiny", "timm/densenet121 of", "timm/resnet50 of",
)  # fmt: skip


def test_every_backbone_has_a_case() -> None:
    assert {name for name in BACKBONES if not name.endswith("_late")} <= {case[0] for case in CASES.values()}


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * c.startswith(SLOW)) for c in CASES])
def test_the_classifiers_own_head_on_the_features_gives_its_scores(case: str) -> None:
    name, size, build, head = CASES[case]
    classifier = drawn(build, min(size, 96), gain=0.3 if "mobilenet" in name else 1.0)
    tensors = classifier.state_dict()
    backbone = empty(name)
    load_report = apply(backbone, ClassifierWeights(tensors))
    taken = {*load_report.copied, *load_report.reshaped, *load_report.adapted}
    assert load_report.reinitialized == ()
    assert len(taken) == len(backbone.state_dict())
    assert taken | set(load_report.unused) == set(tensors), (
        "every tensor of the file is accounted for, under its own name"
    )
    assert backbone.load_report is load_report
    expected = CAFFE if name == "caffenet" else preprocessing_of(name)
    assert backbone.preprocessing == expected, "Caffe's names say what is expected, and timm the numbers of its own"
    same_scores(classifier, backbone, head, size)


# --- batch norms of another epsilon -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mobilenet_v3_small", lambda: timm_classifier("mobilenetv3_small_100")),
        ("timm/mobilenetv3_small_100", lambda: models.mobilenet_v3_small(num_classes=7)),
    ],
)
def test_another_epsilon_would_be_seen_and_is_made_good(
    name: str, build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = timm_head if "timm" not in name else pooled
    classifier = drawn(build, 96, gain=0.1)
    backbone = empty(name)
    load_report = apply(backbone, ClassifierWeights(classifier.state_dict()))
    norms = [n for n, module in classifier.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(load_report.adapted) == {f"{norm}.weight" for norm in norms}
    same_scores(classifier, backbone, head, 96)
    monkeypatch.setattr(translation, "MOBILENET_V3_EPSILON", {"torchvision": 1e-3, "timm": 1e-3})
    apply(backbone, ClassifierWeights(classifier.state_dict()))
    with pytest.raises(AssertionError):
        same_scores(classifier, backbone, head, 96)


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_table_of_mobilenet_is_that_of_the_installed_libraries(size: str) -> None:
    with torch.device("meta"):
        theirs = timm_classifier(f"mobilenetv3_{size}_100")
        ours = models.get_model(f"mobilenet_v3_{size}", num_classes=7)
    for model, owner in ((theirs, "timm"), (ours, "torchvision")):
        epsilons = {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
        assert epsilons == {translation.MOBILENET_V3_EPSILON[owner]}
    table = translation._mobilenet_v3(f"mobilenet_v3_{size}")
    layers = {key.rpartition(".")[0] for key in theirs.state_dict()}
    assert set(table) == layers
    assert set(table.values()) == {key.rpartition(".")[0] for key in ours.state_dict()}


def test_the_weights_carry_the_difference_not_the_variances() -> None:
    tensors = drawn(lambda: timm_classifier("mobilenetv3_small_100"), 64, gain=0.01).state_dict()
    translated = translate("mobilenet_v3_small", tensors).tensors
    assert min(value.min() for key, value in translated.items() if key.endswith("running_var")) >= 0
    tensors["bn1.running_var"] = -tensors["bn1.running_var"]
    with pytest.raises(WeightsError, match=r"running_var' holds variances below 0; the file is damaged"):
        translate("mobilenet_v3_small", tensors)


# --- Caffe ------------------------------------------------------------------------------------------------------------

CAFFE_LAYERS = {
    "vgg16": "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1 5_2 5_3",
    "vgg19": "1_1 1_2 2_1 2_2 3_1 3_2 3_3 3_4 4_1 4_2 4_3 4_4 5_1 5_2 5_3 5_4",
}


def as_caffe(tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The same tensors under Caffe's names, which follow torchvision's order."""
    layers = [f"conv{place}" for place in CAFFE_LAYERS[network].split()] + ["fc6", "fc7", "fc8"]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    return dict(zip(names, tensors.values(), strict=True))


def thin_vgg16_classifier() -> nn.Module:
    """torchvision's VGG-16 with few channels."""
    a, b, c, d, e = WIDTHS
    layout = [a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", e, e, e, "M"]
    classifier = models.VGG(models.vgg.make_layers(layout), num_classes=7)
    for index, (inputs, outputs) in {0: (e * 49, FC), 3: (FC, FC), 6: (FC, 7)}.items():
        classifier.classifier[index] = nn.Linear(inputs, outputs)
    return classifier


@pytest.fixture
def vgg16(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A classifier and, in the registry, a backbone of few channels, whose names and axes are those of the whole."""
    monkeypatch.setitem(BACKBONES, "vgg16", thin_vgg16)
    return drawn(thin_vgg16_classifier, 32)


def test_caffes_vgg16_gives_the_same_scores_whatever_the_shape_of_fc6(vgg16: nn.Module) -> None:
    named = as_caffe(vgg16.state_dict(), "vgg16")
    backbone = empty("vgg16")
    load_report = apply(backbone, ClassifierWeights(named))
    assert load_report.reshaped == ("fc6.weight", "fc7.weight")
    assert load_report.unused == ("fc8.weight", "fc8.bias")
    assert backbone.preprocessing == CAFFE_VGG
    same_scores(vgg16, backbone, fc7, 224)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    kernels = {
        "fc6.weight": named["fc6.weight"].reshape(FC, WIDTHS[-1], 7, 7),
        "fc7.weight": named["fc7.weight"].reshape(FC, FC, 1, 1),
        "score_fr.weight": torch.zeros(21, FC, 1, 1),
        "upscore.weight": torch.zeros(21, 21, 64, 64),
    }
    load_report = apply(backbone, ClassifierWeights({**named, **kernels}))
    assert load_report.reshaped == ()
    assert load_report.unused == ("fc8.weight", "fc8.bias", "score_fr.weight", "upscore.weight")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    old = {  # Caffe before 2014: every blob has four axes
        "fc6.weight": named["fc6.weight"][None, None],
        "fc7.weight": named["fc7.weight"][None, None],
        "fc6.bias": named["fc6.bias"][None, None, None],
    }
    assert apply(backbone, ClassifierWeights({**named, **old})).reshaped == ("fc6.weight", "fc7.weight")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_our_own_dense_tensors_come_back_as_they_are(vgg16: nn.Module) -> None:
    first, second = empty("vgg16"), empty("vgg16")
    apply(first, ClassifierWeights(vgg16.state_dict()))
    own = first.state_dict()
    load_report = apply(
        second,
        ClassifierWeights({**{f"backbone.{k}": v for k, v in own.items()}, "head.score.32": own["features.0.bias"]}),
    )
    assert load_report.copied == tuple(f"backbone.{key}" for key in own)
    assert load_report.unused == ("head.score.32",)
    assert all(torch.equal(value, own[key]) for key, value in second.state_dict().items())


@pytest.mark.parametrize("network", CAFFE_LAYERS)
def test_caffes_names_of_vgg_are_numbered_as_torchvision_numbers_them(network: str) -> None:
    with torch.device("meta"):
        own = models.get_model(network).state_dict()
    for name in (network, f"timm/{network}"):
        translated = translate(name, as_caffe(own, network))
        assert translated.scheme == Scheme("caffe", "vgg")
        keys = list(own) if name == network else list(timm_keys(network))
        assert list(translated.tensors) == keys


def timm_keys(network: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return timm_classifier(network).state_dict()


def test_caffenets_weights_bring_their_preprocessing() -> None:
    backbone = empty("caffenet", in_channels=4)
    with torch.device("meta"):
        tensors = caffenet_classifier().state_dict()
    load_report = apply(backbone.to("meta"), ClassifierWeights(tensors))
    assert load_report.adapted == ("conv1.weight",)
    assert backbone.preprocessing == CAFFE.for_channels(4)
    assert backbone.preprocessing.channel_order == "bgr"
    assert backbone.preprocessing.mean[:3] == (104.00699, 116.66877, 122.67892)


def test_caffes_googlenet_and_vgg_without_batch_norm_are_refused() -> None:
    blank = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"cannot take Caffe's GoogLeNet: that one has no batch norm"):
        translate("googlenet", {"conv1/7x7_s2.weight": blank, "inception_3a/1x1.weight": blank})
    with pytest.raises(WeightsError, match=r"'vgg16_bn' has batch norm, Caffe's VGG has none; build 'vgg16'"):
        translate("vgg16_bn", {"conv1_1.weight": blank})


# --- other channels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "build"), [
    ("resnet18_half", lambda: narrow_classifier("resnet18_half", 7)),
    ("mobilenet_v3_small", lambda: timm_classifier("mobilenetv3_small_100")),
    ("timm/resnet18", lambda: timm_classifier("resnet18")),
    ("timm/convnext_atto", lambda: timm_classifier("convnext_atto")),
])  # fmt: skip
def test_other_channels_answer_a_gray_image_as_colors_do(name: str, build: Callable[[], nn.Module]) -> None:
    weights = ClassifierWeights(drawn(build, 64).state_dict(), preprocessing=IMAGENET)
    color = empty(name)
    apply(color, weights)
    torch.manual_seed(0)
    gray, noise = torch.randn(2, 1, 64, 64), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = color(gray.repeat(1, 3, 1, 1))
        for channels in (1, 2):
            few = empty(name, in_channels=channels)
            load_report = apply(few, weights)
            assert len(load_report.adapted) >= 1
            assert few.preprocessing == IMAGENET.for_channels(channels)
            for stride, map in few(gray.repeat(1, channels, 1, 1)).items():
                assert_close(map, expected[stride])
        expected = color(noise)
        for channels in (4, 6):
            more = empty(name, in_channels=channels)
            apply(more, weights)
            first = more(torch.cat([noise, torch.zeros(2, channels - 3, 64, 64)], 1))
            for stride, map in first.items():  # further channels that say nothing change nothing
                assert_close(map, expected[stride])
            extra = torch.randn(2, channels - 3, 64, 64)
            shared = extra.sum(1, keepdim=True) / 3
            for stride, map in more(torch.cat([noise, extra], 1)).items():  # they count as that much gray
                assert_close(map, color(noise + shared)[stride])


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "caffenet", "googlenet"])
def test_the_first_convolution_of_the_papers_padding_is_adapted_too(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=4, padding="paper")
        source = build_backbone(name).state_dict()
    load_report = apply(backbone, ClassifierWeights(source))
    first = next(iter(source))
    assert load_report.adapted == (first,)
    assert len(load_report.copied) == len(source) - 1


def test_two_backbones_side_by_side_take_the_weights_of_one() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg16_late", in_channels=4)
    tensors = as_caffe({**of("vgg16"), "score": torch.zeros(1), "bias": torch.zeros(1)}, "vgg16")
    load_report = apply(backbone, ClassifierWeights(tensors, architecture="vgg16"))
    assert load_report.adapted == ("conv1_1.weight",)
    assert {*load_report.copied, *load_report.reshaped, *load_report.adapted, *load_report.unused} == set(tensors)
    assert load_report.reinitialized == ()
    assert backbone.preprocessing == CAFFE_VGG.for_channels(4)


# --- refusals ---------------------------------------------------------------------------------------------------------


def of(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_backbone(name).state_dict()


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("resnet18", "resnet34", r"resnet34.pth: state_dict does not fit backbone='resnet18', nothing was changed: 96 "
         r"unknown.* The file has names of torchvision and timm for resnet, and looks like resnet34: build that"),
        ("resnet50", "resnet101", r"looks like resnet101: build that backbone"),
        ("resnet101_dilated", "resnet50", r"looks like resnet50: build that backbone"),
        ("vgg16", "vgg16_bn", r"The file has names of torchvision for vgg, and looks like vgg16_bn"),
        ("vgg16", "alexnet", r"The file has names of torchvision for alexnet, and looks like alexnet"),
        ("resnet18", "caffenet", r"The file has names of Caffe for caffenet, and looks like caffenet"),
        ("alexnet", "googlenet", r"names of torchvision for googlenet, and looks like googlenet"),
        ("mobilenet_v3_small", "mobilenet_v3_large", r"for mobilenet_v3, and looks like mobilenet_v3_large"),
    ],
)  # fmt: skip
def test_weights_of_another_backbone_are_named(name: str, other: str, message: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    with pytest.raises(WeightsError, match=message):
        apply(backbone, ClassifierWeights(of(other), source=f"{other}.pth"))
    assert backbone.load_report is None


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.endswith(translation.ARRANGEMENTS)])
def test_each_backbone_is_told_from_all_others_by_its_tensors(name: str) -> None:
    assert fitting(of(name)) == [name]


def test_names_of_no_scheme_are_said_to_be_unknown() -> None:
    backbone = build_backbone("resnet18_half")
    with pytest.raises(WeightsError, match=r"The file has names of no known scheme; known are those of torchvision"):
        apply(backbone, ClassifierWeights({"encoder.patch.weight": torch.zeros(3)}))


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        (
            "resnet50",
            "resnetblur50",
            r"'resnet50' cannot take weights of 'resnetblur50', which computes something else",
        ),
        ("mobilenet_v3_large", "tf_mobilenetv3_large_100", r"it pads as TensorFlow does"),
        ("timm/efficientnet_b0", "tf_efficientnet_b0", r"it pads as TensorFlow does"),
        ("resnet18", "resnet34", r"build 'resnet34'"),
        ("caffenet", "torchvision/alexnet", r"build 'alexnet'"),
    ],
)
def test_networks_that_compute_otherwise_are_refused_by_name(name: str, architecture: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        translate(name, {}, architecture)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet50", "timm/resnet50.a1_in1k"),
        ("resnet50", "gluon_resnet50_v1b"),
        ("resnet50_dilated", "resnet50"),
        ("vgg16_late", "vgg16"),
        ("mobilenet_v3_large_dilated", "mobilenetv3_large_100"),
        ("timm/mobilenetv3_small_100", "mobilenet_v3_small"),
        ("timm/resnet50", "resnet50"),
    ],
)
def test_one_network_under_two_names_is_one_network(name: str, architecture: str) -> None:
    assert canonical(name) == canonical(architecture)
    translate(name, {}, architecture)


def test_layers_under_two_names_are_refused() -> None:
    blank = torch.zeros(1)
    both = {"features.0.weight": blank, "pre_logits.fc1.weight": blank, "classifier.0.weight": blank}
    with pytest.raises(WeightsError, match=r"some layers under two names \(pre_logits.fc1.weight\)"):
        translate("vgg16", both)


def test_schemes_are_recognized() -> None:
    assert scheme_of(of("vgg16")) == Scheme("torchvision", "vgg")
    with torch.device("meta"):
        for network, family in (("vgg11", "vgg"), ("vgg11_bn", "vgg"), ("efficientnet_b0", "efficientnet")):
            assert scheme_of(models.get_model(network).state_dict()) == Scheme("torchvision", family)
    assert scheme_of(timm_keys("efficientnet_b0")) == Scheme("timm", "efficientnet")
    assert scheme_of(timm_keys("convnext_atto")) == Scheme("timm", "convnext")
    assert str(Scheme("timm", "efficientnet")) == "names of timm for efficientnet"
    assert scheme_of({f"backbone.{key}": 0 for key in of("resnet18")} | {"head.score.32.weight": 0}) == Scheme(
        "fullyconv", "resnet"
    )
    assert str(Scheme("fullyconv", "resnet")) == "names of fullyconv for resnet"
    assert scheme_of([]) == Scheme("unknown", "unknown")


# --- what the weights expect ------------------------------------------------------------------------------------------


def test_preprocessing_of_torchvisions_weights_is_that_of_their_transforms() -> None:
    assert preprocessing_from_torchvision(models.VGG16_Weights.IMAGENET1K_V1) == IMAGENET
    features = preprocessing_from_torchvision(models.VGG16_Weights.IMAGENET1K_FEATURES)
    assert features.mean == (0.48235, 0.45882, 0.40784)
    assert features.std == pytest.approx((1 / 255,) * 3)
    detection = torchvision.models.detection.SSD300_VGG16_Weights.COCO_V1
    with pytest.raises(WeightsError, match=r"its transforms have no mean and std of a classifier"):
        preprocessing_from_torchvision(detection)


def test_googlenets_transform_input_is_another_normalization() -> None:
    preprocessing = preprocessing_from_torchvision(models.GoogLeNet_Weights.IMAGENET1K_V1)
    assert preprocessing == INCEPTION
    with torch.device("meta"):
        classifier = models.googlenet(transform_input=True, aux_logits=False, init_weights=False)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    assert_close(preprocessing(images), classifier._transform_input(IMAGENET(images)))


def test_features_published_alone_leave_fc6_and_fc7_to_start_anew(tmp_path: Path) -> None:
    """The file has them all the same, filled with what is no number."""
    member = models.VGG16_Weights.IMAGENET1K_FEATURES
    tensors = {key: torch.ones(value.shape) for key, value in of("vgg16").items() if key.startswith("features.")}
    path = tmp_path / "vgg16_features.pth"
    torch.save({**tensors, "classifier.0.weight": torch.full((2, 3), torch.nan)}, path)
    weights = torchvision_weights(member, path)
    assert weights.architecture == "torchvision/vgg16"
    assert weights.source == "VGG16_Weights.IMAGENET1K_FEATURES"
    with torch.device("meta"):
        backbone = build_backbone("vgg16")
    load_report = apply(backbone, weights)
    assert load_report.reinitialized == (
        "classifier.0.weight",
        "classifier.0.bias",
        "classifier.3.weight",
        "classifier.3.bias",
    )
    assert len(load_report.copied) == 26
    del weights.tensors["features.0.bias"]
    with pytest.raises(WeightsError, match=r"VGG16_Weights.IMAGENET1K_FEATURES: .*1 missing: features.0.bias"):
        apply(backbone, weights)
    with pytest.raises(WeightsError, match="values that are not finite"):
        torchvision_weights(models.VGG16_Weights.IMAGENET1K_V1, path)


def test_preprocessing_of_timms_weights_stands_in_their_configuration() -> None:
    numbers = {"mean": [0.5, 0.4, 0.3], "std": [1, 0.2, 0.3]}
    expected = Preprocessing((0.5, 0.4, 0.3), (1.0, 0.2, 0.3))
    assert preprocessing_from_timm({"architecture": "resnet50", "pretrained_cfg": numbers}) == expected
    assert preprocessing_from_timm(numbers) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"mean and std of pretrained_cfg are none"),
        ({"pretrained_cfg": None}, r"mean and std of pretrained_cfg are none"),
        ({"mean": "0.5", "std": [1.0]}, r"no lists of one number a channel"),
        ({"mean": [], "std": []}, r"give one of each for every channel"),
        ({"mean": [None, 0.5, 0.5], "std": [1.0] * 3}, r"give one number a channel"),
        ({"mean": [0.5] * 3, "std": [1.0, float("nan"), 1.0]}, r"numbers must be finite"),
        ({"mean": [0.5] * 3, "std": [1.0, 10**400, 1.0]}, r"mean and std of pretrained_cfg are none"),
        ({"mean": [0.5] * 3, "std": [1.0, 0.0, 1.0]}, r"std=.*deviations are above 0"),
        ({"mean": [0.5] * 3, "std": [1.0]}, r"mean has 3 and std 1 numbers"),
        ({"mean": [0.5] * 2000, "std": [1.0] * 2000}, r"no lists of one number a channel"),
    ],
)
def test_configurations_that_say_nothing_sensible_are_refused(config: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        preprocessing_from_timm(config)


# --- nothing in a file runs -------------------------------------------------------------------------------------------


def test_no_call_of_the_package_unpickles_more_than_tensors() -> None:
    """Every call that could is told to read weights only; nothing else imports the modules that could."""
    loaders = {"load", "load_from_checkpoint", "load_state_dict_from_url"}
    seen = 0
    for path in sorted(Path(fullyconv.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                names = {(module or alias.name).split(".")[0] for alias in node.names}
                assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            attribute, owner = node.func.attr, ast.unparse(node.func.value)
            if attribute not in loaders or (attribute == "load" and owner.split(".")[-1] not in ("torch", "jit")):
                continue
            seen += 1
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            flag = given.get("weights_only")
            assert isinstance(flag, ast.Constant), f"{path}:{node.lineno}"
            assert flag.value is True, f"{path}:{node.lineno}"
    assert seen >= 1

"""Whole classifiers turned into fully convolutional networks, compared with the classifiers themselves."""

from __future__ import annotations

import copy
import importlib
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from closeness import assert_close, assert_same_tensors
from fullyconv.backbones.efficientnet_lite import pad_same
from fullyconv.conversion import (
    DenseClassifier,
    FixedInputSize,
    InputSizeError,
    TraceError,
    UnsupportedHead,
    checks,
    convolutionalize,
    sliding_window,
)
from fullyconv.errors import ConversionError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int, height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw images that differ from each other in large structures, not in noise only."""
    coarse = torch.randn(count, channels, 5, 5, dtype=dtype)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return smooth + 0.3 * torch.randn(count, channels, height, width, dtype=dtype)


def calibrated(net: nn.Module, size: int, channels: int = 3) -> nn.Module:
    """Make the scores of an untrained network depend on the image: without this any converter would pass."""
    net = net.double()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.01)
    if norms:
        net.train()
        with torch.no_grad():
            net(images(4, size, size, channels))
    return net.eval()


def assert_same_scores(got: Tensor, expected: Tensor) -> None:
    """Compare scores (N, K) or (N, K, h, w) that depend on the image and on the place in it."""
    assert_close(got, expected, varying=tuple(axis for axis in range(expected.dim()) if axis != 1))


def narrow_vgg16(batch_norm: bool = False) -> nn.Module:
    """VGG-16 with a few channels: the same layers, strides and paddings."""
    widths: list[str | int] = [4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"]
    net = torchvision.models.VGG(torchvision.models.vgg.make_layers(widths, batch_norm), init_weights=False)
    net.classifier = nn.Sequential(
        *(nn.Linear(8 * 49, 16), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(16, 16), nn.ReLU(True), nn.Dropout()),
        nn.Linear(16, 10),
    )
    return net


class LeNet(nn.Module):
    """The classic one, without padding, as somebody writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class UnpaddedAlexNet(nn.Module):
    """AlexNet's kernels and strides without padding: 195 pixels give a map of 3 x 3 cells at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(8, 12, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(12, 12, 3), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(12 * 3 * 3, 20), nn.ReLU(), nn.Linear(20, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Headed(nn.Module):
    """A small unpadded backbone (39 pixels -> 9 x 9 cells at stride 4) under any head."""

    def __init__(self, head: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.Tanh())
        for name, part in parts.items():
            setattr(self, name, part)
        self._head = head

    def forward(self, x: Tensor) -> Any:
        return self._head(self, self.trunk(x))


def fc(inputs: int = 12, outputs: int = 5) -> nn.Linear:
    return nn.Linear(inputs, outputs)


# ---------------------------------------------------------------------------------------------------------------------
# The example of the literature
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dense_vgg() -> DenseClassifier:
    torch.manual_seed(0)
    return convolutionalize(narrow_vgg16().eval(), 224)


def test_image_of_384_pixels_gives_12_by_12_cells_and_6_by_6_scores_with_vgg(dense_vgg: DenseClassifier) -> None:
    dense = dense_vgg
    x = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        (map,) = dense.feature_maps(x)
        scores = dense(x)
    assert map.shape[2:] == (12, 12)
    assert scores.shape == (1, 10, 6, 6)
    assert dense.grid(384, 384) == (6, 6) == dense.whole_windows(384, 384)
    assert dense.geometry.stride == (32, 32)
    assert dense.geometry.receptive_field == (404, 404)
    assert dense.geometry.center == (111.5, 111.5)
    assert dense.centers(2, 1) == ([111.5, 143.5], [111.5])


def test_the_real_vgg16_gives_the_same_grid() -> None:
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    dense = convolutionalize(vgg, input_size=224)
    assert dense(torch.empty(2, 3, 384, 384, device="meta")).shape == (2, 1000, 6, 6)
    assert dense(torch.empty(2, 3, 224, 500, device="meta")).shape == (2, 1000, 1, 9)
    assert dense.state_dict()["classifier.0.weight"].shape == (4096, 512, 7, 7)
    assert dense.state_dict()["classifier.3.weight"].shape == (4096, 4096, 1, 1)
    assert list(dense.state_dict()) == list(vgg.state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Without padding a score is the classifier on its window
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("net", "size", "channels", "stride"), [(LeNet, 32, 1, 4), (UnpaddedAlexNet, 195, 3, 32)], ids=["lenet", "alexnet"]
)
def test_larger_map_gives_the_answer_of_every_window(
    net: Callable[[], nn.Module], size: int, channels: int, stride: int
) -> None:
    classifier = net().double().eval()
    dense = convolutionalize(classifier, size, in_channels=channels)
    x = images(2, size + 3 * stride, size + 2 * stride + 1, channels)
    expected = sliding_window(classifier, x, size, stride)
    with torch.no_grad():
        assert_same_scores(dense(x), expected)
    assert expected.shape[2:] == (4, 3) == dense.grid(*x.shape[2:])
    assert dense.guarantee == "window"
    assert not dense.geometry.padded
    assert dense.geometry.stride == (stride, stride)


HEADS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Callable[[], Any]]]] = {
    "mean over axes": (lambda s, x: s.fc(x.mean([2, 3])), {"fc": fc}),
    "mean of means": (lambda s, x: s.fc(x.mean(3).mean(2)), {"fc": fc}),
    "torch.flatten": (lambda s, x: s.fc(torch.flatten(x, 1)), {"fc": lambda: fc(12 * 81)}),
    "view with the batch size": (lambda s, x: s.fc(x.view(x.size(0), -1)), {"fc": lambda: fc(12 * 81)}),
    "reshape without it": (lambda s, x: s.fc(x.reshape(-1, 12 * 81)), {"fc": lambda: fc(12 * 81)}),
    "reshape of a mean": (lambda s, x: s.fc(F.adaptive_avg_pool2d(x, 1).reshape(-1, 12)), {"fc": fc}),
    "squeeze of a pooling": (lambda s, x: s.fc(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)), {"fc": fc}),
    "sizes by name": (
        lambda s, x: s.fc(F.avg_pool2d(x, x.shape[2:]).view(x.shape[0], -1) if x.dim() == 4 else x),
        {"fc": fc},
    ),
    "sum over tokens": (
        lambda s, x: (lambda b, c, h, w: s.fc(x.view(b, c, h * w).sum(-1) / (h * w)))(*x.shape),
        {"fc": fc},
    ),
    "channels last, flattened": (lambda s, x: s.fc(x.permute(0, 2, 3, 1).flatten(1)), {"fc": lambda: fc(12 * 81)}),
    "channels last, mean": (lambda s, x: s.fc(x.permute(0, 2, 3, 1).mean(dim=(1, 2))), {"fc": fc}),
    "maximum": (lambda s, x: s.fc(torch.amax(x, (2, 3))), {"fc": fc}),
    "maximum with positions": (lambda s, x: s.fc(x.flatten(2).max(-1)[0]), {"fc": fc}),
    "mean and maximum": (
        lambda s, x: s.fc(torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1)),
        {"fc": lambda: fc(24)},
    ),
    "norm of tokens": (
        lambda s, x: s.fc(s.norm(x.flatten(2).transpose(1, 2)).mean(1)),
        {"fc": fc, "norm": lambda: nn.LayerNorm(12)},
    ),
    "batch norm of all nodes": (
        lambda s, x: s.fc(s.norm(x.flatten(1))),
        {"fc": lambda: fc(12 * 81), "norm": lambda: nn.BatchNorm1d(12 * 81)},
    ),
    "every second node": (lambda s, x: s.fc(x.flatten(1)[:, ::2]), {"fc": lambda: fc(12 * 81 // 2)}),
    "the middle cell": (lambda s, x: s.fc(x[:, :, 4, 4]), {"fc": fc}),
    "folded pooling": (lambda s, x: s.fc(F.adaptive_avg_pool2d(x, 4).flatten(1)), {"fc": lambda: fc(12 * 16)}),
    "pooling, relu, layer": (
        lambda s, x: s.fc(F.relu(F.adaptive_avg_pool2d(x, 4) - 0.1).flatten(1)),
        {"fc": lambda: fc(12 * 16)},
    ),
    "softmax of a unit vector": (lambda s, x: F.softmax(9 * s.fc(F.normalize(x.mean((2, 3)), dim=1)), 1), {"fc": fc}),
    "standard deviation": (lambda s, x: s.fc(x.std((2, 3))), {"fc": fc}),
    "gated halves": (
        lambda s, x: (lambda a, b: s.fc(a * torch.sigmoid(b)))(*x.mean((2, 3)).chunk(2, 1)),
        {"fc": lambda: fc(6)},
    ),
    "maxout": (lambda s, x: s.fc(x.mean((2, 3)).view(x.size(0), 4, 3).max(2).values), {"fc": lambda: fc(4)}),
    "residual with a scale": (
        lambda s, x: (lambda v: s.fc(v + s.mix(v) * s.scale))(x.mean((-2, -1))),
        {"fc": fc, "mix": lambda: fc(12, 12), "scale": lambda: nn.Parameter(torch.randn(12))},
    ),
    "one layer twice": (
        lambda s, x: s.fc(s.mix(torch.relu(s.mix(x.mean((2, 3)))))),
        {"fc": fc, "mix": lambda: fc(12, 12)},
    ),
    "correlations": (
        lambda s, x: s.fc(torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1)),
        {"fc": lambda: fc(144)},
    ),
    "generalized mean": (
        lambda s, x: s.fc(F.avg_pool2d(x.clamp(min=1e-6).pow(s.p), x.size()[2:]).pow(1 / s.p).flatten(1)),
        {"fc": fc, "p": lambda: nn.Parameter(torch.tensor(3.0))},
    ),
    "attention pooling": (
        lambda s, x: s.fc(_attend(s.attention, x, s.positions)),
        {
            "fc": lambda: fc(12, 300),
            "attention": lambda: nn.MultiheadAttention(12, 2),
            "positions": lambda: nn.Parameter(torch.randn(82, 1, 12)),
        },
    ),
}


def _attend(attention: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + positions
    return attention(tokens[:1], tokens, tokens, need_weights=False)[0][0]


@pytest.mark.parametrize("name", HEADS)
def test_heads_nobody_thought_of_give_the_answer_of_every_window(name: str) -> None:
    head, parts = HEADS[name]
    classifier = Headed(head, **{key: make() for key, make in parts.items()}).double().eval()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    dense = convolutionalize(classifier, 39)
    x = images(2, 39 + 9, 39 + 14)
    expected = sliding_window(classifier, x, 39, 4)
    with torch.no_grad():
        assert_same_scores(dense(x), expected)
    assert dense.guarantee == "window"
    assert list(dense.state_dict()) == list(classifier.state_dict())
    assert isinstance(dense.get_submodule("fc"), nn.Conv2d)


def test_perceptron_on_the_pixels_becomes_one_large_kernel() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    dense = convolutionalize(classifier, 28, in_channels=1)
    x = images(2, 31, 30, 1)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 28, 1))
    assert dense.state_dict()["1.weight"].shape == (16, 1, 28, 28)


def test_input_need_not_be_square() -> None:
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 8, 6)).double()
    dense = convolutionalize(classifier, (11, 17))
    x = images(1, 15, 23)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, (11, 17), 2))
    assert dense.report.window == (5, 8)


def test_classifier_without_fully_connected_layers_is_served_as_it_is() -> None:
    classifier = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    classifier = classifier.double()
    dense = convolutionalize(classifier, 15)
    x = images(2, 21, 19)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 15, 2))


# ---------------------------------------------------------------------------------------------------------------------
# Real families
# ---------------------------------------------------------------------------------------------------------------------
def timm_classifier(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=10)


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)


def small_convnext() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt(
        [block(8, 16, 1), block(16, 32, 1), block(32, None, 1)], layer_scale=0.5, num_classes=10
    )


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=10)


FAMILIES: list[tuple[str, Callable[[], nn.Module], int, str]] = [
    ("vgg", lambda: narrow_vgg16(batch_norm=True), 224, "interior"),
    ("resnet", lambda: torchvision.models.resnet18(num_classes=10), 64, "interior"),
    ("densenet", small_densenet, 64, "interior"),
    ("convnext", small_convnext, 64, "interior"),
    ("swin", small_swin, 64, "head"),
    ("squeezenet", lambda: torchvision.models.squeezenet1_1(num_classes=10), 96, "interior"),
    ("mobilenet v3", lambda: torchvision.models.mobilenet_v3_small(num_classes=10), 64, "head"),
    ("efficientnet", lambda: timm_classifier("test_efficientnet"), 96, "head"),
]
SLOW_FAMILIES: list[tuple[str, Callable[[], nn.Module], int, str]] = [
    ("alexnet", lambda: torchvision.models.alexnet(num_classes=10), 224, "interior"),
    ("shufflenet", lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10), 64, "interior"),
    ("mnasnet", lambda: torchvision.models.mnasnet0_5(num_classes=10), 64, "interior"),
    ("mobilenet v2", lambda: torchvision.models.mobilenet_v2(num_classes=10), 64, "interior"),
    ("efficientnet b0", lambda: torchvision.models.efficientnet_b0(num_classes=10), 64, "head"),
    ("regnet x", lambda: torchvision.models.regnet_x_400mf(num_classes=10), 64, "interior"),
    ("regnet y", lambda: torchvision.models.regnet_y_400mf(num_classes=10), 64, "head"),
    ("googlenet", lambda: torchvision.models.googlenet(num_classes=10, init_weights=False), 96, "interior"),
    ("inception", lambda: torchvision.models.inception_v3(num_classes=10, init_weights=False), 107, "interior"),
    ("resnet of timm", lambda: timm_classifier("test_resnet"), 96, "interior"),
    ("convnext of timm", lambda: timm_classifier("test_convnext"), 96, "interior"),
    ("byobnet", lambda: timm_classifier("test_byobnet"), 96, "head"),
    ("nfnet", lambda: timm_classifier("test_nfnet"), 96, "head"),
]


def check_family(make: Callable[[], nn.Module], size: int, guarantee: str) -> None:
    """Compare at the classifier's own size, and the head on a larger image with the classifier's own head."""
    classifier = make()
    auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    calibrated(classifier, max(size, 75) if not hasattr(classifier, "AuxLogits") else 299)
    dense = convolutionalize(classifier, size, copy=False)
    x = images(3, size, size)
    with torch.no_grad():
        assert_same_scores(dense(x).flatten(1), classifier(x))
    keys = [key for key in classifier.state_dict() if not key.startswith(auxiliary)]
    assert list(dense.state_dict()) == keys
    assert dense.guarantee == guarantee
    rows, columns = dense.grid(size + 64, size + 96)
    stride = dense.geometry.stride[0]
    assert rows in (math.floor(64 / stride) + 1, math.ceil(64 / stride) + 1)
    assert columns in (math.floor(96 / stride) + 1, math.ceil(96 / stride) + 1)
    # Scores of a larger image are those of the windows of its map.
    larger = images(1, size + 64, size + 96)
    with torch.no_grad():
        (map,) = dense.feature_maps(larger)
        scores = dense(larger)
        h, w = dense.report.window
        alone = torch.stack([dense.scores_of(map[..., i : i + h, j : j + w])[0, :, 0, 0] for i, j in ((0, 0), (1, 2))])
    assert scores.shape[2:] == (rows, columns)
    assert_same_scores(torch.stack([scores[0, :, 0, 0], scores[0, :, 1, 2]]), alone)


@pytest.mark.parametrize(("make", "size", "guarantee"), [f[1:] for f in FAMILIES], ids=[f[0] for f in FAMILIES])
def test_families_equal_themselves(make: Callable[[], nn.Module], size: int, guarantee: str) -> None:
    check_family(make, size, guarantee)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size", "guarantee"), [f[1:] for f in SLOW_FAMILIES], ids=[f[0] for f in SLOW_FAMILIES]
)
def test_more_families_equal_themselves(make: Callable[[], nn.Module], size: int, guarantee: str) -> None:
    check_family(make, size, guarantee)


def test_transformer_is_refused_with_what_in_it_is_not_convolutional() -> None:
    vit = torchvision.models.VisionTransformer(64, 8, 2, 2, 32, 64, num_classes=10)
    with pytest.raises(
        FixedInputSize, match=r"VisionTransformer: is not convolutional: \d+% of its parameters"
    ) as caught:
        convolutionalize(vit, 64)
    assert "pixels the forward of VisionTransformer stops: Wrong image height!" in str(caught.value)
    assert "sliding_window(classifier, image, window=64" in str(caught.value)
    assert isinstance(caught.value, ConversionError)


# ---------------------------------------------------------------------------------------------------------------------
# What is guaranteed
# ---------------------------------------------------------------------------------------------------------------------
def test_interior_scores_do_not_depend_on_where_the_image_was_cut() -> None:
    classifier = calibrated(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
            *(nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
        ),
        32,
    )
    dense = convolutionalize(classifier, 32)
    assert dense.guarantee == "interior"
    (first, _), (field, _), (stride, _) = dense.geometry.first, dense.geometry.receptive_field, dense.geometry.stride
    x = images(1, 128, 128)
    cut = 4
    crop = x[..., int(cut * stride) :, int(cut * stride) :]
    with torch.no_grad():
        whole, part = dense(x), dense(crop)
    inside = [
        i for i in range(part.shape[2]) if first + stride * i >= 0 and first + field - 1 + stride * i < crop.shape[2]
    ]
    assert len(inside) >= 4
    a, b = inside[0], inside[-1] + 1
    assert_same_scores(part[..., a:b, a:b], whole[..., a + cut : b + cut, a + cut : b + cut])
    # and outside the interior the padding shows: the guarantee says no more than what is true
    assert (part[..., 0, 0] - whole[..., cut, cut]).abs().max() > 1e-3 * whole.std()


class SqueezeExcited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = x * torch.sigmoid(8 * self.gate(x.mean((2, 3), keepdim=True)))
        return self.fc(x.mean((2, 3)))


def test_squeeze_and_excitation_guarantees_the_head_only() -> None:
    classifier = SqueezeExcited().double().eval()
    dense = convolutionalize(classifier, 15)
    assert dense.guarantee == "head"
    assert dense.geometry.global_context
    x = images(1, 25, 25)
    with torch.no_grad():
        (map,) = dense.feature_maps(x)
        expected = classifier.fc(map[:, :, 2:9, 3:10].mean((2, 3)))
        assert_close(dense(x)[..., 2, 3], expected)
        alone = classifier(x[..., 4:19, 6:21])
        assert (dense(x)[..., 2, 3] - alone).abs().max() > 1e-3 * alone.abs().max()


class Blocked(nn.Module):
    """A local operation in blocks of 4 x 4 cells of stride 4, counted from the corner of the padded image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16)))
        n, c, h, w = x.shape
        blocks = x.view(n, c, h // 4, 4, w // 4, 4)
        blocks = blocks - blocks.mean((3, 5), keepdim=True).abs()
        return self.fc(blocks.reshape(n, c, h, w).mean((2, 3)))


class Coarser(nn.Module):
    """A backbone that goes through a coarser map than its last one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 2, 2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc((x + F.interpolate(self.b(x), scale_factor=2.0)).mean((2, 3)))


class SpaceToDepth(nn.Module):
    """Blocks as large as the stride of the last map: they move with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(12, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(F.pixel_unshuffle(x, 2)).mean((2, 3)))


@pytest.mark.parametrize("net", [Blocked, Coarser])
def test_local_operations_that_depend_on_where_the_image_was_cut_guarantee_the_head_only(
    net: Callable[[], nn.Module],
) -> None:
    classifier = net().double()
    dense = convolutionalize(classifier, 32)
    step = int(dense.geometry.stride[0])
    x = images(1, 96, 96)
    with torch.no_grad():
        moved, still = dense(x[..., step:-step, step:-step])[..., 4:6, 4:6], dense(x)[..., 5:7, 5:7]
    assert (moved - still).abs().max() > 1e-3 * still.abs().max()  # this is why
    assert dense.guarantee == "head"


def test_space_to_depth_moves_with_the_image() -> None:
    classifier = SpaceToDepth().double()
    dense = convolutionalize(classifier, 16)
    assert dense.guarantee == "window"
    x = images(1, 22, 20)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 16, 2))


def test_report_says_what_was_done_and_what_it_means() -> None:
    dense = convolutionalize(torchvision.models.alexnet(num_classes=10), 224, copy=False)
    text = str(dense.report)
    for line in (
        "AlexNet, converted for windows of 224 x 224 pixels, pool='window'",
        "classifier.1: Linear(in_features=9216, out_features=4096, bias=True)  ->  Conv2d(256, 4096, kernel_size=(6, ",
        "last feature map        features, 256 channels of 6 x 6 cells",
        "window                  6 x 6 cells",
        "stride                  32 x 32 pixels",
        "receptive field         355 x 355 pixels",
        "center of score (0, 0)  pixel 111, 111",
        "padding                 yes",
        "global context          no",
        "guarantee               'interior': some operation pads",
        "grid at 224 x 224       1 x 1",
        "grid at 448 x 448       8 x 8",
    ):
        assert line in text
    assert dense.report.valid_sizes is None


class TwoHeaded(nn.Module):
    """A classifier with an auxiliary head that takes part in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x).mean((2, 3))
        if self.training:
            return self.fc(x), self.aux(x)
        return self.fc(x)


def test_auxiliary_head_is_dropped_and_said_so() -> None:
    classifier = TwoHeaded()
    dense = convolutionalize(classifier, 15)
    assert dense.report.dropped == ("aux",)
    assert "dropped, no part in the scores: aux" in str(dense.report)
    assert list(dense.state_dict()) == ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]
    dense.load_classifier(classifier.state_dict())


class Picky(nn.Module):
    """A backbone that runs only where its blocks of 4 x 4 cells fit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4).flip(3).reshape(n, c, h, w)
        return self.fc(x.mean((2, 3)))


def test_sizes_that_do_not_run_are_found_and_told() -> None:
    dense = convolutionalize(Picky(), 32)
    assert dense.report.valid_sizes is not None
    assert (64, 64) in dense.report.valid_sizes
    assert (69, 85) not in dense.report.valid_sizes
    assert dense.guarantee == "head"  # the blocks are counted from the corner of the image
    with pytest.raises(ValueError, match=r"69 x 85 pixels: Picky does not run at this size; sizes that run: 32 x 32"):
        dense.grid(69, 85)
    with pytest.raises(ValueError, match=r"69 x 85 pixels: Picky does not run at this size"):
        dense(torch.zeros(1, 3, 69, 85))


# ---------------------------------------------------------------------------------------------------------------------
# Class activation maps
# ---------------------------------------------------------------------------------------------------------------------
def test_cam_is_the_class_activation_map() -> None:
    classifier = calibrated(torchvision.models.resnet18(num_classes=10), 64)
    dense = convolutionalize(classifier, 64, pool="cam")
    x = images(2, 96, 128)
    features = nn.Sequential(*list(classifier.children())[:-2])
    with torch.no_grad():
        scores, map = dense(x), features(x)
        weight, bias = classifier.fc.weight, classifier.fc.bias
        expected = torch.einsum("kc,nchw->nkhw", weight, map) + bias[:, None, None]
        assert_same_scores(scores, expected)
        # At any size its mean is the classifier's own score.
        assert_same_scores(scores.mean((2, 3)), classifier(x))
    assert scores.shape[2:] == (3, 4) == dense.grid(96, 128)


def test_cam_is_refused_where_something_behind_the_pooling_is_not_linear() -> None:
    with pytest.raises(
        ConversionError, match=r"pool='cam': of MobileNetV3: the global pooling or something behind it is not linear"
    ):
        convolutionalize(torchvision.models.mobilenet_v3_small(num_classes=10), 64, pool="cam")
    maximum = Headed(lambda s, x: s.fc(x.amax((2, 3))), fc=fc())
    with pytest.raises(ConversionError, match=r"not linear \(a maximum.*Use pool='window'"):
        convolutionalize(maximum, 39, pool="cam")
    with pytest.raises(ConversionError, match=r"no global average pooling.*Use pool='window'"):
        convolutionalize(LeNet(), 32, pool="cam", in_channels=1)


# ---------------------------------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------------------------------
def test_checkpoint_of_the_classifier_loads_by_reshaping() -> None:
    dense = convolutionalize(LeNet().double(), 32, in_channels=1)
    other = LeNet().double().eval()
    reshaped = dense.load_classifier(other.state_dict())
    assert reshaped == ("fc1.weight", "fc2.weight", "fc3.weight")
    x = images(3, 32, 32, 1)
    with torch.no_grad():
        assert_same_scores(dense.eval()(x).flatten(1), other(x))
    assert dense.load_classifier(dense.state_dict()) == ()  # a dense checkpoint is taken as it is


def test_checkpoint_loads_into_a_folded_kernel_and_in_the_order_of_the_layer() -> None:
    for name in ("folded pooling", "channels last, flattened", "every second node"):
        head, parts = HEADS[name]
        nets = [Headed(head, **{key: make() for key, make in parts.items()}).double() for _ in range(2)]
        dense = convolutionalize(nets[0], 39)
        dense.load_classifier(nets[1].state_dict())
        x = images(2, 39, 39)
        with torch.no_grad():
            assert_same_scores(dense(x).flatten(1), nets[1](x))


def test_checkpoint_that_does_not_fit_is_refused_by_name_and_nothing_is_loaded() -> None:
    dense = convolutionalize(LeNet(), 32, in_channels=1)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    state = LeNet().state_dict()
    del state["fc2.bias"]
    state["fc9.bias"] = torch.zeros(3)
    state["fc3.weight"] = torch.zeros(10, 85)
    with pytest.raises(
        WeightsError,
        match=r"1 missing: fc2.bias; 1 unexpected: fc9.bias; 1 of another shape: fc3.weight \(10, 85\) where "
        r"\(10, 84, 1, 1\) is needed",
    ):
        dense.load_classifier(state)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------------
# A module like any other
# ---------------------------------------------------------------------------------------------------------------------
def test_result_can_be_copied_and_stored() -> None:
    head, parts = HEADS["attention pooling"]
    del head
    classifier = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(32, 16), nn.LayerNorm(16), nn.Hardswish(), nn.Linear(16, 5)),
    ).eval()
    dense = convolutionalize(classifier, 15)
    x = torch.randn(2, 3, 21, 25)
    file = io.BytesIO()
    torch.save(dense, file)
    file.seek(0)
    with torch.no_grad():
        expected = dense(x)
        for twin in (copy.deepcopy(dense), torch.load(file, weights_only=False)):
            assert isinstance(twin, DenseClassifier)
            assert_same_tensors(twin, dense)
            assert_close(twin(x), expected)
            assert str(twin.report) == str(dense.report)
            assert twin.guarantee == dense.guarantee
    twin = copy.deepcopy(dense)
    nn.init.zeros_(twin.get_submodule("6").weight)
    assert dense.get_submodule("6").weight.abs().max() > 0
    assert parts


def test_stored_functions_of_torch_are_found_again() -> None:
    classifier = LeNet().eval()  # functional relu and max pooling in its forward
    dense = convolutionalize(classifier, 32, in_channels=1)
    file = io.BytesIO()
    torch.save(dense, file)
    file.seek(0)
    x = torch.randn(1, 1, 40, 36)
    with torch.no_grad():
        assert_close(torch.load(file, weights_only=False)(x), dense(x))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(self.norm(self.conv(x))), 0.5, self.training)
        return self.fc(F.dropout(x.mean((2, 3)), p=0.5, training=self.training))


def test_modes_of_the_classifier_survive_and_functional_dropout_follows_the_mode() -> None:
    classifier = Dropping().train()
    classifier.norm.eval()
    dense = convolutionalize(classifier, 15)
    assert dense.training
    assert dense.get_submodule("fc").training
    assert not dense.get_submodule("norm").training
    assert classifier.training
    assert not classifier.norm.training
    x = torch.randn(2, 3, 15, 15)
    assert (dense(x) - dense(x)).abs().max() > 0.01 * dense(x).abs().max()
    dense.eval()
    assert_close(dense(x).flatten(1), classifier.eval()(x))
    dense.train()
    before = dense.state_dict()["norm.running_mean"].clone()
    dense(x)
    assert not torch.equal(before, dense.state_dict()["norm.running_mean"])


def test_dense_network_trains(dense_vgg: DenseClassifier) -> None:
    dense = copy.deepcopy(dense_vgg).train()
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    x, target = torch.randn(1, 3, 256, 256), torch.ones(1, 2, 2, dtype=torch.long)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(dense(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in dense.parameters())
    assert losses[-1] < losses[0]


def test_classifier_is_left_as_it_was_and_memory_is_shared_only_on_request() -> None:
    classifier = LeNet()
    attributes = set(classifier.__dict__)
    own = convolutionalize(classifier, 32, in_channels=1)
    shared = convolutionalize(classifier, 32, in_channels=1, copy=False)
    assert isinstance(classifier.fc1, nn.Linear)
    assert set(classifier.__dict__) == attributes
    assert classifier.training
    pointers = {p.data_ptr() for p in classifier.parameters()}
    assert pointers == {p.data_ptr() for p in shared.parameters()}
    assert not pointers & {p.data_ptr() for p in own.parameters()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.modules())


def test_conversion_does_not_touch_the_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    classifier = LeNet()
    torch.manual_seed(3)
    convolutionalize(classifier, 32, in_channels=1)
    assert torch.equal(torch.rand(1), expected)


def test_result_can_be_exported(dense_vgg: DenseClassifier) -> None:
    dense = dense_vgg
    x = torch.randn(1, 3, 256, 288)
    program = torch.export.export(dense, (x,), strict=False)
    with torch.no_grad():
        assert_close(program.module()(x), dense(x))


def test_names_of_modules_may_be_those_of_attributes() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.report, self.pool, self.geometry = nn.Conv2d(3, 4, 3), nn.MaxPool2d(1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.geometry(self.pool(self.report(x)).mean((2, 3)))

    classifier = Named().double()
    dense = convolutionalize(classifier, 9)
    x = images(2, 12, 11)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 9, 1))
    assert list(dense.state_dict()) == list(classifier.state_dict())
    assert dense.guarantee == "window"


# ---------------------------------------------------------------------------------------------------------------------
# Several outputs, leaves, control flow
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("wrap", "output"), [(lambda a, b: (a, b), 1), (lambda a, b: {"aux": a, "out": b}, "out")])
def test_one_of_several_outputs_is_chosen(wrap: Callable[[Tensor, Tensor], Any], output: int | str) -> None:
    classifier = Headed(lambda s, x: wrap(s.aux(x.mean((2, 3))), s.fc(x.flatten(1))), fc=fc(12 * 81), aux=fc()).double()
    dense = convolutionalize(classifier, 39, output=output)
    x = images(3, 39, 39)
    with torch.no_grad():
        assert_same_scores(dense(x).flatten(1), classifier(x)[output])
    assert dense.report.dropped == ("aux",)
    with pytest.raises(ConversionError, match=r"output=None: Headed returns 2 values; say which one"):
        convolutionalize(classifier, 39)
    with pytest.raises(ConversionError, match=r"output='socres': Headed returns no such value \(choices: \["):
        convolutionalize(classifier, 39, output="socres")


def test_decisions_on_shapes_are_followed() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 49, 5)

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] == 9, f"needs 9 pixels, got {x.shape[-1]}"
            x = self.conv(x)
            if len(x.shape) == 4 and x.ndim == 4:
                x = x.reshape(*x.shape[:1], -1)
            return self.fc(x)

    classifier = Checked().double()
    dense = convolutionalize(classifier, 9)
    x = images(2, 12, 11)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 9, 1))


class Opaque(nn.Module):
    """What cannot be traced: it looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().sum()) > 1e9 else x + 1


def test_leaves_stay_whole() -> None:
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 49, 6), nn.Softsign(), nn.Linear(6, 5)
    )
    dense = convolutionalize(classifier.double(), 15, leaves=("3",))
    x = images(2, 19, 15)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 15, 2))
    with pytest.raises(TraceError, match=r"leaves='33': no such module.*Choices"):
        convolutionalize(classifier, 15, leaves=("33",))


@pytest.mark.parametrize("pool", ["window", "cam"])
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2)],  # rounds down: none smaller
        [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)],  # up: less than a stride
        [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(5, ceil_mode=True), nn.MaxPool2d(2)],  # something between
    ],
)
def test_the_smallest_size_is_the_first_that_runs(layers: list[nn.Module], pool: Any) -> None:
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    dense = convolutionalize(network, (24, 31), pool=pool)

    def runs(height: int, width: int) -> bool:
        try:
            return min(dense.grid(height, width)) > 0
        except ValueError:
            return False

    rows = next(side for side in range(1, 25) if runs(side, 31))
    columns = next(side for side in range(1, 32) if runs(24, side))
    assert dense.min_size == (rows, columns)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals
# ---------------------------------------------------------------------------------------------------------------------
def test_too_small_an_image_is_refused_with_the_size_needed(dense_vgg: DenseClassifier) -> None:
    dense = dense_vgg
    assert dense.min_size == (224, 224)
    with pytest.raises(
        ValueError,
        match=r"200 x 300 pixels: too small, needs at least 224 x 224 pixels for one score "
        r"\(map of 6 x 9 cells, window of 7 x 7\)",
    ):
        dense(torch.zeros(1, 3, 200, 300))
    with pytest.raises(ValueError, match=r"8 x 8 pixels: too small, needs at least 224 x 224"):
        dense(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"100 x 100 pixels: too small"):
        dense.grid(100, 100)
    with pytest.raises(ValueError, match=r"x=\(3, 224, 224\): needs a batch of images \(N, 3, H, W\)"):
        dense(torch.zeros(3, 224, 224))
    with pytest.raises(ValueError, match=r"x=\(1, 1, 224, 224\): needs a batch of images"):
        dense(torch.zeros(1, 1, 224, 224))


def test_classifier_that_does_not_run_at_the_input_size_is_refused() -> None:
    with pytest.raises(InputSizeError, match=r"input_size=40 x 40: LeNet does not run.*module 'fc1' \(Linear\)"):
        convolutionalize(LeNet(), 40, in_channels=1)
    with pytest.raises(InputSizeError, match=r"of 3 channels of this size: module 'conv1'.*in_channels"):
        convolutionalize(LeNet(), 32)


def test_head_that_mixes_the_images_of_a_batch_is_refused() -> None:
    mixing = Headed(lambda s, x: s.fc(x.mean((2, 3)) - x.mean((0, 2, 3))), fc=fc())
    with pytest.raises(UnsupportedHead, match=r"mixes the images of a batch.*sliding_window"):
        convolutionalize(mixing, 39)
    hidden = Headed(lambda s, x: s.fc(F.normalize(x.mean((2, 3)), dim=0)), fc=fc())
    with pytest.raises(UnsupportedHead, match=r"gives another answer when it sees several windows together"):
        convolutionalize(hidden, 39)


def test_layer_that_reads_two_windows_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 9, 36)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(self.conv(x).flatten(1)))

    with pytest.raises(UnsupportedHead, match=r"'fc' is used in two ways"):
        convolutionalize(Shared(), 5)


def test_maps_of_different_strides_are_refused() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.fc(torch.cat([a.mean((2, 3)), self.b(a).mean((2, 3))], 1))

    with pytest.raises(UnsupportedHead, match=r"joins feature maps of different strides \(a, b\)"):
        convolutionalize(Pyramid(), 15)


def test_control_flow_on_values_is_refused_with_the_module() -> None:
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3), Opaque(), nn.Flatten(), nn.Linear(4 * 49, 5))
    with pytest.raises(ConversionError, match=r"module '1' \(Opaque\)"):
        convolutionalize(classifier, 9)


def test_a_layer_whose_weights_are_computed_runs_on_every_window() -> None:
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4 * 49, 5))
    ).double()
    dense = convolutionalize(classifier, 9)
    x = images(2, 12, 11)
    with torch.no_grad():
        assert_same_scores(dense(x), sliding_window(classifier, x, 9, 1))


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(TypeError, match=r"classifier=function: needs a torch.nn.Module"):
        convolutionalize(torchvision.models.vgg16, 224)
    with pytest.raises(ValueError, match=r"input_size=0: needs a side in pixels"):
        convolutionalize(LeNet(), 0)
    with pytest.raises(ValueError, match=r"pool='max': needs 'window'.*or 'cam'"):
        convolutionalize(LeNet(), 32, pool="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"in_channels=0: needs at least one channel"):
        convolutionalize(LeNet(), 32, in_channels=0)
    with pytest.raises(ConversionError, match=r"has no shape yet; run it once"):
        convolutionalize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)), 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates tracing, people still have such modules
        traced = torch.jit.trace(LeNet(), torch.zeros(1, 1, 32, 32))
    with pytest.raises(ConversionError, match=r"scripted or traced module"):
        convolutionalize(traced, 32)


class PaddedBySize(nn.Module):
    """A classifier whose convolutions pad as TensorFlow's "same" does: by the size of what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 5, 2), nn.Conv2d(8, 8, 3, 2)])
        self.fc = nn.Linear(8, 4)
        for value in self.parameters():
            nn.init.zeros_(value) if value.ndim == 1 else nn.init.kaiming_normal_(value)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(pad_same(x, convolution.kernel_size[0])).relu()
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("window", [32, 36])
def test_cells_stay_in_place_at_sizes_at_which_padding_would_move_them(window: int) -> None:
    torch.manual_seed(0)
    classifier = PaddedBySize().eval()
    dense = convolutionalize(classifier, input_size=window)
    assert dense.guarantee == "interior"
    image = torch.rand(1, 3, window + 64, window + 64) * torch.linspace(0, 4, window + 64)
    with torch.no_grad():
        expected = dense(image)
        for height, width in ((window + 61, window + 64), (window + 60, window + 59), (window + 57, window + 58)):
            found = dense(image[..., :height, :width])
            assert found.shape == expected.shape, "it is continued to the same number of cells"
            # whose receptive fields lie within the smaller image
            assert_close(found[..., :4, :4], expected[..., :4, :4])
            assert (expected[..., :4, :4].std((2, 3)) > 1e-2 * expected.abs().max()).any(), "scores depend on the image"
        assert_close(dense(image[..., :window, :window]).flatten(1), classifier(image[..., :window, :window]))


class Sensitive(nn.Module):
    """Give scores that one rounding of the image moves far, and that depend on how many images there are in one way."""

    def __init__(self, factor: float, among: Literal["several", "neighbors", "chance"]) -> None:
        super().__init__()
        self.factor, self.among = factor, among

    def forward(self, x: Tensor) -> Tensor:
        values = x.mean((2, 3)) * (1 + torch.finfo(x.dtype).eps * (len(x) > 1))
        if self.among == "neighbors":
            values = values + 1e-3 * values.mean(0)
        if self.among == "chance":
            values = values + 1e-3 * torch.rand(1)
        return torch.sin(self.factor * values)


@pytest.mark.parametrize(
    ("factor", "among", "rounded"),
    [(1e6, "several", True), (1e6, "neighbors", False), (1e6, "chance", False), (1.0, "neighbors", False)],
)
def test_scores_that_a_rounding_moves_far_are_told_from_those_of_mixed_or_random_networks(
    factor: float, among: Literal["several", "neighbors", "chance"], rounded: bool
) -> None:
    classifier, x = Sensitive(factor, among), images(2, 9, 9, dtype=torch.float32)
    expected, got = classifier(x)[:1], classifier(x[:1])
    assert checks._only_rounded(classifier, None, x, expected, got) == rounded


def test_a_classifier_that_takes_no_single_image_is_refused_as_any_that_mixes_images() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 2:
                raise ValueError("give two")
            return torch.sin(1e6 * x.mean((2, 3)))

    x = images(2, 9, 9, dtype=torch.float32)
    expected = Pairs()(x)[:1]
    assert not checks._only_rounded(Pairs(), None, x, expected, expected + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b4", "regnet_y_32gf"])
def test_networks_of_random_weights_that_make_much_of_a_rounding_convert(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    conversion_table = importlib.import_module("conversion_table")
    row = conversion_table.measure("torchvision", name)
    assert row["converted"], row["why"]
    assert row["error"] < 1e-4 * row["signal"]

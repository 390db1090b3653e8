"""Models: presets, any size, where the logits lie on the image, staged growth."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from closeness import assert_close
from fullyconv.backbones import BACKBONES
from fullyconv.fcn import FCN, MODELS, build_model, pool_unpool, same_convolutions
from fullyconv.fcn.presets import FAMILIES, coarsest, lraspp, segnet
from fullyconv.geometry import Geometry
from fullyconv.heads import ASPPHead, SkipHead
from fullyconv.upsampling import resample


def random_scores(model: FCN) -> FCN:
    """Give the score layers values: at zero everything would be equal."""
    for layer in model.head.score.values():
        nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
        nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    return model


def calibrated(model: FCN) -> FCN:
    """Let batch norm see noise once, so that the random network answers to its input."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.randn(2, 3, 128, 160))
    return model.eval()


# Where a logit lies on the image.


class UniformConv(nn.Module):
    """The given convolution with all weights equal and positive, at the cost of one channel where it has no groups."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        self.size, self.channels, self.groups = conv.kernel_size, conv.out_channels, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            kernel = x.new_full((1, 1, *self.size), 1 / (self.size[0] * self.size[1]))
            return F.conv2d(x.mean(1, keepdim=True), kernel, **self.options).repeat(1, self.channels, 1, 1)
        kernel = x.new_ones(self.channels, x.shape[1] // self.groups, *self.size)
        return F.conv2d(x, kernel / kernel[0].numel(), groups=self.groups, **self.options)


class AveragePool(nn.MaxPool2d):
    """Average pooling that the code around it takes for the max pooling it stands in for."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)


class Constant(nn.Module):
    """The given pooling of a whole map, and what follows it, with one answer for every image."""

    def __init__(self, pooling: nn.Sequential) -> None:
        super().__init__()
        self.channels = next(m.out_channels for m in pooling.modules() if isinstance(m, nn.Conv2d))

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), self.channels, *x.shape[2:])


ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Dropout)


def is_norm(module: nn.Module) -> bool:
    blocks = any(isinstance(inner, nn.Conv2d) for inner in module.modules())  # such as Conv2dNormActivation
    return "Norm" in type(module).__name__ and not blocks


def averaging(module: nn.Module) -> None:
    """Turn a network into one of positive equal weights, averages for maxima, no norms, activations or gates."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, UniformConv(child))
        elif isinstance(child, nn.MaxPool2d):
            pool = AveragePool(child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
            setattr(module, name, pool)
        elif isinstance(child, nn.Linear):
            child.weight.data.fill_(1 / child.in_features)
        elif isinstance(child, nn.Sequential) and isinstance(child[0], nn.AdaptiveAvgPool2d):
            setattr(module, name, Constant(child))  # a gate, or the context of the whole image
        elif isinstance(child, ACTIVATIONS) or "Squeeze" in type(child).__name__ or is_norm(child):
            setattr(module, name, nn.Identity())
        else:
            averaging(child)


def centroid(model: FCN, size: tuple[int, int], pixel: tuple[int, int], axis: int) -> float:
    """Where along one axis the gradient of one logit has its center of mass, in pixels."""
    image = torch.ones(1, model.backbone.in_channels, *size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(image)[0, 0, pixel[0], pixel[1]], image)
    assert gradient.min() >= 0
    mass = gradient.sum((0, 1, 3 - axis))
    assert mass[0] == 0 == mass[-1], "the receptive field must lie inside of the image"
    return float((mass * torch.arange(size[axis])).sum() / mass.sum())


def check_alignment(name: str) -> None:
    if "timm/" in name:
        model = build_model(name, 1)
    else:
        with torch.device("meta"):  # all weights are replaced
            model = build_model(name, 1)
    reach = [int(n) for n in model.geometry.receptive_field]
    averaging(model)
    model.double().eval()
    # strips, because it is the same along the other axis: the image need not be large along both
    for axis, offset in ((0, 0), (1, 13)):
        middle = reach[axis] // 2 + 40 + offset
        long = -(-(reach[axis] + 120) // 32) * 32
        size, pixel = ((long, 64), (middle, 31)) if axis == 0 else ((64, long), (31, middle))
        assert centroid(model, size, pixel, axis) == pytest.approx(middle, abs=0.01), (axis, offset)


@pytest.mark.parametrize(
    "name",
    [
        "fcn8s_vgg16",
        "fcn8s_alexnet",
        "fcn8s_googlenet",
        "fcn8s_resnet18_half",
        "fcn8s_resnet50",
        "fcn8s_mobilenet_v3_small",
        "fcn32s_vgg16",
        "fcn4s_resnet18_half",
        "plain_vgg16_bn",
        "ladder_resnet18_half",
        "fcn_resnet50",
        "lraspp_mobilenet_v3_large",
        "same_convolutions",
    ],
)
def test_logit_belongs_to_its_pixel(name: str) -> None:
    check_alignment(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fcn8s_caffenet",
        "fcn8s_vgg16_bn",
        "fcn8s_vgg19",
        "fcn8s_vgg19_bn",
        "fcn8s_resnet18",
        "fcn8s_resnet34",
        "fcn8s_resnet101",
        "fcn8s_mobilenet_v3_large",
        "fcn16s_googlenet",
        "deeplabv3_resnet50",
        "deeplabv3_mobilenet_v3_large",
    ],
)
def test_logit_of_the_other_backbones_belongs_to_its_pixel(name: str) -> None:
    check_alignment(name)


@pytest.mark.parametrize("classifier", ["convnext_atto", "regnetx_002", "mobilenetv2_050"])
def test_logit_of_timm_classifiers_belongs_to_its_pixel(classifier: str) -> None:
    pytest.importorskip("timm")
    check_alignment(f"fcn8s_timm/{classifier}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "classifier", ["vgg11_bn", "darknet17", "lcnet_050", "tinynet_e", "repvgg_a0", "cspdarknet53", "resnetv2_50"]
)
def test_logit_of_more_timm_classifiers_belongs_to_its_pixel(classifier: str) -> None:
    pytest.importorskip("timm")
    check_alignment(f"fcn8s_timm/{classifier}")


# Presets.


def check_preset(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 3).eval()
        assert model(torch.empty(2, 3, 67, 45)).shape == (2, 3, 67, 45)
        assert model.scores(torch.empty(2, 3, 67, 45)).shape[:2] == (2, 3)
    assert model.num_classes == 3
    keys = list(model.state_dict())
    assert all(key.startswith(("backbone.", "head.")) for key in keys)
    known = json.loads(KEYS.read_text())[name]
    assert len(keys) == known["keys"]
    assert hashlib.sha256("\n".join(keys).encode()).hexdigest() == known["sha256"], "names in checkpoints never change"
    if isinstance(model.head, SkipHead) and name != "same_convolutions":
        strides = {"fcn32s": (32,), "fcn16s": (32, 16), "fcn8s": (32, 16, 8), "fcn4s": (32, 16, 8, 4)}
        assert model.head.strides == strides[name.partition("_")[0]]
        assert model.head.scales == ({16: 0.01, 8: 0.0001} if "_atonce_" in name else {})


KEYS = Path(__file__).parent / "snapshots" / "state_dict_keys.json"

QUICK = [name for name in MODELS if name.endswith(("resnet18_half", "vgg16", "convolutions", "unpool"))]
QUICK += ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]


@pytest.mark.parametrize("name", QUICK)
def test_preset_gives_one_logit_for_each_pixel(name: str) -> None:
    check_preset(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_other_preset_gives_one_logit_for_each_pixel(name: str) -> None:
    check_preset(name)


def test_every_preset_is_named_after_its_builder_and_its_backbone() -> None:
    others = {"fcn": coarsest, "deeplabv3": coarsest, "lraspp": lraspp, "segnet": segnet}
    for name, builder in MODELS.items():
        if isinstance(builder, partial):
            (backbone,) = builder.args
            assert backbone in BACKBONES
            # torchvision's segmenters, whose names we keep, leave unsaid that their backbones are dilated
            family, _, rest = name.removesuffix("_dilated").rpartition(f"_{backbone.removesuffix('_dilated')}")
            assert rest == ""
            expected = partial(FAMILIES[family][0] if family in FAMILIES else others[family], backbone)
            assert builder.func is expected.func
            assert builder.keywords == expected.keywords | ({"head": ASPPHead} if family == "deeplabv3" else {})
        else:
            assert name == builder.__name__  # type: ignore[attr-defined]
    assert all(
        f"{head}_{backbone}" in MODELS
        for head in ("fcn32s", "fcn16s", "fcn8s", "plain")
        for backbone in BACKBONES
        if not backbone.endswith(
            ("_dilated", "_late")
        )  # no stride 32; the paper's one net of two backbones is an FCN-32s
    )


@pytest.mark.parametrize(
    ("name", "upsampling", "padding"),
    [
        ("fcn8s_resnet18_half", "bilinear", "same"),
        ("fcn4s_resnet18_half", "learned", "same"),
        ("fcn16s_resnet18_half", "frozen", "same"),
        ("fcn8s_mobilenet_v3_small", "bilinear", "same"),
        pytest.param("fcn16s_googlenet", "bilinear", "same", marks=pytest.mark.slow),
        pytest.param("fcn32s_googlenet", "frozen", "paper", marks=pytest.mark.slow),
        ("plain_resnet18_half", "bilinear", "same"),
        ("ladder_resnet18_slim", "bilinear", "same"),
        pytest.param("fcn_resnet50", "bilinear", "same", marks=pytest.mark.slow),
        ("lraspp_mobilenet_v3_large", "bilinear", "same"),
        ("deeplabv3_mobilenet_v3_large", "bilinear", "same"),
        ("same_convolutions", "bilinear", "same"),
        ("pool_unpool", "bilinear", "same"),
        ("segnet_vgg11_quarter", "bilinear", "same"),
        pytest.param("segnet_vgg16_bn", "bilinear", "same", marks=pytest.mark.slow),
    ],
)
def test_model_serves_any_size(name: str, upsampling: str, padding: str) -> None:
    torch.manual_seed(0)
    model = random_scores(build_model(name, 3, upsampling=upsampling, padding=padding)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for size in [(1, 1), (1, 40), (23, 15), (33, 64), (97, 31)]:
            image = torch.randn(1, 3, *size)
            logits, scores = model(image), model.scores(image)
            assert logits.shape == (1, 3, *size)
            assert logits.isfinite().all()
            if model.geometry.stride == (1, 1):
                assert_close(scores, logits)
            else:
                assert_close(resample(scores, model.geometry, Geometry.IDENTITY, size), logits)


@pytest.mark.parametrize(
    "name",
    [
        "lraspp_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large",
        pytest.param("fcn_resnet50", marks=pytest.mark.slow),
    ],
)
def test_stretched_scores_lie_where_the_geometry_for_that_size_says(name: str) -> None:
    torch.manual_seed(0)
    model = random_scores(calibrated(build_model(name, 3, upsampling="stretch"))).double()
    with torch.no_grad():
        for size in [(1, 1), (1, 40), (23, 15), (64, 96), (97, 131)]:
            image = torch.randn(1, 3, *size, dtype=torch.float64)
            logits, scores = model(image), model.scores(image)
            assert scores.std() > 0
            # torchvision's own words for it
            stretched = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
            assert_close(logits, stretched)
            geometry = model.geometry_for(size)
            assert geometry.stride == tuple(n / cells for n, cells in zip(size, scores.shape[2:], strict=True))
            assert geometry.center == tuple((stride - 1) / 2 for stride in geometry.stride)
            assert geometry.receptive_field == model.geometry.receptive_field
            resampled = resample(scores, geometry, Geometry.IDENTITY, size)
            assert_close(resampled, logits)


@pytest.mark.parametrize(
    ("name", "upsampling"), [("fcn8s_resnet18_half", "learned"), ("lraspp_mobilenet_v3_large", "bilinear")]
)
def test_scores_that_are_not_stretched_have_one_geometry_for_every_size(name: str, upsampling: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 3, upsampling=upsampling)  # type: ignore[arg-type]
    assert model.geometry_for((97, 131)) == model.geometry


def test_stretching_shifts_the_logits_of_centered_cells_by_almost_half_a_stride() -> None:
    with torch.device("meta"):
        model = build_model("fcn_resnet50", 3, upsampling="stretch")
    assert model.geometry.center == (0, 0)
    assert model.geometry_for((512, 512)).center == (3.5, 3.5)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_segmenters_start_at_zero_and_learn(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 3)
    image, mask = torch.randn(2, 3, 40, 56), torch.randint(3, (2, 40, 56))
    assert model(image).abs().max() == 0
    random_scores(model)
    F.cross_entropy(model(image), mask).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), name
    assert {key for key in model.state_dict() if "score" in key} == {
        f"head.score.{stride}.{kind}" for stride in model.head.strides for kind in ("weight", "bias")
    }


def test_timm_classifier_serves_any_size() -> None:
    pytest.importorskip("timm")
    model = build_model("fcn8s_timm/regnetx_002", 3, in_channels=4).eval()
    assert model.backbone.size_divisor == 32
    for size in [(1, 1), (33, 50)]:
        assert model(torch.randn(1, 4, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn8s_atonce_vgg16"])
def test_paper_presets_have_the_parameters_of_the_released_nets(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 21, padding="paper", upsampling="frozen")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    released = {"fcn32s": 134_346_581, "fcn16s": 134_357_354, "fcn8s": 134_362_751}
    assert trained == released[name.partition("_")[0]]
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert state["backbone.classifier.0.weight"] == (4096, 512, 7, 7)
    assert state["backbone.classifier.3.weight"] == (4096, 4096, 1, 1)
    assert state["head.score.32.weight"] == (21, 4096, 1, 1)
    if name == "fcn32s_vgg16":
        assert state["head.upscore.32to1.weight"] == (21, 21, 64, 64)
    if "fcn8s" in name:
        assert state["head.upscore.32to16.weight"] == (21, 21, 4, 4)
        assert state["head.upscore.8to1.weight"] == (21, 21, 16, 16)


def test_score_layers_start_at_zero_and_learn_with_everything_else() -> None:
    torch.manual_seed(0)
    for name in ["fcn8s_resnet18_half", "plain_resnet18_half", "pool_unpool"]:
        model = build_model(name, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        image, mask = torch.randn(2, 3, 40, 56), torch.randint(3, (2, 40, 56))
        assert model(image).abs().max() == 0
        losses = []
        for _ in range(4):
            loss = F.cross_entropy(model(image), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), name


def test_unpooling_models_train_deterministically() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            torch.manual_seed(0)
            model = random_scores(pool_unpool(3, channels=(8, 16), depth=1))
            F.cross_entropy(model(torch.randn(1, 3, 19, 22)), torch.randint(3, (1, 19, 22))).backward()
            gradients.append([p.grad for p in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)


def test_baselines_take_their_sizes_as_arguments() -> None:
    deep = same_convolutions(5, channels=8, depth=3)
    assert [m.out_channels for m in deep.modules() if isinstance(m, nn.Conv2d)] == [8, 8, 8, 5]
    assert deep.geometry.receptive_field == (7, 7)
    pairs = pool_unpool(5, channels=(4, 6), depth=2)
    widths = [m.out_channels for m in pairs.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 4, 6, 6, 6, 4, 4, 4, 5]


@pytest.mark.parametrize(
    "name", ["pool_unpool", "segnet_vgg11_quarter", pytest.param("segnet_vgg16_bn", marks=pytest.mark.slow)]
)
def test_unpooled_logit_sees_no_more_than_its_receptive_field(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 1) if name.startswith("segnet") else pool_unpool(1, channels=(4, 4, 4), depth=1)
    model = random_scores(calibrated(model)).double()
    reach = round(model.geometry.receptive_field[0])
    long = reach + 96
    for pixel in (reach // 2 + 33, reach // 2 + 40):
        image = torch.randn(1, 3, long, 32, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(image)[0, 0, pixel, 16], image)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        (first, last), _ = model.geometry.window(pixel, 16)
        assert first <= rows[0] <= pixel <= rows[-1] <= last
        assert rows[-1] - rows[0] > reach / 4


# Staged growth.


@pytest.mark.parametrize("name", ["fcn32s_resnet18_half", "fcn32s_googlenet"])
def test_grown_model_starts_at_the_outputs_of_the_stage_before(name: str) -> None:
    torch.manual_seed(0)
    model = random_scores(calibrated(build_model(name, 3)))
    image = torch.randn(1, 3, 100, 150)
    with torch.no_grad():
        for stride in sorted(model.backbone.channels, reverse=True)[1:]:
            grown = model.grow(stride)
            assert grown is not model
            assert grown.training == model.training
            before, after = model(image), grown(image)
            scores = model.scores(image)
            if "resnet" in name:
                # the cells of the old grid are cells of the new one
                assert_close(grown.scores(image)[..., ::2, ::2][..., : scores.shape[2], : scores.shape[3]], scores)
                assert_close(after, before)
            else:
                clamped = F.pad(scores, (1, 1, 1, 1), mode="replicate")
                bends = sum(clamped.diff(n=2, dim=axis).abs().max() for axis in (2, 3))
                assert (after - before).abs().max() <= bends / 8
            new, old = grown.state_dict(), model.state_dict()
            assert set(new) - set(old) == {f"head.score.{stride}.weight", f"head.score.{stride}.bias"}
            assert all(torch.equal(new[key], value) for key, value in old.items())
            assert all(new[key].data_ptr() != value.data_ptr() for key, value in old.items())
            assert new[f"head.score.{stride}.weight"].abs().max() == 0
            model = grown


def test_growing_keeps_settings_and_what_is_frozen() -> None:
    model = build_model("fcn32s_resnet18_half", 3, upsampling="frozen").double()
    model.backbone.conv1.weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    grown = model.grow(16)
    assert grown.head.upsampling == "frozen"  # type: ignore[union-attr]
    assert {p.dtype for p in grown.parameters()} == {torch.float64}
    frozen = {name for name, p in grown.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone.conv1.weight", "head.upscore.32to16.weight", "head.upscore.16to1.weight"}
    assert grown.training
    assert not model.eval().grow(16).training
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert_close(grown.eval()(image), model(image))


def test_growing_again_keeps_a_learned_upsampling_that_both_have() -> None:
    model = build_model("fcn32s_resnet18_half", 3, upsampling="learned").grow(16)
    nn.init.normal_(model.head.upscore["32to16"].weight)  # type: ignore[index, union-attr]
    grown = model.grow(8)
    assert torch.equal(grown.head.upscore["32to16"].weight, model.head.upscore["32to16"].weight)  # type: ignore[index, union-attr]


# Messages.


def test_errors_name_argument_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"name='fcn8_vgg16' is not a model. Did you mean fcn8s_vgg16"):
        build_model("fcn8_vgg16", 21)
    with pytest.raises(ValueError, match=r"name='unet_timm/resnet18' is not a model. .*fcn8s_timm/NAME"):
        build_model("unet_timm/resnet18", 21)
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        build_model("fcn8s_resnet18_half", 0)
    with pytest.raises(ValueError, match=r"padding='paper'"):
        build_model("fcn8s_resnet18_half", 2, padding="paper")
    with pytest.raises(ValueError, match=r"padding='paper': pool_unpool has no such choice; leave padding='same'"):
        build_model("pool_unpool", 2, padding="paper")
    with pytest.raises(ValueError, match=r"upsampling='learned': plain_resnet18_half has no such choice"):
        build_model("plain_resnet18_half", 2, upsampling="learned")
    for name in ("fcn_resnet50", "deeplabv3_resnet101"):
        with pytest.raises(ValueError, match="upsampling='learned': choose 'bilinear' or 'stretch'"):
            build_model(name, 2, upsampling="learned")
    with pytest.raises(ValueError, match=r"padding='paper': lraspp_mobilenet_v3_large has no such choice"):
        build_model("lraspp_mobilenet_v3_large", 2, padding="paper")
    with pytest.raises(ValueError, match=r"upsampling='stretch' is not known. Choose 'bilinear', 'learned' or"):
        build_model("fcn8s_resnet18_half", 2, upsampling="stretch")
    with pytest.raises(
        ValueError, match=r"upsampling='nearest' is not known. Choose 'bilinear', 'learned' or 'frozen'"
    ):
        build_model("fcn8s_resnet18_half", 2, upsampling="nearest")  # type: ignore[arg-type]
    model = build_model("fcn8s_resnet18_half", 2)
    with pytest.raises(ValueError, match=r"x of shape \(3, 32, 32\) must be \(N, 3, H, W\)"):
        model(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"takes \(N, 3, H, W\)"):
        model(torch.zeros(1, 4, 32, 32))
    with pytest.raises(
        ValueError, match=r"stride=16: a model with strides=\(32, 16, 8\) grows by a finer stride .*: 4"
    ):
        model.grow(16)
    with pytest.raises(ValueError, match=r"PlainHead has no skips to add"):
        build_model("plain_resnet18_half", 2).grow(16)

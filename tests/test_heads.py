"""Heads against the wiring of the reference, against torchvision's, and the unpooling decoder at odd sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from closeness import assert_close
from fullyconv.backbones import Backbone, Features, Switch
from fullyconv.backbones.vgg import VGG
from fullyconv.fcn import FCN
from fullyconv.geometry import Geometry, measure
from fullyconv.heads import ASPPHead, LadderHead, LRASPPHead, PlainHead, SkipHead, UnpoolHead, score_layer
from fullyconv.heads.skip import fused_geometry
from fullyconv.upsampling import TransposedConvUpsampling

# Grids as Caffe's VGG with 100 pixels of padding has them, and as VGG and ResNet with padding of their own.
PAPER = {32: 12.5, 16: -91.5, 8: -95.5}
VGG_SAME = {32: 15.5, 16: 7.5, 8: 3.5, 4: 1.5}
RESNET = {32: 0.0, 16: 0.0, 8: 0.0, 4: 0.0}


def grids(centers: dict[int, float]) -> dict[int, Geometry]:
    return {s: Geometry((float(s), float(s)), (c, c), (404.0, 404.0), padded=True) for s, c in centers.items()}


def filled(head: nn.Module) -> nn.Module:
    """Give the score layers values."""
    torch.manual_seed(1)
    for layer in head.score.values():  # type: ignore[operator, union-attr]
        nn.init.normal_(layer.weight, std=0.5)
        nn.init.normal_(layer.bias)
    return head


class NarrowVGG(VGG):
    """Our VGG-16 with few channels: its wiring at a hundredth of the cost."""

    def __init__(self, padding: str) -> None:
        channels = [4, 4, "M", 5, 5, "M", 6, 6, 6, "M", 7, 7, 7, "M", 8, 8, 8, "M"]
        features = torchvision.models.vgg.make_layers(channels)
        classifier = torchvision.models.VGG(features, num_classes=1, init_weights=False)
        classifier.classifier[0] = nn.Linear(8 * 7 * 7, 16)
        classifier.classifier[3] = nn.Linear(16, 16)
        super().__init__("vgg16", classifier, padding=padding)  # type: ignore[arg-type]
        self.channels = {4: 5, 8: 6, 16: 7, 32: 16}


def reference(backbone: VGG, head: SkipHead, image: Tensor) -> Tensor:
    """FCN-32s, 16s or 8s as the released nets wire it, with their numbers typed in."""
    x = image
    convs = [layer for layer in backbone.features if isinstance(layer, nn.Conv2d)]
    pools = []
    padding = 100
    for stage in ([0, 1], [2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]):
        for index in stage:
            x = F.relu(F.conv2d(x, convs[index].weight, convs[index].bias, padding=padding))
            padding = 1
        x = F.max_pool2d(x, 2, ceil_mode=True)
        pools.append(x)
    fc6, fc7 = backbone.classifier[0], backbone.classifier[3]  # type: ignore[index]
    x = F.relu(F.conv2d(x, fc6.weight, fc6.bias))
    x = F.relu(F.conv2d(x, fc7.weight, fc7.bias))
    x = F.conv2d(x, head.score["32"].weight, head.score["32"].bias)

    def up(scores: Tensor, size: int) -> Tensor:
        factor = (size + 1) // 2
        middle = factor - 1 if size % 2 == 1 else factor - 0.5
        line = torch.tensor([1 - abs(i - middle) / factor for i in range(size)], dtype=scores.dtype)
        kernel = torch.zeros(scores.shape[1], scores.shape[1], size, size, dtype=scores.dtype)
        for k in range(scores.shape[1]):
            kernel[k, k] = torch.outer(line, line)
        return F.conv_transpose2d(scores, kernel, stride=factor)

    def crop(scores: Tensor, offset: int, size: torch.Size) -> Tensor:
        assert offset + size[0] <= scores.shape[2]
        assert offset + size[1] <= scores.shape[3]
        return scores[..., offset : offset + size[0], offset : offset + size[1]]

    size = image.shape[2:]
    if head.strides == (32,):
        return crop(up(x, 64), 19, size)
    x = up(x, 4)
    scale = head.scales.get(16, 1.0)
    x = x + crop(F.conv2d(pools[3] * scale, head.score["16"].weight, head.score["16"].bias), 5, x.shape[2:])
    if head.strides == (32, 16):
        return crop(up(x, 32), 27, size)
    x = up(x, 4)
    scale = head.scales.get(8, 1.0)
    x = x + crop(F.conv2d(pools[2] * scale, head.score["8"].weight, head.score["8"].bias), 9, x.shape[2:])
    return crop(up(x, 16), 31, size)


@pytest.fixture(scope="module")
def paper_vgg() -> NarrowVGG:
    torch.manual_seed(0)
    return NarrowVGG("paper").eval().double()


@pytest.mark.parametrize(
    ("strides", "crops"),
    [
        ((32,), {1: (19, 19)}),
        ((32, 16), {16: (5, 5), 1: (27, 27)}),
        ((32, 16, 8), {16: (5, 5), 8: (9, 9), 1: (31, 31)}),
    ],
)
def test_paper_crops_follow_from_the_geometry(
    paper_vgg: NarrowVGG, strides: tuple[int, ...], crops: dict[int, tuple[int, int]]
) -> None:
    for upsampling in ("bilinear", "learned", "frozen"):
        head = SkipHead(
            paper_vgg.channels,
            3,
            paper_vgg.geometry,
            strides,
            upsampling=upsampling,
            padding="paper",  # type: ignore[arg-type]
        )
        assert head.crops == crops
        assert (head.geometry.stride, head.geometry.center) == ((1, 1), (0, 0))


def test_paper_crop_of_alexnet_is_18_with_a_kernel_of_63() -> None:
    from fullyconv.backbones.alexnet import caffenet

    with torch.device("meta"):
        backbone = caffenet(padding="paper")
        head = SkipHead(backbone.channels, 21, backbone.geometry, (32,), upsampling="frozen", padding="paper")
    assert head.crops == {1: (18, 18)}
    assert head.upscore["32to1"].weight.shape == (21, 21, 63, 63)


@pytest.mark.parametrize("upsampling", ["bilinear", "learned", "frozen"])
@pytest.mark.parametrize("strides", [(32,), (32, 16), (32, 16, 8)])
def test_paper_network_is_the_wiring_of_the_reference(
    paper_vgg: NarrowVGG, strides: tuple[int, ...], upsampling: str
) -> None:
    scales = {16: 0.01, 8: 0.0001} if len(strides) == 3 else None
    head = SkipHead(
        paper_vgg.channels,
        3,
        paper_vgg.geometry,
        strides,
        upsampling=upsampling,  # type: ignore[arg-type]
        scales=scales,
        padding="paper",
    ).double()
    for module in head.upscore.values():
        if isinstance(module, TransposedConvUpsampling):
            module.reset_parameters()  # in double precision
    model = FCN(paper_vgg, filled(head)).eval()  # type: ignore[arg-type]
    image = torch.randn(2, 3, 61, 94, dtype=torch.float64)
    assert_close(model(image), reference(paper_vgg, head, image), varying=(2, 3))


def test_paper_network_covers_every_image(paper_vgg: NarrowVGG) -> None:
    head = SkipHead(
        paper_vgg.channels, 2, paper_vgg.geometry, (32, 16, 8), upsampling="frozen", padding="paper"
    ).double()
    for module in head.upscore.values():
        module.reset_parameters()
    model = FCN(paper_vgg, filled(head)).eval()  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.no_grad():
        for height, width in [(1, 1), (1, 70), *((n, 71 - n) for n in range(2, 70, 3))]:
            image = torch.randn(1, 3, height, width, dtype=torch.float64)
            assert_close(model(image), reference(paper_vgg, head, image))


@pytest.mark.parametrize("centers", [VGG_SAME, RESNET])
def test_skips_are_summed_at_the_same_place_of_the_image(centers: dict[int, float]) -> None:
    """Features that are the x (or y) coordinate of their cells give scores that are a multiple of it."""
    geometry = grids(centers)
    head = SkipHead(dict.fromkeys(centers, 2), 2, geometry, (32, 16, 8, 4)).double()
    for layer in head.score.values():
        layer.weight.data = torch.eye(2, dtype=torch.float64)[:, :, None, None]
    maps = {}
    for stride, center in centers.items():
        y = (torch.arange(-(-256 // stride)) * stride + center)[:, None].expand(-1, -(-320 // stride))
        x = (torch.arange(-(-320 // stride)) * stride + center)[None].expand(-(-256 // stride), -1)
        maps[stride] = torch.stack([y, x])[None].double()
    scores = head(Features(maps, (256, 320)))
    assert scores.shape == (1, 2, 64, 80)
    inner = (..., slice(16, -16), slice(16, -16))  # away from the clamped border of the coarsest map
    assert_close(scores[inner], 4 * maps[4][inner])


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (nn.Conv2d(1, 1, 8, 8), nn.Conv2d(1, 1, 2, 2)),  # as VGG: centers of the fine cells lie between
        (nn.Conv2d(1, 1, 9, 8, padding=4), nn.Conv2d(1, 1, 3, 2, padding=1)),  # as ResNet: they coincide
    ],
)
def test_a_sum_of_scores_depends_on_what_its_receptive_field_says(coarse: nn.Conv2d, fine: nn.Conv2d) -> None:
    head = SkipHead({8: 1, 2: 1}, 1, {8: measure(coarse, 64, 1), 2: measure(fine, 64, 1)}, strides=(8, 2))
    for parameter in (*coarse.parameters(), *fine.parameters(), *head.parameters()):
        nn.init.ones_(parameter)
    image = torch.zeros(1, 1, 96, 96, requires_grad=True)
    scores = head(Features({8: coarse(image), 2: fine(image)}, size=(96, 96)))
    at, farthest = head.geometry, 0.0
    for row in range(20, 28):  # of one coarse cell and the next
        (gradient,) = torch.autograd.grad(scores[0, 0, row, 24], image, retain_graph=True)
        seen = gradient[0, 0].abs().sum(1).nonzero().flatten()
        center = at.center[0] + at.stride[0] * row
        farthest = max(farthest, center - float(seen[0]), float(seen[-1]) - center)
    # up to less than a cell, which lies on one side of its center: tiles read so much more
    assert (at.receptive_field[0] - 1) / 2 <= farthest < (at.receptive_field[0] - 1) / 2 + at.stride[0]


def test_a_sum_of_scores_is_padded_and_sees_everything_if_one_of_them_does() -> None:
    plain = Geometry((8.0, 8.0), (3.5, 3.5), (20.0, 20.0))
    fine = Geometry((2.0, 2.0), (0.5, 0.5), (50.0, 10.0))
    assert fused_geometry(plain, fine, fine) == Geometry((2.0, 2.0), (0.5, 0.5), (50.0, 32.0))
    for change in ({"padded": True}, {"global_context": True}):
        for one, other in ((replace(plain, **change), fine), (plain, replace(fine, **change))):
            both = fused_geometry(one, other, fine)
            assert (both.padded, both.global_context) == ("padded" in change, "global_context" in change)


@pytest.mark.parametrize("centers", [VGG_SAME, RESNET])
def test_frozen_and_learned_start_at_the_bilinear_logits(centers: dict[int, float]) -> None:
    torch.manual_seed(0)
    geometry, channels = grids(centers), {32: 9, 16: 7, 8: 5, 4: 3}
    maps = {s: torch.randn(2, c, -(-75 // s), -(-101 // s)) for s, c in channels.items()}
    features = Features(maps, (75, 101))
    for strides in [(32,), (32, 16), (32, 16, 8), (32, 16, 8, 4)]:
        bilinear = filled(SkipHead(channels, 4, geometry, strides))
        from fullyconv.upsampling import resample

        expected = resample(bilinear(features), bilinear.geometry, Geometry.IDENTITY, (75, 101))  # type: ignore[arg-type]
        for upsampling in ("learned", "frozen"):
            head = filled(SkipHead(channels, 4, geometry, strides, upsampling=upsampling))  # type: ignore[arg-type]
            assert_close(head(features), expected)


def test_names_in_the_checkpoint_tell_the_strides() -> None:
    head = SkipHead({32: 8, 16: 8, 8: 8}, 3, grids(VGG_SAME), upsampling="learned")
    assert sorted(head.state_dict()) == [
        "score.16.bias",
        "score.16.weight",
        "score.32.bias",
        "score.32.weight",
        "score.8.bias",
        "score.8.weight",
        "upscore.16to8.weight",
        "upscore.32to16.weight",
        "upscore.8to1.weight",
    ]
    assert [tuple(m.weight.shape) for m in head.upscore.values()] == [(3, 1, 4, 4), (3, 1, 4, 4), (3, 1, 16, 16)]
    assert all(value.abs().max() == 0 for key, value in head.state_dict().items() if key.startswith("score."))
    bilinear = SkipHead({32: 8, 16: 8, 8: 8}, 3, grids(VGG_SAME))
    assert all(key.startswith("score.") for key in bilinear.state_dict())


def test_plain_head_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn.FCNHead(32, 5).eval()
    ours = PlainHead(32, 5, grids(RESNET)[32]).eval()
    names = {"0": "conv", "1": "norm", "4": "score.32"}
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    state = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 32, 5, 6)
    assert_close(ours(Features({32: x}, (160, 192))), theirs(x), varying=(0, 2, 3))


def random_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]


def test_aspp_head_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3.DeepLabHead(32, 5).eval()
    random_norms(theirs)
    ours = ASPPHead(32, 5, grids(RESNET)[8]).eval()
    names = {"0": "aspp", "1": "conv", "2": "norm", "4": "score.8"}
    state = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 32, 30, 26)
    with torch.no_grad():
        assert_close(ours(Features({8: x}, (240, 208))), theirs(x), varying=(0, 2, 3))


def test_aspp_sees_as_far_as_its_widest_dilation_and_the_mean_of_everything() -> None:
    head = ASPPHead(4, 2, Geometry.IDENTITY.conv(8, stride=8), dilations=(2, 5))
    assert head.geometry.receptive_field == (8 + 8 * 10 + 8 * 2,) * 2
    assert head.geometry.center == (3.5, 3.5)
    assert head.geometry.global_context


def test_aspp_says_that_one_image_is_too_few_to_train_on() -> None:
    head = ASPPHead(4, 2, Geometry.IDENTITY, stride=1)
    features = Features({1: torch.zeros(1, 4, 6, 6)}, (6, 6))
    with pytest.raises(ValueError, match=r"needs two images while training. Train with batches of at least two"):
        head(features)
    assert head.eval()(features).shape == (1, 2, 6, 6)


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_stretched_lraspp_head_is_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.lraspp.LRASPPHead(7, 32, 5, 128).eval().double()
    random_norms(theirs)
    ours = LRASPPHead({8: 7, 16: 32}, 5, grids(RESNET), upsampling="stretch").eval().double()
    names = {"cbr.0": "conv", "cbr.1": "norm", "scale": "gate"}
    names |= {"low_classifier": "score.8", "high_classifier": "score.16"}
    state = theirs.state_dict()
    for theirs_prefix, own in names.items():
        state = {key.replace(f"{theirs_prefix}.", f"{own}.", 1): value for key, value in state.items()}
    ours.load_state_dict(state)
    low, high = (torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)).double() for c, s in ((7, 8), (32, 16)))
    with torch.no_grad():
        expected = theirs({"low": low, "high": high})
        assert_close(ours(Features({8: low, 16: high}, size)), expected, varying=(0, 2, 3))


@pytest.mark.parametrize("centers", [VGG_SAME, RESNET])
def test_lraspp_head_sums_its_scores_at_the_same_place_of_the_image(centers: dict[int, float]) -> None:
    """Coarse features that are the x (or y) coordinate of their cells give fine scores that are a multiple of it."""
    head = LRASPPHead({8: 1, 16: 2}, 2, grids(centers)).eval().double()
    nn.init.zeros_(head.conv.weight)
    head.conv.weight.data[:2, :, 0, 0] = torch.eye(2)
    nn.init.zeros_(head.gate[1].weight)  # sigmoid(0) = 1/2
    head.score["16"].weight.data[:, :2, 0, 0] = torch.eye(2)
    y, x = (torch.arange(n) * 16 + centers[16] for n in (8, 10))
    coarse = torch.stack([y[:, None].expand(8, 10), x[None].expand(8, 10)])[None].double()
    scores = head(Features({8: torch.zeros(1, 1, 16, 20).double(), 16: coarse}, (128, 160)))
    assert head.geometry.stride == (8, 8)
    assert head.geometry.global_context
    inner = slice(2, -2)
    y, x = (torch.arange(n) * 8 + centers[8] for n in (16, 20))
    # a batch norm divides by the root of 1 + its epsilon
    assert_close(scores[0, 0, inner, 3], y[inner].double() / 2, rel=1e-5)
    assert_close(scores[0, 1, 3, inner], x[inner].double() / 2, rel=1e-5)


@pytest.mark.parametrize("centers", [VGG_SAME, RESNET])
def test_ladder_head_brings_its_features_to_the_same_place_of_the_image(centers: dict[int, float]) -> None:
    """Coarse features that are the y (or x) coordinate of their cells come out as that of the fine cells."""
    head = LadderHead(dict.fromkeys((16, 8, 4), 2), 2, grids(centers), strides=(16, 8, 4), inner=2).eval().double()
    for block in (*head.lateral.values(), *head.blend.values()):
        kernel = block[0].weight  # type: ignore[index]
        nn.init.dirac_(kernel)
    head.score["4"].weight.data[:, :, 0, 0] = torch.eye(2)
    y, x = (torch.arange(n) * 16 + centers[16] for n in (8, 10))
    coarse = torch.stack([y[:, None].expand(8, 10), x[None].expand(8, 10)])[None].double()
    maps = {16: coarse, 8: torch.zeros(1, 2, 16, 20).double(), 4: torch.zeros(1, 2, 32, 40).double()}
    scores = head(Features(maps, (128, 160)))
    assert head.geometry.stride == (4, 4)
    assert not head.geometry.global_context
    inner = slice(6, -6)
    y, x = (torch.arange(n) * 4 + centers[4] for n in (32, 40))
    # four batch norms divide by the root of 1 + their epsilon
    assert_close(scores[0, 0, inner, 9], y[inner].double(), rel=1e-4)
    assert_close(scores[0, 1, 9, inner], x[inner].double(), rel=1e-4)


def switches_of(x: Tensor, poolings: int) -> tuple[Tensor, dict[int, Switch]]:
    switches = {}
    for power in range(1, poolings + 1):
        before = (x.shape[2], x.shape[3])
        x, positions = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        switches[2**power] = Switch(positions, before)
    return x, switches


@pytest.mark.parametrize("size", [(23, 15), (1, 1), (360, 480), (7, 2)])
def test_unpooling_decoder_gives_the_size_of_the_image(size: tuple[int, int]) -> None:
    channels = dict.fromkeys((2, 4, 8, 16, 32), 4)
    head = filled(
        UnpoolHead(channels, 3, depths={2: 1, 4: 2, 8: 3, 16: 3, 32: 3}, geometry=Geometry.IDENTITY.conv(32, stride=32))
    ).eval()
    x, switches = switches_of(torch.rand(1, 4, *size), 5)
    assert head(Features({32: x}, size, switches)).shape == (1, 3, *size)


def test_unpooling_decoder_without_convolutions_puts_maxima_back() -> None:
    torch.manual_seed(0)
    head = UnpoolHead({2: 3, 4: 3}, 3, depths={2: 0, 4: 0}, geometry=Geometry.IDENTITY.conv(4, stride=4))
    head.score["1"].weight.data = torch.eye(3)[:, :, None, None]
    image = torch.rand(1, 3, 13, 10)
    pooled, switches = switches_of(image, 2)
    restored = head(Features({4: pooled}, (13, 10), switches))
    kept = restored != 0
    assert int(kept.sum()) == pooled.numel()
    assert torch.equal(restored[kept], image[kept])


@pytest.fixture(scope="module")
def vgg_same() -> Backbone:
    torch.manual_seed(0)
    return NarrowVGG("same").eval()


def test_at_once_scales_act_on_features_and_not_on_biases(vgg_same: Backbone) -> None:
    geometry = vgg_same.geometry
    scaled = filled(SkipHead(vgg_same.channels, 3, geometry, scales={16: 0.01, 8: 0.0001}))
    unscaled = filled(SkipHead(vgg_same.channels, 3, geometry))
    features = vgg_same(torch.randn(1, 3, 64, 96))
    by_hand = Features({32: features[32], 16: features[16] * 0.01, 8: features[8] * 0.0001}, features.size)
    assert_close(scaled(features), unscaled(by_hand))


def test_score_layers_start_at_zero_with_a_gradient() -> None:
    layer = score_layer(8, 3)
    layer(torch.randn(1, 8, 4, 4)).square().sum().backward()
    assert layer.weight.abs().sum() + layer.bias.abs().sum() == 0  # type: ignore[union-attr]
    layer(torch.randn(1, 8, 4, 4)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_errors_name_argument_rule_and_remedy() -> None:
    geometry, channels = grids(VGG_SAME), dict.fromkeys(VGG_SAME, 8)
    with pytest.raises(ValueError, match=r"strides=\(16, 32\) must be one or more strides, coarsest first"):
        SkipHead(channels, 3, geometry, (16, 32))
    with pytest.raises(ValueError, match=r"no features of stride 64. Choose from \[4, 8, 16, 32\]"):
        SkipHead(channels, 3, geometry, (64, 32))
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        SkipHead(channels, 0, geometry)
    with pytest.raises(ValueError, match=r"scales={4: 0.1}: stride 4 is not scored"):
        SkipHead(channels, 3, geometry, scales={4: 0.1})
    with pytest.raises(
        ValueError, match=r"upsampling='nearest' is not known. Choose 'bilinear', 'learned' or 'frozen'"
    ):
        SkipHead(channels, 3, geometry, upsampling="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"padding='valid' is not known. Choose 'same' or 'paper'"):
        SkipHead(channels, 3, geometry, padding="valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"padding='paper' crops whole cells.*Use a backbone with padding='paper'"):
        SkipHead(channels, 3, geometry, padding="paper")
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        PlainHead(8, 0, geometry[32])
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        ASPPHead(8, 0, geometry[8])
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        LRASPPHead(channels, 0, geometry)
    with pytest.raises(ValueError, match=r"strides=\(8, 16\) must be a coarse and a fine one of \[4, 8, 16, 32\]"):
        LRASPPHead(channels, 3, geometry, (8, 16))
    with pytest.raises(ValueError, match=r"upsampling='learned' is not known. Choose 'bilinear' or 'stretch'"):
        LRASPPHead(channels, 3, geometry, upsampling="learned")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_classes=0 must be at least 1"):
        LadderHead(channels, 0, geometry)
    for strides in ((8,), (8, 16), (16, 5)):
        with pytest.raises(ValueError, match=r"must be two or more of \[4, 8, 16, 32\], coarsest first"):
            LadderHead(channels, 3, geometry, strides)
    with pytest.raises(ValueError, match=r"strides must halve down to 2"):
        UnpoolHead({8: 4, 4: 4}, 3, depths={8: 1, 4: 1}, geometry=geometry[8])
    with pytest.raises(ValueError, match=r"must give a number of convolutions for each of the strides"):
        UnpoolHead({2: 4}, 3, depths={4: 1}, geometry=geometry[8])
    with pytest.raises(ValueError, match=r"needs the 8 channels of its pooling, not 4"):
        UnpoolHead({2: 8, 4: 4}, 3, depths={2: 1, 4: 0}, geometry=geometry[4])
    head = UnpoolHead({2: 4}, 3, depths={2: 1}, geometry=geometry[4])
    with pytest.raises(ValueError, match=r"no switches of stride 2. Build the backbone with switches=True"):
        head(Features({2: torch.zeros(1, 4, 2, 2)}, (4, 4)))

"""Stride, receptive field and center: measured on networks, held against what their outputs depend on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fullyconv.geometry import Geometry, crop_offset, measure
from fullyconv.geometry.dispatch import WithoutData

IMAGE = Geometry.IDENTITY


class Apply(nn.Module):
    """Turn a function of a map, and the modules it uses, into a module."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def positive(network: nn.Module) -> nn.Module:
    """Make weights positive, so that no two paths from a pixel to a cell cancel; nothing else lets pixels vanish."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.weight.data.uniform_(0.5, 1.0)
            if module.bias is not None:
                module.bias.data.zero_()
    return network.eval().double()


def depends(network: nn.Module, size: tuple[int, int], axis: int) -> Tensor:
    """Find which cells along one axis have a gradient at which pixels: (cells, pixels), of a linear network."""
    image = torch.ones(1, 2, *size, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    rows = scores.sum((0, 1, 3 - axis))
    each = torch.eye(len(rows), dtype=torch.float64)
    (gradients,) = torch.autograd.grad(rows, image, each, is_grads_batched=True)
    return gradients.sum((1, 2, 4 - axis)) > 0


def check_against_gradients(network: nn.Module, size: tuple[int, int], tight: bool) -> bool:
    """Compare the measured window with the gradients of all cells that lie within the image; False if none does."""
    geometry = measure(network, size, in_channels=2)
    for axis in (0, 1):
        first, last, stride = geometry.first[axis], geometry.last[axis], geometry.stride[axis]
        seen = depends(network, size, axis)
        low, high = [], []
        for cell, pixels in enumerate(seen):
            if first + stride * cell < -1e-6 or last + stride * cell > size[axis] - 1 + 1e-6:
                continue
            found = pixels.nonzero().flatten()
            if not len(found):  # its pixels were cropped away and replaced by padding
                continue
            low.append(found.min().item() - stride * cell)
            high.append(found.max().item() - stride * cell)
        if len(low) < max(1, round(1 / stride)):  # all phases of an upsampled map are needed for its envelope
            return False
        assert min(low) >= first - 1e-6, (axis, geometry, network)
        assert max(high) <= last + 1e-6, (axis, geometry, network)
        if tight:
            assert min(low) == pytest.approx(first, abs=1e-6), (axis, geometry, network)
            assert max(high) == pytest.approx(last, abs=1e-6), (axis, geometry, network)
    return True


def space_to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x[..., : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def random_layer(pick: random.Random, c: int) -> tuple[nn.Module, int, float]:
    """Draw a layer for c channels: the layer, its channels, its stride."""
    k, s, d = (pick.randint(1, 4), pick.randint(1, 5)), (pick.randint(1, 2), pick.randint(1, 2)), pick.randint(1, 2)
    p = (pick.randint(0, 2), pick.randint(0, 2))
    odd = pick.choice((1, 3, 5))
    kind = pick.randrange(14)
    if kind <= 2:
        return nn.Conv2d(c, 3 - c % 2, k, s, p, d), 3 - c % 2, max(s)
    if kind == 3:
        return nn.AvgPool2d(k, s, (min(p[0], k[0] // 2), min(p[1], k[1] // 2))), c, max(s)
    if kind == 4:
        step = (pick.randint(1, 3), pick.randint(1, 3))
        kernel = (step[0] + pick.randint(0, 2), step[1] + pick.randint(0, 2))
        return nn.ConvTranspose2d(c, 2, kernel, step, padding=(pick.randint(0, 1), 0)), 2, 1 / max(step)
    if kind == 5:
        pads = [pick.randint(0, 2), pick.randint(-1, 2), pick.randint(-1, 2), pick.randint(0, 2)]
        return Apply(lambda x: F.pad(x, pads)), c, 1
    if kind == 6:
        a, b = pick.randint(0, 3), pick.randint(1, 3)
        return Apply(lambda x: x[:, :, a:-b, b:]), c, 1
    if kind == 7:
        mode = pick.choice(("bilinear", "nearest", "nearest-exact"))
        return Apply(lambda x: F.interpolate(x, scale_factor=2, mode=mode)), c, 0.5
    if kind == 8:
        return Apply(lambda x, f: x + f(x), nn.Conv2d(c, c, odd, padding=odd // 2)), c, 1
    if kind == 9:
        one, other = nn.Conv2d(c, 2, 3, s, 1), nn.Conv2d(c, 1, 1, s)
        return Apply(lambda x, f, g: torch.cat([f(x), g(x)], 1), one, other), 3, max(s)
    if kind == 10:  # channels last
        return Apply(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(c, 2)), 2, 1
    if kind == 11:
        return Apply(space_to_depth), 4 * c, 2
    if kind == 12:
        return Apply(lambda x, f: depth_to_space(f(x)), nn.Conv2d(c, 4, 1)), 1, 0.5
    return Apply(lambda x, f: f(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(x.shape), nn.Linear(c, c)), c, 1


@pytest.mark.parametrize("seed", range(40))
def test_measured_window_is_where_the_gradients_are_for_any_chain_of_layers(seed: int) -> None:
    torch.manual_seed(seed)
    pick = random.Random(seed)
    checked = False
    while not checked:  # most draws have a cell within the image; one that has none proves nothing and is drawn again
        layers, c, stride, upsampled, tight = [], 2, 1.0, False, True
        for _ in range(pick.randint(2, 5)):
            layer, c, step = random_layer(pick, c)
            layers.append(layer)
            stride *= step
            # the window of an upsampled map is the one around all phases, of which a later step leaves some out
            upsampled = upsampled or step < 1
            tight = tight and not (upsampled and step > 1)
        if stride > 8:
            continue
        try:
            network = positive(nn.Sequential(*layers))
            network(torch.zeros(1, 2, 37, 41, dtype=torch.float64))
        except RuntimeError:  # crops or kernels larger than the map
            continue
        checked = check_against_gradients(network, (37, 41), tight)


def test_hand_written_rules_are_what_measuring_finds() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 5), (2, 1), (1, 0), (2, 3)), nn.MaxPool2d(3, 2, 1))
    expected = IMAGE.conv((3, 5), (2, 1), (1, 0), (2, 3)).conv(3, 2, 1)
    assert measure(network, 64, in_channels=1) == expected
    network = nn.Sequential(nn.Conv2d(1, 1, 4, 4), nn.ConvTranspose2d(1, 1, 4, 2, 1))
    assert measure(network, 64, in_channels=1) == IMAGE.conv(4, 4).transposed_conv(4, 2, 1)
    network = nn.ZeroPad2d((1, 2, 3, 4))
    assert measure(network, 64) == IMAGE.pad(((3, 4), (1, 2)))


def test_identity_has_one_cell_per_pixel() -> None:
    assert measure(nn.Identity(), 7) == IMAGE
    assert IMAGE.window(3, 5) == ((3, 3), (5, 5))
    assert IMAGE.first == IMAGE.last == (0.0, 0.0)


def test_cropping_undoes_padding_but_not_the_fact_of_it() -> None:
    there_and_back = IMAGE.pad(3).pad(-3)
    assert there_and_back.center == (0, 0)
    assert there_and_back.padded
    assert not IMAGE.pad(-3).padded


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_transposed_convolution_puts_bilinear_cells_where_interpolation_does(factor: int) -> None:
    kernel = 2 * factor - factor % 2
    map = Geometry((32, 32), (15.5, 15.5), (64, 64))
    up = map.transposed_conv(kernel, factor, (kernel - factor) // 2)
    network = nn.Sequential(
        nn.Conv2d(1, 1, 32, 32), Apply(lambda x: F.interpolate(x, scale_factor=factor, mode="bilinear"))
    )
    measured = measure(network, 320, in_channels=1)
    assert up.center == pytest.approx(measured.center)
    assert up.stride == pytest.approx(measured.stride)


def test_interpolation_to_a_size_has_the_stride_that_comes_out() -> None:
    network = Apply(lambda x, f: F.interpolate(f(x), size=x.shape[-2:], mode="bilinear"), nn.Conv2d(3, 1, 32, 32))
    geometry = measure(network, (320, 640))
    assert geometry.stride == (1, 1)
    assert geometry.center == pytest.approx((0, 0))
    corners = Apply(
        lambda x, f: F.interpolate(f(x), size=x.shape[-2:], mode="bilinear", align_corners=True), nn.Conv2d(3, 1, 1, 32)
    )
    geometry = measure(corners, 321)
    assert geometry.stride == (1, 1)
    assert geometry.center == pytest.approx((0, 0))


# Networks of the literature

CENTERS = {  # stride, receptive field and center of the backbone
    "vgg16": (32, 212, 15.5),
    "resnet18": (32, 435, 0.0),
    "googlenet": (32, 379, 22.0),
    "mobilenet_v2": (32, 491, 0.0),
    "alexnet": (32, 195, 31.0),
    "squeezenet1_1": (16, 207, 15.0),
    "convnext_tiny": (32, 1688, 15.5),
}


def backbone(name: str) -> nn.Module:
    with torch.device("meta"):
        settings = {"init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, **settings)
    if hasattr(model, "features"):
        return model.features
    stop = ("aux1", "aux2", "avgpool", "dropout", "fc")
    return nn.Sequential(*(module for key, module in model.named_children() if key not in stop))


@pytest.mark.parametrize("name", CENTERS)
def test_backbones_of_the_literature_have_their_known_geometry(name: str) -> None:
    stride, field, center = CENTERS[name]
    geometry = measure(backbone(name), 224)
    assert geometry.stride == (stride, stride)
    assert geometry.receptive_field == (field, field)
    assert geometry.center == (center, center)
    assert geometry.padded
    assert not geometry.global_context


@pytest.mark.parametrize(
    ("kernel", "window", "field", "center"), [(7, "vgg16", 404, 111.5), (6, "alexnet", 355, 111.0)]
)
def test_fully_connected_layer_as_convolution_sees_the_window_of_the_classifier(
    kernel: int, window: str, field: int, center: float
) -> None:
    geometry = measure(backbone(window), 256).conv(kernel)
    assert geometry.receptive_field == (field, field)
    assert geometry.center == (center, center)


def vgg_backbone() -> dict[str, Geometry]:
    """Compose VGG-16 by hand, with the padding of 100 pixels that the reference gives its first convolution."""
    map, pools, padding = IMAGE, {}, 100
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        for _ in range(convolutions):
            map, padding = map.conv(3, padding=padding), 1
        map = pools[f"pool{stage}"] = map.conv(2, stride=2)
    pools["fc7"] = map.conv(7).conv(1)
    return pools


def test_crop_offsets_of_the_paper_come_out_for_vgg() -> None:
    maps = vgg_backbone()
    upscore = maps["fc7"].transposed_conv(64, stride=32)
    assert crop_offset(IMAGE, upscore) == (19, 19)  # FCN-32s

    upscore2 = maps["fc7"].transposed_conv(4, stride=2)
    assert crop_offset(upscore2, maps["pool4"]) == (5, 5)
    fused = upscore2  # the crop puts pool4 on the cells of upscore2
    assert crop_offset(IMAGE, fused.transposed_conv(32, stride=16)) == (27, 27)  # FCN-16s

    upscore_pool4 = fused.transposed_conv(4, stride=2)
    assert crop_offset(upscore_pool4, maps["pool3"]) == (9, 9)
    assert crop_offset(IMAGE, upscore_pool4.transposed_conv(16, stride=8)) == (31, 31)  # FCN-8s


def test_crop_offset_of_the_paper_comes_out_for_alexnet() -> None:
    map = IMAGE.conv(11, 4, padding=100).conv(3, 2).conv(5, padding=2).conv(3, 2)
    map = map.conv(3, padding=1).conv(3, padding=1).conv(3, padding=1).conv(3, 2).conv(6)
    assert crop_offset(IMAGE, map.transposed_conv(63, stride=32)) == (18, 18)


def test_vgg_cells_lie_at_the_middle_and_resnet_cells_at_the_corner_of_their_stride() -> None:
    vgg, resnet = (measure(backbone(name), 224) for name in ("vgg16", "resnet18"))
    assert vgg.centers(2, 3) == ([15.5, 47.5], [15.5, 47.5, 79.5])
    assert resnet.centers(2, 1) == ([0.0, 32.0], [0.0])


# What sees the entire map


def squeeze_excite(x: Tensor, f: nn.Module) -> Tensor:
    return x * torch.sigmoid(f(x.mean((2, 3), keepdim=True)))


GLOBAL = {
    "squeeze_excite": Apply(squeeze_excite, nn.Conv2d(4, 4, 1)),
    "instance norm": nn.InstanceNorm2d(4),
    "group norm": nn.GroupNorm(2, 4),
    "attention": Apply(
        lambda x: (
            F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)[:, None]] * 3)[:, 0]
            .transpose(1, 2)
            .reshape(x.shape)
        )
    ),
    "written attention": Apply(
        lambda x: (x.flatten(2) @ (x.flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(-1)).view(x.shape)
    ),
    "tokens mixed": Apply(lambda x, f: f(x.flatten(2)).view(x.shape), nn.Linear(64, 64)),
    "roll": Apply(lambda x: x.roll(1, 2)),
    "circular padding": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "unknown": Apply(lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real),
    "softmax over cells": Apply(lambda x: x.flatten(2).softmax(-1).view(x.shape)),
    "adaptive pooling": Apply(lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 2), size=x.shape[2:])),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_what_sees_the_entire_map_is_flagged(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), GLOBAL[name], nn.Conv2d(4, 4, 1))
    geometry = measure(network, 32)
    assert geometry.global_context
    if name != "circular padding":  # which torch composes of writing into an empty map
        assert geometry.stride == (4, 4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        Apply(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(4)),
        Apply(lambda x, f, g: g(f(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), nn.Linear(4, 6), nn.Linear(6, 4)),
        Apply(lambda x: x.softmax(1)),
        Apply(lambda x: x * x.mean(1, keepdim=True)),
        Apply(lambda x: torch.cat([part.relu_() for part in x.chunk(2, 1)], 1)),
        Apply(lambda x: x.view(1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)),
        nn.ChannelShuffle(2),
        nn.PReLU(4),
        nn.Dropout2d(),
        Apply(lambda x: x[:, [3, 1, 0, 2]]),
        Apply(lambda x: torch.stack([x, x.clone()], 0).sum(0)),
        Apply(lambda x: torch.einsum("nchw,cd->ndhw", x, torch.ones(4, 4))),
    ],
    ids=lambda layer: str(type(layer).__name__),
)
def test_what_works_cell_by_cell_leaves_the_geometry(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), layer)
    assert measure(network, 32) == IMAGE.conv(4, stride=4)


def test_attention_within_windows_sees_its_window() -> None:
    def attend(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        cut = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        mixed = (cut @ cut.transpose(1, 2)).softmax(-1) @ cut
        return x + mixed.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    geometry = measure(Apply(attend), 32)
    assert not geometry.global_context
    assert geometry.stride == (1, 1)
    assert geometry.first == (-3, -3)  # the last pixel of a window sees the first, three before it
    assert geometry.last == (3, 3)


def test_unfolded_patches_are_a_convolution() -> None:
    network = Apply(lambda x: F.unfold(x, 4, stride=2, padding=1))
    assert measure(network, 32) == IMAGE.conv(4, 2, 1)
    network = Apply(lambda x: x.unfold(2, 4, 2).unfold(3, 4, 2))
    assert measure(network, 32) == IMAGE.conv(4, 2)


def test_classifier_has_the_geometry_of_its_one_window() -> None:
    classifier = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    geometry = measure(classifier, 32)
    assert geometry.global_context
    assert geometry.window(0, 0) == ((0, 31), (0, 31))


def test_overhanging_window_of_rounded_up_pooling_counts_as_padding() -> None:
    pool = nn.MaxPool2d(2, ceil_mode=True)
    assert not measure(pool, 32).padded
    assert measure(pool, 33).padded


def test_pooling_with_positions_and_unpooling_come_back_to_the_pixels() -> None:
    def there_and_back(x: Tensor) -> Tensor:
        values, positions = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(values, positions, 2)

    geometry = measure(Apply(there_and_back), 32)
    assert geometry.stride == (1, 1)
    assert geometry.center == (0, 0)


def test_output_of_any_nesting_gives_geometries_of_that_nesting() -> None:
    class Pyramid(nn.Module):
        def forward(self, x: Tensor) -> dict[str | int, object]:
            half = F.max_pool2d(x, 2)
            return {2: half, "more": [F.max_pool2d(half, 2), (half, torch.ones(3))], "size": 7}

    measured = measure(Pyramid(), 32)
    half, quarter = IMAGE.conv(2, 2), IMAGE.conv(2, 2).conv(2, 2)
    assert measured == {2: half, "more": [quarter, (half, None)], "size": None}


# Manners


def test_measuring_leaves_the_module_as_it_was() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.last = self.drop(self.norm(self.conv(x)))
            return self.last

    module = Remembers()
    module.drop.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    ids = [id(p) for p in module.parameters()]
    assert measure(module, 32) == IMAGE.conv(3)
    assert [part.training for part in module.modules()] == modes
    assert [id(p) for p in module.parameters()] == ids
    assert not hasattr(module, "last")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.requires_grad for p in module.parameters())


def test_measuring_works_inside_inference_mode_and_in_half_precision() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)).half()
    with torch.inference_mode():
        assert measure(network, 32) == IMAGE.conv(3, stride=2)


def test_large_network_costs_no_arithmetic() -> None:
    network = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 4096, 4096, 1, device="meta") for i in range(4)))
    assert measure(network, 4096) == IMAGE  # 10**15 operations


def test_bad_arguments_are_refused_with_the_rule() -> None:
    with pytest.raises(ValueError, match="input_size=0: must be positive"):
        measure(nn.Identity(), 0)
    with pytest.raises(ValueError, match="in_channels=0: must be positive"):
        measure(nn.Identity(), 8, 0)
    with pytest.raises(ValueError, match="Conv2d does not run on an image of that size"):
        measure(nn.Conv2d(3, 4, 9), 4)
    with pytest.raises(ValueError, match="strides must be equal"):
        IMAGE.join(IMAGE.conv(2, 2))
    with pytest.raises(ValueError, match="must be one number or two"):
        IMAGE.conv((1, 2, 3))  # type: ignore[arg-type]


def test_failed_measurement_leaves_the_module_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 9))
    with pytest.raises(ValueError, match="does not run"):
        measure(network, 4)
    assert network.training
    assert network[0].training


def test_maps_of_drifting_strides_are_flagged() -> None:
    def drift(x: Tensor) -> Tensor:
        coarse = F.avg_pool2d(x, 4, ceil_mode=True)
        return x + F.interpolate(coarse, size=x.shape[2:], mode="bilinear")

    assert not measure(Apply(drift), 32).global_context
    assert measure(Apply(drift), 33).global_context
    assert math.isclose(measure(Apply(drift), 33).stride[0], 1)


@pytest.mark.parametrize("kernel", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(("padding", "dilation", "groups"), [(0, 1, 1), (2, 1, 2), (1, 2, 1)])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_without_data_a_convolution_has_the_size_that_it_has_with_data(
    layer: type[nn.Module], kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    options = {"output_padding": stride - 1} if "Transpose" in layer.__name__ else {}
    made = layer(4, 6, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, **options)
    x = torch.rand(2, 4, *[11, 14][: 1 if "1d" in layer.__name__ else 2])
    with WithoutData():
        found = made(x)
    assert found.shape == made(x).shape


@pytest.mark.parametrize(("size", "channels"), [((2, 9), 4), ((9, 9), 3)])
def test_without_data_a_convolution_that_cannot_run_says_what_torch_says(size: tuple[int, int], channels: int) -> None:
    layer, x = nn.Conv2d(4, 6, 5), torch.rand(1, channels, *size)
    with WithoutData(), pytest.raises(RuntimeError, match=r"Kernel size|hannel"):
        layer(x)

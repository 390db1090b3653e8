"""Denser scores: a classifier slid over the image, shift-and-stitch and dilation give one answer."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from closeness import assert_close, assert_same_tensors
from fullyconv.conversion import DenseClassifier, atrous, convolutionalize, shift_and_stitch, sliding_window
from fullyconv.conversion.dense import SpreadPool
from fullyconv.errors import ConversionError
from fullyconv.geometry import measure

PLACES = (2, 3)  # axes over which scores have to vary


class Lenet(nn.Module):
    """The user's own network: no padding, poolings called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 60), nn.Linear(60, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


def unpadded_alexnet(pool: nn.Module) -> nn.Sequential:
    """AlexNet with a tenth of its channels and without padding: stride 32, 163 pixels to a cell."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 11, 4),
        nn.ReLU(),
        pool,
        nn.Conv2d(8, 16, 5),
        nn.ReLU(),
        copy.deepcopy(pool),
        nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 16, 3),
        nn.ReLU(),
        copy.deepcopy(pool),
    )


def awake(network: nn.Module, image: Tensor) -> nn.Module:
    """Let the scores depend on the image: spread-out weights, batch norm calibrated on the image."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.eval()
    with torch.no_grad():
        network(image)
    return network.eval()


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Without padding, three ways give one answer


def test_lenet_at_every_pixel_is_the_classifier_slid_over_the_image(noise: torch.Generator) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 1, 43, 47, generator=noise)
    lenet = awake(Lenet(), image[:, :, :32, :32])
    dense = convolutionalize(lenet, 32, in_channels=1)
    with torch.no_grad():
        for stride in (4, 2, 1):
            truth = sliding_window(lenet, image, 32, stride, batch_size=50)
            assert_close(atrous(dense, stride)(image), truth, varying=PLACES)
            assert_close(shift_and_stitch(dense, image, stride), truth, varying=PLACES)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2)], ids=["max", "average"])
@pytest.mark.parametrize("stride", [16, 8, 4])
def test_dilation_equals_shift_and_stitch_on_alexnet_without_padding(
    pool: nn.Module, stride: int, noise: torch.Generator
) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 275, 243, generator=noise)
    network = awake(unpadded_alexnet(pool), image)
    network.append(nn.Conv2d(16, 5, 2))
    with torch.no_grad():
        stitched = shift_and_stitch(network, image, stride)
        assert_close(atrous(network, stride)(image), stitched, varying=PLACES)
    assert stitched.shape[2:] == ((275 - 195) // stride + 1, (243 - 195) // stride + 1)


def test_alexnet_without_padding_at_stride_8_is_the_classifier_slid_over_the_image(noise: torch.Generator) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 211, 235, generator=noise)
    backbone = unpadded_alexnet(nn.MaxPool2d(3, 2))
    classifier = awake(
        nn.Sequential(backbone, nn.Flatten(), nn.Linear(16 * 4, 12), nn.ReLU(), nn.Linear(12, 7)),
        image[..., :195, :195],
    )
    dense = convolutionalize(classifier, 195)
    assert dense.guarantee == "window"
    with torch.no_grad():
        assert_close(atrous(dense, 8)(image), sliding_window(classifier, image, 195, 8), varying=PLACES)


def test_a_stride_per_axis_can_be_stitched(noise: torch.Generator) -> None:
    network = nn.Conv2d(1, 2, 4, stride=4)
    image = torch.randn(1, 1, 19, 17, generator=noise)
    with torch.no_grad():
        expected = F.conv2d(image, network.weight, network.bias, stride=(2, 1))
        assert_close(shift_and_stitch(network, image, (2, 1)), expected, varying=PLACES)


@pytest.mark.parametrize("size", [8, 9, 10, 11, 12])
def test_stitched_grid_has_no_gaps_where_some_shifts_have_no_window(size: int, noise: torch.Generator) -> None:
    network = nn.Conv2d(1, 2, 8, stride=4)
    image = torch.randn(1, 1, size, size, generator=noise)
    with torch.no_grad():
        expected = F.conv2d(image, network.weight, network.bias)
        found = shift_and_stitch(network, image, 1)
    assert_close(found, expected)


# With padding, the scores of the coarse grid are among the dense ones


def backbone(name: str) -> nn.Module:
    settings = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **settings)
    if hasattr(model, "features"):
        return model.features
    return nn.Sequential(*(part for key, part in model.named_children() if key not in ("avgpool", "dropout", "fc")))


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 8), ("vgg11_bn", 8), ("mobilenet_v2", 16), ("googlenet", 8)])
def test_coarse_scores_of_a_padded_network_are_every_other_dense_one(
    name: str, stride: int, noise: torch.Generator
) -> None:
    torch.manual_seed(0)
    images = [torch.randn(1, 3, *size, generator=noise) for size in ((96, 64), (69, 107))]
    network = awake(backbone(name), images[0])
    diluted = atrous(network, stride)
    before, after = measure(network, 256), measure(diluted, 256)
    assert after.stride == (stride, stride)
    assert after.center == before.center
    assert after.receptive_field == before.receptive_field
    factor = 32 // stride
    with torch.no_grad():
        for image in images:
            assert_close(diluted(image)[:, :, ::factor, ::factor], network(image), varying=PLACES)


def test_network_of_the_wanted_stride_is_left_as_it_is(noise: torch.Generator) -> None:
    network = unpadded_alexnet(nn.MaxPool2d(3, 2)).eval()
    image = torch.randn(1, 3, 227, 227, generator=noise)
    with torch.no_grad():
        assert_close(atrous(network, 32)(image), network(image))


# What becomes of the network


def test_diluted_classifier_keeps_keys_and_weights_and_tells_its_new_grid() -> None:
    dense = convolutionalize(torchvision.models.resnet18(num_classes=4), 64)
    diluted = atrous(dense, 8)
    assert isinstance(diluted, DenseClassifier)
    assert list(diluted.state_dict()) == list(dense.state_dict())
    assert all(a is b for a, b in zip(diluted.parameters(), dense.parameters(), strict=True))
    assert diluted.geometry.stride == (8, 8)
    assert diluted.geometry.center == dense.geometry.center
    assert diluted.geometry.receptive_field == dense.geometry.receptive_field
    assert "8 x 8 pixels from one score to the next" in str(diluted.report)
    image = torch.zeros(1, 3, 128, 96)
    with torch.no_grad():
        assert diluted.eval()(image).shape[2:] == diluted.grid(128, 96) == (12, 8)
        again = pickle.loads(pickle.dumps(diluted))
        assert_same_tensors(again, diluted)
        assert_close(again(image), diluted(image))
    assert dense.grid(128, 96) == (3, 2)
    assert dense.training  # eval() was for the diluted one


def test_gradients_reach_the_shared_weights_through_the_diluted_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 2, 3))
    atrous(network, 1)(torch.rand(1, 1, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


POOLS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, 2, ceil_mode=True),
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d((3, 2), (1, 3), (1, 0), dilation=(2, 1)),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d((2, 3), (2, 1), divisor_override=5),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_spread_pooling_has_every_window_of_the_pooling_of_the_coarse_map(pool: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for h, w in itertools.product((13, 14, 15, 16), (17, 19)):
        for spread in ((1, 1), (2, 2), (3, 2)):
            fine = torch.randn(1, 2, h, w, generator=generator)
            expected = pool(fine[..., :: spread[0], :: spread[1]])
            steps = pool.stride if isinstance(pool.stride, tuple) else (pool.stride, pool.stride)
            found = SpreadPool(pool, (1, 1), spread)(fine)[..., :: spread[0] * steps[0], :: spread[1] * steps[1]]
            assert_close(found, expected)


class Forward(nn.Module):
    """Do something in forward itself."""

    def __init__(self, function: object, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)  # type: ignore[no-any-return, operator]


REFUSED = {
    r"dense\.1 \(Forward\): cannot be diluted to stride=1: its forward gives": Forward(lambda x: F.max_pool2d(x, 2)),
    r"dense\.1 \(Forward\).*stride=\(2.* where .*was to be expected": Forward(lambda x: x[..., ::2, ::2]),
    r"dense\.1 \(Upsample\).*was to be expected": nn.Upsample(scale_factor=2),
    r"dense\.1 \(ReflectionPad2d\).*was to be expected": nn.ReflectionPad2d(1),
    r"dense\.1 \(Conv2d\).*padding_mode='replicate' has no spread form": nn.Conv2d(
        4, 4, 3, padding=1, padding_mode="replicate"
    ),
    r"dense\.1 \(ConvTranspose2d\).*was to be expected": nn.ConvTranspose2d(4, 4, 2, 2),
    r"dense\.1\.parts\.0 \(Conv2d\).*maps of several strides": Forward(
        lambda x, f: f(f(x)), nn.Conv2d(4, 4, 3, stride=2)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_diluted_is_refused_by_name(message: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), REFUSED[message], nn.Conv2d(4, 4, 2, stride=2))
    with pytest.raises(ConversionError, match=message):
        atrous(network, 1, input_size=64)


def test_convolution_that_pads_by_the_size_of_its_input_is_refused() -> None:
    class SamePadding(nn.Conv2d):  # as TensorFlow pads
        def forward(self, x: Tensor) -> Tensor:
            pads = []
            for n, k, s, d in zip(x.shape[:1:-1], self.kernel_size, self.stride, self.dilation, strict=True):
                total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                pads += [total // 2, total - total // 2]
            return self._conv_forward(F.pad(x, pads), self.weight, self.bias)

    network = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), SamePadding(4, 4, 3, stride=2), nn.Conv2d(4, 2, 1))
    with pytest.raises(ConversionError, match=r"dense\.1 \(SamePadding\): cannot be diluted to stride=1.*expected"):
        atrous(network, 1)


def test_grids_that_no_network_gives_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=6), nn.Conv2d(4, 4, 3, stride=2))
    for stride in (5, 24, 0):
        with pytest.raises(ValueError, match=rf"stride={stride}: must divide .*network, which is \(12, 12\)"):
            atrous(network, stride)
        with pytest.raises(ValueError, match=rf"stride={stride}: must divide"):
            shift_and_stitch(network, torch.zeros(1, 3, 64, 64), stride)
    with pytest.raises(ConversionError, match=r"dense\.1: .*input has stride 6, and one of the two must divide"):
        atrous(network, 4)
    with pytest.raises(ValueError, match=r"must return one map of scores"):
        atrous(Forward(lambda x, f: (f(x), f(x)), nn.Conv2d(3, 2, 2, 2)), 1)
    with pytest.raises(ValueError, match="in_channels=None: must be given"):
        atrous(nn.AvgPool2d(2), 1)
    assert atrous(nn.Sequential(nn.AvgPool2d(2)), 1, in_channels=1)(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 7, 7)


# The brute force


def test_sliding_window_is_the_classifier_on_every_crop(noise: torch.Generator) -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 5, 3))
    images = torch.randn(2, 2, 14, 13, generator=noise)
    scores = sliding_window(classifier, images, (6, 5), (4, 3), batch_size=5)
    assert scores.shape == (2, 3, 3, 3)
    with torch.no_grad():
        for n, i, j in itertools.product(range(2), range(3), range(3)):
            crop = images[n : n + 1, :, 4 * i : 4 * i + 6, 3 * j : 3 * j + 5]
            assert_close(scores[n, :, i, j], classifier(crop)[0])


def test_sliding_window_takes_a_vision_transformer(noise: torch.Generator) -> None:
    transformer = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5)
    nn.init.normal_(transformer.heads.head.weight)
    image = torch.randn(1, 3, 48, 40, generator=noise)
    scores = sliding_window(transformer, image, 32, 8)
    assert scores.shape == (1, 5, 3, 2)
    assert scores.std((2, 3)).min() > 0


def test_sliding_window_evaluates_without_leaving_a_trace(noise: torch.Generator) -> None:
    classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1))
    classifier[2].eval()
    image = torch.randn(1, 1, 12, 12, generator=noise)
    one = sliding_window(classifier, image, 8, 2, batch_size=1)
    all_at_once = sliding_window(classifier, image, 8, 2, batch_size=100)
    assert_close(one, all_at_once)
    assert not one.requires_grad
    assert [m.training for m in classifier] == [True, True, False, True]
    assert classifier[1].num_batches_tracked == 0


def test_sliding_window_says_what_is_wrong() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match=r"image=\(1, 8, 8\): must be \(N, C, H, W\)"):
        sliding_window(classifier, torch.zeros(1, 8, 8), 8, 1)
    with pytest.raises(ValueError, match=r"image=\(1, 1, 8, 7\): must be at least as large as window=\(8, 8\)"):
        sliding_window(classifier, torch.zeros(1, 1, 8, 7), 8, 1)
    with pytest.raises(ValueError, match="stride=0: must be positive"):
        sliding_window(classifier, torch.zeros(1, 1, 8, 8), 8, 0)
    with pytest.raises(ValueError, match="batch_size=0: must be positive"):
        sliding_window(classifier, torch.zeros(1, 1, 8, 8), 8, 1, batch_size=0)
    with pytest.raises(ValueError, match=r"classifier=Conv2d: must return \(N, K\) scores.*returned \(1, 2, 6, 6\)"):
        sliding_window(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8), 8, 1)

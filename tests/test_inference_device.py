"""Devices, precisions and batches: the masks are those of one image after the other on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils import backend_registration

import fullyconv
from closeness import assert_same_mask
from fullyconv import cli
from fullyconv.errors import DatasetError
from fullyconv.images import read_mask
from fullyconv.images.raster import Raster
from fullyconv.inference import batches, folder, processor
from fullyconv.inference.predict import segment
from fullyconv.inference.processor import device_of, emulates, free_memory
from fullyconv.inference.serving import Predictor
from fullyconv.labels import Labels

NAMES = ["a", "b", "c"]


def small(model: str = "fcn8s_resnet18_quarter") -> fullyconv.SegmentationModule:
    torch.manual_seed(0)
    segmenter = fullyconv.SegmentationModule(model, classes=NAMES).eval()
    for parameter in segmenter.model.get_submodule("head").parameters():  # which is zero at first
        nn.init.normal_(parameter, std=0.5)
    return segmenter


def noise(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images of two sizes in turns, and one that is broken."""
    (tmp_path / "photos").mkdir()
    for number in range(7):
        size = (40, 56) if number % 3 else (56, 40)
        Image.fromarray(noise(*size, number)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "3a.png").write_bytes(b"\x89PNG")
    return tmp_path / "photos"


# ---- devices --------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_here_is_an_error_that_names_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda': this machine has no .* write auto, or what is here: cpu$"):
        device_of("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert device_of("xpu:0") == torch.device("xpu", 0)
    for device in ("gpu", "cuda", "xpu:1"):
        with pytest.raises(ValueError, match=r"write auto, or what is here: cpu, xpu$"):
            device_of(device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"cpu, xpu:0, xpu:1$"):
        device_of("xpu:2")


@pytest.mark.parametrize("command", ["predict", "test", "validate", "fit", "serve"])
def test_every_command_that_computes_refuses_a_device_that_is_not_here(
    command: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    words: dict[str, list[object]] = {
        "predict": [photos, "--out", tmp_path / "m"], "serve": ["street"], "fit": [photos],
        "test": ["street", photos], "validate": ["street", photos],
    }  # fmt: skip
    if command == "fit":
        from conftest import write_tree

        words["fit"] = [write_tree(tmp_path / "own", {"train": 4, "val": 2}), "--out", tmp_path / "run"]
    assert cli.main([command, *map(str, words[command]), "--device", "cuda"]) == 2
    assert "write auto, or what is here: cpu" in capsys.readouterr().err


def test_an_exported_model_has_no_device(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x")
    words = ["predict", str(photos), "--model", str(tmp_path / "x.onnx"), "--out", str(tmp_path / "m")]
    assert cli.main([*words, "--device", "cuda"]) == 2
    assert "an exported model runs on the processor" in capsys.readouterr().err


def test_a_model_is_loaded_onto_the_accelerator_unless_another_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert fullyconv.load("cracks").device.type == "meta"
    assert fullyconv.load("cracks", device="cpu").device.type == "cpu"


def test_what_torch_keeps_of_a_device_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(
        mem_get_info=lambda device: (1000, 9000), memory_reserved=lambda device: 500,
        memory_allocated=lambda device: 200,
    )  # fmt: skip
    monkeypatch.setattr(torch, "get_device_module", lambda device: known)
    assert free_memory(torch.device("cuda")) == 1300
    apple = SimpleNamespace(recommended_max_memory=lambda: 1000, driver_allocated_memory=lambda: 400)
    monkeypatch.setattr(torch, "get_device_module", lambda device: apple)
    assert free_memory(torch.device("mps")) == 600


PRETEND = """
import json, sys
import numpy as np
import torch
import fullyconv
from pretend_device import DEVICE, MEMORY, Away, Mode
from fullyconv.geometry import Geometry
from fullyconv.images.raster import Raster
from fullyconv.inference.argmax import scaled_argmax, upsample_argmax
from fullyconv.inference.serving import Predictor
from test_inference_device import noise, small

torch.set_num_threads(1)
found = {}
grid, scores = Geometry((8, 8), (3.5, 3.5), (1, 1)), torch.randn(2, 21, 12, 16)
ways = {
    "upsample": lambda one: upsample_argmax(one, grid, (96, 128), route="torch"),
    "scaled": lambda one: scaled_argmax(one, grid, (96, 128), (40, 50)),
}
expected = {name: way(scores) for name, way in ways.items()}
with Mode():
    for name, way in ways.items():
        out = way(scores.to(DEVICE))
        found[name] = [isinstance(out, Away), torch.equal(out.cpu(), expected[name])]

segmenter = small()
predictor = Predictor(segmenter.model, segmenter.labels, segmenter.preprocessing)
images = [Raster(noise(40, 56, seed)) for seed in range(3)]
ways = {
    "one": lambda: [predictor.predict(one).mask for one in images],
    "batch": lambda: [one.mask for one in predictor.predict_batch(images)],
    "views": lambda: [predictor.predict(one, flip=True, scales=(0.5, 1.0)).mask for one in images],
    "tiles": lambda: [predictor.predict(Raster(noise(300, 400)), memory="40MB").mask],
}
expected = {name: way() for name, way in ways.items()}
with Mode():
    predictor.to(DEVICE)
    assert predictor.device == DEVICE
    for name, way in ways.items():
        same = [np.mean(one == other) for one, other in zip(way(), expected[name], strict=True)]
        found[name] = [True, bool(min(same) > 0.999)]
    MEMORY.free = 10_000_000
    try:
        predictor.predict(Raster(noise(1200, 1200)))
    except ValueError as error:
        found["memory"] = [True, "5.0 MB do not hold the smallest tile" in str(error)]
print("RESULT", json.dumps(found))
"""


def test_on_a_device_of_its_own_nothing_is_mixed_and_the_masks_are_those_of_the_processor() -> None:
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices written in Python")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-W", "ignore", "-c", PRETEND]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr
    found = json.loads(lines[0].removeprefix("RESULT "))
    names = {"upsample", "scaled", "one", "batch", "views", "tiles", "memory"}
    assert found == {name: [True, True] for name in names}


# ---- batches and workers --------------------------------------------------------------------------------------------


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many images are predicted at once."""
    noted: list[int] = []

    def noting(served: Any, sources: Any, options: Any) -> Any:
        noted.append(len(sources))
        return segment(served, sources, options)

    monkeypatch.setattr("fullyconv.inference.serving.segment", noting)
    return noted


def small_predictor() -> Predictor:
    segmenter = small()
    return Predictor(segmenter.model, segmenter.labels, segmenter.preprocessing)


def test_images_of_one_size_are_predicted_together_and_the_masks_are_those_of_one_by_one(
    photos: Path, tmp_path: Path, sizes: list[int]
) -> None:
    told: list[str] = []
    model = small_predictor()
    one = fullyconv.predict_folder(model, photos, tmp_path / "one", workers=1)
    assert sizes == [1] * 7
    sizes.clear()
    done = fullyconv.predict_folder(
        model, photos, tmp_path / "batch", batch=3, workers=2, progress=lambda what, *_: told.append(what.source.name)
    )
    assert sorted(sizes) == [1, 1, 2, 3]
    assert told == [f"{name}.png" for name in ("0", "1", "2", "3", "3a", "4", "5", "6")]
    assert [each.source.name for each in done.failed] == [each.source.name for each in one.failed] == ["3a.png"]
    for number in range(7):
        found, expected = (read_mask(tmp_path / out / f"{number}.png") for out in ("batch", "one"))
        assert len(np.unique(expected)) > 1
        assert_same_mask(found, expected)


def test_views_and_probabilities_are_made_one_by_one(photos: Path, tmp_path: Path, sizes: list[int]) -> None:
    model = small_predictor()
    for number, options in enumerate(({"flip": True}, {"scales": [0.5, 1.0]}, {"probabilities": "top"})):
        fullyconv.predict_folder(model, photos, tmp_path / str(number), batch=4, **options)  # type: ignore[arg-type]
    assert set(sizes) == {1}


def test_a_batch_that_memory_does_not_hold_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_predictor()
    images = [Raster(noise(64, 64, seed)) for seed in range(5)]
    network = model.network()
    passes: list[int] = []
    scores = model.model.scores
    monkeypatch.setattr(model, "_serving", lambda: model.model)
    monkeypatch.setattr(model.model, "scores", lambda image: passes.append(len(image)) or scores(image))
    expected = [model.predict(image).mask for image in images]
    each = 64 * 64 * (network.bytes_per_pixel() + 8 * 3)
    for room, wanted in ((2.5, [2, 2, 1]), (9.0, [5]), (1.3, [1, 1, 1, 1, 1])):
        passes.clear()
        found = model.predict_batch(images, memory=int(room * each))
        for mine, theirs in zip(found, expected, strict=True):
            assert_same_mask(mine.mask, theirs)
        assert passes == wanted


def test_heads_are_predicted_in_batches_too() -> None:
    torch.manual_seed(0)
    classes = {"what": ["a", "b"], "where": ["in", "out", "between"]}
    module = fullyconv.SegmentationModule("fcn32s_resnet18_quarter", classes=classes).eval()
    for parameter in module.model.get_submodule("head").parameters():
        nn.init.normal_(parameter, std=0.5)
    images = [Raster(noise(40, 56, seed)) for seed in range(2)]
    found = module.predict_batch(images)
    for one, image in zip(found, images, strict=True):
        expected = module.predict(image)
        assert one.keys() == expected.keys() == classes.keys()
        for head in classes:
            assert_same_mask(one[head].mask, expected[head].mask)


def test_a_class_that_predicts_in_its_own_way_has_the_last_word_in_batches() -> None:
    class Own(fullyconv.SegmentationModule):
        def predict(self, source: Any, **_: Any) -> Any:  # type: ignore[override]
            return "mine"

    assert Own("same_convolutions", classes=NAMES).predict_batch([Raster(noise(8, 8))] * 2) == ["mine", "mine"]


def test_readers_work_at_the_same_time_and_errors_stay_with_their_items() -> None:
    together = threading.Barrier(3, timeout=30)

    def read(item: int) -> int:
        if item < 3:
            together.wait()  # passes only if three are read at once
        if item == 4:
            raise DatasetError("four")
        return item

    def predict(items: Any, found: Any) -> Any:
        assert list(items) == list(found)
        if items[0] == 5:
            raise OSError("five")
        return [lambda: -items[0]]

    said = []
    for item, future in batches.run(range(7), read, predict, workers=3):
        error = future.exception()
        said.append((item, str(error) if error else future.result()))
    assert said == [(0, 0), (1, -1), (2, -2), (3, -3), (4, "four"), (5, "five"), (6, -6)]


@pytest.mark.parametrize(("option", "value"), [("batch", 0), ("workers", 0), ("batch", -1)])
def test_numbers_that_are_none_are_refused(option: str, value: int, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}"):
        fullyconv.predict_folder(small_predictor(), photos, tmp_path / "out", **{option: value})  # type: ignore[arg-type]


def test_an_accelerator_takes_batches_and_a_reader_a_core_by_itself(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "available_processors", lambda: 5)
    plan = folder.FolderPlan(photos, tmp_path / "out", folder.FolderOptions(), model="x")
    model = {"labels": Labels.of(["a", "b"]), "predict_to": None, "predict_batch": None}
    there, here = (SimpleNamespace(device=torch.device(name), **model) for name in ("cuda", "cpu"))
    for predictor, wanted in ((there, (folder.BATCH, 5)), (here, (1, 1)), (SimpleNamespace(**model), (1, 1))):
        assert folder._Work(plan, predictor, None)._at_once() == wanted


# ---- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_is_used_for_as_long_as_it_is_set(
    precision: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "emulates", lambda kind: False)
    model, seen = small_predictor(), set()
    conv = next(part for part in model.model.modules() if isinstance(part, nn.Conv2d))
    conv.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    plain = model.predict(photos / "1.png").mask
    assert seen == {torch.float32}
    seen.clear()
    fullyconv.predict_folder(model, photos, tmp_path / "out", precision=precision)
    assert seen == {getattr(torch, precision)}
    assert model.precision == "float32"
    assert_same_mask(read_mask(tmp_path / "out" / "1.png"), plain, ties=0.1)
    again = fullyconv.predict_folder(model, photos, tmp_path / "out")
    assert again.before == 0  # masks of another precision are made again


def test_a_precision_that_the_processor_only_emulates_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "emulates", lambda kind: kind == torch.bfloat16)
    segmenter = small()
    model = Predictor(segmenter.model, segmenter.labels, segmenter.preprocessing, precision="bfloat16")
    with pytest.warns(UserWarning, match="this processor only emulates torch.bfloat16"):
        found = model.predict(noise(40, 56)).mask
    assert np.array_equal(found, segmenter.predict(noise(40, 56)).mask)


def test_memory_is_measured_in_any_precision() -> None:
    segmenter = small()
    low, high = (
        Predictor(segmenter.model, segmenter.labels, segmenter.preprocessing, owner=nn.Identity(), precision=precision)
        for precision in ("bfloat16", "float32")
    )
    one, other = low.network(), high.network()
    assert one.bytes_per_pixel() == other.bytes_per_pixel() > 0


def test_a_precision_that_is_none_or_not_had_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision='int8': choose float32, bfloat16, float16"):
        small_predictor().precision = "int8"  # type: ignore[assignment]
    reads = SimpleNamespace(labels=Labels.of(NAMES), predict=lambda path: None)
    with pytest.raises(ValueError, match="precision='float16': a SimpleNamespace computes in its own"):
        fullyconv.predict_folder(reads, photos, tmp_path / "out", precision="float16")


@pytest.mark.parametrize(
    ("machine", "has", "emulated"),
    [
        ("x86_64", set(), {torch.bfloat16, torch.float16}),
        ("x86_64", {"_is_avx512_bf16_supported"}, {torch.float16}),
        ("AMD64", {"_is_amx_tile_supported", "_is_amx_fp16_supported"}, set()),
        ("aarch64", {"_is_mkldnn_bf16_supported"}, {torch.float16}),
        ("aarch64", {"_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"}, set()),
    ],
)
def test_what_a_processor_emulates_is_told_by_its_instructions(
    machine: str, has: set[str], emulated: set[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in has)
    kernels = {
        name: (lambda name=name: name in has) for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported")
    }
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**kernels))
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    assert {kind for kind in kinds if emulates.__wrapped__(kind)} == emulated

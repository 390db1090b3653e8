from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fullyconv.errors import WeightsError
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import pretrained

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOTS = ROOT / "tests" / "snapshots"

TENSORS = {
    "a.weight": np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4),
    "bn.running_mean": np.array([70000.0, 1e-9], dtype=np.float32),
    "bn.running_var": np.array([1e9, 2.0], dtype=np.float32),
    "bn.num_batches_tracked": np.array(7),
}
CONFIG = pretrained.Config(
    kind="segmenter",
    model={"model": "fcn8s_vgg16", "padding": "same", "upsampling": "bilinear", "in_channels": 3},
    labels={"names": ["sky", "road"], "palette": [[0, 0, 0], [1, 2, 3]], "ignore_index": 255},
    preprocessing={"mean": [0.5], "std": [0.5]},
    score={"data": "toy", "split": "test", "mean_iou": 12.5, "iou": {"sky": 12.5, "road": None}},
    license="research use",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pretrained.save(tmp_path / "toy", TENSORS, CONFIG)


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | changes))


def forge(folder: Path, raw: bytes) -> None:
    """Put other bytes in place of the weights, with a matching size and digest."""
    import hashlib

    (folder / "model.safetensors").write_bytes(raw)
    weights = {"file": "model.safetensors", "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "dtype": "x"}
    edit(folder, weights=weights)


def test_float32_comes_back_bit_for_bit(folder: Path) -> None:
    config, tensors = pretrained.load(folder)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
        assert tensors[name].shape == value.shape
    assert config.score == CONFIG.score
    assert config.license == "research use"


def test_a_configuration_of_older_words_is_read_as_that_of_today(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((SNAPSHOTS / "config_of_older_words.json").read_bytes())
    today = ROOT / "zoo" / "ladder_efficientnet_lite0.nuclei"
    assert pretrained.read_config(tmp_path) == pretrained.read_config(today)
    assert json.loads((today / "config.json").read_text()).keys() == {
        "format", "kind", "model", "labels", "preprocessing", "score", "license", "training", "weights", "parameters",
        "fullyconv",
    }  # fmt: skip


def test_float16_keeps_batch_norm_statistics_and_loads_as_float32(tmp_path: Path) -> None:
    _, tensors = pretrained.load(pretrained.save(tmp_path / "half", TENSORS, CONFIG, dtype="float16"))
    np.testing.assert_array_equal(tensors["bn.running_mean"], TENSORS["bn.running_mean"])
    np.testing.assert_array_equal(tensors["bn.running_var"], TENSORS["bn.running_var"])
    np.testing.assert_array_equal(tensors["a.weight"], TENSORS["a.weight"].astype(np.float16).astype(np.float32))
    assert {str(v.dtype) for k, v in tensors.items() if k != "bn.num_batches_tracked"} == {"float32"}


def test_a_value_that_does_not_fit_half_precision_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tensor 'w' holds values that are not finite in it.*float32"):
        pretrained.save(tmp_path / "big", {"w": np.array([1e6], dtype=np.float32)}, CONFIG, dtype="float16")
    assert not (tmp_path / "big").exists()


def test_strided_arrays_are_stored(tmp_path: Path) -> None:
    strided = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    _, tensors = pretrained.load(pretrained.save(tmp_path / "s", {"w": strided}, CONFIG))
    np.testing.assert_array_equal(tensors["w"], strided)


def test_saving_again_replaces_the_model_folder_and_leaves_other_files_alone(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("seed: 1")
    pretrained.save(folder, {"w": np.ones(3, dtype=np.float32)}, CONFIG)
    assert pretrained.load(folder)[1].keys() == {"w"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
    ]


def test_a_save_that_runs_out_of_space_leaves_the_model_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sync, calls = os.fsync, []

    def full_disk(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pretrained.save(folder, {"w": np.ones(3, dtype=np.float32)}, CONFIG)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("last", ["README.md", "config.json"])
def test_a_save_that_ends_between_two_renamings_is_whole_when_it_is_loaded(
    folder: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = {"w": np.ones(3, dtype=np.float32)}
    whole = pretrained.save(folder.with_name("whole"), new, CONFIG)
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        if str(target).endswith(last):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained.save(folder, new, CONFIG)
    monkeypatch.undo()
    (hidden,) = (path for path in folder.iterdir() if path.name.startswith(".config"))
    hidden.with_name(".config.json.00000000.part").write_text("{}")  # that of another killed process
    _, tensors = pretrained.load(folder)
    assert tensors["w"].tolist() == [1.0, 1.0, 1.0]
    assert (folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    pretrained.save(folder, new, CONFIG)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    import dataclasses

    config = dataclasses.replace(CONFIG, score={"mean_iou": float("nan")})
    with pytest.raises(ValueError, match="pass finite numbers"):
        pretrained.save(tmp_path / "x", TENSORS, config)
    assert not (tmp_path / "x").exists()


def test_the_card_says_what_was_measured_and_the_license(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "On toy, test split, percent: mIoU 12.50." in card
    assert "| road | - |" in card
    assert "**License of the weights**: research use." in card


class TestHostileFolders:
    def test_no_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"config.json: not found; a model folder holds"):
            pretrained.load(tmp_path)

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"model.safetensors: not found, although config.json names it"):
            pretrained.load(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"format": 99}', "[" * 100000, "\x00"])
    def test_a_configuration_that_is_none(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=r"config.json: "):
            pretrained.load(folder)

    def test_a_configuration_that_is_not_text(self, folder: Path) -> None:
        (folder / "config.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(WeightsError, match="is no JSON"):
            pretrained.load(folder)

    def test_a_gigantic_configuration_is_not_read(self, folder: Path) -> None:
        with (folder / "config.json").open("ab") as file:
            file.truncate(pretrained.MAX_CONFIG_BYTES + 1)
        with pytest.raises(WeightsError, match="a configuration has at most"):
            pretrained.load(folder)

    @pytest.mark.parametrize("key", ["kind", "model", "labels", "preprocessing", "license", "training", "weights"])
    def test_a_missing_part(self, folder: Path, key: str) -> None:
        edit(folder, **{key: None})
        with pytest.raises(WeightsError, match=f"'{key}' is missing"):
            pretrained.load(folder)

    @pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "other.bin", "", None, 3])
    def test_weights_elsewhere(self, folder: Path, name: Any) -> None:
        edit(folder, weights={"file": name, "sha256": "0", "bytes": 1})
        with pytest.raises(WeightsError, match=r"a model folder keeps its weights in model.safetensors"):
            pretrained.load(folder)

    @pytest.mark.parametrize(
        "model",
        [
            {"model": None, "padding": "same", "upsampling": "bilinear", "in_channels": 3},
            {"model": "fcn8s_vgg16", "padding": "same", "upsampling": "bilinear", "in_channels": 10**9},
            {"model": "fcn8s_vgg16", "padding": "same", "upsampling": "bilinear", "in_channels": True},
            {"model": "fcn8s_vgg16", "padding": "same", "upsampling": "bilinear", "in_channels": 3, "code": "x"},
            {},
        ],
    )
    def test_a_model_that_is_none(self, folder: Path, model: dict[str, Any]) -> None:
        edit(folder, model=model)
        with pytest.raises(WeightsError, match=r"config.json: "):
            pretrained.load(folder)

    def test_a_number_that_is_none(self, folder: Path) -> None:
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace("12.5", "NaN"))
        with pytest.raises(WeightsError, match="holds NaN, which is no JSON"):
            pretrained.load(folder)

    def test_one_flipped_bit(self, folder: Path) -> None:
        raw = bytearray((folder / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (folder / "model.safetensors").write_bytes(raw)
        with pytest.raises(WeightsError, match=r"sha256 \w+, config.json promises .* changed or is damaged"):
            pretrained.load(folder)

    def test_truncated_weights(self, folder: Path) -> None:
        raw = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(raw[:-5])
        with pytest.raises(WeightsError, match=r"bytes, config.json promises"):
            pretrained.load(folder)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"<html>not found</html>",
            pickle.dumps({"w": 1}),
            struct.pack("<Q", 2**40) + b"{}",
            struct.pack("<Q", 2) + b"{}" + b"trailing",
            struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16000]}}  ',
        ],
        ids=["empty", "html", "pickle", "gigantic header", "trailing", "out of bounds"],
    )
    def test_weights_that_are_no_safetensors(self, folder: Path, raw: bytes) -> None:
        forge(folder, raw)
        with pytest.raises(WeightsError, match=r"model.safetensors: is (an HTML page, )?no safetensors file"):
            pretrained.load(folder)

    @pytest.mark.parametrize("dtype", ["complex64", "bool", "int8"])
    def test_values_that_are_no_weights(self, folder: Path, dtype: str) -> None:
        from safetensors.numpy import save

        forge(folder, save({"w": np.ones(4, dtype=dtype)}))
        with pytest.raises(WeightsError, match=rf"tensor 'w' is of type {dtype}; weights are float16"):
            pretrained.load(folder)

    def test_values_that_are_not_finite(self, folder: Path) -> None:
        from safetensors.numpy import save

        forge(folder, save({"w": np.array([np.nan], dtype=np.float32)}))
        with pytest.raises(WeightsError, match="tensor 'w' holds values that are not finite"):
            pretrained.load(folder)

    def test_the_target_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match="is a file; a model folder is a folder"):
            pretrained.save(tmp_path / "file", TENSORS, CONFIG)
        assert (tmp_path / "file").read_text() == "mine"

    def test_an_unknown_dtype(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='dtype=\'int8\': choose "float32" or "float16"'):
            pretrained.save(tmp_path / "x", TENSORS, CONFIG, dtype="int8")  # type: ignore[arg-type]


def test_a_load_report_is_not_colored_by_what_a_file_says() -> None:
    with pytest.raises(WeightsError) as caught:
        pretrained.check({}, {"w\x1b[31m\n": np.zeros(4)}, Path("w"))
    assert "\x1b" not in str(caught.value)


def test_a_card_is_not_rewritten_by_what_a_configuration_says(tmp_path: Path) -> None:
    import dataclasses

    config = dataclasses.replace(CONFIG, license="MIT\n\n# Hacked\x1b[31m", training={"a|b\n": "c\n## d"})
    card = (pretrained.save(tmp_path / "x", TENSORS, config) / "README.md").read_text()
    assert not [line for line in card.splitlines() if line.startswith(("# H", "## d"))]
    assert "\x1b" not in card


def test_tensors_that_do_not_fit_give_a_load_report() -> None:
    own = {"a": np.zeros(1), "b": np.zeros(2), "c": np.zeros(3)}
    with pytest.raises(WeightsError) as caught:
        pretrained.check(own, {"b": np.zeros(3), "c": np.zeros(3), "d": np.zeros(4)}, Path("w"))
    assert str(caught.value) == (
        "w: the tensors are not those of the model; nothing was loaded: 1 missing: a; 1 unknown: d; "
        "1 of another shape: b (3,) for (2,)"
    )


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"mean_iou": "high"}, r"score.mean_iou='high'; a figure is a number in 0..100"),
        ({"mean_iou": {"a": 1}}, r"score.mean_iou=.*; a figure is a number in 0..100"),
        ({"mean_iou": True}, r"score.mean_iou='True'"),
        ({"pixel_accuracy": 1e308}, r"score.pixel_accuracy=.*; a figure is a number in 0..100"),
        ({"mean_iou": 50.0, "iou": [1, 2]}, r"its 'iou' an object"),
        ({"mean_iou": 50.0, "iou": {"road": "x"}}, r"score.iou.road='x'"),
        ([], "'score' must be an object or null"),
    ],
)
def test_a_score_whose_figures_are_none_is_refused(tmp_path: Path, score: object, message: str) -> None:
    folder = SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"]).save_pretrained(tmp_path / "mine")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"score": score}))
    with pytest.raises(WeightsError, match=message):
        pretrained.read_config(folder)

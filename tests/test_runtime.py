"""Files of onnxruntime: predicted without torch, and looked through before anything of them runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullyconv
from closeness import assert_same_mask
from fullyconv import Labels, WeightsError, runtime
from fullyconv.inference.scaling import scaled
from fullyconv.preprocessing import Preprocessing

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, TYPES = onnx.helper, onnx.TensorProto
ROOT = Path(__file__).resolve().parents[1]

DESCRIPTION = runtime.Description(
    labels=Labels.of(["dark", "light"]),
    preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
    in_channels=3,
    outputs=("labels",),
    model="by hand",
    license="CC0-1.0",
    score=None,
    parity={},
    precision="float32",
    version="0",
)


def by_hand(description: str | None = DESCRIPTION.to_json(), threshold: int = 128) -> Any:
    """Make a file whose segmenter tells light pixels from dark ones."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["numbers"], to=TYPES.INT32),
            helper.make_node("ReduceMax", ["numbers", "axis"], ["most"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["most", "threshold"], ["light"]),
            helper.make_node("Cast", ["light"], ["labels"], to=TYPES.UINT8),
        ],
        "by hand",
        [helper.make_tensor_value_info("image", TYPES.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("labels", TYPES.UINT8, ["N", "H", "W"])],
        [
            helper.make_tensor("axis", TYPES.INT64, [1], [3]),
            helper.make_tensor("threshold", TYPES.INT32, [], [threshold]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if description is not None:
        helper.set_model_props(proto, {"author": "nobody", "fullyconv": description})
    return proto


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(by_hand().SerializeToString())
    return path


def written(path: Path, proto: Any) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def changed(**entries: Any) -> Any:
    document = json.loads(DESCRIPTION.to_json()) | entries
    return by_hand(json.dumps({key: value for key, value in document.items() if value != "leave out"}))


def test_an_image_is_segmented(file: Path, tmp_path: Path) -> None:
    segmenter = runtime.load(file, threads=1)
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[2:, :, 1] = 200
    Image.fromarray(pixels).save(tmp_path / "p.png")
    for source in (pixels, Image.fromarray(pixels), tmp_path / "p.png", str(tmp_path / "p.png")):
        result = segmenter.predict(source)
        assert result.mask.dtype == np.uint8
        assert result.mask.tolist() == [[0] * 7] * 2 + [[1] * 7] * 3
    assert result.shares() == {"light": 3 / 5, "dark": 2 / 5}
    assert isinstance(result, fullyconv.Segmentation)
    assert segmenter.classes == ["dark", "light"]
    assert segmenter.license == "CC0-1.0"
    with pytest.raises(ValueError, match="gives labels alone"):
        segmenter.scores(pixels)


def test_the_description_is_read_as_it_was_written(file: Path) -> None:
    assert runtime.load(file).description == DESCRIPTION


def test_torch_is_not_imported(file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 4), "white").save(tmp_path / "p.png")
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (16, 16), "white"))))
        container.mux(stream.encode(None))
    words = ["predict", str(file), str(tmp_path / "p.png"), str(tmp_path / "v.mp4"), "--out", str(tmp_path / "out")]
    words.append("--overlay")
    code = (
        "import sys\n"
        "from fullyconv.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'lightning', 'onnx'}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert np.array(Image.open(tmp_path / "out" / "p.png")).tolist() == [[1] * 9] * 4
    assert np.array(Image.open(tmp_path / "out" / "v" / "000000.png")).tolist() == [[1] * 16] * 16
    assert (tmp_path / "out" / "v.overlay.mp4").is_file()


def test_many_files_are_predicted_by_an_exported_file(file: Path, tmp_path: Path) -> None:
    for name, level in (("a", 0), ("b", 255)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (9, 4), (level,) * 3).save(tmp_path / "photos" / f"{name}.png")
    done = fullyconv.predict_folder(runtime.load(file), tmp_path / "photos", tmp_path / "out", overlay=True)
    assert [one.shares[""] for one in done.predicted] == [{"dark": 1, "light": 0}, {"light": 1, "dark": 0}]
    assert np.array(Image.open(tmp_path / "out" / "b.png")).tolist() == [[1] * 9] * 4
    assert fullyconv.predict_folder(runtime.load(file), tmp_path / "photos", tmp_path / "out").before == 2
    written(file, by_hand(threshold=256))
    again = fullyconv.predict_folder(runtime.load(file), tmp_path / "photos", tmp_path / "out")
    assert [one.shares[""]["dark"] for one in again.predicted] == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (b"\x80\x02}q\x00.", "is no ONNX file"),
        (b"PK\x03\x04" + bytes(40), "is no ONNX file"),
        (by_hand().SerializeToString()[:-40], "cut off, or damaged"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "cut off, or damaged"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        runtime.load(path)


def external(proto: Any, place: str) -> Any:
    tensor = TYPES(name="threshold", data_type=TYPES.INT32)
    tensor.data_location = TYPES.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    if place == "initializer":
        proto.graph.initializer[1].CopyFrom(tensor)
    elif place == "node":
        del proto.graph.initializer[1]
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["threshold"], value=tensor))
    else:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        proto.graph.node.append(helper.make_node("If", ["light"], ["x"], then_branch=inner, else_branch=inner))
    return proto


@pytest.mark.parametrize("place", ["initializer", "node", "subgraph"])
def test_values_in_other_files_are_never_read(tmp_path: Path, place: str) -> None:
    with pytest.raises(WeightsError, match="values in another file, which is never read"):
        runtime.load(written(tmp_path / "m.onnx", external(by_hand(), place)))


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (by_hand(None), "nobody knows its classes"),
        (by_hand("{"), "no JSON"),
        (by_hand("[" * 100_000), "no JSON"),
        (by_hand('{"format": NaN}'), "no JSON"),
        (by_hand("[]"), "no JSON object"),
        (changed(format=2), "reads format 1"),
        (changed(labels=["dark"]), "'labels' is missing or no"),
        (changed(labels={"names": ["a", "a"]}), "does not describe a segmenter.*twice"),
        (changed(preprocessing={"mean": [0], "std": [0]}), "does not describe a segmenter"),
        (changed(preprocessing={"mean": [0], "std": [1]}), "its preprocessing has 1"),
        (changed(in_channels=True), "'in_channels' is missing or no"),
        (changed(in_channels=10**9), "must be in 1..1024"),
        (changed(outputs=["masks"]), "must be labels, scores or both"),
        (changed(outputs=["scores"]), "gives labels, its metadata says"),
        (changed(license="leave out"), "'license' is missing or no"),
        (changed(score=3), "'score' of its metadata"),
        (changed(preprocessing={"mean": [0.5] * 3, "std": [1] * 3, "short_side": 8}), "its graph takes image"),
    ],
)
def test_metadata_is_not_believed(tmp_path: Path, proto: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        runtime.load(written(tmp_path / "m.onnx", proto))


def test_a_graph_that_does_not_run_is_refused(tmp_path: Path) -> None:
    proto = by_hand()
    proto.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(WeightsError, match="onnxruntime does not load it"):
        runtime.load(written(tmp_path / "m.onnx", proto))


def test_classes_that_are_none_are_refused(tmp_path: Path) -> None:
    proto = by_hand()
    del proto.graph.node[1:]
    proto.graph.node.append(helper.make_node("ReduceMax", ["numbers", "axis"], ["most"], keepdims=0))
    proto.graph.node.append(helper.make_node("Cast", ["most"], ["labels"], to=TYPES.UINT8))
    with pytest.raises(WeightsError, match="classes up to 9, and has 2 classes"):
        runtime.load(written(tmp_path / "m.onnx", proto)).predict(np.full((4, 5, 3), 9, np.uint8))


def test_files_that_are_too_large_are_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "MAX_BYTES", 10)
    with pytest.raises(WeightsError, match="at most 10"):
        runtime.load(file)


def test_wrong_calls_say_what_to_do(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pass an \.onnx file"):
        runtime.load(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="threads=0"):
        runtime.load(file, threads=0)


def test_scaling_is_that_of_the_segmenter() -> None:
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    for size in ((40, 59), (100, 147), (61, 90), (7, 300)):
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True).round()
        difference = np.abs(scaled(pixels, size).astype(int) - expected[0].permute(1, 2, 0).numpy())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3  # halves, that are rounded up or down


def test_descriptions_are_plain_values() -> None:
    proto = by_hand(dataclasses.replace(DESCRIPTION, score={"mean_iou": 50.0}).to_json())
    assert runtime.read_description(proto.SerializeToString(), "m.onnx").score == {"mean_iou": 50.0}


@pytest.mark.slow
def test_it_predicts_where_there_is_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from fullyconv.export import export

    module = fullyconv.load("street")
    export(module, tmp_path / "street.onnx")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((230, 171), Image.Resampling.BICUBIC).save(tmp_path / "p.png")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"

    def pip(*words: str) -> None:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no packages to be had here: {done.stderr[-300:]}")

    pip("numpy", "pillow", "onnxruntime", "filelock", "hatchling")
    pip("--no-deps", "--no-build-isolation", str(ROOT))
    code = (
        "import importlib.util, fullyconv.runtime\n"
        "assert importlib.util.find_spec('torch') is None\n"
        f"result = fullyconv.runtime.load({str(tmp_path / 'street.onnx')!r}).predict({str(tmp_path / 'p.png')!r})\n"
        f"result.save({str(tmp_path / 'mask.png')!r})\n"
    )
    subprocess.run([str(python), "-c", code], check=True, cwd=tmp_path)
    mine = np.array(Image.open(tmp_path / "mask.png"))
    theirs = module.predict(tmp_path / "p.png").mask
    print(f"{float((mine != theirs).mean()):.4%} of the pixels differ from torch's")
    assert_same_mask(mine, theirs)
    # the same from the command line
    command = tmp_path / "venv" / "bin" / "fullyconv"
    words = ["predict", "street.onnx", "p.png", "--out", "masks", "--overlay"]
    done = subprocess.run([str(command), *words], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "[1/1] p.png -> masks/p.png" in done.stdout
    assert_same_mask(Image.open(tmp_path / "masks" / "p.png"), mine)
    assert (tmp_path / "masks" / "p.overlay.png").is_file()


@pytest.mark.parametrize("heads", [{}, [], {"a b": {}}, {"a": {}}, {f"h{number}": {} for number in range(65)}, None])
def test_heads_that_are_none_are_refused(tmp_path: Path, heads: Any) -> None:
    path = written(tmp_path / "m.onnx", changed(labels={"heads": heads}))
    with pytest.raises(WeightsError, match="does not describe a segmenter"):
        runtime.load(path)


def test_outputs_have_to_be_those_of_the_heads(tmp_path: Path) -> None:
    labels = {"heads": {"a": Labels.of(["x", "y"]).to_dict(), "b": Labels.of(["x", "y"]).to_dict()}}
    path = written(tmp_path / "m.onnx", changed(labels=labels))
    with pytest.raises(WeightsError, match="gives labels, its metadata says image and labels_a, labels_b"):
        runtime.load(path)

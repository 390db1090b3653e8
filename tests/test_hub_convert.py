"""From a string to a folder: what torchvision, timm, Caffe and files give, loaded back as a model folder."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import caffe_nets
import fullyconv
from closeness import assert_close, assert_same_mask, assert_same_tensors
from fullyconv import cli
from fullyconv.backbones import BACKBONES
from fullyconv.classifier import DenseScorer
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import catalog
from hub_server import FileServer


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def calibrated(network: nn.Module, size: int = 64) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, size, size))
    return network.eval()


def saved(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.getvalue()


class Published:
    """Let members of torchvision's enums name files of random weights: the real ones are out of reach of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed: list[tuple[Any, str]] = []

    def put(
        self, member: Any, data: bytes, url: str = "https://download.pytorch.org/models", cache: bool = True
    ) -> str:
        name = f"weights-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        self.changed.append((member.value, member.value.url))
        object.__setattr__(member.value, "url", f"{url}/{name}")
        if cache:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        return f"torchvision://{member}"


@pytest.fixture
def published(tmp_path: Path, loopback: None) -> Iterator[Published]:
    place = Published(tmp_path / "torch" / "hub" / "checkpoints")
    yield place
    for value, url in place.changed:
        object.__setattr__(value, "url", url)


def lraspp() -> nn.Module:
    return calibrated(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    )


def test_a_segmenter_of_torchvision_loads_in_one_line_from_the_cache(published: Published, tmp_path: Path) -> None:
    network = lraspp()
    member = torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1
    address = published.put(member, saved(network))
    image = torch.rand(1, 3, 97, 131)
    with torch.inference_mode():
        expected = network(IMAGENET(image))["out"]
        for source in (address, "lraspp_mobilenet_v3_large.coco_voc"):
            loaded = fullyconv.load(source)
            assert isinstance(loaded, SegmentationModule)
            assert_close(loaded(image), expected, varying=(2, 3))
    assert loaded.classes[:2] == ["background", "aeroplane"]
    assert loaded.score is not None
    assert (loaded.score["mean_iou"], loaded.score["measured_by"]) == (57.9, "publisher")
    assert loaded.preprocessing.short_side == 520
    assert "COCO" in (loaded.license or "")
    # what was loaded can be saved, and is the same after that
    loaded.save_pretrained(tmp_path / "mine")
    assert_same_tensors(fullyconv.load(tmp_path / "mine"), loaded)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "As published, not measured by this package" in card


def test_fine_tuning_starts_from_it_with_other_classes(published: Published) -> None:
    member = torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1
    published.put(member, saved(lraspp()))
    loaded = fullyconv.load("lraspp_mobilenet_v3_large.coco_voc", classes=["crack", "wall"])
    assert loaded.classes == ["crack", "wall"]
    assert all(name.startswith("head.score.") for name in loaded.reinitialized)


def test_a_classifier_of_torchvision_is_converted_from_the_network(
    published: Published, files_server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = calibrated(torchvision.models.resnet18(weights=None))
    data = saved(network)
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    address = published.put(member, data, files_server.endpoint, cache=False)
    files_server.files[member.url.rsplit("/", 1)[-1]] = data
    assert cli.main(["convert", address, "--to", str(tmp_path / "dense"), "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "stride                  32 x 32" in printed
    assert "model folder written to" in printed
    files_server.stop()
    dense = fullyconv.load(tmp_path / "dense")
    assert isinstance(dense, DenseScorer)
    assert (len(dense.classes), dense.classes[0]) == (1000, "tench")
    image = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected = network(IMAGENET(image))
        assert_close(dense.scores(image)[:, :, 0, 0], expected)
        assert dense.predict(torch.rand(3, 40, 50)).mask.dtype == "uint16"
    document = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert document["training"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert address in document["training"]["source"]
    card = (tmp_path / "dense" / "README.md").read_text()
    assert address in card
    assert hashlib.sha256(data).hexdigest() in card


def test_a_backbone_starts_from_torchvision_and_brings_preprocessing_and_license_along(published: Published) -> None:
    network = calibrated(torchvision.models.resnet18(weights=None))
    address = published.put(torchvision.models.ResNet18_Weights.IMAGENET1K_V1, saved(network))
    backbone = fullyconv.load_backbone("resnet18", weights=address)
    assert backbone.preprocessing == IMAGENET
    assert backbone.load_report is not None
    assert backbone.load_report.reinitialized == ()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert_close(network.fc(backbone.eval()(image)[32].mean((2, 3))), network(image))
    module = SegmentationModule("fcn8s_resnet18", classes=["a", "b"], backbone_weights="resnet18.imagenet")
    own = module.model.backbone.state_dict()
    assert all(torch.equal(own[name], value) for name, value in backbone.state_dict().items())
    assert "backbone_weights" not in module.hparams
    assert module.load_report == backbone.load_report
    assert address in (module.origin or "")
    assert module.preprocessing == IMAGENET


def test_extra_channels_start_at_the_mean_of_the_colors_and_the_checkpoint_knows_their_preprocessing(
    published: Published, tmp_path: Path
) -> None:
    network = torchvision.models.resnet18(weights=None)
    published.put(torchvision.models.ResNet18_Weights.IMAGENET1K_V1, saved(network))
    module = SegmentationModule(
        "fcn32s_resnet18", classes=["a", "b"], in_channels=4, backbone_weights="resnet18.imagenet"
    )
    weight = module.model.backbone.state_dict()["conv1.weight"]
    assert torch.equal(weight[:, :3], network.conv1.weight)
    assert_close(weight[:, 3], network.conv1.weight.mean(1))
    assert module.load_report is not None
    assert module.load_report.adapted == ("conv1.weight",)
    assert module.preprocessing.mean == (0.485, 0.456, 0.406, 0.449)
    module.save_pretrained(tmp_path / "mine", license="CC0")
    assert fullyconv.load(tmp_path / "mine").preprocessing == module.preprocessing


def test_weights_of_another_network_are_refused_and_name_the_right_one(published: Published) -> None:
    address = published.put(
        torchvision.models.ResNet34_Weights.IMAGENET1K_V1, saved(torchvision.models.resnet34(weights=None))
    )
    with pytest.raises(WeightsError, match="looks like resnet34: build that backbone"):
        fullyconv.load_backbone("resnet18", weights=address)
    with pytest.raises(WeightsError, match="looks like resnet34"):
        SegmentationModule("fcn8s_resnet18", classes=["a", "b"], backbone_weights=address)
    with pytest.raises(WeightsError, match=r"holds a classifier, not a segmenter"):
        fullyconv.load(address)


def test_offline_what_is_not_in_the_cache_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"is not in the cache .*HF_HUB_OFFLINE forbids to fetch it"):
        fullyconv.load("fcn_resnet50.coco_voc")


def test_a_target_that_cannot_be_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file; a model folder is a folder"):
        fullyconv.convert("vgg16.imagenet", tmp_path / "file")
    SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"]).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="is the source itself; give another folder"):
        fullyconv.convert(tmp_path / "mine", tmp_path / "mine")


def test_the_command_line_says_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["convert", "hf://org/repo", "--to", str(tmp_path / "x")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("fullyconv: hf://org/repo/config.json: no digest of this file is known")
    assert "--allow-unverified" in printed
    assert not (tmp_path / "x").exists()


# ---- Caffe ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put thin backbones into the registry, so that a file of a few kilobytes is a whole network."""
    monkeypatch.setitem(BACKBONES, "vgg16", caffe_nets.thin_vgg16)
    monkeypatch.setitem(BACKBONES, "caffenet", caffe_nets.thin_caffenet)


def reference(folder: Path, classes: int = 21, finest: int = 8, name: str = "net.caffemodel") -> Path:
    net = caffe_nets.Net()
    data = net.input("data", 3, (40, 56))
    net.head(net.vgg(data, caffe_nets.WIDTHS, caffe_nets.FC), classes, finest, data)
    return net.save(folder / name)


@pytest.mark.usefixtures("thin")
class TestCaffe:
    def test_a_reference_network_loads_in_one_line_and_is_kept_as_a_model_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = reference(tmp_path)
        loaded = fullyconv.load(path)
        assert isinstance(loaded, SegmentationModule)
        assert (loaded.hparams["model"], loaded.hparams["padding"], len(loaded.classes)) == ("fcn8s_vgg16", "paper", 21)
        assert loaded.score is None  # the structure does not say who trained it
        image = np.random.default_rng(0).integers(0, 256, (45, 61, 3)).astype(np.uint8)
        assert cli.main(["convert", str(path), "--to", str(tmp_path / "kept")]) == 0
        assert "re-initialized     0" in capsys.readouterr().out
        again = fullyconv.load(tmp_path / "kept")
        assert_same_mask(again.predict(image).mask, loaded.predict(image).mask)
        assert hashlib.sha256(path.read_bytes()).hexdigest() in (tmp_path / "kept" / "README.md").read_text()

    def test_at_the_address_of_the_catalog_it_has_the_published_score_after_a_word(
        self, tmp_path: Path, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = catalog.find("fcn8s_vgg16.voc2012")
        assert entry is not None
        files_server.files["fcn8s-heavy-pascal.caffemodel"] = reference(tmp_path).read_bytes()
        here = replace(entry, address=files_server.url("fcn8s-heavy-pascal.caffemodel"))
        monkeypatch.setattr(catalog, "OTHERS", (here,))
        with pytest.raises(WeightsError, match="no digest of this file is known"):
            fullyconv.load("fcn8s_vgg16.voc2012")
        loaded = fullyconv.load("fcn8s_vgg16.voc2012", allow_unverified=True)
        assert isinstance(loaded, SegmentationModule)
        assert loaded.score == {"data": "VOC2011", "split": "seg11valid", "mean_iou": 65.5, "measured_by": "publisher"}
        assert loaded.license == "BVLC model license: unrestricted use"
        files_server.stop()
        assert isinstance(fullyconv.load("fcn8s_vgg16.voc2011"), SegmentationModule)

    def test_what_the_file_of_nyudv2_sees_is_told_by_its_name(self, tmp_path: Path) -> None:
        color = fullyconv.load(reference(tmp_path, 40, 32, "nyud-fcn32s-color-heavy.caffemodel"))
        hha = fullyconv.load(reference(tmp_path, 40, 32, "nyud-fcn32s-hha-heavy.caffemodel"))
        assert (color.preprocessing.channel_order, hha.preprocessing.channel_order) == ("bgr", "rgb")
        assert color.classes[:2] == hha.classes[:2] == ["wall", "floor"]

    def test_two_heads_give_two_segmentations_and_survive_the_model_folder(self, tmp_path: Path) -> None:
        net = caffe_nets.Net()
        data = net.input("data", 3, (40, 56))
        fc7 = net.vgg(data, caffe_nets.WIDTHS, caffe_nets.FC)
        net.head(fc7, 33, 8, data, suffix="_sem")
        net.head(fc7, 3, 8, data, suffix="_geo")
        loaded = fullyconv.load(net.save(tmp_path / "siftflow.caffemodel"))
        image = np.random.default_rng(0).integers(0, 256, (45, 61, 3)).astype(np.uint8)
        result = loaded.predict(image)
        assert isinstance(result, dict)
        assert {name: len(part.classes) for name, part in result.items()} == {"semantic": 33, "geometric": 3}
        loaded.save_pretrained(tmp_path / "kept")
        again = fullyconv.load(tmp_path / "kept").predict(image)
        assert isinstance(again, dict)
        for name, part in result.items():
            assert_same_mask(again[name].mask, part.mask)
        assert "for head, segmentation in result.items():" in (tmp_path / "kept" / "README.md").read_text()

    def test_a_file_that_is_damaged_is_refused(self, tmp_path: Path) -> None:
        path = reference(tmp_path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match=r"net.caffemodel"):
            fullyconv.load(path)

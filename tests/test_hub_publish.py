"""Publishing to a hub on this machine, and loading back what was published."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import safetensors.torch
import torch

import fullyconv
from closeness import assert_same_tensors
from conftest import NAMES
from fullyconv import cli
from fullyconv.confusion import SegmentationScores, scores
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.training.module import SegmentationModule
from fullyconv.weights.catalog import SHIPPED, zoo_folder
from fullyconv.weights.pretrained import WEIGHTS, card, read_config
from hub_server import HubServer

STREET = "ladder_efficientnet_lite0.camvid"


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))


def trained(tree: Path, folder: Path) -> Path:
    """Train for a step and keep the checkpoint, as Lightning writes it."""
    data = SegmentationDataModule.from_folder(tree, batch_size=4, crop_size=None, num_workers=0)
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=list(data.classes), lr=0.05)
    trainer = L.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("mode", ["lfs", "regular"])
def test_a_model_folder_is_published_byte_for_byte_and_loads_back(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.upload_mode = mode
    address = fullyconv.publish(zoo_folder() / STREET, "someone/street")
    files = hub.files("someone/street")
    for name in ("model.safetensors", "config.json"):
        assert files[name] == (zoo_folder() / STREET / name).read_bytes()
    assert set(files) <= {"model.safetensors", "config.json", "README.md", ".gitattributes"}
    assert address == f"hf://someone/street@{hub.log('someone/street')[0].oid}"
    assert_same_tensors(fullyconv.load(address, allow_unverified=True), fullyconv.load("street"))


@pytest.mark.parametrize(
    ("said", "hub"),
    [
        ("Apache-2.0 (data: Clothing Co-Parsing)", "apache-2.0"),
        ("CC BY-SA 4.0 (data: Oxford-IIIT Pet)", "cc-by-sa-4.0"),
        ("CC0 1.0 (data: 2018 Data Science Bowl, with corrections)", "cc0-1.0"),
        ("unstated; Apache-2.0 code", "other"),
    ],
)
def test_the_card_names_the_license_as_the_hub_does(said: str, hub: str) -> None:
    from huggingface_hub import ModelCard

    config = replace(read_config(zoo_folder() / STREET), license=said)
    data = ModelCard(card(config, "someone/street")).data
    assert (data.license, data.license_name) == (hub, said)


def test_the_card_holds_the_measured_numbers_and_how_to_load(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import ModelCard

    monkeypatch.setenv("HF_TOKEN", hub.token)
    fullyconv.publish(zoo_folder() / STREET, "someone/street")
    text = hub.files("someone/street")["README.md"].decode()
    config = json.loads((zoo_folder() / STREET / "config.json").read_text())
    assert 'fullyconv.load("someone/street", allow_unverified=True)' in text
    assert f"mIoU {config['score']['mean_iou']:.2f}" in text
    assert config["weights"]["sha256"] in text
    assert "### Where it fails" in text
    card = ModelCard(text)
    assert (card.data.license, card.data.license_name) == ("other", config["license"])
    assert card.data.to_dict()["library_name"] == "fullyconv"
    results = {result.metric_type: result for result in card.data.eval_results or []}
    assert results["mean_iou"].metric_value == round(config["score"]["mean_iou"], 2)
    assert (results["mean_iou"].dataset_name, results["mean_iou"].dataset_split) == ("camvid", "test")


def test_a_folder_whose_configuration_has_older_words_is_published_too(hub: HubServer, tmp_path: Path) -> None:
    nuclei = zoo_folder() / "ladder_efficientnet_lite0.nuclei"
    older = Path(__file__).with_name("snapshots") / "config_of_older_words.json"
    shutil.copytree(nuclei, tmp_path / "mine")
    shutil.copyfile(older, tmp_path / "mine" / "config.json")
    fullyconv.publish(tmp_path / "mine", "someone/nuclei", token=hub.token)
    files = hub.files("someone/nuclei")
    assert files["config.json"] == older.read_bytes()
    own = (nuclei / "README.md").read_text().splitlines()
    (license,) = (line for line in own if line.startswith("**License of the weights**"))
    assert license in files["README.md"].decode()


def test_a_checkpoint_is_measured_and_published_without_its_optimizer(
    hub: HubServer, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    path = trained(tree, tmp_path)
    assert "optimizer_states" in torch.load(path, weights_only=True)
    words = [str(path), "someone/shapes", "--data", str(tree), "--license", "CC0-1.0", "--private"]
    assert cli.main(["publish", *words]) == 0
    assert "published: fullyconv.load('hf://someone/shapes@" in capsys.readouterr().out
    files = hub.files("someone/shapes")
    assert set(files) <= {"model.safetensors", "config.json", "README.md", ".gitattributes"}
    assert len(files["model.safetensors"]) < path.stat().st_size * 0.6
    score = json.loads(files["config.json"])["score"]
    assert (score["data"], score["split"], score["measured_by"]) == ("shapes", "test", "us")
    loaded = fullyconv.load("someone/shapes", allow_unverified=True)
    assert isinstance(loaded, SegmentationModule)
    again = loaded.evaluate(SegmentationDataModule.from_folder(tree, num_workers=0), "test")
    assert score["mean_iou"] == pytest.approx(100 * again.mean_iou, abs=0.5)
    assert f"mIoU {score['mean_iou']:.2f}" in files["README.md"].decode()


def test_what_is_measured_is_what_is_stored(
    hub: HubServer, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    torch.manual_seed(0)
    own = SegmentationModule("fcn32s_resnet18_quarter", classes=NAMES)
    own.save_pretrained(tmp_path / "own", license="CC0-1.0")
    measured: list[dict[str, torch.Tensor]] = []

    def evaluate(module: SegmentationModule, *_: Any) -> SegmentationScores:
        measured.append({name: value.clone() for name, value in module.state_dict().items()})
        return scores(np.diag([1, 2, 3]))

    monkeypatch.setattr(SegmentationModule, "evaluate", evaluate)
    data = SegmentationDataModule.from_folder(tree, num_workers=0)
    fullyconv.publish(tmp_path / "own", "someone/own", data=data, dtype="float16")
    (found,) = measured
    stored = safetensors.torch.load(hub.files("someone/own")["model.safetensors"])
    kept = [name for name, value in stored.items() if value.dtype == torch.float16]
    assert len(kept) > 20
    assert all(torch.equal(found[f"model.{name}"], stored[name].float()) for name in kept)
    assert any(not torch.equal(found[name], value) for name, value in own.state_dict().items())
    assert json.loads(hub.files("someone/own")["config.json"])["score"]["mean_iou"] == 100


def test_nothing_is_published_without_a_license(hub: HubServer, tmp_path: Path) -> None:
    SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"]).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"nobody states the license of these weights; pass license="):
        fullyconv.publish(tmp_path / "mine", "someone/mine", token=hub.token)
    assert hub.asked() == []


def test_what_nobody_measured_is_said(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"]).save_pretrained(tmp_path / "mine", license="CC0")
    (tmp_path / "mine" / "secret.txt").write_text("stays at home")
    with caplog.at_level("INFO", logger="fullyconv"):
        fullyconv.publish(tmp_path / "mine", "someone/mine", token=hub.token)
    assert "nobody measured these weights, and the card says so" in caplog.text
    files = hub.files("someone/mine")
    assert "Nobody measured these weights." in files["README.md"].decode()
    assert "secret.txt" not in files


@pytest.mark.parametrize("repo", ["", "mine", "a/b/c", "some one/x", "../x", "a/b--c", "a/../b", "hf://a/b"])
def test_a_repository_name_that_is_none_is_refused(repo: str) -> None:
    with pytest.raises(ValueError, match="write ORG/NAME"):
        fullyconv.publish(zoo_folder() / STREET, repo)


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pass the folder of a model, a .ckpt, or a name"):
        fullyconv.publish(tmp_path / "nowhere", "a/b")
    with pytest.raises(FileNotFoundError, match=r"config.json: not found"):
        fullyconv.publish(tmp_path, "a/b")
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"x\.pth: is empty"):
        fullyconv.publish(tmp_path / "x.pth", "a/b")


@pytest.mark.parametrize(
    ("suffix", "on", "kind", "options"),
    [
        ("/api/repos/create", "POST", "status", {"code": 401}),
        ("/api/repos/create", "POST", "status", {"code": 403}),
        ("/preupload/main", "POST", "status", {"code": 500}),
        ("/objects/batch", "POST", "status", {"code": 403}),
        ("/upload", "PUT", "status", {"code": 400}),
        ("/commit/main", "POST", "status", {"code": 403}),
        ("/commit/main", "POST", "hangup", {}),
    ],
)
def test_a_hub_that_refuses_is_reported_and_nothing_is_published_by_halves(
    hub: HubServer, suffix: str, on: str, kind: str, options: dict[str, int]
) -> None:
    hub.upload_mode = "lfs"
    hub.fault(suffix, kind, times=None, on=on, **options)  # type: ignore[arg-type]
    with pytest.raises(DownloadError, match=r"someone/street: the hub did not take it \(.*HF_TOKEN"):
        fullyconv.publish(zoo_folder() / STREET, "someone/street", token=hub.token)
    if "create" not in suffix:
        assert "model.safetensors" not in hub.files("someone/street")


def test_without_a_token_the_hub_refuses(hub: HubServer) -> None:
    with pytest.raises(DownloadError, match="log in with a token that may write"):
        fullyconv.publish(zoo_folder() / STREET, "someone/street")


def test_a_classifier_is_not_measured_on_masks(hub: HubServer, tree: Path, tmp_path: Path) -> None:
    from fullyconv.classifier import Classifier
    from fullyconv.preprocessing import IMAGENET
    from fullyconv.weights.architectures import build_classifier

    network = build_classifier("cifar_resnet20", 2)
    Classifier(network, ["a", "b"], IMAGENET, (32, 32), "cifar_resnet20", "CC0").save_pretrained(tmp_path / "c")
    data = SegmentationDataModule.from_folder(tree, num_workers=0)
    with pytest.raises(ValueError, match="a classifier cannot be measured on masks"):
        fullyconv.publish(tmp_path / "c", "someone/c", data=data, token=hub.token)


def test_a_score_measured_on_other_numbers_is_not_claimed(hub: HubServer, tmp_path: Path) -> None:
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"])
    module.save_pretrained(tmp_path / "mine", score={"data": "x", "split": "test", "mean_iou": 50.0}, license="CC0")
    fullyconv.publish(tmp_path / "mine", "someone/mine", dtype="float16", token=hub.token)
    assert json.loads(hub.files("someone/mine")["config.json"])["score"] is None
    fullyconv.convert(tmp_path / "mine", tmp_path / "half", dtype="float16")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["score"] is None


def test_the_whole_zoo_is_published_under_its_names(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cli.main(["publish", "--zoo", "someone"]) == 0
    addresses = [line.split("'")[1] for line in capsys.readouterr().out.splitlines()]
    assert [address.partition("@")[0] for address in addresses] == [f"hf://someone/{name}" for name in SHIPPED]
    for name in SHIPPED:
        assert hub.files(f"someone/{name}")["model.safetensors"] == (zoo_folder() / name / WEIGHTS).read_bytes()


def test_a_classifier_of_an_installed_distribution_is_published_converted_and_serves_all_who_load(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "efficientnet_lite0.imagenet"
    try:
        own = fullyconv.load_classifier(name)
    except DownloadError:
        pytest.skip("needs the extra imagenet")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    address = fullyconv.publish(name, "someone/lite0")
    card = hub.files("someone/lite0")["README.md"].decode()
    assert "apache-2.0" in card
    assert "ML Illustrated" in card
    dense = fullyconv.load(address, allow_unverified=True)
    again = fullyconv.load_classifier(address)
    backbone = fullyconv.load_backbone("efficientnet_lite0", address)
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = own(image)
        assert torch.equal(again(image), expected)
        assert (dense.scores(image)[..., 0, 0] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert backbone.preprocessing == own.preprocessing


def test_the_zoo_goes_without_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", "street", "someone/street", "--zoo"]) != 0
    assert "--zoo" in capsys.readouterr().err
    assert cli.main(["publish", "someone/street"]) != 0
    assert "SOURCE" in capsys.readouterr().err

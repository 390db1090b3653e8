"""Model folders by the habits of the hub: save_pretrained, from_pretrained, push_to_hub, and the device of a load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fullyconv
from closeness import assert_same_tensors
from fullyconv import Classifier, DenseScorer, SegmentationModule
from fullyconv.errors import WeightsError
from hub_server import HubServer

SMALL = "fcn32s_resnet18_quarter"


class Mine(SegmentationModule):
    """A module of somebody else."""


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))


def test_from_pretrained_takes_a_folder_a_name_and_an_id_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    street = fullyconv.load("street")
    address = fullyconv.publish("street", "someone/street", token=hub.token)
    for source in ("street", street.save_pretrained(tmp_path / "street"), "someone/street", address):
        loaded = SegmentationModule.from_pretrained(source, allow_unverified=True)
        assert_same_tensors(loaded, street)
        assert not loaded.training
    assert loaded.origin == address.removeprefix("hf://")


def test_from_pretrained_gives_the_class_it_is_called_on(tmp_path: Path) -> None:
    assert type(Mine.from_pretrained("cracks")) is Mine
    assert type(Classifier.from_pretrained("tile_kinds")) is Classifier
    dense = fullyconv.load_classifier("tile_kinds").convolutionalize()
    assert type(DenseScorer.from_pretrained(dense.save_pretrained(tmp_path / "dense"))) is DenseScorer
    heads = SegmentationModule(SMALL, classes={"a": ["x", "y"], "b": ["u", "v"]})
    folder = heads.save_pretrained(tmp_path / "heads")
    assert type(SegmentationModule.from_pretrained(folder)) is SegmentationModule
    assert type(SegmentationModule.from_pretrained(folder)) is SegmentationModule


def test_from_pretrained_refuses_what_is_not_of_its_class(tmp_path: Path) -> None:
    dense = fullyconv.load_classifier("tile_kinds").convolutionalize().save_pretrained(tmp_path / "dense")
    for cls, source, rule in (
        (Mine, "tile_kinds", "load_classifier loads it"),
        (Mine, dense, "no segmenter; fullyconv.load"),
        (DenseScorer, "cracks", "fullyconv.load reads it"),
        (DenseScorer, "tile_kinds", "load_classifier loads it"),
        (Classifier, "cracks", "fullyconv.load loads a segmenter"),
    ):
        with pytest.raises(WeightsError, match=rule):
            cls.from_pretrained(source)


def test_what_is_pushed_to_the_hub_loads_back(hub: HubServer) -> None:
    segmenter = SegmentationModule(SMALL, classes=["a", "b"])
    classifier = fullyconv.load_classifier("tile_kinds")
    for module in (segmenter, classifier, classifier.convolutionalize()):
        address = module.push_to_hub("me/my-model", license="CC0-1.0", token=hub.token)
        assert address == f"hf://me/my-model@{hub.log('me/my-model')[0].oid}"
        loaded = type(module).from_pretrained(address, allow_unverified=True)
        assert_same_tensors(loaded, module)
        assert loaded.license == "CC0-1.0"
        assert set(hub.files("me/my-model")) <= {"model.safetensors", "config.json", "README.md", ".gitattributes"}
        assert "me/my-model" in hub.files("me/my-model")["README.md"].decode()


def test_nothing_is_pushed_without_a_license_or_under_no_name(hub: HubServer) -> None:
    module = SegmentationModule(SMALL, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"nobody states the license of these weights; pass license="):
        module.push_to_hub("me/my-model", token=hub.token)
    with pytest.raises(ValueError, match="write ORG/NAME"):
        module.push_to_hub("my-model", license="CC0-1.0", token=hub.token)
    assert hub.asked() == []


def test_a_model_lies_on_the_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for load in (fullyconv.load, SegmentationModule.from_pretrained):
        assert load("cracks").device.type == load("cracks", device="cpu").device.type == "cpu"
        assert load("cracks", device="meta").device.type == "meta"
    assert fullyconv.load("cracks", classes=["a", "b"], device="meta").device.type == "meta"
    assert next(fullyconv.load_classifier("tile_kinds", device="meta").parameters()).device.type == "meta"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert fullyconv.load("cracks", device="auto").device.type == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert fullyconv.load("cracks", device="auto").device.type == "meta"


@pytest.mark.parametrize("device", ["gpu", "", "cuda:-1", 3.5, "xla"])
def test_a_device_that_is_none_is_refused_before_anything_is_read(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device={device!r}: .*write auto"):
        fullyconv.load("nowhere at all", device=device)


def test_a_device_that_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for device in ("cuda:2", "mps"):
        with pytest.raises(
            ValueError, match=rf"device={device!r}: this machine has no such device.*cpu, cuda:0, cuda:1"
        ):
            fullyconv.load("cracks", device=device)

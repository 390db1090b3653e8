from __future__ import annotations

import hashlib
import json
import os
import pickle
import runpy
import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch

from closeness import assert_same_tensors
from fullyconv.classifier import Classifier
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.hub.load import load, load_classifier
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import catalog, sources
from fullyconv.weights.repositories import Fetched
from hub_server import HubServer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a shipped model must load without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_street_loads_in_one_line_without_a_network(no_network: None) -> None:
    segmenter = load("street")
    assert isinstance(segmenter, SegmentationModule)
    assert not segmenter.training
    assert segmenter.classes[3] == "road"
    assert segmenter(torch.rand(1, 3, 45, 61)).shape == (1, len(segmenter.classes), 45, 61)


@pytest.mark.parametrize("entry", catalog.shipped(), ids=lambda entry: entry.name)
class TestEveryShippedModel:
    def test_it_loads_and_depends_on_the_image(self, entry: catalog.Entry) -> None:
        segmenter = load(entry.name) if entry.kind == "segmenter" else load_classifier(entry.name)
        assert isinstance(segmenter, SegmentationModule | Classifier)
        a, b = torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            assert (segmenter(a) - segmenter(b)).abs().max() > 0.1

    def test_it_has_score_license_recipe_and_card(self, entry: catalog.Entry) -> None:
        assert entry.config is not None
        assert entry.config.score is not None
        assert entry.config.score["split"] == "test"
        main = "mean_iou" if entry.kind == "segmenter" else "top1"
        assert 0 < entry.config.score[main] <= 100
        assert entry.config.license not in ("unstated", "MIT")
        assert (entry.folder / "recipe.yaml").is_file()
        assert f"{entry.config.score[main]:.2f}" in (entry.folder / "README.md").read_text()

    def test_it_is_half_precision_and_small(self, entry: catalog.Entry) -> None:
        assert entry.config is not None
        assert entry.config.weights["dtype"] == "float16"
        assert entry.bytes is not None
        assert entry.bytes < 8e6

    def test_the_model_card_of_the_project_quotes_its_score(self, entry: catalog.Entry) -> None:
        text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert entry.name in text
        assert entry.config is not None
        assert entry.config.score is not None
        four = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
        for key in four if entry.kind == "segmenter" else ("top1", "mean_accuracy"):
            assert f"{entry.config.score[key]:.2f}" in text
        for name, value in entry.config.score["iou" if entry.kind == "segmenter" else "accuracy"].items():
            assert name in text
            assert f"{value:.2f}" in text


def test_the_model_card_is_what_the_catalog_says() -> None:
    model_card = runpy.run_path(str(ROOT / "zoo" / "model_card.py"))["model_card"]
    assert (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card()


def test_names_are_unique_and_every_one_means_itself() -> None:
    names = catalog.names()
    assert len(set(names)) == len(names)
    for entry in catalog.entries():
        found = catalog.find(entry.name)
        assert found is not None
        assert found.name == entry.name
        assert len(set(entry.classes)) >= 2 or entry.label_set == ""
        if entry.source != "shipped":
            assert catalog.at_address(entry.address) == entry


def test_no_digest_is_claimed_that_nobody_knows() -> None:
    for entry in catalog.entries():
        assert entry.verified == (entry.source in ("shipped", "torchvision", "distribution"))
        assert (entry.split is None) == (entry.mean_iou is None and (entry.top1 is None or entry.source != "shipped"))
        assert entry.measured_by in (None, "us", "publisher")


def test_a_shipped_classifier_says_what_was_measured_and_starts_a_segmenter(no_network: None) -> None:
    classifier = load_classifier("tile_kinds")
    entry = catalog.find("tile_kinds")
    assert entry is not None
    assert (entry.kind, classifier.classes) == ("classifier", entry.classes)
    assert classifier.score is not None
    assert classifier.score["top1"] == entry.top1
    assert classifier.training_record["epochs"] > 0
    assert classifier.convolutionalize().scores(torch.rand(1, 3, 224, 256)).shape == (1, 6, 1, 2)
    module = SegmentationModule("fcn8s_vgg11_quarter", classes=["a", "b"], backbone_weights="tile_kinds")
    assert module.load_report is not None
    assert len(module.load_report.reshaped) == 2
    assert module.load_report.copied == tuple(sorted(module.load_report.copied))
    assert module.origin == "vgg11_quarter.magnetic_tile_kinds"  # the record of a training names no path
    with pytest.raises(WeightsError, match="load_classifier"):
        load("tile_kinds")


def test_weights_that_are_not_for_every_use_say_so_when_they_are_loaded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fullyconv")
    load("nuclei")
    assert not caplog.messages
    load("street")
    (said,) = caplog.messages
    assert said.startswith("street: not for every use; license of the weights: research use (CamVid")


def test_every_alias_points_at_a_shipped_model() -> None:
    assert set(catalog.ALIASES.values()) <= set(catalog.SHIPPED)


def test_every_folder_of_the_zoo_is_in_the_catalog() -> None:
    trained = {path.parent.name for path in (ROOT / "zoo").glob("*/model.safetensors")}
    assert trained == set(catalog.SHIPPED)  # other folders hold recipes, or splits


def test_other_classes_in_one_call_keep_all_but_the_score_layers() -> None:
    own, other = load("street"), load("street", classes=["crack", "wall"])
    assert other.classes == ["crack", "wall"]
    assert all(name.startswith("head.score.") for name in other.reinitialized)
    state = other.model.state_dict()
    for name, value in own.model.state_dict().items():
        assert name in other.reinitialized or torch.equal(state[name], value)
    assert load("street", classes=Labels.of(["a", "b"])).classes == ["a", "b"]


def pretrained(classes: tuple[str, ...] = ("a", "b")) -> dict[str, bytes]:
    """The files of a small model, to be changed at will."""
    return dict(_made(classes))


@cache
def _made(classes: tuple[str, ...]) -> dict[str, bytes]:
    torch.manual_seed(0)
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=list(classes))
    with torch.no_grad():
        for parameter in module.model.head.parameters():
            parameter.normal_()  # score layers start at zero, which would tell nothing
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder, license="CC0")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def unpacked(folder: Path) -> Path:
    folder.mkdir()
    for name, data in pretrained().items():
        (folder / name).write_bytes(data)
    return folder


class TestSources:
    def test_a_folder_loads_by_any_spelling(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        unpacked(tmp_path / "mine")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for source in ("mine", "mine/", "./mine", str(tmp_path / "mine"), tmp_path / "mine", "~/mine"):
            assert load(source).classes == ["a", "b"]

    def test_a_zoo_name_wins_over_a_folder_of_that_name_unless_it_is_written_as_a_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unpacked(tmp_path / "street")
        monkeypatch.chdir(tmp_path)
        assert load("street").classes != ["a", "b"]
        assert load("street/").classes == ["a", "b"]

    @pytest.mark.parametrize("source", ["stret", "", "fcn4s"])
    def test_an_unknown_name_lists_what_there_is(self, source: str) -> None:
        with pytest.raises(ValueError, match=r"no model of the zoo and no folder with config.json.*Choices: .*street"):
            load(source)

    def test_a_folder_that_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder or file; pass a model folder"):
            load("./nowhere")

    def test_a_folder_without_a_model_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"config.json: not found; a model folder holds"):
            load(tmp_path)

    def test_nothing_is_loaded_from_a_model_folder_whose_weights_were_changed(self, tmp_path: Path) -> None:
        folder = unpacked(tmp_path / "mine")
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\x00\x00\x80\x3f")
        with pytest.raises(ValueError, match="was changed or is damaged"):
            load(folder)

    @pytest.mark.parametrize("heads", [1, 9])
    def test_a_model_larger_than_its_file_is_refused_before_it_is_built(self, tmp_path: Path, heads: int) -> None:
        folder = unpacked(tmp_path / "mine")
        document = json.loads((folder / "config.json").read_text())
        labels = Labels.of([f"class {index}" for index in range(4096)], ignore_index=65535).to_dict()
        # 20 GB of kernels for each head
        document["model"] |= {"model": "fcn8s_vgg11_quarter", "padding": "paper", "upsampling": "learned"}
        document["labels"] = labels if heads == 1 else {"heads": {f"head_{index}": labels for index in range(heads)}}
        (folder / "config.json").write_text(json.dumps(document))
        with pytest.raises(WeightsError, match=r"config.json: describes a model of \d{9,} numbers, .* has \d+ bytes"):
            load(folder)

    def test_many_classes_load(self, tmp_path: Path) -> None:
        names = [f"class {index}" for index in range(600)]
        module = SegmentationModule("fcn32s_resnet18_quarter", classes=names, ignore_index=65535)
        folder = module.save_pretrained(tmp_path / "mine", dtype="float16")
        assert load(folder).classes == names


class TestTheHub:
    """A model folder on the hub is the same model as in a folder, or a clear error."""

    def test_a_repository_loads_by_every_spelling_and_again_without_a_network(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        files = pretrained()
        commit = hub.add_repo("org/mine", files)
        own = load(unpacked(tmp_path / "mine"))
        for source in ("hf://org/mine", "org/mine", f"hf://org/mine@{commit}", "hf://org/mine/model.safetensors"):
            loaded = load(source, allow_unverified=True)
            assert isinstance(loaded, SegmentationModule)
            assert_same_tensors(loaded, own)
            assert (loaded.origin, loaded.license) == (f"org/mine@{commit}", "CC0")
        hub.stop()
        assert_same_tensors(load("org/mine"), own)

    def test_without_the_word_nothing_is_asked_for(self, hub: HubServer, tmp_path: Path) -> None:
        hub.add_repo("org/mine", pretrained())
        with pytest.raises(WeightsError, match="no digest of this file is known"):
            load("org/mine")
        assert hub.asked() == []

    def test_the_digest_of_the_configuration_vouches_for_the_weights_it_names(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        files = pretrained()
        hub.add_repo("org/mine", files)
        digest = hashlib.sha256(files["config.json"]).hexdigest()
        loaded = load(f"hf://org/mine/config.json#sha256={digest}")
        assert isinstance(loaded, SegmentationModule)
        assert loaded.classes == ["a", "b"]
        assert not (tmp_path / "lock.json").exists()
        hub.add_repo("org/mine", files | {"model.safetensors": files["model.safetensors"][::-1]})
        load(f"hf://org/mine/config.json#sha256={digest}")  # from the cache, where the bytes are still the same
        shutil.rmtree(tmp_path / "huggingface")
        with pytest.raises(WeightsError, match=r"model.safetensors: .* fetched twice with the same result"):
            load(f"hf://org/mine/config.json#sha256={digest}")
        shutil.rmtree(tmp_path / "huggingface")
        hub.add_repo("org/mine", pretrained(("x", "y")))
        with pytest.raises(WeightsError, match=r"config.json: .* fetched twice with the same result"):
            load(f"hf://org/mine/config.json#sha256={digest}")

    def test_other_classes_are_told(self, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        hub.add_repo("org/mine", pretrained())
        with caplog.at_level("INFO", logger="fullyconv"):
            loaded = load("org/mine", classes=["x", "y", "z"], allow_unverified=True)
        assert "now 3 classes" in caplog.text
        assert "2 start anew: head.score.32.bias, head.score.32.weight" in caplog.text
        assert loaded.load_report is not None
        assert loaded.load_report.reinitialized == ("head.score.32.bias", "head.score.32.weight")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model.safetensors": pickle.dumps({"weights": 1})}, "bytes, config.json promises"),
            ({"model.safetensors": None}, "the repository has no such file; it has README.md, config.json"),
            ({"config.json": None}, "the repository has no such file; it has README.md, model.safetensors"),
            ({"config.json": b"<html>"}, "is an HTML page, no JSON"),
            ({"config.json": b"[]"}, "holds no JSON object"),
            ({"config.json": b"{}"}, "format=None"),
            ({"config.json": b'{"format": 1, "kind": "virus"}'}, "is missing or no dict"),
            ({"config.json": b" " * (5 * 2**20)}, "a configuration has at most"),
        ],
    )
    def test_a_repository_gone_wrong_is_refused(
        self, hub: HubServer, tmp_path: Path, change: dict[str, bytes | None], message: str
    ) -> None:
        files = pretrained() | change
        hub.add_repo("org/mine", {name: data for name, data in files.items() if data is not None})
        with pytest.raises((WeightsError, DownloadError), match=message):
            load("org/mine", allow_unverified=True)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (pickle.dumps({"weights": 1}), "is no safetensors file"),
            (b"\xff" * 8 + b"{}", "is no safetensors file"),
            ((2**40).to_bytes(8, "little") + b"{}", "is no safetensors file"),
            (b"", "is no safetensors file"),
            (b"<html>Sign in</html>", "is an HTML page, no safetensors file"),
        ],
    )
    def test_weights_that_are_none_are_refused_even_where_the_digest_is_right(
        self, hub: HubServer, tmp_path: Path, data: bytes, message: str
    ) -> None:
        files = pretrained()
        document = json.loads(files["config.json"])
        document["weights"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        files |= {"config.json": json.dumps(document).encode(), "model.safetensors": data}
        hub.add_repo("org/mine", files)
        with pytest.raises(WeightsError, match=message):
            load("org/mine", allow_unverified=True)

    def test_files_of_two_commits_are_never_mixed(
        self, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = pretrained()
        hub.add_repo("org/mine", files)
        real = sources.fetch

        def moving(place: sources.Source, file: str | None = None, **options: bool) -> Fetched:
            fetched = real(place, file, **options)
            if file == "config.json":
                hub.add_repo("org/mine", files | {"model.safetensors": b"another", "config.json": b"{}"})
            return fetched

        monkeypatch.setattr(sources, "fetch", moving)
        loaded = load("org/mine", allow_unverified=True)
        assert isinstance(loaded, SegmentationModule)
        assert loaded.classes == ["a", "b"]


class TestCheckpoints:
    def checkpoint(self, folder: Path) -> tuple[SegmentationModule, Path]:
        module = SegmentationModule("fcn32s_resnet18_quarter", classes=["a", "b"], lr=0.5)
        trainer = L.Trainer(max_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(folder / "best.ckpt")
        return module, folder / "best.ckpt"

    def test_a_checkpoint_loads_without_its_optimizer(self, tmp_path: Path) -> None:
        module, path = self.checkpoint(tmp_path)
        loaded = load(path)
        assert isinstance(loaded, SegmentationModule)
        assert (loaded.classes, loaded.hparams["lr"]) == (["a", "b"], 0.5)
        for name, value in module.model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[name], value)

    @pytest.mark.parametrize("damage", ["truncated", "pickle", "foreign", "tensor missing", "other model"])
    def test_what_is_no_checkpoint_of_this_package_is_refused(self, tmp_path: Path, damage: str) -> None:
        _, path = self.checkpoint(tmp_path)
        content = torch.load(path, weights_only=True)
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:2000])
        elif damage == "pickle":
            path.write_bytes(pickle.dumps({"hyper_parameters": {}, "state_dict": Path("x")}))
        elif damage == "foreign":
            torch.save({"model": {}}, path)
        elif damage == "tensor missing":
            content["state_dict"].pop("model.backbone.conv1.weight")
            torch.save(content, path)
        else:
            content["hyper_parameters"]["model"] = "fcn16s_resnet18_quarter"
            torch.save(content, path)
        with pytest.raises(WeightsError, match=r"best.ckpt: (is damaged|holds no tensors|its tensors are not those)"):
            load(path)

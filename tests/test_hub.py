from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from fullyconv.hub import catalog
from fullyconv.hub.load import load
from fullyconv.hub.model_card import model_card
from fullyconv.labels import Labels
from fullyconv.module import SegmentationModule

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.name)
class TestEveryShippedModel:
    def test_it_loads_and_depends_on_the_image(self, entry: catalog.Entry) -> None:
        segmenter = load(entry.name)
        a, b = torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            assert (segmenter(a) - segmenter(b)).abs().max() > 0.1

    def test_it_has_score_licence_recipe_and_card(self, entry: catalog.Entry) -> None:
        assert entry.config.score is not None
        assert entry.config.score["split"] == "test"
        assert 0 < entry.config.score["mean_iu"] <= 100
        assert entry.config.licence not in ("unstated", "MIT")
        assert (entry.folder / "recipe.yaml").is_file()
        assert f"{entry.config.score['mean_iu']:.2f}" in (entry.folder / "README.md").read_text()

    def test_it_is_half_precision_and_small(self, entry: catalog.Entry) -> None:
        assert entry.config.weights["dtype"] == "float16"
        assert entry.bytes < 8e6

    def test_the_model_card_of_the_project_quotes_its_score(self, entry: catalog.Entry) -> None:
        text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert entry.name in text
        assert entry.config.score is not None
        for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
            assert f"{entry.config.score[key]:.2f}" in text
        for name, value in entry.config.score["iu"].items():
            assert name in text
            assert f"{value:.2f}" in text


def test_the_model_card_is_what_the_catalog_says() -> None:
    assert (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card()


def test_every_alias_points_at_a_shipped_model() -> None:
    assert set(catalog.ALIASES.values()) <= set(catalog.SHIPPED)


def test_every_folder_of_the_zoo_is_in_the_catalog() -> None:
    assert {path.name for path in (ROOT / "zoo").iterdir() if path.is_dir()} == set(catalog.SHIPPED)


def test_other_classes_in_one_call_keep_all_but_the_score_layers() -> None:
    own, other = load("street"), load("street", classes=["crack", "wall"])
    assert other.classes == ["crack", "wall"]
    assert all(name.startswith("head.score.") for name in other.reinitialised)
    state = other.model.state_dict()
    for name, value in own.model.state_dict().items():
        assert name in other.reinitialised or torch.equal(state[name], value)
    assert load("street", classes=Labels.of(["a", "b"])).classes == ["a", "b"]


class TestSources:
    def test_a_folder_loads_by_any_spelling(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        SegmentationModule("fcn32s_resnet18_half", classes=["a", "b"]).save(tmp_path / "mine")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for source in ("mine", "mine/", "./mine", str(tmp_path / "mine"), tmp_path / "mine", "~/mine"):
            assert load(source).classes == ["a", "b"]

    def test_a_zoo_name_wins_over_a_folder_of_that_name_unless_it_is_written_as_a_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        SegmentationModule("fcn32s_resnet18_half", classes=["a", "b"]).save(tmp_path / "street")
        monkeypatch.chdir(tmp_path)
        assert load("street").classes != ["a", "b"]
        assert load("street/").classes == ["a", "b"]

    @pytest.mark.parametrize("source", ["stret", "", "org/repo", "fcn4s"])
    def test_an_unknown_name_lists_what_there_is(self, source: str) -> None:
        with pytest.raises(ValueError, match=r"no model of the zoo and no folder with config.json.*Choices: .*street"):
            load(source)

    def test_a_folder_that_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder; pass the folder of an artefact"):
            load("./nowhere")

    def test_a_folder_without_an_artefact(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"config.json: not found; an artefact is a folder"):
            load(tmp_path)

    def test_nothing_is_loaded_from_an_artefact_whose_weights_were_changed(self, tmp_path: Path) -> None:
        folder = SegmentationModule("fcn32s_resnet18_half", classes=["a", "b"]).save(tmp_path / "mine")
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\x00\x00\x80\x3f")
        with pytest.raises(ValueError, match="was changed or is damaged"):
            load(folder)

"""A network is found among all that a checkpoint holds, and what stands beside it is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullyconv
from fullyconv.errors import WeightsError
from fullyconv.weights.architectures import build_classifier
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.within import find

ARCHITECTURE = "vgg11_quarter"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(ARCHITECTURE, 6)


def saved(folder: Path, content: Any, name: str = "mine.ckpt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def under(prefix: str, state: dict[str, Tensor], add: float = 0.0) -> dict[str, Tensor]:
    return {prefix + key: value + add for key, value in state.items()}


def loaded(path: Path, architecture: str = ARCHITECTURE) -> dict[str, Tensor]:
    classes = [f"class {index}" for index in range(6)]
    found = fullyconv.load_classifier(path, architecture=architecture, classes=classes)
    return dict(found.network.state_dict())


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("prefix", ["net.", "module.model.", "_orig_mod.", "model._orig_mod.", "a.b.c.d.", ""])
def test_whatever_the_prefix_and_whatever_stands_beside(prefix: str, network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    beside = {
        "criterion.weight": torch.ones(6),
        "n_averaged": torch.tensor(3),
        "best_score.value": torch.tensor(-torch.inf),  # of a metric that has seen nothing yet
        "val_iou.matrix": torch.zeros(6, 6),
    }
    content = {"state_dict": under(prefix, state) | beside, "optimizer_states": [{"state": {0: {"m": torch.ones(3)}}}]}
    assert same(loaded(saved(tmp_path, content)), state)
    report = fullyconv.load_classifier(tmp_path / "mine.ckpt", architecture=ARCHITECTURE).load_report
    assert report is not None
    assert report.unused == tuple(beside)


@pytest.mark.parametrize("average", ["ema_model.module.", "model_ema.", "swa_model.module.", "averaged."])
def test_of_a_network_and_its_average_the_average_is_taken(average: str, network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    both = under("model.", state) | under(average, state, add=1.0) | {"ema_model.n_averaged": torch.tensor(3)}
    assert same(loaded(saved(tmp_path, {"state_dict": both})), under("", state, add=1.0))


def test_a_network_that_is_held_twice_is_taken_once(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    assert same(loaded(saved(tmp_path, under("net.", state) | under("wrapper.module.", state))), state)


def test_of_two_networks_that_fit_none_is_taken(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    path = saved(tmp_path, under("student.", state) | under("teacher.", state, add=1.0))
    with pytest.raises(WeightsError, match=r"mine.ckpt: holds several networks .* 'student.' and 'teacher.'; save the"):
        loaded(path)


def test_a_teacher_of_another_architecture_is_no_rival(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    teacher = build_classifier("torchvision/resnet18", 6).state_dict()
    assert same(loaded(saved(tmp_path, under("student.", state) | under("teacher.", teacher))), state)


def test_parts_that_were_compiled_or_sharded_alone_have_their_plain_names(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    renamed = {f"model.{key.replace('features.', 'features._orig_mod.')}": value for key, value in state.items()}
    assert same(loaded(saved(tmp_path, {"state_dict": renamed})), state)


@pytest.mark.parametrize("name", ["network", "ema_state_dict", "weights_of_mine"])
def test_weights_are_found_within_an_entry_of_any_name(name: str, network: nn.Module, tmp_path: Path) -> None:
    content = {name: network.state_dict(), "step": torch.tensor(3), "optimizer": {"state": {}, "param_groups": []}}
    file = read_state_dict(saved(tmp_path, content))
    assert same(file.tensors, network.state_dict())


def test_layers_of_a_deeper_network_are_no_bystanders(tmp_path: Path) -> None:
    deeper = {f"net.{key}": value for key, value in build_classifier("torchvision/resnet34", 6).state_dict().items()}
    with pytest.raises(WeightsError, match=r"\d+ unknown: layer1.2"):
        loaded(saved(tmp_path, deeper), "torchvision/resnet18")


def test_the_own_module_lists_what_a_subclass_kept_beside_its_model(tmp_path: Path) -> None:
    module = fullyconv.SegmentationModule("same_convolutions", classes=["a", "b"])
    beside = {"criterion.weight": torch.ones(2), "val_iou.matrix": torch.zeros(2, 2)}
    content = {"state_dict": module.state_dict() | beside, "hyper_parameters": dict(module.hparams)}
    found = fullyconv.load(saved(tmp_path, content))
    assert found.load_report is not None
    assert found.load_report.unused == tuple(beside)
    content["state_dict"] |= {"model.head.more": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"1 unknown: model.head.more"):
        fullyconv.load(saved(tmp_path, content))


def test_names_without_end_cost_no_more_than_their_number() -> None:
    names = {f"{'a.' * 3000}{index}": torch.zeros(1) for index in range(200)}
    assert len(find(names)) == 200

"""Folded copies give the outputs of their models, and nothing is folded that must not be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from closeness import assert_close, assert_same_mask
from fullyconv.fcn import FCN, build_model
from fullyconv.inference.folding import fingerprint, fold
from fullyconv.training.module import SegmentationModule


def lived(model: nn.Module) -> nn.Module:
    """Give batch norms and score layers values, as after a training."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    for name, parameter in model.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    "name",
    ["fcn4s_resnet18_slim", "fcn8s_vgg11_quarter", "ladder_resnet18_quarter", "lraspp_mobilenet_v3_large"],
)
def test_every_batch_norm_is_folded_and_the_scores_stay(name: str) -> None:
    model = lived(build_model(name, 5))
    image = torch.randn(2, 3, 97, 131)
    folded = fold(model, lambda one: one.scores(image[:1, :, :64, :64]))  # type: ignore[operator]
    assert isinstance(folded, FCN)
    assert norms(model) > 0
    assert norms(folded) == 0
    with torch.no_grad():
        expected = model.scores(image)
        assert_close(folded.scores(image), expected)
        assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max(), "the scores depend on the image"
    assert all(parameter.requires_grad for parameter in model.parameters())


class Odd(nn.Module):
    """A convolution whose output two layers take, one whose norm runs twice, and one that is used beside its norm."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.shared, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.first, self.second, self.twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.seen, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        x = self.norm(shared) + self.other(shared)
        x = self.twice(self.first(x)) + self.twice(self.second(x))
        seen = self.seen(x)
        out: Tensor = self.last(seen) + seen  # no module takes it, so that only the comparison can tell
        return out * self.scale


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_what_cannot_be_folded_is_not(scale: float) -> None:
    model = lived(Odd(scale))
    assert fold(model, lambda one: one(torch.ones(1, 3, 4, 4))) is None
    assert fold(nn.Sequential(nn.Conv2d(3, 3, 1)).eval(), lambda one: one(torch.ones(1, 3, 4, 4))) is None


def test_predict_folds_anew_when_a_weight_was_changed_and_never_where_it_could_be_seen() -> None:
    module = SegmentationModule("fcn4s_resnet18_quarter", classes=["a", "b", "c"])
    lived(module.model)
    photo = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255

    def plain() -> Tensor:
        with torch.no_grad():
            return module.eval()(image).argmax(1)[0]

    keys = list(module.state_dict())
    first = module.predict(photo).mask
    folded = module.predictor()._folded
    assert folded is not None
    assert norms(folded[1]) == 0
    assert_same_mask(first, plain())
    with torch.no_grad():
        for parameter in module.model.head.parameters():
            parameter.neg_()
    assert_same_mask(module.predict(photo).mask, plain())
    assert (module.predict(photo).mask != first).any()
    assert list(module.state_dict()) == keys
    assert norms(copy.deepcopy(module)) == norms(module.model)
    seen = []
    module.model.backbone.register_forward_hook(lambda *_: seen.append(1))
    module.predict(photo)
    assert seen == [1]


def test_a_fingerprint_changes_with_any_weight() -> None:
    model = build_model("fcn32s_resnet18_quarter", 2)
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.head.score["32"].bias.add_(1)  # type: ignore[union-attr, operator]
    after = fingerprint(model)
    assert after != before
    model.backbone.bn1.running_mean.zero_()
    assert fingerprint(model) != after

"""A conversion gives the classifier's scores on its windows, or says what is in the way: rows of observed faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from closeness import assert_close
from fullyconv.conversion import DenseClassifier, convolutionalize, sliding_window
from fullyconv.errors import ConversionError

SIDE = 20


class Net(nn.Module):
    """A small classifier without padding: each score of the converted one is that of a window."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2))
        self.flat = nn.Flatten()
        self.classifier = nn.Sequential(nn.Linear(8 * 3 * 3, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flat(self.features(x)))


class Product(nn.Module):
    """The fully connected layer is a product that its forward writes out."""

    def __init__(self, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
        self.weight, self.bias = nn.Parameter(torch.randn(4, 72) / 8), nn.Parameter(torch.randn(4))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.features(x).flatten(1), self.weight, self.bias)


def scores_are_those_of_the_windows(classifier: nn.Module, **options: Any) -> DenseClassifier:
    dense = convolutionalize(classifier.eval(), input_size=SIDE, **options)
    assert dense.guarantee == "window"
    image = torch.rand(1, 3, SIDE + 8, SIDE + 12)
    with torch.no_grad():
        expected = sliding_window(classifier, image, window=SIDE, stride=4)
        assert expected.std() > 1e-3 * expected.abs().max()
        assert_close(dense(image), expected, rel=1e-4)
    return dense


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def centered(module: nn.Module, args: Any) -> tuple[Tensor]:
    return (args[0] * 2 - 1,)


def with_kwargs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return (args[0] ** 2,), kwargs


@pytest.mark.parametrize("place", ["", "features", "features.2", "flat", "classifier", "classifier.0", "classifier.1"])
def test_w4_a_forward_hook_anywhere_has_its_say(place: str) -> None:
    classifier = Net()
    classifier.get_submodule(place).register_forward_hook(double)
    scores_are_those_of_the_windows(classifier)


@pytest.mark.parametrize("place", ["", "features", "features.2", "classifier", "classifier.0", "classifier.2"])
def test_w4_a_forward_pre_hook_anywhere_has_its_say(place: str) -> None:
    classifier = Net()
    classifier.get_submodule(place).register_forward_pre_hook(centered)
    scores_are_those_of_the_windows(classifier)


@pytest.mark.parametrize("place", ["", "classifier.0"])
def test_w4_a_pre_hook_with_keywords_has_its_say(place: str) -> None:
    classifier = Net()
    classifier.get_submodule(place).register_forward_pre_hook(with_kwargs, with_kwargs=True)
    scores_are_those_of_the_windows(classifier)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.register_forward_hook(double),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        parametrizations.weight_norm,
    ],
    ids=["hook", "pruning", "weight norm"],
)
def test_w4_a_fully_connected_layer_that_is_most_of_a_network_may_have_them(change: Callable[[nn.Module], Any]) -> None:
    classifier = Net()
    classifier.classifier[0], classifier.classifier[2] = nn.Linear(8 * 3 * 3, 200), nn.Linear(200, 4)
    change(classifier.classifier[0])
    scores_are_those_of_the_windows(classifier)


def test_w4_a_hook_that_mixes_the_images_of_a_batch_is_refused() -> None:
    classifier = Net()
    classifier.register_forward_hook(lambda module, args, output: output - output.mean(0))
    with pytest.raises(ConversionError, match="mixes the images of a batch"):
        convolutionalize(classifier, input_size=SIDE)


def test_w4_a_hook_for_all_modules_is_refused_by_name() -> None:
    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        with pytest.raises(ConversionError, match="double"):
            convolutionalize(Net(), input_size=SIDE)
    finally:
        handle.remove()


def test_w4_hooks_of_the_backward_pass_change_no_scores() -> None:
    classifier = Net()
    classifier.classifier[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    scores_are_those_of_the_windows(classifier)


@pytest.mark.parametrize("part", ["features", "classifier"])
def test_c10_a_compiled_part_gets_the_refusal_of_a_compiled_whole(part: str) -> None:
    classifier = Net()
    setattr(classifier, part, torch.compile(classifier.get_submodule(part)))
    with pytest.raises(ConversionError, match=rf"classifier\.{part}: was compiled"):
        convolutionalize(classifier, input_size=SIDE)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("features.2", lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        ("features.2", parametrizations.weight_norm),
        ("features.2", parametrizations.spectral_norm),
        ("features.2", parametrizations.orthogonal),
    ],
)
def test_c11_convolutions_whose_weights_are_computed_convert(place: str, change: Callable[[nn.Module], Any]) -> None:
    classifier = Net()
    change(classifier.get_submodule(place))
    with torch.no_grad():
        classifier(torch.rand(2, 3, SIDE, SIDE))  # what was computed is kept, and is no leaf
    scores_are_those_of_the_windows(classifier)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_c11_convolutions_with_the_older_weight_norm_convert() -> None:
    classifier = Net()
    nn.utils.weight_norm(classifier.features[2])
    classifier(torch.rand(2, 3, SIDE, SIDE))
    scores_are_those_of_the_windows(classifier)


def test_c11_a_pruned_fully_connected_layer_converts() -> None:
    classifier = Net()
    prune.l1_unstructured(classifier.classifier[0], "weight", 0.5)
    scores_are_those_of_the_windows(classifier)


@pytest.mark.parametrize(
    "product",
    [
        F.linear,
        lambda x, weight, bias: x @ weight.t() + bias,
        lambda x, weight, bias: torch.matmul(x, weight.T) + bias,
        lambda x, weight, bias: torch.addmm(bias, x, weight.t()),
        lambda x, weight, bias: torch.einsum("nc,kc->nk", x, weight) + bias,
    ],
    ids=["linear", "@", "matmul", "addmm", "einsum"],
)
def test_m8_products_on_a_flattened_map_convert(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    classifier = Product(product)
    dense = scores_are_those_of_the_windows(classifier)
    assert list(dense.state_dict()) == list(classifier.state_dict()), "the keys stay the classifier's own"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: F.relu(x, inplace=True),
        lambda x: x.mul_(2).add_(1),
        lambda x: x.__setitem__((slice(None), 0), 0),
        nn.LeakyReLU(inplace=True),
    ],
    ids=["function", "methods", "assignment", "module"],
)
@pytest.mark.parametrize("head", [True, False])
def test_a_statement_that_changes_a_tensor_in_place_is_followed(change: Callable[[Tensor], Any], head: bool) -> None:
    class Changing(Product):
        change: Any

        def forward(self, x: Tensor) -> Tensor:
            x = self.features[0](x)
            x = x if head else self.changed(x)
            x = self.features[2](x).flatten(1)
            return (self.changed(x) if head else x) @ self.weight.t() + self.bias

        def changed(self, x: Tensor) -> Tensor:
            self.change(x)
            return x

    classifier = Changing(lambda x, weight, bias: x)
    classifier.change = change
    scores_are_those_of_the_windows(classifier)


def test_m8_a_parallel_wrapper_converts_or_is_named() -> None:
    classifier = nn.DataParallel(Net())
    try:
        scores_are_those_of_the_windows(classifier)
    except ConversionError as error:
        assert "DataParallel" in str(error)  # noqa: PT017  either will do


@pytest.mark.filterwarnings("ignore:.*(script|trace).*deprecated")
def test_m8_a_scripted_part_is_named() -> None:
    classifier = Net()
    classifier.features = torch.jit.trace(classifier.features, torch.rand(1, 3, SIDE, SIDE))
    with pytest.raises(ConversionError, match=r"classifier\.features: a scripted or traced module"):
        convolutionalize(classifier, input_size=SIDE)


def test_m8_a_subclass_of_linear_with_a_forward_of_its_own_is_followed_or_named() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.weight * 2, self.bias)

    classifier = Net()
    classifier.classifier[0] = Scaled(72, 10)
    try:
        scores_are_those_of_the_windows(classifier)
    except ConversionError as error:
        assert "Scaled" in str(error)  # noqa: PT017  either will do

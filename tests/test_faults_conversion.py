"""Conversion says what is true: hooks, compiled, pruned and unusual parts of classifiers, and why one is refused."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations, prune

from fullyconv.conversion import (
    DenseClassifier,
    FixedInputSize,
    InputSizeError,
    TraceError,
    UnsupportedHead,
    convolutionalize,
    linear_to_conv,
    sliding_window,
)
from fullyconv.errors import ConversionError

WINDOW = 23  # of the trunk below: 5 x 5 cells at stride 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    """An unpadded trunk, an adaptive pooling that is not the map's size, and fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.Tanh())
        self.pool, self.flat = nn.AdaptiveAvgPool2d(3), nn.Flatten()
        self.classifier = nn.Sequential(nn.Linear(8 * 9, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.flat(self.pool(self.features(x))))


class Headed(nn.Module):
    """The same trunk, 8 channels of 5 x 5 cells, under any head."""

    def __init__(self, head: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.features = Net().features
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self._head = head

    def forward(self, x: Tensor) -> Any:
        return self._head(self, self.features(x))


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / 10)


def error_on_windows(classifier: nn.Module, dense: DenseClassifier, scale: float = 1.0) -> float:
    """Hold a converted classifier against itself slid over an image, relative to how much its scores differ."""
    classifier, dense = classifier.double().eval(), dense.double().eval()
    image = scale * torch.randn(2, 3, WINDOW + 4, WINDOW + 9, dtype=torch.float64)
    expected = sliding_window(classifier, image, WINDOW, 4)
    with torch.no_grad():
        got = dense(image)
    assert got.shape == expected.shape == (2, expected.shape[1], 2, 3)
    signal = (expected - expected.mean((0, 2, 3), keepdim=True)).abs().max()
    assert signal > 1e-6 * expected.abs().max()
    return float((got - expected).abs().max() / signal)


def check_on_windows(classifier: nn.Module, **options: Any) -> DenseClassifier:
    classifier = classifier.double().eval()
    keys = list(classifier.state_dict())
    dense = convolutionalize(classifier, WINDOW, **options)
    assert dense.guarantee == "window"
    assert error_on_windows(classifier, dense) < 1e-10
    assert list(dense.state_dict()) == keys
    return dense


# ---------------------------------------------------------------------------------------------------------------------
# W4: hooks
# ---------------------------------------------------------------------------------------------------------------------
def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def double_in_place(module: nn.Module, args: Any, output: Tensor) -> None:
    output.mul_(2)


def silence_first(module: nn.Module, args: Any, output: Tensor) -> None:
    output[:, 0] = 0


def centre(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output - output.mean(1, keepdim=True)


def only_tensors(module: nn.Module, args: Any, output: Any) -> Any:
    return output.clamp(max=0.02) if isinstance(output, Tensor) and torch.is_tensor(output) else output


def scaled(factor: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * factor


def first_three(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output[:, :3]


def turned(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.flip(1)


def squared(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] ** 2,)


def shifted(module: nn.Module, args: tuple[Tensor]) -> Tensor:
    return 2 * args[0] - 1


HOOKED: dict[str, Callable[[Net], Any]] = {
    "the classifier": lambda n: n.register_forward_hook(double),
    "the classifier, with keywords": lambda n: n.register_forward_hook(
        lambda m, args, kwargs, out: out.softmax(1), with_kwargs=True
    ),
    "the classifier, in any case": lambda n: n.register_forward_hook(double, always_call=True),
    "the classifier, in place": lambda n: n.register_forward_hook(double_in_place),
    "the classifier, tensors only": lambda n: n.register_forward_hook(only_tensors),
    "the classifier, fewer classes": lambda n: n.register_forward_hook(first_three),
    "the classifier, partial": lambda n: n.register_forward_hook(functools.partial(scaled, 3.0)),
    "before the classifier": lambda n: n.register_forward_pre_hook(squared),
    "before the classifier, no tuple": lambda n: n.register_forward_pre_hook(shifted),
    "before the classifier, with keywords": lambda n: n.register_forward_pre_hook(
        lambda m, args, kwargs: ((args[0].abs(),), kwargs), with_kwargs=True
    ),
    "a fully connected layer": lambda n: n.classifier[0].register_forward_hook(double),
    "a fully connected layer, in place": lambda n: n.classifier[0].register_forward_hook(double_in_place),
    "a fully connected layer, one class": lambda n: n.classifier[3].register_forward_hook(silence_first),
    "a fully connected layer, tensors only": lambda n: n.classifier[3].register_forward_hook(only_tensors),
    "a fully connected layer, fewer classes": lambda n: n.classifier[3].register_forward_hook(first_three),
    "before a fully connected layer": lambda n: n.classifier[0].register_forward_pre_hook(squared),
    "two on a fully connected layer": lambda n: (
        n.classifier[0].register_forward_hook(centre),
        n.classifier[0].register_forward_hook(double, prepend=True),
        n.classifier[0].register_forward_pre_hook(squared),
    ),
    "the pooling": lambda n: n.pool.register_forward_hook(double),
    "the flattening": lambda n: n.flat.register_forward_hook(turned),
    "the activation": lambda n: n.classifier[1].register_forward_hook(centre),
    "the dropout": lambda n: n.classifier[2].register_forward_hook(double),
    "a container": lambda n: n.classifier.register_forward_hook(centre),
    "before a container": lambda n: n.classifier.register_forward_pre_hook(squared),
    "the trunk": lambda n: n.features.register_forward_hook(double),
    "in the trunk": lambda n: n.features[2].register_forward_hook(double),
    "before the trunk": lambda n: n.features.register_forward_pre_hook(squared),
}


@pytest.mark.parametrize("where", HOOKED)
def test_w4_scores_are_those_of_the_classifier_with_its_hooks(where: str) -> None:
    classifier, plain = Net(), Net()
    plain.load_state_dict(classifier.state_dict())
    HOOKED[where](classifier)
    dense = check_on_windows(classifier)
    x = torch.randn(2, 3, WINDOW, WINDOW, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.equal(dense(x).flatten(1), plain.double().eval()(x))  # the hook does something


def test_w4_a_forward_hook_on_the_classifier_may_be_a_method_of_it() -> None:
    class Scaling(Net):
        factor = 3.0

        def scale(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output * self.factor

    classifier = Scaling()
    classifier.register_forward_hook(classifier.scale)
    check_on_windows(classifier)


def test_w4_a_hook_that_does_nothing_on_usual_images_is_not_lost() -> None:
    classifier = Net()
    classifier.classifier[3].register_forward_hook(
        lambda m, args, out: out.clamp(max=1.0) if isinstance(out, Tensor) else None
    )
    dense = check_on_windows(classifier)
    with torch.no_grad():
        nn.init.constant_(classifier.classifier[3].bias, 0.9)
    dense.load_classifier(classifier.state_dict())
    assert error_on_windows(classifier, dense, scale=5) < 1e-10
    with torch.no_grad():
        assert dense(5 * torch.randn(1, 3, 40, 40, dtype=torch.float64)).max() == 1


def test_w4_hooks_that_only_look_on_change_nothing_and_keep_values() -> None:
    classifier, seen = Net(), {}
    for name, module in classifier.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, out))
    check_on_windows(classifier, copy=False)
    convolutionalize(classifier, WINDOW, copy=False)
    assert {type(value) for value in seen.values()} == {Tensor}  # neither proxies nor tensors without data


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (lambda m, args, out: out * 2 if out.max() > 1e3 else out, "works on the values of tensors"),
        (lambda m, args, out: torch.from_numpy(out.detach().numpy() * 2), "works on the values of tensors"),
    ],
    ids=["a decision on values", "numpy"],
)
@pytest.mark.parametrize("where", ["", "classifier", "classifier.3", "features.1"])
def test_w4_a_hook_that_cannot_be_followed_is_named(hook: Any, reason: str, where: str) -> None:
    classifier = Net()
    classifier.get_submodule(where).register_forward_hook(hook)
    place = f"module {where!r}" if where else "the forward of Net"
    with pytest.raises(ConversionError, match=rf"{place}.* forward hook '<lambda>'.*{reason}.*sliding_window"):
        convolutionalize(classifier, WINDOW)


def test_w4_a_pre_hook_that_changes_a_parameter_is_named() -> None:
    classifier = Net()
    classifier.classifier[3].register_forward_pre_hook(lambda m, args: m.weight.data.renorm_(2, 0, 0.1) and None)
    with pytest.raises(ConversionError, match=r"'renorm_' in 'classifier.3' .*the parameter 'classifier.3.weight' in"):
        convolutionalize(classifier, WINDOW)


class Equalised:
    """A pre-hook that computes a weight, as StyleGAN's."""

    def __init__(self, module: nn.Module) -> None:
        module.register_parameter("weight_raw", nn.Parameter(module.weight.detach()))
        del module._parameters["weight"]
        module.weight = module.weight_raw.detach() * 0
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: Any) -> None:
        module.weight = module.weight_raw * 2


def test_w4_weights_that_a_hook_computes_are_those_of_the_classifier() -> None:
    classifier = Net()
    Equalised(classifier.features[2])
    Equalised(classifier.classifier[3])
    dense = check_on_windows(classifier)
    with torch.no_grad():
        classifier.classifier[3].weight_raw.normal_()
    dense.load_classifier(classifier.state_dict())
    assert error_on_windows(classifier, dense) < 1e-10
    Equalised(classifier.classifier[0])
    with pytest.raises(ConversionError, match=r"'classifier.0'.*forward pre-hook 'Equalised'"):
        convolutionalize(classifier, WINDOW)


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_forward_pre_hook])
def test_w4_a_hook_for_all_modules_is_named(register: Callable[..., Any]) -> None:
    def for_all(module: nn.Module, *values: Any) -> None:
        return None

    handle = register(for_all)
    try:
        with pytest.raises(ConversionError, match=r"a hook for all modules is registered.*for_all'.*by its handle"):
            convolutionalize(Net(), WINDOW)
    finally:
        handle.remove()


def test_w4_hooks_of_the_backward_pass_and_of_state_dicts_are_harmless() -> None:
    classifier = Net().double().eval()
    for module in classifier.modules():
        module.register_full_backward_hook(lambda m, grad_in, grad_out: None)
        module.register_full_backward_pre_hook(lambda m, grad_out: None)
        module.register_state_dict_pre_hook(lambda m, prefix, keep_vars: None)
    classifier.register_load_state_dict_post_hook(lambda m, keys: None)

    def renamed(module: nn.Module, state: Any, prefix: str, local: Any) -> None:
        for key in list(state):
            state[f"net.{key}"] = state.pop(key)

    classifier._register_state_dict_hook(renamed)
    dense = convolutionalize(classifier, WINDOW)
    assert error_on_windows(classifier, dense) < 1e-10
    assert dense.report.dropped == ()
    older = Net()
    older.classifier.register_backward_hook(lambda m, grad_in, grad_out: None)
    check_on_windows(older)


@pytest.mark.parametrize(
    ("hook", "guarantee"),
    [
        (lambda m, args, out: F.pad(out, (1, 1, 1, 1)), "interior"),
        (lambda m, args, out: out - out.mean((2, 3), keepdim=True), "head"),
        (lambda m, args, out: out + torch.linspace(0, 1, out.shape[3]), "head"),
        (lambda m, args, out: out * torch.arange(out.shape[2])[:, None], "head"),
        (
            lambda m, args, out: torch.cat([out[:, :5], torch.linspace(0, 1, out.shape[3]).expand_as(out[:, :1])], 1),
            "head",
        ),
        (lambda m, args, out: torch.cat([out[:, :5], torch.ones_like(out[:, :1])], 1), "window"),
        (lambda m, args, out: out * F.interpolate(torch.rand(1, 1, 3, 3), size=out.shape[2:]), "head"),
    ],
    ids=["padding", "mean", "coordinates", "rows", "more channels", "a channel of ones", "positions"],
)
def test_w4_the_guarantee_counts_what_a_hook_in_the_trunk_does(hook: Any, guarantee: str) -> None:
    classifier = Net()
    classifier.features[1].register_forward_hook(hook)
    dense = convolutionalize(classifier, WINDOW)
    assert dense.guarantee == guarantee
    x = torch.randn(2, 3, WINDOW, WINDOW)
    with torch.no_grad():
        torch.testing.assert_close(dense.eval()(x).flatten(1), classifier.eval()(x))


@pytest.mark.parametrize("where", ["features", "classifier", ""])
def test_w4_a_hook_that_mixes_the_images_of_a_batch_is_refused(where: str) -> None:
    classifier = Net()
    classifier.get_submodule(where).register_forward_hook(lambda m, args, out: out - out.mean(0, keepdim=True))
    with pytest.raises(UnsupportedHead, match=r"mixes the images of a batch.*sliding_window"):
        convolutionalize(classifier, WINDOW)


@pytest.mark.parametrize(
    "make", [parametrizations.spectral_norm, parametrizations.orthogonal, parametrizations.weight_norm]
)
def test_w4_parametrized_weights_are_computed_in_the_trunk_and_refused_in_a_converted_layer(make: Any) -> None:
    classifier = Net()
    make(classifier.features[2])
    check_on_windows(classifier)
    make(classifier.classifier[0])
    with pytest.raises(
        ConversionError, match=r"'classifier.0' .*parametrization \w+.*remove_parametrizations\(layer, 'weight'\)"
    ):
        convolutionalize(classifier, WINDOW)


def test_w4_one_layer_with_a_hook_or_another_forward_is_not_turned_into_a_convolution() -> None:
    hooked = nn.Linear(18, 4)
    hooked.register_forward_hook(double)
    with pytest.raises(ValueError, match=r"linear: its forward hook 'double' would be lost; remove"):
        linear_to_conv(hooked, 3)

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(ValueError, match=r"linear=Doubled: its forward is not that of torch.nn.Linear"):
        linear_to_conv(Doubled(18, 4), 3)


# ---------------------------------------------------------------------------------------------------------------------
# C10: compiled parts
# ---------------------------------------------------------------------------------------------------------------------
class Compiled(nn.Module):
    """A convolution with a method that is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)

    @torch.compile
    def convolve(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x)


def compile_part(net: Net) -> None:
    net.features = torch.compile(net.features)


def compile_layer(net: Net) -> None:
    net.classifier[0] = torch.compile(net.classifier[0])


def compile_forward(net: Net) -> None:
    net.features.forward = torch.compile(net.features.forward)


def script_part(net: Net) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, people still have such modules
        net.features = torch.jit.script(net.features)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (compile_part, r"classifier.features: was compiled; put the module itself in its place, .*features._orig_mod"),
        (compile_layer, r"classifier.classifier.0: was compiled"),
        (compile_forward, r"classifier.features: its forward was compiled; convert first, and compile the result"),
        (script_part, r"classifier.features: a scripted or traced module cannot be rewritten; pass the Python module"),
    ],
)
def test_c10_a_compiled_part_is_refused_as_a_compiled_whole_is(change: Any, reason: str) -> None:
    classifier = Net()
    change(classifier)
    with pytest.raises(ConversionError, match=reason):
        convolutionalize(classifier, WINDOW)
    with pytest.raises(
        ConversionError, match=r"classifier: was compiled; pass the module itself, classifier._orig_mod"
    ):
        convolutionalize(torch.compile(Net()), WINDOW)


@pytest.mark.parametrize("where", ["", "features"])
def test_c10_a_module_compiled_in_place_is_converted_as_it_was(where: str) -> None:
    classifier, twin = Net(), Net()
    twin.load_state_dict(classifier.state_dict())
    classifier.get_submodule(where).compile()
    assert error_on_windows(twin, convolutionalize(classifier, WINDOW)) < 1e-10
    with pytest.raises(ConversionError, match=r"was compiled in place; pass copy=True"):
        convolutionalize(classifier, WINDOW, copy=False)


def test_c10_a_compiled_method_is_no_crash() -> None:
    classifier = Net()
    classifier.features[0] = Compiled()
    dense = convolutionalize(classifier, WINDOW)
    assert dense.grid(WINDOW + 4, WINDOW + 9) == (2, 3)
    assert dense.geometry.stride == (4, 4)


# ---------------------------------------------------------------------------------------------------------------------
# C11: tensors that cannot be copied
# ---------------------------------------------------------------------------------------------------------------------
def old(norm: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module)

    return apply


COMPUTED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "pruning": (lambda m: prune.l1_unstructured(m, "weight", 0.5), r"prune.remove\(layer, 'weight'\)"),
    "pruned rows": (lambda m: prune.ln_structured(m, "weight", 0.5, 2, 0), r"prune.remove\(layer, 'weight'\)"),
    "a pruned bias": (lambda m: prune.random_unstructured(m, "bias", 0.5), r"prune.remove\(layer, 'bias'\)"),
    "weight norm": (old(nn.utils.weight_norm), r"remove_weight_norm\(layer, 'weight'\)"),
    "spectral norm": (old(nn.utils.spectral_norm), r"remove_spectral_norm\(layer, 'weight'\)"),
}


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("copy", [True, False])
def test_c11_computed_weights_of_the_trunk_are_computed_in_the_converted_network(name: str, copy: bool) -> None:
    classifier = Net()
    COMPUTED[name][0](classifier.features[2])
    classifier(torch.randn(1, 3, WINDOW, WINDOW))
    dense = check_on_windows(classifier, copy=copy)
    own = {parameter.data_ptr() for parameter in classifier.parameters()}
    assert bool(own & {parameter.data_ptr() for parameter in dense.parameters()}) != copy
    for parameter in dense.parameters():
        parameter.data.mul_(1.1)
    if not copy:
        assert error_on_windows(classifier, dense) < 1e-10
    dense(torch.randn(1, 3, 30, 30, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())


@pytest.mark.parametrize("name", COMPUTED)
def test_c11_computed_weights_of_a_converted_layer_are_refused_with_the_remedy(name: str) -> None:
    classifier = Net()
    COMPUTED[name][0](classifier.classifier[0])
    classifier(torch.randn(1, 3, WINDOW, WINDOW))
    with pytest.raises(ConversionError, match=rf"'classifier.0' cannot be converted.*{COMPUTED[name][1]}"):
        convolutionalize(classifier, WINDOW)


def test_c11_a_classifier_that_keeps_its_feature_map_is_copied() -> None:
    class Keeping(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.map = self.features(x)
            return self.classifier(self.flat(self.pool(self.map)))

    classifier = Keeping()
    classifier(torch.randn(1, 3, WINDOW, WINDOW))
    kept = classifier.map
    check_on_windows(classifier, copy=True)
    classifier.map = kept
    convolutionalize(classifier, WINDOW, copy=False)
    assert classifier.map is kept


def test_c11_what_cannot_be_copied_is_an_error_with_the_remedy() -> None:
    classifier = Net()
    classifier.lock = threading.Lock()
    with pytest.raises(ConversionError, match=r"Net: cannot be copied: .*lock.*copy=False"):
        convolutionalize(classifier, WINDOW)
    assert error_on_windows(classifier, convolutionalize(classifier, WINDOW, copy=False)) < 1e-10


# ---------------------------------------------------------------------------------------------------------------------
# M8: products that are fully connected layers
# ---------------------------------------------------------------------------------------------------------------------
PRODUCTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, ...]]]] = {
    "F.linear": (lambda s, x: F.linear(x.flatten(1), s.w, s.b), {"w": (5, 200), "b": (5,)}),
    "F.linear without bias": (lambda s, x: F.linear(torch.flatten(x, 1), s.w), {"w": (5, 200)}),
    "@": (lambda s, x: x.flatten(1) @ s.w.t() + s.b, {"w": (5, 200), "b": (5,)}),
    "@ T": (lambda s, x: x.reshape(x.shape[0], -1) @ s.w.T, {"w": (5, 200)}),
    "@ (D, K)": (lambda s, x: x.view(x.size(0), -1) @ s.w, {"w": (200, 5)}),
    "from the left": (lambda s, x: (s.w @ x.flatten(1).T).T + s.b, {"w": (5, 200), "b": (5,)}),
    "matmul": (lambda s, x: torch.matmul(x.reshape(len(x), -1), s.w), {"w": (200, 5)}),
    "matmul of a method": (lambda s, x: x.flatten(1).matmul(s.w), {"w": (200, 5)}),
    "mm": (lambda s, x: torch.mm(x.flatten(1), s.w), {"w": (200, 5)}),
    "addmm": (lambda s, x: torch.addmm(s.b, x.flatten(1), s.w.t()), {"w": (5, 200), "b": (5,)}),
    "addmm, scaled": (
        lambda s, x: torch.addmm(s.b, x.flatten(1), s.w.t(), beta=0.5, alpha=2),
        {"w": (5, 200), "b": (1, 5)},
    ),
    "addmm of a method": (lambda s, x: s.b.addmm(mat1=x.flatten(1), mat2=s.w.t()), {"w": (5, 200), "b": (1,)}),
    "einsum": (lambda s, x: torch.einsum("nc,kc->nk", x.flatten(1), s.w), {"w": (5, 200)}),
    "einsum, swapped": (lambda s, x: torch.einsum("kc, nc -> nk", s.w, x.flatten(1)), {"w": (5, 200)}),
    "einsum, implicit": (lambda s, x: torch.einsum("ac,cb", x.flatten(1), s.w), {"w": (200, 5)}),
    "einsum, dots": (lambda s, x: torch.einsum("...c,kc->...k", x.flatten(1), s.w), {"w": (5, 200)}),
    "einsum, turned": (lambda s, x: torch.einsum("nc,ck->kn", [x.flatten(1), s.w]).t(), {"w": (200, 5)}),
    "einsum of the map": (lambda s, x: torch.einsum("nchw,kchw->nk", x, s.w), {"w": (5, 8, 5, 5)}),
    "einsum of the map, turned": (lambda s, x: torch.einsum("nchw,hwck->nk", x, s.w), {"w": (5, 5, 8, 5)}),
    "tensordot": (lambda s, x: torch.tensordot(x, s.w, ([1, 2, 3], [1, 2, 3])), {"w": (5, 8, 5, 5)}),
    "inner": (lambda s, x: torch.inner(x.flatten(1), s.w), {"w": (5, 200)}),
    "one class": (lambda s, x: torch.stack([x.flatten(1) @ s.w, x.flatten(1) @ s.v], 1), {"w": (200,), "v": (200,)}),
    "an axis more": (lambda s, x: (x.flatten(1)[:, None] @ s.w).squeeze(1), {"w": (200, 5)}),
    "two layers": (lambda s, x: torch.relu(x.flatten(1) @ s.w) @ s.v, {"w": (200, 9), "v": (9, 5)}),
    "channels last": (lambda s, x: x.permute(0, 2, 3, 1).flatten(1) @ s.w, {"w": (200, 5)}),
    "folded pooling": (lambda s, x: F.adaptive_avg_pool2d(x, 3).flatten(1) @ s.w, {"w": (72, 5)}),
    "behind a pooling": (lambda s, x: x.mean((2, 3)) @ s.w + s.b, {"w": (8, 5), "b": (5,)}),
    "normalised weights": (lambda s, x: F.linear(x.flatten(1), F.normalize(s.w)), {"w": (5, 200)}),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_m8_a_product_with_the_flattened_map_becomes_a_convolution(name: str) -> None:
    head, shapes = PRODUCTS[name]
    classifier = Headed(head, **{key: weights(*shape) for key, shape in shapes.items()})
    dense = check_on_windows(classifier)
    sizes = {change.after.partition("kernel_size=")[2] for change in dense.report.changes}
    assert ("(1, 1)" if name == "behind a pooling" else "(5, 5)") in sizes
    dense(torch.randn(2, 3, 30, 30, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())
    other = Headed(head, **{key: weights(*shape) for key, shape in shapes.items()}).double().eval()
    dense.load_classifier(other.state_dict())
    assert error_on_windows(other, dense) < 1e-10


def test_m8_a_product_with_a_buffer_becomes_a_convolution() -> None:
    check_on_windows(Headed(lambda s, x: x.flatten(1) @ s.w, w=torch.randn(200, 5)))


def test_m8_a_product_behind_a_pooling_has_a_class_activation_map() -> None:
    classifier = Headed(lambda s, x: x.mean((2, 3)) @ s.w, w=weights(8, 5)).double().eval()
    dense = convolutionalize(classifier, WINDOW, pool="cam")
    x = torch.randn(2, 3, WINDOW, WINDOW, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(dense(x).mean((2, 3)), classifier(x))
    flat = Headed(lambda s, x: x.flatten(1) @ s.w, w=weights(200, 5))
    with pytest.raises(ConversionError, match=r"no global average pooling.*Use pool='window'"):
        convolutionalize(flat, WINDOW, pool="cam")


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias) * 2


class Cosine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.normalize(input), F.normalize(self.weight))


class Standardised(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(input, weight / weight.std(1, keepdim=True), self.bias)


class Buffered(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


class LowRank(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = weights(2, inputs), weights(outputs, 2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(F.linear(input, self.down), self.up)


class Spare(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.spare = weights(3)


@pytest.mark.parametrize("kind", [Doubling, Cosine, Standardised, Buffered, LowRank])
def test_m8_subclasses_of_linear_do_what_their_forward_does(kind: type[nn.Linear]) -> None:
    classifier = Net()
    classifier.classifier[0] = kind(72, 16)
    check_on_windows(classifier)


def test_m8_a_parameter_that_the_forward_does_not_read_is_no_other_weight() -> None:
    classifier = Net()
    classifier.classifier[0] = Spare(72, 16)
    dense = convolutionalize(classifier, WINDOW)
    assert error_on_windows(classifier, dense) < 1e-10
    assert dense.report.dropped == ("classifier.0.spare",)


def test_m8_the_weight_of_a_layer_may_be_read_besides() -> None:
    check_on_windows(Headed(lambda s, x: s.fc(x.flatten(1)) / s.fc.weight.norm(dim=1), fc=nn.Linear(200, 5)))


def test_m8_a_forward_that_was_replaced_is_the_one_that_runs() -> None:
    classifier = Net()
    layer, activation = classifier.classifier[0], classifier.classifier[1]
    layer.forward = lambda x: 3 * F.linear(x, layer.weight, layer.bias)
    activation.forward = torch.abs
    check_on_windows(classifier, copy=False)
    with pytest.raises(ConversionError, match=r"module 'classifier.0' .*holds the classifier.*copy=False"):
        convolutionalize(classifier, WINDOW)
    whole = Net()
    forward = whole.forward
    whole.forward = lambda x: forward(x) * 2
    check_on_windows(whole, copy=False)


STATEMENTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "relu_": lambda s, v: v.relu_(),
    "F.relu": lambda s, v: F.relu(v, inplace=True),
    "a module": lambda s, v: s.relu(v),
    "an assignment": lambda s, v: v.__setitem__((slice(None), 0), 0.0),
    "a masked assignment": lambda s, v: v.__setitem__(v < 0, 0.0),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_m8_statements_that_change_a_tensor_in_place_count(name: str) -> None:
    def head(self: Any, x: Tensor) -> Tensor:
        STATEMENTS[name](self, x)
        vector = self.fc(x.flatten(1))
        STATEMENTS[name](self, vector)
        return self.score(vector)

    check_on_windows(Headed(head, relu=nn.ReLU(True), fc=nn.Linear(200, 9), score=nn.Linear(9, 5)))


def test_m8_a_change_in_place_that_cannot_be_followed_is_named() -> None:
    def head(self: Any, x: Tensor) -> Tensor:
        vector = self.fc(x.flatten(1))
        vector.view(-1, 3).relu_()
        return self.score(vector)

    classifier = Headed(head, fc=nn.Linear(200, 9), score=nn.Linear(9, 5))
    with pytest.raises(TraceError, match=r"'relu_' .*changes a view of a tensor in place"):
        convolutionalize(classifier, WINDOW)


def test_m8_decisions_on_types_go_as_they_always_go() -> None:
    class Deciding(Net):
        def forward(self, x: Tensor, *, scale: float = 2.0, **options: Any) -> Tensor:
            if isinstance(x, Tensor) and not isinstance(x.shape[0], str) and isinstance(x.shape[0], int):
                x = x * scale - 1
            return super().forward(x)

    check_on_windows(Deciding())


# ---------------------------------------------------------------------------------------------------------------------
# M8: the reason that is the case
# ---------------------------------------------------------------------------------------------------------------------
def test_m8_data_parallel_is_passed_through() -> None:
    classifier = Net()
    classifier.features = nn.DataParallel(classifier.features)
    classifier.classifier = nn.DataParallel(classifier.classifier)
    check_on_windows(classifier)
    dense = check_on_windows(nn.DataParallel(Net()))
    assert dense.state_dict()["module.classifier.0.weight"].shape == (16, 8, 5, 5)


def test_m8_a_classifier_that_does_not_run_for_another_reason_is_not_told_of_its_size() -> None:
    half = Net()
    half.classifier[0].half()
    with pytest.raises(
        ConversionError, match=r"does not run: .*dtype.*float32 on cpu \(features.0.weight\), float16"
    ) as e:
        convolutionalize(half, WINDOW)
    elsewhere = Net()
    elsewhere.classifier[0].to("meta")
    with pytest.raises(ConversionError, match=r"'classifier.0'.*float32 on meta \(classifier.0.weight\)") as f:
        convolutionalize(elsewhere, WINDOW)
    for caught in (e, f):
        assert not isinstance(caught.value, InputSizeError)
    with pytest.raises(InputSizeError, match=r"input_size=24 x 40: Headed .*mat1 and mat2"):
        convolutionalize(Headed(lambda s, x: s.fc(x.flatten(1)), fc=nn.Linear(200, 5)), (24, 40))


def test_m8_a_head_that_works_on_values_is_told_so() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if float(x.detach().sum()) > 1e9 else x + 1

    classifier = Net()
    classifier.classifier[1] = Deciding()
    with pytest.raises(TraceError, match=r"module 'classifier.1' \(Deciding\) cannot be followed.*values of tensors"):
        convolutionalize(classifier, WINDOW)


def test_m8_what_cannot_be_followed_is_the_reason_not_attention() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(72, 16)

        def forward(self, x: Tensor) -> Tensor:
            table = {x.device: x}
            return self.fc(table[torch.empty_like(x).device])

    classifier = Net()
    classifier.classifier[0] = Counting()
    with pytest.raises(TraceError, match=r"module 'classifier.0' \(Counting\) cannot be followed: .* on every window"):
        convolutionalize(classifier, WINDOW)


def test_m8_products_of_features_are_not_called_tokens() -> None:
    classifier = Headed(lambda s, x: s.fc(x.flatten(1), x.flatten(1)), fc=nn.Bilinear(200, 200, 5))
    with pytest.raises(FixedInputSize, match=r"from 'fc' on, .* neither pooling nor fully connected layers"):
        convolutionalize(classifier, WINDOW)
    check_on_windows(Headed(lambda s, x: s.fc(x.mean((2, 3)), x.amax((2, 3))), fc=nn.Bilinear(8, 8, 5)))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (lambda s, x: s.fc(x.flatten(1) - x.flatten(1).mean(0)), "mixes the images of a batch"),
        (lambda s, x: s.fc(F.normalize(x.flatten(1), dim=0)), "mixes the images of a batch"),
        (lambda s, x: s.fc(s.norm(x).flatten(1)), "mixes the images of a batch"),
        (lambda s, x: F.dropout(s.fc(x.flatten(1)), 0.5), "its scores are random"),
        (lambda s, x: s.fc((x + torch.rand_like(x)).flatten(1)), "its scores are random"),
        (lambda s, x: s.fc(x.flatten(1)).t(), r"returns scores \(5, 3\) for 3 images"),
        (lambda s, x: s.fc(x.reshape(-1, 4).reshape(-1, 200)), "lays the images of a batch out along one axis"),
    ],
    ids=["mean", "normalisation", "statistics", "dropout", "noise", "turned", "one axis"],
)
def test_m8_the_reason_of_a_refusal_is_the_one_that_is_the_case(head: Any, reason: str) -> None:
    classifier = Headed(head, fc=nn.Linear(200, 5), norm=nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(ConversionError, match=reason):
        convolutionalize(classifier, WINDOW)


def test_m8_a_forward_under_autocast_is_told_so() -> None:
    class Cast(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    with pytest.raises(TraceError, match=r"forward of Cast cannot be followed: it switches torch.autocast on"):
        convolutionalize(Cast(), WINDOW)


def test_m8_uninitialised_buffers_are_told_of_as_parameters_are() -> None:
    lazy = Headed(lambda s, x: s.norm(x).mean((2, 3)), norm=nn.LazyBatchNorm2d(affine=False))
    with pytest.raises(ConversionError, match=r"'norm.running_mean' has no shape yet; run it once"):
        convolutionalize(lazy, WINDOW)


def test_m8_a_classifier_without_fully_connected_layers_converts() -> None:
    check_on_windows(Headed(lambda s, x: x.mean((2, 3))))
    check_on_windows(Headed(lambda s, x: s.score(x).amax((2, 3)), score=nn.Conv2d(8, 5, 1)))


def test_m8_buffers_that_count_calls_are_left_as_they_were() -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    classifier = Counting()
    calls = classifier.calls
    dense = convolutionalize(classifier, WINDOW, copy=False)
    assert classifier.calls is calls
    assert calls == 0
    assert error_on_windows(classifier, dense) < 1e-10

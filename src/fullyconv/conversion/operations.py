"""What the operations of a head do to the entries of a feature map, and where the head begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fullyconv.conversion.hooks import hooked
from fullyconv.conversion.trace import LARGER, REFERENCE
from fullyconv.conversion.without_data import map_axes, tensors
from fullyconv.geometry import Pair


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What moves entries about without changing them.
MOVES = _words(
    "flatten ravel view reshape unflatten squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t "
    "contiguous narrow select chunk split tensor_split unbind getitem __getitem__ flip"
)
MOVING_MODULES = (nn.Flatten, nn.Unflatten)
# What leaves every entry in its place and looks at nothing else.
SAME = _words("identity clone detach float double half bfloat16 to type dropout dropout_ alpha_dropout")
SAME_MODULES = (nn.Identity, nn.Dropout, nn.AlphaDropout)
# What changes every entry by itself.
ENTRYWISE = _words(
    "relu relu_ relu6 gelu silu hardswish hardsigmoid sigmoid sigmoid_ tanh tanh_ elu selu celu leaky_relu mish "
    "softplus hardtanh logsigmoid clamp clamp_ clamp_min clamp_max clip pow exp log sqrt rsqrt abs square reciprocal"
)
ENTRYWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU),
    *(nn.CELU, nn.LeakyReLU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink),
)
ARITHMETIC = _words("add add_ iadd sub sub_ isub mul mul_ imul truediv itruediv div div_ neg rsub")
# What may take one number of each window: what it is, is found by doing it.
POOLS = _words(
    "mean sum amax avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_max_pool1d adaptive_max_pool2d"
)
POOL_MODULES = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d),
)
PRODUCTS = _words("linear matmul __matmul__ mm mv addmm inner tensordot einsum")


def operation(node: fx.Node, classifier: nn.Module) -> tuple[str, nn.Module | None]:
    """Name what a node does: a function of torch or a method by its name, a module by "" and itself.

    A module that has more than the forward of its class is not what its class says: it gets neither name nor module.
    """
    if node.op == "call_module":
        module = classifier.get_submodule(str(node.target))
        return "", None if "forward" in vars(module) or hooked(module) else module
    if node.op == "call_method":
        return str(node.target), None
    target: Any = node.target
    if node.op != "call_function":
        return "", None
    origin = getattr(target, "__module__", None) or "torch"
    known = origin.split(".")[0] in ("torch", "_operator", "builtins")
    return (target.__name__ if known else ""), None


def spans_the_map(node: fx.Node, classifier: nn.Module) -> bool:
    """Tell whether a node averages with a kernel as large as the reference map: a global pooling with a fixed size."""
    name, module = operation(node, classifier)
    if (isinstance(module, nn.AvgPool2d) or name == "avg_pool2d") and node.all_input_nodes:
        source = node.all_input_nodes[0].meta.get(REFERENCE)
        result = node.meta.get(REFERENCE)
        if isinstance(source, Tensor) and isinstance(result, Tensor) and source.dim() == 4:
            return tuple(result.shape[2:]) == (1, 1) and tuple(source.shape[2:]) != (1, 1)
    return False


@dataclass(frozen=True)
class FeatureMap:
    """One of the last maps that grow with the image.

    Args:
        node: what computes it.
        axes: those of its height and width.
    """

    node: fx.Node
    axes: Pair

    @property
    def channels(self) -> int:
        """C, at whichever end it stands."""
        return int(self.node.meta[REFERENCE].shape[1 if self.axes == (2, 3) else 3])

    @property
    def cells(self) -> Pair:
        """Height and width at the reference size."""
        y, x = (int(self.node.meta[REFERENCE].shape[axis]) for axis in self.axes)
        return y, x

    @property
    def growth(self) -> Pair:
        """By how many cells it is larger in the larger run."""
        y, x = (int(self.node.meta[LARGER].shape[axis]) for axis in self.axes)
        return y - self.cells[0], x - self.cells[1]


def frontier(scores: fx.Node, classifier: nn.Module) -> tuple[list[FeatureMap], list[fx.Node]]:
    """Cut the graph behind the last maps that grow with the image.

    Returns:
        Those maps, and the nodes of the head in order.
    """
    maps: dict[fx.Node, FeatureMap] = {}
    head: set[fx.Node] = set()
    queue = [scores]
    while queue:
        node = queue.pop()
        if node in head or node in maps:
            continue
        reference, larger = node.meta.get(REFERENCE), node.meta.get(LARGER)
        axes = None
        if isinstance(reference, Tensor) and isinstance(larger, Tensor):
            axes = map_axes(reference.shape, larger.shape)
        if axes is not None and not spans_the_map(node, classifier):
            maps[node] = FeatureMap(node, axes)
        else:
            head.add(node)
            if node.op == "get_attr" or tensors(reference):  # a number, such as a size, is that of one window
                queue.extend(node.all_input_nodes)
    ordered = list(scores.graph.nodes)
    return [maps[n] for n in ordered if n in maps], [n for n in ordered if n in head]

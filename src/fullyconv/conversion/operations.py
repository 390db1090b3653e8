"""What the operations of a head do to the entries of a feature map, and where the head begins."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from fullyconv.conversion.hooks import hooked
from fullyconv.conversion.program import label
from fullyconv.conversion.trace import LARGER, REFERENCE
from fullyconv.conversion.without_data import map_axes, tensors
from fullyconv.geometry import Pair


def _names(text: str) -> frozenset[str]:
    return frozenset(text.replace("_", "").split())


# What moves entries about without changing them.
MOVES = _names(
    "flatten ravel view reshape unflatten squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t "
    "contiguous narrow select chunk split tensor_split unbind getitem flip"
)
# What leaves every entry in its place and looks at nothing else.
SAME = _names("identity clone detach float double half bfloat16 to type dropout alpha_dropout")
# What changes every entry by itself.
ENTRYWISE = _names(
    "relu relu6 gelu silu hardswish hardsigmoid sigmoid tanh elu selu celu leaky_relu mish softplus hardtanh "
    "logsigmoid softsign tanhshrink clamp clamp_min clamp_max clip pow exp log sqrt rsqrt abs square reciprocal"
)
SUMS = _names("add iadd sub isub")
ARITHMETIC = SUMS | _names("mul imul truediv itruediv div neg rsub")
# What may take one number of each window: what it is, is found by doing it.
POOLS = _names(
    "mean sum amax avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_max_pool1d adaptive_max_pool2d"
)
PRODUCTS = _names("linear conv2d matmul mm mv addmm inner tensordot einsum")


def kind(node: fx.Node, classifier: nn.Module) -> str:
    """Name what a node does in small letters: "relu" is `F.relu`, `Tensor.relu_` and `nn.ReLU`; "" is not of torch.

    A module is what the class says whose forward it runs, whatever its hooks do besides.
    """
    name, origin = str(node.target), "torch"
    if node.op == "call_module":
        inherited = type(classifier.get_submodule(name)).__mro__
        runs = next(each for each in inherited if "forward" in vars(each))
        name, origin = runs.__name__, runs.__module__
    elif node.op == "call_function":
        name, origin = label(node), getattr(node.target, "__module__", None) or "torch"
    return name.replace("_", "").lower() if origin.split(".")[0] in ("torch", "_operator", "builtins") else ""


def operation(node: fx.Node, classifier: nn.Module) -> str:
    """Name what a node does and nothing besides; a module with hooks or a forward of its own has no name."""
    if node.op == "call_module":
        module = classifier.get_submodule(str(node.target))
        if "forward" in vars(module) or hooked(module):
            return ""
    return kind(node, classifier)


def spans_the_map(node: fx.Node, classifier: nn.Module) -> bool:
    """Tell whether a node averages with a kernel as large as the reference map: a global pooling with a fixed size."""
    if operation(node, classifier) != "avgpool2d" or not node.all_input_nodes:
        return False
    source, result = node.all_input_nodes[0].meta.get(REFERENCE), node.meta.get(REFERENCE)
    if not isinstance(source, Tensor) or not isinstance(result, Tensor) or source.dim() != 4:
        return False
    return tuple(result.shape[2:]) == (1, 1) != tuple(source.shape[2:])


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

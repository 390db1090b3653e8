"""Turn a whole classifier into a fully convolutional network (Long et al., section 3.1)."""

from __future__ import annotations

import copy as copying
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fullyconv.conversion.activation import class_activation
from fullyconv.conversion.cells import Cells
from fullyconv.conversion.checks import check_head, check_scores, classify, describe, name_of
from fullyconv.conversion.head import SLIDE, HeadWalk
from fullyconv.conversion.hooks import name_of_hook
from fullyconv.conversion.linear import FullyConnectedConv2d
from fullyconv.conversion.network import DenseClassifier, Program
from fullyconv.conversion.operations import FeatureMap, frontier
from fullyconv.conversion.program import Mode, Step, Value, leaves_of, with_releases
from fullyconv.conversion.refusals import FixedInputSize, TraceError, UnsupportedHead
from fullyconv.conversion.trace import Trace, called, place, trace
from fullyconv.conversion.without_data import undisturbed
from fullyconv.errors import ConversionError, first_line
from fullyconv.geometry import Pair, pair


class Part(nn.Module):
    """Hold what is left of a module of the classifier whose own forward is not called any more."""


def convolutionalize(
    classifier: nn.Module,
    input_size: int | tuple[int, int],
    *,
    pool: Literal["window", "cam"] = "window",
    in_channels: int = 3,
    output: int | str | None = None,
    leaves: Sequence[str] = (),
    copy: bool = True,
) -> DenseClassifier:
    """Turn an image classifier into a network that scores every window of an image of any size.

    Every fully connected layer becomes a convolution whose kernel spans all nodes of the layer before it. The backbone
    is left whole; the head is rewritten from what it does, not from a list of architectures. At `input_size` the scores
    are the classifier's own; on larger images score (i, j) is the classifier's head on the window of the last feature
    map that begins at cell (i, j). `dense.guarantee` tells what that means in pixels, `print(dense.report)` the rest.

    Args:
        classifier: maps (N, C, H, W) to scores (N, K). It is not changed.
        input_size: H = W, or (H, W), in pixels, at which it classifies.
        pool: what global average pooling in front of the scores means on a larger image. "window": the mean over every
            window of the map (sliding window). "cam": no pooling, one score per cell of the map, the class activation
            map, whose mean is the classifier's score; only where everything behind the pooling is linear.
        in_channels: C of the image.
        output: which of several outputs holds the scores: an index, a key, or the name of a field.
        leaves: names of modules to leave whole in any case; needed only if an error asks for it.
        copy: give the result its own weights. False shares memory with the classifier (which stays usable): 553 MB
            less for VGG-16.

    Returns:
        The dense classifier, in the mode (train or eval, part by part) of the classifier.

    Raises:
        ConversionError: it cannot be converted; the message says what is in the way and what to do.
        TypeError: `classifier` is not a module.
        ValueError: an argument is out of its range.

    Example:
        >>> lenet = nn.Sequential(
        ...     nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 10),
        ... )
        >>> dense = convolutionalize(lenet, input_size=32, in_channels=1)
        >>> dense(torch.zeros(1, 1, 64, 48)).shape
        torch.Size([1, 10, 9, 5])
        >>> dense.guarantee
        'window'
    """
    size = _checked(classifier, input_size, pool, in_channels, copy)
    source = duplicate(classifier) if copy else classifier
    modes = {name: module.training for name, module in source.named_modules(remove_duplicate=False)}
    # The walk's own index tensors hold data under any default device.
    with undisturbed(source), torch.device("cpu"):
        found = trace(source, size, in_channels, output, leaves)
        maps, head = frontier(found.scores, source)
        if not maps:
            raise UnsupportedHead(f"classifier={type(source).__name__}: its scores do not depend on the image")
        backbone, names = _backbone_steps(found.scores.graph, maps)
        walk = HeadWalk(source)
        for map, name in zip(maps, names, strict=True):
            walk.add_map(map, name)
        scores = _walk_head(walk, found, maps, head)
        program = Program(
            backbone=with_releases(backbone, names),
            head=with_releases(walk.steps, [scores.name]),
            maps=tuple(names),
            windows=tuple(map.cells for map in maps),
            scores=scores.name,
            linear=scores.linear,
            averages=tuple(walk.averages),
            kernels=walk.kernels,
        )
        dense = DenseClassifier(size, in_channels, program)
        _graft(source, dense, program, walk.buffers)
        truth = classify(source, dense, output)
        if truth is not None:
            check_head(source, dense, found, maps, head)
        describe(source, dense, program, found.larger, maps, walk.changes, _dropped(source, dense))
        if pool == "cam":
            dense = class_activation(dense)
        if truth is not None:  # last, so that hooks that remember what they saw remember values
            check_scores(source, dense, output, *truth)
    for name, module in dense.named_modules(remove_duplicate=False):
        module.training = modes.get(name, module.training)
    return dense


def duplicate(module: nn.Module, shared: Iterable[Tensor] = ()) -> Any:
    """Copy a module with its own tensors, save those that are to be shared.

    Raises:
        ConversionError: something in it cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    # Pruning and the older norms of weights keep what they computed, which torch refuses to copy; so do modules that
    # remember a feature map. The former is computed anew before it is used.
    for value in [value for each in module.modules() for value in (*vars(each).values(), *each._buffers.values())]:
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    try:
        return copying.deepcopy(module, memo)
    except Exception as error:
        raise ConversionError(
            f"{type(module).__name__}: cannot be copied: {first_line(error)}. Delete the attribute that holds it, or "
            "convert with copy=False"
        ) from error


def _checked(classifier: nn.Module, input_size: int | Pair, pool: str, in_channels: int, copy: bool) -> Pair:
    if not isinstance(classifier, nn.Module):
        raise TypeError(f"classifier={type(classifier).__name__}: needs a torch.nn.Module, e.g. torchvision's vgg16()")
    for path, module in classifier.named_modules():
        _check_python(path, module, copy)
    for name, tensor in (*classifier.named_parameters(), *classifier.named_buffers()):
        if isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
            raise ConversionError(f"classifier: {name!r} has no shape yet; run it once on an image first")
    everywhere = (nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks)
    for hook in (hook for hooks in everywhere for hook in hooks.values()):
        raise ConversionError(
            f"classifier: a hook for all modules is registered (torch.nn.modules.module), {name_of_hook(hook)!r}: it "
            "sees other modules in the converted network than in the classifier; remove it first, by its handle"
        )
    size = pair(input_size)
    if min(size) < 1:
        raise ValueError(f"input_size={input_size!r}: needs a side in pixels or (H, W)")
    if pool not in ("window", "cam"):
        raise ValueError(f"pool={pool!r}: needs 'window' (sliding window) or 'cam' (class activation map)")
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels}: needs at least one channel")
    return size


def _check_python(path: str, module: nn.Module, copy: bool) -> None:
    """Refuse a part that is no longer the Python that it was written in."""
    place = f"classifier.{path}" if path else "classifier"
    if isinstance(module, torch.jit.ScriptModule):
        raise ConversionError(f"{place}: a scripted or traced module cannot be rewritten; pass the Python module")
    wrapped = isinstance(module._modules.get("_orig_mod"), nn.Module)
    compiled = wrapped or hasattr(module.forward, "_torchdynamo_orig_callable")
    if compiled or (module._compiled_call_impl is not None and not copy):
        raise ConversionError(
            f"{place}: was compiled; put the module itself in its place, which torch.compile keeps as "
            f"{place}._orig_mod, or convert first and compile the result"
        )


def _walk_head(walk: HeadWalk, found: Trace, maps: list[FeatureMap], head: list[fx.Node]) -> Cells:
    """Find the steps of the dense head, and what its scores are; refuse what is not convolutional."""
    source, node = walk.classifier, found.scores
    try:
        for node in head:
            walk.visit(node)
        scores = walk.finish(found.scores)
    except ConversionError:
        if walk.remedied or not walk.first_whole:
            raise
        # Stopped in the middle of something large: then it is not the head that is unusual, there is no feature map.
        for later in head[head.index(node) : -1]:
            walk.count(later)
        if walk.whole_share() > 0.5:
            raise _not_convolutional(walk, found) from None
        raise
    if walk.whole_share() > 0.5:
        raise _not_convolutional(walk, found)
    if len({map.growth for map in maps}) > 1:
        raise UnsupportedHead(
            f"classifier={type(source).__name__}: the head joins feature maps of different strides "
            f"({', '.join(name_of(map.node, source) for map in maps)}), whose windows move by different steps. {SLIDE}"
        )
    return scores


def _not_convolutional(walk: HeadWalk, found: Trace) -> ConversionError:
    """Say what in a classifier is tied to the image size."""
    source, first, share = walk.classifier, walk.first_whole, walk.whole_share()
    height, width = found.size
    window = height if height == width else found.size
    why = ""
    if found.failure is not None:
        where, error = found.failure
        why = f" At {found.larger[0]} x {found.larger[1]} pixels {place(source, where)} stops: {first_line(error)}."
    if first in found.unfollowed:
        return TraceError(
            f"classifier={type(source).__name__}: {found.unfollowed[first]}. It would have to run on every window as "
            f"it is, with {share:.0%} of the parameters. Write it with operations of torch that can be followed, or "
            "use fullyconv.conversion.sliding_window"
        )
    return FixedInputSize(
        f"classifier={type(source).__name__}: is not convolutional: {share:.0%} of its parameters, from {first!r} on, "
        f"work on the entire {height} x {width} image at once and are neither pooling nor fully connected layers "
        f"(attention, positions, mixing of tokens, products of features).{why} Use "
        f"fullyconv.conversion.sliding_window(classifier, image, window={window}, stride=...), which runs it on every "
        "window"
    )


def _backbone_steps(graph: fx.Graph, maps: list[FeatureMap]) -> tuple[list[Step], list[str]]:
    """Copy the part of the graph that computes the last maps; channels-last maps are turned to (N, C, h, w)."""
    needed: set[fx.Node] = set()
    queue = [map.node for map in maps]
    while queue:
        node = queue.pop()
        if node not in needed:
            needed.add(node)
            queue.extend(node.all_input_nodes)

    def name_in_steps(node: fx.Node) -> str:
        return "x" if node.op == "placeholder" else node.name

    def leaf(argument: Any) -> Any:
        return Value(name_in_steps(argument)) if isinstance(argument, fx.Node) else argument

    steps = [
        Step(*called(node, leaf), node.name) for node in graph.nodes if node in needed and node.op != "placeholder"
    ]
    names = []
    for map in maps:
        name = name_in_steps(map.node)
        if map.axes == (1, 2):
            steps.append(Step("call_method", "permute", (Value(name), 0, 3, 1, 2), {}, f"{name}_map"))
            name = f"{name}_map"
        names.append(name)
    return steps, names


def _graft(source: nn.Module, dense: nn.Module, program: Program, buffers: dict[str, Tensor]) -> None:
    """Build the module tree: the classifier's own modules, convolutions in place of fully connected layers."""
    steps = [*program.backbone, *program.head]
    whole = {id(source.get_submodule(str(step.target))) for step in steps if step.kind == "call_module"}
    kernels = {id(source.get_submodule(path)): kernel for path, kernel in program.kernels.items()}
    single = {str(step.target) for step in steps if step.kind == "get_attr"} - buffers.keys()
    flags = {leaf.path for step in steps for leaf in leaves_of(step) if isinstance(leaf, Mode)}
    convolutions: dict[int, nn.Module] = {}

    def graft(module: nn.Module, path: str, into: nn.Module) -> nn.Module | None:
        """Copy the tree as far as it leads to something that is called; nothing of the classifier is changed."""
        for name, child in module._modules.items():
            kept = child
            if isinstance(child, nn.Linear) and id(child) in kernels:
                kept = convolutions.get(id(child)) or kernels[id(child)].convolution(child, FullyConnectedConv2d)
                convolutions[id(child)] = kept
            elif child is not None and id(child) not in whole:
                ordered = type(child) in (nn.Sequential, nn.ModuleList)
                kept = graft(child, f"{path}.{name}" if path else name, nn.Sequential() if ordered else Part())
            if kept is not None:
                into._modules[name] = kept
        names = {attribute.rpartition(".")[2] for attribute in single if attribute.rpartition(".")[0] == path}
        owned = {*module._parameters, *module._buffers}
        if names & owned:  # all that the module owns, so that its keys stay complete
            into._parameters.update(module._parameters)
            into._buffers.update(module._buffers)
            into._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
        for name in names - owned:
            constant = getattr(module, name)
            if isinstance(constant, Tensor):
                into.register_buffer(name, constant, persistent=False)
            else:
                into.__dict__[name] = constant
        into.training = False  # as the classifier's own modules are
        return into if into._modules or path in flags or names else None

    graft(source, "", dense)
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    for name, index in buffers.items():
        dense.register_buffer(name, index.to(device), persistent=False)


def _dropped(source: nn.Module, dense: nn.Module) -> tuple[str, ...]:
    """Name the topmost parts of the classifier that have tensors and no place in the result."""
    kept = {f"{name}." for name in _stored(dense)}
    found: dict[str, None] = {}
    for name in sorted(_stored(source)):
        tops = itertools.accumulate(f"{part}." for part in name.split("."))
        gone = next((top for top in tops if not any(key.startswith(top) for key in kept)), None)
        found |= {} if gone is None else {gone[:-1]: None}
    return tuple(found)


def _stored(module: nn.Module) -> set[str]:
    """Name what a module stores; its `state_dict` may have hooks that rename."""
    return {
        f"{path}.{name}" if path else name
        for path, each in module.named_modules(remove_duplicate=False)
        for name, value in (*each._parameters.items(), *each._buffers.items())
        if value is not None and name not in each._non_persistent_buffers_set
    }

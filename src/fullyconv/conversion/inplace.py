"""Statements that change a tensor in place, as `x.relu_()` or `x[:, 0] = 0`: what they changed is handed on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fullyconv.conversion.program import label
from fullyconv.conversion.refusals import TraceError

_VIEWS = (
    *("getattr", "getitem", "detach", "view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("permute", "transpose", "swapaxes", "movedim", "t", "select", "narrow", "chunk", "split", "unbind", "expand"),
)


def assign(tensor: Tensor, key: Any, value: Any) -> Tensor:
    """Write into a tensor, and give it back."""
    tensor[key] = value
    return tensor


def hand_on(graph: fx.Graph, classifier: nn.Module) -> None:
    """Let those who read a tensor after it was changed in place read the result of the change.

    Raises:
        TraceError: a parameter is changed, or a part of a tensor that is read as a whole later.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        changed = node.args[0] if node.args else None
        if not isinstance(changed, fx.Node) or not _in_place(node, classifier):
            continue
        later = [user for user in changed.users if order[user] > order[node]]
        changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        whole = changed
        while label(whole) in _VIEWS and isinstance(whole.args[0], fx.Node):
            whole = whole.args[0]
        if whole.op == "get_attr" or (whole is not changed and any(order[user] > order[node] for user in whole.users)):
            where = node.meta.get("module") or "its forward"
            what = f"the parameter {str(whole.target)!r}" if whole.op == "get_attr" else "a view of a tensor"
            raise TraceError(
                f"classifier={type(classifier).__name__}: {label(node)!r} in {where!r} (or in a hook of it) changes "
                f"{what} in place, and what depends on that cannot be followed; write it as a new tensor"
            )


def _in_place(node: fx.Node, classifier: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(classifier.get_submodule(str(node.target)), "inplace", False) is True
    name = label(node)
    return node.kwargs.get("inplace") is True or node.target is assign or (name.endswith("_") and name[-2:] != "__")

"""A product of two tensors, however it is written: as the letters of einsum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from fullyconv.conversion.trace import REFERENCE

# The names of the positional arguments, which of them are multiplied, and which is added.
_CALLS: dict[str, tuple[tuple[str, ...], tuple[str, str], str]] = {
    "linear": (("input", "weight", "bias"), ("input", "weight"), "bias"),
    "inner": (("input", "other"), ("input", "other"), ""),
    "matmul": (("input", "other"), ("input", "other"), ""),
    "__matmul__": (("input", "other"), ("input", "other"), ""),
    "mm": (("input", "mat2"), ("input", "mat2"), ""),
    "mv": (("input", "vec"), ("input", "vec"), ""),
    "addmm": (("input", "mat1", "mat2"), ("mat1", "mat2"), "input"),
    "tensordot": (("a", "b", "dims"), ("a", "b"), ""),
    "einsum": (("equation", "left", "right"), ("left", "right"), ""),
}


@dataclass(frozen=True)
class Product:
    """Say what a node multiplies, as `torch.einsum(f"{left},{right}->{out}", *factors)`, and what it adds.

    Args:
        factors: the two nodes.
        letters: one string each for the axes of the factors and of the result.
        added: what is added to the product, or None.
        scales: numbers that the product and what is added are multiplied with.
    """

    factors: tuple[fx.Node, fx.Node]
    letters: tuple[str, str, str]
    added: fx.Node | None = None
    scales: tuple[float, float] = (1, 1)


def product(node: fx.Node, name: str) -> Product | None:
    """Read a node that calls the operation `name` as a product of two tensors, if it is one."""
    if name not in _CALLS:
        return None
    names, factored, adding = _CALLS[name]
    arguments = list(node.args)
    if name == "einsum" and len(arguments) == 2 and isinstance(arguments[1], (tuple, list)):
        arguments = [arguments[0], *arguments[1]]
    given: dict[str, Any] = dict(zip(names, arguments, strict=False)) | dict(node.kwargs)
    factors: list[Any] = [given.get(key) for key in factored]
    added, scales = given.get(adding), (given.get("alpha", 1), given.get("beta", 1))
    if (
        len(arguments) > len(names)
        or not isinstance(added, fx.Node | None)
        or any(isinstance(s, fx.Node) for s in scales)
    ):
        return None
    if not all(isinstance(f, fx.Node) and isinstance(f.meta[REFERENCE], Tensor) for f in factors):
        return None
    left, right = (factor.meta[REFERENCE].dim() for factor in factors)
    letters: tuple[str, str, str] | None
    if name == "einsum":
        letters = _written(str(given["equation"]), left, right)
    elif name == "tensordot":
        dims = given.get("dims", 2)
        pairs = (range(left - dims, left), range(dims)) if isinstance(dims, int) else dims
        letters = _contracted(left, right, *(tuple(axes) for axes in pairs))
    elif name in ("linear", "inner"):
        letters = _contracted(left, right, (left - 1,), (right - 1,))
    else:
        letters = _contracted(left, right, (left - 1,), (max(right - 2, 0),)) if right <= 2 else None
    return Product((factors[0], factors[1]), letters, added, scales) if letters else None


def _contracted(left: int, right: int, summed: tuple[int, ...], with_: tuple[int, ...]) -> tuple[str, str, str]:
    """Name the axes of a product that sums over some axes of both and keeps the others in order."""
    first = [chr(ord("a") + axis) for axis in range(left)]
    second = [chr(ord("A") + axis) for axis in range(right)]
    for axis, other in zip(summed, with_, strict=True):
        second[other] = first[axis]
    out = [letter for letter in first if letter not in second] + [letter for letter in second if letter not in first]
    return "".join(first), "".join(second), "".join(out)


def _written(equation: str, left: int, right: int) -> tuple[str, str, str] | None:
    """Complete an equation of einsum: dots by letters, and what comes out where that is not said."""
    inputs, _, out = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    if len(parts) != 2:
        return None
    spare = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    hidden = [count - len(part.replace("...", "")) for part, count in zip(parts, (left, right), strict=True)]
    dots = "".join(spare[: max(hidden)])
    if "->" not in equation:
        once = sorted(letter for letter in set(inputs) - set(".,") if inputs.count(letter) == 1)
        out = ("..." if "..." in inputs else "") + "".join(once)
    first, second = (
        part.replace("...", dots[len(dots) - count :] if count else "")
        for part, count in zip(parts, hidden, strict=True)
    )
    return first, second, out.replace("...", dots)

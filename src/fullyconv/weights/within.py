"""Find a network among all that a checkpoint holds: under which prefix it stands, and what stands beside it.

Wrappers (DataParallel, compilers, Lightning modules) put a prefix before all names of a network; losses, metrics,
averages and second networks stand beside it under other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from fullyconv.errors import WeightsError
from fullyconv.weights.translation import scheme_of

WRAPPERS = ("module.", "model.", "backbone.", "_orig_mod.", "net.", "encoder.")
INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
AVERAGE = re.compile(r"ema|swa|averag", re.IGNORECASE)
MAX_LEVELS = 8

Names = dict[str, str]  # name within the network -> name in the file


def find(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None) -> Names:
    """Find the network: by the names and sizes of one that is known, by those of a known scheme, or by a wrapper's.

    Args:
        tensors: by name.
        like: tensors of a network of that architecture, if it is known; those that differ by the number of classes or
            by their order of axes do no harm.

    Returns:
        The names within the network with those of the file. Of several networks that fit, averaged weights are taken.

    Raises:
        WeightsError: if several networks fit, and nothing tells which is meant.

    Example:
        >>> find({"net.fc.bias": torch.ones(2), "loss.weight": torch.ones(2)}, {"fc.bias": torch.ones(2)})
        {'fc.bias': 'net.fc.bias'}
    """
    groups: dict[str, Names] = {}
    for key in tensors:
        start = 0
        for _ in range(MAX_LEVELS):
            groups.setdefault(key[:start], {})[INNER.sub("", key[start:])] = key
            start = key.find(".", start) + 1
            if not start:
                break
    scores: dict[str, int] = {}
    if like:
        for prefix, names in groups.items():
            fitting = (name for name in names if name in like and like[name].numel() == tensors[names[name]].numel())
            scores[prefix] = sum(1 for _ in fitting)
        if 2 * max(scores.values()) < len(like):
            like, scores = None, {}
    if not scores:
        scores = {prefix: len(names) for prefix, names in groups.items() if scheme_of(names).naming != "unknown"}
    if not scores:
        return _unwrapped(tensors)
    near = [prefix for prefix, score in scores.items() if 10 * score >= 9 * max(scores.values())]
    outer = [prefix for prefix in near if not any(prefix != other and prefix.startswith(other) for other in near)]
    names = groups[_one(outer, groups, tensors)]
    if like:
        parts = {name.partition(".")[0] for name in like}
        names = {name: key for name, key in names.items() if name.partition(".")[0] in parts}
    return names


def _one(prefixes: list[str], groups: Mapping[str, Names], tensors: Mapping[str, Tensor]) -> str:
    averaged = [prefix for prefix in prefixes if AVERAGE.search(prefix)]
    chosen, *others = averaged or prefixes
    for other in others:
        one, two = groups[chosen], groups[other]
        if one.keys() != two.keys() or not all(torch.equal(tensors[one[name]], tensors[two[name]]) for name in one):
            raise WeightsError(
                f"holds several networks that fit, under {' and '.join(map(repr, (chosen, *others)))}; save the one "
                "that you mean alone: torch.save(network.state_dict(), ...)"
            )
    return chosen


def _unwrapped(tensors: Mapping[str, Tensor]) -> Names:
    """Take off what a wrapper has put before all names."""
    prefix = ""
    while wrapper := next((w for w in WRAPPERS if all(key.startswith(prefix + w) for key in tensors)), None):
        if any(key == prefix + wrapper for key in tensors):
            break
        prefix += wrapper
    return {key.removeprefix(prefix): key for key in tensors}

"""What hangs on a module besides the forward of its class: hooks, a patched forward, weights computed before a call."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# Wrappers that run their one module on parts of the batch.
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def hooked(module: nn.Module) -> bool:
    """Tell whether a module has hooks that may change what it is given or returns."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether the forward that runs is the one of `kind`: not that of a subclass, not a patched one."""
    return isinstance(module, kind) and type(module).forward is kind.forward and "forward" not in vars(module)


def hooks_of(module: nn.Module) -> str:
    """Name the hooks of a module, in the order in which they run."""
    kinds = (("forward pre-hook", module._forward_pre_hooks), ("forward hook", module._forward_hooks))
    return ", ".join(f"{kind} {name_of_hook(hook)!r}" for kind, hooks in kinds for hook in hooks.values())


def without_hooks(module: nn.Module) -> nn.Module:
    """Copy a module without its forward hooks; parameters, buffers and submodules are the same objects."""
    bare = copy.copy(module)
    for shelf in ("_forward_hooks", "_forward_pre_hooks"):
        bare.__dict__[shelf] = OrderedDict()
    return bare


def computed_weights(module: nn.Module) -> tuple[str, str] | None:
    """Say by what a weight of a module is computed before each call, and how it becomes a plain parameter."""
    if parametrize.is_parametrized(module):
        name, steps = next(iter(module.parametrizations.items()))  # type: ignore[union-attr, operator]
        kind = type(steps[0]).__name__.lstrip("_")
        return f"parametrization {kind}", f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            return f"pruning {type(hook).__name__}", f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})"
        if isinstance(hook, WeightNorm):
            return "weight norm", f"torch.nn.utils.remove_weight_norm(layer, {hook.name!r})"
        if isinstance(hook, SpectralNorm):
            return "spectral norm", f"torch.nn.utils.remove_spectral_norm(layer, {hook.name!r})"
    return None


def name_of_hook(hook: Any) -> str:
    """Name a hook as its author does."""
    while hasattr(hook, "func"):  # functools.partial
        hook = hook.func
    return str(getattr(hook, "__qualname__", type(hook).__name__)).replace("<locals>.", "")

"""What hangs on a module besides the forward of its class: hooks, a patched forward."""

from __future__ import annotations

from typing import Any

from torch import nn

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


def name_of_hook(hook: Any) -> str:
    """Name a hook as its author does."""
    while hasattr(hook, "func"):  # functools.partial
        hook = hook.func
    return str(getattr(hook, "__qualname__", type(hook).__name__)).replace("<locals>.", "")

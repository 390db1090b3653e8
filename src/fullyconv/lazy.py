"""Submodules that are imported when they are first named, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


def submodules(package: str) -> Callable[[str], ModuleType]:
    """Make the ``__getattr__`` of a package, by which ``package.module`` works without an import of its own.

    Args:
        package: its name.

    Example:
        >>> import fullyconv
        >>> fullyconv.inference.scoring.__name__
        'fullyconv.inference.scoring'
    """

    def module(name: str) -> ModuleType:
        full = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return importlib.import_module(full)
            except ModuleNotFoundError as error:
                if error.name != full:  # a library that the module needs
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return module

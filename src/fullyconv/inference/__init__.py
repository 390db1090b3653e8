"""Prediction and its result."""

from typing import TYPE_CHECKING

from fullyconv.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

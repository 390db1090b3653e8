"""Weights from elsewhere: one string to one verified file, and what stands in it under our names."""

from typing import TYPE_CHECKING

from fullyconv.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

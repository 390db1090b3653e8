"""The LightningModule, and what it trains with: losses, metrics, optimization, checkpoints, what ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullyconv.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

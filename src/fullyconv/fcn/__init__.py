"""FCN, and its presets: a backbone and a head by name (Long et al. 2015, section 4)."""

from __future__ import annotations

from fullyconv.fcn.model import FCN, MultiHeadFCN, with_heads
from fullyconv.fcn.presets import MODELS, build_model, pool_unpool, same_convolutions

__all__ = ["FCN", "MODELS", "MultiHeadFCN", "build_model", "pool_unpool", "same_convolutions", "with_heads"]

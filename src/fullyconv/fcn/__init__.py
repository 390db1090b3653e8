"""FCN, and its presets: a backbone and a head by name (Long et al. 2015, section 4)."""

from __future__ import annotations

from fullyconv.fcn.model import FCN
from fullyconv.fcn.presets import MODELS, build_model, pool_unpool, same_convolutions
from fullyconv.fcn.several import MultiHeadFCN, with_heads

__all__ = ["FCN", "MODELS", "MultiHeadFCN", "build_model", "pool_unpool", "same_convolutions", "with_heads"]

"""Heads: what turns a backbone's features into class scores."""

from __future__ import annotations

from fullyconv.heads.plain import PlainHead
from fullyconv.heads.skip import SkipHead, Upsampling, score_layer
from fullyconv.heads.unpool import UnpoolHead

__all__ = ["PlainHead", "SkipHead", "UnpoolHead", "Upsampling", "score_layer"]

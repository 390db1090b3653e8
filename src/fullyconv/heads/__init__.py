"""Heads: what turns a backbone's features into class scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullyconv.heads.aspp import ASPPHead
from fullyconv.heads.ladder import LadderHead
from fullyconv.heads.lraspp import LRASPPHead
from fullyconv.heads.plain import PlainHead
from fullyconv.heads.skip import SkipHead, Upsampling, score_layer
from fullyconv.heads.unpool import UnpoolHead
from fullyconv.lazy import submodules

__all__ = ["ASPPHead", "LRASPPHead", "LadderHead", "PlainHead", "SkipHead", "UnpoolHead", "Upsampling", "score_layer"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

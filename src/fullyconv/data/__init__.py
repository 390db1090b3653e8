"""Images and masks: layouts, masks, annotations, public sets, training transforms, and the data module that joins them.

Importing it is cheap: every submodule is loaded when it is first used, and `fullyconv doctor` needs no Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullyconv.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

"""From a segmenter to one ONNX file for images of any size, compared with the segmenter before it is written.

The graph takes bytes as every library for images gives them, ``image`` (N, H, W, C) uint8 RGB, and gives ``labels``
(N, H, W), ``scores`` (N, K, H, W) or both, for each head of several ``labels_HEAD`` and ``scores_HEAD``; N, H and W
are free. Normalizing, upsampling and argmax are inside. A segmenter that looks at images at a scale of its own
(``Preprocessing.short_side``) takes the scaled image and a second input, ``size`` (2,) int64, height and width of the
image, at which labels and scores come out. `fullyconv.runtime` does all that.

It needs the extra ``onnx``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
except ImportError as error:
    raise ImportError(f"export needs the extra 'onnx' ({error}): pip install 'fullyconv[onnx]'") from error

from fullyconv.export.writing import Export, export
from fullyconv.lazy import submodules

__all__ = ["Export", "export"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

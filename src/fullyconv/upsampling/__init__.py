"""Upsampling of score maps: fixed bilinear, transposed convolution, max unpooling (Long et al. 2015, section 3.3).

All of it aligns by measured centers. A cell of a feature map stands for the pixel at the center of its receptive field,
and where those centers lie differs from network to network: at 32 i + 15.5 in VGG, at 32 i in ResNet. With source
centers at c + j i and target centers at c' + j' u, target cell u lies at

    t(u) = (c' + j' u - c) / j = u / r + phase,    r = j / j',  phase = (c' - c) / j

in source cells. Bilinear interpolation there, with positions clamped to the map, is what `resample` computes, and what
the transposed convolution computes as long as its kernel is the initial one.
"""

from __future__ import annotations

from fullyconv.upsampling.axes import resampling_plan
from fullyconv.upsampling.layers import (
    BilinearUpsampling,
    Border,
    MaxUnpooling,
    TransposedConvUpsampling,
    bilinear_kernel,
    bilinear_taps,
)
from fullyconv.upsampling.resampling import grown_to, interpolation_matrix, resample

__all__ = [
    "BilinearUpsampling",
    "Border",
    "MaxUnpooling",
    "TransposedConvUpsampling",
    "bilinear_kernel",
    "bilinear_taps",
    "grown_to",
    "interpolation_matrix",
    "resample",
    "resampling_plan",
]

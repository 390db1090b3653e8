"""Stride, receptive field and offset of a network: where on the image a cell of a feature map lies and what it sees.

Along each axis cell ``i`` of a map depends on the pixels ``first + stride*i ... last + stride*i``, with the centers of
pixels at the integers. An operation moves those three numbers by a rule of one line (Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", 2016; Long et al. 2015, section 3.1 and 3.2), so the geometry of a network is
composed layer by layer. `Geometry` is that algebra. `measure` applies it to what a network really
executes: it watches every tensor operation of one forward pass over tensors without data, so that it costs no
arithmetic, needs no list of layers and works for any module.
"""

from typing import TYPE_CHECKING

from fullyconv.geometry.algebra import Geometry, Padding, Pair, crop_offset, pair
from fullyconv.geometry.measuring import measure, undisturbed, watch
from fullyconv.lazy import submodules

__all__ = ["Geometry", "Padding", "Pair", "crop_offset", "measure", "pair", "undisturbed", "watch"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

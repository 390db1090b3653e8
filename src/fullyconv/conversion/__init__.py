"""Classifiers turned into fully convolutional networks."""

from typing import TYPE_CHECKING

from fullyconv.conversion.activation import class_activation
from fullyconv.conversion.dense import atrous, shift_and_stitch, sliding_window
from fullyconv.conversion.linear import linear_to_conv
from fullyconv.conversion.network import DenseClassifier
from fullyconv.conversion.refusals import FixedInputSize, InputSizeError, TraceError, UnsupportedHead
from fullyconv.conversion.report import Change, Report
from fullyconv.conversion.surgery import convolutionalize
from fullyconv.lazy import submodules

__all__ = [
    "Change",
    "DenseClassifier",
    "FixedInputSize",
    "InputSizeError",
    "Report",
    "TraceError",
    "UnsupportedHead",
    "atrous",
    "class_activation",
    "convolutionalize",
    "linear_to_conv",
    "shift_and_stitch",
    "sliding_window",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

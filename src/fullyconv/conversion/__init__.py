"""Classifiers turned into fully convolutional networks."""

from fullyconv.conversion.dense import atrous, shift_and_stitch, sliding_window
from fullyconv.conversion.linear import linear_to_conv
from fullyconv.conversion.refusals import FixedInputSize, InputSizeError, TraceError, UnsupportedHead
from fullyconv.conversion.report import Change, Report
from fullyconv.conversion.surgery import DenseClassifier, convolutionalize

__all__ = [
    "Change",
    "DenseClassifier",
    "FixedInputSize",
    "InputSizeError",
    "Report",
    "TraceError",
    "UnsupportedHead",
    "atrous",
    "convolutionalize",
    "linear_to_conv",
    "shift_and_stitch",
    "sliding_window",
]

"""Why a classifier was not converted."""

from __future__ import annotations

from fullyconv.errors import ConversionError


class InputSizeError(ConversionError):
    """The classifier itself does not run at the given input size."""


class FixedInputSize(ConversionError):
    """Something in front of the head is tied to one image size: the classifier is not convolutional."""


class UnsupportedHead(ConversionError):
    """What turns the last feature map into scores has no dense form."""


class TraceError(ConversionError):
    """The forward of the classifier could not be followed."""

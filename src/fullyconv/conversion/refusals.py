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


def no_activation_map(linear: bool | None) -> str:
    """Say why there is no class activation map where scores are not linear in what was pooled, or nothing was."""
    why = (
        "there is no global average pooling in front of the scores"
        if linear is None
        else "the global pooling or something behind it is not linear (a maximum, an activation, a normalization)"
    )
    return f"{why}, so that the mean of a class activation map would not be the classifier's score"

"""The size at which a network looks at an image. It needs no torch."""

from __future__ import annotations

_MOST_ENLARGED = 4096  # pixels along the longer side; a 10 x 10000 strip would become 520 x 520000


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Give the size at which an image's shorter side has the pixels asked for, as torchvision's ``resize`` does.

    Args:
        size: height and width of the image, in pixels.
        short_side: pixels of the shorter side, at least 1.

    Returns:
        Height and width in the same proportion; the longer side rounded down. Where enlarging would make the longer
        side exceed 4096 pixels it ends there, and an image that is longer already keeps its size.

    Example:
        >>> scaled_size((1000, 1501), 520), scaled_size((240, 320), 520), scaled_size((10, 1000), 520)
        ((520, 780), (520, 693), (40, 4096))
    """
    short, long = min(size), max(size)
    new = (short_side, short_side * long // short)
    if short_side > short and new[1] > _MOST_ENLARGED:
        new = (max(1, short * _MOST_ENLARGED // long), _MOST_ENLARGED) if long < _MOST_ENLARGED else (short, long)
    return new if size[0] <= size[1] else (new[1], new[0])

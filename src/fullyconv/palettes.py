"""Colors of classes: those that are drawn, and those in which PASCAL VOC and many others store masks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Color = tuple[int, int, int]

_COLORS = bytes.fromhex("""
1e88e5 ff8c00 8f1030 afff00 ff008f 6000b7 ff9fff 787800 78cf9f 0000ff 008787 404880 a797cf dfe797 8f48b7 f700ff
f70820 8fefef a76060 00c750 cf50bf afd740 ef78a7 804860 58c7df 8f4000 d77060 5850df cf87ff 871068 ffa787 48ffc7
489740 bf0040 9f0097 5880af 4028d7 e79fc7 d79787 28a7a7 50f770 c75880 28e7cf 60489f 9f70ff dfa760 006048 a7dfaf
d7209f 0048ff df7000 00afe7 8f4887 709768 ff68c7 b760df 10789f efbfff a7af18 7830b7 7860cf 307040 b70068
""")  # each as far as can be from those before it, to eyes that see red and green and to eyes that do not
_GROUND = ("background", "_background_", "__background__", "class 0")


def default_palette(n: int) -> tuple[Color, ...]:
    """Give the first `n` colors of the palette of the package: black, then colors that can be told apart.

    Each of the first 64 lies as far as it can from those before it: in OKLab, also as people see it who lack the cones
    for red or for green. Behind these come the colors of `voc_palette` that are not among them.

    Args:
        n: number of colors, at least 1.

    Returns:
        `n` distinct (red, green, blue) triples in 0..255.

    Raises:
        ValueError: if `n` is smaller than 1.

    Example:
        >>> default_palette(3)
        ((0, 0, 0), (30, 136, 229), (255, 140, 0))
    """
    if n < 1:
        raise ValueError(f"n={n}: a palette has at least one color; give the number of classes")
    first: list[Color] = [(0, 0, 0), *struct.iter_unpack("3B", _COLORS)]
    more = [color for color in voc_palette(n) if color not in first] if n > len(first) else []
    return tuple([*first, *more][:n])


def palette_for(names: Sequence[str]) -> tuple[Color, ...]:
    """Give each class a color; the background is black, which drawings leave as it is, and so is the first of two."""
    ground = next((name for name in names if name.lower() in _GROUND), names[0] if len(names) == 2 else None)
    black, *colors = default_palette(len(names) + 1)
    return tuple(black if name == ground else colors.pop(0) for name in names)


def voc_palette(n: int) -> tuple[Color, ...]:
    """Compute the first `n` colors of the PASCAL VOC color map, in which masks of many sets are stored.

    The three lowest bits of a class index are the highest bits of red, green and blue, the next three the bits below
    them, and so on.

    Args:
        n: number of colors.

    Returns:
        `n` distinct (red, green, blue) triples in 0..255.

    Example:
        >>> voc_palette(4)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """

    def level(index: int, channel: int) -> int:
        return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))

    return tuple((level(index, 0), level(index, 1), level(index, 2)) for index in range(n))

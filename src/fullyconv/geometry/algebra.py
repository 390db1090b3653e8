"""The algebra of stride, receptive field and center: one line of arithmetic for each kind of operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

Pair = tuple[int, int]
Padding = int | Pair | tuple[Pair, Pair]


@dataclass(frozen=True)
class Geometry:
    """Place the cells of a feature map on the image.

    Per axis (y, x), cell ``i`` depends on the pixels ``first + stride*i`` to ``last + stride*i`` at most, where
    ``first = center - (receptive_field - 1)/2`` and ``last = center + (receptive_field - 1)/2``.

    Args:
        stride: pixels from one cell to the next; below 1 where a map is finer than the image.
        center: pixel coordinate of the center of cell (0, 0).
        receptive_field: pixels that a cell can depend on.
        padded: whether some operation pads, so that cells near the border see values that are no pixels.
        global_context: whether some operation sees the entire map (squeeze-excite, attention, an unknown operation),
            so that a cell depends on more than its receptive field.

    Example:
        >>> Geometry.IDENTITY.conv(7, stride=2, padding=3).conv(3, stride=2, padding=1)
        Geometry(stride=(4.0, 4.0), center=(0.0, 0.0), receptive_field=(11.0, 11.0), padded=True, global_context=False)
    """

    stride: tuple[float, float]
    center: tuple[float, float]
    receptive_field: tuple[float, float]
    padded: bool = False
    global_context: bool = False

    IDENTITY: ClassVar[Geometry]  # the image itself: one cell per pixel

    @property
    def first(self) -> tuple[float, float]:
        """Pixel coordinate (y, x) of the first pixel that cell (0, 0) depends on."""
        (cy, cx), (ry, rx) = self.center, self.receptive_field
        return cy - (ry - 1) / 2, cx - (rx - 1) / 2

    @property
    def last(self) -> tuple[float, float]:
        """Pixel coordinate (y, x) of the last pixel that cell (0, 0) depends on."""
        (cy, cx), (ry, rx) = self.center, self.receptive_field
        return cy + (ry - 1) / 2, cx + (rx - 1) / 2

    def conv(
        self, kernel: int | Pair, stride: int | Pair = 1, padding: Padding = 0, dilation: int | Pair = 1
    ) -> Geometry:
        """Give the geometry behind a convolution or a pooling.

        Output cell ``o`` reads the input cells ``s*o - p + d*t`` for ``t = 0 ... k-1``, hence
        ``first' = first - j*p``, ``last' = last + j*(d*(k-1) - p)``, ``stride' = j*s``.

        Args:
            kernel: kernel size, one number or (y, x), in cells.
            stride: step, one number or (y, x), in cells.
            padding: cells added before the map: one number, (y, x), or ((top, bottom), (left, right)). What is added
                behind moves nothing. Negative padding crops.
            dilation: distance between the taps of the kernel, one number or (y, x), in cells.

        Example:
            >>> Geometry.IDENTITY.conv(3, padding=100).center
            (-99.0, -99.0)
        """
        before, after = _pads(padding)
        shifted = self.shift(before, any(p > 0 for p in (*before, *after)))
        axes = zip(shifted._axes(), pair(kernel), pair(stride), pair(dilation), strict=True)
        return shifted._with([(first, last + j * d * (k - 1), j * s) for (first, last, j), k, s, d in axes])

    def transposed_conv(
        self, kernel: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1
    ) -> Geometry:
        """Give the geometry behind a transposed convolution (a convolution with stride 1/s).

        Output cell ``o`` reads the input cells ``i`` with ``s*i = o + p - d*t``, ``t = 0 ... k-1``. These cells change
        with the phase ``o mod s``; the tightest line around all phases is ``first' = first + (j/s)*(p - d*(k-1))``,
        ``last' = last + (j/s)*p``, ``stride' = j/s``. The center is the one of a symmetric kernel.

        Args:
            kernel: kernel size, one number or (y, x), in output cells.
            stride: output cells per input cell, one number or (y, x).
            padding: output cells cut off before the map, one number or (y, x).
            dilation: distance between the taps of the kernel, in output cells.

        Example:
            >>> Geometry((32, 32), (12.5, 12.5), (404, 404)).transposed_conv(64, stride=32).center
            (-19.0, -19.0)
        """
        axes = zip(self._axes(), pair(kernel), pair(stride), pair(padding), pair(dilation), strict=True)
        return self._with(
            [(first + j / s * (p - d * (k - 1)), last + j / s * p, j / s) for (first, last, j), k, s, p, d in axes]
        )

    def pad(self, padding: Padding) -> Geometry:
        """Give the geometry of the map with a border added (or, where negative, cut off).

        Args:
            padding: cells: one number, (y, x), or ((top, bottom), (left, right)).

        Example:
            >>> Geometry.IDENTITY.pad(-2).center
            (2.0, 2.0)
        """
        return self.conv(1, padding=padding)

    def join(self, other: Geometry) -> Geometry:
        """Give the geometry of a sum or concatenation of two maps: what either depends on.

        Args:
            other: the geometry of the other map.

        Raises:
            ValueError: if the strides differ: such maps have no common cells.

        Example:
            >>> Geometry.IDENTITY.conv(5, padding=2).join(Geometry.IDENTITY).receptive_field
            (5.0, 5.0)
        """
        if not all(map(_close, self.stride, other.stride)):
            raise ValueError(
                f"other={other}: strides must be equal to join two maps, but this map has stride={self.stride}. "
                "Resample one of them first."
            )
        axes = zip(self._axes(), other._axes(), strict=True)
        joined = self._with([(min(a, c), max(b, d), j) for (a, b, j), (c, d, _) in axes])
        return replace(
            joined,
            padded=self.padded or other.padded,
            global_context=self.global_context or other.global_context,
        )

    def centers(self, h: int, w: int) -> tuple[list[float], list[float]]:
        """Give the pixel coordinates of the centers of h rows and w columns of cells.

        Args:
            h: rows of cells.
            w: columns of cells.

        Returns:
            The y coordinate of each row and the x coordinate of each column, in pixels.

        Example:
            >>> Geometry((32, 32), (15.5, 15.5), (212, 212)).centers(3, 2)
            ([15.5, 47.5, 79.5], [15.5, 47.5])
        """
        (sy, sx), (cy, cx) = self.stride, self.center
        return [cy + sy * i for i in range(h)], [cx + sx * i for i in range(w)]

    def window(self, row: int, column: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Give the pixels that one cell can depend on; they may lie outside the image where the network pads.

        Args:
            row: row of the cell.
            column: column of the cell.

        Returns:
            (first, last) pixel of the rows, and of the columns, both included.

        Example:
            >>> Geometry.IDENTITY.conv(4, stride=2).window(1, 0)
            ((2.0, 5.0), (0.0, 3.0))
        """
        (fy, fx), (ly, lx), (sy, sx) = self.first, self.last, self.stride
        return (fy + sy * row, ly + sy * row), (fx + sx * column, lx + sx * column)

    def _axes(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        (fy, fx), (ly, lx), (sy, sx) = self.first, self.last, self.stride
        return (fy, ly, sy), (fx, lx, sx)

    def _with(self, axes: Sequence[tuple[float, float, float]]) -> Geometry:
        (fy, ly, sy), (fx, lx, sx) = axes
        return replace(
            self,
            stride=(float(sy), float(sx)),
            center=((fy + ly) / 2, (fx + lx) / 2),
            receptive_field=(ly - fy + 1.0, lx - fx + 1.0),
        )

    def shift(self, cells: Pair, padded: bool = False) -> Geometry:
        """Give the geometry of the map with new cells before it (or, where negative, without its first ones).

        Args:
            cells: number of rows and of columns.
            padded: whether the new cells are no pixels.
        """
        axes = [(first - j * n, last - j * n, j) for (first, last, j), n in zip(self._axes(), cells, strict=True)]
        return replace(self._with(axes), padded=self.padded or padded)

    def resample(self, axis: int, reads: Sequence[Pair], ratio: float) -> Geometry:
        """Give the geometry behind a resampling along one axis.

        Args:
            axis: 0 for rows, 1 for columns.
            reads: the first and the last input cell that each output cell reads.
            ratio: input cells per output cell. The result is the tightest line of slope ``stride*ratio`` around what
                the output cells depend on.

        Example:
            >>> Geometry.IDENTITY.resample(0, [(0, 0), (0, 0), (1, 1), (1, 1)], 0.5).center  # each row twice
            (-0.25, 0.0)
        """
        axes = list(self._axes())
        first, last, j = axes[axis]
        step = j * ratio
        axes[axis] = (
            min(first + j * lo - step * o for o, (lo, _) in enumerate(reads)),
            max(last + j * hi - step * o for o, (_, hi) in enumerate(reads)),
            step,
        )
        return self._with(axes)


Geometry.IDENTITY = Geometry((1.0, 1.0), (0.0, 0.0), (1.0, 1.0))


def crop_offset(coarse: Geometry, fine: Geometry) -> tuple[float, float]:
    """Find where on one map cell (0, 0) of another lies: the offsets of the crop layers of Long et al.

    Args:
        coarse: the map that gives the size (the upsampled coarse scores, or the image: ``Geometry.IDENTITY``).
        fine: the map that is cropped (the scores of a skip, or the upsampled scores).

    Returns:
        The index (y, x) of the cell of ``fine`` at the center of cell (0, 0) of ``coarse``. If it is not whole, the two
        grids are out of phase and a crop cannot align them; if it is negative, ``fine`` begins too late.

    Example:
        >>> upscore = Geometry((32, 32), (12.5, 12.5), (404, 404)).transposed_conv(64, stride=32)
        >>> crop_offset(Geometry.IDENTITY, upscore)
        (19.0, 19.0)
    """
    y, x = ((c - f) / j for c, f, j in zip(coarse.center, fine.center, fine.stride, strict=True))
    return y, x


def pair(value: int | Sequence[int]) -> Pair:
    """Give (y, x) for one number or two."""
    if isinstance(value, int):
        return value, value
    numbers = tuple(int(v) for v in value)
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    if len(numbers) != 2:
        raise ValueError(f"{value!r}: must be one number or two, (y, x).")
    return numbers[0], numbers[1]


def _pads(padding: Padding) -> tuple[Pair, Pair]:
    """Give the padding before (y, x) and after (y, x)."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    y, x = padding
    (top, bottom), (left, right) = pair(y), pair(x)
    return (top, left), (bottom, right)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9)

"""Resampling of maps by the centers of their cells."""

from __future__ import annotations

from torch import Tensor

from fullyconv.geometry import Geometry
from fullyconv.upsampling import operators
from fullyconv.upsampling.axes import hat_matrix


def resample(scores: Tensor, source: Geometry, target: Geometry, size: tuple[int, int]) -> Tensor:
    """Interpolate a map bilinearly at the centers of another grid, clamping positions at its border.

    Takes `torch.nn.functional.interpolate` wherever the phase permits, after replicating or cropping whole cells: with
    ``align_corners=False`` where target cells lie at half positions (VGG to pixels), with ``align_corners=True`` where
    they coincide (ResNet to pixels). Any other phase is a product with one matrix per axis. All give the same values.

    Args:
        scores: (N, C, h, w) values of the cells of `source`.
        source: geometry of `scores`.
        target: geometry of the wanted map; `Geometry.IDENTITY` for pixels.
        size: height and width of the wanted map, in cells of `target`.

    Returns:
        (N, C, *size) values; maybe a view of a larger map.

    Raises:
        ValueError: if scores has not four dimensions or no cell, or size is not positive.

    Example:
        >>> vgg = Geometry((32, 32), (15.5, 15.5), (404, 404))
        >>> resample(torch.ones(1, 21, 12, 16), vgg, Geometry.IDENTITY, (375, 500)).shape
        torch.Size([1, 21, 375, 500])
    """
    return operators.resample(scores, size, *ratios_and_phases(source, target), clamp=True)


def interpolation_matrix(source: Geometry, target: Geometry, axis: int, cells: int, wanted: int) -> Tensor:
    """Give the weights by which `resample` takes source cells for target cells along one axis.

    Args:
        source: geometry of the map.
        target: geometry of the wanted map.
        axis: 0 for rows, 1 for columns.
        cells: number of source cells along the axis.
        wanted: number of target cells.

    Returns:
        (wanted, cells) float64 on the CPU; every row sums to 1 and has at most two weights.

    Example:
        >>> cells = Geometry((2, 2), (0.5, 0.5), (1, 1))
        >>> interpolation_matrix(cells, Geometry.IDENTITY, 0, 2, 4)[:, 1].tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    ratios, phases = ratios_and_phases(source, target)
    return hat_matrix(cells, wanted, ratios[axis], phases[axis])


def grown_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Continue a map at the bottom and right by its border cells.

    Args:
        x: (N, C, h, w) values.
        size: height and width of the result, not below those of x.

    Returns:
        (N, C, *size) values; x itself where it has that size.

    Example:
        >>> grown_to(torch.tensor([[[[1.0, 2.0]]]]), (1, 4)).tolist()
        [[[[1.0, 2.0, 2.0, 2.0]]]]
    """
    return operators.continued(x, (0, 0), size)


def ratios_and_phases(source: Geometry, target: Geometry) -> tuple[list[float], list[float]]:
    """Give target cells per source cell, and the position of target cell 0 in source cells, along both axes."""
    axes = list(zip(source.stride, target.stride, source.center, target.center, strict=True))
    return [own / other for own, other, _, _ in axes], [(there - here) / own for own, _, here, there in axes]

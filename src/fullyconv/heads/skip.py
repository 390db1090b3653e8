"""The head of FCN-32s, FCN-16s and FCN-8s: score layers on several strides, summed (Long et al. 2015, section 4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.geometry import Geometry, crop_offset
from fullyconv.upsampling import BilinearUpsampling, Border, TransposedConvUpsampling

Upsampling = Literal["bilinear", "learned", "frozen", "stretch"]  # "stretch": torchvision's, of models without skips
Padding = Literal["same", "paper"]


class SkipHead(nn.Module):
    """Score features of several strides and sum the scores from coarse to fine.

    Each stride has its score layer, a 1 x 1 convolution that starts at zero. The scores of the coarsest stride are
    upsampled to the next one and added to its scores, and so on: strides (32,) are FCN-32s, (32, 16) FCN-16s, (32, 16,
    8) FCN-8s. Maps are brought together by the centers of their cells, so that any backbone is aligned.

    With upsampling="bilinear" and padding="same" the output are the scores at the finest stride. Otherwise the last
    upsampling belongs to the head too, and its scores are the logits, one for each pixel of the input.

    Args:
        channels: channels C of the features by stride.
        num_classes: number of classes K.
        geometry: geometry of the features by stride.
        strides: strides that are scored, coarsest first.
        upsampling: "bilinear" is a fixed function; "learned" are transposed convolutions that start as bilinear
            interpolation; "frozen" the same with kernels that are not trained, as in the nets that were released.
        scales: factors on the features of a stride before its score layer; {16: 0.01, 8: 0.0001} is FCN-8s at-once.
        padding: "same" continues maps by their border cells and asks nothing of the backbone; "paper" upsamples and
            crops as the reference does and expects a backbone with 100 pixels of padding.

    Raises:
        ValueError: if strides are not known, descending and without repetition, or num_classes is below 1, or with
            padding="paper" if the grids cannot be brought together by cropping whole cells.

    Example:
        >>> import torch
        >>> grids = {s: Geometry((s, s), (s / 2 - 0.5,) * 2, (404, 404)) for s in (32, 16)}
        >>> head = SkipHead({32: 4096, 16: 512}, 21, grids, strides=(32, 16))
        >>> maps = {32: torch.zeros(1, 4096, 2, 3), 16: torch.zeros(1, 512, 4, 6)}
        >>> head(Features(maps, size=(64, 96))).shape
        torch.Size([1, 21, 4, 6])
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        num_classes: int,
        geometry: Mapping[int, Geometry],
        strides: Sequence[int] = (32, 16, 8),
        *,
        upsampling: Upsampling = "bilinear",
        scales: Mapping[int, float] | None = None,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        strides = tuple(strides)
        _check(channels, strides, upsampling, padding, scales or {})
        self.num_classes = num_classes
        self.strides = strides
        self.upsampling: Upsampling = upsampling
        self.scales = dict(scales or {})
        self.padding: Padding = padding
        self.score = nn.ModuleDict({str(stride): score_layer(channels[stride], num_classes) for stride in strides})

        self.upscore = nn.ModuleDict()
        self.crops: dict[int, tuple[int, int]] = {}  # padding="paper": cells cut off at the top left, by stride
        fused = geometry[strides[0]]
        for coarse, fine in pairwise(strides):
            fused = self._add_upscore(coarse, fine, fused, geometry[fine])
        if strides[-1] != 1 and (upsampling != "bilinear" or padding == "paper"):
            fused = self._add_upscore(strides[-1], 1, fused, Geometry.IDENTITY)
        self.geometry = fused

    def _add_upscore(self, coarse: int, fine: int, source: Geometry, target: Geometry) -> Geometry:
        """Add the upsampling between two strides (1: to pixels) and return the geometry of the map that comes of it."""
        paper = self.padding == "paper"
        border: Border = "zero" if paper else "replicate"
        up: BilinearUpsampling | TransposedConvUpsampling
        if self.upsampling == "bilinear":
            up = BilinearUpsampling(source, target, border=border)
        else:
            frozen = self.upsampling == "frozen"
            up = TransposedConvUpsampling(self.num_classes, source, target, frozen=frozen, full=paper, border=border)
        self.upscore[f"{coarse}to{fine}"] = up
        if not paper:
            return fused_geometry(source, target, target)
        # the skip is cropped to the upsampled map, which begins at a later pixel; the last map is cropped to the image
        offset = crop_offset(Geometry.IDENTITY, up.geometry) if fine == 1 else crop_offset(up.geometry, target)
        self.crops[fine] = _whole_cells(offset, coarse, fine)
        return fused_geometry(source, target, target if fine == 1 else up.geometry)

    def forward(self, features: Features) -> Tensor:
        """Score the features.

        Args:
            features: (N, C, h, w) maps by stride, with the size of the image.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`.
        """
        fused = self._score(features, self.strides[0])
        for coarse, fine in pairwise(self.strides):
            skip = self._score(features, fine)
            up = self.upscore[f"{coarse}to{fine}"]
            if self.padding == "paper":
                upscored = up.whole(fused)  # type: ignore[operator]
                fused = upscored + _crop(skip, self.crops[fine], upscored.shape[2:])
            else:
                fused = up(fused, skip.shape[2:]) + skip
        last = f"{self.strides[-1]}to1"
        if last in self.upscore:
            fused = self.upscore[last](fused, features.size)
        return fused

    def _score(self, features: Features, stride: int) -> Tensor:
        layer = cast(nn.Conv2d, self.score[str(stride)])
        scale = self.scales.get(stride, 1.0)
        if scale == 1.0:
            scored: Tensor = layer(features[stride])
            return scored
        # scaling the kernel is scaling the features, without a copy of the features
        return F.conv2d(features[stride], layer.weight * scale, layer.bias)


def score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Build a score layer: a 1 x 1 convolution that starts at zero (Long et al. 2015, section 4.3).

    Args:
        channels: channels C of its input.
        num_classes: number of classes K.

    Returns:
        The layer.

    Raises:
        ValueError: if num_classes is below 1.

    Example:
        >>> score_layer(4096, 21)
        Conv2d(4096, 21, kernel_size=(1, 1), stride=(1, 1))
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1.")
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def fused_geometry(source: Geometry, target: Geometry, grid: Geometry) -> Geometry:
    """Give the geometry of an upsampled map plus the target map.

    Args:
        source: geometry of the coarse map.
        target: geometry of the fine map.
        grid: geometry with the cells of the sum.

    Returns:
        The cells of `grid` with what either map depends on.
    """
    # a cell takes from coarse cells less than one coarse stride away on either side
    upsampled = [
        rf + 2 * (j - k) for rf, j, k in zip(source.receptive_field, source.stride, target.stride, strict=True)
    ]
    return dataclasses.replace(
        grid,
        receptive_field=(max(upsampled[0], target.receptive_field[0]), max(upsampled[1], target.receptive_field[1])),
        padded=source.padded or target.padded,
        global_context=source.global_context or target.global_context,
    )


def _crop(x: Tensor, start: tuple[int, int], size: Sequence[int]) -> Tensor:
    return x[..., start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


def _whole_cells(offset: tuple[float, float], coarse: int, fine: int) -> tuple[int, int]:
    cells = (round(offset[0]), round(offset[1]))
    if any(abs(o - c) > 1e-6 or c < 0 for o, c in zip(offset, cells, strict=True)):
        raise ValueError(
            f"padding='paper' crops whole cells, but from stride {coarse} to {fine} the offset is "
            f"({offset[0]:g}, {offset[1]:g}). Use a backbone with padding='paper', or padding='same' here."
        )
    return cells


def _check(
    channels: Mapping[int, int],
    strides: tuple[int, ...],
    upsampling: str,
    padding: str,
    scales: Mapping[int, float],
) -> None:
    if not strides or any(coarse <= fine for coarse, fine in pairwise(strides)):
        raise ValueError(f"strides={strides} must be one or more strides, coarsest first, such as (32, 16, 8).")
    unknown = [stride for stride in strides if stride not in channels]
    if unknown:
        raise ValueError(
            f"strides={strides}: there are no features of stride {unknown[0]}. Choose from {sorted(channels)}."
        )
    unscored = [stride for stride in scales if stride not in strides]
    if unscored:
        raise ValueError(f"scales={dict(scales)}: stride {unscored[0]} is not scored. Scale some of strides={strides}.")
    if upsampling not in ("bilinear", "learned", "frozen"):
        raise ValueError(f"upsampling={upsampling!r} is not known. Choose 'bilinear', 'learned' or 'frozen'.")
    if padding not in ("same", "paper"):
        raise ValueError(f"padding={padding!r} is not known. Choose 'same' or 'paper'.")

"""The head of MobileNetV3 for segmentation, LR-ASPP: two strides, the coarse one gated (Howard et al. 2019, 6.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.geometry import Geometry
from fullyconv.heads.skip import fused_geometry, score_layer
from fullyconv.upsampling import resample


class LRASPPHead(nn.Module):
    """Score a fine and a coarse map and sum the scores; a gate that sees the whole coarse map weighs its channels.

    It is an FCN with one skip: the coarse map goes through a 1 x 1 convolution to 128 channels, batch norm and ReLU,
    each channel is multiplied by a number between 0 and 1 (mean over the map, 1 x 1 convolution, sigmoid), and the
    scores of both strides are summed on the grid of the fine one. torchvision's `LRASPPHead` upsamples the 128 channels
    and scores them then, which is the same: a score layer and an interpolation of cells do not mind their order. The
    score layers start at zero, as in every head here.

    Args:
        channels: channels C of the features by stride.
        num_classes: number of classes K.
        geometry: geometry of the features by stride.
        strides: the coarse and the fine stride.
        upsampling: "bilinear" brings the coarse scores to the fine cells by the centers of both; "stretch" stretches
            the coarse map over the fine one whatever its centers, as torchvision does.

    Raises:
        ValueError: if num_classes is below 1, strides are not two known ones, or upsampling is another word.

    Example:
        >>> import torch
        >>> grids = {s: Geometry((s, s), (0, 0), (595, 595)) for s in (16, 8)}
        >>> head = LRASPPHead({16: 960, 8: 40}, 21, grids).eval()
        >>> maps = {16: torch.zeros(1, 960, 4, 5), 8: torch.zeros(1, 40, 8, 10)}
        >>> head(Features(maps, size=(64, 80))).shape
        torch.Size([1, 21, 8, 10])
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        num_classes: int,
        geometry: Mapping[int, Geometry],
        strides: tuple[int, int] = (16, 8),
        *,
        upsampling: Literal["bilinear", "stretch"] = "bilinear",
    ) -> None:
        super().__init__()
        coarse, fine = strides
        if coarse <= fine or not {coarse, fine} <= set(channels):
            raise ValueError(f"strides={strides} must be a coarse and a fine one of {sorted(channels)}.")
        if upsampling not in ("bilinear", "stretch"):
            raise ValueError(f"upsampling={upsampling!r} is not known. Choose 'bilinear' or 'stretch'.")
        inner = 128
        self.num_classes = num_classes
        self.strides = (coarse, fine)
        self.upsampling = upsampling
        self.conv = nn.Conv2d(channels[coarse], inner, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[coarse], inner, kernel_size=1, bias=False), nn.Sigmoid()
        )
        self.score = nn.ModuleDict(
            {str(coarse): score_layer(inner, num_classes), str(fine): score_layer(channels[fine], num_classes)}
        )
        self._grids = geometry[coarse], geometry[fine]
        self.geometry = fused_geometry(
            dataclasses.replace(geometry[coarse], global_context=True),  # the gate
            geometry[fine],
            geometry[fine],
        )

    def forward(self, features: Features) -> Tensor:
        """Score the features.

        Args:
            features: (N, C, h, w) maps by stride.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`, that of the fine stride.
        """
        coarse, fine = self.strides
        x = features[coarse]
        gated = self.relu(self.norm(self.conv(x))) * self.gate(x)
        scored: Tensor = self.score[str(fine)](features[fine])
        size = (scored.shape[2], scored.shape[3])
        upscored = self.score[str(coarse)](gated)
        if self.upsampling == "stretch":
            return scored + F.interpolate(upscored, size=size, mode="bilinear", align_corners=False)
        return scored + resample(upscored, *self._grids, size)

"""A ladder of convolutions up to the finest stride, as SwiftNet has it (Orsic et al., CVPR 2019, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.geometry import Geometry
from fullyconv.heads.skip import fused_geometry, score_layer
from fullyconv.upsampling import resample


class LadderHead(nn.Module):
    """Climb from the coarsest to the finest stride and score there, behind a convolution that sees all strides.

    Where `SkipHead` sums class scores, this sums features: those of each stride go through a 1 x 1 convolution to
    `inner` channels with batch norm; the coarsest are upsampled bilinearly to the next stride and added to its own, a
    3 x 3 convolution with batch norm and ReLU blends the sum, and so on (SwiftNet's decoder, without its spatial
    pyramid pooling, which sees the whole image). Maps are brought together by the centers of their cells. The score
    layer starts at zero, as in every head here.

    Args:
        channels: channels C of the features by stride.
        num_classes: number of classes K.
        geometry: geometry of the features by stride.
        strides: two or more strides, coarsest first.
        inner: channels on the ladder.

    Raises:
        ValueError: if num_classes is below 1, or strides are not two or more known ones, coarsest first.

    Example:
        >>> import torch
        >>> grids = {s: Geometry((s, s), (0, 0), (435, 435)) for s in (32, 16)}
        >>> head = LadderHead({32: 128, 16: 128}, 11, grids, strides=(32, 16)).eval()
        >>> maps = {32: torch.zeros(1, 128, 2, 3), 16: torch.zeros(1, 128, 4, 6)}
        >>> head(Features(maps, size=(64, 96))).shape
        torch.Size([1, 11, 4, 6])
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        num_classes: int,
        geometry: Mapping[int, Geometry],
        strides: Sequence[int] = (32, 16, 8, 4),
        *,
        inner: int = 64,
    ) -> None:
        super().__init__()
        strides = tuple(strides)
        if len(strides) < 2 or any(coarse <= fine for coarse, fine in pairwise(strides)) or set(strides) - {*channels}:
            raise ValueError(f"strides={strides} must be two or more of {sorted(channels)}, coarsest first.")
        self.num_classes = num_classes
        self.strides = strides
        self.lateral = nn.ModuleDict({str(stride): _block(channels[stride], inner, 1) for stride in strides})
        self.blend = nn.ModuleDict({str(stride): _block(inner, inner, 3) for stride in strides[1:]})
        self.relu = nn.ReLU(inplace=True)
        self.score = nn.ModuleDict({str(strides[-1]): score_layer(inner, num_classes)})
        self._grids = {stride: geometry[stride] for stride in strides}
        fused = geometry[strides[0]]
        for stride in strides[1:]:
            fused = fused_geometry(fused, geometry[stride], geometry[stride]).conv(3, padding=1)
        self.geometry = fused

    def forward(self, features: Features) -> Tensor:
        """Score the features.

        Args:
            features: (N, C, h, w) maps by stride.

        Returns:
            (N, K, h, w) scores on the grid of `geometry`, that of the finest stride.
        """
        x: Tensor = self.relu(self.lateral[str(self.strides[0])](features[self.strides[0]]))
        for coarse, fine in pairwise(self.strides):
            skip = self.lateral[str(fine)](features[fine])
            x = skip + resample(x, self._grids[coarse], self._grids[fine], (skip.shape[2], skip.shape[3]))
            x = self.relu(self.blend[str(fine)](x))
        scores: Tensor = self.score[str(self.strides[-1])](x)
        return scores


def _block(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after))

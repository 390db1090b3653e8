"""Plain networks of 3 x 3 convolutions that keep the map's size: the baselines every explainer starts from."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Switch


class PlainConvolutions(Backbone):
    """3 x 3 convolutions with batch norm and ReLU, with a 2 x 2 max pooling behind each group but none behind the last.

    With one group nothing is pooled: same convolutions only, at full resolution. With several, the switches of each
    pooling are recorded, so that a mirrored head can unpool.

    Args:
        name: the name it is built by.
        groups: channels of the convolutions of each group.
        pool_last: pool behind the last group too.
        in_channels: channels of the input.

    Raises:
        ValueError: if a group is empty, or there is none.

    Example:
        >>> import torch
        >>> backbone = PlainConvolutions("pool_unpool", [[16, 16], [32, 32]], pool_last=True)
        >>> {stride: tuple(x.shape) for stride, x in backbone(torch.zeros(1, 3, 15, 23)).items()}
        {2: (1, 16, 8, 12), 4: (1, 32, 4, 6)}
    """

    def __init__(
        self, name: str, groups: Sequence[Sequence[int]], *, pool_last: bool = False, in_channels: int = 3
    ) -> None:
        if not groups or not all(groups):
            raise ValueError(f"groups={groups} must hold the channels of at least one convolution in each group.")
        pools = len(groups) if pool_last else len(groups) - 1
        strides = [2 ** min(index + 1, pools) for index in range(len(groups))]
        super().__init__(
            name, {stride: group[-1] for stride, group in zip(strides, groups, strict=True)}, in_channels=in_channels
        )
        self.pools = pools
        self.groups = nn.ModuleList()
        before = in_channels
        for group in groups:
            layers: list[nn.Module] = []
            for after in group:
                conv = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
            self.groups.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Features:
        """Compute the map behind each group; see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        switches: dict[int, Switch] = {}
        stride = 1
        for index, group in enumerate(self.groups):
            x = group(x)
            if index < self.pools:
                stride *= 2
                before = (x.shape[2], x.shape[3])
                # rounded up, so that no row of pixels is lost at odd sizes
                x, positions = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
                switches[stride] = Switch(positions, before)
            maps[stride] = x
        return Features(maps, size, switches)

"""Plain networks of 3 x 3 convolutions that keep the map's size: the baselines every explainer starts from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Switch


def convolutions(channels: Sequence[int]) -> nn.Sequential:
    """Build 3 x 3 convolutions with batch norm and ReLU.

    Args:
        channels: of the input, and of the output of each.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        conv = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PlainConvolutions(Backbone):
    """Groups of 3 x 3 convolutions with batch norm and ReLU, each with a 2 x 2 max pooling behind it or none.

    Without pooling it is same convolutions only, at full resolution. The switches of each pooling are recorded, so that
    a mirrored head can unpool.

    Args:
        name: the name it is built by.
        groups: channels of the convolutions of each group; one group where nothing is pooled.
        pool: pool behind each group.
        in_channels: channels of the input.

    Raises:
        ValueError: if a group is empty, or there is none, or several without pooling.

    Example:
        >>> import torch
        >>> backbone = PlainConvolutions("pool_unpool", [[16, 16], [32, 32]], pool=True)
        >>> {stride: tuple(x.shape) for stride, x in backbone(torch.zeros(1, 3, 15, 23)).items()}
        {2: (1, 16, 8, 12), 4: (1, 32, 4, 6)}
    """

    def __init__(self, name: str, groups: Sequence[Sequence[int]], *, pool: bool = False, in_channels: int = 3) -> None:
        if not groups or not all(groups) or (len(groups) > 1 and not pool):
            raise ValueError(
                f"groups={groups}, pool={pool}: needs the channels of at least one convolution in each group, and "
                "pool=True for several groups."
            )
        channels = {2 ** (index + pool): group[-1] for index, group in enumerate(groups)}
        super().__init__(name, channels, in_channels=in_channels)
        self.pool = pool
        inputs = [in_channels, *(group[-1] for group in groups)]
        self.groups = nn.ModuleList(convolutions([n, *group]) for n, group in zip(inputs, groups, strict=False))

    def forward(self, x: Tensor) -> Features:
        """Compute the map behind each group; see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        switches: dict[int, Switch] = {}
        for stride, group in zip(self.channels, self.groups, strict=True):
            x = group(x)
            if self.pool:
                before = (x.shape[2], x.shape[3])
                # rounded up, so that no row of pixels is lost at odd sizes
                x, positions = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
                switches[stride] = Switch(positions, before)
            maps[stride] = x
        return Features(maps, size, switches)

"""Late fusion of two kinds of input: two backbones of VGG-16 side by side (Long et al. 2015, section 5, NYUDv2).

The reference scores the fc7 of each backbone by itself and averages the two score maps. One score layer over the
features of both, one behind the other, is the same function: half of the weights of each beside each other, and the
mean of the biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, LoadReport, Padding
from fullyconv.backbones.vgg import vgg

COLORS = 3  # channels of the first stream


class LateFusion(Backbone):
    """Several backbones, each over channels of its own; their features of each stride one behind the other.

    Args:
        name: the name it is built by.
        streams: backbones of one kind; the first sees the first of the channels, the second the next ones.
    """

    def __init__(self, name: str, streams: Sequence[Backbone]) -> None:
        super().__init__(
            name,
            {stride: sum(stream.channels[stride] for stream in streams) for stride in streams[0].channels},
            in_channels=sum(stream.in_channels for stream in streams),
            min_size=max(stream.min_size for stream in streams),
            size_divisor=max(stream.size_divisor for stream in streams),
        )
        self.streams = nn.ModuleList(streams)

    def forward(self, x: Tensor) -> Features:
        """Compute the features of all backbones; see `Backbone.forward`."""
        size = self._size(x)
        streams = [cast(Backbone, stream) for stream in self.streams]
        parts = torch.split_with_sizes(x, [stream.in_channels for stream in streams], dim=1)
        features = [stream(part) for stream, part in zip(streams, parts, strict=True)]
        return Features({stride: torch.cat([maps[stride] for maps in features], dim=1) for stride in features[0]}, size)

    def load_classifier(self, state_dict: Mapping[str, Tensor], *, absent: Sequence[str] = ()) -> LoadReport:
        """Take the weights of one classifier into every backbone, as the reference starts its HHA backbone from color.

        Args:
            state_dict: what the classifier's ``state_dict()`` returns.
            absent: prefixes of keys that the weights are known to lack: layers that start anew.

        Returns:
            The load report, a key counted once for all backbones; those that start anew begin with their backbone.

        Raises:
            WeightsError: if tensors are missing, unknown or of another shape; the message names them.
        """
        reports = [cast(Backbone, stream).load_classifier(state_dict, absent=absent) for stream in self.streams]
        first, adapted = reports[0], {key for report in reports for key in report.adapted}
        return LoadReport(
            copied=tuple(key for key in first.copied if key not in adapted),
            reshaped=first.reshaped,
            adapted=tuple(key for key in state_dict if key in adapted),
            reinitialized=tuple(f"streams.{i}.{key}" for i, each in enumerate(reports) for key in each.reinitialized),
            unused=first.unused,
        )


def vgg16_late(*, in_channels: int = 2 * COLORS, padding: Padding = "same") -> LateFusion:
    """Build two backbones of VGG-16 side by side: color, and what else there is of the scene, such as HHA or depth.

    Args:
        in_channels: channels of the input: the first three go into the first backbone, the others into the second; of
            two or three the last one.
        padding: "same" covers any image without waste; "paper" puts 100 pixels around it.

    Returns:
        The backbone, randomly initialized.

    Raises:
        ValueError: if there are fewer than two channels.
    """
    if in_channels < 2:
        raise ValueError(
            f"in_channels={in_channels}: late fusion has two backbones with at least one channel each; "
            "pass in_channels=6 for color and HHA, or use vgg16"
        )
    first = min(COLORS, in_channels - 1)
    streams = [vgg("vgg16", in_channels=count, padding=padding) for count in (first, in_channels - first)]
    return LateFusion("vgg16_late", streams)

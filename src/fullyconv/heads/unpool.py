"""The mirrored decoder: unpooling with stored positions, then convolutions (SegNet, Badrinarayanan et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fullyconv.backbones.base import Features
from fullyconv.backbones.plain import convolutions
from fullyconv.geometry import Geometry
from fullyconv.heads.skip import score_layer
from fullyconv.upsampling import MaxUnpooling


class UnpoolHead(nn.Module):
    """Undo every pooling of the backbone in turn, each unpooling followed by 3 x 3 convolutions, down to the pixels.

    The values go back to the positions where the backbone's pooling found its maxima, so the backbone must give its
    switches. Map sizes come from the switches too: odd sizes, where pooling rounded, are restored exactly. The scores
    are the logits.

    Args:
        channels: channels C of the map behind the pooling of each stride, which are those in front of it, too: VGG-16
            has {2: 64, 4: 128, 8: 256, 16: 512, 32: 512}.
        num_classes: number of classes K.
        depths: convolutions behind each unpooling by the stride it starts from; VGG-16 mirrored is
            {2: 1, 4: 2, 8: 3, 16: 3, 32: 3}, with the score layer as the last of stride 2.
        geometry: geometry of the coarsest map; for the receptive field and whether something sees the whole image.

    Raises:
        ValueError: if strides are not halved down to 2, depths are not those of the strides, or num_classes is below 1.

    Example:
        >>> import torch
        >>> from fullyconv.backbones import Switch
        >>> head = UnpoolHead({2: 8}, num_classes=3, depths={2: 1}, geometry=Geometry.IDENTITY.conv(2, stride=2))
        >>> pooled, positions = nn.functional.max_pool2d(torch.rand(1, 8, 5, 7), 2, ceil_mode=True, return_indices=True)
        >>> head(Features({2: pooled}, size=(5, 7), switches={2: Switch(positions, (5, 7))})).shape
        torch.Size([1, 3, 5, 7])
    """

    foldable = False
    """Folded batch norms round otherwise, and the maxima of two equal values may change places."""

    def __init__(
        self, channels: Mapping[int, int], num_classes: int, *, depths: Mapping[int, int], geometry: Geometry
    ) -> None:
        super().__init__()
        strides = tuple(sorted(channels, reverse=True))
        if not strides or strides != tuple(2**power for power in range(len(strides), 0, -1)):
            raise ValueError(
                f"channels={dict(channels)}: strides must halve down to 2, such as 8, 4, 2: one pooling for each."
            )
        if set(depths) != set(strides) or min(depths.values()) < 0:
            raise ValueError(
                f"depths={dict(depths)} must give a number of convolutions for each of the strides {strides}."
            )
        self.num_classes = num_classes
        self.strides = strides
        self.unpool = MaxUnpooling(2)
        self.decode = nn.ModuleDict()
        width = channels[strides[0]]
        for stride in strides:
            if width != channels[stride]:
                raise ValueError(
                    f"depths={dict(depths)}: the map unpooled from stride {stride} needs the {channels[stride]} "
                    f"channels of its pooling, not {width}. Give the stride before it at least one convolution."
                )
            # the last convolution of a stage gives the channels that the next unpooling needs
            last = channels.get(stride // 2, width)
            widths = [width] * depths[stride] + [last] if depths[stride] else [width]
            self.decode[str(stride)] = convolutions(widths)
            width = widths[-1]
        self.score = nn.ModuleDict({"1": score_layer(width, num_classes)})
        self.geometry = self._geometry(geometry, depths)

    def _geometry(self, coarsest: Geometry, depths: Mapping[int, int]) -> Geometry:
        """Every logit lies at its pixel; it sees what the cells see that its decoder sees."""
        # a pixel and its value before the pool are the same place; the pool moved the center, unpooling moves it back
        reach = [rf + 2 * (j - 1) for rf, j in zip(coarsest.receptive_field, coarsest.stride, strict=True)]
        decoder = sum(2 * depths[stride] * (stride // 2) for stride in self.strides)
        return Geometry(
            stride=(1.0, 1.0),
            center=(0.0, 0.0),
            receptive_field=(reach[0] + decoder, reach[1] + decoder),
            padded=True,
            global_context=coarsest.global_context,
        )

    def forward(self, features: Features) -> Tensor:
        """Decode the coarsest features.

        Args:
            features: maps by stride, with the switches of every pooling.

        Returns:
            (N, K, H, W) logits.

        Raises:
            ValueError: if switches are missing.
        """
        missing = [stride for stride in self.strides if stride not in features.switches]
        if missing:
            raise ValueError(
                f"features have no switches of stride {missing[0]}. Build the backbone with switches=True."
            )
        x = features[self.strides[0]]
        for stride in self.strides:
            positions, size = features.switches[stride]
            x = self.decode[str(stride)](self.unpool(x, positions, size))
        logits: Tensor = self.score["1"](x)
        return logits

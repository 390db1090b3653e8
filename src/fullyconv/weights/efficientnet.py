"""EfficientNets under the names of lukemelas' efficientnet_pytorch: brought under timm's, and recognized by shape.

Its files number the blocks through (``_blocks.7``), timm's by stage (``blocks.3.2``). All of them pad as TensorFlow
does: their networks are `efficientnet_lite0` to `efficientnet_lite2` of this package, and timm's with ``tf_``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from fullyconv.backbones import efficientnet_lite

OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
UNEXPANDED = EXPANDED | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))
"""Factors of width and depth of B0 to B7 (Tan and Le, ICML 2019); the first five are those of lite0 to lite4 too."""

TF_NAMES = {name: f"tf_{name}" for name in efficientnet_lite.SCALES}
"""What timm calls the networks that this package has itself; its names without ``tf_`` pad otherwise."""


def pads_as_tensorflow(backbone: str) -> bool:
    """Tell whether a backbone of this package or of timm computes what these files were trained for."""
    return backbone in TF_NAMES or backbone.startswith("timm/tf_efficientnet_")


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Give timm's name for each tensor; a name that no EfficientNet has is kept.

    Args:
        tensors: by the names of efficientnet_pytorch.

    Returns:
        Names by those of the file.
    """
    blocks = sorted(_projections(tensors).items())
    places = dict(zip(dict(blocks), by_stage([channels for _, channels in blocks]), strict=True))
    names = {}
    for key in tensors:
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match is None:
            layer, _, kind = key.rpartition(".")
            names[key] = f"{OUTER[layer]}.{kind}" if layer in OUTER else key
            continue
        block, layer, kind = int(match[1]), match[2], match[3]
        table = EXPANDED if f"_blocks.{block}._expand_conv.weight" in tensors else UNEXPANDED
        known = block in places and layer in table
        names[key] = f"blocks.{places[block]}.{table[layer]}.{kind}" if known else key
    return names


def architecture(tensors: Mapping[str, Tensor]) -> str | None:
    """Recognize the network: a name that `build_classifier` takes; None where its size is none of the published."""
    gated = "_blocks.0._se_reduce.weight" in tensors
    projections = _projections(tensors)
    if not projections:
        return None
    blocks, widest = max(projections) + 1, projections[max(projections)]
    first, *middle, last = (stage.repeats for stage in efficientnet_lite.STAGES)
    for number, (width, depth) in enumerate(SCALES):
        outer = math.ceil(first * depth) + math.ceil(last * depth) if gated else first + last
        count = outer + sum(math.ceil(repeats * depth) for repeats in middle)
        if (blocks, widest) == (count, efficientnet_lite.rounded(efficientnet_lite.STAGES[-1].channels * width)):
            name = f"efficientnet_{'b' if gated else 'lite'}{number}"
            return name if name in TF_NAMES else f"timm/tf_{name}"
    return None


def by_stage(channels: Sequence[int]) -> list[str]:
    """Number blocks by stage, "3.2": a stage ends where the number of channels changes.

    Args:
        channels: that each block gives, in their order.

    Example:
        >>> by_stage([16, 24, 24])
        ['0.0', '1.0', '1.1']
    """
    places: list[str] = []
    stage, inside, before = -1, 0, -1
    for count in channels:
        stage, inside = (stage, inside + 1) if count == before else (stage + 1, 0)
        places.append(f"{stage}.{inside}")
        before = count
    return places


def _projections(tensors: Mapping[str, Tensor]) -> dict[int, int]:
    """Give the channels that each block projects to."""
    found = {}
    for key, value in tensors.items():
        match = re.fullmatch(r"_blocks\.(\d{1,3})\._project_conv\.weight", key)
        if match is not None and value.ndim == 4:
            found[int(match[1])] = int(value.shape[0])
    return found

"""Any classifier of timm by name, "timm/NAME", through timm's own feature extraction (optional extra)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fullyconv.backbones.base import Backbone, Features, Padding, is_paper
from fullyconv.errors import near_miss

PREFIX = "timm/"
STRIDES = (4, 8, 16, 32)


class Timm(Backbone):
    """The backbone of a timm classifier.

    Its state-dict keys are ``trunk.`` and timm's own of a ``features_only`` model, which joins the outer two levels of
    some networks with an underscore (``stages_0.`` for ``stages.0.``); `load_classifier` takes the classifier's keys.
    Many of these networks need height and width in multiples of their coarsest stride, and TensorFlow's "same" padding
    has a fixed geometry only then: `size_divisor` is that stride.

    Args:
        name: "timm/NAME".
        backbone: what timm's `create_model` with `features_only` returns.
        in_channels: channels of the input.
    """

    def __init__(self, name: str, backbone: nn.Module, *, in_channels: int = 3) -> None:
        info = cast(Any, backbone.feature_info)
        reductions, channels = info.reduction(), info.channels()
        # the last of each stride
        taps = {stride: index for index, stride in enumerate(reductions) if stride in STRIDES}
        super().__init__(
            name,
            {stride: channels[index] for stride, index in taps.items()},
            in_channels=in_channels,
            size_divisor=max(32, *taps),
        )
        self.taps = taps
        self.channels_last = str(getattr(getattr(backbone, "output_fmt", "NCHW"), "value", "NCHW")).upper() == "NHWC"
        self.trunk = backbone

    def forward(self, x: Tensor) -> Features:
        """Compute the last map of each stride; see `Backbone.forward`."""
        size = self._size(x)
        outputs = self.trunk(x)
        maps = {stride: outputs[index] for stride, index in self.taps.items()}
        if self.channels_last:
            maps = {stride: output.permute(0, 3, 1, 2) for stride, output in maps.items()}
        return Features(maps, size)

    def _own_keys(self, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
        own = {key.removeprefix("trunk.").removeprefix("model."): key for key in self.state_dict()}
        keys = {}
        for key in state_dict:
            for joined in (key, key.replace(".", "_", 1), key.replace(".", "_", 2)):
                if joined in own:
                    keys[key] = own[joined]
                    break
        return keys

    def _is_unused(self, key: str) -> bool:
        if not self.unused:
            # what a classifier has beyond its backbone differs from family to family: ask it, without allocating
            # weights
            self.unused = tuple(_create(self.name.removeprefix(PREFIX), meta=True).state_dict())
        return key in self.unused


def timm_backbone(name: str, *, in_channels: int = 3, padding: Padding = "same") -> Timm:
    """Build the backbone of a timm classifier, randomly initialized; nothing is downloaded.

    Args:
        name: "timm/NAME", NAME as in ``timm.list_models()``.
        in_channels: channels of the input.
        padding: "same" only.

    Returns:
        The backbone.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if timm has no such model, or the model has no feature maps by stride.
    """
    is_paper(padding, name)
    model = name.removeprefix(PREFIX)
    check_name(model)
    options = _any_size(model)
    try:
        backbone = _create(model, features_only=True, in_chans=in_channels, **options)
        reductions = [level["reduction"] for level in cast(Any, backbone.feature_info).info]
        wanted = tuple({stride: index for index, stride in enumerate(reductions) if stride in STRIDES}.values())
        built = cast(Any, backbone.feature_info).out_indices
        if wanted and (max(wanted) != max(built) or not set(wanted) <= set(built)):
            backbone = _create(model, features_only=True, in_chans=in_channels, out_indices=wanted, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"name={name!r} gives no feature maps in timm (features_only=True): {error}. "
            f"Choose a convolutional network."
        ) from error
    if len(wanted) == 0:
        raise ValueError(f"name={name!r} has maps of strides {reductions}, none of {STRIDES}. Choose another network.")
    return Timm(name, backbone, in_channels=in_channels)


def check_name(model: str) -> None:
    """Check that timm has a model of a name.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if it has none; near ones are offered.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"'{PREFIX}{model}' needs timm: pip install 'fullyconv[timm]'") from error
    if not timm.is_model(model):
        raise ValueError(f"'{PREFIX}{model}': timm has no such model. {near_miss(model, timm.list_models())}")


def _any_size(model: str) -> dict[str, bool]:
    """Find the option that lets a network of a fixed input size run at others; ConvNets need none.

    Raises:
        ValueError: if it has none.
    """
    import timm

    config = timm.get_pretrained_cfg(model, allow_unregistered=True)
    if config is None or not config.fixed_input_size:
        return {}
    for option in ({"dynamic_img_size": True}, {"strict_img_size": False}):  # plain and windowed transformers
        try:
            _create(model, meta=True, **option)
        except TypeError:
            continue
        return option
    raise ValueError(
        f"name='{PREFIX}{model}' runs only on images of {config.input_size[1]} x {config.input_size[2]} pixels. "
        f"Choose a convolutional network."
    )


def _create(model: str, *, meta: bool = False, **options: Any) -> nn.Module:
    """Build a model of timm without weights; on the meta device, which allocates nothing, where the model allows it."""
    import timm

    if meta:
        try:
            with torch.device("meta"):
                return timm.create_model(model, pretrained=False, **options)
        except RuntimeError:  # some constructors read values back (drop path rates in older releases)
            pass
    return timm.create_model(model, pretrained=False, **options)

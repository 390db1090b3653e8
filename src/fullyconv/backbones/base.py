"""What every backbone is: a classifier's backbone that gives its feature maps by stride."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fullyconv.errors import WeightsError, some

if TYPE_CHECKING:
    from fullyconv.geometry import Geometry
    from fullyconv.preprocessing import Preprocessing

Padding = Literal["same", "paper"]

_OUTCOMES = ("copied", "reshaped", "adapted", "reinitialized", "unused")
_FAULTS = ("missing", "unknown", "of another shape")

PAPER_PADDING = 100  # pixels around the image before the first convolution, in every released net of Long et al.


class Switch(NamedTuple):
    """Hold what max unpooling needs to undo one pooling.

    Args:
        positions: (N, C, h, w) int64, for each cell the index of its maximum in the flattened map before the pool.
        size: height and width of the map before the pool, in cells.
    """

    positions: Tensor
    size: tuple[int, int]


class Features(dict[int, Tensor]):
    """Feature maps (N, C, h, w) by stride, finest first: ``features[16]``.

    Args:
        maps: the feature maps by stride.
        size: height and width of the input in pixels.
        switches: positions of the maxima by the stride after the pool; empty unless the backbone was asked for them.

    Example:
        >>> features = Features({16: torch.zeros(1, 8, 2, 3)}, size=(32, 48))
        >>> features[16].shape, features.size
        (torch.Size([1, 8, 2, 3]), (32, 48))
    """

    def __init__(
        self, maps: Mapping[int, Tensor], size: tuple[int, int], switches: Mapping[int, Switch] | None = None
    ) -> None:
        super().__init__(maps)
        self.size = size
        self.switches: dict[int, Switch] = dict(switches or {})


@dataclass(frozen=True)
class LoadReport:
    """Say what became of each tensor when weights from elsewhere were loaded. Nothing is left unsaid.

    Args:
        copied: keys of the file whose tensors were taken as they are.
        reshaped: keys of the file whose fully connected weights became kernels.
        adapted: keys of the file whose tensors were made to fit: a first convolution for other channels than RGB, a
            batch norm of another epsilon.
        reinitialized: keys of the model that the file has nothing for: they start anew, or keep the values they had.
        unused: keys of the file that the model has no place for (the score layer, auxiliary heads).
    """

    copied: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def table(self) -> str:
        """Lay the load report out as text, one line for each group with its count and first keys.

        Returns:
            Five lines.

        Example:
            >>> print(LoadReport(copied=("conv1.weight",), unused=("fc.weight", "fc.bias")).table())
            copied             1  conv1.weight
            reshaped           0
            adapted            0
            re-initialized     0
            unused             2  fc.weight, fc.bias
        """
        groups = {group.replace("reinit", "re-init"): getattr(self, group) for group in _OUTCOMES}
        return "\n".join(f"{group:<14}{len(keys):>6}  {some(keys)}".rstrip() for group, keys in groups.items())


class Backbone(nn.Module, ABC):
    """A classifier's backbone under the classifier's own key names; its score layer is left out.

    A subclass sets up its layers and returns `Features` from `forward`.

    Args:
        name: the name it is built by.
        channels: channels C of the feature map of each stride.
        in_channels: channels of the input.
        min_size: smallest height and width served, in pixels.
        size_divisor: height and width must be multiples of it, in pixels; `FCN` pads to them.
        unused: prefixes of those keys of the classifier that the backbone has no use for.

    Attributes:
        load_report: what became of each tensor of the weights it was given; None while it is randomly initialized.
        preprocessing: what those weights expect of an image; None where nobody said so.
    """

    def __init__(
        self,
        name: str,
        channels: Mapping[int, int],
        *,
        in_channels: int = 3,
        min_size: int = 1,
        size_divisor: int = 1,
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.channels: dict[int, int] = dict(sorted(channels.items()))
        self.in_channels = in_channels
        self.min_size = min_size
        self.size_divisor = size_divisor
        self.unused = tuple(unused)
        self.load_report: LoadReport | None = None
        self.preprocessing: Preprocessing | None = None
        self._geometry: dict[int, Geometry] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Compute the feature maps.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            The feature maps by stride, with the input's size.

        Raises:
            ValueError: if x has the wrong dimensions or channels, or is smaller than `min_size`.
        """

    @property
    def geometry(self) -> dict[int, Geometry]:
        """Stride, center and receptive field of each feature map, measured once over what the layers really do."""
        if self._geometry is None:
            from fullyconv.geometry import measure

            coarsest = max(*self.channels, self.size_divisor)
            size = coarsest * -(-224 // coarsest)  # a multiple of every stride, at least the classifiers' native size
            self._geometry = cast("dict[int, Geometry]", measure(self, size, self.in_channels))
        return self._geometry

    def load_classifier(self, state_dict: Mapping[str, Tensor], *, absent: Sequence[str] = ()) -> LoadReport:
        """Load the weights of the classifier that this backbone was cut from.

        Keys are the classifier's own. Fully connected weights (two dimensions) are reshaped into kernels; the score
        layer is not used. Where `in_channels` is not 3, the first convolution of a color classifier is adapted: the
        first three of more channels keep the colors' weights and each further one starts at their mean (Long et al.,
        the early fusion of section 5); one or two channels share the sum of the colors' weights, so that a gray image
        is answered as it was in color. Either everything fits or nothing is changed.

        Args:
            state_dict: what the classifier's ``state_dict()`` returns.
            absent: prefixes of keys that the weights are known to lack: layers that start anew. Anything else that is
                missing is an error.

        Returns:
            The load report of what was copied, reshaped, adapted, not used and not found.

        Raises:
            WeightsError: if tensors are missing, unknown or of another shape; the message names them.

        Example:
            >>> from fullyconv.backbones.resnet import narrow_classifier, resnet
            >>> weights = narrow_classifier("resnet18_half", num_classes=10).state_dict()
            >>> resnet("resnet18_half").load_classifier(weights).unused
            ('fc.weight', 'fc.bias')
        """
        own = self.state_dict()
        to_own = self._own_keys(state_dict)
        plan: dict[str, Tensor] = {}
        became: dict[str, list[str]] = {group: [] for group in (*_OUTCOMES, *_FAULTS)}
        for key, value in state_dict.items():
            target = to_own.get(key)
            if target is None:
                became["unused" if self._is_unused(key) else "unknown"].append(key)
                continue
            shape = own[target].shape
            if value.shape == shape:
                became["copied"].append(key)
                plan[target] = value
            elif value.ndim == 2 and len(shape) == 4 and value.shape[0] == shape[0] and value.numel() == shape.numel():
                became["reshaped"].append(key)
                plan[target] = value.reshape(shape)
            elif self.in_channels != 3 and value.shape == (shape[0], 3, *shape[2:]) and shape[1] == self.in_channels:
                became["adapted"].append(key)  # only a first convolution sees three channels
                plan[target] = _other_channels(value, self.in_channels)
            else:
                became["of another shape"].append(f"{key} {tuple(value.shape)} for {tuple(shape)}")
        found = set(to_own.values())
        for key in [key for key in own if key not in found]:
            # batch norm counts its batches only since torch 0.4.1; older files are complete without the counter
            expected = key.endswith("num_batches_tracked") or key.startswith(tuple(absent))
            became["reinitialized" if expected else "missing"].append(key)
        faults = {fault: became.pop(fault) for fault in _FAULTS}
        if any(faults.values()):
            listed = "; ".join(f"{len(keys)} {fault}: {some(keys)}" for fault, keys in faults.items() if keys)
            raise WeightsError(
                f"state_dict does not fit backbone={self.name!r}, nothing was changed: {listed}. "
                f"Pass the state_dict of the classifier that the backbone is named after."
            )
        with torch.no_grad():
            for key, value in plan.items():
                own[key].copy_(value)
        return LoadReport(**{group: tuple(keys) for group, keys in became.items()})

    def extra_repr(self) -> str:
        """Say name and channels in the printed module."""
        return f"name={self.name!r}, channels={self.channels}, in_channels={self.in_channels}"

    def _own_keys(self, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
        """Map the classifier's keys to those of the backbone: the same, unless a subclass knows better."""
        own = self.state_dict()
        return {key: key for key in state_dict if key in own}

    def _is_unused(self, key: str) -> bool:
        return key.startswith(self.unused)

    def _size(self, x: Tensor) -> tuple[int, int]:
        """Check the input and return its height and width in pixels."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x of shape {tuple(x.shape)}: backbone={self.name!r} takes (N, {self.in_channels}, H, W). "
                f"Add a batch dimension, or build it with in_channels=C for images of C channels."
            )
        height, width = x.shape[2], x.shape[3]  # no int(): it would freeze a size that an exporter leaves open
        if min(height, width) < self.min_size:
            raise ValueError(
                f"x of {height} x {width} pixels: backbone={self.name!r} needs {self.min_size} x {self.min_size}. "
                f"Pad the image first (FCN does so by itself)."
            )
        return height, width


class Chain(Backbone):
    """A backbone whose layers follow one another; its features are what stands behind some of them.

    Args:
        name: the name it is built by.
        layers: in their order, by the names that they have in the classifier.
        taps: names of the layers whose maps are features -> their strides; of several of one stride the last is taken.
            Those inside a sequence have its name and theirs, "features.3".
        channels: as `Backbone` takes it, like all options.
        options: see `Backbone`.
    """

    def __init__(
        self,
        name: str,
        layers: Mapping[str, nn.Module],
        taps: Mapping[str, int],
        channels: Mapping[int, int],
        **options: Any,
    ) -> None:
        super().__init__(name, channels, **options)
        for layer, module in layers.items():
            self.add_module(layer, module)
        self._sequences = {tap.rpartition(".")[0] for tap in taps} - {""}
        self._strides = [taps.get(path) for path, _ in self._chain()]

    def _chain(self) -> Iterator[tuple[str, nn.Module]]:
        for name, layer in self.named_children():
            if name in self._sequences:
                yield from ((f"{name}.{inside}", part) for inside, part in layer.named_children())
            else:
                yield name, layer

    def forward(self, x: Tensor) -> Features:
        """Compute the maps one after the other; see `Backbone.forward`."""
        size = self._size(x)
        maps: dict[int, Tensor] = {}
        for (_, layer), stride in zip(self._chain(), self._strides, strict=True):
            x = layer(x)
            if stride is not None:
                maps[stride] = x
        return Features(maps, size)


def _other_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Make the weights (C', 3, kH, kW) of a first convolution on colors ones on `in_channels` channels."""
    mean = weight.mean(1, keepdim=True)
    if in_channels < 3:
        return mean.repeat(1, in_channels, 1, 1) * (3 / in_channels)
    return torch.cat([weight, mean.repeat(1, in_channels - 3, 1, 1)], 1)


def first_convolution(conv: nn.Conv2d, in_channels: int = 3, padding: int | None = None) -> nn.Conv2d:
    """Change a network's first convolution to other channels or another padding.

    Args:
        conv: the convolution (C', C, kH, kW) as the classifier has it.
        in_channels: channels of the input; where it differs from C the weights are drawn anew (He et al. 2015).
        padding: pixels on each side; None keeps the convolution's own.

    Returns:
        The convolution that was given.

    Raises:
        ValueError: if `in_channels` is not positive.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels}: an image has at least one channel, 3 for RGB.")
    if padding is not None:
        conv.padding = (padding, padding)
    if in_channels != conv.in_channels:
        conv.in_channels = in_channels
        conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, in_channels, *conv.kernel_size))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def is_paper(padding: str, name: str, *, paper: bool = False) -> bool:
    """Check `padding` and tell whether it is the paper's.

    Args:
        padding: "same" or "paper".
        name: the backbone's name, for the message.
        paper: whether the backbone exists with the paper's padding.

    Returns:
        True for "paper".

    Raises:
        ValueError: for another word, or for "paper" where the paper has no such network.
    """
    if padding not in ("same", "paper"):
        raise ValueError(f"padding={padding!r} is neither 'same' (any size, no waste) nor 'paper' (100 pixels around).")
    if padding == "paper" and not paper:
        raise ValueError(
            f"padding='paper': backbone={name!r} is not in the paper. VGG, AlexNet, CaffeNet and GoogLeNet have it; "
            f"use padding='same' here."
        )
    return padding == "paper"

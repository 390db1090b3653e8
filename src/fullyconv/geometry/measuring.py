"""Measure the geometry of what a network really executes: one forward pass over tensors without data, watched."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from fullyconv.geometry.algebra import pair
from fullyconv.geometry.dispatch import WithoutData
from fullyconv.geometry.tracking import Tracker


def measure(module: nn.Module, input_size: int | tuple[int, int], in_channels: int = 3) -> Any:
    """Measure stride, receptive field and offset of what a module computes from an image.

    The module runs once in eval mode on a tensor without data (1, C, H, W) and is left as it was found. Measure at a
    size at which the map has several cells and which the strides divide, if the module resamples to given sizes.

    What is followed exactly: convolutions and transposed convolutions, pooling, padding, crops, resampling, joins, all
    pointwise operations and those over channels, in any order of axes, also on maps cut into windows or flattened to
    tokens. What sees the entire map (squeeze-excite, attention, group norm) or is not known sets ``global_context``;
    stride and center are then those of the map, and the receptive field counts the local operations only. If all
    cells end in one vector, its geometry is that of the one window over the entire map.

    Args:
        module: any module that takes (N, C, H, W).
        input_size: H = W, or (H, W), in pixels.
        in_channels: C.

    Returns:
        A Geometry, or the same nesting of dicts, lists and tuples as the output of the module; None in place of what
        does not depend on the image.

    Raises:
        ValueError: if ``input_size`` or ``in_channels`` is not positive, or the module does not run at that size.

    Example:
        >>> measure(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)), 32).center
        (0.5, 0.5)
    """
    tracker = Tracker()
    return tree_map(tracker.geometry, _plain(watch(module, input_size, in_channels, tracker)))


def watch(module: nn.Module, input_size: int | tuple[int, int], in_channels: int, tracker: Tracker) -> Any:
    """Run a module once without data, in eval mode, under the eyes of a tracker, and leave it as it was found.

    Args:
        module: any module that takes (N, C, H, W).
        input_size: H = W, or (H, W), in pixels.
        in_channels: C.
        tracker: knows afterwards where the rows and columns of each tensor are.

    Returns:
        The output of the module, of tensors without data.

    Raises:
        ValueError: if ``input_size`` or ``in_channels`` is not positive, or the module does not run at that size.
    """
    height, width = pair(input_size)
    if min(height, width) < 1:
        raise ValueError(f"input_size={input_size!r}: must be positive. Give the pixels of a side, or (H, W).")
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels!r}: must be positive. Give the channels the module takes.")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters()):
        raise ValueError(
            f"module={type(module).__name__}: has parameters without a shape. Run it once on an image first."
        )
    values = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    with undisturbed(module), torch.inference_mode(False), torch.no_grad(), WithoutData():
        image = torch.empty(1, in_channels, height, width, dtype=values.dtype, device=values.device)
        tracker.start(image)
        try:
            with tracker:
                return module(image)
        except Exception as error:
            raise ValueError(
                f"input_size={input_size!r}, in_channels={in_channels}: {type(module).__name__} does not run on an "
                f"image of that size ({type(error).__name__}: {error}). Give a size that it takes, and a module "
                "whose forward needs no values of tensors."
            ) from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode for a while, and leave the mode of each of its modules as it was found."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode for a while; afterwards restore all of its attributes, whatever forward stored.

    Compiled parts run as the Python that they were: compiled code that is given tensors without data ends the process.
    """
    shelves = ("_parameters", "_buffers", "_modules")
    found = [(m, dict(m.__dict__), {shelf: dict(m.__dict__[shelf]) for shelf in shelves}) for m in module.modules()]
    try:
        for each, _, _ in found:
            each.training = False  # not .eval(), which a module may override with side effects
        # Without dynamo, whose import takes seconds, nothing is compiled.
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        for each, attributes, contents in found:
            each.__dict__.clear()
            each.__dict__.update(attributes)
            for shelf, content in contents.items():
                each.__dict__[shelf].clear()
                each.__dict__[shelf].update(content)


def _plain(output: Any) -> Any:
    """Turn mappings and named tuples of a module's own class into plain ones, which nest by themselves."""
    if isinstance(output, Mapping):
        return {key: _plain(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(map(_plain, output)) if type(output) in (list, tuple) else tuple(map(_plain, output))
    return output

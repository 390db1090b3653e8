"""Scores at more places: the classifier slid over the image, and two ways to a denser grid that cost less.

A fully convolutional network with stride s gives a score every s pixels. Long et al. (2015, section 3.2) fill the gaps
either by running it on s*s shifted images and interlacing the results (shift-and-stitch), or by taking the steps out of
its layers and spreading their kernels instead (the algorithme a trous of Holschneider et al.). Both compute the same
where no padding is involved: every pixel window gets the answer that it gets alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.conversion.network import DenseClassifier
from fullyconv.conversion.program import Step
from fullyconv.conversion.surgery import duplicate
from fullyconv.errors import ConversionError
from fullyconv.geometry import Geometry, Pair, measure, pair, watch
from fullyconv.geometry.measuring import evaluating
from fullyconv.geometry.tracking import Tracker

Network = TypeVar("Network", bound=nn.Module)

# Any size will do to see what a network executes (no data are involved); this one leaves maps of stride 32 some cells.
MEASURING_SIZE = 512


def sliding_window(
    classifier: nn.Module,
    image: Tensor,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    *,
    batch_size: int = 16,
) -> Tensor:
    """Slide a classifier over images, window by window: the truth that a converted network is held against.

    The classifier runs in eval mode and without gradients; its modes are restored. Any classifier will do, also one
    that cannot be converted (vision transformers).

    Args:
        classifier: maps (N, C, kH, kW) to (N, K), or to (N, K, 1, 1).
        image: (N, C, H, W), at least as large as the window.
        window: side of the window, or (kH, kW), in pixels.
        stride: step of the window, or (y, x), in pixels.
        batch_size: windows per call of the classifier.

    Returns:
        (N, K, h, w) scores; [:, :, i, j] belongs to the window with its top left corner at pixel (i*y, j*x). Windows
        lie inside the image: h = (H - kH)//y + 1.

    Raises:
        ValueError: if a size is not positive, the image is smaller than the window, or the classifier returns
            something else.

    Example:
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> sliding_window(classifier, torch.rand(1, 3, 16, 20), window=8, stride=4).shape
        torch.Size([1, 5, 3, 4])
    """
    if image.ndim != 4:
        raise ValueError(f"image={tuple(image.shape)}: must be (N, C, H, W). Add the missing axes with image[None].")
    (kh, kw), (sy, sx) = pair(window), pair(stride)
    for name, value in (("window", min(kh, kw)), ("stride", min(sy, sx)), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be positive.")
    count, _, height, width = image.shape
    if height < kh or width < kw:
        raise ValueError(
            f"image={tuple(image.shape)}: must be at least as large as window=({kh}, {kw}). Enlarge or pad it first."
        )
    h, w = (height - kh) // sy + 1, (width - kw) // sx + 1
    places = [(n, i * sy, j * sx) for n in range(count) for i in range(h) for j in range(w)]
    scores: list[Tensor] = []
    with evaluating(classifier), torch.no_grad():
        for start in range(0, len(places), batch_size):
            chunk = places[start : start + batch_size]
            result = classifier(torch.stack([image[n, :, y : y + kh, x : x + kw] for n, y, x in chunk]))
            shape = tuple(result.shape) if isinstance(result, Tensor) else (type(result).__name__,)
            if len(shape) not in (2, 4) or shape[0] != len(chunk) or shape[2:] not in ((), (1, 1)):
                raise ValueError(
                    f"classifier={type(classifier).__name__}: must return (N, K) scores for N={len(chunk)} windows, "
                    f"returned {shape}. Wrap it in a module that does."
                )
            scores.append(result.flatten(1))
    return torch.cat(scores).reshape(count, h, w, -1).permute(0, 3, 1, 2).contiguous()


def shift_and_stitch(dense: nn.Module, x: Tensor, stride: int | tuple[int, int]) -> Tensor:
    """Interlace the scores of shifted images: a grid of any stride from a network as it is (section 3.2).

    The network runs once per shift, (s/stride)**2 times in all. The shifts cut rows and columns off at the top and
    left. Where the network pads, each of these images has its own border, so that scores there differ from those of
    :func:`atrous`.

    Args:
        dense: a fully convolutional network, (N, C, H, W) to (N, K, h, w), with stride s.
        x: (N, C, H, W).
        stride: wanted stride, or (y, x), in pixels; must divide s.

    Returns:
        (N, K, h', w') scores, one every ``stride`` pixels, as far as the grid has no gaps.

    Raises:
        ValueError: if ``stride`` does not divide the stride of the network.

    Example:
        >>> dense = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4))
        >>> shift_and_stitch(dense, torch.rand(1, 3, 16, 16), stride=2).shape
        torch.Size([1, 5, 7, 7])
    """
    if x.ndim != 4:
        raise ValueError(f"x={tuple(x.shape)}: must be (N, C, H, W). Add the missing axes with x[None].")
    geometry = measure(dense, (x.shape[2], x.shape[3]), x.shape[1])
    (sy, sx), (fy, fx) = pair(stride), _factors(geometry, stride)
    # A shifted image may be too small for a single window: such a phase has no cells.
    needs = (1, 1) if geometry.padded else geometry.receptive_field
    phases = [(a, b) for a in range(fy) for b in range(fx)]
    full = [(a, b) for a, b in phases if x.shape[2] - a * sy >= needs[0] and x.shape[3] - b * sx >= needs[1]]
    scores: dict[Pair, Tensor] = {(a, b): dense(x[:, :, a * sy :, b * sx :]) for a, b in full}
    corner = scores[0, 0]
    # Row a + f*i is row i of phase a. The grid ends before the first row that some phase does not have.
    h = min(fy * (scores[a, 0].shape[2] if (a, 0) in scores else 0) + a for a in range(fy))
    w = min(fx * (scores[0, b].shape[3] if (0, b) in scores else 0) + b for b in range(fx))
    stitched = corner.new_empty(*corner.shape[:2], h, w)
    for (a, b), part in scores.items():
        place = stitched[:, :, a::fy, b::fx]
        place.copy_(part[:, :, : place.shape[2], : place.shape[3]])
    return stitched


def atrous(
    dense: Network,
    stride: int,
    *,
    input_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
) -> Network:
    """Take the steps out of a network and spread its kernels instead, for a grid of a smaller stride (section 3.2).

    A layer of step s, padding p and dilation d whose input has stride j becomes, for the wanted stride T,

        s' = s if j*s <= T else max(1, T/j),    d' = d * max(1, j/T),    p' = p * max(1, j/T),

    so that the taps of every kernel stay on the same pixels. Receptive field and center of a cell do not change, and
    with f = s/T ``atrous(dense, T)(x)[..., ::f, ::f]`` equals ``dense(x)``. The scores in between equal those of
    :func:`shift_and_stitch` wherever no padding is in sight. What sees the entire map (squeeze-excite, attention)
    sees the denser map: such networks run, but for them nothing is equal.

    Args:
        dense: a fully convolutional network, (N, C, H, W) to (N, K, h, w): a converted classifier or any other.
        stride: wanted stride T in pixels; must divide the stride of the network.
        input_size: a size at which the network runs, if it does not at 512.
        in_channels: C, if it is not that of the first convolution.

    Returns:
        A network of the same class and state-dict keys. It shares its weights with ``dense``.

    Raises:
        ConversionError: if something in the network cannot be diluted; the message names it.
        ValueError: if ``stride`` does not divide the stride of the network.

    Example:
        >>> dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 5, 3))
        >>> atrous(dense, stride=1)(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 5, 9, 9])
    """
    usual_size, usual_channels = _usual_image(dense)
    size = pair(input_size) if input_size is not None else usual_size
    channels = in_channels if in_channels is not None else usual_channels
    if channels is None:
        raise ValueError("in_channels=None: must be given for a network without nn.Conv2d.")
    diluted: Network = duplicate(dense, (*dense.parameters(), *dense.buffers()))
    if isinstance(diluted, DenseClassifier):
        _make_pools_modules(diluted)
    before = _Census(diluted, size, channels)
    factors = _factors(before.scores, stride)
    for path, strides in _too_coarse(before, diluted, stride).items():
        _dilute(diluted, path, strides, stride)
    after = _Census(diluted, size, channels)
    _verify(before, after, diluted, stride)
    if isinstance(diluted, DenseClassifier) and isinstance(after.scores, Geometry):
        windows = tuple(((h - 1) * factors[0] + 1, (w - 1) * factors[1] + 1) for h, w in diluted._program.windows)
        diluted._change(replace(diluted._program, windows=windows), after.scores)
    return diluted


class _Census(Tracker):  # type: ignore[no-untyped-call]
    """Note where the cells of what each call of a module is given and returns lie.

    Calls go by the path of the module and their number among its calls.
    """

    def __init__(self, network: nn.Module, size: Pair, channels: int) -> None:
        super().__init__()
        self.calls: dict[tuple[str, int], tuple[Geometry | None, Geometry]] = {}
        self._counts: Counter[str] = Counter()
        hooks = [module.register_forward_hook(partial(self._leave, path)) for path, module in network.named_modules()]
        try:
            output = watch(network, size, channels, self)
        finally:
            for hook in hooks:
                hook.remove()
        self.scores = self.geometry(output)

    def _leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        seen, geometry = self.seen(output), self.geometry(output)
        if seen is not None and seen.axes and geometry is not None:
            self.calls[path, self._counts[path]] = (self.geometry(args[0]) if args else None, geometry)
        self._counts[path] += 1


def _too_coarse(census: _Census, network: nn.Module, stride: int) -> dict[str, tuple[float, float]]:
    """Find the layers that a network of the wanted stride cannot keep, with the strides (y, x) of their inputs."""
    modules = dict(network.named_modules())
    found: dict[str, tuple[float, float]] = {}
    for (path, _), (before, after) in census.calls.items():
        module = modules[path]
        if not isinstance(module, _DILUTED) or before is None or _place(before) == _place(after):
            continue
        if max(*before.stride, *after.stride) <= stride:
            continue
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros" and max(before.stride) > stride:
            reason = f"padding_mode={module.padding_mode!r} has no spread form"
        elif isinstance(module, nn.MaxPool2d) and module.return_indices:
            reason = "return_indices=True asks for positions on the coarse map"
        elif found.setdefault(path, before.stride) != before.stride:
            reason = "it is called on maps of several strides"
        else:
            continue
        raise ConversionError(f"{_name(path, module)}: cannot be diluted to stride={stride}: {reason}. {_REMEDY}")
    return found


def _dilute(network: nn.Module, path: str, strides: tuple[float, float], stride: int) -> None:
    """Change one layer, whose input has the given strides, by the rule of :func:`atrous`."""
    layer = dict(network.named_modules(remove_duplicate=False))[path]
    spread = tuple(_whole(max(1.0, j / stride), path, j, stride) for j in strides)

    def steps(given: Pair) -> Pair:
        y, x = (
            s if j * s <= stride else _whole(max(1.0, stride / j), path, j, stride)
            for s, j in zip(given, strides, strict=True)
        )
        return y, x

    def times(given: int | Sequence[int]) -> Pair:
        y, x = (n * m for n, m in zip(pair(given), spread, strict=True))
        return y, x

    if isinstance(layer, nn.Conv2d):
        layer.stride, layer.dilation = steps(pair(layer.stride)), times(layer.dilation)
        if not isinstance(layer.padding, str):  # "same" spreads by itself
            layer.padding = times(layer.padding)
        return
    if isinstance(layer, nn.ConstantPad2d):
        left, right, top, bottom = layer.padding
        layer.padding = (left * spread[1], right * spread[1], top * spread[0], bottom * spread[0])
        return
    assert isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d))
    pool = SpreadPool(layer, steps(pair(layer.stride)), (spread[0], spread[1]))
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is layer:
                parent._modules[name] = pool


def _whole(ratio: float, path: str, j: float, stride: int) -> int:
    if ratio != round(ratio):
        raise ConversionError(
            f"dense.{path}: cannot be diluted to stride={stride}: its input has stride {j:g}, and one of the two must "
            "divide the other. Choose another stride, or use shift_and_stitch."
        )
    return round(ratio)


def _verify(before: _Census, after: _Census, network: nn.Module, stride: int) -> None:
    """Hold the result against the promise: the same pixels per cell everywhere, only the cells are closer.

    A forward may move cells by functions, or treat stride and dilation in its own way (padding by the size of the
    input).
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    for (path, number), (_, was) in before.calls.items():
        _, now = after.calls.get((path, number), (None, None))
        finer = tuple(min(j, float(stride)) for j in was.stride)
        wanted = replace(was, stride=(finer[0], finer[1]))
        if now is None or not _same_place(now, wanted):
            raise ConversionError(
                f"{_name(path, modules[path])}: cannot be diluted to stride={stride}: its forward "
                f"gives {now} where {wanted} was to be expected. {_REMEDY}"
            )


def _make_pools_modules(dense: DenseClassifier) -> None:
    """Give the poolings that a converted classifier runs as functions the form of modules, which can be changed."""

    def changed(step: Step) -> Step:
        name = getattr(step.target, "__name__", "").lstrip("_")
        signature = _POOLINGS.get(name)
        if step.kind != "call_function" or signature is None or not step.args:
            return step
        make, names = signature
        settings = dict(zip(names, step.args[1:], strict=False)) | step.kwargs
        path = f"pool_{step.result}"
        dense._modules[path] = make(**settings)
        return replace(step, kind="call_module", target=path, args=step.args[:1], kwargs={})

    backbone, head = (tuple(map(changed, steps)) for steps in (dense._program.backbone, dense._program.head))
    dense._keep(_program=replace(dense._program, backbone=backbone, head=head))


class SpreadPool(nn.Module):
    """Pool cells that lie apart, as a pooling does whose input has become finer.

    torch has no average pooling with dilation, and its max pooling refuses paddings above half a kernel that is not
    spread. Windows are those of the given pooling at every ``spread``-th cell, also where it rounds its output up
    (``ceil_mode``).

    Args:
        pool: the pooling at the coarse stride.
        step: its new step (y, x), in cells.
        spread: how much finer the input has become (y, x).

    Example:
        >>> SpreadPool(nn.MaxPool2d(2), step=(1, 1), spread=(3, 3))(torch.rand(1, 8, 10, 10)).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, step: Pair, spread: Pair) -> None:
        super().__init__()
        self.pool, self.step, self.spread = pool, step, spread

    def forward(self, x: Tensor) -> Tensor:
        """Pool a map.

        Args:
            x: (N, C, h, w).

        Returns:
            (N, C, h', w').
        """
        pool = self.pool
        kernel, padding, dilation = pair(pool.kernel_size), pair(pool.padding), pair(getattr(pool, "dilation", 1))
        # The coarse map has every spread-th cell. With ceil_mode it may end in a window that hangs over.
        windows = pool(x[..., :: self.spread[0], :: self.spread[1]]).shape[-2:]
        axes = zip(
            x.shape[-2:], windows, kernel, pair(pool.stride), padding, dilation, self.step, self.spread, strict=True
        )
        (top, bottom, h), (left, right, w) = (self._margins(*numbers) for numbers in axes)
        taps = dilation[0] * self.spread[0], dilation[1] * self.spread[1]
        margins = (left, right, top, bottom)
        if isinstance(self.pool, nn.MaxPool2d):
            return F.max_pool2d(F.pad(x, margins, value=-math.inf), kernel, self.step, 0, taps)[..., :h, :w]
        total = self._sum(F.pad(x, margins), kernel, taps)[..., :h, :w]
        if self.pool.divisor_override:
            return total / self.pool.divisor_override
        # What counts as a cell: the map, and the padding if it is asked for, but nothing beyond.
        inside = x.new_ones(1, 1, *x.shape[-2:])
        if self.pool.count_include_pad:
            py, px = (p * m for p, m in zip(padding, self.spread, strict=True))
            inside = F.pad(inside, (px, px, py, py), value=1.0)
            inside = F.pad(inside, (0, right - px, 0, bottom - py))
        else:
            inside = F.pad(inside, margins)
        return total / self._sum(inside, kernel, taps)[..., :h, :w]

    @staticmethod
    def _margins(n: int, windows: int, k: int, s: int, p: int, d: int, step: int, spread: int) -> tuple[int, int, int]:
        """Give the padding before and after an axis of n cells, and the cells of the result."""
        before, reach = p * spread, d * (k - 1) * spread
        cells = max((n + 2 * before - reach - 1) // step + 1, (windows - 1) * s * spread // step + 1)
        return before, max(before, (cells - 1) * step + reach + 1 - n - before), cells

    def _sum(self, x: Tensor, kernel: Pair, taps: Pair) -> Tensor:
        """Sum over each window, one axis after the other."""
        ones = x.new_ones(1, 1, 1, 1)
        c = x.shape[1]
        x = F.conv2d(x, ones.expand(c, 1, kernel[0], 1), None, (self.step[0], 1), 0, (taps[0], 1), c)
        return F.conv2d(x, ones.expand(c, 1, 1, kernel[1]), None, (1, self.step[1]), 0, (1, taps[1]), c)


_COMMON = ("kernel_size", "stride", "padding")
_POOLINGS: dict[str, tuple[type[nn.AvgPool2d] | type[nn.MaxPool2d], tuple[str, ...]]] = {
    "avg_pool2d": (nn.AvgPool2d, (*_COMMON, "ceil_mode", "count_include_pad", "divisor_override")),
    "max_pool2d": (nn.MaxPool2d, (*_COMMON, "dilation", "ceil_mode", "return_indices")),
}

_REMEDY = (
    "Use shift_and_stitch, which runs the network as it is, or write that part with nn.Conv2d and pooling modules."
)
_DILUTED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.ConstantPad2d)  # ZeroPad2d is a ConstantPad2d


def _name(path: str, module: nn.Module) -> str:
    return f"dense{'.' if path else ''}{path} ({type(module).__name__})"


def _place(geometry: Geometry) -> tuple[float, ...]:
    return (*geometry.stride, *geometry.center, *geometry.receptive_field)


def _same_place(one: Geometry, other: Geometry) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(_place(one), _place(other), strict=True))


def _factors(geometry: object, stride: int | tuple[int, int]) -> Pair:
    """Give how much finer a grid is wanted than the network's, per axis."""
    if not isinstance(geometry, Geometry):
        raise ValueError("dense: must return one map of scores (N, K, h, w). Wrap it in a module that does.")
    factors = [j / t if t > 0 else 0.0 for j, t in zip(geometry.stride, pair(stride), strict=True)]
    if any(f < 1 or f != round(f) for f in factors):
        y, x = geometry.stride
        raise ValueError(f"stride={stride}: must divide the stride of the network, which is ({y:g}, {x:g}).")
    return round(factors[0]), round(factors[1])


def _usual_image(network: nn.Module) -> tuple[Pair, int | None]:
    """Choose a size at which a network runs and has several cells, and find out its channels."""
    if isinstance(network, DenseClassifier):
        sizes = {size: grid for size, grid in network.report.grids.items() if grid is not None}
        return max(sizes, key=lambda size: sizes[size], default=network.input_size), network.in_channels
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return (MEASURING_SIZE, MEASURING_SIZE), None if first is None else first.in_channels

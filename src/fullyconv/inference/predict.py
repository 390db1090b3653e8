"""From a picture to a Segmentation: read, run, argmax, at the picture's own size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fullyconv.geometry import Geometry
from fullyconv.images import read_bands, visible
from fullyconv.inference.argmax import upsample_argmax
from fullyconv.inference.scaling import scaled_size
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels
from fullyconv.upsampling import resample

BAND_BYTES = 2**26  # of logits at a time, where a picture was seen scaled

Source = str | Path | Image.Image | npt.NDArray[Any] | Tensor


def segment(
    logits: Callable[[Tensor], Tensor],
    source: Source,
    labels: Labels,
    device: torch.device,
    in_channels: int = 3,
    dtype: torch.dtype = torch.float32,
    short_side: int | None = None,
    geometry: Callable[[tuple[int, int]], Geometry] | None = None,
) -> Segmentation:
    """Segment one picture in one pass.

    With ``geometry`` the network need not upsample its scores: the best classes are found by `upsample_argmax`, which
    makes no logits.

    With ``short_side`` the network looks at the picture scaled, as it was trained, and the logits are interpolated to
    the picture's own size before the best class is chosen. A picture is never enlarged to more than 4096 pixels along
    its longer side, so that a long strip of few pixels stays affordable.

    Args:
        logits: (1, C, H, W) RGB in 0..1 -> (1, K, H, W).
        source: a path, a PIL image, an array (H, W[, C]) uint8, or a tensor (C, H, W), uint8 or float in 0..1.
        labels: of the K classes.
        device: where ``logits`` computes.
        in_channels: C that ``logits`` expects; pictures are read as `fullyconv.images.read_bands` does.
        dtype: floating type that ``logits`` expects.
        short_side: pixels that the shorter side is scaled to; None leaves the picture as it is.
        geometry: for ``logits`` that gives scores (1, K, h, w) of coarser cells: where they lie on an image of a height
            and width, as `FCN.geometry_for` says it.

    Raises:
        FileNotFoundError, DatasetError: if the picture cannot be read.
        ValueError: if a tensor has the wrong shape, type or range, or the scores are NaN.
    """
    pixels = read_pixels(source, in_channels)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    own = (pixels.shape[0], pixels.shape[1])
    seen = own if short_side is None else scaled_size(own, short_side)
    if seen != own:
        # on the CPU, because not every accelerator has the antialiased filter; rounded, as torchvision scales bytes
        image = F.interpolate(image.float(), size=seen, mode="bilinear", align_corners=False, antialias=True).round()
    scores = logits((image.to(device).float() / 255).to(dtype))
    grid = Geometry.IDENTITY if geometry is None else geometry(seen)
    prediction = upsample_argmax(scores, grid, own) if seen == own else _stretched(scores, grid, seen, own)
    mask: npt.NDArray[np.unsignedinteger[Any]] = prediction[0].to("cpu").numpy().astype(labels.dtype)
    return Segmentation(mask, labels, visible(pixels))


def _stretched(scores: Tensor, grid: Geometry, seen: tuple[int, int], own: tuple[int, int]) -> Tensor:
    """Label a picture of size `own` by the scores of the picture scaled to `seen`, (1, K, h, w) on `grid`.

    Scores are interpolated at the pixels that the network saw, and these logits at the picture's own. Two bilinear
    interpolations in a row are none, so the first is carried out, in bands of rows.
    """
    y, x = (n / m for n, m in zip(own, seen, strict=True))  # pixels of the picture from one pixel seen to the next
    rows = max(1, int(y * BAND_BYTES / (4 * scores.shape[1] * seen[1])))
    labels = []
    for top in range(0, own[0], rows):
        bottom = min(top + rows, own[0])
        # pixel u lies at (u + 1/2) / y - 1/2; one row more on either side, so that only the picture's border clamps
        first = max(0, math.floor((top + 0.5) / y - 0.5) - 1)
        last = min(seen[0], math.ceil((bottom - 0.5) / y - 0.5) + 2)
        window = Geometry((1.0, 1.0), (float(first), 0.0), (1.0, 1.0))
        logits = resample(scores, grid, window, (last - first, seen[1]))
        stretched = Geometry((y, x), ((y - 1) / 2 + y * first, (x - 1) / 2), (1.0, 1.0))
        labels.append(upsample_argmax(logits, stretched, (bottom - top, own[1]), origin=(top, 0)))
    return torch.cat(labels, 1)


def read_pixels(source: Source, in_channels: int = 3) -> npt.NDArray[np.uint8]:
    """Read one picture of any form that `segment` takes, as (H, W, C) uint8."""
    if not isinstance(source, Tensor):
        return read_bands(source, in_channels)
    taken = (1, 3) if in_channels == 3 else (in_channels,)
    if source.ndim != 3 or source.shape[0] not in taken or 0 in source.shape:
        raise ValueError(
            f"source is a tensor of shape {tuple(source.shape)}: expected (C, H, W) with C "
            f"{' or '.join(map(str, taken))}; take the images of a batch one by one"
        )
    image = source.detach().cpu()
    if image.is_floating_point():
        if not bool(torch.isfinite(image).all()) or float(image.min()) < 0 or float(image.max()) > 1:
            raise ValueError(
                f"source is a floating tensor with values {float(image.min()):.3g}..{float(image.max()):.3g}: expected "
                "RGB in 0..1, not normalised; divide by 255, or pass uint8"
            )
        image = (image * 255).round()
    elif image.dtype != torch.uint8:
        raise ValueError(f"source is a tensor of type {image.dtype}: expected uint8, or floating values in 0..1")
    return image.to(torch.uint8).expand(in_channels, -1, -1).permute(1, 2, 0).contiguous().numpy()

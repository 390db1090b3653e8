"""From a picture to a Segmentation: read, run, argmax, at the picture's own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fullyconv.images import read_image
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels

Source = str | Path | Image.Image | npt.NDArray[Any] | Tensor


def segment(
    logits: Callable[[Tensor], Tensor],
    source: Source,
    labels: Labels,
    device: torch.device,
    in_channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Segmentation:
    """Segment one picture in one pass.

    Args:
        logits: (1, C, H, W) RGB in 0..1 -> (1, K, H, W).
        source: a path, a PIL image, an array (H, W[, C]) uint8, or a tensor (C, H, W), uint8 or float in 0..1.
        labels: of the K classes.
        device: where ``logits`` computes.
        in_channels: C that ``logits`` expects.
        dtype: floating type that ``logits`` expects.

    Raises:
        FileNotFoundError, DatasetError: if the picture cannot be read.
        ValueError: if a tensor has the wrong shape, type or range.
    """
    pixels = _pixels(source)
    if pixels.shape[2] != in_channels:
        raise ValueError(
            f"source has {pixels.shape[2]} channels, this model wants {in_channels}: pictures are read as RGB; call "
            "segmenter(images) with a (N, C, H, W) tensor of your own instead"
        )
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device)
    prediction = logits((image[None].float() / 255).to(dtype)).argmax(dim=1)[0]
    mask: npt.NDArray[np.unsignedinteger[Any]] = prediction.to("cpu").numpy().astype(labels.dtype)
    return Segmentation(mask, labels, pixels)


def _pixels(source: Source) -> npt.NDArray[np.uint8]:
    """Give (H, W, C) uint8."""
    if not isinstance(source, Tensor):
        return read_image(source)
    if source.ndim != 3 or source.shape[0] not in (1, 3) or 0 in source.shape:
        raise ValueError(
            f"source is a tensor of shape {tuple(source.shape)}: expected (C, H, W) with C 1 or 3; take the images of "
            "a batch one by one"
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
    return image.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()

"""From an image to a Segmentation: read, run, argmax, at the image's own size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.errors import tell
from fullyconv.geometry import Geometry
from fullyconv.images import ImageInput, MaskWriter, visible
from fullyconv.images.raster import Raster, read_raster
from fullyconv.images.tiff import TiffImage, open_windows
from fullyconv.inference.argmax import scaled_argmax, upsample_argmax
from fullyconv.inference.budget import most_pixels
from fullyconv.inference.options import Options
from fullyconv.inference.processor import sent
from fullyconv.inference.segmentation import Segmentation, Written, count, of_head, writing_mask, writing_probabilities
from fullyconv.inference.tiles import Block, Network, assemble, bands, blocks, fits
from fullyconv.labels import Labels
from fullyconv.upsampling import resample

BAND_BYTES = 2**26  # of logits at a time, where an image was seen smaller
_PREVIEW = 4096  # pixels along the longer side

ImageSource = ImageInput | Tensor | Raster
"""What can be segmented: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, a
tensor (C, H, W), uint8 or float in 0..1, or an image that `read_raster` has read."""


def segment(network: Network, sources: Sequence[ImageSource], options: Options) -> list[dict[str, Segmentation]]:
    """Segment images of one size, as many at once as memory holds; an image that it does not hold, tile by tile.

    Args:
        network: what is run.
        sources: the images, in any form that `ImageSource` names.
        options: memory, halo, flip, scales, and whether probabilities are wanted.

    Returns:
        For each image what each head says.

    Raises:
        FileNotFoundError, DatasetError: if an image cannot be read.
        ValueError: if a tensor has the wrong shape, type or range, the scores are NaN, or the memory does not hold the
            smallest tile.
    """
    rasters = [read(source, network.in_channels, options.memory, network.value_range) for source in sources]
    size, most = rasters[0].size, len(rasters) if options.plain else 0
    while most and not fits(network, size, options, most):
        most //= 2
    if not most:
        return [_in_tiles(network, raster, options) for raster in rasters]
    return [
        result
        for start in range(0, len(rasters), most)
        for result in _in_one_pass(network, rasters[start : start + most])
    ]


def _in_one_pass(network: Network, rasters: Sequence[Raster]) -> list[dict[str, Segmentation]]:
    """Segment images of one size: the best classes are found by `upsample_argmax`, which makes no logits."""
    pixels = np.stack([raster.pixels for raster in rasters]).transpose(0, 3, 1, 2)
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    own = rasters[0].size
    seen = network.seen(own)
    if seen != own:
        # on the CPU, because not every accelerator has the antialiased filter; rounded, as torchvision scales bytes
        image = F.interpolate(image.float(), size=seen, mode="bilinear", align_corners=False, antialias=True).round()
    found = network.scores((sent(image, network.device).float() / 255).to(network.dtype))
    masks = {}
    for name, head in network.heads.items():
        scores, grid = found[name], head.geometry_for(seen)
        best = upsample_argmax(scores, grid, own) if seen == own else _stretched(scores, grid, seen, own)
        masks[name] = best.cpu().numpy()
    return [
        {name: Segmentation.of(raster, masks[name][index], head.labels) for name, head in network.heads.items()}
        for index, raster in enumerate(rasters)
    ]


def _in_tiles(network: Network, raster: Raster, options: Options) -> dict[str, Segmentation]:
    return {
        name: Segmentation.of(raster, mask, network.heads[name].labels, probabilities)
        for name, (mask, probabilities) in assemble(blocks(network, raster, options), raster.size).items()
    }


def segment_to(
    network: Network,
    source: ImageSource | TiffImage,
    target: str | Path,
    options: Options,
    probabilities: str | Path | None = None,
    preview: bool = False,
) -> dict[str, Written]:
    """Segment an image of any size into a file for each head: neither image nor mask is in memory as a whole.

    A TIFF file of plain bands of 8 or 16 bits is read window by window (with the extra `tiff`), and masks are written
    band by band. Any other image is decoded as a whole; of more than `fullyconv.images.MAX_PIXELS` pixels only if
    `memory` is given and its half holds the image.

    Args:
        network: what is run.
        source: the image, or a TIFF that is open.
        target: `.png`, `.tif` or `.tiff` file of the mask; `mask.png` becomes `mask.HEAD.png`, as `of_head` says it.
        options: memory, halo, flip, scales, and whether probabilities are wanted.
        probabilities: `.npz` file that they go to; one for each head.
        preview: give a small image and masks too.

    Returns:
        For each head where the mask is, and the share of each class.

    Raises:
        FileNotFoundError, DatasetError: if the image cannot be read.
        ValueError: if the memory does not hold the smallest tile, a file has a wrong ending, or probabilities have no
            file.
    """
    if (options.probabilities is None) != (probabilities is None):
        raise ValueError("probabilities and their file go together: give both, or none")
    targets = {name: of_head(Path(target), name) for name in network.heads}
    for path in targets.values():
        if isinstance(source, str | Path) and path.exists() and path.samefile(source):
            raise ValueError(f"target={str(path)!r}: the image would be overwritten by its own mask; give another name")
    channels, bits = network.in_channels, network.value_range
    with contextlib.ExitStack() as stack:
        opened = source if isinstance(source, TiffImage) else open_windows(source, channels, bits)
        image: TiffImage | Raster
        if opened is None:
            image = read(cast(ImageSource, source), channels, options.memory, bits)
        else:
            image = stack.enter_context(opened)
        size, has_void = image.size, image.has_void
        files = {}
        for name, head in network.heads.items():
            labels = head.labels
            mask = writing_mask(targets[name], size, labels.dtype, labels, image.place, has_void)
            masks = stack.enter_context(mask)
            further = None
            if probabilities is not None:
                shape = (*size, labels.num_classes) if options.probabilities == "all" else size
                further = stack.enter_context(writing_probabilities(of_head(Path(probabilities), name), shape))
            files[name] = _Files(labels, masks, further, np.zeros(labels.num_classes, np.int64))
        step = -(-max(size) // _PREVIEW)
        small: list[npt.NDArray[np.uint8]] = []
        for band in bands(blocks(network, image, options), size[1]):
            window = next(iter(band.values())).window
            top, _, bottom, right = window
            rows = range(-(-top // step) * step, bottom, step) if preview else range(0)
            empty = image.void(*window) if has_void else None
            for name, block in band.items():
                files[name].write(block, empty, rows, step)
            small += [image.read(row, 0, row + 1, right)[0, ::step] for row in rows]
        note = image.note
    if opened is not None and opened is not source and note is not None:
        tell(note)
    written = {}
    for name, file in files.items():
        shown = Segmentation(np.stack(file.small), file.labels, visible(np.stack(small))) if preview else None
        counts = tuple(int(n) for n in file.counts)
        written[name] = Written(targets[name], size, file.labels, counts, shown, note)
    return written


@dataclass
class _Files:
    """Where the answer of one head goes, band by band, and what is counted and kept of it."""

    labels: Labels
    masks: MaskWriter
    further: Callable[[npt.NDArray[Any]], None] | None
    counts: npt.NDArray[np.int64]
    small: list[npt.NDArray[Any]] = field(default_factory=list)

    def write(self, block: Block, void: npt.NDArray[np.bool_] | None, rows: range, step: int) -> None:
        if void is not None:
            block.mask[void] = self.labels.ignore_index
        self.masks.write(block.mask)
        self.counts += count(block.mask, self.labels)
        if self.further is not None and block.probabilities is not None:
            self.further(block.probabilities)
        self.small += [block.mask[row - block.window[0], ::step] for row in rows]


def _stretched(scores: Tensor, grid: Geometry, seen: tuple[int, int], own: tuple[int, int]) -> Tensor:
    """Label an image of size `own` by the scores of the image scaled to `seen`, (1, K, h, w) on `grid`.

    Scores are interpolated at the pixels that the network saw, and these logits at the image's own. Two bilinear
    interpolations in a row are none. Where the image is the smaller one they are one product; else the first is
    carried out, in bands of rows, and `upsample_argmax` has most pixels between four that agree.
    """
    if math.prod(own) <= math.prod(seen):
        return scaled_argmax(scores, grid, seen, own)
    y, x = (n / m for n, m in zip(own, seen, strict=True))  # pixels of the image from one pixel seen to the next
    rows = max(1, int(y * BAND_BYTES / (4 * scores.shape[1] * seen[1])))
    labels = []
    for top in range(0, own[0], rows):
        bottom = min(top + rows, own[0])
        # pixel u lies at (u + 1/2) / y - 1/2; one row more on either side, so that only the image's border clamps
        first = max(0, math.floor((top + 0.5) / y - 0.5) - 1)
        last = min(seen[0], math.ceil((bottom - 0.5) / y - 0.5) + 2)
        window = Geometry((1.0, 1.0), (float(first), 0.0), (1.0, 1.0))
        logits = resample(scores, grid, window, (last - first, seen[1]))
        stretched = Geometry((y, x), ((y - 1) / 2 + y * first, (x - 1) / 2), (1.0, 1.0))
        labels.append(upsample_argmax(logits, stretched, (bottom - top, own[1]), origin=(top, 0)))
    return torch.cat(labels, 1)


def read(
    source: ImageSource,
    in_channels: int = 3,
    memory: int | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Raster:
    """Read one image of any form; a message names what is odd about it.

    Args:
        source: the image.
        in_channels: bands C that are wanted.
        memory: as `most_pixels` takes it.
        value_range: the numbers that are black and white in images of more than 8 bits.
    """
    if isinstance(source, Raster):
        return source
    most = most_pixels(memory, in_channels)
    if isinstance(source, Tensor):
        taken = (1, 3) if in_channels == 3 else (in_channels,)
        if source.is_meta or source.ndim != 3 or source.shape[0] not in taken:
            raise ValueError(
                f"source is a tensor of shape {tuple(source.shape)} on {source.device}: expected (C, H, W) with C "
                f"{' or '.join(map(str, taken))}, and values; take the images of a batch one by one"
            )
        values = source.detach().permute(1, 2, 0).cpu()
        if values.is_floating_point():  # 0..1, whatever the numbers of files mean
            values, value_range = values.float(), None
        source = values.numpy()
    raster = read_raster(source, in_channels, max_pixels=most, value_range=value_range)
    if raster.note is not None:
        tell(raster.note)
    return raster

"""From an image to a Segmentation: read, run, argmax, at the image's own size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fullyconv.errors import tell
from fullyconv.images import ImageInput, visible
from fullyconv.images.raster import Raster, read_raster
from fullyconv.images.tiff import TiffImage, open_windows
from fullyconv.inference.budget import most_pixels
from fullyconv.inference.network import Network
from fullyconv.inference.options import Options, Probabilities
from fullyconv.inference.segmentation import Segmentation, Written, count, of_head, writing_mask, writing_probabilities
from fullyconv.inference.tiles import Block, bands, blocks, joined
from fullyconv.inference.tiling import fits, sizes_seen
from fullyconv.labels import Labels

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
        ValueError: if a tensor has the wrong shape, type or range, or the memory does not hold the smallest tile.
        ScoresError: if the scores are NaN.
    """
    rasters = [read(source, network.in_channels, options.memory, network.value_range) for source in sources]
    size, most = rasters[0].size, len(rasters) if options.plain else 1
    while most > 1 and not fits(network, size, options, sizes_seen(network, size, options), most):
        most //= 2
    results = []
    for start in range(0, len(rasters), most):
        some = rasters[start : start + most]
        found = joined(list(bands(blocks(network, some, options), size[1])), 1)
        for index, raster in enumerate(some):
            results.append({name: _segmentation(raster, index, network, name, block) for name, block in found.items()})
    return results


def _segmentation(raster: Raster, index: int, network: Network, head: str, block: Block) -> Segmentation:
    kept = None if block.probabilities is None else block.probabilities[index]
    return Segmentation.of(raster, block.mask[index], network.heads[head].labels, kept)


def segment_to(
    network: Network,
    source: ImageSource | TiffImage,
    target: str | Path,
    options: Options,
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
        options: memory, halo, flip, scales, and whether probabilities are wanted, beside the mask as `mask.npz`.
        preview: give a small image and masks too.

    Returns:
        For each head where the mask is, and the share of each class.

    Raises:
        FileNotFoundError, DatasetError: if the image cannot be read.
        ValueError: if the memory does not hold the smallest tile, or a file has a wrong ending.
    """
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
        files = {
            name: _Files(stack, targets[name], head.labels, image, options.probabilities)
            for name, head in network.heads.items()
        }
        step = -(-max(image.size) // _PREVIEW)
        small: list[npt.NDArray[np.uint8]] = []
        for band in bands(blocks(network, [image], options), image.size[1]):
            window = next(iter(band.values())).window
            top, _, bottom, right = window
            rows = range(-(-top // step) * step, bottom, step) if preview else range(0)
            empty = image.void(*window) if image.has_void else None
            for name, block in band.items():
                files[name].write(block, empty, rows, step)
            small += [image.read(row, 0, row + 1, right)[0, ::step] for row in rows]
    if opened is not None and opened is not source and image.note is not None:
        tell(image.note)
    shown = visible(np.stack(small)) if preview else None
    return {name: file.written(image, shown) for name, file in files.items()}


class _Files:
    """Where the answer of one head goes, band by band, and what is counted and kept of it."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        target: Path,
        labels: Labels,
        image: TiffImage | Raster,
        probabilities: Probabilities | None,
    ) -> None:
        self.target, self.labels = target, labels
        self._counts = np.zeros(labels.num_classes, np.int64)
        self._small: list[npt.NDArray[Any]] = []
        mask = writing_mask(target, image.size, labels.dtype, labels, image.place, image.has_void)
        self._mask = stack.enter_context(mask)
        self._further: Callable[[npt.NDArray[Any]], None] | None = None
        if probabilities is not None:
            shape = (*image.size, labels.num_classes) if probabilities == "all" else image.size
            self._further = stack.enter_context(writing_probabilities(target.with_suffix(".npz"), shape))

    def write(self, block: Block, void: npt.NDArray[np.bool_] | None, rows: range, step: int) -> None:
        mask = block.mask[0]
        if void is not None:
            mask[void] = self.labels.ignore_index
        self._mask.write(mask)
        self._counts += count(mask, self.labels)
        if self._further is not None and block.probabilities is not None:
            self._further(block.probabilities[0])
        self._small += [mask[row - block.window[0], ::step] for row in rows]

    def written(self, image: TiffImage | Raster, small: npt.NDArray[np.uint8] | None) -> Written:
        shown = None if small is None else Segmentation(np.stack(self._small), self.labels, small)
        counts = tuple(int(n) for n in self._counts)
        return Written(self.target, image.size, self.labels, counts, shown, image.note)


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

"""From an image to a Segmentation: read, run, argmax, at the image's own size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
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
from fullyconv.images.georeference import georeference_of
from fullyconv.images.raster import Raster, read_raster
from fullyconv.images.tiff import TiffImage, open_windows
from fullyconv.inference.argmax import scaled_argmax, upsample_argmax
from fullyconv.inference.budget import most_pixels
from fullyconv.inference.processor import sent
from fullyconv.inference.scaling import scaled_size
from fullyconv.inference.segmentation import ProbabilityWriter, Segmentation, Written, count, of_head
from fullyconv.inference.tiles import Network, Options, assemble, bands, blocks, fits, together
from fullyconv.inference.windows import ArrayImage, WindowedImage
from fullyconv.labels import Labels
from fullyconv.upsampling import resample

BAND_BYTES = 2**26  # of logits at a time, where an image was seen smaller
_PREVIEW = 4096  # pixels along the longer side

ImageSource = ImageInput | Tensor | Raster
"""What can be segmented: what `fullyconv.images.read_image` takes, a tensor (C, H, W), uint8 or float in 0..1, or an
image that `read_raster` has read."""


def segment(
    logits: Callable[[Tensor], Tensor],
    source: ImageSource,
    labels: Labels,
    device: torch.device,
    in_channels: int = 3,
    dtype: torch.dtype = torch.float32,
    short_side: int | None = None,
    geometry: Callable[[tuple[int, int]], Geometry] | None = None,
) -> Segmentation:
    """Segment one image in one pass.

    With ``geometry`` the network need not upsample its scores: the best classes are found by `upsample_argmax`, which
    makes no logits.

    With ``short_side`` the network looks at the image scaled, as it was trained, and the logits are interpolated to
    the image's own size before the best class is chosen. An image is never enlarged to more than 4096 pixels along
    its longer side, so that a long strip of few pixels stays affordable.

    Args:
        logits: (1, C, H, W) RGB in 0..1 -> (1, K, H, W).
        source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a tensor
            (C, H, W), uint8 or float in 0..1.
        labels: of the K classes.
        device: where ``logits`` computes.
        in_channels: C that ``logits`` expects; images are read as `fullyconv.images.read_bands` does.
        dtype: floating type that ``logits`` expects.
        short_side: pixels that the shorter side is scaled to; None leaves the image as it is.
        geometry: for ``logits`` that gives scores (1, K, h, w) of coarser cells: where they lie on an image of a height
            and width, as `FCN.geometry_for` says it.

    Raises:
        FileNotFoundError, DatasetError: if the image cannot be read.
        ValueError: if a tensor has the wrong shape, type or range, or the scores are NaN.
    """
    return segment_batch(
        lambda image: {"": logits(image)}, [read(source, in_channels)], {"": labels}, device, dtype, short_side,
        {"": (lambda _: Geometry.IDENTITY) if geometry is None else geometry},
    )[0][""]  # fmt: skip


def segment_batch(
    scores: Callable[[Tensor], Mapping[str, Tensor]],
    rasters: Sequence[Raster],
    labels: Mapping[str, Labels],
    device: torch.device,
    dtype: torch.dtype,
    short_side: int | None,
    geometry: Mapping[str, Callable[[tuple[int, int]], Geometry]],
) -> list[dict[str, Segmentation]]:
    """Segment images of one size in one pass for all heads.

    Args:
        scores: (N, C, H, W) RGB in 0..1 -> for each head its class scores.
        rasters: N images of one size.
        labels: of each head.
        device: where ``scores`` computes.
        dtype: floating type that ``scores`` expects.
        short_side: as `segment` takes it.
        geometry: where the scores of each head lie on an image of a height and width.

    Returns:
        For each image what each head says.
    """
    pixels = np.stack([raster.pixels for raster in rasters]).transpose(0, 3, 1, 2)
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    own = (image.shape[2], image.shape[3])
    seen = own if short_side is None else scaled_size(own, short_side)
    if seen != own:
        # on the CPU, because not every accelerator has the antialiased filter; rounded, as torchvision scales bytes
        image = F.interpolate(image.float(), size=seen, mode="bilinear", align_corners=False, antialias=True).round()
    found = scores((sent(image, device).float() / 255).to(dtype))
    masks = {}
    for head, grid in ((head, geometry[head](seen)) for head in labels):
        best = upsample_argmax(found[head], grid, own) if seen == own else _stretched(found[head], grid, seen, own)
        masks[head] = best.cpu().numpy()
    return [
        {head: Segmentation.of(raster, masks[head][index], known) for head, known in labels.items()}
        for index, raster in enumerate(rasters)
    ]


def segment_tiled(
    network: Network, source: ImageSource, labels: Labels, options: Options, seen: tuple[int, int] | None = None
) -> Segmentation:
    """Segment an image by as many tiles as the memory asks for, the logits of a few rows at a time.

    Args:
        network: what is run; in evaluation mode.
        source: what `segment` takes.
        labels: of the K classes.
        options: memory, halo, flip, scales, and whether probabilities are wanted.
        seen: the size that the network looks at the image, if that is another one than its own.
    """
    return _segment_tiled(
        {"": network}, lambda image: {"": network.scores(image)}, source, {"": labels}, options, seen
    )[""]


def segment_heads(
    networks: Mapping[str, Network],
    scores: Callable[[Tensor], Mapping[str, Tensor]],
    source: ImageSource,
    labels: Mapping[str, Labels],
    options: Options,
    short_side: int | None = None,
) -> dict[str, Segmentation]:
    """Segment an image of any size for several heads; the network runs once, or once a tile.

    Args:
        networks: what has to be known of each head; in evaluation mode.
        scores: (1, C, H, W) RGB in 0..1 -> for each head its class scores.
        source: what `segment` takes.
        labels: of each head.
        options: memory, halo, flip, scales, and whether probabilities are wanted.
        short_side: pixels that the shorter side is scaled to before the network looks at it.

    Raises:
        FileNotFoundError, DatasetError: if the image cannot be read.
        ValueError: if a tensor has the wrong shape, type or range, or the memory does not hold the smallest tile.
    """
    first = next(iter(networks.values()))
    raster = read(source, first.in_channels, options.memory, first.value_range)
    if options.plain and images_at_once(networks, raster, options, short_side, 1):
        return segment_batch(scores, [raster], labels, first.device, first.dtype, short_side, _grids(networks))[0]
    return _segment_tiled(networks, scores, raster, labels, options, _seen(raster, short_side))


def segment_many(
    networks: Mapping[str, Network],
    scores: Callable[[Tensor], Mapping[str, Tensor]],
    rasters: Sequence[Raster],
    labels: Mapping[str, Labels],
    options: Options,
    short_side: int | None = None,
) -> list[dict[str, Segmentation]]:
    """Segment images of one size, as many at once as memory holds.

    Args:
        networks: what has to be known of each head; in evaluation mode.
        scores: (N, C, H, W) RGB in 0..1 -> for each head its class scores.
        rasters: the images.
        labels: of each head.
        options: as `segment_heads` takes them.
        short_side: pixels that the shorter side is scaled to before the network looks at it.

    Returns:
        For each image what `segment_heads` gives.
    """
    first = next(iter(networks.values()))
    most = images_at_once(networks, rasters[0], options, short_side, len(rasters)) if options.plain else 0
    if most < 2:
        return [segment_heads(networks, scores, raster, labels, options, short_side) for raster in rasters]
    return [
        result
        for start in range(0, len(rasters), most)
        for result in segment_batch(
            scores, rasters[start : start + most], labels, first.device, first.dtype, short_side, _grids(networks)
        )
    ]


def images_at_once(
    networks: Mapping[str, Network], raster: Raster, options: Options, short_side: int | None, most: int
) -> int:
    """Give how many images of the size of one fit in memory at once; 0 where one has to be cut into tiles.

    Args:
        networks: what has to be known of each head.
        raster: the image.
        options: whose memory counts.
        short_side: pixels that the shorter side is scaled to before the network looks at it.
        most: more are not wanted.
    """
    size, seen = (raster.pixels.shape[0], raster.pixels.shape[1]), _seen(raster, short_side)
    while most and not all(fits(network, size, options, seen, most) for network in together(networks)):
        most //= 2
    return most


def _seen(raster: Raster, short_side: int | None) -> tuple[int, int] | None:
    """Give the size that a network looks at an image, if that is another one than its own."""
    own = (raster.pixels.shape[0], raster.pixels.shape[1])
    size = own if short_side is None else scaled_size(own, short_side)
    return None if size == own else size


def _grids(networks: Mapping[str, Network]) -> dict[str, Callable[[tuple[int, int]], Geometry]]:
    return {head: network.geometry_for for head, network in networks.items()}


def _segment_tiled(
    networks: Mapping[str, Network],
    scores: Callable[[Tensor], Mapping[str, Tensor]],
    source: ImageSource,
    labels: Mapping[str, Labels],
    options: Options,
    seen: tuple[int, int] | None,
) -> dict[str, Segmentation]:
    first = next(iter(networks.values()))
    raster = read(source, first.in_channels, options.memory, first.value_range)
    size = (raster.pixels.shape[0], raster.pixels.shape[1])
    found = assemble(blocks(networks, scores, ArrayImage(raster.pixels), options, seen), size)
    return {
        head: Segmentation.of(raster, mask, labels[head], probabilities)
        for head, (mask, probabilities) in found.items()
    }


def segment_to(
    network: Network,
    source: ImageSource | TiffImage,
    target: str | Path,
    labels: Labels,
    options: Options,
    short_side: int | None = None,
    probabilities: str | Path | None = None,
    preview: bool = False,
) -> Written:
    """Segment an image of any size into a file, band by band: neither image nor mask is in memory as a whole.

    A TIFF file of plain bands of 8 or 16 bits is read window by window (with the extra `tiff`). Any other image is
    decoded as a whole; of more than `fullyconv.images.MAX_PIXELS` pixels only if `memory` is given and its half holds
    the image.

    Args:
        network: what is run; in evaluation mode.
        source: what `segment` takes.
        target: `.png`, `.tif` or `.tiff` file of the mask.
        labels: of the K classes.
        options: memory, halo, flip, scales, and whether probabilities are wanted.
        short_side: pixels that the shorter side is scaled to before the network looks at it.
        probabilities: `.npz` file that they go to.
        preview: give a small image and mask too.

    Returns:
        Where the mask is, and the share of each class.

    Raises:
        FileNotFoundError, DatasetError: if the image cannot be read.
        ValueError: if the memory does not hold the smallest tile, a file has a wrong ending, or probabilities have no
            file.
    """
    return segment_heads_to(
        {"": network},
        lambda image: {"": network.scores(image)},
        source,
        target,
        {"": labels},
        options,
        short_side,
        probabilities,
        preview,
    )[""]


def segment_heads_to(
    networks: Mapping[str, Network],
    scores: Callable[[Tensor], Mapping[str, Tensor]],
    source: ImageSource | TiffImage,
    target: str | Path,
    labels: Mapping[str, Labels],
    options: Options,
    short_side: int | None = None,
    probabilities: str | Path | None = None,
    preview: bool = False,
) -> dict[str, Written]:
    """Segment an image into a file for each head, in one pass over its tiles; see `segment_to`.

    Args:
        networks: what has to be known of each head; in evaluation mode.
        scores: (1, C, H, W) RGB in 0..1 -> for each head its class scores.
        source: what `segment` takes.
        target: file of the mask; `mask.png` becomes `mask.HEAD.png`, as `of_head` says it.
        labels: of each head.
        options: memory, halo, flip, scales, and whether probabilities are wanted.
        short_side: pixels that the shorter side is scaled to before the network looks at it.
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
    targets = {head: of_head(Path(target), head) for head in networks}
    for path in targets.values():
        if isinstance(source, str | Path) and path.exists() and path.samefile(source):
            raise ValueError(f"target={str(path)!r}: the image would be overwritten by its own mask; give another name")
    first = next(iter(networks.values()))
    channels, bits = first.in_channels, first.value_range
    with contextlib.ExitStack() as stack:
        image: WindowedImage
        void: Callable[[int, int, int, int], npt.NDArray[np.bool_]] | None = None
        opened = source if isinstance(source, TiffImage) else open_windows(source, channels, bits)
        raster = None
        if opened is not None:
            image = stack.enter_context(opened)
            place = georeference_of(opened.path)
            void = opened.void if place is not None and opened.has_void else None
        else:
            raster = read(cast(ImageSource, source), channels, options.memory, bits)
            image, place = ArrayImage(raster.pixels), raster.place
            void = None if raster.void is None else _windows_of(raster.void)
        own = image.size
        seen = own if short_side is None else scaled_size(own, short_side)
        found = blocks(networks, scores, image, options, None if seen == own else seen)
        writers: dict[str, MaskWriter] = {}
        further: dict[str, ProbabilityWriter] = {}
        for head, known in labels.items():
            palette = known.palette if len(known.names) <= 256 else None
            tags = place.tags_of_mask(known.ignore_index if void else None) if place is not None else ()
            writers[head] = stack.enter_context(MaskWriter(targets[head], own, palette, known.dtype, tags))
            if probabilities is not None:
                shape = (*own, len(known.names)) if options.probabilities == "all" else own
                further[head] = stack.enter_context(ProbabilityWriter(of_head(Path(probabilities), head), shape))
        counts = {head: np.zeros(len(known.names), np.int64) for head, known in labels.items()}
        step = -(-max(own) // _PREVIEW)
        small_masks: dict[str, list[npt.NDArray[Any]]] = {head: [] for head in labels}
        small_image: list[npt.NDArray[np.uint8]] = []
        for row_of_tiles in bands(found, own[1]):
            if void is not None:
                empty = void(*next(iter(row_of_tiles.values())).window)
                for head, band in row_of_tiles.items():
                    band.mask[empty] = labels[head].ignore_index
            for head, band in row_of_tiles.items():
                writers[head].write(band.mask)
                counts[head] += count(band.mask, labels[head])
                if head in further and band.probabilities is not None:
                    further[head].write(band.probabilities)
            top, _, bottom, right = next(iter(row_of_tiles.values())).window
            for row in range(-(-top // step) * step, bottom, step) if preview else ():
                small_image.append(image.read(row, 0, row + 1, right)[0, ::step])
                for head, band in row_of_tiles.items():
                    small_masks[head].append(band.mask[row - top, ::step])
        note = raster.note if raster is not None else opened.note if opened is not None else None
    if opened is not None and opened is not source and note is not None:
        tell(note)
    for path in targets.values():
        if place is not None and path.suffix.lower() == ".png":
            place.save_beside(path)
    small: dict[str, Segmentation] = {}
    if preview:
        pixels = visible(np.stack(small_image))
        small = {head: Segmentation(np.stack(rows), labels[head], pixels) for head, rows in small_masks.items()}
    return {
        head: Written(targets[head], own, known, tuple(int(n) for n in counts[head]), small.get(head), note)
        for head, known in labels.items()
    }


def _windows_of(void: npt.NDArray[np.bool_]) -> Callable[[int, int, int, int], npt.NDArray[np.bool_]]:
    return lambda top, left, bottom, right: void[top:bottom, left:right]


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
    """Read one image of any form that `segment` takes; what is odd about it is said.

    Args:
        source: the image.
        in_channels: bands C that are wanted.
        memory: as `most_pixels` takes it.
        value_range: the numbers that are black and white in images of more than 8 bits.
    """
    if isinstance(source, Raster):
        return source
    if not isinstance(source, Tensor):
        most = most_pixels(memory, in_channels)
        raster = read_raster(source, in_channels, max_pixels=most, value_range=value_range)
        if raster.note is not None:
            tell(raster.note)
        return raster
    if source.is_meta:
        raise ValueError("source is a tensor on the meta device, which holds no values; give one that does")
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
                "RGB in 0..1, not normalized; divide by 255, or pass uint8"
            )
        image = (image * 255).round()
    elif image.dtype != torch.uint8:
        raise ValueError(f"source is a tensor of type {image.dtype}: expected uint8, or floating values in 0..1")
    return Raster(image.to(torch.uint8).expand(in_channels, -1, -1).permute(1, 2, 0).contiguous().numpy())

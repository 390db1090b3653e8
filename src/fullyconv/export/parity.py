"""What a file does, beside what its segmenter does: at several sizes, on images, on a data set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.confusion import SegmentationScores
from fullyconv.export.graph import Network
from fullyconv.images import read_bands
from fullyconv.labels import by_head
from fullyconv.runtime import ExportedSegmenter, feeds, port, session_of
from fullyconv.training.metrics import ConfusionMatrix
from fullyconv.training.module import SegmentationModule
from fullyconv.upsampling import MaxUnpooling

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule

SIZES = ((2, 64, 96), (1, 97, 131), (2, 256, 200), (1, 20, 33))
"""Batches, heights and widths at which file and segmenter are compared: multiples of no stride among them, and one that
is smaller than a stride of 32."""
MAX_DIFFERENCE = 1e-3
"""Largest difference of a score, over the largest score, with which a file is written."""
MAX_PIXELS = 0.005
"""Largest share of pixels with another class with which a file is written; they are ties but for rounding. Where maxima
are unpooled it is also the largest share of pixels with other scores: of two maxima that are equal but for rounding
either may be the one to whose place a value is put back."""


def parity_of(proto: Any, network: Network, model: SegmentationModule) -> dict[str, Any]:
    """Run both on images of several sizes, and give the share of differing pixels and the largest difference."""
    # The graph that is compared gives its scores, too; the one that is written perhaps not.
    both = copy.deepcopy(proto)
    heads = list(model.heads)
    given_already = {output.name for output in proto.graph.output}
    missing = {port("scores", head) for head in heads} - given_already
    both.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in sorted(missing)
    )
    session = session_of(both.SerializeToString())
    generator = torch.Generator().manual_seed(0)
    differing = beyond = pixels = 0
    difference = 0.0
    for number, height, width in SIZES:
        image = _example(generator, number, height, width, int(model.hparams["in_channels"]))
        with torch.inference_mode():
            expected = network(image)
        given = {"image": image.numpy()}
        size: tuple[int, int] | None = None
        if model.preprocessing.short_side is not None:
            size = (height * 3 // 2, width * 2 - 1)
            given["size"] = np.array(size, np.int64)
        answers = dict(zip([output.name for output in both.graph.output], session.run(None, given), strict=True))
        for head, theirs in zip(heads, expected, strict=True):
            if size is not None:
                theirs = F.interpolate(theirs, size=size, mode="bilinear", align_corners=False)
            mine = torch.from_numpy(answers[port("scores", head)])
            if mine.shape != theirs.shape or not bool(torch.isfinite(mine).all()):
                raise ValueError(
                    f"model={model.hparams['model']!r}: the exported graph gives scores of {tuple(mine.shape)} where "
                    f"the segmenter gives {tuple(theirs.shape)}, or none that are finite; nothing was written"
                )
            labels = answers.get(port("labels", head))
            classes = mine.argmax(1) if labels is None else torch.from_numpy(labels).long()
            differing += int((classes != theirs.argmax(1)).sum())
            pixels += theirs[:, 0].numel()
            apart = (mine - theirs).abs().amax(1) / (float(theirs.abs().max()) or 1.0)
            beyond += int((apart > MAX_DIFFERENCE).sum())
            difference = max(difference, float(apart.max()))
    sizes = [list(size) for size in SIZES]
    return {"sizes": sizes, "pixels": differing / pixels, "scores": difference, "scores_beyond": beyond / pixels}


def check_parity(parity: dict[str, Any], model: SegmentationModule, target: Path) -> None:
    """Refuse a graph that does not do what the segmenter does."""
    unpools = any(isinstance(module, MaxUnpooling) for module in model.modules())
    if parity["scores_beyond"] > (MAX_PIXELS if unpools else 0) or parity["pixels"] > MAX_PIXELS:
        raise ValueError(
            f"{target}: nothing was written, because the exported {model.hparams['model']!r} does not do what the "
            f"segmenter does: {parity['pixels']:.3%} of the pixels differ (at most {MAX_PIXELS:.1%}), scores by "
            f"{parity['scores']:.1e} of the largest (at most {MAX_DIFFERENCE:.0e}). Try other versions of torch, "
            "onnxscript and onnxruntime, and report the model"
        )


def _example(generator: torch.Generator, number: int, height: int, width: int, channels: int) -> Tensor:
    """Draw images that are smooth in the large and noisy in the small, as photographs are.

    None of it is saturated: in an area of one color all maxima are equal, and rounding alone says which is unpooled.
    """
    coarse = 50 + torch.rand(number, channels, 4, 5, generator=generator) * 120
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    noisy = smooth + 35 * torch.rand(smooth.shape, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def differing(exported: ExportedSegmenter, model: SegmentationModule, images: Sequence[Path]) -> float:
    """Give the share of pixels that a quantized graph labels otherwise than the segmenter, over some images."""
    differing = pixels = 0
    for image in images[:16]:
        mine, theirs = by_head(exported.predict(image)), by_head(model.predict(image))
        differing += sum(int((mine[head].mask != theirs[head].mask).sum()) for head in theirs)
        pixels += sum(result.mask.size for result in theirs.values())
    return differing / pixels


def evaluate(exported: ExportedSegmenter, data: SegmentationDataModule, split: str) -> SegmentationScores:
    """Score an exported file on one split."""
    labels = exported.labels  # of one head
    confusion = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    for batch in data.eval_dataloader(split):
        for image, mask, (height, width) in zip(batch["image"], batch["mask"], batch["size"].tolist(), strict=True):
            pixels = (image[:, :height, :width] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            # Like the segmenter's own evaluation it looks at images as they are: no short_side.
            given = feeds(pixels, exported.preprocessing.short_side, as_it_is=True)
            answer = exported.run(given, exported.description.outputs[:1])[0][0]
            predicted = answer.argmax(0) if answer.ndim == 3 else answer
            confusion.update(torch.from_numpy(predicted.astype(np.int64))[None], mask[None, :height, :width])
    return confusion.scores()


def feeds_of(model: SegmentationModule, image: Path) -> dict[str, npt.NDArray[Any]]:
    """Read an image as the segmenter does, and give it as the graph takes it."""
    bits = model.preprocessing.value_range
    pixels = read_bands(image, int(model.hparams["in_channels"]), value_range=bits)
    return feeds(pixels, model.preprocessing.short_side)

"""A photograph of 1024 x 2048 pixels through SegFormer-B0 with 150 classes: transformers' way, and ours on its scores.

Both decode the same PNG, prepare it with transformers' image processor and run the same random network, whose score
layer answers with regions. transformers then interpolates all logits to the image's size and takes the argmax
(`post_process_semantic_segmentation`); ours is `upsample_argmax` on the scores, by the geometry of their stretching.

    python benchmarks/segformer.py --repeats 7
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fullyconv.geometry import Geometry
from fullyconv.inference.argmax import upsample_argmax
from measuring import (
    Peak,
    Row,
    add_arguments,
    clock_for,
    finish,
    in_turn,
    machine,
    print_rows,
    process,
    ratios,
    spread,
    version,
)
from networks import calibrate, fit_scores, photographs

SIZE = (1024, 2048)
CLASSES = 150
THEIRS, OURS = "transformers", "upsample_argmax"


class _Scores(nn.Module):
    """Give the scores alone, so that the helpers can run it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.network(pixel_values=image).logits
        return scores


def prepare() -> tuple[bytes, Any, Any]:
    """Make the PNG, the image processor and the network."""
    try:
        from transformers import SegformerImageProcessor

        processor = SegformerImageProcessor()
    except ImportError:
        from transformers import SegformerImageProcessorFast as SegformerImageProcessor

        processor = SegformerImageProcessor()
    (photo,) = photographs(1, SIZE)
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)).eval()
    image = processor(images=photo, return_tensors="pt")["pixel_values"]
    calibrate(_Scores(network), image)
    fit_scores(_Scores(network).eval(), network.decode_head.classifier, image)
    return stream.getvalue(), processor, network.eval()


def ways() -> dict[str, Callable[[], Tensor]]:
    """Make both."""
    data, processor, network = prepare()

    def scores() -> tuple[Any, tuple[int, int]]:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        inputs = processor(images=image, return_tensors="pt")
        return network(**inputs), image.size[::-1]

    def theirs() -> Tensor:
        with torch.no_grad():
            outputs, size = scores()
            labels: Tensor = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        return labels

    def ours() -> Tensor:
        with torch.inference_mode():
            outputs, size = scores()
            y, x = (n / cells for n, cells in zip(size, outputs.logits.shape[2:], strict=True))
            stretched = Geometry((y, x), ((y - 1) / 2, (x - 1) / 2), (1.0, 1.0))
            return upsample_argmax(outputs.logits, stretched, size)[0]

    return {THEIRS: theirs, OURS: ours}


def main() -> None:
    """Measure, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=7)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    made = ways()
    if options.alone:
        made[options.alone]()  # what is loaded or kept once is not counted
        with Peak() as peak:
            made[options.alone]()
        print(json.dumps(peak.mib))
        return
    about = machine("torch", "transformers", threads=options.threads)
    print(about, flush=True)
    runs: dict[str, Callable[[], object]] = dict(made)
    seconds = in_turn(runs, options.repeats, clock=clock_for(options.threads))
    labels = {name: run().long() for name, run in made.items()}
    words = ["--threads", str(options.threads)]
    used = {name: process([__file__, "--alone", name, *words], options.threads) for name in made}
    extra = {name: float(usage.output) for name, usage in used.items()}
    differing = float((labels[THEIRS] != labels[OURS]).double().mean())
    row = Row(
        what=f"SegFormer-B0, {CLASSES} classes, {SIZE[0]} x {SIZE[1]}, PNG to labels",
        ours="its scores by upsample_argmax",
        peer=version("transformers"),
        seconds=spread(seconds[OURS]),
        peer_seconds=spread(seconds[THEIRS]),
        times=ratios(seconds[THEIRS], seconds[OURS]),
        memory=extra[THEIRS] / extra[OURS],
        least_times=3.5,
        note=f"{differing:.1e} of the labels differ; beyond the loaded process {extra[THEIRS]:.0f} and "
        f"{extra[OURS]:.0f} MiB, peak of the process {used[THEIRS].mib - used[OURS].mib:.0f} MiB lower",
    )
    print_rows([row])
    finish([row], options.json, about)


if __name__ == "__main__":
    main()

"""Does a classifier that knows the names of folders find what it names? The pointing game, on real pictures.

The shipped classifier of tile defects never saw a mask. It is converted and scores every window of whole test pictures,
enlarged so that a window is a part of them. Does the highest score of the kind that the classifier itself names lie on
the defect (Zhang et al. 2016, 15 pixels of tolerance)? Beside it: the centre of the picture, and a random pixel. And
how well do the scores order the pixels (area under the ROC curve of each picture, 50 is chance)?

    FULLYCONV_DATA=FOLDER python benchmarks/pointing_game.py
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import fullyconv
from fullyconv import SegmentationDataModule
from fullyconv.data.folder import read_pair

CLASSIFIER = "tile_kinds"
SPLIT = {"test_fraction": 0.2, "val_fraction": 0.1}
TOLERANCE = 15


def localise(zoom: float, split: str) -> dict[str, float]:
    """Play the pointing game.

    Args:
        zoom: the shorter side of a picture becomes so many times the classifier's own size.
        split: whose pictures.

    Returns:
        Shares in percent.
    """
    classifier = fullyconv.load_classifier(CLASSIFIER)
    dense = classifier.convolutionalize()
    data = SegmentationDataModule("magnetic_tile", **SPLIT)  # type: ignore[arg-type]
    named, hits, centred, chance, areas = [], [], [], [], []
    own = classifier.input_size
    for pair in data.splits[split]:
        pixels, mask = read_pair(pair, data.labels, data.source.reader)
        if not (mask == 1).any():
            continue
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            kind = int(classifier(F.interpolate(image, own, mode="bilinear", antialias=True)).argmax())
            factor = zoom * own[0] / min(mask.shape)
            size = [max(own[0], round(factor * n)) for n in mask.shape]
            logits = dense(F.interpolate(image, size, mode="bilinear", antialias=factor < 1))
            heat = F.interpolate(logits.softmax(1)[:, kind, None], mask.shape, mode="bilinear")[0, 0].numpy()
        named.append(classifier.classes[kind] in pair.image.parts[-3].lower())
        truth = torch.from_numpy((mask == 1).astype(np.float32))[None, None]
        near = F.max_pool2d(truth, 2 * TOLERANCE + 1, 1, TOLERANCE)[0, 0].numpy() > 0
        hits.append(bool(near[np.unravel_index(heat.argmax(), heat.shape)]))
        centred.append(bool(near[mask.shape[0] // 2, mask.shape[1] // 2]))
        chance.append(float(near.mean()))
        areas.append(_area(heat, mask == 1))
    found = {"named": named, "found": hits, "centre": centred, "chance": chance, "auc": areas}
    return {key: 100 * float(np.mean(values)) for key, values in found.items()} | {"pictures": len(hits)}


def _area(heat: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Give the area under the ROC curve: how often a pixel of the defect scores higher than one beside it."""
    positive, negative = heat[truth], np.sort(heat[~truth])
    if not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoom", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--split", default="test", help="of the pointing game")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}; {CLASSIFIER}\n"
    )
    print("| zoom | pictures with a defect | kind named, % | found, % | centre, % | random pixel, % | AUC, % |")
    print("|---|---|---|---|---|---|---|")
    for zoom in arguments.zoom:
        found = localise(zoom, arguments.split)
        shares = " | ".join(f"{found[key]:.1f}" for key in ("named", "found", "centre", "chance", "auc"))
        print(f"| {zoom:g} | {found['pictures']} | {shares} |", flush=True)


if __name__ == "__main__":
    main()

"""Does a classifier that knows the kinds of images find what it names? The pointing game, on real images.

The classifiers never saw where anything is. They are converted and score every window of whole test images, enlarged
so that a window is a part of them, or every cell (class activation map). Does the highest probability of a kind that
the image shows lie on it (Zhang et al. 2016)? Beside it: the center of the image, and a random pixel. And how well
do the probabilities order the pixels (area under the ROC curve of each image, 50 is chance)?

Of ImageNet's classifier the probabilities of all breeds of cats and dogs are added up, and sought on the pet's mask.

    FULLYCONV_DATA=FOLDER python benchmarks/pointing_game.py efficientnet_lite0.imagenet
    FULLYCONV_DATA=FOLDER python benchmarks/pointing_game.py steel_kinds tile_kinds
"""

from __future__ import annotations

import argparse
import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

import fullyconv
from fullyconv import SegmentationDataModule
from fullyconv.data.folder import read_pair
from fullyconv.geometry import Geometry
from fullyconv.upsampling import resample


@dataclass(frozen=True)
class Game:
    """The images of a classifier.

    Args:
        data: public set.
        tolerance: pixels around a defect that count as found.
        zooms: the shorter side of an image becomes so many times the classifier's own size.
        options: of the data, those that the classifier was trained with.
        pools: what the global pooling becomes: scores of windows, or of cells.
        together: numbers of the classes whose probabilities are added up, by the class of the data.
    """

    data: str
    tolerance: int
    zooms: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    pools: tuple[Literal["window", "cam"], ...] = ("window",)
    together: dict[str, list[int]] = field(default_factory=dict)


STEEL = {"values": {0: "background", 1: "inclusion", 2: "patches", 3: "scratches"}}
TILES = {"test_fraction": 0.2, "val_fraction": 0.1}
PETS = {"classes": ["background", "pet"], "values": {0: "pet", 1: "background", 2: "ignore"}}
BREEDS = [*range(151, 269), *range(281, 286)]  # 118 breeds of dogs and 5 of cats among ImageNet's classes
GAMES = {
    "efficientnet_lite0.imagenet": Game("pets128", 4, (1.0, 2.0), PETS, ("cam", "window"), {"pet": BREEDS}),
    "steel_kinds": Game("neu_seg", 8, (1.0, 2.0, 3.0, 4.0), STEEL),
    "tile_kinds": Game("magnetic_tile", 15, (1.0, 1.5, 2.0, 3.0), TILES),
}

Shown = tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]


def images(game: Game, classes: list[str], split: str) -> Iterator[Shown]:
    """Give each image (H, W, 3) with the areas (H, W) of the kinds that it shows."""
    data = SegmentationDataModule(game.data, **game.options)
    for pair in data.splits[split]:
        pixels, mask = read_pair(pair, data.labels, data.source.reader)
        if game.together:
            areas = {name: mask == data.classes.index(name) for name in game.together}
        elif len(data.classes) > 2:
            areas = {name: mask == index for index, name in enumerate(data.classes) if name in classes}
        else:  # the folder names the kind
            folder = pair.image.relative_to(data.source.root).parts[0].lower()
            areas = {name: mask == 1 for name in classes if folder.endswith(name)}
        yield pixels, {name: area for name, area in areas.items() if area.any()}


def localize(name: str, zoom: float, split: str, pool: Literal["window", "cam"] = "window") -> dict[str, list[float]]:
    """Play the pointing game.

    Args:
        name: key of GAMES.
        zoom: the shorter side of an image becomes so many times the classifier's own size.
        split: whose images.
        pool: what the global pooling becomes.

    Returns:
        For each kind, and for images that show two: their number, and found, center, random pixel and area, per cent.
    """
    game = GAMES[name]
    classifier = fullyconv.load_classifier(name)
    dense = classifier.convolutionalize(pool)
    own = classifier.input_size[0]
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for pixels, areas in images(game, classifier.classes, split):
        if not areas:  # nothing but border
            continue
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        size = pixels.shape[:2]
        factor = zoom * own / min(size)
        seen = [max(own, round(factor * n)) for n in size]
        x = F.interpolate(image, seen, mode="bilinear", antialias=factor < 1)
        with torch.inference_mode():
            if game.together:  # a few sums of probabilities, and never a thousand classes at every pixel
                shares = dense.scores(x).softmax(1)
                sums = torch.stack([shares[:, game.together[kind]].sum(1) for kind in areas], 1)
                added = resample(sums, dense.geometry, Geometry.IDENTITY, (seen[0], seen[1]))
            else:
                added = dense(x).softmax(1)[:, [classifier.classes.index(kind) for kind in areas]]
            heats = F.interpolate(added, size, mode="bilinear")[0].numpy()
        for heat, (kind, area) in zip(heats, areas.items(), strict=True):
            width = 2 * game.tolerance + 1
            near = F.max_pool2d(torch.from_numpy(area)[None, None].float(), width, 1, game.tolerance)[0, 0].numpy() > 0
            found = near[np.unravel_index(heat.argmax(), heat.shape)]
            row = [float(found), float(near[size[0] // 2, size[1] // 2]), float(near.mean()), roc_area(heat, area)]
            rows["two kinds, each of them" if len(areas) > 1 else kind].append(row)
            rows["all"].append(row)
    return {group: [len(values), *(100 * np.mean(values, 0)).tolist()] for group, values in rows.items()}


def roc_area(heat: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Give the area under the ROC curve: how often a pixel of the defect scores higher than one beside it."""
    positive, negative = heat[truth], np.sort(heat[~truth])
    if not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(GAMES), metavar="MODEL", help=f"of {', '.join(GAMES)}")
    parser.add_argument("--zoom", type=float, nargs="+", help="enlargements (default: those of the model)")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}"
    )
    for name in arguments.models:
        print(f"\n{name}, tolerance {GAMES[name].tolerance} pixels\n")
        print("| scores of | zoom | images of | number | found, % | center, % | random pixel, % | AUC, % |")
        print("|---|---|---|---|---|---|---|---|")
        for pool in GAMES[name].pools:
            for zoom in arguments.zoom or GAMES[name].zooms:
                if pool == "window" and zoom <= 1:
                    continue  # there is one window
                for group, (number, *shares) in sorted(localize(name, zoom, arguments.split, pool).items()):
                    cells = " | ".join(f"{share:.1f}" for share in shares)
                    what = "cells" if pool == "cam" else "windows"
                    print(f"| {what} | {zoom:g} | {group} | {number} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

"""Tell whether a recipe is scored on images that it was trained on: the most alike images of two of its splits.

The likeness of two images is the largest correlation, over all shifts, mirror images and quarter turns, of their
thumbnails of 32 x 32 pixels, less brightness and local contrast, times the square root of the share of the thumbnail
in which the two overlap. An image and its copy have 1, two crops that share a quarter 0.5, strangers as a rule 0.2 to
0.3. Where images are alike by kind (bright spots on black, brushed metal) strangers have more: `LIMITS` holds, for
such sets, the likeness above which two images were seen to show one scene.

Tiles cut side by side from one image share no pixel. They touch where the last line of one goes on in the first line of
the other with no larger a step than between lines inside, and each is the other's best match.

    FULLYCONV_DATA=FOLDER python zoo/leaks.py zoo/ladder_*/recipe.yaml
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

from fullyconv import SegmentationDataModule

SIDE = 32
LEAST_OVERLAP = 0.08  # below it a few pixels would decide

Touch = tuple[int, int]


@dataclass(frozen=True)
class Limit:
    """Say how the images of a set are compared.

    Args:
        likeness: above it two images show one scene.
        turned: quarter turns are tried as well as mirror images.
    """

    likeness: float = 0.3
    turned: bool = True


LIMITS = {
    "nuclei_dsb2018": Limit(0.62),
    "magnetic_tile": Limit(0.75),
    "pets128": Limit(0.5, turned=False),
    "camvid": Limit(0.5, turned=False),
    "clothes_voc": Limit(0.5, turned=False),
}


def thumbnails(files: Sequence[Path]) -> Tensor:
    """Read images as (N, 32, 32) floats of which brightness and local contrast are taken.

    Args:
        files: N images; the outermost 1/32 is left out, which holds frames and shadows.
    """
    small = []
    for file in files:
        with Image.open(file) as image:
            frame = (image.width / 32, image.height / 32, image.width * 31 / 32, image.height * 31 / 32)
            small.append(np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, frame), np.float32))
    pixels = torch.from_numpy(np.stack(small))[:, None]

    def around(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (3, 3, 3, 3), mode="reflect"), 7, 1)

    detail = pixels - around(pixels)
    contrast = around(detail.square()).sqrt()
    return (detail / (contrast + 0.5 * contrast.mean((2, 3), keepdim=True) + 1e-3))[:, 0]


def likeness(some: Tensor, others: Tensor, *, turned: bool = True) -> Tensor:
    """Compare thumbnails, each with each.

    Args:
        some: (N, 32, 32), as `thumbnails` makes them.
        others: (M, 32, 32).
        turned: try quarter turns as well as mirror images.

    Returns:
        (N, M), 1 for copies.
    """
    size = (2 * SIDE, 2 * SIDE)  # so that no shift wraps around
    one, weights = torch.fft.rfft2(some, size), _weights(some)
    best = torch.full((len(some), len(others)), -1.0)
    for turn in range(4 if turned else 1):
        for mirrored in (False, True):
            view = torch.rot90(others, turn, (1, 2))
            view = (view.flip(2) if mirrored else view).contiguous()
            two = torch.fft.rfft2(view, size).conj()
            # What lies in the overlap is, seen from the other one, what lies there at the opposite shift.
            opposite = _weights(view).flip(1, 2).roll((1, 1), (1, 2))
            for row in range(len(some)):
                found = torch.fft.irfft2(two * one[row], size).mul_(opposite).mul_(weights[row])
                torch.maximum(best[row], found.flatten(1).amax(1), out=best[row])
    return best


def _weights(thumbs: Tensor) -> Tensor:
    """Give, for every shift, the root of what a correlation is divided by, (N, 64, 64); 0 where few pixels overlap."""
    size = (2 * SIDE, 2 * SIDE)
    window = torch.fft.rfft2(torch.ones(SIDE, SIDE), size)
    energy = torch.fft.irfft2(torch.fft.rfft2(thumbs.square(), size) * window.conj(), size).clamp_min(0)
    overlap = torch.fft.irfft2(window * window.conj(), size).clamp_min(0) / SIDE**2
    whole = energy[:, :1, :1]
    # A tenth of the whole is added, so that a corner with nothing in it is like no other, and 1 remains 1.
    norm = (energy + 0.1 * whole * overlap + 1e-6 * whole).rsqrt() * (1.1 + 1e-6) ** 0.5
    return torch.where(overlap >= LEAST_OVERLAP, norm * overlap.clamp_min(1e-6) ** 0.25, 0.0)


def touching(files: Sequence[Path]) -> list[Touch]:
    """Find images that were cut side by side from one.

    Args:
        files: images; only those of one size are compared.

    Returns:
        Pairs of their numbers.
    """
    edges: dict[tuple[int, ...], list[tuple[int, npt.NDArray[np.float64]]]] = defaultdict(list)
    for number, file in enumerate(files):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L"), np.float64)
        edges[pixels.shape].append((number, pixels))
    return [
        (alike[row][0], alike[column][0])
        for alike in edges.values()
        for turned in (False, True)
        for row, column in _followers(np.stack([pixels.T if turned else pixels for _, pixels in alike]))
    ]


def _followers(images: npt.NDArray[np.float64]) -> Iterator[Touch]:
    """Give the pairs of which the second goes on below the first."""
    first, second, last_but_one, last = (images[:, line] for line in (0, 1, -2, -1))
    inside = ((last - last_but_one) ** 2).mean(1)[:, None] + ((second - first) ** 2).mean(1)
    across = (last**2).mean(1)[:, None] + (first**2).mean(1) - 2 * last @ first.T / first.shape[1]
    step = across / np.maximum(inside / 2, 0.25)
    np.fill_diagonal(step, np.inf)
    up, down = (line - line.mean(1, keepdims=True) for line in (last, first))
    norm = np.sqrt((up**2).sum(1))[:, None] * np.sqrt((down**2).sum(1))
    related = up @ down.T > 0.5 * np.maximum(norm, 1e-3)
    for row, column in enumerate(step.argmin(1)):
        if step[row, column] < 3 and step[:, column].argmin() == row and related[row, column]:
            yield row, int(column)


def check(name: str, options: dict[str, Any]) -> int:
    """Print what the splits of a recipe have in common.

    Args:
        name: of the recipe.
        options: of its data module.

    Returns:
        Number of images of test and val that are in another split as well, by likeness or touch.
    """
    data = SegmentationDataModule(**options)
    limit = LIMITS.get(options["data"], Limit())
    files = {split: [pair.image for pair in pairs] for split, pairs in data.splits.items()}
    thumbs = {split: thumbnails(some) for split, some in files.items()}
    print(f"{name}: " + ", ".join(f"{split} {len(some)}{_groups(options, split)}" for split, some in files.items()))
    every = [(split, file) for split, some in files.items() for file in some]
    touches = touching([file for _, file in every])
    leaks = 0
    for split, others in (("test", [one for one in files if one != "test"]), ("val", ["train"])):
        if split not in files or not others:
            continue
        rest = [file for other in others for file in files[other]]
        alike = likeness(thumbs[split], torch.cat([thumbs[other] for other in others]), turned=limit.turned)
        best, where = alike.max(1)
        count = int((best > limit.likeness).sum())
        over = sum({every[one][0], every[two][0]} in [{split, other} for other in others] for one, two in touches)
        leaks += count + over
        print(
            f"  {split} beside {' and '.join(others)}: {count} of {len(best)} images above {limit.likeness}, "
            f"{over} that touch; most alike"
        )
        for row in best.argsort(descending=True, stable=True)[:3].tolist():
            print(f"    {best[row]:.2f}  {files[split][row].name}  {rest[int(where[row])].name}")
    return leaks


def _groups(options: dict[str, Any], split: str) -> str:
    """Count the groups of a list: a blank line parts them."""
    if not options.get("lists"):
        return ""
    blocks = (Path(options["lists"]) / f"{split}.txt").read_text().strip().split("\n\n")
    return f" in {len(blocks)} groups"


def main() -> int:
    """Check the recipes named on the command line; the status is 1 where one leaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, help="YAML files with the options of a data module")
    leaks = 0
    for path in parser.parse_args().recipes:
        leaks += check(path.parent.name, yaml.safe_load(path.read_text())["data"])
    return int(leaks > 0)


if __name__ == "__main__":
    raise SystemExit(main())

"""Augmentation of one training sample: fullyconv's transform against torchvision's v2 transforms on Pillow images.

    python benchmarks/augmentation.py                         # a generated picture
    python benchmarks/augmentation.py --image street.jpg      # your own, resized to both sizes

Both take a decoded picture and mask, scale them by 0.5 to 2, crop to the picture's own size, flip, vary brightness,
contrast, saturation and, in the first two rows, hue, and give float32 (C, H, W) and int64 (H, W). torchvision gets a
Pillow image, as its own data sets give it, and draws its four colour operations in random order; fullyconv gets an
array. One thread; the two take turns, so that what else runs meets both; printed are medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from fullyconv.data.transforms import Augmentation, TrainingTransform

SIZES = ((360, 480), (1024, 2048))


def picture(size: tuple[int, int], path: Path | None) -> Image.Image:
    """Open a picture, or draw one: smooth colours with noise."""
    height, width = size
    if path is not None:
        return Image.open(path).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def usual(size: tuple[int, int], hue: float) -> v2.Transform:
    """Compose what tutorials compose, from torchvision's own parts."""
    return v2.Compose([
        v2.ScaleJitter(size, (0.5, 2.0), antialias=True),
        v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 128}),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.25, 0.25, 0.25, hue),
        v2.ToImage(),
        v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
    ])  # fmt: skip


def measure(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Time two functions in turns; milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        first()
        second()
    for _ in range(repeats):
        for function, found in zip((first, second), times, strict=True):
            begin = time.perf_counter()
            function()
            found.append(1000 * (time.perf_counter() - begin))
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph, instead of a generated picture")
    parser.add_argument("--repeats", type=int, default=200, help="of each, in turns (default: %(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, one thread, {chosen.repeats} repeats")
    print("| picture and crop | hue | torchvision v2, ms | fullyconv, ms | ratio |\n|---|---|---:|---:|---:|")
    for hue in (0.05, 0.0):
        for size in SIZES:
            image = picture(size, chosen.image)
            labels = np.random.default_rng(1).integers(0, 12, (size[0] // 8, size[1] // 8), dtype=np.uint8)
            mask = torch.from_numpy(np.kron(labels, np.ones((8, 8), np.uint8)))
            array = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            theirs = usual(size, hue)
            ours = TrainingTransform(Augmentation(size, hue=hue))
            torch.manual_seed(0)

            def one(theirs: v2.Transform = theirs, image: Image.Image = image, mask: torch.Tensor = mask) -> object:
                return theirs(image, tv_tensors.Mask(mask))

            def two(ours: TrainingTransform = ours, array: torch.Tensor = array, mask: torch.Tensor = mask) -> object:
                moved, target = ours(array, mask)
                return moved, target.to(torch.int64)

            slow, fast = (statistics.median(found) for found in measure(one, two, chosen.repeats))
            word = f"{hue:g}" if hue else "none"
            print(f"| {size[1]} x {size[0]} | {word} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Time the training transform beside torchvision's, and measure how far the two are apart.

The peer is the usual pipeline, torchvision v2 on Pillow images: `ScaleJitter`, `RandomCrop`, `RandomHorizontalFlip`,
`ColorJitter`, `ToImage`, `ToDtype`, with the same ranges and the same result: a float image in 0..1, a mask of int64.
Where it jitters makes a difference, so it is timed twice: on the whole image and on the crop. Every variant runs in
turn within each repeat, on one core, in processor time; medians of the time an image are printed, and the median
of the ratios of each repeat.

The images are those given with --images, or those of CamVid where the environment variable FULLYCONV_DATA names a
folder that holds it, else drawn. They are written as PNG, larger sizes by enlarging them.

    python benchmarks/augmentation.py --repeats 9
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from fullyconv.data.cache import DecodedCache
from fullyconv.data.folder import SegmentationFolder
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.data.transforms import Augmentation, Draw, TrainingTransform, apply_to_image
from fullyconv.images import read_image
from fullyconv.labels import Labels
from measuring import Row, add_json, finish, machine, ratios, spread, version

Size = tuple[int, int]

CASES: dict[str, tuple[Size, Size]] = {  # image and crop, each (H, W)
    "480 x 360, crop 320 x 320": ((360, 480), (320, 320)),
    "480 x 360, crop of that size": ((360, 480), (360, 480)),
    "2048 x 1024, crop 512 x 512": ((1024, 2048), (512, 512)),
    "2048 x 1024, crop of that size": ((1024, 2048), (1024, 2048)),
}
JITTER = 0.25  # brightness, contrast and saturation
HUE = 0.1
LABELS = Labels.of([f"class {index}" for index in range(12)])


def drawn(count: int, size: Size = (360, 480)) -> list[Image.Image]:
    """Draw images with the statistics of photographs: large regions, small ones, grain, few saturated colors."""
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = np.zeros((*size, 3), dtype=np.float32)
        for cells, amount in ((3, 0.30), (8, 0.18), (24, 0.10), (90, 0.06)):
            colors = rng.normal(0, amount, (cells, cells, 1)) + rng.normal(0, amount / 3, (cells, cells, 3))
            for channel in range(3):
                plane = Image.fromarray(colors[..., channel].astype(np.float32))
                image[..., channel] += np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC))
        image += 0.42 + rng.normal(0, 0.02, image.shape)
        images.append(Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)))
    return images


def photographs(count: int, given: Sequence[Path] = ()) -> tuple[list[Image.Image], str]:
    """Read the images that are given, or those of CamVid, spread over the set; draw some where there is none."""
    if given:
        return [Image.fromarray(read_image(file)) for file in given], f"{len(given)} images"
    root = os.environ.get("FULLYCONV_DATA")
    files = sorted((Path(root) / "camvid" / "train").glob("*")) if root else []
    if not files:
        return drawn(min(count, 16)), "drawn images"
    chosen = [files[index * len(files) // count] for index in range(min(count, len(files)))]
    return [Image.fromarray(read_image(file)) for file in chosen], f"{len(chosen)} images of CamVid"


def write_pairs(folder: Path, images: Sequence[Image.Image], size: Size) -> list[Pair]:
    """Write the images at a size (H, W) as PNG, with masks of twelve classes whose regions are as smooth."""
    pairs = []
    for index, photo in enumerate(images):
        image, mask = folder / f"{index}.png", folder / f"{index}-mask.png"
        resized = photo.resize(size[::-1], Image.Resampling.BICUBIC)
        gray = np.asarray(resized.convert("L").resize((size[1] // 8, size[0] // 8)).resize(size[::-1]))
        resized.save(image)
        Image.fromarray((gray // 22).astype(np.uint8)).save(mask)
        pairs.append(Pair(image, mask, str(index)))
    return pairs


def usual(size: Size, crop: Size, hue: float, where: str) -> v2.Transform:
    """Build the peer; `where` is "whole" or "crop"."""
    jitter = [v2.ColorJitter(JITTER, JITTER, JITTER, hue)]
    geometry = [
        v2.ScaleJitter(size, scale_range=(0.5, 2.0)),
        v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 128}),
        v2.RandomHorizontalFlip(0.5),
    ]
    result = [v2.ToImage(), v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True)]
    return v2.Compose([*jitter, *geometry, *result] if where == "whole" else [*geometry, *jitter, *result])


def decoded(pair: Pair) -> tuple[Image.Image, tv_tensors.Mask]:
    """Decode the usual way."""
    with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
        return image.convert("RGB"), tv_tensors.Mask(torch.from_numpy(np.array(mask)))


def variants(
    pairs: Sequence[Pair], size: Size, crop: Size, hue: float, cache: DecodedCache
) -> dict[str, list[tuple[str, Callable[[int], Any]]]]:
    """Make what is timed, in groups whose first is ours, each called with the number of an image."""
    transform = TrainingTransform(Augmentation(crop, (0.5, 2.0), 0.5, JITTER, JITTER, JITTER, hue))
    whole, late = (usual(size, crop, hue, where) for where in ("whole", "crop"))
    pillow = [decoded(pair) for pair in pairs]
    tensors = [(torch.from_numpy(np.array(image)).permute(2, 0, 1), mask) for image, mask in pillow]
    plain = SegmentationFolder(pairs, LABELS, transform=transform)
    cached = SegmentationFolder(pairs, LABELS, transform=transform, cache=cache)

    def ours(index: int) -> tuple[Tensor, Tensor]:
        image, mask = transform(*tensors[index])
        return image, mask.to(torch.int64)

    for index in range(len(pairs)):
        sample = cached[0, index]  # fills the cache
        results = [ours(index), whole(*pillow[index]), late(*pillow[index]), (sample["image"], sample["mask"])]
        for image, mask in results:
            assert (image.shape, mask.shape) == ((3, *crop), crop)
            assert (image.dtype, mask.dtype) == (torch.float32, torch.int64)
    return {
        "already decoded": [
            ("fullyconv", ours),
            ("torchvision v2, jitter on the crop", lambda index: late(*pillow[index])),
            ("torchvision v2, jitter on the whole image", lambda index: whole(*pillow[index])),
        ],
        "from the files": [
            ("fullyconv, decoded cache, whole data set", lambda index: cached[1, index]),
            ("fullyconv, no cache, whole data set", lambda index: plain[1, index]),
            ("torchvision v2, jitter on the crop", lambda index: late(*decoded(pairs[index]))),
            ("torchvision v2, jitter on the whole image", lambda index: whole(*decoded(pairs[index]))),
        ],
    }


def time_all(repeats: int, images: Sequence[Image.Image], cases: Sequence[str]) -> list[Row]:
    """Print a table for each case, with hue and without, and give the rows."""
    rows: list[Row] = []
    for name in cases:
        size, crop = CASES[name]
        for hue in (HUE, 0.0):
            with tempfile.TemporaryDirectory() as folder:
                pairs = write_pairs(Path(folder), images, size)
                cache = DecodedCache(Path(folder) / "cache", LABELS, FileReader())
                print(f"\n{name}, {f'hue {hue}' if hue else 'no hue'}; median of {repeats} [min - max], ms an image")
                for group, timed in variants(pairs, size, crop, hue, cache).items():
                    seconds: dict[str, list[float]] = {label: [] for label, _ in timed}
                    for repeat in range(repeats + 1):
                        for label, run in timed:
                            torch.manual_seed(repeat)
                            start = time.process_time()
                            for index in range(len(pairs)):
                                run(index)
                            seconds[label].append((time.process_time() - start) / len(pairs))
                    first = seconds[timed[0][0]][1:]
                    print(f"| {group:45} | {'ms':>24} | {'times ours':>10} |\n|{'-' * 47}|{'-' * 26}|{'-' * 12}|")
                    for label, all_runs in seconds.items():
                        runs = all_runs[1:]  # the first one warms up
                        middle, low, high = (1000 * v for v in (statistics.median(runs), min(runs), max(runs)))
                        ratio = statistics.median(theirs / own for theirs, own in zip(runs, first, strict=True))
                        figures = f"{middle:.2f} [{low:.2f} - {high:.2f}]"
                        print(f"| {label:45} | {figures:>24} | {f'{ratio:.1f}x':>10} |", flush=True)
                        if "torchvision" in label:
                            rows.append(
                                Row(
                                    what=f"augmenting an image, {name}, {f'hue {hue}' if hue else 'no hue'}, {group}",
                                    ours=timed[0][0],
                                    peer=label.replace("torchvision v2", f"{version('torchvision')} v2"),
                                    seconds=spread(first),
                                    peer_seconds=spread(runs),
                                    times=ratios(runs, first),
                                    least_times=4.0 if group == "from the files" else 6.0 if hue else 2.5,
                                )
                            )
    return rows


def usual_image(photo: Image.Image, draw: Draw, order: Sequence[int]) -> Tensor:
    """Do with torchvision's operations, on the whole image and one after the other, what was drawn.

    Args:
        image: the image.
        draw: what was drawn.
        order: order of brightness, contrast, saturation and hue (0 .. 3), as `ColorJitter` draws it.

    Returns:
        (3, h, w) in 0..1: the part of the crop that the image covers.
    """
    steps: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: F.adjust_brightness(image, draw.brightness),
        lambda image: F.adjust_contrast(image, draw.contrast),
        lambda image: F.adjust_saturation(image, draw.saturation),
        lambda image: F.adjust_hue(image, draw.hue),
    ]
    for step in order:
        photo = steps[step](photo)
    top, left, rows, columns = draw.window
    _, _, out_rows, out_columns = draw.place
    height, width = round(photo.height * out_rows / rows), round(photo.width * out_columns / columns)
    resized = F.resize(photo, [height, width], antialias=True)
    image = F.to_dtype(F.to_image(resized), torch.float32, scale=True)
    # Rounding may take the last line away.
    first = min(round(top * out_rows / rows), height - out_rows)
    second = min(round(left * out_columns / columns), width - out_columns)
    cut = image[:, first : first + out_rows, second : second + out_columns]
    return cut.flip(-1) if draw.flip else cut


def hue_angle(image: Tensor) -> float:
    """Compute the hue of the mean color of an image in degrees; nan where it has hardly any."""
    red, green, blue = image.double().mean((1, 2))
    along, across = red - (green + blue) / 2, (green - blue) * 3**0.5 / 2
    if float(torch.hypot(along, across)) < 0.02:
        return float("nan")
    return float(torch.rad2deg(torch.atan2(across, along)))


def differences(
    images: Sequence[Image.Image], draws: int, crop: Size, hue: float, seed: int = 0
) -> dict[str, list[float]]:
    """Augment images by the same draws in both ways and compare the results.

    Returns:
        For each draw the largest difference of the three channels' means and of their standard deviations, and the mean
        difference of the pixels, in levels of 0..255; the difference of the hue in degrees, of the draws where both
        have one.
    """
    transform = TrainingTransform(Augmentation(crop, (0.5, 2.0), 0.5, JITTER, JITTER, JITTER, hue))
    found: dict[str, list[float]] = {"mean": [], "deviation": [], "pixels": [], "hue": []}
    shuffled = random.Random(seed)
    torch.manual_seed(seed)
    for index in range(draws):
        image = images[index % len(images)]
        draw = transform.draw(image.height, image.width)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        top, left, rows, columns = draw.place
        ours = apply_to_image(tensor, draw)[:, top : top + rows, left : left + columns]
        theirs = usual_image(image, draw, shuffled.sample(range(4), 4))
        found["mean"].append(255 * float((ours.mean((1, 2)) - theirs.mean((1, 2))).abs().max()))
        found["deviation"].append(255 * float((ours.std((1, 2)) - theirs.std((1, 2))).abs().max()))
        found["pixels"].append(255 * float((ours - theirs).abs().mean()))
        turn = hue_angle(ours) - hue_angle(theirs)
        if turn == turn:
            found["hue"].append(abs((turn + 180) % 360 - 180))
    return found


def compare_all(images: Sequence[Image.Image], draws: int, source: str) -> None:
    """Print how far ours is from torchvision's operations."""
    crop = (320, 320)
    for hue in (HUE, 0.0):
        found = differences(images, draws, crop, hue)
        words = f"hue {hue}" if hue else "no hue"
        print(f"\nDifference from torchvision's operations over {draws} draws on {source}, crop 320 x 320, {words}")
        cells = " | ".join(f"{head:>8}" for head in ("median", "95 %", "largest"))
        print(f"| {'':45} | {cells} |\n|{'-' * 47}|{'-' * 10}|{'-' * 10}|{'-' * 10}|")
        for key, label in (
            ("mean", "mean of a channel, of 255 levels"),
            ("deviation", "deviation of a channel, of 255 levels"),
            ("pixels", "pixels, mean of the absolute, of 255 levels"),
            ("hue", "hue of the mean color, degrees"),
        ):
            values = np.array(found[key])
            cells = " | ".join(f"{value:8.2f}" for value in (*np.percentile(values, [50, 95]), values.max()))
            print(f"| {label:45} | {cells} |")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=9, help="runs of each variant; their median counts")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], metavar="FILE", help="your own")
    parser.add_argument("--images", type=int, default=8, help="images of a run")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--draws", type=int, default=1000, help="draws of the comparison; 0 leaves it out")
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.images < 1 or arguments.draws < 0:
        parser.error("--repeats and --images must be at least 1, --draws at least 0")
    torch.set_num_threads(1)
    images, source = photographs(arguments.images, arguments.photos)
    about = machine("torch", "torchvision", "pillow", threads=1)
    print(f"{about}\n{source}")
    rows = time_all(arguments.repeats, images, arguments.cases)
    finish(rows, arguments.json, about)
    if arguments.draws:
        images, source = photographs(64, arguments.photos)
        compare_all(images, arguments.draws, source)


if __name__ == "__main__":
    main()

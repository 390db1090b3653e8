"""Time `upsample_argmax` beside interpolating all classes and taking the argmax, and measure the memory of both.

The scores are those of the shipped model `street` on a photograph of CamVid scaled to 1024 x 2048 pixels, averaged to
stride 8. More classes than its 11 are made of these by adding smooth differences, so that the borders between regions
remain those of a photograph. All variants run in turn within each repeat; medians are printed, and the median of the
ratios of each repeat. Memory is what a process of its own needs at most beyond what it held before the call. Labels
are compared: where they differ, two classes are equal up to rounding.

    python benchmarks/upsample_argmax.py --image camvid/test/0001TP_008550.jpg
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import fullyconv
from fullyconv.geometry import Geometry
from fullyconv.inference import kernels
from fullyconv.inference.argmax import upsample_argmax
from fullyconv.upsampling import resample
from measuring import Row, add_json, finish, machine, ratios, spread, version

SIZE = (1024, 2048)
STRIDE = 8
GRID = Geometry((STRIDE, STRIDE), ((STRIDE - 1) / 2, (STRIDE - 1) / 2), (1, 1))
PEER = "F.interpolate, argmax(1)"
TARGETS = {  # times faster, by classes
    "upsample_argmax, compiled": {21: 20.0, 150: 20.0},
    "upsample_argmax, plain torch": {21: 5.0, 150: 4.0},
}
NEAR = 1e-5  # of the range of the scores


def interpolated(scores: Tensor) -> Tensor:
    """Take the usual way."""
    return F.interpolate(scores, SIZE, mode="bilinear", align_corners=False).argmax(1)


def in_bands(scores: Tensor) -> Tensor:
    """Take the usual way by hand: bands of rows that fit the cache, classes one by one, uint8 labels."""
    n, classes = scores.shape[:2]
    labels = torch.empty(n, *SIZE, dtype=torch.uint8)
    rows = 4
    for top in range(0, scores.shape[2], rows):
        first, last = max(0, top - 1), min(scores.shape[2], top + rows + 1)
        part = F.interpolate(scores[:, :, first:last], scale_factor=STRIDE, mode="bilinear", align_corners=False)
        part = part[:, :, STRIDE * (top - first) :][:, :, : STRIDE * rows]
        best, label = part[:, 0].clone(), torch.zeros(part[:, 0].shape, dtype=torch.uint8)
        for k in range(1, classes):
            label.masked_fill_(part[:, k] > best, k)
            torch.maximum(best, part[:, k], out=best)
        labels[:, STRIDE * top : STRIDE * top + label.shape[1]] = label
    return labels


VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "upsample_argmax, compiled": lambda scores: upsample_argmax(scores, GRID, SIZE, route="compiled"),
    "upsample_argmax, plain torch": lambda scores: upsample_argmax(scores, GRID, SIZE, route="torch"),
    "F.interpolate in bands, running maximum": in_bands,
    PEER: interpolated,
}


def street(photo: Path) -> Tensor:
    """Compute the scores of a photograph at stride 8, (1, 11, 128, 256)."""
    with Image.open(photo) as image:
        pixels = np.array(image.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))
    segmenter = fullyconv.load("street")
    with torch.inference_mode():
        scores = segmenter.scores(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    return F.avg_pool2d(scores, STRIDE // 4).clone(memory_format=torch.contiguous_format)


def split(scores: Tensor, classes: int) -> Tensor:
    """Make maps of more classes: each is one of the given, plus a smooth difference."""
    generator = torch.Generator().manual_seed(classes)
    coarse = torch.randn(1, classes, 4, 8, generator=generator)
    smooth = F.interpolate(coarse, scores.shape[2:], mode="bilinear")
    return (scores[:, torch.arange(classes) % scores.shape[1]] + smooth / 2).contiguous()


def mixed_share(scores: Tensor) -> float:
    """Tell which share of the squares between four cells has more than one best class at its corners."""
    top = scores.argmax(1)
    corners = [top[:, :-1, :-1], top[:, :-1, 1:], top[:, 1:, :-1], top[:, 1:, 1:]]
    return float(torch.stack([corner != corners[0] for corner in corners]).any(0).double().mean())


def peak_kib() -> int:
    """Give the most memory that this process has held, in KiB."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as lines:
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def needed(variant: str, path: Path) -> float:
    """Run one variant, and give what it needed beyond what was held before, in MiB."""
    scores: Tensor = torch.load(path)
    if "compiled" in variant:
        # a few cells only: what is loaded once is not counted
        upsample_argmax(scores[:, :, :4, :4], GRID, (8, 8), route="compiled")
    else:
        torch.zeros(1, 2, 4, 4).argmax(1)
    if os.access("/proc/self/clear_refs", os.W_OK):
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as reset:
            reset.write("5")  # the peak begins anew
    before = peak_kib()
    labels = VARIANTS[variant](scores)
    after = peak_kib()
    assert labels.shape[1:] == SIZE
    return (after - before) / 1024


def compare(scores: Tensor, repeats: int, threads: int, folder: Path) -> list[Row]:
    """Print the table of one map, and give its rows."""
    # What other processes do to the clock on the wall does not count; with more threads there is no other clock.
    clock = time.thread_time if threads == 1 else time.perf_counter
    variants = [name for name in VARIANTS if "compiled" not in name or kernels.label_blocks() is not None]
    for name in variants[:-2]:
        VARIANTS[name](scores)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    labels: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name in variants:
            start = clock()
            labels[name] = VARIANTS[name](scores)
            seconds[name].append(clock() - start)
    torch.save(scores, folder / "scores.pt")
    memory = {}
    for name in variants:
        command = [sys.executable, __file__, "--threads", str(threads), "--needed", name, str(folder / "scores.pt")]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"\n{scores.shape[1]} classes, {100 * mixed_share(scores):.1f} % of the squares mixed; median of {repeats} "
        "[min - max]"
    )
    print(f"| {'variant':40} | {'ms':>26} | {'times faster':>12} | {'MiB':>7} | {'of the memory':>13} | {'other':>8} |")
    print(f"|{'-' * 42}|{'-' * 28}|{'-' * 14}|{'-' * 9}|{'-' * 15}|{'-' * 10}|")
    for name in variants:
        runs = seconds[name]
        middle, low, high = (1000 * value for value in (statistics.median(runs), min(runs), max(runs)))
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds[PEER], runs, strict=True))
        part = f"1/{memory[PEER] / memory[name]:.1f}"
        other = int((labels[name] != labels[PEER]).sum())
        print(
            f"| {name:40} | {f'{middle:.1f} [{low:.1f} - {high:.1f}]':>26} | {f'{ratio:.1f}x':>12} | "
            f"{memory[name]:>7.1f} | {part:>13} | {other:>8} |"
        )
    judge(scores, labels)
    return [
        Row(
            what=f"scores of stride {STRIDE} to {SIZE[0]} x {SIZE[1]} labels, {scores.shape[1]} classes",
            ours=name,
            peer=f"{version('torch')}, {PEER}",
            seconds=spread(seconds[name]),
            peer_seconds=spread(seconds[PEER]),
            times=ratios(seconds[PEER], seconds[name]),
            memory=memory[PEER] / memory[name],
            least_times=TARGETS[name].get(scores.shape[1]),
            least_memory=35.0 if "compiled" in name else None,
            note=f"{100 * mixed_share(scores):.0f} % of the squares mixed",
        )
        for name in variants
        if name in TARGETS
    ]


def judge(scores: Tensor, labels: dict[str, Tensor]) -> None:
    """See, in float64, that wherever labels differ two classes are equal up to rounding; stop if not."""
    span = float(scores.max() - scores.min())
    own = {name: found for name, found in labels.items() if name.startswith("upsample_argmax")}
    total, near, wrong = SIZE[0] * SIZE[1], 0, dict.fromkeys(own, 0)
    for top in range(0, SIZE[0], 32):
        window = Geometry((1.0, 1.0), (float(top), 0.0), (1.0, 1.0))
        logits = resample(scores.double(), GRID, window, (32, SIZE[1]))
        best = logits.topk(2, 1)
        clear = best.values[:, 0] - best.values[:, 1] > NEAR * span
        near += int((~clear).sum())
        for name, found in own.items():
            wrong[name] += int(((found[:, top : top + 32] != best.indices[:, 0]) & clear).sum())
    print(f"two classes closer than {NEAR:g} of the range: {near} of {total} pixels, {near / total:.1e}")
    for name, count in wrong.items():
        print(f"{name}: {count} other labels elsewhere, against float64")
    if any(wrong.values()):
        raise SystemExit("labels are wrong")


def main() -> None:
    """Run the comparison and print a table for each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--image", type=Path, help="photograph of a street; by default one of camvid's test images")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each variant; their median counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; with 1, processor time is measured")
    parser.add_argument("--needed", nargs=2, metavar=("VARIANT", "FILE"), help=argparse.SUPPRESS)
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    if arguments.needed:
        print(needed(arguments.needed[0], Path(arguments.needed[1])))
        return
    image = arguments.image
    if image is None:
        found = sorted(Path(os.environ.get("FULLYCONV_DATA", "."), "camvid", "test").glob("*.*"))
        if not found:
            parser.error("no camvid/test under FULLYCONV_DATA: give --image")
        image = found[len(found) // 3]
    about = machine("torch", threads=arguments.threads)
    print(about)
    rows: list[Row] = []
    scores = street(image)
    with tempfile.TemporaryDirectory() as folder:
        for classes in (21, 150):
            rows += compare(split(scores, classes), arguments.repeats, arguments.threads, Path(folder))
    finish(rows, arguments.json, about)


if __name__ == "__main__":
    main()

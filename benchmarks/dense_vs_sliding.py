"""Time a converted classifier against the classifier slid over the image (Long et al. 2015, section 3.1).

All variants run in turn within each repeat, so that a busy machine slows them alike; the medians and their ratios are
printed. Weights are random: this is a comparison of cost. Padding makes scores near the border of each window differ
(see ``dense.guarantee``), so the scores themselves are not compared here.

    python benchmarks/dense_vs_sliding.py --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

import fullyconv
from measuring import Row, add_json, finish, machine, ratios, spread

CASES = {  # classifier -> (side of its window, side of the image), in pixels; the paper's example and its usual twin
    "alexnet": (224, 500),
    "vgg16": (224, 384),
}
TARGETS = {"alexnet": 8.0, "vgg16": 11.0}  # times faster than windows in batches
BATCHED = 16


def variants(name: str, one_by_one: bool) -> tuple[dict[str, Callable[[], Tensor]], str]:
    """Make what is timed, the dense network as a user gets it first, and a line about the case."""
    window, side = CASES[name]
    classifier = torchvision.models.get_model(name, weights=None).eval()
    dense = fullyconv.convolutionalize(classifier, window)
    reordered = fullyconv.convolutionalize(classifier, window).to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, side, side)
    image_last = image.contiguous(memory_format=torch.channels_last)
    stride = int(dense.geometry.stride[0])
    rows, columns = dense.whole_windows(side, side)

    def slide(batch: int) -> Tensor:
        return fullyconv.sliding_window(classifier, image, window, stride, batch_size=batch)

    timed: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: dense(image),
        "dense, channels_last": lambda: reordered(image_last),
        f"windows, {BATCHED} at a time": lambda: slide(BATCHED),
    }
    if one_by_one:
        timed["windows, one by one"] = lambda: slide(1)
    shapes = {tuple(run().shape) for run in timed.values()}  # warms up, too
    assert shapes == {(1, 1000, rows, columns)}, f"the variants give different grids: {shapes}"
    return timed, f"{name}, {side} x {side} pixels, window {window}, stride {stride}: {rows} x {columns} scores"


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant; their median counts")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: torch's own choice")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--skip-one-by-one", action="store_true", help="leave out one window at a time")
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: must be at least 1")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    about = machine("torch", "torchvision", threads=torch.get_num_threads())
    print(about)
    rows: list[Row] = []
    with torch.inference_mode():
        for name in arguments.cases:
            timed, title = variants(name, not arguments.skip_one_by_one)
            seconds: dict[str, list[float]] = {label: [] for label in timed}
            for _ in range(arguments.repeats):
                for label, run in timed.items():
                    start = time.perf_counter()
                    run()
                    seconds[label].append(time.perf_counter() - start)
            base = statistics.median(seconds["dense"])
            print(f"\n{title}; median of {arguments.repeats} [min - max]")
            print(f"| {'variant':24} | {'ms':>22} | {'times dense':>11} |\n|{'-' * 26}|{'-' * 24}|{'-' * 13}|")
            for label, runs in seconds.items():
                middle, low, high = (1000 * value for value in (statistics.median(runs), min(runs), max(runs)))
                print(
                    f"| {label:24} | {f'{middle:.0f} [{low:.0f} - {high:.0f}]':>22} | {middle / 1000 / base:>10.2f}x |"
                )
            rows += [
                Row(
                    what=title,
                    ours="dense",
                    peer=label,
                    seconds=spread(seconds["dense"]),
                    peer_seconds=spread(runs),
                    times=ratios(runs, seconds["dense"]),
                    least_times=TARGETS[name] if "at a time" in label else None,
                )
                for label, runs in seconds.items()
                if "windows" in label
            ]
    finish(rows, arguments.json, about)


if __name__ == "__main__":
    main()

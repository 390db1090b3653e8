"""Time the update of the confusion matrix beside that of torchmetrics' Jaccard index.

The label maps are 4 x 360 x 480 with regions as large as those of photographs, and a tenth of the pixels predicted
wrong. All variants run in turn within each repeat; medians are printed, and the median of the ratios of each repeat.
The matrices are compared before: they must be equal.

    python benchmarks/confusion_matrix.py --repeats 31
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from fullyconv.training.metrics import ConfusionMatrix
from measuring import Row, add_json, finish, machine, ratios, spread, version

SHAPE = (4, 360, 480)
PEER = "torchmetrics, MulticlassJaccardIndex.update"


def regions(classes: int, generator: torch.Generator) -> Tensor:
    """Draw label maps of smooth regions, a few dozen pixels wide."""
    scores = torch.rand(SHAPE[0], classes, 12, 16, generator=generator)
    return torch.nn.functional.interpolate(scores, SHAPE[1:], mode="bilinear").argmax(1)


def maps(classes: int, ignore: bool) -> tuple[Tensor, Tensor]:
    """Draw predictions and masks, (N, H, W) int64 each; a twentieth of the masks is 255 if `ignore`."""
    generator = torch.Generator().manual_seed(classes)
    mask = regions(classes, generator)
    prediction = torch.where(torch.rand(SHAPE, generator=generator) < 0.1, regions(classes, generator), mask)
    if ignore:
        mask[torch.rand(SHAPE, generator=generator) < 0.05] = 255
    return prediction, mask


def variants(classes: int, ignore: bool) -> dict[str, Callable[[], object]]:
    """Make what is timed, the peer last, and see that all count the same."""
    prediction, mask = maps(classes, ignore)
    small = (prediction.to(torch.uint8), mask.to(torch.uint8))
    ours, bytewise = ConfusionMatrix(classes), ConfusionMatrix(classes)
    peer = MulticlassJaccardIndex(classes, ignore_index=255 if ignore else None)
    ours.update(prediction, mask)
    bytewise.update(*small)
    peer.update(prediction, mask)
    for matrix in (bytewise.matrix, peer.confmat):
        torch.testing.assert_close(matrix, ours.matrix, rtol=0, atol=0)
    return {
        "fullyconv, ConfusionMatrix.update": lambda: ours.update(prediction, mask),
        "the same, maps of bytes": lambda: bytewise.update(*small),
        PEER: lambda: peer.update(prediction, mask),
    }


def main() -> None:
    """Run the comparison and print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=31, help="runs of each variant; their median counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; with 1, processor time is measured")
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    # What other processes do to the clock on the wall does not count; with more threads there is no other clock.
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    about = machine("torch", "torchmetrics", threads=arguments.threads)
    print(about)
    rows: list[Row] = []
    for classes in (21, 12):
        for ignore in (False, True):
            timed = variants(classes, ignore)
            seconds: dict[str, list[float]] = {label: [] for label in timed}
            for _ in range(arguments.repeats + 1):
                for label, run in timed.items():
                    start = clock()
                    run()
                    seconds[label].append(clock() - start)
            print(
                f"\n{classes} classes, {'5 % of the pixels ignored' if ignore else 'default arguments'}; median of "
                f"{arguments.repeats} [min - max]"
            )
            print(f"| {'variant':45} | {'ms':>22} | {'times faster':>12} |\n|{'-' * 47}|{'-' * 24}|{'-' * 14}|")
            for label, all_runs in seconds.items():
                runs = all_runs[1:]  # the first one warms up
                middle, low, high = (1000 * value for value in (statistics.median(runs), min(runs), max(runs)))
                ratio = statistics.median(theirs / own for theirs, own in zip(seconds[PEER][1:], runs, strict=True))
                print(f"| {label:45} | {f'{middle:.2f} [{low:.2f} - {high:.2f}]':>22} | {f'{ratio:.1f}x':>12} |")
                if label != PEER:
                    rows.append(
                        Row(
                            what=f"confusion matrix of 4 x 360 x 480, {classes} classes{', 5 % ignored' * ignore}",
                            ours=label.replace("the same,", "ConfusionMatrix.update,"),
                            peer=f"{version('torchmetrics')}, MulticlassJaccardIndex.update",
                            seconds=spread(runs),
                            peer_seconds=spread(seconds[PEER][1:]),
                            times=ratios(seconds[PEER][1:], runs),
                            least_times=15.0 if classes == 21 else None,
                        )
                    )
    finish(rows, arguments.json, about)


if __name__ == "__main__":
    main()

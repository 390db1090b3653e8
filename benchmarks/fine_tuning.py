"""Train on a data set from a segmenter of the zoo and from random initialization, at equal budget.

Both runs are `fullyconv fit`, with the same network, options, seed and number of epochs; only the start differs. What
is printed is what `fit` measured on the stored model folder, on test where the set has one, else on val: the mIoU of
each seed, the mean over the seeds, and how much the start gained. A run that was interrupted goes on, and one that is
finished is only read, so that the same command may be given again.

    python benchmarks/fine_tuning.py $FULLYCONV_DATA/pets128 $FULLYCONV_DATA/neu_seg --epochs 4 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import fullyconv


def run(data: str, start: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train once, or go on with it, and read the score."""
    kind = "random" if start.startswith("random:") else start.replace("/", "_")
    folder = Path(arguments.out) / f"{Path(data).name}-{kind}-{arguments.epochs}-{seed}"
    command = [sys.executable, "-m", "fullyconv", "fit", data, "--model", start, "--out", str(folder)]
    command += ["--epochs", str(arguments.epochs), "--seed_everything", str(seed), f"--data.seed={seed}"]
    command += arguments.options
    folder.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        begun = time.monotonic()
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}; see {folder}.log")
    found = json.loads((folder / "model" / "config.json").read_text())
    print(
        f"{Path(data).name}, {start}, seed {seed}: mIoU {found['score']['mean_iou']:.2f} on "
        f"{found['score']['split']}, {found['training']['minutes']} minutes of training"
        f"{' (read)' if time.monotonic() - begun < 20 else ''}",
        flush=True,
    )
    score: dict[str, Any] = found["score"] | {"steps": found["training"]["steps"]}
    return score


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="DATA", help="folders of data sets that fit takes without options")
    parser.add_argument("--model", default="street", help="what to start from; street")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", default="runs/fine_tuning", metavar="FOLDER", help="where the runs lie")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="options of fit, the same for both")
    arguments = parser.parse_args()
    network = fullyconv.load(arguments.model).hparams["model"]
    starts = (arguments.model, f"random:{network}")
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}, "
        f"torch {torch.__version__}, fullyconv {fullyconv.__version__}",
        flush=True,
    )
    rows = []
    for data in arguments.data:
        scores = {start: [run(data, start, arguments, seed) for seed in arguments.seeds] for start in starts}
        means = [statistics.mean(score["mean_iou"] for score in scores[start]) for start in starts]
        gains = [
            one["mean_iou"] - other["mean_iou"] for one, other in zip(scores[starts[0]], scores[starts[1]], strict=True)
        ]
        shown = [", ".join(f"{score['mean_iou']:.1f}" for score in scores[start]) for start in starts]
        first = scores[starts[0]][0]
        rows.append(
            f"| {Path(data).name}, {first['split']} | {first['steps']} | {means[0]:.1f} ({shown[0]}) | "
            f"{means[1]:.1f} ({shown[1]}) | {statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f}) |"
        )
    print(f"\nmean IoU in percent after {arguments.epochs} epochs, the mean over the seeds and each seed\n")
    print(f"| set, scored on | steps | from {starts[0]} | {starts[1]} | difference |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

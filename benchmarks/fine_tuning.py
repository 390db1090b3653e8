"""What a start is worth: the same fine-tuning from random weights, from ImageNet, and from segmenters of the zoo.

Every run is `fullyconv fit` on a set of the zoo, read as its own model reads it, with the same seed, the same options
and as many epochs as come nearest to the steps that are asked for; only the start differs. Random initialization and
ImageNet's weights are for the network that the segmenters have, too. What is printed is the mIoU on **val** of the
model folder that `fit` wrote, and the IoU of each class. A run that was interrupted goes on, and one that is finished
is only read, so that the same command may be given again.

    FULLYCONV_DATA=FOLDER python benchmarks/fine_tuning.py --steps 600 --seeds 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fullyconv
from fullyconv import SegmentationDataModule
from fullyconv.cli.options import FRACTIONS, add_reading, reading_of
from fullyconv.plan import plan
from fullyconv.weights import catalog

STARTS = ("random:ladder_efficientnet_lite0", "efficientnet_lite0.imagenet", "street", "pets")
SETS = ("cracks", "steel_defects", "weeds")


def reading(name: str) -> list[str]:
    """Give the set of a model of the zoo, and the options by which it is read, from the command beside its score."""
    entry = catalog.find(name)
    assert entry is not None
    assert entry.config is not None
    words = shlex.split((entry.config.score or {})["command"])[3:]
    at = words.index("--split")
    return words[:at] + words[at + 2 :]


def epochs_of(name: str, steps: int) -> int:
    """Give the number of epochs that comes nearest to a number of steps."""
    data, *options = reading(name)
    parser = argparse.ArgumentParser()
    add_reading(parser, FRACTIONS)
    module = SegmentationDataModule(data, **reading_of(parser.parse_args(options)))
    chosen = plan(module, model=STARTS[0]).settings
    each = chosen["data.repeats"] * len(module.dataset("train").pairs) // chosen["data.batch_size"]
    return max(1, round(steps / each))


def run(name: str, start: str, seed: int, epochs: int, out: Path) -> dict[str, Any]:
    """Train once, or go on with it, and score what was written on val."""
    data, *options = reading(name)
    folder = out / f"{name}-{start.replace(':', '_')}-{epochs}-{seed}"
    written = Path(f"{folder}.json")
    if not written.is_file():
        command = ["fit", data, *options, "--model", start, "--out", str(folder), "--epochs", str(epochs)]
        command += ["--seed_everything", str(seed), f"--data.seed={seed}", "--data.num_workers=0"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}.log", "a") as log:
            done = subprocess.run([sys.executable, "-m", "fullyconv", *command], stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}; see {folder}.log")
        command = ["validate", str(folder / "model"), data, *options, "--json"]
        scored = subprocess.run([sys.executable, "-m", "fullyconv", *command], stdout=subprocess.PIPE, text=True)
        if scored.returncode:
            raise SystemExit(f"{shlex.join(command)} ended with {scored.returncode}")
        found = json.loads(scored.stdout)
        found["steps"] = json.loads((folder / "model" / "config.json").read_text())["training"]["steps"]
        written.write_text(json.dumps(found))
    loaded: dict[str, Any] = json.loads(written.read_text())
    print(f"{name}, {start}, seed {seed}: mIoU {loaded['mean_iou']:.2f}", flush=True)
    return loaded


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), metavar="START")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tuning"), metavar="FOLDER", help="of the runs")
    arguments = parser.parse_args()
    names = arguments.sets or list(SETS)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}; about {arguments.steps} steps",
        flush=True,
    )
    epochs = {name: epochs_of(name, arguments.steps) for name in names}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in arguments.seeds:  # a whole table of one seed before the next
        for name in names:
            for start in arguments.starts:
                one = run(name, start, seed, epochs[name], arguments.out)
                found.setdefault((name, start), []).append(one)
    print("\n| set | steps | start | mIoU on val (each seed) | IoU of the classes |\n|---|---|---|---|---|")
    for (name, start), scores in found.items():
        mean = statistics.mean(score["mean_iou"] for score in scores)
        each = ", ".join(f"{score['mean_iou']:.1f}" for score in scores)
        classes = ", ".join(
            f"{label} {statistics.mean(score['iou'][label] or 0.0 for score in scores):.1f}"
            for label in scores[0]["iou"]
        )
        print(f"| {name} | {scores[0]['steps']} | {start} | {mean:.1f} ({each}) | {classes} |")


if __name__ == "__main__":
    main()

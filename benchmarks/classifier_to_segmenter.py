"""What a classifier of the same images is worth as a start: a segmenter from it, and one from random numbers.

The classifier `steel_kinds` knows which kind of defect an image shows, and never saw where. The same network is
trained with masks from it and from random initialization, at equal budget: the recipe
zoo/fcn4s_vgg11_quarter.neu_seg/recipe.yaml with fewer epochs, whose start alone is taken away. Test is scored once,
after the last epoch. A run that was interrupted goes on, and one that is finished is only read.

    FULLYCONV_DATA=FOLDER python benchmarks/classifier_to_segmenter.py --epochs 8 --seeds 1 2 3

Further options are those of `fullyconv fit`. Averaged weights lag behind in a short training, and the more so the
farther it has to go: with few epochs, --model.ema_decay=null.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fullyconv

RECIPE = "zoo/fcn4s_vgg11_quarter.neu_seg/recipe.yaml"


def train(start: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, or read what was trained."""
    name = "".join(sign if sign.isalnum() else "_" for sign in "".join(arguments.further))
    folder = Path(arguments.out) / f"{start}-{arguments.epochs}-{seed}{name}"
    written = folder / "model" / "config.json"
    if not (written.is_file() and json.loads(written.read_text()).get("score")):
        command = [sys.executable, "-m", "fullyconv", "fit", "--config", RECIPE, f"--run.folder={folder}"]
        command += [f"--run.model_folder={folder / 'model'}", f"--seed_everything={seed}", f"--data.seed={seed}"]
        command += [f"--trainer.max_epochs={arguments.epochs}", "--trainer.enable_progress_bar=false"]
        command += [f"--trainer.check_val_every_n_epoch={arguments.epochs}", *arguments.further]
        if start == "random":
            command.append("--model.backbone_weights=null")
        if (folder / "checkpoints" / "last.ckpt").is_file():
            command.append("--ckpt_path=last")
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise SystemExit(f"{' '.join(command)} went wrong; see {folder}/log.txt")
    found: dict[str, Any] = json.loads(written.read_text())
    score: dict[str, Any] = found["score"]
    print(f"from {start}, seed {seed}: mIoU {score['mean_iou']:.2f} on {score['split']}, "
          f"{found['training']['minutes']} minutes", flush=True)  # fmt: skip
    return score


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", default="runs/classifier_to_segmenter", metavar="FOLDER", help="where the runs lie")
    arguments, arguments.further = parser.parse_known_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}; {arguments.epochs} epochs "
        f"{' '.join(arguments.further)}\n"
    )
    starts = ("classifier", "random")
    scores: dict[str, list[dict[str, Any]]] = {start: [] for start in starts}
    for seed in arguments.seeds:
        for start in starts:
            scores[start].append(train(start, seed, arguments))
    kinds = list(scores["random"][0]["iou"])
    print(f"\n| start | mIoU (each seed) | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for start, each in scores.items():
        values = [score["mean_iou"] for score in each]
        listed = ", ".join(f"{value:.1f}" for value in values)
        ius = [statistics.mean(score["iou"][kind] for score in each) for kind in kinds]
        print(f"| {start} | {statistics.mean(values):.1f} ({listed}) | {' | '.join(f'{iou:.1f}' for iou in ius)} |")


if __name__ == "__main__":
    main()

"""The story of every explainer on real data: a classifier finds what nobody showed it, and becomes a segmenter.

First the shipped classifier of tile defects, which knows the names of folders and never saw a mask, is converted and
scores every window of whole test pictures, enlarged so that a window is a part of them. Does the highest score of the
kind that the classifier itself names lie on the defect (the pointing game of Zhang et al. 2016, 15 pixels of
tolerance)? Beside it: the centre of the picture, and a random pixel. And how well do the scores order the pixels (area
under the ROC curve of each picture, 50 is chance)?

Then the same network is trained with masks, from the classifier and from random initialisation, at equal budget: the
recipe zoo/fcn4s_vgg11_quarter.magnetic_tile/recipe.yaml, whose start alone is taken away. A run that was interrupted
goes on, and one that is finished is only read.

    FULLYCONV_DATA=FOLDER python benchmarks/classifier_to_segmenter.py --seeds 1 2 3
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

import numpy as np
import torch
import torch.nn.functional as F

import fullyconv
from fullyconv import SegmentationDataModule
from fullyconv.data.folder import read_pair

CLASSIFIER = "tile_kinds"
RECIPE = "zoo/fcn4s_vgg11_quarter.magnetic_tile/recipe.yaml"
SPLIT = {"test_fraction": 0.2, "val_fraction": 0.1}
TOLERANCE = 15


def localise(zoom: float, split: str) -> dict[str, float]:
    """Play the pointing game.

    Args:
        zoom: the shorter side of a picture becomes so many times the classifier's own size.
        split: whose pictures.

    Returns:
        Shares in percent.
    """
    classifier = fullyconv.load_classifier(CLASSIFIER)
    dense = classifier.convolutionalize()
    data = SegmentationDataModule("magnetic_tile", **SPLIT)  # type: ignore[arg-type]
    named, hits, centred, chance, areas = [], [], [], [], []
    own = classifier.input_size
    for pair in data.splits[split]:
        pixels, mask = read_pair(pair, data.labels, data.source.reader)
        if not (mask == 1).any():
            continue
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            kind = int(classifier(F.interpolate(image, own, mode="bilinear", antialias=True)).argmax())
            factor = zoom * own[0] / min(mask.shape)
            size = [max(own[0], round(factor * n)) for n in mask.shape]
            logits = dense(F.interpolate(image, size, mode="bilinear", antialias=factor < 1))
            heat = F.interpolate(logits.softmax(1)[:, kind, None], mask.shape, mode="bilinear")[0, 0].numpy()
        named.append(classifier.classes[kind] in pair.image.parts[-3].lower())
        truth = torch.from_numpy((mask == 1).astype(np.float32))[None, None]
        near = F.max_pool2d(truth, 2 * TOLERANCE + 1, 1, TOLERANCE)[0, 0].numpy() > 0
        hits.append(bool(near[np.unravel_index(heat.argmax(), heat.shape)]))
        centred.append(bool(near[mask.shape[0] // 2, mask.shape[1] // 2]))
        chance.append(float(near.mean()))
        areas.append(_area(heat, mask == 1))
    found = {"named": named, "found": hits, "centre": centred, "chance": chance, "auc": areas}
    return {key: 100 * float(np.mean(values)) for key, values in found.items()} | {"pictures": len(hits)}


def _area(heat: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Give the area under the ROC curve: how often a pixel of the defect scores higher than one beside it."""
    positive, negative = heat[truth], np.sort(heat[~truth])
    if not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def train(start: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, or read what was trained."""
    folder = Path(arguments.out) / f"{start}-{arguments.epochs}-{seed}"
    written = folder / "artefact" / "config.json"
    if not (written.is_file() and json.loads(written.read_text()).get("score")):
        command = [sys.executable, "-m", "fullyconv", "fit", "--config", RECIPE, f"--run.folder={folder}"]
        command += [f"--run.artefact={folder / 'artefact'}", f"--seed_everything={seed}", f"--data.seed={seed}"]
        command += [f"--trainer.max_epochs={arguments.epochs}", "--trainer.enable_progress_bar=false"]
        if start == "random":
            command.append("--model.backbone_weights=null")
        if (folder / "checkpoints" / "last.ckpt").is_file():
            command.append("--ckpt_path=last")
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise SystemExit(f"{' '.join(command)} went wrong; see {folder}/log.txt")
    found: dict[str, Any] = json.loads(written.read_text())
    score: dict[str, Any] = found["score"]
    print(f"from {start}, seed {seed}: {_line(score)}, {found['training']['minutes']} minutes", flush=True)
    return score


def _line(score: dict[str, Any]) -> str:
    return f"mean IU {score['mean_iu']:.2f}, IU of the defect {score['iu']['foreground']:.2f} on {score['split']}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoom", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--split", default="test", help="of the pointing game")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--out", default="runs/classifier_to_segmenter", metavar="FOLDER", help="where the runs lie")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}; {CLASSIFIER}\n"
    )
    print("| zoom | pictures with a defect | kind named, % | found, % | centre, % | random pixel, % | AUC, % |")
    print("|---|---|---|---|---|---|---|")
    for zoom in arguments.zoom:
        found = localise(zoom, arguments.split)
        shares = " | ".join(f"{found[key]:.1f}" for key in ("named", "found", "centre", "chance", "auc"))
        print(f"| {zoom:g} | {found['pictures']} | {shares} |", flush=True)
    if not arguments.seeds:
        return
    scores = {start: [train(start, seed, arguments) for seed in arguments.seeds] for start in ("classifier", "random")}
    print(
        f"\nIU of the defect and mean IU on test after {arguments.epochs} epochs: the mean over the seeds, each seed\n"
    )
    print("| start | IU of the defect | mean IU |\n|---|---|---|")
    for start, each in scores.items():
        cells = []
        for values in ([score["iu"]["foreground"] for score in each], [score["mean_iu"] for score in each]):
            cells.append(f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})")
        print(f"| {start} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

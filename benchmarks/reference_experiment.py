"""Do skips, stages and learned upsampling help? Table 2 of Long et al. (2015) on CamVid, from ImageNet weights.

Networks with one backbone are trained with the same data, augmentation, optimizer and number of epochs, several seeds
each: FCN-32s, 16s and 8s in stages, 8s at once, 8s with learned transposed convolution in stages, the ladder head, and
8s from random initialization. As in the paper the backbone begins with the weights of a classifier. Staged networks
share their epochs out over their stages. Weights are averaged (EMA), and those of the last epoch are scored once on
val: nothing is chosen. The time is that of one image of 360 x 480 on one thread.

Every epoch is a checkpoint: the same command goes on where it was stopped, and prints what is finished.

    FULLYCONV_DATA=FOLDER python benchmarks/reference_experiment.py --epochs 12 --seeds 1 2
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import fullyconv
from fullyconv import SegmentationDataModule, SegmentationModule
from training import WEIGHTS, fit

METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


@dataclass(frozen=True)
class Row:
    """One network of the table.

    Args:
        title: how the table calls it.
        model: the preset that training starts with, without the backbone.
        upsampling: how it upsamples.
        grows: strides that are added in stages.
        pretrained: whether the backbone begins with ImageNet weights.
    """

    title: str
    model: str
    upsampling: Literal["bilinear", "learned"] = "bilinear"
    grows: tuple[int, ...] = ()
    pretrained: bool = True


ROWS = {
    "32s": Row("FCN-32s", "fcn32s"),
    "16s": Row("FCN-16s, staged", "fcn32s", grows=(16,)),
    "8s": Row("FCN-8s, staged", "fcn32s", grows=(16, 8)),
    "8s_atonce": Row("FCN-8s at once", "fcn8s_atonce"),
    "8s_learned": Row("FCN-8s, staged, learned transposed convolution", "fcn32s", "learned", (16, 8)),
    "ladder": Row("ladder", "ladder"),
    "8s_random": Row("FCN-8s, staged, from random initialization", "fcn32s", grows=(16, 8), pretrained=False),
}


def stage(module: SegmentationModule, epochs: int, seed: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Train one stage, or go on with it."""
    height, width = arguments.crop
    low, high = arguments.scale
    data = SegmentationDataModule(
        "camvid", batch_size=arguments.batch, crop_size=(height, width), scale=(low, high), seed=seed, cache="memory"
    )
    # A third less time on a CPU; the layout of the memory changes no result beyond rounding.
    module.to(memory_format=torch.channels_last)
    fit(module, _prepared(data), folder, epochs, seed)


def _prepared(data: SegmentationDataModule) -> Any:
    data.setup("fit")
    return data.train_dataloader()


def train(row: Row, seed: int, folder: Path, arguments: argparse.Namespace) -> SegmentationModule:
    """Train all stages of a row."""
    epochs = arguments.epochs
    data = SegmentationDataModule("camvid")
    torch.manual_seed(seed)
    module = SegmentationModule(
        f"{row.model}_{arguments.backbone}",
        classes=data.labels,
        upsampling=row.upsampling,
        backbone_weights=arguments.start if row.pretrained else None,
        class_weights=WEIGHTS,
        optimizer="adamw",
        lr=arguments.lr,
        backbone_lr_factor=0.3 if row.pretrained else 1.0,
        weight_decay=0.02,
        schedule="cosine",
        warmup_steps=50,
        ema_decay=0.99,
    )
    stages = len(row.grows) + 1
    for number in range(stages):
        if number:
            module = module.grow(row.grows[number - 1])
        # The remainder goes to the first stage, which has the most to learn.
        share = epochs // stages + (epochs % stages if number == 0 else 0)
        stage(module, share, seed, folder / f"stage{number}", arguments)
    return module


def milliseconds(module: SegmentationModule, repeats: int = 15) -> float:
    """Time one image on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    image = torch.zeros(1, 3, 360, 480).to(memory_format=torch.channels_last)
    module = module.to(memory_format=torch.channels_last)
    times = []
    try:
        with torch.inference_mode():
            for _ in range(repeats + 3):
                begun = time.perf_counter()
                module.eval()(image)
                times.append(1000 * (time.perf_counter() - begun))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[3:])


def result(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the scores of one network and seed; train it if it was not."""
    folder = Path(arguments.out) / f"{name}-{arguments.epochs}-{seed}"
    written = folder / "result.json"
    if not written.is_file():
        begun = time.monotonic()
        module = train(ROWS[name], seed, folder, arguments)
        data = SegmentationDataModule("camvid", eval_batch_size=4)
        found = module.evaluate(data, "val").to_dict(module.classes)
        found |= {"parameters": sum(p.numel() for p in module.model.parameters())}
        found |= {"minutes of the last call": round((time.monotonic() - begun) / 60, 1)}
        partial = written.with_suffix(".part")
        partial.write_text(json.dumps(found))
        partial.replace(written)
        print(f"{name}, seed {seed}: mIoU {found['mean_iou']:.2f}", flush=True)
    loaded: dict[str, Any] = json.loads(written.read_text())
    return loaded


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all")
    parser.add_argument("--epochs", type=int, default=12, help="of each network, over all its stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--start", default="efficientnet_lite0.imagenet", help="weights that the backbone begins with")
    parser.add_argument("--crop", type=int, nargs=2, default=[176, 240], help="height and width of training crops")
    parser.add_argument("--scale", type=float, nargs=2, default=[0.5, 1.1], help="range of the random scale")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--out", default="runs/reference_experiment", metavar="FOLDER", help="where the runs lie")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", ".*(does not have many workers|No `val_dataloader`|skipping|validation).*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    names = arguments.rows or list(ROWS)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}; {arguments.backbone}, {arguments.epochs} epochs of "
        f"CamVid's 367 training images, crops of {arguments.crop[0]} x {arguments.crop[1]}, batches of "
        f"{arguments.batch}, seeds {', '.join(map(str, arguments.seeds))}",
        flush=True,
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in arguments.seeds:  # a whole table of one seed before the next
        for name in names:
            found[name].append(result(name, seed, arguments))
    print("\n| network | pixel acc. | mean acc. | mIoU (each seed) | f.w. IoU | parameters | ms an image |")
    print("|---|---|---|---|---|---|---|")
    for name, scores in found.items():
        means = {key: statistics.mean(score[key] for score in scores) for key in METRICS}
        spread = statistics.stdev(score["mean_iou"] for score in scores) if len(scores) > 1 else 0.0
        each = ", ".join(f"{score['mean_iou']:.1f}" for score in scores)
        row = ROWS[name]
        last = f"fcn{row.grows[-1]}s" if row.grows else row.model
        module = SegmentationModule(
            f"{last}_{arguments.backbone}",
            classes=[f"class {index}" for index in range(11)],
            upsampling=row.upsampling,
        )
        print(
            f"| {row.title} | {means['pixel_accuracy']:.1f} | {means['mean_accuracy']:.1f} | "
            f"{means['mean_iou']:.1f} +- {spread:.1f} ({each}) | {means['frequency_weighted_iou']:.1f} | "
            f"{scores[0]['parameters'] / 1e6:.2f} M | {milliseconds(module):.0f} |"
        )


if __name__ == "__main__":
    main()

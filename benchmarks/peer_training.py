"""Train our ladder and segmentation_models.pytorch's Unet and DeepLabV3+ on the same work, from the same weights.

All three have EfficientNet-Lite0 as their backbone (theirs as `tu-tf_efficientnet_lite0`), beginning with the same
ImageNet weights, and are trained by one loop: the same images, crops, augmentation, order, loss, optimizer, learning
rates, schedule and averaging. The averaged weights of the last epoch are scored once on CamVid's val images by
`fullyconv.confusion`: nothing is chosen. The rest of each network begins at random by the seed. Images of 360 x 480
are padded to 384 x 480 for the networks that want multiples of 32.

Every epoch is a checkpoint: the same command goes on where it was stopped, and prints what is finished. Times are taken
at the end of the run, of all networks in turn, when `--time` is given.

    FULLYCONV_DATA=FOLDER python benchmarks/peer_training.py --epochs 15 --seeds 1 2
    FULLYCONV_DATA=FOLDER python benchmarks/peer_training.py --epochs 15 --seeds 1 2 --time
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fullyconv
from fullyconv import SegmentationDataModule, confusion
from fullyconv.fcn import build_model
from fullyconv.training.losses import build_loss
from training import WEIGHTS, fit

BACKBONE = "efficientnet_lite0"
NETWORKS = ("ladder", "Unet", "DeepLabV3Plus")
CLASSES = len(WEIGHTS)
RATE, BACKBONE_RATE, DECAY, WARMUP = 1e-3, 3e-4, 0.02, 100


def pretrained() -> dict[str, Tensor]:
    """Give the ImageNet weights of the backbone, by the keys of timm's network."""
    backbone: nn.Module = fullyconv.load_backbone(BACKBONE, f"{BACKBONE}.imagenet")
    return backbone.state_dict()


def made(name: str) -> tuple[nn.Module, nn.Module]:
    """Make a network with ImageNet weights in its backbone; give both."""
    if name == "ladder":
        model = build_model(f"ladder_{BACKBONE}", CLASSES, head_width=96)
        model.backbone.load_state_dict(pretrained())
        return model, model.backbone
    network: nn.Module = getattr(smp, name)(f"tu-tf_{BACKBONE}", encoder_weights=None, classes=CLASSES)
    encoder: Any = network.encoder
    own = encoder.model.state_dict()
    weights = {key: value for key, value in pretrained().items() if key in own}
    assert set(own) == set(weights), sorted(set(own) ^ set(weights))[:5]
    encoder.model.load_state_dict(weights)
    return network, encoder


class Trained(L.LightningModule):
    """Train a network of logits, as `SegmentationModule` trains ours: here all three by one loop."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network, backbone = made(name)
        self.network.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
        self.average.requires_grad_(False)
        self.loss = build_loss("cross_entropy+dice", 255, WEIGHTS)
        inside = {id(parameter) for parameter in backbone.parameters()}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in inside]
        self.groups = [{"params": rest, "lr": RATE}, {"params": list(backbone.parameters()), "lr": BACKBONE_RATE}]

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Give the loss of a batch."""
        image = (2 * batch["image"] - 1).to(memory_format=torch.channels_last)
        loss: Tensor = self.loss(self.network(image), batch["mask"])
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Average the weights; a step of the first ones counts little."""
        if self.global_step > 20:
            self.average.update_parameters(self.network)

    def configure_optimizers(self) -> Any:
        """Make AdamW with a warm-up and half a cosine."""
        optimizer = torch.optim.AdamW(self.groups, weight_decay=DECAY)
        steps = int(self.trainer.estimated_stepping_batches)

        def rate(step: int) -> float:
            return min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def padded(image: Tensor) -> Tensor:
    """Continue an image to multiples of 32 at the bottom and right."""
    bottom, right = (-size % 32 for size in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def scored(network: nn.Module) -> dict[str, Any]:
    """Score a network on val, at the images' own size."""
    data = SegmentationDataModule("camvid")
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    with torch.inference_mode():
        for batch in _loader(data, "val"):
            height, width = batch["mask"].shape[-2:]
            logits = network.eval()(padded(2 * batch["image"] - 1).to(memory_format=torch.channels_last))
            matrix += confusion.count(logits[..., :height, :width].argmax(1).numpy(), batch["mask"].numpy(), CLASSES)
    return confusion.scores(matrix).to_dict(list(data.classes))


def _loader(data: SegmentationDataModule, split: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup("validate" if split == "val" else "fit")
        return data.val_dataloader() if split == "val" else data.train_dataloader()


def train(name: str, seed: int, folder: Path, epochs: int) -> nn.Module:
    """Train a network, or go on with it, and give its averaged weights."""
    data = SegmentationDataModule(
        "camvid",
        batch_size=4,
        crop_size=(288, 384),
        scale=(0.5, 1.75),
        brightness=0.35,
        contrast=0.35,
        saturation=0.35,
        seed=seed,
        cache="memory",
    )
    torch.manual_seed(seed)
    module = Trained(name)
    fit(module, _loader(data, "train"), folder, epochs, seed)
    averaged: nn.Module = module.average.module
    return averaged


def result(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the score of one network and seed; train it if it was not."""
    folder = Path(arguments.out) / f"{name}-{arguments.epochs}-{seed}"
    written = folder / "result.json"
    if not written.is_file():
        found = scored(train(name, seed, folder, arguments.epochs))
        partial = written.with_suffix(".part")
        partial.write_text(json.dumps(found))
        partial.replace(written)
        print(f"{name}, seed {seed}: mIoU {found['mean_iou']:.2f}", flush=True)
    loaded: dict[str, Any] = json.loads(written.read_text())
    return loaded


def times(repeats: int = 7) -> dict[str, tuple[float, float]]:
    """Time an image of 384 x 480 to its best classes, and a training step, of all networks in turn on one thread."""
    torch.set_num_threads(1)
    image = torch.rand(1, 3, 384, 480).to(memory_format=torch.channels_last)
    batch, mask = torch.rand(4, 3, 288, 384).to(memory_format=torch.channels_last), torch.randint(0, 11, (4, 288, 384))
    modules = {name: Trained(name) for name in NETWORKS}
    optimizers = {name: torch.optim.AdamW(module.groups) for name, module in modules.items()}
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in NETWORKS}
    for _ in range(repeats + 1):
        for name, module in modules.items():
            begun = time.process_time()
            with torch.inference_mode():
                module.network.eval()(image).argmax(1)
            seen[name][0].append(1000 * (time.process_time() - begun))
            module.network.train()
            begun = time.process_time()
            module.loss(module.network(batch), mask).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seen[name][1].append(time.process_time() - begun)
    return {name: (statistics.median(one[1:]), statistics.median(two[1:])) for name, (one, two) in seen.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--time", action="store_true", help="time all networks, on a machine that does nothing else")
    parser.add_argument("--out", default="runs/peer_training", metavar="FOLDER", help="where the runs lie")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", ".*(does not have many workers|skipping|validation|fork).*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, fullyconv {fullyconv.__version__}, segmentation_models.pytorch {smp.__version__}; "
        f"{BACKBONE}, {arguments.epochs} epochs of CamVid's 367 training images, crops of 288 x 384, batches of 4, "
        f"seeds {', '.join(map(str, arguments.seeds))}, scored on val",
        flush=True,
    )
    names = arguments.networks or list(NETWORKS)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in arguments.seeds:  # a whole table of one seed before the next
        for name in names:
            found[name].append(result(name, seed, arguments))
    taken = times() if arguments.time else {}
    print("\n| network | mIoU on val (each seed) | parameters | ms an image | seconds a step | time beside ours |")
    print("|---|---|---|---|---|---|")
    for name, scores in found.items():
        each = ", ".join(f"{score['mean_iou']:.2f}" for score in scores)
        mean = statistics.mean(score["mean_iou"] for score in scores)
        parameters = sum(parameter.numel() for parameter in made(name)[0].parameters()) / 1e6
        image, step = taken.get(name, (math.nan, math.nan))
        ratio = image / taken["ladder"][0] if taken else math.nan
        print(f"| {name} | {mean:.2f} ({each}) | {parameters:.2f} M | {image:.0f} | {step:.2f} | {ratio:.2f}x |")


if __name__ == "__main__":
    main()

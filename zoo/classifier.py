"""Train a classifier on images of a segmentation set that are of one kind each, and never on where in them it is.

Where every folder holds one kind of image (MT_Crack/, MT_Fray/, ...) its name is an image label. Elsewhere the label
is the one class, beside the background, that occurs in an image's mask; images of several kinds are left out. The
splits are those that `SegmentationDataModule` draws with the same options, so that a segmenter that starts from the
classifier is tested on images that neither has seen.

    FULLYCONV_DATA=FOLDER python zoo/classifier.py fit --config zoo/NAME/recipe.yaml
    FULLYCONV_DATA=FOLDER python zoo/classifier.py test NAME DATA --test_fraction 0.2 --val_fraction 0.1
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import fullyconv
from fullyconv import SegmentationDataModule
from fullyconv.classifier import Classifier
from fullyconv.data.folder import read_pair
from fullyconv.inference.processor import emulates
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.checkpointing import AtomicCheckpointIO, EpochSeed
from fullyconv.weights.architectures import build_classifier

Batch = tuple[Tensor, Tensor]


class Images(Dataset[tuple[Tensor, int]]):
    """The images of one split as (3, H, W) floats in 0..1, with the number of their kind.

    Args:
        data: the opened data.
        split: "train", "val" or "test".
        size: height and width that an image, or a part of one, is resized to.
        area: in training the least and the largest share of the image that is taken; None takes the whole one,
            unchanged.
    """

    def __init__(
        self, data: SegmentationDataModule, split: str, size: int, area: tuple[float, float] | None = None
    ) -> None:
        self.classes, kinds = _by_folder(data, split) or _by_mask(data, split)
        self.items = [
            (torch.from_numpy(data.source.reader.image(pair)).permute(2, 0, 1), kind)
            for pair, kind in zip(data.splits[split], kinds, strict=True)
            if kind is not None
        ]
        turned = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ColorJitter(0.2, 0.2)]
        part = v2.RandomResizedCrop(size, scale=area or (1.0, 1.0), ratio=(0.6, 1.6), antialias=True)
        resized = v2.Resize((size, size), antialias=True)
        self.transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), *([part, *turned] if area else [resized])])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.items[index]
        return self.transform(image), label


def _by_folder(data: SegmentationDataModule, split: str) -> tuple[list[str], list[int | None]] | None:
    """Name the kinds by the folders that the images lie in; None where they are those of no kinds."""
    root = data.source.root

    def first(path: Path) -> str:
        return path.relative_to(root).parts[0]

    folders = sorted({first(pair.image) for part in data.splits.values() for pair in part})
    shared = folders[0].rpartition("_")[0] + "_"
    if len(folders) < 2 or shared == "_" or not all(folder.startswith(shared) for folder in folders):
        return None
    return [folder.removeprefix(shared).lower() for folder in folders], [
        folders.index(first(pair.image)) for pair in data.splits[split]
    ]


def _by_mask(data: SegmentationDataModule, split: str) -> tuple[list[str], list[int | None]]:
    """Name the kinds by the classes, without the first one, the background; None for an image of several or none."""
    kinds: list[int | None] = []
    for pair in data.splits[split]:
        _, mask = read_pair(pair, data.labels, data.source.reader)
        found = [kind for kind in range(1, len(data.classes)) if (mask == kind).any()]
        kinds.append(found[0] - 1 if len(found) == 1 else None)
    return list(data.classes[1:]), kinds


class KindsDataModule(L.LightningDataModule):
    """Images and the kinds that their folders name.

    Args:
        data: a folder, or the name of a public set, as `SegmentationDataModule` takes it.
        size: height and width the classifier is trained at.
        area: least share of an image that a training crop has.
        largest: largest share of an image that it has.
        values: what the values of the masks mean, as `SegmentationDataModule` takes it.
        batch_size: samples a batch.
        test_fraction: share set aside for testing.
        val_fraction: share of the others set aside for validation.
        split_seed: seed of both.
    """

    def __init__(
        self,
        data: str,
        size: int = 224,
        area: float = 0.3,
        largest: float = 1.0,
        batch_size: int = 16,
        test_fraction: float = 0.2,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        values: dict[int | str, str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        opened = SegmentationDataModule(
            data, test_fraction=test_fraction, val_fraction=val_fraction, split_seed=split_seed, values=values
        )
        self.batch_size = batch_size
        self.parts = {
            split: Images(opened, split, size, (area, largest) if split == "train" else None) for split in opened.splits
        }
        self.classes = self.parts["train"].classes
        counts = Counter(label for _, label in self.parts["train"].items)
        # Rare kinds count for more, by the square root of how rare they are, mean 1.
        rare = torch.tensor([counts[index] for index in range(len(self.classes))]).float().rsqrt()
        self.class_weights = (rare / rare.mean()).tolist()

    def train_dataloader(self) -> DataLoader[Any]:
        """Load training crops, shuffled."""
        return DataLoader(self.parts["train"], batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Load whole images of val."""
        return DataLoader(self.parts["val"], batch_size=self.batch_size)


class ClassifierModule(L.LightningModule):
    """Train a classifier by cross entropy, AdamW and a cosine.

    Args:
        architecture: as `fullyconv.weights.architectures.build_classifier` takes it.
        classes: the K kinds.
        class_weights: K weights of the loss.
        lr: the highest learning rate.
        weight_decay: of AdamW.
        label_smoothing: in 0..1.
    """

    def __init__(
        self,
        architecture: str,
        classes: list[str],
        class_weights: list[float],
        lr: float = 0.001,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build_classifier(architecture, len(classes)).to(memory_format=torch.channels_last)
        self.register_buffer("weights", torch.tensor(class_weights))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of a batch."""
        image, label = batch
        scores = self.network(IMAGENET(image))
        smooth = float(self.hparams["label_smoothing"])
        loss = F.cross_entropy(scores, label, weight=self.weights, label_smoothing=smooth)  # type: ignore[arg-type]
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the share of right answers."""
        image, label = batch
        right = (self.network(IMAGENET(image)).argmax(1) == label).float().mean()
        self.log("val/top1", 100 * right, prog_bar=True, batch_size=len(label))

    def configure_optimizers(self) -> Any:
        """AdamW, five per cent of warm-up, cosine."""
        lr = float(self.hparams["lr"])
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=float(self.hparams["weight_decay"]))
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def top1(classifier: Classifier, images: Images) -> dict[str, Any]:
    """Score a classifier on whole images.

    Args:
        classifier: the stored classifier.
        images: of the split.

    Returns:
        Per cent of right answers, over all images and for each kind.
    """
    right: Counter[str] = Counter()
    every: Counter[str] = Counter()
    with torch.inference_mode():
        for image, label in images:
            name = images.classes[label]
            every[name] += 1
            right[name] += int(classifier(image[None]).argmax()) == label
    kinds = {name: round(100 * right[name] / every[name], 4) for name in images.classes if every[name]}
    return {
        "top1": round(100 * right.total() / every.total(), 4),
        "mean_accuracy": round(sum(kinds.values()) / len(kinds), 4),
        "accuracy": kinds,
        "images": every.total(),
    }


class CLI(LightningCLI):
    """Lightning's command line, with the run's folder and the classes of the data."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add what the module learns from the data, and where the run lies."""
        parser.add_argument("--folder", type=str, required=True, help="of checkpoints; the model folder lies inside")
        parser.add_argument("--license", type=str, default="unstated")
        parser.add_argument("--ema_decay", type=float, default=0.99)
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.class_weights", "model.class_weights", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add checkpoints and averaged weights to the trainer."""
        folder = Path(self._get(self.config, "folder"))
        kwargs["callbacks"] = [
            ModelCheckpoint(
                folder, "latest", save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
            ),
            EMAWeightAveraging(decay=self._get(self.config, "ema_decay")),
            EpochSeed(int(self._get(self.config, "seed_everything", default=0) or 0)),
        ]
        kwargs["plugins"] = [AtomicCheckpointIO()]
        config = self.config["fit"]["trainer"]
        if "bf16" in str(config["precision"]) and not torch.cuda.is_available() and emulates(torch.bfloat16):
            print("this processor only emulates bf16, many times slower: computed in float32")
            kwargs["precision"] = "32-true"
        kwargs["default_root_dir"] = str(folder)
        self.begun = time.monotonic()
        trainer: L.Trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def after_fit(self) -> None:
        """Write the averaged weights of the last epoch as a model folder, score it on test, write the score into it."""
        config = self.config["fit"]
        folder, data, trained = Path(config.folder), self.datamodule, self.model
        state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
        trained.load_state_dict(state["state_dict"])
        name = Path(data.hparams["data"]).name
        architecture = trained.hparams["architecture"]
        size = int(data.hparams["size"])
        training = {
            "data": name,
            "epochs": int(state["epoch"]) + 1,
            "steps": int(state["global_step"]),
            "minutes": round((time.monotonic() - self.begun) / 60, 1),
            "hardware": f"CPU, {torch.get_num_threads()} thread(s) of torch"
            if trained.device.type == "cpu"
            else torch.cuda.get_device_name(trained.device),
        }
        network = trained.network.cpu()
        classifier = Classifier(network, data.classes, IMAGENET, (size, size), architecture, config.license, training)
        target = folder / f"{architecture}.{folder.name.split('.')[-1]}"
        classifier.save_pretrained(target, dtype="float16")
        stored = fullyconv.load_classifier(f"{target.resolve()}/")
        options = " ".join(f"--{key} {data.hparams[key]}" for key in ("test_fraction", "val_fraction", "split_seed"))
        if data.hparams["values"]:
            options += " --values " + ",".join(f"{key}={name}" for key, name in data.hparams["values"].items())
        score = {"data": name, "split": "test"} | top1(stored, data.parts["test"])
        score["command"] = f"python zoo/classifier.py test {target.name} {data.hparams['data']} {options}"
        classifier.score = score
        classifier.save_pretrained(target, dtype="float16")
        print(f"model folder written to {target}\n{score}")


def _test(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="classifier.py test", description="score a classifier on whole images")
    parser.add_argument("model", help="a name of the zoo, or a folder")
    parser.add_argument("data")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"])
    parser.add_argument("--test_fraction", type=float, default=0.2)
    parser.add_argument("--val_fraction", type=float, default=0.1)
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--values", help="what the values of the masks mean: 0=background,1=crack")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    own = parser.parse_args(words)
    classifier = fullyconv.load_classifier(own.model)
    size = classifier.input_size[0]
    data = SegmentationDataModule(
        own.data,
        test_fraction=own.test_fraction,
        val_fraction=own.val_fraction,
        split_seed=own.split_seed,
        values=dict(each.split("=") for each in own.values.split(",")) if own.values else None,
    )
    images = Images(data, own.split, size)
    if images.classes != classifier.classes:
        raise SystemExit(f"{own.model} has the classes {classifier.classes}, {own.data} {images.classes}")
    found = top1(classifier, images)
    if own.json:
        print(json.dumps(found))
        return
    print(f"{own.split}: {found['images']} images, top-1 {found['top1']:.2f} %, mean of the kinds "
          f"{found['mean_accuracy']:.2f} %")  # fmt: skip
    for name, value in found["accuracy"].items():
        print(f"{name:12} {value:.2f} %")


def main() -> None:
    """Run the command line."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore", ".*(does not have many workers|LeafSpec|args parameter|logging interval|exists).*"
    )
    if sys.argv[1:2] == ["test"]:
        _test(sys.argv[2:])
    elif sys.argv[1:2] == ["fit"]:
        CLI(ClassifierModule, KindsDataModule, args=sys.argv[1:], save_config_callback=None)
    else:
        print(__doc__)


if __name__ == "__main__":
    main()

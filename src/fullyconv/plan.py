"""What ``fullyconv fit DATA`` chooses by itself."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fullyconv.backbones import BACKBONES
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.pairs import Pair
from fullyconv.data.sources import check_labels
from fullyconv.errors import some
from fullyconv.hub.load import load
from fullyconv.inference.processor import Device, device_of
from fullyconv.labels import IGNORE, Labels
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.module import SegmentationModule
from fullyconv.training.stopping import FALLING
from fullyconv.training.storing import MODEL_ARGUMENTS
from fullyconv.weights import catalog

RANDOM = "random:"
EPOCH_STEPS = 20
"""Steps of an epoch at least: validation after fewer would take more time than training."""
SCALE = (0.75, 1.5)
"""At half their size thin structures are gone: a range that few sets need, and a short run cannot spare."""


@dataclass(frozen=True)
class Plan:
    """What was chosen for a run, and why.

    Args:
        segmenter: the loaded start, with the classes of the data; None for random initialization.
        settings: options of a recipe, as "data.batch_size" -> value.
        reasons: one sentence for each choice, for people to read.
    """

    segmenter: SegmentationModule | None
    settings: dict[str, Any]
    reasons: list[str] = field(default_factory=list)

    def keeping(self, labels: Labels) -> dict[str, Any] | None:
        """Give the reading of the data by which score layers are kept that are lost to other names alone.

        Args:
            labels: those of the data.

        Returns:
            Options of `SegmentationDataModule`, values and classes; None where nothing is lost, or more than names.
        """
        start = list(self.segmenter.start_classes) if self.segmenter is not None else []
        if len(start) != len(labels.names) or start == list(labels.names):
            return None
        folded = {name.casefold(): name for name in start}
        if folded.keys() == {name.casefold() for name in labels.names}:  # the same names, in another order or case
            names = {name: folded[name.casefold()] for name in labels.names}
        else:
            names = dict(zip(labels.names, start, strict=True))
        said = {value: name for value, name in labels.values.items() if (value, name) != (labels.ignore_index, IGNORE)}
        values = {value: names.get(name, name) for value, name in said.items()}
        return {"values": values, "classes": start}


def plan(
    data: SegmentationDataModule,
    *,
    model: str = "street",
    epochs: int | None = None,
    minutes: float | None = None,
    device: Device = "auto",
    loss: str | None = None,
    batch_size: int | None = None,
    repeats: int | None = None,
    allow_unverified: bool = False,
) -> Plan:
    """Choose what a run needs from the data and the machine.

    Args:
        data: the opened data.
        model: what to start from: a name of the zoo or anything else that `fullyconv.load` takes, or "random:PRESET"
            for a preset of ``fullyconv.MODELS`` with random initialization. From a classifier of the catalog, such as
            "efficientnet_lite0.imagenet", the backbone of a ladder starts.
        epochs: passes over the training images; None chooses.
        minutes: wall-clock budget of all of it, over all interruptions.
        device: as `fullyconv.load` takes it.
        loss: what is asked for, whose own are then its class weights; None chooses both.
        batch_size: images of a step; None chooses.
        repeats: how often an epoch shows each image; None chooses.
        allow_unverified: accept weights without a known digest.

    Returns:
        The plan.

    Raises:
        ValueError: if an argument is out of its range, or the model cannot be trained further.
    """
    place = device_of(device)
    if epochs is not None and epochs < 1:
        raise ValueError(f"--epochs {epochs}: at least 1")
    if minutes is not None and not 0 < minutes < 60 * 24 * 365:
        raise ValueError(f"--minutes {minutes}: a number of minutes above 0")
    quick = place.type != "cpu"
    where = place.type.upper() if quick else "the CPU"
    segmenter, settings, reasons = _start(data, model, allow_unverified)
    train = data.dataset("train").pairs  # which says so where there is no such split
    crop, why = _crop(data, quick)
    settings["data.crop_size"], settings["data.scale"] = crop, SCALE
    reasons.append(f"{why}; scaled by {SCALE[0]} to {SCALE[1]}")
    # Small batches and repeated images leave a small set enough steps; with fewer than 4 batch normalization suffers.
    batch = batch_size or min(len(train), max(4, min(16 if quick else 8, len(train) // EPOCH_STEPS)))
    repeats = repeats or -(-EPOCH_STEPS * batch // len(train))
    settings["data.batch_size"], settings["data.repeats"] = batch, repeats
    times = f", each {repeats} times an epoch" if repeats > 1 else ""
    reasons.append(f"batches of {batch} for {len(train)} training images on {where}{times}")
    workers = 0 if len(train) < 64 else min(8, max(0, (os.cpu_count() or 1) - 1))
    settings["data.num_workers"] = workers
    steps = max(1, repeats * len(train) // batch)
    # 25 looks at each image, of a small set 500 steps; a GPU has the time for more.
    enough = 6000 if quick else min(1500, max(500, 25 * len(train) // batch))
    chosen = epochs or max(10, min(100, -(-enough // steps)))
    settings["trainer.max_epochs"] = chosen
    if loss is None:
        settings["model.loss"] = "cross_entropy+dice"
        weights, why = _class_weights(data, train)
        if weights is not None:
            settings["model.class_weights"] = weights
        reasons.append(f"cross entropy and Dice; {why}")
    else:
        reasons.append(f"loss {loss}, as you say; classes weigh as --model.class_weights says, or all alike")
    settings["model.optimizer"] = "adamw"
    total = enough if minutes is not None and epochs is None else chosen * steps
    settings["model.lr"] = 0.003 if total <= 1500 else 0.001  # a short run has to learn fast
    settings["model.weight_decay"] = 0.01
    settings["model.warmup_steps"] = max(1, min(50, total // 20))
    settings["model.ema_decay"] = 0.99
    if minutes is not None and epochs is None:
        # Nobody knows how many steps fit into the time: the rate is constant by steps, and the deadline lets it fall.
        settings["model.schedule"] = "constant"
        settings["trainer.max_epochs"] = 1000
        reasons.append(
            f"as many epochs of {steps} steps as fit into {minutes:g} minutes with set-up, validation and scoring, at "
            f"a rate that falls in the last {FALLING:.0%} of the time"
        )
    else:
        settings["model.schedule"] = "cosine"
        reasons.append(f"{chosen} epoch{'' if chosen == 1 else 's'} of {steps} steps")
    settings["trainer.accelerator"] = place.type
    settings["trainer.devices"] = 1 if place.index is None else [place.index]
    # One batch of it tells how long validation takes, before there has been one.
    settings["trainer.num_sanity_val_steps"] = 0 if minutes is None else 1
    settings["trainer.log_every_n_steps"] = max(1, min(20, steps))
    settings["trainer.enable_model_summary"] = False
    return Plan(segmenter, settings, reasons)


def _start(
    data: SegmentationDataModule, model: str, allow_unverified: bool
) -> tuple[SegmentationModule | None, dict[str, Any], list[str]]:
    """Give what a run starts from, as `Plan` has it, the options of the model, and why."""
    settings: dict[str, Any] = {}
    reasons: list[str] = []
    segmenter: SegmentationModule | None = None
    if model.startswith(RANDOM):
        settings["model.model"] = model.removeprefix(RANDOM)
        if data.in_channels != 3:
            numbers = IMAGENET.for_channels(data.in_channels)
            settings["model.in_channels"] = data.in_channels
            settings["model.preprocessing"] = numbers.to_dict()
            reasons.append(
                f"{data.in_channels} channels: the first three have ImageNet's mean and deviation, the others the mean "
                "of these (--model.preprocessing)"
                if data.in_channels > 3
                else f"{data.in_channels} channels: each has the mean of ImageNet's means and deviations"
            )
        reasons.append(f"model {model.removeprefix(RANDOM)}, RANDOM INITIALIZATION: nothing learned elsewhere is used")
    elif (backbone := _backbone_of(model)) is not None:
        settings |= {"model.model": f"ladder_{backbone}", "model.backbone_weights": model}
        settings["model.allow_unverified"] = allow_unverified
        reasons.append(f"model ladder_{backbone}, its backbone started from {model}; the head starts anew")
    else:
        segmenter = load(model, classes=data.labels, allow_unverified=allow_unverified, device="cpu")
        hp = segmenter.hparams
        if not isinstance(hp["classes"], list):
            raise ValueError(f"--model {model}: has several heads; train it in Python, with masks for each")
        if hp["in_channels"] != data.in_channels:
            raise ValueError(
                f"--model {model}: takes images of {hp['in_channels']} channels, and in_channels={data.in_channels} "
                f"is given for the data; start from a model of as many, or at random: --model {RANDOM}{hp['model']}"
            )
        for key in MODEL_ARGUMENTS:
            if hp.get(key) is not None:
                settings[f"model.{key}"] = hp[key]
        settings["model.preprocessing"] = segmenter.preprocessing.to_dict()
        anew = len(segmenter.reinitialized)
        reasons.append(f"model {hp['model']}, started from {model}; {anew} tensors, those of the classes, start anew")
    return segmenter, settings, reasons


def _backbone_of(model: str) -> str | None:
    """Name the backbone that a classifier of the catalog has; None for what is no such classifier."""
    entry = catalog.find(model)
    if entry is None or entry.kind != "classifier" or entry.architecture is None:
        return None
    name = entry.architecture.removeprefix("torchvision/")
    return name if name in BACKBONES else None


def _class_weights(data: SegmentationDataModule, train: Sequence[Pair]) -> tuple[list[float] | None, str]:
    """Weigh the classes by their share of the training pixels, 1 / ln(1.1 + share) with mean 1.

    The weighting is that of ENet (Paszke et al. 2016). A class that training does not have weighs 1.

    Returns:
        K weights, or None where the masks were not counted; and why.
    """
    if not all(pair.mask in data.source.counts for pair in train):
        return None, "all classes weigh alike, as the masks were not counted (--data.check)"
    pixels = check_labels(data.source, train)
    there = {name: pixels[name] for name in data.classes if pixels.get(name)}
    absent = [name for name in data.classes if name not in there]
    raw = {name: 1 / math.log(1.1 + number / sum(there.values())) for name, number in there.items()}
    mean = sum(raw.values()) / max(1, len(raw))
    weights = {name: raw[name] / mean if name in raw else 1.0 for name in data.classes}
    ends = [f"{name} {weights[name]:.2f}" for name in sorted(there, key=weights.__getitem__)]
    why = f"classes weigh by how rare their pixels are: {' to '.join([*ends[:1], *ends[1:][-1:]])}"
    if absent:
        why += f"; training has no pixel of {some(absent)}, so nothing is learned of it"
    return [round(weight, 3) for weight in weights.values()], why


def _crop(data: SegmentationDataModule, quick: bool) -> tuple[tuple[int, int], str]:
    """Choose the training crop: what the images have, as far as memory and time allow; multiples of 32."""
    pairs = data.splits["train"]
    some = pairs[:: max(1, len(pairs) // 200)]
    sizes = [data.source.reader.size(pair) for pair in some]
    middle = tuple(sorted(size[axis] for size in sizes)[len(sizes) // 2] for axis in (0, 1))
    most = 512 if quick else 320
    crop = tuple(max(32, min(most, 32 * (side // 32))) for side in middle)
    return (crop[0], crop[1]), (
        f"crops of {crop[0]} x {crop[1]}: the median image has {middle[0]} x {middle[1]} pixels, and {most} is the "
        f"most that is taken on {'an accelerator' if quick else 'the CPU'}"
    )

"""What ``fullyconv fit DATA`` chooses by itself."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fullyconv.backbones import BACKBONES
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.pairs import Pair
from fullyconv.errors import some
from fullyconv.hub.load import load
from fullyconv.inference.processor import Device, device_of
from fullyconv.labels import IGNORE
from fullyconv.preprocessing import IMAGENET
from fullyconv.training.module import SegmentationModule
from fullyconv.training.stopping import FALLING
from fullyconv.weights import catalog
from fullyconv.weights.pretrained import MODEL_ARGUMENTS

RANDOM = "random:"
EPOCH_STEPS = 20
"""Steps of an epoch at least: validation after fewer would take more time than training."""
SCALE = (0.75, 1.5)
"""At half their size thin structures are gone: a range that few sets need, and a short run cannot spare."""


@dataclass
class Plan:
    """What was chosen for a run, and why.

    Args:
        data: the open data.
        segmenter: the loaded start, with the classes of the data; None for random initialization.
        settings: options of a recipe, as "data.batch_size" -> value.
        reasons: one sentence for each choice, for people to read.
    """

    data: SegmentationDataModule
    segmenter: SegmentationModule | None
    settings: dict[str, Any]
    reasons: list[str]

    def keeping(self) -> dict[str, Any] | None:
        """Give the reading of the data by which score layers are kept that are lost to other names alone.

        Returns:
            Options of `SegmentationDataModule`, values and classes; None where nothing is lost, or more than names.
        """
        labels, start = self.data.labels, list(self.segmenter.start_classes) if self.segmenter else []
        if len(start) != len(labels.names) or start == list(labels.names):
            return None
        folded = {name.casefold(): name for name in start}
        if folded.keys() == {name.casefold() for name in labels.names}:  # the same names, in another order or case
            names = {name: folded[name.casefold()] for name in labels.names}
        else:
            names = dict(zip(labels.names, start, strict=True))
        values = {value: names.get(name, name) for value, name in labels.values.items()}
        if values.get(labels.ignore_index) == IGNORE:
            del values[labels.ignore_index]  # as it is where nothing is said
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
    chosen = _start(data, model, allow_unverified)
    train = data.dataset("train").pairs  # which says so where there is no such split
    # Small batches and repeated images leave a small set enough steps; with fewer than 4 batch normalization suffers.
    batch = batch_size or min(len(train), max(4, min(16 if quick else 8, len(train) // EPOCH_STEPS)))
    repeats = repeats or -(-EPOCH_STEPS * batch // len(train))
    steps = max(1, repeats * len(train) // batch)
    # 25 looks at each image, of a small set 500 steps; a GPU has the time for more.
    enough = 6000 if quick else min(1500, max(500, 25 * len(train) // batch))
    # Nobody knows how many steps fit into minutes: the rate is constant by steps, and the deadline lets it fall.
    endless = minutes is not None and epochs is None
    epochs = epochs or max(10, min(100, -(-enough // steps)))
    total = enough if endless else epochs * steps
    where, times = place.type.upper() if quick else "the CPU", f", each {repeats} times an epoch" * (repeats > 1)
    length = f"{epochs} epoch{'' if epochs == 1 else 's'} of {steps} steps"
    if endless:
        length = (
            f"as many epochs of {steps} steps as fit into {minutes:g} minutes with set-up, validation and scoring, at "
            f"a rate that falls in the last {FALLING:.0%} of the time"
        )
    chosen.reasons += [
        _choose_crop(chosen, quick),
        f"batches of {batch} for {len(train)} training images on {where}{times}",
        _choose_loss(chosen, train, loss),
        length,
    ]
    chosen.settings |= {
        "data.batch_size": batch,
        "data.repeats": repeats,
        "data.num_workers": 0 if len(train) < 64 else min(8, max(0, (os.cpu_count() or 1) - 1)),
        "model.optimizer": "adamw",
        "model.lr": 0.003 if total <= 1500 else 0.001,  # a short run has to learn fast
        "model.weight_decay": 0.01,
        "model.warmup_steps": max(1, min(50, total // 20)),
        "model.ema_decay": 0.99,
        "model.schedule": "constant" if endless else "cosine",
        "trainer.max_epochs": 1000 if endless else epochs,
        "trainer.accelerator": place.type,
        "trainer.devices": 1 if place.index is None else [place.index],
        # One batch of it tells how long validation takes, before there has been one.
        "trainer.num_sanity_val_steps": 0 if minutes is None else 1,
        "trainer.log_every_n_steps": max(1, min(20, steps)),
        "trainer.enable_model_summary": False,
    }
    return chosen


def _start(data: SegmentationDataModule, model: str, allow_unverified: bool) -> Plan:
    """Choose the model, and what it starts from."""
    if model.startswith(RANDOM):
        name, channels = model.removeprefix(RANDOM), data.in_channels
        settings: dict[str, Any] = {"model.model": name}
        reasons = [f"model {name}, RANDOM INITIALIZATION: nothing learned elsewhere is used"]
        if channels != 3:
            settings["model.in_channels"] = channels
            settings["model.preprocessing"] = IMAGENET.for_channels(channels).to_dict()
            each = "each has the mean of ImageNet's means and deviations"
            if channels > 3:
                each = "the first three have ImageNet's mean and deviation, the others the mean of these"
            reasons.append(f"{channels} channels: {each} (--model.preprocessing)")
        return Plan(data, None, settings, reasons)
    if (backbone := _backbone_of(model)) is not None:
        settings = {"model.model": f"ladder_{backbone}", "model.backbone_weights": model}
        settings["model.allow_unverified"] = allow_unverified
        why = f"model ladder_{backbone}, its backbone started from {model}; the head starts anew"
        return Plan(data, None, settings, [why])
    segmenter = load(model, classes=data.labels, allow_unverified=allow_unverified, device="cpu")
    hp = segmenter.hparams
    if not isinstance(hp["classes"], list):
        raise ValueError(f"--model {model}: has several heads; train it in Python, with masks for each")
    if hp["in_channels"] != data.in_channels:
        raise ValueError(
            f"--model {model}: takes images of {hp['in_channels']} channels, and in_channels={data.in_channels} "
            f"is given for the data; start from a model of as many, or at random: --model {RANDOM}{hp['model']}"
        )
    settings = {f"model.{key}": hp[key] for key in MODEL_ARGUMENTS if hp.get(key) is not None}
    settings["model.preprocessing"] = segmenter.preprocessing.to_dict()
    anew = len(segmenter.reinitialized)
    why = f"model {hp['model']}, started from {model}; {anew} tensors, those of the classes, start anew"
    return Plan(data, segmenter, settings, [why])


def _backbone_of(model: str) -> str | None:
    """Name the backbone that a classifier of the catalog has; None for what is no such classifier."""
    entry = catalog.find(model)
    if entry is None or entry.kind != "classifier" or entry.architecture is None:
        return None
    name = entry.architecture.removeprefix("torchvision/")
    return name if name in BACKBONES else None


def _choose_loss(chosen: Plan, train: Sequence[Pair], asked: str | None) -> str:
    """Choose cross entropy and Dice, whose classes weigh by their share of the pixels, 1 / ln(1.1 + share) with mean 1.

    The weighting is that of ENet (Paszke et al. 2016). A class that training does not have weighs 1.

    Returns:
        The reason.
    """
    data = chosen.data
    if asked is not None:
        return f"loss {asked}, as you say; classes weigh as --model.class_weights says, or all alike"
    chosen.settings["model.loss"] = "cross_entropy+dice"
    if not all(pair.mask in data.source.counts for pair in train):
        return "cross entropy and Dice; all classes weigh alike, as the masks were not counted (--data.check)"
    pixels = data.check("train")
    there = {name: pixels[name] for name in data.classes if pixels.get(name)}
    raw = {name: 1 / math.log(1.1 + number / sum(there.values())) for name, number in there.items()}
    mean = sum(raw.values()) / max(1, len(raw))
    weights = {name: raw[name] / mean if name in raw else 1.0 for name in data.classes}
    ends = [f"{name} {weights[name]:.2f}" for name in sorted(there, key=weights.__getitem__)]
    chosen.settings["model.class_weights"] = [round(weight, 3) for weight in weights.values()]
    why = f"cross entropy and Dice; classes weigh by how rare they are: {' to '.join([*ends[:1], *ends[1:][-1:]])}"
    if absent := [name for name in data.classes if name not in there]:
        why += f"; training has no pixel of {some(absent)}, so nothing is learned of it"
    return why


def _choose_crop(chosen: Plan, quick: bool) -> str:
    """Choose the training crop: what the images have, as far as memory and time allow; multiples of 32.

    Returns:
        The reason.
    """
    pairs, reader = chosen.data.splits["train"], chosen.data.source.reader
    sizes = [reader.size(pair) for pair in pairs[:: max(1, len(pairs) // 200)]]
    height, width = (sorted(sides)[len(sizes) // 2] for sides in zip(*sizes, strict=True))
    most, where = (512, "an accelerator") if quick else (320, "the CPU")
    crop = [max(32, min(most, 32 * (side // 32))) for side in (height, width)]
    chosen.settings |= {"data.crop_size": (crop[0], crop[1]), "data.scale": SCALE}
    return (
        f"crops of {crop[0]} x {crop[1]}: the median image has {height} x {width} pixels, and {most} is the most that "
        f"is taken on {where}; scaled by {SCALE[0]} to {SCALE[1]}"
    )

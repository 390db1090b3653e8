"""Segmenters on ResNet-18: ours beside segmentation_models.pytorch, prediction and training.

Prediction is one image of 360 x 480 pixels, from an array to a mask of bytes: theirs as their documentation runs it
(normalized tensor, `no_grad`, argmax; padded to 384 x 480, because their encoders want multiples of 32), ours by
`SegmentationModule.predict`. Training is forward, cross entropy, backward and a step of SGD on batches of 256 x 256
crops, on the CPU and on a GPU where there is one. All weights are random, batch norms calibrated; accuracy is not
compared here. The networks differ, so parameters are given, and no target is set.

    python benchmarks/smp_models.py --repeats 7
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

from fullyconv import SegmentationModule
from measuring import Row, add_arguments, clock_for, finish, in_turn, machine, print_rows, ratios, spread, version
from networks import calibrate, photographs

CLASSES = 12
OURS = ("fcn8s_resnet18", "ladder_resnet18")
THEIRS = ("Unet", "FPN", "DeepLabV3Plus")
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def ours(name: str) -> SegmentationModule:
    """Make a module of ours."""
    return SegmentationModule(name, classes=[f"class {index}" for index in range(CLASSES)])


def theirs(name: str) -> nn.Module:
    """Make a network of theirs; no weights are fetched."""
    network: nn.Module = getattr(smp, name)("resnet18", encoder_weights=None, classes=CLASSES)
    return network


def predicting(pixels: np.ndarray[Any, Any]) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Make what is timed for an image, and count parameters."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    runs: dict[str, Callable[[], object]] = {}
    parameters: dict[str, int] = {}
    for name in OURS:
        module = ours(name)
        calibrate(module, image)
        runs[name] = lambda module=module: module.predict(pixels).mask  # type: ignore[misc]
        parameters[name] = sum(value.numel() for value in module.parameters())
    for name in THEIRS:
        network = theirs(name)
        calibrate(network, F.pad((image - MEAN) / DEVIATION, (0, 0, 12, 12)))

        def run(network: nn.Module = network) -> object:
            inputs = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - MEAN) / DEVIATION
            with torch.no_grad():
                logits = network(F.pad(inputs[None], (0, 0, 12, 12)))
            return logits[:, :, 12:-12].argmax(1)[0].to(torch.uint8).numpy()

        runs[name] = run
        parameters[name] = sum(value.numel() for value in network.parameters())
    return runs, parameters


def training(device: str, batch: int) -> dict[str, Callable[[], object]]:
    """Make one step of training for each."""
    runs: dict[str, Callable[[], object]] = {}
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, 256, 256, generator=generator).to(device)
    mask = torch.randint(0, CLASSES, (batch, 256, 256), generator=generator).to(device)
    mean, deviation = MEAN.to(device), DEVIATION.to(device)
    for name in (*OURS, *THEIRS):
        network = (ours(name) if name in OURS else theirs(name)).to(device).train()
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

        def run(network: nn.Module = network, optimizer: Any = optimizer, normalize: bool = name in THEIRS) -> None:
            optimizer.zero_grad()
            # our module normalizes by itself
            logits = network((image - mean) / deviation if normalize else image)
            F.cross_entropy(logits, mask).backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        runs[name] = run
    return runs


def rows_of(what: str, seconds: dict[str, list[float]], note: Callable[[str, str], str]) -> list[Row]:
    """Compare each of ours with each of theirs."""
    return [
        Row(
            what=what,
            ours=mine,
            peer=f"{version('segmentation-models-pytorch')}, {other}",
            seconds=spread(seconds[mine]),
            peer_seconds=spread(seconds[other]),
            times=ratios(seconds[other], seconds[mine]),
            note=note(mine, other),
        )
        for mine in OURS
        for other in THEIRS
    ]


def main() -> None:
    """Measure, and print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=7)
    parser.add_argument("--batch", type=int, default=4, help="images of a step on the CPU, at least 2; 32 on a GPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = clock_for(options.threads)
    about = machine("torch", "segmentation-models-pytorch", threads=options.threads)
    if torch.cuda.is_available():
        about += f"; {torch.cuda.get_device_name()}"
    print(about, flush=True)
    runs, parameters = predicting(np.array(photographs(1)[0]))

    def sizes(mine: str, other: str) -> str:
        return f"{parameters[mine] / 1e6:.1f} and {parameters[other] / 1e6:.1f} million parameters"

    seconds = in_turn(runs, options.repeats, warm_up=2, clock=clock)
    rows = rows_of("ResNet-18, 360 x 480, array to mask", seconds, sizes)
    print_rows(rows)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        batch = options.batch if device == "cpu" else 32
        timer = clock if device == "cpu" else clock_for(2)
        seconds = in_turn(training(device, batch), options.repeats, warm_up=1 if device == "cpu" else 5, clock=timer)

        def rate(mine: str, other: str, batch: int = batch, seconds: dict[str, list[float]] = seconds) -> str:
            mine_rate, other_rate = (batch / spread(seconds[name])[0] for name in (mine, other))
            return f"{mine_rate:.3g} and {other_rate:.3g} images a second, {sizes(mine, other)}"

        found = rows_of(f"ResNet-18, a training step of {batch} x 256 x 256, {device}", seconds, rate)
        print_rows(found)
        rows += found
    finish(rows, options.json, about)


if __name__ == "__main__":
    main()

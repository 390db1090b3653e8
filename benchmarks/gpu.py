"""Predict and train on an accelerator and on the processor: are the masks the same, and how fast is each?

One run of at most four minutes, with no download and no data: the images are drawn. It prints, one table after the
other,

1. masks of shipped models on the device beside those of the processor in float32: the share of pixels that differ, and
   how many of them are near ties, whose two best classes differ by less than two hundredths in probability;
2. milliseconds an image and images a second from pixels in memory to a mask in memory, at several batch sizes and
   precisions, beside segmentation_models.pytorch and torchvision as their users call them (random weights, which cost
   the same);
3. images a second from a folder of PNG files to a folder of masks, with one reader and with several;
4. milliseconds of a training step: forward, cross entropy, backward, SGD.

A peer that is not installed is named and left out; so is what there was no time for.

    python benchmarks/gpu.py                       # on the accelerator
    python benchmarks/gpu.py --device cpu --quick  # the whole way in two minutes, to see that it works
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fullyconv
from fullyconv import SegmentationModule
from fullyconv.errors import first_line
from fullyconv.hub.predictor import open_predictor
from fullyconv.images.raster import Raster
from fullyconv.inference.budget import available_processors
from fullyconv.inference.processor import device_of, emulates, free_memory
from fullyconv.inference.serving import Predictor
from networks import photographs

MODELS = ("street", "nuclei", "cracks", "clothes")
TRAINED = ("ladder_efficientnet_lite0", "fcn8s_resnet18")
CLASSES = 12
NEAR = 0.02  # of probability between the two best classes
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Clock:
    """What time is left, and what was left out for want of it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str, share: float = 0.0) -> bool:
        """Tell whether there is time for something, and note it where there is none."""
        if time.monotonic() + share < self.end:
            return True
        self.left_out.append(what)
        return False


def settled(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, most: float) -> float:
    """Give the median of the times that something takes, after two that are not counted, within a time."""
    times: list[float] = []
    begun = time.perf_counter()
    for turn in range(60):
        at = time.perf_counter()
        run()
        settled(device)
        times.append(time.perf_counter() - at)
        if turn >= 3 and time.perf_counter() - begun > most:
            break
    return statistics.median(times[2:])


@cache
def peers() -> dict[str, Callable[[], nn.Module]]:
    """Give what builds the networks of others, for those that are installed."""

    def of_torchvision(name: str) -> Callable[[], nn.Module]:
        build = getattr(torchvision.models.segmentation, name)
        return lambda: Only(build(weights=None, weights_backbone=None, num_classes=CLASSES))

    found = {
        f"torchvision {name}": of_torchvision(name)
        for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
    }
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        print("segmentation_models.pytorch is not installed here: left out\n")
        return found
    for name in ("Unet", "FPN"):
        build = getattr(smp, name)
        found[f"smp {name} resnet18"] = lambda build=build: build("resnet18", encoder_weights=None, classes=CLASSES)
    return found


class Only(nn.Module):
    """Give the logits of a network of torchvision, not its dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)["out"]
        return logits


def precision_of(device: torch.device, precision: str) -> Any:
    """Let the block compute in a precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def as_their_users(network: nn.Module, pixels: list[np.ndarray[Any, Any]], device: torch.device, precision: str) -> Any:
    """Predict as the documentation of others does: a normalized batch, `no_grad`, argmax."""
    mean, deviation = (torch.tensor(numbers)[:, None, None].to(device) for numbers in (MEAN, DEVIATION))

    def run() -> object:
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device).float() / 255
        with torch.no_grad(), precision_of(device, precision):
            return network((batch - mean) / deviation).argmax(1).to(torch.uint8).cpu().numpy()

    return run


def of_model(predictor: Any, images: list[Raster]) -> Callable[[], object]:
    """Predict by ours: one image, or a batch."""
    if len(images) == 1:
        return lambda: predictor.predict(images[0]).mask
    return lambda: [one.mask for one in predictor.predict_batch(images)]


def opened(name: str, device: torch.device) -> Predictor:
    """Open a shipped segmenter."""
    found = open_predictor(name, device=device)
    assert isinstance(found, Predictor)
    return found


def masks(names: list[str], images: list[Raster], device: torch.device, kinds: list[str], clock: Clock) -> bool:
    """Compare the masks of a device with those of the processor; tell whether float32 differs in near ties alone."""
    print("## Masks beside those of the processor in float32\n")
    print("| model | precision | at once | pixels | differ | of them near ties | near ties in all |")
    print("|---|---|---|---|---|---|---|")
    good = True
    for name in names:
        if not clock.allows(f"masks of {name}"):
            continue
        alone, there = opened(name, torch.device("cpu")), opened(name, device)
        plain = [alone.predict(image).mask for image in images]
        leads = []
        for image in images:
            probabilities = alone.predict(image, probabilities="all").probabilities
            assert probabilities is not None
            two = np.sort(probabilities.astype(np.float32), -1)[..., -2:]
            leads.append(two[..., 1] - two[..., 0])
        near = np.stack(leads) < NEAR
        for precision in kinds:
            there.precision = precision  # type: ignore[assignment]
            for batch in (1, len(images)):
                found = (
                    [there.predict(image).mask for image in images]
                    if batch == 1
                    else [one.mask for one in there.predict_batch(images)]
                )
                differ = np.stack(found) != np.stack(plain)
                ties = int((differ & near).sum())
                good &= precision != "float32" or ties == int(differ.sum())
                share = f"{100 * differ.mean():.4f} %"
                print(
                    f"| {name} | {precision} | {batch} | {differ.size:,} | {share} | {ties} of {int(differ.sum())} | "
                    f"{100 * near.mean():.2f} % |",
                    flush=True,
                )
    print(f"\nfloat32 differs {'only in near ties' if good else 'IN MORE THAN NEAR TIES'}\n")
    return good


def speed(
    names: list[str], size: tuple[int, int], batches: list[int], kinds: list[str], device: torch.device, each: float,
    clock: Clock,
) -> None:  # fmt: skip
    """Time predictions from pixels to masks."""
    print(f"## From pixels of {size[0]} x {size[1]} to masks, on {device}\n")
    print("| network | precision | at once | ms an image | images a second |\n|---|---|---|---|---|")
    pixels = [np.asarray(photo) for photo in photographs(max(batches), size)]
    ways: dict[str, Callable[[str, int], Callable[[], object]]] = {}
    for name in names:
        ours = opened(name, device)

        def way(precision: str, batch: int, ours: Predictor = ours) -> Callable[[], object]:
            ours.precision = precision  # type: ignore[assignment]
            return of_model(ours, [Raster(one) for one in pixels[:batch]])

        ways[f"fullyconv {name}"] = way
    for name, build in peers().items():
        theirs = build().eval().to(device)

        def their_way(precision: str, batch: int, theirs: nn.Module = theirs) -> Callable[[], object]:
            run: Callable[[], object] = as_their_users(theirs, pixels[:batch], device, precision)
            return run

        ways[name] = their_way
    for precision in kinds:
        for batch in batches:
            for name, make in ways.items():
                if not clock.allows(f"speed of {name}, {precision}, {batch} at once", each):
                    continue
                try:
                    took = seconds_of(make(precision, batch), device, each) / batch
                except RuntimeError as error:  # a kernel that a device or precision lacks is told, and the rest goes on
                    print(f"| {name} | {precision} | {batch} | {first_line(error)} | |")
                    continue
                print(f"| {name} | {precision} | {batch} | {1000 * took:.2f} | {1 / took:.1f} |", flush=True)
    print()


def from_files(name: str, size: tuple[int, int], count: int, device: torch.device, clock: Clock) -> None:
    """Time `predict_folder`, from files to files."""
    print(f"## {count} PNG files of {size[0]} x {size[1]} to masks, by predict_folder and {name}\n")
    print("| batch | readers | images a second |\n|---|---|---|")
    several = available_processors()
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        drawn = photographs(4, size)
        for number in range(count):
            drawn[number % len(drawn)].save(photos / f"{number:04}.png", compress_level=1)
        predictor = opened(name, device)
        predictor.predict(photos / "0000.png")
        for batch, workers in ((1, 1), (8, 1), (8, several)):
            if not clock.allows(f"files, {batch} at once, {workers} readers"):
                continue
            begun = time.perf_counter()
            done = fullyconv.predict_folder(
                predictor, photos, Path(place) / f"{batch}-{workers}", batch=batch, workers=workers
            )
            took = time.perf_counter() - begun
            assert not done.failed
            print(f"| {batch} | {workers} | {count / took:.1f} |", flush=True)
    print()


def training(batch: int, crop: int, kinds: list[str], device: torch.device, each: float, clock: Clock) -> None:
    """Time a step of training."""
    print(f"## A training step on {batch} crops of {crop} x {crop}, on {device}\n")
    print("| network | precision | ms a step | images a second |\n|---|---|---|---|")
    image = torch.rand(batch, 3, crop, crop, device=device)
    mask = torch.randint(0, CLASSES, (batch, crop, crop), device=device)
    networks: dict[str, Callable[[], nn.Module]] = {
        f"fullyconv {name}": lambda name=name: SegmentationModule(name, classes=[f"class {i}" for i in range(CLASSES)])
        for name in TRAINED
    }
    for precision in kinds:
        if precision == "float16":
            continue  # which is trained with scaled losses, by Lightning's precision="16-mixed"
        for name, build in (networks | peers()).items():
            if not clock.allows(f"a step of {name}, {precision}", each):
                continue
            network = build().train().to(device)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

            def step(
                network: nn.Module = network, optimizer: torch.optim.SGD = optimizer, kind: str = precision
            ) -> None:
                with precision_of(device, kind):
                    logits = network(image)
                loss = F.cross_entropy(logits.float(), mask)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

            took = seconds_of(step, device, each)
            print(f"| {name} | {precision} | {1000 * took:.1f} | {batch / took:.1f} |", flush=True)
    print()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu, ... (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small images and few repeats: does it run?")
    parser.add_argument("--minutes", type=float, default=3.8, help="after which nothing new begins (default: 3.8)")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    warnings.filterwarnings("ignore", message="this processor only emulates")
    logging.getLogger("fullyconv").setLevel(logging.WARNING)  # licenses
    quick = arguments.quick
    clock = Clock(60 * (min(arguments.minutes, 1.5) if quick else arguments.minutes))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(
        f"{name}, {free_memory(device) / 2**30:.1f} GiB free; {platform.machine()}, {available_processors()} "
        f"processors, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, fullyconv {fullyconv.__version__}\n"
    )
    kinds = ["float32", "bfloat16", "float16"]
    if device.type == "cpu":
        kinds = [kind for kind in kinds if not emulates(getattr(torch, kind))]
    names = list(MODELS[:2] if quick else MODELS)
    size = (120, 160) if quick else (360, 480)
    each = 0.3 if quick else 1.0
    peers()  # says what is not installed
    good = masks(names, [Raster(np.asarray(photo)) for photo in photographs(4, size)], device, kinds, clock)
    speed(names[:2], size, [1, 4] if quick else [1, 8, 32], kinds, device, each, clock)
    from_files(names[0], size, 16 if quick else 400, device, clock)
    training(2 if quick else 8, 64 if quick else 256, kinds, device, each, clock)
    if clock.left_out:
        print(f"no time for: {'; '.join(clock.left_out)}")
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

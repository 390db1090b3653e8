"""Time one image of 360 x 480 pixels through every shipped segmenter, from bytes in memory to the mask.

Beside them torchvision's two smallest segmenters, LR-ASPP and DeepLabV3 on MobileNetV3, as their users call them:
normalized tensor, no_grad, interpolated logits, argmax; random weights, which cost the same. All take turns, so that a
busy moment hits all of them.

    python benchmarks/zoo_speed.py --repeats 15
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision

import fullyconv
from fullyconv import SegmentationModule
from fullyconv.weights.catalog import shipped

PEERS = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")


def peer(name: str) -> Callable[[], object]:
    """Make what a user of torchvision runs for an image."""
    build = getattr(torchvision.models.segmentation, name)
    network = build(weights=None, weights_backbone=None).eval()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def run() -> object:
        batch = torch.from_numpy(image()).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            return network(((batch - mean) / deviation)[None])["out"].argmax(1).numpy().astype(np.uint8)

    return run


def image() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Give an image with structure."""
    y, x = np.mgrid[:360, :480]
    waves = [127 + 120 * np.sin(x / (20 + 9 * c) + y / (31 - 5 * c)) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}, fullyconv {fullyconv.__version__}\n"
    )
    peers = {f"torchvision {name}": name for name in PEERS}
    runs: dict[str, Callable[[], object]] = {name: peer(network) for name, network in peers.items()}
    about = dict.fromkeys(peers, "-")
    for entry in shipped():
        if entry.kind != "segmenter":
            continue
        module = fullyconv.load(entry.name)
        assert isinstance(module, SegmentationModule)
        runs[entry.name] = lambda module=module: module.predict(image()).mask  # type: ignore[misc]
        about[entry.name] = f"{entry.mean_iou:.1f} on {entry.data}"
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats + 2):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - begun))
    columns = " | ".join(f"times {name.partition('_')[0]}" for name in PEERS)
    print(f"| model | mIoU | ms, median [min - max] | {columns} |\n|---|---|---|---|---|")
    middle = {name: statistics.median(each[2:]) for name, each in times.items()}
    for name, each in times.items():
        spread = f"[{min(each[2:]):.0f} - {max(each[2:]):.0f}]"
        beside = " | ".join(f"{middle[name] / middle[other]:.2f}" for other in peers)
        print(f"| {name} | {about[name]} | {middle[name]:.0f} {spread} | {beside} |")


if __name__ == "__main__":
    main()

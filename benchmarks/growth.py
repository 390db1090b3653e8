"""How cost grows with the work: pixels and classes of `predict`, pairs of `doctor`; and the charts of it.

Every point is `fullyconv predict` or `fullyconv doctor` in a process of its own on one thread: seconds of the
processor, beyond what the least of work takes, and the peak of the resident set. The exponent is the slope of a line
through the logarithms of the upper half of the points: 1 is a cost that doubles with the work.

- pixels: a TIFF of textured blocks from 1 to 256 megapixels, by the model `street`, in tiles of half the memory that is
  free;
- classes: 4 megapixels, by the same network with 2 to 150 classes and random weights;
- pairs: folders of 100 to 10,000 images of 96 x 96 pixels with their masks.

    python benchmarks/growth.py --out growth.json       # a point that is there already is not measured again
    python benchmarks/growth.py --out growth.json --draw docs/images
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from large_image import make
from measuring import machine, process

STUDIES: dict[str, tuple[list[int], list[int]]] = {
    "pixels": ([1, 4, 16, 64, 256], [1, 2]),
    "classes": ([2, 5, 11, 21, 50, 150], [2, 21]),
    "pairs": ([100, 300, 1000, 3000, 10000], [20, 40]),
}
"""The points of each study, and those of --quick."""

UNITS = {"pixels": "megapixels", "classes": "classes", "pairs": "pairs"}
TITLES = {
    "pixels": "predict: pixels of an image",
    "classes": "predict: classes, for 4 megapixels",
    "pairs": "doctor: pairs of a folder",
}


def of_pixels(megapixels: int, folder: Path) -> list[str | Path]:
    """Make an image, and give the command."""
    make(folder / "image.tif", round(math.sqrt(megapixels) * 1000), tiled=False)
    return ["-m", "fullyconv", "predict", folder / "image.tif", "--out", folder / "masks"]


def of_classes(classes: int, folder: Path) -> list[str | Path]:
    """Make a model folder and an image, and give the command."""
    import torch

    import fullyconv

    torch.manual_seed(0)
    names = [f"class {number}" for number in range(classes)]
    network = fullyconv.SegmentationModule("ladder_efficientnet_lite0", classes=names)
    network.save_pretrained(folder / "model")
    return [*of_pixels(4, folder), "--model", folder / "model"]


def of_pairs(pairs: int, folder: Path) -> list[str | Path]:
    """Make a folder of images that all differ, and give the command."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for number in range(pairs):
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)
        image.save(folder / "data" / "images" / f"{number:05}.jpg")
        Image.fromarray((np.asarray(image)[..., 0] > 127).astype(np.uint8)).save(
            folder / "data" / "masks" / f"{number:05}.png"
        )
    return ["-m", "fullyconv", "doctor", folder / "data"]


MADE: dict[str, Callable[[int, Path], list[str | Path]]] = {
    "pixels": of_pixels,
    "classes": of_classes,
    "pairs": of_pairs,
}


def measure(study: str, size: int) -> dict[str, float]:
    """Measure one point, and a start of the same command, whose first run fills the caches of the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = MADE[study](size, folder)
        if study != "pairs":
            process(_smaller(command, folder))
            start = process([*_smaller(command, folder), "--overwrite"]).busy
        else:
            start = process(["-m", "fullyconv", "doctor", "--help"]).busy
        used = process(command)
    return {"size": size, "seconds": used.busy - start, "mib": used.mib, "start": start}


def _smaller(command: list[str | Path], folder: Path) -> list[str | Path]:
    """Give the same command for 64 x 64 pixels, which is what the start costs."""
    Image.new("RGB", (64, 64), (90, 120, 60)).save(folder / "small.png")
    return [folder / "small.png" if word == folder / "image.tif" else word for word in command]


def exponent(points: list[dict[str, float]]) -> float:
    """Give the slope of seconds over size, both in logarithms, of the upper half of the points."""
    upper = points[len(points) // 2 - 1 :] if len(points) > 2 else points
    sizes = [math.log(point["size"]) for point in upper]
    return float(np.polyfit(sizes, [math.log(max(point["seconds"], 1e-3)) for point in upper], 1)[0])


def draw(study: str, points: list[dict[str, float]], path: Path) -> None:
    """Draw seconds and memory over the size, all in logarithms."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "fullyconv", "font.size": 12})
    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes = figure.subplots()
    sizes = [point["size"] for point in points]
    seconds, memory = ([point[key] / scale for point in points] for key, scale in (("seconds", 1), ("mib", 1024)))
    axes.loglog(sizes, seconds, "o-", color="#00796b", label="seconds, without the start")
    axes.loglog(sizes, memory, "s--", color="#b45309", label="memory at most, GiB")
    axes.set_ylim(10 ** math.floor(math.log10(min(memory))), 10 ** math.ceil(math.log10(max(seconds))))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.set_xlabel(UNITS[study])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=11)
    axes.set_title(f"{TITLES[study]}: exponent {exponent(points):.2f}", loc="left", fontsize=13, color="#263238")
    figure.savefig(path / f"growth-{study}.svg", metadata={"Date": None})


def table(kept: dict[str, Any]) -> str:
    """Write all points as markdown."""
    lines = ["| | size | seconds | of which start | memory at most |", "|---|---|---|---|---|"]
    for study, points in kept["studies"].items():
        for point in points:
            work, start = f"{point['size']:,} {UNITS[study]}", point["start"]
            lines.append(
                f"| {TITLES[study]} | {work} | {point['seconds'] + start:.1f} | {start:.1f} | {point['mib']:.0f} MiB |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; all")
    parser.add_argument(
        "--out", type=Path, default=Path("growth.json"), help="what was measured (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw the charts into it")
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {"studies": {}}
    kept.setdefault("machine", machine("torch", threads=1))
    for study in arguments.studies or STUDIES:
        points = kept["studies"].setdefault(study, [])
        for size in STUDIES[study][arguments.quick]:
            if size not in [point["size"] for point in points]:
                points.append(measure(study, size))
                print(study, points[-1], flush=True)
                arguments.out.write_text(json.dumps(kept, indent=1), "utf-8")
        if arguments.draw is not None:
            draw(study, points, arguments.draw)
    print(f"\n{kept['machine']}\n\n{table(kept)}\n")
    for study, points in kept["studies"].items():
        print(f"{TITLES[study]}: exponent {exponent(points):.2f}")


if __name__ == "__main__":
    main()

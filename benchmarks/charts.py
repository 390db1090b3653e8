"""Draw the charts of docs/benchmarks.md, and print its table, from the figures in printed.json.

    python benchmarks/charts.py        # writes docs/images/benchmark-*.svg, prints the table

`printed.json` holds the rows of the table that `python benchmarks/all.py --out FOLDER` printed; docs/benchmarks-full.md
shows the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "docs" / "images"
PEER, OURS, INK = "#cfd8dc", "#00796b", "#263238"


@dataclass(frozen=True)
class Bar:
    """One comparison of a chart.

    Args:
        label: in words.
        what: of the row in printed.json, as `peer` and `ours` are, or the beginning of it.
        peer: what it is measured beside.
        ours: what of this package.
        command: the script and its options; empty leaves the row out of the table.
    """

    label: str
    what: str
    peer: str
    ours: str
    command: str = ""

    def row(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Find what was printed."""
        found = [
            row
            for row in rows
            if row["what"].startswith(self.what)
            and row["peer"].startswith(self.peer)
            and row["ours"].startswith(self.ours)
        ]
        if len(found) != 1:
            raise ValueError(f"{self.label}: {len(found)} rows of printed.json are meant; name one")
        return found[0]


START, SEGMENTERS, TORCHVISION = "start of a process: fullyconv", "torchvision_pipelines.py", "torchvision 0.29.1"
V2 = f"{TORCHVISION} v2, jitter on the crop"
SMALL, LARGE = "augmenting an image, 480 x 360, crop 320 x 320", "augmenting an image, 2048 x 1024, crop 512 x 512"
LOGITS = "scores of stride 8 to 1024 x 2048 labels"
STEP, ARRAY = "ResNet-18, a training step", "ResNet-18, 360 x 480, array to mask"
UNET, DEEPLAB = "segmentation-models-pytorch 0.6.0, Unet", "segmentation-models-pytorch 0.6.0, DeepLabV3Plus"

CHARTS = {
    "start": (
        "The whole process",
        (
            Bar("a photograph to a mask, LR-ASPP", "LR-ASPP, a photograph", "", "", "whole_process.py"),
            Bar("fullyconv --help, beside import torch", f"{START} --help", "", "", "import_time.py"),
            Bar("fullyconv list, beside import torch", f"{START} list", "", ""),
        ),
    ),
    "predict": (
        "One image of 360 x 480, PNG to PNG",
        (
            Bar("LR-ASPP, by fullyconv predict", "lraspp", TORCHVISION, "fullyconv predict", SEGMENTERS),
            Bar("LR-ASPP, exported file", "lraspp", TORCHVISION, "fullyconv runtime", SEGMENTERS),
            Bar("DeepLabV3, by fullyconv predict", "deeplabv3", TORCHVISION, "fullyconv predict", SEGMENTERS),
            Bar("DeepLabV3, exported file", "deeplabv3", TORCHVISION, "fullyconv runtime", SEGMENTERS),
        ),
    ),
    "labels": (
        "1024 x 2048 pixels",
        (
            Bar("SegFormer-B0, 150 classes, file to labels", "SegFormer-B0", "transformers", "", "segformer.py"),
            Bar("150 classes, compiled", f"{LOGITS}, 150", "torch", "upsample_argmax, compiled", "upsample_argmax.py"),
            Bar("21 classes, compiled", f"{LOGITS}, 21", "torch", "upsample_argmax, compiled"),
            Bar("21 classes, plain torch", f"{LOGITS}, 21", "torch", "upsample_argmax, plain", "upsample_argmax.py"),
        ),
    ),
    "large": (
        "8192 x 8192 pixels; 334 masks; windows of 224 x 224",
        (
            Bar("8192 x 8192 pixels, file to file", "8192 x 8192", "sliding window", "predict_to", "sliding_logits.py"),
            Bar("scores of 334 masks", "scores of 334", "torchmetrics 1.9.0, one at", "", "mask_folders.py"),
            Bar("VGG-16, 36 windows", "vgg16, 384", "windows, one", "dense", "dense_vs_sliding.py"),
            Bar("AlexNet, 81 windows", "alexnet, 500", "windows, 16", "dense", "dense_vs_sliding.py"),
        ),
    ),
    "train": (
        "A step of 4 x 256 x 256; augmenting one image",
        (
            Bar("FCN-8s on ResNet-18, beside Unet", STEP, UNET, "fcn8s", "smp_models.py"),
            Bar("FCN-8s on ResNet-18, beside DeepLabV3+", STEP, DEEPLAB, "fcn8s", "smp_models.py"),
            Bar("augmenting from files, 480 x 360", f"{SMALL}, hue 0.1, from", V2, "", "augmentation.py"),
            Bar("augmenting from files, 2048 x 1024", f"{LARGE}, hue 0.1, from", V2, "", "augmentation.py"),
        ),
    ),
}


def printed() -> dict[str, Any]:
    """Read the figures."""
    document: dict[str, Any] = json.loads((HERE / "printed.json").read_text("utf-8"))
    return document


def table(rows: list[dict[str, Any]]) -> str:
    """Write one table that fits a screen."""
    lines = ["| task | compared with | times faster | memory | script |", "|---|---|---|---|---|"]
    for bar in (bar for _, bars in CHARTS.values() for bar in bars if bar.command):
        row = bar.row(rows)
        times = row["memory"]
        memory = "" if times is None else f"1/{times:.3g}" if times >= 1 else f"{1 / times:.3g}x"
        peer = row["peer"].replace("segmentation-models-pytorch", "smp")
        lines.append(f"| {bar.label} | {peer} | {row['times'][0]:.1f} | {memory} | `{bar.command}` |")
    return "\n".join(lines)


def words(seconds: float) -> str:
    """Write a time as it is read."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def draw(title: str, bars: tuple[Bar, ...], rows: list[dict[str, Any]], path: Path) -> None:
    """Draw ours as a share of the peer's time."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "fullyconv", "font.size": 12})
    figure = Figure(figsize=(6.2, 0.5 + 1.05 * len(bars)))
    axes = figure.subplots()
    for place, bar in enumerate(bars):
        row = bar.row(rows)
        share = row["seconds"] / row["peer_seconds"]
        axes.text(0, place - 0.44, bar.label, va="center", color=INK, weight="bold")
        axes.barh(place - 0.15, 1, 0.27, color=PEER)
        axes.barh(place + 0.16, share, 0.27, color=OURS)
        axes.text(0.012, place - 0.15, f"{row['peer']}: {words(row['peer_seconds'])}", va="center", fontsize=10.5)
        ours = f"{words(row['seconds'])}, {row['times'][0]:.1f} times as fast"
        axes.text(share + 0.012, place + 0.16, ours, va="center", color=OURS, weight="bold")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(bars) - 0.65, -0.62)
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=13, color=INK)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})


def main() -> None:
    """Draw all charts and print the table."""
    rows = printed()["rows"]
    for name, (title, bars) in CHARTS.items():
        draw(title, bars, rows, IMAGES / f"benchmark-{name}.svg")
    print(table(rows))


if __name__ == "__main__":
    main()

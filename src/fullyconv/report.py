"""The page a person looks at after training: scores, where they come from, and the images that went worst and best.

One HTML file that stands for itself: no script, no network, images inside. Everything that comes from files (class
names, paths, licenses) is escaped.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fullyconv.confusion import SegmentationScores, scores
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.drawing import overlay
from fullyconv.files import write
from fullyconv.geometry.measuring import evaluating
from fullyconv.images import visible
from fullyconv.labels import Labels
from fullyconv.training.metrics import best_class, confusion_matrix
from fullyconv.training.module import SegmentationModule
from fullyconv.training.shortcomings import shortcomings

SIDE = 300  # pixels of the longer side of an image on the page
SHOWN = 6  # images of each kind
MATRIX_CLASSES = 40  # a table of more columns nobody reads

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1320px;padding:0 1em;color:#1d2329;background:#fff}
h1{font-size:1.6em;margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid #d5dade}small,.dim{color:#66707a}
table{border-collapse:collapse}td,th{padding:.2em .6em;text-align:right;white-space:nowrap}th{font-weight:600}
td:first-child,th:first-child{text-align:left}tr:nth-child(even) td{background:#f6f8fa}
.cards{display:flex;gap:1em;flex-wrap:wrap}.card{border:1px solid #d5dade;border-radius:8px;padding:.6em 1.2em}
.card b{display:block;font-size:1.7em}.swatch{display:inline-block;width:.9em;height:.9em;border:1px solid #0004;
margin-right:.5em;vertical-align:-1px}.track{display:inline-block;width:90px;margin-left:.6em;text-align:left}
.bar{display:inline-block;height:.7em;background:#3b7dd8}
.rows figure{margin:0 0 1.4em}.rows img{max-width:24%;margin-right:.5%;image-rendering:auto;vertical-align:top}
figcaption{font-size:.9em}pre{background:#f6f8fa;padding:.8em;overflow:auto;white-space:pre-wrap}
.matrix td,.matrix th{padding:.15em .4em;font-size:.85em}
.matrix th.head{writing-mode:vertical-rl;transform:rotate(180deg)}
.banner{background:#fdecea;border-left:5px solid #d62828;padding:.6em 1em}
.legend span{margin-right:1.2em;white-space:nowrap}svg text{font:12px system-ui,sans-serif;fill:#66707a}
"""


@dataclass(frozen=True)
class _Result:
    """What one image told."""

    index: int
    key: str
    mean_iou: float
    accuracy: float
    matrix: npt.NDArray[np.int64]


def write_report(
    segmenter: SegmentationModule,
    data: SegmentationDataModule,
    split: str,
    path: str | Path,
    *,
    title: str = "",
    history: str | Path | None = None,
    told: Sequence[str] = (),
    command: str = "",
) -> SegmentationScores:
    """Score a segmenter on one split and write the page.

    Args:
        segmenter: the module.
        data: the set.
        split: "train", "val" or "test".
        path: file to write, ending in .html; its folder is made.
        title: what the page is called; the folder of the data by default.
        history: folder of Lightning's CSV logs (version_0, ...), for the curves.
        told: sentences about the run: what was chosen and why.
        command: the command line that made it.

    Returns:
        The scores on the page, of one confusion matrix over the whole split.

    Raises:
        ValueError: if the set has no such split, or other classes than the segmenter.
    """
    target = Path(path)
    if target.suffix.lower() != ".html":
        raise ValueError(f"report {target}: the page is HTML; give a file that ends in .html")
    segmenter.check_data(data)
    data.check(split)
    labels = data.labels
    dataset = data.dataset(split) if split != "train" else data.eval_dataloader(split).dataset
    results = []
    for index in range(len(data.splits[split])):
        sample: dict[str, Any] = dataset[index]
        prediction = _predicted(segmenter, sample["image"])
        matrix = confusion_matrix(prediction[None], sample["mask"][None], labels.num_classes, labels.ignore_index)
        own = scores(matrix.numpy())
        results.append(_Result(index, data.splits[split][index].key, own.mean_iou, own.pixel_accuracy, matrix.numpy()))
    total = sum((result.matrix for result in results), np.zeros((labels.num_classes,) * 2, np.int64))
    whole = scores(total)
    ranked = sorted((r for r in results if not math.isnan(r.mean_iou)), key=lambda r: (r.mean_iou, r.key))
    worst = ranked[:SHOWN]
    best = [result for result in reversed(ranked) if result not in worst][:SHOWN]
    wants = shortcomings(whole, labels.names, split, segmenter.training_record.get("steps"))
    name = title or data.source.root.resolve().name
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_e(name)}: {_e(split)}</title>"
        f"<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'\"><style>{STYLE}</style></head><body>",
        f"<h1>{_e(name)}</h1><p class='dim'>{_e(segmenter.hparams['model'])}, {labels.num_classes} classes, scored on "
        f"the {_e(split)} split: {len(results)} images, {whole.pixels:,} pixels</p>",
        "".join(f"<p class='banner'>{_e(wanting)}</p>" for wanting in wants),
        _cards(whole),
        "<h2>Classes</h2>",
        _classes(whole, total, labels),
        "<h2>What is taken for what</h2>",
        _matrix(total, labels),
        _curves(Path(history)) if history is not None else "",
        "<h2>The worst images</h2>",
        _legend(labels),
        _images(worst, dataset, segmenter, labels),
        "<h2>The best images</h2>" if best else "",
        _images(best, dataset, segmenter, labels),
        "<h2>Every image</h2>",
        _every(ranked),
        "<h2>Where it comes from</h2>",
        f"<pre>{_e(data.report)}</pre>",
        f"<pre>{_e(chr(10).join(told))}</pre>" if told else "",
        f"<pre>{_e(command)}</pre>" if command else "",
        f"<p>License of the weights: {_e(segmenter.license or 'unstated')}</p>",
        "</body></html>",
    ]
    write(target, "\n".join(filter(None, parts)))
    return whole


def _predicted(segmenter: SegmentationModule, image: torch.Tensor) -> torch.Tensor:
    with evaluating(segmenter), torch.inference_mode():
        logits: torch.Tensor = segmenter(image[None].to(segmenter.device))
        return best_class(logits)[0].cpu()


def _cards(whole: SegmentationScores) -> str:
    figures = [
        ("mIoU", whole.mean_iou),
        ("pixel accuracy", whole.pixel_accuracy),
        ("mean accuracy", whole.mean_accuracy),
        ("frequency weighted IoU", whole.frequency_weighted_iou),
    ]
    cards = "".join(f"<div class='card'><b>{_percent(value)} %</b>{label}</div>" for label, value in figures)
    return f"<div class='cards'>{cards}</div>"


def _classes(whole: SegmentationScores, total: npt.NDArray[np.int64], labels: Labels) -> str:
    pixels = max(1, int(total.sum()))
    rows = []
    order = sorted(range(labels.num_classes), key=lambda k: (math.isnan(whole.iou[k]), whole.iou[k]))
    for k in order:
        iou = 0.0 if math.isnan(whole.iou[k]) else whole.iou[k]
        rows.append(
            f"<tr><td>{_swatch(labels, k)}{_e(labels.names[k])}</td><td>{_percent(whole.iou[k])}"
            f"<span class='track'><span class='bar' style='width:{iou * 90:.0f}px'></span></span></td>"
            f"<td>{_percent(whole.accuracy[k])}</td>"
            f"<td>{int(total[k].sum()):,}</td><td>{100 * total[k].sum() / pixels:.2f} %</td></tr>"
        )
    head = "<tr><th>class, the worst first</th><th>IoU %</th><th>accuracy %</th><th>pixels</th><th>share</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _matrix(total: npt.NDArray[np.int64], labels: Labels) -> str:
    """Draw the confusion matrix, in percent of each true class; of many classes the largest."""
    kept = sorted(np.argsort(-total.sum(1), kind="stable")[:MATRIX_CLASSES].tolist())
    share = total / np.maximum(1, total.sum(1, keepdims=True)) * 100
    head = "".join(f"<th class='head'>{_e(labels.names[k])}</th>" for k in kept)
    rows = []
    for i in kept:
        cells = []
        for j in kept:
            value = share[i, j]
            depth = value / 100 if i == j else min(1.0, value / 50)
            color = f"{'59,125,216' if i == j else '214,69,65'},{depth:.2f}"
            text = f"{value:.0f}" if value >= 0.5 else ""
            ink = ";color:#fff" if depth > 0.6 else ""
            cells.append(f"<td style='background:rgba({color}){ink}'>{text}</td>")
        rows.append(f"<tr><td>{_swatch(labels, i)}{_e(labels.names[i])}</td>{''.join(cells)}</tr>")
    note = "" if len(kept) == labels.num_classes else f"<p class='dim'>The {len(kept)} largest classes.</p>"
    about = "<p class='dim'>Rows are the truth, columns the prediction, in percent of the row.</p>"
    return f"{about}{note}<table class='matrix'><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _curves(folder: Path) -> str:
    """Draw what the logs of all parts of a run say, over epochs."""
    series: dict[str, dict[float, float]] = defaultdict(dict)
    versions = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for path in versions:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for key in ("train/loss", "val/loss", "val/mean_iou"):
                    try:
                        series[key][float(row["epoch"])] = float(row[key])
                    except (KeyError, TypeError, ValueError):
                        continue  # a line that has no such value, or the last line of a process that was killed
    drawn = [(key, sorted(points.items())) for key, points in series.items() if len(points) > 1]
    if not drawn:
        return ""
    charts = "".join(_chart(key, points) for key, points in sorted(drawn))
    return f"<h2>Training</h2><div class='cards'>{charts}</div>"


def _chart(name: str, points: Sequence[tuple[float, float]]) -> str:
    width, height, left, bottom = 380, 190, 46, 26
    xs, ys = [x for x, _ in points], [y for _, y in points if math.isfinite(y)]
    if not ys:
        return ""
    low, high = min(ys), max(ys)
    high = high if high > low else low + 1
    span = max(xs) - min(xs) or 1

    def place(x: float, y: float) -> str:
        across = left + (x - min(xs)) / span * (width - left - 12)
        return f"{across:.1f},{12 + (high - y) / (high - low) * (height - bottom - 20):.1f}"

    line = " ".join(place(x, y) for x, y in points if math.isfinite(y))
    return (
        f"<figure style='margin:0'><svg width='{width}' height='{height}' role='img' aria-label='{_e(name)}'>"
        f"<polyline fill='none' stroke='#3b7dd8' stroke-width='2' points='{line}'/>"
        f"<text x='4' y='18'>{high:.3g}</text><text x='4' y='{height - bottom}'>{low:.3g}</text>"
        f"<text x='{left}' y='{height - 6}'>epoch {min(xs) + 1:.0f}</text>"
        f"<text x='{width - 12}' y='{height - 6}' text-anchor='end'>{max(xs) + 1:.0f}</text></svg>"
        f"<figcaption>{_e(name)}</figcaption></figure>"
    )


def _legend(labels: Labels) -> str:
    names = "".join(f"<span>{_swatch(labels, k)}{_e(name)}</span>" for k, name in enumerate(labels.names))
    return f"<p class='legend'>{names}</p><p class='dim'>Image, truth, prediction; red where they differ.</p>"


def _images(chosen: Sequence[_Result], dataset: Any, segmenter: SegmentationModule, labels: Labels) -> str:
    figures = []
    for result in chosen:
        sample = dataset[result.index]
        image = (sample["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        image = visible(image)
        truth, prediction = sample["mask"].numpy(), _predicted(segmenter, sample["image"]).numpy()
        counted = truth != labels.ignore_index
        wrong = np.where((truth != prediction)[..., None] & counted[..., None], [214, 40, 40], image // 3 + 150)
        tiles = [
            Image.fromarray(image),
            overlay(image, truth, labels, legend=False),
            overlay(image, np.where(counted, prediction, labels.ignore_index), labels, legend=False),
            Image.fromarray(wrong.astype(np.uint8)),
        ]
        images = "".join(f"<img alt='' src='{_inline(tile)}'>" for tile in tiles)
        figures.append(
            f"<figure>{images}<figcaption>{_e(result.key)}: mIoU {_percent(result.mean_iou)} %, pixel accuracy "
            f"{_percent(result.accuracy)} %</figcaption></figure>"
        )
    return f"<div class='rows'>{''.join(figures)}</div>" if figures else ""


def _every(ranked: Sequence[_Result], most: int = 500) -> str:
    rows = "".join(
        f"<tr><td>{_e(r.key)}</td><td>{_percent(r.mean_iou)}</td><td>{_percent(r.accuracy)}</td></tr>"
        for r in ranked[:most]
    )
    more = f"<p class='dim'>The {most} worst of {len(ranked)}.</p>" if len(ranked) > most else ""
    head = "<tr><th>image</th><th>mIoU %</th><th>pixel accuracy %</th></tr>"
    summary = f"<summary>{len(ranked)} images, the worst first</summary>"
    return f"<details>{summary}{more}<table>{head}{rows}</table></details>"


def _inline(image: Image.Image) -> str:
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _swatch(labels: Labels, k: int) -> str:
    red, green, blue = labels.palette[k]
    return f"<span class='swatch' style='background:rgb({red},{green},{blue})'></span>"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)

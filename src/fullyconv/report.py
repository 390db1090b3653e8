"""The page a person looks at after training: scores, where they come from, and the images that went worst and best.

One HTML file that stands for itself: no script, no network, images inside. Everything that comes from files (class
names, paths, licenses) is escaped.
"""

from __future__ import annotations

import base64
import csv
import html
import importlib.resources
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

from fullyconv.confusion import METRICS, SegmentationScores, scores
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.drawing import legend_order, overlay, percent
from fullyconv.files import write
from fullyconv.geometry.measuring import evaluating
from fullyconv.images import visible
from fullyconv.labels import Labels
from fullyconv.training.metrics import best_class, confusion_matrix
from fullyconv.training.module import SegmentationModule
from fullyconv.training.shortcomings import shortcomings

SIDE = 480  # pixels of the longer side of an image on the page
SHOWN = 6  # images of each kind
MATRIX_CLASSES = 64  # a table of more columns nobody reads
MISTAKEN = 5  # pairs of classes that are named
VIEWS = ("image", "truth", "prediction", "red: where they differ")


@dataclass(frozen=True)
class _Result:
    """What one image told."""

    index: int
    key: str
    mean_iou: float
    accuracy: float


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
        history: folder of Lightning's CSV logs (version_0, ...), for the curves; the page says why it has none.
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
    total = np.zeros((labels.num_classes, labels.num_classes), np.int64)
    for index, pair in enumerate(data.splits[split]):
        sample: dict[str, Any] = dataset[index]
        prediction = _predicted(segmenter, sample["image"])
        matrix = confusion_matrix(prediction, sample["mask"], labels.num_classes, labels.ignore_index).numpy()
        own = scores(matrix)
        total += matrix
        results.append(_Result(index, pair.key, own.mean_iou, own.pixel_accuracy))
    whole = scores(total)
    ranked = sorted((r for r in results if not math.isnan(r.mean_iou)), key=lambda r: (r.mean_iou, r.key))
    worst = ranked[:SHOWN]
    best = [result for result in reversed(ranked) if result not in worst][:SHOWN]
    wants = shortcomings(whole, labels.names, split, segmenter.training_record.get("steps"))
    name = title or data.source.root.resolve().name
    style = (importlib.resources.files("fullyconv") / "web" / "report.css").read_text(encoding="utf-8")
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width,initial-scale=1'><title>{_e(name)}: {_e(split)}</title>"
        f"<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'\"><style>{style}</style></head><body>",
        f"<h1>{_e(name)}</h1><p class='dim'>{_e(segmenter.hparams['model'])}, {labels.num_classes} classes, scored on "
        f"the {_e(split)} split: {len(results)} images, {whole.pixels:,} pixels</p>",
        "".join(f"<p class='banner'>{_e(wanting)}</p>" for wanting in wants),
        _cards(whole),
        "<h2>Classes</h2>",
        _classes(whole, total, labels),
        "<h2>What is taken for what</h2>",
        _matrix(total, labels),
        "<h2>Training</h2>",
        _curves(history),
        "<h2>The worst images</h2>",
        _legend(total, labels),
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
    order = sorted(METRICS, key=lambda metric: metric != "mean_iou")  # which most look for
    cards = "".join(
        f"<div class='card'><b>{_percent(getattr(whole, metric))} %</b>{METRICS[metric]}</div>" for metric in order
    )
    return f"<div class='cards'>{cards}</div>"


def _classes(whole: SegmentationScores, total: npt.NDArray[np.int64], labels: Labels) -> str:
    pixels = max(1, int(total.sum()))
    rows = []
    for k in sorted(range(labels.num_classes), key=lambda k: (math.isnan(whole.iou[k]), whole.iou[k])):
        iou = 0.0 if math.isnan(whole.iou[k]) else whole.iou[k]
        rows.append(
            f"<tr><td>{_swatch(labels, k)}{_e(labels.names[k])}</td><td>{_percent(whole.iou[k])}"
            f"<span class='track'><span class='bar' style='width:{100 * iou:.0f}%'></span></span></td>"
            f"<td>{_percent(whole.accuracy[k])}</td>"
            f"<td>{int(total[k].sum()):,}</td><td>{100 * total[k].sum() / pixels:.2f} %</td></tr>"
        )
    head = "<tr><th>class, the worst first</th><th>IoU %</th><th>accuracy %</th><th>pixels</th><th>share</th></tr>"
    return f"<div class='scroll'><table>{head}{''.join(rows)}</table></div>"


def _matrix(total: npt.NDArray[np.int64], labels: Labels) -> str:
    """Draw the confusion matrix, in percent of each true class; of many classes the largest."""
    occur = np.flatnonzero(total.any(0) | total.any(1))
    kept = sorted(occur[np.argsort(-total.sum(1)[occur], kind="stable")][:MATRIX_CLASSES].tolist())
    share = total / np.maximum(1, total.sum(1, keepdims=True)) * 100
    head = "".join(f"<th>{_e(labels.names[k])}</th>" for k in kept)
    rows = []
    for i in kept:
        cells = []
        for j in kept:
            value = share[i, j]
            depth = value / 100 if i == j else min(1.0, value / 50)
            color = f"{'59,125,216' if i == j else '214,69,65'},{depth:.2f}"
            if value < 0.5:
                cells.append("<td></td>")
                continue
            ink = ";color:#fff" if depth > 0.6 else ""
            title = f"{_e(labels.names[i])} taken for {_e(labels.names[j])}: {value:.1f} %"
            cells.append(f"<td title='{title}' style='background:rgba({color}){ink}'>{value:.0f}</td>")
        rows.append(f"<tr><td>{_swatch(labels, i)}{_e(labels.names[i])}</td>{''.join(cells)}</tr>")
    left = len(occur) - len(kept)
    note = f" The {len(kept)} largest classes, without the {left} smallest." if left else ""
    about = f"<p class='dim'>Rows are the truth, columns the prediction, in percent of the row.{note}</p>"
    kind = "matrix many" if len(kept) > 24 else "matrix"
    table = f"<div class='scroll'><table class='{kind}'><tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    return f"{_mistaken(total, share, labels)}{about}{table}"


def _mistaken(total: npt.NDArray[np.int64], share: npt.NDArray[np.float64], labels: Labels) -> str:
    """Name the pairs of classes that cost the most pixels."""
    wrong = np.where(np.eye(len(total), dtype=np.bool_), 0, total)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKEN].tolist()
    pairs = [(i, j) for i, j in (divmod(place, len(total)) for place in worst) if wrong[i, j]]
    if not pairs:
        return "<p>Every pixel is right.</p>"
    lines = "".join(
        f"<li>{_e(labels.names[i])} for {_e(labels.names[j])}: {wrong[i, j]:,} pixels, {share[i, j]:.1f} % of "
        f"{_e(labels.names[i])}</li>"
        for i, j in pairs
    )
    return f"<p>What costs the most pixels:</p><ul>{lines}</ul>"


def _curves(history: str | Path | None) -> str:
    """Draw what the logs of all parts of a run say, over epochs."""
    if history is None:
        return "<p>No curves: this page is of a model alone; the page that 'fullyconv fit' writes has them.</p>"
    series: dict[str, dict[float, float]] = defaultdict(dict)
    versions = {path.parent.name.partition("_")[2]: path for path in Path(history).glob("version_*/metrics.csv")}
    for number in sorted(filter(str.isdecimal, versions), key=int):
        path = versions[number]
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for key in ("train/loss", "val/loss", "val/mean_iou"):
                    try:
                        epoch, value = float(row["epoch"]), float(row[key])
                    except (KeyError, TypeError, ValueError):
                        continue  # a line that has no such value, or the last line of a process that was killed
                    if math.isfinite(value):
                        series[key][epoch] = value
    if not series:
        return f"<p>No curves: no epoch ended in the logs of the run, {_e(history)}.</p>"
    charts = "".join(_chart(key, sorted(points.items())) for key, points in sorted(series.items()))
    return f"<div class='cards'>{charts}</div>"


def _chart(name: str, points: Sequence[tuple[float, float]]) -> str:
    """Draw one curve over an axis of round numbers that holds 0."""
    width, height, left, right, top, bottom = 420, 220, 48, 16, 12, 30
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = (math.copysign(_round_up(abs(end)), end) for end in (min(0.0, *ys), max(0.0, *ys)))
    if name.endswith("mean_iou") or low == high:
        high = 1.0
    span = max(xs) - min(xs)

    def across(x: float) -> float:
        return left + ((x - min(xs)) / span if span else 0.5) * (width - left - right)

    def down(y: float) -> float:
        return top + (high - y) / (high - low) * (height - top - bottom)

    line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    dots = "".join(f"<circle cx='{across(x):.1f}' cy='{down(y):.1f}' r='3' fill='#3b7dd8'/>" for x, y in points)
    grid = "".join(
        f"<path stroke='#d5dade' d='M{left},{down(y):.1f}H{width - right}'/>"
        f"<text x='{left - 6}' y='{down(y) + 4:.1f}' text-anchor='end'>{y:g}</text>"
        for y in (low, (low + high) / 2, high)
    )
    ticks = "".join(
        f"<text x='{across(x):.1f}' y='{height - 8}' text-anchor='middle'>{x + 1:.0f}</text>"
        for x in sorted({xs[0], xs[len(xs) // 2], xs[-1]})
    )
    return (
        f"<figure class='chart'><figcaption><b>{_e(name)}</b> by epoch; the last: {ys[-1]:.4g}</figcaption>"
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' aria-label='{_e(name)}'>"
        f"{grid}{ticks}<polyline fill='none' stroke='#3b7dd8' stroke-width='2' points='{line}'/>"
        f"{dots if len(points) <= 40 else ''}</svg></figure>"
    )


def _round_up(value: float) -> float:
    """Give the next 1, 2, 4, 6, 8 or 10 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(value)) if value else 0.0
    return unit * next(step for step in (1, 2, 4, 6, 8, 10) if step * unit >= value * (1 - 1e-9))


def _legend(total: npt.NDArray[np.int64], labels: Labels) -> str:
    shares = 100 * total.sum(1) / max(1, int(total.sum()))
    names = "".join(
        f"<span>{_swatch(labels, k)}{_e(labels.names[k])} <span class='dim'>{percent(shares[k])}</span></span>"
        for k in legend_order(labels)
    )
    return f"<p class='legend'>{names}</p><p class='dim'>The shares are of all counted pixels of the truth.</p>"


def _images(chosen: Sequence[_Result], dataset: Any, segmenter: SegmentationModule, labels: Labels) -> str:
    figures = []
    for result in chosen:
        sample = dataset[result.index]
        image = visible((sample["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        truth, prediction = sample["mask"].numpy(), _predicted(segmenter, sample["image"]).numpy()
        counted = truth != labels.ignore_index
        pale = image.mean(2, keepdims=True) / 3 + 150
        wrong = np.where(((truth != prediction) & counted)[..., None], [214, 40, 40], pale)
        tiles = [
            Image.fromarray(image),
            overlay(image, truth, labels, legend=False),
            overlay(image, np.where(counted, prediction, labels.ignore_index), labels, legend=False),
            Image.fromarray(wrong.astype(np.uint8)),
        ]
        views = "".join(
            f"<div><img alt='{view}' src='{_inline(tile)}'><small>{view}</small></div>"
            for view, tile in zip(VIEWS, tiles, strict=True)
        )
        figures.append(
            f"<figure class='views'><figcaption>{_e(result.key)}: mIoU {_percent(result.mean_iou)} %, pixel accuracy "
            f"{_percent(result.accuracy)} %</figcaption>{views}</figure>"
        )
    return "".join(figures)


def _every(ranked: Sequence[_Result], most: int = 500) -> str:
    rows = "".join(
        f"<tr><td>{_e(r.key)}</td><td>{_percent(r.mean_iou)}</td><td>{_percent(r.accuracy)}</td></tr>"
        for r in ranked[:most]
    )
    more = f"<p class='dim'>The {most} worst of {len(ranked)}.</p>" if len(ranked) > most else ""
    head = "<tr><th>image</th><th>mIoU %</th><th>pixel accuracy %</th></tr>"
    summary = f"<summary>{len(ranked)} images, the worst first</summary>"
    return f"<details>{summary}{more}<div class='scroll'><table>{head}{rows}</table></div></details>"


def _inline(image: Image.Image) -> str:
    scale = SIDE / max(image.size)
    scale = scale if scale < 1 else int(scale)  # pixels of a small image stay squares of one size
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _swatch(labels: Labels, k: int) -> str:
    color = f"rgb{labels.palette[k]}" if any(labels.palette[k]) else "none"  # black is not drawn
    return f"<span class='swatch' style='background:{color}'></span>"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)

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
from string import Template
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
    labels, dataset = data.labels, data.eval_dataloader(split).dataset
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
    plain = {
        "name": data.source.root.resolve().name,
        "split": split,
        "model": segmenter.hparams["model"],
        "classes": labels.num_classes,
        "images": len(results),
        "pixels": f"{whole.pixels:,}",
        "license": segmenter.license or "unstated",
    }
    drawn = {
        "banners": "".join(f"<p class='banner'>{_e(wanting)}</p>" for wanting in wants),
        "cards": _cards(whole),
        "table": _classes(whole, total, labels),
        "matrix": _matrix(total, labels),
        "curves": _curves(history),
        "legend": _legend(total, labels),
        "worst": _images(worst, dataset, segmenter, labels),
        "best": "<h2>The best images</h2>" * bool(best) + _images(best, dataset, segmenter, labels),
        "every": _every(ranked),
        "origin": "".join(f"<pre>{_e(text)}</pre>" for text in (data.report, "\n".join(told), command) if text),
    }
    page = (importlib.resources.files("fullyconv") / "web" / "report.html").read_text(encoding="utf-8")
    escaped = {key: _e(text) for key, text in plain.items()}
    write(target, Template(page).substitute(escaped | drawn))
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
    pixels = total.sum(1)
    rows = []
    for k in sorted(range(labels.num_classes), key=lambda k: (math.isnan(whole.iou[k]), whole.iou[k])):
        width = 0.0 if math.isnan(whole.iou[k]) else 100 * whole.iou[k]
        bar = f"<span class='track'><span class='bar' style='width:{width:.0f}%'></span></span>"
        share = f"{100 * pixels[k] / max(1, pixels.sum()):.2f} %"
        iou, accuracy = _percent(whole.iou[k]), _percent(whole.accuracy[k])
        rows.append(_cells(_named(labels, k), f"{iou}{bar}", accuracy, f"{pixels[k]:,}", share))
    return _table(("class, the worst first", "IoU %", "accuracy %", "pixels", "share"), rows)


def _matrix(total: npt.NDArray[np.int64], labels: Labels) -> str:
    """Draw the confusion matrix, in percent of each true class; of many classes the largest."""
    occur = np.flatnonzero(total.any(0) | total.any(1))
    kept = sorted(occur[np.argsort(-total.sum(1)[occur], kind="stable")][:MATRIX_CLASSES].tolist())
    share = total / np.maximum(1, total.sum(1, keepdims=True)) * 100
    rows = []
    for i in kept:
        cells = _cells(_named(labels, i))
        for j in kept:
            value = share[i, j]
            depth = value / 100 if i == j else min(1.0, value / 50)
            color = f"{'59,125,216' if i == j else '214,69,65'},{depth:.2f}"
            ink = ";color:#fff" if depth > 0.6 else ""
            title = f"{_e(labels.names[i])} taken for {_e(labels.names[j])}: {value:.1f} %"
            shown = f"<td title='{title}' style='background:rgba({color}){ink}'>{value:.0f}</td>"
            cells += "<td></td>" if value < 0.5 else shown
        rows.append(cells)
    left = len(occur) - len(kept)
    note = f" The {len(kept)} largest classes, without the {left} smallest." if left else ""
    about = f"<p class='dim'>Rows are the truth, columns the prediction, in percent of the row.{note}</p>"
    table = _table(("", *(_e(labels.names[k]) for k in kept)), rows, "matrix many" if len(kept) > 24 else "matrix")
    return f"{_mistaken(total, share, labels)}{about}{table}"


def _mistaken(total: npt.NDArray[np.int64], share: npt.NDArray[np.float64], labels: Labels) -> str:
    """Name the pairs of classes that cost the most pixels."""
    wrong = np.where(np.eye(len(total), dtype=np.bool_), 0, total)
    lines = ""
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MISTAKEN].tolist():
        i, j = divmod(place, len(total))
        if wrong[i, j]:
            true, taken = _e(labels.names[i]), _e(labels.names[j])
            lines += f"<li>{true} for {taken}: {wrong[i, j]:,} pixels, {share[i, j]:.1f} % of {true}</li>"
    return f"<p>What costs the most pixels:</p><ul>{lines}</ul>" if lines else "<p>Every pixel is right.</p>"


def _curves(history: str | Path | None) -> str:
    """Draw what the logs of all parts of a run say, over epochs."""
    if history is None:
        return "<p>No curves: this page is of a model alone; the page that 'fullyconv fit' writes has them.</p>"
    series: dict[str, dict[float, float]] = defaultdict(dict)
    parts = {path.parent.name.removeprefix("version_"): path for path in Path(history).glob("version_*/metrics.csv")}
    for number in sorted(filter(str.isdecimal, parts), key=int):
        with parts[number].open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for key in ("train/loss", "val/loss", "val/mean_iou"):
                    try:
                        epoch, value = float(row["epoch"]), float(row[key])
                    except (KeyError, TypeError, ValueError):
                        continue  # a line that has no such value, or the last line of a process that was killed
                    if math.isfinite(value):
                        series[key][epoch] = value
    if not series:
        return f"<p>No curves: no epoch stands in a log of {_e(history)}; another logger keeps its own.</p>"
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
        f"<span>{_named(labels, k)} <span class='dim'>{percent(shares[k])}</span></span>" for k in legend_order(labels)
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
    rows = [_cells(_e(each.key), _percent(each.mean_iou), _percent(each.accuracy)) for each in ranked[:most]]
    more = f"<p class='dim'>The {most} worst of {len(ranked)}.</p>" if len(ranked) > most else ""
    table = _table(("image", "mIoU %", "pixel accuracy %"), rows)
    return f"<details><summary>{len(ranked)} images, the worst first</summary>{more}{table}</details>"


def _table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{row}</tr>" for row in (head, *rows))
    return f"<div class='scroll'><table class='{kind}'>{body}</table></div>"


def _cells(*texts: str) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)


def _inline(image: Image.Image) -> str:
    scale = SIDE / max(image.size)
    scale = scale if scale < 1 else int(scale)  # pixels of a small image stay squares of one size
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _named(labels: Labels, k: int) -> str:
    """Give the name of a class behind its color; black is not drawn."""
    color = f"rgb{labels.palette[k]}" if any(labels.palette[k]) else "none"
    return f"<span class='swatch' style='background:{color}'></span>{_e(labels.names[k])}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)

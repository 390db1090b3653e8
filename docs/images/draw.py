"""Draw the pictures of README and site anew, with the models of the zoo.

    FULLYCONV_DATA=/where/the/sets/are python docs/images/draw.py

Shown are only images that may be: scikit-learn's photographs (CC BY 2.0), nuclei of the 2018 Data Science Bowl (CC0)
and photographs of a peanut field (CC BY-SA 4.0).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps

import fullyconv
from fullyconv.demo import sample_photograph
from fullyconv.geometry import Geometry
from fullyconv.upsampling import resample

HERE = Path(__file__).parent
SETS = Path(os.environ["FULLYCONV_DATA"])
CHINA = sample_photograph()
FLOWER = CHINA.with_name("flower.jpg")
FIELDS = [
    SETS / "peanut_weeds" / "images" / f"{number}.jpg" for number in ("0269", "0055", "0335")
]  # of the test split
NUCLEI = [
    SETS / "nuclei_dsb2018" / "images" / name for name in ("94519eb45cbe.jpg", "3477024fd843.jpg", "d2ce593bddf9.png")
]
TEXT, INK, GAP = 22, (30, 30, 30), 14


def sheet(rows: Sequence[Sequence[tuple[Image.Image, str]]], size: tuple[int, int]) -> Image.Image:
    """Lay panels of one size in rows, each under its title."""
    font, top = ImageFont.load_default(TEXT), TEXT + 12
    width, height = size[0] + GAP, size[1] + top + GAP
    paper = Image.new("RGB", (len(rows[0]) * width - GAP, len(rows) * height - GAP), "white")
    draw = ImageDraw.Draw(paper)
    for y, row in enumerate(rows):
        for x, (image, title) in enumerate(row):
            draw.text((x * width + 2, y * height + 2), title, INK, font)
            paper.paste(
                ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS), (x * width, y * height + top)
            )
    return paper


def keep(image: Image.Image, name: str) -> None:
    """Write an image into the folder of this script."""
    image.save(HERE / name, quality=84, optimize=True)
    print(f"{name}: {image.width} x {image.height}, {(HERE / name).stat().st_size / 1000:.0f} kB")


def alignment(side: int = 320, low: int = 144, high: int = 176) -> None:
    """Draw where a ResNet with equal weights sees a square: its scores stretched, and put where they lie."""
    backbone = fullyconv.build_backbone("resnet18").eval()
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    image = torch.zeros(1, 3, side, side)
    image[..., low:high, low:high] = 1
    with torch.no_grad():
        scores = backbone(image)[32].mean(1, keepdim=True)
    stretched = F.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False)
    ours = resample(scores, backbone.geometry[32], Geometry.IDENTITY, (side, side))
    panels = []
    for name, values in (("F.interpolate", stretched), ("by measured centers", ours)):
        heat = (values[0, 0] / values.max()).clamp(min=0)[..., None].numpy()
        pixels = np.array((20, 28, 34)) + heat * np.array((210, 130, 10))
        panel = Image.fromarray(pixels.astype(np.uint8)).crop((64, 64, 256, 256)).resize((576, 576))
        draw = ImageDraw.Draw(panel)
        draw.rectangle([3 * (low - 64), 3 * (low - 64), 3 * (high - 64), 3 * (high - 64)], outline="white", width=4)
        y, x = (3 * (divmod(int(values.argmax()), side)[axis] - 64) for axis in (0, 1))
        draw.line([x - 16, y, x + 16, y], "black", 5)
        draw.line([x, y - 16, x, y + 16], "black", 5)
        panels.append((panel, name))
    keep(sheet([panels], (400, 400)), "alignment.jpg")


def main() -> None:
    """Draw all pictures."""
    alignment()
    dense = fullyconv.load_classifier("efficientnet_lite0.imagenet").convolutionalize()
    nuclei, weeds = fullyconv.load("nuclei"), fullyconv.load("weeds")

    def heat(path: Path, word: str) -> tuple[Image.Image, str]:
        return dense.heatmap(path, word).overlay(legend=False), f"a classifier, asked: {word}?"

    field, cells = weeds.predict(FIELDS[0]), nuclei.predict(NUCLEI[1])
    rows = [
        [(Image.open(CHINA), "a photograph"), heat(CHINA, "palace"), heat(CHINA, "lakeside")],
        [
            (Image.open(FIELDS[0]), "a field"),
            (field.overlay(legend=False), "“weeds”: crop green, weed red"),
            (cells.overlay(legend=False), "“nuclei”: cell nuclei"),
        ],
    ]
    keep(sheet(rows, (420, 280)), "overview.jpg")
    panels = [panel for row in rows for panel in row]
    narrow = [[panels[0], panels[1]], [panels[3], panels[4]], [panels[2], panels[5]]]
    keep(sheet(narrow, (340, 240)), "overview-narrow.jpg")  # for a telephone
    keep(sheet([[heat(FLOWER, "daisy"), heat(CHINA, "palace"), heat(CHINA, "lakeside")]], (420, 280)), "heatmaps.jpg")
    for segmenter, name, paths in ((nuclei, "nuclei", NUCLEI), (weeds, "weeds", FIELDS)):
        results = [segmenter.predict(path) for path in paths]
        above = [(Image.fromarray(result.image), "a test image") for result in results]
        below = [(result.overlay(legend=False), f"“{name}”") for result in results]
        keep(sheet([above, below], (340, 255)), f"{name}.jpg")
        both = Image.new("RGB", (240, 120))
        for x, picture in enumerate((above[0][0], below[0][0])):
            both.paste(ImageOps.fit(picture.convert("RGB"), (120, 120)), (120 * x, 0))
        keep(both, f"{name}-small.jpg")


if __name__ == "__main__":
    main()

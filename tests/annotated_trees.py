"""Folders with COCO and labelme annotations, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 60)
RNG = np.random.default_rng(0)
SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def annotation(number: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0} | more


CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def coco(path: Path, count: int, *annotations: dict[str, Any], **more: Any) -> Path:
    images = [
        {"id": number, "file_name": f"{number:03}.png", "height": SIZE[0], "width": SIZE[1]} for number in range(count)
    ]
    content = {"images": images, "annotations": list(annotations), "categories": CATEGORIES} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_tree(root: Path, *annotations: dict[str, Any], count: int = 4, name: str = "annotations.json") -> Path:
    for number in range(count):
        photo(root / "images" / f"{number:03}.png")
    coco(root / name, count, *(annotations or [annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, [SQUARE])]))
    return root


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def labelme(path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": path.with_suffix(".png").name,
               "imageData": "bm90IGEgcGljdHVyZQ==", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more))
    return path


def labelme_tree(root: Path, *shapes: dict[str, Any], count: int = 4) -> Path:
    for number in range(count):
        photo(root / f"{number:03}.png")
        labelme(root / f"{number:03}.json", *(shapes or [shape("weed", [[10, 5], [30, 5], [30, 25], [10, 25]])]))
    return root

"""Trees and images as people bring them, which no tool meant to make: for tests of what becomes of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from conftest import write_tree

STRANGE = os.fsdecode(b"caf\xe9")
"""A name that is no UTF-8."""


def scene(height: int = 64, width: int = 96) -> np.ndarray[Any, Any]:
    """An image (H, W, 3) uint8 of soft shapes over the whole range."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    waves = [np.sin(9 * x + phase) + np.cos(7 * y * x + 2 * phase) for phase in (0, 1, 2)]
    return np.rint(np.stack([255 * (wave + 2) / 4 for wave in waves], axis=2)).astype(np.uint8)


def deep(path: Path, image: np.ndarray[Any, Any], most: int) -> Path:
    """Write an image with values 0..most in 16 bits; the name says whether it is gray."""
    values = np.rint(image.astype(float) * most / 255).astype(np.uint16)
    if path.name.startswith("gray"):
        values = values[..., 0]
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values, photometric="minisblack" if values.ndim == 2 else "rgb")
    return path


def deep_tree(root: Path, form: str, most: int) -> Path:
    """A tree whose images have values 0..most in 16 bits."""
    write_tree(root, {"train": 4, "val": 2})
    for path in sorted(root.glob("*/images/*")):
        made = deep(root / form, np.array(Image.open(path)), most)
        path.unlink()
        made.rename(path.with_suffix(made.suffix))
    return root


def strangely_named(folder: Path, where: str) -> Path:
    """A tree with a name in it that is no UTF-8: that of a pair, or its own."""
    root = write_tree(folder / (STRANGE if where == "folder" else "set"), {"train": 2, "val": 2}, size=(32, 32))
    if where == "file":
        for kind in ("images", "masks"):
            (root / "train" / kind / "000.png").rename(root / "train" / kind / f"{STRANGE}.png")
    return root


def fixed_camera(root: Path, number: int) -> Path:
    """Images that differ by noise alone."""
    write_tree(root, {"train": 1}, size=(32, 32))
    image, mask = (root / "train" / kind / "000.png" for kind in ("images", "masks"))
    scene = np.array(Image.open(image)).astype(int)
    for index in range(1, number):
        noise = np.random.default_rng(index).integers(-2, 3, scene.shape)
        Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8)).save(image.with_stem(f"{index:04}"))
        shutil.copy(mask, mask.with_stem(f"{index:04}"))
    return root


def thin(root: Path, number: int = 24, size: int = 96) -> Path:
    """Images of dark lines on gray ground, which are about 2 % of the pixels; masks of 0 and 255."""
    for index in range(number):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[:size, :size]
        slope, offset = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.7) * size
        line = np.abs(y - offset - slope * (x - size / 2) - 4 * np.sin(x / 9 + index)) < 1
        image = rng.normal(150, 12, (size, size)) - 70 * line
        for kind, values in (("images", image.clip(0, 255)), ("masks", 255 * line)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(root / kind / f"{index:03}.png")
    return root

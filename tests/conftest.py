from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the public data sets; tests that need it are skipped where there is none."""
    root = os.environ.get("FULLYCONV_DATA")
    if not root:
        pytest.skip("set FULLYCONV_DATA=FOLDER to the folder that holds the public data sets")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def camvid(data_root: Path) -> Path:
    folder = data_root / "camvid"
    if not folder.is_dir():
        pytest.skip(f"no camvid folder under FULLYCONV_DATA={data_root}")
    return folder


NAMES = ["ground", "box", "sky"]


def write_tree(root: Path, sizes: dict[str, int], size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
    """Write a small data set that a network can learn: the colour of a region tells its class.

    Args:
        root: where; each split becomes ``SPLIT/images`` and ``SPLIT/masks``.
        sizes: number of pairs of each split.
        size: (H, W) in pixels.
        seed: of the positions.
    """
    rng = np.random.default_rng(seed)
    colours = np.array([[40, 120, 40], [200, 60, 60], [90, 140, 230]])
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    height, width = size
    for split, number in sizes.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            mask = np.zeros(size, dtype=np.uint8)
            mask[: height // 3] = 2
            y, x = rng.integers(height // 4, height // 2), rng.integers(0, width // 2)
            mask[y : y + height // 3, x : x + width // 3] = 1
            image = colours[mask] + rng.integers(-20, 20, (*size, 3))
            mask[-2:] = 255
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"{index:03}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index:03}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 8, "val": 4, "test": 4})


def pytest_configure(config: pytest.Config) -> None:
    # The suite runs in one process a core; several threads in each would only wait for each other.
    import torch

    torch.set_num_threads(1)

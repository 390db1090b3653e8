"""Segment an image that is larger than memory should have to be: time, peak memory, and whether the tiles show.

    python benchmarks/large_image.py [--side 20000] [--memory 1.5GB] [--model street] [--tiled]

A TIFF of textured blocks is made band by band, `fullyconv predict` runs on it in a process of its own, and the peak of
that process is compared with that of one that segments 64 x 64 pixels: the difference is what the size costs. A part of
the image is then segmented untiled, and compared with the mask where both see all that a pixel depends on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from measuring import Row, add_json, finish, machine

BLOCK = 250  # pixels of a side


def rows(side: int, height: int = BLOCK) -> Iterator[np.ndarray]:
    """Give the image band by band: blocks of random colors, with noise of a random grain."""
    rng = np.random.default_rng(0)
    for start in range(0, side, height):
        band = np.empty((min(height, side - start), side, 3), np.uint8)
        for left in range(0, side, BLOCK):
            part = band[:, left : left + BLOCK]
            grain = int(rng.integers(1, 24))
            noise = rng.integers(-60, 61, (part.shape[0] // grain + 1, part.shape[1] // grain + 1, 3))
            texture = np.kron(noise, np.ones((grain, grain, 1), int))[: part.shape[0], : part.shape[1]]
            part[:] = (rng.integers(0, 256, 3) + texture).clip(0, 255)
        yield band


def tiles(side: int, size: int = 256) -> Iterator[np.ndarray]:
    """Cut the bands into the tiles of a TIFF, row by row."""
    for band in rows(side, size):
        for left in range(0, side, size):
            tile = np.zeros((size, size, 3), np.uint8)
            part = band[:, left : left + size]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def make(path: Path, side: int, tiled: bool) -> None:
    """Write the image."""
    ways = {"tile": (256, 256), "compression": "zlib"} if tiled else {}
    data = tiles(side) if tiled else rows(side)
    if tiled:
        tifffile.imwrite(path, data, shape=(side, side, 3), dtype=np.uint8, photometric="rgb", **ways)
        return
    memory = tifffile.memmap(path, shape=(side, side, 3), dtype=np.uint8, photometric="rgb")
    for index, band in enumerate(data):
        memory[index * BLOCK : index * BLOCK + len(band)] = band
    memory.flush()


def predict(image: Path, out: Path, words: list[str]) -> tuple[float, float]:
    """Run the command line; give seconds, and the peak of the resident set in bytes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "fullyconv", "predict", str(image), "--out", str(out), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(image: Path, mask: Path, model: str, part: int) -> tuple[int, int]:
    """Count the pixels of an untiled part that have another class than in the mask, and all that are compared."""
    import fullyconv
    from fullyconv.images.tiff import open_windows

    segmenter = fullyconv.load(model)
    geometry = segmenter.geometry if hasattr(segmenter, "geometry") else segmenter.model.geometry
    margin = int(max(geometry.receptive_field)) // 2 + 64
    Image.MAX_IMAGE_PIXELS = None
    whole = np.array(Image.open(mask))
    windows = open_windows(image, 3)
    assert windows is not None
    with windows:
        start = (windows.size[0] - part) // 2 // 64 * 64
        pixels = windows.read(start, start, start + part, start + part)
    alone = segmenter.predict(pixels, memory="1TB").mask[margin:-margin, margin:-margin]
    there = whole[start + margin : start + part - margin, start + margin : start + part - margin]
    return int((alone != there).sum()), alone.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20000, help="pixels (default: %(default)s)")
    parser.add_argument("--memory", default="1.5GB", help="as predict takes it (default: %(default)s)")
    parser.add_argument("--model", default="street")
    parser.add_argument("--tiled", action="store_true", help="a TIFF in compressed tiles, not a plain one")
    add_json(parser)
    arguments = parser.parse_args()
    part = min(3000, arguments.side * 3 // 4)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        Image.fromarray(next(rows(64))).save(base / "small.png")
        make(base / "large.tif", arguments.side, arguments.tiled)
        words = ["--model", arguments.model, "--memory", arguments.memory]
        least, own = predict(base / "small.png", base / "masks", words)
        seconds, peak = predict(base / "large.tif", base / "masks", words)
        wrong, compared = compare(base / "large.tif", base / "masks" / "large.png", arguments.model, part)
    print(f"{arguments.side} x {arguments.side} pixels, model {arguments.model}, memory {arguments.memory}")
    print(f"time            {seconds:.1f} s, of which {least:.1f} s are for the start")
    print(f"peak memory     {peak / 1e6:.0f} MB, {(peak - own) / 1e6:.0f} MB more than for 64 x 64 pixels")
    print(f"against untiled {wrong} of {compared} pixels of a part of {part} x {part} have another class")
    row = Row(
        what=f"{arguments.side} x {arguments.side} pixels by {arguments.model}, memory {arguments.memory}",
        ours="fullyconv predict",
        peer="none",
        seconds=(seconds, seconds, seconds),
        note=f"{(peak - own) / 1e6:.0f} MB more than for 64 x 64 pixels; {wrong} of {compared} pixels differ untiled",
    )
    finish([row], arguments.json, machine("torch", "tifffile"))


if __name__ == "__main__":
    main()

"""Damage files of data sets at random, by seeds, and see that every reader gives an answer or the package's own error.

A set is made, one of its files is damaged (bytes flipped, cut, doubled, exchanged; values of JSON replaced by odd
ones), and everything is read as training does. Good is an answer, or a `DatasetError`. Bad is any other exception, more
than `SECONDS`, more than `MEMORY` beside what the process has, and the end of the process. What is bad is named by its
seed.

    python tests/fuzzing.py --seconds 600                    # so long for each reader
    python tests/fuzzing.py coco --seed 4711 --count 1 -v    # one of them again
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from annotated_trees import SQUARE, annotation, coco_tree, labelme_tree, shape
from conftest import write_tree
from fullyconv.errors import DatasetError

SECONDS, MEMORY = 20, 2 * 2**30

ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, -(2**70), 1e308, -1e308, float("nan"), float("inf"), "", "x", "../../x",
    "\0", "\n", "é" * 300, [], {}, [[]], [None], {"": 0}, [1e30] * 6, [0, 0, 0, 0, 0, 0], "9" * 5000, [[[[]]]],
]  # fmt: skip
WORDS = [
    b"0",
    b"-1",
    b"99999999999999999999",
    b"nan",
    b"inf",
    b"1e999",
    b",",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b'"',
    b"{",
    b"[",
]


def tree(root: Path, suffix: str, **options: Any) -> None:
    """Make a folder of images in one format, with masks as PNG."""
    write_tree(root, {"train": 3, "val": 2}, size=(24, 32))
    for path in sorted(root.glob("*/images/*")):
        Image.open(path).convert("RGB").save(path.with_suffix(suffix), **options)
        if suffix != path.suffix:
            path.unlink()


def masks(root: Path, suffix: str) -> None:
    """Make a folder whose masks are of one format."""
    write_tree(root, {"train": 3, "val": 2}, size=(24, 32))
    for path in sorted(root.glob("*/masks/*")):
        values = np.array(Image.open(path))
        path.unlink()
        target = path.with_suffix(suffix)
        if suffix == ".mat":
            from scipy.io import savemat

            savemat(target, {"labels": values}, do_compression=True)
        elif suffix == ".seg":
            runs = [f"{values[y, x]} {y} {x} {x}" for y in range(values.shape[0]) for x in range(values.shape[1])]
            height, width = values.shape
            target.write_text(f"format ascii cr\nwidth {width}\nheight {height}\ndata\n" + "\n".join(runs) + "\n")
        else:
            Image.fromarray(values).save(target)


def deep(root: Path) -> None:
    """Make a folder of tiled TIFF files of 16 bits in planes."""
    import tifffile

    write_tree(root, {"train": 3, "val": 2}, size=(24, 32))
    for path in sorted(root.glob("*/images/*")):
        values = np.moveaxis(np.array(Image.open(path).convert("RGB")).astype(np.uint16) * 257, 2, 0)
        path.unlink()
        options = {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16), "compression": "zlib"}
        tifffile.imwrite(path.with_suffix(".tif"), values, **options)


def coco(root: Path) -> None:
    """Make a set of COCO with polygons and run lengths."""
    runs = {"size": [40, 60], "counts": [100, 300, 2000]}
    packed = {"size": [40, 60], "counts": "T4l05O1O"}
    few = [annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, runs), annotation(3, 2, 7, [SQUARE, SQUARE])]
    coco_tree(root, *few, annotation(4, 3, 3, packed))


def labelme(root: Path) -> None:
    """Make a set of labelme."""
    labelme_tree(root, shape("cat", [[2, 3], [30, 5], [9, 30]]), shape("dog", [[1, 1], [9, 9]], "rectangle"))


def yolo(root: Path) -> None:
    """Make a set of YOLO polygons."""
    for split in ("train", "val"):
        for number in range(3):
            image = root / "images" / split / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(image)
            label = root / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.1 0.1 0.6 0.1 0.6 0.7\n1 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")


def table(root: Path) -> None:
    """Make a set named by a CSV."""
    write_tree(root, {"train": 3, "val": 2}, size=(24, 32))
    rows = [
        f"{image.relative_to(root)},{image.parent.parent.name}/masks/{image.name},{image.parent.parent.name}"
        for image in sorted(root.glob("*/images/*"))
    ]
    (root / "pairs.csv").write_text("image,mask,split\n" + "\n".join(rows) + "\n")


def rows_of_a_set(root: Path) -> Any:
    """Make a set of Hugging Face's datasets, not saved."""
    import datasets

    datasets.disable_progress_bars()
    source = root.with_name(f"{root.name}-source")
    write_tree(source, {"train": 4}, size=(24, 32))
    images, truth = (sorted(map(str, (source / "train" / kind).glob("*"))) for kind in ("images", "masks"))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict({"image": images, "mask": truth}, features=features)


def parquet(root: Path) -> None:
    """Make a parquet file with images in it."""
    made = rows_of_a_set(root)
    root.mkdir()
    made.to_parquet(str(root / "train-00000-of-00001.parquet"))


def arrow(root: Path) -> None:
    """Make a saved table of Hugging Face's datasets."""
    rows_of_a_set(root).save_to_disk(str(root))


def video(root: Path) -> None:
    """Make a video."""
    from fullyconv.inference.video import VideoWriter

    root.mkdir()
    rng = np.random.default_rng(0)
    with VideoWriter(root / "clip.mp4") as writer:
        for number in range(6):
            writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), number / 25)


def read_set(root: Path, **options: Any) -> None:
    """Read everything as training does."""
    from fullyconv import SegmentationDataModule

    data = SegmentationDataModule(root, num_workers=0, check=False, **options)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for index in range(len(loader.dataset)):
            loader.dataset[index]


def read_video(root: Path) -> None:
    """Decode all frames."""
    from fullyconv.inference.video import VideoReader

    with VideoReader(root / "clip.mp4") as frames:
        for _ in frames:
            pass


Reader = tuple[Callable[[Path], Any], Callable[[Path], None], str]
READERS: dict[str, Reader] = {
    "png": (lambda root: tree(root, ".png"), read_set, "*/images/*"),
    "jpeg": (lambda root: tree(root, ".jpg", quality=90), read_set, "*/images/*"),
    "webp": (lambda root: tree(root, ".webp"), read_set, "*/images/*"),
    "gif": (lambda root: tree(root, ".gif"), read_set, "*/images/*"),
    "bmp": (lambda root: tree(root, ".bmp"), read_set, "*/images/*"),
    "ppm": (lambda root: tree(root, ".ppm"), read_set, "*/images/*"),
    "avif": (lambda root: tree(root, ".avif"), read_set, "*/images/*"),
    "jp2": (lambda root: tree(root, ".jp2"), read_set, "*/images/*"),
    "tiff": (lambda root: tree(root, ".tif", compression="tiff_lzw"), read_set, "*/images/*"),
    "tiff16": (deep, read_set, "*/images/*"),
    "mask_png": (lambda root: masks(root, ".png"), read_set, "*/masks/*"),
    "mask_tiff": (lambda root: masks(root, ".tif"), read_set, "*/masks/*"),
    "mask_mat": (lambda root: masks(root, ".mat"), read_set, "*/masks/*"),
    "mask_seg": (lambda root: masks(root, ".seg"), read_set, "*/masks/*"),
    "coco": (coco, read_set, "*.json"),
    "labelme": (labelme, read_set, "**/*.json"),
    "yolo": (yolo, read_set, "**/*.[ty][xa]*"),
    "csv": (table, lambda root: read_set(root, pairs="pairs.csv"), "*.csv"),
    "parquet": (parquet, read_set, "*.parquet"),
    "arrow": (arrow, read_set, "*.*"),
    "video": (video, read_video, "*.mp4"),
}


def damage(path: Path, rng: random.Random) -> None:
    """Damage a file in one or a few places."""
    if path.suffix == ".json" and rng.random() < 0.7:
        content = json.loads(path.read_text())
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            content = _replaced(content, rng)
        path.write_text(json.dumps(content))
        return
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 256))
        length = rng.choice([1, 1, 1, 2, 4, 8, 64])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            data[at : at + length] = rng.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * length
        elif kind == 3:
            del data[at : at + length * rng.choice([1, 16])]
        elif kind == 4:
            data[at:at] = data[rng.randrange(len(data)) :][: length * 8]
        elif kind == 5:
            data[at:at] = rng.choice(WORDS)
        else:
            del data[max(1, at) :]
    path.write_bytes(data)


def _replaced(content: Any, rng: random.Random, depth: int = 0) -> Any:
    """Replace one value somewhere in a JSON document."""
    if not isinstance(content, dict | list) or not content or (depth > 0 and rng.random() < 0.15):
        return rng.choice(ODD)
    if isinstance(content, dict):
        key = rng.choice(sorted(content))
        if rng.random() < 0.08:
            return {name: value for name, value in content.items() if name != key}
        return content | {key: _replaced(content[key], rng, depth + 1)}
    index = rng.randrange(len(content))
    if rng.random() < 0.08:
        return content + content
    return [*content[:index], _replaced(content[index], rng, depth + 1), *content[index + 1 :]]


def attempt(name: str, seed: int, made: Path, folder: Path) -> str | None:
    """Damage a file by a seed and read the set; say what is bad, None where nothing is."""
    _, read, pattern = READERS[name]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    rng = random.Random(f"{name}/{seed}")
    damage(rng.choice(sorted(path for path in folder.glob(pattern) if path.is_file())), rng)
    begun = time.monotonic()
    try:
        read(folder)
    except (DatasetError, FileNotFoundError):
        pass
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error))
    taken = time.monotonic() - begun
    return f"took {taken:.0f} s" if taken > SECONDS else None


def work(name: str, seeds: list[int], made: str, folder: str, pipe: Any) -> None:
    """Try seeds in a process of its own, whose end tells of a crash."""
    import resource

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    try:  # imports first: they are not what is bounded
        attempt(name, -1, Path(made), Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    except OSError:
        pass

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    for seed in seeds:
        pipe.send(("begins", seed))
        signal.alarm(SECONDS)
        found = attempt(name, seed, Path(made), Path(folder))
        signal.alarm(0)
        pipe.send(("ends", found))
    pipe.send(("done", None))


def fuzz(name: str, seconds: float, first: int = 0, count: int | None = None) -> tuple[int, dict[int, str]]:
    """Try seeds from `first` on, for so long or so many; give how many there were, and what was bad of which seed."""
    bad: dict[int, str] = {}
    tried, seed, end = 0, first, math.inf
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        READERS[name][0](made)
        shutil.rmtree(made.with_name("made-source"), ignore_errors=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lightning", "fullyconv.data.datamodule", "fullyconv.inference.video"])
        while time.monotonic() < end and (count is None or tried < count):
            ours, theirs = context.Pipe()
            seeds = list(range(seed, seed + (10**6 if count is None else count - tried)))
            process = context.Process(target=work, args=(name, seeds, str(made), str(made.with_name("set")), theirs))
            process.start()
            theirs.close()
            at = seed
            try:
                while time.monotonic() < end:
                    if not ours.poll(SECONDS + 60):
                        bad[at] = "hangs"
                        break
                    kind, told = ours.recv()
                    if kind == "begins":
                        at, end = told, min(end, time.monotonic() + seconds)  # imports and the first look do not count
                    elif kind == "done":
                        break
                    else:
                        tried += 1
                        seed = at + 1
                        if told is not None:
                            bad[at] = told
            except EOFError:
                process.join()
                bad[at] = f"the process ended with {process.exitcode}"
                tried += 1
                seed = at + 1
            process.kill()
            process.join()
    return tried, bad


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; all")
    parser.add_argument("--seconds", type=float, help="for each reader; 3, or as long as --count takes")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--count", type=int, help="how many seeds, in place of all that the time allows")
    parser.add_argument("-v", action="store_true", help="tell all of each error")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (3 if arguments.count is None else math.inf)
    wrong = 0
    for name in arguments.readers or READERS:
        tried, bad = fuzz(name, seconds, arguments.seed, arguments.count)
        print(f"{name}: {tried} tried, {len(bad)} bad", flush=True)
        for seed, told in list(bad.items())[: None if arguments.v else 5]:
            print(f"  seed {seed}: {told if arguments.v else told.strip().splitlines()[-1][:200]}", flush=True)
        wrong += len(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

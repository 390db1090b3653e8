"""Score a folder of predicted masks against the true ones: without torch, streaming torchmetrics, and all kept.

Every way is a process of its own, started in turn: seconds and peak memory are of the whole process, imports included,
as somebody who scores a folder has them; seconds without imports stand in the note. The matrices must be equal.
The masks are those of CamVid where FULLYCONV_DATA names a folder that holds it, else drawn; predictions are made of
them by moving the regions by a few pixels.

    python benchmarks/mask_folders.py --repeats 5 [--masks 334]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from measuring import Row, add_arguments, finish, machine, print_rows, process, ratios, spread, version

CLASSES = 12
OURS, STREAMING, KEPT = "score_masks", "one at a time", "all kept"


def make(folder: Path, count: int) -> None:
    """Write masks, and predictions that miss some."""
    import numpy as np
    from PIL import Image

    root = os.environ.get("FULLYCONV_DATA")
    found = sorted(Path(root).glob("camvid/*annot/*.png")) if root else []
    for name in ("masks", "predicted"):
        (folder / name).mkdir()
    for index in range(count):
        if found:
            with Image.open(found[index % len(found)]) as opened:
                mask = np.array(opened)
        else:
            coarse = np.random.default_rng(index).integers(0, CLASSES, (12, 16)).astype(np.uint8)
            mask = coarse.repeat(30, 0).repeat(30, 1)
        predicted = np.roll(np.where(mask < CLASSES, mask, 0), (index % 7, index % 5), (0, 1)).astype(np.uint8)
        mask = np.where(mask < CLASSES, mask, 255).astype(np.uint8)
        mask[:4] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{index:04}.png")
        Image.fromarray(predicted).save(folder / "predicted" / f"{index:04}.png")


def score(way: str, folder: Path) -> tuple[float, float]:
    """Give the mIoU, and the seconds without imports."""
    if way == OURS:
        from fullyconv.inference.scoring import score_masks

        begun = time.perf_counter()
        return score_masks(folder / "predicted", folder / "masks", CLASSES).mean_iou, time.perf_counter() - begun
    import numpy as np
    import torch
    from PIL import Image
    from torchmetrics.classification import MulticlassJaccardIndex

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def read(path: Path) -> torch.Tensor:
        with Image.open(path) as opened:
            return torch.from_numpy(np.array(opened)).long()

    begun = time.perf_counter()
    metric = MulticlassJaccardIndex(CLASSES, ignore_index=255)
    pairs = [(folder / "predicted" / path.name, path) for path in sorted((folder / "masks").glob("*.png"))]
    if way == STREAMING:
        for predicted, mask in pairs:
            metric.update(read(predicted)[None], read(mask)[None])
    else:
        found, truth = [], []
        for predicted, mask in pairs:
            found.append(read(predicted)[None])
            truth.append(read(mask)[None])
        metric.update(torch.cat(found), torch.cat(truth))
    return float(metric.compute()), time.perf_counter() - begun


def main() -> None:
    """Measure, and print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=5)
    parser.add_argument("--masks", type=int, default=334, help="masks of 360 x 480 (default: %(default)s)")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(score(options.alone[0], Path(options.alone[1]))))
        return
    about = machine("torch", "torchmetrics", threads=options.threads)
    print(about, flush=True)
    ways = (OURS, STREAMING, KEPT)
    whole: dict[str, list[float]] = {way: [] for way in ways}
    inner: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, list[float]] = {way: [] for way in ways}
    means: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as base:
        make(Path(base), options.masks)
        for turn in range(options.repeats + 1):
            for way in ways:
                used = process([__file__, "--alone", way, base], options.threads)
                means[way], seconds = json.loads(used.output)
                if turn:  # the first one reads the libraries from the disk
                    whole[way].append(used.seconds)
                    inner[way].append(seconds)
                    memory[way].append(used.mib)
    if max(means.values()) - min(means.values()) > 1e-5:
        raise SystemExit(f"the scores differ: {means}")
    rows = [
        Row(
            what=f"scores of {options.masks} masks, whole process",
            ours="score_masks",
            peer=f"{version('torchmetrics')}, {way}",
            seconds=spread(whole[OURS]),
            peer_seconds=spread(whole[way]),
            times=ratios(whole[way], whole[OURS]),
            memory=spread(ratios(memory[way], memory[OURS]))[0],
            least_times=7.0 if way == STREAMING else None,
            least_memory=100.0 if way == KEPT else None,
            note=f"without imports {spread(ratios(inner[way], inner[OURS]))[0]:.1f}x; "
            f"peak {spread(memory[way])[0]:.0f} and {spread(memory[OURS])[0]:.0f} MiB; "
            f"mIoU {means[way]:.4f} on both sides",
        )
        for way in (STREAMING, KEPT)
    ]
    print_rows(rows)
    finish(rows, options.json, about)


if __name__ == "__main__":
    main()

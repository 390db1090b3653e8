"""An image of 8192 x 8192 pixels, 21 classes, a small network: all logits summed over tiles, and ours, band by band.

The peer is the usual sliding window: tiles of 512 pixels that overlap by a quarter, their logits added to an array of
all classes at all pixels, divided by how often each pixel was seen, argmax, PNG. Ours is `predict_to`, whose tiles show
no seams. Network and weights are the same, with one in ten of the arithmetic of a ResNet-18. Each is a process of its
own, in turn; seconds are those of the prediction, memory is what it needs beyond the loaded process.

    python benchmarks/sliding_logits.py --side 8192 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from measuring import Peak, Row, add_arguments, clock_for, finish, machine, print_rows, process, ratios, spread

CLASSES, TILE, STEP = 21, 512, 384
PEER, OURS = "sliding window", "predict_to"


def network() -> object:
    """Make the module: strided convolutions to stride 8, and a head."""
    import torch
    from torch import Tensor, nn

    from fullyconv import SegmentationModule
    from fullyconv.backbones import Backbone
    from fullyconv.backbones.base import Features
    from fullyconv.fcn import FCN
    from fullyconv.heads import PlainHead
    from networks import calibrate, fit_scores, photographs

    class Small(Backbone):
        def __init__(self) -> None:
            super().__init__("small", {8: 64})
            layers: list[nn.Module] = []
            for before, after in ((3, 16), (16, 32), (32, 64)):
                layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Tensor) -> Features:
            return Features({8: self.layers(x)}, self._size(x))

    torch.manual_seed(0)
    module = SegmentationModule("fcn8s_resnet18_quarter", classes=[f"class {index}" for index in range(CLASSES)])
    backbone = Small()
    module.model = FCN(backbone, PlainHead(64, CLASSES, backbone.geometry[8], stride=8))
    photo = torch.frombuffer(bytearray(photographs(1)[0].tobytes()), dtype=torch.uint8).view(360, 480, 3)
    image = photo.permute(2, 0, 1)[None].float() / 255
    calibrate(module, image)
    score = module.model.head.score["8"]
    assert isinstance(score, nn.Conv2d)
    fit_scores(module, score, image)
    return module.eval()


def predict(which: str, folder: Path, threads: int) -> tuple[float, float]:
    """Give seconds, and MiB beyond the loaded process."""
    import numpy as np
    import tifffile
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    module = network()
    clock = clock_for(threads)
    target = folder / f"{which.replace(' ', '_')}.png"
    module.predict(np.zeros((600, 600, 3), np.uint8))  # type: ignore[attr-defined]  # what is loaded once
    module.predict_to(folder / "small.tif", folder / "small.png", memory="96MB")  # type: ignore[attr-defined]
    with Peak() as peak:
        begun = clock()
        if which == OURS:
            module.predict_to(folder / "image.tif", target, memory="96MB")  # type: ignore[attr-defined]
        else:
            pixels = tifffile.imread(folder / "image.tif")
            height, width = pixels.shape[:2]
            logits, seen = torch.zeros(CLASSES, height, width), torch.zeros(1, height, width)
            starts = [sorted({*range(0, max(side - TILE, 0), STEP), max(side - TILE, 0)}) for side in (height, width)]
            with torch.inference_mode():
                for top in starts[0]:
                    for left in starts[1]:
                        tile = torch.from_numpy(pixels[top : top + TILE, left : left + TILE].transpose(2, 0, 1).copy())
                        found = module(tile[None].float() / 255)[0]  # type: ignore[operator]
                        logits[:, top : top + TILE, left : left + TILE] += found
                        seen[:, top : top + TILE, left : left + TILE] += 1
                mask = logits.div_(seen).argmax(0).to(torch.uint8).numpy()
            Image.fromarray(mask).save(target)
        seconds = clock() - begun
    return seconds, peak.mib


def make(folder: Path, side: int) -> None:
    """Write an image of photographs side by side, plain, so that it can be read in windows."""
    import numpy as np
    import tifffile

    from networks import photographs

    cells = [np.asarray(image) for image in photographs(12, (512, 768))]
    image = tifffile.memmap(folder / "image.tif", shape=(side, side, 3), dtype=np.uint8, photometric="rgb")
    for index, top in enumerate(range(0, side, 512)):
        for column, left in enumerate(range(0, side, 768)):
            part = image[top : top + 512, left : left + 768]
            part[:] = cells[(5 * index + column) % 12][: part.shape[0], : part.shape[1]]
    image.flush()
    tifffile.imwrite(folder / "small.tif", np.zeros((600, 600, 3), np.uint8), photometric="rgb")


def main() -> None:
    """Measure, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=3)
    parser.add_argument("--side", type=int, default=8192, help="pixels; 8192 needs 7 GB (default: %(default)s)")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(predict(options.alone[0], Path(options.alone[1]), options.threads)))
        return
    about = machine("torch", "tifffile", threads=options.threads)
    print(about, flush=True)
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    memory: dict[str, list[float]] = {OURS: [], PEER: []}
    with tempfile.TemporaryDirectory() as base:
        make(Path(base), options.side)
        for _ in range(options.repeats):
            for which in seconds:
                words = ["--threads", str(options.threads)]
                used = process([__file__, "--alone", which, base, *words], options.threads)
                taken, mib = json.loads(used.output)
                seconds[which].append(taken)
                memory[which].append(mib)
        import numpy as np
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None
        masks = [np.array(Image.open(Path(base) / f"{name}.png")) for name in ("predict_to", "sliding_window")]
        differing = float((masks[0] != masks[1]).mean())
    row = Row(
        what=f"{options.side} x {options.side} pixels, {CLASSES} classes, small network, file to file",
        ours="predict_to",
        peer="sliding window, all logits summed",
        seconds=spread(seconds[OURS]),
        peer_seconds=spread(seconds[PEER]),
        times=ratios(seconds[PEER], seconds[OURS]),
        memory=spread(ratios(memory[PEER], memory[OURS]))[0],
        least_times=15.0,
        least_memory=50.0,
        note=f"beyond the loaded process {spread(memory[PEER])[0]:.0f} and {spread(memory[OURS])[0]:.0f} MiB; "
        f"{differing:.2%} of the pixels differ, because the peer blends tiles",
    )
    print_rows([row])
    finish([row], options.json, about)


if __name__ == "__main__":
    main()

"""One photograph to one mask, as a whole process: a script with torchvision against the exported network.

Both run LR-ASPP on MobileNetV3 with the same random weights on the same image, scaled to a short side of 520 pixels
as torchvision does: import, load, read, predict, write a PNG of the image's own size. Wall seconds and the largest
resident memory are those that the operating system counts for the whole child process. They are started in turn,
several times, and the least is printed; the first round, which reads the libraries from the disk, does not count.

    python benchmarks/whole_process.py [--repeat 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measuring import Row, add_json, finish, machine, process, ratios, spread, version

THEIRS = """
import sys
import torch
from PIL import Image
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize, to_dtype

torch.set_num_threads(int(sys.argv[4]))
model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
model.eval()
image = pil_to_tensor(Image.open(sys.argv[2]).convert("RGB"))
own = image.shape[1:]
image = normalize(to_dtype(resize(image, 520, antialias=True), torch.float32, scale=True), [0.485, 0.456, 0.406],
                  [0.229, 0.224, 0.225])
with torch.inference_mode():
    scores = model(image[None])["out"]
    scores = torch.nn.functional.interpolate(scores, size=own, mode="bilinear", align_corners=False)
Image.fromarray(scores.argmax(1)[0].to(torch.uint8).numpy()).save(sys.argv[3])
"""

OURS = """
import sys
import fullyconv.runtime

fullyconv.runtime.load(sys.argv[1], threads=int(sys.argv[4])).predict(sys.argv[2]).save(sys.argv[3])
assert "torch" not in sys.modules
"""


def prepare(folder: Path) -> None:
    """Write a photograph, torchvision's weights, and our file of the same network."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    import fullyconv
    from fullyconv.export import export
    from fullyconv.weights.segmenters import torchvision_segmenter

    torch.manual_seed(0)
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / "photo.jpg", quality=92)
    foreign = torchvision_segmenter("lraspp_mobilenet_v3_large", theirs.state_dict())
    made = export(fullyconv.SegmentationModule.of(foreign), folder / "ours.onnx")
    print(made.report())


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    add_json(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        photo = str(folder / "photo.jpg")
        runs = {
            "torchvision": (THEIRS, [str(folder / "theirs.pth"), photo, str(folder / "theirs.png")]),
            "fullyconv.runtime": (OURS, [str(folder / "ours.onnx"), photo, str(folder / "ours.png")]),
        }
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
        for _ in range(options.repeat + 1):
            for name, (code, words) in runs.items():
                used = process(["-c", code, *words, str(options.threads)], options.threads)
                taken[name].append((used.seconds, used.mib, used.busy))
        # The first round reads the libraries from the disk.
        best = {name: [min(column) for column in zip(*rounds[1:], strict=True)] for name, rounds in taken.items()}
        for name, (seconds, memory, busy) in best.items():
            print(f"{name:<20} {seconds:6.2f} s wall  {busy:6.2f} s of processors  {memory:7.1f} MiB")
        theirs, ours = best["torchvision"], best["fullyconv.runtime"]
        print(
            f"ratio: {theirs[0] / ours[0]:.2f} times faster (processors {theirs[2] / ours[2]:.2f}), "
            f"{theirs[1] / ours[1]:.2f} times less memory"
        )
        import numpy as np
        from PIL import Image

        first, second = (np.array(Image.open(folder / f"{name}.png")) for name in ("theirs", "ours"))
        differing = f"{float((first != second).mean()):.3%} of the pixels differ"
    print(differing)
    walls = {name: [turn[0] for turn in turns[1:]] for name, turns in taken.items()}
    row = Row(
        what="LR-ASPP, a photograph to a mask, whole process",
        ours="fullyconv.runtime",
        peer=version("torchvision"),
        seconds=spread(walls["fullyconv.runtime"]),
        peer_seconds=spread(walls["torchvision"]),
        times=ratios(walls["torchvision"], walls["fullyconv.runtime"]),
        memory=theirs[1] / ours[1],
        least_times=10.0,
        least_memory=5.0,
        note=differing,
    )
    finish([row], options.json, machine("torch", "torchvision", "onnxruntime", threads=options.threads))


if __name__ == "__main__":
    main()

"""A photograph as PNG to a mask as PNG: torchvision's segmenters as their documentation runs them, and the same by us.

Network and weights are the same on all sides: random, but with calibrated batch norms and a score layer that answers
with regions. torchvision's side decodes, applies the preset transforms (short side 520), runs the network, which
interpolates its logits, interpolates them to the image's size, takes the argmax and writes a PNG. Ours is
`SegmentationModule.predict`, and `fullyconv.runtime` on the exported file, in float32 and for FCN-ResNet50 in int8.
All take turns in one process; memory is the peak of a process of its own for each.

    python benchmarks/torchvision_pipelines.py --repeats 9 [--networks lraspp_mobilenet_v3_large]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from measuring import Row, add_arguments, clock_for, finish, in_turn, machine, print_rows, process, ratios, spread
from measuring import version as version_of

# name: times faster, in float32 and in int8
TARGETS: dict[str, dict[str, float]] = {
    "lraspp_mobilenet_v3_large": {"float32": 2.5},
    "deeplabv3_mobilenet_v3_large": {"float32": 2.3},
    "fcn_resnet50": {"float32": 1.3, "int8": 2.5},
}
PEER, TORCH, RUNTIME, INT8 = "torchvision", "predict", "runtime", "runtime, int8"
Side = Callable[[bytes], bytes]


def build(name: str) -> Any:
    """Make torchvision's network; without the auxiliary classifier, which prediction has no use for."""
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None).eval()


def transforms(name: str) -> Any:
    """Give torchvision's preset transforms; no weights are fetched."""
    from torchvision.models import get_model_weights

    return get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"].transforms()


def prepare(name: str, folder: Path, int8: bool) -> None:
    """Write the image, torchvision's weights, and our files of the same network."""
    import torch

    import fullyconv
    from fullyconv.export import export
    from fullyconv.weights.segmenters import torchvision_segmenter
    from networks import calibrate, fit_scores, photographs

    images = photographs(9)
    images[0].save(folder / "image.png")
    torch.manual_seed(0)
    network = build(name)
    image = transforms(name)(images[0])[None]
    calibrate(network, image)
    with torch.no_grad():
        for key, value in network.classifier.named_parameters():
            if key.startswith("low_classifier"):
                value.mul_(0.01)  # the coarse scores decide, the fine ones correct
    score = network.classifier.high_classifier if name.startswith("lraspp") else network.classifier[-1]
    fit_scores(network, score, image)
    torch.save(network.state_dict(), folder / "weights.pth")
    module = fullyconv.SegmentationModule.of(torchvision_segmenter(name, network.state_dict()))
    print(export(module, folder / "float32.onnx").report(), flush=True)
    if int8:
        for index, photo in enumerate(images[1:]):
            photo.save(folder / f"calibration{index}.png")
        files = sorted(folder.glob("calibration*.png"))
        print(export(module, folder / "int8.onnx", calibrate=files).report(), flush=True)


def side(which: str, name: str, folder: Path, threads: int) -> Side:
    """Load one side; it takes the bytes of an image and gives those of its mask."""
    if which in (RUNTIME, INT8):
        import fullyconv.runtime

        exported = fullyconv.runtime.load(folder / ("int8.onnx" if which == INT8 else "float32.onnx"), threads=threads)
        return lambda data: exported.predict(Image.open(io.BytesIO(data))).save(folder / "ours.png").read_bytes()
    import torch

    torch.set_num_threads(threads)
    state = torch.load(folder / "weights.pth", weights_only=True)
    if which == TORCH:
        import fullyconv
        from fullyconv.weights.segmenters import torchvision_segmenter

        module = fullyconv.SegmentationModule.of(torchvision_segmenter(name, state))
        return lambda data: module.predict(Image.open(io.BytesIO(data))).save(folder / "ours.png").read_bytes()
    import numpy as np
    from torchvision.io import ImageReadMode, decode_image

    network, preset = build(name), transforms(name)
    network.load_state_dict(state)

    def theirs(data: bytes) -> bytes:
        image = decode_image(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), mode=ImageReadMode.RGB)
        with torch.inference_mode():
            logits = network(preset(image)[None])["out"]
            logits = torch.nn.functional.interpolate(logits, image.shape[1:], mode="bilinear", align_corners=False)
            return encoded(logits.argmax(1)[0].to(torch.uint8).numpy())

    return theirs


def encoded(mask: Any) -> bytes:
    """Write a mask as PNG."""
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def alone(which: str, name: str, folder: Path, threads: int) -> None:
    """Be the process whose memory is measured: load, and predict three times."""
    run, data = side(which, name, folder, threads), (folder / "image.png").read_bytes()
    for _ in range(3):
        run(data)


def compare(name: str, repeats: int, threads: int) -> list[Row]:
    """Measure one network."""
    import numpy as np

    targets = TARGETS[name]
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        prepare(name, folder, "int8" in targets)
        data = (folder / "image.png").read_bytes()
        kinds = [PEER, TORCH, RUNTIME, *([INT8] if "int8" in targets else [])]
        sides = {kind: side(kind, name, folder, threads) for kind in kinds}
        masks = {kind: np.array(Image.open(io.BytesIO(run(data)))).astype(np.int64) for kind, run in sides.items()}
        runs: dict[str, Callable[[], object]] = {
            kind: (lambda run=run: run(data))
            for kind, run in sides.items()  # type: ignore[misc]
        }
        seconds = in_turn(runs, repeats, clock=clock_for(threads))
        words = ["--threads", str(threads), "--folder", folder, "--networks", name]
        memory = {kind: process([__file__, "--alone", kind, *words], threads).mib for kind in kinds}
    width, height = Image.open(io.BytesIO(data)).size
    rows = []
    for kind in kinds[1:]:
        differing = float((masks[kind] != masks[PEER]).mean())
        rows.append(
            Row(
                what=f"{name}, {height} x {width} seen at 520, PNG to PNG",
                ours=f"fullyconv {kind}",
                peer=version_of("torchvision"),
                seconds=spread(seconds[kind]),
                peer_seconds=spread(seconds[PEER]),
                times=ratios(seconds[PEER], seconds[kind]),
                memory=memory[PEER] / memory[kind],
                least_times=targets["int8" if kind == INT8 else "float32"],
                note=f"{differing:.2%} of the pixels differ, {len(np.unique(masks[PEER]))} classes occur; peak "
                f"{memory[PEER]:.0f} and {memory[kind]:.0f} MiB",
            )
        )
    return rows


def main() -> None:
    """Measure all networks, and print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=9)
    parser.add_argument("--networks", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, options.networks[0], options.folder, options.threads)
        if options.alone.startswith(RUNTIME):
            assert "torch" not in sys.modules
        return
    about = machine("torch", "torchvision", "onnxruntime", threads=options.threads)
    print(about, flush=True)
    rows: list[Row] = []
    for name in options.networks:
        rows += compare(name, options.repeats, options.threads)
        print_rows(rows[-3 if "int8" in TARGETS[name] else -2 :])
    finish(rows, options.json, about)


if __name__ == "__main__":
    main()

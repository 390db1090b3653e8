"""``predict``: images, videos and folders of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fullyconv.cli.opening import open_predictor, progress_bar
from fullyconv.cli.options import MODEL_HELP, add_unverified, halo, positive

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands
    from fullyconv.inference.folder import Predicted

PREDICTING_HELP = f"{MODEL_HELP}, or .onnx file that export wrote"


def add(commands: Commands) -> None:
    predict = commands.add_parser("predict", help="segment images, videos and folders of them")
    predict.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder or quoted glob; a first FILE.onnx is the model",
    )
    predict.add_argument("--model", default="street", help=f"{PREDICTING_HELP} (default: %(default)s)")
    add_unverified(predict)
    predict.add_argument("--out", default="masks", metavar="DIR", help="folder of the masks (default: %(default)s)")
    predict.add_argument(
        "--overlay", action="store_true", help="write NAME.overlay.png beside each mask; of a video NAME.overlay.mp4"
    )
    predict.add_argument(
        "--probabilities",
        choices=("top", "all"),
        help="write NAME.npz beside each mask: that of the winning class, or those of all classes, float16",
    )
    predict.add_argument(
        "--polygons", choices=("geojson", "coco"), help="write NAME.geojson or NAME.coco.json beside each mask"
    )
    predict.add_argument(
        "--heatmap",
        action="append",
        default=[],
        metavar="WORD",
        help="of a classifier, write NAME.heatmap.WORD.png beside each mask: where it sees this class (name or "
        "number); may be given several times",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirrored image")
    predict.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="S",
        help="average over the image at these sizes, such as 0.75 1 1.25 (default: 1; heat maps have their own)",
    )
    predict.add_argument(
        "--memory",
        metavar="AMOUNT",
        help="what a prediction may take beside the model, such as 2GB; larger images are cut into tiles without "
        "seams (default: half of what is free)",
    )
    predict.add_argument(
        "--halo",
        type=halo,
        default="exact",
        metavar="PIXELS",
        help="pixels around a tile that are read; fewer than exact may leave seams (default: %(default)s)",
    )
    predict.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, half a minute for each size: for many images of few sizes",
    )
    predict.add_argument(
        "--threads", type=positive, metavar="N", help="of the network (default: as many as there are cores for it)"
    )
    predict.add_argument(
        "--every", type=positive, default=1, metavar="N", help="of a video, every Nth frame (default: %(default)s)"
    )
    predict.add_argument(
        "--no-masks", action="store_true", help="of a video, write no mask a frame: the overlay and the table of shares"
    )
    predict.add_argument("--overwrite", action="store_true", help="segment images again whose masks are there")
    predict.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    if len(arguments.input) > 1 and Path(arguments.input[0]).suffix.lower() == ".onnx":
        arguments.model = arguments.input.pop(0)
    if "-" not in arguments.input:
        return _predict_files(arguments)
    with tempfile.TemporaryDirectory() as folder:
        piped = Path(folder) / "stdin"
        piped.write_bytes(sys.stdin.buffer.read())
        arguments.input[arguments.input.index("-")] = str(piped)
        return _predict_files(arguments)


def _predict_files(arguments: argparse.Namespace) -> int:
    from fullyconv.inference.folder import FolderPlan
    from fullyconv.inference.outputs import Outputs

    outputs = Outputs(
        arguments.overlay,
        arguments.probabilities,
        arguments.polygons,
        tuple(arguments.heatmap),
        not arguments.no_masks,
    )
    plan = FolderPlan(
        arguments.input,
        arguments.out,
        outputs,
        model=_identity(arguments.model),
        memory=arguments.memory,
        halo=arguments.halo,
        flip=arguments.flip,
        scales=arguments.scales,
        compile=arguments.compile,
        every=arguments.every,
        overwrite=arguments.overwrite,
    )
    called = " and ".join(name for name, some in (("images", plan.images), ("videos", plan.videos)) if some)
    if plan.left < plan.total:
        print(f"{plan.total - plan.left} of {plan.total} {called} were done before; --overwrite segments them again")
    if not plan.left:
        return 0
    bar = progress_bar(plan.left if plan.images else 0)
    frame_bars: dict[Path, Any] = {}

    def say(text: str, stream: TextIO) -> None:
        if bar is None:
            print(text, file=stream, flush=True)
        else:
            bar.write(text, file=stream)

    def told(predicted: Predicted, done: int, total: int) -> None:
        if (frames := frame_bars.pop(predicted.source, None)) is not None:
            frames.close()
        if predicted.error is not None:
            say(f"fullyconv: skipped: {predicted.error}", sys.stderr)
        else:
            say(f"[{done}/{total}] {predicted.source} -> {predicted.target}  ({_said(predicted)})", sys.stdout)
        if predicted.note is not None:
            say(f"fullyconv: {predicted.note}", sys.stderr)
        if bar is not None:
            bar.update()

    def moved(path: Path, _: int, expected: int | None) -> None:
        if path not in frame_bars:
            frame_bars[path] = progress_bar(expected, "frame", path.name)
        if (frames := frame_bars[path]) is not None:
            frames.update()

    with bar or nullcontext():
        result = plan.run(_open(arguments), told, moved)
    if result.failed:
        print(f"fullyconv: {len(result.failed)} of {plan.total} {called} could not be read", file=sys.stderr)
    return 1 if result.failed else 0


def _open(arguments: argparse.Namespace) -> Any:
    if Path(arguments.model).suffix.lower() != ".onnx":
        return open_predictor(arguments)
    from fullyconv.inference.budget import available_processors
    from fullyconv.runtime import load  # which needs no torch

    return load(arguments.model, threads=arguments.threads or available_processors())


def _identity(model: str) -> Any:
    """Say what masks were made by, before it is opened: a name, or a file as it is now."""
    from fullyconv.inference.folder import file_identity

    path = Path(model)
    return next((file_identity(each) for each in (path / "config.json", path) if each.exists()), model)


def _said(predicted: Predicted) -> str:
    """Say which three classes are the largest, for each head."""
    shares = "; ".join(
        (f"{head}: " if head else "") + ", ".join(f"{name} {share:.0%}" for name, share in list(found.items())[:3])
        for head, found in predicted.shares.items()
    )
    frames = [] if predicted.frames is None else [f"{predicted.frames} frames"]
    return "; ".join([*frames, shares, *(f"{label} {most}" for label, most in predicted.heatmaps.items())])

"""``predict``: images, videos and folders of them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fullyconv.cli import options
from fullyconv.cli.catalog import found_by
from fullyconv.cli.opening import set_threads
from fullyconv.cli.options import halo, positive, scale
from fullyconv.cli.progress import busy, progress_bar
from fullyconv.files import aside

if TYPE_CHECKING:
    from fullyconv.inference.outputs import FolderResult, Predicted

MODEL = "street"
"""The model of those who name none."""


def add(commands: options.Commands) -> None:
    """Add `predict`."""
    predict = options.new_command(commands, _predict, "INPUT ... [options]")
    predict.add_argument("input", nargs="+", metavar="INPUT", help="image, video, folder, quoted pattern; - is stdin")
    predict.add_argument("--model", help=f"zoo name, hub id, folder or .onnx ({MODEL})")
    predict.add_argument("--out", default="masks", metavar="DIR", help="folder of the masks (default: %(default)s)")
    predict.add_argument("--overwrite", action="store_true", help="also what is done already")
    predict.add_argument("--json", action="store_true", help="for programs: what became of each file")
    options.add_shared(predict, "allow_unverified")
    more = predict.add_argument_group("what is written")
    more.add_argument(
        "--format",
        dest="mask_format",
        choices=("png", "tif"),
        default="png",
        help="of masks; tif keeps GeoTIFF tags",
    )
    more.add_argument("--overlay", action="store_true", help="the image with the classes laid over")
    more.add_argument(
        "--probabilities", choices=("top", "all"), metavar="top|all", help=".npz: of the winning class, or of all"
    )
    more.add_argument("--polygons", choices=("geojson", "coco"), metavar="geojson|coco", help="outlines of the classes")
    more.add_argument(
        "--heatmap", dest="heatmaps", action="append", default=[], metavar="WORD", help="where a classifier sees this"
    )
    how = predict.add_argument_group("how")
    how.add_argument("--flip", action="store_true", help="average with the mirrored image")
    how.add_argument("--scales", type=scale, nargs="+", metavar="S", help="average over sizes, such as 0.75 1 1.25")
    how.add_argument("--memory", metavar="AMOUNT", help="beside the model, as 2GB (half of what is free)")
    how.add_argument("--halo", type=halo, default="exact", metavar="PIXELS", help="around a tile (default: exact)")
    how.add_argument("--range", dest="value_range", **options.RANGE)
    options.add_shared(how, "device")
    how.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", metavar="TYPE",
        help="float32 (default), bfloat16, float16",
    )  # fmt: skip
    how.add_argument(
        "--batch-size", dest="batch", type=positive, metavar="N", help="images of one size at a time (accelerator: 8)"
    )
    how.add_argument("--workers", type=positive, metavar="N", help="threads that read (accelerator: one a core)")
    how.add_argument("--threads", type=positive, metavar="N", help="of the network (default: one a core)")
    how.add_argument("--shard", metavar="K/N", help="part of this process, such as 3/16; see join")
    video = predict.add_argument_group("of a video")
    video.add_argument("--every", type=positive, default=1, metavar="N", help="every Nth frame")
    video.add_argument(
        "--no-masks", dest="masks", action="store_false", help="no mask a frame: overlay and table alone"
    )


def _predict(arguments: argparse.Namespace) -> int:
    """Write a mask for each image, whose pixel values are class indices. It goes on where it was stopped."""
    from fullyconv.images import EXTENSIONS

    if len(arguments.input) > 1 and Path(arguments.input[0]).suffix.lower() == ".onnx":
        arguments.model = arguments.input.pop(0)
    arguments.chosen = arguments.model is None  # by us
    arguments.model = arguments.model or MODEL
    out = Path(arguments.out)
    if out.suffix.lower() in EXTENSIONS and not out.is_dir():
        raise ValueError(f"--out {out}: is the name of an image, and --out is the folder of the masks; give a folder")
    if "-" not in arguments.input:
        return _predict_files(arguments)
    with aside(tempfile.gettempdir()) as folder:
        piped = folder / "stdin"
        with piped.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        arguments.input[arguments.input.index("-")] = str(piped)
        return _predict_files(arguments)


def _predict_files(arguments: argparse.Namespace) -> int:
    from fullyconv.inference.folder import FolderPlan
    from fullyconv.inference.outputs import FolderOptions

    how = FolderOptions(**{field.name: getattr(arguments, field.name) for field in fields(FolderOptions)})
    model = arguments.model
    plan = FolderPlan(arguments.input, arguments.out, how, model=_identity(model), called=model)
    called = " and ".join(name for name, some in (("images", plan.images), ("videos", plan.videos)) if some)
    if plan.left < plan.total and not arguments.json:
        print(f"{plan.total - plan.left} of {plan.total} {called} were done before; --overwrite segments them again")
    if plan.unread and not arguments.json:
        shown = ", ".join(f"{count} {suffix}" for suffix, count in plan.unread.items())
        print(f"fullyconv: not read, of other formats: {shown}; save them as PNG, TIFF or JPEG", file=sys.stderr)
    predictor = _open(arguments) if plan.left else None
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
        elif not arguments.json:
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
        result = plan.run(predictor, told, moved)
    if arguments.json:
        options.print_json(told_of(arguments.model, result, plan.unread))
    if result.failed:
        print(f"fullyconv: {len(result.failed)} of {plan.total} {called} could not be read or written", file=sys.stderr)
    return 1 if result.failed else 0


def told_of(model: str | None, result: FolderResult, unread: Mapping[str, int]) -> dict[str, Any]:
    """Say for programs what became of files."""
    return {
        "model": model,
        "out": result.out,
        "before": result.before,
        "failed": len(result.failed),
        "unread": unread,
        "files": [asdict(each) for each in result.predicted],
    }


def _open(arguments: argparse.Namespace) -> Any:
    if Path(arguments.model).suffix.lower() != ".onnx":
        from fullyconv.hub.predictor import open_predictor

        set_threads(arguments.threads)
        unverified, device = arguments.allow_unverified, arguments.device
        with busy(f"opening {arguments.model}"):
            model = open_predictor(arguments.model, allow_unverified=unverified, device=device)
        if arguments.chosen:
            finds = found_by(model.classes, 100)
            print(f"fullyconv: the model is {MODEL}, which finds {finds}; --model NAME takes another", file=sys.stderr)
        return model
    from fullyconv.inference.budget import available_processors
    from fullyconv.runtime import load  # which needs no torch

    if arguments.device not in ("auto", "cpu"):
        raise ValueError(f"--device {arguments.device}: an exported model runs on the processor; leave it out")
    with busy(f"opening {arguments.model}"):
        return load(arguments.model, threads=arguments.threads or available_processors())


def _identity(model: str) -> Any:
    """Say what masks are made by, before it is opened: a file as it is now, or the digests that a name stands for."""
    from fullyconv.inference.identity import file_identity

    path = Path(model)
    if path.suffix.lower() != ".onnx":  # which is predicted where there is no torch
        from fullyconv.weights import lock, sources

        place = sources.read(model)
        if place.pins or place.kind not in ("folder", "file"):
            return [place.address, place.pins or place.sha256 or lock.read_lock().get(place.address)]
        path = Path(place.address)
    return next((file_identity(each) for each in (path / "config.json", path) if each.exists()), model)


def _said(predicted: Predicted) -> str:
    """Say which three classes are the largest, for each head."""
    shares = "; ".join(
        (f"{head}: " if head else "") + ", ".join(f"{name} {share:.0%}" for name, share in list(found.items())[:3])
        for head, found in predicted.shares.items()
    )
    frames = [] if predicted.frames is None else [f"{predicted.frames} frames"]
    return "; ".join([*frames, shares, *(f"{label} {most}" for label, most in predicted.heatmaps.items())])

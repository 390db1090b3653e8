"""``convert``, ``publish`` and ``export``: weights in other forms and places."""

from __future__ import annotations

import argparse
from typing import Any

from fullyconv.cli import options
from fullyconv.cli.opening import open_data, open_segmenter, quiet_lightning
from fullyconv.cli.progress import busy

DTYPES = ("float32", "float16")


def add(commands: options.Commands) -> None:
    """Add `convert`, `export` and `publish`."""
    converting = options.new_command(commands, _convert, "SOURCE --to FOLDER [options]")
    converting.add_argument("source", metavar="SOURCE")
    converting.add_argument("--to", required=True, metavar="FOLDER", help="model folder")
    converting.add_argument(
        "--architecture",
        metavar="NAME",
        help="if SOURCE does not say: torchvision/vgg16 of a classifier, deeplabv3_resnet50 of torchvision's segmenter",
    )
    converting.add_argument("--classes", metavar="A,B,C", help="names of the classes in their order, if not said")
    converting.add_argument("--pool", choices=("window", "cam"), default="window", help="what a global pooling becomes")
    converting.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored weights")
    options.add_shared(converting, "json", "allow_unverified")

    publishing = options.new_command(commands, _publish, "SOURCE ORG/NAME [options]  |  publish --zoo ORG")
    publishing.add_argument("source", metavar="SOURCE", nargs="?", help="model folder, .ckpt, or name of the zoo")
    publishing.add_argument("repo", metavar="ORG/NAME", help="repository, which is made")
    publishing.add_argument("--zoo", action="store_true", help="every shipped model, each as ORG/its own name")
    publishing.add_argument("--data", metavar="DATA", help="set to measure on first")
    publishing.add_argument("--split", choices=("val", "test"), default="test", help="of DATA (default: %(default)s)")
    publishing.add_argument("--license", help="of the weights, where the model folder does not state it")
    publishing.add_argument("--private", action="store_true", help="a repository that is made is private")
    publishing.add_argument("--dtype", choices=DTYPES, help="of the stored weights")
    options.add_reading(publishing, options.CHANNELS)

    exporting = options.new_command(commands, _export, "MODEL --to FILE [options]")
    exporting.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    exporting.add_argument("--to", required=True, metavar="FILE", help="the .onnx file to write")
    exporting.add_argument("--scores", action="store_true", help="give the scores of every class, too")
    exporting.add_argument("--int8", action="store_true", help="compute convolutions in int8; needs --calibrate")
    exporting.add_argument("--calibrate", metavar="FOLDER", help="images to measure the ranges for --int8 on")
    exporting.add_argument("--score", metavar="DATA", help="set to measure the file on, beside the model")
    exporting.add_argument("--split", choices=("train", "val", "test"), default="test", help="of DATA (test)")
    options.add_shared(exporting, "json", "allow_unverified")
    options.add_reading(exporting)


def _convert(arguments: argparse.Namespace) -> int:
    """Turn weights from anywhere into a model folder: a classifier becomes a dense network.

    SOURCE is a zoo name, hf://ORG/REPO[@REVISION][/FILE], torchvision://ENUM.MEMBER, a file, a folder, or
    https://HOST/FILE#sha256=DIGEST.
    """
    quiet_lightning()
    from fullyconv.classifier import DenseScorer
    from fullyconv.hub.convert import convert

    classes = options.split_names("--classes", arguments.classes) if arguments.classes else None
    how = {key: getattr(arguments, key) for key in ("architecture", "pool", "dtype", "allow_unverified")}
    with busy(f"converting {arguments.source}"):
        made = convert(arguments.source, arguments.to, classes=classes, **how)
    if arguments.json:
        kind = "classifier" if isinstance(made, DenseScorer) else "segmenter"
        options.print_json({"folder": arguments.to, "kind": kind, "classes": made.classes, "license": made.license})
        return 0
    if isinstance(made, DenseScorer):
        print(made.network.report)
    elif made.load_report is not None:
        print(made.load_report.table())
    print(
        f"model folder written to {arguments.to}: {len(made.classes)} classes, license of the weights: {made.license}"
    )
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    """Upload a model to the Hugging Face Hub. Log in first: hf auth login, or HF_TOKEN."""
    quiet_lightning()
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.hub.publish import publish, publish_zoo

    if arguments.zoo:
        if arguments.source is not None or arguments.data:
            raise ValueError("--zoo: uploads what is shipped as it is; give ORG alone, without SOURCE and --data")
        addresses = publish_zoo(arguments.repo, private=arguments.private)
    elif arguments.source is None:
        raise ValueError("publish: give SOURCE and ORG/NAME, or --zoo and ORG")
    else:
        data = SegmentationDataModule(arguments.data, **options.reading_of(arguments)) if arguments.data else None
        how = {key: getattr(arguments, key) for key in ("split", "license", "private", "dtype")}
        with busy(f"publishing {arguments.source}"):
            addresses = [publish(arguments.source, arguments.repo, data=data, **how)]
    for address in addresses:
        print(f"published: fullyconv.load({address!r}, allow_unverified=True)")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Write a segmenter as one ONNX file that takes images (N, H, W, 3) of bytes, of any size.

    It is compared with the model first, and not written where it differs.
    """
    quiet_lightning()
    from fullyconv.export import export

    if arguments.int8 != (arguments.calibrate is not None):
        raise ValueError("--int8 and --calibrate FOLDER: give both, images to measure the ranges of int8 on, or none")
    segmenter = open_segmenter(arguments)
    reading = options.reading_of(arguments, segmenter.preprocessing.value_range)
    data = open_data(segmenter, arguments.score, reading) if arguments.score else None
    how = {key: getattr(arguments, key) for key in ("scores", "calibrate", "split")}
    with busy(f"exporting {arguments.model}"):
        made = export(segmenter, arguments.to, data=data, **how)
    if not arguments.json:
        print(made.report())
        return 0
    own, theirs = (None if each is None else 100 * each.mean_iou for each in (made.scores, made.model_scores))
    said = made.description
    answer: dict[str, Any] = {"file": made.path, "bytes": made.bytes, "precision": said.precision}
    answer |= {"outputs": said.ports, "parity": said.parity, "mean_iou": own, "model_mean_iou": theirs}
    options.print_json(answer)
    return 0

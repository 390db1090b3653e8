"""``convert``, ``publish`` and ``export``: weights in other forms and places."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fullyconv.cli.opening import open_model, quiet_lightning
from fullyconv.cli.options import CHANNELS_HELP, MODEL_HELP, add_reading, add_unverified, positive, reading_of

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands


def add(commands: Commands) -> None:
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
    add_unverified(converting)
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
    add_reading(publishing)
    publishing.add_argument("--in-channels", type=positive, default=3, metavar="C", help=CHANNELS_HELP)
    publishing.add_argument("--license", help="of the weights, where the model folder does not state it")
    publishing.add_argument("--private", action="store_true", help="a repository that is made is private")
    publishing.add_argument("--dtype", choices=("float32", "float16"), help="of the stored weights")
    publishing.set_defaults(run=_publish)

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
    add_reading(exporting)
    add_unverified(exporting)
    exporting.set_defaults(run=_export)


def _convert(arguments: argparse.Namespace) -> int:
    quiet_lightning()
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
    quiet_lightning()
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
        SegmentationDataModule(arguments.data, in_channels=arguments.in_channels, **reading_of(arguments))
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
    quiet_lightning()
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.export import export
    from fullyconv.module import SegmentationModule

    if arguments.int8 != (arguments.calibrate is not None):
        raise ValueError("--int8 and --calibrate FOLDER: give both, images to measure the ranges of int8 on, or none")
    segmenter = open_model(arguments)
    if not isinstance(segmenter, SegmentationModule):
        raise ValueError(f"MODEL {arguments.model}: a converted classifier cannot be exported; export a segmenter")
    data = (
        SegmentationDataModule(
            arguments.score, in_channels=int(segmenter.hparams["in_channels"]), **reading_of(arguments)
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

"""``demo`` and ``serve``: what a model makes of images, to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from fullyconv.cli import options
from fullyconv.cli.opening import check_target, quiet_lightning
from fullyconv.cli.progress import busy


def add(commands: options.Commands) -> None:
    """Add `demo`."""
    demo = options.new_command(commands, _demo, "[IMAGE] [options]")
    demo.add_argument("image", nargs="?", metavar="IMAGE", help="a photograph (default: those of the extra 'demo')")
    demo.add_argument("--word", help="class of ImageNet (default: the one that wins most pixels)")
    demo.add_argument("--out", default="fullyconv-demo.png", metavar="FILE", help="(default: %(default)s)")

    serving = options.new_command(commands, _serve, "[MODEL ...] [options]")
    serving.add_argument("models", nargs="*", metavar="MODEL", help=options.MODEL_HELP)
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serving.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    options.add_shared(serving, "device", "allow_unverified")


def _demo(arguments: argparse.Namespace) -> int:
    """Show where a classifier sees a word on a photograph."""
    quiet_lightning()
    from fullyconv import demo
    from fullyconv.images import write_image

    check_target(Path(arguments.out))
    with busy("looking at the photograph"):
        image, lines = demo.show(arguments.image, arguments.word)
    write_image(arguments.out, image)
    print("\n".join(lines))
    print(f"written to {arguments.out}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    """Serve a web page that segments the images dropped on it.

    The models are those named here, or those that come with the package. Nothing that is uploaded is kept.
    """
    quiet_lightning()
    from fullyconv.serve import serve

    serve(
        arguments.models, host=arguments.host, port=arguments.port, allow_unverified=arguments.allow_unverified,
        device=arguments.device,
    )  # fmt: skip
    return 0

"""``doctor`` and ``fetch``: data sets."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.opening import check_target, quiet_lightning
from fullyconv.cli.options import CHANNELS_HELP, add_reading, positive, reading_of
from fullyconv.errors import DatasetError

if TYPE_CHECKING:
    from fullyconv.cli.options import Commands


def add(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="read every image and mask of a set once, and say what is wrong with it",
        description="Exit status: 0 if training can start, 1 if there are errors (with --strict also warnings), 2 for "
        "a wrong call.",
    )
    doctor.add_argument("data", metavar="DATA", help="folder, or name of a public set under FULLYCONV_DATA")
    add_reading(doctor)
    doctor.add_argument("--in-channels", type=positive, default=3, metavar="C", help=CHANNELS_HELP)
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


def _doctor(arguments: argparse.Namespace) -> int:
    quiet_lightning()
    from fullyconv.data.doctor import examine, sheet
    from fullyconv.images import write_image

    if arguments.sheet:
        check_target(Path(arguments.sheet), "--sheet")
    diagnosis = examine(
        arguments.data,
        **reading_of(arguments),
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

"""``doctor`` and ``fetch``: data sets."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from fullyconv.cli import options
from fullyconv.cli.opening import check_target
from fullyconv.cli.progress import busy
from fullyconv.errors import DatasetError


def add(commands: options.Commands) -> None:
    """Add `doctor` and `fetch`."""
    doctor = options.new_command(commands, _doctor, "DATA [options]")
    doctor.add_argument("data", metavar="DATA", help=options.DATA_HELP)
    doctor.add_argument("--sheet", metavar="FILE", help="write a contact sheet of images and masks, .png or .jpg")
    doctor.add_argument("--all", action="store_true", help="name every file, not five a finding")
    doctor.add_argument("--strict", action="store_true", help="warnings are errors")
    options.add_shared(doctor, "json")
    options.add_reading(doctor, options.CHANNELS)

    fetching = options.new_command(commands, _fetch, "[NAME] [options]")
    fetching.add_argument("name", nargs="?", metavar="NAME", help="of a public set")
    fetching.add_argument("--to", metavar="FOLDER", help="folder of the sets (default: FULLYCONV_DATA)")
    options.add_shared(fetching, "json")


def _doctor(arguments: argparse.Namespace) -> int:
    """Read every image and mask once, and say what is wrong.

    Exit status: 0 if training can start, 1 if there are errors, 2 for a wrong call.
    """
    from fullyconv.data.doctor import examine, sheet
    from fullyconv.images import write_image

    if arguments.sheet:
        check_target(Path(arguments.sheet), "--sheet")
    diagnosis = examine(arguments.data, **options.reading_of(arguments), progress=False if arguments.json else None)
    if arguments.json:
        options.print_json(diagnosis.to_dict())
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
    """Make a public data set ready: unpack its archives, and download what may be.

    Without a name: the sets, their licenses and how each is to be had.
    """
    from fullyconv.data.public import fetch, set_named
    from fullyconv.data.sources import ENVIRONMENT

    base = arguments.to or os.environ.get(ENVIRONMENT)
    if arguments.name is None:
        _print_sets(None if base is None else Path(base), arguments.json)
        return 0
    set_named(arguments.name)  # an unknown name is reported before anything else
    if base is None:
        raise ValueError(f"--to FOLDER: say where the sets lie, or set {ENVIRONMENT} to that folder")
    with busy(f"fetching {arguments.name}"):
        folder = fetch(arguments.name, Path(base).expanduser())
    if arguments.json:
        options.print_json({"name": arguments.name, "folder": folder})
        return 0
    print(f"{arguments.name}: {folder}")
    if arguments.to and Path(arguments.to).expanduser() != Path(os.environ.get(ENVIRONMENT, "")):
        print(f"{ENVIRONMENT}={shlex.quote(arguments.to)} fullyconv doctor {arguments.name}")
    return 0


def _print_sets(base: Path | None, as_json: bool) -> None:
    from fullyconv.data.public import PUBLIC, locate

    rows: list[dict[str, Any]] = []
    for name, known in PUBLIC.items():
        facts = known.facts
        downloaded = known.archives and all(archive.urls for archive in known.archives)
        row = {key: getattr(facts, key) for key in ("title", "counts", "license", "page")}
        row["folder"] = None if base is None else locate(known, base)
        row["how"] = "login" if facts.login else "download" if downloaded else "by hand"
        rows.append({"name": name, **row})
    if as_json:
        options.print_json(rows)
        return
    for row in rows:
        pairs = ", ".join(f"{split} {number}" for split, number in row["counts"].items())
        print(f"{row['name']}: {row['title']}; {pairs}; {row['folder'] or row['how']}")
        print(f"    {row['license']}; {row['page']}")

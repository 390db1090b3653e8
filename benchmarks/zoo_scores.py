"""Measure every shipped model again, by the command that stands beside its score, and compare.

Each figure of the model folder (four metrics and the IoU of every class) is measured on this machine and must be within
0.05 points of what is stored. Data that is not there is an error: nothing is passed unseen.

    FULLYCONV_DATA=FOLDER python benchmarks/zoo_scores.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fullyconv import cli
from fullyconv.weights import catalog

METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "top1")
ROOT = Path(__file__).resolve().parents[1]
CLASSIFIER = "zoo/classifier.py"


def measure(command: str) -> dict[str, Any]:
    """Run the command of a score and read what it prints."""
    words = shlex.split(command)
    if words[:3] == ["python", CLASSIFIER, "test"]:
        done = subprocess.run([sys.executable, ROOT / CLASSIFIER, *words[2:], "--json"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command}: ended with {done.returncode}\n{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    if words[:2] != ["fullyconv", "test"]:
        raise SystemExit(f"{command}: is neither a command of fullyconv test nor of {CLASSIFIER}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = cli.main([*words[1:], "--json"])
    if status:
        raise SystemExit(f"{command}: ended with {status}")
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def distance(stored: dict[str, Any], found: dict[str, Any]) -> tuple[float, str]:
    """Find the figure that differs most, in points."""
    both = [(key, stored[key], found[key]) for key in METRICS if key in stored]
    each = "iou" if "iou" in stored else "accuracy"
    both += [(name, value, found[each].get(name)) for name, value in stored[each].items()]
    apart = []
    for name, one, other in both:
        missing = (one is None) != (other is None)  # a class that occurs nowhere has no IoU
        apart.append((float("inf") if missing else abs((one or 0.0) - (other or 0.0)), name))
    return max(apart)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these models")
    parser.add_argument("--within", type=float, default=0.05, help="points (default: %(default)s)")
    arguments = parser.parse_args()
    wanted = {catalog.ALIASES.get(name, name) for name in arguments.names}
    if unknown := wanted - set(catalog.SHIPPED):
        parser.error(f"{', '.join(sorted(unknown))}: not shipped; there are {', '.join(catalog.SHIPPED)}")
    failed = 0
    print("| model | data, split | mIoU or top-1, stored | measured | largest difference, points | s |")
    print("|---|---|---|---|---|---|")
    for entry in catalog.shipped():
        if wanted and entry.name not in wanted:
            continue
        score = (entry.config.score if entry.config else None) or {}
        begun = time.monotonic()
        found = measure(score["command"])
        apart, where = distance(score, found)
        main = "mean_iou" if "mean_iou" in score else "top1"
        fine = apart <= arguments.within and all(found.get(key) == score.get(key) for key in ("pixels", "images"))
        failed += not fine
        print(
            f"| {entry.name} | {score['data']}, {score['split']} | {score[main]:.2f} | {found[main]:.2f} | "
            f"{apart:.4f} ({where}){'' if fine else ' FAILED'} | {time.monotonic() - begun:.0f} |",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run fullyconv beside its peers, and write one table and one plot.

Every comparison is a script of this folder in a process of its own, so that one that fails does not stop the others;
its rows are kept as JSON in the output folder, and the same command goes on where it was interrupted. A comparison
whose peer is not installed is skipped, and said so. Peers: `pip install -r benchmarks/requirements.txt`.

    python benchmarks/all.py --out results [--only segformer import_time] [--quick] [--threads 1]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Row, machine, seconds_words, spread_words

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Comparison:
    """One script, and how it is run.

    Args:
        script: file of this folder.
        options: of a run that counts.
        quick: of one that only shows that it runs.
        needs: modules that have to be installed.
        threads: whether it takes --threads.
        asked: only run where it is named in --only, because it takes long.
    """

    script: str
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--repeats", "1")
    needs: tuple[str, ...] = ()
    threads: bool = True
    asked: bool = False


COMPARISONS: dict[str, Comparison] = {
    "import_time": Comparison("import_time.py", ("--repeats", "11"), threads=False),
    "lraspp": Comparison(
        "torchvision_pipelines.py",
        ("--networks", "lraspp_mobilenet_v3_large", "--repeats", "15"),
        ("--networks", "lraspp_mobilenet_v3_large", "--repeats", "1"),
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "deeplabv3": Comparison(
        "torchvision_pipelines.py",
        ("--networks", "deeplabv3_mobilenet_v3_large", "--repeats", "15"),
        ("--networks", "deeplabv3_mobilenet_v3_large", "--repeats", "1"),
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "fcn_resnet50": Comparison(
        "torchvision_pipelines.py",
        ("--networks", "fcn_resnet50", "--repeats", "5"),
        ("--networks", "fcn_resnet50", "--repeats", "1"),
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "whole_process": Comparison("whole_process.py", ("--repeat", "5"), ("--repeat", "1"), ("onnx", "onnxruntime")),
    "cold_start": Comparison("cold_start.py", ("--repeats", "5"), ("--repeats", "1"), threads=False),
    "segformer": Comparison("segformer.py", ("--repeats", "9"), needs=("transformers",)),
    "upsample_argmax": Comparison("upsample_argmax.py", ("--repeats", "9")),
    "sliding_logits": Comparison(
        "sliding_logits.py", ("--repeats", "3"), ("--repeats", "1", "--side", "2048"), ("tifffile",)
    ),
    "confusion_matrix": Comparison("confusion_matrix.py", ("--repeats", "31"), ("--repeats", "3")),
    "mask_folders": Comparison("mask_folders.py", ("--repeats", "5"), ("--repeats", "1", "--masks", "40")),
    "logging_cost": Comparison("logging_cost.py", ("--repeats", "7"), ("--repeats", "1", "--steps", "40")),
    "augmentation": Comparison(
        "augmentation.py", ("--repeats", "9", "--draws", "0"), ("--repeats", "1", "--draws", "0"), threads=False
    ),
    "dense_vs_sliding": Comparison("dense_vs_sliding.py", ("--repeats", "5")),
    "smp_models": Comparison(
        "smp_models.py", ("--repeats", "7"), ("--repeats", "1", "--batch", "2"), ("segmentation_models_pytorch",)
    ),
    "large_image": Comparison(
        "large_image.py", ("--side", "20000"), ("--side", "2000"), ("tifffile",), threads=False, asked=True
    ),
}


def command(comparison: Comparison, quick: bool, threads: int) -> list[str]:
    """Give the words of a comparison, without those that say where its rows go."""
    words = [comparison.script, *(comparison.quick if quick else comparison.options)]
    return [*words, "--threads", str(threads)] if comparison.threads else words


def missing(comparison: Comparison) -> list[str]:
    """Name the modules that a comparison needs and that are not installed."""
    return [name for name in comparison.needs if importlib.util.find_spec(name) is None]


def kept(path: Path, words: Sequence[str]) -> bool:
    """Tell whether the rows of this very command are there already."""
    return path.exists() and json.loads(path.read_text("utf-8")).get("command") == list(words)


def run(name: str, words: Sequence[str], folder: Path) -> str | None:
    """Run a comparison; give what went wrong, or None.

    Args:
        name: of the comparison.
        words: its command.
        folder: where rows and what it prints go.
    """
    rows, log = folder / f"{name}.rows.json", folder / f"{name}.log"
    rows.unlink(missing_ok=True)
    begun = time.perf_counter()
    with open(log, "w", encoding="utf-8") as stream:
        line = [sys.executable, str(HERE / words[0]), *words[1:], "--json", str(rows)]
        done = subprocess.run(line, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode or not rows.exists():
        last = (log.read_text("utf-8").strip().splitlines() or ["nothing"])[-1]
        return f"failed ({last[:200]}); see {log}"
    document = json.loads(rows.read_text("utf-8"))
    document |= {"command": list(words), "minutes": round((time.perf_counter() - begun) / 60, 2)}
    whole = folder / f"{name}.part"
    whole.write_text(json.dumps(document, indent=1), "utf-8")
    whole.replace(folder / f"{name}.json")
    rows.unlink()
    return None


def read(path: Path) -> list[Row]:
    """Read the rows that are kept."""
    return [Row.from_dict(row) for row in json.loads(path.read_text("utf-8"))["rows"]]


def target_words(row: Row) -> str:
    """Say what was aimed at."""
    parts = [
        *([f"{row.least_times:.3g}x the speed"] if row.least_times is not None else []),
        *([f"1/{row.least_memory:.3g} of the memory"] if row.least_memory is not None else []),
        *([f"at most {seconds_words(row.most_seconds)}"] if row.most_seconds is not None else []),
    ]
    return ", ".join(parts) or "-"


def table(rows: Sequence[Row], skipped: Sequence[str] = (), about: str = "") -> str:
    """Write rows as markdown.

    Args:
        rows: what was measured.
        skipped: what was not, and why.
        about: the machine.
    """
    lines = [about, ""] if about else []
    lines += [
        "Medians [least - largest] over turns; times are the peer's over ours in the same turn, memory the peer's over "
        "ours.",
        "",
        "| what | peer | ours | peer takes | ours takes | times faster | memory | target | met | beside |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "-" if row.memory is None else f"1/{row.memory:.3g}"
        met = {True: "yes", False: "**no**", None: "-"}[row.met]
        cells = [row.what, row.peer, row.ours, spread_words(row.peer_seconds), spread_words(row.seconds)]
        cells += [spread_words(row.times, "x"), memory, target_words(row), met, row.note or "-"]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    if skipped:
        lines += ["", "Not measured:", "", *(f"- {reason}" for reason in skipped)]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Path, about: str = "") -> bool:
    """Draw the ratios as bars on a logarithmic axis, with a tick at each target; tell whether that was possible.

    Args:
        rows: what was measured.
        path: PNG to write.
        about: the machine, below the axis.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    bars: list[tuple[str, float, tuple[float, float] | None, float | None, str]] = []
    for row in rows:
        label = f"{row.what}\n{row.ours} / {row.peer}"
        if row.times is not None and row.times[0] > 0:
            bars.append((label, row.times[0], row.times[1:], row.least_times, "times faster"))
            label = ""
        if row.memory is not None and row.memory > 0:
            bars.append((label, row.memory, None, row.least_memory, "times less memory"))
    if not bars:
        return False
    colors = {"times faster": "#2a6f97", "times less memory": "#e09f3e"}
    # matplotlib's own objects and no pyplot: there is no window, and no state
    figure = Figure(figsize=(13, 1.6 + 0.36 * len(bars)), dpi=110)
    axes = figure.subplots()
    for place, (_, value, limits, target, kind) in enumerate(bars):
        begun = set() if place == 0 else {bar[4] for bar in bars[:place]}
        axes.barh(place, value - 1, left=1, height=0.7, color=colors[kind], label=None if kind in begun else kind)
        if limits is not None:
            axes.plot(limits, (place, place), color="black", linewidth=1)
        if target is not None:
            axes.plot((target, target), (place - 0.45, place + 0.45), color="#c1121f", linewidth=2.5)
        right = max(value, 1, *(limits or ()), target or 0)
        axes.annotate(f"{value:.3g}x", (right, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.plot([], [], color="#c1121f", linewidth=2.5, label="target")
    axes.set_xscale("log")
    most = max(max(bar[1], *(bar[2] or (0,)), bar[3] or 0) for bar in bars)
    axes.set_xlim(min(0.5, *(bar[1] / 1.3 for bar in bars)), 10 ** (math.log10(max(most, 2)) + 0.25))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=7.5)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel(f"the peer's over ours, logarithmic\n{about}", fontsize=8)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    return True


def collect(folder: Path, skipped: Sequence[str], about: str) -> str:
    """Write table and plot of all that is kept in the folder, and give the table."""
    rows = [row for name in COMPARISONS if (folder / f"{name}.json").exists() for row in read(folder / f"{name}.json")]
    text = table(rows, skipped, about)
    (folder / "table.md").write_text(text, "utf-8")
    plot(rows, folder / "ratios.png", about)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit status tells whether all of it ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(COMPARISONS), metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--quick", action="store_true", help="once and small, to see that all of it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure again what is kept")
    parser.add_argument("--table", action="store_true", help="run nothing, write table and plot of what is kept")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores{load}", flush=True)
    skipped: list[str] = []
    failed = False
    for name, comparison in COMPARISONS.items():
        if options.table or (name not in options.only if options.only else comparison.asked):
            continue
        lacking = missing(comparison)
        words = command(comparison, options.quick, options.threads)
        if lacking:
            skipped.append(f"{name}: {', '.join(lacking)} not installed")
        elif options.again or not kept(options.out / f"{name}.json", words):
            print(f"{time.strftime('%H:%M:%S')} {' '.join(words)}", flush=True)
            wrong = run(name, words, options.out)
            if wrong is not None:
                failed = True
                skipped.append(f"{name}: {wrong}")
                print(skipped[-1], flush=True)
    print(collect(options.out, skipped, machine("torch", threads=options.threads)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

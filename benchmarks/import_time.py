"""Start-up: `import fullyconv` beside `import torch`, and the commands that need no network, each in a fresh process.

`import fullyconv` loads nothing heavy, so the names that everybody uses are asked for, too: `SegmentationModule` needs
torch, torchvision and Lightning.

    python benchmarks/import_time.py --repeats 9
"""

from __future__ import annotations

import argparse

from measuring import Row, add_arguments, finish, machine, print_rows, process, ratios, spread, version

RUNS: dict[str, list[str]] = {
    "import fullyconv": ["-c", "import fullyconv"],
    "import torch": ["-c", "import torch"],
    "import lightning": ["-c", "import torchvision, lightning"],
    "SegmentationModule": ["-c", "import fullyconv; fullyconv.SegmentationModule"],
    "fullyconv --help": ["-m", "fullyconv", "--help"],
    "fullyconv list": ["-m", "fullyconv", "list"],
    "fullyconv.runtime": ["-c", "import fullyconv.runtime, onnxruntime"],
}
NOT_SLOWER = 1 / 1.15


def main() -> None:
    """Measure, and print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=9, threads=False)
    options = parser.parse_args()
    about = machine("torch", "lightning")
    print(about, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    memory: dict[str, list[float]] = {name: [] for name in RUNS}
    for turn in range(options.repeats + 1):
        for name, command in RUNS.items():
            used = process(command)
            if turn:  # the first one reads from the disk, and compiles
                seconds[name].append(used.seconds)
                memory[name].append(used.mib)

    def row(ours: str, peer: str, label: str, least: float | None = None, most: float | None = None) -> Row:
        return Row(
            what=f"start of a process: {ours}",
            ours=ours,
            peer=label,
            seconds=spread(seconds[ours]),
            peer_seconds=spread(seconds[peer]),
            times=ratios(seconds[peer], seconds[ours]),
            memory=spread(ratios(memory[peer], memory[ours]))[0],
            least_times=least,
            most_seconds=most,
        )

    torch, lightning = f"import of {version('torch')}", f"import of torchvision and {version('lightning')}"
    rows = [
        row("import fullyconv", "import torch", torch, NOT_SLOWER),
        row("SegmentationModule", "import lightning", lightning),
        row("fullyconv.runtime", "import torch", torch),
        row("fullyconv --help", "import torch", torch, most=0.3),
        row("fullyconv list", "import torch", torch, most=0.3),
    ]
    print_rows(rows)
    finish(rows, options.json, about)


if __name__ == "__main__":
    main()

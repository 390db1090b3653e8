"""What `fullyconv predict photo.jpg` takes beyond the network's own time, beside `import torch`.

Whole processes, started in turn: the import of torch, and the command on scikit-learn's photograph, which is read,
predicted and written as a mask. The network's own time is that of a second prediction in one process. Seconds of
processors count, with one thread.

    python benchmarks/cold_start.py [--repeats 5] [--model nuclei]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measuring import Row, add_arguments, finish, machine, process, ratios, spread, spread_words, version

MOST = 2.2

NETWORK = """
import sys, time
from fullyconv.hub.predictor import open_predictor

predictor = open_predictor(sys.argv[1])
predictor.predict(sys.argv[2])
begun = time.process_time()
predictor.predict(sys.argv[2])
print(time.process_time() - begun)
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nuclei")
    add_arguments(parser, repeats=5, threads=False)
    options = parser.parse_args()
    from fullyconv.demo import sample_photograph

    photo = sample_photograph()
    torch, command, network = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "fullyconv", "predict", photo, "--model", options.model, "--overwrite", "--out", Path(folder)]
        for _ in range(options.repeats + 1):
            torch.append(process(["-c", "import torch"]).busy)
            command.append(process(words).busy)
            network.append(float(process(["-c", NETWORK, options.model, photo]).output))
    # The first round reads the libraries from the disk.
    torch, network = torch[1:], network[1:]
    beyond = [whole - own for whole, own in zip(command[1:], network, strict=True)]
    print(machine("torch", threads=1))
    for name, seconds in (("import torch", torch), ("the network itself", network), ("all else", beyond)):
        print(f"{name:<20} {spread_words(spread(seconds))}")
    print(f"{'all else, of torch':<20} {spread_words(ratios(beyond, torch), 'x')}; at most {MOST}x is wanted")
    row = Row(
        what=f"fullyconv predict --model {options.model}, one photograph, beyond the network's own time",
        ours="fullyconv predict",
        peer=f"import {version('torch')}",
        seconds=spread(beyond),
        peer_seconds=spread(torch),
        times=ratios(torch, beyond),
        least_times=round(1 / MOST, 2),
    )
    finish([row], options.json, machine("torch", threads=1))


if __name__ == "__main__":
    main()

"""Execute the notebooks with this Python, as CI does, or write their outputs back.

    python notebooks/run.py                      # execute all, keep nothing
    python notebooks/run.py --out DIR            # executed copies in DIR, the checkout untouched
    python notebooks/run.py 02_upsampling --write    # one notebook, its outputs written back in place

A notebook passes if no cell fails, none writes to stderr (outputs are kept, and a warning is no result), and every
percentage that is printed lies within `WITHIN` points of the one that is kept: short trainings end differently on other
processors, but not by more. One with a
cell that is tagged `needs-data` is left out where FULLYCONV_DATA is not set, and says so. What a cell tagged
`shows-data` draws is shown and never written back: images of data sets are not ours to keep.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
WITHIN = 10.0  # percentage points


class ThisPython(KernelSpecManager):
    """Answer every request for a kernel with the running Python, whatever kernels the machine has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class NotebookError(Exception):
    """A notebook did not pass; the text says which cell and why."""


def find(names: list[str]) -> list[Path]:
    """Find notebooks of this folder by name, with or without the suffix; all of them without names."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    unknown = [name for name in names if Path(name).stem not in found]
    if unknown:
        raise SystemExit(f"{unknown[0]}: no such notebook. There are: {', '.join(found)}.")
    return [found[Path(name).stem] for name in names] or list(found.values())


def execute(notebook: NotebookNode, timeout: int) -> None:
    """Run all cells from nothing, in place.

    Args:
        notebook: the notebook; its old outputs are replaced.
        timeout: seconds that one cell may take.

    Raises:
        NotebookError: if a cell fails, takes too long, kills its kernel or writes to stderr.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("MPLBACKEND", None)  # the kernel's own: figures in the notebook
    with tempfile.TemporaryDirectory() as home:
        environment["IPYTHONDIR"] = home  # no history, no startup files of the user
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=ThisPython(),
            connection_file=str(Path(home) / "kernel.json"),
            transport="ipc" if os.name == "posix" else "tcp",  # no port that others on the machine could reach
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=timeout,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        try:
            client.execute(env=environment, cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(_plain(str(error))) from error
    for number, cell in enumerate(notebook.cells, 1):
        said = [o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stderr"]
        if said:
            raise NotebookError(f"cell {number} writes to stderr:\n\n{cell.source}\n\n{_plain(''.join(said))}")


def percentages(notebook: NotebookNode) -> list[list[float]]:
    """Give the percentages that each cell prints."""
    texts = [
        "".join(output.get("text", "") for output in cell.get("outputs", []) if output.output_type == "stream")
        for cell in notebook.cells
    ]
    return [[float(number) for number in re.findall(r"(?<![\w.])(\d+(?:\.\d+)?) ?%", text)] for text in texts]


def compare(kept: list[list[float]], found: list[list[float]]) -> None:
    """Compare the percentages of an executed notebook with those that it was kept with.

    Raises:
        NotebookError: if one lies elsewhere, or there are more or fewer of them.
    """
    for number, (before, now) in enumerate(zip(kept, found, strict=True), 1):
        far = len(before) != len(now) or any(abs(a - b) > WITHIN for a, b in zip(before, now, strict=True))
        if far:
            raise NotebookError(f"cell {number} prints {now} %, and is kept with {before}. Run again with --write.")


def strip(notebook: NotebookNode, shown: bool) -> None:
    """Remove what differs from run to run or machine to machine, so that a diff shows results only."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02d}"
        cell.metadata = NotebookNode({key: value for key, value in cell.metadata.items() if key == "tags"})
        if not shown and "shows-data" in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            if "metadata" in output:
                output.metadata = NotebookNode()


def _plain(text: str) -> str:
    """Remove the colors of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def main(arguments: list[str] | None = None) -> int:
    """Execute notebooks; return 0 if all pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, with or without .ipynb; all by default")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--out", type=Path, metavar="DIR", help="write executed copies there")
    kept.add_argument("--write", action="store_true", help="write the outputs back in place")
    parser.add_argument("--timeout", type=int, default=900, metavar="SECONDS", help="for one cell (default: 900)")
    chosen = parser.parse_args(arguments)

    # on a new machine matplotlib makes its font cache at first use and says so on stderr: here, not in a notebook
    importlib.import_module("matplotlib.font_manager")

    failed = []
    for path in find(chosen.names):
        notebook = nbformat.read(path, as_version=4)
        before = percentages(notebook)
        bare = [n for n, cell in enumerate(notebook.cells, 1) if cell.get("execution_count", 0) is None]
        start = time.monotonic()
        tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
        if "needs-data" in tags and not os.environ.get("FULLYCONV_DATA"):
            print(f"{path.name}: left out, it needs data: set FULLYCONV_DATA to the folder that holds it", flush=True)
            continue
        try:
            execute(notebook, chosen.timeout)
            if bare and not chosen.write:
                raise NotebookError(f"cell {bare[0]} is kept without having been run. Run again with --write.")
            if not chosen.write:
                compare(before, percentages(notebook))
        except NotebookError as error:
            failed.append(path.name)
            print(f"\n{path.name}: {error}\n", file=sys.stderr)
        strip(notebook, shown=not chosen.write)
        print(f"{path.name}: {'FAILED' if path.name in failed else 'ok'}, {time.monotonic() - start:.1f} s", flush=True)
        if chosen.out:  # also a failed one: to look at
            chosen.out.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, chosen.out / path.name)
        elif chosen.write and path.name not in failed:
            nbformat.write(notebook, path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

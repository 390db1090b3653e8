"""What people see while they wait: on stderr, and only where that is a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SILENT = 2.0  # seconds that nobody needs to be told of


def progress_bar(total: int | None, unit: str = "image", name: str | None = None, **options: Any) -> Any:
    """Make a progress bar for people who watch; None for files and pipes, and where tqdm is not installed.

    Args:
        total: how many there are, None where nobody knows; of none there is no bar.
        unit: what they are.
        name: what stands before the bar.
        options: of tqdm.
    """
    if total == 0 or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:  # an exported model needs onnxruntime, numpy and Pillow, and nothing else
        return None
    return tqdm(total=total, unit=unit, desc=name, **options)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show how long something has been going on, and how far its downloads are.

    Args:
        text: what is going on.
    """
    bar = progress_bar(None, "", text, bar_format="{desc} {elapsed}", leave=False, delay=SILENT)
    if bar is None:
        yield
        return
    from fullyconv.download import watched

    done = threading.Event()

    def tick() -> None:
        wait = SILENT
        while not done.wait(wait):
            bar.refresh()
            wait = 0.5

    def fetched(have: int, total: int | None) -> None:
        of = "" if total is None else f" of {total / 1e6:.1f}"
        bar.set_description_str(f"{text}: {have / 1e6:.1f}{of} MB", refresh=False)

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        with watched(fetched):
            yield
    finally:
        done.set()
        clock.join()
        bar.close()

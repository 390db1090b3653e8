"""The compiled loop of `upsample_argmax`. It needs numba, which is imported when the loop is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt


@cache
def label_blocks() -> Callable[..., None] | None:
    """Give the compiled `_label_blocks`, or None where numba is missing or has no place to keep what it compiled.

    It is compiled once on a machine, which takes a few seconds, and read from numba's cache ever after; without a
    writable cache every process would compile it, so there it is not used. It runs without the interpreter's lock, so
    that threads can share a map: numba's own threads must not be entered from two threads at once.
    """
    try:
        import numba

        compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(_label_blocks)
    except (ImportError, RuntimeError):  # missing, not made for this numpy, or no directory can be written
        return None
    return compiled


def _label_blocks(
    cells: npt.NDArray[np.float32],
    row_low: npt.NDArray[np.int64],
    row_high: npt.NDArray[np.int64],
    row_start: npt.NDArray[np.int64],
    row_weight: npt.NDArray[np.float32],
    column_low: npt.NDArray[np.int64],
    column_high: npt.NDArray[np.int64],
    column_start: npt.NDArray[np.int64],
    column_weight: npt.NDArray[np.float32],
    out: npt.NDArray[Any],
) -> None:
    """Write the best class of every pixel of a band.

    Args:
        cells: (h, w, K) scores.
        row_low: (B,) upper source row of each row of blocks.
        row_high: (B,) lower source row.
        row_start: (B + 1,) first row of pixels, and their number.
        row_weight: (H,) share of the lower source row in each row of pixels.
        column_low: (B',) left source column of each column of blocks; the same for the other three.
        column_high: (B',) right source column.
        column_start: (B' + 1,) first column of pixels, and their number.
        column_weight: (W,) share of the right source column.
        out: (H, W) labels.
    """
    h, w, classes = cells.shape
    best = np.empty((h, w), np.int32)
    for y in range(h):
        for x in range(w):
            top, label = cells[y, x, 0], 0
            for k in range(1, classes):
                if cells[y, x, k] > top:
                    top, label = cells[y, x, k], k
            best[y, x] = label
    kept = np.empty(classes, np.int32)
    left = np.empty(classes, np.float32)
    slope = np.empty(classes, np.float32)
    for i in range(len(row_low)):
        upper, lower = row_low[i], row_high[i]
        for j in range(len(column_low)):
            west, east = column_low[j], column_high[j]
            p, q, r, s = best[upper, west], best[upper, east], best[lower, west], best[lower, east]
            if p == q and p == r and p == s:
                for y in range(row_start[i], row_start[i + 1]):
                    for x in range(column_start[j], column_start[j + 1]):
                        out[y, x] = p
                continue
            a, b, c, d = cells[upper, west], cells[upper, east], cells[lower, west], cells[lower, east]
            count = 0
            for k in range(classes):
                ak, bk, ck, dk = a[k], b[k], c[k], d[k]
                # below one winner in all four corners is below it everywhere between them
                if ak < a[p] and bk < b[p] and ck < c[p] and dk < d[p]:
                    continue
                if ak < a[s] and bk < b[s] and ck < c[s] and dk < d[s]:
                    continue
                if ak < a[q] and bk < b[q] and ck < c[q] and dk < d[q]:
                    continue
                if ak < a[r] and bk < b[r] and ck < c[r] and dk < d[r]:
                    continue
                kept[count] = k
                count += 1
            for y in range(row_start[i], row_start[i + 1]):
                share = row_weight[y]
                for n in range(count):
                    k = kept[n]
                    left[n] = a[k] + share * (c[k] - a[k])
                    slope[n] = b[k] + share * (d[k] - b[k]) - left[n]
                for x in range(column_start[j], column_start[j + 1]):
                    along = column_weight[x]
                    top, label = left[0] + along * slope[0], kept[0]
                    for n in range(1, count):
                        value = left[n] + along * slope[n]
                        if value > top:
                            top, label = value, kept[n]
                    out[y, x] = label

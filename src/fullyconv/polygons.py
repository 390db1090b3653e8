"""Masks as polygons: the borders between pixels, traced exactly, as GeoJSON or COCO annotations.

Corners of pixels are the integers: the pixel in row y and column x covers the square from (x, y) to (x + 1, y + 1). A
polygon is one region of pixels of a class that touch along their sides, with its holes, and holds exactly these pixels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.files import write
from fullyconv.labels import Labels

Ring = list[tuple[int, int]]
Point = tuple[float, float]

# Unit steps along borders, as (y, x), with the region on the right hand: right, down, left, up.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


@dataclass(frozen=True)
class Region:
    """One region of a class.

    Args:
        index: of the class.
        outer: corners (x, y) of its border, clockwise as it is seen; the first is not repeated.
        holes: the same for each hole, the other way round.
        area: pixels.
        runs: first pixel, and pixel after the last, of its runs down the columns, counted down the columns of the whole
            mask: what run lengths of COCO are made of.
    """

    index: int
    outer: Ring
    holes: list[Ring]
    area: int
    runs: npt.NDArray[np.int64]


def regions(mask: npt.NDArray[Any], labels: Labels) -> Iterator[Region]:
    """Trace the regions of all classes of a mask; ignored pixels belong to none.

    Args:
        mask: (H, W) class indices.
        labels: of the K classes.

    Yields:
        The regions, class by class, from the top.

    Example:
        >>> square = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
        >>> [(region.index, region.outer, len(region.holes)) for region in regions(square, Labels.of(["a", "b"]))]
        [(0, [(0, 0), (3, 0), (3, 3), (0, 3)], 1), (1, [(1, 1), (2, 1), (2, 2), (1, 2)], 0)]
    """
    for index in range(len(labels.names)):
        inside = mask == index
        if inside.any():
            yield from _trace(inside, index)


def geojson(
    mask: npt.NDArray[Any], labels: Labels, to_degrees: Callable[[Ring], Sequence[Point]] | None = None
) -> dict[str, Any]:
    """Give the regions of a mask as a GeoJSON FeatureCollection.

    With `to_degrees` its positions are longitude and latitude, and outer rings run counter-clockwise, as RFC 7946 wants
    them. Without, they are pixels, x to
    the right and y down, and the collection says so: ``"crs": null`` is GeoJSON's word (of 2008) for positions that are
    no places on the earth.

    Args:
        mask: (H, W) class indices.
        labels: of the K classes.
        to_degrees: gives longitude and latitude of corners (x, y) in pixels.
    """

    def positions(ring: Ring, outer: bool) -> list[Point]:
        if to_degrees is None:
            return [*ring, ring[0]]
        found = list(to_degrees([*ring, ring[0]]))
        return found if (_area(found) > 0) == outer else found[::-1]

    features = [
        {
            "type": "Feature",
            "properties": {"class": labels.names[region.index], "index": region.index, "area": region.area},
            "geometry": {
                "type": "Polygon",
                "coordinates": [positions(ring, ring is region.outer) for ring in (region.outer, *region.holes)],
            },
        }
        for region in regions(mask, labels)
    ]
    said = {"crs": None, "units": "pixels"} if to_degrees is None else {}
    return {"type": "FeatureCollection", **said, "features": features}


def coco(mask: npt.NDArray[Any], labels: Labels, name: str) -> dict[str, Any]:
    """Give the regions of a mask as COCO annotations.

    Polygons of COCO have no holes: a region with holes is given by run lengths, which hold it exactly.

    Args:
        mask: (H, W) class indices.
        labels: of the K classes; the category of class k has the number k + 1.
        name: file of the image.
    """
    height, width = mask.shape
    annotations = []
    for number, region in enumerate(regions(mask, labels), 1):
        xs, ys = zip(*region.outer, strict=True)
        segmentation: Any = [[value for corner in region.outer for value in corner]]
        if region.holes:
            segmentation = {"size": [height, width], "counts": _counts(region.runs, height * width)}
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": region.index + 1,
                "iscrowd": 0,
                "area": region.area,
                "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                "segmentation": segmentation,
            }
        )
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "categories": [{"id": index + 1, "name": text} for index, text in enumerate(labels.names)],
        "annotations": annotations,
    }


def write_json(path: str | Path, content: dict[str, Any]) -> Path:
    """Write JSON: all of it or nothing."""
    return write(path, json.dumps(content, ensure_ascii=False))


def _area(ring: Sequence[Point]) -> float:
    """Give the area within a closed ring, below 0 where it runs clockwise."""
    return sum((x0 - x1) * (y0 + y1) for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def _trace(inside: npt.NDArray[np.bool_], index: int) -> Iterator[Region]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    start, way, number = _edges(inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    rings = _rings(_next(start, way, number))
    start += (rows[0], columns[0])
    height = inside.shape[0]
    members: dict[int, list[int]] = {}
    for ring, parent in enumerate(_parents(way, rings)):
        members.setdefault(parent, []).append(ring)
    for _, all_of_it in sorted(members.items()):
        outer, *holes = (_corners(start[rings[ring]], way[rings[ring]]) for ring in all_of_it)
        edges = np.concatenate([rings[ring] for ring in all_of_it])
        y, x, d = start[edges, 0], start[edges, 1], way[edges]
        first = np.sort(x[d == 0].astype(np.int64) * height + y[d == 0])
        last = np.sort((x[d == 2].astype(np.int64) - 1) * height + y[d == 2])
        yield Region(index, outer, holes, int((last - first).sum()), np.stack([first, last], 1))


def _edges(part: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """Find the border edges: their starts (E, 2), their ways (E,), and the number of each by way and start."""
    framed = np.pad(part, 1)
    middle = framed[1:-1, 1:-1]
    beside = (framed[:-2, 1:-1], framed[1:-1, 2:], framed[2:, 1:-1], framed[1:-1, :-2])  # above, right, below, left
    corner = ((0, 0), (0, 1), (1, 1), (1, 0))  # of the pixel at which the edge starts
    starts = [np.argwhere(middle & ~other) + offset for other, offset in zip(beside, corner, strict=True)]
    number = np.full((4, part.shape[0] + 1, part.shape[1] + 1), -1, np.int32)
    begin = 0
    for way, found in enumerate(starts):
        number[way, found[:, 0], found[:, 1]] = np.arange(begin, begin + len(found))
        begin += len(found)
    return np.concatenate(starts), np.repeat(np.arange(4), [len(found) for found in starts]), number


def _next(
    start: npt.NDArray[np.intp], way: npt.NDArray[np.intp], number: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Give for each edge the one after it: to the right where there is a choice, so that corners do not connect."""
    end = start + _STEPS[way]
    after = np.full(len(start), -1, np.int32)
    for turn in (3, 0, 1):  # left, straight, right: what is found last stands
        found = number[(way + turn) % 4, end[:, 0], end[:, 1]]
        after = np.where(found >= 0, found, after)
    return after


def _rings(after: npt.NDArray[np.int32]) -> list[npt.NDArray[np.intp]]:
    rest, rings = dict(enumerate(after.tolist())), []
    for edge in range(len(after)):
        ring = []
        while edge in rest:
            ring.append(edge)
            edge = rest.pop(edge)
        if ring:
            rings.append(np.array(ring))
    return rings


def _corners(start: npt.NDArray[np.intp], way: npt.NDArray[np.intp]) -> Ring:
    turns = way != np.roll(way, 1)
    return [(int(x), int(y)) for y, x in start[turns]]


def _parents(way: npt.NDArray[np.intp], rings: list[npt.NDArray[np.intp]]) -> list[int]:
    """Give for each ring the outer ring of its region, which is the first of them: it reaches up the most."""
    ring_of = np.empty(len(way), np.intp)
    for ring, edges in enumerate(rings):
        ring_of[edges] = ring
    parents = list(range(len(rings)))

    def root(ring: int) -> int:
        while parents[ring] != ring:
            parents[ring] = ring = parents[parents[ring]]
        return ring

    # Both ends of a row of pixels are of one region; edges to the left and to the right come in the order of the rows.
    for ends in set(zip(ring_of[way == 3].tolist(), ring_of[way == 1].tolist(), strict=True)):
        first, second = sorted(map(root, ends))
        parents[second] = first
    return [root(ring) for ring in range(len(rings))]


def _counts(runs: npt.NDArray[np.int64], total: int) -> list[int]:
    """Give COCO's run lengths, of zeros and ones in turn; runs that go on in the next column are one."""
    flat = runs.ravel()
    joined = np.flatnonzero(flat[1:] == flat[:-1])
    edges = np.delete(flat, [*joined, *(joined + 1)])
    counts: list[int] = np.diff(edges, prepend=0, append=total).tolist()
    return counts if counts[-1] else counts[:-1]

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fullyconv.labels import Labels
from fullyconv.polygons import coco, geojson, regions, write_json

LABELS = Labels.of(["a", "b", "c"])


def filled(ring: list[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    """Fill a ring by counting the borders to the left of each pixel."""
    crossed = np.zeros((shape[0], shape[1] + 1), int)
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if x0 == x1:
            crossed[min(y0, y1) : max(y0, y1), x0] += 1
    return np.cumsum(crossed, 1)[:, :-1] % 2 == 1


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = Image.new("L", (60, 50))
    pen = ImageDraw.Draw(drawn)
    for size in (24, 18, 12, 5):
        pen.ellipse((30 - size, 25 - size, 30 + size, 25 + size), fill=1 if size in (24, 12) else 0)
    return [
        rng.integers(0, 3, (23, 31)),
        np.kron(rng.integers(0, 3, (6, 7)), np.ones((4, 3), int)),
        np.array(drawn),
        np.array([[1]]),
        np.indices((6, 6)).sum(0) % 2,
        np.full((3, 4), 255),
    ]


@pytest.mark.parametrize("mask", masks(), ids=str)
def test_polygons_hold_exactly_the_pixels_of_their_class(mask: np.ndarray) -> None:
    painted = np.full(mask.shape, 255)
    for region in regions(mask, LABELS):
        inside = filled(region.outer, mask.shape)
        for hole in region.holes:
            cut = filled(hole, mask.shape)
            assert inside[cut].all()
            inside &= ~cut
        assert inside.sum() == region.area
        assert (painted[inside] == 255).all()
        painted[inside] = region.index
    np.testing.assert_array_equal(painted, mask)


@pytest.mark.parametrize("mask", masks(), ids=str)
def test_coco_annotations_hold_exactly_the_pixels_of_their_class(mask: np.ndarray) -> None:
    entries = coco(mask, LABELS, "p.jpg")
    total = np.zeros(mask.shape, int)
    for entry in entries["annotations"]:
        if not isinstance(entry["segmentation"], dict):
            inside = filled(np.reshape(entry["segmentation"][0], (-1, 2)).tolist(), mask.shape)
        else:
            counts = entry["segmentation"]["counts"]
            assert all(counts[1:])
            flat = np.repeat(np.arange(len(counts)) % 2, counts)
            inside = flat.reshape(mask.shape[::-1]).T > 0
        assert inside.sum() == entry["area"]
        assert (mask[inside] == entry["category_id"] - 1).all()
        x, y, w, h = entry["bbox"]
        assert not np.delete(inside, slice(y, y + h), 0).any()
        assert not np.delete(inside, slice(x, x + w), 1).any()
        total += inside
    np.testing.assert_array_equal(total, mask < 3)


def test_geojson_closes_its_rings_and_names_its_classes(tmp_path: Path) -> None:
    mask = np.zeros((5, 6), int)
    mask[1:4, 1:4] = 1
    mask[2, 2] = 2
    path = write_json(tmp_path / "m.geojson", geojson(mask, LABELS))
    read = json.loads(path.read_text())
    assert [feature["properties"]["class"] for feature in read["features"]] == ["a", "b", "c"]
    assert [len(feature["geometry"]["coordinates"]) for feature in read["features"]] == [2, 2, 1]
    for feature in read["features"]:
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["m.geojson"]


@pytest.mark.parametrize("down", [-1, 1], ids=["north is up", "south is up"])
def test_rings_in_degrees_run_as_rfc_7946_wants(down: int) -> None:
    mask = np.zeros((5, 6), int)
    mask[1:4, 1:4] = 1
    mask[2, 2] = 2
    made = geojson(mask, LABELS, lambda ring: [(10 + x, 50 + down * y) for x, y in ring])
    areas = []
    for feature in made["features"]:
        for ring in feature["geometry"]["coordinates"]:
            x, y = np.array(ring).T
            areas.append(0.5 * float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()))
    assert areas == [30, -9, 9, -1, 1]

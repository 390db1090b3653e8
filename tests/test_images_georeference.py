"""Where an image lies on the earth goes with its mask, as GDAL (by rasterio) reads both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import fullyconv
from fullyconv.errors import DatasetError
from fullyconv.images import georeference
from fullyconv.images.georeference import Georeference, georeference_of
from fullyconv.images.raster import read_raster
from odd_trees import scene

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # of rasterio

UTM = "EPSG:32632"


def geotiff(
    path: Path, pixels: np.ndarray[Any, Any], *, crs: str = UTM, nodata: float | None = None, **options: Any
) -> Path:
    """Write a GeoTIFF as GDAL does: pixels of half a meter near Munich."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, bands = pixels.shape
    path.parent.mkdir(exist_ok=True)
    transform = rasterio.transform.from_origin(690_000.25, 5_334_000.5, 0.5, 0.25)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata, **options) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return fullyconv.load("street")


def same_place(image: Path, mask: Path) -> bool:
    with rasterio.open(image) as one, rasterio.open(mask) as other:
        same_crs = one.crs == other.crs
        return same_crs and one.transform.almost_equals(other.transform, 1e-9) and one.shape == other.shape


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"}])
@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_a_mask_lies_where_its_image_lies(segmenter: Any, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    image = geotiff(tmp_path / "x.tif", scene(), **options)
    segmenter.predict_to(image, tmp_path / name)
    assert same_place(image, tmp_path / name)
    with rasterio.open(tmp_path / name) as written:
        np.testing.assert_array_equal(written.read(1), segmenter.predict(image).mask)


def test_a_result_in_memory_is_saved_with_its_place(segmenter: Any, tmp_path: Path) -> None:
    image = geotiff(tmp_path / "x.tif", scene(), crs="EPSG:4326")
    segmenter.predict(image).save(tmp_path / "mask.png")
    assert same_place(image, tmp_path / "mask.png")


def test_a_folder_of_geotiffs_becomes_a_folder_of_geotiff_masks(segmenter: Any, tmp_path: Path) -> None:
    images = [geotiff(tmp_path / "in" / name, scene()) for name in ("a.tif", "b.tif")]
    done = fullyconv.predict_folder(segmenter, tmp_path / "in", tmp_path / "out", mask_format="tif")
    assert [same_place(image, tmp_path / "out" / image.name) for image in images] == [True, True]
    assert not done.failed
    assert fullyconv.predict_folder(segmenter, tmp_path / "in", tmp_path / "out", mask_format="tif").before == 2


def test_an_ordinary_image_has_no_files_beside_its_mask(segmenter: Any, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "x.tif")
    segmenter.predict(tmp_path / "x.tif").save(tmp_path / "out" / "mask.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mask.png"]


def test_a_world_file_beside_a_photograph_counts(segmenter: Any, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "x.jpg")
    (tmp_path / "x.jgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    segmenter.predict(tmp_path / "x.jpg").save(tmp_path / "mask.png")
    assert (tmp_path / "mask.pgw").read_text().split() == ["0.5", "0.0", "0.0", "-0.5", "100.25", "199.75"]


@pytest.mark.parametrize("text", ["", "0.5 0 0", "a b c d e f", "inf 0 0 1 2 3", "1 " * 4000])
def test_a_world_file_that_is_none_is_left_alone(tmp_path: Path, text: str) -> None:
    Image.fromarray(scene()).save(tmp_path / "x.jpg")
    (tmp_path / "x.jgw").write_text(text)
    assert georeference_of(tmp_path / "x.jpg") is None


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["nodata", "alpha", "both"])
def test_pixels_without_data_are_ignored_in_the_mask(
    segmenter: Any, tmp_path: Path, kind: str, in_memory: bool
) -> None:
    pixels = np.maximum(scene(), 1)
    void = np.zeros(pixels.shape[:2], bool)
    void[:20, 50:] = True
    pixels[void] = 0
    if kind != "nodata":
        pixels = np.concatenate([pixels, np.where(void, 0, 255).astype(np.uint8)[..., None]], axis=2)
    options = {"photometric": "rgb"} | ({"alpha": "unspecified"} if kind == "nodata" else {"alpha": "yes"})
    image = geotiff(tmp_path / "x.tif", pixels, nodata=None if kind == "alpha" else 0, **options)
    if in_memory:
        result = segmenter.predict(image)
        mask, shares = result.mask, result.shares()
    else:
        done = segmenter.predict_to(image, tmp_path / "mask.tif")
        mask, shares = tifffile.imread(done.path), done.shares()
        with rasterio.open(tmp_path / "mask.tif") as written:
            assert written.nodata == 255
    np.testing.assert_array_equal(mask == 255, void)
    assert sum(shares.values()) == pytest.approx(1)


def test_reflectances_are_read_by_their_range_and_are_faint_without(tmp_path: Path) -> None:
    shown = scene()
    image = geotiff(tmp_path / "x.tif", (shown.astype(np.uint16) * 12), compress="lzw")
    raster = read_raster(image, 3)
    assert raster.note is not None
    assert "--range 0,4095" in raster.note
    read = read_raster(image, 3, value_range=(0, 255 * 12))
    assert read.note is None
    np.testing.assert_array_equal(read.pixels, shown)


def test_floats_with_a_number_for_no_data_are_read(segmenter: Any, tmp_path: Path) -> None:
    values = scene().astype(np.float32) / 255
    values[:9] = -9999
    image = geotiff(tmp_path / "x.tif", values, nodata=-9999)
    assert (segmenter.predict(image).mask[:9] == 255).all()
    assert (segmenter.predict(image).mask[9:] != 255).all()


def test_overviews_are_not_what_is_read(segmenter: Any, tmp_path: Path) -> None:
    image = geotiff(tmp_path / "x.tif", scene(128, 192), tiled=True, blockxsize=64, blockysize=64)
    before = segmenter.predict(image).mask
    with rasterio.open(image, "r+") as file:
        file.build_overviews([2, 4])
    np.testing.assert_array_equal(segmenter.predict(image).mask, before)
    assert before.shape == (128, 192)


def corners(path: Path) -> np.ndarray[Any, Any]:
    content = json.loads(path.read_text())
    rings = [ring for feature in content["features"] for ring in feature["geometry"]["coordinates"]]
    return np.array([corner for ring in rings for corner in ring])


def test_polygons_are_in_longitude_and_latitude(segmenter: Any, tmp_path: Path) -> None:
    from rasterio.warp import transform

    image = geotiff(tmp_path / "x.tif", scene())
    fullyconv.predict_folder(segmenter, image, tmp_path / "m", polygons="geojson")
    found = corners(tmp_path / "m" / "x.geojson")
    with rasterio.open(image) as file:
        left, bottom, right, top = file.bounds
        wanted = np.transpose(transform(file.crs, "EPSG:4326", [left, left, right, right], [top, bottom] * 2))
    np.testing.assert_allclose(found.min(0), wanted.min(0), rtol=1e-9)
    np.testing.assert_allclose(found.max(0), wanted.max(0), rtol=1e-9)


def test_polygons_of_a_photograph_say_that_they_are_in_pixels(segmenter: Any, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "x.png")
    fullyconv.predict_folder(segmenter, tmp_path / "x.png", tmp_path / "m", polygons="geojson")
    content = json.loads((tmp_path / "m" / "x.geojson").read_text())
    assert content["crs"] is None
    assert content["units"] == "pixels"


def test_a_place_without_a_coordinate_system_gives_no_degrees() -> None:
    with pytest.raises(DatasetError, match=r"x\.tif: GeoJSON is in longitude and latitude, and its coordinate system"):
        Georeference((1, 0, 0, 0, -1, 0)).to_degrees([(0, 0)], "x.tif")
    with pytest.raises(DatasetError, match="EPSG:1 is no coordinate system"):
        Georeference((1, 0, 0, 0, -1, 0), "EPSG:1").to_degrees([(0, 0)], "x.tif")
    with pytest.raises(DatasetError, match="lies outside of where EPSG:32632 is defined"):
        Georeference((1e9, 0, 0, 0, -1, 0), UTM).to_degrees([(0, 0), (10, 10)], "x.tif")


def test_without_pyproj_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyproj", None)
    georeference._transformer.cache_clear()
    assert Georeference((0.5, 0, 10, 0, -0.5, 50), "EPSG:4326").to_degrees([(2, 4)], "x") == [(11, 48)]
    with pytest.raises(DatasetError, match=r"pip install 'fullyconv\[geo\]'"):
        Georeference((1, 0, 0, 0, -1, 0), UTM).to_degrees([(0, 0)], "x.tif")


def test_an_image_larger_than_pillow_decodes_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = geotiff(tmp_path / "x.tif", scene())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    place = georeference_of(image)
    assert place is not None
    assert place.crs == UTM


def test_a_mask_that_cannot_be_written_leaves_no_world_file(
    segmenter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = geotiff(tmp_path / "x.tif", scene())
    result = segmenter.predict(image)
    (tmp_path / "out" / "mask.png").mkdir(parents=True)
    for write in (result.save, lambda path: segmenter.predict_to(image, path)):
        with pytest.raises(OSError, match="mask"):
            write(tmp_path / "out" / "mask.png")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mask.png"]

"""Image files that people have, and what is wanted of them: read right, or refused with what they are by name."""

from __future__ import annotations

import inspect
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import fullyconv
from conftest import write_tree
from fullyconv.errors import DatasetError
from fullyconv.images import read_image
from odd_trees import deep, deep_tree, scene
from told import Diagnosed, Said, doctor, options_in, run

Capture = pytest.CaptureFixture[str]


def read(path: Path) -> np.ndarray[Any, Any] | str:
    """Read an image as every command does; where it is refused give the reason, without the folder."""
    try:
        return read_image(path).astype(int)
    except DatasetError as error:
        return str(error).replace(f"{path.parent}/", "")


def shows(found: np.ndarray[Any, Any] | str, wanted: np.ndarray[Any, Any], name: str) -> bool:
    """Tell whether an image was read right, or refused by name."""
    if isinstance(found, str):
        return found.startswith(name)
    return found.shape == wanted.shape and bool(np.abs(found - wanted.astype(int)).mean() < 2)


def predicted(capsys: Capture, path: Path, out: Path, *words: object) -> tuple[Said, np.ndarray[Any, Any] | None]:
    """Segment an image; None where no mask is written."""
    said = run(capsys, "predict", path, "--out", out, *words)
    mask = out / f"{path.stem}.png"
    return said, np.array(Image.open(mask)) if mask.is_file() else None


# ---- W5: 12 bits in 16 -----------------------------------------------------------------------------------------------

FORMS = ["gray.png", "gray.tif", "color.tif"]


def on_range(found: Diagnosed) -> str:
    return "\n".join(text for text in found.texts("warning", "error") if re.search("12 bits|range|4095", text))


@pytest.mark.parametrize("form", FORMS)
def test_w5_the_doctor_warns_of_values_far_below_the_range_of_their_type(
    form: str, tmp_path: Path, capsys: Capture
) -> None:
    told = on_range(doctor(capsys, deep_tree(tmp_path / "deep", form, 4095)))
    assert all(f"{split}/images/000" in told for split in ("train", "val"))
    assert not on_range(doctor(capsys, deep_tree(tmp_path / "full", form, 65535)))


@pytest.mark.parametrize("form", FORMS)
def test_w5_the_warning_names_the_option_for_the_range(form: str, tmp_path: Path, capsys: Capture) -> None:
    root = deep_tree(tmp_path, form, 4095)
    options = options_in(on_range(doctor(capsys, root)))
    answers = [found for found in (doctor(capsys, root, *words) for words in options) if found.splits]
    assert any(not on_range(found) for found in answers)


@pytest.mark.parametrize("form", ["gray.png", "color.tif"])
def test_w5_predict_warns_and_its_option_gives_the_answer_for_8_bits(
    form: str, tmp_path: Path, capsys: Capture
) -> None:
    shown = scene() if form.startswith("color") else np.repeat(scene()[..., :1], 3, axis=2)
    Image.fromarray(shown).save(tmp_path / "plain.png")
    _, wanted = predicted(capsys, tmp_path / "plain.png", tmp_path / "m")
    image = deep(tmp_path / form, scene(), 4095)
    said, _ = predicted(capsys, image, tmp_path / "m")
    told = [line for line in said.text.splitlines() if re.search("12 bits|range|4095", line)]
    assert any(image.name in line for line in told)
    answers = [predicted(capsys, image, tmp_path / "n", *words)[1] for words in options_in("\n".join(told))]
    assert any((answer == wanted).mean() > 0.95 for answer in answers if answer is not None)


# ---- W16, W17: what the header of a TIFF says ------------------------------------------------------------------------


def packed_12_bits(path: Path, values: np.ndarray[Any, Any]) -> None:
    """Write gray values 0..4095 as a TIFF of 12 bits a pixel, two pixels in three bytes; W is even."""
    height, width = values.shape
    pairs = values.reshape(height, -1, 2).astype(np.uint16)
    first, second = pairs[..., 0], pairs[..., 1]
    data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    entries = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + fields + struct.pack("<I", 0))


def written(path: Path, kind: str) -> np.ndarray[Any, Any]:
    """Write the scene as a TIFF of a kind, and give what it shows."""
    deep_values = scene().astype(np.uint16) * 257
    gray = np.repeat(scene()[..., :1], 3, axis=2).astype(int)
    if kind == "planar":
        tifffile.imwrite(path, np.moveaxis(deep_values, 2, 0), photometric="rgb", planarconfig="separate")
        return scene().astype(int)
    if kind == "white is zero":
        tifffile.imwrite(path, 65535 - deep_values[..., 0], photometric="miniswhite")
    else:
        packed_12_bits(path, np.rint(scene()[..., 0] / 255 * 4095))
    return gray


@pytest.mark.parametrize("kind", ["planar", "white is zero", "12 bits packed"])
def test_w16_tiff_images_are_read_as_their_header_says(kind: str, tmp_path: Path) -> None:
    wanted = written(tmp_path / "x.tif", kind)
    assert shows(read(tmp_path / "x.tif"), wanted, "x.tif")


def test_w16_a_white_is_zero_mask_of_16_bits_is_read_as_its_header_says(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 4, "val": 2})
    wanted = doctor(capsys, root).pixels
    masks = sorted(root.glob("*/masks/*"))
    for path in masks:
        values = np.array(Image.open(path)).astype(np.uint16)
        tifffile.imwrite(path.with_suffix(".tif"), 65535 - values, photometric="miniswhite")
        path.unlink()
    found = doctor(capsys, root)
    assert "65533" not in found.errors  # what is stored where the mask shows 2
    assert found.pixels == wanted or "000.tif" in found.errors


@pytest.mark.parametrize("place", ["SubIFD", "second page"])
@pytest.mark.parametrize("suffix", [".tif", ".dng"])
def test_w17_a_thumbnail_before_the_image_is_not_what_is_read(place: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    with tifffile.TiffWriter(path) as file:
        thumbnail = np.ascontiguousarray(scene()[::4, ::4])
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1 if place == "SubIFD" else 0)
        file.write(scene(), photometric="rgb", subfiletype=0)
    assert shows(read(path), scene(), path.name)


# ---- M16: floating point numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "gray float32",
        "color float32",
        "gray float16",
        "color float16",
        "gray float64",
        "color float64",
    ],
)
def test_m16_float_tiffs_are_read_as_0_to_1_or_refused_for_what_they_are(kind: str, tmp_path: Path) -> None:
    shown, type_ = kind.split()
    values = (scene() if shown == "color" else scene()[..., 0]).astype(type_) / np.array(255, type_)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb" if shown == "color" else "minisblack")
    found = read(tmp_path / "x.tif")
    if isinstance(found, str):
        assert "float" in found
        return
    wanted = scene() if shown == "color" else scene()[..., :1]
    assert np.abs(found - wanted).max() <= 1


# ---- M2: many pixels -------------------------------------------------------------------------------------------------


def test_m2_the_remedy_for_an_image_of_too_many_pixels_exists(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path, {"train": 2, "val": 2})
    Image.new("1", (10_000, 10_000)).save(root / "train" / "images" / "000.png")
    found = doctor(capsys, root)
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", found.errors))
    assert named <= {*inspect.signature(fullyconv.SegmentationDataModule.from_folder).parameters}
    for words in options_in(found.errors):
        assert run(capsys, "doctor", root, *words).code != 2


# ---- W6: line endings ------------------------------------------------------------------------------------------------


def test_w6_files_whose_line_endings_were_converted_are_told_as_such(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "set"
    damaged = []
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(4):
        image, mask = root / "images" / f"{number}.jpg", root / "masks" / f"{number}.png"
        noise = np.random.default_rng(number).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image, quality=95)
        Image.fromarray((noise[..., 0] > 99).astype(np.uint8)).save(mask)
        for path in (image, mask):
            before = path.read_bytes()
            path.write_bytes(before.replace(b"\r\n", b"\n"))
            if path.stat().st_size < len(before):
                damaged.append(path.relative_to(root).as_posix())
    assert any(name.endswith(".jpg") for name in damaged)
    told = "\n".join(
        text for text in doctor(capsys, root).texts("error", "warning") if re.search(r"(?i)line.end|\bcr\b|crlf", text)
    )
    assert all(name in told for name in damaged)


# ---- W7: georeference ------------------------------------------------------------------------------------------------

CORNER, STEP = (11.5, 48.25), (0.001, 0.002)  # degrees: longitude and latitude of the upper left corner, of a pixel
DEGREES = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)  # WGS 84, a pixel is an area
POINTS = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)  # the same, a pixel is its center
METERS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632)  # UTM zone 32 N


def geotiff(path: Path, keys: tuple[int, ...] = DEGREES, *, matrix: bool = False, scale: float = 1.0) -> Path:
    """Write the scene with its place on the earth, by a corner and a size of pixels or by a matrix."""
    (x, y), (dx, dy) = (680_000.0, 5_300_000.0) if keys == METERS else CORNER, (scale * STEP[0], scale * STEP[1])
    tags: list[Any] = [(34735, "H", len(keys), keys, True)]
    if matrix:
        tags.append((34264, "d", 16, (dx, 0.0, 0.0, x, 0.0, -dy, 0.0, y, *[0.0] * 7, 1.0), True))
    else:
        tags += [(33550, "d", 3, (dx, dy, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True)]
    tifffile.imwrite(path, scene(), photometric="rgb", extratags=tags)
    return path


@pytest.mark.parametrize("kind", ["corner", "matrix", "center"])
def test_w7_a_mask_of_a_geotiff_has_a_world_file_beside_it(kind: str, tmp_path: Path, capsys: Capture) -> None:
    image = geotiff(tmp_path / "x.tif", POINTS if kind == "center" else DEGREES, matrix=kind == "matrix")
    said, mask = predicted(capsys, image, tmp_path / "m")
    assert said.code == 0
    assert mask is not None
    world = tmp_path / "m" / "x.pgw"
    assert world.is_file()
    half = 0 if kind == "center" else 0.5  # a world file has the center of the first pixel
    place = [CORNER[0] + half * STEP[0], CORNER[1] - half * STEP[1]]
    wanted = [STEP[0], 0, 0, -STEP[1], *place]
    assert [float(line) for line in world.read_text().split()] == pytest.approx(wanted, rel=1e-9)


def test_w7_a_tiff_mask_keeps_the_tags_of_its_geotiff(tmp_path: Path) -> None:
    segmenter: Any = fullyconv.load("street")
    segmenter.predict_to(geotiff(tmp_path / "x.tif"), tmp_path / "mask.tif")
    with tifffile.TiffFile(tmp_path / "x.tif") as image, tifffile.TiffFile(tmp_path / "mask.tif") as mask:
        before, after = (
            {tag.code: tag.value for tag in file.pages[0].tags if tag.code in (33550, 33922, 34735)}  # type: ignore[union-attr]
            for file in (image, mask)
        )
    assert after == before


def positions(content: Any) -> list[tuple[float, float]]:
    """Give all corners of a GeoJSON file."""
    return [
        (float(x), float(y))
        for feature in content["features"]
        for ring in feature["geometry"]["coordinates"]
        for x, y, *_ in ring
    ]


@pytest.mark.parametrize("keys", [DEGREES, METERS], ids=["degrees", "meters"])
def test_w7_geojson_of_a_geotiff_is_in_degrees_or_not_called_so(
    keys: tuple[int, ...], tmp_path: Path, capsys: Capture
) -> None:
    image = geotiff(tmp_path / "x.tif", keys, scale=1.0 if keys == DEGREES else 1000.0)  # pixels of 1 by 2 meters
    said, _ = predicted(capsys, image, tmp_path / "m", "--polygons", "geojson")
    made = tmp_path / "m" / "x.geojson"
    if not made.exists():
        assert re.search("(?i)crs|epsg|degrees|longitude|georef", said.err)
        return
    content = json.loads(made.read_text())
    try:
        corners = positions(content)
    except (KeyError, TypeError):  # pixels under a key of their own
        assert re.search("(?i)pixel", said.text)
        return
    (left, top), (dx, dy) = (CORNER, STEP) if keys == DEGREES else ((11.3, 47.9), (0.01, 0.01))
    assert all(left <= x <= left + 96 * dx and top - 64 * dy <= y <= top for x, y in corners)


# ---- M15: formats that are not read ----------------------------------------------------------------------------------

FOREIGN = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "JXL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64),
    "DICOM": bytes(128) + b"DICM" + bytes(64),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"></svg>\n',
    "NPY": b"\x93NUMPY\x01\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4), }".ljust(128) + bytes(16),
}
ALSO = {"JXL": "JPEG XL", "NPY": "NumPy"}


@pytest.mark.parametrize("own", [True, False], ids=["by its name", "called jpg"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_m15_a_file_of_another_format_is_told_by_the_name_of_its_format(kind: str, own: bool, tmp_path: Path) -> None:
    path = tmp_path / ("x" + ({"DICOM": ".dcm"}.get(kind, f".{kind.lower()}") if own else ".jpg"))
    path.write_bytes(FOREIGN[kind])
    found = read(path)
    assert isinstance(found, str)
    told = found.replace(path.name, "FILE")
    assert re.search(rf"\b({kind}|{ALSO.get(kind, kind)})\b", told)
    assert "beginning is damaged" not in told


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one PNG, two formats that Pillow reads, and two that it does not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.avif", "c.jp2"):
        Image.fromarray(scene()).save(folder / name)
    (folder / "d.heic").write_bytes(FOREIGN["HEIC"])
    (folder / "e.DNG").write_bytes(b"II*\0" + bytes(64))
    return folder


def test_m15_avif_and_jp2_are_found_in_a_folder(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    run(capsys, "predict", mixed, "--out", tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").glob("*.png")} >= {"a.png", "b.png", "c.png"}


def test_m15_what_a_folder_holds_and_is_not_read_is_counted_and_named(
    mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = run(capsys, "predict", mixed, "--out", tmp_path / "m")
    told = "\n".join(line for line in said.text.splitlines() if " -> " not in line).lower()
    assert re.search(r"\b[1-4]\b", told)
    assert "heic" in told
    assert "dng" in told or (tmp_path / "m" / "e.png").exists()

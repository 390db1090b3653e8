from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullyconv.errors import DatasetError
from fullyconv.images import (
    Encoded,
    MaskWriter,
    bands_size,
    exif_orientation,
    find_images,
    image_size,
    lossy_format,
    may_be_cut,
    read_bands,
    read_colors,
    read_image,
    read_mask,
    visible,
    write_image,
    write_mask,
)

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = COLOR[..., 0].copy()


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "ppm"])
def test_colors_come_back_as_they_were_written(tmp_path, extension):
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a.{extension}", COLOR)), COLOR)


def test_path_string_pillow_image_and_array_give_the_same(tmp_path):
    path = save(tmp_path / "a.png", COLOR)
    for source in (path, str(path), Image.fromarray(COLOR), COLOR):
        result = read_image(source)
        np.testing.assert_array_equal(result, COLOR)
        assert result.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path, orientation):
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", COLOR, exif=exif)
    np.testing.assert_array_equal(read_image(path), turn(COLOR))
    assert image_size(path) == read_image(path).shape[:2]
    assert exif_orientation(path) == orientation


def test_masks_own_orientation_is_applied_to_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", GRAY, exif=exif)
    np.testing.assert_array_equal(read_mask(path), np.rot90(GRAY, -1))


def test_gray_is_repeated(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", GRAY)), np.stack([GRAY] * 3, axis=-1))


def test_palette_of_an_image_is_expanded(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparent_pixels_show_white_and_opaque_ones_their_color(tmp_path):
    rgba = np.concatenate([COLOR, np.full((20, 30, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), COLOR)
    rgba[0, 0, 3] = 0
    assert read_image(save(tmp_path / "b.png", rgba))[0, 0].tolist() == [255, 255, 255]


def test_16_bit_gray_keeps_its_full_range(tmp_path):
    array = np.array([[0, 257, 65535]], dtype=np.uint16)
    assert read_image(save(tmp_path / "a.png", array))[0, :, 0].tolist() == [0, 1, 255]
    assert read_image(array)[0, :, 0].tolist() == [0, 1, 255]


def test_one_bit_image_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255]


def test_floats_and_booleans_are_scaled():
    assert read_image(np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist() == [0, 128, 255]
    assert read_image(np.array([[False, True]]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), "move the channels last"),
        (np.zeros((2, 2, 5), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.full((2, 2), 2.0), r"floats are 0\.\.1"),
        (np.full((2, 2), np.nan), r"floats are 0\.\.1"),
        (np.zeros((2, 2), np.int64), "type int64"),
    ],
)
def test_array_of_another_kind_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        read_image(array)


def test_other_objects_are_refused():
    with pytest.raises(ValueError, match="give a path, a Pillow image, a numpy array or the bytes of a file"):
        read_image(3)


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such file"):
        read(tmp_path / "nothing.png")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_folder_is_refused(tmp_path, read):
    with pytest.raises(DatasetError, match="a folder where an image is expected"):
        read(tmp_path)


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_truncated_image_is_named(tmp_path, extension):
    path = save(tmp_path / f"half.{extension}", np.repeat(np.repeat(COLOR, 8, 0), 8, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=rf"half\.{extension}: damaged or truncated"):
        read_image(path)


def test_every_cut_of_a_mask_is_an_error_and_never_another_mask(tmp_path):
    path = save(tmp_path / "m.png", GRAY)
    whole = path.read_bytes()
    end = len(whole) - 12  # the closing chunk carries no data
    for length in range(0, end, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"m\.png"):
            read_mask(path)


def test_text_and_empty_files_are_no_images(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(DatasetError, match=r"a\.png: not an image"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(DatasetError, match=r"b\.png: an empty file"):
        read_mask(tmp_path / "b.png")


def test_image_beyond_the_bound_is_refused_before_it_is_decoded(tmp_path):
    path = save(tmp_path / "a.png", COLOR)
    for source in (path, COLOR, Image.fromarray(COLOR)):
        with pytest.raises(DatasetError, match=r"20 x 30 pixels.*at most 599"):
            read_image(source, max_pixels=599)
        assert read_image(source, max_pixels=600).shape == (20, 30, 3)


def test_bound_of_pillow_gives_way_to_a_larger_one_of_ours(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"a\.png: too large"):
        read_image(path, max_pixels=90)
    assert read_image(path, max_pixels=1000).shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_palette_mask_gives_indices_and_not_colors(tmp_path):
    mask = RNG.integers(0, 5, (6, 7), dtype=np.uint8)
    path = write_mask(tmp_path / "m.png", mask, palette=[(9, 9, 9), (1, 2, 3), (4, 5, 6), (7, 8, 9), (200, 0, 0)])
    np.testing.assert_array_equal(read_mask(path), mask)
    with Image.open(path) as image:
        assert image.mode == "P"
    assert read_image(path)[mask == 1][0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("values", [[0, 1, 2, 255], [0, 254], [0, 256], [0, 40_000, 65535]])
def test_written_mask_comes_back(tmp_path, values):
    mask = RNG.choice(values, size=(5, 9))
    back = read_mask(write_mask(tmp_path / "new" / "m.png", mask))
    np.testing.assert_array_equal(back, mask)
    assert back.dtype == (np.uint8 if max(values) <= 255 else np.uint16)


def test_one_bit_mask_holds_0_and_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_png_of_few_bits_gives_its_values_and_not_stretched_levels(tmp_path, bits):
    import struct
    import zlib

    values = np.arange(2**bits, dtype=np.uint8)[None]
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(1, -1), axis=1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], 1, bits, 0, 0, 0, 0)
    body = zlib.compress(b"\0" + packed.tobytes())
    path = tmp_path / "m.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_mask(path), values)


def test_mask_that_loses_its_values_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"a.jpg: a JPEG mask.*Save the masks as PNG"):
        read_mask(save(tmp_path / "a.jpg", GRAY))
    with pytest.raises(DatasetError, match=r"b.png: a mask of mode RGB holds colors"):
        read_mask(save(tmp_path / "b.png", COLOR))


def test_white_is_zero_tiff_mask_is_refused(tmp_path):
    image = Image.fromarray(GRAY)
    image.save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    with pytest.raises(DatasetError, match="white-is-zero"):
        read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("m.jpg", np.zeros((2, 2), np.uint8), "written as PNG"),
        ("m.png", np.zeros((2, 2, 1), np.uint8), "shape"),
        ("m.png", np.zeros((2, 2)), "integers"),
        ("m.png", np.zeros((0, 2), np.uint8), "shape"),
        ("m.png", np.array([[-1]]), r"values -1\.\.-1"),
        ("m.png", np.array([[65536]]), "65536"),
    ],
)
def test_mask_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, name, mask, message):
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / name, mask)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_mask(tmp_path / "m.png", np.array([[3]]))

    def fail(self):
        self._file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(MaskWriter, "_finish", fail)
    with pytest.raises(OSError, match="disk full"):
        write_mask(path, np.array([[4]]))
    monkeypatch.undo()
    assert read_mask(path).tolist() == [[3]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.png"]


def test_image_is_written_in_the_format_of_its_name(tmp_path):
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "a.png", COLOR)), COLOR)
    rgba = Image.fromarray(COLOR).convert("RGBA")
    with Image.open(write_image(tmp_path / "a.jpg", rgba)) as image:
        assert image.format == "JPEG"
    with pytest.raises(ValueError, match="no image format has this extension"):
        write_image(tmp_path / "a.pgn", COLOR)


def test_images_are_found_in_folder_file_and_pattern_in_order(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.png").touch()
    names = lambda source: [path.name for path in find_images(source)]  # noqa: E731
    assert names(tmp_path) == ["a.jpg", "b.PNG"]
    assert names(tmp_path / "c.txt") == ["c.txt"]
    assert names(str(tmp_path / "*.jpg")) == ["a.jpg"]
    assert names(str(tmp_path / "**" / "*.png")) == ["d.png"]


@pytest.mark.parametrize("source", ["nothing", "*.png", "."])
def test_no_image_is_an_error_that_lists_what_is_accepted(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"give a file, a folder or a pattern of \.avif"):
        find_images(source)


def test_a_jpeg_without_its_end_is_told_from_its_bytes(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    path = write_image(tmp_path / "a.jpg", image)
    assert not may_be_cut(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"some program wrote this behind it")
    assert not may_be_cut(path)
    path.write_bytes(whole[:-700])
    assert may_be_cut(path)
    assert not may_be_cut(write_image(tmp_path / "a.png", image))
    assert not may_be_cut(tmp_path / "gone.jpg")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (read_image, read_mask, image_size):
        with pytest.raises(DatasetError, match=r"a\.png: is no regular file"):
            read(tmp_path / "a.png")


# ---- any number of bands ---------------------------------------------------------------------------------------------

BANDS = RNG.integers(0, 256, (20, 30, 6), dtype=np.uint8)


def test_three_bands_are_what_read_image_gives(tmp_path):
    for array in (COLOR, GRAY, np.dstack([COLOR, GRAY])):
        path = save(tmp_path / "a.png", array)
        np.testing.assert_array_equal(read_bands(path, 3), read_image(path))


def test_one_band_is_gray_and_gray_keeps_its_numbers(tmp_path):
    np.testing.assert_array_equal(read_bands(save(tmp_path / "a.png", GRAY), 1)[..., 0], GRAY)
    wide = GRAY.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_bands(save(tmp_path / "b.png", wide), 1)[..., 0], GRAY)
    color = read_bands(save(tmp_path / "c.png", COLOR), 1)
    np.testing.assert_array_equal(color[..., 0], np.array(Image.fromarray(COLOR).convert("L")))
    assert color.shape == (20, 30, 1)
    for source in (Image.fromarray(COLOR), COLOR):
        np.testing.assert_array_equal(read_bands(source, 1), color)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_fourth_band_is_not_laid_on_white(tmp_path, suffix):
    array = np.dstack([COLOR, GRAY])
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", array, **options)
    np.testing.assert_array_equal(read_bands(path, 4), array)
    assert (read_bands(path, 3) != array[..., :3]).any()


def test_a_palette_with_a_transparent_color_has_four_bands(tmp_path):
    image = Image.fromarray(COLOR).quantize(8)
    image.save(tmp_path / "a.png", transparency=2)
    found = read_bands(tmp_path / "a.png", 4)
    np.testing.assert_array_equal(found[..., 3], np.where(np.array(image) == 2, 0, 255))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_many_bands_come_from_tiff_wherever_they_stand(tmp_path, planar, compression, dtype):
    values = {np.uint8: BANDS, np.uint16: BANDS.astype(np.uint16) * 257, np.float32: BANDS / np.float32(255)}[dtype]
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar, compression=compression)
    np.testing.assert_array_equal(read_bands(path, 6), BANDS)
    assert bands_size(path, 6) == (20, 30)
    np.testing.assert_array_equal(read_bands(Encoded("in a table", path.read_bytes()), 6), BANDS)


def test_a_fourth_band_beside_colors_is_found_where_pillow_hides_it(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, BANDS[..., :4], photometric="rgb", extrasamples=["unspecified"], planarconfig="contig")
    np.testing.assert_array_equal(read_bands(path, 4), BANDS[..., :4])
    np.testing.assert_array_equal(read_image(path), BANDS[..., :3])


def test_a_page_for_each_band_is_an_image_of_many(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", BANDS.transpose(2, 0, 1), photometric="minisblack")
    np.testing.assert_array_equal(read_bands(tmp_path / "a.tif", 6), BANDS)
    assert bands_size(tmp_path / "a.tif", 6) == (20, 30)


def test_arrays_have_as_many_bands_as_are_wanted():
    np.testing.assert_array_equal(read_bands(BANDS, 6), BANDS)
    np.testing.assert_array_equal(read_bands(BANDS.astype(np.uint16) * 257, 6), BANDS)
    with pytest.raises(ValueError, match=r"give \(H, W, 5\), the bands that the model wants"):
        read_bands(BANDS, 5)


def test_people_see_the_first_three_bands_or_the_first():
    np.testing.assert_array_equal(visible(BANDS), BANDS[..., :3])
    np.testing.assert_array_equal(visible(BANDS[..., :2]), BANDS[..., [0, 0, 0]])


def write_tiff(path, array, **options) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "planarconfig": "contig"} | options)
    return path


def unpacked_without_end(path: Path) -> None:
    """A strip of deflate that unpacks to a hundred megabytes, for an image of 3,600 bytes."""
    strips = iter([zlib.compress(bytes(100_000_000), 9)])
    options = {"shape": BANDS.shape, "dtype": np.uint8, "compression": "zlib", "rowsperstrip": 20}
    write_tiff(path, strips, **options)


@pytest.mark.parametrize(
    ("make", "channels", "message"),
    [
        (lambda p: save(p.with_suffix(".png"), COLOR), 4, r"a\.png: has 3 bands \(mode RGB\), and in_channels=4"),
        (lambda p: save(p.with_suffix(".png"), GRAY), 2, r"has 1 band \(mode L\), and in_channels=2"),
        (lambda p: write_tiff(p, BANDS), 5, r"a\.tif: has the shape 20 x 30 x 6, and in_channels=5"),
        (lambda p: write_tiff(p, BANDS), 3, r"give the number of bands, in_channels= \(--in-channels\)"),
        (lambda p: write_tiff(p, BANDS.astype(np.int32)), 6, "numbers of type int32, of unknown range"),
        (
            lambda p: write_tiff(p, BANDS.astype(np.float32)),
            6,
            r"beyond 0\.\.1; say which are black",
        ),
        (lambda p: write_tiff(p, np.full(BANDS.shape, np.nan, np.float32)), 6, r"beyond 0\.\.1"),
        (lambda p: write_tiff(p, BANDS, extratags=[(274, 3, 1, 6, True)]), 6, "save it upright"),
        (unpacked_without_end, 6, "a strip unpacks to more than the 3600 bytes"),
        (lambda p: p.write_bytes(write_tiff(p, BANDS).read_bytes()[:300]), 6, "damaged"),
        (lambda p: p.write_bytes(b"II*\0" + bytes(40)), 6, "damaged"),
    ],
)
def test_bands_that_cannot_be_read_say_what_to_do(tmp_path, make, channels, message):
    made = make(tmp_path / "a.tif")
    path = made if isinstance(made, Path) else tmp_path / "a.tif"
    with pytest.raises(DatasetError, match=message):
        read_bands(path, channels)


def test_a_large_tiff_is_refused_before_it_is_decoded(tmp_path):
    path = write_tiff(tmp_path / "a.tif", BANDS)
    with pytest.raises(DatasetError, match="at most 100 pixels"):
        read_bands(path, 6, max_pixels=100)


def test_without_tifffile_the_extra_is_named(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", BANDS)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"pip install 'fullyconv\[tiff\]'"):
        read_bands(path, 6)


def test_colors_of_a_mask_are_those_stored_whatever_their_alpha(tmp_path):
    rgba = np.zeros((4, 5, 4), np.uint8)
    rgba[..., :3] = (10, 20, 30)
    assert (read_colors(save(tmp_path / "a.png", rgba)) == (10, 20, 30)).all()
    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize(
    ("suffix", "options", "kind"),
    [
        (".jpg", {}, "JPEG"),
        (".webp", {}, "lossy WebP"),
        (".webp", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}, "lossy WebP"),
        (".webp", {"lossless": True}, ""),
        (".png", {}, ""),
    ],
)
def test_lossy_files_are_told_by_their_bytes(tmp_path, suffix, options, kind):
    path = save(tmp_path / f"a{suffix}", np.zeros((4, 5, 3), np.uint8), **options)
    assert lossy_format(path) == kind
    assert lossy_format(Encoded("a", path.read_bytes())) == kind


def test_an_empty_name_is_not_the_folder_where_one_stands() -> None:
    with pytest.raises(FileNotFoundError, match=r"give a name, or \. for this folder"):
        find_images("")

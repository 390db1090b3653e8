"""Masks in every encoding that people bring: read as they are meant, said aloud, or refused with the remedy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine, sheet
from fullyconv.data.folder import read_pair
from fullyconv.data.pairs import Pair
from fullyconv.data.sources import Source, open_source
from fullyconv.errors import DatasetError
from fullyconv.images import mask_mode, read_mask, write_image
from fullyconv.palettes import voc_palette
from fullyconv.training.module import SegmentationModule

SIZE = (24, 30)
LABEL = np.zeros(SIZE, np.uint8)
LABEL[4:12, 3:20] = 1
LABEL[12:, 15:] = 2


def tree(root: Path, *masks: Any, suffix: str = ".png", mode: str | None = None, **options: Any) -> Path:
    """Write images and these masks."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(root / "images" / f"{number}.jpg")
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        if mode:
            image = image.convert(mode)
        image.save(root / "masks" / f"{number}{suffix}", **options)
    return root


def encoded(source: Source, number: int = 0) -> np.ndarray[Any, Any]:
    pair = source.splits["all"][number]
    return read_pair(pair, source.labels, source.reader)[1]


def colored(colors: list[tuple[int, int, int]], label: np.ndarray[Any, Any] = LABEL) -> np.ndarray[Any, Any]:
    return np.array(colors, np.uint8)[label]


COLORS = [(10, 20, 30), (255, 0, 0), (0, 128, 0)]


class TestColors:
    def test_every_color_is_a_class_named_after_it(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, colored(COLORS), colored(COLORS)))
        assert source.labels.names == ("#008000", "#0a141e", "#ff0000")
        assert source.labels.palette == ((0, 128, 0), (10, 20, 30), (255, 0, 0))
        assert (encoded(source) == np.array([1, 2, 0])[LABEL]).all()
        assert any("3 colors, each read as a class named after it" in note for note in source.notes)

    def test_colors_are_named_and_ignored_by_values(self, tmp_path: Path) -> None:
        values = {"#0A141E": "ground", "#ff0000": "box", "#008000": "ignore"}
        source = open_source(tree(tmp_path, colored(COLORS)), values=values)
        assert source.labels.names == ("ground", "box")
        assert (encoded(source) == np.array([0, 1, source.labels.ignore_index])[LABEL]).all()

    def test_the_color_map_of_pascal_voc_is_recognized(self, tmp_path: Path) -> None:
        voc = list(voc_palette(256))
        label = np.array([0, 7, 58])[LABEL]
        source = open_source(tree(tmp_path, colored(voc, label)))
        assert source.labels.names == ("class 0", "class 7", "class 58")
        assert source.labels.values == {0: "class 0", 7: "class 7", 58: "class 58", 255: "ignore"}
        assert (encoded(source) == LABEL).all()

    def test_antialiased_edges_are_snapped_and_counted(self, tmp_path: Path) -> None:
        big = Image.fromarray(colored(COLORS, LABEL.repeat(8, 0).repeat(8, 1)))
        small = [big.resize((SIZE[1] * 8 - 3 - n, SIZE[0] * 8 - 5), Image.Resampling.BICUBIC) for n in range(6)]
        masks = [image.crop((0, 0, SIZE[1] * 7, SIZE[0] * 7)) for image in small]
        root = tree(tmp_path, *masks)
        for path in (root / "images").iterdir():
            Image.new("RGB", masks[0].size).save(path)
        values = {"#0a141e": "ground", "#ff0000": "box", "#008000": "tree"}
        source = open_source(root, values=values)
        assert any("have none of the colors given (antialiased edges?)" in note for note in source.notes)
        found = encoded(source)
        assert set(np.unique(found)) <= {0, 1, 2, source.labels.ignore_index}
        assert (found[50:80, 60:100] == 1).all()

    def test_photographs_are_no_masks(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        with pytest.raises(DatasetError, match=r"hold \d+ colors .*too many to be classes .*values=\{\"#ff0000\""):
            open_source(tree(tmp_path, noise))

    def test_names_alone_do_not_say_which_color_is_which(self, tmp_path: Path) -> None:
        root = tree(tmp_path, colored(COLORS))
        (root / "classes.txt").write_text("a\nb\nc\n")
        with pytest.raises(DatasetError, match="which is which class is not known; give every color its class"):
            open_source(root)

    def test_a_color_of_a_later_mask_that_is_not_in_the_table_names_the_file(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, colored(COLORS)))
        Image.fromarray(colored([(1, 2, 3), *COLORS[1:]])).save(tmp_path / "masks" / "0.png")
        with pytest.raises(DatasetError, match=r"0\.png: holds the color #010203, which is none of the label map"):
            encoded(source)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"#ff0000": "a", 0: "b"}, "mixes numbers and colors"),
            ({"red": "a"}, "is no number and no color; write #rrggbb"),
            ({"#ff00": "a", "#000000": "b"}, "is no number and no color"),
            ("#ff0000", "give a mapping"),
        ],
    )
    def test_values_that_are_none_are_refused(self, tmp_path: Path, values: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_source(tree(tmp_path, colored(COLORS)), values=values)

    def test_numbers_may_be_written_as_text(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, LABEL), values={"0": "a", " 1 ": "b", "2": "ignore"})
        assert source.labels.names == ("a", "b")

    def test_colors_beside_numbers_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="masks of one set are of one kind"):
            open_source(tree(tmp_path, colored(COLORS), LABEL))

    def test_black_and_white_in_three_channels_are_gray_levels(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, (LABEL > 0).astype(np.uint8) * 255, mode="RGB"))
        assert source.labels.values == {0: "background", 255: "foreground"}
        assert (encoded(source) == (LABEL > 0)).all()

    def test_reports_print_colors_and_no_numbers(self, tmp_path: Path) -> None:
        values = {"#0a141e": "ground", "#ff0000": "box", "#008000": "ignore"}
        root = tree(tmp_path, colored(COLORS), colored(COLORS), colored(COLORS))
        source = open_source(root, values=values)
        assert source.labels.describe_values() == "{#008000=ignore, #0a141e=ground, #ff0000=box, other=ignore}"
        diagnosis = examine(root, values=values)
        assert "values in the masks: {#008000=ignore, #0a141e=ground, #ff0000=box, other=ignore}" in diagnosis.text()
        assert diagnosis.pixels["box"] == 3 * int((LABEL == 1).sum())
        sheet(diagnosis)

    def test_colors_like_none_have_the_class_that_is_given_to_others(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, colored(COLORS)), values={"#ff0000": "box", "other": "rest"})
        assert source.labels.names == ("box", "rest")
        assert (encoded(source) == np.array([1, 0, 1])[LABEL]).all()
        assert any("as rest" in note for note in source.notes)

    def test_a_module_keeps_colors_as_values(self, tmp_path: Path) -> None:
        values: dict[int | str, str] = {"#0a141e": "ground", "#ff0000": "box", "#008000": "ignore"}
        labels = open_source(tree(tmp_path / "set", colored(COLORS)), values=values).labels
        module = SegmentationModule("fcn32s_resnet18_quarter", classes=labels)
        module.save_pretrained(tmp_path / "model")
        assert SegmentationModule.from_pretrained(tmp_path / "model").labels == labels
        grown = module.expand_classes(["tree"]).labels
        assert grown.by_color
        assert set(grown.values) - set(labels.values) == {"#{:02x}{:02x}{:02x}".format(*grown.palette[2])}


class TestNumbers:
    def test_a_palette_gives_indices_and_no_colors(self, tmp_path: Path) -> None:
        image = Image.fromarray(LABEL)
        image.putpalette([channel for color in [*COLORS, *voc_palette(253)] for channel in color])
        source = open_source(tree(tmp_path, image))
        assert (encoded(source) == LABEL).all()
        assert mask_mode(tmp_path / "masks" / "0.png") == "P"

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
    def test_an_index_stays_an_index_in_every_format(self, tmp_path: Path, suffix: str) -> None:
        assert (encoded(open_source(tree(tmp_path, LABEL, suffix=suffix))) == LABEL).all()

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_sixteen_bits_hold_large_values(self, tmp_path: Path, suffix: str) -> None:
        source = open_source(
            tree(tmp_path, LABEL.astype(np.uint16) * 1000, suffix=suffix), values={0: "a", 1000: "b", 2000: "ignore"}
        )
        assert (encoded(source) == np.array([0, 1, 255])[LABEL]).all()

    def test_one_bit_is_two_classes(self, tmp_path: Path) -> None:
        source = open_source(tree(tmp_path, (LABEL > 0).astype(np.uint8) * 255, mode="1"))
        assert source.labels.names == ("class 0", "class 1")
        assert (encoded(source) == (LABEL > 0)).all()

    def test_one_bit_beside_0_and_255_means_255(self, tmp_path: Path) -> None:
        binary = Image.fromarray((LABEL > 0).astype(np.uint8) * 255)
        source = open_source(tree(tmp_path, binary, binary.convert("1"), binary.convert("RGB")))
        assert source.labels.values == {0: "background", 255: "foreground"}
        assert all((encoded(source, number) == (LABEL > 0)).all() for number in range(3))
        assert any("a set pixel is read as 255" in note for note in source.notes)

    def test_soft_edges_are_cut_in_the_middle_and_said(self, tmp_path: Path) -> None:
        height, width = 96, 120
        mask = np.zeros((height, width), np.uint8)
        mask[30:80, 20:100] = 255
        mask[29, 20:100] = np.arange(80) * 3 + 8
        root = tree(tmp_path, mask)
        Image.new("RGB", (width, height)).save(root / "images" / "0.jpg")
        source = open_source(root)
        assert source.labels.values == {0: "background", 255: "foreground"}
        assert (encoded(source) == (mask >= 128)).all()
        assert any("soft edges" in note and "cut at 128" in note for note in source.notes)
        named = open_source(root, values={0: "steel", 255: "hole"})
        assert named.labels.names == ("steel", "hole")
        assert (encoded(named) == (mask >= 128)).all()
        ignored = open_source(root, values={0: "steel", 255: "ignore"})  # half an edge would become steel unseen
        assert not any("cut at" in note for note in ignored.notes)
        three = open_source(root, values={0: "steel", 128: "edge", 255: "hole"})  # levels in between have a meaning
        assert not any("cut at" in note for note in three.notes)

    def test_gray_levels_that_mean_nothing_are_refused(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
        with pytest.raises(DatasetError, match="do not look like class indices"):
            open_source(tree(tmp_path, noise))

    def test_255_is_a_class_where_the_label_map_says_so(self, tmp_path: Path) -> None:
        levels = np.array([0, 96, 255], np.uint8)[LABEL]
        source = open_source(tree(tmp_path, levels), values={0: "a", 96: "b", 255: "c"})
        assert (encoded(source) == LABEL).all()

    def test_a_jpeg_is_refused_unless_its_values_are_given(self, tmp_path: Path) -> None:
        root = tree(tmp_path, (LABEL > 0).astype(np.uint8) * 255, suffix=".jpg", quality=60)
        with pytest.raises(DatasetError, match=r"a JPEG mask; lossy compression .*or give the values that are meant"):
            open_source(root)
        source = open_source(root, values={0: "a", 255: "b"})
        assert (encoded(source) == (LABEL > 0)).mean() > 0.98
        assert any("are JPEG, which changes values near borders: snapped" in note for note in source.notes)

    def test_a_mask_of_several_images_is_refused(self, tmp_path: Path) -> None:
        image = Image.fromarray(LABEL)
        root = tree(tmp_path, image, suffix=".tif", save_all=True, append_images=[image])
        with pytest.raises(DatasetError, match="holds 2 images; a mask is one"):
            open_source(root)


class TestOtherFiles:
    def test_matlab_files_of_berkeley_and_others(self, tmp_path: Path) -> None:
        root = tree(tmp_path, LABEL, LABEL, LABEL)
        for path in (root / "masks").iterdir():
            path.unlink()
        struct = {"Segmentation": LABEL + 1, "Boundaries": LABEL}
        scipy.io.savemat(root / "masks" / "0.mat", {"groundTruth": np.array([[struct]], dtype=object)})
        scipy.io.savemat(root / "masks" / "1.mat", {"GTcls": {"Segmentation": LABEL + 1, "Boundaries": 1}})
        scipy.io.savemat(root / "masks" / "2.mat", {"labels": (LABEL + 1).astype(float)})
        source = open_source(root)
        assert source.labels.names == ("class 1", "class 2", "class 3")
        assert all((encoded(source, number) == LABEL).all() for number in range(3))

    @pytest.mark.parametrize(
        "content", [{"a": LABEL, "b": LABEL}, {"a": "text"}, {"a": LABEL + 0.5}, {"a": LABEL - 1.0}]
    )
    def test_a_matlab_file_without_one_label_matrix_is_refused(self, tmp_path: Path, content: Any) -> None:
        root = tree(tmp_path, LABEL)
        (root / "masks" / "0.png").unlink()
        scipy.io.savemat(root / "masks" / "0.mat", content)
        with pytest.raises(DatasetError, match=r"0\.mat: holds \d label matrices"):
            open_source(root)

    @pytest.mark.parametrize("data", [b"", b"MATLAB 5.0 MAT-file", b"\x89HDF\r\n\x1a\n"])
    def test_a_damaged_matlab_file_is_refused(self, tmp_path: Path, data: bytes) -> None:
        root = tree(tmp_path, LABEL)
        (root / "masks" / "0.png").unlink()
        (root / "masks" / "0.mat").write_bytes(data)
        with pytest.raises(DatasetError, match=r"0\.mat: (cannot be read as a MATLAB file|holds 0 label)"):
            open_source(root)

    def seg(self, body: str, head: str = f"width {SIZE[1]}\nheight {SIZE[0]}\nsegments 2\n") -> str:
        return f"format ascii cr\n{head}data\n{body}"

    def test_the_run_lengths_of_berkeley(self, tmp_path: Path) -> None:
        root = tree(tmp_path, LABEL)
        (root / "masks" / "0.png").unlink()
        rows = [f"{int(row >= 5)} {row} 0 {SIZE[1] - 1}" for row in range(SIZE[0])]
        (root / "masks" / "0.seg").write_text(self.seg("\n".join(rows)))
        assert (encoded(open_source(root))[:, 0] == (np.arange(SIZE[0]) >= 5)).all()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is no segmentation file of BSDS"),
            ("width 3\nheight 3\ndata\n0 0 0 9\n", "lies outside of 3 x 3"),
            ("width 3\nheight 3\ndata\n0 0 0 2\n", "do not cover all of 3 x 3"),
            ("width 3\nheight 3\ndata\n0 0 0\n", "is no segmentation file"),
            ("width 99999999\nheight 99999999\ndata\n", "is no segmentation file"),
            ("width x\nheight 3\ndata\n", "is no segmentation file"),
            ("width 3\nheight 3\ndata\n-1 0 0 2\n", "lies outside"),
        ],
    )
    def test_run_lengths_gone_wrong_are_refused(self, tmp_path: Path, text: str, message: str) -> None:
        root = tree(tmp_path, LABEL)
        (root / "masks" / "0.png").unlink()
        (root / "masks" / "0.seg").write_text(text)
        with pytest.raises(DatasetError, match=rf"0\.seg: .*{message}"):
            open_source(root)


def test_a_reader_travels_to_worker_processes(tmp_path: Path) -> None:
    source = open_source(tree(tmp_path, colored(COLORS)))
    reader = pickle.loads(pickle.dumps(source.reader))
    pair: Pair = source.splits["all"][0]
    assert (reader.mask(pair) == source.reader.mask(pair)).all()


def test_numbers_for_masks_that_hold_colors_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
        mask = np.zeros((8, 8, 3), np.uint8)
        mask[:4] = (10, 200, 30)
        write_image(tmp_path / "masks" / f"{name}.png", mask)
    with pytest.raises(DatasetError, match=r"hold 2 colors .* which is which class is not known; give every color"):
        SegmentationDataModule(str(tmp_path), values={0: "soil", 1: "leaf"})


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_masks_with_alpha_hold_what_is_stored(tmp_path: Path, mode: str) -> None:
    alpha = Image.fromarray(np.where(LABEL == 0, 0, 255).astype(np.uint8))
    mask = Image.fromarray(LABEL).convert(mode)
    mask.putalpha(alpha)
    source = open_source(tree(tmp_path, mask))
    assert (encoded(source) == LABEL).all()


def test_a_transparent_color_is_the_color_that_is_stored(tmp_path: Path) -> None:
    root = tree(tmp_path, colored([(1, 2, 3), *COLORS[1:]]), transparency=(1, 2, 3))
    source = open_source(root, values={"#010203": "ground", "#ff0000": "box", "#008000": "tree"})
    assert (encoded(source) == LABEL).all()


def test_lossy_webp_is_treated_as_jpeg_is_and_lossless_is_read(tmp_path: Path) -> None:
    levels = np.array([0, 90, 200], np.uint8)[LABEL]
    lossy = tree(tmp_path / "a", levels, suffix=".webp", quality=80)
    with pytest.raises(DatasetError, match=r"a lossy WebP mask; lossy compression .*or give the values that are meant"):
        open_source(lossy)
    source = open_source(lossy, values={0: "a", 90: "b", 200: "c"})
    assert (encoded(source) == LABEL).mean() > 0.9
    assert any("masks are lossy WebP, which changes values near borders" in note for note in source.notes)
    assert (encoded(open_source(tree(tmp_path / "b", LABEL, suffix=".webp", lossless=True))) == LABEL).all()


def test_names_alone_do_not_say_what_one_bit_is_beside_0_and_255(tmp_path: Path) -> None:
    inside = LABEL == 1
    root = tree(tmp_path, Image.fromarray(inside), np.where(inside, 255, 0).astype(np.uint8))
    (root / "classes.txt").write_text("ground\nbox\n")
    with pytest.raises(DatasetError, match=r"0\.png holds 0, 1, .*1\.png 0 and 255, .*values=\{0:"):
        SegmentationDataModule(root).check()
    source = open_source(root, values={0: "ground", 255: "box"})
    assert (encoded(source, 0) == inside).all()
    assert (encoded(source, 1) == inside).all()


@pytest.mark.parametrize("content", [{"m": None}, {"groundTruth": {"Segmentation": None}}])
def test_matlab_masks_are_bounded_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    monkeypatch.setattr("fullyconv.data.matlab.MAX_PIXELS", 2000)
    for name in ("loaded", "refused"):
        size = SIZE if name == "loaded" else (6000, 8000)
        mask = np.zeros(size, np.uint8)
        mask[0] = 1
        root = tree(tmp_path / name, LABEL)
        (root / "masks" / "0.png").unlink()
        full = {key: {"Segmentation": mask} if value else mask for key, value in content.items()}
        scipy.io.savemat(root / "masks" / "0.mat", full, do_compression=True)
    assert encoded(open_source(tmp_path / "loaded")).shape == SIZE
    with pytest.raises(DatasetError, match=r"0\.mat: .*too large .*the bound is 2000"):
        open_source(tmp_path / "refused")


def test_bsds_masks_are_bounded(tmp_path: Path) -> None:
    root = tree(tmp_path, LABEL)
    (root / "masks" / "0.png").unlink()
    (root / "masks" / "0.seg").write_text("format ascii cr\nwidth 12000\nheight 12000\ndata\n0 0 0 11999\n")
    with pytest.raises(DatasetError, match="12000 x 12000 pixels"):
        open_source(root)


def test_a_color_that_is_opaque_and_transparent_is_refused(tmp_path: Path) -> None:
    mask = np.dstack([colored(COLORS), np.where(LABEL == 1, 0, 255).astype(np.uint8)])
    assert (encoded(open_source(tree(tmp_path / "a", mask))) != 255).all()
    mask[0, :3] = (*COLORS[0], 0)
    with pytest.raises(DatasetError, match=r"0\.png: the color #0a141e is there opaque and transparent"):
        open_source(tree(tmp_path / "b", mask))


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_a_tiff_of_several_gray_bands_is_no_mask(bands: int, tmp_path: Path) -> None:
    layers = np.stack([value == LABEL for value in range(bands)], axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", layers, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DatasetError, match=f"a mask has one channel, this has {bands}, one a class"):
        read_mask(tmp_path / "mask.tif")


def test_many_rare_colors_in_a_few_masks_are_no_classes(tmp_path: Path) -> None:
    soft = colored(COLORS)
    soft[0, :12, 0] = np.arange(60, 84, 2)
    masks = [colored(COLORS) for _ in range(8)]
    assert open_source(tree(tmp_path / "a", *masks)).labels.num_classes == 3
    with pytest.raises(DatasetError, match=r"hold 15 colors .*too many to be classes \(antialiased edges\?\)"):
        open_source(tree(tmp_path / "b", *masks, soft))

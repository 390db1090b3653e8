"""Folders as people lay them out: found, or refused with the candidates and the option to give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine
from fullyconv.data.layouts import Source, find_layout
from fullyconv.data.pairs import pair_files
from fullyconv.data.sources import open_source
from fullyconv.errors import DatasetError


def put(root: Path, *names: str) -> Path:
    """Write images: a gray one for a mask name that ends in .png below a folder of masks would do as well."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.zeros((8, 10), np.uint8)
        image[2:] = 1
        Image.fromarray(image).save(path)
    return root


def keys(root: Path, **options: Any) -> dict[str, list[str]]:
    return {split: [pair.key for pair in pairs] for split, pairs in find_layout(root, **options).splits.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("img/a.jpg", "img/b.jpg", "labels/a.png", "labels/b.png"), {"all": ["a", "b"]}),
        (("Photos/a.jpg", "Annotations/a.png"), {"all": ["a"]}),
        (("train/image/0.png", "train/label/0.png", "test/1.png"), {"train": ["0"]}),
        (
            ("images/training/1.jpg", "annotations/training/1.png", "images/test/2.jpg", "annotations/test/2.png"),
            {"train": ["1"], "test": ["2"]},
        ),
        (
            ("Train_RGB/1.bmp", "Train_Labels/1.bmp", "Val_RGB/2.bmp", "Val_Labels/2.bmp"),
            {"train": ["1"], "val": ["2"]},
        ),
        (("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"), {"all": ["a"]}),
        (("one/Imgs/a.jpg", "one/Imgs/a.png", "two/Imgs/b.jpg", "two/Imgs/b.png"), {"all": ["one/a", "two/b"]}),
        (("x/raw/berlin/a.png", "x/gt/berlin/a.png"), {"all": ["x/berlin/a"]}),
        (("images/001_image.png", "images/002_image.png", "masks/001_mask.png", "masks/002_mask.png"), None),
    ],
)
def test_a_layout_is_found_by_the_names_of_its_folders(
    tmp_path: Path, names: tuple[str, ...], expected: dict[str, list[str]] | None
) -> None:
    put(tmp_path, *names)
    assert keys(tmp_path) == (expected or {"all": ["001_image", "002_image"]})


@pytest.mark.parametrize(
    ("names", "candidates"),
    [
        (("images/a.png", "masks/a.png", "annotations/a.png"), ("annotations/", "masks/")),
        (
            ("raw/a.png", "raw/b.png", "labels/a.png", "labels/b.png", "cells/a.png", "cells/b.png"),
            ("cells/", "labels/"),
        ),
        (("image/1.jpg", "groundTruth/1.png", "seg/1.png"), ("groundTruth/", "seg/")),
    ],
)
def test_where_two_folders_could_be_the_masks_nothing_is_guessed(
    tmp_path: Path, names: tuple[str, ...], candidates: tuple[str, ...]
) -> None:
    put(tmp_path, *names)
    with pytest.raises(DatasetError, match=r"could be .*; say which: images=FOLDER and masks=FOLDER") as caught:
        open_source(tmp_path)
    assert all(candidate in str(caught.value) for candidate in candidates)
    assert len(open_source(tmp_path, masks=candidates[0]).splits["all"]) >= 1


def test_names_that_say_nothing_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "case1/photo_a/1.png", "case1/lesion/1.png")
    (tmp_path / "case1" / "photo_a").rename(tmp_path / "case1" / "skin")
    with pytest.raises(DatasetError, match=r"(?s)no layout that is understood.*masks=FOLDER"):
        open_source(tmp_path)
    assert keys(tmp_path, images="*/skin/*", masks="*/lesion/*") == {"all": ["case1/skin/1"]}


class TestNames:
    def test_exact_names_come_first(self, tmp_path: Path) -> None:
        images = [tmp_path / f"{name}.jpg" for name in ("a_1", "a_2")]
        masks = [tmp_path / f"{name}.png" for name in ("a_1", "a_2")]
        source = Source()
        assert len(pair_files(source, images, masks, ("i", "m"))) == 2
        assert source.notes == []

    @pytest.mark.parametrize(
        ("images", "masks"),
        [
            (("001_image", "002_image"), ("001_mask", "002_mask")),
            (("20_training", "28_training"), ("20_manual1", "28_manual1")),
            (("00", "04", "12"), ("labels00000000", "labels00000004", "labels00000012")),
            (("IMD002", "IMD035"), ("IMD002_lesion", "IMD035_lesion")),
            (("frame1", "frame10"), ("1", "10")),
        ],
    )
    def test_what_all_names_share_is_taken_off_and_numbers_are_compared_as_such(
        self, tmp_path: Path, images: tuple[str, ...], masks: tuple[str, ...]
    ) -> None:
        source = Source()
        left, right = [tmp_path / f"{name}.jpg" for name in images], [tmp_path / f"{name}.png" for name in masks]
        found = {pair.image.stem: pair.mask.stem for pair in pair_files(source, left, right, ("i", "m"))}
        assert found == dict(zip(images, masks, strict=True))
        assert source.notes[0].startswith("paired by the part of the names that differs")

    def test_digits_are_never_cut_in_two(self, tmp_path: Path) -> None:
        images, masks = ([tmp_path / f"{name}.png" for name in names] for names in (("im10", "im11"), ("m20", "m21")))
        source = Source()
        assert not pair_files(source, images, masks, ("i", "m"))
        assert "no mask of the same name" in source.lost[0].message

    def test_images_without_a_mask_are_an_error_or_left_out_on_demand(self, tmp_path: Path) -> None:
        put(tmp_path, "images/a.png", "images/b.png", "masks/a.png")
        with pytest.raises(DatasetError, match=r"b\.png: no mask of the same name"):
            open_source(tmp_path)
        source = open_source(tmp_path, unlabeled="skip")
        assert [pair.key for pair in source.splits["all"]] == ["a"]
        assert any("1 images without a mask are left out" in note for note in source.notes)

    def test_a_mask_without_an_image_is_an_error(self, tmp_path: Path) -> None:
        put(tmp_path, "img/a.png", "seg/a.png", "seg/b.png")
        with pytest.raises(DatasetError, match=r"b\.png: no image of the same name"):
            open_source(tmp_path)


class TestLists:
    def voc(self, root: Path, **lists: str) -> Path:
        names = [f"{folder}/{name}" for name in "abcd" for folder in ("JPEGImages", "SegmentationClass")]
        put(root, *(f"{name}.{'jpg' if 'JPEG' in name else 'png'}" for name in names))
        folder = root / "ImageSets" / "Segmentation"
        folder.mkdir(parents=True)
        for split, text in lists.items():
            (folder / f"{split}.txt").write_text(text)
        return root

    def test_lists_of_names_are_the_splits(self, tmp_path: Path) -> None:
        source = open_source(self.voc(tmp_path, train="a\nb\n", val="c\n"))
        assert {split: [pair.key for pair in pairs] for split, pairs in source.splits.items()} == {
            "train": ["a", "b"],
            "val": ["c"],
        }
        assert any("1 pairs are in no list and left out" in note for note in source.notes)

    def test_what_is_scored_is_not_trained_on_even_where_the_lists_say_so(self, tmp_path: Path) -> None:
        source = open_source(self.voc(tmp_path, train="a\nb\nc\n", val="c\n", test="d\nb\n"))
        assert {split: [pair.key for pair in pairs] for split, pairs in source.splits.items()} == {
            "train": ["a"],
            "val": ["c"],
            "test": ["d", "b"],
        }
        assert any("2 of train.txt are in another list as well" in note for note in source.notes)

    def test_stale_names_are_told(self, tmp_path: Path) -> None:
        source = open_source(self.voc(tmp_path, train="a\n/old/place/b.jpg /old/place/b.png\nzzz\n", val="c\n"))
        assert [pair.key for pair in source.splits["train"]] == ["a", "b"]
        assert any("train.txt names 1 of 3 that are not there (zzz ...)" in note for note in source.notes)

    def plain(self, root: Path, *names: str, **lists: str) -> Path:
        put(root, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in names))
        for split, text in lists.items():
            (root / f"{split}.txt").write_text(text)
        return root

    def test_without_a_list_for_validation_the_test_images_are_not_trained_on(self, tmp_path: Path) -> None:
        root = self.plain(tmp_path, *"abcdef", train="a\nb\nc\nd\n", test="e\nf\n")
        assert keys(root) == {"train": ["a", "b", "c", "d"], "test": ["e", "f"]}
        splits = SegmentationDataModule(str(root)).splits
        assert [pair.key for pair in splits["test"]] == ["e", "f"]
        assert {pair.key for split in ("train", "val") for pair in splits[split]} == set("abcd")

    @pytest.mark.parametrize(
        ("names", "train", "val"),
        [
            (("my photo 0", "my photo 1"), "my photo 0", "images/my photo 1.png"),
            (("frame.003", "frame.004"), "frame.003", "frame.004.png"),
            (("a b", "a c"), "/old/my place/a b.jpg", "/old/my place/a c.jpg"),
            (("x/a", "y/a"), "x/a.png", "images\\y\\a"),
            (("y/a", "x/a"), "y/a", "/old/images/x/a.png masks/x/a.png"),
        ],
    )
    def test_a_line_is_a_path_a_name_or_several_words(
        self, tmp_path: Path, names: tuple[str, str], train: str, val: str
    ) -> None:
        root = self.plain(tmp_path, *names, train=train, val=val)
        splits = open_source(root).splits
        assert {split: [pair.key for pair in pairs] for split, pairs in splits.items()} == {
            "train": [names[0]],
            "val": [names[1]],
        }

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            ({"train": "x0", "val": "x1"}, r"val\.txt: none of its 1 names .*'x1' .*correct the names, or remove or"),
            ({"train": "b", "val": "x1"}, r"val\.txt: none of its 1 names .*'x1'"),
            ({"train": "b", "val": "\na"}, r"val\.txt: line 2: 'a' could be .*x/a\.png, .*y/a\.png; write the path"),
            ({"train": "b", "val": "z/a.png"}, r"val\.txt: line 1: 'z/a\.png' could be "),
            ({"train": "b", "test": "b"}, r"train\.txt: all its images are in another list as well"),
        ],
    )
    def test_lists_that_do_not_fit_are_refused_and_not_replaced(
        self, tmp_path: Path, lists: dict[str, str], message: str
    ) -> None:
        root = self.plain(tmp_path, "x/a", "y/a", "b", **lists)
        with pytest.raises(DatasetError, match=message):
            open_source(root)

    def test_lists_that_do_not_fit_are_told_where_that_is_asked_for(self, tmp_path: Path) -> None:
        root = self.plain(tmp_path, *"abc", train="x0", val="x1")
        for options in ({}, {"images": "images", "masks": "masks"}):
            layout = find_layout(root, **options)
            assert len(layout.splits["all"]) == 3
            assert [(one.rule, Path(one.files[0]).name) for one in layout.findings] == [
                ("lists that do not fit", "val.txt")
            ]

    def test_a_list_of_images_without_masks_is_told(self, tmp_path: Path) -> None:
        root = put(self.plain(tmp_path, *"abc", train="a\nb", val="c", test="d"), "images/d.png")
        source = open_source(root, unlabeled="skip")
        assert set(source.splits) == {"train", "val"}
        assert any("test.txt names 1 of 1 that are not there" in note for note in source.notes)


class TestListsOfOnesOwn:
    """Lists that lie outside the data folder and are given by their folder."""

    def published(self, root: Path, **lists: str) -> tuple[Path, str]:
        names = ("train/{}/a", "train/{}/b", "train/{}/c", "test/{}/d", "test/{}/e")
        put(root / "set", *(f"{name.format(kind)}.png" for kind in ("images", "masks") for name in names))
        for split, text in lists.items():
            (root / f"{split}.txt").write_text(text)
        return root / "set", str(root)

    def test_they_take_the_place_of_the_splits_of_the_data(self, tmp_path: Path) -> None:
        root, lists = self.published(tmp_path, train="test/images/d\na\n", val="b\n", test="c.png\n")
        data = SegmentationDataModule(str(root), lists=lists, val_fraction=0.5, test_fraction=0.5)
        assert {split: [pair.key for pair in pairs] for split, pairs in data.splits.items()} == {
            "train": ["d", "a"],
            "val": ["b"],
            "test": ["c"],
        }
        assert f"splits from {lists}/*.txt; 1 pairs are in no list and left out" in data.report

    def test_what_they_leave_open_is_set_aside_from_train_alone(self, tmp_path: Path) -> None:
        root, lists = self.published(tmp_path, train="a\nb\nd\n", test="e\n")
        splits = SegmentationDataModule(str(root), lists=lists).splits
        assert {pair.key for split in ("train", "val") for pair in splits[split]} == {"a", "b", "d"}
        assert [pair.key for pair in splits["test"]] == ["e"]

    def test_lists_that_do_not_fit_are_refused_or_told(self, tmp_path: Path) -> None:
        root, lists = self.published(tmp_path, train="a\n", val="x\n")
        with pytest.raises(DatasetError, match=r"val\.txt: none of its 1 names"):
            open_source(root, lists=lists)
        rules = [finding.rule for finding in examine(root, lists=lists).findings if finding.severity == "error"]
        assert "lists that do not fit" in rules

    def test_a_set_known_by_its_files_takes_them_too(self, tmp_path: Path) -> None:
        put(
            tmp_path / "camvid",
            *(f"{folder}/0001TP_{number}.png" for folder in ("train", "trainannot") for number in "123"),
        )
        (tmp_path / "train.txt").write_text("0001TP_2\n")
        (tmp_path / "test.txt").write_text("0001TP_3\n")
        source = open_source(tmp_path / "camvid", lists=str(tmp_path))
        assert {split: [pair.key for pair in pairs] for split, pairs in source.splits.items()} == {
            "train": ["0001TP_2"],
            "test": ["0001TP_3"],
        }
        assert source.labels.names[0] == "sky"


class TestTables:
    def tree(self, root: Path) -> Path:
        return put(root, "a.png", "b.png", "ma.png", "mb.png")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("pairs.csv", "image,mask,split\na.png,ma.png,train\nb.png,mb.png,validation\n"),
            ("pairs.tsv", "\ufeffmask\timage\tsplit\nma.png\ta.png\ttrain\nmb.png\tb.png\tval\n"),
            (
                "pairs.jsonl",
                json.dumps({"image": "a.png", "mask": "ma.png", "split": "train"})
                + "\n\n"
                + json.dumps({"image": "b.png", "mask": "mb.png", "split": "val"}),
            ),
        ],
    )
    def test_a_table_names_pairs_and_splits(self, tmp_path: Path, name: str, text: str) -> None:
        (self.tree(tmp_path) / name).write_text(text, encoding="utf-8")
        assert keys(tmp_path, pairs=name) == {"train": ["a"], "val": ["b"]}

    def test_a_table_is_found_from_the_working_directory_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.tree(tmp_path / "odd")
        (tmp_path / "odd" / "pairs.csv").write_text("image,mask\na.png,ma.png\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        assert keys(Path("odd"), pairs="odd/pairs.csv") == {"all": ["a"]}

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "p.csv",
                "picture,mask\na.png,ma.png\n",
                r"line 2 has no image; every line has the columns image and",
            ),
            ("p.csv", "", "no pairs in it; write the columns image and mask"),
            ("p.csv", "image,mask\n", "no pairs in it"),
            ("p.csv", "image,mask\na.png,\n", "line 2 has no mask"),
            ("p.csv", "image,mask\na.png,gone.png\n", r"line 2: .*gone\.png: no such file"),
            ("p.csv", "image,mask\n../../etc/passwd,ma.png\n", "line 2: .* leads out of"),
            ("p.csv", "image,mask\n/etc/passwd,ma.png\n", "line 2: .* leads out of"),
            ("p.csv", "image,mask,split\na.png,ma.png,holdout\n", "split='holdout'; choose train, val or test"),
            (
                "p.csv",
                "image,mask,split\na.png,ma.png,train\nb.png,mb.png,\n",
                "is of no split, and other pairs are of train",
            ),
            ("p.jsonl", "{no json", "line 1 is no JSON"),
            ("p.jsonl", "[1]", "line 1 is no JSON object"),
        ],
    )
    def test_a_table_gone_wrong_names_the_line(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        (self.tree(tmp_path) / name).write_text(text)
        with pytest.raises(DatasetError, match=message):
            open_source(tmp_path, pairs=name)

    def test_bytes_that_are_no_text_are_told(self, tmp_path: Path) -> None:
        (self.tree(tmp_path) / "p.csv").write_bytes(b"image,mask\n\xff\xfe\n")
        with pytest.raises(DatasetError, match=r"p\.csv: not UTF-8 text"):
            open_source(tmp_path, pairs="p.csv")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masks": "../elsewhere"}, ValueError, "is looked for inside the data folder"),
        ({"masks": "/etc"}, ValueError, "is looked for inside the data folder"),
        ({"masks": "nowhere"}, FileNotFoundError, "masks='nowhere': no such folder in .*; there are images, masks"),
        ({"masks": "*.tiff"}, DatasetError, "no images there"),
        ({"pairs": "nowhere.csv"}, FileNotFoundError, "pairs='nowhere.csv': no such file"),
        ({"lists": "nowhere"}, FileNotFoundError, r"lists='nowhere': no train\.txt with val\.txt or test\.txt in it"),
        ({"pairs": "p.csv", "masks": "masks"}, ValueError, "leave images and masks out"),
        ({"unlabeled": "drop"}, ValueError, 'choose "error" or "skip"'),
    ],
)
def test_options_that_lead_nowhere_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    put(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(error, match=message):
        open_source(tmp_path, **options)


def test_links_that_go_in_circles_hold_nobody(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "labels/a.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert keys(tmp_path) == {"all": ["a"]}


def test_what_is_hidden_is_no_image(tmp_path: Path) -> None:
    put(tmp_path, "img/a.png", "seg/a.png", "img/._b.png", "__MACOSX/img/a.png", ".cache/img/c.png")
    (tmp_path / "img" / "Thumbs.db").write_bytes(b"x")
    assert keys(tmp_path) == {"all": ["a"]}


# ---- real sets -------------------------------------------------------------------------------------------------------

PLAIN = {
    "clothes_voc": (147, 51),
    "em_membrane": (30, 2),
    "faces_fasseg": (5, 6),
    "magnetic_tile": (415, 2),
    "neu_seg": (992, 4),
    "pets128": (2400, 3),
    "sci_16bit": (50, 6),  # names with dots, which are no extensions
    "suim_test8": (8, 6),
    "camvid": (701, 11),
}
OPTIONS: dict[str, tuple[dict[str, Any], int, int]] = {
    "crackforest": ({"masks": "groundTruth", "unlabeled": "skip"}, 118, 4),
    "crop_weed": ({"masks": "annotations"}, 3, 3),
    "em_vnc": (
        {"masks": "stack1/labels", "values": {v: f"level {v}" for v in (0, 32, 64, 96, 128, 159, 191, 223, 255)}},
        5,
        9,
    ),
    "lesions_ph2": ({"images": "*/*_Dermoscopic_Image/*.bmp", "masks": "*/*_lesion/*.bmp"}, 3, 2),
    "retina_drive": ({"masks": "DRIVE/training/1st_manual"}, 8, 2),
    "voc2007_mini": ({"masks": "VOC2007/SegmentationClass"}, 48, 21),
}


@pytest.mark.data
@pytest.mark.parametrize("name", PLAIN)
def test_a_real_set_opens_by_its_folder_alone(data_root: Path, name: str) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"no {name} under FULLYCONV_DATA={data_root}")
    data = SegmentationDataModule(str(data_root / name))
    pairs, classes = PLAIN[name]
    assert sum(map(len, data.splits.values())) == pairs
    assert data.num_classes == classes
    for split in data.splits:
        sample = data.dataset(split)[0]
        assert set(sample["mask"].unique().tolist()) <= {*range(classes), data.ignore_index}
        assert sample["image"].shape[-2:] == sample["mask"].shape


@pytest.mark.data
@pytest.mark.parametrize("name", OPTIONS)
def test_a_real_set_in_doubt_is_refused_first_and_then_opens_with_two_options_at_most(
    data_root: Path, name: str
) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"no {name} under FULLYCONV_DATA={data_root}")
    with pytest.raises(DatasetError, match=r"images=FOLDER and masks=FOLDER \(--images, --masks"):
        open_source(data_root / name)
    options, pairs, classes = OPTIONS[name]
    assert len(options) <= 2
    data = SegmentationDataModule(str(data_root / name), **options)
    assert sum(map(len, data.splits.values())) == pairs
    assert data.num_classes == classes
    assert sum(data.check().values()) > 0


def test_lists_of_names_split_images_and_masks_of_the_plain_names_too(tmp_path: Path) -> None:
    put(tmp_path, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in "abcde"))
    (tmp_path / "train.txt").write_text("a\nb\n/old/place/c.jpg\n")
    (tmp_path / "val.txt").write_text("d\nzzz\n")
    data = SegmentationDataModule.from_folder(tmp_path)
    assert {split: [pair.key for pair in pairs] for split, pairs in data.splits.items()} == {
        "train": ["a", "b", "c"],
        "val": ["d"],
    }
    assert "1 pairs are in no list and left out; val.txt names 1 of 2 that are not there (zzz ...)" in data.report


def test_files_that_do_not_pair_are_told_instead_of_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/{name}.png" for name in "abcd"), *(f"masks/{name}.png" for name in "bcde"))
    put(tmp_path, "images/c.bmp")
    layout = find_layout(tmp_path)
    assert [pair.key for pair in layout.splits["all"]] == ["b", "d"]
    assert [(one.rule, [Path(name).name for name in one.files]) for one in layout.lost] == [
        ("files that share one name", ["c.bmp", "c.png"]),
        ("images without a mask", ["a.png"]),
        ("masks without an image", ["e.png"]),
    ]
    assert {one.severity for one in layout.findings} == {"error"}
    assert {one.severity for one in find_layout(tmp_path, skip_bad=True).findings} == {"warning"}
    with pytest.raises(DatasetError, match="share one name"):
        open_source(tmp_path)


def test_a_split_without_masks_does_not_mix_the_others(tmp_path: Path) -> None:
    put(tmp_path, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("train/a", "val/b")))
    put(tmp_path, "images/test/c.png")
    given: dict[str, Any] = {"images": "images", "masks": "masks"}
    with pytest.raises(DatasetError, match=r"c\.png: no mask of the same name in masks; .*skip"):
        open_source(tmp_path, **given)
    expected = {"train": ["a"], "val": ["b"]}
    assert keys(tmp_path, **given, unlabeled="skip") == expected
    notes = find_layout(tmp_path, **given, unlabeled="skip").notes
    assert "images: 1 images without a mask are left out" in notes
    assert keys(tmp_path, **given) == expected
    assert [(one.rule, [Path(name).name for name in one.files]) for one in find_layout(tmp_path, **given).lost] == [
        ("images without a mask", ["c.png"])
    ]
    put(tmp_path, "labels/a.png", "labels/b.png", "labels/c.png")  # the masks of every split in one folder
    assert keys(tmp_path, images="images", masks="labels") == {"all": ["a", "b", "c"]}


def test_names_that_macos_wrote_go_with_names_that_others_wrote(tmp_path: Path) -> None:
    put(tmp_path, "images/u\u0308.png", "images/b.png", "masks/\u00fc.png", "masks/b.png")
    assert len(open_source(tmp_path).splits["all"]) == 2
    put(tmp_path, "images/IMG_1.png", "masks/img_1.png")
    with pytest.raises(DatasetError, match=r"img_1\.png differs in upper and lower case only: rename one"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("lists", "train"),
    [(("Train.txt", "Validation.txt"), "ab"), (("train.txt", "valid.txt"), "ab"), (("trainval.txt", "test.txt"), "ab"),
     (("trainval.txt", "train.txt", "val.txt"), "a")],
)  # fmt: skip
def test_lists_have_the_names_that_folders_of_splits_have(lists: tuple[str, ...], train: str, tmp_path: Path) -> None:
    put(tmp_path, *(f"images/{name}.jpg" for name in "abc"), *(f"masks/{name}.png" for name in "abc"))
    for name, content in zip(lists, ("a\nb\n", "a\n" if train == "a" else "c\n", "c\n"), strict=False):
        (tmp_path / name).write_text(content)
    assert keys(tmp_path)["train"] == list(train)


@pytest.mark.parametrize("name", ["train.csv", "splits/val.txt", "train_fold0.txt", "images/train_c.jpg"])
def test_names_that_seem_to_say_splits_and_are_not_read_are_told(name: str, tmp_path: Path) -> None:
    put(tmp_path, *(f"{kind}/{stem}.png" for kind in ("images", "masks") for stem in "ab"))
    if name.endswith(".jpg"):
        put(tmp_path, name, "masks/train_c.png", "images/val_d.jpg", "masks/val_d.png")
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n")
    (told,) = open_source(tmp_path).findings
    assert (told.severity, told.rule) == ("warning", "names that seem to say splits")
    assert f"{tmp_path / name}" in told.files


def test_a_folder_for_training_and_validation_is_trained_on(tmp_path: Path) -> None:
    put(tmp_path, "train_val/images/a.jpg", "train_val/masks/a.png", "TEST/images/b.jpg", "TEST/masks/b.png")
    assert keys(tmp_path) == {"train": ["a"], "test": ["b"]}


@pytest.mark.parametrize("mask", ["masks/{}.png", "images/{}.mask.png"])
def test_names_of_masks_may_hold_the_extension_of_the_image(mask: str, tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpeg", "c.png"]
    put(tmp_path, *(f"images/{name}" for name in names), *(mask.format(name) for name in names))
    assert keys(tmp_path) == {"all": ["a", "b", "c"]}


def test_folders_of_jpeg_that_are_not_called_masks_and_folders_without_images_are_none(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/a.jpg", "SegmentationClassPNG/a.png", "SegmentationClassVisualization/a.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationClass" / "a.npy").write_bytes(b"")
    assert find_layout(tmp_path).layout == "JPEGImages + SegmentationClassPNG"
    put(tmp_path, "masks/a.jpg")  # which is called so
    assert not keys(tmp_path)


def test_a_link_to_nothing_is_told_and_not_left_out(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    for name in ("images/c.jpg", "masks/c.png"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"c\.png: a link to .*gone, which is not there"):
        open_source(tmp_path)
    assert keys(tmp_path, skip_bad=True) == {"all": ["a", "b", "c"]}
    assert len(open_source(tmp_path, skip_bad=True).pairs) == 2


def test_a_file_that_is_no_mask_is_named_whatever_follows_the_name_of_the_image(tmp_path: Path) -> None:
    put(tmp_path, "img/a.jpg")
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "a.jpg.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"a\.jpg\.json is there, but \.json is no format that is read as such"):
        open_source(tmp_path)


def test_copies_of_an_image_in_two_splits_are_told_before_training(tmp_path: Path) -> None:
    put(tmp_path, *(f"fold{fold}/{split}/{kind}/{name}.png" for fold in (0, 1) for kind in ("images", "masks")
                    for split, name in (("train", fold), ("val", 1 - fold))))  # fmt: skip
    told = [finding for finding in open_source(tmp_path).findings if "in two splits" in finding.rule]
    assert len(told) == 1
    assert " = " in told[0].files[0]


def test_an_image_may_end_in_a_word_for_masks_where_another_is_its_mask(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number}_{eye}{end}" for number in (1, 2) for eye in "lr" for end in (".jpg", "_mask.png")))
    assert keys(tmp_path) == {"all": ["1_l", "1_r", "2_l", "2_r"]}

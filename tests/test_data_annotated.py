"""Labels that are no masks in files: COCO, labelme, tables of Hugging Face; and what is refused of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import fullyconv
from annotated_trees import CATEGORIES, SIZE, SQUARE, annotation, coco, coco_tree, labelme, labelme_tree, photo, shape
from fullyconv import cli
from fullyconv.data.annotations.coco import CocoReader, runs_of, shape_of, unpack
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine, sheet
from fullyconv.data.folder import read_pair
from fullyconv.data.pairs import Pair
from fullyconv.data.sources import Source, open_source
from fullyconv.errors import DatasetError


def encoded(source: Source, split: str = "all", number: int = 0) -> np.ndarray[Any, Any]:
    return read_pair(source.splits[split][number], source.labels, source.reader)[1]


def random_polygon(rng: np.random.Generator) -> list[float]:
    center, count = rng.uniform(-5, 60, 2), int(rng.integers(3, 12))
    return [float(x) for x in (rng.normal(0, 14, (count, 2)) + center).ravel()]


class TestCoco:
    def test_objects_equal_those_of_pycocotools(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rng = np.random.default_rng(1)
        objects: list[dict[str, Any]] = []
        for number in range(120):
            segmentation: Any = [random_polygon(rng) for _ in range(rng.integers(1, 4))]
            if number % 3:
                blob = np.asfortranarray(rng.random(SIZE) < rng.random(), np.uint8)
                packed = coco_mask.encode(blob)
                segmentation = {"size": list(SIZE), "counts": packed["counts"].decode()}
                if number % 3 == 2:
                    segmentation = {"size": list(SIZE), "counts": unpack(segmentation["counts"])}
            objects.append(annotation(number, 0, 3, segmentation, area=1, bbox=[0, 0, 1, 1]))
        theirs = COCO(coco(tmp_path / "a.json", 1, *objects))
        capsys.readouterr()
        for entry in objects:
            runs = runs_of(shape_of(entry["segmentation"], SIZE, ""), SIZE, "")
            own = np.repeat(np.arange(len(runs)) % 2, runs).reshape(SIZE[::-1]).T
            with warnings.catch_warnings():  # pycocotools 2.0.11 beside NumPy 2
                warnings.simplefilter("ignore", DeprecationWarning)
                np.testing.assert_array_equal(own, theirs.annToMask(theirs.anns[entry["id"]]))

    def test_categories_are_classes_after_background(self, tmp_path: Path) -> None:
        source = open_source(coco_tree(tmp_path))
        assert source.labels.names == ("background", "cat", "dog")
        assert len(source.splits["all"]) == 4
        assert any("2 images have no objects" in note for note in source.notes)
        first, second, third = (encoded(source, number=number) for number in range(3))
        assert (first[6:24, 11:29] == 1).all()
        assert (second == 2 * (first == 1)).all()
        assert not third.any()

    def test_the_smaller_object_is_on_top_and_crowds_are_ignored_below_all(self, tmp_path: Path) -> None:
        small = [15.0, 10.0, 20.0, 10.0, 20.0, 15.0, 15.0, 15.0]
        crowd = {"size": list(SIZE), "counts": [0, SIZE[0] * 40, SIZE[0] * 20]}
        source = open_source(
            coco_tree(
                tmp_path,
                annotation(1, 0, 7, [small]),
                annotation(2, 0, 3, [SQUARE]),
                annotation(3, 0, 3, crowd, iscrowd=1),
            )
        )
        mask = encoded(source)
        assert (mask[11:14, 16:19] == 2).all()
        assert mask[20, 25] == 1
        assert mask[35, 5] == 255
        assert mask[35, 50] == 0
        (finding,) = source.findings
        assert finding.severity == "warning"
        assert "1 of 3 annotations (33.3%) are regions of many objects" in finding.message
        assert encoded(open_source(tmp_path, crowds="category"))[35, 5] == 1

    @pytest.mark.parametrize("place", ["annotations/instances_{}2017.json", "{}/_annotations.coco.json"])
    def test_splits_are_told_by_names_of_files_and_folders(self, tmp_path: Path, place: str) -> None:
        for split, count in (("train", 3), ("valid" if "{}/" in place else "val", 2)):
            folder = tmp_path / (split if "{}/" in place else f"{split}2017")
            for number in range(count):
                photo(folder / f"{number:03}.png")
            coco(tmp_path / place.format(split), count, annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, [SQUARE]))
        source = open_source(tmp_path)
        assert {split: len(pairs) for split, pairs in source.splits.items()} == {"train": 3, "val": 2}
        assert encoded(source, "val").max() == 1
        assert examine(tmp_path).healthy()

    def test_instances_are_taken_before_key_points(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path, name="annotations/instances_train.json")
        shutil.copy(root / "annotations/instances_train.json", root / "annotations/person_keypoints_train.json")
        source = open_source(root)
        assert any("person_keypoints_train.json left out" in note for note in source.notes)

    def test_a_category_that_groups_all_others_is_none(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path)
        groups = [{"id": 0, "name": "pets", "supercategory": "none"}]
        members = [entry | {"supercategory": "pets"} for entry in CATEGORIES]
        coco(root / "annotations.json", 4, annotation(1, 0, 3, [SQUARE]), categories=groups + members)
        assert open_source(root).labels.names == ("background", "cat", "dog")

    def test_splits_with_other_ids_agree_by_name(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for number in range(2):
                photo(tmp_path / split / f"{number:03}.png")
        coco(tmp_path / "train" / "a.json", 2, annotation(1, 0, 3, [SQUARE]))
        swapped = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
        coco(tmp_path / "val" / "a.json", 2, annotation(1, 0, 7, [SQUARE]), categories=swapped)
        source = open_source(tmp_path)
        assert encoded(source, "train").max() == encoded(source, "val").max() == 1

    def test_classes_are_renamed_and_joined_by_their_values(self, tmp_path: Path) -> None:
        source = open_source(coco_tree(tmp_path), values={0: "background", 1: "pet", 2: "pet"})
        assert source.labels.names == ("background", "pet")
        assert encoded(source, number=1).max() == 1
        with pytest.raises(ValueError, match="the annotations name the classes"):
            open_source(tmp_path, classes=["a", "b", "c"])

    def test_what_was_changed_is_read_anew(self, tmp_path: Path) -> None:
        source = open_source(coco_tree(tmp_path))
        assert encoded(source).max() == 1
        coco(tmp_path / "annotations.json", 4, annotation(1, 0, 7, [SQUARE]))
        assert encoded(source).max() == 2

    def test_training_reads_in_workers_and_from_a_cache(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path / "set", count=6)
        data = SegmentationDataModule.from_folder(
            root, num_workers=1, batch_size=2, crop_size=32, cache=str(tmp_path / "cache")
        )
        data.check()
        batches = [list(data.train_dataloader()) for _ in range(2)]
        assert batches[0][0]["mask"].shape == (2, 32, 32)
        kept = list((tmp_path / "cache").rglob("*.mask.npy"))
        assert len(kept) >= 4

    def test_the_doctor_draws_them(self, tmp_path: Path) -> None:
        diagnosis = examine(coco_tree(tmp_path))
        assert diagnosis.healthy(), diagnosis.text()
        assert diagnosis.pixels["cat"] == diagnosis.pixels["dog"] > 300
        sheet(diagnosis)

    def test_more_categories_than_a_byte_holds(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path)
        many = [{"id": number, "name": f"class {number}"} for number in range(300)]
        coco(root / "annotations.json", 4, annotation(1, 0, 299, [SQUARE]), categories=many)
        mask = encoded(open_source(root))
        assert mask.dtype == np.uint16
        assert mask.max() == 300

    def test_without_pycocotools_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = open_source(coco_tree(tmp_path))
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        with pytest.raises(ImportError, match=r"pip install 'fullyconv\[coco\]'"):
            encoded(source)


def inside(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tell which centers of pixels lie inside a polygon, by the parity of the edges that a ray crosses."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    result = np.zeros(SIZE, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            crossed = ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        result ^= crossed
    return result


def near_edge(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tell which pixels lie within 1.5 pixels of the outline."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    result = np.zeros(SIZE, bool)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        step = end - start
        along = (((x - start[0]) * step[0] + (y - start[1]) * step[1]) / (step @ step)).clip(0, 1)
        result |= np.hypot(x - start[0] - along * step[0], y - start[1] - along * step[1]) <= 1.5
    return result


class TestLabelme:
    def test_polygons_are_filled_as_the_parity_of_crossings_says(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, (4, 9)), axis=1)
        for number, turn in enumerate(angles):
            radius = rng.uniform(8, 30, 9)
            points = np.stack([30 + radius * np.cos(turn), 20 + radius * np.sin(turn)], axis=1)
            photo(tmp_path / f"{number}.png")
            labelme(tmp_path / f"{number}.json", shape("weed", points.tolist()))
        source = open_source(tmp_path)
        for pair in source.splits["all"]:
            points = np.array(json.loads(pair.mask.read_text())["shapes"][0]["points"])
            mask, sure = source.reader.mask(pair), ~near_edge(points)
            np.testing.assert_array_equal(mask[sure] == 1, inside(points)[sure])

    def test_shapes_are_drawn_in_their_order(self, tmp_path: Path) -> None:
        root = labelme_tree(
            tmp_path,
            shape("crop", [[50, 30], [0, 0]], "rectangle"),
            shape("weed", [[20, 15], [20, 25]], "circle"),
            shape("_background_", [[18, 13], [22, 13], [22, 17], [18, 17]]),
            shape("__ignore__", [[40, 35], [70, 60]], "rectangle"),
        )
        source = open_source(root)
        assert source.labels.names == ("background", "crop", "weed")
        mask = encoded(source)
        assert (mask[15, 20], mask[15, 26], mask[2, 45], mask[38, 58], mask[38, 5]) == (0, 2, 1, 255, 0)
        area = int((mask == 2).sum())
        assert abs(area + 25 - np.pi * 100) < 40
        diagnosis = examine(root)
        assert diagnosis.labels is not None
        assert diagnosis.healthy(), diagnosis.text()

    def test_a_mask_of_a_tool_is_pasted_at_its_corner_and_cut_at_the_border(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.eye(10, dtype=np.uint8) * 255).save(buffer, "PNG")
        text = base64.b64encode(buffer.getvalue()).decode()
        mask = encoded(open_source(labelme_tree(tmp_path, shape("weed", [[55, 2], [64, 11]], "mask", mask=text))))
        assert (np.argwhere(mask == 1) == [[2 + n, 55 + n] for n in range(5)]).all()

    def test_files_in_a_folder_of_their_own_name_their_image(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for number in range(2):
                photo(tmp_path / split / "images" / f"{number}.png")
                path = tmp_path / split / "labels" / f"{number}.json"
                labelme(path, shape("weed", [[1, 1], [9, 1], [9, 9]]), imagePath=f"..\\images\\{number}.png")
        source = open_source(tmp_path)
        assert {split: len(pairs) for split, pairs in source.splits.items()} == {"train": 2, "val": 2}

    def test_a_list_of_classes_finds_what_was_mistyped(self, tmp_path: Path) -> None:
        root = labelme_tree(tmp_path, shape("weed", [[1, 1], [9, 1], [9, 9]]))
        (root / "labels.txt").write_text("__ignore__\n_background_\ncrop\nweed\n")
        assert open_source(root).labels.names == ("background", "crop", "weed")
        labelme(root / "001.json", shape("wed", [[1, 1], [9, 1], [9, 9]]))
        with pytest.raises(DatasetError, match=r"001\.json: shape 0 \(wed\): is no class of .*Did you mean weed"):
            open_source(root)

    def test_images_without_a_file_are_an_error_or_left_out(self, tmp_path: Path) -> None:
        root = labelme_tree(tmp_path)
        photo(root / "009.png")
        with pytest.raises(DatasetError, match=r"009\.png: no labelme file names it"):
            open_source(root)
        assert len(open_source(root, unlabeled="skip").splits["all"]) == 4
        assert "1 x images without a labelme file" in examine(root).text()


def table(
    count: int = 4, drawn: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = np.asarray
) -> datasets.Dataset:
    def both(number: int) -> dict[str, Any]:
        rng = np.random.default_rng(number)
        mask = np.zeros(SIZE, np.uint8)
        mask[5 + number : 20, 10:30] = 1
        return {
            "image": Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)),
            "mask": Image.fromarray(drawn(mask)),
        }

    rows = [both(number) for number in range(count)]
    columns = {name: [row[name] for row in rows] for name in ("image", "mask")}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")


class TestTables:
    def save(self, root: Path, how: str) -> None:
        both = datasets.DatasetDict({"train": table(4), "validation": table(2)})
        if how == "saved":
            both.save_to_disk(str(root))
        elif how == "one":
            table(4).save_to_disk(str(root))
        else:
            (root / "data").mkdir(parents=True)
            for split, rows in both.items():
                rows.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))

    @pytest.mark.parametrize("how", ["saved", "one", "parquet"])
    def test_rows_come_back_as_datasets_gives_them(self, tmp_path: Path, how: str) -> None:
        root = tmp_path / "set"
        self.save(root, how)
        source = open_source(root)
        split = "all" if how == "one" else "train"
        sizes = {"all": 4} if how == "one" else {"train": 4, "val": 2}
        assert {split: len(pairs) for split, pairs in source.splits.items()} == sizes
        assert source.labels.names == ("class 0", "class 1")
        for pair, row in zip(source.splits[split], table(4), strict=True):
            image, mask = read_pair(pair, source.labels, source.reader)
            np.testing.assert_array_equal(image, np.array(row["image"]))
            np.testing.assert_array_equal(mask, np.array(row["mask"]))
        diagnosis = examine(root)
        assert diagnosis.labels is not None, diagnosis.text()
        data = SegmentationDataModule.from_folder(root, num_workers=1, batch_size=2, crop_size=32)
        data.check()
        assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 32, 32)

    def test_names_stand_in_id2label(self, tmp_path: Path) -> None:
        self.save(tmp_path / "set", "one")
        (tmp_path / "set" / "id2label.json").write_text('{"0": "soil", "1": "weed"}')
        assert open_source(tmp_path / "set").labels.names == ("soil", "weed")

    def test_columns_are_named_where_they_do_not_tell(self, tmp_path: Path) -> None:
        table().rename_columns({"image": "left", "mask": "right"}).save_to_disk(str(tmp_path / "set"))
        with pytest.raises(DatasetError, match=r"images is not known.*columns left .*images=COLUMN and masks=COLUMN"):
            open_source(tmp_path / "set")
        assert len(open_source(tmp_path / "set", images="left", masks="right").splits["all"]) == 4

    def test_columns_have_the_names_that_transformers_gives_them(self, tmp_path: Path) -> None:
        table().rename_columns({"image": "pixel_values", "mask": "label"}).save_to_disk(str(tmp_path / "set"))
        assert open_source(tmp_path / "set").layout == "table of images and masks (columns pixel_values and label)"

    def test_masks_in_doubt_are_no_masks_that_cannot_be_read(self, tmp_path: Path) -> None:
        table(drawn=lambda mask: mask * 100).save_to_disk(str(tmp_path / "set"))
        diagnosis = examine(tmp_path / "set")
        assert diagnosis.labels is None
        (finding,) = [finding for finding in diagnosis.findings if finding.severity == "error"]
        assert "do not look like class indices" in finding.message

    def test_masks_of_colors_are_no_broken_pairs(self, tmp_path: Path) -> None:
        colors = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)
        table(drawn=lambda mask: colors[mask]).save_to_disk(str(tmp_path / "set"))
        source = open_source(tmp_path / "set", skip_bad=True)
        assert (len(source.pairs), source.labels.names) == (4, ("#000000", "#ff0000"))

    def test_without_datasets_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.save(tmp_path / "set", "one")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r"pip install 'fullyconv\[datasets\]'"):
            open_source(tmp_path / "set")

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_metadata_beside_images_names_their_masks(self, tmp_path: Path, suffix: str) -> None:
        for split in ("train", "validation"):
            rows = []
            for number in range(3):
                photo(tmp_path / split / f"{number}.png")
                Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / split / f"{number}_m.png")
                rows.append({"file_name": f"{number}.png", "mask_file_name": f"{number}_m.png", "caption": "x"})
            with (tmp_path / split / f"metadata.{suffix}").open("w", newline="") as file:
                if suffix == "csv":
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
                else:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
        source = open_source(tmp_path)
        assert {split: len(pairs) for split, pairs in source.splits.items()} == {"train": 3, "val": 3}
        assert source.splits["train"][1].mask.name == "1_m.png"


class TestAmbiguity:
    def test_two_kinds_of_labels_are_listed_with_the_option(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path)
        for number in range(4):
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(root / "masks" / f"{number:03}.png")
        with pytest.raises(
            DatasetError, match=r"could be COCO \(annotations\.json; --masks annotations\.json\), or masks"
        ):
            open_source(root)
        assert "background" in open_source(root, masks="annotations.json").labels.names
        assert open_source(root, masks="masks").labels.names == ("class 0", "class 1")

    def test_two_files_of_one_split_are_listed(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path)
        shutil.copy(root / "annotations.json", root / "other.json")
        with pytest.raises(DatasetError, match=r"could be annotations\.json, other\.json; say which by masks=FILE"):
            open_source(root)
        assert len(open_source(root, masks="other.json").splits["all"]) == 4

    def test_images_in_two_folders_are_listed(self, tmp_path: Path) -> None:
        root = coco_tree(tmp_path)
        shutil.copytree(root / "images", root / "smaller")
        with pytest.raises(DatasetError, match="could be in images/, smaller/; say which by images=FOLDER"):
            open_source(root)
        assert open_source(root, images="smaller").splits["all"][0].image.parent.name == "smaller"


# ---- files gone wrong ------------------------------------------------------------------------------------------------


def test_tables_gone_wrong_name_file_and_rule(tmp_path: Path) -> None:
    root = tmp_path / "set"
    table().save_to_disk(str(root))
    state = json.loads((root / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../other.arrow"}]
    (root / "state.json").write_text(json.dumps(state))
    with pytest.raises(DatasetError, match=r"state\.json: '\.\./\.\./other\.arrow' leads out of its folder"):
        open_source(root)
    shutil.rmtree(root)
    table().save_to_disk(str(root))
    (arrow,) = root.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"\.arrow: damaged .*save the set anew"):
        open_source(root)
    arrow.with_name("dataset_info.json").unlink()
    arrow.with_name("state.json").unlink()
    (root / "train.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(DatasetError, match=r"train\.parquet: cannot be read as a table"):
        open_source(root)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": None, "path": "/etc/passwd"}, "row 1, column image: '/etc/passwd' leads out of its folder"),
        ({"bytes": None, "path": "../secret.png"}, "leads out of its folder"),
        ({"bytes": None, "path": "gone.png"}, "no such file"),
        ({"bytes": b"<html>", "path": None}, "row 1, column image: is a web page"),
        (None, "row 1, column image: is empty"),
    ],
)
def test_cells_of_tables_are_not_trusted(tmp_path: Path, cell: Any, message: str) -> None:
    encoded_only = table(3)
    for name in ("image", "mask"):
        encoded_only = encoded_only.cast_column(name, datasets.Image(decode=False))
    rows = encoded_only.to_list()
    rows[1]["image"] = cell
    (tmp_path / "set").mkdir()
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})  # as other tools write it
    content = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema({"image": kind, "mask": kind}))
    pyarrow.parquet.write_table(content, tmp_path / "set" / "rows.parquet")
    photo(tmp_path / "secret.png")
    with pytest.raises(DatasetError, match=message):
        SegmentationDataModule.from_folder(tmp_path / "set").check()
    assert not examine(tmp_path / "set").healthy()


def test_a_reader_holds_plain_values() -> None:
    assert CocoReader(values={"a": 1}).values == {"a": 1}
    with pytest.raises(DatasetError, match="cannot be read"):
        CocoReader(values={"a": 1}).mask(Pair(Path("a.png"), Path("gone.json/1"), "a"))


@pytest.mark.parametrize("make", [coco_tree, labelme_tree])
def test_fit_takes_annotations_by_the_path_of_the_folder_alone(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    words = ["--model", "random:fcn32s_resnet18_quarter", "--epochs", "1", "--device", "cpu"]
    assert cli.main(["fit", "set", *words, "--trainer.enable_progress_bar=false"]) == 0
    assert "classes: background, " in capsys.readouterr().out
    assert (tmp_path / "runs/set/report.html").is_file()
    assert fullyconv.load(tmp_path / "runs/set/model").classes[0] == "background"


def test_outlines_of_coco_are_bounded_by_the_image_and_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = open_source(coco_tree(tmp_path / "far", annotation(7, 0, 3, [[0, 0, 9000, 0, 9000, 10]]), count=2))
    with pytest.raises(DatasetError, match=r"annotation 7 .*: lies 9000 pixels off.*correct or remove it"):
        encoded(far)
    monkeypatch.setattr("fullyconv.data.annotations.coco._MOST_OUTLINE", 1000)
    many = [annotation(number, 0, 3, [[0, 0, 20, 0, 20, 20, 0, 20]]) for number in range(40)]
    together = open_source(coco_tree(tmp_path / "many", *many, count=2))
    with pytest.raises(DatasetError, match=r"annotation 30 .*: the outlines of its image are longer than 2400 "):
        encoded(together)


def test_labelme_files_are_bounded_before_they_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(labelme_tree(tmp_path))
    path = source.splits["all"][0].mask
    shape = {"label": "weed", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    labelme(path, shape, imageHeight=9000, imageWidth=9000)
    with pytest.raises(DatasetError, match=r"its mask .*000\.json 9000 x 9000; both must be equal"):
        encoded(source)
    monkeypatch.setattr("fullyconv.data.annotations.labelme.MOST_POINTS", 5)
    labelme(path, shape, shape)
    with pytest.raises(DatasetError, match=r"shape 1 .*: the file has more than 5 points"):
        encoded(source)


def plain_tree(root: Path) -> Path:
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (root / folder).mkdir(parents=True)
        for number in range(2):
            Image.new(mode, (8, 6), number).save(root / folder / f"{number}.png")
    return root


def test_a_cell_too_many_in_metadata_is_not_looked_at(tmp_path: Path) -> None:
    root = plain_tree(tmp_path)
    lines = [f"images/{number}.png,masks/{number}.png,more" for number in range(2)]
    (root / "metadata.csv").write_text("\n".join(["file_name,mask_file_name", *lines]))
    source = open_source(root)
    assert len(source.splits["all"]) == 2


def test_metadata_that_is_no_text_does_not_hide_plain_masks_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = plain_tree(tmp_path)
    (root / "metadata.csv").write_bytes("file_name,place\nimages/0.png,Köln\n".encode("latin-1"))
    with caplog.at_level("INFO", logger="fullyconv"):
        assert len(open_source(root).splits["all"]) == 2
    assert "metadata.csv" in caplog.text
    assert "The folder of masks is read without it" in caplog.text


def test_a_list_of_classes_beside_coco_is_told_to_be_of_no_use(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "set")
    assert "classes.txt is not used" not in SegmentationDataModule(str(root)).report
    (root / "classes.txt").write_text("kitty\nhound\n")
    data = SegmentationDataModule(str(root))
    assert data.classes == ["background", "cat", "dog"]
    assert "classes.txt is not used: the annotations name the classes" in data.report


def test_one_coco_file_for_the_folders_of_all_splits(tmp_path: Path) -> None:
    entries = []
    for number, split in enumerate(("train", "train", "val")):
        name = photo(tmp_path / split / f"{number}.png").relative_to(tmp_path).as_posix()
        entries.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    coco(tmp_path / "all.json", 0, annotation(1, 0, 3, [SQUARE]), images=entries)
    assert {split: len(pairs) for split, pairs in open_source(tmp_path).splits.items()} == {"train": 2, "val": 1}


def test_the_panoptic_form_of_coco_is_refused_by_name(tmp_path: Path) -> None:
    entry = {"image_id": 0, "file_name": "000.png", "segments_info": [{"id": 1, "category_id": 3}]}
    coco_tree(tmp_path, entry)
    with pytest.raises(DatasetError, match="is of COCO's panoptic form, which is not read"):
        open_source(tmp_path)


def test_a_labelme_file_beside_one_image_that_names_another_is_refused(tmp_path: Path) -> None:
    labelme_tree(tmp_path)
    path = tmp_path / "000.json"
    path.write_text(path.read_text().replace("000.png", "001.png"))
    with pytest.raises(DatasetError, match=r"000\.json: lies beside 000\.png and names '001\.png'; correct imagePath"):
        open_source(tmp_path)


def test_labels_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    labelme_tree(tmp_path)
    path = tmp_path / "000.json"
    path.write_text(path.read_text().replace('"weed"', '"Weed"'))
    assert any("differ in upper and lower case alone" in finding.rule for finding in examine(tmp_path).findings)

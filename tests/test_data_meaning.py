"""A number in a mask never means two things in one set; and files that say what numbers and colors mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import public_trees
from annotated_trees import SIZE, SQUARE, annotation, coco_tree, photo
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.doctor import examine
from fullyconv.data.layouts import find_layout
from fullyconv.data.sources import open_source
from fullyconv.errors import DatasetError

INSIDE = np.zeros(SIZE, bool)
INSIDE[5:25, 10:30] = True

Array = np.ndarray[Any, Any]


def tree(root: Path, *masks: Array | Image.Image, split: str = "", suffix: str = ".png", start: int = 0) -> Path:
    for number, mask in enumerate(masks, start):
        photo(root / split / "images" / f"{number}.png")
        path = root / split / "masks" / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    return root


def binary(full: int, dtype: Any = np.uint8) -> Array:
    return (INSIDE * full).astype(dtype)


def indexed(values: Array, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette([channel for color in colors for channel in color])
    return image


RED, GREEN, BLACK = (200, 0, 0), (0, 200, 0), (0, 0, 0)

KINDS: dict[str, Callable[[Path], object]] = {
    "0/1 beside 0/255": lambda root: tree(root, binary(1), binary(1), binary(255)),
    "0/1 in train, 0/255 in val": lambda root: (
        tree(root, binary(1), binary(1), split="train"),
        tree(root, binary(255), split="val"),
    ),
    "16 bits of 0/255 beside 8 bits of 0/1": lambda root: tree(root, binary(1), binary(255, np.uint16)),
    "a palette of 0/1 beside gray of 0/255": lambda root: tree(
        root, indexed(binary(1), BLACK, RED), binary(255), binary(255)
    ),
    "a palette of 0/1 beside gray of other values": lambda root: tree(
        root, indexed(binary(1), BLACK, RED), binary(76), binary(76)
    ),
    "1 bit beside 0/255": lambda root: tree(root, Image.fromarray(INSIDE), binary(255)),
    "16 bits of 0/65535 beside 8 bits of 0/255": lambda root: tree(root, binary(255), binary(65535, np.uint16)),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_that_count_in_two_ways_are_joined_or_refused(kind: str, named: bool, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    if named:
        (tmp_path / "classes.txt").write_text("ground\nbox\n")
    if (kind, named) != ("1 bit beside 0/255", False):
        with pytest.raises(DatasetError, match=r"[0-2]\.png"):
            SegmentationDataModule(str(tmp_path)).check()
        assert not examine(tmp_path).healthy()
        return
    data = SegmentationDataModule(str(tmp_path))
    data.check()
    for pair in data.splits["train"] + data.splits["val"]:
        assert (data.labels.encode(data.source.reader.mask(pair)) == INSIDE).all()


def test_what_is_said_of_255_settles_it(tmp_path: Path) -> None:
    tree(tmp_path, binary(1), binary(255))
    source = open_source(tmp_path, values={0: "ground", 1: "box", 255: "box"})
    for pair in source.splits["all"]:
        assert (source.labels.encode(source.reader.mask(pair)) == INSIDE).all()
    assert open_source(tmp_path, values={0: "ground", 1: "box", 255: "ignore"}).labels.names == ("ground", "box")


def test_ignored_borders_beside_a_class_are_no_second_meaning(tmp_path: Path) -> None:
    both = binary(1)
    both[0] = 255
    source = open_source(tree(tmp_path, both, binary(1), binary(255)))
    assert source.labels.values == {0: "class 0", 1: "class 1", 255: "ignore"}


def test_palettes_that_swap_two_colors_in_one_file_are_read_by_color(tmp_path: Path) -> None:
    values = binary(1) + np.flipud(binary(2))
    other = np.array([0, 2, 1], np.uint8)[values.clip(max=2)]
    masks = [indexed(values.clip(max=2), BLACK, RED, GREEN) for _ in range(3)]
    source = open_source(tree(tmp_path, *masks, indexed(other, BLACK, GREEN, RED)))
    assert set(source.labels.names) == {"#000000", "#c80000", "#00c800"}
    shown = [source.labels.encode(source.reader.mask(pair)) for pair in source.splits["all"]]
    assert all((mask == shown[0]).all() for mask in shown)
    (finding,) = source.findings
    assert finding.rule == "palettes that disagree"
    assert "index 1 is #" in finding.message


def test_one_palette_under_several_lengths_is_one(tmp_path: Path) -> None:
    masks = indexed(binary(1), BLACK, RED), indexed(binary(2), BLACK, RED, GREEN)
    source = open_source(tree(tmp_path, *masks))
    assert source.labels.names == ("class 0", "class 1", "class 2")
    assert not source.findings


def test_gray_masks_of_black_alone_go_with_colors(tmp_path: Path) -> None:
    colors = np.array([BLACK, RED], np.uint8)[binary(1)]
    source = open_source(tree(tmp_path, colors, colors, np.zeros(SIZE, np.uint8)))
    assert source.labels.names == ("#000000", "#c80000")


# ---- names that lie beside ----------

FILES = {
    "dataset.json": json.dumps({"channel_names": {"0": "x"}, "labels": {"ground": 0, "box": 1}, "file_ending": ".png"}),
    "classes.json": json.dumps(["ground", "box"]),
    "id2label.json": json.dumps({"1": "box", "0": "ground"}),
    "_classes.csv": "Pixel Value,Class\n0,ground\n1,box\n",
    "class_dict.csv": "name,r,g,b\nground,0,0,0\nbox,200,0,0\n",
    "labelmap.txt": "ground:0,0,0::\nbox:200,0,0:part:action\n",
}


@pytest.mark.parametrize("place", [".", "train/images", ".."])
@pytest.mark.parametrize("name", FILES)
def test_names_are_found_in_the_folder_or_around_the_files(name: str, place: str, tmp_path: Path) -> None:
    colored = "200" in FILES[name]
    mask = np.array([BLACK, RED], np.uint8)[binary(1)] if colored else binary(1)
    root = tree(tmp_path / "above" / "set", mask, mask, split="train")
    (root / place / name).write_text(FILES[name])
    labels = open_source(root.parent if place == ".." else root).labels
    assert labels.names == ("ground", "box")


def test_files_that_call_a_value_by_two_names_are_refused(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        tree(tmp_path / name, binary(1), binary(1))
        (tmp_path / name / "classes.txt").write_text(f"ground\n{name}\n")
    with pytest.raises(DatasetError, match=r"bee/classes\.txt: 1 is bee, and ant in .*ant/classes\.txt"):
        open_source(tmp_path)


def test_colors_of_names_beside_masks_of_numbers_are_told_and_not_used(tmp_path: Path) -> None:
    tree(tmp_path, binary(1), binary(1))
    (tmp_path / "class_dict.csv").write_text(FILES["class_dict.csv"])
    source = open_source(tmp_path)
    assert source.labels.names == ("class 0", "class 1")
    assert any("class_dict.csv names colors, and the masks hold numbers" in one.message for one in source.findings)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("class_dict.csv", "name,r,g,b\nground,0,0,300\n", "line 2: 0, 0, 300 is no color"),
        ("class_dict.csv", "name,r,g,b\nground,0\n", "line 2: 0, , "),
        ("_classes.csv", "Pixel Value,Class\nx,ground\n", "line 2: has no value of a pixel"),
        ("_classes.csv", "Pixel Value,Class\n0,ground\n0,box\n", "line 3: 0 is ground and box"),
        ("labelmap.txt", "ground:0,0::\n", "line 1: 0, 0 is no color"),
        ("class_dict.csv", f"name,r,g,b\nground,0,0,{'9' * 5000}\n", f"line 2: 0, 0, {'9' * 20} is no color"),
        ("_classes.csv", f"Pixel Value,Class\n{'9' * 5000},ground\n", "line 2: has no value of a pixel"),
        ("classes.json", "{", "is no JSON"),
    ],
)
def test_names_gone_wrong_name_the_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    tree(tmp_path, binary(1), binary(1))
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=rf"{name}: .*{message}|{name}: {message}"):
        open_source(tmp_path)


# ---- no data ----------


def nodata_tree(root: Path, values: Array, tag: str | None) -> Path:
    for number in range(2):
        photo(root / "images" / f"{number}.png")
        (root / "masks").mkdir(exist_ok=True)
        tags = [] if tag is None else [(42113, "s", 0, tag, True)]
        tifffile.imwrite(root / "masks" / f"{number}.tif", values, extratags=tags)
    return root


@pytest.mark.parametrize(("dtype", "tag"), [(np.int16, "-9999"), (np.int32, "-9999 "), (np.float32, "-9999.0")])
def test_no_data_below_zero_is_ignored_where_the_files_say_so(dtype: Any, tag: str, tmp_path: Path) -> None:
    values = binary(1, dtype)
    values[0] = -9999
    source = open_source(nodata_tree(tmp_path, values, tag))
    assert source.labels.values == {0: "class 0", 1: "class 1", 255: "ignore", -9999: "ignore"}
    encoded = source.labels.encode(source.reader.mask(source.splits["all"][0]))
    assert (encoded[0] == 255).all()
    assert (encoded[1:] == INSIDE[1:]).all()


def test_no_data_that_nobody_announced_is_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    values = binary(1, np.int16)
    values[0] = -1
    nodata_tree(tmp_path, values, None)
    with pytest.raises(DatasetError, match=r"the value -1, .*--values=-1=ignore"):
        open_source(tmp_path)
    values_said: dict[int | str, str] = {"-1": "ignore", 0: "ground", 1: "box"}
    assert open_source(tmp_path, values=values_said).labels.names == ("ground", "box")
    with pytest.raises(ValueError, match=r"a class has integers in 0\.\.65535"):
        open_source(tmp_path, values={-1: "ground", 1: "box"})


def test_a_class_that_the_files_call_no_data_is_a_warning(tmp_path: Path) -> None:
    source = open_source(nodata_tree(tmp_path, binary(1), "0"))
    assert source.labels.names == ("class 0", "class 1")
    assert [one.rule for one in source.findings] == ["a class that the files call no data"]


# ---- what is left out, and told ----------


def test_broken_pairs_are_left_out_on_demand_and_listed(tmp_path: Path) -> None:
    root = tree(tmp_path, *([binary(1)] * 6))
    (root / "masks" / "0.png").unlink()
    (root / "images" / "1.png").write_bytes(b"x")
    Image.fromarray(binary(1)[:-1]).save(root / "masks" / "2.png")
    with pytest.raises(DatasetError):
        open_source(root)
    data = SegmentationDataModule(str(root), skip_bad=True)
    assert sum(map(len, data.splits.values())) == 3
    data.check()
    diagnosis = examine(root, skip_bad=True)
    assert diagnosis.healthy(), diagnosis.text()
    told = diagnosis.text(None)
    assert all(name in told for name in ("images/0.png", "images/1.png", "masks/2.png"))
    assert "warning: 2 broken pairs" in data.report
    assert all(name in data.report for name in ("images/0.png", "images/1.png", "masks/2.png"))


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    root = tree(tmp_path, binary(1), binary(1))
    for path in root.rglob("images/*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="every pair is broken"):
        open_source(root, skip_bad=True)


def test_crowds_of_one_class_are_read_as_their_category_on_demand(tmp_path: Path) -> None:
    root = coco_tree(tmp_path, annotation(1, 0, 3, [SQUARE], iscrowd=1), annotation(2, 1, 7, [SQUARE]))
    with pytest.raises(DatasetError, match=r"50\.0%.*nothing is left of cat; .*--crowds category"):
        open_source(root)
    source = open_source(root, crowds="category")
    assert source.reader.mask(source.splits["all"][0]).max() == 1


def test_annotations_without_a_polygon_are_skipped_and_a_class_of_nothing_else_refused(tmp_path: Path) -> None:
    mixed = coco_tree(tmp_path / "mixed", annotation(1, 0, 3, [SQUARE, [1.0, 2.0]]), annotation(2, 1, 7, [SQUARE]))
    assert not open_source(mixed).findings
    boxes = coco_tree(tmp_path / "boxes", annotation(1, 0, 3, [SQUARE]), annotation(2, 1, 7, [], bbox=[1, 2, 3, 4]))
    with pytest.raises(DatasetError, match=r"annotation 2 .*a box is no mask; .*every annotation of dog"):
        open_source(boxes)


# ---- folders ----------


def test_masks_of_a_folder_each_for_a_class_are_told_as_such(tmp_path: Path) -> None:
    for number in range(2):
        photo(tmp_path / "images" / f"{number}.png")
        for name in ("road", "car"):
            path = tmp_path / "masks" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(binary(255)).save(path)
    with pytest.raises(DatasetError, match=r"masks/car/ .*masks/road/ .*if each holds the mask of one class"):
        open_source(tmp_path)


def test_many_masks_of_one_image_a_folder_are_told_as_such(tmp_path: Path) -> None:
    for name in ("a1", "b2"):  # as in the Data Science Bowl of 2018
        photo(tmp_path / name / "images" / f"{name}.png")
        for number in range(3):
            path = tmp_path / name / "masks" / f"{number}f.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(binary(255)).save(path)
    layout = find_layout(tmp_path)
    assert [one.rule for one in layout.findings] == ["2 x images with several masks"]
    assert "a1.png: has 3 masks" in layout.findings[0].message


def test_folders_of_nnunet_are_found_and_named(tmp_path: Path) -> None:
    for split, count in (("Tr", 4), ("Ts", 2)):
        for number in range(count):
            photo(tmp_path / f"images{split}" / f"case_{number:03}_0000.png")
            path = tmp_path / f"labels{split}" / f"case_{number:03}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(binary(1)).save(path)
    (tmp_path / "dataset.json").write_text(FILES["dataset.json"])
    source = open_source(tmp_path)
    assert {split: len(pairs) for split, pairs in source.splits.items()} == {"train": 4, "test": 2}
    assert source.labels.names == ("ground", "box")


@pytest.mark.parametrize(
    ("image", "mask", "splits"),
    [
        ("{}/{}.jpg", "{}_gt/{}.png", ("train", "val")),
        ("Data/{}/{}.png", "Data/{}_Masks/{}.png", ("train", "test")),
        ("{}/city/{}.png", "{}_labels/city/{}.png", ("train", "val")),
        ("img_dir/{}/{}.jpg", "ann_dir/{}/{}.png", ("train", "val")),
        ("{}/{}_sat.jpg", "{}/{}_mask.png", ("train", "valid")),
        ("{}/IMG ({}).jpg", "{}/IMG ({})-mask.png", ("train", "val")),
        ("images/{}2017/{}.jpg", "masks/{}2017/{}.png", ("train", "val")),
    ],
)
def test_other_names_for_images_and_masks(image: str, mask: str, splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        for number in range(3):
            photo(tmp_path / image.format(split, f"{split}{number}"))
            path = tmp_path / mask.format(split, f"{split}{number}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(binary(1)).save(path)
    found = open_source(tmp_path).splits
    assert {split: len(pairs) for split, pairs in found.items()} == {
        split.replace("valid", "val"): 3 for split in splits
    }


@pytest.mark.parametrize("name", ["voc2012", "camvid"])
def test_a_public_set_is_known_some_folders_below(name: str, tmp_path: Path) -> None:
    make = {"voc2012": public_trees.voc, "camvid": public_trees.camvid}[name]
    root = make(tmp_path / "download" / "archive" / ("VOC2012" if name == "voc2012" else "set"))
    source = open_source(tmp_path)
    assert source.known is not None
    assert (source.known.name, source.root) == (name, root)


def test_images_of_a_test_without_masks_are_left_out_and_those_of_val_are_not(tmp_path: Path) -> None:
    tree(tmp_path, binary(1), binary(1), split="train")
    photo(tmp_path / "test" / "images" / "9.png")
    assert [one.severity for one in find_layout(tmp_path).findings] == ["warning"]
    photo(tmp_path / "val" / "images" / "8.png")
    with pytest.raises(DatasetError, match=r"no folder of masks goes with .*val/images"):
        open_source(tmp_path)
    assert set(open_source(tmp_path, unlabeled="skip").splits) == {"train"}


# ---- polygons of YOLO ----------

POLYGON = "0.2 0.2 0.5 0.2 0.5 0.6"


def yolo(root: Path, *lines: str) -> Path:
    for number, line in enumerate(lines):
        photo(root / "images" / f"{number}.jpg")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{number}.txt").write_text(f"{line}\n")
    return root


@pytest.mark.parametrize("write", [str.lower, str.title, str.upper])
def test_images_are_found_beside_labels_however_both_are_written(write: Callable[[str], str], tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", f"1 {POLYGON}")
    for name in ("images", "labels"):
        (root / name).rename(root / write(name))
    assert open_source(root).labels.names == ("background", "class 0", "class 1")


def test_text_beside_images_that_is_no_utf8_is_not_taken_for_labels(tmp_path: Path) -> None:
    tree(tmp_path, binary(1), binary(1))
    for path in (tmp_path / "images").iterdir():
        path.with_suffix(".txt").write_bytes("Straße".encode("latin1"))
    assert open_source(tmp_path).layout == "images + masks"


def test_a_split_in_data_yaml_that_is_no_name_of_a_file_is_passed_over(tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", f"1 {POLYGON}")
    (root / "data.yaml").write_text(f"train: {'a' * 300}\nnames: [cat, dog]\n")
    assert list(open_source(root).splits) == ["all"]


def test_a_yaml_file_that_is_too_long_to_describe_a_set_is_not_parsed(tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", f"2 {POLYGON}")
    (root / "log.yaml").write_text("[" * 2**21)
    assert open_source(root).labels.names == ("background", "class 0", "class 2")
    (root / "log.yaml").write_text("[1, 2")
    with pytest.raises(DatasetError, match=r"log\.yaml: is no YAML"):
        open_source(root)


def test_names_of_yolo_are_found_in_classes_txt_or_made(tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", f"2 {POLYGON}")
    assert open_source(root).labels.names == ("background", "class 0", "class 2")
    (root / "labels" / "classes.txt").write_text("cat\ndog\nfox\n")
    assert open_source(root).labels.names == ("background", "cat", "dog", "fox")
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    with pytest.raises(DatasetError, match=r"data\.yaml: class 2 is drawn and has no name"):
        open_source(root)


def test_boxes_beside_masks_are_not_meant_and_polygons_beside_masks_are_in_doubt(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.2", "1 0.5 0.5 0.2 0.2")
    for number in range(2):
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(binary(1)).save(root / "masks" / f"{number}.png")
    assert open_source(root).layout == "images + masks"
    yolo(tmp_path, f"0 {POLYGON}", f"1 {POLYGON}")
    with pytest.raises(DatasetError, match=r"could be YOLO \(labels/0\.txt; --masks 'labels/\*\.txt'\), or masks"):
        open_source(root)
    assert open_source(root, masks="labels/*.txt").layout == "polygons of YOLO"


def test_the_smaller_polygon_is_on_top(tmp_path: Path) -> None:
    small = "1 0.3 0.25 0.4 0.25 0.4 0.3"
    source = open_source(yolo(tmp_path, f"{small}\n0 0 0 1 0 1 1 0 1"))
    mask = source.reader.mask(source.splits["all"][0])
    assert mask[10, 22] == 2
    assert set(np.unique(mask)) == {1, 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", r"1\.txt: line 1: is a box, and a box is no mask"),
        ("0 10 20 30 20 30 40", r"1\.txt: line 1: lies outside of the image"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", r"1\.txt: line 1: is no class with x, y"),
        ("cat 0.1 0.2 0.3 0.4 0.5 0.6", r"1\.txt: line 1: is no class with x, y"),
        ("-1 0.1 0.2 0.3 0.4 0.5 0.6", r"1\.txt: line 1: is no class with x, y"),
        ("0 nan 0.2 0.3 0.4 0.5 0.6", r"1\.txt: line 1: is no class with x, y"),
    ],
)
def test_lines_of_yolo_that_are_no_polygons_name_the_line(line: str, message: str, tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", line, f"0 {POLYGON}")
    with pytest.raises(DatasetError, match=message):
        open_source(root)
    assert len(open_source(root, skip_bad=True).splits["all"]) == 2


def test_polygons_of_two_points_and_images_without_a_file_are_told(tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}\n0 0.1 0.1", f"0 {POLYGON}")
    photo(root / "images" / "9.jpg")
    assert [one.rule for one in open_source(root).findings] == [
        "1 polygons without three points",
        "1 images without a text file",
    ]


def test_numbers_of_objects_are_no_classes(tmp_path: Path) -> None:
    masks = [np.minimum(np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 30, most).astype(np.uint16) for most in (4, 7, 9)]
    with pytest.raises(DatasetError, match=r"2\.png: holds 1 to 9 without a gap, .* objects, and no classes\?"):
        open_source(tree(tmp_path, *masks))
    masks[0][masks[0] == 2] = 3
    assert open_source(tree(tmp_path, *masks)).labels.num_classes == 10


def test_a_color_table_that_turns_the_gray_levels_of_other_masks_round_is_refused(tmp_path: Path) -> None:
    inverting = [(255 - level,) * 3 for level in range(256)]
    alone = open_source(tree(tmp_path, indexed(binary(255), *inverting)))
    assert alone.labels.values == {0: "background", 255: "foreground"}
    with pytest.raises(DatasetError, match=r"0\.png has a palette of the gray levels 255, 0 and the indices 0, 255"):
        open_source(tree(tmp_path, binary(255), start=1))
    bits = tree(tmp_path / "bits", indexed(binary(1), inverting[0], inverting[255]), Image.fromarray(INSIDE))
    with pytest.raises(DatasetError, match=r"0\.png has a palette of the gray levels 255, 0 and the indices 0, 1"):
        open_source(bits)


def test_255_beside_a_few_strays_is_not_ignored_without_a_word(tmp_path: Path) -> None:
    stray = binary(255)
    stray[0, 0] = 1
    with pytest.raises(DatasetError, match=r"1\.png: holds 1, and the masks so much more of 255 that it can hardly be"):
        open_source(tree(tmp_path, binary(255), stray))
    assert open_source(tmp_path, values={0: "ground", 1: "ground", 255: "box"}).labels.names == ("ground", "box")


def test_255_beside_masks_of_several_classes_that_never_have_it_is_refused(tmp_path: Path) -> None:
    several = binary(2)
    several[0] = 1
    data = SegmentationDataModule(str(tree(tmp_path, several, several, binary(255))))
    with pytest.raises(DatasetError, match=r"holds 0, 1, 2, .*2\.png 0 and 255, .*--values .*2=class 2,255=ignore"):
        data.check()
    tree(tmp_path / "tiles", several, several, suffix=".tif")
    photo(tmp_path / "tiles" / "images" / "2.png")
    nodata = [(42113, "s", 0, "255", True)]
    tifffile.imwrite(tmp_path / "tiles" / "masks" / "2.tif", binary(255), extratags=nodata)
    SegmentationDataModule(str(tmp_path / "tiles")).check()


@pytest.mark.parametrize("name", ["Classes.TXT", "class_names.txt"])
@pytest.mark.parametrize("text", ["0: ground\n1: box\n", "1 box\n0 ground\n", "# all\nground\nbox\n"])
def test_lines_may_begin_with_the_value_or_be_comments(name: str, text: str, tmp_path: Path) -> None:
    (tree(tmp_path, binary(1), binary(1)) / name).write_text(text)
    assert open_source(tmp_path).labels.values == {0: "ground", 1: "box", 255: "ignore"}


def test_regions_of_nnunet_are_no_colors(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "whole": [1, 2, 3], "core": 3}}
    (tree(tmp_path, binary(1), binary(1)) / "dataset.json").write_text(json.dumps(content))
    assert open_source(tmp_path).labels.names == ("class 0", "class 1")


def test_text_files_without_an_image_are_told_and_others_are_none(tmp_path: Path) -> None:
    root = yolo(tmp_path, f"0 {POLYGON}", f"0 {POLYGON}")
    (root / "labels" / "notes.txt").write_text("0 is the class of all that grows\n")
    assert len(open_source(root).pairs) == 2
    (root / "labels" / "9.txt").write_text(f"0 {POLYGON}")
    with pytest.raises(DatasetError, match=r"9\.txt: no image of the same name"):
        open_source(root)


def test_corners_that_six_digits_miss_by_a_little_are_whole_pixels(tmp_path: Path) -> None:
    x, y = (np.array(corners) / side for corners, side in (((11, 31), SIZE[1]), ((7, 23), SIZE[0])))
    line = " ".join(f"{x[i]:.6f} {y[j]:.6f}" for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    source = open_source(yolo(tmp_path, f"0 {line}"))
    drawn = source.reader.mask(source.pairs[0]).nonzero()
    assert [(side.min(), side.max()) for side in drawn] == [(7, 23), (11, 31)]

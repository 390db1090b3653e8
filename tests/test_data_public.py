from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

import public_trees as trees
from fullyconv import label_sets
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.pairs import Pair
from fullyconv.data.public import PUBLIC, describe, fetch, locate, recognize, set_named
from fullyconv.data.public.nyudv2 import CHANNELS, LOG_DEPTH, Nyudv2, log_depth_codes
from fullyconv.data.public.siftflow import SCENES
from fullyconv.data.public.voc import YEARS, Voc
from fullyconv.data.sources import Source, dataset_root, open_source
from fullyconv.errors import DatasetError
from fullyconv.images import write_image, write_mask
from fullyconv.palettes import default_palette, voc_palette

# Every layout once: how the tests write it, and the set that it is.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "voc2012": lambda root: trees.voc(root / "VOC2012"),
    "voc2011": lambda root: trees.voc(root / "VOC2011"),
    "voc2007": lambda root: trees.voc(root / "VOC2007", {"train": ["000032"], "val": ["000033"], "test": ["000039"]}),
    "sbd": lambda root: trees.sbd(root / "dataset", ["2008_000002", "2008_000003"], ["2008_000007"]),
    "pascal_context": lambda root: trees.context(root, "trainval", [0, 2, 397, 431]),
    "nyudv2": trees.nyud,
    "siftflow": trees.siftflow,
    "cityscapes": trees.cityscapes,
    "ade20k": lambda root: trees.ade20k(root / "ADEChallengeData2016"),
    "oxford_pet": trees.oxford_pet,
    "coco_stuff": trees.coco_stuff,
    "camvid": trees.camvid,
}


def encoded(source: Source, split: str = "train") -> list[int]:
    pair = source.splits[split][0]
    return np.unique(source.labels.encode(source.reader.mask(pair), pair.mask)).tolist()


def sizes(source: Source) -> dict[str, int]:
    return {split: len(pairs) for split, pairs in source.splits.items()}


# All of them


@pytest.mark.parametrize("name", LAYOUTS)
def test_set_is_known_by_its_files_and_taken_for_no_other(tmp_path: Path, name: str) -> None:
    root = LAYOUTS[name](tmp_path / "data")
    found = recognize(root)
    assert found is not None
    assert found[0].name == name
    for other in PUBLIC.values():
        if other.entry != found[0].entry or (isinstance(other, Voc) and other.name != name):
            assert not other.is_set(found[1])


@pytest.mark.parametrize("name", LAYOUTS)
def test_folder_opens_with_the_classes_and_splits_of_the_set_and_says_that_it_is_a_part(
    tmp_path: Path, name: str
) -> None:
    source = open_source(LAYOUTS[name](tmp_path / "data"))
    assert source.layout == PUBLIC[name].facts.title
    assert source.labels == next(iter(PUBLIC[name].labels.values()))
    assert source.splits.keys() <= PUBLIC[name].facts.counts.keys()
    split, count = next(iter(PUBLIC[name].facts.counts.items()))
    assert f"{split}: {len(source.splits[split])} pairs, {count} were published" in source.notes


@pytest.mark.parametrize("name", LAYOUTS)
def test_name_finds_the_set_under_the_root_and_samples_are_right(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS[name](tmp_path / PUBLIC[name].facts.folders[0])
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    data = SegmentationDataModule(name)
    assert sum(data.check().values()) > 0
    sample = data.dataset("train")[0]
    assert sample["image"].shape == (3, *trees.SIZE)
    assert sample["mask"].shape == trees.SIZE
    assert pickle.loads(pickle.dumps(data.source.reader)) == data.source.reader


def test_registry_names_are_those_of_the_sets_and_facts_are_complete() -> None:
    for name, known in PUBLIC.items():
        assert known.name == name
        facts = known.facts
        assert facts.title
        assert facts.source
        assert facts.license
        assert facts.page.startswith("http")
        assert facts.folders
        assert all(count > 0 for count in facts.counts.values())
        assert name in describe(known)
        assert hash(known) == hash(pickle.loads(pickle.dumps(known)))
    with pytest.raises(ValueError, match=r"'voc2013': no such public set\. Did you mean voc201"):
        set_named("voc2013")


def test_page_lists_every_set_with_its_numbers() -> None:
    page = (Path(__file__).parents[1] / "docs" / "public-sets.md").read_text(encoding="utf-8")
    for name, known in PUBLIC.items():
        counts = ", ".join(f"{split} {count:,}" for split, count in known.facts.counts.items())
        classes = " + ".join(str(labels.num_classes) for labels in known.labels.values())
        assert f"| `{name}` | {known.facts.title} | {classes} | {counts} |" in page


def test_numbers_of_images_are_those_that_the_papers_give() -> None:
    counts = {name: known.facts.counts for name, known in PUBLIC.items()}
    assert counts["voc2011"] == {"train": 1112, "val": 1111}
    assert counts["sbd_seg11valid"] == {"train": 8498, "val": 736}
    assert counts["voc2012_augmented"] == {"train": 10582, "val": 1449}
    assert sum(counts["nyudv2"].values()) == 1449
    assert sum(counts["siftflow"].values()) == 2688 - 2
    assert sum(counts["oxford_pet"].values()) == 7349


def test_classes_are_as_many_as_the_papers_score() -> None:
    wanted = {"voc2012": 21, "pascal_context": 60, "pascal_context59": 59, "nyudv2": 40, "cityscapes": 19}
    wanted |= {"ade20k": 150, "oxford_pet": 2, "oxford_pet_border": 3, "coco_stuff": 171, "camvid": 11}
    for name, count in wanted.items():
        assert PUBLIC[name].labels["main"].num_classes == count
    assert {head: labels.num_classes for head, labels in PUBLIC["siftflow"].labels.items()} == {
        "semantic": 33,
        "geometric": 3,
    }


def test_folder_that_is_two_sets_at_once_is_refused_with_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.context(tmp_path, "SegmentationClassContext", [0, 1, 59]) / "VOC2010"
    (tmp_path / "SegmentationClassContext").rename(root / "SegmentationClassContext")
    trees.voc(root)
    with pytest.raises(DatasetError, match=r"more than one public set: voc2010, pascal_context\. Say which by"):
        open_source(root)
    monkeypatch.setenv("FULLYCONV_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    assert open_source("pascal_context").labels.num_classes == 60
    assert open_source("pascal_context59").labels.num_classes == 59
    assert open_source("voc2010").labels.num_classes == 21


def test_ones_own_folder_of_the_name_of_a_set_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "cityscapes" / "images" / "a.png", trees.image())
    write_mask(tmp_path / "cityscapes" / "masks" / "a.png", trees.spread([0, 1]))
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    assert open_source("cityscapes").labels.names == ("class 0", "class 1")


def test_missing_set_says_where_it_is_to_be_had_and_how_it_has_to_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        open_source("cityscapes")
    text = str(caught.value)
    for part in (
        "https://www.cityscapes-dataset.com/downloads/",
        "log in, accept the terms",
        "leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip",
        "leftImg8bit/train/CITY/NAME_leftImg8bit.png",
    ):
        assert part in text
    with pytest.raises(FileNotFoundError, match="It can be fetched: fullyconv fetch voc2012"):
        dataset_root("voc2012")
    trees.sbd(tmp_path / "sbd", ["2008_000002"], ["2008_000003"])
    with pytest.raises(FileNotFoundError, match="voc2011: PASCAL VOC 2011 is not in"):
        dataset_root("sbd_seg11valid")


def test_values_and_classes_of_ones_own_change_the_published_map(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    labels = open_source(root, values={9: "road", 7: "ignore"}).labels
    assert (labels.values[9], labels.values[7], labels.values[33]) == ("road", "ignore", "bicycle")
    assert open_source(root, classes=list(label_sets.CITYSCAPES)).labels == label_sets.cityscapes()


# PASCAL VOC


def test_voc_masks_are_indices_of_the_palette_and_the_border_is_ignored(tmp_path: Path) -> None:
    source = open_source(trees.voc(tmp_path / "VOCdevkit" / "VOC2012").parent.parent)
    assert source.root == tmp_path / "VOCdevkit" / "VOC2012"
    assert sizes(source) == {"train": 2, "val": 3}
    assert encoded(source) == [0, 1, 20, 255]
    assert source.labels.palette == default_palette(21)
    with Image.open(source.splits["train"][0].mask) as image:
        assert image.mode == "P"


@pytest.mark.parametrize("year", YEARS)
def test_year_of_voc_is_that_of_its_folder(tmp_path: Path, year: int) -> None:
    ids = {"train": ["000001"], "val": ["000002"]} if year == 2007 else None
    found = recognize(trees.voc(tmp_path / f"VOC{year}", ids))
    assert found is not None
    assert found[0].name == f"voc{year}"


def test_year_of_voc_is_told_by_its_lists_where_the_folder_is_called_otherwise(tmp_path: Path) -> None:
    root = trees.voc(tmp_path / "pascal")
    lists = root / "ImageSets" / "Segmentation"
    trees.listing(lists / "train.txt", [*trees.VOC_IDS["train"], *(f"2008_{i:06}" for i in range(900000, 901110))])
    found = recognize(root)
    assert found is not None
    assert found[0].name == "voc2011"


def test_test_images_of_voc_are_a_split_only_where_their_masks_are_public(tmp_path: Path) -> None:
    root = trees.voc(tmp_path / "VOC2012")
    trees.listing(root / "ImageSets" / "Segmentation" / "test.txt", ["2008_000006"])
    assert sizes(open_source(root)) == {"train": 2, "val": 3}
    assert sizes(open_source(LAYOUTS["voc2007"](tmp_path))) == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("change", ["names", "gray", "colors"])
def test_other_set_in_the_layout_of_voc_is_not_voc(tmp_path: Path, change: str) -> None:
    names = ["a", "b"] if change == "names" else ["2007_000032", "2008_000033"]
    root = trees.voc(tmp_path / "VOC2012", {"train": names, "val": [names[0] + "x"] if change == "names" else names})
    for path in (root / "SegmentationClass").iterdir():
        if change == "gray":
            write_mask(path, trees.spread([0, 1]))
        elif change == "colors":
            Image.open(path).convert("RGB").save(path)
    assert recognize(root) is None


def test_missing_mask_of_a_listed_image_is_named(tmp_path: Path) -> None:
    root = trees.voc(tmp_path / "VOC2012")
    (root / "SegmentationClass" / "2009_000064.png").unlink()
    with pytest.raises(DatasetError, match=r"val\.txt: names 3 images, and 1 files .*2009_000064\.png\); unpack"):
        open_source(root)


def test_missing_list_and_missing_folder_are_named(tmp_path: Path) -> None:
    root = trees.voc(tmp_path / "VOC2012")
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such file; it lists the images of a split"):
        PUBLIC["voc2012"].find_splits(root)
    with pytest.raises(FileNotFoundError, match="JPEGImages: no such folder; PASCAL VOC 2012 has it"):
        PUBLIC["voc2012"].find_splits(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"../../secret\n", "leads out of its folder"),
        (b"/etc/passwd\n", "leads out of its folder"),
        (b"C:\\secret\n", "leads out of its folder"),
    ],
)
def test_damaged_list_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    root = trees.voc(tmp_path / "VOC2012")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_bytes(text)
    with pytest.raises(DatasetError, match=rf"val\.txt: .*{message}"):
        open_source(root)


# SBD and seg11valid

SBD_TRAIN = ["2008_000002", "2009_000064", "2010_000241"]
SBD_VAL = ["2008_000003", "2007_000032"]


def sbd_and_voc(base: Path, year: int) -> Path:
    root = trees.sbd(base / "sbd" / "benchmark_RELEASE" / "dataset", SBD_TRAIN, SBD_VAL)
    trees.voc(base / "VOCdevkit" / f"VOC{year}")
    return root


def test_sbd_reads_its_structures_and_has_no_void(tmp_path: Path) -> None:
    source = open_source(trees.sbd(tmp_path / "benchmark_RELEASE" / "dataset", SBD_TRAIN, SBD_VAL).parent.parent)
    assert sizes(source) == {"train": 3, "val": 2}
    assert encoded(source) == [0, 1, 20]


def test_seg11valid_is_val_of_voc_2011_without_train_of_sbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sbd_and_voc(tmp_path, 2011)
    assert [pair.key for pair in PUBLIC["sbd_seg11valid"].find_splits(root)["val"]] == ["2007_000039"]
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    source = open_source("sbd_seg11valid")
    assert sizes(source) == {"train": 3, "val": 1}
    assert encoded(source, "train") == [0, 1, 20]
    assert encoded(source, "val") == [0, 1, 20, 255]
    assert {pair.key for pair in source.splits["train"]}.isdisjoint(pair.key for pair in source.splits["val"])


def test_train_without_val_of_voc_2012_and_augmented_train(tmp_path: Path) -> None:
    root = sbd_and_voc(tmp_path, 2012)
    noval = PUBLIC["sbd_noval"].find_splits(root)
    assert [pair.key for pair in noval["train"]] == ["2008_000002"]
    augmented = PUBLIC["voc2012_augmented"].find_splits(root)
    assert [pair.key for pair in augmented["train"]] == ["2007_000032", "2008_000033", "2008_000002", "2008_000003"]
    assert [pair.mask.suffix for pair in augmented["train"]] == [".png", ".png", ".mat", ".mat"]
    assert len(augmented["val"]) == 3


def test_sbd_without_the_voc_that_it_is_validated_on_says_so(tmp_path: Path) -> None:
    root = sbd_and_voc(tmp_path, 2012)
    with pytest.raises(FileNotFoundError, match="VOC2011: no such folder in or around"):
        PUBLIC["sbd_seg11valid"].find_splits(root)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file at all", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_damaged_matlab_file_is_named(tmp_path: Path, content: bytes) -> None:
    source = open_source(trees.sbd(tmp_path, SBD_TRAIN, SBD_VAL))
    pair = source.splits["train"][0]
    pair.mask.write_bytes(content)
    with pytest.raises(DatasetError, match=r"2008_000002\.mat: "):
        source.reader.mask(pair)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": "text"}, r"holds 0 label matrices \(other\)"),
        ({"GTcls": {"other": trees.spread([0])}}, r"holds 0 label matrices \(GTcls\)"),
        ({"GTcls": {"Segmentation": trees.spread([0.5], np.float64)}}, "whole numbers 0..65535"),
        ({"GTcls": {"Segmentation": np.zeros((2, 3, 4))}}, "holds 0 label matrices"),
        ({"GTcls": {"Segmentation": trees.spread([-1], np.int16)}}, "whole numbers 0..65535"),
    ],
)
def test_matlab_file_without_labels_is_named(tmp_path: Path, variables: dict[str, object], message: str) -> None:
    source = open_source(trees.sbd(tmp_path, SBD_TRAIN, SBD_VAL))
    pair = source.splits["train"][0]
    trees.mat(pair.mask, **variables)
    with pytest.raises(DatasetError, match=rf"2008_000002\.mat: .*{message}"):
        source.reader.mask(pair)


# PASCAL-Context


def test_what_is_none_of_the_59_is_background_which_is_a_class(tmp_path: Path) -> None:
    root = trees.context(tmp_path / "context", "trainval", [0, 1, 2, 397, 431, 458, 459, 255])
    source = open_source(root)
    assert sizes(source) == {"train": 1, "val": 2}
    names = label_sets.PASCAL_CONTEXT
    wanted = [0, 0, 1, names.index("diningtable"), 0, names.index("wood"), 0, 0]
    pair = source.splits["train"][0]
    mask = source.labels.encode(source.reader.mask(pair))
    assert mask.tolist() == trees.spread(wanted).tolist()  # 255 is a label of its own here, and nothing is ignored
    assert source.labels.values[0] == "background"


def test_task_of_59_classes_ignores_background_and_keeps_the_order(tmp_path: Path) -> None:
    root = trees.context(tmp_path, "trainval", [0, 2, 397, 431])
    known = PUBLIC["pascal_context59"]
    mask = known.labels["main"].encode(known.reader(root).mask(known.find_splits(root)["train"][0]))
    table = label_sets.PASCAL_CONTEXT.index("diningtable") - 1
    assert mask.tolist() == trees.spread([255, 0, table, 255]).tolist()
    assert known.labels["main"].names == PUBLIC["pascal_context"].labels["main"].names[1:]


def test_images_of_context_count_in_the_order_of_their_own_list(tmp_path: Path) -> None:
    stanford = open_source(trees.context(tmp_path / "a", "59_context_labels", [0, 1, 2, 59]))
    later = open_source(trees.context(tmp_path / "b", "SegmentationClassContext", [0, 1, 2, 59]))
    names = label_sets.PASCAL_CONTEXT
    assert encoded(stanford) == [0, 1, 2, 59]
    assert encoded(later) == sorted([0, names.index("aeroplane"), names.index("bag"), names.index("wood")])
    value = later.reader.mask(later.splits["train"][0])
    assert value[0, :4].tolist() == [0, 1, 21, 59]


def test_value_of_context_beyond_the_labels_is_refused(tmp_path: Path) -> None:
    root = trees.context(tmp_path, "trainval", [0, 460])
    source = open_source(root)
    with pytest.raises(DatasetError, match=r"2008_000002\.mat: holds the value 460"):
        source.reader.mask(source.splits["train"][0])


def test_masks_of_context_find_the_images_of_voc_2010_near_them(tmp_path: Path) -> None:
    trees.context(tmp_path / "pascal_context", "trainval", [0, 2])
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "pascal_context" / "VOC2010").rename(tmp_path / "VOCdevkit" / "VOC2010")
    trees.voc(tmp_path / "VOCdevkit" / "VOC2010")
    assert locate(PUBLIC["pascal_context"], tmp_path) == tmp_path / "pascal_context"
    assert sizes(open_source(tmp_path / "pascal_context")) == {"train": 1, "val": 2}


# NYUDv2


def test_nyud_void_is_ignored_and_labels_do_not_wrap_around(tmp_path: Path) -> None:
    source = open_source(trees.nyud(tmp_path))
    assert sizes(source) == {"train": 1, "val": 2, "test": 1}
    pair = source.splits["train"][0]
    mask = source.labels.encode(source.reader.mask(pair))
    assert mask.dtype == np.uint8
    assert mask.tolist() == trees.spread([255, 0, 1, 39]).tolist()


@pytest.mark.parametrize("inputs", CHANNELS)
def test_inputs_of_nyud_are_the_channels_in_the_order_of_their_name(
    tmp_path: Path, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.nyud(tmp_path / "nyudv2")
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    data = SegmentationDataModule("nyudv2" if inputs == "rgb" else f"nyudv2_{inputs.replace('-', '_')}")
    image = data.source.reader.image(data.splits["train"][0])
    assert image.shape == (*trees.SIZE, CHANNELS[inputs])
    parts = {"rgb": trees.image(0), "hha": trees.image(100), "depth": trees.spread([0, 1, 135, 255])[..., None]}
    assert (image == np.concatenate([parts[kind] for kind in inputs.split("-")], axis=2)).all()
    assert data.dataset("train")[0]["image"].shape[0] == CHANNELS[inputs]
    assert root == data.source.root


def test_depth_is_kept_as_its_logarithm_to_a_step_of_less_than_one_and_a_half_percent() -> None:
    depth = np.arange(450, 13000, 7)
    low, high = LOG_DEPTH
    logs = low + (log_depth_codes(depth).astype(float) - 1) / 254 * (high - low)
    assert np.abs(logs - np.log(depth)).max() < np.log(1.007)
    assert log_depth_codes(np.array([0, 1, 65535])).tolist() == [0, 1, 255]


def test_nyud_without_the_inputs_asked_for_says_which_are_missing(tmp_path: Path) -> None:
    root = trees.nyud(tmp_path)
    (root / "data" / "hha" / "img_5002.png").unlink()
    with pytest.raises(DatasetError, match=r"inputs='rgb-hha': 1 images have no hha .*img_5002\.png"):
        PUBLIC["nyudv2_rgb_hha"].find_splits(root)
    assert len(PUBLIC["nyudv2_rgb_depth"].find_splits(root)["val"]) == 2


def test_nyud_trains_on_trainval_where_there_is_no_train(tmp_path: Path) -> None:
    root = trees.nyud(tmp_path)
    (root / "train.txt").rename(root / "trainval.txt")
    (root / "val.txt").unlink()
    assert {split: len(part) for split, part in PUBLIC["nyudv2"].find_splits(root).items()} == {"train": 1, "test": 1}


def test_nyud_without_lists_names_those_that_are_wanted(tmp_path: Path) -> None:
    root = trees.nyud(tmp_path)
    (root / "train.txt").unlink()
    assert list(PUBLIC["nyudv2"].find_splits(root)) == ["test"]
    (root / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of train\.txt, trainval\.txt and test\.txt"):
        PUBLIC["nyudv2"].find_splits(root)


def test_nyud_as_images_is_known_in_a_folder_that_is_called_so(tmp_path: Path) -> None:
    for folder in ("NYUDepthv2", "indoor"):
        root = tmp_path / folder
        for name in ("0", "1"):
            write_image(root / "RGB" / f"{name}.jpg", trees.image())
            write_image(root / "HHA" / f"{name}.jpg", trees.image(1))
            write_mask(root / "Label" / f"{name}.png", trees.spread([0, 1, 40]))
        trees.listing(root / "train.txt", ["RGB/0.jpg Label/0.png"])
        trees.listing(root / "test.txt", ["RGB/1.jpg Label/1.png"])
    found = recognize(tmp_path / "NYUDepthv2")
    assert found is not None
    assert isinstance(found[0], Nyudv2)
    assert recognize(tmp_path / "indoor") is None
    source = open_source(tmp_path / "NYUDepthv2")
    assert encoded(source) == [0, 39, 255]
    assert PUBLIC["nyudv2_rgb_hha"].reader(source.root).image(source.splits["test"][0]).shape[2] == 6


# SIFT Flow


def test_both_labelings_of_siftflow_and_their_void(tmp_path: Path) -> None:
    source = open_source(trees.siftflow(tmp_path / "SiftFlowDataset"))
    assert {split: [pair.key for pair in part] for split, part in source.splits.items()} == {
        "train": ["coast_n1", "forest_n2"],  # two have no annotation
        "test": ["mountain_n3"],
    }
    known = PUBLIC["siftflow"]
    masks = known.reader(source.root).masks(source.splits["train"][0])  # type: ignore[attr-defined]
    wanted = {"semantic": [255, 0, 32], "geometric": [255, 255, 0, 2, 1]}
    for head, labels in known.labels.items():
        assert labels.encode(masks[head]).tolist() == trees.spread(wanted[head]).tolist()
    geometric = PUBLIC["siftflow_geometric"]
    pair = geometric.find_splits(source.root)["test"][0]
    assert "GeoLabels" in pair.mask.parts
    assert set(np.unique(geometric.reader(source.root).mask(pair))) == {0, 1, 2, 3}


def test_lists_of_siftflow_name_files_in_whatever_way(tmp_path: Path) -> None:
    root = trees.siftflow(tmp_path)
    (root / "test.txt").rename(root / "TestSet1.txt")
    (root / "TestSet1.txt").write_text(f"{SCENES}\\forest_n2.jpg\r\n")
    trees.listing(root / "trainval.txt", ["coast_n1", "highway_bost181", "mountain_n3"])
    splits = PUBLIC["siftflow"].find_splits(root)
    assert [pair.key for pair in splits["test"]] == ["forest_n2"]
    assert [pair.key for pair in splits["train"]] == ["coast_n1", "mountain_n3"]
    (root / "TestSet1.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.txt: no such file; it lists the images of a split"):
        PUBLIC["siftflow"].find_splits(root)


def test_siftflow_without_one_labeling_says_which(tmp_path: Path) -> None:
    root = trees.siftflow(tmp_path)
    (root / "GeoLabels" / SCENES / "coast_n1.mat").unlink()
    with pytest.raises(DatasetError, match=r"GeoLabels.*coast_n1\.mat"):
        open_source(root)


# Cityscapes


def test_label_ids_of_cityscapes_are_19_classes_and_the_rest_is_ignored(tmp_path: Path) -> None:
    source = open_source(trees.cityscapes(tmp_path))
    assert sizes(source) == {"train": 2, "val": 1}  # the masks of the test images hold no classes
    assert source.labels.encode(np.arange(34).reshape(2, 17)).ravel().tolist() == [
        255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255,
        5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18,
    ]  # fmt: skip
    assert encoded(source) == [0, 18, 255]


def test_classes_of_cityscapes_are_those_of_its_scripts_as_torchvision_has_them() -> None:
    from torchvision.datasets import Cityscapes

    known = {entry.name: (entry.id, entry.color) for entry in Cityscapes.classes if 0 <= entry.train_id < 255}
    assert known == label_sets.CITYSCAPES
    ids = [entry.train_id for entry in Cityscapes.classes if 0 <= entry.train_id < 255]
    assert ids == list(range(19))


def test_train_ids_of_cityscapes_are_the_same_classes(tmp_path: Path) -> None:
    source = open_source(trees.cityscapes(tmp_path, "labelTrainIds", [0, 18, 255]))
    assert encoded(source) == [0, 18, 255]
    stray = open_source(trees.cityscapes(tmp_path / "stray", "labelTrainIds", [0, 19]))
    with pytest.raises(DatasetError, match=r"labelTrainIds\.png: holds the value 19"):
        encoded(stray)


def test_half_of_cityscapes_says_which_archive_is_missing(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    (root / "gtFine" / "val").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match="val: no such folder; unpack all parts of the set"):
        open_source(root)
    (root / "elsewhere").rename(root / "gtFine" / "val")
    next((root / "gtFine" / "train" / "bochum").glob("*labelIds*")).unlink()
    with pytest.raises(
        DatasetError, match=r"bochum_000000_000019_leftImg8bit\.png: no mask of the same name in .*train"
    ):
        open_source(root)
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train: no such folder"):
        PUBLIC["cityscapes"].find_splits(tmp_path / "gtFine")


# ADE20K, Oxford-IIIT Pet, COCO-Stuff, CamVid


def test_ade_value_0_is_ignored_and_150_classes_follow(tmp_path: Path) -> None:
    source = open_source(trees.ade20k(tmp_path / "ADEChallengeData2016").parent)
    assert sizes(source) == {"train": 2, "val": 2}
    assert encoded(source) == [0, 149, 255]
    assert (source.labels.names[0], source.labels.names[149]) == ("wall", "flag")


def test_other_set_in_the_layout_of_ade_is_not_ade(tmp_path: Path) -> None:
    root = trees.ade20k(tmp_path)
    for path in [*root.rglob("ADE_*")]:
        path.rename(path.with_name(path.name.replace("ADE_", "x_")))
    assert recognize(root) is None


def test_border_of_pets_is_ignored_or_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.oxford_pet(tmp_path / "oxford-iiit-pet")
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    source = open_source("oxford_pet")
    assert sizes(source) == {"train": 2, "test": 1}
    mask = source.labels.encode(source.reader.mask(source.splits["train"][0]))
    assert mask.tolist() == trees.spread([1, 0, 255]).tolist()
    assert encoded(open_source("oxford_pet_border")) == [0, 1, 2]


def test_coco_stuff_ids_have_gaps_and_255_is_ignored(tmp_path: Path) -> None:
    source = open_source(trees.coco_stuff(tmp_path))
    assert sizes(source) == {"train": 2, "val": 1}
    mask = source.labels.encode(source.reader.mask(source.splits["train"][0]))
    assert mask.tolist() == trees.spread([0, 10, 11, 79, 80, 170, 255]).tolist()
    names = source.labels.names
    assert [names[i] for i in (0, 10, 11, 79, 80, 170)] == [
        "person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood",
    ]  # fmt: skip
    assert source.labels.unknown(range(256)) == [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, *range(182, 255)]


def test_coco_stuff_is_known_without_a_folder_of_images_and_with_annotations(tmp_path: Path) -> None:
    root = trees.coco_stuff(tmp_path / "coco")
    for split in ("train2017", "val2017"):
        (root / "images" / split).rename(root / split)
    (root / "images").rmdir()
    (root / "stuffthingmaps").rename(root / "annotations")
    assert sizes(open_source(root)) == {"train": 2, "val": 1}
    (root / "annotations").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match="stuffthingmaps/train2017: no such folder"):
        PUBLIC["coco_stuff"].find_splits(root)


# What is real


@pytest.mark.data
def test_real_sets_are_known_or_not_by_what_they_are(data_root: Path) -> None:
    wanted = {
        "camvid": "camvid",
        "voc2007_mini/VOC2007": "voc2007",
        "voc2007_mini": None,
        "pets128": None,  # other sizes, other values, another layout
        "clothes_voc": None,
        "clothes_voc/VOC2012": None,
        "sci_16bit": None,
        "neu_seg": None,  # images/training and annotations/training, as ADE20K
    }
    for name, known in wanted.items():
        if (data_root / name).is_dir():
            found = recognize(data_root / name)
            assert (found[0].name if found else None) == known


@pytest.mark.data
def test_real_voc_has_its_classes_and_its_border(data_root: Path) -> None:
    root = data_root / "voc2007_mini" / "VOC2007"
    if not root.is_dir():
        pytest.skip(f"no voc2007_mini under FULLYCONV_DATA={data_root}")
    data = SegmentationDataModule(str(root))
    assert data.labels == label_sets.voc()
    totals = data.check()
    assert totals["ignore"] > 0
    assert totals["background"] > totals["person"] > 0
    with Image.open(data.splits["train"][0].mask) as image:
        palette = image.getpalette()
    assert palette is not None
    assert tuple(map(tuple, np.array(palette).reshape(-1, 3)[:21].tolist())) == voc_palette(21)


@pytest.mark.data
def test_real_name_in_the_folder_of_real_sets(data_root: Path) -> None:
    if not (data_root / "camvid").is_dir():
        pytest.skip(f"no camvid under FULLYCONV_DATA={data_root}")
    assert fetch("camvid", data_root, download=False) == data_root / "camvid"
    assert locate(PUBLIC["voc2012"], data_root) is None


# Beside torchvision's classes


def same_files(pairs: list[Pair], images: list[str], masks: list[str]) -> bool:
    return sorted((str(pair.image), str(pair.mask)) for pair in pairs) == sorted(zip(images, masks, strict=True))


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_has_the_pairs_of_torchvision(tmp_path: Path, year: int) -> None:
    root = trees.voc(tmp_path / "VOCdevkit" / f"VOC{year}")
    splits = PUBLIC[f"voc{year}"].find_splits(root)
    for split in ("train", "val"):
        peer = datasets.VOCSegmentation(str(tmp_path), year=str(year), image_set=split)
        assert same_files(splits[split], peer.images, peer.masks)
        with Image.open(peer.masks[0]) as mask:
            assert np.array_equal(PUBLIC[f"voc{year}"].reader(root).mask(splits[split][0]), np.asarray(mask))


def test_sbd_has_the_pairs_and_masks_of_torchvision(tmp_path: Path) -> None:
    root = trees.sbd(tmp_path, ["2008_000002", "2008_000003"], ["2008_000007"])
    splits, reader = PUBLIC["sbd"].find_splits(root), PUBLIC["sbd"].reader(root)
    for split in ("train", "val"):
        peer = datasets.SBDataset(str(root), image_set=split, mode="segmentation")
        assert same_files(splits[split], peer.images, peer.masks)
        target = peer._get_segmentation_target(peer.masks[0])
        assert np.array_equal(reader.mask(splits[split][0]), np.asarray(target))


def test_cityscapes_has_the_pairs_of_torchvision(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    splits = PUBLIC["cityscapes"].find_splits(root)
    for split in ("train", "val"):
        peer = datasets.Cityscapes(str(root), split=split, target_type="semantic")
        assert same_files(splits[split], peer.images, [targets[0] for targets in peer.targets])


def test_pets_have_the_pairs_of_torchvision(tmp_path: Path) -> None:
    root = trees.oxford_pet(tmp_path / "oxford-iiit-pet")
    splits = PUBLIC["oxford_pet"].find_splits(root)
    for split, name in (("train", "trainval"), ("test", "test")):
        peer = datasets.OxfordIIITPet(str(tmp_path), split=name, target_types="segmentation")
        assert same_files(splits[split], [str(path) for path in peer._images], [str(path) for path in peer._segs])


# Their label maps for folders of one's own


def own_folder(root: Path, names: tuple[str, ...] = ("a", "b", "c"), *, colors: bool = False) -> Path:
    palette = np.array(voc_palette(21), np.uint8)
    for name in names:
        write_image(root / "images" / f"{name}.png", trees.image())
        mask = trees.spread([0, 1, 15])
        write_image(root / "masks" / f"{name}.png", palette[mask]) if colors else write_mask(
            root / "masks" / f"{name}.png", mask
        )
    return root


@pytest.mark.parametrize("colors", [False, True])
def test_label_map_of_a_public_set_is_taken_by_its_name(tmp_path: Path, colors: bool) -> None:
    data = SegmentationDataModule(str(own_folder(tmp_path, colors=colors)), values="voc2012")
    assert data.labels.names == label_sets.voc().names
    assert data.labels.palette == label_sets.voc().palette
    assert set(data.dataset("val")[0]["mask"].unique().tolist()) == {0, 1, 15}
    assert "label map of voc2012, 21 classes" in data.report


def test_colors_of_a_public_set_are_read_as_its_files_have_them_and_drawn_in_others(tmp_path: Path) -> None:
    own = next(iter(PUBLIC["cityscapes"].labels.values()))
    palette = np.array([*(color for _, color in label_sets.CITYSCAPES.values()), (0, 0, 0)], np.uint8)
    write_image(tmp_path / "images" / "a.png", trees.image())
    write_image(tmp_path / "images" / "b.png", trees.image())
    for name in "ab":
        write_image(tmp_path / "masks" / f"{name}.png", palette[trees.spread([0, 13, 19])])
    data = SegmentationDataModule(str(tmp_path), values="cityscapes")
    assert data.labels.names == own.names
    assert data.labels.palette == own.palette == default_palette(20)[1:]
    assert set(data.dataset("val")[0]["mask"].unique().tolist()) == {0, 13, 255}


def test_label_map_that_is_none_or_does_not_fit_is_named(tmp_path: Path) -> None:
    root = str(own_folder(tmp_path))
    with pytest.raises(ValueError, match=r"or the name of a public set\. Did you mean"):
        SegmentationDataModule(root, values="voc212")
    with pytest.raises(ValueError, match="leave classes= out"):
        SegmentationDataModule(root, values="voc2012", classes=["a", "b"])
    with pytest.raises(DatasetError, match=r"\.png: label value 15"):
        SegmentationDataModule(root, values="camvid").check()

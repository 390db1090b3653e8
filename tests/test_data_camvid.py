from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.public import PUBLIC
from fullyconv.data.sources import open_source
from fullyconv.errors import DatasetError
from fullyconv.images import write_image, write_mask


def write_camvid(root: Path, splits: dict[str, list[str]], values: int = 12) -> Path:
    for split, names in splits.items():
        for name in names:
            write_image(root / split / f"{name}.png", np.full((12, 16, 3), 90, np.uint8))
            write_mask(root / f"{split}annot" / f"{name}.png", np.arange(12 * 16).reshape(12, 16) % values)
    (root / "train.txt").write_text("/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png\n")
    return root


SET = PUBLIC["camvid"]
CAMVID, SPLITS = SET.labels["main"], SET.facts.counts

FILES = {"train": ["0001TP_006690", "0016E5_01260"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]}


def test_layout_classes_and_splits_are_recognized(tmp_path):
    data = SegmentationDataModule.from_folder(write_camvid(tmp_path / "street", FILES))
    assert data.labels == CAMVID
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    mask = data.dataset("val")[0]["mask"]
    assert set(mask.unique().tolist()) == {*range(11), 255}
    assert torch.equal(mask == 255, torch.arange(12 * 16).reshape(12, 16) % 12 == 11)


def test_folder_of_that_name_is_camvid_whatever_its_files_are_called(tmp_path):
    root = write_camvid(tmp_path / "CamVid", {"train": ["a", "b"], "val": ["c"]})
    assert open_source(root).labels == CAMVID


def test_other_set_in_the_same_layout_does_not_get_the_names_of_street_classes(tmp_path):
    root = write_camvid(tmp_path / "cells", {"train": ["a", "b"], "val": ["c"]}, values=3)
    assert open_source(root).labels.names == ("class 0", "class 1", "class 2")
    (root / "classes.txt").write_text("cell\nwall\nvoid\n")
    assert open_source(root).labels.names == ("cell", "wall", "void")


def test_values_of_ones_own_change_the_published_map(tmp_path):
    root = write_camvid(tmp_path / "camvid", FILES)
    labels = open_source(root, values={7: "ignore", 6: "building"}).labels
    assert labels.names == CAMVID.names
    assert (labels.values[7], labels.values[6], labels.values[0]) == ("ignore", "building", "sky")


def test_value_beyond_void_is_stray(tmp_path):
    root = write_camvid(tmp_path / "camvid", FILES, values=13)
    data = SegmentationDataModule.from_folder(root)
    with pytest.raises(DatasetError, match=r"trainannot/0001TP_006690\.png: label value 12 "):
        data.setup("fit")


def test_split_without_annotations_is_an_error(tmp_path):
    root = write_camvid(tmp_path / "camvid", FILES)
    (root / "valannot" / "0016E5_07959.png").unlink()
    (root / "valannot").rmdir()
    with pytest.raises(DatasetError, match="valannot: no such folder"):
        open_source(root)


def test_classes_are_the_eleven_of_the_set():
    assert CAMVID.num_classes == 11
    assert CAMVID.names[0] == "sky"
    assert CAMVID.names[10] == "bicyclist"
    assert CAMVID.values[11] == "ignore"
    assert len(set(CAMVID.palette)) == 11


@pytest.mark.data
def test_published_splits_are_complete_and_every_mask_is_clean(camvid):
    data = SegmentationDataModule.from_folder(camvid, batch_size=2)
    assert data.labels == CAMVID
    assert {split: len(pairs) for split, pairs in data.splits.items()} == SPLITS
    totals = data.check()
    assert sum(totals.values()) == sum(SPLITS.values()) * 360 * 480
    assert min(totals.values()) > 0
    assert max(totals, key=lambda name: totals[name]) == "road"


@pytest.mark.data
def test_batches_of_the_real_set_have_the_promised_form(camvid, monkeypatch):
    monkeypatch.setenv("FULLYCONV_DATA", str(camvid.parent))
    data = SegmentationDataModule(camvid.name, batch_size=2, crop_size=(128, 160))
    train, test = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
    assert train["image"].shape == (2, 3, 128, 160)
    assert test["image"].shape == (2, 3, 360, 480)
    assert test["size"].tolist() == [[360, 480], [360, 480]]
    for batch in (train, test):
        assert 0.0 <= batch["image"].min() < batch["image"].max() <= 1.0
        assert batch["mask"].shape == batch["image"][:, 0].shape
        assert set(batch["mask"].unique().tolist()) <= {*range(11), 255}

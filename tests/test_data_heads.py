from __future__ import annotations

import pickle
from pathlib import Path

import jsonargparse
import lightning as L
import numpy as np
import pytest
import torch

import public_trees as trees
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.heads import HeadCodes, JointReader, MultiHeadDataModule
from fullyconv.data.public import PUBLIC
from fullyconv.data.public.siftflow import SCENES
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule


def test_labels_of_all_heads_come_back_from_one_number() -> None:
    labels = PUBLIC["siftflow"].labels
    codes = HeadCodes(labels)
    assert codes.joint.num_classes == 34 * 4 - 1
    assert codes.joint.dtype == np.uint8
    masks = {
        head: np.append(np.arange(entry.num_classes), 255)[
            np.random.default_rng(0).integers(0, 200, (50, 60)) % (entry.num_classes + 1)
        ]
        for head, entry in labels.items()
    }
    found = codes.split(torch.from_numpy(codes.join(masks).astype(np.int64)))
    for head in labels:
        assert (found[head].numpy() == masks[head]).all()
    padding = codes.split(torch.full((2, 2), codes.joint.ignore_index))
    assert all((mask == 255).all() for mask in padding.values())


def test_many_combinations_take_16_bits() -> None:
    labels = {name: Labels.of([f"{name}{i}" for i in range(count)]) for name, count in (("a", 40), ("b", 30))}
    codes = HeadCodes(labels)
    assert (codes.joint.dtype, codes.joint.ignore_index) == (np.uint16, 65535)
    joint = codes.join({"a": np.array([[39, 255]]), "b": np.array([[29, 255]])})
    assert {head: mask.tolist() for head, mask in codes.split(torch.from_numpy(joint.astype(np.int64))).items()} == {
        "a": [[39, 255]],
        "b": [[29, 255]],
    }


def test_heads_that_ignore_different_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="heads share their ignore_index"):
        HeadCodes({"a": Labels.of(["x", "y"]), "b": Labels.of(["x", "y"], ignore_index=7)})


@pytest.fixture
def siftflow(tmp_path: Path) -> Path:
    return trees.siftflow(tmp_path / "SiftFlowDataset")


def test_batches_hold_the_masks_of_both_heads(siftflow: Path) -> None:
    data = MultiHeadDataModule(str(siftflow), batch_size=1, val_fraction=0.5, crop_size=32)
    assert {head: len(names) for head, names in data.classes.items()} == {"semantic": 33, "geometric": 3}
    assert data.ignore_index == 255
    batch = next(iter(data.test_dataloader()))
    wanted = {"semantic": [255, 0, 32], "geometric": [255, 255, 0, 2, 1]}
    for head, mask in batch["mask"].items():
        assert mask.dtype == torch.int64
        assert mask[0].tolist() == trees.spread(wanted[head]).tolist()
    train = next(iter(data.train_dataloader()))
    assert train["image"].shape == (1, 3, 32, 32)
    for head, values in {"semantic": {0, 32, 255}, "geometric": {0, 1, 2, 255}}.items():
        assert set(train["mask"][head].unique().tolist()) == values
    # where the image ends, both are ignored
    beyond = (train["image"] == 0.5).all(1)
    assert beyond.any()
    assert all((mask[beyond] == 255).all() for mask in train["mask"].values())


def test_masks_of_the_first_head_are_those_of_the_set_alone(siftflow: Path) -> None:
    both = next(iter(MultiHeadDataModule(str(siftflow), crop_size=16, seed=3).train_dataloader()))
    one = next(iter(SegmentationDataModule(str(siftflow), crop_size=16, seed=3).train_dataloader()))
    assert both["path"] == one["path"]
    assert torch.equal(both["image"], one["image"])
    assert torch.equal(both["mask"]["semantic"], one["mask"])


def test_two_heads_are_trained_and_scored(siftflow: Path, tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    data = MultiHeadDataModule(str(siftflow), batch_size=1, val_fraction=0.5, crop_size=64)
    module = SegmentationModule("fcn16s_resnet18_quarter", classes=data.classes)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(module, data)
    assert "\ngeometric: 3 classes: sky, horizontal, vertical\n" in data.report
    assert {"val/semantic/mean_iou", "val/geometric/mean_iou"} <= trainer.callback_metrics.keys()


def test_stray_value_names_head_and_file(siftflow: Path) -> None:
    trees.mat(siftflow / "GeoLabels" / SCENES / "coast_n1.mat", S=trees.spread([1, 4]))
    data = MultiHeadDataModule(str(siftflow), val_fraction=0.5)
    with pytest.raises(DatasetError, match=r"head 'geometric': .*label value 4"):
        data.setup("fit")
    trees.mat(siftflow / "GeoLabels" / SCENES / "coast_n1.mat", S=np.ones((3, 4)))
    with pytest.raises(DatasetError, match=r"the masks of the heads differ in size \(semantic \(12, 16\), geometric"):
        MultiHeadDataModule(str(siftflow), val_fraction=0.5).setup("fit")


def test_set_with_one_head_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has one mask an image; give a set with several heads \(siftflow\)"):
        MultiHeadDataModule(str(trees.camvid(tmp_path)))


def test_reader_of_several_heads_travels_to_workers(siftflow: Path) -> None:
    reader = JointReader(PUBLIC["siftflow"].reader(siftflow), PUBLIC["siftflow"].labels)  # type: ignore[arg-type]
    pair = PUBLIC["siftflow"].find_splits(siftflow)["train"][0]
    again = pickle.loads(pickle.dumps(reader))
    assert (again.mask(pair) == reader.mask(pair)).all()
    assert again.size(pair) == trees.SIZE


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_kept_masks_are_those_of_all_heads(siftflow: Path, tmp_path: Path, place: str) -> None:
    cache = "memory" if place == "memory" else str(tmp_path / "cache")
    plain = MultiHeadDataModule(str(siftflow), batch_size=2, crop_size=8)
    kept = MultiHeadDataModule(str(siftflow), batch_size=2, crop_size=8, cache=cache)
    for _ in range(2):
        for one, other in zip(plain.train_dataloader(), kept.train_dataloader(), strict=True):
            assert torch.equal(one["image"], other["image"])
            for head in plain.labels:
                assert torch.equal(one["mask"][head], other["mask"][head])


def test_classes_of_a_set_with_several_heads_are_its_own(siftflow: Path) -> None:
    with pytest.raises(ValueError, match=r"classes=\['a', 'b'\]: a set with several heads has its own; leave it out"):
        MultiHeadDataModule(siftflow, classes=["a", "b"])


def test_a_recipe_knows_the_options_of_a_set_with_several_heads() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(MultiHeadDataModule, "data")
    options = parser.get_defaults().data
    assert (options.batch_size, options.val_fraction, options.cache) == (4, 0.2, None)

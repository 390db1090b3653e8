from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from conftest import write_tree
from fullyconv.data.datamodule import SegmentationDataModule, collate
from fullyconv.errors import DatasetError
from fullyconv.images import write_image, write_mask


def write_set(root: Path, count: int, size: tuple[int, int] | None = (24, 32), prefix: str = "") -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        shape = size or (20 + i, 40 - 2 * i)
        write_image(root / "images" / f"{prefix}{i:02}.png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        mask = rng.integers(0, 2, shape)
        mask[0, 0] = 255
        write_mask(root / "masks" / f"{prefix}{i:02}.png", mask)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path, 10)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["path"] == b["path"] and all(torch.equal(a[key], b[key]) for key in ("image", "mask", "size"))


def test_labels_are_known_before_setup(folder):
    (folder / "classes.txt").write_text("road\nsky\n")
    data = SegmentationDataModule.from_folder(folder)
    assert data.classes == ["road", "sky"]
    assert data.num_classes == 2
    assert data.ignore_index == 255


def test_batch_has_the_promised_form(folder):
    data = SegmentationDataModule.from_folder(folder, batch_size=3, crop_size=(16, 20))
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch) == ["image", "mask", "path", "size"]
    assert batch["image"].shape == (3, 3, 16, 20)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (3, 16, 20)
    assert batch["mask"].dtype == torch.int64
    assert batch["size"].tolist() == [[16, 20]] * 3
    assert all(Path(path).is_file() for path in batch["path"])


def test_automatic_split_is_seeded_disjoint_and_reported(folder):
    data = SegmentationDataModule.from_folder(folder, val_fraction=0.3)
    train, val = ({pair.key for pair in data.splits[name]} for name in ("train", "val"))
    assert (len(train), len(val)) == (7, 3)
    assert not train & val
    again = SegmentationDataModule.from_folder(folder, val_fraction=0.3)
    assert data.splits == again.splits
    assert data.splits != SegmentationDataModule.from_folder(folder, val_fraction=0.3, split_seed=1).splits
    assert "3 of 10 pairs set aside for it (val_fraction=0.3, split_seed=0)" in data.report


def test_missing_validation_is_taken_from_train_and_the_test_split_stays(tmp_path):
    write_set(tmp_path / "train", 6)
    write_set(tmp_path / "test", 2, prefix="t")
    data = SegmentationDataModule.from_folder(tmp_path)
    assert {name: len(pairs) for name, pairs in data.splits.items()} == {"train": 5, "val": 1, "test": 2}
    assert [pair.key for pair in data.splits["test"]] == ["t00", "t01"]


def test_missing_test_split_is_an_error_that_lists_the_others(folder):
    with pytest.raises(DatasetError, match="has no split 'test', only train, val"):
        SegmentationDataModule.from_folder(folder).test_dataloader()


def test_evaluation_keeps_the_images_own_size_and_goes_one_by_one_where_sizes_differ(tmp_path):
    write_set(tmp_path, 6, size=None)
    data = SegmentationDataModule.from_folder(tmp_path, batch_size=4, val_fraction=0.5)
    sizes = {tuple(batch["image"].shape[-2:]) for batch in data.val_dataloader()}
    assert len(sizes) == 3
    wide = SegmentationDataModule.from_folder(tmp_path, batch_size=4, eval_batch_size=3, val_fraction=0.5)
    assert [len(batch["path"]) for batch in wide.val_dataloader()] == [3]


def test_evaluation_of_one_size_goes_in_batches_each_sample_once_in_order(folder):
    data = SegmentationDataModule.from_folder(folder, batch_size=2, val_fraction=0.5)
    paths = [path for batch in data.val_dataloader() for path in batch["path"]]
    assert paths == [str(pair.image) for pair in data.splits["val"]]
    assert [len(batch["path"]) for batch in data.val_dataloader()] == [2, 2, 1]


def test_mixed_sizes_are_padded_at_the_bottom_and_right_with_gray_and_ignore():
    samples = [
        {
            "image": torch.rand(3, h, w),
            "mask": torch.ones(h, w, dtype=torch.int64),
            "size": torch.tensor([h, w]),
            "path": f"{h}",
        }
        for h, w in ((4, 9), (7, 5))
    ]
    batch = collate(samples, ignore_index=99)
    assert batch["image"].shape == (2, 3, 7, 9)
    for i, sample in enumerate(samples):
        h, w = batch["size"][i].tolist()
        assert torch.equal(batch["image"][i, :, :h, :w], sample["image"])
        outside = torch.ones(7, 9, dtype=torch.bool)
        outside[:h, :w] = False
        assert (batch["image"][i][:, outside] == 0.5).all()
        assert (batch["mask"][i][outside] == 99).all()
        assert (batch["mask"][i][~outside] == 1).all()


def test_training_batches_of_mixed_sizes_are_padded(tmp_path):
    write_set(tmp_path, 6, size=None)
    data = SegmentationDataModule.from_folder(tmp_path, batch_size=5, val_fraction=0.1)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[-2:] == tuple(batch["size"].amax(0).tolist())


def epoch(data: SegmentationDataModule, number: int) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def test_same_seed_gives_the_same_batches_and_another_epoch_others(folder):
    make = lambda seed: SegmentationDataModule.from_folder(folder, batch_size=2, seed=seed)  # noqa: E731
    first, again = epoch(make(1), 0), epoch(make(1), 0)
    assert len(first) == 4
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not equal(first[0], epoch(make(2), 0)[0])
    assert not equal(first[0], epoch(make(1), 1)[0])


def test_batches_do_not_depend_on_the_number_of_workers_nor_touch_the_global_generator(folder):
    plain = epoch(SegmentationDataModule.from_folder(folder, batch_size=2), 3)
    before = torch.get_rng_state()
    data = SegmentationDataModule.from_folder(folder, batch_size=2, num_workers=1)
    loader = data.train_dataloader()
    assert loader.persistent_workers
    loader.sampler.set_epoch(3)
    assert all(equal(a, b) for a, b in zip(plain, loader, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_last_incomplete_training_batch_is_left_out_unless_it_is_the_only_one(folder):
    assert [len(b["path"]) for b in epoch(SegmentationDataModule.from_folder(folder, batch_size=3), 0)] == [3, 3]
    assert [len(b["path"]) for b in epoch(SegmentationDataModule.from_folder(folder, batch_size=50), 0)] == [8]


class Recorder(L.LightningModule):
    """Trains one number and writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, dict[str, Any]]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated += batch["path"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(root: Path, **options: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_resumed_training_sees_the_batches_that_training_in_one_go_sees(folder, tmp_path_factory):
    make = lambda: SegmentationDataModule.from_folder(folder, batch_size=4, crop_size=16)  # noqa: E731
    root = tmp_path_factory.mktemp("run")
    whole, begun, resumed = Recorder(), Recorder(), Recorder()
    trainer(root, max_epochs=3, enable_checkpointing=False).fit(whole, make())
    first = trainer(root, max_epochs=1, enable_checkpointing=False)
    first.fit(begun, make())
    first.save_checkpoint(root / "one.ckpt")
    trainer(root, max_epochs=3, enable_checkpointing=False).fit(resumed, make(), ckpt_path=root / "one.ckpt")
    pieces = begun.seen + resumed.seen
    assert [number for number, _ in whole.seen] == [number for number, _ in pieces] == [0, 0, 1, 1, 2, 2]
    assert all(equal(a, b) for (_, a), (_, b) in zip(whole.seen, pieces, strict=True))
    assert not equal(whole.seen[0][1], whole.seen[2][1])
    assert len(set(whole.evaluated)) == 2
    state = torch.load(root / "one.ckpt", weights_only=True)
    assert state["datamodule_hyper_parameters"]["crop_size"] == 16


def test_lightning_leaves_both_samplers_alone(folder):
    data = SegmentationDataModule.from_folder(folder)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)


def test_fit_refuses_a_stray_label_before_the_first_step(folder):
    write_mask(folder / "masks" / "03.png", np.full((24, 32), 5))
    data = SegmentationDataModule.from_folder(folder, classes=["a", "b"])
    with pytest.raises(DatasetError, match=r"masks/03\.png: label value 5"):
        data.setup("fit")
    SegmentationDataModule.from_folder(folder, classes=["a", "b"], check=False).setup("fit")


def test_check_counts_one_split_or_all(folder):
    data = SegmentationDataModule.from_folder(folder, classes=["a", "b"])
    train, val, everything = data.check("train"), data.check("val"), data.check()
    assert {name: train[name] + val[name] for name in train} == everything
    assert everything["ignore"] == 10


def test_hyper_parameters_are_plain_json(folder):
    data = SegmentationDataModule.from_folder(folder, values={0: "a", 1: "b", 255: "ignore"}, crop_size=(8, 9))
    assert json.loads(json.dumps(dict(data.hparams)))["batch_size"] == 4
    assert data.hparams["data"] == str(folder)


def test_from_folder_takes_what_the_constructor_takes():
    constructor = list(inspect.signature(SegmentationDataModule.__init__).parameters.values())[2:]
    shortcut = list(inspect.signature(SegmentationDataModule.from_folder).parameters.values())[1:]
    assert [(p.name, p.default) for p in constructor] == [(p.name, p.default) for p in shortcut]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"crop_size": -3}, "crop_size=-3"),
        ({"flip": 3}, "flip=3"),
        ({"val_fraction": 0}, "val_fraction=0"),
        ({"classes": []}, "names holds 0 classes"),
        ({"values": {0: "x"}, "classes": ["y"]}, "names no class"),
    ],
)
def test_argument_out_of_range_is_named(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationDataModule.from_folder(folder, **arguments)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        SegmentationDataModule.from_folder(tmp_path / "nothing")


def test_the_last_training_may_take_val_too_and_then_nothing_is_validated_on(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "own", {"train": 4, "val": 2, "test": 3})
    apart = SegmentationDataModule.from_folder(root)
    both = SegmentationDataModule.from_folder(root, train_on="train+val")
    assert both.splits == {"train": apart.splits["train"] + apart.splits["val"], "test": apart.splits["test"]}
    assert "trains on train+val" in both.report
    with pytest.raises(DatasetError, match="has no split 'val', only train, test"):
        both.val_dataloader()
    with pytest.raises(ValueError, match=r'train_on=.all.: choose "train" or "train\+val"'):
        SegmentationDataModule.from_folder(root, train_on="all")  # type: ignore[arg-type]


def test_what_is_tested_with_is_set_aside_before_anything_else(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "all", {"train": 20})
    with_test = SegmentationDataModule.from_folder(root, test_fraction=0.25, val_fraction=0.2)
    assert {split: len(pairs) for split, pairs in with_test.splits.items()} == {"train": 12, "val": 3, "test": 5}
    names = [pair.key for pairs in with_test.splits.values() for pair in pairs]
    assert len(set(names)) == 20
    assert "no test split: 5 of 20 pairs set aside for it (test_fraction=0.25, split_seed=0)" in with_test.report
    other = SegmentationDataModule.from_folder(root, test_fraction=0.25, val_fraction=0.5)
    assert [pair.key for pair in other.splits["test"]] == [pair.key for pair in with_test.splits["test"]]
    assert "test" not in SegmentationDataModule.from_folder(root).splits
    own = write_tree(tmp_path / "own", {"train": 4, "val": 2, "test": 3})
    assert len(SegmentationDataModule.from_folder(own, test_fraction=0.5).splits["test"]) == 3
    with pytest.raises(ValueError, match="test_fraction=1"):
        SegmentationDataModule.from_folder(root, test_fraction=1.0)


def test_other_options_of_loading_leave_what_was_read(folder):
    data = SegmentationDataModule.from_folder(folder)
    source = data.source
    same = data.load_by(batch_size=3, crop_size=(8, 12), check=False)
    assert same is data
    assert same.source is source
    assert (same.batch_size, same.hparams["batch_size"], same.augmentation.crop_size) == (3, 3, (8, 12))
    assert next(iter(same.train_dataloader()))["image"].shape == (3, 3, 8, 12)
    with pytest.raises(ValueError, match="batch_size=0: a whole number"):
        data.load_by(batch_size=0)

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from closeness import assert_close
from fullyconv.data.class_names import labels_from_values
from fullyconv.data.folder import SegmentationFolder, set_aside
from fullyconv.data.layouts import find_layout
from fullyconv.data.pairs import Pair
from fullyconv.data.samplers import EpochSampler, UnpaddedDistributedSampler
from fullyconv.data.sources import check_labels, dataset_root, open_source
from fullyconv.data.transforms import Augmentation, TrainingTransform
from fullyconv.errors import DatasetError
from fullyconv.images import write_image, write_mask
from fullyconv.labels import Labels

LABELS = Labels.of(["a", "b"])


def write_pairs(
    images: Path, masks: Path, names: Sequence[str], values: Sequence[int] = (0, 1), size: tuple[int, int] = (24, 32)
) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        write_image(images / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        mask = rng.choice(values, size=size)
        mask.reshape(-1)[: len(values)] = values  # all of them occur
        write_mask(masks / f"{name}.png", mask)


def keys(pairs: Sequence[Pair]) -> list[str]:
    return [pair.key for pair in pairs]


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b", "c", "d", "e"])
    return tmp_path


# Pairs


def test_pairs_are_found_by_name_whatever_the_extension_and_sub_folder(tmp_path):
    write_pairs(tmp_path / "i", tmp_path / "m", ["b", "berlin/a", "v1.2"])
    write_image(tmp_path / "i" / "z.JPG", np.zeros((24, 32, 3), np.uint8))
    write_mask(tmp_path / "m" / "z.png", np.zeros((24, 32), np.uint8))
    (tmp_path / "i" / "notes.txt").touch()
    (tmp_path / "i" / ".DS_Store.png").touch()
    assert keys(find_layout(tmp_path, images="i", masks="m").splits["all"]) == ["i/berlin/a", "i/b", "i/v1.2", "i/z"]


def test_names_that_differ_on_one_side_only_pair_by_the_rest(simple):
    for mask in (simple / "masks").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_mask.png"))
    source = open_source(simple)
    assert [(pair.image.stem, pair.mask.stem, pair.key) for pair in source.splits["all"]] == [
        (name, f"{name}_mask", name) for name in "abcde"
    ]
    assert "paired by the part of the names that differs: a.png with a_mask.png" in source.notes
    (simple / "masks" / "c_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"images/c\.png: no mask of the same name"):
        open_source(simple)


def test_image_without_mask_is_named(simple):
    (simple / "masks" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"images/b\.png: no mask of the same name in .*add the masks"):
        open_source(simple)


def test_mask_without_image_is_named(simple):
    (simple / "images" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"masks/b\.png: no image of the same name"):
        open_source(simple)


def test_two_files_of_one_name_are_named(simple):
    shutil.copy(simple / "images" / "b.png", simple / "images" / "b.bmp")
    with pytest.raises(DatasetError, match=r"b\.bmp, .*b\.png: share one name"):
        open_source(simple)


def test_only_the_first_of_many_missing_masks_are_listed(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", [f"{i:02}" for i in range(20)])
    for i in range(1, 20):
        (tmp_path / "masks" / f"{i:02}.png").unlink()
    with pytest.raises(DatasetError, match=r"05\.png and 14 more"):
        open_source(tmp_path)


def test_empty_folders_are_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DatasetError, match="no images in it"):
        open_source(tmp_path)


# Layouts


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_outside_and_inside_are_found(tmp_path, val):
    for split, names in {"train": ["a", "b"], val: ["c"], "test": ["d"]}.items():
        write_pairs(tmp_path / "x" / split / "images", tmp_path / "x" / split / "masks", names)
        write_pairs(tmp_path / "y" / "images" / split, tmp_path / "y" / "masks" / split, names)
    for root in ("x", "y"):
        splits = find_layout(tmp_path / root).splits
        assert {name: keys(pairs) for name, pairs in splits.items()} == {
            "train": ["a", "b"],
            "val": ["c"],
            "test": ["d"],
        }


def test_pairs_of_one_name_in_several_folders_are_set_aside_one_by_one():
    pairs = [Pair(Path(folder) / "1.png", Path(folder) / "m.png", "1") for folder in "abcde"]
    kept, drawn = set_aside(pairs, 0.2, 0)
    assert (len(kept), len(drawn)) == (4, 1)


def test_split_without_masks_is_an_error_and_not_left_out(tmp_path):
    for split in ("train", "val"):
        write_pairs(tmp_path / split / "images", tmp_path / split / "masks", ["a" + split])
    shutil.rmtree(tmp_path / "val" / "masks")
    with pytest.raises(DatasetError, match=r"no folder of masks goes with .*val/images"):
        open_source(tmp_path)


def test_folder_of_no_known_layout_lists_what_is_there_and_what_is_accepted(tmp_path):
    write_pairs(tmp_path / "pics", tmp_path / "annotations", ["a"])
    with pytest.raises(DatasetError, match=r"holds annotations/, pics/, which is no layout(.|\n)*images/ \+ masks/"):
        open_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds nothing"):
        open_source(tmp_path / "empty")


def test_file_in_two_splits_is_an_error(tmp_path):
    write_pairs(tmp_path / "train" / "images", tmp_path / "train" / "masks", ["a", "b"])
    (tmp_path / "val").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).symlink_to(tmp_path / "train" / kind)
    with pytest.raises(DatasetError, match="are one file, in the splits train and val"):
        open_source(tmp_path)


def test_set_is_found_by_path_and_by_name_under_the_root(simple, monkeypatch):
    assert dataset_root(simple) == simple
    monkeypatch.setenv("FULLYCONV_DATA", str(simple))
    assert dataset_root("images") == simple / "images"
    with pytest.raises(FileNotFoundError, match="Did you mean masks"):
        dataset_root("mask")


def test_unset_root_is_an_error_that_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"data='camvid'.*set FULLYCONV_DATA=FOLDER"):
        dataset_root("camvid")
    with pytest.raises(FileNotFoundError, match="data='a/b': no such folder; check the path"):
        dataset_root("a/b")
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"FULLYCONV_DATA=.*gone: no such folder"):
        dataset_root("camvid")
    (tmp_path / "a.png").touch()
    with pytest.raises(DatasetError, match="is a file: give the folder"):
        dataset_root("a.png")


# Labels


def test_class_names_come_from_classes_txt_by_line(simple):
    (simple / "classes.txt").write_text("\ufeffroad\nignore\nsky\n\n", encoding="utf-8")
    labels = open_source(simple).labels
    assert labels.names == ("road", "sky")
    assert labels.values == {0: "road", 1: "ignore", 2: "sky", 255: "ignore"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty; write one class name a line"),
        (b"a\n\nb", "line 2 is empty"),
        (b"a\na", "'a' twice"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_bad_classes_txt_is_named(simple, text, message):
    (simple / "classes.txt").write_bytes(text)
    with pytest.raises(DatasetError, match=rf"classes\.txt: .*{message}"):
        open_source(simple)


def test_given_classes_and_values_come_first(simple):
    (simple / "classes.txt").write_text("x\ny\n")
    assert open_source(simple, classes=["p", "q"]).labels.names == ("p", "q")
    assert open_source(simple, values={1: "y", 0: "ignore"}).labels.values[0] == "ignore"


def test_values_alone_name_the_classes(simple):
    labels = open_source(simple, values={1: "cat", 0: "dog", 7: "ignore"}).labels
    assert labels.names == ("dog", "cat")


def test_classes_are_named_after_the_values_found_and_it_is_said(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"], values=[1, 2, 4, 255])
    source = open_source(tmp_path)
    assert source.labels.names == ("class 1", "class 2", "class 4")
    assert source.labels.values[255] == "ignore"
    assert "classes named after the values in the masks (1, 2, 4, 255; 255 = ignore)" in source.notes[0]


def test_masks_of_0_and_255_are_background_and_foreground_and_it_is_said(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"], values=[0, 255])
    source = open_source(tmp_path)
    assert source.labels.values == {0: "background", 255: "foreground"}
    assert source.labels.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert "0 = background, 255 = foreground" in source.notes[0]


def test_masks_of_0_and_255_with_two_given_classes_are_not_quietly_ignored(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"], values=[0, 255])
    source = open_source(tmp_path, classes=["road", "crack"])
    with pytest.raises(DatasetError, match=r'values=\{0: "road", 255: "crack"\}'):
        check_labels(source, source.splits["all"])


@pytest.mark.parametrize(
    "values", [[0, 128, 255], [0, 100], [0], [0, 85, 170, 255], [255], list(range(256)), [0, 1, 38, 75, 113]]
)
def test_values_that_leave_doubt_are_refused_with_the_remedy(values):
    with pytest.raises(DatasetError, match=r"m\.png: .*Say what they mean"):
        labels_from_values(dict.fromkeys(values, Path("m.png")))


@pytest.mark.parametrize("values", [[0, 1], [1, 2, 3], [0, 1, 3, 255], list(range(150)), [*range(1, 151), 255]])
def test_values_that_lie_close_together_are_classes(values):
    labels, _ = labels_from_values(dict.fromkeys(values, Path("m.png")))
    assert labels.num_classes == len([value for value in values if value != 255])


def test_stray_values_are_found_before_training_in_every_file(simple):
    for name in ("b", "d"):
        write_mask(simple / "masks" / f"{name}.png", np.full((24, 32), 9))
    source = open_source(simple, classes=["a", "b"])
    message = r"masks/b\.png: label value 9 \(768 pixels\) is not in the label map.*1 more: .*masks/d\.png"
    with pytest.raises(DatasetError, match=message):
        check_labels(source, source.splits["all"])


def test_check_counts_pixels_of_every_class(simple):
    write_mask(simple / "masks" / "a.png", np.full((24, 32), 255))
    source = open_source(simple, classes=["a", "b", "c"])
    totals = check_labels(source, source.splits["all"])
    assert totals["ignore"] == 24 * 32
    assert totals["c"] == 0
    assert sum(totals.values()) == 5 * 24 * 32


def test_masks_that_ignore_everything_are_refused(simple):
    source = open_source(simple, values={0: "ignore", 1: "ignore", 2: "x", 3: "y"})
    with pytest.raises(DatasetError, match="all pixels of all masks are ignored"):
        check_labels(source, source.splits["all"])


def test_damaged_mask_is_found_before_training(simple):
    path = simple / "masks" / "c.png"
    path.write_bytes(path.read_bytes()[:60])
    source = open_source(simple, classes=["a", "b"])
    with pytest.raises(DatasetError, match=r"masks/c\.png"):
        check_labels(source, source.splits["all"])


# Samples


def test_sample_is_the_file_as_it_is(simple):
    source = open_source(simple)
    dataset = SegmentationFolder(source.splits["all"], LABELS)
    assert len(dataset) == 5
    sample = dataset[1]
    with Image.open(simple / "images" / "b.png") as image, Image.open(simple / "masks" / "b.png") as mask:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        assert_close(sample["image"], expected)
        np.testing.assert_array_equal(sample["mask"].numpy(), np.array(mask))
    assert sample["image"].dtype == torch.float32
    assert type(sample["image"]) is torch.Tensor
    assert type(sample["mask"]) is torch.Tensor
    assert sample["mask"].dtype == torch.int64
    assert sample["size"].tolist() == [24, 32]
    assert sample["path"].endswith("b.png")


def test_stray_value_of_a_sample_names_the_file(simple):
    write_mask(simple / "masks" / "b.png", np.full((24, 32), 7))
    with pytest.raises(DatasetError, match=r"masks/b\.png: label value 7"):
        SegmentationFolder(open_source(simple, classes=["a", "b"]).splits["all"], LABELS)[1]


def test_sizes_that_differ_name_both_files_and_sizes(simple):
    write_mask(simple / "masks" / "b.png", np.zeros((24, 30), np.uint8))
    source = open_source(simple, classes=["a", "b"])
    message = r"images/b\.png has 24 x 32 pixels .* masks?.*/b\.png 24 x 30"
    with pytest.raises(DatasetError, match=message):
        SegmentationFolder(source.splits["all"], LABELS)[1]
    with pytest.raises(DatasetError, match=message):
        check_labels(source, source.splits["all"])


def test_image_turned_by_exif_beside_an_unturned_mask_is_explained(simple):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(simple / "images" / "b.png") as image:
        image.load()
    image.save(simple / "images" / "b.png", exif=exif)
    source = open_source(simple, classes=["a", "b"])
    with pytest.raises(DatasetError, match="turned by its EXIF orientation and the mask is not"):
        SegmentationFolder(source.splits["all"], LABELS)[1]
    with Image.open(simple / "masks" / "b.png") as mask:
        mask.load()
    mask.save(simple / "masks" / "b.png", exif=exif)
    assert SegmentationFolder(source.splits["all"], LABELS)[1]["mask"].shape == (32, 24)


def test_empty_data_set_is_refused():
    with pytest.raises(DatasetError, match="pairs is empty"):
        SegmentationFolder([], LABELS)


def test_sample_of_an_epoch_is_the_same_whatever_was_drawn_before_and_leaves_the_generator_alone(simple):
    pairs = open_source(simple).splits["all"]
    transform = TrainingTransform(Augmentation(16))
    dataset = SegmentationFolder(pairs, LABELS, transform=transform, seed=3)
    first = dataset[(4, 2)]
    torch.rand(17)
    before = torch.get_rng_state()
    again = SegmentationFolder(pairs, LABELS, transform=transform, seed=3)[(4, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    for other in (dataset[(5, 2)], SegmentationFolder(pairs, LABELS, transform=transform, seed=4)[(4, 2)]):
        assert not torch.equal(first["image"], other["image"])


# Splitting and sampling


def named(count: int) -> list[Pair]:
    return [Pair(Path(f"{i}.png"), Path(f"{i}.png"), str(i)) for i in range(count)]


@pytest.mark.parametrize(("count", "fraction", "expected"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (101, 0.5, 50)])
def test_both_parts_of_a_split_hold_every_pair_once(count, fraction, expected):
    train, val = set_aside(named(count), fraction, seed=0)
    assert len(val) == expected
    assert sorted(keys(train + val)) == sorted(keys(named(count)))


def test_split_depends_on_the_seed_and_barely_on_added_pairs():
    assert set_aside(named(50), 0.2, 0) == set_aside(named(50), 0.2, 0)
    assert set_aside(named(50), 0.2, 0) != set_aside(named(50), 0.2, 1)
    before, after = (set(keys(set_aside(named(count), 0.2, 0)[0])) for count in (50, 55))
    assert len(before - after) <= 3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 20])
def test_share_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"val_fraction={fraction}"):
        set_aside(named(5), fraction, 0)


def test_one_pair_cannot_be_split():
    with pytest.raises(DatasetError, match=r"0\.png: one image cannot be split"):
        set_aside(named(1), 0.2, 0)


@pytest.mark.parametrize("length", [3, 7, 9, 10])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_reads_every_sample_exactly_once_on_any_number_of_processes(length, processes):
    shares = [UnpaddedDistributedSampler(range(length), processes, rank) for rank in range(processes)]
    read = [index for share in shares for index in share]
    assert sorted(read) == list(range(length))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


def test_evaluation_on_more_processes_than_samples_is_refused():
    with pytest.raises(DatasetError, match="2 samples cannot be shared out among 3 processes; use at most 2 devices"):
        UnpaddedDistributedSampler(range(2), 3, 0)


def test_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(range(50), seed)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert {epoch for epoch, _ in order(0, 3)} == {3}
    assert sorted(index for _, index in order(0, 3)) == list(range(50))
    assert [i for _, i in order(0, 3)] != [i for _, i in order(0, 4)]
    assert [i for _, i in order(0, 3)] != [i for _, i in order(1, 3)]


def test_processes_train_on_different_samples():
    shares = [list(EpochSampler(range(8), 0, 2, rank)) for rank in range(2)]  # type: ignore[arg-type]
    assert sorted(index for share in shares for _, index in share) == list(range(8))


def test_a_repeated_epoch_is_as_many_epochs_in_a_row() -> None:
    def orders(repeats: int, epochs: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(range(7), 3, repeats=repeats)  # type: ignore[arg-type]
        found: list[tuple[int, int]] = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            one = list(sampler)
            assert len(one) == len(sampler) == 7 * repeats
            assert one == list(sampler)  # a loader that is made anew, as after an interruption
            found += one
        return found

    assert orders(3, 2) == orders(1, 6)
    assert len(set(orders(3, 2))) == 7 * 6  # no crop comes twice


def test_a_folder_of_the_public_sets_is_found_whatever_has_a_name_like_it_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here/field", "sets/fields"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path / "sets"))
    assert dataset_root("fields") == tmp_path / "sets" / "fields"
    with pytest.raises(FileNotFoundError, match=r"neither here \(did you mean field\?\) nor in"):
        dataset_root("fiel")

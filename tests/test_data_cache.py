"""Decoded images that are kept: the same samples, never an outdated one, and never more than is allowed."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from conftest import write_tree
from fullyconv.data.cache import DecodedCache
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.data.folder import SegmentationFolder, read_pair
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.data.transforms import Augmentation, TrainingTransform
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels

LABELS = Labels.of(["ground", "box", "sky"])


class Counted:
    """Decode, and count how often."""

    def __init__(self, cache: DecodedCache, pair: Pair) -> None:
        self.cache, self.pair, self.times = cache, pair, 0

    def decode(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        self.times += 1
        return read_pair(self.pair, LABELS, FileReader())

    def read(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return self.cache.read(self.pair, self.decode)


@pytest.fixture(params=["memory", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory" if request.param == "memory" else str(tmp_path / "cache")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 4, "val": 2})


def pair_of(root: Path, name: str = "000") -> Pair:
    return Pair(root / "train" / "images" / f"{name}.png", root / "train" / "masks" / f"{name}.png", name)


def samples(root: Path, **options: Any) -> list[dict[str, Any]]:
    data = SegmentationDataModule.from_folder(root, crop_size=32, **options)
    dataset = data.dataset("train")
    return [dataset[(epoch, index)] for epoch in range(2) for index in range(len(dataset))]


def test_training_samples_are_the_same_in_every_epoch(shapes: Path, place: str) -> None:
    for plain, kept in zip(samples(shapes), samples(shapes, cache=place), strict=True):
        assert torch.equal(plain["image"], kept["image"])
        assert torch.equal(plain["mask"], kept["mask"])
        assert plain["path"] == kept["path"]


def test_a_pair_is_decoded_once(shapes: Path, place: str) -> None:
    counted = Counted(DecodedCache(place, LABELS, FileReader()), pair_of(shapes))
    first = counted.read()
    second = counted.read()
    assert counted.times == 1
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype


def test_a_folder_lasts_and_serves_others(shapes: Path, tmp_path: Path) -> None:
    Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes)).read()
    again = Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes))
    again.read()
    assert again.times == 0


def test_a_changed_file_or_label_map_is_read_anew(shapes: Path, place: str) -> None:
    cache, pair = DecodedCache(place, LABELS, FileReader()), pair_of(shapes)
    counted = Counted(cache, pair)
    counted.read()
    mask = np.asarray(Image.open(pair.mask)).copy()
    mask[0, 0] = 1
    Image.fromarray(mask).save(pair.mask)
    assert counted.read()[1][0, 0] == 1
    assert counted.times == 2
    other = Labels.of(["ground", "box", "sky"], values={0: "box", 1: "ground", 2: "sky", 255: "ignore"})
    assert DecodedCache(place, other, FileReader())._key(pair) != cache._key(pair)


def test_what_changes_while_it_is_read_is_not_kept(shapes: Path, place: str) -> None:
    cache, pair = DecodedCache(place, LABELS, FileReader()), pair_of(shapes)
    before = pair.image.stat().st_mtime_ns

    def decode() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        os.utime(pair.image, ns=(0, 0))
        return read_pair(pair, LABELS, FileReader())

    cache.read(pair, decode)
    os.utime(pair.image, ns=(before, before))
    counted = Counted(cache, pair)
    counted.read()
    assert counted.times == 1


def test_what_is_changed_by_a_reader_is_not_kept(shapes: Path, tmp_path: Path) -> None:
    counted = Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes))
    image, _ = counted.read()
    kept, _ = counted.read()
    kept[:] = 0  # mapped privately
    np.testing.assert_array_equal(counted.read()[0], image)


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_damaged_entry_is_decoded_again(shapes: Path, tmp_path: Path, damage: bytes | None) -> None:
    counted = Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes))
    image, mask = counted.read()
    for entry in (tmp_path / "c").rglob("*.image.npy"):
        entry.write_bytes(entry.read_bytes()[:-100] if damage is None else damage)
    found = counted.read()
    assert counted.times == 2
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)
    counted.read()
    assert counted.times == 2  # mended


def test_an_entry_with_a_pickle_in_it_is_not_opened(shapes: Path, tmp_path: Path) -> None:
    counted = Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes))
    counted.read()
    for entry in (tmp_path / "c").rglob("*.image.npy"):
        np.save(entry, np.array([{}], dtype=object), allow_pickle=True)
    assert counted.read()[0].dtype == np.uint8
    assert counted.times == 2


def test_no_more_is_kept_than_is_allowed(shapes: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fullyconv")
    cache = DecodedCache(place, LABELS, FileReader(), gigabytes=20_000 / 1e9)  # one pair of 48 x 64 is 12 kB
    one, two = (Counted(cache, pair_of(shapes, name)) for name in ("000", "001"))
    for _ in range(3):
        one.read()
        two.read()
    assert (one.times, two.times) == (1, 3)
    assert caplog.text.count("the cache of decoded images takes no more") == 1


def test_half_written_files_of_the_dead_are_removed(shapes: Path, tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path / "c", LABELS, FileReader())
    (folder,) = (tmp_path / "c").iterdir()
    old = folder / ".a.npy.01234567.part"
    old.write_bytes(b"x")
    Counted(cache, pair_of(shapes)).read()
    assert not old.exists()


def test_errors_of_files_come_through(shapes: Path, place: str) -> None:
    pair = pair_of(shapes)
    pair.mask.write_bytes(b"no image")
    counted = Counted(DecodedCache(place, LABELS, FileReader()), pair)
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"000\.png"):
            counted.read()
    pair.mask.unlink()
    with pytest.raises((DatasetError, FileNotFoundError), match=r"000\.png"):
        counted.read()


def test_a_started_process_begins_with_an_empty_memory(shapes: Path) -> None:
    cache = DecodedCache("memory", LABELS, FileReader())
    Counted(cache, pair_of(shapes)).read()
    copy = pickle.loads(pickle.dumps(cache))
    again = Counted(copy, pair_of(shapes))
    again.read()
    assert again.times == 1


def test_wrong_arguments_are_named(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_gigabytes=0"):
        DecodedCache("memory", LABELS, FileReader(), gigabytes=0)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cache=.*give a folder that can be written"):
        SegmentationDataModule.from_folder(shapes, cache=str(tmp_path / "file"))


@dataclass(frozen=True)
class Doubling(FileReader):
    """Read masks in a way that depends on what it holds."""

    times: int = 1
    table: tuple[tuple[str, int], ...] = ()

    def mask(self, pair: Pair) -> np.ndarray[Any, Any]:
        return np.minimum(super().mask(pair) * self.times, 2)


def test_another_way_to_read_is_another_entry(shapes: Path, place: str, tmp_path: Path) -> None:
    pair = pair_of(shapes)
    keys = {
        DecodedCache(place, LABELS, reader)._key(pair)
        for reader in (
            FileReader(),
            Doubling(),
            Doubling(times=2),
            Doubling(table=(("a", 1),)),
        )
    }
    assert len(keys) == 4


KEY = """
import sys, types
from dataclasses import dataclass, field
from pathlib import Path
import fullyconv
package = types.ModuleType("fullyconv.data")  # alone, for what trains takes seconds to import
package.__path__ = [str(Path(fullyconv.__file__).parent / "data")]
sys.modules["fullyconv.data"] = package
from fullyconv.data.cache import DecodedCache
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.labels import Labels

@dataclass(frozen=True)
class Picky(FileReader):
    values: dict[str, int] = field(default_factory=dict)

image, mask = map(Path, sys.argv[1:])
reader = Picky(values={str(i): i for i in range(20)})
print(DecodedCache("memory", Labels.of(["ground", "box", "sky"]), reader)._key(Pair(image, mask, "000")))
"""


def test_an_entry_has_the_same_name_in_every_process(shapes: Path) -> None:
    """Sets and hashes of text differ between processes; what is kept is found all the same."""
    pair = pair_of(shapes)
    names = {
        subprocess.run(
            [sys.executable, "-c", KEY, str(pair.image), str(pair.mask)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1


def test_a_reader_that_holds_more_than_values_is_refused() -> None:
    class Odd(FileReader):
        pass

    odd = Odd()
    object.__setattr__(odd, "lock", object())
    # A plain subclass of a data class keeps what its fields are; anything else that it holds is looked at, too.
    with pytest.raises(TypeError, match="cache=None"):
        DecodedCache("memory", LABELS, odd)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_a_cache(shapes: Path, place: str, workers: int) -> None:
    plain = SegmentationDataModule(str(shapes), crop_size=32, batch_size=2, hue=0.1)
    kept = SegmentationDataModule(str(shapes), crop_size=32, batch_size=2, hue=0.1, cache=place, num_workers=workers)
    loaders = plain.train_dataloader(), kept.train_dataloader()
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for one, other in zip(*loaders, strict=True):
            assert one["path"] == other["path"]
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["mask"], other["mask"])
    for one, other in zip(plain.val_dataloader(), kept.val_dataloader(), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])


def test_several_may_fill_one_folder_at_once(shapes: Path, tmp_path: Path) -> None:
    pairs = [pair_of(shapes, f"{index:03}") for index in range(4)]

    def fill(pairs: list[Pair]) -> int:  # each with a cache of its own, as processes have
        dataset = SegmentationFolder(pairs, LABELS, cache=DecodedCache(tmp_path / "c", LABELS, FileReader()))
        return sum(int(dataset[index]["mask"].sum()) for index in range(len(pairs)))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fill, [pairs, pairs[::-1]] * 2))) == 1
    assert sorted(path.suffix for path in (tmp_path / "c").rglob("*.*")) == [".npy"] * 8


def test_what_python_fails_to_read_in_several_threads_is_decoded_anew(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_of(shapes)

    def read() -> np.ndarray:
        dataset = SegmentationFolder([pair], LABELS, cache=DecodedCache(tmp_path / "c", LABELS, FileReader()))
        return dataset[0]["mask"].numpy()

    def fail(*_: object, **__: object) -> np.ndarray:
        raise SystemError("AST constructor recursion depth mismatch (before=57, after=55)")

    first = read()
    monkeypatch.setattr(np, "load", fail)
    assert np.array_equal(read(), first)


def test_another_reader_is_another_entry_and_another_palette_is_not(shapes: Path, place: str) -> None:
    key = DecodedCache(place, LABELS, FileReader())._key(pair_of(shapes))
    assert DecodedCache(place, LABELS, FileReader(threshold=128))._key(pair_of(shapes)) != key
    drawn_otherwise = Labels.of(LABELS.names, palette=[(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    assert DecodedCache(place, drawn_otherwise, FileReader())._key(pair_of(shapes)) == key


def test_a_disk_that_is_nearly_full_is_left_alone(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fullyconv")
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes)).read()
    assert not list((tmp_path / "c").rglob("*.*"))
    assert "has 2 GB free" in caplog.text


def test_a_write_that_fails_leaves_nothing_behind_and_stops_nobody(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    caplog.set_level("INFO", "fullyconv")
    monkeypatch.setattr(os, "fsync", full)
    assert Counted(DecodedCache(tmp_path / "c", LABELS, FileReader()), pair_of(shapes)).read()[1].shape == (48, 64)
    assert not list((tmp_path / "c").rglob("*.*"))
    assert "No space left on device" in caplog.text


def test_transforms_that_change_their_input_do_not_change_what_is_kept(shapes: Path, place: str) -> None:
    class Blackens(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
        def forward(self, image: Any, mask: Any) -> Any:
            return image.zero_(), mask.fill_(1)

    cache = DecodedCache(place, LABELS, FileReader())
    dataset = SegmentationFolder([pair_of(shapes)], LABELS, cache=cache, transform=Blackens())
    for _ in range(2):
        assert dataset[0]["image"].max() == 0
    dataset.transform = TrainingTransform(Augmentation(None, (1, 1), 0, 0, 0, 0))
    assert dataset[0]["image"].max() > 0
    assert set(dataset[0]["mask"].unique().tolist()) > {0, 1}


def test_workers_share_the_bound_of_the_memory_out(shapes: Path) -> None:
    data = SegmentationDataModule(str(shapes), cache="memory", cache_gigabytes=6, num_workers=3)
    assert data.cache is not None
    assert data.cache.bound == 2 * 10**9

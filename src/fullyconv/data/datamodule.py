"""The data of a training run: splits, labels, loaders."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fullyconv.data.augment import Augment, Augmented
from fullyconv.data.cache import DecodedCache
from fullyconv.data.checks import one_class
from fullyconv.data.folder import SegmentationFolder, set_aside
from fullyconv.data.layouts import Reading
from fullyconv.data.pairs import Pair
from fullyconv.data.samplers import EpochSampler, UnpaddedDistributedSampler
from fullyconv.data.sources import check_labels, open_source
from fullyconv.data.transforms import PAD_VALUE, Augmentation, TrainingTransform
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels

AUGMENTING = ("crop_size", "scale", "flip", "brightness", "contrast", "saturation", "hue")
LOADING = (
    *AUGMENTING, "batch_size", "repeats", "num_workers", "seed", "eval_batch_size", "check", "cache", "cache_gigabytes",
    "augment",
)  # fmt: skip
"""Options that say how samples are loaded, not which there are."""
D = TypeVar("D", bound=L.LightningDataModule)
P = ParamSpec("P")


def constructed(init: Callable[Concatenate[D, P], None]) -> classmethod[D, P, D]:
    """Make ``from_folder``: the constructor by another name, with its arguments, their types and defaults.

    Args:
        init: the constructor.
    """

    def from_folder(cls: type[D], /, *args: P.args, **options: P.kwargs) -> D:
        return cls(*args, **options)

    from_folder.__doc__ = "Make a data module from a folder; takes what the constructor takes."
    from_folder.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
    return classmethod(from_folder)


class SegmentationDataModule(L.LightningDataModule):
    """Load images and masks for training and evaluation.

    Classes, label map and splits are known right after construction. A batch is a dict: `image` (N, C, H, W) float32
    RGB in 0..1, not normalized; `mask` (N, H, W) int64; `size` (N, 2) height and width before padding; `path` list of
    str. Training samples are augmented; evaluation samples keep their own size, and images of different sizes are
    evaluated one by one.

    Args:
        data: a folder, or the name of a public set under the folder that FULLYCONV_DATA names. See
            `fullyconv.data.layouts.LAYOUTS` for what a folder may look like.
        classes: class names in the order of the network's outputs; found from the data by default.
        values: value in the mask file -> class name or "ignore"; by default value i is class i and 255 is ignored. A
            value is a number, or a color "#rrggbb". Or the name of a public set ("voc2012"), whose label map is taken.
        images: folder of the images inside `data`, or a pattern of files, where it is not found by its name.
        masks: folder of the masks inside `data`, or a pattern of files; of annotations their JSON file or a pattern, of
            a table the column.
        pairs: a CSV, TSV or JSON-lines file with the columns image, mask and, if you like, split.
        lists: a folder with train.txt and val.txt, test.txt or both: names of images, one a line, which take the place
            of the splits that the data has; images in no list are left out.
        unlabeled: "skip" leaves out images without a mask, "error" refuses them.
        skip_bad: leave out files that do not pair, and pairs that cannot be read, and list them, instead of an error.
        crowds: "ignore", or "category" to read COCO's regions of many objects (`iscrowd`) as their category.
        value_range: the numbers that are black and white in images of more than 8 bits, such as (0, 4095); the model
            that is trained on them remembers it.
        in_channels: C of the images. 3 reads all as RGB, 1 as gray; any other number is that of the files, all of
            them: 4 keeps alpha or a fourth band, TIFF files of more bands need the extra `tiff`.
        batch_size: samples a training batch and process.
        crop_size: height and width of training crops in pixels; one number is a square, None the image's own size.
        scale: range of the random scale.
        flip: probability of a flip from left to right.
        brightness: how far brightness varies, 0..1.
        contrast: how far contrast varies, 0..1.
        saturation: how far saturation varies, 0..1.
        hue: how far hue varies, 0..0.5.
        num_workers: processes that read samples; 0 reads in the training process.
        val_fraction: share of the training pairs set aside for validation where the data has no validation split.
        split_seed: seed of that split, and of that for testing.
        seed: seed of order and augmentation. The same seed gives the same batches, with any number of workers.
        eval_batch_size: samples a batch in evaluation; by default `batch_size` where all images have one size, else
            1.
        check: read all masks once before training and refuse what would break it; a second or so per thousand masks.
        cache: where decoded images and masks are kept, so that only the first epoch decodes: a folder, which lasts
            and serves all processes, or "memory", which each worker has for itself; None decodes every time.
        cache_gigabytes: how much of them is kept at most, in 10^9 bytes; the workers share the memory out.
        test_fraction: share of the pairs set aside for testing, before any for validation, where the data has no test
            split; 0 sets none aside.
        train_on: "train", or "train+val" for the last training of a model whose settings were chosen on val: there is
            nothing to validate on then, and a command of training keeps the weights of its last epoch.
        augment: an augmentation of your own for training samples, before crop, scale, flip and colors: a transform of
            torchvision's v2, one of albumentations, or a function of ``image=`` and ``mask=``; see
            `fullyconv.data.augment.Augmented`.
        repeats: times that an epoch shows each training image, cropped and augmented anew each time; more than one
            gives a small set epochs of enough steps.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if layout, pairs or labels are not understood.
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        data: str | Path,
        *,
        classes: list[str] | None = None,
        values: dict[int | str, str] | str | None = None,
        images: str | None = None,
        masks: str | None = None,
        pairs: str | None = None,
        lists: str | None = None,
        unlabeled: Literal["error", "skip"] = "error",
        skip_bad: bool = False,
        crowds: Literal["ignore", "category"] = "ignore",
        value_range: tuple[float, float] | None = None,
        in_channels: int = 3,
        batch_size: int = 4,
        crop_size: int | tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        brightness: float = 0.25,
        contrast: float = 0.25,
        saturation: float = 0.25,
        hue: float = 0.0,
        num_workers: int = 0,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        check: bool = True,
        cache: str | None = None,
        cache_gigabytes: float = 8.0,
        test_fraction: float = 0.0,
        train_on: Literal["train", "train+val"] = "train",
        augment: Augment | None = None,
        repeats: int = 1,
    ) -> None:
        arguments = dict(locals())
        super().__init__()
        data = os.fspath(data)
        # Not for the logger: the module has arguments of the same names, and Lightning refuses to merge the two.
        self.save_hyperparameters(logger=False, ignore=["augment"])  # a checkpoint holds plain values
        if augment is not None and (not callable(augment) or isinstance(augment, type)):
            raise ValueError(f"augment={augment!r}: give an object that is called with an image and its mask")
        self.augment = augment
        self._set_loading(arguments)
        reading = {option.name: arguments[option.name] for option in fields(Reading)}
        self.source = open_source(data, classes=classes, values=values, **reading)
        if train_on not in ("train", "train+val"):
            raise ValueError(f'train_on={train_on!r}: choose "train" or "train+val"')
        self.splits = self._drawn(test_fraction, val_fraction, split_seed)
        if train_on == "train+val" and "train" in self.splits:
            # A score on images that were trained on would look like one that means something.
            self.splits["train"] = self.splits["train"] + self.splits.pop("val", [])
            self.source.notes.append(f"trains on {train_on}: nothing to validate on; the last epoch's weights are kept")
        self._checked: set[str] = set()
        self.cache: DecodedCache | None = None
        self.keep_decoded(cache, cache_gigabytes)

    def _set_loading(self, options: Mapping[str, Any]) -> None:
        for name, least in (("batch_size", 1), ("repeats", 1), ("num_workers", 0)):
            if not isinstance(options[name], int) or options[name] < least:
                raise ValueError(f"{name}={options[name]!r}: a whole number, at least {least}")
        if options["eval_batch_size"] is not None and options["eval_batch_size"] < 1:
            raise ValueError(f"eval_batch_size={options['eval_batch_size']!r}: a whole number, at least 1, or None")
        self.augmentation = Augmentation(*(options[name] for name in AUGMENTING))
        self.batch_size: int = options["batch_size"]
        self.repeats: int = options["repeats"]
        self.eval_batch_size: int | None = options["eval_batch_size"]
        self.num_workers: int = options["num_workers"]
        self.seed: int = options["seed"]
        self._check: bool = options["check"]

    def load_by(self, **options: Any) -> Self:
        """Load the same data by other options from now on.

        Args:
            options: of `LOADING`; those that are not named stay as they are.

        Returns:
            This object.

        Raises:
            ValueError: if an argument is out of its range.
        """
        self.augment = options.pop("augment", self.augment)
        self._set_loading({**self.hparams, **options})
        self.hparams.update(options)
        self.keep_decoded(self.hparams["cache"], self.hparams["cache_gigabytes"])
        return self

    def keep_decoded(self, cache: str | Path | None, gigabytes: float = 8.0) -> None:
        """Keep decoded images and masks from now on, as labels and reader of `source` are now.

        Args:
            cache: a folder, "memory", or None to keep nothing.
            gigabytes: how much is kept at most, in 10^9 bytes.

        Raises:
            ValueError: if `gigabytes` is not above 0.
            DatasetError: if the folder cannot be made.
        """
        self.cache = None
        if cache is not None:
            readers = max(self.num_workers, 1) if os.fspath(cache) == "memory" else 1
            self.cache = DecodedCache(cache, self.source.labels, self.source.reader, gigabytes / readers)

    from_folder = constructed(__init__)

    @property
    def labels(self) -> Labels:
        """Class names, palette and label map."""
        return self.source.labels

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the network's outputs."""
        return list(self.labels.names)

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self.labels.num_classes

    @property
    def in_channels(self) -> int:
        """Channels C of the images."""
        return self.source.reader.channels

    @property
    def ignore_index(self) -> int:
        """Index of ignored pixels."""
        return self.labels.ignore_index

    @property
    def report(self) -> str:
        """Say where the data is, how it is laid out and split, and what its classes are."""
        sizes = ", ".join(f"{split} {len(pairs)}" for split, pairs in self.splits.items())
        first = f"{self.source.root}: layout {self.source.layout}; pairs: {sizes}"
        return "\n".join([first, *self._described(), *self.source.notes, *self.source.warned])

    def _described(self) -> list[str]:
        channels = [] if self.in_channels == 3 else [f"images of {self.in_channels} channels"]
        return [described(self.labels), *channels, f"values in the masks: {self.labels.describe_values()}"]

    def check(self, split: str | None = None) -> dict[str, int]:
        """Read every mask once, in parallel, and see that nothing in it can break training.

        Args:
            split: one split; all of them by default.

        Returns:
            Class name -> pixels, and "ignore" -> pixels.

        Raises:
            DatasetError: if a file is damaged, an image and its mask differ in size, or a mask holds a value that is
                not in the label map; it names file and value. Also if all that is trained on is of one class.
        """
        pairs = self._pairs(split) if split else [pair for part in self.splits.values() for pair in part]
        totals = check_labels(self.source, pairs)
        labels = self.source.labels
        there = [name for name in labels.names if totals[name]]
        if split in (None, "train") and (problem := one_class(there, labels)):
            raise DatasetError(f"{self.source.root}: {problem}")
        return totals

    def dataset(self, split: str) -> SegmentationFolder:
        """Give one split as a data set of samples, augmented if it is "train".

        Args:
            split: "train", "val" or "test".

        Returns:
            The data set.

        Raises:
            DatasetError: if there is no such split.
        """
        dataset = self._plain_dataset(split)
        if split == "train":
            own = TrainingTransform(self.augmentation, dataset.labels.ignore_index)
            dataset.transform = own if self.augment is None else Augmented(self.augment, own, dataset.labels)
        return dataset

    def _plain_dataset(self, split: str) -> SegmentationFolder:
        source = self.source
        return SegmentationFolder(
            self._pairs(split), source.labels, reader=source.reader, cache=self.cache, seed=self.seed
        )

    def setup(self, stage: str) -> None:
        """Check the masks that the stage will use; Lightning calls this."""
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        if stage == "fit":
            rank_zero_info(self.report)
        for split in wanted:
            if self._check and split in self.splits and split not in self._checked:
                self.check(split)
                self._checked.add(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented training samples, shuffled anew every epoch."""
        dataset = self.dataset("train")
        sampler = EpochSampler(dataset, self.seed, repeats=self.repeats)
        # A last batch of one sample breaks batch normalization on small maps.
        return self._loader(dataset, sampler, self.batch_size, drop_last=len(sampler) > self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Load the validation split, every sample once, at its own size."""
        return self.eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the test split, every sample once, at its own size."""
        return self.eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Load what is there to be looked at: the test split, else that for validation, else all, at its own size."""
        return self.eval_dataloader(next(split for split in ("test", "val", "train") if split in self.splits))

    def eval_dataloader(self, split: str) -> DataLoader[Any]:
        """Load any split without augmentation, every sample once, at its own size.

        Args:
            split: "train", "val" or "test".

        Raises:
            DatasetError: if there is no such split.
        """
        dataset = self._plain_dataset(split)
        batch_size = self.eval_batch_size
        if batch_size is None:
            # Padding would change what the network sees near the border, so mixed sizes go one by one.
            one_size = len({self.source.reader.size(pair) for pair in dataset.pairs}) == 1
            batch_size = self.batch_size if one_size else 1
        return self._loader(dataset, UnpaddedDistributedSampler(dataset), batch_size, drop_last=False)

    def _loader(
        self, dataset: Dataset[Any], sampler: Sampler[Any], batch_size: int, *, drop_last: bool
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, ignore_index=self.ignore_index),
            pin_memory=torch.cuda.is_available(),
            drop_last=drop_last,
            # The loader draws a seed for its workers; from a generator of its own it leaves the global one alone.
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.num_workers > 0,
        )

    def _pairs(self, split: str) -> list[Pair]:
        if split not in self.splits:
            other = next((name for name in ("val", "test", "train") if name in self.splits), "train")
            aside = ", set a part aside (test_fraction=0.2, --test-fraction 0.2)" if split == "test" else ""
            remedy = f"take one of these (--split {other}){aside}, or add a {split}/ folder"
            raise DatasetError(f"{self.source.root}: has no split {split!r}, only {', '.join(self.splits)}; {remedy}")
        return self.splits[split]

    def _drawn(self, test_fraction: float, val_fraction: float, seed: int) -> dict[str, list[Pair]]:
        """Set aside what is to be tested and validated with, where the data says nothing of it."""
        if not 0.0 <= test_fraction < 1.0:
            raise ValueError(f"test_fraction={test_fraction}: a share between 0 and 1, such as 0.2, or 0 for none")
        splits = dict(self.source.splits)
        name = "train" if "train" in splits else "all"
        if name not in splits:
            return splits  # a test split alone: enough to be tested on, and training says what it lacks
        for split, fraction, word in (("test", test_fraction, "test"), ("val", val_fraction, "validation")):
            if split not in splits and (split == "val" or fraction):
                every = len(splits[name])
                splits[name], splits[split] = set_aside(splits[name], fraction, seed)
                self.source.notes.append(
                    f"no {word} split: {len(splits[split])} of {every} pairs set aside for it "
                    f"({split}_fraction={fraction}, split_seed={seed})"
                )
        splits["train"] = splits.pop(name)
        return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def described(labels: Labels) -> str:
    """Write the number of classes and the first of their names."""
    names = ", ".join(labels.names[:24]) + (", ..." if labels.num_classes > 24 else "")
    return f"{labels.num_classes} classes: {names}"


def collate(samples: Sequence[dict[str, Any]], *, ignore_index: int = 255) -> dict[str, Any]:
    """Make a batch of samples, those of different sizes padded at the bottom and the right.

    Args:
        samples: dicts of `image` (C, H, W), `mask` (H, W), `size` (2,), `path`.
        ignore_index: what fills the masks; images are filled with mid gray (`PAD_VALUE`).

    Returns:
        `image` (N, C, H, W), `mask` (N, H, W), `size` (N, 2), `path` (list of N), with the largest H and W of the
        samples.
    """
    height, width = (max(int(sample["mask"].shape[axis]) for sample in samples) for axis in (-2, -1))

    def padded(key: str, value: float) -> Tensor:
        rests = [(0, width - one[key].shape[-1], 0, height - one[key].shape[-2]) for one in samples]
        pad = torch.nn.functional.pad
        return torch.stack([pad(one[key], rest, value=value) for one, rest in zip(samples, rests, strict=True)])

    return {
        "image": padded("image", PAD_VALUE),
        "mask": padded("mask", ignore_index),
        "size": torch.stack([sample["size"] for sample in samples]),
        "path": [sample["path"] for sample in samples],
    }

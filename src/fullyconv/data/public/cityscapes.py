"""Cityscapes: street scenes of 2048 x 1024 from 50 cities, 19 classes.

Source: Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016. Masks hold label ids
0 to 33, of which 19 are scored; those of train ids (0 to 18, 255) are read where there are no others. The masks of the
test images are not public: the files that are published for them hold no classes, so that there is no test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv import label_sets
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, Facts, PublicSet
from fullyconv.data.public.lists import by_suffix, paired
from fullyconv.data.readers import FileReader, Reader
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels

_IMAGE = "_leftImg8bit.png"
_LABEL_IDS = "_gtFine_labelIds.png"
_TRAIN_IDS = "_gtFine_labelTrainIds.png"


@dataclass(frozen=True)
class Cityscapes(PublicSet):
    """The finely annotated images of Cityscapes."""

    name = "cityscapes"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return Facts(
            title="Cityscapes",
            source='Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016',
            page="https://www.cityscapes-dataset.com/downloads/",
            license="the Cityscapes license: not for commercial use, not to be passed on",
            counts={"train": 2975, "val": 500},
            layout=f"""\
leftImg8bit/train/CITY/NAME{_IMAGE}, the same in val/
gtFine/train/CITY/NAME{_LABEL_IDS} (or {_TRAIN_IDS[1:]}), the same in val/""",
            login=True,
            archives=(Archive("leftImg8bit_trainvaltest.zip"), Archive("gtFine_trainvaltest.zip")),
            folders=("cityscapes", "Cityscapes"),
            notes=("the masks of the test images are not public",),
        )

    @property
    def labels(self) -> dict[str, Labels]:
        """The 19 classes with the official palette; the other label ids are ignored."""
        return {"main": label_sets.cityscapes()}

    def is_set(self, root: Path) -> bool:
        """Tell Cityscapes itself: the names are its own."""
        images, masks = (root / kind / "train" for kind in ("leftImg8bit", "gtFine"))
        return images.is_dir() and next(masks.rglob("*_gtFine_label*Ids.png"), None) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of train and val.

        Args:
            root: folder with leftImg8bit and gtFine.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a part is missing.
            DatasetError: if images and masks do not pair.
        """
        for name in ("leftImg8bit", "gtFine"):
            if not (root / name).is_dir():
                raise FileNotFoundError(
                    f"{root / name}: no such folder; Cityscapes is two archives, {name}_trainvaltest.zip makes it"
                )
        splits = {}
        for split in ("train", "val"):
            folder = root / "gtFine" / split
            masks = by_suffix(folder, _LABEL_IDS) or by_suffix(folder, _TRAIN_IDS)
            splits[split] = paired(by_suffix(root / "leftImg8bit" / split, _IMAGE), masks, folder)
        return splits

    def reader(self, root: Path) -> Reader:
        """Give what reads the files."""
        return CityscapesReader()


@dataclass(frozen=True)
class CityscapesReader(FileReader):
    """Read masks as label ids, also those that hold train ids."""

    def mask(self, pair: Pair) -> npt.NDArray[np.integer]:
        """Read the mask as (H, W) label ids."""
        mask = super().mask(pair)
        if not pair.mask.name.endswith(_TRAIN_IDS):
            return mask
        table = np.full(256, 255, np.uint8)
        ids = [value for value, _ in label_sets.CITYSCAPES.values()]
        table[: len(ids)] = ids
        stray = np.unique(mask[(mask >= len(ids)) & (mask != 255)])
        if stray.size:
            raise DatasetError(
                f"{pair.mask}: holds the value {stray[0]}; train ids are 0 to 18 and 255. Replace the file"
            )
        result: npt.NDArray[np.integer] = table[mask]
        return result

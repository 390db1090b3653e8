"""Sets whose images and masks lie in two trees of the same names: ADE20K, CamVid, Cityscapes, COCO-Stuff.

ADE20K is cut down to the scene parsing benchmark: masks hold 1 to 150, and 0 counts for nothing. CamVid is as split and
labeled for SegNet. Cityscapes holds label ids 0 to 33, of which 19 are scored; masks of train ids (0 to 18, 255) are
read where there are no others, and those of the test images are not public. COCO-Stuff holds the id less 1, 0 to 181,
where 11 ids that COCO never used are gaps; 255 is unlabeled.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv import label_sets
from fullyconv.data.layouts import Source
from fullyconv.data.pairs import Pair, pair_names
from fullyconv.data.public.description import PublicSet, RenumberingReader, entries, filled
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError
from fullyconv.labels import Labels

Places = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trees(PublicSet):
    """A set in two trees.

    Args:
        images: folders, with {} for the part, and what the names of images end in; the first that is there counts.
        masks: the same for masks.
        key: what names without that ending look like, which tells the set from others; one that ends in $ holds for
            all files, and others are left out.
        parts: split -> what stands for {}.
        called: what the folder may begin with instead.
        reads: reads the files, where they are no masks of indices.
    """

    images: Places
    masks: Places
    key: str
    parts: tuple[tuple[str, str], ...] = (("train", "train"), ("val", "val"))
    called: str = "?"
    reads: FileReader | None = None

    def is_set(self, root: Path) -> bool:
        """Tell the set itself from another in its layout, by the names of its files, or of its folder."""
        train = self.parts[0][1]
        there = ((root / place.format(train)).rglob(f"*{ending}") for place, ending in self.masks)
        first = next(itertools.chain.from_iterable(there), None)
        if first is None or not any((root / place.format(train)).is_dir() for place, _ in self.images):
            return False
        return root.resolve().name.lower().startswith(self.called) or bool(re.match(self.key.rstrip("$"), first.name))

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of every split that is there.

        Args:
            root: the folder of the set.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a part is missing.
            DatasetError: if images and masks do not pair.
        """
        splits = {}
        for split, part in self.parts:
            places = [root / place.format(part) for place, _ in (*self.images, *self.masks)]
            if split == "train" or self.called == "?" or any(place.is_dir() for place in places):
                images, masks = (self._files(root, side, part) for side in (self.images, self.masks))
                splits[split] = self._paired(images, masks, places[-1])
        return splits

    def _paired(self, images: Mapping[str, Path], masks: Mapping[str, Path], where: Path) -> list[Pair]:
        told = Source()
        pairs = pair_names(told, images, masks, ("the set", str(where)))
        if told.lost:
            raise DatasetError(f"{told.lost[0].message}; or unpack the set again")
        if not pairs:
            raise DatasetError(f"{where}: no images and masks there; unpack all parts of the set")
        return pairs

    def _files(self, root: Path, places: Places, part: str) -> dict[str, Path]:
        """List the files of a part by what stands before the ending of their names."""
        for place, ending in places:
            folder = root / place.format(part)
            files = [path for path in sorted(folder.rglob(f"*{ending}")) if not path.name.startswith(".")]
            found = {path.relative_to(folder).as_posix().removesuffix(ending): path for path in files}
            if found:
                return {k: path for k, path in found.items() if not self.key.endswith("$") or re.match(self.key, k)}
        folder = root / places[0][0].format(part)
        raise FileNotFoundError(
            f"{folder}: no such folder; unpack all parts of the set. {self.facts.title} is\n{self.facts.layout}"
        )

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files."""
        return self.reads or FileReader()


def trees(name: str, labels: Labels, reads: FileReader | None = None) -> Trees:
    """Make a set of what facts.toml says of its trees."""
    return Trees(name, {"main": labels}, reads=reads, **filled(entries()[name]["trees"]))


def train_ids() -> FileReader:
    """Read the masks of Cityscapes, where they are of train ids as those of the published ids."""
    table = np.full(256, -1)
    table[[*range(19), 255]] = [*(value for value, _ in label_sets.CITYSCAPES.values()), 255]
    return RenumberingReader(table=tuple(table.tolist()), ending="_gtFine_labelTrainIds.png")

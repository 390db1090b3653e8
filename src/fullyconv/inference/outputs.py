"""What is written for an image, a frame and a video, and under which names. It needs numpy and Pillow, not torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fullyconv.images import write_image
from fullyconv.inference.segmentation import Segmentation, of_head
from fullyconv.inference.video import folder_of, mask_of
from fullyconv.polygons import coco, geojson, write_json

if TYPE_CHECKING:
    from fullyconv.inference.heatmap import Heatmap

ONE_HEAD = ("",)


@dataclass(frozen=True)
class Outputs:
    """Which files are wanted of each image, beside its mask.

    Args:
        overlay: the image with the classes laid over, ``NAME.overlay.png``; of a video ``NAME.overlay.mp4``.
        probabilities: ``NAME.npz`` with those of the winning class, or of all classes, float16.
        polygons: ``NAME.geojson`` or ``NAME.coco.json``.
        heatmaps: of a classifier, ``NAME.heatmap.WORD.png`` for each of these classes, by name or number.
        masks: of a video, a mask a frame.

    Raises:
        ValueError: if two heat maps would have one file, or what is written frame by frame is wanted without masks.
    """

    overlay: bool = False
    probabilities: Literal["top", "all"] | None = None
    polygons: Literal["geojson", "coco"] | None = None
    heatmaps: Sequence[str] = ()
    masks: bool = True

    def __post_init__(self) -> None:
        files = {_heatmap(Path("x.png"), word) for word in self.heatmaps}
        if len(files) < len(self.heatmaps):
            raise ValueError(f"heatmaps={list(self.heatmaps)}: two would have one file; give each class once")
        if not self.masks and (self.probabilities or self.polygons):
            raise ValueError(
                "masks=False: leaves out all that is written frame by frame; ask for no probabilities or polygons"
            )

    def of_image(self, mask: Path, heads: Sequence[str] = ONE_HEAD) -> list[Path]:
        """Name all files that are written for one image, the mask last; of several heads those of each."""
        named: list[Path] = []
        for head in heads:
            target = of_head(mask, head)
            named += [target.with_suffix(".overlay.png")] if self.overlay else []
            named += [*self._beside(target).values(), *(_heatmap(target, word) for word in self.heatmaps), target]
        return named

    def of_frame(self, folder: Path, number: int, heads: Sequence[str] = ONE_HEAD) -> list[Path]:
        """Name the files that are written for a frame of a video, whose overlay is a video of its own."""
        targets = [mask_of(folder_of(folder, head), number) for head in heads]
        return [path for target in targets for path in (*self._beside(target).values(), target)]

    def of_video(self, folder: Path, heads: Sequence[str] = ONE_HEAD) -> list[Path]:
        """Name the files that are written for a video beside the folder of its masks, tables last."""
        folders = [folder_of(folder, head) for head in heads]
        overlays = [each.with_name(f"{each.name}.overlay.mp4") for each in folders] if self.overlay else []
        return [*overlays, *(each.with_name(f"{each.name}.csv") for each in reversed(folders))]

    def _beside(self, mask: Path) -> dict[str, Path]:
        found = {}
        if self.probabilities:
            found["probabilities"] = mask.with_suffix(".npz")
        if self.polygons:
            found["polygons"] = mask.with_suffix(".geojson" if self.polygons == "geojson" else ".coco.json")
        return found

    def write(
        self, results: Mapping[str, Segmentation], heatmaps: Mapping[str, Heatmap], name: str, mask: Path
    ) -> None:
        """Write all files of an image, the mask last.

        Args:
            results: of each head; "" where there is one.
            heatmaps: by the word that was asked for.
            name: of the image, as annotations call it.
            mask: file of the mask.
        """
        mask.parent.mkdir(parents=True, exist_ok=True)
        for head, result in results.items():
            target = of_head(mask, head)
            if self.overlay:
                write_image(target.with_suffix(".overlay.png"), result.overlay())
            self.write_beside(result, name, target)
            for word, heatmap in heatmaps.items():
                heatmap.save(_heatmap(target, word))
            result.save(target)

    def write_beside(self, result: Segmentation, name: str, mask: Path) -> None:
        """Write the probabilities and polygons of an image or frame."""
        mask.parent.mkdir(parents=True, exist_ok=True)
        files = self._beside(mask)
        if "probabilities" in files:
            result.save_probabilities(files["probabilities"])
        if "polygons" in files:
            if self.polygons == "coco":
                content = coco(result.mask, result.labels, name)
            else:
                to_degrees = None if result.place is None else partial(result.place.to_degrees, name=name)
                content = geojson(result.mask, result.labels, to_degrees)
            write_json(files["polygons"], content)


def _heatmap(mask: Path, word: str) -> Path:
    plain = re.sub(r"[^\w-]+", "_", word).strip("_")
    return mask.with_suffix(f".heatmap.{plain}.png")

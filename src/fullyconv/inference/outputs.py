"""What is written for an image, a frame and a video, under which names, and what became of it. It needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fullyconv.images import write_image
from fullyconv.images.pixels import ValueRange, check_range
from fullyconv.inference.options import Halo, Options, Probabilities
from fullyconv.inference.segmentation import Segmentation, of_head
from fullyconv.inference.video import folder_of, mask_of
from fullyconv.polygons import coco, geojson, write_json

if TYPE_CHECKING:
    from fullyconv.inference.heatmap import Heatmap
    from fullyconv.inference.processor import Precision

MaskFormat = Literal["png", "tif"]
ONE_HEAD = ("",)


@dataclass(frozen=True)
class FolderOptions:
    """What is written of each file, and how it is predicted; `predict_folder` says what each option means.

    Raises:
        ValueError: if an option has an invalid value, two heat maps would have one file, or what is written frame by
            frame is wanted without masks.
    """

    overlay: bool = False
    probabilities: Probabilities | None = None
    polygons: Literal["geojson", "coco"] | None = None
    heatmaps: Sequence[str] = ()
    masks: bool = True
    memory: int | str | None = None
    halo: Halo = "exact"
    flip: bool = False
    scales: Sequence[float] | None = None
    every: int = 1
    overwrite: bool = False
    value_range: ValueRange | None = None
    mask_format: MaskFormat = "png"
    precision: Precision = "float32"
    batch: int | None = None
    workers: int | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        files = {_heatmap(Path("x.png"), word) for word in self.heatmaps}
        if len(files) < len(self.heatmaps):
            raise ValueError(f"heatmaps={list(self.heatmaps)}: two would have one file; give each class once")
        if not self.masks and (self.probabilities or self.polygons):
            raise ValueError(
                "masks=False: leaves out all that is written frame by frame; ask for no probabilities or polygons"
            )
        if self.mask_format not in get_args(MaskFormat):
            raise ValueError(f'mask_format={self.mask_format!r}: give "png" or "tif"')
        if self.value_range is not None:
            check_range(self.value_range)
        Options(**self.predicting)
        for name, number in (("batch", self.batch), ("workers", self.workers)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number!r}: a whole number, at least 1")

    @property
    def predicting(self) -> dict[str, Any]:
        """What ``predict`` of a predictor is told: the fields of `Options`."""
        scales = [1.0] if self.scales is None else list(self.scales)
        told = {"memory": self.memory, "halo": self.halo, "flip": self.flip, "scales": scales}
        return told | {"probabilities": self.probabilities}

    @property
    def settings(self) -> dict[str, Any]:
        """What masks depend on, beside model and inputs: plain values."""
        told = {key: value for key, value in self.predicting.items() if key != "memory"} | {"every": self.every}
        told |= {} if self.value_range is None else {"value_range": list(self.value_range)}
        return told | ({} if self.precision == "float32" else {"precision": self.precision})

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


@dataclass(frozen=True)
class Predicted:
    """What became of one image or video.

    Args:
        source: the file.
        target: its mask; of a video the folder of the masks, or the overlay where one is written. None if it failed.
        shares: for each head the share of each class, the largest first; the one head of a plain model is called "".
        frames: of a video, how many were segmented.
        heatmaps: of a classifier, how much is seen of each class that was asked for: "up to 60.0 %".
        note: what a person should know of it.
        error: why it was left out.
    """

    source: Path
    target: Path | None = None
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    frames: int | None = None
    heatmaps: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class FolderResult:
    """What became of many files.

    Args:
        out: folder of the masks.
        before: files that an earlier run had done.
        predicted: one for each of the others, in their order.
    """

    out: Path
    before: int
    predicted: tuple[Predicted, ...]

    @property
    def failed(self) -> list[Predicted]:
        """Those that were left out."""
        return [each for each in self.predicted if each.error is not None]

    def __repr__(self) -> str:
        done = len(self.predicted) - len(self.failed)
        return (
            f"FolderResult({str(self.out)!r}: {done} predicted, {self.before} done before, {len(self.failed)} failed)"
        )


def _heatmap(mask: Path, word: str) -> Path:
    plain = re.sub(r"[^\w-]+", "_", word).strip("_")
    return mask.with_suffix(f".heatmap.{plain}.png")

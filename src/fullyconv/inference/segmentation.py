"""The result of a prediction. It needs numpy and Pillow, not torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fullyconv.drawing import overlay, percent
from fullyconv.files import replacing
from fullyconv.images import MaskWriter, visible
from fullyconv.images.georeference import Georeference
from fullyconv.images.raster import Raster
from fullyconv.labels import Labels

_LEADING = 5  # classes that a result names in one line
_SHOWN, _LEAST = 1600, 480  # pixels of the longer side that a notebook shows, at most and about at least


@dataclass(frozen=True, repr=False)
class Segmentation:
    """A mask at the image's own size, and what its numbers mean.

    Args:
        mask: (H, W) uint8, or uint16 with more than 255 classes: index of the class of each pixel.
        labels: names and colors of the classes.
        image: (H, W, 3) uint8, the image as it was read; of more bands the first three.
        probabilities: float16, (H, W) that of the class in the mask, or (H, W, K) those of all classes; None where they
            were not asked for.
        place: where on the earth the image lies; None where its file does not say.

    Example:
        >>> labels = Labels.of(["road", "sky", "tree"])
        >>> Segmentation(np.array([[0, 0, 1]], np.uint8), labels, np.zeros((1, 3, 3), np.uint8))
        Segmentation(1 x 3 pixels: road 66.7 %, sky 33.3 %)
    """

    mask: npt.NDArray[np.unsignedinteger[Any]]
    labels: Labels
    image: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float16] | None = None
    place: Georeference | None = None

    @classmethod
    def of(
        cls,
        raster: Raster,
        mask: npt.NDArray[Any],
        labels: Labels,
        probabilities: npt.NDArray[np.float16] | None = None,
    ) -> Segmentation:
        """Make a result of the classes of all pixels; those that hold no data are ignored."""
        mask = mask.astype(labels.dtype, copy=False)
        if raster.empty is not None:
            mask = np.where(raster.empty, labels.dtype(labels.ignore_index), mask)
        return cls(mask, labels, visible(raster.pixels), probabilities, raster.place)

    @property
    def classes(self) -> list[str]:
        """The K class names; ``classes[mask[y, x]]`` is the name at a pixel."""
        return list(self.labels.names)

    def shares(self) -> dict[str, float]:
        """Give the share of each class among the pixels, between 0 and 1, the largest first."""
        return shares_of(count(self.mask, self.labels), self.labels)

    def __repr__(self) -> str:
        return f"Segmentation({_described(self.mask.shape, self.shares())})"

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook; of a large image every n-th pixel, of a small one each several times."""
        longest = max(self.mask.shape)
        step, times = -(-longest // _SHOWN), max(1, _LEAST // longest)
        mask, image = (a[::step, ::step].repeat(times, 0).repeat(times, 1) for a in (self.mask, self.image))
        shown = replace(self, mask=mask, image=image)
        file = io.BytesIO()
        shown.overlay().save(file, "PNG")
        return file.getvalue()

    def overlay(self, alpha: float = 0.55, legend: bool | Literal["steady"] = True) -> Image.Image:
        """Draw the classes over the image, with a legend of those that occur.

        Args:
            alpha: 0 shows the image alone, 1 the classes alone.
            legend: whether to draw names, colors and shares; "steady" draws all classes, for the frames of a video.
        """
        return overlay(self.image, self.mask, self.labels, alpha=alpha, legend=legend)

    def to(self, device: object, **_: object) -> Segmentation:
        """Give the result itself: it lies in main memory. Lightning moves by it what a prediction step gives."""
        return self

    def save(self, path: str | Path) -> Path:
        """Write the mask with the palette of the classes; its pixel values are the class indices.

        A TIFF of a georeferenced image keeps its tags; beside a PNG a world file (``.pgw``) is written, and the
        coordinate system (``.png.aux.xml``, as GDAL reads it).

        Args:
            path: ends in `.png`, `.tif` or `.tiff` (with the extra `tiff`).
        """
        path, size = Path(path), (self.mask.shape[0], self.mask.shape[1])
        void = bool((self.mask == self.labels.ignore_index).any())
        # only a file of 8 bits holds colors; those TIFFs that are put together later have one type
        colored = path.suffix.lower() == ".png" and int(self.mask.max()) <= 255
        kind = np.uint8 if colored else self.labels.dtype
        with writing_mask(path, size, kind, self.labels, self.place, void) as writer:
            writer.write(self.mask)
        return path

    def save_probabilities(self, path: str | Path) -> Path:
        """Write the probabilities as an `.npz` file with the array ``probabilities`` in float16.

        Raises:
            ValueError: if none were asked for.
        """
        if self.probabilities is None:
            raise ValueError('there are no probabilities: ask for them, predict(..., probabilities="top") or "all"')
        with writing_probabilities(path, self.probabilities.shape) as write:
            write(self.probabilities)
        return Path(path)


@dataclass(frozen=True, repr=False)
class Written:
    """What became of an image whose mask was written to a file, band by band.

    Args:
        path: file of the mask.
        size: height and width, in pixels.
        labels: names and colors of the classes.
        counts: pixels of each class.
        preview: every so many-th row and column of image and mask, at most 4096 of them, to be looked at; None where
            it was not asked for.
        note: what a person should know of it.
    """

    path: Path
    size: tuple[int, int]
    labels: Labels
    counts: tuple[int, ...]
    preview: Segmentation | None = None
    note: str | None = None

    def shares(self) -> dict[str, float]:
        """Give the share of each class among the pixels, between 0 and 1, the largest first."""
        return shares_of(np.array(self.counts), self.labels)

    def __repr__(self) -> str:
        return f"Written({str(self.path)!r}, {_described(self.size, self.shares())})"


def count(mask: npt.NDArray[Any], labels: Labels) -> npt.NDArray[np.intp]:
    """Count the pixels of each class in a mask.

    Args:
        mask: (H, W) class indices.
        labels: of the K classes.

    Returns:
        (K,) pixels.
    """
    return np.bincount(mask.ravel(), minlength=len(labels.names))[: len(labels.names)]


def shares_of(counts: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    """Give the share of each class, between 0 and 1, the largest first.

    Args:
        counts: (K,) pixels.
        labels: of the K classes.
    """
    total = max(1, int(counts.sum()))
    order = np.argsort(-counts, kind="stable")
    return {labels.names[i]: float(counts[i] / total) for i in order}


def _described(size: tuple[int, ...], shares: dict[str, float]) -> str:
    """Say how large a mask is and which classes lead in it."""
    found = [f"{name} {percent(100 * share)}" for name, share in shares.items() if share > 0]
    more = [f"{len(found) - _LEADING} more"] if len(found) > _LEADING else []
    return f"{size[0]} x {size[1]} pixels: {', '.join([*found[:_LEADING], *more])}"


def of_head(path: Path, head: str) -> Path:
    """Name the file of one of several heads.

    Args:
        path: file for a segmenter with one head.
        head: name of the head; "" gives the path itself.

    Example:
        >>> of_head(Path("mask.png"), "semantic").name, of_head(Path("clip.overlay.mp4"), "semantic").name
        ('mask.semantic.png', 'clip.semantic.overlay.mp4')
    """
    # a table has no overlay: before .csv it is part of the name of a video
    ending = f".overlay{path.suffix}" if path.stem.endswith(".overlay") and path.suffix != ".csv" else path.suffix
    return path.with_name(f"{path.name.removesuffix(ending)}.{head}{ending}") if head else path


@contextmanager
def writing_mask(
    path: Path, size: tuple[int, int], dtype: npt.DTypeLike, labels: Labels, place: Georeference | None, void: bool
) -> Iterator[MaskWriter]:
    """Write a mask band by band with the palette of its classes, and where it lies.

    Args:
        path: file to write, as `MaskWriter` takes it.
        size: height and width, in pixels.
        dtype: uint8 or uint16.
        labels: names and colors of the classes.
        place: where on the earth the image lies.
        void: whether some pixels may hold no data.

    Yields:
        What writes the next rows.
    """
    palette = labels.palette if len(labels.names) <= 256 else None
    tags = () if place is None else place.tags_of_mask(labels.ignore_index if void else None)
    with MaskWriter(path, size, palette, dtype, tags) as writer:
        yield writer
    if place is not None and path.suffix.lower() == ".png":
        place.save_beside(path)


@contextmanager
def writing_probabilities(path: str | Path, shape: tuple[int, ...]) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """Write probabilities band by band to an `.npz` file, as ``probabilities``: all of it or nothing.

    Args:
        path: file to write, ending in `.npz`.
        shape: (H, W) or (H, W, K).

    Yields:
        What writes the next rows, (h, W) or (h, W, K) float16.

    Raises:
        ValueError: if the name has another ending.
        OSError: if it cannot be written; the message names it.
    """
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"path={str(path)!r}: probabilities are written as .npz; end the name so")
    with (
        replacing(path) as part,
        zipfile.ZipFile(part, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)

        def write(rows: npt.NDArray[Any]) -> None:
            for row in rows:
                member.write(np.ascontiguousarray(row, "<f2").tobytes())

        yield write

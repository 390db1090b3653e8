"""Predict many files with a model that is open: images, videos and folders of them. It needs no torch by itself.

The next image is decoded and the last one written while the network runs on this one. A run that was stopped goes on
where it was, and a file that cannot be read or written is named and left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fullyconv.errors import DatasetError, ScoresError
from fullyconv.files import remove_unfinished
from fullyconv.images import MAX_PIXELS, unread_images, write_image
from fullyconv.images.pixels import ValueRange
from fullyconv.images.raster import Raster, read_raster
from fullyconv.images.tiff import TiffImage, open_windows
from fullyconv.inference import batches
from fullyconv.inference.budget import available_processors, most_pixels, naming_memory
from fullyconv.inference.identity import file_identity, identity
from fullyconv.inference.inputs import Input, find_inputs, refuse_collisions, written
from fullyconv.inference.journal import Journal, Shard
from fullyconv.inference.options import Probabilities
from fullyconv.inference.outputs import ONE_HEAD, FolderOptions, FolderResult, MaskFormat, Predicted
from fullyconv.inference.segmentation import Segmentation, of_head
from fullyconv.inference.video import Frame, folder_of, frames_in, mask_of, predict_video, require_av
from fullyconv.labels import by_head

if TYPE_CHECKING:
    from fullyconv.inference.processor import Precision

BATCH = 8
"""Images of one size that an accelerator predicts together; a processor is no faster with more than one."""

LARGE = 2**23
"""Pixels from which on a TIFF is read window by window, and its mask written band by band, if no overlay is wanted."""


Progress = Callable[[Predicted, int, int], None]
FrameProgress = Callable[[Path, int, int | None], None]


_PLAIN = FolderOptions().predicting


def predict_folder(
    predictor: Any,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    overlay: bool = False,
    probabilities: Probabilities | None = None,
    polygons: Literal["geojson", "coco"] | None = None,
    heatmaps: Sequence[str] = (),
    masks: bool = True,
    memory: int | str | None = None,
    halo: int | Literal["exact"] = "exact",
    flip: bool = False,
    scales: Sequence[float] | None = None,
    every: int = 1,
    overwrite: bool = False,
    value_range: ValueRange | None = None,
    mask_format: MaskFormat = "png",
    precision: Precision = "float32",
    batch: int | None = None,
    workers: int | None = None,
    shard: str | None = None,
    progress: Progress | None = None,
    frames: FrameProgress | None = None,
) -> FolderResult:
    """Predict images, videos and folders of them, and write a mask for each.

    Subfolders are kept below `out`. Of a model with several heads each file has the name of the head in
    its own. An interrupted run resumes if model and settings are the same. Only one run at a time writes
    into a folder. A file that cannot be read or written is left out, and the result says why.

    Args:
        predictor: what `fullyconv.load` or `fullyconv.runtime.load` gives, or a converted classifier.
        inputs: an image, a video, a folder or a pattern with ``*``; or several.
        out: folder of the masks.
        overlay: write ``NAME.overlay.png`` beside each mask; of a video ``NAME.overlay.mp4``.
        probabilities: write ``NAME.npz``: that of the winning class ("top"), or those of all, float16.
        polygons: write ``NAME.geojson`` or ``NAME.coco.json``.
        heatmaps: of a classifier, write ``NAME.heatmap.WORD.png`` for each of these classes.
        masks: of a video, write a mask a frame; False leaves the overlay and the table of shares.
        memory: bytes that a prediction may take beside the model, such as "2GB"; None is half of what is free.
        halo: pixels around a tile that are read; fewer than "exact" may leave seams.
        flip: average with the mirrored image.
        scales: average over the image at these sizes; None takes it as it is.
        every: of a video, take only every n-th frame.
        overwrite: segment images again whose masks are there.
        value_range: the numbers that are black and white in images of more than 8 bits, such as (0, 4095); None
            takes those that the model was trained with, else the whole range of their type.
        mask_format: of the masks of images; "tif" keeps the tags of a GeoTIFF, "png" has a world file beside.
        precision: precision of convolutions; float32 where the device does not support it.
        batch: images of one size that are predicted together; None is 8 on an accelerator, else 1.
        workers: threads that read images, and as many that write; None is one a core on an accelerator, else 1.
        shard: the part of this process, such as "3/16": the names of the files alone decide which belong to it.
            When all parts are done, `fullyconv.inference.joining.join_masks` makes one run of them.
        progress: is called with what became of a file, how many are done, and how many there are.
        frames: is called after every frame of a video with its path, the frames done and those expected, None where
            nobody knows.

    Returns:
        What became of each file.

    Raises:
        FileNotFoundError: if there is no input.
        ValueError: if an option has an invalid value or does not fit the predictor; if a file would be written twice
            or over an input; if another run writes into `out`.
        ImportError: if a video is given by name, and PyAV is not installed.

    Example:
        >>> import fullyconv
        >>> done = fullyconv.predict_folder(                                # doctest: +SKIP
        ...     fullyconv.load("street"), "photos/", "masks/", overlay=True
        ... )
        >>> done.failed                                                     # doctest: +SKIP
    """
    options = {name: value for name, value in locals().items() if name in FolderOptions.__dataclass_fields__}
    plan = FolderPlan(inputs, out, FolderOptions(**options), model=identity(predictor))
    return plan.run(predictor, progress, frames)


class FolderPlan:
    """What there is to predict, and what of it is left, before a model is opened.

    Args:
        inputs: as `predict_folder` takes them.
        out: folder of the masks.
        options: which files are wanted, and how.
        model: what tells the model from others, as plain values: masks of another one are made again.
        called: what the model is called, to be told when parts are joined.

    Raises:
        FileNotFoundError: if there is no input.
        ValueError: if an option has an invalid value, or a file would be written twice or over an input.
        ImportError: if a video is given by name, and PyAV is not installed.

    Attributes:
        unread: files of the folders that are images by their names and are not read: extension -> how many.
    """

    def __init__(
        self,
        inputs: str | Path | Iterable[str | Path],
        out: str | Path,
        options: FolderOptions,
        *,
        model: Any,
        called: str | None = None,
    ) -> None:
        self.out, self.options = Path(out), options
        if self.out.exists() and not self.out.is_dir():
            raise NotADirectoryError(f"out={str(out)!r}: is a file; give the folder of the masks")
        given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        self._inputs = find_inputs(given, self.out, options.mask_format)
        if options.heatmaps and self.videos:
            raise ValueError(
                f"heatmaps: are made of images, and {self.videos[0].source} is a video; predict its frames"
            )
        folders = [each for each in given if Path(each).is_dir()]
        self.unread = dict(sum((Counter(unread_images(each)) for each in folders), Counter[str]()))
        refuse_collisions(self._inputs, options)
        facts: dict[str, Any] = {"model": called, "total": self.total, "unread": self.unread}
        part = None if options.shard is None else Shard.parse(options.shard)
        if part is not None:
            self._inputs = [one for one in self._inputs if part.takes(self._key(one.target))]
            facts |= {"shard": options.shard, "part": self.total}
        self._journal = Journal(self.out, options.settings | {"model": model}, part, facts)
        if options.overwrite:
            self._journal.forget()
        self._left = [one for one in self._inputs if not self._is_done(one, self._journal.heads or ONE_HEAD)]
        # what joins the parts has to know of one that holds nothing, too
        self._unnoted = part is not None and not self._journal.path.exists()

    @property
    def images(self) -> list[Input]:
        """The images that were found."""
        return [one for one in self._inputs if not one.is_video]

    @property
    def videos(self) -> list[Input]:
        """The videos that were found."""
        return [one for one in self._inputs if one.is_video]

    @property
    def total(self) -> int:
        """How many files there are."""
        return len(self._inputs)

    @property
    def left(self) -> int:
        """How many of them have to be predicted."""
        return len(self._left)

    def _key(self, target: Path, frame: int | None = None) -> str:
        inside = target.relative_to(self.out).as_posix()
        return inside if frame is None else f"{inside}/{frame}"

    def frame_is_done(self, one: Input, number: int, heads: Sequence[str]) -> bool:
        """Tell whether all files of a frame of a video are there."""
        files = self.options.of_frame(one.target, number, heads)
        return self._journal.is_done(self._key(one.target, number), one.source, files)

    def _is_done(self, one: Input, heads: Sequence[str]) -> bool:
        files = [target for _, target in written([one], self.options, heads)]
        if not self._journal.is_done(self._key(one.target), one.source, files):
            return False
        frames = frames_in(files[-1]) if one.is_video else []
        return frames is not None and (
            not self.options.masks or all(self.frame_is_done(one, number, heads) for number in frames)
        )

    def note(
        self, one: Input, stamp: list[Any] | None, became: Predicted | None = None, frame: int | None = None
    ) -> None:
        """Note what became of a file, or that a frame of it is done.

        Args:
            one: the file.
            stamp: of the file, from before it was read; None says that it failed.
            became: of the whole file.
            frame: number of the frame.
        """
        told = None if became is None else json.loads(json.dumps(asdict(became), default=str))
        self._journal.note(self._key(one.target, frame), stamp, one.index, told)

    def run(
        self, predictor: Any, progress: Progress | None = None, frames: FrameProgress | None = None
    ) -> FolderResult:
        """Predict what is left.

        Args:
            predictor: as `predict_folder` takes it.
            progress: as `predict_folder` takes it.
            frames: as `predict_folder` takes it.

        Raises:
            ValueError: if an option does not fit the predictor, or another run writes into the folder.
        """
        if not self.left:
            if self._unnoted:
                self._open(None)
                self._journal.close()
            return FolderResult(self.out, self.total, ())
        work = _Work(self, predictor, frames)
        if work.heads != [""]:
            refuse_collisions(self._inputs, self.options, work.heads)
        before = self.total - self.left
        predicted: list[Predicted] = []
        self._open(work.heads)
        try:
            files = written(self._inputs, self.options, work.heads)
            for folder in {target.parent for _, target in files} | {one.target for one in self.videos}:
                remove_unfinished(folder)
            with work.computing(), closing(work.predict(self._left)) as results:
                for result in results:
                    predicted.append(result)
                    if progress is not None:
                        progress(result, before + len(predicted), self.total)
        finally:
            self._journal.close()
        return FolderResult(self.out, before, tuple(predicted))

    def _open(self, heads: Sequence[str] | None) -> None:
        places = {self._key(one.target): one.index for one in self._inputs}
        left = {self._key(one.target) for one in self._left}
        self._journal.open(heads, places, left)


class _Work:
    """Predict the files of a plan with an opened predictor.

    Args:
        plan: what there is, and how.
        predictor: as `predict_folder` takes it.
        frames: as `predict_folder` takes it.

    Raises:
        ValueError: if an option does not fit the predictor.
    """

    def __init__(self, plan: FolderPlan, predictor: Any, frames: FrameProgress | None) -> None:
        self.plan, self.predictor, self.frames = plan, predictor, frames
        self.options, self.heads = plan.options, list(by_head(predictor.labels))
        self.taken = self._taken()

    def _taken(self) -> dict[str, Any]:
        """Give the options that this predictor takes; refuse those that it cannot honor."""
        words, options, predictor = self.options.heatmaps, self.options.predicting, self.predictor
        if not hasattr(predictor, "predict_to"):
            beyond = [key for key, value in options.items() if _PLAIN[key] != value]
            beyond += ["heatmaps"] if words else []
            if beyond:
                raise ValueError(
                    f"{', '.join(beyond)}: an exported model predicts whole images once; use the model itself"
                )
            return {}
        if words and not hasattr(predictor, "heatmap"):
            raise ValueError(
                f"heatmaps={list(words)}: the model is a segmenter, whose masks say where a class is; "
                'probabilities="all" gives the probability of each'
            )
        for word in words:
            predictor.labels.index(word)
        return options

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let the predictor compute in the precision that was asked for."""
        own = self.predictor.predictor() if hasattr(self.predictor, "predictor") else self.predictor
        before = getattr(own, "precision", None)
        wanted = self.options.precision
        if before is None and wanted != "float32":
            raise ValueError(f"precision={wanted!r}: a {type(own).__name__} computes in its own; leave it out")
        if before is None:
            yield
            return
        own.precision = wanted
        try:
            yield
        finally:
            own.precision = before

    def _at_once(self) -> tuple[int, int]:
        """Say how many images are predicted together, and how many threads read them."""
        device = getattr(self.predictor, "device", None)
        elsewhere = device is not None and device.type not in ("cpu", "meta")
        together = hasattr(self.predictor, "predict_batch") and {**self.taken, "memory": None} == _PLAIN
        most = (self.options.batch or (BATCH if elsewhere else 1)) if together else 1
        return most, self.options.workers or (available_processors() if elsewhere else 1)

    def predict(self, inputs: Sequence[Input]) -> Generator[Predicted, None, None]:
        """Predict files and note what became of each, in their order."""
        stamps: dict[Input, list[Any]] = {}
        most, workers = self._at_once()

        def read(one: Input) -> Raster | TiffImage | Path:
            stamps[one] = file_identity(one.source)  # before it is read: it may be replaced meanwhile
            try:
                if one.is_video:
                    require_av(one.source)
                    return one.source
                with naming_memory(str(one.source)):
                    return self._read(one.source)
            except ImportError as error:  # a file of a kind that needs an extra
                raise DatasetError(str(error)) from error

        def predict(ones: Sequence[Input], found: Sequence[Any]) -> list[Callable[[], Predicted]]:
            first, image = ones[0], found[0]
            with naming_memory(str(first.source)):
                if first.is_video:
                    film = self._predict_video(first, stamps[first])
                    return [lambda: film]
                if isinstance(image, TiffImage):  # too large to be held as a whole
                    with image:
                        done = self._predict_large(image, first)
                    return [lambda: done]
                if len(ones) > 1:
                    results = self.predictor.predict_batch(found, memory=self.options.memory)
                else:
                    results = [self.predictor.predict(image, **self.taken)]
            return [
                partial(self._write, result, self._heatmaps(image), one, getattr(image, "note", None))
                for one, image, result in zip(ones, found, results, strict=True)
            ]

        for one, future in batches.run(inputs, read, predict, workers=workers, most=most):
            yield self._finished(one, future, stamps.pop(one, None))

    def _finished(self, one: Input, future: Future[Predicted], stamp: list[Any] | None) -> Predicted:
        try:
            with naming_memory(str(one.source)):
                predicted = future.result()
        except (DatasetError, ScoresError, OSError) as error:
            predicted, stamp = Predicted(one.source, error=str(error)), None
        self.plan.note(one, stamp, predicted)
        return predicted

    def _read(self, path: Path) -> Raster | TiffImage | Path:
        """Decode an image, or open one that is to be read window by window."""
        known = getattr(self.predictor, "preprocessing", None)
        if known is None:
            return path  # somebody else's predictor, which reads by itself
        channels, bits = known.in_channels, self.options.value_range or known.value_range
        windows = open_windows(path, channels, bits) if hasattr(self.predictor, "predict_to") else None
        if windows is not None:
            whole = self.options.overlay or self.options.polygons or self.options.heatmaps
            if windows.size[0] * windows.size[1] > (MAX_PIXELS if whole else LARGE):
                return windows
            windows.close()
        most = most_pixels(self.options.memory, channels)
        return read_raster(path, channels, max_pixels=most, value_range=bits)

    def _heatmaps(self, image: Raster | Path) -> dict[str, Any]:
        options = {"scales": self.options.scales, "memory": self.options.memory}
        return {word: self.predictor.heatmap(image, word, **options) for word in self.options.heatmaps}

    def _write(self, result: Any, heatmaps: dict[str, Any], one: Input, note: str | None) -> Predicted:
        results: Mapping[str, Segmentation] = by_head(result)
        self.options.write(results, heatmaps, one.source.name, one.target)
        seen = {heatmap.label: heatmap.most for heatmap in heatmaps.values()}
        return Predicted(one.source, one.target, _shares(results), heatmaps=seen, note=note)

    def _predict_large(self, image: TiffImage, one: Input) -> Predicted:
        """Segment an image that is read in windows and written in bands."""
        wanted = self.options
        for what, name in ((wanted.polygons, "polygons"), (wanted.heatmaps, "heat maps")):
            if what:
                raise DatasetError(
                    f"{one.source}: too large for {name}, which need all of it in memory; predict it without them"
                )
        done = self.predictor.predict_to(image, one.target, preview=wanted.overlay, **self.taken)
        results = by_head(done)
        notes = {result.note for result in results.values() if result.note is not None}
        for head, result in results.items():
            if result.preview is not None:
                write_image(of_head(one.target, head).with_suffix(".overlay.png"), result.preview.overlay())
                shown = " x ".join(str(n) for n in result.preview.mask.shape[::-1])
                notes.add(f"{one.source}: its overlay is thinned to {shown} pixels")
        return Predicted(one.source, one.target, _shares(results), note="; ".join(sorted(notes)) or None)

    def _predict_video(self, one: Input, stamp: list[Any]) -> Predicted:
        """Segment a video; the frames that a run before this one has done are taken from its masks."""
        masks = self.options.masks
        *overlays, table = self.options.of_video(one.target)
        overlay = overlays[0] if overlays else None

        def written(frame: Frame, results: Mapping[str, Segmentation]) -> None:
            for head, result in results.items():
                target = mask_of(folder_of(one.target, head), frame.number)
                self.options.write_beside(result, f"{one.source.name}/{frame.number:06}", target)
            self.plan.note(one, stamp, frame=frame.number)

        film = predict_video(
            self.predictor,
            one.source,
            masks=one.target if masks else None,
            overlay=overlay,
            table=table,
            every=self.options.every,
            known=(lambda number: self.plan.frame_is_done(one, number, self.heads)) if masks else None,
            written=written if masks else None,
            progress=None if self.frames is None else partial(self.frames, one.source),
            **self.taken,
        )
        films = by_head(film)
        target = overlay or (one.target if masks else table)
        return Predicted(one.source, target, _shares(films), frames=next(iter(films.values())).frames)


def _shares(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {head: result.shares() for head, result in results.items()}

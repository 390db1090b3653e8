"""Videos, frame by frame: read, segmented and written while the next frame is decoded. It needs PyAV, not torch.

A video comes from anywhere, so it is never more than bytes of one file: of FFmpeg's formats only those that hold their
frames themselves are opened, so that a play list in the clothes of a video opens no other file and no address.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError
from fullyconv.files import Unfinished, replacing
from fullyconv.images import MAX_PIXELS, read_mask
from fullyconv.inference.segmentation import Segmentation, count, of_head, shares_of
from fullyconv.labels import Labels, at_edge, by_head

VIDEO_EXTENSIONS = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv",
)  # fmt: skip
"""What counts as a video in a folder, whatever the case of its letters."""

MAX_FRAMES = 1_000_000
"""Frames of a video that are segmented at most, nine hours of 30 a second: a file of a few megabytes may hold more."""

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg"
_CLOCK = Fraction(1, 60000)  # of what is written, where that of the video read is too coarse or too fine
_GAP = 3600  # seconds that one frame is shown at most
_CUT = 1.0  # seconds that may be missing at the end of a video before it counts as cut off

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Args:
        number: among all frames of the video, from 0 on.
        time: when it is shown, in seconds after the first frame.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    time: float
    pixels: Pixels


@dataclass(frozen=True)
class Film:
    """What became of a video that was segmented.

    Args:
        source: the video.
        size: height and width of its frames, in pixels.
        frames: how many were segmented.
        labels: names and colors of the classes.
        counts: pixels of each class in all these frames.
        masks: folder of the masks, or None.
        overlay: the video with the classes laid over, or None.
    """

    source: Path
    size: tuple[int, int]
    frames: int
    labels: Labels
    counts: tuple[int, ...]
    masks: Path | None = None
    overlay: Path | None = None

    def shares(self) -> dict[str, float]:
        """Give the share of each class among the pixels of all frames, between 0 and 1, the largest first."""
        return shares_of(np.array(self.counts), self.labels)


class VideoReader:
    """Read the frames of a video one after another; no more than a few are ever in memory.

    Frames are turned upright as the file says. Use it as a context manager, and iterate once.

    Args:
        path: the file.
        every: give every so many-th frame only.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no video, damaged, or too large; the message names it.
        ImportError: if PyAV is not installed.
        ValueError: if `every` is below 1.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        if type(every) is not int or every < 1:
            raise ValueError(f"every={every!r}: give a whole number from 1 on; 10 takes every tenth frame")
        av = require_av(path)
        self.path, self.every = Path(path), every
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file; check the name")
        if not self.path.is_file():  # a pipe or a device: reading it might never end
            raise DatasetError(f"{path}: is no regular file; replace it by a video")
        limits = {"max_pixels": str(MAX_PIXELS)}
        # before PyAV 19 a title that is no UTF-8 is an error, unless told otherwise; from then on it never is
        titles = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        try:
            self._container: Any = av.open(
                f"file:{self.path.absolute()}",  # a name with a colon is no address
                options=limits,
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
                **titles,
            )
        except Exception as error:  # whatever FFmpeg finds
            what = "an empty file" if self.path.stat().st_size == 0 else f"not a video, or damaged ({_said(error)})"
            raise DatasetError(f"{path}: {what}; replace the file") from error
        try:
            self._open(limits)
        except BaseException:
            self.close()
            raise

    def _open(self, limits: dict[str, str]) -> None:
        if not self._container.streams.video:
            raise DatasetError(f"{self.path}: holds no video, perhaps sound alone; replace the file")
        stream = self._container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise DatasetError(f"{self.path}: its codec is not known to FFmpeg; save it anew, as H.264 in .mp4")
        if int(context.width) * int(context.height) > MAX_PIXELS:
            raise DatasetError(
                f"{self.path}: frames of {context.width} x {context.height} pixels, and at most {MAX_PIXELS} are "
                "read; scale it down"
            )
        context.options = dict(context.options) | limits
        stream.thread_type = "AUTO"
        self._stream: Any = stream
        found = stream.guessed_rate or stream.average_rate
        self.rate: Fraction = Fraction(found) if found and 0 < found <= 100_000 else Fraction(25)
        self.time_base: Fraction = Fraction(stream.time_base or 1 / self.rate)
        self.aspect: Fraction | None = stream.sample_aspect_ratio or None
        if (self.expected or 0) > MAX_FRAMES:
            self._refuse_length(self.expected)

    @property
    def expected(self) -> int | None:
        """How many frames it will give, as far as the file says; None where it does not."""
        total = int(self._stream.frames) or round((self._announced() or 0.0) * float(self.rate))
        return -(-total // self.every) or None

    def _announced(self) -> float | None:
        """Give the seconds that the file says it lasts; sound may last longer than the images."""
        stream, container = self._stream, self._container
        if stream.duration:
            return float(stream.duration * self.time_base)
        stated = str(stream.metadata.get("DURATION", ""))  # of Matroska, for each stream: 00:01:02.5
        try:
            hours, minutes, seconds = (float(part) for part in stated.split(":"))
            return 3600 * hours + 60 * minutes + seconds
        except ValueError:
            return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames.

        Raises:
            DatasetError: if the video is damaged or cut off; the message says how far it goes.
        """
        number, time, shape = -1, 0.0, None
        for number, time, pixels in self._decoded():
            if pixels is None:
                continue
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DatasetError(
                    f"{self.path}: frame {number} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the first one "
                    f"{shape[1]} x {shape[0]}; save it anew with frames of one size"
                )
            if number // self.every >= MAX_FRAMES:
                self._refuse_length(None)
            yield Frame(number, time, pixels)
        if number < 0:
            raise DatasetError(f"{self.path}: holds not one whole frame, or is cut off; replace the file")
        # Of these formats the end may be missing without a decoder noticing.
        lasts = self._announced() if "matroska" in self._container.format.name else None
        if lasts is not None and time + 1 / self.rate < lasts - _CUT:
            raise DatasetError(
                f"{self.path}: cut off: it ends after {time:.1f} s, and announces {lasts:.1f} s; replace the file"
            )

    def _decoded(self) -> Iterator[tuple[int, float, Pixels | None]]:
        """Give number, time and pixels of every frame; of one that is not wanted no pixels."""
        number, time, first = 0, 0.0, None
        try:
            for raw in self._container.decode(self._stream):
                first = raw.pts if first is None else first
                time = float(number / self.rate if raw.pts is None else (raw.pts - first) * self.time_base)
                turns = round(raw.rotation / 90) % 4  # FFmpeg says how often it is to be turned, counter-clockwise
                if number == 0 and turns % 2 and self.aspect is not None:
                    self.aspect = 1 / self.aspect
                pixels = None
                if number % self.every == 0:
                    pixels = np.ascontiguousarray(np.rot90(raw.to_ndarray(format="rgb24"), turns))
                yield number, time, pixels
                number += 1
        except Exception as error:  # whatever a decoder raises
            raise DatasetError(
                f"{self.path}: damaged or cut off at frame {number}, {time:.1f} s from its beginning "
                f"({_said(error)}); replace the file"
            ) from error

    def _refuse_length(self, frames: int | None) -> None:
        raise DatasetError(
            f"{self.path}: {frames or 'more'} frames to segment, and at most {MAX_FRAMES} are; cut it, or take "
            "fewer (every=, --every)"
        )

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoWriter:
    """Write images as an .mp4 video (H.264 where PyAV has an encoder of it): all of it or nothing.

    Args:
        path: file to write, ending in `.mp4`; its folder is made if there is none.
        rate: frames in a second, as a hint for players; when a frame is shown is said frame by frame.
        time_base: the clock of the video that the frames come from, so that they keep their times to the tick.

    Raises:
        ValueError: if the name has another ending.
        ImportError: if PyAV is not installed.
    """

    aspect: Fraction | None = None
    """Width of a pixel over its height, where it is no square; to be set before the first frame."""

    def __init__(self, path: str | Path, rate: Fraction = Fraction(25), time_base: Fraction = _CLOCK) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"path={str(path)!r}: videos are written as .mp4; end the name so")
        self._av = require_av(path)
        self._rate = rate
        # MPEG-4 counts no more ticks in a second
        self._clock = time_base if time_base.numerator == 1 and 1000 <= time_base.denominator < 2**16 else _CLOCK
        self._unfinished = Unfinished(self.path)
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def write(self, image: Pixels, time: float) -> None:
        """Write the next frame.

        Args:
            image: (H, W, 3) uint8 RGB, of the size of the first; odd sides grow by a row or column.
            time: when it is shown, in seconds; later than the one before.

        Raises:
            OSError: if it cannot be encoded or written.
        """
        image = np.pad(image, [(0, n % 2) for n in image.shape[:2]] + [(0, 0)], mode="edge")
        with self._naming():
            if self._container is None:
                self._begin(image.shape[0], image.shape[1])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            wanted = round(min(max(time, 0.0), 1e9) / self._clock)
            most = self._last + round(_GAP / self._clock)
            self._last = frame.pts = min(max(wanted, self._last + 1), most if self._last >= 0 else 0)
            frame.time_base = self._clock
            self._container.mux(self._stream.encode(frame))

    def _begin(self, height: int, width: int) -> None:
        codecs = self._av.codec.codecs_available
        name = next((each for each in ("libx264", "libopenh264", "mpeg4") if each in codecs), "mpeg4")
        self._container = self._av.open(
            str(self._unfinished.path), "w", format="mp4", options={"movflags": "+faststart"}
        )
        stream = self._container.add_stream(name, rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._clock
        context = stream.codec_context
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        # BT.709, in which the frames are converted; without a word of it players guess by the size
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        if name == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = max(1_000_000, width * height * 6)
        self._stream = stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        first = () if kind is None else (OSError,)  # the error that ended the block is the one that is told
        try:
            with suppress(*first), self._naming():
                if self._container is not None:
                    with self._container:
                        if kind is None:
                            self._container.mux(self._stream.encode(None))
                    if kind is None:
                        self._unfinished.keep()
        finally:
            self._unfinished.discard()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise OSError(f"{self.path}: cannot be written ({_said(error)})") from error


def predict_video(
    segmenter: Any,
    source: str | Path,
    *,
    masks: str | Path | None = None,
    overlay: str | Path | None = None,
    table: str | Path | None = None,
    every: int = 1,
    known: Callable[[int], bool] | None = None,
    written: Callable[[Frame, Mapping[str, Segmentation]], None] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> Any:
    """Segment a video frame by frame; it is never in memory as a whole.

    Files are written completely or not at all. The table is written last: it marks a finished video. A
    segmenter with several heads gives files for each, with its name in theirs: ``clip.semantic.mp4``.

    Args:
        segmenter: what `fullyconv.load`, `fullyconv.load_classifier` or `fullyconv.runtime.load` gives.
        source: the video.
        masks: folder that the masks go to, as ``000042.png`` for frame 42.
        overlay: .mp4 file of the video with the classes laid over and a legend below, each frame shown when it was; it
            has no sound.
        table: .csv file with number, time in seconds and share of each class, one line a frame.
        every: take only every n-th frame.
        known: tells of the number of a frame whether its mask is there already and is to be taken as it is.
        written: is called with every frame that was segmented and what each head ("" of one) says of it, when its mask
            is written.
        progress: is called after every frame with the number of frames done and that of all, None where nobody knows.
        options: what the segmenter's ``predict`` takes: memory, flip, scales, ...

    Returns:
        What was written, a `Film`; of several heads a dict of one for each.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no video, damaged, or too large; masks of the frames before the damage are there.
        ImportError: if PyAV is not installed.
        ValueError: if a file has a wrong ending, or an option has an invalid value.
        OSError: if a file cannot be written.

    Example:
        >>> import fullyconv
        >>> film = fullyconv.predict_video(                                 # doctest: +SKIP
        ...     fullyconv.load("street"), "drive.mp4", overlay="drive.overlay.mp4"
        ... )
        >>> film.shares()                                                   # doctest: +SKIP
    """
    if overlay is not None and Path(overlay).exists() and Path(source).exists() and Path(overlay).samefile(source):
        raise ValueError(
            f"overlay={str(overlay)!r}: the video would be overwritten by its own overlay; give another name"
        )
    heads: Mapping[str, Labels] = by_head(segmenter.labels)
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source, every))
        outputs = {head: _Output(stack, reader, head, labels, masks, overlay, table) for head, labels in heads.items()}

        def write(frame: Frame, results: Mapping[str, Segmentation], fresh: bool) -> None:
            for head, result in results.items():
                outputs[head].write(frame, result, fresh)
            if written is not None and fresh:
                written(frame, results)

        writer = stack.enter_context(ThreadPoolExecutor(1))
        pending: Future[None] = writer.submit(lambda: None)
        decoder = stack.enter_context(ThreadPoolExecutor(1))
        frames, done = iter(reader), 0
        decoded = decoder.submit(next, frames, None)
        while (frame := decoded.result()) is not None:
            decoded, done = decoder.submit(next, frames, None), done + 1  # while the network runs on this one
            kept = {head: out.read(frame) for head, out in outputs.items()} if known and known(frame.number) else {}
            results = {head: result for head, result in kept.items() if result is not None}
            fresh = results.keys() != outputs.keys()
            if fresh:
                results = by_head(segmenter.predict(frame.pixels, **options))
            pending.result()  # one frame waits to be written, no more
            pending = writer.submit(write, frame, results, fresh)
            if progress is not None:
                progress(done, reader.expected)
        pending.result()
    films = {head: output.film(reader.path) for head, output in outputs.items()}
    return at_edge(films)


class _Output:
    """Where the frames of one head go."""

    def __init__(
        self, stack: ExitStack, reader: VideoReader, head: str, labels: Labels,
        masks: str | Path | None, overlay: str | Path | None, table: str | Path | None,
    ) -> None:  # fmt: skip
        self.labels, self._reader = labels, reader
        self.counts = np.zeros(len(labels.names), np.int64)
        self.frames, self.size = 0, (0, 0)
        self.masks = None if masks is None else folder_of(Path(masks), head)
        self.overlay = None if overlay is None else of_head(Path(overlay), head)
        self._rows: Any = None
        self._video: VideoWriter | None = None
        # what is entered first is left last: the table is put in place when all else is
        if table is not None:
            part = stack.enter_context(replacing(of_head(Path(table), head)))
            self._rows = csv.writer(stack.enter_context(part.open("x", encoding="utf-8", newline="")))
            self._rows.writerow(["frame", "time", *labels.names])
        if self.overlay is not None:
            rate = reader.rate / reader.every
            self._video = stack.enter_context(VideoWriter(self.overlay, rate, reader.time_base))

    def write(self, frame: Frame, result: Segmentation, fresh: bool) -> None:
        if self._video is not None:
            self._video.aspect = self._reader.aspect
            self._video.write(np.asarray(result.overlay(legend="steady")), frame.time)
        if self.masks is not None and fresh:
            result.save(mask_of(self.masks, frame.number))
        counts = count(result.mask, self.labels)
        self.counts += counts
        self.frames += 1
        self.size = (result.mask.shape[0], result.mask.shape[1])
        if self._rows is not None:
            total = max(1, int(counts.sum()))
            self._rows.writerow([frame.number, f"{frame.time:.4f}", *(f"{n / total:.5f}" for n in counts.tolist())])

    def read(self, frame: Frame) -> Segmentation | None:
        """Take the mask that an earlier run has written; None if it is none of this frame and these classes."""
        assert self.masks is not None
        try:
            mask = read_mask(mask_of(self.masks, frame.number))
        except (DatasetError, OSError):
            return None
        if mask.shape != frame.pixels.shape[:2] or int(mask.max()) >= len(self.labels.names):
            return None
        return Segmentation(mask.astype(self.labels.dtype), self.labels, frame.pixels)

    def film(self, source: Path) -> Film:
        counts = tuple(int(n) for n in self.counts)
        return Film(source, self.size, self.frames, self.labels, counts, self.masks, self.overlay)


def mask_of(folder: Path, number: int) -> Path:
    """Name the mask of a frame.

    Args:
        folder: of the masks.
        number: of the frame.
    """
    return folder / f"{number:06}.png"


def folder_of(folder: Path, head: str) -> Path:
    """Name the folder of the masks of one of several heads; "" gives the folder itself.

    Args:
        folder: for a segmenter with one head.
        head: name of the head.
    """
    return folder.with_name(f"{folder.name}.{head}") if head else folder


def frames_in(table: Path) -> list[int] | None:
    """Read from a table which frames were segmented; None where there is none, or it is of something else.

    Args:
        table: .csv file that `predict_video` wrote.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if next(rows, [])[:2] != ["frame", "time"]:
                return None
            return [int(row[0]) for row in rows]
    except (OSError, ValueError, IndexError, csv.Error):
        return None


def require_av(path: str | Path) -> Any:
    """Import PyAV.

    Args:
        path: what it is needed for.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{path}: videos need PyAV: pip install 'fullyconv[video]'") from error
    return av


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]

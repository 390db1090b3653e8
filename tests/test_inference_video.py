"""Videos: every frame is segmented as the image that it is, and what is written is whole."""

from __future__ import annotations

import csv
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullyconv
from closeness import assert_same_mask
from fullyconv import cli
from fullyconv.errors import DatasetError
from fullyconv.images import read_mask
from fullyconv.inference import journal, video
from fullyconv.inference.folder import predict_folder
from fullyconv.inference.segmentation import Segmentation
from fullyconv.inference.video import VideoReader, VideoWriter, frames_in, predict_video
from fullyconv.labels import Labels

av = pytest.importorskip("av")

LOCK = ".fullyconv-predict.lock"
NTSC = Fraction(30000, 1001)


def write(
    path: Path,
    frames: int = 6,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    rate: Fraction = NTSC,
    rotation: int = 0,
    **options: str,
) -> Path:
    """Write a video whose frames differ: a bright square wanders over noise; its corner at the top left is red."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            image = noise.copy()
            image[20:40, 4 * number : 4 * number + 20] = 220
            image[:12, :12] = (250, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class Threshold:
    """A segmenter that tells bright pixels from dark ones, and counts how often it was asked."""

    labels = Labels.of(["dark", "bright"], palette=[(0, 0, 255), (255, 255, 0)])

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, source: np.ndarray[Any, Any]) -> Segmentation:
        self.calls += 1
        return Segmentation((source.mean(2) > 150).astype(np.uint8), self.labels, source)


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def test_every_frame_is_segmented_as_the_image_that_it_is(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", size=(72, 96))
    segmenter = fullyconv.load("street")
    film = predict_video(segmenter, clip, masks=tmp_path / "m", overlay=tmp_path / "o.mp4", table=tmp_path / "t.csv")
    frames = decoded(clip)
    counts = np.zeros(11, int)
    for number, frame in enumerate(frames):
        expected = segmenter.predict(frame)
        mask = read_mask(tmp_path / "m" / f"{number:06}.png")
        assert_same_mask(mask, expected.mask)
        counts += np.bincount(mask.ravel(), minlength=11)
    assert film.frames == len(frames) == 6
    assert film.size == (72, 96)
    assert film.counts == tuple(counts)
    assert sum(film.shares().values()) == pytest.approx(1)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(6)) == frames_in(tmp_path / "t.csv")
    assert float(rows[3]["time"]) == pytest.approx(3 / NTSC, abs=1e-4)
    assert sum(float(rows[0][name]) for name in segmenter.classes) == pytest.approx(1, abs=1e-4)
    assert not list(tmp_path.rglob(".*"))


def test_the_overlay_keeps_times_and_rate_and_shows_the_classes(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mts", "libx264")):
        clip = write(tmp_path / name, size=(130, 178), codec=codec)
        overlay = tmp_path / "o.mp4"
        predict_video(Threshold(), clip, overlay=overlay)
        with av.open(str(overlay)) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate) == pytest.approx(float(NTSC), rel=2e-3)
            assert stream.frames == 6
            assert stream.width == 178
            assert stream.height > 130
        before = times(clip)
        assert times(overlay) == pytest.approx([time - before[0] for time in before], abs=1e-4)
        shown = Threshold().predict(decoded(clip)[2]).overlay(legend="steady")
        seen = decoded(overlay)[2][: shown.height, : shown.width].astype(int)
        assert np.abs(seen - np.asarray(shown)).mean() < 12  # what is left of colors at half the resolution
        overlay.unlink()


def test_odd_sides_grow_by_one_and_single_frames_of_a_rate_keep_their_times(tmp_path: Path) -> None:
    image = np.full((33, 51, 3), 90, np.uint8)
    with VideoWriter(tmp_path / "o.mp4", Fraction(10)) as writer:
        for time in (0.0, 0.1, 0.1, 0.75, 1e12):  # times that stand still or leap do no harm
            writer.write(image, time)
    assert decoded(tmp_path / "o.mp4")[0].shape == (34, 52, 3)
    seen = [float(time) for time in times(tmp_path / "o.mp4")]
    assert seen[:4] == pytest.approx([0, 0.1, 0.1, 0.75], abs=1e-3)
    assert seen[2] > seen[1]
    assert seen[4] < 3700


def test_every_nth_frame_keeps_its_number_and_its_time(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", frames=8)
    film = predict_video(Threshold(), clip, masks=tmp_path / "m", overlay=tmp_path / "o.mp4", every=3)
    assert film.frames == 3
    assert sorted(path.stem for path in (tmp_path / "m").iterdir()) == ["000000", "000003", "000006"]
    assert [float(time) for time in times(tmp_path / "o.mp4")] == pytest.approx([0, 3 / NTSC, 6 / NTSC], abs=1e-4)
    with pytest.raises(ValueError, match="every=0: give a whole number from 1 on"):
        predict_video(Threshold(), clip, every=0)


@pytest.mark.parametrize(("degrees", "corner"), [(-90, (2, -3)), (90, (-3, 2)), (180, (-3, -3))])
def test_frames_are_turned_upright_as_the_file_says(tmp_path: Path, degrees: int, corner: tuple[int, int]) -> None:
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    clip = write(tmp_path / "clip.mp4", rotation=degrees)
    with VideoReader(clip) as reader:
        frame = next(iter(reader))
    assert frame.pixels.shape == ((64, 48, 3) if degrees % 180 else (48, 64, 3))
    red = frame.pixels[corner]
    assert red[0] > 200
    assert red[2] < 60
    predict_video(Threshold(), clip, overlay=tmp_path / "o.mp4")
    assert abs(decoded(tmp_path / "o.mp4")[0][corner].astype(int)[0] - red[0]) < 200


def test_no_more_than_a_few_frames_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write(tmp_path / "clip.mp4", frames=40)
    given, seen, most = [0], [0], [0]
    original = VideoReader.__iter__

    def counted(self: VideoReader) -> Any:
        for frame in original(self):
            given[0] += 1
            most[0] = max(most[0], given[0] - seen[0])
            yield frame

    monkeypatch.setattr(VideoReader, "__iter__", counted)
    monkeypatch.setattr(video._Output, "write", lambda *_: seen.__setitem__(0, seen[0] + 1))
    predict_video(Threshold(), clip, masks=tmp_path / "m")
    assert (given[0], seen[0]) == (40, 40)
    assert most[0] <= 4


def damaged(path: Path, kind: str) -> Path:
    good = write(path.with_name("good" + path.suffix), frames=150, size=(96, 128), **(
        {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    )).read_bytes()  # fmt: skip
    path.with_name("good" + path.suffix).unlink()
    contents = {
        "empty": b"",
        "text": b"no video\n" * 50,
        "cut": good[: len(good) // 2],
        "headless": good[len(good) // 2 :],
        "list": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mts\n#EXT-X-ENDLIST\n",
        "script": b"ffconcat version 1.0\nfile other.mts\n",
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("v.mp4", "empty", "an empty file"),
        ("v.mp4", "text", "not a video, or damaged"),
        ("v.mp4", "cut", "damaged or cut off at frame"),
        ("v.mkv", "cut", "cut off"),
        ("v.mp4", "headless", "not a video, or damaged"),
        ("v.mp4", "list", "not a video, or damaged"),
        ("v.mp4", "script", "not a video, or damaged"),
    ],
)
def test_what_is_broken_is_named_and_leaves_no_half_file(tmp_path: Path, name: str, kind: str, message: str) -> None:
    write(tmp_path / "other.mts")  # that the list and the script would play
    clip = damaged(tmp_path / name, kind)
    with pytest.raises(DatasetError, match=rf"{name}: .*{message}"):
        predict_video(Threshold(), clip, overlay=tmp_path / "o.mp4", table=tmp_path / "t.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.mts", name]
    assert threading.active_count() < 10


def test_other_things_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        VideoReader(tmp_path / "v.mp4")
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(DatasetError, match="is no regular file"):
        VideoReader(tmp_path / "v.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(DatasetError, match="holds no video, perhaps sound alone"):
        VideoReader(tmp_path / "sound.mp4")
    clip = write(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="would be overwritten by its own overlay"):
        predict_video(Threshold(), clip, overlay=clip)
    with pytest.raises(ValueError, match=r"videos are written as \.mp4"):
        predict_video(Threshold(), clip, overlay=tmp_path / "o.avi")


def test_size_and_length_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write(tmp_path / "clip.mp4", frames=12)
    raw = write(tmp_path / "clip.mts", frames=12)  # which does not say how many it has
    with VideoReader(raw) as reader:
        monkeypatch.setattr(video, "MAX_FRAMES", 10)
        with pytest.raises(DatasetError, match="12 frames to segment, and at most 10 are"):
            VideoReader(clip)
        monkeypatch.setattr(video, "MAX_PIXELS", 1000)
        with pytest.raises(DatasetError, match="frames of 64 x 48 pixels, and at most 1000 are read"):
            VideoReader(clip)
        with pytest.raises(DatasetError, match="more frames to segment"):
            list(reader)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"clip\.mp4: videos need PyAV: pip install 'fullyconv\[video\]'"):
        predict_video(Threshold(), tmp_path / "clip.mp4")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Make a folder of images and videos."""
    folder = tmp_path / "mixed"
    write(folder / "inner" / "clip.mov")
    write(folder / "clip.mp4")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "a.png")
    return folder


def test_a_folder_of_images_and_videos_on_the_command_line(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(mixed), "--out", str(out), "--overlay", "--polygons", "coco"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "[1/3]" in printed
    assert "[3/3]" in printed
    assert "(6 frames; " in printed
    assert sorted(path.name for path in out.iterdir()) == [
        journal.NAME, LOCK, "a.coco.json", "a.overlay.png", "a.png", "clip", "clip.csv", "clip.overlay.mp4", "inner",
    ]  # fmt: skip
    assert len(list((out / "clip").iterdir())) == 12
    frame = decoded(mixed / "clip.mp4")[4]
    assert_same_mask(read_mask(out / "clip" / "000004.png"), fullyconv.load("street").predict(frame).mask)
    assert '"clip.mp4/000004"' in (out / "clip" / "000004.coco.json").read_text()
    assert len(decoded(out / "inner" / "clip.overlay.mp4")) == 6
    assert cli.main(words) == 0  # all done
    assert "3 of 3 images and videos were done before" in capsys.readouterr().out
    (out / "inner" / "clip" / "000002.png").unlink()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count(" -> ") == 1


def test_a_video_that_was_cut_short_goes_on_from_its_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write(tmp_path / "clip.mp4")
    segmenter = Threshold()
    monkeypatch.setattr("fullyconv.hub.predictor.open_predictor", lambda *_, **__: segmenter)
    monkeypatch.setattr(Threshold, "classes", Threshold.labels.names, raising=False)
    monkeypatch.setattr(Threshold, "predict", lambda self, source, **_: _interrupted(self, source))
    words = ["predict", str(clip), "--out", str(tmp_path / "out"), "--overlay"]
    assert cli.main(words) == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [journal.NAME, LOCK, "clip"]
    kept = sorted(path.name for path in (tmp_path / "out" / "clip").iterdir())
    assert kept == ["000000.png", "000001.png", "000002.png"]
    assert cli.main(words) == 0
    assert segmenter.calls == 3 + 1 + 3
    segmenter.calls = 10
    whole = predict_video(segmenter, clip, masks=tmp_path / "whole", overlay=tmp_path / "whole.mp4")
    assert whole.frames == 6
    for mask in (tmp_path / "whole").iterdir():
        np.testing.assert_array_equal(read_mask(mask), read_mask(tmp_path / "out" / "clip" / mask.name))
    for one, other in zip(decoded(tmp_path / "whole.mp4"), decoded(tmp_path / "out/clip.overlay.mp4"), strict=True):
        np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    assert cli.main([*words, "--every", "2"]) == 0  # other settings, another film
    assert "(3 frames; " in capsys.readouterr().out


def _interrupted(self: Threshold, source: Any) -> Segmentation:
    self.calls += 1
    if self.calls == 4:
        raise KeyboardInterrupt
    return Segmentation((source.mean(2) > 150).astype(np.uint8), self.labels, source)


def test_a_broken_video_is_reported_and_the_rest_goes_on(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (mixed / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    assert cli.main(["predict", str(mixed), "--out", str(out), "--no-masks"]) == 1
    printed = capsys.readouterr()
    assert "skipped: " in printed.err
    assert "broken.mp4: not a video" in printed.err
    assert "1 of 4 images and videos could not be read" in printed.err
    assert sorted(path.name for path in out.rglob("*.*")) == [journal.NAME, LOCK, "a.png", "clip.csv", "clip.csv"]
    monkeypatch.setitem(sys.modules, "av", None)
    assert cli.main(["predict", str(mixed / "clip.mp4"), "--out", str(out / "2")]) == 2
    assert "pip install 'fullyconv[video]'" in capsys.readouterr().err
    assert not (out / "2").exists()
    assert cli.main(["predict", str(mixed), "--out", str(out / "3")]) == 1  # the images of a folder are done
    assert (out / "3" / "a.png").is_file()


def test_files_that_would_be_written_twice_are_refused(mixed: Path, tmp_path: Path) -> None:
    words = ["predict", str(mixed), "--out", str(tmp_path / "out")]
    write(mixed / "clip.mkv")
    assert cli.main(words) == 2
    (mixed / "clip.mkv").unlink()
    (mixed / "clip").mkdir()
    (mixed / "a.png").rename(mixed / "clip" / "000001.png")
    assert cli.main(words) == 2
    (mixed / "clip" / "000001.png").rename(mixed / "clip" / "one.png")
    assert cli.main(words) == 0
    assert cli.main([*words, "--no-masks", "--probabilities", "top"]) == 2


class TwoHeads:
    """A segmenter with two heads."""

    labels = {"what": Labels.of(["dark", "bright"]), "where": Labels.of(["left", "middle", "right"])}  # noqa: RUF012
    classes = {head: list(labels.names) for head, labels in labels.items()}  # noqa: RUF012
    calls = 0

    def predict(self, source: np.ndarray[Any, Any], **_: Any) -> dict[str, Segmentation]:
        self.calls += 1
        columns = np.arange(source.shape[1]) * 3 // source.shape[1]
        masks = {"what": source.mean(2) > 150, "where": np.broadcast_to(columns, source.shape[:2])}
        return {head: Segmentation(mask.astype(np.uint8), self.labels[head], source) for head, mask in masks.items()}


def test_a_video_that_is_called_as_an_overlay_is_done_when_it_is_done(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.overlay.mp4")
    for expected in (1, 0):
        result = predict_folder(TwoHeads(), clip, tmp_path / "out")
        assert len(result.predicted) == expected
    assert (tmp_path / "out" / "clip.overlay.what.csv").is_file()


def test_several_heads_have_masks_overlays_and_tables_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write(tmp_path / "my.clip.mp4")
    segmenter = TwoHeads()
    monkeypatch.setattr("fullyconv.hub.predictor.open_predictor", lambda *_, **__: segmenter)
    out = tmp_path / "out"
    words = ["predict", str(clip), "--out", str(out), "--overlay", "--polygons", "coco"]
    assert cli.main(words) == 0
    assert "(6 frames; what: dark " in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        journal.NAME,
        LOCK,
        *(f"my.clip.{head}{ending}" for head in segmenter.labels for ending in ("", ".csv", ".overlay.mp4")),
    ]
    assert sorted(path.name for path in (out / "my.clip.where").iterdir())[:2] == ["000000.coco.json", "000000.png"]
    for number, frame in enumerate(decoded(clip)):
        for head, result in segmenter.predict(frame).items():
            np.testing.assert_array_equal(read_mask(out / f"my.clip.{head}" / f"{number:06}.png"), result.mask)
    (out / "my.clip.where" / "000002.png").unlink()
    before = segmenter.calls
    assert cli.main(words) == 0
    assert segmenter.calls == before + 1  # the other frames are taken from their masks
    assert cli.main(words) == 0
    assert "1 of 1 videos were done before" in capsys.readouterr().out
    films = predict_video(segmenter, clip)
    assert {head: film.frames for head, film in films.items()} == {"what": 6, "where": 6}
    assert films["where"].shares()["left"] == pytest.approx(22 / 64)

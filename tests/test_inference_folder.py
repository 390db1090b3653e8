"""Many files by one opened model: a run goes on where it was, and what is broken is named and left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import fullyconv
from fullyconv.errors import FolderInUse, ScoresError
from fullyconv.geometry import Geometry
from fullyconv.images import read_mask
from fullyconv.inference import folder
from fullyconv.inference.argmax import upsample_argmax
from fullyconv.inference.folder import Predicted
from fullyconv.inference.identity import identity
from fullyconv.inference.journal import NAME, Journal
from fullyconv.inference.segmentation import Segmentation
from fullyconv.inference.serving import Predictor
from fullyconv.inference.video import VideoWriter
from fullyconv.labels import Labels


class Bright:
    """Segment by brightness, and count the images."""

    labels: Labels | dict[str, Labels] = Labels.of(["dark", "bright"])
    calls = 0

    def predict(self, source: Any) -> Any:
        self.calls += 1
        pixels = np.asarray(source if isinstance(source, np.ndarray) else Image.open(source).convert("RGB"))
        mask = (pixels.mean(2) > 128).astype(np.uint8)
        if isinstance(self.labels, Labels):
            return Segmentation(mask, self.labels, pixels)
        return {head: Segmentation(mask, labels, pixels) for head, labels in self.labels.items()}


class TwoHeads(Bright):
    labels = {"what": Labels.of(["dark", "bright"]), "where": Labels.of(["in", "out"])}  # noqa: RUF012


def always(names: list[str], best: int) -> fullyconv.SegmentationModule:
    """Make a small model that gives every pixel the same class."""
    torch.manual_seed(0)
    module = fullyconv.SegmentationModule("same_convolutions", classes=names).eval()
    with torch.no_grad():
        (bias,) = (value for name, value in module.model.named_parameters() if name.endswith("score.1.bias"))
        bias[best] = 1.0  # the weights of score layers start at zero
    return module


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith(".lock"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "inner/a.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 28, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def test_an_image_that_needs_an_extra_or_more_memory_is_left_out_and_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = np.zeros((3, 20, 28), np.uint16)
    tifffile.imwrite(photos / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    real = folder.read_raster

    def read(path: Path, *further: Any, **named: Any) -> Any:
        if path.name == "b.png":
            raise MemoryError("Unable to allocate 3 GiB")
        return real(path, *further, **named)

    monkeypatch.setattr(folder, "read_raster", read)
    done = fullyconv.predict_folder(always(["a", "b"], 1), photos, tmp_path / "out")
    assert sorted(one.source.name for one in done.failed) == ["b.png", "planes.tif"]
    told = " ".join(str(one.error) for one in done.failed)
    assert "b.png: needs more memory than there is" in told
    assert "planes.tif: TIFF files of this kind need tifffile: pip install 'fullyconv[tiff]'" in told
    assert len(done.predicted) == 4


def test_every_file_of_a_folder_is_predicted_and_told_in_order(photos: Path, tmp_path: Path) -> None:
    model = always(["a", "b"], 1)
    told: list[tuple[Predicted, int, int]] = []
    done = fullyconv.predict_folder(
        model, photos, tmp_path / "out", overlay=True, progress=lambda *what: told.append(what)
    )
    names = ["a", "b", "inner/a"]
    assert files(tmp_path / "out") == sorted([NAME, *(f"{n}{e}.png" for n in names for e in ("", ".overlay"))])
    assert [(number, total) for _, number, total in told] == [(1, 3), (2, 3), (3, 3)]
    assert tuple(one for one, _, _ in told) == done.predicted
    assert [one.source.relative_to(photos).as_posix() for one in done.predicted] == ["a.jpg", "b.png", "inner/a.jpg"]
    assert done.predicted[0].shares == {"": {"b": 1.0, "a": 0.0}}
    assert done.failed == []
    assert read_mask(tmp_path / "out" / "inner" / "a.png").tolist() == [[1] * 28] * 20


def test_a_run_that_was_stopped_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    model = Bright()
    with pytest.raises(KeyboardInterrupt):
        fullyconv.predict_folder(model, photos, tmp_path / "out", progress=stop)
    seen = model.calls
    assert seen < 3
    done = fullyconv.predict_folder(model, photos, tmp_path / "out")
    assert done.before == 3 - len(done.predicted) >= 1
    assert model.calls == seen + len(done.predicted)
    again = fullyconv.predict_folder(model, [photos / "a.jpg", str(photos)], tmp_path / "out")
    assert (again.before, again.predicted) == (3, ())
    assert "3 done before" in repr(again)
    assert len(fullyconv.predict_folder(model, photos, tmp_path / "out", overwrite=True).predicted) == 3


def test_a_run_that_was_stopped_after_it_began_anew_keeps_nothing_of_before(photos: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    fullyconv.predict_folder(always(["a", "b"], 0), photos, tmp_path / "out")
    model = always(["a", "b"], 1)
    with pytest.raises(KeyboardInterrupt):
        fullyconv.predict_folder(model, photos, tmp_path / "out", progress=stop)
    assert fullyconv.predict_folder(model, photos, tmp_path / "out").before >= 1
    assert [read_mask(path).mean() for path in (tmp_path / "out").rglob("*.png")] == [1.0] * 3


def test_a_broken_file_does_not_end_the_run(photos: Path, tmp_path: Path) -> None:
    (photos / "aa.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    (tmp_path / "out" / "b.png").mkdir(parents=True)  # in the place of a mask
    done = fullyconv.predict_folder(always(["a", "b"], 1), photos, tmp_path / "out")
    assert [one.source.name for one in done.failed] == ["aa.jpg", "b.png"]
    assert all(one.target is None and one.error and one.source.stem in one.error for one in done.failed)
    assert files(tmp_path / "out") == [NAME, "a.png", "inner/a.png"]
    again = fullyconv.predict_folder(always(["a", "b"], 1), photos, tmp_path / "out")
    assert (again.before, len(again.failed)) == (2, 2)


def test_several_heads_have_files_of_their_own(photos: Path, tmp_path: Path) -> None:
    model = TwoHeads()
    done = fullyconv.predict_folder(model, photos / "a.jpg", tmp_path / "out", overlay=True, polygons="geojson")
    endings = (".geojson", ".overlay.png", ".png")
    assert files(tmp_path / "out") == [NAME, *(f"a.{head}{end}" for head in model.labels for end in endings)]
    assert done.predicted[0].shares.keys() == {"what", "where"}
    (tmp_path / "out" / "a.where.png").unlink()
    assert fullyconv.predict_folder(model, photos, tmp_path / "two").before == 0
    assert len(fullyconv.predict_folder(model, photos / "a.jpg", tmp_path / "out", polygons="geojson").predicted) == 1
    assert fullyconv.predict_folder(model, photos / "a.jpg", tmp_path / "out", polygons="geojson").before == 1


def test_frames_are_told_and_those_of_other_settings_are_made_again(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(4):
            writer.write(np.full((32, 48, 3), 60 * number, np.uint8), number / 25)
    model, told = Bright(), list[tuple[Path, int]]()

    def frames(path: Path, done: int, _: int | None) -> None:
        told.append((path, done))

    done = fullyconv.predict_folder(model, tmp_path / "clip.mp4", tmp_path / "out", frames=frames)
    assert told == [(tmp_path / "clip.mp4", number) for number in (1, 2, 3, 4)]
    assert (done.predicted[0].frames, done.predicted[0].target) == (4, tmp_path / "out" / "clip")
    (tmp_path / "out" / "clip" / "000001.png").unlink()
    before = model.calls
    assert len(fullyconv.predict_folder(model, tmp_path / "clip.mp4", tmp_path / "out").predicted) == 1
    assert model.calls == before + 1
    assert fullyconv.predict_folder(model, tmp_path / "clip.mp4", tmp_path / "out", every=2).predicted[0].frames == 2
    assert model.calls == before + 3


def test_two_runs_at_once_do_not_share_a_folder(photos: Path, tmp_path: Path) -> None:
    running = Journal(tmp_path / "out", {})
    running.open([""], {})
    with pytest.raises(FolderInUse, match=rf"in use by process {os.getpid()} on .* give another folder"):
        fullyconv.predict_folder(Bright(), photos, tmp_path / "out")
    running.close()
    assert len(fullyconv.predict_folder(Bright(), photos, tmp_path / "out").predicted) == 3


def test_an_image_that_is_replaced_while_it_is_predicted_is_predicted_again(photos: Path, tmp_path: Path) -> None:
    class Replacing(Bright):
        def predict(self, source: Any) -> Any:
            found = super().predict(source)
            if self.calls == 1:
                Image.new("RGB", (28, 20), (255, 255, 255)).save(source)
            return found

    model = Replacing()
    fullyconv.predict_folder(model, photos, tmp_path / "out")
    again = fullyconv.predict_folder(model, photos, tmp_path / "out")
    assert (again.before, len(again.predicted)) == (2, 1)
    assert read_mask(tmp_path / "out" / "a.png").mean() == 1.0


def test_a_note_of_a_run_that_was_killed_is_read_as_far_as_it_goes(photos: Path, tmp_path: Path) -> None:
    fullyconv.predict_folder(Bright(), photos, tmp_path / "out")
    note = tmp_path / "out" / NAME
    note.write_text(note.read_text()[:-30])
    assert fullyconv.predict_folder(Bright(), photos, tmp_path / "out").before == 2
    note.write_text("{")
    assert fullyconv.predict_folder(Bright(), photos, tmp_path / "out").before == 0
    assert fullyconv.predict_folder(Bright(), photos, tmp_path / "out").before == 3


def test_a_model_that_only_predicts_does_what_its_module_does(photos: Path, tmp_path: Path) -> None:
    module = always(["a", "b"], 1)
    predictor = Predictor(module.model, module.labels, module.preprocessing)
    done = fullyconv.predict_folder(predictor, photos, tmp_path / "out", flip=True)
    assert [one.shares[""]["b"] for one in done.predicted] == [1.0] * 3
    assert identity(predictor) == identity(Predictor(module.model, module.labels, module.preprocessing))
    other = always(["a", "b"], 0)
    assert identity(predictor) != identity(Predictor(other.model, other.labels, other.preprocessing))


def test_a_model_is_told_from_others_by_its_weights() -> None:
    one, other = always(["a", "b"], 0), always(["a", "b"], 0)
    assert identity(one) == identity(other)
    assert identity(one) != identity(always(["a", "b"], 1))
    assert identity(one) != identity(always(["a", "c"], 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "1GB", "flip": True}, "memory, flip: an exported model predicts whole images once"),
        ({"heatmaps": ["dark"]}, "heatmaps: an exported model predicts whole images once"),
        ({"scales": []}, "one or more numbers above 0"),
        ({"masks": False, "probabilities": "all"}, "masks=False"),
        ({"heatmaps": ["a b", "a/b"]}, "two would have one file"),
    ],
)
def test_options_that_cannot_be_honored_are_refused(
    options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fullyconv.predict_folder(Bright(), photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_masks_of_a_zoo_model_are_those_of_its_weights_and_not_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fullyconv import cli
    from fullyconv.cli.predict import _identity
    from fullyconv.weights import catalog

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["predict", str(tmp_path / "a.png"), "--model", "nuclei", "--out", str(tmp_path / "masks")]
    assert cli.main(words) == cli.main(words) == 0
    assert "1 of 1 images were done before" in capsys.readouterr().out
    before = _identity("nuclei")
    name = catalog.ALIASES["nuclei"]
    monkeypatch.setitem(catalog.SHIPPED, name, "0" * 64)  # as another release ships them
    assert _identity("nuclei") != before


def test_an_image_without_scores_is_named_and_the_others_are_segmented(tmp_path: Path) -> None:
    class Failing(Bright):
        def predict(self, source: Any, **_: Any) -> Any:
            if self.calls == 1:
                self.calls += 1
                scores = torch.full((1, 2, 2, 2), torch.nan)
                return upsample_argmax(scores, Geometry((8, 8), (3.5, 3.5), (1, 1)), (16, 16))
            return super().predict(source)

    for name in "abc":
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{name}.png")
    done = fullyconv.predict_folder(Failing(), tmp_path, tmp_path / "out")
    assert [each.source.stem for each in done.failed] == ["b"]
    assert "NaN" in str(done.failed[0].error)
    assert files(tmp_path / "out") == [NAME, "a.png", "c.png"]


def test_an_input_that_is_given_twice_is_predicted_once(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path]
    assert len(fullyconv.predict_folder(Bright(), given, tmp_path / "out").predicted) == 1


def test_weights_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    module = always(["a", "b"], 0)
    with torch.no_grad():
        next(value for name, value in module.model.named_parameters() if name.endswith("score.1.bias")).fill_(torch.nan)
    with pytest.raises(ScoresError, match="NaN"):
        module.predict(np.zeros((32, 32, 3), np.uint8))

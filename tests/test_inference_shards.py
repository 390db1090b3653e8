"""Several processes, each with its part of many files: together they leave what one leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullyconv
from conftest import NAMES, write_tree
from fullyconv import cli
from fullyconv.errors import FolderInUse
from fullyconv.inference import joining
from fullyconv.inference.folder import FolderOptions, FolderPlan
from fullyconv.inference.journal import NAME, Journal, Shard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    segmenter = fullyconv.SegmentationModule("same_convolutions", classes=NAMES)
    for value in segmenter.model.get_submodule("head").parameters():
        nn.init.normal_(value)
    return segmenter.save_pretrained(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(9):
        path = tmp_path / "photos" / ("inner" if number % 3 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (20 + 4 * (number % 2), 28, 3)
        Image.fromarray(rng.integers(0, 255, size).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(model: Path, photos: Path, out: str, *words: object) -> int:
    return cli.main(["predict", str(photos), "--model", str(model), "--out", out, *map(str, words)])


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_every_file_belongs_to_one_part_whatever_else_there_is() -> None:
    names = [f"street/{number:04}.jpg" for number in range(400)]
    shards = [Shard.parse(f"{number}/4") for number in (1, 2, 3, 4)]
    parts = [[name for name in names if shard.takes(name)] for shard in shards]
    assert sorted(name for part in parts for name in part) == names
    assert all(60 < len(part) < 140 for part in parts)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4", ""])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"from 1/16 to 16/16"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [2, 4])
def test_parts_that_are_joined_are_the_bytes_of_one_process(
    count: int, model: Path, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--overlay", "--polygons", "coco", "--json")
    assert predict(model, photos, "masks", *words) == 1  # a broken file
    alone = capsys.readouterr().out
    one = content(here / "masks")
    shutil.rmtree(here / "masks")
    for number in reversed(range(1, count + 1)):
        predict(model, photos, "masks", *words, "--shard", f"{number}/{count}")
    assert content(here / "masks").keys() - one.keys() == {
        f".fullyconv-predict.{number}-of-{count}.jsonl" for number in range(1, count + 1)
    }
    capsys.readouterr()
    for _ in range(2):  # what is joined may be joined again
        assert cli.main(["join", "masks", "--json"]) == 1
        assert capsys.readouterr().out == alone
        assert content(here / "masks") == one
    assert predict(model, photos, "masks", "--overlay", "--polygons", "coco") == 1
    assert "9 of 10 images were done before" in capsys.readouterr().out


def test_a_part_that_was_stopped_goes_on_and_the_bytes_are_those_of_one_process(
    model: Path, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").unlink()
    assert predict(model, photos, "masks", "--json") == 0
    alone, one = capsys.readouterr().out, content(here / "masks")
    shutil.rmtree(here / "masks")
    segmenter = fullyconv.load(model)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    assert predict(model, photos, "masks", "--shard", "1/2") == 0
    known = json.loads((here / "masks" / ".fullyconv-predict.1-of-2.jsonl").read_text().splitlines()[0])
    plan = FolderPlan(photos, "masks", FolderOptions(shard="2/2"), model=known["settings"]["model"], called=str(model))
    assert plan.left > 1
    with pytest.raises(KeyboardInterrupt):
        plan.run(segmenter, stop)
    assert cli.main(["join", "masks"]) == 2
    assert "run --shard 2/2 (" in capsys.readouterr().err
    assert predict(model, photos, "masks", "--shard", "2/2") == 0
    assert "were done before" in capsys.readouterr().out
    assert cli.main(["join", "masks", "--json"]) == 0
    assert (capsys.readouterr().out, content(here / "masks")) == (alone, one)


def test_what_is_missing_or_of_another_kind_is_named_when_parts_are_joined(
    model: Path, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        assert cli.main(["join", "masks"]) == 2
        return capsys.readouterr().err

    assert "there is no such folder" in refused()
    (here / "masks").mkdir()
    assert "holds nothing that `predict` noted" in refused()
    predict(model, photos, "masks", "--shard", "1/3")
    assert "run --shard 2/3 (not begun), 3/3 (not begun) to its end" in refused()
    predict(model, photos, "masks", "--shard", "2/3")
    predict(model, photos, "masks", "--shard", "3/3")
    note = here / "masks" / ".fullyconv-predict.3-of-3.jsonl"
    kept = note.read_text()
    note.write_text(kept.replace('"total": 10', '"total": 11'))
    assert "other settings, another model or other files" in refused()
    note.write_text(kept)
    (here / "masks" / "0.png").unlink()
    assert "0.png: is gone" in refused()


def test_masks_of_other_settings_are_made_again_by_parts_too(model: Path, photos: Path, here: Path) -> None:
    predict(model, photos, "masks")
    for number in (1, 2):
        predict(model, photos, "masks", "--flip", "--shard", f"{number}/2")
    assert not (here / "masks" / NAME).exists()
    assert cli.main(["join", "masks"]) == 1
    predict(model, photos, "whole", "--flip")
    ours, theirs = content(here / "masks"), content(here / "whole")
    assert {name: ours[name] for name in ours if name != NAME} == {name: theirs[name] for name in ours if name != NAME}


def test_one_process_goes_on_where_parts_were_and_parts_where_one_process_was(
    model: Path, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").unlink()
    predict(model, photos, "masks", "--shard", "1/2")
    capsys.readouterr()
    predict(model, photos, "masks", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["before"] + len(said["files"]) == 9
    assert said["before"] > 0
    assert sorted(path.name for path in (here / "masks").glob(".*jsonl")) == [NAME]
    for number in (1, 2):
        predict(model, photos, "masks", "--shard", f"{number}/2", "--json")
        said = json.loads(capsys.readouterr().out)
        assert (said["files"], said["before"] > 0) == ([], True)
    assert cli.main(["join", "masks", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 9


def test_parts_share_a_folder_with_each_other_and_with_nobody_else(tmp_path: Path) -> None:
    first, second = (Journal(tmp_path, {}, Shard(number, 2)) for number in (1, 2))
    first.open([""], {})
    second.open([""], {})
    for other in (Journal(tmp_path, {}), Journal(tmp_path, {}, Shard(1, 2)), Journal(tmp_path, {"a": 1}, Shard(3, 4))):
        with pytest.raises(FolderInUse, match="in use by process"):
            other.open([""], {})
    first.close()
    second.close()
    whole = Journal(tmp_path, {})
    whole.open([""], {})
    whole.close()


def test_a_part_that_holds_no_file_is_one_that_is_done(model: Path, photos: Path, here: Path) -> None:
    empty = next(number for number in range(1, 41) if not Shard(number, 40).takes("0.png"))
    full = next(number for number in range(1, 41) if Shard(number, 40).takes("0.png"))
    for number in (empty, full):
        assert predict(model, photos / "0.png", "masks", "--shard", f"{number}/40") == 0
    joined = joining.join_masks("masks")
    assert [one.source.name for one in joined.result.predicted] == ["0.png"]


# ---- test ----------------------------------------------------------------------------------------------------------


def score(model: Path, data: Path, *words: object) -> int:
    return cli.main(["test", str(model), str(data), *map(str, words)])


def test_the_parts_of_a_test_add_up_to_what_one_process_says(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tree(here / "data", {"test": 7}, (32, 40))
    alone = {}
    for form in ((), ("--json",)):
        assert score(model, data, *form) == 0
        alone[form] = capsys.readouterr().out
    for count in (2, 4):
        out = f"of{count}"
        assert score(model, data, "--shard", f"1/{count}", "--out", out) == 0
        assert cli.main(["join", out]) == 2
        assert f"run --shard 2/{count} (not begun)" in capsys.readouterr().err
        for number in range(2, count + 1):
            assert score(model, data, "--shard", f"{number}/{count}", "--out", out) == 0
        capsys.readouterr()
        for form, said in alone.items():
            assert cli.main(["join", out, *form]) == 0
            assert capsys.readouterr().out == said
    assert score(model, data, "--shard", "1/2", "--out", "of2") == 0
    assert "which were scored before" in capsys.readouterr().out
    assert score(model, data, "--shard", "1/2") == 2
    assert "give both" in capsys.readouterr().err


def test_a_part_of_a_test_that_was_stopped_goes_on_and_of_other_images_begins_anew(tmp_path: Path) -> None:
    seen: list[int] = []

    def matrix_of(some: object) -> np.ndarray:
        seen.extend(some)  # type: ignore[arg-type]
        if len(seen) == 4:
            raise KeyboardInterrupt
        return np.eye(2, dtype=np.int64) * sum(some)  # type: ignore[call-overload]

    def part(stamp: str = "now") -> bool:
        facts = {"where": {}}
        return joining.score_part(tmp_path, Shard(1, 1), facts, ["a", "b"], [1, 2, 3, 4, 5], matrix_of, 2, stamp)

    with pytest.raises(KeyboardInterrupt):
        part()
    with pytest.raises(ValueError, match=r"1/1 \(2 of 5 done\)"):
        joining.join_scores(tmp_path)
    seen.clear()
    assert part()
    assert seen == [3, 4, 5]
    assert joining.join_scores(tmp_path).matrix.tolist() == [[15, 0], [0, 15]]
    assert not part()
    seen[:] = [0] * 10
    assert part("later")
    assert seen[10:] == [1, 2, 3, 4, 5]


KILLED = """
import os, signal, sys
from fullyconv import cli
from fullyconv.inference import folder

note = folder.FolderPlan.note
def once(*words):
    note(*words)
    os.kill(os.getpid(), signal.SIGKILL)
folder.FolderPlan.note = once
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_part_that_was_killed_lets_go_and_goes_on(
    model: Path, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(model, photos, "masks", "--json")
    alone, one = capsys.readouterr().out, content(here / "masks")
    shutil.rmtree(here / "masks")
    words = ["predict", str(photos), "--model", str(model), "--out", "masks", "--shard"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words, "1/2"], capture_output=True, check=False)
    assert done.returncode == -9
    for number in (1, 2):
        predict(model, photos, "masks", "--shard", f"{number}/2")
    capsys.readouterr()
    assert cli.main(["join", "masks", "--json"]) == 1
    assert (capsys.readouterr().out, content(here / "masks")) == (alone, one)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shard": "1/1"}'])
def test_a_damaged_part_of_a_test_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / ".fullyconv-test.1-of-1.json").write_text(content)
    with pytest.raises(ValueError, match=r"1-of-1\.json: is damaged; remove it, and run its part again"):
        joining.join_scores(tmp_path)

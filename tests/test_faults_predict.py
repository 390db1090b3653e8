"""Faults of predicting that were seen, each stated as what is wanted. A row is named by its number, as ``c9``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import fullyconv
from conftest import EPS, write_tree
from fullyconv import cli
from fullyconv.inference.budget import available_memory
from fullyconv.inference.serving import Predictor


def run(*words: object) -> int:
    """Run the command line in this process, and give its exit status."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1


def predict(model: Path, source: object, out: Path, *words: object) -> int:
    return run("predict", source, "--model", model, "--out", out, *words)


def noise(height: int = 40, width: int = 56, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def image(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, seed)).save(path)
    return path


def png(height: int = 40, width: int = 56) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(height, width)).save(stream, "PNG")
    return stream.getvalue()


def mask_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def always(folder: Path, best: int) -> Path:
    """Write a small model that gives every pixel the same class."""
    segmenter = fullyconv.SegmentationModule("same_convolutions", classes=["a", "b"])
    with torch.no_grad():
        (bias,) = (value for name, value in segmenter.model.named_parameters() if name.endswith("score.1.bias"))
        bias[best] = 1.0  # the weights of score layers start at zero
    return segmenter.save_pretrained(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return always(tmp_path / "model", 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        image(tmp_path / "photos" / name, seed=seed)
    return tmp_path / "photos"


# ---- W12: masks that other settings or other images made ----------------------------------------------------------


@pytest.mark.parametrize("when", [-3600.0, 0.0], ids=["older", "of the same time"])
def test_w12_an_image_that_was_replaced_is_segmented_again_whatever_its_time(
    model: Path, photos: Path, tmp_path: Path, when: float
) -> None:
    before = (photos / "b.png").stat().st_mtime + when
    assert predict(model, photos, tmp_path / "masks") == 0
    image(photos / "b.png", 30, 70)
    os.utime(photos / "b.png", (before, before))
    assert predict(model, photos, tmp_path / "masks") == 0
    assert mask_of(tmp_path / "masks" / "b.png").shape == (30, 70)


def test_w12_masks_of_another_model_are_not_taken_for_done_when_the_clock_was_set_back(
    photos: Path, tmp_path: Path
) -> None:
    zero, one = always(tmp_path / "zero", 0), always(tmp_path / "one", 1)
    assert predict(zero, photos, tmp_path / "masks") == 0
    for mask in (tmp_path / "masks").glob("*.png"):
        os.utime(mask, (4e9, 4e9))
    assert predict(one, photos / "a.png", tmp_path / "masks") == 0
    assert predict(one, photos, tmp_path / "masks") == 0
    assert [mask_of(tmp_path / "masks" / f"{name}.png").mean() for name in "abc"] == [1.0, 1.0, 1.0]


def test_w12_two_runs_at_once_leave_no_mask_of_one_model_under_the_name_of_the_other(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run starts and ends, is refused, or waits, while the first one is at its first image."""
    zero, one = always(tmp_path / "zero", 0), always(tmp_path / "one", 1)
    real = Predictor.predict
    second = threading.Thread(target=predict, args=(one, photos, tmp_path / "masks"))

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        if second.ident is None:
            second.start()
            second.join(5)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    assert predict(zero, photos, tmp_path / "masks") == 0
    second.join()
    assert predict(one, photos, tmp_path / "masks") == 0
    assert [mask_of(tmp_path / "masks" / f"{name}.png").mean() for name in "abc"] == [1.0, 1.0, 1.0]


# ---- C2: what Pillow opens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["predict", "doctor: image", "doctor: mask"])
def test_c2_a_file_of_eps_bytes_never_reaches_ghostscript(
    command: str, model: Path, tmp_path: Path, ghostscript: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "drawing.png"
    if command == "predict":
        file.write_bytes(EPS)
        assert predict(model, file, tmp_path / "masks") != 0
    else:
        tree = write_tree(tmp_path / "shapes", {"train": 3})
        file = tree / "train" / ("images" if command.endswith("image") else "masks") / "001.png"
        file.write_bytes(EPS)
        assert run("doctor", tree) != 0
    assert file.name in "".join(capsys.readouterr())
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["PCX", "SGI", "DDS", "TGA"])
def test_c2_formats_that_no_message_names_are_refused(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(file, kind)
    assert predict(model, file, tmp_path / "masks") == 1
    assert str(file) in capsys.readouterr().err
    assert not (tmp_path / "masks" / "a.png").exists()


# ---- C9: names that are nearly too long -----------------------------------------------------------------------------


def test_c9_a_name_that_leaves_room_for_its_mask_and_overlay_is_written(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    name = "a" * 240
    image(photos / f"{name}.png")
    assert predict(model, photos, tmp_path / "masks", "--overlay") == 0
    names = [name, "a", "b", "c"]
    expected = sorted([f"{each}.png" for each in names] + [f"{each}.overlay.png" for each in names])
    assert sorted(path.name for path in (tmp_path / "masks").glob("[!.]*")) == expected


@pytest.mark.parametrize("why", ["name too long", "folder in its place"])
def test_c9_a_mask_that_cannot_be_written_is_skipped_and_reported(
    why: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    name = "a"
    if why == "name too long":
        name = "a" * 251  # .png fits the file system, .overlay.png does not
        (photos / "a.png").rename(photos / f"{name}.png")
    else:
        (masks / "a.png").mkdir(parents=True)
    assert predict(model, photos, masks, "--overlay") == 1
    assert name in capsys.readouterr().err
    assert [(masks / f"{each}.overlay.png").is_file() for each in "bc"] == [True, True]
    assert [(masks / f"{each}.png").is_file() for each in "bc"] == [True, True]


# ---- C13: sources that are none -------------------------------------------------------------------------------------


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(png()))
    image.close()
    return image


WRONG = {
    "closed image": closed,
    "a million bytes": lambda: bytes(10**6),
    "meta device": lambda: torch.zeros(3, 8, 8, device="meta"),
    "floats on the meta device": lambda: torch.zeros(3, 8, 8, device="meta", dtype=torch.float16),
}


@pytest.mark.parametrize("name", WRONG)
def test_c13_a_source_that_is_none_is_answered_in_short_and_by_name(name: str, model: Path) -> None:
    segmenter = fullyconv.load(model)
    with pytest.raises((ValueError, TypeError), match=r"source|bytes") as caught:
        segmenter.predict(WRONG[name]())
    assert len(str(caught.value)) < 500


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_c13_a_matrix_is_read_as_the_array_that_it_is_or_refused_by_name(model: Path) -> None:
    gray = noise()[..., 0]
    segmenter = fullyconv.load(model)
    try:
        result = segmenter.predict(np.matrix(gray))  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        if "source" not in str(error):
            raise
    else:
        assert np.array_equal(result.mask, segmenter.predict(gray).mask)


# ---- C21: memory that is less than the machine's --------------------------------------------------------------------


@pytest.fixture
def system_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let what is read under /sys/fs/cgroup and /proc/self come from a folder that the test fills."""
    root = tmp_path / "system"
    real = io.open
    places = ("/sys/fs/cgroup", "/proc/self/cgroup", "/proc/self/mountinfo")

    def redirected(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | Path) and str(file).startswith(places):
            file = root / str(file).lstrip("/")
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", redirected)
    monkeypatch.setattr("io.open", redirected)  # what pathlib calls
    return root


CGROUPS = {
    "version 1": {
        "proc/self/cgroup": "9:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "300000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "100000000\n",
    },
    "version 2": {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "300000000\n",
        "sys/fs/cgroup/memory.current": "100000000\n",
    },
    "version 2, a slice": {
        "proc/self/cgroup": "0::/user.slice/work.scope\n",
        "sys/fs/cgroup/memory.current": "900000000\n",
        "sys/fs/cgroup/user.slice/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/memory.current": "100000000\n",
        "sys/fs/cgroup/user.slice/work.scope/memory.max": "300000000\n",
        "sys/fs/cgroup/user.slice/work.scope/memory.current": "100000000\n",
    },
    "version 2, around a slice": {
        "proc/self/cgroup": "0::/user.slice/work.scope\n",
        "sys/fs/cgroup/memory.current": "900000000\n",
        "sys/fs/cgroup/user.slice/memory.max": "300000000\n",
        "sys/fs/cgroup/user.slice/memory.current": "100000000\n",
        "sys/fs/cgroup/user.slice/work.scope/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/work.scope/memory.current": "100000000\n",
    },
}


@pytest.mark.parametrize("kind", CGROUPS)
def test_c21_what_a_container_may_use_is_seen(kind: str, system_files: Path) -> None:
    for name, text in CGROUPS[kind].items():
        (system_files / name).parent.mkdir(parents=True, exist_ok=True)
        (system_files / name).write_text(text)
    assert available_memory() <= 200_000_000


def test_c21_what_the_cache_of_files_would_give_back_is_free(system_files: Path) -> None:
    for name, text in (
        CGROUPS["version 2"] | {"sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 50000000\n"}
    ).items():
        (system_files / name).parent.mkdir(parents=True, exist_ok=True)
        (system_files / name).write_text(text)
    assert available_memory() == 250_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_c21_what_ulimit_leaves_is_seen() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, -1))\n"
    code += "from fullyconv.inference.budget import available_memory; print(available_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 3e9


def test_c21_an_image_that_memory_does_not_hold_is_left_out_and_the_option_named(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Predictor.predict

    def short(self: Any, source: Any, **options: Any) -> Any:
        if source.pixels.shape[0] == 44:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 8 GB")
        return real(self, source, **options)

    monkeypatch.setattr(Predictor, "predict", short)
    image(photos / "b.png", height=44)
    assert predict(model, photos, tmp_path / "masks") == 1
    said = capsys.readouterr().err
    assert "b.png: needs more memory than there is" in said
    assert "--memory" in said
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["a.png", "c.png"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("of the network")])
def test_c21_a_command_that_lacks_memory_says_so_and_other_errors_stay_what_they_are(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("fullyconv.weights.catalog.entries", fail)
    if "network" in str(error):
        with pytest.raises(RuntimeError, match="of the network"):
            run("list")
    else:
        assert run("list") == 2
        assert "not enough memory" in capsys.readouterr().err


LIMITED = """
import resource, sys
import torch
import fullyconv
from fullyconv.inference.serving import Predictor
from fullyconv import cli

torch.set_num_threads(1)
model, source, out, room = sys.argv[1:]
fullyconv.load(model).predict(torch.zeros(3, 64, 64, dtype=torch.uint8))  # what is loaded late is loaded now
(line,) = (line for line in open("/proc/self/status") if line.startswith("VmSize"))
used = 1024 * int(line.split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + int(room), -1))
sys.exit(cli.main(["predict", source, "--model", model, "--out", out, "--threads", "1"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_c21_an_image_beyond_the_limit_of_the_process_is_cut_into_tiles_or_the_option_is_named(
    model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "large.png"
    Image.new("RGB", (2000, 2000), (90, 120, 40)).save(source)
    words = [str(word) for word in (model, source, tmp_path / "masks", 300_000_000)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert mask_of(tmp_path / "masks" / "large.png").shape == (2000, 2000)
    else:
        assert "--memory" in done.stderr


# ---- C23: what a killed run leaves ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from fullyconv import cli

rename = os.replace


def replace(source, target, **options):
    if str(target).endswith(".png"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **options)


os.replace = replace
cli.main(["predict", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_c23_the_next_run_removes_the_unfinished_masks_of_a_killed_one(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    words = [str(word) for word in (photos, "--model", model, "--out", tmp_path / "masks")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, check=False)
    assert done.returncode == -9
    left = {path.name for path in (tmp_path / "masks").iterdir()}
    assert any("png" in name for name in left)
    for path in (tmp_path / "masks").iterdir():
        os.utime(path, (1e9, 1e9))
    assert predict(model, photos, tmp_path / "masks") == 0
    assert [path.name for path in (tmp_path / "masks").rglob("*") if path.name.endswith(".part")] == []
    hidden = {path.name for path in (tmp_path / "masks").iterdir() if path.name.startswith(".") and "png" in path.name}
    assert hidden == set()


# ---- M17: what is given as INPUT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["http://example.org/a.jpg", "https://example.org/a.jpg", "rtsp://camera/1"])
def test_m17_an_address_is_named_as_it_was_given_and_said_to_be_none_that_is_read(
    address: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, address, tmp_path / "masks") == 2
    said = capsys.readouterr().err
    assert address in said
    assert "no such file" not in said


def test_m17_an_address_in_python_and_of_the_demo_is_named_as_it_was_given(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "https://example.org/a.jpg"
    with pytest.raises((ValueError, OSError)) as caught:
        fullyconv.load(model).predict(address)
    assert run("demo", address, "--out", tmp_path / "overlay.png") == 2
    for said in (str(caught.value), capsys.readouterr().err):
        assert address in said
        assert "no such file" not in said


def test_m17_a_number_that_names_no_file_is_said_to_be_no_camera(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(model, "0", tmp_path / "masks") == 2
    assert any(word in capsys.readouterr().err for word in ("camera", "webcam", "device"))


def test_m17_a_dash_reads_the_image_from_standard_input(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(png(30, 50))))
    assert predict(model, "-", tmp_path / "masks") == 0
    (mask,) = (tmp_path / "masks").glob("*.png")
    assert mask_of(mask).shape == (30, 50)


@pytest.mark.parametrize("kind", ["opened file", "bytes in memory"])
def test_m17_a_file_object_is_read(kind: str, model: Path, tmp_path: Path) -> None:
    segmenter = fullyconv.load(model)
    path = image(tmp_path / "a.png", 30, 50)
    with path.open("rb") if kind == "opened file" else io.BytesIO(path.read_bytes()) as file:
        result = segmenter.predict(file)
    assert np.array_equal(result.mask, segmenter.predict(path).mask)
    assert result.mask.shape == (30, 50)

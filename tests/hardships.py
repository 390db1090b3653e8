"""Run commands where something is wanting, and see that they say what, lose nothing, and do it when it is there again.

A full disk (a small one in memory), a read-only folder, little memory, no home, an encoding of seven bits, ten thousand
files, two runs in one folder, two hundred clients of a server. Good is an exit status, a message that names file or
option, no traceback, and nothing at a final name but whole files. The first two need root on Linux; elsewhere they are
left out, which is said.

    python tests/hardships.py
    python tests/hardships.py memory files
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from PIL import Image

import killing

Result = tuple[str, str, list[str]]
"""What was done, what came of it, and what is bad of that."""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    said: str

    @property
    def last(self) -> str:
        lines = [line for line in self.said.splitlines() if line.startswith("fullyconv: ")]
        return (lines or self.said.splitlines() or [""])[-1][:200]

    def bad(self, *statuses: int, word: str = "") -> list[str]:
        """Say what is bad: a traceback, another exit status, a message without a word."""
        found = ["a traceback"] if "Traceback" in self.said else []
        found += [] if self.status in statuses else [f"exit status {self.status}, not {statuses}"]
        return found + ([] if word in self.last else [f"the message does not say {word!r}"])


def run(*words: object, limit: int | None = None, **environment: str | None) -> Done:
    """Run the command line in a process of its own.

    Args:
        words: of the command line.
        limit: bytes of addresses that it may have (``ulimit -v``).
        environment: what is set or, by None, not set.
    """
    env = {key: value for key, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-m", "fullyconv", *map(str, words)],
        env=env,
        capture_output=True,
        check=False,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    return Done(done.returncode, done.stderr.decode(errors="replace"))


MASKS = ("predict", "given/photos", "--model", "./given/model", "--overlay", "--out")
COMMANDS: dict[str, tuple[str, ...]] = {
    "predict": (*MASKS, "{}"),
    "fit": (*killing.FIT[:2], "--out", "{}", *killing.FIT[4:], "--trainer.enable_progress_bar=false"),
    "export": ("export", "./given/model", "--to", "{}/file.onnx"),
    "convert": (
        "convert",
        "given/1.pth",
        "--to",
        "{}",
        "--architecture",
        "torchvision/squeezenet1_1",
        "--allow-unverified",
    ),
}
FREE = 100_000
"""Bytes on the full disk: less than any of these writes."""


def given() -> None:
    """Make what the commands read, in the folder ``given``."""
    killing.photos(None)
    killing.shapes(None)
    killing.weights(None)
    shutil.rmtree("out")


def on(command: str, folder: Path) -> tuple[str, ...]:
    return tuple(word.format(folder) for word in COMMANDS[command])


@contextmanager
def mounted(*words: str) -> Iterator[Path]:
    folder = Path("mounted")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def whole(folder: Path) -> list[str]:
    """Say which files at final names are not whole, and what hidden files there are."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.name.endswith(".part"):
            found.append(f"{path} is left")
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix in (".onnx", ".safetensors", ".ckpt") and path.stat().st_size < FREE:
            found.append(f"{path} has {path.stat().st_size} bytes")
    return found


def full_disk() -> Iterator[Result]:
    for command in COMMANDS:
        with mounted("-t", "tmpfs", "-o", f"size={FREE}", "tmpfs") as disk:
            done = run(*on(command, disk))
            told = "could not be" if command == "predict" else "No space left"
            yield f"full disk: {command}", done.last, done.bad(1, 2, word=told) + whole(disk)
            subprocess.run(["mount", "-o", "remount,size=200M", str(disk)], check=True)
            again = run(*on(command, disk))
            yield (
                f"full disk: {command}, after room was made",
                f"exit status {again.status}",
                again.bad(0) + whole(disk),
            )


def read_only() -> Iterator[Result]:
    for command in COMMANDS:
        Path("below").mkdir(exist_ok=True)
        with mounted("--bind", "below") as folder:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
            done = run(*on(command, folder))
            yield f"read-only folder: {command}", done.last, done.bad(1, 2, word="mounted")


def memory() -> Iterator[Result]:
    Path("large").mkdir()
    Image.new("RGB", (6000, 6000), (90, 120, 40)).save("large/a.png")
    killing_image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(killing_image).save("large/b.png")
    for megabytes in (6000, 5000, 4500, 4000, 3500, 3000):
        out = Path(f"out-{megabytes}")
        done = run("predict", "large", "--model", "./given/model", "--out", out, limit=megabytes * 10**6)
        made = sorted(path.name for path in out.glob("*.png"))
        bad = done.bad(0, 1, 2) + (whole(out) if out.exists() else [])
        if done.status and not re.search(r"memory|start|map|alloc", done.said):
            bad.append("the message does not speak of memory")
        yield f"{megabytes} MB of addresses: 36 and 0.004 megapixels", f"{', '.join(made) or 'none'}; {done.last}", bad


def no_home() -> Iterator[Result]:
    for name, home in (("no HOME", None), ("a HOME that is not there", "/nowhere/at/all")):
        for words in (("list",), (*MASKS, f"out-{home is None}"), ("doctor", "given/shapes")):
            done = run(*words, "--overwrite", HOME=home) if words[0] == "predict" else run(*words, HOME=home)
            yield f"{name}: {words[0]}", f"exit status {done.status}", done.bad(0)


def encoding() -> Iterator[Result]:
    shutil.copytree("given/shapes", "été/日本", dirs_exist_ok=True)
    for words in (
        ("predict", "été/日本/train/images", "--model", "./given/model", "--out", "été/masks"),
        ("doctor", "été/日本"),
        (*on("export", Path("été")),),
        ("fit", "été/日本", "--out", "été/run", *killing.FIT[4:], "--trainer.enable_progress_bar=false"),
    ):
        done = run(*words, LC_ALL="C")
        yield f"LC_ALL=C: {words[0]} of names that it lacks", f"exit status {done.status}", done.bad(0)


def files() -> Iterator[Result]:
    rng = np.random.default_rng(0)
    for kind, most in (("images", 255), ("masks", 2)):
        Path("many/train", kind).mkdir(parents=True)
        for number in range(10_000):
            shape = (16, 16, 3) if kind == "images" else (16, 16)
            Image.fromarray(rng.integers(0, most, shape, np.uint8)).save(f"many/train/{kind}/{number}.png")
    begun = time.monotonic()
    done = run("predict", "many/train/images", "--model", "./given/model", "--out", "masks")
    count = len(list(Path("masks").glob("*.png")))
    bad = done.bad(0) + ([] if count == 10_000 else [f"{count} masks"])
    yield "10,000 images: predict", f"{count} masks in {time.monotonic() - begun:.0f} s", bad
    begun = time.monotonic()
    done = run("predict", "many/train/images", "--model", "./given/model", "--out", "masks")
    yield "10,000 images: predict once more", f"{time.monotonic() - begun:.0f} s", done.bad(0)
    begun = time.monotonic()
    done = run("doctor", "many")
    yield "10,000 images: doctor", f"exit status {done.status}, {time.monotonic() - begun:.0f} s", done.bad(0)


def two_runs() -> Iterator[Result]:
    for path in list(Path("given/photos").iterdir()):
        for number in range(20):
            shutil.copy(path, path.with_name(f"{path.stem}-{number}.png"))
    for command, words in (("predict", on("predict", Path("one"))), ("fit", on("fit", Path("run")))):
        first = subprocess.Popen([sys.executable, "-m", "fullyconv", *words], stdout=subprocess.DEVNULL)
        folder = Path("one" if command == "predict" else "run")
        while first.poll() is None and not any(folder.glob("*.holder.json" if command == "fit" else "*.jsonl")):
            time.sleep(0.01)
        os.kill(first.pid, 19)  # SIGSTOP: it holds the folder for as long as the second one needs
        second = run(*words)
        os.kill(first.pid, 18)
        bad = second.bad(2, word=folder.name) + ([] if first.wait() == 0 else ["the first one failed"])
        yield f"two runs in one folder: {command}", second.last, bad


def clients() -> Iterator[Result]:
    from test_faults_serve import Server  # which needs starlette

    stream = io.BytesIO()
    Image.new("P", (1200, 1000)).save(stream, "PNG")
    image = stream.getvalue()
    os.rename("given/model", "mine")
    with Server(Path("./mine"), 0) as server:
        threading.Thread(target=server.process.stdout.read, daemon=True).start()  # type: ignore[union-attr]
        first = server.send(image).recv(12)
        alone = server.peak()
        waiting = [server.send(image) for _ in range(200)]
        statuses = Counter(client.recv(12)[-3:].decode() for client in waiting)
        more = (server.peak() - alone) / 1e6
        came = f"{dict(statuses)}, {more:.0f} MB more than for one"
        bad = [] if first.endswith(b"200") and set(statuses) == {"200", "503"} and more < 200 else [came]
        yield "serve: 200 clients at once, 1.2 megapixels each", came, bad
    with Server(Path("./mine"), 60) as server:
        for _ in range(5):
            server.send(image)
        assert server.process.stdout is not None
        server.process.stdout.readline()
        begun = time.monotonic()
        server.process.terminate()
        _, said = server.process.communicate()
        taken = time.monotonic() - begun
        bad = ["a traceback"] if "Traceback" in said else []
        came = f"{taken:.1f} s"
        yield (
            "serve: SIGTERM while an image takes a minute and four wait",
            came,
            bad + (["too long"] if taken > 20 else []),
        )


TRIALS: dict[str, Callable[[], Iterator[Result]]] = {
    "full_disk": full_disk,
    "read_only": read_only,
    "memory": memory,
    "no_home": no_home,
    "encoding": encoding,
    "files": files,
    "two_runs": two_runs,
    "clients": clients,
}
ROOT = ("full_disk", "read_only")


def tried(name: str) -> list[Result]:
    """Try one hardship in a folder of its own, and give what came of it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                given()
            return list(TRIALS[name]())
        finally:
            os.chdir(before)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; all")
    arguments = parser.parse_args()
    print("| tried | came | bad |\n|---|---|---|")
    wrong = 0
    for name in arguments.trials or TRIALS:
        if name in ROOT and (sys.platform != "linux" or os.geteuid() != 0):
            print(f"| {name} | left out: needs root on Linux | |")
            continue
        for what, came, bad in tried(name):
            print(f"| {what} | {came.replace('|', ' ')} | {'; '.join(bad) or 'nothing'} |", flush=True)
            wrong += len(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Kill commands at random moments, by seeds, and see that nothing is lost.

A command runs undisturbed, which says how long it takes and what it makes. Then it is killed (SIGKILL, its workers too)
at moments spread over that time, and right before and after it puts a file in its place, and each time given again.
Good is: after the kill each file at its final name is the old whole one or the new whole one, and can be loaded; after
the second run all files are those of the undisturbed one, byte by byte (of `fit`: the weights), and there is nothing
beside them. What is bad is named by the number of its moment.

    python tests/killing.py --kills 20
    python tests/killing.py fit --kills 3 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

Files = dict[str, str]
REPO = "someone/thing"


@dataclass(frozen=True)
class Job:
    """A command.

    Args:
        make: make what it reads, in the folder ``given``, and what stands at its final names before, in ``out``.
        run: the command; in a folder that holds both.
        load: read what it has made; an exception says that it is damaged.
        same: of a file of ``out``, whether it has to be the same after two runs.
    """

    make: Callable[[Any], None]
    run: Callable[[Any], None]
    load: Callable[[], None]
    same: Callable[[str], bool] = lambda _: True


def command(*words: str) -> Callable[[Any], None]:
    """Give a function that runs a command line."""

    def run(_: Any) -> None:
        from fullyconv import cli

        if status := cli.main(list(words)):
            raise SystemExit(status)

    return run


def model(folder: str, best: int = 1) -> Any:
    """Write a small model, each `best` another one, large enough that writing it takes a while."""
    import torch

    import fullyconv

    torch.manual_seed(best)
    segmenter = fullyconv.SegmentationModule("fcn32s_resnet18_half", classes=["a", "b"])
    for name, value in segmenter.model.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(value)  # else every pixel is of the first class
    segmenter.save_pretrained(folder, license="MIT")
    return segmenter


def photos(_: Any) -> None:
    """Make images, a model, and the masks of another model."""
    import numpy as np
    from PIL import Image

    Path("given/photos").mkdir(parents=True)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (160, 200, 3), np.uint8)
        Image.fromarray(pixels).save(f"given/photos/{number}.png")
    model("given/model")
    model("./given/other", 2)
    command("predict", "given/photos", "--model", "./given/other", "--out", "out", "--overlay")(None)


def load_masks() -> None:
    from PIL import Image

    for path in Path("out").glob("[!.]*.png"):
        Image.open(path).load()


def shapes(_: Any) -> None:
    from conftest import write_tree

    write_tree(Path("given/shapes"), {"train": 8, "val": 4, "test": 2}, size=(32, 48))


def load_run() -> None:
    import json

    import torch

    import fullyconv

    for path in Path("out").rglob("[!.]*"):
        if path.suffix == ".ckpt":
            torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
    if Path("out/model/config.json").exists():
        fullyconv.load("out/model")


def two_models(_: Any) -> None:
    model("given/model")
    model("out", 2)


def save(_: Any) -> None:
    import fullyconv

    fullyconv.load("given/model").save_pretrained("out")


def load_folder() -> None:
    import fullyconv

    fullyconv.load("out")


def onnx(_: Any) -> None:
    model("given/model")
    model("./given/other", 2)
    Path("out").mkdir()
    command("export", "./given/other", "--to", "out/file.onnx")(None)


def load_onnx() -> None:
    from fullyconv.runtime import load

    load("out/file.onnx")


def weights(_: Any) -> None:
    """Make the weights of two classifiers, and convert one."""
    import torch
    import torchvision

    Path("given").mkdir(exist_ok=True)
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), f"given/{seed}.pth")
    convert("2")(None)


def convert(name: str) -> Callable[[Any], None]:
    more = ("--architecture", "torchvision/squeezenet1_1", "--allow-unverified")
    return command("convert", f"given/{name}.pth", "--to", "out", *more)


def load_classifier() -> None:
    import fullyconv

    fullyconv.load_classifier("out")


def published(hub: Any) -> None:
    model("given/model")
    model("./given/other", 2)
    push("./given/other", hub)


def nothing() -> None:
    """The hub has what it has."""


def push(folder: str, hub: Any) -> None:
    import fullyconv

    fullyconv.load(folder).push_to_hub(REPO, token=hub)


FIT = ("fit", "given/shapes", "--out", "out", "--model", "random:fcn32s_resnet18_half", "--epochs", "3")
JOBS: dict[str, Job] = {
    "predict": Job(
        photos,
        command("predict", "given/photos", "--model", "./given/model", "--out", "out", "--overlay"),
        load_masks,
        lambda name: name.endswith(".png"),
    ),
    "fit": Job(
        shapes,
        command(*FIT, "--trainer.enable_progress_bar=false", "--data.num_workers=0"),
        load_run,
        lambda name: name == "model/model.safetensors",
    ),
    "save_pretrained": Job(two_models, save, load_folder),
    "export": Job(onnx, command("export", "./given/model", "--to", "out/file.onnx"), load_onnx),
    "push_to_hub": Job(published, lambda hub: push("given/model", hub), nothing),
    "convert": Job(weights, convert("1"), load_classifier),
}


def digests(folder: Path) -> Files:
    """Give the digest of each file in a folder and its folders."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def work(run: Callable[..., None], place: str, pipe: Any, at: int | None, settings: Files, *arguments: Any) -> None:
    """Run something in a process and a group of its own, in a folder, whose log and temporary files lie there too.

    Args:
        run: what is run.
        place: the folder.
        pipe: is told when it begins, and what went wrong.
        at: kill before (even) or after (odd) the renaming of this number, halved.
        settings: of the environment; "" where there is to be none.
        arguments: of run.
    """
    os.setsid()
    os.chdir(place)
    os.environ.update(settings)
    for name in (name for name, value in settings.items() if not value):
        del os.environ[name]
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    tempfile.tempdir = str(Path(place) / "temporary")
    warnings.simplefilter("ignore")
    replace, calls = os.replace, itertools.count()

    def deadly(*names: Any, **options: Any) -> None:
        call = next(calls)
        if at == 2 * call:
            os.killpg(0, signal.SIGKILL)
        replace(*names, **options)
        if at == 2 * call + 1:
            os.killpg(0, signal.SIGKILL)

    os.replace = deadly
    pipe.send(time.monotonic())
    try:
        run(*arguments)
        pipe.send(None)
    except BaseException as error:
        pipe.send("".join(traceback.format_exception(error)))


@dataclass
class Found:
    """What became of the kills of a command."""

    kills: int = 0
    resumed: int = 0
    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bad(self) -> list[str]:
        return self.lost + self.other + self.left


class Trial:
    """A command and the folder in which it is tried again and again.

    Args:
        name: of the command.
        place: an empty folder.
        hub: a hub on this machine, for what is uploaded.
    """

    def __init__(self, name: str, place: Path, hub: Any) -> None:
        self.name, self.job, self.place, self.hub = name, JOBS[name], place, hub
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["lightning", "torchvision", "fullyconv.export", "fullyconv.training.module"]
        )

    def process(
        self, run: Callable[..., None], *arguments: Any, after: float | None = None, at: int | None = None
    ) -> bool:
        """Run something in a process; tell whether it was killed, after so many seconds or as `work` does it.

        Raises:
            RuntimeError: with what went wrong in it.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(run, str(self.place), theirs, at, self._settings(), *arguments)
        )
        process.start()
        theirs.close()
        begun = ours.recv()
        if after is not None and not ours.poll(max(0.0, begun + after - time.monotonic())):
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            return True
        try:
            told = ours.recv()
        except EOFError:
            process.join()
            if process.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"the process ended with {process.exitcode}") from None
            return True
        process.join()
        if told is not None:
            raise RuntimeError(told)
        return False

    def run(self, after: float | None = None, at: int | None = None) -> bool:
        return self.process(_run, self.name, self._token, after=after, at=at)

    @property
    def _token(self) -> str | None:
        return None if self.hub is None else self.hub.token

    def _settings(self) -> Files:
        """Give the environment of what speaks to the hub."""
        if self.hub is None:
            return {}
        off = dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
        return off | {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.place / "home"), "HF_HUB_OFFLINE": ""}

    def made(self) -> Files:
        """Give what is at the final names: files, or what the hub has."""
        if self.name == "push_to_hub":
            files = self.hub.files(REPO) if REPO in self.hub.repos else {}
            return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        return digests(self.place / "out")

    def names(self) -> set[str]:
        """Give the name of every file that there is, of those of processes too."""
        kept = {path.relative_to(self.place).as_posix() for path in self.place.rglob("*") if path.is_file()}
        return {name for name in kept if not name.startswith(("before/", "out/log/"))}

    def begin(self) -> None:
        """Put everything as it was before the command."""
        for folder in ("given", "out", "temporary"):
            shutil.rmtree(self.place / folder, ignore_errors=True)
        (self.place / "log.txt").unlink(missing_ok=True)
        if not (self.place / "before").exists():
            (self.place / "temporary").mkdir()
            self.process(_make, self.name, self._token)
            (self.place / "before").mkdir()
            for folder in ("given", "out"):
                if (self.place / folder).exists():
                    os.rename(self.place / folder, self.place / "before" / folder)
            self._uploaded = {} if self.hub is None else dict(self.hub.files(REPO))
            self.begin()
            return
        shutil.copytree(self.place / "before", self.place, dirs_exist_ok=True, copy_function=shutil.copy2)
        (self.place / "temporary").mkdir(exist_ok=True)
        if self.hub is not None:
            self.hub.repos.clear()
            self.hub.add_repo(REPO, self._uploaded)

    def kill(self, kills: int, renamings: int, seed: int = 0) -> Found:
        """Kill the command at so many moments, and around so many of its renamings, and look at what is left."""
        found, rng = Found(), random.Random(f"{self.name}/{seed}")
        self.begin()
        old = self.made()
        begun = time.monotonic()
        self.run()
        found.seconds = time.monotonic() - begun
        new, names = self.made(), self.names()
        for number in range(kills):
            share = (number + rng.random()) / kills
            self.begin()
            while not self.run(after=share * found.seconds):  # ended before: the machine was quicker this time
                share *= 0.9
                self.begin()
            self._look(found, f"{self.name}, kill {number} at {share:.0%} of {found.seconds:.1f} s", old, new, names)
        for number in range(2 * renamings):
            self.begin()
            if not self.run(at=number):
                break
            said = f"{self.name}, killed {'after' if number % 2 else 'before'} renaming {number // 2}"
            self._look(found, said, old, new, names)
        return found

    def _look(self, found: Found, said: str, old: Files, new: Files, names: set[str]) -> None:
        """Look at what a kill left, give the command again, and look again."""
        found.kills += 1
        now = self.made()
        final = {name: value for name, value in now.items() if not name.rpartition("/")[2].startswith(".")}
        torn = [name for name, value in final.items() if value not in (old.get(name), new.get(name))]
        bad = [f"neither old nor new: {name}" for name in torn if self.job.same(name)]
        bad += [f"gone: {name}" for name in old if name not in now]
        if final:
            try:
                self.process(self.job.load)
            except RuntimeError as error:
                bad.append(f"cannot be loaded: {error}")
        if bad:
            found.lost.append(f"{said}: {', '.join(bad)}")
        try:
            self.run()
        except RuntimeError as error:
            found.other.append(f"{said}: the second run fails: {error}")
            return
        after = self.made()
        if bad := [name for name in new if self.job.same(name) and after.get(name) != new[name]]:
            found.other.append(f"{said}: other bytes: {', '.join(bad)}")
        else:
            found.resumed += 1
        if beside := sorted(self.names() - names):
            found.left.append(f"{said}: left: {', '.join(beside)}")


def _run(name: str, token: str | None) -> None:
    JOBS[name].run(token)


def _make(name: str, token: str | None) -> None:
    JOBS[name].make(token)


@contextmanager
def trial(name: str) -> Iterator[Trial]:
    """Give a command and a folder for it, and a hub where it needs one."""
    from hub_server import HubServer

    with tempfile.TemporaryDirectory() as place:
        if name != "push_to_hub":
            yield Trial(name, Path(place), None)
            return
        with HubServer() as hub:
            yield Trial(name, Path(place), hub)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(JOBS)}; all")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--renamings", type=int, default=6, help="of each command, before and after which it is killed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        "| command | seconds | kills | files lost | resumed to the same bytes | with leftovers |\n" + 6 * "|---" + "|"
    )
    wrong = 0
    for name in arguments.commands or JOBS:
        with trial(name) as tried:
            found = tried.kill(arguments.kills, arguments.renamings, arguments.seed)
        row = (name, f"{found.seconds:.1f}", found.kills, len(found.lost), found.resumed, len(found.left))
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for each in found.bad:
            print(each, file=sys.stderr, flush=True)
        wrong += len(found.bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The pages are true: every Python block runs, in order, in one namespace a page, and every command line is understood.

A block marked ``python`` runs. One marked ``py`` needs what the tests have not: it has to be Python all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import operator
import re
import runpy
import shlex
import subprocess
import sys
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tifffile
from PIL import Image

import fullyconv
from conftest import write_tree
from fullyconv import cli
from fullyconv.inference.video import VideoWriter
from hub_server import HubServer

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str = "python") -> list[str]:
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text_of(page), re.M | re.S)
    return [text for name, text in found if name == language]


def commands(page: str) -> list[str]:
    """The command lines of a page: those in blocks, and those in its sentences, which end in dots here."""
    lines = "\n".join(blocks(page, "") + blocks(page, "bash")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&|\||  #", line)]
    plain = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", part) for part in parts]
    said = re.findall(r"`(fullyconv [^`\n]+)`", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S))
    return [part for part in plain if part.startswith("fullyconv ")] + [f"{part} ..." for part in said]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder that holds what the pages speak of."""
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "photos", {"train": 8, "val": 4, "test": 4})
    rng = np.random.default_rng(0)
    for name in ("street.jpg", "new.jpg", "photo.jpg"):
        Image.fromarray(rng.integers(0, 255, (240, 300, 3)).astype(np.uint8)).save(tmp_path / name)
    place = [(33550, "d", 3, (0.5, 0.5, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 690_000.0, 5_334_000.0, 0.0))]
    keys = (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632))
    pixels = rng.integers(0, 255, (240, 300, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "scene.tif", pixels, extratags=[(*tag, True) for tag in (*place, keys)])
    tifffile.imwrite(tmp_path / "scan.tif", pixels.astype(np.uint16) * 16)
    with VideoWriter(tmp_path / "drive.mp4") as writer:
        for number in range(3):
            writer.write(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8), number / 25)
    monkeypatch.setattr(fullyconv, "BACKBONES", fullyconv.BACKBONES)
    for registry in (fullyconv.BACKBONES, fullyconv.MODELS):
        for key in ("tiny", "fcn8s_tiny"):
            monkeypatch.delitem(registry, key, raising=False)


@functools.cache
def untrained() -> tuple[bytes, bytes, bytes]:
    """Files of ResNet-18 that nobody trained: timm's configuration and weights, and torchvision's weights."""
    import timm
    import torch
    import torchvision

    tensors = {name: value.contiguous() for name, value in timm.create_model("resnet18").state_dict().items()}
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    buffer = io.BytesIO()
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), buffer)
    return json.dumps(config).encode(), safetensors.torch.save(tensors), buffer.getvalue()


@functools.cache
def untrained_vgg16(**_: object) -> Any:
    """Draw its 138 million numbers once."""
    import torchvision

    return torchvision.models.VGG(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))


@pytest.fixture
def elsewhere(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for the network: a hub, and torchvision's cache, with weights that nobody trained."""
    import torchvision

    for name in ("LOCK", "CACHE"):
        monkeypatch.setenv(f"FULLYCONV_{name}", str(tmp_path / "settings" / name.lower()))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    mine = fullyconv.SegmentationModule("fcn32s_resnet18_half", classes=["road", "sky"])
    mine.save_pretrained(tmp_path / "my-segmenter", license="CC0-1.0")
    hub.add_repo("me/mine", {path.name: path.read_bytes() for path in (tmp_path / "my-segmenter").iterdir()})

    config, model, data = untrained()
    hub.add_repo("timm/resnet18.a1_in1k", {"config.json": config, "model.safetensors": model})
    value = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    published = value.url
    name = f"resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / name).write_bytes(data)
    object.__setattr__(value, "url", f"https://download.pytorch.org/models/{name}")
    yield
    object.__setattr__(value, "url", published)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_python_block_runs(page: str, photos: None, elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning
    import torch
    import torchvision

    trainer = lightning.Trainer

    def quick(**options: Any) -> lightning.Trainer:
        # One epoch on the CPU shows that the page is right; fifty would show nothing more.
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        return trainer(**(options | quiet | {"max_epochs": 1, "num_sanity_val_steps": 0}))

    monkeypatch.setattr(lightning, "Trainer", quick)
    monkeypatch.setattr(torchvision.models, "vgg16", untrained_vgg16)
    namespace: dict[str, Any] = {"torch": torch, "images": torch.rand(1, 3, 64, 80)}
    for number, block in enumerate(blocks(page)):
        if "data.classes" in block and "data" not in namespace:
            namespace["data"] = fullyconv.SegmentationDataModule.from_folder("photos/")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*(workers|logging interval|treespec|eval mode|exists).*")
            exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    for registry in (fullyconv.BACKBONES, fullyconv.MODELS):
        for key in ("tiny", "fcn8s_tiny"):
            registry.pop(key, None)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "MODEL_CARD.md"])
def test_every_link_to_a_file_of_the_project_leads_somewhere(page: str) -> None:
    text = text_of(page)
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in [*re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text), *pictures]:
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", sorted({*PAGES} - {"docs/benchmarks-full.md"}))
def test_code_is_no_wider_than_a_page(page: str) -> None:
    code = [
        line
        for language in ("", "bash", "python", "py")
        for text in blocks(page, language)
        for line in text.splitlines()
    ]
    commands = re.findall(r"^ {4}(?!\s*[-*])\S.*$", text_of(page), re.M)
    assert [line for line in code + commands if len(line) > 100 and "->" not in line] == []


def dotted_names() -> list[str]:
    texts = [text_of(page) for page in [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]]
    names = {name for text in texts for name in re.findall(r"(?<![\w/.-])fullyconv(?:\.[A-Za-z_]\w*)+", text)}
    # a public name brings its module along in any case
    return sorted(name for name in names if name.split(".")[1] not in fullyconv.__all__)


def test_every_dotted_name_of_the_pages_is_there_after_importing_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dotted_names():
        with monkeypatch.context() as fresh:
            # as a first import of the package leaves it, of which no other import has brought a submodule along
            for key, module in list(sys.modules.items()):
                parent, _, own = key.rpartition(".")
                if key.startswith("fullyconv.") and vars(sys.modules[parent]).get(own) is module:
                    fresh.delattr(sys.modules[parent], own)
            operator.attrgetter(name.partition(".")[2])(fullyconv)


@pytest.mark.slow
def test_the_readme_prints_nothing_that_is_not_ours_to_say(tmp_path: Path, photos: None) -> None:
    """No advert and no warning, with real weights, as somebody meets them who copies the blocks into a file."""
    use, train, *_ = blocks("README.md")
    program = "\n".join([use, train]).replace("max_epochs=50", "max_epochs=1, accelerator='cpu'")
    (tmp_path / "copied.py").write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "copied.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [
        line for line in done.stderr.splitlines() if re.search(r"Tip:|pip install|pypi|[Ww]arn|/\w+\.py:\d+:", line)
    ]
    assert said == []
    assert re.search(r"^0 +Modules in eval mode$", done.stderr, re.M)  # of a segmenter that was just loaded


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")])
def test_every_other_python_block_is_python(page: str) -> None:
    for number, block in enumerate(blocks(page, "py")):
        compile(block, f"{page}, py block {number}", "exec")


def parsed(parser: argparse.ArgumentParser, line: str, words: list[str]) -> list[str]:
    """Give the words that are left for another parser; fail where one is not understood."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            return parser.parse_known_args(words)[1]
    except SystemExit as left:
        if left.code and not (line.endswith(" ...") and "are required" in told.getvalue()):
            pytest.fail(f"{line}: {told.getvalue()}")
        return []


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_line_is_understood(page: str) -> None:
    for line in commands(page):
        words = shlex.split(line.removesuffix(" ..."))[1:]
        if words[0] not in ("fit", "COMMAND", "--help"):
            assert parsed(cli._parser(), line, words) == [], line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if re.search("fullyconv fit .*-", text_of(page))])
def test_every_option_of_fit_is_one_of_its_own_or_of_lightning(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fullyconv.cli import fit
    from fullyconv.cli.lightning import RecipeCLI

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["fullyconv"])
    for line in (line for line in commands(page) if line.startswith("fullyconv fit ")):
        words = shlex.split(line.removesuffix(" ..."))[2:]
        if words[:1] != ["--config"]:
            others = parsed(fit.add(argparse.ArgumentParser().add_subparsers()), line, words)
        else:
            others = words if Path(words[1]).is_file() else words[2:]
        if others and "--help-all" not in words and others != ["RECIPE"]:
            told = io.StringIO()
            with (
                contextlib.redirect_stderr(told),
                contextlib.redirect_stdout(io.StringIO()),
                pytest.raises(SystemExit) as left,
            ):
                RecipeCLI("fit", [*others, "--print_config"])
            assert not left.value.code, f"{line}: {told.getvalue()}"


def test_the_reference_has_every_public_name_loss_schedule_and_preset() -> None:
    from fullyconv.training.losses import LOSSES

    shown = {name for page in PAGES for name in re.findall(r"^::: fullyconv\.(\w+)$", text_of(page), re.M)}
    assert set(fullyconv.__all__) <= shown

    text = text_of("docs/reference-losses.md")
    assert set(re.findall(r"^\| `(\w+)` \| .*\|$", text.partition("## Optimizers")[0], re.M)) == set(LOSSES)
    schedules = typing.get_args(typing.get_type_hints(fullyconv.SegmentationModule.__init__)["schedule"])
    part = text.partition("## Schedules")[2].partition("## Presets")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.M)[1:] == list(schedules)

    part = text.partition("## Presets")[2]
    head = re.search(r"^\| backbone \| (.*) \|$", part, re.M)
    assert head is not None
    families = head[1].split(" | ")
    named = set(re.findall(r"^\| `(\w+)` \| [^|]*\|$", part, re.M)) - set(families)
    for backbone, cells in re.findall(r"^\| `(\w+)` \| ((?:✓? *\| *){6}✓? *)\|$", part, re.M):
        marks = [cell.strip() for cell in cells.split("|")]
        named |= {f"{family}_{backbone}" for family, mark in zip(families, marks, strict=True) if mark}
    assert named == set(fullyconv.MODELS)


def test_the_figures_of_readme_and_charts_are_the_printed_ones() -> None:
    charts = runpy.run_path(str(ROOT / "benchmarks" / "charts.py"))
    document = charts["printed"]()
    assert charts["table"](document["rows"]) in text_of("docs/benchmarks.md")

    full = text_of("docs/benchmarks-full.md")
    assert document["machine"] in full
    lines = [
        line.strip("|").split(" | ") for line in full.splitlines() if re.match(r"\| [^|]+ \| [^|]+ \| .*x \[", line)
    ]
    assert len(lines) == sum(row["times"] is not None for row in document["rows"])
    for cells, row in zip(lines, (row for row in document["rows"] if row["times"] is not None), strict=True):
        what, peer, ours, _, _, times, *_ = (cell.strip("| ") for cell in cells)
        assert (what, peer, ours) == (row["what"], row["peer"], row["ours"])
        assert times == "{:.2f}x [{:.2f} - {:.2f}]".format(*row["times"])

    printed = {f"{row['times'][0]:.1f}" for row in document["rows"] if row["times"] is not None}
    rows = re.findall(r"^\| .+ \| .+ \| ([\d.]+) \| .*\| `python benchmarks/(\w+\.py)` \|$", text_of("README.md"), re.M)
    assert len(rows) == 5
    for times, script in rows:
        assert times in printed
        assert (ROOT / "benchmarks" / script).is_file()

"""The how-to pages are true: every Python block runs, in order, in one namespace a page."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import operator
import re
import subprocess
import sys
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
from fullyconv.inference.video import VideoWriter
from hub_server import HubServer

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


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
def untrained_vgg16() -> Any:
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
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def dotted_names() -> list[str]:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]]
    return sorted({name for text in texts for name in re.findall(r"(?<![\w/.-])fullyconv(?:\.[A-Za-z_]\w*)+", text)})


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
    use, options, train, *_ = blocks("README.md")
    program = "\n".join([use, options, train]).replace("max_epochs=50", "max_epochs=1, accelerator='cpu'")
    (tmp_path / "copied.py").write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "copied.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [
        line for line in done.stderr.splitlines() if re.search(r"Tip:|pip install|pypi|[Ww]arn|/\w+\.py:\d+:", line)
    ]
    assert said == []
    assert re.search(r"^0 +Modules in eval mode$", done.stderr, re.M)  # of a segmenter that was just loaded

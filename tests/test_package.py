"""What somebody who builds on the package meets: typed names, a wheel that holds the zoo, examples that run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import fullyconv

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["fullyconv"] + [
    name for _, name, _ in pkgutil.walk_packages(fullyconv.__path__, "fullyconv.") if not name.endswith("__main__")
]

DOWNSTREAM = '''
"""A project that depends on fullyconv."""

import torch
import torchvision

import fullyconv
from fullyconv import Labels, Segmentation, SegmentationDataModule, SegmentationModule


def classes_of(module: SegmentationModule) -> list[str]:
    return module.classes


def share_of(path: str, name: str) -> float:
    result: Segmentation = fullyconv.load("street").predict(path)
    return result.shares()[name] + 0 * result.mask.size


def dense_scores(image: torch.Tensor) -> torch.Tensor:
    dense = fullyconv.convolutionalize(torchvision.models.vgg16(), input_size=224)
    scores: torch.Tensor = dense(image)
    assert dense.guarantee in ("window", "interior", "head")
    return scores


def data(path: str) -> SegmentationDataModule:
    labels: Labels = SegmentationDataModule.from_folder(path).labels
    assert labels.names
    return SegmentationDataModule.from_folder(path, batch_size=2)


reveal_type(fullyconv.load("street"))
reveal_type(fullyconv.load("street", classes=["crack", "wall"]))
'''


@pytest.mark.slow  # mypy reads all of torch
def test_a_downstream_project_passes_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "downstream.py").write_text(textwrap.dedent(DOWNSTREAM))
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-torchvision.*]\nignore_missing_imports = True\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "downstream.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    segmenter, dense = "fullyconv.training.module.SegmentationModule", "fullyconv.classifier.DenseScorer"
    assert f'Revealed type is "{segmenter} | {dense}"' in done.stdout
    assert f'Revealed type is "{segmenter}"' in done.stdout


@pytest.mark.parametrize("name", ["fullyconv.training.module", "fullyconv.cli.lightning"])
def test_an_import_leaves_it_to_others_which_warnings_are_shown(name: str) -> None:
    code = f"""
import sys, warnings
callers = []
for function in ("filterwarnings", "simplefilter"):
    def noted(*words, original=getattr(warnings, function), **options):
        callers.append(sys._getframe(1).f_globals["__name__"])
        original(*words, **options)
    setattr(warnings, function, noted)
import {name}
print([caller for caller in callers if caller.startswith("fullyconv")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    import torch

    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(
        module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


def test_wheel_and_sdist_build_and_hold_what_users_need(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    wheel = Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path))))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for shipped in importlib.import_module("fullyconv.weights.catalog").SHIPPED:
        for file in ("config.json", "model.safetensors", "README.md", "recipe.yaml"):
            assert f"fullyconv/zoo/{shipped}/{file}" in names
    assert "fullyconv/py.typed" in names
    assert not [name for name in names if name.endswith((".jpg", ".ckpt", ".pyc"))]
    assert wheel.stat().st_size < 60e6

    sdist = Path(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path))))
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "src/fullyconv/__init__.py", "tests/test_package.py"} <= inside
    assert not [name for name in inside if name.startswith((".venv", "runs"))]


def test_every_place_that_states_the_version_states_that_of_pyproject() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text("utf-8")

"""The layers of the package: who may import whom, and what must not need torch, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fullyconv

SOURCE = Path(fullyconv.__file__).parent

# A module stands above all that it imports (docs/architecture.md); those of one layer may know each other where listed.
LAYERS: dict[str, int] = {
    "errors": 0,
    "files": 0,
    "locks": 0,
    "lazy": 0,
    "palettes": 1,
    "labels": 1,
    "label_sets": 1,
    "images": 1,
    "drawing": 1,
    "polygons": 1,
    "preprocessing": 1,
    "download": 1,
    "geometry": 1,
    "conversion": 1,
    "upsampling": 1,
    "confusion": 1,
    "backbones": 2,
    "heads": 2,
    "data": 2,
    "inference": 2,
    "fcn": 3,
    "weights": 3,
    "runtime": 3,
    "listing": 4,
    "training": 4,
    "classifier": 4,
    "export": 5,
    "report": 5,
    "hub": 5,
    "plan": 6,
    "serve": 6,
    "demo": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}
BASE = {name for name, layer in LAYERS.items() if layer <= 1}
# a head reads the Features that a backbone gives, weights are those of models, and exported files are read like folders
SIDEWAYS = {
    ("heads", "backbones"),
    ("labels", "palettes"),
    ("runtime", "weights"),
    ("weights", "fcn"),
}

TORCH_FREE = [
    "errors",
    "lazy",
    "palettes",
    "labels",
    "label_sets",
    "images",
    "drawing",
    "polygons",
    "preprocessing",
    "download",
    "files",
    "locks",
    "confusion",
    "training.shortcomings",
    "weights.pretrained",
    "weights.lock",
    "weights.signatures",
    "inference.heatmap",
    "inference.scaling",
    "inference.scoring",
    "inference.segmentation",
    "runtime",
    "inference.budget",
    "inference.windows",
    "inference.video",
    "inference.outputs",
    "inference.journal",
    "inference.inputs",
    "inference.folder",
    "inference.batches",
    "inference.identity",
    "inference.joining",
    "weights.caffemodel",
    "weights.catalog",
    "listing",
    "cli",
]


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


def imports(path: Path) -> list[tuple[str, bool]]:
    """Name what a file imports, and whether that happens at module level (outside functions and TYPE_CHECKING)."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                assert child.level == 0, f"{path}: relative import"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.extend((name, top) for name in names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                visit(child, False)
            else:
                visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


# a wheel carries the folder of the zoo inside the package; what trains its models is no part of it
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "zoo")


def test_every_module_has_a_layer() -> None:
    assert {part(path) for path in FILES} <= LAYERS.keys()


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_import_goes_up_or_sideways(path: Path) -> None:
    here = part(path)
    for name, _ in imports(path):
        if name.split(".")[0] != "fullyconv" or name == "fullyconv":
            continue
        there = name.split(".")[1]
        if there == here or (here in BASE and there in BASE) or (here, there) in SIDEWAYS:
            continue
        if there not in LAYERS:  # a public name, taken from the package
            raise AssertionError(f"{path.name} imports {name} by its public name; import it from its module")
        assert LAYERS[there] < LAYERS[here], (
            f"{path.name} (layer {LAYERS[here]}) imports {name} (layer {LAYERS[there]})"
        )


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_stay_in_their_modules(path: Path) -> None:
    allowed = {
        "torchvision": {"backbones", "data", "heads", "weights"},
        "timm": {"backbones", "weights"},
        "huggingface_hub": {"weights", "hub"},
        "lightning": {"training", "data", "cli"},
        "numba": {"inference"},
        "av": {"inference"},
    }
    for name, _ in imports(path):
        library = name.split(".")[0]
        if library in allowed:
            assert part(path) in allowed[library], f"{path.name} imports {name}"


def test_modules_without_torch_import_with_torch_blocked() -> None:
    blocked = ["torch", "torchvision", "lightning", "torchmetrics", "timm", "huggingface_hub"]
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {TORCH_FREE!r}: importlib.import_module('fullyconv.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_folder_predicts_with_lightning_and_torchmetrics_blocked(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('lightning', 'pytorch_lightning', 'torchmetrics'): sys.modules[name] = None\n"
        "from fullyconv import cli\n"
        "from PIL import Image\n"
        "Image.new('RGB', (60, 40)).save('a.png')\n"
        "status = cli.main(['predict', 'a.png', '--model', 'nuclei', '--out', 'masks'])\n"
        "slow = {'torchvision', 'torch._dynamo', 'sympy'} & sys.modules.keys()\n"
        "raise SystemExit(f'imported: {slow}' if slow else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "a.png").is_file()


def test_importing_the_package_imports_nothing_heavy_and_loads_no_weights() -> None:
    code = "import sys, fullyconv; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch','numpy','PIL'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["--help", "list"])
def test_short_commands_import_nothing_heavy(command: str) -> None:
    heavy = {"torch", "torchvision", "lightning", "torchmetrics", "timm", "huggingface_hub", "onnxruntime", "PIL"}
    heavy |= {"numpy"} if command == "--help" else set()
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['fullyconv', {command!r}]\n"
        "try:\n    runpy.run_module('fullyconv', run_name='__main__')\n"
        f"except SystemExit:\n    print(sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", fullyconv.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(fullyconv, name)
    assert isinstance(value, dict) or (value.__doc__ and value.__doc__.strip())


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'convolutionalise'"):
        fullyconv.convolutionalise  # noqa: B018


def test_no_file_is_named_for_what_it_is_not() -> None:
    names = {path.stem for path in FILES}
    assert not names & {"utils", "common", "helpers", "misc", "base_utils"}

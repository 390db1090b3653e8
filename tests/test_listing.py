"""What there is: the tables of weights and of architectures, and that the pages agree with them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import fullyconv
from fullyconv.backbones import BACKBONES
from fullyconv.listing import Model, Preset, Table
from fullyconv.weights import catalog

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_model_that_is_listed_is_found_by_its_name() -> None:
    everywhere = fullyconv.models(everywhere=True)
    assert [catalog.find(model.name) for model in everywhere] == catalog.entries()
    assert everywhere[: len(catalog.SHIPPED)] == tuple(fullyconv.models())
    for model in everywhere:
        assert model.finds
        assert model.license
        assert model.classes >= 2


def test_the_table_of_the_readme_is_that_of_models() -> None:
    rows = re.findall(
        r"^\| .*\| `(\w+)` \| (.+?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (.+?) \|$", README.read_text("utf-8"), re.M
    )
    listed = {model.name: model for model in fullyconv.models() if model.mean_iou is not None}
    assert listed.keys() == {name for name, *_ in rows}
    for name, finds, classes, mean_iou, megabytes, license in rows:
        model = listed[name]
        assert finds.replace("`", "").startswith(model.finds)
        assert (str(model.classes), f"{model.mean_iou:.1f}", f"{model.megabytes:.1f}") == (classes, mean_iou, megabytes)
        assert all(part in model.license for part in license.split("; "))


def test_a_preset_is_a_family_on_a_backbone() -> None:
    presets = fullyconv.presets()
    assert [preset.name for preset in presets] == list(fullyconv.MODELS)
    assert Preset("fcn8s_resnet18", "fcn8s", "resnet18") in presets
    assert Preset("pool_unpool", "pool_unpool", None) in presets
    for preset in presets:
        if preset.backbone is not None:
            assert preset.backbone in BACKBONES
            # torchvision leaves unsaid that its backbones are dilated
            assert preset.name in {f"{preset.family}_{preset.backbone.removesuffix(end)}" for end in ("", "_dilated")}
    assert Counter(preset.family for preset in presets)["ladder"] == len(BACKBONES)


def test_a_preset_of_somebody_else_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fullyconv.MODELS, "fcn8s_tiny", lambda num_classes, **_: None)
    assert fullyconv.presets()[-1] == Preset("fcn8s_tiny", "fcn8s_tiny", None)


def test_a_table_is_read_in_a_terminal_and_in_a_notebook() -> None:
    table = Table([Model("a", "x < y", 2, 51.25, None, "CC0"), Model("longer", "z", 11, None, 6.4, "MIT")])
    assert repr(table).splitlines() == [
        "name    finds  classes  mean_iou  megabytes  license",
        "a       x < y  2        51.2                 CC0",
        "longer  z      11                 6.4        MIT",
    ]
    html = table._repr_html_()
    assert html.count("<tr>") == 3
    assert "<th>mean_iou</th>" in html
    assert "<td>x &lt; y</td>" in html
    assert "<td></td>" in html
    assert repr(Table[Model]()) == "nothing"

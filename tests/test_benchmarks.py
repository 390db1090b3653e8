"""What `benchmarks/all.py` makes of the rows that its scripts write. Nothing is timed here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmarks_all", FOLDER / "all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_all", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def rows(collector: ModuleType) -> list[object]:
    row = collector.Row
    return [
        row(
            "fast", "ours", "peer 1.0", (0.1, 0.09, 0.2), (0.5, 0.4, 0.6), (5.0, 4.0, 6.0), 12.0, 3.5, 10.0, None, "a|b"
        ),
        row("slow", "ours", "peer 1.0", (1.0, 1.0, 1.0), (0.8, 0.8, 0.8), (0.8, 0.7, 0.9), None, 2.0),
        row("prompt", "ours", "peer 1.0", (0.31, 0.3, 0.4), most_seconds=0.3),
        row("free", "ours", "peer 1.0", (0.31, 0.3, 0.4), (0.62, 0.6, 0.8), (2.0, 2.0, 2.0)),
        row("memory", "ours", "peer 1.0", memory=9.0, least_memory=10.0),
    ]


def test_rows_survive_their_file_and_are_judged(collector: ModuleType, tmp_path: Path) -> None:
    import measuring

    made = rows(collector)
    assert [row.met for row in made] == [True, False, False, None, False]  # type: ignore[attr-defined]
    measuring.finish(made, tmp_path / "rows.json", "a machine")
    assert collector.read(tmp_path / "rows.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_rows_become_a_table_and_a_plot(collector: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "segformer.json").write_text(
        json.dumps({"rows": [row.to_dict() for row in rows(collector)]})  # type: ignore[attr-defined]
    )
    text = collector.collect(tmp_path, ["smp_models: not installed"], "a machine")
    assert (tmp_path / "table.md").read_text("utf-8") == text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 7
    assert {line.count("|") for line in lines} == {11}
    assert "5.00x [4.00 - 6.00] | 1/12 | 3.5x the speed, 1/10 of the memory | yes | a/b |" in lines[2]
    assert "**no**" in lines[3]
    assert "310 ms [300 ms - 400 ms] | - | - | at most 300 ms | **no** |" in lines[4]
    assert text.startswith("a machine\n")
    assert text.endswith("- smp_models: not installed\n")
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_peer_is_skipped_and_finished_rows_are_kept(
    collector: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\n"
        "assert '--fail' not in sys.argv, 'as was to be expected'\n"
        "open(sys.argv[-1], 'w').write(json.dumps({'rows': []}))\n"
        "open(sys.argv[1], 'a').write('run ')\n"
    )
    known = {
        "good": collector.Comparison(str(script), (str(tmp_path / "runs"),), threads=False),
        "bad": collector.Comparison(str(script), ("--fail",), threads=False),
        "lacking": collector.Comparison(str(script), needs=("no_such_peer",)),
        "long": collector.Comparison(str(script), asked=True),
    }
    monkeypatch.setattr(collector, "COMPARISONS", known)
    for _ in range(2):
        assert collector.main(["--out", str(tmp_path / "out")]) == 1
        text = capsys.readouterr().out
        assert "lacking: no_such_peer not installed" in text
        assert "bad: failed (AssertionError: as was to be expected)" in text
    assert (tmp_path / "runs").read_text() == "run "
    assert collector.main(["--out", str(tmp_path / "out"), "--only", "good", "--again"]) == 0
    assert (tmp_path / "runs").read_text() == "run run "


def test_every_comparison_is_a_script_that_writes_rows(collector: ModuleType) -> None:
    for comparison in collector.COMPARISONS.values():
        text = (FOLDER / comparison.script).read_text("utf-8")
        assert "finish(" in text
        assert "add_arguments(parser" in text or "add_json(parser)" in text
        for word in (*comparison.options, *comparison.quick):
            assert not word.startswith("--") or f'"{word}"' in text or word == "--repeats"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", sorted(path.name for path in FOLDER.glob("*.py") if "parse_args(" in path.read_text("utf-8"))
)
def test_every_script_says_what_it_takes(script: str) -> None:
    done = subprocess.run([sys.executable, FOLDER / script, "--help"], capture_output=True, text=True, check=False)
    if (
        "No module named 'segmentation_models_pytorch'" in done.stderr
        or "No module named 'transformers'" in done.stderr
    ):
        pytest.skip("its peer is not installed")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout

"""What is shown to people who wait: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from fullyconv.cli import progress
from fullyconv.download import download
from hub_server import FileServer

pytest.importorskip("tqdm")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "SILENT", 0.0)
    with progress.busy("exporting street"):
        assert progress.progress_bar(3) is None
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_what_is_over_at_once_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "SILENT", 60.0)
    with progress.busy("exporting street"):
        pass
    assert "exporting" not in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_what_goes_on_and_how_far_a_download_is(
    tmp_path: Path, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watched(Terminal):
        def write(self, text: str) -> int:
            seen.append(text)
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setattr(progress, "SILENT", 0.0)
    files_server.files["weights.bin"] = bytes(2_500_000)
    with progress.busy("opening weights"):
        download(files_server.url("weights.bin"), tmp_path / "weights.bin")
        while not any("2.5 of 2.5 MB" in text for text in seen):
            pass  # until the clock ticks; a test that hangs is stopped
    assert any(text.strip().startswith("opening weights") for text in seen)


def test_of_nothing_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress.progress_bar(0) is None
    bar = progress.progress_bar(2, "frame", "clip.mp4")
    bar.update(2)
    bar.close()
    assert "clip.mp4: 100%" in sys.stderr.getvalue()  # type: ignore[attr-defined]

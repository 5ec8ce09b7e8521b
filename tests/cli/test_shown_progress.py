from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from castline.cli import shown_progress as shown_progress_module
from castline.cli.shown_progress import shown_progress
from castline.progress import SilentProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_is_silent_where_nobody_looks() -> None:
    with shown_progress(quiet=False) as progress:  # pytest's stderr is no terminal
        assert isinstance(progress, SilentProgress)


def test_is_silent_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with shown_progress(quiet=True) as progress:
        assert isinstance(progress, SilentProgress)


def test_shows_amount_and_total_and_a_line_for_a_stage_that_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(shown_progress_module, "time", SimpleNamespace(monotonic=lambda: 5.0))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with shown_progress(quiet=False) as progress:
        with progress.stage("Writing [0] weights", total=5e8, unit="B") as advance:
            advance(2e8)
            bars = progress._bars  # type: ignore[attr-defined]
            bars.refresh()
        with progress.stage("Judging", total=20, unit="texts") as advance:
            advance(20)
            bars.refresh()
    shown = terminal.getvalue()
    assert "Writing [0] weights: 0.0 s" in shown
    assert "200 MB of 500 MB" in shown
    assert "20 of 20 texts" in shown


def test_a_stage_that_fails_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with (
        pytest.raises(ValueError, match="no"),
        shown_progress(quiet=False) as progress,
        progress.stage("Writing"),
    ):
        raise ValueError("no")
    assert "Writing: " not in terminal.getvalue()

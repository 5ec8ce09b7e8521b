"""Check how the two builders are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_ours_is_told_as_a_multiple_of_the_plain_way() -> None:
    from engine_build import OURS, PLAIN, ratios

    costs = {
        OURS: {"wall_s": 13.0, "cpu_s": 12.0, "peak_mb": 900.0},
        PLAIN: {"wall_s": 10.0, "cpu_s": 10.0, "peak_mb": 1000.0},
    }
    assert ratios(costs) == {"wall_s": 1.3, "cpu_s": 1.2, "peak_mb": 0.9}


def test_a_builder_that_writes_nothing_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine_build
    from process import BenchmarkError

    script = tmp_path / "idle.py"
    script.write_text("")
    monkeypatch.setattr(engine_build, "BUILD", tmp_path / "build")
    monkeypatch.setitem(engine_build.SCRIPTS, engine_build.OURS, script)
    with pytest.raises(BenchmarkError, match="without an engine"):
        engine_build.measure(engine_build.OURS, tmp_path, tmp_path / "profiles.json", {})


def test_what_was_built_is_read_from_the_manifest(tmp_path: Path) -> None:
    from engine_build import built

    (tmp_path / "manifest.json").write_text(json.dumps({"build": {"version": "1.7"}}))
    assert built(tmp_path) == {"version": "1.7"}

"""Check that a result keeps what it depends on."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest


def test_medians_are_taken_by_case() -> None:
    from record import medians

    runs = [{"case": "a", "wall_s": wall} for wall in (3.0, 1.0, 9.0)]
    runs.append({"case": "b", "wall_s": 5.0})
    assert medians(runs, "case", ["wall_s"]) == {"a": {"wall_s": 3.0}, "b": {"wall_s": 5.0}}


def test_a_table_is_aligned() -> None:
    from record import table

    text = table(["exporter", "s"], [["ours", "10.5"], ["theirs", "9"]])
    assert text.splitlines() == ["exporter     s", "ours      10.5", "theirs       9"]


def test_a_result_says_date_versions_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = record.write_result("speed", {"machine": record.machine(), "runs": [1]})
    kept = json.loads(path.read_text())
    assert path.name == f"speed-{kept['date']}.json"
    assert kept["versions"]["castline"]
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["system"] == f"{platform.system()} {platform.machine()}"
    assert kept["runs"] == [1]


def test_a_folder_is_as_big_as_its_files(tmp_path: Path) -> None:
    from record import folder_mb

    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 1_500_000)
    (tmp_path / "inner" / "b").write_bytes(b"x" * 500_000)
    assert folder_mb(tmp_path) == 2.0

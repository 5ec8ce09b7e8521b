from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.report.outcome import ExportOutcome
from castline.compiler.report.record import read_report, write_report
from castline.errors import OutputError


def test_reads_what_was_written(tmp_path: Path) -> None:
    outcome = ExportOutcome(
        output=Path("out"),
        source="model.gguf",
        source_path=Path("/models/model.gguf"),
        architecture="llama",
        layers=2,
        dtype="float32",
        nodes=80,
        bytes=1000,
        seconds=1.5,
        notes=("K = 576",),
    )
    write_report(tmp_path, outcome)
    assert read_report(tmp_path) == outcome.to_json()


def test_no_report_is_no_error(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_report_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(OutputError, match=r"report\.json: expected a JSON object"):
        read_report(tmp_path)

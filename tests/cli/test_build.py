"""castline build: make the engine of a compiled folder again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from castline.compiler.report.outcome import BuildOutcome
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.errors import TargetError


class Rebuilding(ModuleType):
    """Stands in for castline.compiler.rebuilding."""

    def __init__(self) -> None:
        super().__init__("castline.compiler.rebuilding")
        self.asked: dict[str, Any] = {}

    def rebuild(self, output: Path, result: Path | None, **options: Any) -> BuildOutcome:
        self.asked = {"of": output, "to": result, **options}
        if options["target"] == "tensorrt":
            raise TargetError("TensorRT is not installed")
        return BuildOutcome(
            output=result or output,
            target="tensorrt-rtx",
            version="1.7.1",
            bytes=86_000_000,
            seconds=12.4,
            notes=("engine: weights stay low-bit",),
            not_executed=("no GPU",),
        )

    def refit(self, output: Path, result: Path | None, **_: Any) -> BuildOutcome:
        self.asked = {"refit": output}
        return self.rebuild(output, result, target=None)


@pytest.fixture
def rebuilding(monkeypatch: pytest.MonkeyPatch) -> Rebuilding:
    stand_in = Rebuilding()
    monkeypatch.setitem(sys.modules, "castline.compiler.rebuilding", stand_in)
    return stand_in


def test_shows_what_was_built(run: Any, rebuilding: Rebuilding) -> None:
    result = run("build", "out", "-o", "other", "--compute-capability", "8.9", "--overwrite")
    assert result.exit_code == 0
    assert rebuilding.asked["of"] == Path("out")
    assert rebuilding.asked["to"] == Path("other")
    assert rebuilding.asked["engine"] == EngineOptions(compute_capabilities=("8.9",))
    assert rebuilding.asked["overwrite"] is True
    lines = result.stdout.splitlines()
    assert lines[:2] == ["other: tensorrt-rtx 1.7.1", "engine of 86 MB"]
    assert lines[2:] == [
        "note: engine: weights stay low-bit",
        "not executed: no GPU",
        "built in 12.4 s",
    ]


def test_json_is_one_document(run: Any, rebuilding: Rebuilding) -> None:
    assert json.loads(run("build", "out", "--json").stdout)["version"] == "1.7.1"
    assert rebuilding.asked["to"] is None


def test_errors_are_words(run: Any, rebuilding: Rebuilding) -> None:
    result = run("build", "out", "-t", "tensorrt")
    assert (result.exit_code, result.stderr) == (1, "error: TensorRT is not installed\n")
    assert rebuilding.asked["target"] == "tensorrt"


def test_refitting_takes_no_option_of_a_build(run: Any, rebuilding: Rebuilding) -> None:
    assert run("build", "out", "--refit").exit_code == 0
    rebuilding.asked = {}
    result = run("build", "out", "--refit", "--max-batch-size", "2")
    assert (result.exit_code, rebuilding.asked) == (1, {})
    assert "--refit builds nothing" in " ".join(result.stderr.split())

"""castline check --tasks shows accuracies as papers list them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.tasks.answers import TaskFigures, summed_up
from castline.compiler.check.tasks.statistics import accuracies
from castline.compiler.package.manifest import write_manifest
from castline.compiler.report.plain import PlainValues
from castline.errors import OutputError

HALF, ALL = np.array([1.0, 1, 0, 0]), np.ones(4)


class Outcome(PlainValues):
    """What compare_on_tasks returns, without importing it."""

    output, against, seconds, notes = Path("out"), "model.gguf", 3.0, ("the manifest has no hash",)

    def __init__(self, names: list[str]) -> None:
        acc, norm = accuracies(HALF, ALL), accuracies(ALL, ALL)
        figures = summed_up([TaskFigures(name, 4, acc, norm, 0.75) for name in names])
        object.__setattr__(self, "figures", figures)

    def to_json(self) -> dict[str, object]:
        return {"tasks": [task.task for task in vars(self)["figures"].tasks]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the comparison; the names are tasks, unless one is missing."""
    noted: dict[str, Any] = {}

    def compare_on_tasks(output: Path, tasks: list[str], **options: Any) -> Outcome:
        noted.update(output=output, tasks=tasks, **options)
        if "missing" in tasks:
            raise OutputError("no task is called missing")
        return Outcome(tasks)

    stand_in = ModuleType("castline.compiler.zero_shot")
    stand_in.compare_on_tasks = compare_on_tasks  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "castline.compiler.zero_shot", stand_in)
    return noted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    write_manifest(tmp_path, {})
    return tmp_path


def test_a_table_has_both_accuracies_and_their_difference(
    run: Any, asked: dict[str, Any], folder: Path
) -> None:
    options = ("--tasks-folder", folder, "--limit", "4", "--threads", "2", "--against", "m")
    shown = run("check", folder, "--tasks", "piqa, arc_easy", *options).stdout
    assert asked["tasks"] == ["piqa", "arc_easy"]
    assert (asked["folder"], asked["limit"], asked["threads"]) == (folder, 4, 2)
    assert asked["against"] == "m"
    rows = [line.split() for line in shown.splitlines()]
    # Two of four documents differ by one: sqrt((2/4 - 1/4) / 3) is 28.9 %.
    assert ["piqa", "4", "acc", "50.0", "100.0", "+50.0", "±", "28.9", "75.0"] in rows
    assert ["acc_norm", "100.0", "100.0", "+0.0", "±", "0.0"] in rows
    assert ["mean", "acc", "50.0", "100.0", "+50.0", "±", "20.4"] in rows  # 28.9 / sqrt(2)
    assert "note: the manifest has no hash" in shown


def test_one_task_has_no_mean(run: Any, asked: dict[str, Any], folder: Path) -> None:
    assert "mean" not in run("check", folder, "--tasks", "piqa").stdout
    assert asked["limit"] is None


@pytest.mark.usefixtures("asked")
def test_json_is_the_outcome(run: Any, folder: Path) -> None:
    shown = run("check", folder, "--tasks", "piqa", "--json").stdout
    assert json.loads(shown) == {"tasks": ["piqa"]}


@pytest.mark.usefixtures("asked")
def test_a_missing_task_is_an_error_in_a_sentence(run: Any, folder: Path) -> None:
    result = run("check", folder, "--tasks", "missing")
    assert (result.exit_code, "no task is called missing" in result.stderr) == (1, True)


def test_no_names_are_wrong_usage(run: Any, asked: dict[str, Any], folder: Path) -> None:
    result = run("check", folder, "--tasks", " , ")
    assert (result.exit_code, asked) == (2, {})


def test_a_task_that_is_named_twice_is_asked_once(
    run: Any, asked: dict[str, Any], folder: Path
) -> None:
    assert run("check", folder, "--tasks", "piqa, piqa,,arc_easy").exit_code == 0
    assert asked["tasks"] == ["piqa", "arc_easy"]

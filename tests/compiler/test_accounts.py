"""The manifest and the report say where an output comes from, and nothing of the hour."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from castline.compiler.accounts import facts, origin, provenance, write_accounts
from castline.compiler.check.evaluation_text import HeldOutText
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.progress import SilentProgress

TEXT = HeldOutText(np.zeros((1, 4), np.int64), "beef", "held_out.txt")


def outcome(**changes: Any) -> CompileOutcome:
    settings: dict[str, Any] = {
        "output": Path("out"), "source": "org/model", "source_path": None, "recipe": "w4a16-rtn",
        "target": "huggingface", "language": None, "tensors": None, "verdicts": (),
        "original_bytes": 8, "bytes": 2, "original_speed": None, "speed": None,
        "bits_per_weight": 4.5, "seconds": 1.0, **changes,
    }  # fmt: skip
    return CompileOutcome(**settings)


def test_a_local_source_is_told_from_one_of_the_hub() -> None:
    assert origin(outcome()) == {"source": "org/model", "source_is_local": False}
    assert origin(outcome(source="m", source_path=Path("/m")))["source_is_local"] is True


def test_the_report_names_checkpoint_text_and_libraries() -> None:
    found = provenance("cafe", TEXT)
    assert found["Checkpoint, SHA-256"] == "cafe"
    assert found["Evaluation text"] == "held_out.txt, SHA-256 beef"
    assert found["torch"] == version("torch")
    assert "Evaluation text" not in provenance("cafe", None)


def test_the_same_compilation_has_the_same_facts_however_long_it_took() -> None:
    recipe = load_recipe("w4a16-rtn")

    def made(seconds: float) -> dict[str, object]:
        return facts(outcome(seconds=seconds), "cafe", recipe, ir.DataType.FLOAT16, TEXT, {"a": 1})

    assert made(1) == made(2)
    assert made(1)["dtype"] == "float16"
    assert made(1)["build"] == {"a": 1}
    assert made(1)["evaluation_text"] == {"source": "held_out.txt", "sha256": "beef"}


def test_the_manifest_counts_the_result_beside_which_it_and_the_report_are_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    done = outcome()
    made = facts(done, "cafe", load_recipe("w4a16-rtn"), ir.DataType.FLOAT16, TEXT, {})
    sources = provenance("cafe", TEXT)
    write_accounts(tmp_path, done, made, sources, (), None, SilentProgress())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "report.json",
        "report.html",
        "manifest.json",
    }
    assert manifest["checkpoint_sha256"] == "cafe"
    assert list(manifest["files"]) == ["model.onnx"]

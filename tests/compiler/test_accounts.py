"""The manifest and the report say where an output comes from, and nothing of the hour."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.accounts import facts, hub_revision, origin, provenance, write_accounts
from castline.compiler.check.evaluation_text import HeldOutText
from castline.compiler.package import manifest
from castline.compiler.package.manifest import write_manifest
from castline.compiler.plan.decisions import CalibrationFacts
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.progress import SilentProgress

TEXT = HeldOutText(np.zeros((1, 4), np.int64), "beef", "held_out.txt")
CALIBRATION = CalibrationFacts("shipped", "f00d", 8, 512, 0, False)
PLANNED: Any = SimpleNamespace(identity=SimpleNamespace(calibration=CALIBRATION))


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
        done = outcome(seconds=seconds)
        half = ir.DataType.FLOAT16
        return facts(done, "cafe", recipe, half, TEXT, {"a": 1}, revision="0123", plan=PLANNED)

    assert made(1) == made(2)
    assert made(1)["dtype"] == "float16"
    assert made(1)["build"] == {"a": 1}
    assert made(1)["evaluation_text"] == {"source": "held_out.txt", "sha256": "beef"}
    assert made(1)["checkpoint_revision"] == "0123"
    assert made(1)["calibration"] == {
        "source": "shipped",
        "sha256": "f00d",
        "samples": 8,
        "length": 512,
        "seed": 0,
        "chat_template": False,
    }


def test_the_manifest_has_the_fields_that_it_documents(tmp_path: Path) -> None:
    recipe = load_recipe("w4a16-rtn")
    half = ir.DataType.FLOAT16
    made = facts(outcome(), "cafe", recipe, half, None, {}, revision=None, plan=None)
    written = write_manifest(tmp_path, made)
    assert sorted(written) == [
        "bits_per_weight", "build", "calibration", "castline_format", "castline_version",
        "checkpoint_revision", "checkpoint_sha256", "dtype", "evaluation_text", "figures", "files",
        "libraries", "not_executed", "recipe", "source", "source_is_local", "target",
    ]  # fmt: skip
    undocumented = [key for key in written if f"`{key}`" not in str(manifest.__doc__)]
    assert undocumented == []
    assert (written["calibration"], written["evaluation_text"]) == (None, None)


@pytest.mark.parametrize(
    ("folder", "source", "revision"),
    [
        ("models--org--tiny/snapshots/0123abcd", "org/tiny", "0123abcd"),
        ("models--org--tiny/snapshots/0123abcd", ".", None),
        ("elsewhere", "org/tiny", None),
    ],
)
def test_the_revision_is_the_commit_of_the_hub(
    tmp_path: Path, folder: str, source: str, revision: str | None
) -> None:
    checkpoint: Any = SimpleNamespace(source=source, config_file=tmp_path / folder / "config.json")
    assert hub_revision(checkpoint) == revision
    assert hub_revision(SimpleNamespace(source=source, config_file=None)) is None  # type: ignore[arg-type]


def test_the_manifest_counts_the_result_beside_which_it_and_the_report_are_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    done = outcome()
    recipe, half = load_recipe("w4a16-rtn"), ir.DataType.FLOAT16
    made = facts(done, "cafe", recipe, half, TEXT, {}, revision=None, plan=None)
    sources = provenance("cafe", TEXT)
    write_accounts(tmp_path, done, made, sources, (), None, SilentProgress())
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "report.json",
        "report.html",
        "manifest.json",
    }
    assert written["checkpoint_sha256"] == "cafe"
    assert list(written["files"]) == ["model.onnx"]

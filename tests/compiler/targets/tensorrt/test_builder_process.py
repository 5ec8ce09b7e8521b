"""Have a builder's process do one job, and let what it wrote appear only when all went well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from castline.compiler.targets.tensorrt import builder_process
from castline.compiler.targets.tensorrt.builder_process import outcome_of, scratch_folder, written
from castline.compiler.targets.tensorrt.edition import EDITIONS, TENSORRT_RTX, Edition
from castline.compiler.targets.tensorrt.job import Job
from castline.errors import OutputError, TargetError

CRASHES = """
import os
print("which:", os.environ["POLYGRAPHY_USE_TENSORRT_RTX"], flush=True)
print("terminate called without an active exception", flush=True)
os.abort()
"""
REFUSES = """
import json, sys
job = json.loads(sys.stdin.read())
open(job["outcome"], "w").write(json.dumps({"failed": "no engine"}))
print("[E] Error Code 1: too large")
"""


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_crash_has_the_last_words_of_either_edition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edition: Edition
) -> None:
    monkeypatch.setattr(builder_process, "CHILD", (sys.executable, "-c", CRASHES))
    with pytest.raises(TargetError, match=r"SIGABRT(?s:.*)terminate called") as caught:
        run(tmp_path, edition)
    assert f"which: {int(edition.is_rtx)}" in str(caught.value)


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_refusal_names_the_edition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edition: Edition
) -> None:
    monkeypatch.setattr(builder_process, "CHILD", (sys.executable, "-c", REFUSES))
    with pytest.raises(
        TargetError, match=rf"{edition.title} built no engine \(no engine\)"
    ) as told:
        run(tmp_path, edition)
    assert "Error Code 1: too large" in str(told.value)


def run(folder: Path, edition: Edition) -> None:
    """Have the child of this test do a job on an empty model."""
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    ir.save(model, folder / "model.onnx")
    scratch = folder / "scratch"
    scratch.mkdir()
    job = Job("m", "e", str(scratch / "outcome.json"), [], [], os.getpid())
    outcome_of(job, scratch, edition, folder / "build.log", folder / "model.onnx")


def test_an_engine_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    with pytest.raises(ZeroDivisionError):
        _write_half(engine)
    assert list(tmp_path.iterdir()) == []
    with written(engine) as unfinished:
        unfinished.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model.engine"]


def _write_half(engine: Path) -> None:
    with written(engine) as unfinished:
        unfinished.write_bytes(b"half")
        _ = 1 / 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="folder of the engine cannot be made"),
        scratch_folder(tmp_path / "file" / "model.engine", TENSORRT_RTX),
    ):
        pass

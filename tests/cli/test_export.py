from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_passes_on_what_was_asked_and_shows_what_was_written(run: Any, pipeline: Any) -> None:
    result = run("export", "model.gguf", "-o", "out", "--dtype", "bfloat16", "--overwrite")
    assert result.exit_code == 0, result.stderr
    del pipeline.asked["progress"]
    assert pipeline.asked == {
        "source": "model.gguf",
        "output": Path("out"),
        "dtype": "bfloat16",
        "overwrite": True,
        "trust_remote_code": False,
    }
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "architecture LlamaForCausalLM, 30 layers" in lines
    assert "size 538 MB" in lines
    assert "note: the head is tied to the embedding" in lines


def test_json_is_one_document(run: Any, pipeline: Any) -> None:
    assert json.loads(run("export", "m", "-o", "out", "--json").stdout)["nodes"] == 1203
    assert pipeline.asked["dtype"] == "float32"


def test_an_unknown_dtype_is_wrong_usage(run: Any, pipeline: Any) -> None:
    assert run("export", "m", "-o", "out", "--dtype", "float64").exit_code == 2
    assert pipeline.asked == {}

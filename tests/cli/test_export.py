from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

# A whole process in which no file may grow beyond 200 kB, as on a disk with a quota.
LIMITED = """
import resource
from castline.cli.app import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
main()
"""


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


def test_a_file_that_may_not_grow_ends_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "vocab_size": 999,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2))
    model.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "export", "model", "-o", "made/out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    out = tmp_path / "made" / "out"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {out}: the weights need 0.8 MB, and no larger file is allowed (ulimit -f, or the "
        "file system). Make room or choose another output folder.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_json_is_one_document(run: Any, pipeline: Any) -> None:
    assert json.loads(run("export", "m", "-o", "out", "--json").stdout)["nodes"] == 1203
    assert pipeline.asked["dtype"] == "float32"


def test_an_unknown_dtype_is_wrong_usage(run: Any, pipeline: Any) -> None:
    assert run("export", "m", "-o", "out", "--dtype", "float64").exit_code == 2
    assert pipeline.asked == {}

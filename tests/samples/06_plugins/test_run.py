"""The sample runs as its README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SAMPLE = "06_plugins"


@pytest.mark.tensorrt
@pytest.mark.slow
def test_shows_the_plugin_layers_of_an_engine(
    tiny_model: Path, run_sample: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "out"
    small = ("calibration.length=64", "calibration.samples=2")
    done = run_sample(SAMPLE, tiny_model, out, "w8a8-smoothquant", *small)
    assert done.returncode == 0, done.stderr
    assert "layers are PackedLinearW8A8\n" in done.stdout
    assert "layers are QuantizePerToken\n" in done.stdout
    assert "perplexity " in done.stdout
    assert (out / "w8a8-smoothquant" / "plugins").is_dir()


def test_says_what_is_wrong_in_a_sentence(run_sample: Any, tmp_path: Path) -> None:
    done = run_sample(SAMPLE, tmp_path / "absent", tmp_path / "out", "w8a8")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr

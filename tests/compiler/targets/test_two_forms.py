"""One folder of the onnxruntime target reads prompts as bytes and single tokens as codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.target import Lowered

CONTEXT = 512


def worst(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest error, relative to the largest logit."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
def test_weights_in_two_levels_prefill_as_bytes_and_decode_as_codes(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    activations: dict[str, Any],
    optimized_operators: Callable[[Path], Counter[str]],
    shared: bool,
) -> None:
    scheme = WeightScheme(4, 32, True, two_level=True)
    neutral, in_float, model = (tiny("llama").model() for _ in range(3))
    activations["per token"].quantized(neutral, scheme)
    QuantizeWeights(scheme)(in_float)
    activations["per token"].quantized(model, scheme)
    low = OnnxRuntime().lower(model, CONTEXT)
    assert low == Lowered((), shares_cache=True)
    for node in model.graph.all_nodes():
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    path = written(model)
    assert optimized_operators(path) == {"Size": 1, "LessOrEqual": 1}  # and the If
    (ids, mask), *_ = scenarios["left padding"]
    prompt, token = (ids, mask), (ids[:, :1], np.ones_like(mask[:, :1]))
    prefill, decode = run_steps(path, [prompt, token], shared=shared)
    (wanted,) = run_steps(written(neutral), [prompt])
    assert worst(prefill, wanted) <= 0.03
    # Nothing is rounded between a token and its logits, but what it attends to was.
    floats = written(in_float)
    (first,) = run_steps(path, [token], shared=shared)
    assert worst(first, run_steps(floats, [token])[0]) <= 1e-4
    assert worst(decode, run_steps(floats, [prompt, token])[1]) <= 0.03

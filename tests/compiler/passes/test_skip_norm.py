"""A residual sum and the norm that reads it become one node, and other norms stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.skip_norm import SkipNorm

RESIDUAL = """
<ir_version: 10, opset_import: ["" : 23]>
block (float[B, S, 4] x, float[B, S, 4] skip) => (float[B, S, 4] y, float[B, S, 4] sum)
<float[4] weight = {0.5, 1, 2, 4}, float[4] bias = {1, 2, 3, 4}>
{
    total = Add (x, skip)
    normed = RMSNormalization <epsilon = 0.001> (total, weight)
    y = Neg (normed)
    sum = Abs (total)
}
"""


def block(*changes: tuple[str, str]) -> ir.Model:
    text = RESIDUAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    model = ir.from_onnx_text(text)
    for node in model.graph:
        node.name = f"/{node.op_type}"
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_fuses_the_sum_and_hands_it_on(written: Callable[[ir.Model], Path]) -> None:
    model = block()
    assert SkipNorm()(model) == {}
    assert sorted(operators(model)) == ["Abs", "Neg", "SkipSimplifiedLayerNormalization"]
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    x, skip = np.random.default_rng(0).standard_normal((2, 1, 3, 4)).astype(np.float32)
    y, total = session.run(["y", "sum"], {"x": x, "skip": skip})
    expected = x + skip
    scale = np.array([0.5, 1, 2, 4]) / np.sqrt((expected**2).mean(-1, keepdims=True) + 0.001)
    np.testing.assert_allclose(y, -expected * scale, rtol=1e-5)
    np.testing.assert_allclose(total, np.abs(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([("Add (x, skip)", "Mul (x, skip)")], "no Add feeds it"),
        ([("RMSNormalization <epsilon = 0.001> (total", "RMSNormalization (x")], "no Add feeds it"),
        ([("sum = Abs (total)", ""), ("total", "sum")], "the sum is an output of the graph"),
        ([("epsilon = 0.001", "axis = 1")], "it does not normalize the last axis alone"),
        ([("Add (x, skip)", "Add (x, bias)")], "the Add is a bias, not a residual"),
    ],
)
def test_declines_with_the_reason(changes: list[tuple[str, str]], reason: str) -> None:
    model = block(*changes)
    before = operators(model)
    assert SkipNorm()(model) == {"/RMSNormalization": reason}
    assert operators(model) == before
    assert "com.microsoft" not in model.graph.opset_imports


def test_declines_a_sum_that_several_norms_read() -> None:
    model = block(("sum = Abs (total)", "sum = RMSNormalization (total, bias)"))
    first, second = (node for node in model.graph if node.op_type == "RMSNormalization")
    first.name, second.name = "/first", "/second"
    reason = "several norms read the sum"
    assert SkipNorm()(model) == {"/first": reason, "/second": reason}


def test_all_norms_of_a_decoder_but_the_first_and_those_of_heads_are_fused(
    tiny: Callable[[str], Any],
) -> None:
    llama, qwen3 = tiny("llama").model(), tiny("qwen3").model()
    assert list(SkipNorm()(llama).values()) == ["no Add feeds it"]
    assert list(SkipNorm()(qwen3).values()) == ["no Add feeds it"] * 5
    assert operators(llama).count("SkipSimplifiedLayerNormalization") == 4
    assert operators(qwen3).count("SkipSimplifiedLayerNormalization") == 4


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    declined = SkipNorm()(model)
    once = operators(model)
    assert SkipNorm()(model) == declined
    assert operators(model) == once

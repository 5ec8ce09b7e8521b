"""Zero-points become offsets, and no weight changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.linear_w4a16 import LinearW4A16
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import GroupSize, WeightScheme

Write = Callable[[ir.Model], Path]
Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
K, N = 96, 10


def linear(dtype: type = np.float32) -> ir.Model:
    kind = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linear ({kind}[A, B, {K}] x, {kind}[{K}, {N}] weight) => ({kind}[A, B, {N}] y)
        {{ y = MatMul (x, weight) }}
    """)
    weight = model.graph.inputs.pop(1)
    # Mostly of one sign, so that zero-points are far from the middle.
    array = (RANDOM.standard_normal((K, N)) + 1).astype(dtype)
    weight.const_value = ir.Tensor(array, name="weight")
    model.graph.initializers.add(weight)
    model.graph[0].name = "/layer/MatMul"
    return model


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("group", [32, 16, "per-channel", "per-tensor"])
@pytest.mark.parametrize("bits", [4, 3])
def test_the_product_stays_the_same(
    written: Write, bits: int, group: GroupSize, dtype: type
) -> None:
    model = linear(dtype)
    QuantizeWeights(WeightScheme(bits, group, symmetric=False))(model)
    x = RANDOM.standard_normal((2, 3, K)).astype(dtype)
    expected = run(written(model), x).astype(np.float32)
    assert LinearW4A16()(model) == 1
    assert operators(model) == ["LinearW4A16"]
    found = run(written(model), x).astype(np.float32)
    tolerance = 1e-5 if dtype is np.float32 else 4e-3
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_codes_are_the_same_bits_but_for_the_sign() -> None:
    model = linear()
    QuantizeWeights(WeightScheme(4, 32, symmetric=False))(model)
    before = model.graph.initializers["weight_quantized"].const_value
    assert before is not None
    unsigned = before.numpy().view(np.uint8)
    LinearW4A16()(model)
    assert sorted(model.graph.initializers) == [
        "weight_offset", "weight_quantized_signed", "weight_scale_signed",
    ]  # fmt: skip
    value = model.graph.initializers["weight_quantized_signed"]
    assert value.dtype == ir.DataType.INT4
    assert value.const_value is not None
    np.testing.assert_array_equal(
        value.const_value.numpy().view(np.uint8) & 15, unsigned ^ np.uint8(8)
    )


@pytest.mark.parametrize("group", [32, "per-channel"])
def test_experts_keep_their_answers(
    mixture: Any, routed: Any, run_mixture: Run, group: GroupSize
) -> None:
    experts = mixture()
    case = routed(experts)["forty tokens"]
    model = experts.model()
    QuantizeWeights(WeightScheme(4, group, symmetric=False))(model)
    (expected,) = run_mixture(model, case)
    assert LinearW4A16()(model) == 2
    (found,) = run_mixture(model, case)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "scheme",
    [WeightScheme(4, 32, True), WeightScheme(8, 32, False), WeightScheme(8, "per-channel", True)],
    ids=str,
)
def test_other_codes_stay_as_they_are(scheme: WeightScheme) -> None:
    model = linear()
    QuantizeWeights(scheme)(model)
    assert LinearW4A16()(model) == 0
    assert operators(model) == ["DequantizeLinear", "MatMul"]
    assert not model.functions


def test_a_head_that_shares_the_tables_codes_stays_as_it_is(tiny: Callable[[str], Any]) -> None:
    model = tiny("tied").model()
    QuantizeEmbedding(WeightScheme(4, 32, False), with_head=True)(model)
    assert LinearW4A16()(model) == 0


def test_twice_changes_nothing_more() -> None:
    model = linear()
    QuantizeWeights(WeightScheme(4, 32, False))(model)
    LinearW4A16()(model)
    assert LinearW4A16()(model) == 0
    assert operators(model) == ["LinearW4A16"]

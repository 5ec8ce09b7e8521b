"""Linears read codes, or what codes stand for, as each linear's scheme says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.quantize_activations import (
    QuantizeActivations,
    QuantizedInputs,
)
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.plugins.four_bit_product import linear_w4, linear_w4_asymmetric
from castline.plugins.linear_w4a8.op import linear_w4a8_groups, linear_w4a8_groups_asymmetric
from castline.plugins.linear_w8a8.op import linear_w8a8, linear_w8a8_asymmetric
from castline.plugins.quantize_per_tensor.op import (
    quantize_per_tensor,
    quantize_per_tensor_asymmetric,
)
from castline.plugins.quantize_per_token.op import (
    quantize_per_token,
    quantize_per_token_asymmetric,
)

Write = Callable[[ir.Model], Path]
K, N = 64, 24
NAMES = ("layer.q.weight", "layer.k.weight")
OF_WEIGHTS = ("quantized", "scale", "zero_point")
OF_GROUPS = ("quantized", "group_scale", "scale")
PER_CHANNEL = WeightScheme(8, "per-channel", True)
STATIC = ActivationScheme(8, "per-tensor", dynamic=False)
PER_TOKEN = ActivationScheme(8, "per-token", dynamic=True)
PER_TENSOR = ActivationScheme(8, "per-tensor", dynamic=True)
PARAMETERS = QuantParameters(0.03125, 0)
REFERENCES = {
    ("per-token", True): quantize_per_token,
    ("per-tensor", True): quantize_per_tensor,
    ("per-token", False): quantize_per_token_asymmetric,
    ("per-tensor", False): quantize_per_tensor_asymmetric,
}


def two_linears(dtype: type = np.float32, weights: WeightScheme | None = PER_CHANNEL) -> ir.Model:
    """Return the model q = x @ Wq, k = x @ Wk, its weights quantized."""
    real = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        two ({real}[B, S, {K}] x, {real}[{K}, {N}] wq, {real}[{K}, {N}] wk)
            => ({real}[B, S, {N}] q, {real}[B, S, {N}] k)
        {{ q = MatMul (x, wq)
           k = MatMul (x, wk) }}
    """)
    random = np.random.default_rng(0)
    for node, name in zip(model.graph, NAMES, strict=True):
        value = model.graph.inputs.pop(1)
        value.name = name
        array = random.standard_normal((K, N)).astype(dtype)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.initializers.add(value)
        node.name = f"/layer/{name.split('.')[1]}/MatMul"
    if weights is not None:
        QuantizeWeights(weights)(model)
    return model


def quantized(
    model: ir.Model, scheme: ActivationScheme, parameters: QuantParameters | None = None
) -> QuantizedInputs:
    return QuantizeActivations(dict.fromkeys(NAMES, (scheme, parameters)))(model)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def stored(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def tokens(dtype: type = np.float32) -> np.ndarray:
    random = np.random.default_rng(1)
    return (random.standard_normal((2, 5, K)) * [[[1], [3], [0], [0.1], [9]]]).astype(dtype)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"x": x})]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
@pytest.mark.parametrize("granularity", ["per-token", "per-tensor"])
def test_scales_of_run_time_lead_to_integer_products(
    written: Write, granularity: str, symmetric: bool, weights: str, bits: int, dtype: type
) -> None:
    model = two_linears(dtype, WeightScheme(bits, weights, True))  # type: ignore[arg-type]
    scheme = ActivationScheme(bits, granularity, dynamic=True, symmetric=symmetric)  # type: ignore[arg-type]
    done = quantized(model, scheme)
    assert (done.names, done.in_float, done.left) == ([*NAMES], {}, {})
    counts = operators(model)
    assert (counts["MatMul"], counts["DequantizeLinear"]) == (0, 0)
    assert sum(counts[op] for op in counts if op.startswith("QuantizePer")) == 1, "both share it"
    x = tokens(dtype)
    parts = REFERENCES[granularity, symmetric](x, bits)
    linear = linear_w8a8 if symmetric else linear_w8a8_asymmetric
    for found, name in zip(run(written(model), x), NAMES, strict=True):
        matrix = stored(model, f"{name}_quantized").astype(np.int8)
        wanted = linear(*parts, matrix, stored(model, f"{name}_scale"))  # type: ignore[operator]
        np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("activation_bits", [2, 4, 5, 8])
@pytest.mark.parametrize("weight_bits", [3, 4])
@pytest.mark.parametrize("weight_zeros", [True, False])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
def test_weights_of_four_bits_multiply_as_they_are_stored(
    written: Write,
    symmetric: bool,
    weight_zeros: bool,
    weight_bits: int,
    activation_bits: int,
    dtype: type,
) -> None:
    model = two_linears(dtype, WeightScheme(weight_bits, "per-channel", not weight_zeros))
    scheme = ActivationScheme(activation_bits, "per-token", dynamic=True, symmetric=symmetric)
    done = quantized(model, scheme)
    assert (done.names, done.in_float, done.left) == ([*NAMES], {}, {})
    op = f"LinearW4A{4 if activation_bits <= 4 else 8}{'' if symmetric else 'Asymmetric'}"
    counts = operators(model)
    assert (counts[op], counts["DequantizeLinear"], counts["Cast"]) == (2, 0, 0)
    x = tokens(dtype)
    parts = REFERENCES["per-token", symmetric](x, activation_bits)
    linear = linear_w4 if symmetric else linear_w4_asymmetric
    for found, name in zip(run(written(model), x), NAMES, strict=True):
        of_weights = [stored(model, f"{name}_{part}") for part in OF_WEIGHTS]
        assert of_weights[2].any() == weight_zeros
        assert of_weights[0].dtype == of_weights[2].dtype
        np.testing.assert_array_equal(found, linear(*parts, *of_weights), strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("granularity", ["per-token", "per-tensor"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
def test_groups_with_scales_of_two_levels_multiply_in_integers(
    written: Write, symmetric: bool, granularity: str, bits: int, dtype: type
) -> None:
    model = two_linears(dtype, WeightScheme(4, 32, True, two_level=True))
    scheme = ActivationScheme(bits, granularity, dynamic=True, symmetric=symmetric)  # type: ignore[arg-type]
    done = quantized(model, scheme)
    assert (done.names, done.in_float, done.left) == ([*NAMES], {}, {})
    counts = operators(model)
    op = f"LinearW4A8Groups{'' if symmetric else 'Asymmetric'}"
    assert (counts[op], counts["DequantizeLinear"], counts["MatMul"]) == (2, 0, 0)
    x = tokens(dtype)
    parts = REFERENCES[granularity, symmetric](x, bits)
    linear = linear_w4a8_groups if symmetric else linear_w4a8_groups_asymmetric
    for found, name in zip(run(written(model), x), NAMES, strict=True):
        of_weights = [stored(model, f"{name}_{part}") for part in OF_GROUPS]
        assert len(np.unique(of_weights[1])) > 4
        np.testing.assert_array_equal(found, linear(*parts, *of_weights), strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("bits", "zero_point"), [(8, 0), (4, 0), (8, -5), (3, 1)], ids=str)
def test_a_static_scale_rounds_the_values_that_are_multiplied(
    written: Write, bits: int, zero_point: int, dtype: type
) -> None:
    model = two_linears(dtype, None)
    weights = [stored(model, name).astype(np.float64) for name in NAMES]
    scheme = ActivationScheme(bits, "per-tensor", dynamic=False, symmetric=not zero_point)
    done = quantized(model, scheme, QuantParameters(0.125, zero_point))
    assert (done.names, done.in_float, done.left) == ([*NAMES], {}, {})
    assert operators(model)["QuantizeLinear"] == 1, "both share it"
    x = tokens(dtype)
    low, high = scheme.code_range
    rounded = np.clip(np.rint(x.astype(np.float64) / 0.125) + zero_point, low, high) - zero_point
    tolerance = 1e-5 if dtype is np.float32 else 2e-2
    for found, matrix in zip(run(written(model), x), weights, strict=True):
        np.testing.assert_allclose(found, rounded * 0.125 @ matrix, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (WeightScheme(8, 32, True), "its weights have a scale for each group"),
        (WeightScheme(4, 32, False), "its weights have a scale for each group"),
        (WeightScheme(8, "per-channel", False), "its weights have zero-points"),
        (None, "its weights are in float"),
    ],
    ids=["groups", "groups of 4 bits", "zero-points", "float"],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_other_weights_multiply_what_the_codes_stand_for(
    written: Write, weights: WeightScheme | None, reason: str, dtype: type, symmetric: bool
) -> None:
    float_results = run(written(two_linears(dtype, weights)), tokens(dtype))
    model = two_linears(dtype, weights)
    scheme = ActivationScheme(8, "per-token", dynamic=True, symmetric=symmetric)
    done = quantized(model, scheme)
    assert done.in_float == dict.fromkeys(NAMES, reason)
    assert done.notes() == (
        "2 linears multiplied in float, by what the codes of activations stand for: " + reason,
    )
    counts = operators(model)
    assert (counts["MatMul"], counts["LinearW8A8"]) == (2, 0)
    assert counts["Mul"] == 1, "both share it"
    results = run(written(model), tokens(dtype))
    for found, wanted in zip(results, float_results, strict=True):
        largest = np.abs(wanted).max(-1, keepdims=True)
        assert (np.abs(found - wanted) <= 0.02 * largest).all()
        assert (found != wanted).any()


def test_linears_that_are_not_named_read_float() -> None:
    model = two_linears()
    done = QuantizeActivations({NAMES[1]: (PER_TOKEN, None)})(model)
    assert done.names == [NAMES[1]]
    assert operators(model)["MatMul"] == 1


def test_linears_with_different_schemes_share_nothing(written: Write) -> None:
    model = two_linears()
    QuantizeActivations(
        {NAMES[0]: (STATIC, PARAMETERS), NAMES[1]: (STATIC, QuantParameters(1, 0))}
    )(model)
    assert operators(model)["QuantizeLinear"] == 2
    written(model)


@pytest.mark.parametrize(
    ("scheme", "parameters"),
    [(STATIC, PARAMETERS), (PER_TOKEN, None), (PER_TENSOR, None)],
    ids=["static", "per token", "per tensor"],
)
@pytest.mark.parametrize("weights", [PER_CHANNEL, WeightScheme(8, 32, True)], ids=str)
def test_twice_changes_nothing_more(
    weights: WeightScheme, scheme: ActivationScheme, parameters: QuantParameters | None
) -> None:
    model = two_linears(weights=weights)
    quantized(model, scheme, parameters)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    again = quantized(model, scheme, parameters)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once
    assert again.names == []
    assert sorted(again.left) == sorted(NAMES)


def test_a_scale_that_float16_does_not_hold_is_declined() -> None:
    model = two_linears(np.float16)
    done = quantized(model, STATIC, QuantParameters(1e-6, 0))
    assert done.left == dict.fromkeys(NAMES, "its scale 1e-06 is too small for FLOAT16")
    assert done.notes() == (
        "2 linears with float activations: its scale 1e-06 is too small for FLOAT16",
    )
    assert operators(model)["QuantizeLinear"] == 0


def test_experts_keep_float_activations(mixture: Callable[..., object]) -> None:
    model = mixture().model()  # type: ignore[attr-defined]
    before = operators(model)
    QuantizeWeights(PER_CHANNEL)(model)
    done = QuantizeActivations({"gate_up": (PER_TOKEN, None)})(model)
    assert done.left == {"gate_up": "its experts are chosen at run time"}
    assert operators(model)["MatMul"] == before["MatMul"]


def test_a_name_that_the_graph_lacks_is_told() -> None:
    done = QuantizeActivations({"other.weight": (PER_TOKEN, None)})(two_linears())
    assert done.left == {"other.weight": "no product of the graph reads such a weight in float"}

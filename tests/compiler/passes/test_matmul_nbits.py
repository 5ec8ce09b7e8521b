"""Products with codes are lowered, and those that MatMulNBits cannot store stay as they are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize, quantize
from castline.compiler.quant.scheme import GroupSize, WeightScheme

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
N = 24
NO_OPTIMIZATION = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def linear(k: int, tail: str = "y = Identity (product)", *, dtype: str = "float") -> ir.Model:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linear ({dtype}[B, {k}] x, {dtype}[{k}, {N}] weight, {dtype}[{N}] bias)
            => ({dtype}[B, {N}] y)
        {{
            product = MatMul (x, weight)
            {tail}
        }}
    """)
    element = np.float32 if dtype == "float" else np.float16
    for name, shape in (("bias", (N,)), ("weight", (k, N))):
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(RANDOM.standard_normal(shape).astype(element), name=name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/layer/{node.outputs[0].name}"
    return model


def weight_of(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["weight"].const_value
    assert tensor is not None
    return tensor.numpy()


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = NO_OPTIMIZATION
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("k", [384, 576, 48])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric"),
    [
        *itertools.product((4, 8), (32, 64, 128, "per-channel", "per-tensor"), (True, False)),
        *itertools.product((2, 3, 6), (16, "per-tensor"), (True, False)),
    ],
)
def test_the_product_stays_the_same(
    written: Write, bits: int, group: GroupSize, symmetric: bool, k: int
) -> None:
    scheme = WeightScheme(bits, group, symmetric)
    model = linear(k)
    expected_weights = dequantize(quantize(weight_of(model), scheme))
    QuantizeWeights(scheme)(model)
    assert MatMulNBits(accuracy_level=1)(model) == {}
    assert operators(model) == ["MatMulNBits", "Identity"]
    x = RANDOM.standard_normal((3, k)).astype(np.float32)
    expected = x @ expected_weights
    result = run(written(model), x)
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_float16_scales_are_read_as_they_are_below_the_smallest_normal_too(
    written: Write, bits: int, size: float
) -> None:
    scheme = WeightScheme(bits, "per-channel", True)
    model = linear(64, dtype="float16")
    tensor = (weight_of(model) * size).astype(np.float16)
    model.graph.initializers["weight"].const_value = ir.Tensor(tensor, name="weight")
    matrix = quantize(tensor, scheme, np.float16)
    QuantizeWeights(scheme)(model)
    MatMulNBits(accuracy_level=1)(model)
    x = RANDOM.standard_normal((3, 64)).astype(np.float16)
    expected = x.astype(np.float32) @ dequantize(matrix)
    result = run(written(model), x).astype(np.float32)
    assert np.abs(result - expected).max() <= 4e-3 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_activations_lowered_to_int8_are_off_by_what_their_blocks_round(
    written: Write, bits: int
) -> None:
    k, scheme = 512, WeightScheme(bits, 32, False)
    model = linear(k)
    weights = dequantize(quantize(weight_of(model), scheme))
    QuantizeWeights(scheme)(model)
    MatMulNBits()(model)
    assert model.graph[0].attributes.get_int("accuracy_level") == 4
    x = RANDOM.standard_normal((4, k)).astype(np.float32)
    # Each of the K products is off by at most half a step, 1 / 254 of its block's largest input.
    steps = np.abs(x).reshape(4, -1, 32).max(axis=2).repeat(32, axis=1) / 127
    bound = (steps / 2) @ np.abs(weights)
    apart = np.abs(run(written(model), x) - x @ weights)
    assert np.all(apart <= 1.01 * bound)


def test_a_bias_is_taken_in(written: Write) -> None:
    scheme = WeightScheme(4, 32, True)
    model = linear(64, "y = Add (product, bias)")
    weights = dequantize(quantize(weight_of(model), scheme))
    bias = model.graph.initializers["bias"].const_value
    assert bias is not None
    QuantizeWeights(scheme)(model)
    MatMulNBits(accuracy_level=1)(model)
    assert operators(model) == ["MatMulNBits"]
    x = RANDOM.standard_normal((2, 64)).astype(np.float32)
    np.testing.assert_allclose(
        run(written(model), x), x @ weights + bias.numpy(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "tail",
    [
        "y = Mul (product, bias)",
        "other = Identity (product)\n y = Add (product, other)",
        "summed = Add (product, bias)\n y = Add (summed, product)",
    ],
)
def test_what_is_no_bias_stays_outside(written: Write, tail: str) -> None:
    scheme = WeightScheme(4, 32, True)
    model = linear(64, tail)
    after = operators(model)[1:]
    QuantizeWeights(scheme)(model)
    before = written(model)
    model = ir.load(before)
    MatMulNBits(accuracy_level=1)(model)
    assert operators(model) == ["MatMulNBits", *after]
    x = RANDOM.standard_normal((2, 64)).astype(np.float32)
    np.testing.assert_allclose(run(written(model), x), run(before, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_declines_a_k_that_no_block_divides(written: Write, bits: int) -> None:
    scheme = WeightScheme(bits, 32, False)
    model = linear(100)
    weights = dequantize(quantize(weight_of(model), scheme))
    QuantizeWeights(scheme)(model)
    assert MatMulNBits()(model) == {
        "/layer/product": "K = 100 has no divisor between 16 and 256 that is a power of two"
    }
    assert operators(model) == ["DequantizeLinear", "MatMul", "Identity"]
    x = RANDOM.standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_allclose(run(written(model), x), x @ weights, rtol=1e-4, atol=1e-4)


def test_declines_codes_of_other_types() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        linear (float[B, 2] x, int16[2, 1] codes, float[1] scale) => (float[B, 1] y)
        {
            weight = DequantizeLinear <axis = 1> (codes, scale)
            y = MatMul (x, weight)
        }
    """)
    model.graph[1].name = "/MatMul"
    reason = "its codes are not stored integers of 4 or 8 bits"
    assert MatMulNBits()(model) == {"/MatMul": reason}


def test_float_products_are_none_of_its_business() -> None:
    model = linear(64)
    assert MatMulNBits()(model) == {}
    assert operators(model) == ["MatMul", "Identity"]
    assert "com.microsoft" not in model.graph.opset_imports


def test_twice_changes_nothing_more() -> None:
    model = linear(64)
    QuantizeWeights(WeightScheme(4, 32, True))(model)
    MatMulNBits()(model)
    once = operators(model)
    assert MatMulNBits()(model) == {}
    assert operators(model) == once


def given_with_offsets(k: int, group: int) -> tuple[GivenCodes, QuantizedMatrix]:
    shape = (k // group, N)
    matrix = QuantizedMatrix(
        RANDOM.integers(-8, 8, (k, N)).astype(np.int8),
        RANDOM.uniform(-1, 1, shape).astype(np.float16),  # GGUF has scales below zero
        None,
        RANDOM.standard_normal(shape).astype(np.float32),
    )
    return GivenCodes(WeightScheme(4, group, True), lambda: (matrix,), has_offsets=True), matrix


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("group", [16, 32, 128, 512])
def test_codes_with_offsets_are_multiplied_as_codes(written: Write, group: int, dtype: str) -> None:
    model = linear(512, dtype=dtype)
    given, matrix = given_with_offsets(512, group)
    QuantizeWeights(None, given={"weight": given})(model)
    assert MatMulNBits(accuracy_level=1)(model) == {}
    assert Counter(operators(model))["MatMulNBits"] == 1
    assert "LinearW4A16" not in operators(model)
    x = RANDOM.standard_normal((3, 512)).astype(np.float32 if dtype == "float" else np.float16)
    expected = x.astype(np.float32) @ dequantize(matrix)
    found = run(written(model), x).astype(np.float32)
    tolerance = 1e-5 if dtype == "float" else 4e-3
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_products_that_read_one_value_share_the_sums_of_its_groups(
    tiny: Callable[[str], Any],
) -> None:
    model = tiny("llama").model()
    layer = "model.layers.0.self_attn"
    matrix = QuantizedMatrix(*3 * [np.zeros(0)], np.zeros(0))
    given = GivenCodes(WeightScheme(4, 32, True), lambda: (matrix,), has_offsets=True)
    names = [f"{layer}.{part}_proj.weight" for part in "qkvo"]
    QuantizeWeights(None, given=dict.fromkeys(names, given))(model)
    MatMulNBits()(model)
    counted = Counter(operators(model))
    assert (counted["MatMulNBits"], counted["ReduceSum"]) == (4, 2), "q, k, v; and o"


def test_groups_beyond_the_largest_block_are_repeated(written: Write) -> None:
    model = linear(1024)
    scheme = WeightScheme(4, 512, False)
    expected_weights = dequantize(quantize(weight_of(model), scheme))
    QuantizeWeights(scheme)(model)
    assert MatMulNBits(accuracy_level=1)(model) == {}
    assert model.graph[0].attributes.get_int("block_size") == 256
    x = RANDOM.standard_normal((3, 1024)).astype(np.float32)
    expected = x @ expected_weights
    assert np.abs(run(written(model), x) - expected).max() <= 1e-5 * np.abs(expected).max()

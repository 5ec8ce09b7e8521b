"""Products of codes become one node each, and compute what the neutral graph does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.matmul_integer_to_float import MatMulIntegerToFloat
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.passes.unsigned_codes import UnsignedCodes
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme

Write = Callable[[ir.Model], Path]
NAMES = ("first.weight", "second.weight")
PER_CHANNEL = WeightScheme(8, "per-channel", True)
STATIC = (ActivationScheme(8, "per-tensor", dynamic=False), QuantParameters(0.03, 0))
Kind = tuple[ActivationScheme, QuantParameters | None]
ZEROS_OF_TOKENS = "per token with a zero-point"
KINDS: dict[str, Kind] = {
    "static": STATIC,
    "static with a zero-point": (
        ActivationScheme(8, "per-tensor", dynamic=False, symmetric=False),
        QuantParameters(0.03, -17),
    ),
    "static 4 bits": (ActivationScheme(4, "per-tensor", dynamic=False), QuantParameters(0.4, 0)),
    "per token": (ActivationScheme(8, "per-token", dynamic=True), None),
    "per token 5 bits": (ActivationScheme(5, "per-token", dynamic=True), None),
    "per token 4 bits": (ActivationScheme(4, "per-token", dynamic=True), None),
    ZEROS_OF_TOKENS: (
        ActivationScheme(8, "per-token", dynamic=True, symmetric=False),
        None,
    ),
    "per tensor": (ActivationScheme(8, "per-tensor", dynamic=True), None),
    "per tensor with a zero-point": (
        ActivationScheme(8, "per-tensor", dynamic=True, symmetric=False),
        None,
    ),
}


def two_linears(
    kind: str | Kind = "static", weights: WeightScheme = PER_CHANNEL, dtype: type = np.float32
) -> ir.Model:
    """Return y = x @ W1 + b and z = x @ W2, weights and activations quantized."""
    real = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        two ({real}[B, S, 64] x, {real}[64, 24] w1, {real}[64, 8] w2, {real}[24] bias)
            => ({real}[B, S, 24] y, {real}[B, S, 8] z)
        {{ a = MatMul (x, w1)
           y = Add (a, bias)
           z = MatMul (x, w2) }}
    """)
    random = np.random.default_rng(0)
    for name, shape in zip((*NAMES, "first.bias"), ((64, 24), (64, 8), (24,)), strict=True):
        value = model.graph.inputs.pop(1)
        value.name = name
        array = random.standard_normal(shape).astype(dtype)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.initializers.add(value)
    for node, name in zip(model.graph, ("first/MatMul", "first/Add", "second/MatMul"), strict=True):
        node.name = f"/{name}"
    QuantizeWeights(weights)(model)
    QuantizeActivations(dict.fromkeys(NAMES, KINDS[kind] if isinstance(kind, str) else kind))(model)
    return model


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def run(path: Path) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 5, 64)) * [[[1], [3], [0], [0.1], [9]]]
    dtype = np.float16 if "16" in session.get_inputs()[0].type else np.float32
    return [np.asarray(output) for output in session.run(None, {"x": x.astype(dtype)})]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_computes_what_the_neutral_graph_does(
    written: Write, kind: str, weights: str, dtype: type
) -> None:
    scheme = WeightScheme(8, weights, True)  # type: ignore[arg-type]
    neutral = run(written(two_linears(kind, scheme, dtype)))
    model = two_linears(kind, scheme, dtype)
    MatMulIntegerToFloat()(model)
    counts = operators(model)
    assert counts["MatMulIntegerToFloat"] == 2
    assert counts["QuantizeLinear"] + counts["DynamicQuantizeLinear"] == 1, "both share it"
    assert counts["MatMul"] + counts["DequantizeLinear"] == 0
    tolerance = 2e-6 if dtype is np.float32 else 2e-3
    for found, wanted in zip(run(written(model)), neutral, strict=True):
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


DYNAMIC = ("per token", "per token 5 bits", "per token 4 bits", "per tensor")
FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
@pytest.mark.parametrize("kind", [*DYNAMIC, "per tensor with a zero-point"])
def test_weights_of_four_bits_stay_so_in_the_file_and_are_widened_once(
    written: Write, kind: str, symmetric: bool, dtype: type, tmp_path: Path
) -> None:
    scheme = WeightScheme(4, "per-channel", symmetric)
    neutral = run(written(two_linears(kind, scheme, dtype)))
    model = two_linears(kind, scheme, dtype)
    MatMulIntegerToFloat()(model)
    counts = operators(model)
    assert (counts["MatMulIntegerToFloat"], counts["MatMul"]) == (2, 0)
    assert not [op for op in counts if op.startswith("LinearW4")]
    codes = model.graph.initializers["first.weight_quantized"]
    assert codes.dtype in FOUR_BITS
    assert [use.node.op_type for use in codes.uses()] == ["Cast"]
    path = written(model)
    tolerance = 2e-6 if dtype is np.float32 else 2e-3
    for found, wanted in zip(run(path), neutral, strict=True):
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    file = tmp_path / "optimized.onnx"
    assert optimized_operators(path, file)["MatMulIntegerToFloat"] == 2
    held = onnx.load(file).graph.initializer
    assert not {tensor.data_type for tensor in held} & set(map(int, FOUR_BITS))
    assert sorted(t.data_type for t in held if len(t.dims) == 2) == [onnx.TensorProto.INT8] * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", [*DYNAMIC, ZEROS_OF_TOKENS, "per tensor with a zero-point"])
def test_groups_of_two_levels_become_bytes_at_loading(
    written: Write, kind: str, dtype: type, tmp_path: Path
) -> None:
    scheme = WeightScheme(4, 16, True, two_level=True)
    neutral = run(written(two_linears(kind, scheme, dtype)))
    model = two_linears(kind, scheme, dtype)
    MatMulIntegerToFloat()(model)
    counts = operators(model)
    assert (counts["MatMulIntegerToFloat"], counts["MatMul"]) == (2, 0)
    assert not [op for op in counts if op.startswith("LinearW4")]
    path, file = written(model), tmp_path / "optimized.onnx"
    tolerance = 2e-6 if dtype is np.float32 else 2e-3
    for found, wanted in zip(run(path), neutral, strict=True):
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    assert optimized_operators(path, file)["MatMulIntegerToFloat"] == 2
    held = onnx.load(file).graph.initializer
    matrices = [tensor.data_type for tensor in held if len(tensor.dims) > 1]
    assert matrices == [onnx.TensorProto.INT8] * 2, "the weights, and nothing of their groups"


@pytest.mark.parametrize("kind", ["static", "static with a zero-point"])
def test_unsigned_codes_make_the_same_static_products(written: Write, kind: str) -> None:
    neutral = run(written(two_linears(kind)))
    model = two_linears(kind)
    UnsignedCodes()(model)
    MatMulIntegerToFloat()(model)
    (quantize,) = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert quantize.outputs[0].dtype == ir.DataType.UINT8
    for found, wanted in zip(run(written(model)), neutral, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-5)


def test_weights_with_zero_points_multiply_integers_where_scales_are_static(
    written: Write,
) -> None:
    scheme = WeightScheme(8, "per-channel", False)
    neutral = run(written(two_linears("static", scheme)))
    model = two_linears("static", scheme)
    UnsignedCodes()(model)
    MatMulIntegerToFloat()(model)
    assert operators(model)["MatMulIntegerToFloat"] == 2
    for found, wanted in zip(run(written(model)), neutral, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_a_static_linear_takes_its_bias_along() -> None:
    model = two_linears("static")
    MatMulIntegerToFloat()(model)
    assert operators(model)["Add"] == 0
    model = two_linears("per token")
    MatMulIntegerToFloat()(model)
    assert operators(model)["Add"] == 1, "the scale of each token comes before the bias"


@pytest.mark.parametrize("weights", [8, 4])
def test_zero_points_of_eight_bits_are_taken_off_by_what_is_computed_at_loading(
    written: Write, weights: int, tmp_path: Path
) -> None:
    model = two_linears(ZEROS_OF_TOKENS, WeightScheme(weights, "per-channel", True))
    MatMulIntegerToFloat()(model)
    counts = operators(model)
    assert (counts["MatMulIntegerToFloat"], counts["MatMulInteger"]) == (2, 2)
    optimized = optimized_operators(written(model), tmp_path / "optimized.onnx")
    assert (optimized["MatMulIntegerToFloat"], optimized["MatMulInteger"]) == (2, 0)
    of_linears = counts["Mul"] - optimized["Mul"]
    assert of_linears == 2, "the weights' scales times their column sums"


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("granularity", ["per-token", "per-tensor"])
@pytest.mark.parametrize("weights", [8, 4])
def test_zero_points_of_fewer_bits_cost_nothing_and_change_no_bit(
    written: Write, weights: int, granularity: str, bits: int
) -> None:
    kind = (ActivationScheme(bits, granularity, dynamic=True, symmetric=False), None)  # type: ignore[arg-type]
    scheme = WeightScheme(weights, "per-channel", weights == 8)
    neutral = run(written(two_linears(kind, scheme)))
    model = two_linears(kind, scheme)
    MatMulIntegerToFloat()(model)
    products = [node for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    after = {use.node.op_type for node in products for use in node.outputs[0].uses()}
    assert after <= {"Mul", "Add"}, "the scale of tokens and the bias"
    for found, wanted in zip(run(written(model)), neutral, strict=True):
        if granularity == "per-token":
            np.testing.assert_array_equal(found, wanted)
        else:  # scales are multiplied in another order
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-5)


def test_products_in_float_and_in_groups_are_left_alone() -> None:
    model = two_linears("static", WeightScheme(8, 32, True))
    before = operators(model)
    MatMulIntegerToFloat()(model)
    assert operators(model) == before


@pytest.mark.parametrize("kind", list(KINDS))
def test_twice_changes_nothing_more(kind: str) -> None:
    model = two_linears(kind)
    MatMulIntegerToFloat()(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    MatMulIntegerToFloat()(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


@pytest.mark.parametrize("kind", ["static", "static with a zero-point", "static 4 bits"])
def test_onnx_runtime_itself_multiplies_integers_where_codes_are_unsigned(
    written: Write, kind: str, tmp_path: Path
) -> None:
    model = two_linears(kind)
    UnsignedCodes()(model)
    optimized = optimized_operators(written(model), tmp_path / "optimized.onnx")
    assert optimized["MatMulIntegerToFloat"] + optimized["QLinearMatMul"] == 2
    assert optimized["MatMul"] == 0


@pytest.mark.parametrize("kind", ["per token", "per token 5 bits", "per tensor"])
def test_onnx_runtime_multiplies_integers_by_the_body_of_the_op(
    written: Write, kind: str, tmp_path: Path
) -> None:
    optimized = optimized_operators(written(two_linears(kind)), tmp_path / "optimized.onnx")
    assert optimized["MatMulInteger"] + optimized["MatMulIntegerToFloat"] == 2
    assert optimized["MatMul"] == 0


def optimized_operators(model: Path, file: Path) -> Counter[str]:
    """Return what ONNX Runtime makes of a model before it runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.log_severity_level = 4  # it warns that the file is for this machine
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)

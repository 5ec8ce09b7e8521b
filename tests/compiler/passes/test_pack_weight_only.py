"""Products by 4-bit codes with zero-points become plugins, and no weight changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.linear_w4a16 import LinearW4A16
from castline.compiler.passes.pack_weight_only import PackWeightOnly
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import GroupSize, WeightScheme

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
N = 10
WEIGHTS = (RANDOM.standard_normal((96, N)) + 1).astype(np.float16)
BIAS = RANDOM.standard_normal(N).astype(np.float16)
ASYMMETRIC = WeightScheme(4, 32, symmetric=False)


def linear(k: int = 96, kind: str = "float16", *, bias: bool = True) -> ir.Model:
    """Return y = x @ weight + bias, with what comes before and behind it."""
    last = "s = Add (p, bias)\n y = Neg (s)" if bias else "y = Neg (p)"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linear ({kind}[A, B, {k}] x, {kind}[{k}, {N}] weight, {kind}[{N}] bias)
            => ({kind}[A, B, {N}] y)
        {{ p = MatMul (x, weight)
           {last} }}
    """)
    dtype = np.float16 if kind == "float16" else np.float32
    for name, array in (("weight", WEIGHTS[:k]), ("bias", BIAS)):
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array.astype(dtype), name=name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/layer/{node.op_type}"
        node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return model


def quantized(scheme: WeightScheme = ASYMMETRIC, **options: Any) -> ir.Model:
    model = linear(**options)
    QuantizeWeights(scheme)(model)
    return model


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [True, False], ids=["with bias", "without"])
@pytest.mark.parametrize("offsets", [False, True], ids=["zero-points", "offsets"])
@pytest.mark.parametrize("group", [32, "per-channel", "per-tensor"])
@pytest.mark.parametrize("bits", [4, 3])
def test_the_product_stays_the_same(
    written: Write, bits: int, group: GroupSize, offsets: bool, bias: bool
) -> None:
    model = quantized(WeightScheme(bits, group, symmetric=False), bias=bias)
    if offsets:
        LinearW4A16()(model)
    x = RANDOM.standard_normal((2, 3, 96)).astype(np.float16)
    expected = run(written(model), x).astype(np.float32)
    done = PackWeightOnly()(model)
    op = "PackedLinearW4A16Offsets" if offsets else "PackedLinearW4A16"
    assert [name.rpartition("/")[2] for name in done.names] == [op]
    assert operators(model) == [op, "Neg"]
    found = run(written(model), x).astype(np.float32)
    assert np.abs(found - expected).max() <= 4e-3 * np.abs(expected).max()


def test_a_packed_node_says_what_its_kernel_needs() -> None:
    model = quantized()
    PackWeightOnly()(model)
    node = model.graph[0]
    assert {name: attribute.as_int() for name, attribute in node.attributes.items()} == {
        "k": 96,
        "n": N,
        "layout_version": 1,
        "block_size": 32,
    }
    assert [value.name for value in node.inputs if value is not None] == [
        "x",
        "weight_quantized_packed",
        "weight_scale_packed",
        "weight_zero_point_packed",
        "bias",
    ]
    assert (node.outputs[0].dtype, node.outputs[0].name) == (ir.DataType.FLOAT16, "s")


def test_one_without_bias_reads_zeros() -> None:
    model = quantized(bias=False)
    PackWeightOnly()(model)
    bias = model.graph[0].inputs[-1]
    assert bias is not None
    assert bias.name == f"castline.no_bias_float16_{N}"


@pytest.mark.parametrize(
    ("scheme", "kind", "k", "reason"),
    [
        (ASYMMETRIC, "float", 96, "it computes in float, and plugins in float16"),
        (WeightScheme(4, "per-channel", False), "float16", 40, "its input dimension 40 is no"),
        (WeightScheme(4, 16, False), "float16", 96, "it has groups of 16, and plugins take 32"),
    ],
)
def test_declines_what_no_kernel_multiplies(
    scheme: WeightScheme, kind: str, k: int, reason: str
) -> None:
    model = quantized(scheme, kind=kind, k=k)
    before = operators(model)
    done = PackWeightOnly()(model)
    assert operators(model) == before
    assert done.names == []
    assert done.declined["/layer/MatMul"].startswith(reason)


@pytest.mark.parametrize(
    "scheme",
    [WeightScheme(4, 32, True), WeightScheme(8, 32, False), WeightScheme(8, "per-channel", True)],
    ids=str,
)
def test_other_codes_stay_as_they_are(scheme: WeightScheme) -> None:
    model = quantized(scheme)
    done = PackWeightOnly()(model)
    assert (done.names, done.declined) == ([], {})
    assert operators(model) == ["DequantizeLinear", "MatMul", "Add", "Neg"]


def test_a_head_that_shares_the_tables_codes_stays_as_it_is(tiny: Callable[[str], Any]) -> None:
    model = tiny("tied").model()
    QuantizeEmbedding(ASYMMETRIC, with_head=True)(model)
    done = PackWeightOnly()(model)
    assert (done.names, done.declined) == ([], {})


def test_stacks_of_experts_stay_as_they_are(mixture: Any) -> None:
    model = mixture().model()
    QuantizeWeights(ASYMMETRIC)(model)
    done = PackWeightOnly()(model)
    assert (done.names, done.declined) == ([], {})


def test_a_product_that_is_an_output_keeps_its_name() -> None:
    model = quantized()
    product = next(node for node in model.graph if node.op_type == "MatMul")
    model.graph.outputs.append(product.outputs[0])
    PackWeightOnly()(model)
    assert operators(model) == ["PackedLinearW4A16", "Add", "Neg"]
    assert [value.name for value in model.graph.outputs] == ["y", "p"]


def test_twice_changes_nothing_more() -> None:
    model = quantized()
    assert len(PackWeightOnly()(model).names) == 1
    assert PackWeightOnly()(model).names == []

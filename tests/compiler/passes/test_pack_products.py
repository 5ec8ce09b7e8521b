"""Products of codes become plugins, with every bit of their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.pack_products import PackProducts
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K, N = 96, 10
WAYS = [
    ("LinearW8A8", WeightScheme(8, "per-channel", True), 8),
    ("LinearW8A8", WeightScheme(8, "per-tensor", True), 8),
    ("LinearW8A8", WeightScheme(8, "per-channel", True), 4),
    ("LinearW4A8", WeightScheme(4, "per-channel", True), 8),
    ("LinearW4A8", WeightScheme(4, "per-channel", False), 8),
    ("LinearW4A8Groups", WeightScheme(4, 32, True, two_level=True), 8),
    ("LinearW4A4", WeightScheme(4, "per-tensor", False), 4),
]


def quantized(
    weights: WeightScheme,
    activations: ActivationScheme,
    kind: str = "float16",
    k: int = K,
) -> ir.Model:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linear ({kind}[A, B, {k}] x, {kind}[{k}, {N}] weight) => ({kind}[A, B, {N}] y)
        {{ y = MatMul (x, weight) }}
    """)
    weight = model.graph.inputs.pop(1)
    array = RANDOM.standard_normal((k, N)).astype(np.float16 if kind == "float16" else np.float32)
    weight.const_value = ir.Tensor(array, name="weight")
    model.graph.initializers.add(weight)
    model.graph[0].name = "/layer/MatMul"
    QuantizeWeights(weights)(model)
    QuantizeActivations({"weight": (activations, None)})(model)
    return model


def of_tokens(bits: int, *, symmetric: bool = True) -> ActivationScheme:
    return ActivationScheme(bits, "per-token", dynamic=True, symmetric=symmetric)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("symmetric", [True, False], ids=["around zero", "with zero-points"])
@pytest.mark.parametrize(("op", "weights", "bits"), WAYS, ids=str)
def test_every_bit_stays(
    written: Write,
    session: Callable[[Path], Any],
    op: str,
    weights: WeightScheme,
    bits: int,
    symmetric: bool,
) -> None:
    model = quantized(weights, of_tokens(bits, symmetric=symmetric))
    name = op if symmetric else f"{op}Asymmetric"
    assert operators(model)[name] == 1
    x = RANDOM.standard_normal((2, 3, K)).astype(np.float16)
    (expected,) = session(written(model)).run(["y"], {"x": x})
    assert PackProducts()(model).names == [f"/layer/Packed{name}"]
    assert (operators(model)[name], operators(model)[f"Packed{name}"]) == (0, 1)
    (found,) = session(written(model)).run(["y"], {"x": x})
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("granularity", "kind", "k", "reason"),
    [
        ("per-tensor", "float16", K, "one scale of run time is shared by all that it reads"),
        ("per-token", "float", K, "it computes in float, and plugins in float16"),
        ("per-token", "float16", 40, "its input dimension 40 is no multiple of 16"),
    ],
)
def test_declines_what_no_kernel_multiplies(
    granularity: Any, kind: str, k: int, reason: str
) -> None:
    activations = ActivationScheme(8, granularity, dynamic=True)
    model = quantized(WeightScheme(8, "per-channel", True), activations, kind, k)
    before = operators(model)
    done = PackProducts()(model)
    assert done.names == []
    assert done.declined["/layer/LinearW8A8"].startswith(reason)
    assert operators(model) == before


def test_twice_changes_nothing_more() -> None:
    model = quantized(WAYS[0][1], of_tokens(8))
    PackProducts()(model)
    done = PackProducts()(model)
    assert (done.names, done.declined) == ([], {})

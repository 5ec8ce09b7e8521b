"""What linears read is multiplied and put into order, once for all that do so alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.transform_inputs import InputTransform, TransformInputs

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K = 8
FACTOR = np.linspace(0.25, 2, K).astype(np.float32)
ORDER = np.array([3, 1, 0, 2, 7, 6, 5, 4])


def two_linears(dtype: type = np.float32) -> ir.Model:
    """Return y = x @ a + x @ b."""
    kind = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linears ({kind}[B, {K}] x, {kind}[{K}, 4] a, {kind}[{K}, 4] b) => ({kind}[B, 4] y)
        {{ first = MatMul (x, a)
           second = MatMul (x, b)
           y = Add (first, second) }}
    """)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        array = RANDOM.standard_normal((K, 4)).astype(dtype)
        value.const_value = ir.Tensor(array, name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    return model


def weight(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("factor", [FACTOR, None])
@pytest.mark.parametrize("order", [ORDER, None])
def test_the_linear_reads_what_is_transformed_and_others_do_not(
    written: Write, factor: np.ndarray | None, order: np.ndarray | None, dtype: type
) -> None:
    model = two_linears(dtype)
    a, b = weight(model, "a"), weight(model, "b")
    assert TransformInputs({"a": InputTransform(factor, order)})(model) == ()
    x = RANDOM.standard_normal((3, K)).astype(dtype)
    read = (x if factor is None else x * factor)[:, slice(None) if order is None else order]
    expected = read.astype(np.float32) @ a + x.astype(np.float32) @ b
    tolerance = 1e-5 if dtype is np.float32 else 1e-2
    np.testing.assert_allclose(run(written(model), x), expected, rtol=tolerance, atol=tolerance)


def test_the_product_stays_the_same_where_the_weight_makes_up_for_it(written: Write) -> None:
    model = two_linears()
    x = RANDOM.standard_normal((3, K)).astype(np.float32)
    expected = run(written(model), x)
    value = model.graph.initializers["a"]
    value.const_value = ir.Tensor((weight(model, "a") / FACTOR[:, None])[ORDER], name="a")
    TransformInputs({"a": InputTransform(FACTOR, ORDER)})(model)
    np.testing.assert_allclose(run(written(model), x), expected, rtol=1e-5, atol=1e-5)


def test_linears_of_one_value_and_one_transform_share_it() -> None:
    model = two_linears()
    same = {name: InputTransform(FACTOR.copy(), ORDER.copy()) for name in ("a", "b")}
    TransformInputs(same)(model)
    assert operators(model) == ["Mul", "Gather", "MatMul", "MatMul", "Add"]
    assert {"a.input_factor", "a.input_order"} <= set(model.graph.initializers)


def test_other_transforms_are_other_nodes() -> None:
    model = two_linears()
    TransformInputs({"a": InputTransform(FACTOR), "b": InputTransform(2 * FACTOR)})(model)
    assert operators(model) == ["Mul", "MatMul", "Mul", "MatMul", "Add"]


def test_experts_read_what_is_transformed(written: Write) -> None:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        experts (float[1, B, {K}] x, float[2, {K}, 4] stack) => (float[2, B, 4] y)
        {{ y = MatMul (x, stack) }}
    """)
    stack = model.graph.inputs.pop(1)
    weights = RANDOM.standard_normal((2, K, 4)).astype(np.float32)
    stack.const_value = ir.Tensor(weights, name="stack")
    model.graph.initializers.add(stack)
    model.graph[0].name = "/experts/MatMul"
    TransformInputs({"stack": InputTransform(FACTOR)})(model)
    x = RANDOM.standard_normal((1, 3, K)).astype(np.float32)
    np.testing.assert_allclose(run(written(model), x), (x * FACTOR) @ weights, rtol=1e-5, atol=1e-5)


def test_names_without_a_linear_are_returned() -> None:
    model = two_linears()
    assert TransformInputs({"c": InputTransform(FACTOR)})(model) == ("c",)
    assert operators(model) == ["MatMul", "MatMul", "Add"]

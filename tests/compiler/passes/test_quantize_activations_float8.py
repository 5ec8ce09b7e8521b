"""What linears read goes through E4M3 codes, once for those that share value and scale."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.quantize_activations_float8 import QuantizeActivationsFloat8


def two_linears() -> ir.Model:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        linears (float[B, 8] x, float[8, 4] a, float[8, 4] b) => (float[B, 4] y)
        { first = MatMul (x, a)
          second = MatMul (x, b)
          y = Add (first, second) }
    """)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(np.ones((8, 4), np.float32), name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_one_value_by_one_scale_is_quantized_once() -> None:
    model = two_linears()
    assert QuantizeActivationsFloat8({"a": 0.5, "b": 0.5})(model) == ()
    assert operators(model) == ["QuantizeLinear", "DequantizeLinear", "MatMul", "MatMul", "Add"]
    scale, zero = model.graph[0].inputs[1:]
    assert scale is not None
    assert scale.const_value is not None
    assert scale.const_value.numpy() == np.float32(0.5)
    assert zero is not None
    assert (zero.dtype, zero.name) == (ir.DataType.FLOAT8E4M3FN, "a.input_float8_zero")


def test_other_scales_are_other_codes() -> None:
    model = two_linears()
    QuantizeActivationsFloat8({"a": 0.5, "b": 0.25})(model)
    assert operators(model).count("QuantizeLinear") == 2


def test_names_without_a_product_are_returned() -> None:
    model = two_linears()
    assert QuantizeActivationsFloat8({"c": 0.5})(model) == ("c",)
    assert operators(model) == ["MatMul", "MatMul", "Add"]

"""Products with stored matrices are found, whether their weights are numbers or codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.products import products

MODEL = """
<ir_version: 10, opset_import: ["" : 23]>
g (float16[T, 4] x, float16[4, 2] a_weight, int8[4, 2] b_weight_quantized, float16 scale,
   float16[2, 4] head_weight, int8[3, 4, 2] experts_quantized, float16[3, 4, 2] scales)
   => (float16[T, 2] a, float16[T, 2] b, float16[T, 2] logits, float16[E, T, 2] d)
{
    a = MatMul (x, a_weight)
    b_weight = DequantizeLinear (b_weight_quantized, scale)
    b = MatMul (x, b_weight)
    turned = Transpose <perm = [1, 0]> (head_weight)
    logits = MatMul (x, turned)
    stack = DequantizeLinear <axis = 1, block_size = 1> (experts_quantized, scales)
    d = MatMul (x, stack)
    scores = MatMul (a, b)
}
"""


def model() -> ir.Model:
    """Return the graph with everything but x stored."""
    model = ir.from_onnx_text(MODEL)
    for value in model.graph.inputs[1:]:
        assert value.dtype is not None
        zeros = np.zeros(value.shape.numpy(), value.dtype.numpy())  # type: ignore[union-attr]
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(zeros, name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.outputs[0].dtype = ir.DataType.FLOAT16
    return model


def test_each_is_called_by_its_weight_in_the_checkpoint() -> None:
    found = {product.name: product for product in products(model())}
    assert list(found) == ["a_weight", "b_weight", "head_weight"]
    assert [found[name].node.outputs[0].name for name in found] == ["a", "b", "logits"]
    assert found["a_weight"].dequantize is None
    assert found["b_weight"].dequantize is not None
    assert {product.float_type for product in found.values()} == {ir.DataType.FLOAT16}

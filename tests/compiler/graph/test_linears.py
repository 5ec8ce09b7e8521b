"""Linears are the products with stored matrices, and the one that gives the logits is the head."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.linears import linears

TWO_LINEARS = """
<ir_version: 10, opset_import: ["" : 23]>
decoder (float[B, 4] x) => (float[B, 6] logits)
<float[4, 8] up = {ZEROS32}, float[6, 8] embedding = {ZEROS48}>
{
    hidden = MatMul (x, up)
    turned = Transpose <perm = [1, 0]> (embedding)
    logits = MatMul (hidden, turned)
}
""".replace("ZEROS32", ", ".join("0" * 32)).replace("ZEROS48", ", ".join("0" * 48))


def test_tells_dimensions_head_and_transpose() -> None:
    layer, head = linears(ir.from_onnx_text(TWO_LINEARS))
    assert (layer.name, layer.k, layer.n) == ("up", 4, 8)
    assert (layer.transposed, layer.is_head) == (False, False)
    assert (head.name, head.k, head.n) == ("embedding", 8, 6)
    assert (head.transposed, head.is_head) == (True, True)


def test_products_of_activations_and_of_more_than_matrices_are_none() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        products (float[B, 2, 2] x) => (float[B, 2, 2] scores, float[B, 2, 2] batched)
        <float[1, 2, 2] stack = {0, 0, 0, 0}>
        {
            turned = Transpose <perm = [0, 2, 1]> (x)
            scores = MatMul (x, turned)
            batched = MatMul (x, stack)
        }
    """)
    assert linears(model) == ()


def test_an_output_by_another_name_is_not_the_head() -> None:
    model = ir.from_onnx_text(TWO_LINEARS)
    model.graph.outputs[0].name = "hidden_states"
    assert [linear.is_head for linear in linears(model)] == [False, False]


def test_logits_that_are_scaled_and_capped_still_come_of_the_head() -> None:
    model = ir.from_onnx_text(
        TWO_LINEARS.replace(
            "    logits = MatMul (hidden, turned)",
            """
            raw = MatMul (hidden, turned)
            scale = Constant <value_float = 0.5> ()
            scaled = Mul (raw, scale)
            logits = Tanh (scaled)
            """,
        )
    )
    assert [linear.is_head for linear in linears(model)] == [False, True]


def test_behind_a_head_that_is_another_operator_there_is_no_other() -> None:
    model = ir.from_onnx_text(
        TWO_LINEARS.replace("logits = MatMul (hidden, turned)", "logits = Gemm (hidden, turned)")
    )
    assert [linear.is_head for linear in linears(model)] == [False]


def test_names_are_those_of_the_checkpoint() -> None:
    model = ir.from_onnx_text(TWO_LINEARS)
    tensor = ir.Tensor(np.zeros((4, 8), np.float32), name="model.layers.0.mlp.up_proj.weight")
    model.graph.initializers["up"].const_value = tensor
    model.graph.initializers["up"].name = "model.layers.0.mlp.up_proj.weight"
    assert linears(model)[0].name == "model.layers.0.mlp.up_proj.weight"

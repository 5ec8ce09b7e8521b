"""The embedding becomes codes; a tied head may read the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme

TABLE = "model.embed_tokens.weight"
SCHEMES = [
    WeightScheme(bits, group, symmetric)
    for bits in (4, 8)
    for group in (32, None)
    for symmetric in (True, False)
]


def with_table(model: ir.Model, table: np.ndarray) -> ir.Model:
    model.graph.initializers[TABLE].const_value = ir.Tensor(table, name=TABLE)
    return model


def table_of(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers[TABLE].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_computes_as_with_the_dequantized_table(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    scheme: WeightScheme,
) -> None:
    model = tiny("tied").model()
    expected_table = dequantize(quantize(table_of(model).T, scheme)).T
    expected = written(with_table(tiny("tied").model(), np.ascontiguousarray(expected_table)))
    assert QuantizeEmbedding(scheme, with_head=True)(model).names == [TABLE]
    assert TABLE not in model.graph.initializers
    result = written(model)
    for left, right in zip(
        run_steps(result, scenarios["decode"]),
        run_steps(expected, scenarios["decode"]),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, atol=1e-4 * np.abs(right).max())


def test_leaves_a_tied_head_as_it_is_unless_told() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        tied (int64[B, S] input_ids, float[8, 32] table) => (float[B, S, 8] logits)
        {
            hidden = Gather <axis = 0> (table, input_ids)
            turned = Transpose <perm = [1, 0]> (table)
            logits = MatMul (hidden, turned)
        }
    """)
    table = model.graph.inputs.pop()
    table.const_value = ir.Tensor(
        np.random.default_rng(0).random((8, 32), np.float32), name="table"
    )
    model.graph.initializers.add(table)
    QuantizeEmbedding(WeightScheme(8, 32, True))(model)
    assert [node.op_type for node in table.consumers()] == ["Transpose"]
    gather = next(node for node in model.graph if node.op_type == "Gather")
    codes = gather.inputs[0]
    assert codes is not None
    assert codes.producer() is not None


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    QuantizeEmbedding(SCHEMES[0])(model)
    before = [node.op_type for node in model.graph]
    assert QuantizeEmbedding(SCHEMES[0])(model).names == []
    assert [node.op_type for node in model.graph] == before


def test_the_head_of_a_shared_table_is_not_quantized_again(tiny: Callable[[str], Any]) -> None:
    model = tiny("tied").model()
    QuantizeEmbedding(SCHEMES[0], with_head=True)(model)
    assert QuantizeWeights(SCHEMES[0], head=True)(model).names == []

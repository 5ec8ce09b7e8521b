"""The embedding becomes codes; a tied head may read the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme

TABLE = "model.embed_tokens.weight"
SCHEMES = [
    WeightScheme(bits, group, symmetric)
    for bits in (4, 8)
    for group in (32, "per-channel", "per-tensor")
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


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        (WeightScheme(4, 32, False), WeightScheme(8, 64, True)),
        (WeightScheme(8, "per-channel", True), WeightScheme(4, 32, False)),
        (WeightScheme(4, 32, True), WeightScheme(4, 64, True)),
        (WeightScheme(6, "per-tensor", True), WeightScheme(3, "per-tensor", False)),
        (WeightScheme(8, 32, False), None),
        (None, WeightScheme(8, 32, False)),
    ],
    ids=str,
)
def test_a_tied_table_has_other_codes_for_the_lookup_than_for_the_head(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    embedding: WeightScheme | None,
    head: WeightScheme | None,
) -> None:
    model = tiny("tied").model()
    plain = tiny("tied").model()
    table = table_of(model)

    def rounded(scheme: WeightScheme | None) -> np.ndarray:
        approximate = table if scheme is None else dequantize(quantize(table.T, scheme)).T
        return np.ascontiguousarray(approximate)

    transpose = next(
        node for node in plain.graph.initializers[TABLE].consumers() if node.op_type == "Transpose"
    )
    transpose.replace_input_with(0, constant(plain.graph, "head", rounded(head)))
    expected = run_steps(written(with_table(plain, rounded(embedding))), scenarios["decode"])
    neutral = quantize_both(model, embedding, head)
    lowered = quantize_both(tiny("tied").model(), embedding, head)
    MatMulNBits(accuracy_level=1)(lowered)
    GatherBlockQuantized()(lowered)
    for form in (neutral, lowered):
        assert (TABLE in form.graph.initializers) == (embedding is None or head is None)
        for left, right in zip(
            run_steps(written(form), scenarios["decode"]), expected, strict=True
        ):
            np.testing.assert_allclose(left, right, atol=1e-4 * np.abs(right).max())


def quantize_both(
    model: ir.Model, embedding: WeightScheme | None, head: WeightScheme | None
) -> ir.Model:
    if embedding is not None:
        QuantizeEmbedding(embedding)(model)
    if head is not None:
        QuantizeWeights(head, head=True)(model)
    return model


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

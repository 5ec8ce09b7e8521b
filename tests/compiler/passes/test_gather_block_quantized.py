"""Lookups in a quantized table read codes alone, and share them with the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.quant.scheme import GroupSize, WeightScheme


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 128, "per-channel", "per-tensor"])
@pytest.mark.parametrize("bits", [4, 8])
def test_computes_the_same(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    bits: int,
    group: GroupSize,
    symmetric: bool,
) -> None:
    model = tiny("tied").model()
    QuantizeEmbedding(WeightScheme(bits, group, symmetric), with_head=True)(model)
    neutral = written(model.clone())
    assert MatMulNBits(accuracy_level=1)(model) == {}
    assert GatherBlockQuantized()(model) == {}
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["GatherBlockQuantized"] == kinds["MatMulNBits"] == 1
    assert "DequantizeLinear" not in kinds
    lowered = written(model)
    assert lowered.with_suffix(".onnx.data").stat().st_size <= 1.05 * (
        neutral.with_suffix(".onnx.data").stat().st_size + 8192
    ), "the codes are stored once"
    for left, right in zip(
        run_steps(lowered, scenarios["left padding"]),
        run_steps(neutral, scenarios["left padding"]),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, atol=1e-4 * np.abs(right).max())


def test_leaves_a_float_table_alone(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    before = [node.op_type for node in model.graph]
    assert GatherBlockQuantized()(model) == {}
    assert [node.op_type for node in model.graph] == before


def test_declines_a_width_without_a_block() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        lookup (int64[B, S] input_ids) => (float[B, S, 3] hidden)
        <int8[2, 3] codes = {1, 2, 3, 4, 5, 6}, float[2] scales = {1.0, 2.0}>
        {
            table = DequantizeLinear <axis = 0> (codes, scales)
            hidden = Gather <axis = 0> (table, input_ids)
        }
    """)
    for node in model.graph:
        node.name = f"/{node.op_type}"
    assert GatherBlockQuantized()(model) == {
        "/Gather": "K = 3 has no divisor between 16 and 256 that is a power of two"
    }

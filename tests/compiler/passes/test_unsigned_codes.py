"""Signed codes become unsigned ones that stand for the same values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import pytest
from onnx.reference import ReferenceEvaluator

from castline.compiler.passes.unsigned_codes import UnsignedCodes

PAIR = """
    codes = QuantizeLinear (x, scale, zero)
    y = DequantizeLinear (codes, scale, zero)
"""


def model(zero_point: int = 0, body: str = PAIR, outputs: str = "float[T] y") -> ir.Model:
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[T] x) => ({outputs}) <float scale = {{0.5}}, int8 zero = {{{zero_point}}}>
        {{ {body} }}
    """)


def run(model: ir.Model) -> np.ndarray:
    x = np.array([0, 0.24, 0.26, -7, 63.5, -64, 1000, -1000], np.float32)
    return np.asarray(ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})[0])


@pytest.mark.parametrize("zero_point", [0, 5, -128, 127])
def test_the_values_stay(zero_point: int) -> None:
    changed = model(zero_point)
    UnsignedCodes()(changed)
    common_passes.CheckerPass(full_check=True)(changed)
    (zero,) = [v for v in changed.graph.initializers.values() if v.name != "scale"]
    assert zero.const_value is not None
    assert zero.dtype == ir.DataType.UINT8
    assert int(zero.const_value.numpy()) == zero_point + 128
    assert changed.graph[0].outputs[0].dtype == ir.DataType.UINT8
    np.testing.assert_array_equal(run(changed), run(model(zero_point)))


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (PAIR, "float[T] y, int8[T] codes"),
        (PAIR + " z = Cast <to = 1> (codes)", "float[T] y, float[T] z"),
        (PAIR.replace(", zero)", ")"), "float[T] y"),
    ],
    ids=["an output", "read as numbers", "unsigned already"],
)
def test_codes_that_others_see_stay(body: str, outputs: str) -> None:
    changed = model(0, body, outputs)
    before = ir.to_proto(changed).SerializeToString(deterministic=True)
    UnsignedCodes()(changed)
    assert ir.to_proto(changed).SerializeToString(deterministic=True) == before


def test_twice_changes_nothing_more() -> None:
    changed = model(3)
    UnsignedCodes()(changed)
    once = ir.to_proto(changed).SerializeToString(deterministic=True)
    UnsignedCodes()(changed)
    assert ir.to_proto(changed).SerializeToString(deterministic=True) == once

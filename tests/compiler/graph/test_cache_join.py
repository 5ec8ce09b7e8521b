"""A cache is recognized whether it holds numbers, or codes by one scale or by many."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from castline.compiler.graph.cache_join import cache_join

NUMBERS = "present = Concat <axis = 2> (past, new)\n read = Abs (present)"
ONE_SCALE = """
    codes = QuantizeLinear (new, scale, zero)
    present = Concat <axis = 2> (past, codes)
    read = DequantizeLinear (present, scale, zero)
"""
CHANNELS = """
    steps = Div (new, channels)
    codes = QuantizeLinear (steps, scale, zero)
    present = Concat <axis = 2> (past, codes)
    whole = DequantizeLinear (present, scale, zero)
    read = Mul (whole, channels)
"""


def graph(body: str) -> ir.Graph:
    past = "float" if body == NUMBERS else "int8"
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[1, 2, S, 4] new, {past}[1, 2, P, 4] past) => (float[1, 2, T, 4] read)
        <float scale = {{1.0}}, int8 zero = {{0}}, float[1, 2, 1, 4] channels> {{ {body} }}
    """).graph


@pytest.mark.parametrize(("body", "scale"), [(ONE_SCALE, "scale"), (CHANNELS, "channels")])
def test_codes_are_traced_to_the_numbers_they_were(body: str, scale: str) -> None:
    found = cache_join(graph(body).outputs[0])
    assert found is not None
    assert found.scale is not None
    names = [found.past.name, found.new.name, found.present.name, found.scale.name]
    assert names == ["past", "new", "present", scale]


def test_numbers_have_no_scale() -> None:
    read = graph(NUMBERS).outputs[0].producer()
    assert read is not None
    assert read.inputs[0] is not None
    found = cache_join(read.inputs[0])
    assert found is not None
    assert (found.past.name, found.new.name, found.present.name) == ("past", "new", "present")
    assert found.scale is None


def test_what_joins_nothing_is_no_cache() -> None:
    assert cache_join(graph(NUMBERS).outputs[0]) is None
    scaled = graph(NUMBERS.replace("Abs (present)", "Mul (present, channels)"))
    assert cache_join(scaled.outputs[0]) is None

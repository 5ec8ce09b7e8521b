"""What depends on positions alone becomes a table, in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.position_tables import depends_on_positions_alone, position_table

ANGLES = """
<ir_version: 10, opset_import: ["" : 23]>
angles (int64[B, S] position_ids) => (float[B, S, 2] cos, float16[B, S, 2] cast)
<float[2] frequencies = {1.0, 0.01}, int64[1] last = {2}>
{
    column = Unsqueeze (position_ids, last)
    positions = Cast <to = 1> (column)
    turned = Mul (positions, frequencies)
    cos = Cos (turned)
    cast = Cast <to = 10> (cos)
}
"""


def test_holds_every_position() -> None:
    graph = ir.from_onnx_text(ANGLES).graph
    table = position_table(graph.outputs[0], graph.inputs[0], 50)
    expected = np.cos(np.arange(50)[:, None] * np.array([1.0, 0.01]))
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_is_taken_before_a_cast_to_half_precision() -> None:
    graph = ir.from_onnx_text(ANGLES).graph
    np.testing.assert_array_equal(
        position_table(graph.outputs[1], graph.inputs[0], 50),
        position_table(graph.outputs[0], graph.inputs[0], 50),
    )


def test_tells_what_depends_on_more_than_positions() -> None:
    text = ANGLES.replace("position_ids)", "position_ids, float[2] other)")
    graph = ir.from_onnx_text(text.replace("positions, frequencies", "positions, other")).graph
    assert not depends_on_positions_alone(graph.outputs[0], graph.inputs[0], 50)
    graph = ir.from_onnx_text(ANGLES).graph
    assert depends_on_positions_alone(graph.outputs[0], graph.inputs[0], 50)
    assert depends_on_positions_alone(graph.outputs[1], graph.inputs[0], 50)


def test_tells_frequencies_that_change_with_the_longest_position() -> None:
    """As longrope does: other frequencies for a batch that goes beyond 40 tokens."""
    changed = ANGLES.replace(
        "turned = Mul (positions, frequencies)",
        """
    longest = ReduceMax <keepdims = 0> (position_ids)
    beyond = Greater (longest, original)
    chosen = Where (beyond, other, frequencies)
    turned = Mul (positions, chosen)""",
    )
    constants = "float[2] other = {0.9, 0.005}, int64 original = {40}, int64[1] last"
    graph = ir.from_onnx_text(changed.replace("int64[1] last", constants)).graph
    assert not depends_on_positions_alone(graph.outputs[0], graph.inputs[0], 50)
    assert depends_on_positions_alone(graph.outputs[0], graph.inputs[0], 41)

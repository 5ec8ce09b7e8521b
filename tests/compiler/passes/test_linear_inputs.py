"""What linears read is changed once for all that read it alike, and those not named keep theirs."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.passes.linear_inputs import change_inputs
from castline.compiler.passes.node_writer import NodeWriter

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[B, 2] x) => (float[B, 2] a, float[B, 2] b, float[B, 2] c, float[B, 2] d)
<float[2, 2] one = {1, 0, 0, 1}, float[2, 2] two = {1, 0, 0, 1},
 float[2, 2] three = {1, 0, 0, 1}, float[2, 2] four = {1, 0, 0, 1}>
{
    a = MatMul (x, one)
    b = MatMul (x, two)
    c = MatMul (x, three)
    d = MatMul (x, four)
}
"""


def written(
    writer: NodeWriter, x: ir.Value, linear: str, _float_type: ir.DataType, change: str
) -> ir.Value:
    return writer.add(change, [x], {"linear": linear})


def test_it_is_written_once_for_equal_changes_of_one_value() -> None:
    model = ir.from_onnx_text(GRAPH)
    for node in model.graph:
        node.name = f"/same/{node.outputs[0].name}"
    changes = {"one": "Neg", "two": "Neg", "three": "Abs", "absent": "Neg"}
    assert change_inputs(model, changes, str, "changed", written) == ("absent",)
    new = [node for node in model.graph if node.op_type != "MatMul"]
    assert [(n.op_type, n.name, n.attributes["linear"].value) for n in new] == [
        ("Neg", "/same/a/changed/Neg", "one"),
        ("Abs", "/same/c/changed/Abs", "three"),
    ]
    first, other = (node.outputs[0] for node in new)
    read = [n.inputs[0] for n in model.graph if n.op_type == "MatMul"]
    assert read == [first, first, other, model.graph.inputs[0]]
    assert first.dtype == ir.DataType.FLOAT
    assert first.shape == model.graph.inputs[0].shape

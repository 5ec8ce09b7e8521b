"""Sign the nodes that a pass makes, so that whoever refuses one later can name the pass."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.passes.authorship import AUTHOR, made_by


def test_new_nodes_are_signed_and_stay_so() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    for author in ("First", "Second"):
        with made_by(model, author):
            model.graph.append(ir.node("Abs", [model.graph.inputs[0]]))
    assert [node.metadata_props.get(AUTHOR) for node in model.graph] == [None, "First", "Second"]

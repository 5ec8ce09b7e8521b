"""What onnx-graphsurgeon drops or copies is as it was before."""

from __future__ import annotations

import onnx

from castline.compiler.targets.surgery import graph_from_proto, proto_from_graph

BRANCHING = """
<ir_version: 11, opset_import: ["" : 24], producer_name: "castline", producer_version: "1">
g (float[2] x, bool chosen) => (float[2] y) <float[2] weight = {1, 2}>
{
    y = If (chosen) <
        then_branch = left () => (float[2] a) { a = Mul (x, weight) },
        else_branch = right () => (float[2] b) { b = Add (x, weight) }
    >
}
"""


def test_an_unedited_graph_comes_back_with_all_that_it_had() -> None:
    proto = onnx.parser.parse_model(BRANCHING)
    proto.graph.node[0].name = "choose"
    for entries in (proto.metadata_props, proto.graph.node[0].metadata_props):
        entry = entries.add()
        entry.key, entry.value = "key", "value"
    back = proto_from_graph(graph_from_proto(proto), proto)
    assert (back.ir_version, back.producer_name, back.producer_version) == (11, "castline", "1")
    assert list(back.metadata_props) == list(proto.metadata_props)
    assert list(back.opset_import) == list(proto.opset_import)
    assert list(back.graph.initializer) == list(proto.graph.initializer)
    assert [a.g.initializer[:] for a in back.graph.node[0].attribute] == [[], []]
    assert list(back.graph.node[0].metadata_props) == list(proto.graph.node[0].metadata_props)

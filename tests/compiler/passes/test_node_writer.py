"""New nodes stand before the old one, each under a name of its own."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from castline.compiler.passes.node_writer import NodeWriter


@pytest.fixture
def model() -> ir.Model:
    return ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        model (float[N] x) => (float[N] y) { y = Identity (x) }
    """)


def test_nodes_of_one_operator_are_numbered_from_the_second_on(model: ir.Model) -> None:
    graph = model.graph
    (old,) = graph
    write = NodeWriter(graph, "/path", old)
    first = write.add("Neg", [graph.inputs[0]])
    write.add("Neg", [first])
    top, place = write.several("TopK", [first, write.constant("one", [1])], {"axis": 0}, 2)
    assert [node.name for node in graph][:-1] == ["/path/Neg", "/path/Neg_1", "/path/TopK"]
    assert list(graph)[-1] is old
    assert (top.name, place.name) == ("/path/TopK_output_0", "/path/TopK_output_1")


def test_a_constant_is_an_initializer_under_the_path(model: ir.Model) -> None:
    value = NodeWriter(model.graph, "/path", next(iter(model.graph))).constant("two", [1, 2])
    assert model.graph.initializers["/path/two"] is value
    assert value.const_value is not None
    assert value.const_value.numpy().tolist() == [1, 2]
    assert value.dtype == ir.DataType.INT64


def test_an_operator_can_be_of_another_domain(model: ir.Model) -> None:
    (old,) = model.graph
    write = NodeWriter(model.graph, "", old)
    made = write.add("QMoE", [None, model.graph.inputs[0]], {"k": 2}, "com.microsoft").producer()
    assert made is not None
    assert (made.domain, made.inputs[0], made.attributes.get_int("k", 0)) == (
        "com.microsoft",
        None,
        2,
    )

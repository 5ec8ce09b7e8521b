"""A replaced value keeps its name and users, and what nothing reads goes."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.passes.replace import remove_unused, take_over


def chain() -> ir.Model:
    return ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        chain (float[4] x) => (float[4] y)
        <float[4] weight = {1, 2, 3, 4}, float[4] shared = {1, 2, 3, 4}>
        {
            a = Add (x, weight)
            b = Mul (a, shared)
            y = Sub (b, shared)
        }
    """)


def test_the_new_value_is_the_output_under_the_old_name() -> None:
    model = chain()
    last = model.graph[-1]
    new = ir.node("Neg", [model.graph.inputs[0]])
    model.graph.append(new)
    take_over(last.outputs[0], new.outputs[0])
    assert model.graph.outputs[0] is new.outputs[0]
    assert new.outputs[0].name == "y"
    assert new.outputs[0].shape == (4,)
    assert new.outputs[0].dtype == ir.DataType.FLOAT


def test_what_nothing_reads_goes_with_the_weights_that_only_it_read() -> None:
    model = chain()
    _, middle, last = model.graph
    last.replace_input_with(0, model.graph.inputs[0])
    remove_unused(model.graph, [middle])
    assert [node.op_type for node in model.graph] == ["Sub"]
    assert list(model.graph.initializers) == ["shared"]


def test_what_is_read_or_is_an_output_stays() -> None:
    model = chain()
    remove_unused(model.graph, list(model.graph))
    assert [node.op_type for node in model.graph] == ["Add", "Mul", "Sub"]


def test_a_node_that_was_removed_already_is_passed_over() -> None:
    model = chain()
    _, middle, last = model.graph
    last.replace_input_with(0, model.graph.inputs[0])
    remove_unused(model.graph, [middle, middle])
    assert len(model.graph) == 1

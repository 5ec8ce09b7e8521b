from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.node_result import form, node_result


def node(op_type: str, inputs: int, outputs: int = 1, **attributes: int) -> ir.Node:
    values = [ir.Value(name=f"in{i}") for i in range(inputs)]
    made = [ir.Attr(k, ir.AttributeType.INT, v) for k, v in attributes.items()]
    return ir.Node("", op_type, values, made, num_outputs=outputs)


def test_computes_every_output() -> None:
    split = node("Split", 1, 2, axis=1, num_outputs=2)
    left, right = node_result(split, [np.arange(8).reshape(2, 4)])
    np.testing.assert_array_equal(left, [[0, 1], [4, 5]])
    np.testing.assert_array_equal(right, [[2, 3], [6, 7]])


def test_two_nodes_of_one_form_are_computed_each_with_its_inputs() -> None:
    first, second = node("Add", 2), node("Add", 2)
    assert form(first) == form(second)
    assert node_result(first, [np.array(1), np.array(2)])[0] == 3
    assert node_result(second, [np.array(4), np.array(5)])[0] == 9


def test_an_attribute_makes_another_form() -> None:
    assert form(node("Gather", 2, axis=0)) != form(node("Gather", 2, axis=1))


def test_an_input_may_be_left_out() -> None:
    values = [ir.Value(name=name) for name in ("data", "starts", "ends", "steps")]
    slicing = ir.Node("", "Slice", [*values[:3], None, values[3]])
    arrays = [np.arange(6), np.array([0]), np.array([6]), None, np.array([2])]
    np.testing.assert_array_equal(node_result(slicing, arrays)[0], [0, 2, 4])

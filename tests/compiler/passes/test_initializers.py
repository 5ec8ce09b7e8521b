"""An initializer is added under a name of its own, or not at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.initializers import add_initializer, constant


@pytest.fixture
def graph() -> ir.Graph:
    return ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="empty")


def test_a_constant_has_the_type_and_the_shape_of_its_array(graph: ir.Graph) -> None:
    value = constant(graph, "half", np.ones((2, 3), np.float16))
    assert graph.initializers["half"] is value
    assert (value.dtype, value.shape) == (ir.DataType.FLOAT16, (2, 3))
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), np.ones((2, 3)))


def test_a_name_that_is_taken_is_our_mistake(graph: ir.Graph) -> None:
    first = constant(graph, "one", np.array([1]))
    second = ir.Value(name="one", const_value=ir.Tensor(np.array([2])))
    with pytest.raises(AssertionError, match="its own name, not one"):
        add_initializer(graph, second)
    assert graph.initializers["one"] is first

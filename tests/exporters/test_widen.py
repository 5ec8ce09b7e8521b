from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime import InferenceSession

from castline.exporters.widen import widen_bfloat16

BFLOAT16 = ir.DataType.BFLOAT16
ROWS = 500


def value(name: str, dtype: ir.DataType = BFLOAT16) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([ROWS]))


def model(*op_types: str, dtype: ir.DataType = BFLOAT16) -> ir.Model:
    """Return a chain of operations: each reads what the one before made and, if it can, `b`."""
    a, b = value("a", dtype), value("b", dtype)
    made, nodes = a, []
    for op_type in op_types:
        reads = [made] if op_type in ("Exp", "Neg") else [made, b]
        node = ir.node(op_type, reads)
        made = node.outputs[0]
        made.shape, made.type = ir.Shape([ROWS]), ir.TensorType(dtype)
        nodes.append(node)
    last = ir.node("Cast", [made], {"to": ir.DataType.FLOAT})
    last.outputs[0].name = "result"
    last.outputs[0].shape, last.outputs[0].type = made.shape, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([a, b], [last.outputs[0]], nodes=[*nodes, last], opset_imports={"": 23})
    return ir.Model(graph, ir_version=10)


def run(graph: ir.Model, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Feed float32 through casts: NumPy's bfloat16 cannot be handed to the runtime."""
    for name in ("a", "b"):
        old = next(v for v in graph.graph.inputs if v.name == name)
        cast = ir.node("Cast", [value(f"{name}_float", ir.DataType.FLOAT)], {"to": BFLOAT16})
        cast.outputs[0].type = ir.TensorType(BFLOAT16)
        old.replace_all_uses_with(cast.outputs[0])
        graph.graph.insert_before(graph.graph[0], cast)
        graph.graph.inputs[list(graph.graph.inputs).index(old)] = cast.inputs[0]
    session = InferenceSession(
        ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {"a_float": a.float().numpy(), "b_float": b.float().numpy()}
    return np.asarray(session.run(None, feed)[0])


@pytest.fixture
def numbers() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, ROWS, generator=random) * 4 + 0.01
    return a.bfloat16(), b.bfloat16()


TORCH = {
    "Add": torch.add,
    "Div": torch.div,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Sub": torch.sub,
    "Exp": lambda a, _: a.exp(),
    "Neg": lambda a, _: -a,
}


@pytest.mark.parametrize("op_type", TORCH)
def test_gives_the_bits_of_bfloat16_arithmetic(
    op_type: str, numbers: tuple[torch.Tensor, torch.Tensor]
) -> None:
    graph = model(op_type)
    widen_bfloat16(graph.graph)
    expected = TORCH[op_type](*numbers).float().numpy()
    np.testing.assert_array_equal(run(graph, *numbers), expected)


def test_rounds_after_every_operation(numbers: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = numbers
    graph = model("Mul", "Add")
    widen_bfloat16(graph.graph)
    found = run(graph, a, b)
    np.testing.assert_array_equal(found, (a * b + b).float().numpy())
    rounded_once = (a.float() * b.float() + b.float()).numpy().astype(ml_dtypes.bfloat16)
    assert (found != rounded_once.astype(np.float32)).any()


def test_leaves_what_is_computed_in_float32() -> None:
    graph = model("Mul", "Add", dtype=ir.DataType.FLOAT)
    before = str(graph)
    widen_bfloat16(graph.graph)
    assert str(graph) == before


def test_twice_changes_nothing_more() -> None:
    graph = model("Mul", "Add")
    widen_bfloat16(graph.graph)
    once = [node.op_type for node in graph.graph]
    widen_bfloat16(graph.graph)
    assert [node.op_type for node in graph.graph] == once

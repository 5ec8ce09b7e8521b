"""Sums of groups are those of the value, and written once for all that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.group_sums import GroupSums
from castline.compiler.passes.node_writer import NodeWriter

Write = Callable[[ir.Model], Path]


def identity(kind: str) -> ir.Model:
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        identity ({kind}[A, B, 96] x) => ({kind}[A, B, 96] y) {{ y = Identity (x) }}
    """)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("groups", [1, 3, 96])
def test_sums_are_in_float32(written: Write, dtype: type, groups: int) -> None:
    model = identity("float" if dtype is np.float32 else "float16")
    x, node = model.graph.inputs[0], model.graph[0]
    sums = GroupSums().of(x, groups, NodeWriter(model.graph, "/sums", node))
    sums.shape, sums.type = ir.Shape([None, None, groups]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[0] = sums
    values = np.random.default_rng(0).uniform(0, 3e4, (2, 5, 96)).astype(dtype)
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": values})
    expected = values.astype(np.float32).reshape(2, 5, groups, -1).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_who_asks_again_gets_what_was_written() -> None:
    model = identity("float")
    x, node = model.graph.inputs[0], model.graph[0]
    sums = GroupSums()
    first = sums.of(x, 3, NodeWriter(model.graph, "/a", node))
    assert sums.of(x, 3, NodeWriter(model.graph, "/b", node)) is first
    other = sums.of(x, 6, NodeWriter(model.graph, "/c", node))
    assert other is not first
    assert sum(node.op_type == "ReduceSum" for node in model.graph) == 2

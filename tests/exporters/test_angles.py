from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession

from castline.exporters.angles import repeat_angles

WIDTH = 4


def rotating(*, rows: int | str, layers: int = 1) -> ir.Model:
    """Return rotations of x [batch, heads, sequence, WIDTH] by angles [rows, sequence, WIDTH / 2].

    Its Cos and Sin have neither shape nor type, as the rotary fusion leaves them.
    """
    floats = ir.TensorType(ir.DataType.FLOAT)
    tokens = ir.Value(
        name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"])
    )
    x = ir.Value(name="x", type=floats, shape=ir.Shape(["b", 2, "s", WIDTH]))
    angles = ir.Value(name="angles", type=floats, shape=ir.Shape([rows, "s", WIDTH // 2]))
    cos, sin = ir.node("Cos", [angles]), ir.node("Sin", [angles])
    nodes, turned = [cos, sin], x
    for _ in range(layers):
        nodes.append(ir.node("RotaryEmbedding", [turned, cos.outputs[0], sin.outputs[0]]))
        turned = nodes[-1].outputs[0]
    turned.name, turned.type, turned.shape = "turned", floats, x.shape
    graph = ir.Graph([tokens, x, angles], [turned], nodes=nodes, opset_imports={"": 23})
    return ir.Model(graph, ir_version=10)


def test_every_text_is_turned_by_the_shared_angles() -> None:
    model = rotating(rows=1)
    repeat_angles(model.graph)
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 2, 5, WIDTH)).astype(np.float32)
    angles = random.normal(size=(1, 5, WIDTH // 2)).astype(np.float32)
    session = InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.zeros((3, 5), np.int64)
    found = session.run(None, {"input_ids": ids, "x": x, "angles": angles})[0]
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    expected = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_cosine_and_the_sine_are_repeated_once_for_all_layers() -> None:
    model = rotating(rows=1, layers=3)
    repeat_angles(model.graph)
    assert [node.op_type for node in model.graph].count("Expand") == 2


def test_angles_of_each_text_are_left_alone() -> None:
    model = rotating(rows="b")
    before = str(model)
    repeat_angles(model.graph)
    assert str(model) == before


def test_twice_changes_nothing_more() -> None:
    model = rotating(rows=1, layers=2)
    repeat_angles(model.graph)
    once = [node.op_type for node in model.graph]
    repeat_angles(model.graph)
    assert [node.op_type for node in model.graph] == once

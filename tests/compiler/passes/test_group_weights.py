"""Both forms of a matrix in two-level groups hold the same weights, stored once."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.group_weights import group_weights, products_of_codes
from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.targets.write import write_model
from castline.plugins.linear_w4a8.op import int8_weights

K, N = 128, 24


def weights(group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes [K, N], whole numbers [G, N] and scales [N], with the extremes among them."""
    random = np.random.default_rng(0)
    codes = random.integers(-8, 8, (K, N)).astype(ml_dtypes.int4)
    units = random.integers(1, 17, (K // group, N)).astype(np.int8)
    codes[0, 0], codes[1, 0], units[0, 0] = -8, 7, 16
    return codes, units, random.uniform(0.001, 0.01, N).astype(np.float32)


def written(group: int, folder: Path) -> Path:
    """Return a model whose outputs are the scales and the steps."""
    empty = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]> none (float x) => (float y) { y = Relu (x) }
    """)
    graph = empty.graph
    names = ("codes", "units", "scale")
    values = [constant(graph, n, a) for n, a in zip(names, weights(group), strict=True)]
    found = group_weights(*values, graph, NodeWriter(graph, "/linear", graph.node(0)))
    assert (found.k, found.n, found.block) == (K, N, group)
    assert found.codes.const_value is not None
    assert found.codes.const_value.nbytes == K * N // 2
    graph.outputs.extend([found.scales, found.steps])
    for name in names[:2]:  # their packed forms stand for them
        graph.initializers.pop(name)
    return write_model(empty, folder)


@pytest.mark.parametrize("group", [16, 32, 128])
def test_scales_and_steps_are_those_of_the_weights(group: int, tmp_path: Path) -> None:
    path = written(group, tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _, scales, steps = session.run(None, {"x": np.zeros((), np.float32)})
    codes, units, scale = weights(group)
    assert steps.dtype == np.int8
    assert (steps == int8_weights(codes, units)).all()
    assert (scales == (units * scale).T.reshape(-1)).all()


def test_the_table_holds_the_low_code_first() -> None:
    table = products_of_codes()
    assert table.shape == (17 * 256, 2)
    assert table[3 * 256 + 0xF1].tolist() == [3 * (1 - 8), 3 * (15 - 8)]
    assert table[16 * 256 + 0x0F].tolist() == [112, -128]

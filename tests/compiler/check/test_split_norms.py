"""A sum that is fused with a norm is computed by a node of its own, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.check.split_norms import FUSED, split_norms
from castline.compiler.graph.layer_boundaries import layer_boundaries
from castline.compiler.passes.skip_norm import SkipNorm
from castline.errors import OutputError

OTHER = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[1, 2, 4] x) => (float[1, 2, 2] y) {
    ["/m/layers.0/Split"] a, b = Split <axis: int = 2, num_outputs: int = 2> (x)
    y = Add (a, b)
}
"""


def test_both_outputs_stay_what_they_were(tiny: Any, written: Any, run_steps: Any) -> None:
    model = tiny("llama").model()
    SkipNorm()(model)
    fused = sum(node.op_type == FUSED for node in model.graph)
    steps = [(np.arange(9, dtype=np.int64)[None] + 3, None)]
    before = run_steps(written(model), steps)[0]
    split_norms(model.graph, layer_boundaries(model.graph).values(), "m")
    assert sum(node.op_type == FUSED for node in model.graph) == fused - 2
    assert [v.producer().op_type for v in layer_boundaries(model.graph).values()] == ["Add", "Add"]
    np.testing.assert_allclose(run_steps(written(model), steps)[0], before, rtol=1e-4, atol=1e-5)


def test_sums_that_stand_alone_are_left(tiny: Any) -> None:
    model = tiny("llama").model()
    before = [node.name for node in model.graph]
    split_norms(model.graph, layer_boundaries(model.graph).values(), "m")
    assert [node.name for node in model.graph] == before


def test_another_operator_with_several_outputs_is_refused() -> None:
    graph = ir.from_onnx_text(OTHER).graph
    with pytest.raises(OutputError, match=r"m: its graph cannot be cut .*\(Split\) computes a"):
        split_norms(graph, [graph[0].outputs[0]], "m")

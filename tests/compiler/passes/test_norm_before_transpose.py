from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from castline.compiler.passes.norm_before_transpose import NormBeforeTranspose

X = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
GAIN = np.linspace(0.5, 2, 8, dtype=np.float32)


def graph(perm: str = "0, 2, 1, 3", axis: int = -1, more: str = "") -> ir.Model:
    shape = "2, 4, 3, 8" if perm == "0, 2, 1, 3" else "2, 3, 8, 4"
    return ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["" : 23]>
        g (float[2, 3, 4, 8] x, float[8] gain) => (float[{shape}] y{", float z" if more else ""}) {{
            heads = Transpose<perm = [{perm}]>(x)
            y = RMSNormalization<axis = {axis}, epsilon = 0.01>(heads, gain)
            {more}
        }}""")


def run(model: ir.Model) -> np.ndarray:
    feeds = {"x": X, "gain": GAIN}
    return np.asarray(ReferenceEvaluator(ir.to_proto(model)).run(["y"], feeds)[0])


@pytest.mark.parametrize("axis", [-1, 3])
def test_the_norm_comes_first_and_the_result_is_the_same(axis: int) -> None:
    model = graph(axis=axis)
    expected = run(model)
    NormBeforeTranspose()(model)
    assert [node.op_type for node in model.graph] == ["RMSNormalization", "Transpose"]
    np.testing.assert_allclose(run(model), expected, rtol=1e-6)


def test_a_second_run_changes_nothing() -> None:
    model = graph()
    NormBeforeTranspose()(model)
    nodes = list(model.graph)
    NormBeforeTranspose()(model)
    assert list(model.graph) == nodes


@pytest.mark.parametrize(
    "kept",
    [
        graph(perm="0, 1, 3, 2"),  # another axis would be normalized
        graph(axis=2),  # two axes are normalized together
        graph(more="z = ReduceSum(heads)"),  # somebody else reads the transposed value
    ],
)
def test_leaves_alone_what_does_not_commute(kept: ir.Model) -> None:
    before = [node.op_type for node in kept.graph]
    NormBeforeTranspose()(kept)
    assert [node.op_type for node in kept.graph] == before
    assert before.index("Transpose") < before.index("RMSNormalization")

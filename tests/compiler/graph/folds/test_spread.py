"""The ways of a scale: every reader counts, and so does an output of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.plan import fold_sites

NORM = "n = RMSNormalization <axis = -1> (x, g)  "
SHAPES = {"g": (8,), "v": (8, 5), "w": (8, 6)}


def test_every_linear_that_reads_a_value_is_compensated(build: Any, proven: Any) -> None:
    nodes = NORM + "f = Reshape (n, rows) a = Gemm (f, v) y = MatMul (n, w)"
    model = build(nodes, SHAPES, {"rows": np.array([-1, 8])}, gives=("y", "a"))
    (site,) = proven(model).sites
    assert site.foldable
    assert [consumer.linear for consumer in site.consumers] == ["v", "w"]


def test_a_value_that_is_put_out_is_declined(build: Any, proven: Any) -> None:
    plan = proven(build(NORM + "y = MatMul (n, w)", SHAPES, gives=("y", "n")))
    assert plan.declined == {"n": "n, an output of the graph, is made of it"}


def test_a_reader_that_is_not_linear_is_named(build: Any, proven: Any) -> None:
    nodes = NORM + "y = MatMul (n, w)  z = Softmax (n)"
    plan = proven(build(nodes, SHAPES, gives=("y", "z")))
    assert plan.declined == {"n": "Softmax reads it"}


def test_a_linear_whose_weight_is_the_embedding_table_is_declined(build: Any, proven: Any) -> None:
    nodes = NORM + "t = Transpose (e)  y = MatMul (n, t)  z = Gather (e, zero)"
    model = build(nodes, {"g": (8,), "e": (5, 8)}, {"zero": np.int64(0)}, gives=("y", "z"))
    assert proven(model).declined == {"n": "e is also the embedding table"}


def test_a_linear_that_reads_other_channels_for_other_tokens_is_declined(
    build: Any, proven: Any
) -> None:
    nodes = NORM + "t = Reshape (n, turned)  y = MatMul (t, w)"
    model = build(nodes, {"g": (8,), "w": (4, 6)}, {"turned": np.array([0, -1, 4])})
    (site,) = proven(model).sites
    assert site.reason == "a channel that MatMul reads is scaled differently for some tokens"


def test_what_a_subgraph_reads_is_declined(build: Any) -> None:
    model = build(NORM + "y = MatMul (n, w)", SHAPES)
    norm = next(iter(model.graph))
    inner = ir.Node("", "Neg", [norm.outputs[0]], name="inner")
    body = ir.Graph([], [inner.outputs[0]], nodes=[inner], name="body")
    condition = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    model.graph.inputs.append(condition)
    model.graph.append(
        ir.Node("", "If", [condition], [ir.AttrGraph(b, body) for b in ("then_branch",)])
    )
    assert fold_sites(model).declined == {"n": "Neg inner, inside another node, reads it"}


def test_an_output_of_unknown_shape_is_no_source(build: Any) -> None:
    model = build("h = MatMul (x, v) y = MatMul (h, w)", {"v": (8, 8), "w": (8, 6)})
    model.graph.inputs[0].shape = None
    for node in model.graph:
        node.outputs[0].shape = None
    assert {site.producer for site in fold_sites(model).sites} == {None}

"""Look up which pass made a node of a saved model."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from castline.compiler.passes.authorship import made_by
from castline.compiler.targets.tensorrt.authors import authors, maker
from castline.compiler.targets.tensorrt.build import build_engine
from castline.compiler.targets.tensorrt.edition import TENSORRT_RTX
from castline.compiler.targets.tensorrt.refusals import Finding, grouped
from castline.compiler.targets.tensorrt.supervise import builder_errors
from castline.errors import TargetError
from castline.progress import SilentProgress


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """Save a graph of one float node and one that a pass put in, which no TensorRT takes."""
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> '
        "g (float[B, 4] x) => (float[B, 4] y) { h = Neg (x) y = Abs (h) }"
    )
    for node, name in zip(model.graph, ("layers.0.neg", "layers.0.abs"), strict=True):
        node.name = name
    with made_by(model, "QuantizeActivations"):
        made = ir.node("DynamicQuantizeLinear", [model.graph[0].outputs[0]], num_outputs=3)
        made.name = "layers.0.quantize"
        model.graph.append(made)
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_only_nodes_of_passes_have_makers(signed: Path) -> None:
    assert authors(signed) == {"layers.0.quantize": "QuantizeActivations"}


def test_a_node_out_of_a_function_has_the_maker_of_its_caller() -> None:
    assert maker("q_proj/sum/Add_0", {"q_proj": "LinearW4A16"}) == "LinearW4A16"
    assert maker("k_proj/sum/Add_0", {"q_proj": "LinearW4A16"}) is None


def test_findings_are_grouped_by_maker() -> None:
    findings = [Finding(name, "Cast", "refused") for name in ("a", "b", "c")]
    made = {"a": "Fold", "c": "Fold"}
    assert grouped(findings, made) == (
        "a, c (Cast, made by Fold): refused",
        "b (Cast): refused",
    )


def test_what_the_parser_refuses_names_the_pass(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("[E] In node 1 with name: a/x and operator: Foo (importFoo): no such operator\n")
    assert builder_errors(log, {"a": "Fold"}) == (
        "a/x (Foo, made by Fold): (importFoo): no such operator",
    )


def test_a_graph_that_would_be_refused_names_the_pass(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "castline.compiler.targets.tensorrt.build.require_builder"
    monkeypatch.setattr(module, lambda *_: None)
    with pytest.raises(
        TargetError, match=r"quantize \(DynamicQuantizeLinear, made by QuantizeActivations\): act"
    ):
        build_engine(
            signed,
            tmp_path / "model.engine",
            edition=TENSORRT_RTX,
            profiles=(),
            progress=SilentProgress(),
        )

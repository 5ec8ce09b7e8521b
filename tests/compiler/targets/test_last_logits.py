"""A decoder is cut to its last logits by one node, on the graph alone, and is whole again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.targets.last_logits import (
    LAST_TOKEN,
    keep_last_logits,
    whole_model,
    with_all_logits,
)
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import DATA, MODEL
from castline.errors import TargetError

Write = Callable[[ir.Model], Path]
CONTEXT = 512
INT4 = WeightScheme(4, 32, symmetric=True)

# The residual x reaches the head by a norm, and the head's product is soft-capped and scaled.
HEAD = """
<ir_version: 10, opset_import: ["" : 23]>
head (float[B, S, 4] x) => (float[B, S, 3] logits)
<float[4] gain = {{1, 2, 3, 4}}, float[4, 3] weight = {{{weight}}},
 float cap = {{30.0}}, float two = {{2.0}}, int64 axis = {{1}}>
{{
    summed = CumSum (x, axis)
    {nodes}
}}
"""
NORMED = "normed = RMSNormalization <axis = -1> (summed, gain)"
CAPPED = "a = Div (product, cap)\n b = Tanh (a)\n c = Mul (b, cap)\n logits = Mul (c, two)"
FORMS = {
    "capped": f"{NORMED}\n product = MatMul (normed, weight)\n {CAPPED}",
    "residual": f"{NORMED}\n product = MatMul (normed, weight)\n more = Abs (normed)\n"
    "sum = ReduceSum <keepdims = 1> (more, last)\n logits = Add (product, sum)",
    "branches": f"""{NORMED}
    size = Size (x)
    few = LessOrEqual (size, limit)
    logits = If (few) <
        then_branch = few () => (float[B, S, 3] few_logits)
            {{ few_logits = MatMul (normed, weight) }},
        else_branch = many () => (float[B, S, 3] many_logits)
            {{ product = MatMul (normed, weight)
               many_logits = Mul (product, two) }}
    >""",
}


def head(form: str, folder: Path) -> Path:
    weight = ", ".join(str(i / 7) for i in range(12))
    text = HEAD.format(weight=weight, nodes=FORMS[form]).replace(
        "int64 axis = {1}", "int64 axis = {1}, int64[1] last = {-1}, int64 limit = {8}"
    )
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.name = f"/{node.output[0]}"
    onnx.save(onnx.shape_inference.infer_shapes(proto), folder / MODEL)
    return folder / MODEL


def run(model: Path | bytes, x: np.ndarray) -> np.ndarray:
    loaded = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(loaded.run(["logits"], {"x": x})[0])


def nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for each in inner for node in nodes(each))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 6])
def test_the_last_row_is_what_it_was(form: str, tokens: int, tmp_path: Path) -> None:
    model = head(form, tmp_path)
    x = np.random.default_rng(0).standard_normal((2, tokens, 4)).astype(np.float32)
    whole = run(model, x)
    keep_last_logits(model)
    np.testing.assert_array_equal(run(model, x), whole[:, -1:])
    np.testing.assert_array_equal(run(whole_model(model), x), whole)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(("form", "cut"), [("capped", "summed"), ("residual", "summed")])
def test_the_cut_stands_where_the_last_operator_that_mixes_tokens_ends(
    form: str, cut: str, tmp_path: Path
) -> None:
    model = head(form, tmp_path)
    keep_last_logits(model)
    (node,) = (n for n in nodes(onnx.load(model).graph) if n.name.startswith(LAST_TOKEN))
    assert (node.op_type, node.input[0]) == ("Slice", cut)


def test_each_branch_has_its_cut_and_the_weights_stay_outside(tmp_path: Path) -> None:
    model = head("branches", tmp_path)
    keep_last_logits(model)
    graph = onnx.load(model).graph
    cuts = [n.name for n in nodes(graph) if n.op_type == "Slice"]
    assert cuts == [LAST_TOKEN, f"{LAST_TOKEN}_1"]
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    inside = {tensor.name for each in inner for tensor in each.initializer}
    assert all(name.startswith(LAST_TOKEN) for name in inside)
    assert "weight" in {tensor.name for tensor in graph.initializer}


def test_undoing_gives_the_nodes_weights_and_outputs_back(tmp_path: Path) -> None:
    model = head("capped", tmp_path)
    before = onnx.load(model)
    keep_last_logits(model)
    restored = with_all_logits(onnx.load(model))
    assert list(restored.graph.node) == list(before.graph.node)
    assert list(restored.graph.initializer) == list(before.graph.initializer)
    assert [
        [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
        for v in restored.graph.output
    ] == [["B", "sequence_length", 3]]


def test_a_whole_model_is_loaded_from_its_file(tmp_path: Path) -> None:
    model = head("capped", tmp_path)
    assert whole_model(model) == model


def test_twice_changes_nothing_more(tmp_path: Path) -> None:
    model = head("capped", tmp_path)
    keep_last_logits(model)
    once = model.read_bytes()
    keep_last_logits(model)
    assert model.read_bytes() == once


def test_logits_that_mix_tokens_are_refused_by_the_node_s_name(tmp_path: Path) -> None:
    model = head("capped", tmp_path)
    proto = onnx.load(model)
    proto.graph.node[-1].op_type = "CumSum"
    proto.graph.node[-1].input[1] = "axis"
    onnx.save(proto, model)
    before = model.read_bytes()
    with pytest.raises(TargetError, match=r"since /logits \(CumSum\) is not known to compute"):
        keep_last_logits(model)
    assert model.read_bytes() == before


def test_a_model_without_logits_is_refused(tmp_path: Path) -> None:
    model = head("capped", tmp_path)
    proto = onnx.load(model)
    proto.graph.output[0].name = "last_hidden_state"
    proto.graph.node[-1].output[0] = "last_hidden_state"
    onnx.save(proto, model)
    with pytest.raises(TargetError, match="has no output logits"):
        keep_last_logits(model)


def quantized(model: ir.Model) -> ir.Model:
    QuantizeWeights(INT4)(model)
    QuantizeWeights(INT4, head=True)(model)
    return model


def lowered(model: ir.Model) -> ir.Model:
    OnnxRuntime().lower(quantized(model), CONTEXT)
    return model


@pytest.mark.parametrize(
    ("form", "cut"),
    [(lambda model: model, "layers.1"), (quantized, "layers.1"), (lowered, "/model/norm")],
    ids=["float", "INT4", "MatMulNBits"],
)
def test_the_head_of_a_decoder_multiplies_one_row(
    tiny: Callable[[str], Any],
    written: Write,
    scenarios: dict[str, Any],
    form: Callable[[ir.Model], ir.Model],
    cut: str,
) -> None:
    model = written(form(tiny("llama").model()))
    keep_last_logits(model)
    (node,) = (
        n for n in onnx.load(model, load_external_data=False).graph.node if n.name == LAST_TOKEN
    )
    assert cut in node.input[0]
    whole = DecoderSession.open(model, threads=1)
    last = DecoderSession.open(model, threads=1, logits="last")
    for scenario in ("prefill", "left padding"):
        ids, mask = scenarios[scenario][0]
        expected, found = whole.logits(ids, mask), last.logits(ids, mask)
        assert expected.shape[1] == ids.shape[1]
        assert found.shape == (len(ids), 1, expected.shape[2])
        assert np.abs(found - expected[:, -1:]).max() <= 1e-5 * np.abs(expected).max()
    prompt = scenarios["prefill"][0][0]
    texts = [list(each.generate(prompt, max_new_tokens=5)) for each in (whole, last)]
    assert texts[0] == texts[1]


def test_the_weights_are_never_opened(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    source = tiny("llama").graph
    model = Path(shutil.copy(source, tmp_path / MODEL))
    keep_last_logits(model)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]
    graph = onnx.load(model, load_external_data=False).graph
    original = onnx.load(source, load_external_data=False).graph
    kept = [t for t in graph.initializer if not t.name.startswith(LAST_TOKEN)]
    assert kept == list(original.initializer)
    assert {e.value for t in kept for e in t.external_data if e.key == "location"} == {DATA}


def test_what_the_file_says_of_itself_stays(tiny: Callable[[str], Any], written: Write) -> None:
    model = tiny("llama").model()
    model.metadata_props["castline.context_length"] = "512"
    model.graph[-1].metadata_props["castline.pass"] = "Someone"
    name = model.graph[-1].name
    path = written(model)
    keep_last_logits(path)
    proto = onnx.load(path, load_external_data=False)
    assert {e.key: e.value for e in proto.metadata_props}["castline.context_length"] == "512"
    (node,) = (n for n in proto.graph.node if n.name == name)
    assert {e.key: e.value for e in node.metadata_props}["castline.pass"] == "Someone"

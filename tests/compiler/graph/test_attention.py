"""Attention is recognized with its cache and positions; what is built otherwise is declined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.graph.attention import cached_attentions

# 4 heads on 2 KV heads of width 8, as the exporter writes a layer.
LAYER = """
<ir_version: 10, opset_import: ["" : 23]>
layer (float[B, S, 4, 8] query, float[B, S, 2, 8] key, float[B, S, 2, 8] value,
       float[B, S, 4] cos, float[B, S, 4] sin, bool[B, 1, S, T] mask,
       float[B, 2, P, 8] past_key, float[B, 2, P, 8] past_value)
   => (float[B, S, 32] output, float[B, 2, T, 8] present_key, float[B, 2, T, 8] present_value)
<int64[3] merged = {0, 0, 32}>
{
    q = Transpose <perm = [0, 2, 1, 3]> (query)
    k = Transpose <perm = [0, 2, 1, 3]> (key)
    v = Transpose <perm = [0, 2, 1, 3]> (value)
    turned_q = RotaryEmbedding (q, cos, sin)
    turned_k = RotaryEmbedding (k, cos, sin)
    present_key = Concat <axis = 2> (past_key, turned_k)
    present_value = Concat <axis = 2> (past_value, v)
    attended = Attention <scale = 0.5> (turned_q, present_key, present_value, mask)
    heads_last = Transpose <perm = [0, 2, 1, 3]> (attended)
    output = Reshape (heads_last, merged)
}
"""


def layer(*changes: tuple[str, str]) -> ir.Model:
    text = LAYER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    model = ir.from_onnx_text(text)
    for node in model.graph:
        node.name = f"/{node.op_type}"
    return model


def test_finds_everything_around_the_node() -> None:
    (found,), declined = cached_attentions(layer())
    assert declined == {}
    assert (found.heads, found.kv_heads, found.width) == (4, 2, 8)
    assert (found.scale, found.softcap, found.interleaved) == (0.5, 0.0, False)
    names = [
        value.name
        for value in (found.query, found.key, found.value, found.cos, found.sin, found.mask)
    ]
    assert names == ["query", "key", "value", "cos", "sin", "mask"]
    assert [value.name for value in found.past] == ["past_key", "past_value"]
    assert [value.name for value in found.present] == ["present_key", "present_value"]
    assert found.output.name == "output"


def test_a_scale_that_is_not_given_is_the_default() -> None:
    (found,), _ = cached_attentions(layer((" <scale = 0.5>", "")))
    assert found.scale is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([("present_value, mask)", "present_value)")], "it has no mask"),
        ([("bool[B, 1, S, T]", "float[B, 1, S, T]")], "its mask is not boolean"),
        ([("= RotaryEmbedding (q,", "= Mul (q,"), ("Mul (q, cos, sin)", "Mul (q, q)")],
         "query has no rotary positions or key and value no cache"),
        ([("= Concat <axis = 2> (past_value, v)", "= Identity (v)")],
         "query has no rotary positions or key and value no cache"),
        ([("(k, cos, sin)", "(k, sin, cos)")], "query and key do not share their rotary positions"),
        ([("RotaryEmbedding (q,", "RotaryEmbedding <interleaved = 1> (q,")],
         "query and key do not share their rotary positions"),
        ([("RotaryEmbedding (", "RotaryEmbedding <rotary_embedding_dim = 4> (")],
         "its rotary positions are looked up, or turn a part of the width"),
        ([("perm = [0, 2, 1, 3]> (key)", "perm = [0, 2, 3, 1]> (key)")],
         "heads are not split and merged in the common way"),
        ([("= Transpose <perm = [0, 2, 1, 3]> (attended)", "= Identity (attended)")],
         "heads are not split and merged in the common way"),
        ([("<scale = 0.5>", "<is_causal = 1>")], "it is causal by attribute"),
        ([("float[B, S, 4, 8] query", "float[B, S, H, 8] query")],
         "head counts or widths are not static, or key and value differ in width"),
        ([("float[B, S, 2, 8] value", "float[B, S, 2, 4] value")],
         "head counts or widths are not static, or key and value differ in width"),
    ],
)  # fmt: skip
def test_declines_other_forms_with_the_reason(changes: list[tuple[str, str]], reason: str) -> None:
    assert cached_attentions(layer(*changes)) == ((), {"/Attention": reason})


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_recognizes_every_layer_that_the_exporter_writes(
    tiny: Callable[[str], Any], name: str
) -> None:
    found, declined = cached_attentions(tiny(name).model())
    assert declined == {}
    assert [(a.heads, a.kv_heads, a.width) for a in found] == [(4, 2, 32)] * 2

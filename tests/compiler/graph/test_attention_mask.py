"""Masks are told apart by what they allow, however the graph computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.graph.attention import cached_attentions
from castline.compiler.graph.attention_mask import CausalMask, causal_mask

MASK = """
<ir_version: 10, opset_import: ["" : 23]>
masks (int64[B, S] input_ids, int64[B, T] attention_mask, int64[B, S] position_ids)
    => (bool[B, 1, S, T] mask)
<int64 zero = {0}, int64 one = {1}, int64[1] front = {0}, int64[2] middle = {1, 2},
 int64[1] last = {1}, int64[2] both = {1, 3}>
{
    s_list = Shape <start = 1, end = 2> (input_ids)
    t_list = Shape <start = 1, end = 2> (attention_mask)
    s = Squeeze (s_list)
    t = Squeeze (t_list)
    past = Sub (t, s)
    keys = Range (zero, t, one)
    rows = Range (past, t, one)
    queries = Unsqueeze (rows, last)
    ALLOWED
    real = Cast <to = 9> (attention_mask)
    padding = Unsqueeze (real, middle)
    mask = And (padding, allowed)
}
"""
CAUSAL = "allowed = LessOrEqual (keys, queries)"


def mask_of(allowed: str) -> ir.Value:
    return ir.from_onnx_text(MASK.replace("ALLOWED", allowed)).graph.outputs[0]


def test_recognizes_a_causal_mask() -> None:
    assert causal_mask(mask_of(CAUSAL), 64) == CausalMask(window=None)


def test_recognizes_a_sliding_window() -> None:
    window = """
    causal = LessOrEqual (keys, queries)
    distance = Sub (queries, keys)
    near = Less (distance, width)
    allowed = And (causal, near)
    """
    text = MASK.replace("ALLOWED", window).replace("<int64 zero", "<int64 width = {7}, int64 zero")
    assert causal_mask(ir.from_onnx_text(text).graph.outputs[0], 64) == CausalMask(window=7)
    assert causal_mask(ir.from_onnx_text(text).graph.outputs[0], 6) == CausalMask(window=None)


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        ("allowed = Less (keys, queries)", "neither causal nor a sliding window"),
        ("allowed = GreaterOrEqual (keys, queries)", "neither causal nor a sliding window"),
        (
            "column = Unsqueeze (position_ids, both)\nallowed = LessOrEqual (keys, column)",
            "depends on attention_mask, position_ids",
        ),
    ],
)
def test_declines_other_masks_with_the_reason(allowed: str, reason: str) -> None:
    form = causal_mask(mask_of(allowed), 64)
    assert isinstance(form, str)
    assert reason in form


@pytest.mark.parametrize(("architecture", "window"), [("llama", None), ("mistral", 6)])
def test_recognizes_the_masks_of_traced_decoders(
    tiny: Callable[[str], Any], architecture: str, window: int | None
) -> None:
    attentions, _ = cached_attentions(tiny(architecture).model())
    assert {causal_mask(a.mask, 512) for a in attentions} == {CausalMask(window)}

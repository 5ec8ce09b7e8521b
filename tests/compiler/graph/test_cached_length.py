"""How a decoder counts its cached tokens is recognized, or declined by name."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.graph.cached_length import CachedLength, cached_length

COUNTING = """
<ir_version: 10, opset_import: ["" : 23]>
count (int64[B, S] input_ids, int64[B, T] attention_mask) => (bool[1, 1, S, T] allowed)
<int64[2] outer = {{0, 1}}, int64[1] last = {{3}}, int64[3] three = {{0, 1, 2}},
 int64 zero = {{0}}, int64 one = {{1}}>
{{
    new = Shape <start = 1, end = 2> (input_ids)
    total = Shape <start = 1, end = 2> (attention_mask)
    past = Sub (total, new)
    past_scalar = Squeeze (past)
    new_scalar = Squeeze (new)
    length = {length}
    steps = Range (zero, new_scalar, one)
    places = Add (steps, past_scalar)
    row = Unsqueeze (places, {axes})
    query = Unsqueeze (row, last)
    every = Range (zero, length, one)
    key = Unsqueeze (every, three)
    allowed = LessOrEqual (key, query)
}}
"""


def counting(length: str = "Add (past_scalar, new_scalar)", axes: str = "outer") -> ir.Graph:
    model = ir.from_onnx_text(COUNTING.format(length=length, axes=axes))
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}"
    return model.graph


def test_totals_and_places_are_found() -> None:
    found = cached_length(counting())
    assert isinstance(found, CachedLength)
    assert [value.name for value in found.totals] == ["length"]
    assert [value.name for value in found.places] == ["query"]
    assert [value.name for value in found.steps] == ["steps"]


def test_another_reader_of_the_count_is_declined_by_name() -> None:
    reason = "/length (Mul) reads the number of cached tokens"
    assert cached_length(counting("Mul (past_scalar, new_scalar)")) == reason


def test_places_in_another_form_are_declined() -> None:
    reason = "/places gives places of tokens that are read in an unknown form"
    assert cached_length(counting(axes="last")) == reason


def test_a_graph_that_does_not_count_is_declined() -> None:
    graph = counting()
    past = next(node for node in graph if node.op_type == "Sub")
    past.replace_input_with(0, past.inputs[1])
    assert cached_length(graph) == "it does not count cached tokens by its attention_mask"


def test_a_graph_of_other_inputs_is_declined() -> None:
    graph = counting()
    graph.inputs[1].name = "mask"
    assert cached_length(graph) == "it has no attention_mask or no input_ids"

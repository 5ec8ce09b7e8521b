"""Routers, single outputs and what the recipe keeps stay in float, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.recipes.recipe import Recipe
from castline.compiler.searchable import layer_weights, stays_float
from castline.errors import RecipeError

LINEARS = """
<ir_version: 10, opset_import: ["" : 23]>
decoder (float[B, 2] x) => (float[B, 2] logits)
<float[2, 2] first_up = {0, 0, 0, 0}, float[2, 1] first_gate = {0, 0},
 float[2, 2] second_up = {0, 0, 0, 0}, float[2, 2] head = {0, 0, 0, 0}>
{
    up = MatMul (x, first_up)
    gate = MatMul (up, first_gate)
    gated = Mul (up, gate)
    more = MatMul (gated, second_up)
    logits = MatMul (more, head)
}
"""


def recipe(*keep: str) -> Recipe:
    return Recipe(name="r", weights=None, keep=keep)


def small() -> ir.Model:
    return ir.from_onnx_text(LINEARS)


def test_the_weights_of_the_layers_are_named_and_not_the_heads() -> None:
    assert layer_weights(small()) == ("first_up", "first_gate", "second_up")


def test_a_single_output_stays() -> None:
    assert stays_float(small(), recipe()) == {"first_gate": "it has a single output"}


def test_what_the_recipe_keeps_stays_and_its_pattern_is_told() -> None:
    found = stays_float(small(), recipe("second*", "*_up"))
    assert found == {
        "first_up": "the recipe keeps *_up",
        "first_gate": "it has a single output",
        "second_up": "the recipe keeps second*",
    }


def test_a_reason_of_the_graph_comes_before_that_of_the_recipe() -> None:
    assert stays_float(small(), recipe("*_gate"))["first_gate"] == "it has a single output"


def test_patterns_that_no_weight_has_are_refused_together() -> None:
    with pytest.raises(
        RecipeError,
        match=r"keep: no linear of the model is called third\*, head\. .* first_up, first_gate",
    ):
        stays_float(small(), recipe("third*", "*_up", "head"))


def test_the_router_of_experts_stays_and_their_stacks_do_not(
    sample: Callable[[str], Any],
) -> None:
    graph = sample("qwen3_moe").graph()
    found = stays_float(graph, recipe("*.2.mlp.experts.*"))
    routers = {f"model.layers.{index}.mlp.gate.weight" for index in (0, 2)}
    assert {name for name, why in found.items() if why == "it chooses experts"} == routers
    kept = {f"model.layers.2.mlp.experts.{name}_proj" for name in ("gate_up", "down")}
    assert found.keys() - routers == kept
    assert kept < set(layer_weights(graph))

"""Units hold what is quantized together, and know what that saves."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.units import stored_bytes, units

INT8 = WeightScheme(8, "per-channel", symmetric=True)
SHAPES = {
    "model.layers.0.attn.q.weight": (8, 16),
    "model.layers.0.attn.k.weight": (4, 16),
    "model.layers.0.attn.o.weight": (16, 8),
    "model.layers.1.experts": (3, 32, 64),
}


def linear(name: str, weights: WeightScheme | None = INT8) -> PlannedLinear:
    return PlannedLinear(name, weights, None, None, None, None, None, 1.0, 1.0)


def site(*linears: str) -> PlannedSite:
    peaks = np.ones(16, np.float32)
    return PlannedSite(
        linears[0], "norm gain", linears, peaks, peaks, None, None, None, None, None, None
    )


def plan(*blocks: PlannedBlock) -> QuantPlan:
    facts = CalibrationFacts("shipped", "0", 1, 8, 0, chat_template=False)
    return QuantPlan(PlanIdentity("0", {}, facts, "0"), {}, blocks)


def two_blocks() -> QuantPlan:
    q, k, o, experts = SHAPES
    first = PlannedBlock(
        0,
        "model.layers.0",
        tuple(linear(name) for name in (q, k, o)),
        (site(q, k), site(o)),
        None,
    )
    return plan(first, PlannedBlock(1, "model.layers.1", (linear(experts),), (), None))


def test_by_layer_a_block_is_a_unit() -> None:
    found = units(two_blocks(), SHAPES, "layer")
    assert [unit.name for unit in found] == ["model.layers.0", "model.layers.1"]
    assert found[0].linears == tuple(SHAPES)[:3]
    assert found[0].patterns == ("model.layers.0.*",)


def test_by_linear_those_that_read_one_value_are_a_unit() -> None:
    found = units(two_blocks(), SHAPES, "linear")
    assert [unit.name for unit in found] == [
        "model.layers.0.attn.q, k",
        "model.layers.0.attn.o",
        "model.layers.1.experts",
    ]
    assert found[0].linears == found[0].patterns == tuple(SHAPES)[:2]


@pytest.mark.parametrize("by", ["layer", "linear"])
def test_the_patterns_keep_the_units_linears_and_no_other(by) -> None:
    for unit in units(two_blocks(), SHAPES, by):
        recipe = Recipe(name="r", weights=None, keep=unit.patterns)
        assert {name for name in SHAPES if recipe.keeps(name)} == set(unit.linears)


def test_what_stays_in_float_is_in_no_unit() -> None:
    q, k, *_ = SHAPES
    block = PlannedBlock(0, "model.layers.0", (linear(q), linear(k, None)), (site(q, k),), None)
    (found,) = units(plan(block), SHAPES, "linear")
    assert found.linears == (q,)
    assert units(plan(PlannedBlock(0, "b", (linear(k, None),), (), None)), SHAPES, "layer") == ()


def test_bytes_saved_are_those_of_float16_less_those_of_the_codes_and_scales() -> None:
    q, k, *_ = units(two_blocks(), SHAPES, "linear")
    assert q.bytes_saved == 12 * 16 * 2 - (12 * 16 + 12 * 2)
    assert k.bytes_saved == 16 * 8 * 2 - (16 * 8 + 16 * 2)


def test_quantizing_activations_alone_saves_nothing() -> None:
    per_token = ActivationScheme(8, "per-token", dynamic=True)
    name = "model.layers.0.attn.q.weight"
    only = PlannedLinear(name, None, per_token, None, None, None, None, 1.0, 1.0)
    (found,) = units(plan(PlannedBlock(0, "b", (only,), (), None)), SHAPES, "layer")
    assert found.bytes_saved == 0


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (WeightScheme(8, "per-tensor", symmetric=True), 2 * 64 * 32 + 2 * 2),
        (WeightScheme(6, "per-channel", symmetric=True), 2 * 64 * 32 + 2 * 64 * 2),
        (WeightScheme(3, 16, symmetric=True), 2 * 64 * 32 // 2 + 2 * 64 * 2 * 2),
        (WeightScheme(4, 16, symmetric=False), 2 * 64 * 32 // 2 + 2 * 64 * 2 * 5 // 2),
        (WeightScheme(4, 16, True, two_level=True), 2 * (64 * 32 // 2 + 64 * 2 + 64 * 2)),
        (WeightScheme(4, 64, True, two_level=True), 2 * (64 * 32 // 2 + 64 + 64 * 2)),
    ],
)
def test_stored_bytes_of_a_stack_of_two_matrices(scheme: WeightScheme, expected: int) -> None:
    assert stored_bytes((2, 64, 32), scheme) == expected

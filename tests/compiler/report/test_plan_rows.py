from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.report.plan_rows import (
    ExceptionRow,
    LinearRow,
    block_rows,
    declined_rows,
    divided_rows,
    kept_rows,
    site_titles,
    unreached_rows,
    worst_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_linear_has_a_row_below_its_block(plan_of: Callable[..., QuantPlan]) -> None:
    first, second = block_rows(plan_of(2))
    assert (first.name, second.name) == ("model.layers.0", "model.layers.1")
    assert second.linears[0] == LinearRow(
        block=1,
        name="self_attn.q_proj",
        weights="INT8, per channel, symmetric",
        activations="INT8, per token, dynamic, symmetric",
        peak_before="40",
        peak_after="5",
        alpha="0.55",
        clipped="",
        weight_sqnr="38.0",
        output_sqnr="29.0",
        kept="",
    )


def test_a_linear_in_float_says_why_and_one_without_error_that_it_is_exact(
    plan_of: Callable[..., QuantPlan],
) -> None:
    _q, k, down = block_rows(plan_of(1))[0].linears
    assert k.output_sqnr == "exact"
    assert (down.weights, down.output_sqnr, down.alpha) == ("float", "", "")
    assert down.kept == "it reads 4,000 times the median"


def test_the_worst_are_those_with_the_lowest_sqnr(plan_of: Callable[..., QuantPlan]) -> None:
    worst = worst_rows(plan_of(3), 3)
    assert [(row.block, row.output_sqnr) for row in worst] == [
        (1, "25.0"),
        (2, "25.0"),
        (2, "28.0"),
    ]


def test_what_is_alike_in_several_blocks_is_one_row(plan_of: Callable[..., QuantPlan]) -> None:
    plan = plan_of(3)
    reason = "it reads 4,000 times the median"
    assert kept_rows(plan) == (ExceptionRow("down_proj", "0", reason),)
    assert declined_rows(plan) == (ExceptionRow("down_proj", "0-2", "nothing takes the scale up"),)


def test_without_smoothing_no_site_is_said_to_be_declined(
    plan_of: Callable[..., QuantPlan],
) -> None:
    assert declined_rows(plan_of(2, smoothed=False)) == ()


def test_what_awq_left_to_the_graph_and_never_reached_is_grouped(
    plan_of: Callable[..., QuantPlan],
) -> None:
    plan = plan_of(3)
    assert divided_rows(plan) == unreached_rows(plan) == ()
    blocks = tuple(
        replace(
            block,
            linears=tuple(
                replace(one, unreached=(1, 2, 5), clipped=0.125) for one in block.linears
            ),
            sites=tuple(replace(one, explicit=one.kind == "") for one in block.sites),
        )
        for block in plan.blocks
    )
    other = QuantPlan(plan.identity, plan.recipe, blocks)
    reason = "nothing in the model can take the scale up"
    assert divided_rows(other) == (ExceptionRow("down_proj", "0-2", reason),)
    assert unreached_rows(other)[0] == ExceptionRow(
        "q_proj, experts 1-2, 5", "0-2", "rounded to nearest"
    )
    assert block_rows(other)[0].linears[0].clipped == "12.5 %"


def test_a_site_is_called_by_the_linears_that_read_it(plan_of: Callable[..., QuantPlan]) -> None:
    assert site_titles(plan_of(1)) == {
        "/layers.0/norm": "q_proj, k_proj",
        "/layers.0/up": "down_proj",
    }

"""A plan finds its linears, sites and caches over all blocks."""

from __future__ import annotations

from collections.abc import Callable

from castline.compiler.plan.decisions import PlanIdentity, PlannedBlock, QuantPlan


def test_linears_are_found_by_the_names_of_their_weights(
    block: Callable[..., PlannedBlock], identity: Callable[..., PlanIdentity]
) -> None:
    plan = QuantPlan(identity(), {}, (block(0), block(1)))
    assert len(plan.linears) == 6
    name = "model.layers.1.k.weight"
    assert plan.linears[name] is plan.blocks[1].linears[1]


def test_sites_are_those_of_all_blocks_and_caches_of_those_that_have_one(
    block: Callable[..., PlannedBlock], identity: Callable[..., PlanIdentity]
) -> None:
    blocks = (block(0, cache=False), block(1))
    plan = QuantPlan(identity(), {}, blocks)
    assert plan.sites == blocks[0].sites + blocks[1].sites
    assert list(plan.caches) == [1]
    assert plan.caches[1] is blocks[1].cache

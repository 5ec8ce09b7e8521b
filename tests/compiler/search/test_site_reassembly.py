"""Of a block, those sites are reassembled that the recipe names and that gain by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.recipes.reassembly import Reassembly
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.block_plan import SiteDecision
from castline.compiler.search.reassembly import reassemble
from castline.compiler.search.site_problem import site_problem
from castline.compiler.search.site_reassembly import SiteReassembly

QUICK = Reassembly(steps=3)
BLOCK = "model.layers.0."
Q, K, V = (f"{BLOCK}self_attn.{name}_proj.weight" for name in "qkv")


@pytest.fixture
def opened(
    trial: Callable[..., Any], with_outliers: Callable[..., Any], w4a4_qllm: Callable[..., Recipe]
) -> Callable[..., Any]:
    """Return the trial of a sample's first block, two channels of whose norms are large."""

    def of(name: str = "llama", kept: dict[str, str] | None = None, **fields: Any) -> Any:
        return trial(name, w4a4_qllm(**fields), kept, checkpoint=with_outliers(name))

    return of


def decided(one: Any, roles: dict[str, Any], settings: Reassembly = QUICK) -> list[SiteDecision]:
    decisions = one.fold()
    reassembly = SiteReassembly(settings, one.search, roles, one.search.modules)
    return list(reassembly(decisions, one.observations))


def test_every_site_but_the_output_of_attention_gains(
    opened: Callable[..., Any], roles: Callable[[str], dict[str, Any]]
) -> None:
    with opened() as one:
        decisions = decided(one, roles("llama"))
        assert one.changed == set()
    attention, output, feed_forward, down = (each.planned.reassembly for each in decisions)
    assert output is None
    assert attention.linears == (Q, K, V)
    assert [each.inspected for each in (attention, feed_forward, down)] == [
        "self_attn",
        "mlp",
        None,
    ]
    for each in (attention, feed_forward, down):
        assert each.error <= 0.99 * each.error_before
    for each in (attention, feed_forward):
        apart = np.flatnonzero(np.bincount(each.channels.gather) > 1)
        assert set(apart) & {3, 40}, "the channels that the norm's gain makes large"


@pytest.mark.parametrize("named", ["attention", "feed-forward", "down"])
def test_the_recipe_names_what_is_reassembled(
    opened: Callable[..., Any], roles: Callable[[str], dict[str, Any]], named: str
) -> None:
    with opened() as one:
        decisions = decided(one, roles("llama"), Reassembly(steps=3, sites=(named,)))
    found = {
        roles("llama")[each.planned.site]
        for each in decisions
        if each.planned.reassembly is not None
    }
    assert found == {named}


def test_what_stays_in_float_reads_the_value_as_it_is(
    opened: Callable[..., Any], roles: Callable[[str], dict[str, Any]]
) -> None:
    with opened(kept={K: "the recipe keeps it"}) as one:
        assert decided(one, roles("llama"))[0].planned.reassembly.linears == (Q, V)
    with opened(kept=dict.fromkeys((Q, K, V), "the recipe keeps it")) as one:
        assert decided(one, roles("llama"))[0].planned.reassembly is None


def test_it_is_of_what_is_read_once_the_scale_is_folded(
    opened: Callable[..., Any], roles: Callable[[str], dict[str, Any]]
) -> None:
    """Searched apart: all rows that the last linear read, over the scale, and its own moments."""
    fields = {"algorithm": "smoothquant", "smoothing": {"alpha": 0.1, "sites": ["up"]}}
    with opened(**fields) as one:
        decision = decided(one, roles("llama"))[-1]
        problem = site_problem(one.sites[-1], one.parameters, one.observations, {})
        (linear,) = problem.linears
        assert linear.observed is not None
        x = linear.observed.rows / linear.channels(decision.scale)
        found = reassemble(
            problem.folded(decision.scale), one.search.quantizer, x.T @ x, QUICK, None
        )
    assert not torch.equal(decision.scale, torch.ones_like(decision.scale))
    assert found is not None
    made = decision.planned.reassembly
    assert made is not None
    np.testing.assert_array_equal(made.channels.gather, found.channels.gather)
    np.testing.assert_array_equal(made.channels.place, found.channels.place)
    assert (made.threshold, made.metric) == (pytest.approx(found.threshold), found.metric)
    assert made.error == pytest.approx(found.error, rel=1e-4)


def test_a_router_reads_the_value_as_it_is(
    opened: Callable[..., Any], roles: Callable[[str], dict[str, Any]]
) -> None:
    router = f"{BLOCK}mlp.gate.weight"
    with opened("mixtral", kept={router: "it chooses experts"}) as one:
        (found,) = (
            each.planned.reassembly
            for each in decided(one, roles("mixtral"))
            if router in each.planned.linears
        )
    assert found is not None
    assert found.linears == (f"{BLOCK}mlp.experts.gate_up_proj",)

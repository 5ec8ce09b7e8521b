"""A prepared block becomes a plan's, with the codes of its folded and corrected weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.plan.decisions import PlannedBlock, PlannedCache
from castline.compiler.quant.round_to_nearest import dequantize
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.prepared_block import PreparedBlock

BLOCK = "model.layers.0"
DOWN = f"{BLOCK}.mlp.down_proj.weight"


@pytest.fixture
def opened(trial: Callable[..., Any], w4a4_qllm: Callable[..., Recipe]) -> Callable[..., Any]:
    def of(name: str = "llama", **fields: Any) -> Any:
        return trial(name, w4a4_qllm(**fields))

    return of


def prepared(one: Any, **fields: Any) -> PreparedBlock:
    given = {"ranges": {}, "cache": None} | fields
    return PreparedBlock(0, one.search, one.observations, one.fold(), **given)


def codes(block: PlannedBlock, name: str) -> list[np.ndarray]:
    return [matrix.codes for matrix in block.codes[name].matrices()]


def require_nearest(block: PlannedBlock, name: str, weight: torch.Tensor) -> None:
    """Check that 16 levels reach from the least to the largest of each row [N, K], and are near."""
    (matrix,) = block.codes[name].matrices()
    stored, rows = dequantize(matrix).T, weight.numpy()
    step = (rows.max(axis=1) - rows.min(axis=1)) / 15
    np.testing.assert_allclose(matrix.scales.squeeze(), step, rtol=1e-3)  # they are float16's
    beyond = 0.02 * step[:, None]  # the ends of a range, where its step was rounded down
    assert (np.abs(stored - rows) <= step[:, None] / 2 + beyond).all()


def test_it_is_the_plans_block_of_all_linears_and_sites(opened: Callable[..., Any]) -> None:
    cache = PlannedCache(np.ones(1, np.float32), np.ones(1, np.float32))
    with opened() as one:
        block = prepared(one, cache=cache).planned({})
        assert prepared(one).parameters is one.parameters
        for linear in block.linears:
            require_nearest(block, linear.name, one.parameters[linear.name])
    assert (block.index, block.name, block.correction) == (0, BLOCK, None)
    assert block.cache is cache
    assert [site.site for site in block.sites] == [site.value for site in one.sites]
    assert len(block.linears) == len(block.codes) == 7


def test_codes_are_of_the_weights_with_what_was_learned(opened: Callable[..., Any]) -> None:
    delta = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    with opened() as one:
        made = prepared(one)
        plain, corrected = made.planned({}), made.planned({(DOWN, None): delta})
        require_nearest(corrected, DOWN, one.parameters[DOWN] + delta)
        assert one.changed == set()
    for name in plain.codes.keys() - {DOWN}:
        np.testing.assert_array_equal(codes(corrected, name), codes(plain, name))


def test_an_expert_of_a_stack_is_corrected_alone(opened: Callable[..., Any]) -> None:
    name = f"{BLOCK}.mlp.experts.down_proj"
    with opened("mixtral") as one:
        delta = torch.ones_like(one.parameters[name][2])
        delta[0, 0] = 20
        made = prepared(one)
        plain, corrected = made.planned({}), made.planned({(name, 2): delta})
    pairs = zip(codes(plain, name), codes(corrected, name), strict=True)
    assert [np.array_equal(*pair) for pair in pairs] == [True, True, False, True]


def test_static_parameters_are_those_of_the_sites(opened: Callable[..., Any]) -> None:
    activations = {"bits": 8, "granularity": "per-tensor", "scales": "static"}
    with opened(activations=activations, reassembly=None) as one:
        ranges = {site.value: QuantParameters(0.5, 3) for site in one.sites}
        block = prepared(one, ranges=ranges).planned({})
    assert {linear.parameters for linear in block.linears} == {QuantParameters(0.5, 3)}

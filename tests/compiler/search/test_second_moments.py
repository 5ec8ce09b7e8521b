"""Moments are sums over all that was read, once for linears that read the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.search.compensation import compensated
from castline.compiler.search.fake_grids import ends, weight_grid
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.second_moments import SecondMoments, first_readers

FIRST = {"q.weight": "q.weight", "k.weight": "q.weight", "experts": "experts"}


def call(name: str, x: torch.Tensor, expert: int | None = None) -> LinearCall:
    return LinearCall(name, expert, x, torch.eye(x.shape[-1]), None, transposed=False)


def gathered() -> SecondMoments:
    return SecondMoments(FIRST, lambda call: call.answer())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [4, 256, 300, 530])  # 256 rows of the sum are made at once
def test_batches_are_summed_up(k: int) -> None:
    moments, x = gathered(), normal(3, 5, k)
    for batch in x.split([2, 1]):
        answer = moments(call("q.weight", batch))
        assert torch.equal(answer, batch)
    found = moments.of("q.weight", None)
    assert found is not None
    rows = x.reshape(15, k)
    torch.testing.assert_close(found.second, rows.T @ rows)
    torch.testing.assert_close(found.second, found.second.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.magnitude, rows.double().abs().sum(0), rtol=1e-6, atol=0)
    assert found.rows == 15


def test_linears_that_read_the_same_are_summed_up_once() -> None:
    moments, x = gathered(), normal(5, 4)
    moments(call("q.weight", x))
    moments(call("k.weight", x))
    assert set(moments.seen) == {("q.weight", None)}
    found = moments.of("k.weight", None)
    assert found is not None
    assert found is moments.of("q.weight", None)
    assert found.rows == 5


def test_each_expert_has_its_own_and_one_that_nothing_reached_has_none() -> None:
    moments = gathered()
    for expert in (0, 2):
        moments(call("experts", normal(expert + 1, 4), expert))
    moments(call("experts", torch.empty(0, 4), 1))
    found = [moments.of("experts", expert) for expert in range(3)]
    assert [None if one is None else one.rows for one in found] == [1, None, 3]


def test_what_is_not_asked_for_is_answered_and_not_summed_up() -> None:
    moments, x = gathered(), normal(5, 4)
    assert torch.equal(moments(call("elsewhere", x)), x)
    assert not moments.seen


def test_the_cost_of_an_error_is_that_of_the_outputs() -> None:
    """The squared error of x E^T is the trace of E S E^T."""
    moments, x, error = gathered(), normal(50, 4), normal(3, 4, seed=1)
    moments(call("q.weight", x))
    found = moments.of("q.weight", None)
    assert found is not None
    cost = float((error @ found.second @ error.T).trace())
    assert cost == pytest.approx(float((x @ error.T).square().sum()), rel=1e-5)


def test_what_is_expected_elsewhere_by_hand() -> None:
    moments = gathered()
    moments(call("q.weight", torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 2.0]])))
    found = moments.of("q.weight", None)
    assert found is not None
    assert found.second.tolist() == [[6, 3], [3, 5]]
    chance, row = 1.5 * math.sqrt(2 / 4), 5.5 / 4
    expected = [[6 * (1 + chance) + row, 3], [3, 5 * (1 + chance) + row]]
    torch.testing.assert_close(found.expected, torch.tensor(expected))
    assert found.second.tolist() == [[6, 3], [3, 5]]


@pytest.mark.parametrize("rows", [1, 8, 40, 160])
def test_codes_that_were_chosen_by_a_few_rows_answer_others_no_worse_than_the_nearest(
    rows: int,
) -> None:
    k, scheme = 64, WeightScheme(3, 32, symmetric=False)
    mix = normal(k, k, seed=1) / k**0.5 + torch.eye(k)
    read, other = (normal(count, k, seed=count) @ mix for count in (rows, 2000))
    groups = normal(32, 2, 32, seed=3)
    moments = gathered()
    moments(call("q.weight", read))
    found = moments.of("q.weight", None)
    assert found is not None
    grid = weight_grid(*ends(groups), scheme)

    def error(weight: torch.Tensor) -> float:
        return float((other @ (weight - groups).reshape(32, k).T).square().sum())

    nearest = error(grid.rounded(groups))
    fitted, steps = compensated(groups, found.expected, grid)
    assert error(steps * fitted.scale) < nearest
    naive, rash = compensated(groups, found.second, grid)
    assert error(steps * fitted.scale) < error(rash * naive.scale)


def test_the_first_dense_linear_reads_for_the_others_and_stacks_for_themselves() -> None:
    def site(*names: str) -> Site:
        consumers = tuple(Consumer(name, name, np.arange(2)) for name in names)
        return Site("x", "gain", "norm gain", consumers, (), 2, None)

    found = first_readers(
        [site("q.weight", "k.weight"), site("experts", "gate.weight", "up.weight")]
    )
    assert found == {
        "q.weight": "q.weight",
        "k.weight": "q.weight",
        "experts": "experts",
        "gate.weight": "gate.weight",
        "up.weight": "gate.weight",
    }

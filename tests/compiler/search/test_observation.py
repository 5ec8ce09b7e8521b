"""Every linear's peaks are those of all that it read, and some rows of it are kept."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.observation import ROWS, Observations
from castline.errors import CheckpointError


def call(
    x: torch.Tensor, name: str = "w", expert: int | None = None, *, transposed: bool = False
) -> LinearCall:
    weight = torch.eye(x.shape[-1]) * 2
    return LinearCall(name, expert, x, weight, torch.ones(x.shape[-1]), transposed)


def test_the_model_goes_on_as_if_nobody_looked() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(Observations(1, 0)(call(x)), 2 * x + 1)


def test_peaks_are_of_all_batches_and_both_signs() -> None:
    observations = Observations(calls=2, seed=0)
    observations(call(torch.tensor([[[1.0, -5.0], [2.0, 0.0]]])))
    observations.next_batch()
    observations(call(torch.tensor([[-3.0, 1.0]])))
    seen = observations.seen["w", None]
    assert seen.low.tolist() == [-3, -5]
    assert seen.high.tolist() == [2, 1]
    assert seen.peaks.tolist() == [3, 5]


def test_experts_are_told_apart_and_one_that_reads_nothing_was_not_seen() -> None:
    observations = Observations(1, 0)
    observations(call(torch.ones(3, 2), "stack", 1))
    observations(call(torch.full((1, 2), 7.0), "stack", 2))
    observations(call(torch.ones(0, 2), "stack", 3))
    assert list(observations.seen) == [("stack", 1), ("stack", 2)]
    assert observations.seen["stack", 2].peaks.tolist() == [7, 7]


def test_matrices_that_are_stored_the_other_way_round_are_noted() -> None:
    observations = Observations(1, 0)
    observations(call(torch.ones(1, 2), "a"))
    observations(call(torch.ones(1, 2), "b", transposed=True))
    assert observations.transposed == {"b"}


def test_rows_are_bounded_and_come_from_every_batch() -> None:
    observations = Observations(calls=4, seed=0)
    for batch in range(4):
        observations(call(torch.full((2, 300, 3), float(batch))))
        observations.next_batch()
    rows = observations.seen["w", None].rows
    assert rows.shape == (ROWS, 3)
    assert rows[:, 0].unique(return_counts=True)[1].tolist() == [ROWS // 4] * 4


def test_rows_are_real_ones_without_repetition_and_the_same_for_a_seed() -> None:
    x = torch.arange(3000.0).reshape(1000, 3)

    def rows(seed: int) -> torch.Tensor:
        observations = Observations(1, seed)
        observations(call(x))
        return observations.seen["w", None].rows

    assert torch.equal(rows(0), rows(0))
    assert not torch.equal(rows(0), rows(1))
    assert len(rows(0)[:, 0].unique()) == ROWS
    assert all(bool((x == row).all(1).any()) for row in rows(0)[:20])


def test_linears_that_read_one_value_keep_its_rows_once() -> None:
    observations, x = Observations(2, seed=0), torch.arange(12.0).reshape(4, 3)
    for value in (x, x + 1):
        for name in ("q", "k"):
            observations(call(value, name))
        observations.next_batch()
    q, k = (observations.seen[name, None] for name in ("q", "k"))
    assert [one.data_ptr() for one in q.parts] == [one.data_ptr() for one in k.parts]
    assert torch.equal(q.rows, k.rows)
    assert len(q.parts) == 2
    assert q.high.tolist() == k.high.tolist() == [10, 11, 12]
    assert q.low.tolist() == k.low.tolist() == [0, 1, 2]


def test_rows_do_not_change_when_the_model_writes_into_what_it_gave() -> None:
    x = torch.ones(4, 2)
    observations = Observations(1, 0)
    observations(call(x))
    x.zero_()
    assert observations.seen["w", None].rows.min() == 1


def test_what_was_observed_can_be_seen_over_a_scale() -> None:
    observations = Observations(2, 0)
    for x in (torch.tensor([[1.0, -6.0]]), torch.tensor([[-4.0, 2.0]])):
        observations(call(x))
    observed = observations.seen["w", None]
    over = observed.over(torch.tensor([2.0, 4.0]))
    assert over.rows.tolist() == [[0.5, -1.5], [-2, 0.5]]
    assert (over.low.tolist(), over.high.tolist()) == ([-2, -1.5], [0.5, 0.5])
    assert over.peaks.tolist() == [2, 1.5]
    assert observed.peaks.tolist() == [4, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_its_linear_named(value: float) -> None:
    x = torch.ones(2, 4)
    x[1, 2] = value
    refused = pytest.raises(
        CheckpointError, match=r"mlp\.down\.weight: .*not finite \(NaN or Inf\) in 1 of 4 channels"
    )
    with refused:
        Observations(1, 0)(call(x, "mlp.down.weight"))

"""A correction of low rank is what LoRA adds to a linear."""

from __future__ import annotations

import torch

from castline.compiler.search.low_rank import LowRank


def starting(seed: int = 0) -> LowRank:
    return LowRank.starting(torch.ones(5, 16), 2, torch.Generator().manual_seed(seed))


def test_it_adds_nothing_at_the_start_and_can_learn() -> None:
    low_rank = starting()
    assert torch.equal(low_rank.product(), torch.zeros(5, 16))
    assert low_rank.a.requires_grad
    assert low_rank.b.requires_grad
    assert 0.1 < low_rank.a.abs().max() <= 0.25  # 1 / sqrt(16)


def test_a_seed_says_how_it_starts() -> None:
    assert torch.equal(starting().a, starting().a)
    assert not torch.equal(starting().a, starting(1).a)


def test_what_it_adds_to_a_product_is_what_its_matrix_would_add() -> None:
    low_rank = LowRank(torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[2.0, -1.0]]))
    assert low_rank.product().tolist() == [[1.0, 0.0]]  # (2 (1, 2) - (0, 4)) / 2
    assert low_rank.of(torch.tensor([[3.0, 5.0]])).tolist() == [[3.0]]


def test_a_copy_stays_when_the_correction_learns_on() -> None:
    low_rank = starting()
    copy = low_rank.copy()
    with torch.no_grad():
        low_rank.b.fill_(1)
    assert not copy.b.any()
    assert not copy.b.requires_grad
    assert not low_rank.cleared().product().any()

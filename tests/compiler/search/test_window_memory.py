"""The estimate of a learning window's memory is that of its parts, and near what torch keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from castline.compiler.search.low_rank import LowRank
from castline.compiler.search.window_memory import window_bytes


def test_weights_and_activations_are_counted() -> None:
    """[4, 6] in float32, twice, and 3 floats for each of 4 + 6 of the 2 * 5 tokens."""
    assert window_bytes([(4, 6)], 2, 5) == 4 * (2 * 24 + 3 * 10 * 10)


def test_a_token_goes_through_some_experts_of_a_stack() -> None:
    assert window_bytes([(8, 4, 6)], 2, 5, experts=3) == 4 * (2 * 192 + 3 * 3 * 10 * 10)


def test_scores_that_are_kept_grow_with_the_square_of_the_length() -> None:
    more = window_bytes([(4, 6)], 1, 20, score_heads=3) - window_bytes([(4, 6)], 1, 20)
    assert more == 4 * 4 * 3 * 20**2


def test_what_linears_read_is_kept_where_codes_are_chosen_by_it() -> None:
    more = window_bytes([(4, 6)], 1, 5, summed=[(4, 6), (8, 3, 5)]) - window_bytes([(4, 6)], 1, 5)
    assert more == 4 * (6**2 + 8 * 5**2)


@pytest.mark.parametrize("blocks", [1, 3])
def test_it_is_a_few_times_what_the_backward_pass_needs(
    quantized_window: Callable[..., Any], blocks: int
) -> None:
    """The weights, which torch keeps by reference, are left out."""
    with quantized_window("llama", blocks) as opened:
        chance = torch.Generator().manual_seed(0)
        linears = opened.student.linears
        low_rank = {
            reader: LowRank.starting(one.quantized, 4, chance) for reader, one in linears.items()
        }
        held = [*opened.student.parameters.values(), *(one.quantized for one in linears.values())]
        entering = opened.batches[0][0]
        kept = kept_bytes(lambda: opened.student.leaving(entering, low_rank), held)
        shapes = [tuple(one.quantized.shape) for one in linears.values()]
    activations = window_bytes(shapes, 2, 12) - window_bytes(shapes, 0, 12)
    assert 2 <= activations / kept <= 3


def kept_bytes(compute: Callable[[], torch.Tensor], held: list[torch.Tensor]) -> int:
    """Return how many bytes beside `held` wait for a backward pass after `compute`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in held}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        leaving = compute()
    assert leaving.requires_grad
    return sum(sizes.values())

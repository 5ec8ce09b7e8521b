"""Linears of a reassembled site read the places, multiply by their weights, and hold deltas."""

from __future__ import annotations

import numpy as np
import torch

from castline.compiler.plan.decisions import PlannedReassembly, PlannedSite
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.search.made_linears import MadeLinears
from castline.compiler.search.site_problem import ReadingLinear

CPU = torch.device("cpu")
X = torch.tensor([[1.0, 8.0, 3.0, -2.0], [0.5, -16.0, 1.0, 4.0]])
W = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.0, 2.0]])

# Channel 1 stands at places 1 and 3, halved; channels 0 and 3 share place 0.
MAP = ChannelMap(
    gather=np.array([0, 1, 2, 1]),
    scale=np.array([0.5, 0.5, 1.0, 0.5], np.float32),
    place=np.array([0]),
    channel=np.array([3]),
    channel_scale=np.array([0.5], np.float32),
)
PLACES = torch.tensor([[-0.5, 4.0, 3.0, 4.0], [2.25, -8.0, 1.0, -8.0]])
PLACED_WEIGHTS = torch.tensor([[5.0, 2.0, 3.0, 2.0], [1.0, 0.5, 0.0, 0.5]])


def linear(name: str, expert: int | None = None) -> ReadingLinear:
    return ReadingLinear(name, expert, W, torch.arange(4), None, quantized=True)


def planned(reassembled: PlannedReassembly | None) -> PlannedSite:
    peaks = np.ones(4, np.float32)
    return PlannedSite("x", "", ("q", "router"), peaks, peaks, *[None] * 6, reassembly=reassembled)


def made(**deltas: torch.Tensor) -> MadeLinears:
    reassembled = PlannedReassembly(MAP, ("q",), 4.0, "merge-error", 0.1, 0.2, None)
    of = {(name, None): delta for name, delta in deltas.items()}
    return MadeLinears.of(planned(reassembled), of, CPU)


def test_a_linear_of_a_reassembled_site_reads_the_places() -> None:
    assert torch.equal(made().read(linear("q"), X), PLACES)
    assert torch.equal(made().weight(linear("q")), PLACED_WEIGHTS)


def test_one_that_the_plan_does_not_name_reads_the_value_itself() -> None:
    router = linear("router")
    assert torch.equal(made().read(router, X), X)
    assert torch.equal(made().weight(router), W)
    assert torch.equal(made().moments(router, X.T @ X), X.T @ X)


def test_moments_are_those_of_the_places() -> None:
    found = made().moments(linear("q"), X.T @ X)
    torch.testing.assert_close(found, PLACES.T @ PLACES)


def test_what_was_learned_is_added_to_the_weights_of_the_places() -> None:
    delta = torch.arange(8.0).reshape(2, 4)
    assert torch.equal(made(q=delta).weight(linear("q")), PLACED_WEIGHTS + delta)
    assert torch.equal(made(q=delta).weight(linear("router")), W)
    assert torch.equal(made(q=delta).weight(linear("q", expert=1)), PLACED_WEIGHTS)


def test_a_site_whose_channels_stay_is_corrected_all_the_same() -> None:
    delta = torch.ones(2, 4)
    plain = MadeLinears.of(planned(None), {("q", None): delta}, CPU)
    assert plain.channels is None
    assert torch.equal(plain.read(linear("q"), X), X)
    assert torch.equal(plain.weight(linear("q")), W + 1)


def test_where_nothing_is_given_linears_are_as_they_are() -> None:
    assert torch.equal(MadeLinears().read(linear("q"), X), X)
    assert torch.equal(MadeLinears().weight(linear("q")), W)
    assert torch.equal(W, torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.0, 2.0]]))

"""A site's problem has every matrix that reads it, and peaks by the entries of its scale."""

from __future__ import annotations

import numpy as np
import torch

from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.observation import Observations
from castline.compiler.search.site_problem import SiteProblem, site_problem


def seen(
    *read: tuple[str, int | None, torch.Tensor], transposed: tuple[str, ...] = ()
) -> Observations:
    observations = Observations(1, 0)
    for name, expert, x in read:
        weight = torch.eye(x.shape[-1])
        observations(LinearCall(name, expert, x, weight, None, transposed=name in transposed))
    return observations


def of(site: Site, parameters: dict[str, torch.Tensor], observations: Observations) -> SiteProblem:
    return site_problem(site, parameters, observations, {"router": "it chooses experts"})


def site(scales: int, **channels: list[int] | list[list[int]]) -> Site:
    consumers = tuple(Consumer(name, name, np.array(each)) for name, each in channels.items())
    return Site("x", "gain", "norm gain", consumers, (), scales, None)


def test_peaks_are_the_largest_of_all_that_share_an_entry() -> None:
    """Four channels of two key heads' two values: the query heads of a group share a scale."""
    found = of(
        site(2, o=[0, 1, 0, 1]),
        {"o": torch.tensor([[1.0, 2.0, -3.0, 0.5], [0.0, 0.0, 0.0, -4.0]])},
        seen(("o", None, torch.tensor([[1.0, -8.0, 5.0, 2.0], [-6.0, 0.0, 0.0, 0.0]]))),
    )
    assert found.activation_peaks.tolist() == [6, 8]
    assert found.weight_peaks.tolist() == [3, 4]
    assert [peaks.tolist() for peaks in found.channel_peaks()] == [[6, 8, 5, 2], [1, 2, 3, 4]]
    channels = found.linears[0].channels(torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert channels.tolist() == [2, 3, 2, 3]
    assert channels.dtype == torch.float32


def test_all_linears_count_those_too_that_stay_in_float() -> None:
    found = of(
        site(2, q=[0, 1], router=[0, 1]),
        {"q": torch.tensor([[1.0, 1.0]]), "router": torch.tensor([[5.0, -0.5], [0.0, 0.0]])},
        seen(("q", None, torch.tensor([[2.0, 3.0]])), ("router", None, torch.tensor([[2.0, 3.0]]))),
    )
    assert [linear.quantized for linear in found.linears] == [True, False]
    assert found.weight_peaks.tolist() == [5, 1]
    assert found.activation_peaks.tolist() == [2, 3]


def test_channels_that_take_no_scale_keep_theirs() -> None:
    found = of(
        site(1, w=[-1, 0]),
        {"w": torch.tensor([[7.0, 2.0]])},
        seen(("w", None, torch.tensor([[9.0, 4.0]]))),
    )
    assert found.activation_peaks.tolist() == [4]
    assert found.weight_peaks.tolist() == [2]
    assert found.linears[0].channels(torch.tensor([5.0])).tolist() == [1, 5]


def test_experts_are_linears_of_their_own() -> None:
    stack = torch.tensor([[[1.0, 2.0]], [[3.0, 1.0]], [[0.0, 9.0]]])  # [E, N, K]
    observations = seen(
        ("stack", 0, torch.tensor([[1.0, 2.0]])), ("stack", 2, torch.tensor([[-4.0, 0.0]]))
    )
    found = of(site(2, stack=[0, 1]), {"stack": stack}, observations)
    assert [linear.expert for linear in found.linears] == [0, 1, 2]
    assert [linear.observed is None for linear in found.linears] == [False, True, False]
    assert found.activation_peaks.tolist() == [4, 2]
    assert found.weight_peaks.tolist() == [3, 9]


def test_experts_with_scales_of_their_own_take_their_entries() -> None:
    stack = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    observations = seen(
        ("stack", 0, torch.tensor([[5.0, 6.0]])), ("stack", 1, torch.tensor([[7.0, 8.0]]))
    )
    found = of(site(4, stack=[[0, 1], [2, 3]]), {"stack": stack}, observations)
    assert found.activation_peaks.tolist() == [5, 6, 7, 8]
    assert found.weight_peaks.tolist() == [1, 2, 3, 4]
    scale = torch.arange(1.0, 5)
    assert [one.channels(scale).tolist() for one in found.linears] == [[1, 2], [3, 4]]


def test_a_matrix_that_is_stored_the_other_way_round_is_turned() -> None:
    stored = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # [K, N]
    observations = seen(("w", None, torch.ones(1, 2)), transposed=("w",))
    found = of(site(2, w=[0, 1]), {"w": stored}, observations)
    assert found.linears[0].weight.shape == (3, 2)
    assert found.weight_peaks.tolist() == [3, 6]


def test_what_was_never_read_has_peaks_of_zero() -> None:
    found = of(site(2, w=[0, 1]), {"w": torch.ones(3, 2)}, seen())
    assert found.activation_peaks.tolist() == [0, 0]
    assert found.channel_peaks()[0].tolist() == [0, 0]


def test_scaled_weights_are_multiplied_and_the_problem_stays() -> None:
    found = of(site(2, w=[1, 0, -1]), {"w": torch.ones(1, 3)}, seen())
    scaled = found.scaled(torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert scaled.linears[0].weight.tolist() == [[5, 2, 1]]
    assert found.linears[0].weight.tolist() == [[1, 1, 1]]
    assert scaled.site is found.site


def test_what_is_read_over_a_folded_scale_is_divided_and_the_weights_stay() -> None:
    x = torch.tensor([[4.0, -6.0, 3.0]])
    found = of(
        site(2, w=[1, 0, -1], never=[0, 1, 1]),
        dict.fromkeys(("w", "never"), torch.ones(1, 3)),
        seen(("w", None, x)),
    )
    folded = found.folded(torch.tensor([2.0, 8.0], dtype=torch.float64))
    observed = folded.linears[0].observed
    assert observed is not None
    assert observed.rows.tolist() == [[0.5, -3, 3]]
    assert observed.peaks.tolist() == [0.5, 3, 3]
    assert folded.linears[1].observed is None
    assert all(
        one.weight is other.weight for one, other in zip(folded.linears, found.linears, strict=True)
    )
    assert found.linears[0].observed is not None
    assert found.linears[0].observed.rows.tolist() == x.tolist()

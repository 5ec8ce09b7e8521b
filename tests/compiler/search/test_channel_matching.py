"""Outliers are taken apart exactly, and the pairs that cost least are merged for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.search.channel_matching import (
    copies_of,
    distances,
    further_copies,
    matched,
    room_for,
)

K, N, ROWS = 32, 12, 50


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merge_error(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    return distances("merge-error", x.T @ x, weights)


def pair(i: int, j: int) -> ChannelMap:
    """Return the map of four channels that merges i into j; nothing takes the place of i."""
    scale = np.ones(4, np.float32)
    scale[[i, j]] = 1e-30, 0.5
    half = np.full(1, 0.5, np.float32)
    return ChannelMap(np.arange(4), scale, np.array([j]), np.array([i]), half)


@pytest.fixture
def with_outliers() -> torch.Tensor:
    """Return activations whose channels 3, 8 and 20 are far larger than the others."""
    x = normal(ROWS, K)
    x[:, [3, 8, 20]] *= torch.tensor([9.0, 4.0, 15.0])
    return x


def test_copies_by_hand() -> None:
    peaks = np.array([0.0, 0.5, 2.0, 2.1, 4.0, 11.9], np.float32)
    assert copies_of(peaks, 2.0).tolist() == [1, 1, 1, 2, 2, 6]


def test_a_peak_that_rounding_put_above_a_multiple_takes_no_further_copy() -> None:
    threshold = 0.1
    peaks = np.array([1, 2, 3], np.float32) * np.float32(threshold)
    peaks = np.nextafter(peaks, np.float32(np.inf))
    assert (peaks.astype(np.float64) / threshold > [1, 2, 3]).all()
    assert copies_of(peaks, threshold).tolist() == [1, 2, 3]


def test_copies_of_an_outlier_are_at_most_the_threshold(with_outliers: torch.Tensor) -> None:
    peaks = with_outliers.abs().amax(dim=0).numpy()
    for threshold in np.linspace(peaks.max() / 6, peaks.max(), 9):
        copies = copies_of(peaks, threshold)
        assert (peaks / copies).max() <= threshold * (1 + 1e-6)
        assert (copies[copies > 1] - 1 < peaks[copies > 1] / threshold).all()  # none too many


@pytest.mark.parametrize("seed", range(3))
def test_the_merge_error_is_the_error_that_merging_makes(seed: int) -> None:
    x, w = normal(ROWS, 4, seed=seed), normal(N, 4, seed=seed + 10)
    found = merge_error(x, w)
    for i, j in itertools.product((0, 2), (1, 3)):
        channels = pair(i, j)
        product = channels.of_values(x.double().numpy()) @ channels.of_weights(w.double().numpy()).T
        measured = ((product - (x.double() @ w.double().T).numpy()) ** 2).sum()
        assert float(found[i // 2, j // 2]) == pytest.approx(measured, rel=1e-4)


def test_the_merge_error_of_linears_is_the_sum_of_theirs() -> None:
    x, w, other = normal(ROWS, K), normal(N, K, seed=1), normal(3, K, seed=2)
    torch.testing.assert_close(merge_error(x, w, other), merge_error(x, torch.cat([w, other])))
    summed = distances("signed-sums", x.T @ x, [w, other])
    torch.testing.assert_close(
        summed, distances("signed-sums", x.T @ x, [torch.cat([w, other])]), rtol=1e-4, atol=1e-3
    )


def test_signed_sums_by_hand() -> None:
    x = torch.tensor([[1.0, 4.0], [2.0, -2.0]])
    w = torch.tensor([[3.0, -1.0], [1.0, 2.0], [0.0, -4.0]])
    found = distances("signed-sums", x.T @ x, [w])
    assert found.tolist() == [[pytest.approx((4 - 3) ** 2 * (3**2 + 4**2))]]


def test_alike_channels_are_no_distance_apart() -> None:
    x, w = normal(ROWS, K) * 1000, normal(N, K, seed=1)
    x[:, 5] = x[:, 2]
    w[:, 9] = w[:, 6]
    found = merge_error(x, w)
    assert (found >= 0).all()
    typical = float(found.median())
    assert float(found[1, 2]) < 1e-5 * typical
    assert float(found[3, 4]) < 1e-5 * typical


def test_shapes_stay_and_outliers_are_never_merged(with_outliers: torch.Tensor) -> None:
    peaks = with_outliers.abs().amax(dim=0).numpy()
    copies = copies_of(peaks, peaks.max() / 4)
    found = matched(copies, merge_error(with_outliers, normal(N, K, seed=1)))
    outliers = np.flatnonzero(copies > 1)
    assert len(outliers) > 1
    assert found.channels == K
    assert found.disassembled == len(outliers)
    assert len(found.place) == further_copies(copies)
    assert not np.isin(outliers, found.place).any()
    assert not np.isin(outliers, found.channel).any()
    assert (found.channel % 2 == 0).all()
    assert (found.place % 2 == 1).all()
    assert np.bincount(found.gather, minlength=K)[outliers].tolist() == copies[outliers].tolist()


def test_every_other_channel_keeps_its_place(with_outliers: torch.Tensor) -> None:
    peaks = with_outliers.abs().amax(dim=0).numpy()
    found = matched(
        copies_of(peaks, peaks.max() / 3), merge_error(with_outliers, normal(N, K, seed=1))
    )
    staying = np.setdiff1d(np.arange(K), found.channel)
    assert found.gather[staying].tolist() == staying.tolist()
    assert set(found.gather[found.channel]) <= set(np.flatnonzero(found.scale < 1))


def test_no_place_of_an_outlier_exceeds_the_threshold(with_outliers: torch.Tensor) -> None:
    peaks = with_outliers.abs().amax(dim=0).numpy()
    threshold = float(peaks.max()) / 4
    copies = copies_of(peaks, threshold)
    found = matched(copies, merge_error(with_outliers, normal(N, K, seed=1)))
    at_places = np.abs(found.of_values(with_outliers.numpy())).max(axis=0)
    assert at_places.max() <= threshold * (1 + 1e-6)
    assert (found.of_values(peaks[None]) >= at_places * (1 - 1e-6)).all()


def test_taking_apart_alone_is_exact(with_outliers: torch.Tensor) -> None:
    """Each even channel has an odd one that is just like it, so that merging costs nothing."""
    x, w = with_outliers, normal(N, K, seed=1)
    peaks = x.abs().amax(dim=0).numpy()
    copies = copies_of(peaks, peaks.max() / 3)
    alone = [i for i in range(0, K, 2) if copies[i] == copies[i + 1] == 1]
    for i in alone:
        x[:, i + 1] = x[:, i]
    found = matched(copies, merge_error(x, w))
    assert found.disassembled > 0
    assert found.place.tolist() == (found.channel + 1).tolist()
    product = found.of_values(x.double().numpy()) @ found.of_weights(w.double().numpy()).T
    expected = (x.double() @ w.double().T).numpy()
    assert np.abs(product - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("copied", ["values", "weights"])
def test_channels_of_like_values_or_like_weights_are_merged_first_and_lose_nothing(
    copied: str,
) -> None:
    x, w = normal(ROWS, K), normal(N, K, seed=1)
    x[:, 1] *= 10
    tensor = x if copied == "values" else w
    tensor[:, 13] = tensor[:, 6]
    copies = np.ones(K, np.int64)
    copies[1] = 2
    found = matched(copies, merge_error(x, w))
    assert (found.channel.tolist(), found.place.tolist()) == ([6], [13])
    assert found.gather[6] == 1
    product = found.of_values(x.numpy()) @ found.of_weights(w.numpy()).T
    np.testing.assert_allclose(product, x @ w.T, rtol=0, atol=1e-5 * float((x @ w.T).abs().max()))


def test_many_channels_merged_into_one_are_their_mean_and_the_sum_of_weights() -> None:
    distance = torch.full((4, 4), 9.0)
    distance[:3, 2] = torch.tensor([2.0, 1.0, 3.0])
    found = matched(np.array([1, 4, 1, 1, 1, 1, 1, 1]), distance)
    assert found.gather.tolist() == [1, 1, 1, 3, 1, 5, 6, 7]
    x = np.array([[3.0, 80.0, 6.0, 1.0, 9.0, 2.0, 4.0, 7.0]])
    assert found.of_values(x).tolist() == [[20, 20, 20, 1, 20, 5, 4, 7]]
    assert found.of_weights(x).tolist() == [[80, 80, 80, 1, 80, 20, 4, 7]]


def test_by_the_merge_error_pairs_cost_no_more_than_by_signed_sums(
    with_outliers: torch.Tensor,
) -> None:
    x, w = with_outliers, normal(N, K, seed=1)
    peaks = x.abs().amax(dim=0).numpy()
    copies = copies_of(peaks, peaks.max() / 4)
    errors = merge_error(x, w)

    def cost(found: ChannelMap) -> float:
        return float(errors[found.channel // 2, found.place // 2].sum())

    by_sums = matched(copies, distances("signed-sums", x.T @ x, [w]))
    assert cost(matched(copies, errors)) < cost(by_sums)


def test_of_equal_distances_the_lower_channels_count() -> None:
    copies = np.array([1, 1, 1, 3, 1, 1, 1, 1])
    found = matched(copies, torch.ones(4, 4))
    assert (found.channel.tolist(), found.place.tolist()) == ([0, 2], [1, 1])


def test_nothing_taken_apart_leaves_all_as_it_is() -> None:
    assert matched(np.ones(7, np.int64), torch.ones(4, 3)).is_identity


@pytest.mark.parametrize(
    ("copies", "room"),
    [([1, 1, 1, 1, 1], 3), ([2, 1, 1, 2, 1], 2), ([1, 2, 1, 3], 0), ([1], 0), ([3, 1], 0)],
)
def test_room_is_for_even_channels_while_an_odd_one_takes_them(
    copies: list[int], room: int
) -> None:
    assert room_for(np.array(copies)) == room


def test_all_even_channels_of_an_odd_number_can_be_merged() -> None:
    found = matched(np.array([1, 1, 1, 4, 1]), torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    assert found.gather.tolist() == [3, 1, 3, 3, 3]
    assert found.channel.tolist() == [0, 2, 4]
    assert found.place.tolist() == [1, 1, 1]


def test_what_is_matched_stays_as_it_is(with_outliers: torch.Tensor) -> None:
    second, w = with_outliers.T @ with_outliers, normal(N, K, seed=1)
    kept = second.clone(), w.clone()
    metric: Callable[..., torch.Tensor] = distances
    for each in ("merge-error", "signed-sums"):
        distance = metric(each, second, [w])
        before = distance.clone()
        matched(np.array([2, *[1] * (K - 1)]), distance)
        assert torch.equal(distance, before)
    assert torch.equal(second, kept[0])
    assert torch.equal(w, kept[1])

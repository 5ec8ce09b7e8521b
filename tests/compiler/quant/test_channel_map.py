"""Places hold channels taken apart or put together, and weights that go with them."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.quant.channel_map import ChannelMap, identity


@pytest.fixture
def channels() -> ChannelMap:
    """Channel 2 stands at its own place and at 0 and 4; place 1 holds the mean of 1, 0 and 4."""
    third = np.float32(1) / 3
    return ChannelMap(
        gather=np.array([2, 1, 2, 3, 2, 5]),
        scale=np.array([third, third, third, 1, third, 1], np.float32),
        place=np.array([1, 1]),
        channel=np.array([0, 4]),
        channel_scale=np.array([third, third], np.float32),
    )


def test_values_by_hand(channels: ChannelMap) -> None:
    x = np.array([[3.0, 6.0, 90.0, 4.0, 9.0, 5.0]], np.float32)
    np.testing.assert_allclose(channels.of_values(x), [[30, 6, 30, 4, 30, 5]], rtol=1e-6)


def test_weights_by_hand(channels: ChannelMap) -> None:
    weight = np.array([[1.0, 10.0, 2.0, 3.0, 100.0, 4.0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    expected = [[2, 111, 2, 3, 2, 4], [0, 2, 0, 0, 0, 0]]
    assert channels.of_weights(weight).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shapes_and_types_stay_and_what_is_handed_in_too(
    channels: ChannelMap, dtype: type[np.floating]
) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(dtype)
    weight = np.random.default_rng(1).normal(size=(4, 6)).astype(dtype)
    kept = x.copy(), weight.copy()
    for result, given in ((channels.of_values(x), x), (channels.of_weights(weight), weight)):
        assert (result.shape, result.dtype) == (given.shape, given.dtype)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(weight, kept[1])


def test_the_product_of_equal_channels_stays(channels: ChannelMap) -> None:
    """Where the channels that share a place are alike, nothing is lost."""
    x = np.random.default_rng(0).normal(size=(7, 6))
    x[:, [0, 4]] = x[:, [1]]
    weight = np.random.default_rng(1).normal(size=(4, 6))
    found = channels.of_values(x) @ channels.of_weights(weight).T
    np.testing.assert_allclose(found, x @ weight.T, rtol=0, atol=1e-6)


def test_it_counts_what_was_taken_apart(channels: ChannelMap) -> None:
    assert (channels.channels, channels.disassembled) == (6, 1)
    assert not channels.is_identity


def test_the_identity_changes_nothing() -> None:
    same = identity(5)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_array_equal(same.of_values(x), x)
    np.testing.assert_array_equal(same.of_weights(x), x)
    assert same.is_identity
    assert (same.channels, same.disassembled) == (5, 0)


def test_a_scale_or_a_further_channel_is_no_identity() -> None:
    same, one = identity(3), np.ones(1, np.float32)
    scaled = ChannelMap(same.gather, same.scale / 2, same.place, same.channel, same.channel_scale)
    merged = ChannelMap(same.gather, same.scale, np.array([1]), np.array([0]), one)
    assert not scaled.is_identity
    assert not merged.is_identity

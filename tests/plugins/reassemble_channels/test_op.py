"""Channels are put together by the reference as by hand, and by the body as by the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS, reassemble_channels

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)


def of(channels: ChannelMap) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(part) for part in vars(channels).values())


def any_map(k: int, more: int) -> ChannelMap:
    """Return a map of K channels to K places, `more` of them to a place that has one already."""
    return ChannelMap(
        RANDOM.integers(0, k, k),
        RANDOM.uniform(0.2, 1, k).astype(np.float32),
        RANDOM.integers(0, k, more),
        RANDOM.integers(0, k, more),
        RANDOM.uniform(0.2, 1, more).astype(np.float32),
    )


def test_the_reference_takes_a_channel_apart_and_puts_two_together() -> None:
    x = np.array([[8, 1, 3, 5], [-4, 0, 1, 2]], np.float32)
    found = reassemble_channels(
        x,
        gather=np.array([0, 1, 0, 3]),
        scale=np.array([0.5, 0.5, 0.5, 1], np.float32),
        place=np.array([1]),
        channel=np.array([2]),
        channel_scale=np.array([0.5], np.float32),
    )
    np.testing.assert_array_equal(found, [[4, 2, 4, 5], [-2, 0.5, -2, 2]])


def test_a_place_takes_several_channels_in_their_order() -> None:
    x = np.array([1e8, 1, -1e8], np.float32)
    one = np.ones((), np.float32)
    for order, wanted in (([0, 2, 1], 1), ([0, 1, 2], 0)):
        found = reassemble_channels(
            x, np.array([order[0]] * 3), one, np.array([1, 1]), np.array(order[1:]), np.ones(2)
        )
        assert found[1] == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("more", [0, 1, 9])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 33), (1, 1, 1), (2, 1, 4, 7), (8,)], ids=str)
def test_body_reference_and_map_are_one(
    run_op: Run, shape: tuple[int, ...], more: int, dtype: type
) -> None:
    channels = any_map(shape[-1], more)
    x = (100 * RANDOM.standard_normal(shape)).astype(dtype)
    (found,) = run_op(REASSEMBLE_CHANNELS, x, *of(channels))
    np.testing.assert_array_equal(found, reassemble_channels(x, *of(channels)), strict=True)
    np.testing.assert_array_equal(found, channels.of_values(x), strict=True)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 3, 4)], ids=str)
def test_no_tokens_are_no_tokens(run_op: Run, shape: tuple[int, ...]) -> None:
    (found,) = run_op(REASSEMBLE_CHANNELS, np.zeros(shape, np.float32), *of(any_map(4, 2)))
    assert found.shape == shape


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_all_places_may_have_one_scale(run_op: Run, dtype: type) -> None:
    channels, x = any_map(6, 3), RANDOM.standard_normal((2, 6)).astype(dtype)
    gather, _, *more = of(channels)
    half = np.array(0.5, np.float32)
    (found,) = run_op(REASSEMBLE_CHANNELS, x, gather, half, *more)
    wanted = reassemble_channels(x, gather, np.full(6, half), *more)
    np.testing.assert_array_equal(found, wanted, strict=True)


def test_the_identity_changes_nothing(run_op: Run) -> None:
    x = RANDOM.standard_normal((3, 8)).astype(np.float16)
    (found,) = run_op(REASSEMBLE_CHANNELS, x, *of(identity(8)))
    np.testing.assert_array_equal(found, x, strict=True)


def test_extremes_of_float16_are_computed_beyond_it(run_op: Run) -> None:
    channels = ChannelMap(
        np.array([0]), np.ones(1, np.float32), np.array([0]), np.array([0]), -np.ones(1, np.float32)
    )
    x = np.array([[65504], [-65504]], np.float16)
    double = np.full(1, 2, np.float32)
    (found,) = run_op(REASSEMBLE_CHANNELS, x, channels.gather, double, *of(channels)[2:])
    np.testing.assert_array_equal(found, x)

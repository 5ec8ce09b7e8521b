"""Channels are put at their places in torch as numpy puts them, and gradients go back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.compiler.search.channel_matching import matched
from castline.compiler.search.placed_channels import PlacedChannels

K = 24
CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def channels() -> ChannelMap:
    """Channels 3 and 8 are outliers, and seven others are merged, several into one place."""
    copies = np.ones(K, np.int64)
    copies[[3, 8]] = 5, 4
    distance = normal(K // 2, K // 2).abs()
    distance[:6, 4] = 0.01
    found = matched(copies, distance)
    assert np.bincount(found.place).max() > 1
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_numpys_to_the_bit(channels: ChannelMap, dtype: torch.dtype) -> None:
    x = normal(2, 5, K).to(dtype)
    found = PlacedChannels.on(CPU, channels).of_values(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), channels.of_values(x.numpy()))


def test_values_of_half_precision_are_numpys_but_for_the_rounding_of_sums(
    channels: ChannelMap,
) -> None:
    x = normal(2, 5, K).half()
    found = PlacedChannels.on(CPU, channels).of_values(x)
    assert found.dtype == torch.float16
    np.testing.assert_allclose(found.numpy(), channels.of_values(x.numpy()), rtol=0, atol=2e-3)


def test_weights_are_numpys_to_the_bit(channels: ChannelMap) -> None:
    weight = normal(7, K, seed=1)
    found = PlacedChannels.on(CPU, channels).of_weights(weight)
    np.testing.assert_array_equal(found.numpy(), channels.of_weights(weight.numpy()))
    turned = PlacedChannels.on(CPU, channels).of_weights(weight.T.contiguous().T)
    assert torch.equal(turned, found)


def test_moments_are_those_of_the_places(channels: ChannelMap) -> None:
    x = normal(40, K).double()
    placed = PlacedChannels.on(CPU, channels)
    at_places = placed.of_values(x)
    torch.testing.assert_close(placed.of_moments(x.T @ x), at_places.T @ at_places)


def test_the_identity_changes_nothing() -> None:
    same, x = PlacedChannels.on(CPU, identity(K)), normal(30, K)
    assert torch.equal(same.of_values(x), x)
    assert torch.equal(same.of_weights(x), x)
    assert torch.equal(same.of_moments(x.T @ x), x.T @ x)


def test_gradients_go_back_to_every_channel(channels: ChannelMap) -> None:
    placed = PlacedChannels.on(CPU, channels)
    x = normal(4, K).double().requires_grad_()
    weight = normal(3, K, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(placed.of_values, (x,))
    assert torch.autograd.gradcheck(placed.of_weights, (weight,))
    placed.of_values(x).sum().backward()
    assert x.grad is not None
    # Whatever number of places a channel stands at, it is there as a whole, or as its share.
    held = np.bincount(channels.place, minlength=K) + 1
    shares = np.ones(K)
    shares[channels.place] = 1 / held[channels.place]
    shares[channels.channel] = channels.channel_scale
    np.testing.assert_allclose(x.grad.numpy(), np.tile(shares, (4, 1)), rtol=1e-6)

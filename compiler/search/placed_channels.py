"""Put channels at their places in torch, as the graph of a reassembled value does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from castline.compiler.quant.channel_map import ChannelMap

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class PlacedChannels:
    """A ChannelMap whose arrays are on a device; its words are explained there."""

    gather: Tensor
    """int64 [K]."""
    scale: Tensor
    """float32 [K]."""
    place: Tensor
    """int64 [P]."""
    channel: Tensor
    """int64 [P]."""
    channel_scale: Tensor
    """float32 [P]."""

    @classmethod
    def on(cls, device: torch.device, channels: ChannelMap) -> PlacedChannels:
        """Return the map with its arrays copied to `device`."""
        arrays = (
            channels.gather,
            channels.scale,
            channels.place,
            channels.channel,
            channels.channel_scale,
        )
        return cls(*(torch.tensor(array, device=device) for array in arrays))

    def of_values(self, x: Tensor) -> Tensor:
        """Return what stands at the places, [..., K], for a value [..., K], in its type.

        It can be differentiated. On a CPU, the numbers are those of `ChannelMap.of_values` in
        float32 and float64; in float16, a sum may be rounded otherwise.
        """
        first = x.index_select(-1, self.gather) * self.scale.to(x.dtype)
        more = x.index_select(-1, self.channel) * self.channel_scale.to(x.dtype)
        return first.index_add(-1, self.place, more)

    def of_weights(self, weight: Tensor) -> Tensor:
        """Return the weights [N, K] by which the places are multiplied, for weights [N, K]."""
        first = weight.index_select(1, self.gather)
        return first.index_add(1, self.place, weight.index_select(1, self.channel))

    def of_moments(self, second: Tensor) -> Tensor:
        """Return the sum [K, K] of x'^T x' over what stands at the places, given that of x^T x."""
        rows = self.of_values(second.mT)  # x' = x A^T, so that x'^T x' = A (A S^T)^T
        return self.of_values(rows.mT)

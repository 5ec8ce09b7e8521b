"""Take channels apart and put others together, so that none is far larger than the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from castline.compiler.quant.arrays import Array


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """Which channels of a value [..., K] stand at each of K places, and how each is multiplied.

    An outlier channel stands at several places, divided by their number (disassembly); a place may
    hold the mean of several channels (assembly). A linear that reads the places multiplies each by
    the sum of the weights of the channels that stand there.

    Source: Liu et al., QLLM, arXiv:2310.08041, section 4.1.
    """

    gather: Array
    """int64 [K]: the first channel that stands at each place."""
    scale: Array
    """float32 [K]: what that channel is multiplied by, above zero."""
    place: Array
    """int64 [P]: places where one more channel stands; a place comes once for each."""
    channel: Array
    """int64 [P]: that channel."""
    channel_scale: Array
    """float32 [P]: what it is multiplied by."""

    @property
    def channels(self) -> int:
        """K."""
        return len(self.gather)

    @property
    def disassembled(self) -> int:
        """How many channels stand at more than one place."""
        return int((np.bincount(self.gather, minlength=self.channels) > 1).sum())

    @property
    def is_identity(self) -> bool:
        """Whether every channel stays where it is."""
        same = bool((self.gather == np.arange(self.channels)).all() and (self.scale == 1).all())
        return same and len(self.place) == 0

    def of_values(self, x: Array) -> Array:
        """Return what stands at the places, [..., K], for a value [..., K], in its type.

        Computed in float32, or in a wider type that it has; others than the first channel are added
        in their order, as the graph does.
        """
        wide = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
        result: Array = wide[..., self.gather] * self.scale
        for place, channel, scale in zip(self.place, self.channel, self.channel_scale, strict=True):
            result[..., place] += wide[..., channel] * scale
        return result.astype(x.dtype, copy=False)

    def of_weights(self, weight: Array) -> Array:
        """Return the weights [N, K] by which the places are multiplied, for weights [N, K]."""
        result = weight[:, self.gather]
        np.add.at(result.T, self.place, weight.T[self.channel])
        return result


def identity(channels: int) -> ChannelMap:
    """Return the map that leaves K channels where they are."""
    none = np.zeros(0, np.int64)
    return ChannelMap(
        np.arange(channels), np.ones(channels, np.float32), none, none, none.astype(np.float32)
    )

"""Choose which channels are taken apart, and which alike ones are merged to make room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.channel_map import ChannelMap

Tensor: TypeAlias = torch.Tensor
Metric: TypeAlias = Literal["merge-error", "signed-sums"]

_SLACK = (
    1e-6  # of a threshold: a peak that rounding put above a multiple of it is no more than that
)


def copies_of(peaks: Array, threshold: float) -> Array:
    """Return at how many places each channel is to stand, int64 [K]; above 1 for outliers.

    That is T = max(1, ceil(peak / threshold)), by peaks [K] and a threshold above zero. A channel
    divided by its T exceeds the threshold by no more than a millionth of it.

    Source: Liu et al., QLLM, arXiv:2310.08041, section 4.1.1.
    """
    assert threshold > 0, "the search tries thresholds above zero"
    times = np.ceil(peaks.astype(np.float64) / threshold - _SLACK)
    return np.maximum(times, 1).astype(np.int64)


def further_copies(copies: Array) -> int:
    """Return how many places outliers take beside their own: so many channels are to be merged."""
    return int((copies - 1).sum())


def room_for(copies: Array) -> int:
    """Return how many channels can be merged into others: even ones into odd, outliers neither."""
    alone = copies == 1
    return int(alone[::2].sum()) if alone[1::2].any() else 0


def distances(metric: Metric, second: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return how much it costs to merge each even channel into each odd one, float32 [even, odd].

    `second` [K, K] is the sum of x^T x over what is read, `weights` are all matrices [N, K] that
    read it. By "merge-error" it is what merging a pair adds to the squared error of the outputs,
    1/4 ||x_i - x_j||^2 ||W_i - W_j||^2; by "signed-sums" it is
    ((sum of W_i + sum of W_j) ||x_i - x_j||)^2.

    Source: Liu et al., QLLM, arXiv:2310.08041, equation 5 for the merge error, which is written
    there as one norm and is that product exactly; the authors' code for the signed sums, which are
    in no paper. Differs: the whole text counts, where the code takes one sample. Experts share the
    sums over all of them, so that of a stack the merge error is an estimate.
    """
    apart = _squared_distances(second.float().diagonal(), second.float()[::2, 1::2])
    if metric == "signed-sums":
        sums = torch.stack([weight.float().sum(dim=0) for weight in weights]).sum(dim=0)
        return apart.mul_((sums[::2, None] + sums[None, 1::2]).square_())
    squares = torch.zeros(len(second), device=second.device)
    products = torch.zeros_like(apart)
    for weight in weights:
        squares += weight.float().square().sum(dim=0)
        products.addmm_(weight[:, ::2].float().T, weight[:, 1::2].float())
    return apart.mul_(_squared_distances(squares, products)).div_(4)


def matched(copies: Array, distance: Tensor) -> ChannelMap:
    """Return the map by which outliers stand at `copies` [K] places and K stays.

    Each even channel is matched with its nearest odd one by `distance` [even, odd], outliers with
    none. As many of the nearest pairs as outliers need places are merged: the odd channel's place
    holds the mean of all that are merged into it, and an outlier takes the even channel's place.
    All others stay at theirs. Of equal distances, the lower channel's counts first.

    Source: Liu et al., QLLM, arXiv:2310.08041, section 4.1.2 and appendix A. Differs: channels are
    matched before any is taken apart, so that what was searched is what is stored; the authors'
    code splits first for the result, which pairs other channels than its search did.
    """
    extra, alone = further_copies(copies), copies == 1
    assert extra <= room_for(copies), "thresholds leave as many channels as are merged"
    if extra == 0:
        return _placed(copies, np.zeros(0, np.int64), np.zeros(0, np.int64))
    even, odd = np.flatnonzero(alone[::2]), np.flatnonzero(alone[1::2])
    candidates = distance.index_select(1, torch.from_numpy(odd).to(distance.device))
    least, nearest = (found.cpu().numpy() for found in candidates.min(dim=1))
    chosen = even[np.argsort(least[even], kind="stable")[:extra]]
    return _placed(copies, 2 * chosen, 2 * odd[nearest[chosen]] + 1)


def _placed(copies: Array, merged: Array, into: Array) -> ChannelMap:
    """Return the map that merges the channels `merged` [P] into those in `into` [P]."""
    channels = len(copies)
    gather = np.arange(channels)
    gather[np.sort(merged)] = np.repeat(np.arange(channels), copies - 1)
    order = np.lexsort((merged, into))
    place, channel = into[order], merged[order]
    held = 1 + np.bincount(place, minlength=channels)  # channels whose mean stands at each place
    scale = (1 / (copies[gather] * held)).astype(np.float32)  # one of the two is 1
    return ChannelMap(gather, scale, place, channel, scale[place])


def _squared_distances(squares: Tensor, products: Tensor) -> Tensor:
    """Return |v_i - v_j|^2 of even and odd vectors by their squares [K] and products [even, odd].

    Rounding may put a difference of alike vectors below zero; it is zero then.
    """
    sums = squares[::2, None] + squares[None, 1::2]
    return sums.sub_(products, alpha=2).clamp_(min=0)

"""Measure how far a model's predictions are from another's on the same tokens."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch.nn.functional import cross_entropy, log_softmax

Tensor: TypeAlias = torch.Tensor

# float32 copies of 64 MB each: 64 positions of a vocabulary of 262144 tokens.
_ELEMENTS = 16 * 2**20


def likelihood_sum(logits: Tensor, tokens: Tensor) -> float:
    """Return the negative log likelihood of all `tokens` [S] but the first, in nats.

    `logits` [S, V] are what was predicted after each of them.
    """
    return float(cross_entropy(logits[:-1].float(), tokens[1:], reduction="sum").double())


def divergence_sum(original: Tensor, other: Tensor) -> float:
    """Return the sum of KL(original || other) in nats over all positions but the last.

    Both are logits [S, V]; a logit of -inf is a probability of 0. Logits that are not finite
    otherwise make it nan.
    """
    rows = max(1, _ELEMENTS // original.shape[1])
    total = 0.0
    for begin in range(0, len(original) - 1, rows):
        end = min(begin + rows, len(original) - 1)
        p = log_softmax(original[begin:end].float(), dim=1)
        q = log_softmax(other[begin:end].float(), dim=1)
        terms = torch.where(torch.isneginf(p), 0.0, p.exp() * (p - q))
        total += float(terms.sum(dtype=torch.float64))
    return total
